#!/usr/bin/env python3
"""Set up and run, with nothing installed but Python 3.11+.

    python3 run.py demo [OPTIONS]    the demo; its report goes to demo-output/ unless --out says otherwise
    python3 run.py test [OPTIONS]    linter, type checker, all tests (options go to pytest). With the extra `cuda` in
                                     .venv (AUTOGRAD_GEO_EXTRAS=cuda installs it), machine code for GPUs is looked at

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


#: Tests of kernels for a GPU as machine code.
MACHINE_CODE = ["tests/test_cuda_regions.py", "tests/test_cuda_assemble.py", "tests/test_cuda_fragments.py"]


def install(extra: str, optional: bool = False) -> None:
    """Make the environment and install the project with an extra, unless that has been done for this pyproject.toml.

    Where an `optional` one cannot be installed, that is said, and all else goes on.
    """
    stamp = ENVIRONMENT / f"installed-{extra}"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    if not (SCRIPTS / ("python.exe" if os.name == "nt" else "python")).exists():
        print("making a virtual environment in .venv", flush=True)
        venv.create(ENVIRONMENT, with_pip=True)
    print(f"installing autograd_geo[{extra}]", flush=True)
    pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--editable", f".[{extra}]"]
    if optional and subprocess.call([str(SCRIPTS / "python"), *pip], cwd=ROOT):
        print(f"autograd_geo[{extra}] cannot be installed here: its tests are left out", flush=True)
        return
    if not optional:
        call("python", *pip)
    stamp.write_text(wanted)


def installed(module: str) -> bool:
    """Whether the environment has a module."""
    found = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.call([str(SCRIPTS / "python"), "-c", found], cwd=ROOT) == 0


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
        for extra in os.environ.get("AUTOGRAD_GEO_EXTRAS", "").split():
            install(extra, optional=True)
        call("python", "-m", "ruff", "check", ".")
        call("python", "-m", "ruff", "format", "--check", ".")
        call("python", "-m", "mypy")
        call("python", "-m", "pytest", *(options or ["-q", "--numprocesses=auto", "--dist=worksteal"]))
        if not options and installed("numba_cuda"):  # kernels for a GPU as machine code; simulated ones ran above
            os.environ["NUMBA_ENABLE_CUDASIM"] = "0"
            call("python", "-m", "pytest", "-q", "--numprocesses=auto", "--dist=worksteal", *MACHINE_CODE)


if __name__ == "__main__":
    main()
