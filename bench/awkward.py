"""Puts awkward cases to this engine and its peers, side by side, and prints a table.

Each engine runs in a process of its own. A case that takes too long, or that the process does not survive, is marked
and the next ones run in a new process.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import multiprocessing
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .awkward_cases import CASES, Case, agrees
from .awkward_engines import ENGINES, Engine, Missing
from .harness import aligned, cores, set_threads
from .peers import PACKAGES

LEGEND = """`ok` right, `W` silently wrong, `nan` a silent NaN where a finite answer exists, `C` crash, time-out or
opaque error, `E` refused with a clear exception, `-` no such feature. The column "right" says what is right: an
answer, or a refusal."""
_OPAQUE = (AttributeError, AssertionError, KeyError, NameError, RecursionError, SystemError)
Verdict = tuple[str, str]  # the mark, and what was found


def judge(case: Case, engine: Engine) -> Verdict:
    """What an engine makes of a case."""
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = case.body(engine)
    except Missing as missing:
        return "-", f"has no {missing}"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # panics of extension modules are no Exception
        opaque = isinstance(error, _OPAQUE) or not isinstance(error, Exception) or not str(error)
        return "C" if opaque else "E", f"{type(error).__name__}: {error}"
    if case.answer is not None and agrees(found, case.answer):
        return "ok", ""
    expected = f"; right is {'a refusal' if case.answer is None else case.answer}"
    silent = case.answer is not None and _has_nan(found)
    return "nan" if silent else "W", f"found {found!r}{expected}"


def right(case: Case) -> Sequence[str]:
    """The marks that a case asks for."""
    return ("E",) if case.answer is None else ("ok", "E") if case.refusable else ("ok",)


def _has_nan(found: Any) -> bool:
    parts = found if isinstance(found, list | tuple) else [found]
    return any(np.asarray(p).dtype.kind == "f" and bool(np.isnan(np.asarray(p)).any()) for p in parts)


def _work(name: str, connection: Any) -> None:
    """The process of one engine: judges the cases whose numbers it is sent."""
    try:
        engine = ENGINES[name]()
    except ImportError:
        connection.send(False)
        return
    connection.send(True)
    while True:
        connection.send(judge(CASES[connection.recv()], engine))


def column(name: str, cases: Sequence[Case], patience: float) -> list[Verdict] | None:
    """The verdicts on one engine; None where it is not installed. A case gets `patience` seconds."""
    context = multiprocessing.get_context("spawn")
    verdicts: list[Verdict] = []
    process = connection = None
    for case in cases:
        if process is None:
            connection, theirs = context.Pipe()
            process = context.Process(target=_work, args=(name, theirs), daemon=True)
            process.start()
            theirs.close()
            if not connection.recv():
                return None
        verdict = None
        try:
            connection.send(CASES.index(case))
            verdict = connection.recv() if connection.poll(patience) else ("C", f"more than {patience:g} s")
        except (EOFError, OSError):
            process.join()
            verdict = ("C", f"the process ended with {process.exitcode}")
        if verdict[0] == "C" and (not process.is_alive() or verdict[1].startswith("more than")):
            process.kill()
            process.join()
            process = None
        verdicts.append(verdict)
        if verdict[0] not in right(case) and verdict[0] != "-":
            print(f"{name}: {case.name}: {verdict[0]}: {verdict[1][:300]}", file=sys.stderr, flush=True)
    if process is not None:
        process.kill()
    return verdicts


def page(columns: dict[str, list[Verdict]], cases: Sequence[Case]) -> str:
    """The table as a document."""
    packages = ("autograd_geo", *PACKAGES)
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages if _installed(p))
    table = [("case", "right", *columns)]
    for k, case in enumerate(cases):
        table.append((case.name.replace("|", "\\|"), ", ".join(right(case)), *(c[k][0] for c in columns.values())))
    good = ", ".join(
        f"{name} {sum(c[k][0] in right(case) for k, case in enumerate(cases))} of {sum(v[0] != '-' for v in c)}"
        for name, c in columns.items()
    )
    return (
        f"# Awkward cases\n\nMade by `python -m bench.awkward --out docs/awkward.md` on {datetime.date.today()} "
        f"with Python {sys.version.split()[0]}, {versions}.\n\n{LEGEND}\n\n{aligned(table, True)}\n\n"
        f"Right, of the cases that an engine has the features for: {good}.\n"
    )


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", metavar="FILE", type=Path, help="write the table there, instead of printing it")
    parser.add_argument("--only", metavar="ENGINE", action="append", choices=ENGINES, help=", ".join(ENGINES))
    parser.add_argument("--patience", type=float, default=120.0, help="seconds for a case (default: %(default)g)")
    parser.add_argument("--case", metavar="TEXT", default="", help="only cases whose name contains this")
    args = parser.parse_args()
    set_threads(cores())
    cases = [c for c in CASES if args.case in c.name]
    columns = {}
    for name in args.only or ENGINES:
        found = column(name, cases, args.patience)
        if found is None:
            print(f"{name}: not installed", file=sys.stderr)
        else:
            columns[name] = found
    text = page(columns, cases)
    if args.out:
        args.out.write_text(text, "utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
