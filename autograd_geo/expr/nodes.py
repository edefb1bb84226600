"""What an expression is: a small tree of `Num`, `Var` and `Call`, whose functions are the `PRIMITIVES`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Num:
    value: float


@dataclass(frozen=True, slots=True)
class Var:
    name: str


@dataclass(frozen=True, slots=True)
class Call:
    fn: str
    args: tuple[Node, ...]


Node: TypeAlias = Num | Var | Call


def distinct(node: Node) -> list[tuple[Node, tuple[int, ...]]]:
    """Every distinct subexpression once, the expression itself last, each with the places of its arguments before it.

    Trees may be deeper than Python calls nest, so nothing here recurs.
    """
    found: list[tuple[Node, tuple[int, ...]]] = []
    places: dict[Any, int] = {}
    visited: dict[int, int] = {}  # by identity: equality would look at whole trees
    stack = [node]
    while stack:
        n = stack[-1]
        args = n.args if isinstance(n, Call) else ()
        if id(n) not in visited and (missing := [a for a in args if id(a) not in visited]):
            stack += reversed(missing)
            continue
        stack.pop()
        if id(n) in visited:
            continue
        operands = tuple([visited[id(a)] for a in args])
        # As text, 0 and -0 differ and NaN is itself.
        key = (n.fn, operands) if isinstance(n, Call) else repr(n.value) if isinstance(n, Num) else (n.name,)
        if key not in places:
            places[key] = len(found)
            found.append((n, operands))
        visited[id(n)] = places[key]
    return found


def fold(node: Node, make: Callable[[Node, Sequence[_T]], _T]) -> _T:
    """What `make` gives for the expression, out of what it gave for the arguments; once for each subexpression."""
    parts = distinct(node)
    left = Counter(k for _, operands in parts for k in operands)
    results: dict[int, _T] = {}
    for place, (n, operands) in enumerate(parts):
        results[place] = make(n, [results[k] for k in operands])
        for k in operands:  # texts that grow are not kept: all together they would be a square of the last
            left[k] -= 1
            if not left[k]:
                del results[k]
    return results[len(parts) - 1]


def names_in(node: Node) -> frozenset[str]:
    """The variables of an expression."""
    return frozenset([n.name for n, _ in distinct(node) if isinstance(n, Var)])


class Primitive(NamedTuple):
    """How a function of the language prints. `{0}` is an argument; `level` is its binding strength, 9 an atom."""

    arity: int
    code: str
    latex: str
    level: int = 9


def function_of(name: str, latex: str | None = None, arity: int = 1) -> Primitive:
    """How a function prints that is written by its name."""
    args = ", ".join(f"{{{k}}}" for k in range(arity))
    command = latex or rf"\operatorname{{{{{name}}}}}"
    return Primitive(arity, f"{name}({args})", rf"{command}\left({args}\right)")


PRIMITIVES: dict[str, Primitive] = {
    "|": Primitive(2, "({0}) | ({1})", r"{0} \lor {1}", 1),
    "&": Primitive(2, "({0}) & ({1})", r"{0} \land {1}", 1),
    "<": Primitive(2, "{0} < {1}", "{0} < {1}", 2),
    "<=": Primitive(2, "{0} <= {1}", r"{0} \le {1}", 2),
    ">": Primitive(2, "{0} > {1}", "{0} > {1}", 2),
    ">=": Primitive(2, "{0} >= {1}", r"{0} \ge {1}", 2),
    "==": Primitive(2, "{0} == {1}", "{0} = {1}", 2),
    "!=": Primitive(2, "{0} != {1}", r"{0} \ne {1}", 2),
    "+": Primitive(2, "{0} + {1}", "{0} + {1}", 3),
    "-": Primitive(2, "{0} - {1}", "{0} - {1}", 3),
    "*": Primitive(2, "{0} * {1}", r"{0} \, {1}", 4),
    "/": Primitive(2, "{0} / {1}", r"\frac{{{0}}}{{{1}}}", 4),
    "u-": Primitive(1, "-{0}", "-{0}", 5),
    "**": Primitive(2, "power({0}, {1})", "{0}^{{{1}}}", 6),
    "abs": Primitive(1, "absolute({0})", r"\left|{0}\right|"),
    "sqrt": Primitive(1, "sqrt({0})", r"\sqrt{{{0}}}"),
    "cbrt": Primitive(1, "cbrt({0})", r"\sqrt[3]{{{0}}}"),
    "exp": Primitive(1, "exp({0})", "e^{{{0}}}"),
    "where": Primitive(
        3, "where({0}, {1}, {2})", r"\begin{{cases}} {1} & {0} \\ {2} & \text{{otherwise}} \end{{cases}}"
    ),
    "log": function_of("log", r"\ln"),
    "log2": function_of("log2", r"\log_2"),
    "log10": function_of("log10", r"\log_{{10}}"),
    "expm1": function_of("expm1"),
    "log1p": function_of("log1p"),
    "sign": function_of("sign"),
    "floor": Primitive(1, "floor({0})", r"\left\lfloor {0} \right\rfloor"),
    "ceil": Primitive(1, "ceil({0})", r"\left\lceil {0} \right\rceil"),
    "rint": function_of("rint", r"\operatorname{{round}}"),
    "erf": function_of("erf"),
    "maximum": function_of("maximum", r"\max", 2),
    "minimum": function_of("minimum", r"\min", 2),
    "hypot": function_of("hypot", arity=2),
    "heaviside": function_of("heaviside", "H", 2),
    "remainder": function_of("remainder", r"\operatorname{{mod}}", 2),
    "reciprocal": Primitive(1, "reciprocal({0})", r"{0}^{{-1}}"),
    "atan2": function_of("atan2", arity=2),
    **{name: function_of(name, "\\" + name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{
        name: function_of(name, rf"\operatorname{{{{ar{name[1:] if name.endswith('h') else 'c' + name[1:]}}}}}")
        for name in ("asin", "acos", "atan", "asinh", "acosh", "atanh")
    },
}
CONSTANTS = {"pi": math.pi, "inf": math.inf, "nan": math.nan}
