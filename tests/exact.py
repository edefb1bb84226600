"""One-sided derivatives of elementwise ops in 4000 bits: what a gradient is compared with at any point."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import mpmath
import numpy as np

from autograd_geo import expr
from autograd_geo.op import registry

Array = np.ndarray[Any, Any]
Attrs = tuple[tuple[str, float], ...]
mp = mpmath.mp.clone()
mp.prec = 4000  # differences of neighbours 2**-2300 apart, next to the smallest subnormal 2**-1074
INFINITE = mp.mpf(2) ** 1100  # stands for an infinity; larger than any float
_BODIES = {  # formulas that are made for floating point, as they are meant
    "sinc(x)": lambda x: mp.mpf(1) if x == 0 else mp.sin(mp.pi * x) / (mp.pi * x),
    "logaddexp(x, y)": lambda x, y: max(x, y) + mp.log(1 + mp.exp(-abs(x - y))),
    "gelu(x)": lambda x: x * mp.erfc(-x / mp.sqrt(2)) / 2 if abs(x) < 100 else max(x, mp.mpf(0)),
}  # fmt: skip


def _near(function: Callable[[Any], Any], limit: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`function`, and beyond 2**60 what it tends to."""
    return lambda x: function(x) if abs(x) < 2**60 else limit(x)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "+": lambda x, y: x + y, "-": lambda x, y: x - y, "*": lambda x, y: x * y, "/": lambda x, y: x / y,
    "u-": lambda x: -x, "**": lambda x, y: _power(x, y), "abs": abs, "reciprocal": lambda x: 1 / x,
    "|": lambda x, y: x or y, "&": lambda x, y: x and y,
    "<": lambda x, y: x < y, "<=": lambda x, y: x <= y, ">": lambda x, y: x > y, ">=": lambda x, y: x >= y,
    "==": lambda x, y: x == y, "!=": lambda x, y: x != y,
    "maximum": lambda x, y: x if x >= y or x != x else y, "minimum": lambda x, y: x if x <= y or x != x else y,
    "heaviside": lambda x, at: at if x == 0 else mp.mpf(x > 0), "remainder": lambda x, y: x - y * mp.floor(x / y),
    "rint": mp.nint, "cbrt": lambda x: mp.sign(x) * mp.root(abs(x), 3), "log2": lambda x: mp.log(x) / mp.log(2),
    "expm1": lambda x: mp.exp(x) - 1, "log1p": lambda x: mp.log(1 + x),
    "tanh": _near(mp.tanh, mp.sign), "asinh": lambda x: mp.sign(x) * mp.log(abs(x) + mp.sqrt(x * x + 1)),
    "erf": lambda x: mp.erf(x) if abs(x) < 100 else mp.sign(x),
}  # fmt: skip


def _power(x: Any, y: Any) -> Any:
    if x == 0 and y < 0:
        return mp.inf
    return mp.power(x, y)


def value(node: expr.Node, known: dict[str, Any]) -> Any:
    """An expression's value; of a `where`, the branch taken only."""
    if isinstance(node, expr.Num):
        return mp.mpf(node.value)
    if isinstance(node, expr.Var):
        return known[node.name]
    if node.fn == "where":
        return value(node.args[1 if value(node.args[0], known) else 2], known)
    function = _FUNCTIONS.get(node.fn) or getattr(mp, node.fn)
    return function(*[value(a, known) for a in node.args])


def _number(x: float) -> Any:
    return mp.mpf(x) if math.isfinite(x) or x != x else INFINITE if x > 0 else -INFINITE


@lru_cache(maxsize=1_000_000)
def slopes(name: str, moved: tuple[int, ...], point: tuple[float, ...], attrs: Attrs) -> tuple[float, ...]:
    """The derivatives of a pointwise op along these of its inputs, from the left and from the right, where there are.

    Each is a difference of two points on one side, so that a jump between the sides does not count.
    """
    op = registry[name]
    numbers = [_number(x) for x in point]
    h = mp.ldexp(min(min(abs(numbers[k]) or mp.mpf(1), mp.mpf(1)) for k in moved), -1200)
    exact = _BODIES.get(f"{name}({', '.join(op.inputs)})")
    found = []
    for side in (-h, h):
        ends = []
        for step in (side, 2 * side):
            at = [x + step if k in moved else x for k, x in enumerate(numbers)]
            known = dict(zip(op.inputs, at, strict=True)) | {k: mp.mpf(v) for k, v in attrs}
            try:
                ends.append(exact(*at) if exact else value(op.body, known))
            except (ZeroDivisionError, ValueError, OverflowError):
                break
        if len(ends) == 2 and not any(isinstance(e, mp.mpc) for e in ends):
            slope = (ends[1] - ends[0]) / side
            if mp.isfinite(slope):
                found.append(float(slope))
    return tuple(found)


def bounds(
    name: str, moved: tuple[int, ...], operands: Sequence[Array], attrs: Mapping[str, float], z: Array, rtol: float,
    atol: float,
) -> tuple[Array, Array]:  # fmt: skip
    """Between what the derivatives of `slopes` at each element of the result z must be, if they are finite.

    Where z is NaN, or infinite with finite operands, nothing is hidden, and a subnormal z is inexact: no bounds.
    """
    low, high = np.full(z.shape, -np.inf), np.full(z.shape, np.inf)
    for i in np.ndindex(z.shape):
        point = tuple(float(a[i]) for a in operands)
        finite = all(map(math.isfinite, point))
        open_ends = slopes(name, moved, point, tuple(attrs.items()))
        if (
            (np.isinf(z[i]) and finite)
            or 0 < abs(z[i]) < np.finfo(z.dtype).tiny
            or np.isnan(z[i])
            or any(math.isnan(point[k]) for k in moved)
            or (name == "power" and math.isinf(point[0]) and 0 < abs(point[1] - 1) < 0.09)  # INFINITE is too small
            or not (open_ends or finite)
        ):
            continue
        a, b = (min(open_ends), max(open_ends)) if open_ends else (np.nan, np.nan)
        if name == "power" and not point[0] and 0 < abs(point[1] - 1) < 0.09:  # the step is too large: 0, or infinite
            a, b = (min(a, 0.0), b) if point[1] > 1 else (a, np.inf)
        low[i], high[i] = a - rtol * abs(a) - atol, b + rtol * abs(b) + atol
    return low, high
