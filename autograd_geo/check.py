"""Are the derivatives right? Tests against finite differences, for our ops and for users' functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .op import functions
from .tensor import Tensor, tensor
from .transform import jvp, value_and_grad, vjp
from .tree import leaves
from .value import unmasked

Function = Callable[..., Any]


class GradientError(AssertionError):
    """A derivative that differs from what finite differences say."""


def _numbers(args: Sequence[Any]) -> list[np.ndarray[Any, Any]]:
    return [
        np.array(unmasked(a.numpy() if isinstance(a, Tensor) else a, f"argument {n}"), dtype=np.float64)
        for n, a in enumerate(args)
    ]


def _contract(fn: Function, weights: list[Any]) -> Function:
    """fn reduced to one number by fixed random weights, so that one gradient checks all outputs."""

    def scalar(*args: Any) -> Any:
        outputs = list(leaves(fn(*args)))
        while len(weights) < len(outputs):
            rng = np.random.default_rng(len(weights))
            shape = outputs[len(weights)].shape
            weights.append(rng.uniform(0.5, 1.5, shape) if shape or len(outputs) > 1 else 1.0)
        total: Any = tensor(0.0)
        for t, w in zip(outputs, weights, strict=True):
            total = total + functions["sum"](t * w)
        return total

    return scalar


def check_grad(
    fn: Function, *args: Any, order: int = 1, eps: float = 1e-6, rtol: float = 1e-5, atol: float = 1e-6
) -> None:
    """Compare the gradient of `fn` at float64 `args` with central differences, in every coordinate.

    `order=2` checks the gradient's own gradient as well. Raises GradientError that names the argument, the
    element, both values; ValueError for another order. Choose points away from kinks.
    """
    if order not in (1, 2):
        raise ValueError(f"check_grad: order may be 1 or 2, not {order}")
    values = _numbers(args)
    if order == 2:
        check_grad(fn, *args, order=1, eps=eps, rtol=rtol, atol=atol)
        inner = value_and_grad(_contract(fn, []), range(len(values)))

        def target(*xs: Any) -> Any:
            return list(inner(*xs)[1])
    else:
        target = fn
    scalar = _contract(target, [])
    _, gradients = value_and_grad(scalar, range(len(values)))(*values)
    for n, (value, gradient) in enumerate(zip(values, gradients, strict=True)):
        ours = gradient.numpy()
        for i in np.ndindex(value.shape):
            step = eps * max(1.0, abs(float(value[i])))
            ends = []
            for sign in (1, -1):
                moved = [v.copy() for v in values]
                moved[n][i] += sign * step
                ends.append((float(moved[n][i]), scalar(*map(tensor, moved)).item()))
            (right, above), (left, below) = ends
            theirs = (above - below) / (right - left)
            if not math.isclose(float(ours[i]), theirs, rel_tol=rtol, abs_tol=atol):
                raise GradientError(
                    f"order {order}: derivative with respect to argument {n}{list(i) if i else ''} is "
                    f"{float(ours[i])!r}, finite differences say {theirs!r}"
                )


def check_taylor(fn: Function, *args: Any, seed: int = 0) -> float:
    """Check that f(x + h d) - f(x) - h <f'(x), d> falls like h^2 along a random d; returns the order found.

    The test for expensive functions: a few evaluations, whatever the number of parameters (Farrell et al.,
    2013, SIAM J. Sci. Comput. 35(4)). Raises GradientError where the order is below 1.9 and the remainder is
    not down to rounding.
    """
    values = _numbers(args)
    rng = np.random.default_rng(seed)
    directions = [rng.standard_normal(v.shape) for v in values]
    value, gradients = value_and_grad(fn, range(len(values)))(*values)
    base = value.item()
    slope = sum(float(np.sum(g.numpy() * d)) for g, d in zip(gradients, directions, strict=True))
    steps = [1e-2 / 2**k for k in range(5)]
    rest = [
        abs(fn(*[tensor(v + h * d) for v, d in zip(values, directions, strict=True)]).item() - base - h * slope)
        for h in steps
    ]
    rounding = 1e-13 * max(abs(base), abs(slope), 1e-300)
    orders = [math.log2(a / b) for a, b in pairwise(rest) if b > 10 * rounding]
    if not orders:
        return math.inf
    if max(orders) < 1.9:
        raise GradientError(f"the Taylor remainder falls with order {max(orders):.2f}, not 2: the gradient is wrong")
    return max(orders)


def check_dot(fn: Function, *args: Any, seed: int = 0, rtol: float = 1e-12) -> None:
    """The dot-product test <J u, v> = <u, J' v> of forward against reverse mode, along random u and v.

    Raises GradientError where they differ by more than `rtol` of the larger, before terms cancel.
    """
    values = _numbers(args)
    rng = np.random.default_rng(seed)
    u = [rng.standard_normal(v.shape) for v in values]
    out, pushed = jvp(lambda *xs: list(leaves(fn(*xs))), values, u)
    v = [rng.standard_normal(t.shape) for t in out]
    _, pull = vjp(lambda *xs: list(leaves(fn(*xs))), *values)
    pulled = pull(v)
    left = sum(float(np.sum(a.numpy() * b)) for a, b in zip(pushed, v, strict=True))
    right = sum(float(np.sum(a * b.numpy())) for a, b in zip(u, pulled, strict=True))
    size = max(
        sum(float(np.sum(np.abs(a.numpy() * b))) for a, b in zip(pushed, v, strict=True)),
        sum(float(np.sum(np.abs(a * b.numpy()))) for a, b in zip(u, pulled, strict=True)),
    )
    if abs(left - right) > rtol * max(size, 1e-300) + 1e-300:
        raise GradientError(f"<Ju, v> = {left!r}, but <u, J'v> = {right!r}")
