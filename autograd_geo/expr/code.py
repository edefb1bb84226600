"""Expressions as Python code, and what the names in it mean for arrays and for Python floats."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from .nodes import PRIMITIVES, Call, Node, Num, Var, distinct, names_in

_DEEPEST = 40  # calls nested in one statement; Python reads 200 parentheses


def source(node: Node, result: str = "return ", codes: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """Python statements that evaluate the expression; what occurs twice is computed once.

    `codes` prints some primitives otherwise than their own `code`.
    """
    parts = distinct(node)
    uses = Counter(k for _, operands in parts for k in operands)
    lines: list[str] = []
    printed: list[tuple[str, int, int]] = []  # the code of each part, its binding strength, the calls nested in it
    for place, (n, operands) in enumerate(parts):
        if isinstance(n, Num):
            printed.append((_number(n.value), 9 if n.value >= 0 else 5, 0))
        elif isinstance(n, Var):
            printed.append((n.name, 9, 0))
        else:
            primitive = PRIMITIVES[n.fn]
            inner = 0 if primitive.level == 9 or n.fn == "**" else primitive.level
            args = []
            for k, (text, level, _) in enumerate(printed[operand] for operand in operands):
                args.append(f"({text})" if level < inner + (k > 0 and inner > 0) else text)
            code = codes.get(n.fn, _CHOOSE if _guards_literals(n) else primitive.code)
            text = code.format(*args)
            depth = 1 + max(printed[operand][2] for operand in operands)
            last = place == len(parts) - 1
            if not last and (uses[place] > 1 or depth == _DEEPEST):
                name = f"_{len(lines)}"
                lines.append(f"{name} = {text}")
                printed.append((name, 9, 0))
            else:
                printed.append((text, 9 if n.fn == "**" else primitive.level, depth))
    return [*lines, result + printed[-1][0]]


#: What is left alone where a literal number decides; on arrays the same as `where`.
_CHOOSE = "choose({0}, lambda: {1}, lambda: {2})"


def _guards_literals(n: Call) -> bool:
    """Whether a choice compares one variable, which may be a literal, to leave out work on others."""
    if n.fn != "where" or not isinstance(n.args[0], Call) or n.args[0].fn not in ("==", "!="):
        return False
    asked = names_in(n.args[0])
    return len(asked) == 1 and any(isinstance(b, Call) and names_in(b) - asked for b in n.args[1:])


def evaluate(node: Node, values: Mapping[str, Any]) -> Any:
    """The value of an expression of NumPy arrays."""
    scope = {**NUMPY, **values}
    exec("\n".join(source(node, "_value = ")), scope)
    return scope["_value"]


def _number(value: float) -> str:
    if value != value or value in (math.inf, -math.inf):
        return f"float('{value}')"
    return repr(value)


def _erf(x: Any) -> Any:
    from scipy.special import erf  # NumPy has none; SciPy loads when it is first needed

    return erf(x)


def _power(x: Any, y: Any) -> Any:
    return x**y if type(y) is int or type(y) is float else np.power(x, y)  # the operator squares by multiplying


def _where(condition: Any, a: Any, b: Any) -> Any:
    return (a if condition else b) if type(condition) is bool else np.where(condition, a, b)


def choose_by(where: Callable[[Any, Any, Any], Any]) -> Callable[..., Any]:
    """`where` of what is computed only if it may be taken."""

    def choose(condition: Any, a: Callable[[], Any], b: Callable[[], Any]) -> Any:
        return (a() if condition else b()) if type(condition) is bool else where(condition, a(), b())

    return choose


#: NumPy arrays.
NUMPY: dict[str, Any] = {
    name: getattr(np, name)
    for name in (
        "absolute sqrt cbrt exp expm1 log log1p log2 log10 sign floor ceil rint maximum minimum hypot heaviside "
        "remainder reciprocal sin cos tan sinh cosh tanh asinh acosh atanh asin acos atan atan2"
    ).split()
} | {"power": _power, "where": _where, "choose": choose_by(_where), "erf": _erf}


def _maximum(a: float, b: float) -> float:
    return a if a >= b or a != a else b


def _minimum(a: float, b: float) -> float:
    return a if a <= b or a != a else b


def _sign(x: float) -> float:
    return math.copysign(1.0, x) if x > 0 or x < 0 else x


def _integral(function: Callable[[float], int]) -> Callable[[float], float]:
    return lambda x: math.copysign(float(function(x)), x) if math.isfinite(x) else x


#: How code for Python floats differs: only the branch taken is computed.
FLOAT_CODES = {"where": "({1} if {0} else {2})"}
#: Code for arrays beside code for floats, in one function.
ARRAY_CODES = {n: "np_" + p.code for n, p in PRIMITIVES.items() if p.level == 9 or n == "**"}
#: Python floats: an order of magnitude faster than NumPy on one number. Where `math` raises (log 0, overflow),
#: the caller takes NumPy's answer instead.
SCALAR: dict[str, Any] = {
    name: getattr(math, name)
    for name in (
        "sqrt cbrt exp expm1 log log1p log2 log10 hypot sin cos tan sinh cosh tanh asinh acosh atanh asin acos "
        "atan atan2 erf"
    ).split()
} | {
    "absolute": abs,
    "power": math.pow,
    "maximum": _maximum,
    "minimum": _minimum,
    "sign": _sign,
    "heaviside": lambda x, at_zero: x if x != x else at_zero if x == 0 else float(x > 0),
    "remainder": operator.mod,
    "reciprocal": lambda x: 1.0 / x,
    "floor": _integral(math.floor),
    "ceil": _integral(math.ceil),
    "rint": _integral(round),
}
