"""Draws in compiled functions: with the parameters of each call, the same numbers as uncompiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

import autograd_geo as ag
from autograd_geo import random

X = np.ones(6)
#: Functions of an array and parameters of a draw, what they are called with, and how often they are recorded.
DRAWS: dict[str, tuple[Callable[..., Any], Sequence[tuple[Any, ...]], int]] = {
    "std": (lambda x, s: x + random.normal(x.shape, std=s), [(1.0,), (0.0,), (2.0,)], 1),
    "mean and std": (lambda x, m, s: x + random.normal(x.shape, m, s), [(1.0, 2.0), (0.0, 0.5), (3.0, 0.0)], 1),
    "std of an array": (lambda x, s: x + random.normal(x.shape, std=s), [(np.array(2.0),), (np.array(0.5),)], 1),
    "std of a tensor": (lambda x, s: x + random.normal(x.shape, std=s), [(ag.tensor(2.0),), (ag.tensor(0.5),)], 1),
    "probability": (lambda x, p: x * random.bernoulli(p, x.shape), [(0.5,), (0.0,), (1.0,)], 1),
    "a computed probability": (lambda x, p: x * random.bernoulli(1 - p, x.shape), [(0.5,), (0.0,), (1.0,), (0.5,)], 3),
    "interval": (lambda x, a, b: x * random.uniform(x.shape, a, b), [(0.5, 0.7), (0.0, 0.1), (1.0, 1.0)], 1),
    "highest": (lambda x, n: x * random.integers(n, x.shape), [(np.array(5),), (np.array(50),), (np.array(2),)], 1),
    "size": (lambda x, n: random.normal((2, n)).sum() * x, [(3,), (4,), (3,)], 2),
    "a generator inside": (lambda x, s: x * random.Generator(3).normal(x.shape, s), [(5.0,), (1.0,), (5.0,)], 2),
    "inside grad": (
        lambda x, p: ag.grad(lambda x: (x * x * random.bernoulli(p, x.shape)).sum())(x), [(0.5,), (0.0,), (1.0,)], 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWS)
def test_parameters_of_draws_are_those_of_each_call(name: str) -> None:
    fn, calls, recordings = DRAWS[name]
    fast = ag.compile(fn)
    for given in calls:
        ag.seed(4)
        expected = fn(ag.tensor(X), *[ag.tensor(a) if isinstance(a, float) else a for a in given])
        ag.seed(4)
        np.testing.assert_allclose(fast(X, *given).numpy(), expected.numpy(), rtol=1e-15)
    assert fast.recordings == recordings


def test_a_tensor_from_outside_is_read_in_each_call() -> None:
    std = ag.tensor(2.0)
    fast = ag.compile(lambda x: x + random.normal(x.shape, std=std))
    for value in (2.0, 0.0, 1.0):
        std.assign(value)
        ag.seed(1)
        found = fast(X).numpy()
        ag.seed(1)
        np.testing.assert_array_equal(found, X + random.normal(6, std=value))
    assert fast.recordings == 1


def test_a_detached_parameter_is_read_in_each_call() -> None:
    std = ag.nn.Parameter(2.0)
    fast = ag.compile(lambda: random.normal((6,), std=std.detach()) + 0.0)
    for value in (2.0, 0.0, 1.0):
        std.assign(value)
        ag.seed(1)
        found = fast().numpy()
        ag.seed(1)
        np.testing.assert_array_equal(found, random.normal(6, std=value))
    assert fast.recordings == 1


def test_parameters_out_of_range_are_refused_in_each_call() -> None:
    fast = ag.compile(lambda x, p: x * random.bernoulli(p, x.shape))
    fast(X, 0.5)
    ag.seed(7)
    with pytest.raises(ValueError, match=r"probability in 0 \.\. 1, not p=1.5"):
        fast(X, 1.5)
    assert random.default().state_dict() == {"seed": 7, "stream": 0}


@pytest.mark.parametrize("wrapped", [lambda f: f, ag.compile])
def test_parameters_that_require_a_gradient_are_refused(wrapped: Any) -> None:
    std = ag.tensor(1.0, requires_grad=True)
    with pytest.raises(TypeError, match=r"no gradient flows through a draw .* mean \+ std \* normal"):
        wrapped(lambda x: x * random.normal(x.shape, std=std))(X)
    with pytest.raises(TypeError, match="no gradient flows"):
        ag.grad(wrapped(lambda p: (X * random.bernoulli(p, (6,))).sum()))(0.5)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x.sum(), lambda x: ag.value_and_grad(lambda x: (x * x).sum())(x),
        lambda x: (x * ag.nn.Parameter(2.0)).sum(),
    ],
)  # fmt: skip
@pytest.mark.parametrize("nested", [lambda x: x, lambda x: {"a": [x]}])
def test_a_masked_array_is_refused_in_each_call(fn: Any, nested: Any) -> None:
    fast = ag.compile(lambda tree: fn(tree["a"][0] if isinstance(tree, dict) else tree))
    for _ in range(3):
        fast(nested(X))
        with pytest.raises(TypeError, match="mask"):
            fast(nested(np.ma.masked_array(X, X > 0)))
