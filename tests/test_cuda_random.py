"""Random numbers that the device makes are those of the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from hypothesis import example, given
from hypothesis import strategies as st
from test_random import philox_word

import autograd_geo as ag
from autograd_geo.random import Generator, words

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not ag.cuda.is_available(), reason="no GPU, and the simulator is off"),
]

WORD = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**63 - 1, 2**63, 2**64 - 1])
SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)
NUMBERS = st.floats(-1e6, 1e6)
FLOATS = st.sampled_from([np.float64, np.float32])


def both(draw: str, seed: int, stream: int, *args: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A draw on the host and on the device, from the same stream; both take one stream."""
    here, there = Generator(seed, stream), Generator(seed, stream)
    wanted, found = getattr(here, draw)(*args), getattr(there, draw)(*args, device="cuda")
    assert found.device == "cuda" and not found.requires_grad
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    assert here.mark() == there.mark() == (seed, stream + 1)
    return wanted, found.numpy()


@given(WORD, WORD.filter(lambda k: k < 2**64 - 1), SHAPES, NUMBERS, NUMBERS, FLOATS)
@example(2**64 - 1, 2**63, (19,), -0.1, 0.7, np.float32)
@example(7, 0, (), 0.1, 0.3, np.float64)
def test_uniform(seed: int, stream: int, shape: tuple[int, ...], x: float, y: float, dtype: Any) -> None:
    wanted, found = both("uniform", seed, stream, shape, min(x, y), max(x, y), dtype)
    np.testing.assert_array_equal(found, wanted)


@given(WORD, WORD.filter(lambda k: k < 2**64 - 1), SHAPES, st.integers(1, 2**63) | st.sampled_from([1, 3, 2**63]))
def test_integers(seed: int, stream: int, shape: tuple[int, ...], high: int) -> None:
    wanted, found = both("integers", seed, stream, high, shape)
    np.testing.assert_array_equal(found, wanted)


@given(WORD, WORD.filter(lambda k: k < 2**64 - 1), SHAPES, st.floats(0, 1))
def test_bernoulli(seed: int, stream: int, shape: tuple[int, ...], p: float) -> None:
    wanted, found = both("bernoulli", seed, stream, p, shape)
    np.testing.assert_array_equal(found, wanted)


@given(WORD, WORD.filter(lambda k: k < 2**64 - 1), SHAPES, NUMBERS, st.floats(0, 1e6), FLOATS)
@example(3, 2, (5,), 0.0, 1.0, np.float64)
@example(3, 2, (7,), 0.0, 1.0, np.float32)
def test_normal(seed: int, stream: int, shape: tuple[int, ...], mean: float, std: float, dtype: Any) -> None:
    """To the rounding of log, cos and sin."""
    wanted, found = both("normal", seed, stream, shape, mean, std, dtype)
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(found, wanted, rtol=8 * eps, atol=8 * eps * (abs(mean) + std))


@given(WORD, WORD.filter(lambda k: k < 2**64 - 1), st.integers(1, 21))
def test_words(seed: int, stream: int, count: int) -> None:
    """All 63 bits that integers show, of the published definition."""
    found = Generator(seed, stream).integers(2**63, count, device="cuda").numpy()
    assert found.tolist() == [philox_word(seed, stream, i) % 2**63 for i in range(count)]
    assert found.tolist() == [int(w) % 2**63 for w in words(seed, stream, count)]


def test_several_blocks_and_what_lies_behind_them() -> None:
    """More words than threads; a draw writes no element too many."""
    wanted, found = both("uniform", 5, 6, (3, 35))
    np.testing.assert_array_equal(found, wanted)
    for count in (1, 2, 3, 5, 7):
        x = ag.tensor(np.full(512, 7, np.uint8), device="cuda")  # a block of the least size, which the draw gets
        address = x._value.address
        del x
        y = ag.random.normal(count, 0.0, 1.0, np.float32, device="cuda")._value
        assert y.address == address
        assert (y.in_shape((512,), np.dtype(np.uint8)).numpy()[4 * count :] == 7).all()


