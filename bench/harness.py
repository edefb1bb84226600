"""Times rows of work, ours beside its peers, in one run, and prints a table.

A row is one piece of work and the contestants that do it. Each contestant's numbers are compared with ours before
anything is timed. Then the contestants take turns, each round in another order, so that a drift of the machine
hits all alike; the figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

OURS = "autograd_geo"
Medians = Mapping[str, float]


# --- what is measured -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Work:
    """What one contestant does: `run` is timed, and its time divided by `items`.

    `check` returns the numbers to compare with ours, if there are any; it is called once, before `run`. With
    `own_clock`, `run` returns the seconds that count.
    """

    run: Callable[[], Any]
    check: Callable[[], Sequence[Any]] | None = None
    items: int = 1
    own_clock: bool = False


@dataclass(frozen=True, slots=True)
class Contestant:
    """A name and how to get ready; ImportError there means that it is not installed."""

    name: str
    prepare: Callable[[], Work]


@dataclass(frozen=True, slots=True)
class Target:
    """A goal, shown on the line of contestant `line`; `met` judges the medians, in seconds."""

    line: str
    text: str
    met: Callable[[Medians], bool]


def at_most(seconds: float) -> Target:
    return Target(OURS, f"at most {_duration(seconds)}", lambda m: m[OURS] <= seconds)


def at_least(factor: float, peer: str) -> Target:
    """The peer takes at least `factor` times as long as we do."""
    return Target(peer, f"at least {factor:g}", lambda m: m[peer] >= factor * m[OURS])


def ours_at_most(factor: float, peer: str) -> Target:
    """We take at most `factor` times as long as the peer does."""
    return Target(peer, f"ours at most {factor:g}x", lambda m: m[OURS] <= factor * m[peer])


@dataclass(frozen=True, slots=True)
class Row:
    """One piece of work. The first contestant is the one that the others are compared with.

    `rtol` bounds how far results may differ, relative to the largest element of ours. With `memory`, the peak
    memory per item is measured too, in a process of its own; that needs a `prepare` that can be pickled.
    """

    name: str
    title: str
    contestants: Sequence[Contestant]
    targets: Sequence[Target] = ()
    rtol: float = 1e-9
    memory: bool = False


@dataclass(slots=True)
class Result:
    """What came of one contestant: seconds per item of each round, or a `problem` instead."""

    name: str
    problem: str = ""
    wrong: bool = False
    loops: int = 1
    items: int = 1
    times: list[float] = field(default_factory=list)
    bytes_per_item: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    @property
    def quartiles(self) -> tuple[float, float]:
        low, high = np.quantile(self.times, [0.25, 0.75])
        return float(low), float(high)


# --- measuring ------------------------------------------------------------------------------------------------

_REPETITION = 0.05  # seconds that one repetition lasts at least
_PATIENCE = 60.0  # seconds after which a slow contestant takes part in no more rounds, once it has done three


def measure(row: Row, rounds: int) -> list[Result]:
    """Check, warm up and time the contestants of a row."""
    results = [Result(c.name) for c in row.contestants]
    works: list[tuple[Result, Work]] = []
    expected: Sequence[Any] = ()
    for contestant, result in zip(row.contestants, results, strict=True):
        first = result is results[0]
        try:
            work = contestant.prepare()
            if work.check:
                found = work.check()
                expected = found if first else expected
                result.problem = _difference(expected, found, row.rtol)
                result.wrong = bool(result.problem)
            result.items = work.items
            if not result.problem:
                result.loops = max(1, round(_REPETITION / _seconds(work, 1)))
                works.append((result, work))
        except ImportError:
            result.problem = "not installed"
        except Exception as error:
            print(f"{contestant.name}: {type(error).__name__}: {error}", file=sys.stderr)
            result.problem, result.wrong = type(error).__name__, first
        if first and result.problem:
            return results[:1]
    gc.collect()
    gc.freeze()  # or every collection would walk through the modules of all peers
    for turn in range(rounds):
        start = turn % len(works)
        for result, work in works[start:] + works[:start]:
            if turn < 3 or sum(result.times) * result.loops * work.items < _PATIENCE:
                gc.collect()
                result.times.append(_seconds(work, result.loops) / work.items)
    gc.unfreeze()
    if row.memory:
        prepare = {c.name: c.prepare for c in row.contestants}
        for result, _ in works:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                result.bytes_per_item = pool.submit(_peak, prepare[result.name]).result()
    return results


def _seconds(work: Work, loops: int) -> float:
    run = work.run
    if work.own_clock:
        return statistics.fmean(run() for _ in range(loops))
    start = time.perf_counter()
    for _ in range(loops):
        run()
    return (time.perf_counter() - start) / loops


def _difference(expected: Sequence[Any], found: Sequence[Any], rtol: float) -> str:
    """In what the results differ, or nothing."""
    if len(found) != len(expected):
        return f"wrong: {len(found)} results, ours are {len(expected)}"
    for k, (ours, theirs) in enumerate(zip(map(np.asarray, expected), map(np.asarray, found), strict=True)):
        if ours.shape != theirs.shape:
            return f"wrong: result {k} has shape {theirs.shape}, ours {ours.shape}"
        if not np.isfinite(theirs).all():
            return f"wrong: result {k} is not finite"
        apart, largest = float(np.abs(ours - theirs).max(initial=0.0)), float(np.abs(ours).max(initial=0.0))
        if apart > rtol * largest:
            return f"wrong: result {k} differs by {apart:.2e}, ours is up to {largest:.2e}"
    return ""


def _peak(prepare: Callable[[], Work]) -> float | None:
    """Peak memory of one run in bytes per item, beyond what the process held before; None where /proc is missing."""
    work = prepare()
    if work.check:
        work.check()
    gc.collect()
    if not Path("/proc/self/clear_refs").exists():
        return None
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    work.run()
    return (_status("VmHWM") - before) / work.items


def _status(key: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) * 1024


# --- the machine ----------------------------------------------------------------------------------------------

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NPROC",
            "NUMBA_NUM_THREADS")  # fmt: skip


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(threads: int) -> None:
    """Give every library this many threads: they read the environment when they load, so the program starts again."""
    wanted = dict.fromkeys(_THREADS, str(threads))
    if any(os.environ.get(k) != v for k, v in wanted.items()):
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **wanted})


def threads() -> int:
    """How many threads `set_threads` gave to each contestant."""
    return int(os.environ[_THREADS[0]])


def machine(packages: Sequence[str]) -> dict[str, str]:
    """What the figures were measured on: processor, threads, versions of Python, of ours and of these packages."""
    found = {
        "processor": _processor(), "cores": str(cores()), "threads": str(threads()), "system": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }  # fmt: skip
    found[OURS] = importlib.import_module(OURS).__version__
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


# --- what is printed ------------------------------------------------------------------------------------------

_HEADER = ("work", "contestant", "median", "to ours", "memory", "target", "")


def _duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def verdicts(row: Row, results: Sequence[Result]) -> list[tuple[Target, str]]:
    """Each target and whether it is met; "not measured" where a contestant it is about is missing."""
    medians = {r.name: r.median for r in results if r.times}

    def judge(target: Target) -> str:
        try:
            return "met" if target.met(medians) else "missed"
        except KeyError:
            return "not measured"

    return [(t, judge(t)) for t in row.targets]


def lines(row: Row, results: Sequence[Result]) -> list[tuple[str, ...]]:
    """The row as lines of the table."""
    targets = {t.line: (t.text, verdict) for t, verdict in verdicts(row, results)}
    table: list[tuple[str, ...]] = []
    for k, r in enumerate(results):
        figures = (r.problem, "", "")
        if r.times:
            memory = "" if r.bytes_per_item is None else f"{r.bytes_per_item:.0f} B"
            figures = (_duration(r.median), f"{r.median / results[0].median:.2f}", memory)
        table.append((row.title if k == 0 else "", r.name, *figures, *targets.get(r.name, ("", ""))))
    return table


def aligned(table: Sequence[Sequence[str]], markdown: bool) -> str:
    """The table with columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    text = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in table]
    rule = ["-" * width for width in widths]
    if markdown:
        return "\n".join(f"| {' | '.join(line)} |" for line in [text[0], rule, *text[1:]])
    return "\n".join("  ".join(line).rstrip() for line in [text[0], rule, *text[1:]])


