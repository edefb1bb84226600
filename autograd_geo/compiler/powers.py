"""Powers as NumPy takes them: x**2 and its like are products, and an exponent that never changes is no operand."""

from __future__ import annotations

from collections.abc import Sequence, Set
from functools import cache
from sys import float_info
from typing import Any

from .. import expr
from ..op import Op
from ..value import SCALAR
from .nodes import CONST, Node


@cache
def has_power(op: Op) -> bool:
    def visit(node: expr.Node) -> bool:
        return isinstance(node, expr.Call) and (node.fn == "**" or any(map(visit, node.args)))

    return op.body is not None and visit(op.body)


def powers_in(op: Op, args: Sequence[Any], attrs: dict[str, Any]) -> expr.Node:
    """An op's formula with its powers as NumPy takes them; an exponent that never changes is part of it."""
    assert op.body is not None
    known: dict[str, expr.Node] = {k: expr.Num(float(v)) for k, v in attrs.items()}
    if op.name == "power":
        (exponent,) = args[1:]
        if not isinstance(exponent, Node):
            known["y"] = expr.Num(float(exponent))
        elif exponent.kind == CONST and not exponent.shape:
            known["y"] = expr.Num(float(exponent.data))
    single = {x for x, a in zip(op.inputs, args, strict=True) if not isinstance(a, Node) or not a.shape}
    floats = all(not isinstance(a, Node) or (a.shape, a.dtype) == SCALAR for a in args)
    return _powers(expr.substitute(op.body, known), single, floats)


def _root_of_float(x: expr.Node) -> expr.Node:
    """x**0.5 by a square root: 0 at -0, and infinite at -inf."""
    root = expr.Call("sqrt", (expr.Call("+", (x, expr.Num(0.0))),))
    return expr.Call("where", (expr.Call("<", (x, expr.Num(-float_info.max))), expr.Call("abs", (x,)), root))


def _powers(node: expr.Node, single: Set[str], on_floats: bool) -> expr.Node:
    """The expression with powers as NumPy takes them: x**2 and its like are products.

    An exponent of 0.5 for a whole array (a literal, or an operand of one element) is a square root, as NumPy has it.
    Of a Python float it is a power, which differs at -0 and -inf.
    """
    if not isinstance(node, expr.Call):
        return node
    args = tuple(_powers(a, single, on_floats) for a in node.args)
    if node.fn != "**":
        return expr.Call(node.fn, args)
    x, exponent = args
    root = expr.Call("sqrt", (x,))
    if isinstance(exponent, expr.Num):
        square, inverse = expr.Call("*", (x, x)), expr.Call("/", (expr.Num(1.0), x))
        known: dict[float, expr.Node] = {
            1.0: x, 2.0: square, 3.0: expr.Call("*", (square, x)), 4.0: expr.Call("*", (square, square)),
            -1.0: inverse, -2.0: expr.Call("*", (inverse, inverse)),
        }  # fmt: skip
        known[0.5] = _root_of_float(x) if on_floats else root
        return known.get(exponent.value, expr.Call("**", args))
    if on_floats or not expr.names_in(exponent) <= single:
        return expr.Call("**", args)
    return expr.Call("where", (expr.Call("==", (exponent, expr.Num(0.5))), root, expr.Call("**", args)))
