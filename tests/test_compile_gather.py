"""Compiled indexing by positions that come as input: one recording serves all of them, and refuses those outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

import autograd_geo as ag
from autograd_geo import nn, optim

T = ag.tensor
ROWS, MORE = np.array([0, -1, 2, 2, -4]), np.array([3, 3, -2, 0, 1])
PAIRS, OTHERS = np.array([[0, 2], [-1, 1]]), np.array([[-4, 3], [0, 0]])
#: An expression in x, of shape (4, 3, 5), and positions; two sets of positions.
CASES: dict[str, tuple[Callable[[Any, Any], Any], Any, Any]] = {
    "take": (lambda x, i: ag.take(x, i, 0), ROWS, MORE),
    "take of all": (lambda x, i: ag.take(x, i), ROWS, np.array([59, 3, -60, 0, 0])),
    "take by a matrix": (lambda x, i: ag.take(x, i % 3, 1), PAIRS, OTHERS),
    "take one": (lambda x, i: ag.take(x, i, -1), np.array(1), np.array(-5)),
    "take few bits": (lambda x, i: ag.take(x, i, 2), np.array([4, 1], np.uint8), np.array([0, 0], np.uint8)),
    "take_along_axis": (
        lambda x, i: ag.take_along_axis(x, i, 0), np.arange(-4, 4).repeat(15)[:60].reshape(4, 3, 5),
        np.arange(60).reshape(4, 3, 5) % 4,
    ),
    "take_along_axis that broadcasts": (lambda x, i: ag.take_along_axis(x[:1], i, 2), PAIRS[:, None], OTHERS[:, None]),
    "of one axis": (lambda x, i: x[i], ROWS, MORE),
    "of a middle axis": (lambda x, i: x[1:, i % 3, ::2], ROWS, MORE),
    "of the last axis": (lambda x, i: x[..., i], PAIRS, OTHERS),
    "of two axes": (lambda x, i: x[i, i % 3], ROWS, MORE),
    "of two axes apart": (lambda x, i: x[i, :, i], ROWS, MORE),
    "with rows by an array": (lambda x, i: x[np.arange(5) % 4, i % 3], ROWS, MORE),
    "with a number": (lambda x, i: x[-1, :, i], ROWS, MORE),
    "of a product": (lambda x, i: (x * 2)[i] * x[i], ROWS, MORE),
    "by what is computed": (lambda x, i: x[ag.argmax(x[i], 0)[0]], ROWS, MORE),
    "of few elements": (lambda x, i: x[0, 0][i] * x[0], np.array(1), np.array(3)),
}  # fmt: skip


def steps(fast: Any) -> list[Any]:
    return [s for r in fast.recorded for s in r.program.steps]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", CASES)
def test_positions_are_input(name: str, dtype: Any) -> None:
    gather, first, second = CASES[name]
    x = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(dtype)

    def fn(x: Any, i: Any) -> Any:
        def weighted(x: Any) -> Any:
            z = gather(x, i)
            return (z * z * np.arange(z.size).reshape(z.shape).astype(dtype)).sum()

        return gather(x, i), *ag.value_and_grad(weighted)(x)

    fast = ag.compile(fn)
    for i in (first, second, first):
        for found, expected in zip(fast(x, i), fn(T(x), T(i)), strict=True):
            assert found.dtype == expected.dtype
            np.testing.assert_allclose(found.numpy(), expected.numpy(), 1e-12 if dtype == np.float64 else 1e-5)
    assert fast.recordings == 1
    assert all(s.kernel is not None for s in steps(fast)) or "computed" in name


@pytest.mark.parametrize("wrong", [5, -6, 1 << 40])
@pytest.mark.parametrize(
    "gather",
    [
        lambda x, i: ag.take(x, i, 1), lambda x, i: ag.take_along_axis(x, i[None], 1), lambda x, i: x[:, i],
        lambda x, i: x[i - 1, i],
    ],
)  # fmt: skip
def test_positions_outside_raise(gather: Any, wrong: int) -> None:
    def step(x: Any, i: Any, out: Any) -> None:
        out[:] = ag.grad(lambda x: (gather(x, i) ** 2).sum())(x)

    fast = ag.compile(step)
    x, good, out = T(np.arange(30.0).reshape(6, 5)), T([1, 4, 2]), T(np.zeros((6, 5)))
    fast(x, good, out)
    for k in range(3):
        out[:] = -1.0
        bad = np.array([1, 4, 2])
        bad[k] = wrong
        with pytest.raises(IndexError) as eager:
            step(x, T(bad), out)
        with pytest.raises(IndexError) as compiled:
            fast(x, T(bad), out)
        assert str(compiled.value) == str(eager.value)
        assert (out.numpy() == -1.0).all()
    fast(x, good, out)
    assert out.numpy().max() > 0
    assert fast.recordings == 1


def test_a_classifier_takes_any_labels() -> None:
    rng = np.random.default_rng(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    optimizer = optim.SGD(net.parameters(), lr=0.1)

    def step(x: Any, labels: Any) -> Any:
        optimizer.zero_grad()
        loss = nn.cross_entropy(net(x), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def state() -> list[Any]:
        return [p.numpy().copy() for p in net.parameters()]

    fast = ag.compile(step)
    for _ in range(4):
        x, labels = T(rng.normal(size=(9, 6))), T(rng.integers(0, 4, 9))
        before = net.state_dict()
        loss, after = fast(x, labels).item(), state()
        net.load_state_dict(before)
        assert loss == pytest.approx(step(x, labels).item(), rel=1e-12)
        for found, expected in zip(after, state(), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-10)
    kept = state()
    for wrong in (4, -1):
        with pytest.raises(IndexError, match=r"cross_entropy: classes run from 0 to 3"):
            fast(x, T(np.full(9, wrong)))
    assert all(np.array_equal(a, b) for a, b in zip(state(), kept, strict=True))
    assert fast.recordings == 1
    assert all(s.kernel is not None for s in steps(fast))


def test_positions_in_a_large_array_from_outside() -> None:
    positions = np.arange(10_000) % 7
    fast = ag.compile(lambda x: ag.take(x, positions).sum())
    x = np.arange(7.0)
    for _ in range(2):
        assert fast(x).item() == x[positions].sum()
        positions[:] = 6
    positions[1] = 7
    with pytest.raises(IndexError, match="take"):
        fast(x)
