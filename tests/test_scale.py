"""A million operations, paths without number, ten thousand iterations: no recursion, linear cost, flat memory.

With AUTOGRAD_GEO_LONG=1 in the environment, lessons and drawings are of a million operations too.
"""

from __future__ import annotations

import gc
import inspect
import linecache
import os
import pickle
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from collector import alive

import autograd_geo as ag
from autograd_geo.backward import Local, events
from autograd_geo.eager import define
from autograd_geo.op import registry
from autograd_geo.tape import history, value_of
from autograd_geo.tensor import entry_of
from bench.soak import growth, registries

MILLION = 1_000_000
SIZES = [30_000, *([MILLION] if os.environ.get("AUTOGRAD_GEO_LONG") else [])]


def variable(value: Any) -> ag.Tensor:
    return ag.tensor(value, requires_grad=True)


def chain(length: int) -> tuple[ag.Tensor, ag.Tensor]:
    x = variable(1.0)
    y = x
    for _ in range(length):
        y = y * 1.0000001
    return x, y


@pytest.fixture
def shallow() -> Iterator[None]:
    """A stack of a few frames more than there are."""
    y = chain(10)[1]
    assert len(ag.steps(y)) and ag.graph(y).dot and ag.save  # imports whatever they need
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 60)
    yield
    sys.setrecursionlimit(limit)


# --- a million operations -----------------------------------------------------------------------------------------


def test_a_million_operations(no_collector: None, shallow: None, tmp_path: Path) -> None:
    """Recorded, differentiated, saved and freed, in at most 1.2 kB an operation, the pass included.

    What is saved of a tape are numbers: no file holds the operations.
    """
    before, process = alive(), psutil.Process()
    start = process.memory_info().rss
    x, y = chain(MILLION)
    recorded = process.memory_info().rss - start
    assert entry_of(y).number - entry_of(x).number >= MILLION
    y.backward()
    assert process.memory_info().rss - start <= 1200 * MILLION
    assert 100 * MILLION < recorded <= 1200 * MILLION
    assert x.grad is not None
    assert x.grad.item() == y.item(), "both are the same product, from the other end"
    ag.save(tmp_path / "end.safetensors", {"x": x, "y": y, "slope": x.grad})
    assert (tmp_path / "end.safetensors").stat().st_size < 1000
    assert ag.load(tmp_path / "end.safetensors")["slope"].item() == y.item()
    with pytest.raises(RuntimeError, match="only leaves"):
        pickle.dumps(y)
    assert pickle.loads(pickle.dumps(y.detach())).item() == y.item()
    del x, y
    assert alive() == before


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)], ids=str)
def test_recording_costs_at_most_1200_bytes_an_operation(shape: tuple[int, ...]) -> None:
    """To the byte, and besides the values of arrays."""
    x = variable(np.ones(shape))
    y = x * 1.0
    tracemalloc.start()
    try:
        for _ in range(20_000):
            y = ag.sin(y)
        size = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert size < 1200 * 20_000


