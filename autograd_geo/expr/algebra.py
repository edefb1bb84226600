"""Expressions made of expressions: products, supports, other names, known values put in."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence

from .nodes import Call, Node, Num, Var, fold

ZERO, ONE = Num(0.0), Num(1.0)


def negative(node: Node) -> Node:
    if isinstance(node, Num):
        return Num(-node.value)
    if isinstance(node, Call) and node.fn == "u-":
        return node.args[0]
    return Call("u-", (node,))


def times(g: Node, factor: Node) -> Node:
    """g * factor, with the factor's ones, signs and quotients folded away.

    A `where` keeps g outside the branch not taken, so an infinite derivative there cannot meet it.
    """
    match factor:
        case Num(value=1.0):
            return g
        case Num(value=-1.0):
            return negative(g)
        case Num(value=0.0):
            return Call("*", (g, factor))  # keeps the shape of g
        case Call(fn="u-", args=(inner,)):
            return negative(times(g, inner))
        case Call(fn="/", args=(top, bottom)):
            return Call("/", (times(g, top), bottom))
        case Call(fn="where", args=(condition, a, b)):
            zero = Num(0.0)
            a, b = (zero if branch == zero else times(g, branch) for branch in (a, b))
            return Call("where", (condition, a, b))
    return Call("*", (g, factor))


def support(node: Node) -> Node:
    """1 where an expression is not 0 by the choice of a `where`, else 0: an expression again."""

    def make(n: Node, args: Sequence[Node]) -> Node:
        match n:
            case Num(value=0.0):
                return ZERO
            case Call(fn="where"):
                return args[1] if args[1] == args[2] else Call("where", (n.args[0], *args[1:]))
            case Call(fn="*"):
                return args[1] if args[0] == ONE else args[0] if args[1] == ONE else Call("*", tuple(args))
            case Call(fn="/" | "u-"):
                return args[0]
            case _:
                return ONE

    return fold(node, make)


def substitute(node: Node, values: Mapping[str, Node]) -> Node:
    """The expression with others in the place of variables."""

    def replaced(n: Node, args: Sequence[Node]) -> Node:
        return values.get(n.name, n) if isinstance(n, Var) else Call(n.fn, tuple(args)) if isinstance(n, Call) else n

    return fold(node, replaced)


def rename(node: Node, names: Mapping[str, str]) -> Node:
    """The expression with other names for its variables."""
    return substitute(node, {old: Var(new) for old, new in names.items()})


_FOLD: dict[str, Callable[[float, float], float]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "**": operator.pow,
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip


def simplify(
    node: Node, known: Mapping[str, float], holds: Callable[[Node], bool | None] = lambda condition: None
) -> Node:
    """The expression with known variables put in and what follows worked out: for people to read, not to run.

    `holds` says of conditions of a `where` whether they are known to be true or false, or None.
    """

    def make(n: Node, args: Sequence[Node]) -> Node:
        if isinstance(n, Var):
            return Num(float(known[n.name])) if n.name in known else n
        if isinstance(n, Num):
            return n
        if n.fn == "where":
            chosen = args[0].value if isinstance(args[0], Num) else holds(args[0])
            if chosen is not None or args[1] == args[2]:
                return args[1] if chosen else args[2]
        match Call(n.fn, tuple(args)):
            case Call(fn=fn, args=(Num(value=a), Num(value=b))) if fn in _FOLD and not (
                fn in ("/", "**") and a * b == 0
            ):
                return Num(float(_FOLD[fn](a, b)))
            case Call(fn="*", args=(Num(value=1.0), x)) | Call(fn="*" | "/" | "**", args=(x, Num(value=1.0))):
                return x
            case Call(fn="**", args=(_, Num(value=0.0))):
                return Num(1.0)
            case Call(fn="+" | "-", args=(x, Num(value=0.0))):
                return x
            case Call(fn="u-", args=(x,)):
                return negative(x)
            case folded:
                return folded

    return fold(node, make)
