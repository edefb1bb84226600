"""One local derivative against finite differences of its op."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..tape import Entry
from ..value import Value, strong
from .formulas import partial_value
from .values import number


class Check(NamedTuple):
    """`found` by finite differences beside `ours`; `agrees` is None where they need not.

    `words` say it, with places for the numbers `said`.
    """

    ours: float
    found: float
    agrees: bool | None
    words: str
    said: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return self.words.format(*self.said)


@np.errstate(all="ignore")
def check(entry: Entry, k: int, cotangent: Value, contribution: Value) -> Check:
    """Compare the derivative of an entry by its k-th input with central differences of its op, in float64.

    Of a number by a number it is the derivative itself; else both are projected, on the cotangent and on a random
    direction. The step is the cube root of the rounding unit, absolute and, where more than rounding comes of that,
    relative; the better one counts.
    """
    assert entry.op is not None
    values = [_wide(i.value) if isinstance(i, Entry) else i for i in entry.inputs]
    x = values[k]
    alone = np.ndim(x) == 0 and np.ndim(entry.value) == 0
    local = partial_value(entry, k) if alone else None
    direction: Any
    weight: Any
    if local is not None:
        ours, size, weight, direction = float(local), abs(float(local)), 1.0, 1.0
    else:
        direction = 1.0 if alone else np.random.default_rng(0).standard_normal(np.shape(x))
        weight = _wide(cotangent)
        terms = np.asarray(contribution, np.float64) * direction
        ours, size = float(np.sum(terms)), float(np.sum(np.abs(terms)))

    def along(h: float) -> float:
        moved = [*values[:k], x + h * direction, *values[k + 1 :]]
        return float(np.sum(weight * np.asarray(entry.op.evaluate(moved, entry.attrs), np.float64)))  # type: ignore[union-attr]

    narrow = np.float32 in (entry.dtype, entry.inputs[k].spec[1])  # type: ignore[union-attr]
    unit = float(np.cbrt(np.finfo(entry.dtype).eps))
    reach = float(np.max(np.abs(x), initial=0.0))
    wide, fine = unit * max(1.0, reach), unit * reach
    try:
        middle = along(0.0)
        noise = 10 * float(np.finfo(entry.dtype).eps) * abs(middle)
        tried = [_slopes(along, middle, wide)]
        if fine > np.finfo(np.float64).tiny and noise / fine <= 1e-3 * size:  # else it is made of rounding
            tried.append(_slopes(along, middle, fine))
    except (TypeError, ValueError, IndexError):  # a compiled function has values at recorded points only
        return Check(ours, np.nan, None, "this op cannot be evaluated at other points")
    left, right, found, h = min(tried, key=lambda t: abs(t[2] - ours) if np.isfinite(t[2]) else np.inf)
    said, off_by = number(found), abs(found - ours)
    if not np.isfinite([ours, found]).all():
        return Check(ours, found, None, "there is no finite difference at this point")
    if entry.op.surrogate:
        return Check(
            ours, found, None, "{0} by finite differences; this op's rule is deliberately another one", (said,)
        )
    source = "by finite differences" if alone else "by finite differences along a random direction"
    if off_by <= (2e-3 if narrow else 1e-5) * max(size, abs(found)) + noise / h:
        return Check(ours, found, True, f"{{0}} {source}: they agree", (said,))
    if abs(left - right) > 1e-3 * max(abs(left), abs(right)):
        words = "there is a kink: {0} by finite differences on the left, {1} on the right"
        return Check(ours, found, None, words, (number(left), number(right)))
    return Check(ours, found, False, f"{{0}} {source}, not {{1}}", (said, number(ours)))


def _slopes(along: Any, middle: float, h: float) -> tuple[float, float, float, float]:
    """Differences to the left, to the right, across; and the step."""
    above, below = along(h), along(-h)
    return (middle - below) / h, (above - middle) / h, (above - below) / (2 * h), h


def _wide(value: Value) -> Any:
    value = strong(value)
    return value.astype(np.float64) if value.dtype.kind == "f" else value