@pytest.mark.parametrize("how", ["dropped", "differentiated", "consumed", "recorded twice", "failed"])
def test_a_long_tape_is_freed_on_a_small_stack(how: str, no_collector: None) -> None:
    """C frames count as well: a chain that is freed link by link, each from within the last, would overflow here."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            x, y = chain(200_000)
            if how == "differentiated":
                y.backward(retain_graph=True)
            elif how == "consumed":
                y.backward()
            elif how == "recorded twice":
                y.backward(create_graph=True)
                x.grad = None
            elif how == "failed":
                with pytest.raises(ValueError, match="shape"):
                    y.backward(np.ones(3))
            del x, y
        except BaseException as error:
            failures.append(error)

    before = alive()
    size = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(size)
    assert not failures
    assert alive() == before


@pytest.mark.parametrize("length", SIZES)
def test_a_long_lesson_and_a_collapsed_drawing(length: int, shallow: None) -> None:
    """Every step of the tape is there; of the drawing a few boxes, whatever the length."""
    _, y = chain(length)
    lesson = ag.steps(y)
    assert len(lesson) >= 2 * length
    assert "1.0000001" in str(lesson[length // 2].card)
    assert lesson.goto(len(lesson) - 1).prev().next() == lesson.goto(len(lesson) - 1)
    drawing = ag.graph(y)
    assert len(drawing.dot) < 50_000
    y.backward()


def irregular(length: int) -> ag.Tensor:
    """No loop that a drawing could close to one box."""
    x = variable(0.5)
    y, functions = x, (ag.sin, ag.cos, ag.tanh, ag.sigmoid)
    choice = np.random.default_rng(0).integers(0, 4, length)
    for k in choice:
        y = functions[k](y) + x
    return y


WORK: dict[str, Callable[[int], Callable[[], Any]]] = {
    "record": lambda n: lambda: chain(n),
    "differentiate": lambda n: chain(n)[1].backward,
    "differentiate twice": lambda n: lambda: ag.grad(ag.grad(lambda x: powers(x, n)))(1.1),
    "jvp": lambda n: lambda: ag.jvp(lambda x: powers(x, n), (1.1,), (1.0,)),
    "history": lambda n: (lambda y: lambda: history(entry_of(y)))(chain(n)[1]),
    "value": lambda n: (lambda y: lambda: value_of(entry_of(y)))(sums(n)),
    "steps": lambda n: (lambda y: lambda: ag.steps(y))(chain(n)[1]),
    "draw": lambda n: (lambda y: lambda: ag.graph(y).dot)(chain(n)[1]),
    "draw what is irregular": lambda n: (lambda y: lambda: ag.graph(y).dot)(irregular(n)),
    "diagnose": lambda n: (lambda y: lambda: ag.diagnose(y))(chain(n)[1]),
    "watch": lambda n: lambda: watched(n),
    "free": lambda n: list(chain(n)).clear,
}


def powers(x: Any, length: int) -> Any:
    y = x
    for _ in range(length):
        y = y * x
    return y


def sums(length: int) -> ag.Tensor:
    y = variable(np.ones(3))
    for _ in range(length):
        y = y + 1.0
    return y


def watched(length: int) -> None:
    with ag.detect_anomaly():
        chain(length)[1].backward()


@pytest.mark.parametrize("name", WORK)
def test_twice_the_length_is_twice_the_work(name: str) -> None:
    """Counted in calls, of Python functions and of C functions, so that no clock decides."""

    def calls(length: int) -> int:
        work, count = WORK[name](length), 0

        def watch(frame: Any, event: str, argument: Any) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        sys.setprofile(watch)
        try:
            work()
        finally:
            sys.setprofile(None)
        return count

    calls(50)  # whatever loads or is written on first use
    assert calls(2000) < 2.2 * calls(1000) + 100


# --- paths without number -----------------------------------------------------------------------------------------


def diamonds(x: Any, count: int = 60) -> Any:
    """Two paths, one after the other: 2**count in all."""
    for _ in range(count):
        x = x * 0.5 + x * 0.5
    return x


def test_two_to_the_sixty_paths_are_one_pass() -> None:
    x = variable(3.0)
    y = diamonds(x)
    assert len(history(entry_of(y))) == 181
    seen = [kind for kind, *_ in events(entry_of(y), 1.0, retain=True)]
    assert seen.count(Local) == 240
    assert len(ag.steps(y)) < 700
    assert ag.graph(y).dot
    assert ag.diagnose(y).healthy
    y.backward(create_graph=True)
    assert x.grad is not None and x.grad.item() == 1.0


@pytest.mark.parametrize("compiled", [False, True])
def test_derivatives_of_every_kind_through_diamonds(compiled: bool) -> None:
    wrap = ag.compile if compiled else lambda f: f
    at, along = np.array([0.5, 2.0]), np.array([1.0, -1.0])

    def square(x: Any) -> Any:
        return (diamonds(x) ** 2).sum()

    np.testing.assert_allclose(wrap(ag.grad(square))(at).numpy(), 2 * at, rtol=1e-12)
    if not compiled:
        np.testing.assert_allclose(ag.hvp(square, at, along).numpy(), 2 * along, rtol=1e-12)
        np.testing.assert_allclose(ag.hessian(square)(at).numpy(), 2 * np.eye(2), rtol=1e-12)
        np.testing.assert_allclose(ag.jvp(diamonds, (at,), (along,))[1].numpy(), along, rtol=1e-12)


def test_a_deep_diamond_is_freed_at_once(no_collector: None) -> None:
    before = alive()
    y = diamonds(variable(1.0), 100_000)
    y.backward(retain_graph=True)
    del y
    assert alive() == before


# --- what is made and dropped -------------------------------------------------------------------------------------


def test_the_source_of_a_generated_function_goes_with_it() -> None:
    gc.collect()
    before = len(linecache.cache)
    for k in range(20):
        function = define("made", lambda k=k: f"def _function(x):\n    return x + {k}\n", {})
        assert function(1) == k + 1
        del function
        gc.collect()
    assert len(linecache.cache) <= before


def test_the_soak_tells_growth_from_jumps() -> None:
    rounds = np.arange(40.0)
    jump = np.where(rounds == 7, 1e9, 3e8)
    leak = 3e8 + 1e6 * rounds + np.random.default_rng(0).normal(0, 1e6, 40)
    found = growth({"memory": jump, "open files": rounds * 0.1, "threads": rounds * 0.0 + 3, "modules": rounds[::-1]})
    assert found == {"open files": pytest.approx(3.9)}
    assert growth({"memory": leak})["memory"] == pytest.approx(39e6, rel=0.1)
    assert registries()["autograd_geo.op.registry"] == len(registry)


# --- ten thousand iterations --------------------------------------------------------------------------------------


def network() -> Callable[[], None]:
    model = ag.nn.Sequential(ag.nn.Linear(1, 3), ag.nn.ReLU(), ag.nn.Linear(3, 1))
    optimizer, loss = ag.optim.Adam(model.parameters(), lr=0.01), ag.nn.MSELoss()
    x = np.linspace(-1.0, 1.0, 5)[:, None]
    inputs, targets = ag.tensor(x), ag.tensor(np.tanh(x))

    def step() -> None:
        optimizer.zero_grad()
        loss(model(inputs), targets).backward()
        optimizer.step()

    return step


def compiled() -> Callable[[], None]:
    return ag.compile(network())


def by_hand() -> Callable[[], None]:
    w = variable([1.0, 2.0])

    def step() -> None:
        w.grad = None
        ((w * w) * w).sum().backward()
        with ag.no_grad():
            assert w.grad is not None
            w.assign(w.numpy() - 0.001 * w.grad.numpy())

    return step


def forgotten() -> Callable[[], None]:
    w = variable([1.0, 2.0])
    return lambda: (ag.exp(w) * w).sum() and None


def written() -> Callable[[], None]:
    w = variable([1.0, 2.0, 3.0])

    def step() -> None:
        w.grad = None
        y = w * 1.0
        y[1:] *= w[:1]
        part = y[:2]
        (part * part).sum().backward()

    return step


def refused() -> Callable[[], None]:
    y = variable([1.0, 2.0]) * 1.0

    def step() -> None:
        v = y[:1]
        try:
            v *= 2.0
        except RuntimeError:
            return
        raise AssertionError

    return step


def twice() -> Callable[[], None]:
    w = variable(1.0)

    def step() -> None:
        (w**3).backward(create_graph=True)
        slope, w.grad = w.grad, None
        assert slope is not None
        (slope * slope).backward()
        w.grad = None

    return step


def transformed() -> Callable[[], None]:
    slope = ag.grad(lambda x: ag.sin(x) * x)
    return lambda: slope(0.5) and None


def looked_at() -> Callable[[], None]:
    w = variable(2.0)

    def watched() -> None:
        with ag.detect_anomaly():
            (w * w).backward()
        w.grad = None

    return watched


@pytest.mark.parametrize(
    "make", [network, compiled, by_hand, forgotten, written, refused, twice, transformed, looked_at],
    ids=lambda m: m.__name__,
)  # fmt: skip
def test_ten_thousand_iterations_grow_by_nothing(make: Callable[[], Callable[[], None]], no_collector: None) -> None:
    """Neither Python's blocks nor the process, with the collector of cycles off: less than one block in two."""
    step, process = make(), psutil.Process()
    for _ in range(500):
        step()
    blocks, size = sys.getallocatedblocks(), process.memory_info().rss
    for _ in range(10_000):
        step()
    assert sys.getallocatedblocks() - blocks < 5000
    assert process.memory_info().rss - size < 4 << 20