# --- the command ----------------------------------------------------------------------------------------------


def main(description: str, rows: Sequence[Row], packages: Sequence[str], argv: Sequence[str] | None = None) -> int:
    """Run rows as the command line says. Exit status 1 where a contestant's numbers are wrong, else 0."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--only", metavar="NAME", action="append", help=f"a row: {', '.join(r.name for r in rows)}")
    parser.add_argument("--rounds", type=int, default=11, help="repetitions per contestant (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=cores(), help="of every contestant (default: all cores)")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.add_argument("--json", metavar="FILE", type=Path, help="save every time, medians and quartiles")
    args = parser.parse_args(argv)
    unknown = set(args.only or ()) - {r.name for r in rows}
    if unknown or args.rounds < 1 or args.threads < 1:
        parser.error(f"no row is called {', '.join(unknown)}" if unknown else "rounds and threads are at least 1")
    set_threads(args.threads)

    about = machine(packages)
    print("\n".join(f"{k}: {v}" for k, v in about.items()), end="\n\n")
    table: list[tuple[str, ...]] = [_HEADER]
    saved = []
    wrong = False
    for row in rows:
        if args.only and row.name not in args.only:
            continue
        print(f"{row.name} ...", file=sys.stderr, flush=True)
        results = measure(row, args.rounds)
        wrong |= any(r.wrong for r in results)
        table += lines(row, results)
        saved.append({
            "name": row.name, "title": row.title,
            "contestants": [
                asdict(r) | ({"median": r.median, "quartiles": r.quartiles} if r.times else {}) for r in results
            ],
            "targets": [{"line": t.line, "text": t.text, "verdict": verdict} for t, verdict in verdicts(row, results)],
        })  # fmt: skip
    print(aligned(table, args.markdown))
    if args.json:
        args.json.write_text(json.dumps({"machine": about, "rows": saved}, indent=1) + "\n")
    return int(wrong)
