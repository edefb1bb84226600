"""Expressions for people: LaTeX, MathML, a plain label."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence

from .nodes import PRIMITIVES, Call, Node, Num, Primitive, Var, fold, function_of

#: What only formulas for people contain: the derivative of one value with respect to another.
_PRINTED = {"∂": Primitive(2, "∂{0}/∂{1}", r"\frac{{\partial {0}}}{{\partial {1}}}")}
#: A printed subexpression and its binding strength, 9 for an atom.
_Part = tuple[str, int]


def _printed(call: Call) -> Primitive:
    """How a function prints for people, one that is no primitive by its name."""
    return PRIMITIVES.get(call.fn) or _PRINTED.get(call.fn) or function_of(call.fn, arity=len(call.args))


def _is_negative(call: Call, operand: Node) -> bool:
    """Whether a right operand starts with a sign where another one stands."""
    return call.fn in ("+", "-", "*") and isinstance(operand, Call) and operand.fn == "u-"


def is_square(call: Call) -> bool:
    """Whether this is a variable times itself."""
    x = call.args[0]
    return isinstance(x, Var) and call.fn == "*" and call.args[1] == x and x.name[:1].isalpha()


def _levels(call: Call, strength: int) -> list[int]:
    """How strongly each argument must bind to stand without parentheses."""
    if call.fn == "**":
        return [9, 0]
    inner = 0 if strength == 9 else strength
    return [inner + (k > 0 and inner > 0) for k in range(len(call.args))]


def latex(node: Node, names: Mapping[str, str] | None = None) -> str:
    """The expression as LaTeX mathematics, variables replaced by `names`."""
    names = names or {}

    def make(n: Node, args: Sequence[_Part]) -> _Part:
        if isinstance(n, Num):
            text = {math.inf: r"\infty", -math.inf: r"-\infty", math.pi: r"\pi"}.get(n.value, f"{n.value:g}")
            return text, 9 if n.value >= 0 else 4
        if isinstance(n, Var):
            return names.get(n.name, n.name), 9
        primitive = _printed(n)
        levels = [0, 0] if n.fn == "/" else _levels(n, primitive.level)
        parts = [
            rf"\left({text}\right)" if strength < level else text
            for (text, strength), level in zip(args, levels, strict=True)
        ]
        return primitive.latex.format(*parts), 8 if n.fn == "/" else primitive.level  # only a power needs it in those

    return fold(node, make)[0]


_SUPERSCRIPT = str.maketrans("-0123456789.", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹·")


def label(node: Node, names: Mapping[str, str] | None = None) -> str:
    """The expression as a short line of plain text, for graph edges and terminals: `1 - z²`, `cos(x)`."""
    names = names or {}

    def make(n: Node, args: Sequence[_Part]) -> _Part:
        if isinstance(n, Num):
            return f"{n.value:.6g}", 9 if n.value >= 0 else 3
        if isinstance(n, Var):
            return names.get(n.name, n.name), 9
        primitive = _printed(n)
        if n.fn == "**" or is_square(n):
            base, exponent = _in_parentheses(args[0], 9), n.args[1] if n.fn == "**" else Num(2.0)
            if isinstance(exponent, Num):
                return base + f"{exponent.value:g}".translate(_SUPERSCRIPT), PRIMITIVES["**"].level
            return f"{base}^{_in_parentheses(args[1], 9)}", primitive.level
        if n.fn == "abs":
            return f"|{args[0][0]}|", 9
        parts = [_in_parentheses(part, level) for part, level in zip(args, _levels(n, primitive.level), strict=True)]
        parts = [
            f"({t})" if k and _is_negative(n, a) else t for k, (t, a) in enumerate(zip(parts, n.args, strict=True))
        ]
        return primitive.code.format(*parts).replace(" * ", "·").replace(" / ", "/"), primitive.level

    return fold(node, make)[0]


def _in_parentheses(part: _Part, level: int) -> str:
    """A part of plain text, in parentheses if it binds less strongly."""
    text, strength = part
    return f"({text})" if strength < level else text


def _mathml_function(name: str) -> str:
    return f"<mi>{html.escape(name)}</mi><mo>&#x2061;</mo>"


_PARENTHESISED = "<mrow><mo>(</mo>{}<mo>)</mo></mrow>"
_MATHML = {
    "/": "<mfrac><mrow>{0}</mrow><mrow>{1}</mrow></mfrac>",
    "**": "<msup><mrow>{0}</mrow><mrow>{1}</mrow></msup>",
    "u-": "<mo form='prefix'>−</mo>{0}",
    "∂": "<mfrac><mrow><mo>∂</mo>{0}</mrow><mrow><mo>∂</mo>{1}</mrow></mfrac>",
    "abs": "<mrow><mo>|</mo>{0}<mo>|</mo></mrow>",
    "sqrt": "<msqrt>{0}</msqrt>",
    "cbrt": "<mroot><mrow>{0}</mrow><mn>3</mn></mroot>",
    "exp": "<msup><mi>e</mi><mrow>{0}</mrow></msup>",
    "reciprocal": "<msup><mrow>{0}</mrow><mrow><mo>−</mo><mn>1</mn></mrow></msup>",
    "floor": "<mrow><mo>⌊</mo>{0}<mo>⌋</mo></mrow>",
    "ceil": "<mrow><mo>⌈</mo>{0}<mo>⌉</mo></mrow>",
    "where": "<mrow><mo>{{</mo><mtable><mtr><mtd>{1}</mtd><mtd><mtext>if </mtext>{0}</mtd></mtr>"
    "<mtr><mtd>{2}</mtd><mtd><mtext>otherwise</mtext></mtd></mtr></mtable></mrow>",
    "log": _mathml_function("ln") + "<mrow><mo>(</mo>{0}<mo>)</mo></mrow>",
} | {
    fn: f"{{0}}<mo>{sign}</mo>{{1}}"
    for fn, sign in {
        "|": "∨", "&": "∧", "<": "&lt;", "<=": "≤", ">": "&gt;", ">=": "≥", "==": "=", "!=": "≠", "+": "+", "-": "−",
        "*": "·",
    }.items()
}  # fmt: skip
_ATOMS = frozenset(["/", "where"])  # need no parentheses around them, nor inside


def mathml(node: Node, leaf: Callable[[Num | Var], str] | None = None) -> str:
    """The expression as the content of a MathML element, which browsers typeset; `leaf` prints what has no parts."""
    print_leaf = leaf or _mathml_leaf

    def make(n: Node, args: Sequence[tuple[str, str, int]]) -> tuple[str, str, int]:
        """One element, what stands in it, and its binding strength."""
        if not isinstance(n, Call):
            text = print_leaf(n)
            return text, text, 3 if isinstance(n, Num) and math.copysign(1.0, n.value) < 0 else 9
        if is_square(n):
            n = Call("**", (n.args[0], Num(2.0)))
            args = [args[0], make(n.args[1], [])]
        strength = 9 if n.fn in _ATOMS else _printed(n).level
        parts = []
        for k, ((one, inner, bound), level) in enumerate(zip(args, _levels(n, strength), strict=True)):
            text = _PARENTHESISED.format(inner) if bound < level else one
            parts.append(_PARENTHESISED.format(text) if k and _is_negative(n, n.args[k]) else text)
        known = _MATHML.get(n.fn)
        text = known.format(*parts) if known else _mathml_function(n.fn) + _listed(parts)
        return f"<mrow>{text}</mrow>", text, strength

    return fold(node, make)[0]


def _listed(parts: Sequence[str]) -> str:
    return _PARENTHESISED.format("<mo>,</mo>".join(parts))


def _mathml_leaf(n: Num | Var) -> str:
    if isinstance(n, Var):
        return f"<mi>{html.escape(n.name)}</mi>"
    text = {math.pi: "π"}.get(n.value, f"{n.value:.6g}".replace("-", "−").replace("inf", "∞"))
    return f"<mn>{text}</mn>"