def test_what_is_refused_takes_no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    from autograd_geo.cuda.pool import pool

    generator = Generator(3)
    for fail in (
        lambda: generator.uniform(3, 2.0, 1.0, device="cuda"),
        lambda: generator.normal(3, std=-1.0, device="cuda"),
        lambda: generator.bernoulli(1.5, 3, device="cuda"),
        lambda: generator.integers(0, 3, device="cuda"),
        lambda: generator.uniform(-3, device="cuda"),
        lambda: generator.uniform(3, device="gpu"),
    ):
        with pytest.raises(ValueError, match=r"needs|cannot be negative|device must be"):
            fail()

    def full(size: int) -> Any:
        raise MemoryError("simulated")

    pool().clear()
    monkeypatch.setattr(pool().driver, "allocate", full)
    with pytest.raises(MemoryError, match="the GPU has no"):
        generator.uniform(100_000, device="cuda")
    assert generator.mark() == (3, 0)


class Dropout(ag.nn.Module):
    """Noise of three kinds, drawn beside what it is put on if `beside`."""

    def __init__(self, beside: bool) -> None:
        super().__init__()
        self.beside = beside

    def forward(self, x: Any) -> Any:
        where = {"device": x.device} if self.beside else {}
        kept = ag.random.bernoulli(0.7, x.shape, **where)
        noise = ag.random.normal(x.shape, 0.0, 0.1, **where) + ag.random.uniform(x.shape, **where)
        order = ag.random.permutation(len(x))
        return x * kept / 0.7 + noise * ag.random.integers(3, x.shape, **where) + ag.take(x, order, axis=0)


def trained(device: str, compiled: bool, beside: bool) -> list[Any]:
    ag.seed(5)
    model = ag.nn.Sequential(ag.nn.Linear(3, 4), ag.nn.Tanh(), Dropout(beside), ag.nn.Linear(4, 2)).to(device)
    optimizer = ag.optim.Adam(model.parameters(), lr=0.05)
    x, y = (ag.tensor(np.random.default_rng(1).normal(size=(5, n)), device=device) for n in (3, 2))

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = ag.nn.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    run = ag.compile(step) if compiled else step
    losses = [run(x, y).item() for _ in range(3)]
    if compiled:
        assert run.recordings == 1
    return [losses, *(p.numpy() for p in model.parameters()), ag.random.default().mark()]


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_training_with_noise_gives_the_same_numbers(compiled: bool, beside: bool) -> None:
    *found, mark = trained("cuda", compiled, beside)
    *wanted, expected = trained("cpu", False, False)
    assert mark == expected
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_a_compiled_function_copies_no_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def fn(x: Any) -> Any:
        return x * ag.random.bernoulli(0.5, x.shape) + ag.random.normal(x.shape)

    fast, x = ag.compile(fn), ag.tensor(np.ones(50), device="cuda")
    fast(x), fast(x)

    from autograd_geo.cuda.pool import Block

    written: list[int] = []
    monkeypatch.setattr(Block, "write", lambda self, array: written.append(array.nbytes))
    fast(x)
    assert max(written, default=0) < 50


def test_a_call_that_does_not_hold_takes_no_draw() -> None:
    def fn(x: Any) -> Any:
        y = x * ag.random.uniform(2)
        return y if x.sum() > 0 else -y

    def drawn(run: Any) -> list[Any]:
        ag.seed(4)
        signs = (1.0, 1.0, -1.0, 1.0, -1.0)
        found = [run(ag.tensor([sign, 2.0 * sign], device="cuda")).numpy() for sign in signs]
        run(ag.tensor(np.ones((1, 2)), device="cuda"))  # of another shape
        return [*found, ag.random.uniform(2)]

    np.testing.assert_array_equal(drawn(ag.compile(fn)), drawn(fn))


def test_draws_alone_are_recorded_where_they_are_made() -> None:
    fast = ag.compile(lambda: ag.random.normal(4, device="cuda") * 2.0)
    ag.seed(8)
    found = [fast() for _ in range(3)]
    ag.seed(8)
    for z in found:
        assert z.device == "cuda"
        np.testing.assert_allclose(z.numpy(), ag.random.normal(4) * 2.0, rtol=1e-14)
