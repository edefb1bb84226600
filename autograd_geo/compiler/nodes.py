"""What a program is made of: nodes, each a value and how it is computed from others, and the formulas of maps.

`map` evaluates a formula element by element, `move` takes each element from somewhere (`gather` from where an array
says), `join` puts arrays one behind the other, `reduce` combines along axes, `scan` sums up along one, `product` is a
matrix product, `scatter` adds where elements came from, `call` is an op that is called back.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import count
from math import prod
from typing import Any

import numpy as np

from .. import expr
from ..op import functions
from ..tape import Entry
from .moves import Shape

#: The dtypes that kernels compute in, by their characters; others are left to NumPy.
_KNOWN_TYPES = frozenset("?bhilqBHILQfd")
INPUT, CONST, MAP, MOVE, GATHER, JOIN = "input const map move gather join".split()
REDUCE, PRODUCT, SCATTER, SCAN, CALL = "reduce product scatter scan call".split()
TABLE, RESULT = "table", "result"  # scalar ops as one step (see `scalars`), and a value that it leaves

_ranks = count()


class Node:
    """One value of the program: how it is computed from which others."""

    __slots__ = ("args", "data", "dtype", "entry", "kind", "rank", "shape")

    def __init__(
        self, kind: str, shape: Shape, dtype: np.dtype[Any], args: tuple[Node, ...] = (), data: Any = None,
        entry: Entry | None = None,
    ) -> None:  # fmt: skip
        self.kind, self.shape, self.dtype, self.args, self.data, self.entry = kind, shape, dtype, args, data, entry
        #: Grows along dependencies, and otherwise in the order in which nodes were made.
        self.rank: float = next(_ranks)

    @property
    def size(self) -> int:
        return prod(self.shape)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.shape} {self.dtype}>"


class Formula:
    """What a map computes: an expression over its arguments, called a0, a1 ..., at a common dtype."""

    __slots__ = ("at", "body", "key")

    def __init__(self, body: expr.Node, at: np.dtype[Any]) -> None:
        self.body, self.at = body, at
        self.key = (body, at.char)


def unknown_types(args: Sequence[Node], dtype: np.dtype[Any]) -> set[np.dtype[Any]]:
    """The dtypes among those of an op's arguments and result that kernels do not compute in."""
    return {d for d in (dtype, *(a.dtype for a in args)) if d.char not in _KNOWN_TYPES}


_TIMES = expr.Call("*", (expr.Var("a0"), expr.Var("a1")))


@cache
def product_formula(dtype: np.dtype[Any]) -> Formula:
    return Formula(_TIMES, dtype)


@cache
def cast_formula(dtype: np.dtype[Any]) -> Formula:
    return Formula(expr.Var("a0"), dtype)


def copy_of(node: Node) -> Node:
    """The same values in memory of their own."""
    if unknown_types((), node.dtype):
        return Node(CALL, node.shape, node.dtype, (node,), (functions["positive"].op, {}), node.entry)  # type: ignore[attr-defined]
    return Node(MAP, node.shape, node.dtype, (node,), cast_formula(node.dtype), node.entry)


@cache
def plus_zero(dtype: np.dtype[Any]) -> Formula:
    return Formula(expr.Call("+", (expr.Var("a0"), expr.Num(0.0))), dtype)


@cache
def quotient_formula(dtype: np.dtype[Any]) -> Formula:
    return Formula(expr.Call("/", (expr.Var("a0"), expr.Var("a1"))), dtype)


@cache
def hit_formula(dtype: np.dtype[Any]) -> Formula:
    """Whether a0 is the extreme a1, which is NaN if any a0 is."""
    return Formula(expr.parse("(a0 == a1) or (a0 != a0)", ("a0", "a1")), dtype)


@cache
def choice_formula(dtype: np.dtype[Any]) -> Formula:
    return Formula(expr.parse("where(a0, a1, a2)", ("a0", "a1", "a2")), dtype)
