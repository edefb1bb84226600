"""The words of kernels' source: numbers, casts, elements of operands, ways to combine two values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .. import expr
from .moves import Shape
from .nodes import Node

#: For each axis, where a part of it begins and ends.
Box: TypeAlias = Sequence[tuple[int, int]]


class Span(NamedTuple):
    """An affine access on a box: element base + sum(strides * (i - lower)) of an operand; of none (0) if that is -1."""

    lower: Shape
    upper: Shape
    operand: int
    base: int
    strides: Shape

    def covers(self, box: Box) -> bool:
        """Whether all elements of a box are read so."""
        return all(a <= low and high <= b for a, (low, high), b in zip(self.lower, box, self.upper, strict=True))

    def meets(self, box: Box) -> bool:
        """Whether any are."""
        return all(max(a, low) < min(b, high) for a, (low, high), b in zip(self.lower, box, self.upper, strict=True))


def letter(dtype: np.dtype[Any]) -> str:
    return "bool" if dtype.kind == "b" else {"q": "l", "Q": "L"}.get(dtype.char, dtype.char)


def element(span: Span, loops: list[str | int]) -> str:
    """An element of an operand; `loops` are the loop variables, or numbers along axes that have no loop."""
    constant, terms = span.base, []
    for stride, low, i in zip(span.strides, span.lower, loops, strict=True):
        constant -= stride * low
        if isinstance(i, int):
            constant += stride * i
        elif stride:
            terms.append(i if stride == 1 else f"{stride} * {i}")
    if constant or not terms:
        terms.append(str(constant))
    return " + ".join(terms)


_BOOLEAN = frozenset(["<", "<=", ">", ">=", "==", "!=", "&", "|"])


def is_boolean(node: expr.Node) -> bool:
    return isinstance(node, expr.Call) and node.fn in _BOOLEAN


def is_condition(body: expr.Node, name: str, a: Node) -> bool:
    """Whether an argument serves as nothing but a condition."""
    if a.dtype.kind != "b":
        return False
    uses = []

    def visit(node: expr.Node, condition: bool) -> None:
        if isinstance(node, expr.Var) and node.name == name:
            uses.append(condition)
        elif isinstance(node, expr.Call):
            for k, x in enumerate(node.args):
                visit(x, node.fn == "where" and k == 0)

    visit(body, False)
    return all(uses)


def rename_temporaries(line: str, name: str) -> str:
    """`expr.source` calls its temporaries _0, _1 ...: each map has its own."""
    return re.sub(r"(?<![\w.])_(\d+)", rf"{name}_\1", line)


_CASTS = {"d": "f8", "f": "f4", "bool": "b1", "b": "i1", "h": "i2", "i": "i4", "l": "i8", "B": "u1", "H": "u2",
          "I": "u4", "L": "u8"}  # fmt: skip


def cast_of(char: str) -> str:
    """The name of a dtype's cast, and of the dtype."""
    return _CASTS[char]


def typed(char: str, value: float) -> str:
    """A number of a dtype; one that is no integer is a float beside integers too, as the infinity in isfinite."""
    if char in "df" or value % 1 != 0:
        return (
            f"{_CASTS[char if char in 'df' else 'd']}({float(value)!r})"  # inf and nan are names in a kernel's module
        )
    return f"{_CASTS[char]}({int(value)})"


def limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    info = np.iinfo(dtype)
    return info.min, info.max


def converted(value: str, source: str, target: str) -> str:
    if target == "bool":
        return f"({value}) != 0"
    return f"{_CASTS[target]}({value})"


def watches_nan(node: Node) -> bool:
    return node.dtype.kind == "f" and node.data[0] in ("max", "min")


def combined(node: Node, before: str, value: str) -> str:
    how = node.data[0]
    if how == "sum":
        return f"add_in_any_order({before}, {value})"
    if how == "prod":
        return f"{before} * {value}"
    if node.dtype.kind == "b":
        return f"{before} {'|' if how == 'max' else '&'} {value}"
    name = {"max": "maximum", "min": "minimum"}[how]
    return f"vm.{name}({before}, {value})" if node.dtype.kind == "f" else f"{how}({before}, {value})"


_FLOAT_CODES = {name: "vm." + p.code for name, p in expr.PRIMITIVES.items() if p.level == 9 and name != "where"} | {
    "where": "select(({0}) != 0, {1}, {2})",
    "**": "vm.power({0}, {1})",
}
_INTEGER_CODES = _FLOAT_CODES | {
    "abs": "abs({0})", "maximum": "max({0}, {1})", "minimum": "min({0}, {1})", "**": "({0}) ** ({1})",
    "floor": "{0}", "ceil": "{0}", "rint": "{0}", "remainder": "({0}) % ({1})",
    "sign": "(({0}) > 0) - (({0}) < 0)",
}  # fmt: skip
CODES = {"f": _FLOAT_CODES, "i": _INTEGER_CODES, "u": _INTEGER_CODES, "b": _INTEGER_CODES}


def within(position: str, length: int) -> str:
    """A position counted from the start; never outside, whatever the array says (recordings hold for what fits)."""
    return f"max(min(select({position} < 0, {position} + {length}, {position}), {length - 1}), 0)"
