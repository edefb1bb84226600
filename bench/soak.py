"""Mixed work for as long as you like, in rounds that are all the same: nothing may grow, and no result may change.

`python -m bench.soak --minutes 60` prints what it finds and fails where, after a warm-up of a third of the time,
memory, open files, threads, kernels or any registry grew by more than their tolerance.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from scipy import stats

MEBI = 1 << 20
#: By how much what is measured may grow from the warm-up to the end, along a line through the rounds. A process gets
#: and returns memory in pieces; CPython's cache of attribute look-ups fills with up to 4,096 names.
TOLERANCES = {"memory": 8 * MEBI, "blocks": 5000.0}
COUNTED = 1.0
FEWEST = 12  # rounds after the warm-up
MOST = 400  # samples that are kept: a few kilobytes each round would be growth themselves


# --- work -------------------------------------------------------------------------------------------------------------


def network() -> tuple[Any, Any, Any]:
    import autograd_geo as ag

    rng = np.random.default_rng(0)
    layers = [ag.nn.Linear(3, 8), ag.nn.Tanh(), ag.nn.Linear(8, 1)]
    model = ag.nn.Sequential(*layers)
    for p in model.parameters():
        p.assign(rng.uniform(-0.5, 0.5, p.shape))
    inputs = rng.uniform(-1, 1, (64, 3))
    return model, ag.optim.Adam(model.parameters(), lr=0.01), (inputs, np.sin(inputs.sum(axis=1, keepdims=True)))


def eager_training(folder: Path) -> float:
    import autograd_geo as ag

    model, optimizer, (x, y) = network()
    for _ in range(40):
        optimizer.zero_grad()
        loss = ag.nn.MSELoss()(model(x), y)
        loss.backward()
        optimizer.step()
    return float(loss.item())


def compiled_training(folder: Path) -> float:
    import autograd_geo as ag

    model, optimizer, (x, y) = network()

    @ag.compile
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = ag.nn.MSELoss()(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    for _ in range(40):
        loss = step(x, y)
    return float(loss.item())


def fitting(folder: Path) -> float:
    import autograd_geo as ag

    model, optimizer, train = network()
    history = ag.optim.fit(model, optimizer, ag.nn.MSELoss(), train, epochs=20, batch_size=16, compile=True)
    return history.train[-1]


def second_order(folder: Path) -> float:
    import autograd_geo as ag

    def energy(x: Any) -> Any:
        return (ag.sin(x) * x * x[::-1]).sum() + ag.logsumexp(x)

    x, v = np.linspace(-1.0, 1.0, 6), np.ones(6)
    _, slope = ag.jvp(ag.grad(energy), (x,), (v,))
    w = ag.tensor(x, requires_grad=True)
    energy(w).backward(create_graph=True)
    (w.grad * w.grad).sum().backward()
    compiled = ag.compile(ag.grad(energy))(x)
    return float(
        ag.hvp(energy, x, v).sum().item()
        + ag.hessian(energy)(x).sum().item()
        + slope.sum().item()
        + w.grad.sum().item()
        + compiled.sum().item()
    )


def checkpoints(folder: Path) -> float:
    import autograd_geo as ag

    model, optimizer, (x, y) = network()
    ag.nn.MSELoss()(model(x), y).backward()
    optimizer.step()
    path = folder / "state.safetensors"
    for _ in range(5):
        ag.save(path, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
        state = ag.load(path)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    _refused(ag.CheckpointError, lambda: ag.load(path))
    return float(model(x).sum().item())


def tables(folder: Path) -> float:
    import autograd_geo as ag

    path = folder / "wells.csv"
    depth = np.linspace(0.0, 1.0, 500)
    ag.data.write_table(path, ag.data.Table({"depth": depth, "porosity": 0.3 - 0.1 * depth}))
    read = ag.data.read_table(path)
    path.write_text("depth,porosity\n1,2\n3,x\n")
    _refused(ag.data.DataError, lambda: ag.data.read_table(path))
    rows = ag.data.DataLoader(read["depth"], read["porosity"], batch_size=64, seed=1)
    return float(sum(batch[1].sum() for batch in rows))


def drawings(folder: Path) -> float:
    import autograd_geo as ag

    model, _, (x, y) = network()
    loss = ag.nn.MSELoss()(model(x[:3]), y[:3])
    lesson = ag.steps(loss)
    lesson.html(folder / "lesson.html")
    assert ag.graph(loss).dot and lesson.text(color=False) and ag.diagnose(loss).healthy
    return float(sum(np.sum(g) for g in lesson.goto(-1).state.grads.values()))


def errors(folder: Path) -> float:
    import autograd_geo as ag

    x = ag.tensor(np.ones((2, 3)), requires_grad=True)
    calls: list[Callable[[], Any]] = [
        lambda: x + np.ones(4), lambda: x @ x, lambda: ag.sum(x, axis=5), lambda: x[7], lambda: ag.tensor(["text"]),
        lambda: (x * x).backward(), lambda: ag.tensor([1, 2], requires_grad=True), lambda: x + 10**400,
        lambda: ag.pointwise("wrong(x) = softish(x)"), lambda: ag.jvp(lambda x: x, (1.0,), (np.ones(3),)),
        lambda: ag.compile(lambda v: v @ v)(np.ones((2, 3))), lambda: ag.where(np.ma.masked, x, x),
    ]  # fmt: skip

    def anomaly() -> None:
        with ag.detect_anomaly():
            ag.log(x * 0.0)

    for call in (*calls, anomaly):
        _refused((ValueError, TypeError, IndexError, RuntimeError, ArithmeticError), call)
    (x * x).sum().backward()
    return float(x.grad.sum().item())


def threads(folder: Path) -> float:
    import autograd_geo as ag

    @ag.compile
    def shared(x: Any) -> Any:
        return ag.grad(lambda x: (ag.exp(-x * x) * x).sum())(x)

    def work(n: int) -> float:
        x = ag.tensor(np.linspace(0.0, 1.0, 50) + n, requires_grad=True)
        (ag.tanh(x) * x).sum().backward()
        with ag.no_grad():
            return float(x.grad.sum().item() + shared(x.detach()).sum().item())

    with ThreadPoolExecutor(4) as pool:
        return sum(pool.map(work, range(16)))


WORK: tuple[Callable[[Path], float], ...] = (
    eager_training, compiled_training, fitting, second_order, checkpoints, tables, drawings, errors, threads
)  # fmt: skip


def _refused(kinds: type[Exception] | tuple[type[Exception], ...], call: Callable[[], Any]) -> None:
    try:
        call()
    except kinds:
        return
    raise AssertionError("an error was expected")


# --- measurements -----------------------------------------------------------------------------------------------------


def registries() -> dict[str, int]:
    """The length of every container that a module of the package holds, and of its caches, by name."""
    found = {}
    for name, module in sorted(sys.modules.items()):
        if module is None or name.partition(".")[0] != "autograd_geo":
            continue
        for key, value in list(vars(module).items()):
            if hasattr(value, "cache_info"):
                found[f"{name}.{key}"] = value.cache_info().currsize
            elif isinstance(value, Sized) and isinstance(value, dict | list | set) and not key.startswith("__"):
                found[f"{name}.{key}"] = len(value)
    return found


def measured(kernels: Path) -> dict[str, float]:
    """What must not grow."""
    import linecache

    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)  # what the allocator keeps for later, in holes, is no growth
    process = psutil.Process()
    files = [p for p in kernels.rglob("*") if p.is_file()]
    return {
        "memory": process.memory_info().rss,
        "blocks": sys.getallocatedblocks(),
        "open files": process.num_fds() if hasattr(process, "num_fds") else process.num_handles(),
        "threads": process.num_threads(),
        "Python threads": threading.active_count(),
        "kernel files": len(files),
        "kernel bytes": sum(p.stat().st_size for p in files),
        "modules": len(sys.modules),
        "lines of sources": len(linecache.cache),
        **registries(),
    }


def growth(samples: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """By how much each measurement grew along a line through its samples, where that is more than its tolerance.

    The line is Theil and Sen's, the median of all slopes between two samples, which single jumps don't tilt.
    """
    found = {}
    for name, values in samples.items():
        if min(values) < max(values):
            total = float(stats.theilslopes(values)[0]) * (len(values) - 1)
            if total > TOLERANCES.get(name, COUNTED):
                found[name] = total
    return found


def soak(minutes: float, report: Callable[[str], None] = print) -> dict[str, float]:
    """Work in rounds for so long, but for a few rounds at least; returns what grew, and by how much.

    Raises AssertionError where a round has other results than the first.
    """
    start, expected = time.monotonic(), {}
    samples: dict[str, array[float]] = {}
    times, rounds, every = array("d"), 0, 1
    with tempfile.TemporaryDirectory() as folder:
        kernels = Path(os.environ["AUTOGRAD_GEO_CACHE_DIR"])
        while (spent := time.monotonic() - start) < 60 * minutes or len(times) < 2 * FEWEST:
            for work in WORK:
                result = work(Path(folder))
                assert expected.setdefault(work.__name__, result) == result, f"{work.__name__} changed: {result!r}"
            rounds += 1
            if rounds % every:
                continue
            now = measured(kernels)
            for name in now.keys() | samples.keys():
                samples.setdefault(name, array("d", bytes(8 * len(times)))).append(now.get(name, 0.0))
            times.append(spent)
            if rounds & (rounds - 1) == 0 or rounds % 128 == 0:
                report(
                    f"{spent / 60:6.1f} min, round {rounds}: {now['memory'] / MEBI:.1f} MiB, "
                    f"{now['blocks']:,.0f} blocks, {now['open files']:.0f} open files, {now['threads']:.0f} threads, "
                    f"{now['kernel files']:.0f} kernel files"
                )
            if len(times) == MOST:
                every *= 2
                for values in (times, *samples.values()):
                    del values[::2]
    warm = min(sum(t < times[-1] / 3 for t in times), len(times) - FEWEST)
    report(f"{rounds} rounds, {len(times)} of them measured, {len(times) - warm} after the warm-up")
    return growth({name: values[warm:] for name, values in samples.items()})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    minutes = parser.parse_args().minutes
    from autograd_geo.viz import render

    vars(render)["_graphviz"] = lambda dot, kind: None  # its library loses some 4 kB with each table that it draws
    with tempfile.TemporaryDirectory() as folder:  # of this user only
        os.environ.setdefault("AUTOGRAD_GEO_CACHE_DIR", folder)
        grown = soak(minutes, lambda line: print(line, flush=True))
    for name, total in grown.items():
        print(f"{name} grew by {total / MEBI:.1f} MiB" if name == "memory" else f"{name} grew by {total:,.0f}")
    sys.exit(1 if grown else 0)


if __name__ == "__main__":
    main()
