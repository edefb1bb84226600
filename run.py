#!/usr/bin/env python3
"""Set up and run, with nothing installed but Python 3.11+.

    python3 run.py demo [OPTIONS]    the demo; its report goes to demo-output/ unless --out says otherwise
    python3 run.py test [OPTIONS]    linter, type checker, all tests (options go to pytest)

Both make a virtual environment in .venv on first use and install the project with what they need into it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
SCRIPTS = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin")


def install(extra: str) -> None:
    """Make the environment and install the project with an extra, unless that has been done for this pyproject.toml."""
    stamp = ENVIRONMENT / f"installed-{extra}"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    if not (SCRIPTS / ("python.exe" if os.name == "nt" else "python")).exists():
        print("making a virtual environment in .venv", flush=True)
        venv.create(ENVIRONMENT, with_pip=True)
    print(f"installing autograd_geo[{extra}]", flush=True)
    call("python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--editable", f".[{extra}]")
    stamp.write_text(wanted)


def call(program: str, *args: str) -> None:
    """Run a program of the environment in the project's folder; stop with its exit code where it fails."""
    code = subprocess.call([str(SCRIPTS / program), *args], cwd=ROOT)
    if code:
        sys.exit(code)


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036
        sys.exit(f"autograd_geo needs Python 3.11 or newer, this is {sys.version.split()[0]}")
    if len(sys.argv) < 2 or sys.argv[1] not in ("demo", "test"):
        sys.exit(__doc__)
    job, options = sys.argv[1], sys.argv[2:]
    if job == "demo":
        install("viz")
        if not any(o == "--out" or o.startswith("--out=") for o in options):
            options += ["--out", "demo-output"]
        call("autograd-geo", "demo", *options)
    else:
        install("test")
        call("python", "-m", "ruff", "check", ".")
        call("python", "-m", "ruff", "format", "--check", ".")
        call("python", "-m", "mypy")
        call("python", "-m", "pytest", *(options or ["-q", "--numprocesses=auto"]))


if __name__ == "__main__":
    main()
