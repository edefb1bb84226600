"""Large regions are computed in chunks that threads share: the same numbers, for any number of threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np
import pytest

import autograd_geo as ag
from autograd_geo import nn, optim
from autograd_geo.compiler import accesses

RNG = np.random.default_rng(0)
M, N = RNG.normal(size=(40, 30)), RNG.normal(size=(40, 30))


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accesses, "CHUNK", 200)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    if request.param > numba.config.NUMBA_NUM_THREADS:
        pytest.skip("this machine has one processor")
    before = numba.get_num_threads()
    numba.set_num_threads(request.param)
    yield request.param
    numba.set_num_threads(before)


def chunks(fast: Any) -> int:
    """In how many chunks the kernels of a function's last recording are called."""
    return sum(step.chunks for step in fast.recorded[0].program.steps)


def with_nan(x: Any) -> Any:
    return ag.where(x > 2.5, x * np.nan, x).max() + ag.exp(x).min()


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "map": lambda x, y: ag.sin(x) * y + x,
    "sum": lambda x, y: (ag.tanh(x + 4 * y) ** 2 + x).sum(),
    "several reductions": lambda x, y: ((x * y).sum(), (x * y).max(), x.prod(), (x - y).min(), ag.sin(x)),
    "nan": lambda x, y: with_nan(x),
    "rows": lambda x, y: ag.softmax(x, -1) * y,
    "rows twice": lambda x, y: ag.softmax(ag.softmax(x * y, -1) + y, -1).sum(-1),
    "last axis": lambda x, y: (x * y).sum(-1),
    "first axis": lambda x, y: (x * y + 1).sum(0),
    "roll": lambda x, y: np.roll(x * 2.0, 3, axis=0) + np.roll(y, -1, axis=1),
    "slices": lambda x, y: x[1:, :-1] * y[:-1, 1:] + x[:-1, 1:],
    "transpose": lambda x, y: (x.T * 2.0 + y.T).sum(),
    "a row": lambda x, y: ag.softmax(x.reshape(1, -1)) * y.reshape(1, -1),
    "integers": lambda x, y: (x * 100).astype(np.int64).sum() + (y > 0).sum(),
    "gather": lambda x, y: ag.take(x, np.arange(39, -1, -1), axis=0) * y,
}


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_chunks_compute_what_eager_code_does(name: str, threads: int) -> None:
    fn = FUNCTIONS[name]
    fast = ag.compile(fn)
    for x, y in ((M, N), (N, M)):
        expected = list(ag.tree.leaves(fn(ag.tensor(x), ag.tensor(y))))
        for found, e in zip(ag.tree.leaves(fast(x, y)), expected, strict=True):
            np.testing.assert_allclose(np.asarray(found), np.asarray(e), rtol=1e-12, atol=1e-12)
    if name not in ("first axis", "a row", "transpose"):
        assert chunks(fast) > 2


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_bits_do_not_depend_on_the_number_of_threads(name: str) -> None:
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("this machine has one processor")
    fast = ag.compile(ag.value_and_grad(lambda x, y: sum_of(FUNCTIONS[name](x, y)), (0, 1)))
    fast(M, N)
    found = []
    before = numba.get_num_threads()
    for count in (1, 2):
        numba.set_num_threads(count)
        value, gradients = fast(M, N)
        found.append([np.asarray(t).tobytes() for t in (value, *gradients)])
    numba.set_num_threads(before)
    assert found[0] == found[1]


def sum_of(results: Any) -> Any:
    total = 0.0
    for k, t in enumerate(ag.tree.leaves(results)):
        total = total + (t * (k + 1.5)).sum()
    return total


@pytest.mark.usefixtures("small_chunks")
def test_training_with_chunks_is_training(threads: int) -> None:
    found = []
    for compile in (False, True):
        ag.seed(0)
        model = nn.Sequential(nn.Linear(30, 50), nn.Tanh(), nn.Linear(50, 2))
        optimizer = optim.Adam(model.parameters(), 0.01)
        optim.fit(model, optimizer, nn.mse_loss, (M, N[:, :2]), epochs=4, batch_size=9, compile=compile)
        found.append([p.numpy() for p in model.parameters()])
    for eager, native in zip(*found, strict=True):
        np.testing.assert_allclose(native, eager, rtol=1e-9)


@pytest.mark.usefixtures("small_chunks")
def test_functions_may_be_called_from_several_threads() -> None:
    one, other = ag.compile(FUNCTIONS["sum"]), ag.compile(FUNCTIONS["rows"])
    one(M, N), other(M, N)  # recorded
    wanted = one(M, N).item(), other(M, N).numpy().copy()
    wrong: list[Any] = []

    def work() -> None:
        for _ in range(50):
            if one(M, N).item() != wanted[0] or not np.array_equal(other(M, N).numpy(), wanted[1]):
                wrong.append(threading.get_ident())

    workers = [threading.Thread(target=work) for _ in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not wrong
