"""What is wrong at an operation of a tape, in words, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from .cuda.array import on_host
from .expr import names_in
from .op import Op, Rule
from .tape import Entry, describe, hosted, line_of
from .value import Value, as_value, strong

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: "input" (it came in as a leaf), "value" (an op made it of finite numbers), "nan" (an op turned infinities
            into NaN), "derivative" (the derivative by input number `operand` made it), "sum" (it appeared where paths
            of the gradient meet), "dead" or "saturated".
        entry: the operation on the tape; `line` is the user's file and line.
        index: the first bad element: of the entry for values, of its input for derivatives; None for units.
        what, advice: what happened, and what to do about it.
        hidden: whether the output does not depend on it: something after it, such as `where`, discards it.
    """

    kind: str
    entry: Entry
    what: str
    advice: str
    index: tuple[int, ...] | None = None
    operand: int | None = None
    hidden: bool = False

    @property
    def line(self) -> tuple[str, int] | None:
        """The user's file and line, if known."""
        return line_of(self.entry)

    def __str__(self) -> str:
        return f"{self.what}\n  {describe(self.entry)}\n  {self.advice}"


# --- NaN and infinities ---------------------------------------------------------------------------------------


def of_leaf(e: Entry, where: Array) -> Finding:
    """The finding that a leaf holds something that is not finite."""
    index = _first(where)
    what = f"{_called(e)} holds {_number(np.asarray(on_host(e.value))[index])}{_place(index, where)}"
    return Finding("input", e, what, "look at where these numbers come from; np.isfinite(...) finds the rows", index)


def of_value(e: Entry, where: Array, kind: str, value: Callable[[Entry], Value], hidden: bool = False) -> Finding:
    """The finding that an op made something that is not finite: of finite numbers, or ("nan") NaN of infinities."""
    op, index = e.op, _first(where)
    assert op is not None
    result = np.asarray(value(e))[index]
    literal = any(not isinstance(s, Entry) and not np.isfinite(s) for s in e.inputs)
    of = "infinities" if kind == "nan" else "a number written in the program" if literal else "finite numbers"
    what = f"{op.name} made {_number(result)} of {of}{_place(index, where)}"
    operands = _operands(e, index, value) if elementwise(e) else []
    if operands:
        what += f": {op.name}({', '.join(map(_number, operands))})"
    if kind == "nan" or literal:
        advice = "infinity minus infinity, 0 times infinity and their like are NaN: see where the infinity comes from"
    else:
        advice = _value_advice(op, operands, result, e.dtype)
    if hidden:
        what += "; it does not reach the output"
    return Finding(kind, e, what, advice, index, hidden=hidden)


def of_derivative(e: Entry, k: int, g: Any, c: Any, where: Array, value: Callable[[Entry], Value]) -> Finding:
    op = e.op
    assert op is not None
    rule, x = op.rules[k], op.inputs[0 if op.variadic else k]
    assert rule is not None
    index, shape = _first(where), np.shape(c)
    there = _within(index, shape) if where.shape != shape else index
    what = f"the derivative of {op.name} by {x} made {_number(np.asarray(c)[there])} of a finite gradient"
    what += _place(there, where, count=where.shape == shape)
    cotangent: Any = None
    if elementwise(e) and where.shape == e.shape:
        operands = _operands(e, index, value)
        cotangent = np.broadcast_to(np.asarray(g), e.shape)[index]
        known = dict(zip(op.inputs, operands, strict=True))
        if rule.partial is not None and "z" in names_in(rule.partial):
            known["z"] = np.asarray(value(e))[index]
        at = ", ".join(f"{name} = {_number(v)}" for name, v in known.items())
        what += f": {_number(cotangent)} times {_slope(rule, e, index)}, at {at}"
    return Finding("derivative", e, what, _derivative_advice(op, cotangent, e), there, k)


def of_sum(e: Entry, bad: Array, total: Any) -> Finding:
    index = _first(bad)
    what = f"where paths of the gradient meet at {_called(e)}, finite numbers add up to "
    what += f"{_number(np.asarray(total)[index])}{_place(index, bad)}"
    return Finding("sum", e, what, _OVERFLOW.format(**_limits(e.dtype)), index)


def _operands(e: Entry, index: tuple[int, ...], value: Callable[[Entry], Value]) -> list[Any]:
    """The operands of an elementwise op at an element of its result."""
    values = [value(s) if isinstance(s, Entry) else s for s in e.inputs]
    return [np.broadcast_to(np.asarray(v), e.shape)[index] for v in values]


def elementwise(e: Entry) -> bool:
    return e.op is not None and e.op.family == "pointwise"


def _within(index: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The element of an input that an element of the result was broadcast from."""
    return tuple(i if n > 1 else 0 for i, n in zip(index[len(index) - len(shape) :], shape, strict=True))


def _slope(rule: Rule, e: Entry, index: tuple[int, ...]) -> str:
    """The local derivative of an elementwise op at one element, in symbols and its value."""
    one = as_value(np.ones(e.shape, e.dtype))
    value = np.broadcast_to(np.asarray(rule.raw(strong(one), hosted(e))), e.shape)[index]
    return f"{rule.label} = {_number(value)}" if len(rule.label) < 40 else _number(value)


def _first(mask: Array) -> tuple[int, ...]:
    """The index of the first True."""
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(mask)), mask.shape))


def _called(e: Entry) -> str:
    return f"{e.label!r}" if e.label else ("a leaf" if e.op is None else e.op.name)


def _place(index: tuple[int, ...], where: Array, count: bool = True) -> str:
    """` at index (3,), one of 2 such elements`, nothing for a single number."""
    if not index:
        return ""
    total = int(np.count_nonzero(where))
    shown = f"({', '.join(map(str, index))}{',' * (len(index) == 1)})"
    return f" at index {shown}" + (f", the first of {total:,} such elements" if count and total > 1 else "")


def _number(value: Any) -> str:
    return f"{float(value):.6g}"


# --- advice ---------------------------------------------------------------------------------------------------

_OVERFLOW = "the result lies beyond the largest {dtype}, {largest:.2g}: scale the numbers, or see why they grew"
_POSITIVE = "a logarithm needs a positive argument: keep it so, as in ag.clip(x, 1e-12)"
_UNIT = "its argument lies between -1 and 1: see why it left that, or use ag.clip(x, -1, 1)"
_DENOMINATOR = (
    "the denominator is zero: add a small number to it, or choose before dividing: y = ag.where(y == 0, 1, y)"
)
#: What an elementwise op needs of its arguments, for results that are no overflow.
_NEEDS = {
    **dict.fromkeys(("log", "log2", "log10"), _POSITIVE),
    "log1p": "log1p needs an argument above -1: see why it is not",
    "sqrt": "a square root needs an argument that is not negative: keep it so, as in ag.clip(x, 0)",
    "power": "a negative number has no fractional power, and zero no negative one: see why the base got there",
    **dict.fromkeys(("asin", "acos", "atanh"), _UNIT),
    "acosh": "its argument is 1 or above: see why it is not, or use ag.clip(x, 1)",
    **dict.fromkeys(("divide", "reciprocal"), _DENOMINATOR),
    "remainder": "the divisor is zero: see why it is",
}
_EXPONENTIALS = ("exp", "expm1", "sinh", "cosh")
_ZERO_TIMES = (
    "the gradient that arrives is 0, and 0 times infinity is NaN: keep the argument away from where the derivative is "
    "infinite, or choose what should count with ag.where, which leaves the rest out"
)


def _limits(dtype: np.dtype[Any]) -> dict[str, Any]:
    return {"dtype": dtype, "largest": float(np.finfo(dtype).max)}


def _value_advice(op: Op, operands: Sequence[Any], result: Any, dtype: np.dtype[Any]) -> str:
    if op.name in _EXPONENTIALS:
        largest = float(np.log(np.finfo(dtype).max))
        return (
            f"{op.name} overflows beyond {largest:.4g} in {dtype}: subtract the largest argument first, as "
            "ag.sigmoid, ag.logsumexp and ag.log_softmax do, or scale the inputs"
        )
    overflows = (op.name == "divide" and operands[1] != 0) or (
        op.name == "power" and np.isinf(result) and operands[0] != 0
    )
    if op.name in _NEEDS and not overflows:
        return _NEEDS[op.name]
    return _OVERFLOW.format(**_limits(dtype)) if np.isinf(result) else f"see what {op.name} needs of its arguments"


def _derivative_advice(op: Op, cotangent: Any, e: Entry) -> str:
    if cotangent is not None and cotangent == 0:
        return _ZERO_TIMES
    if op.name in ("sqrt", "cbrt", "power"):
        return f"the slope is infinite at zero: keep the argument of {op.name} away from it, as in x + 1e-12"
    if op.name in ("asin", "acos", "atanh", "acosh"):
        return (
            "the slope is infinite at the end of the domain: keep the argument inside, as in ag.clip(x, -0.999, 0.999)"
        )
    if op.name in ("divide", "reciprocal"):
        return "the denominator is so small that its square overflows: keep it away from zero, or scale it"
    return _OVERFLOW.format(**_limits(e.dtype))
