"""Text of drawings: plain, bold, muted, and mathematics, each as Graphviz markup and as plain text."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from .. import expr
from ..expr import PRIMITIVES, Call, Node, Num, Var
from ..names import printable


class Text(NamedTuple):
    """A line of text as Graphviz HTML-like markup, and plain."""

    markup: str
    plain: str


def xml(text: str) -> str:
    """Text as it may stand in XML and HTML: it shows what it is, whatever is in it."""
    return html.escape(printable(" ".join(text.split()) or "␣"))


def escaped(text: str) -> str:
    """The same for Graphviz, which means something by \\N and \\G."""
    return xml(text).replace("\\", "\\\\")


def plain(text: str) -> Text:
    return Text(escaped(text), text)


def bold(text: str) -> Text:
    return Text(f"<b>{escaped(text)}</b>", text)


def colored(text: str, color: str) -> Text:
    return Text(f'<font color="{color}">{escaped(text)}</font>', text)


def muted(text: str, color: str) -> Text:
    """Small and in a colour that steps back."""
    return Text(f'<font point-size="9" color="{color}">{escaped(text)}</font>' if text else "", text)


def italic(text: str) -> Text:
    """A variable."""
    return Text(_variable(text), text)


def beside(left: Text, right: Text) -> Text:
    """Two texts on a line, apart."""
    return Text(f"{left.markup}&nbsp;&nbsp;{right.markup}", f"{left.plain}  {right.plain}")


def counted(count: int, what: str) -> str:
    """`1 operation`, `10,000 operations`."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def minus(text: str) -> str:
    """A number as it is typeset, with a minus sign for a hyphen."""
    return text.replace("-", "−")


def quotient(above: str, below: str) -> Text:
    """∂above/∂below as a fraction."""
    return Text(
        _stacked("∂" + _variable(above), "∂" + _variable(below)),
        f"∂{above}/∂{below}",
    )


def product(names: list[str]) -> Text:
    """Variables multiplied."""
    return Text("·".join(map(_variable, names)) or "1", "·".join(names) or "1")


def equation(left: Text, value: str) -> Text:
    """`left = value`; once, where they are the same."""
    if left.plain == value:
        return left
    if left.markup.startswith("<table"):
        return Text(_row([left.markup, f" = {escaped(minus(value))}"]), f"{left.plain} = {minus(value)}")
    return Text(f"{left.markup} = {escaped(minus(value))}", f"{left.plain} = {minus(value)}")


def typeset(node: Node, names: Mapping[str, str]) -> Text:
    """An expression as it is set in a book: italic variables, raised exponents, fractions with a bar."""
    pieces = _pieces(node, 0, names)
    markup = _row(pieces) if any(p.startswith("<table") for p in pieces) else "".join(pieces)
    return Text(markup, expr.label(node, names))


# How functions print where that is not `name(arguments)`. `{0}` is an argument; binding strengths are expr's.
_MARKUP = {
    "*": "{0}·{1}",
    "-": "{0} − {1}",
    "u-": "−{0}",
    "/": "{0}/{1}",
    "<": "{0} &lt; {1}",
    ">": "{0} &gt; {1}",
    "<=": "{0} ≤ {1}",
    ">=": "{0} ≥ {1}",
    "==": "{0} = {1}",
    "!=": "{0} ≠ {1}",
    "|": "{0} or {1}",
    "&": "{0} and {1}",
    "abs": "|{0}|",
    "sqrt": "√<o>{0}</o>",
    "floor": "⌊{0}⌋",
    "ceil": "⌈{0}⌉",
    "log": "ln({0})",
    "where": "{1} if {0}, else {2}",
}
_RAISED = '<sup><font point-size="8">{}</font></sup>'
_LOWERED = '<sub><font point-size="8">{}</font></sub>'


def _pieces(n: Node, level: int, names: Mapping[str, str]) -> list[str]:
    """The expression side by side: markup within a line, and fractions, which are tables."""
    if isinstance(n, Call) and n.fn == "where" and not level:
        condition, then, otherwise = (_inline(a, 0, names) for a in n.args)
        return [_cases((then, f"if {condition}"), (otherwise, "else"))]
    if isinstance(n, Call) and n.fn == "/" and _both_short(n):
        return [_stacked(_inline(n.args[0], 0, names), _inline(n.args[1], 0, names))]
    if isinstance(n, Call) and n.fn in ("+", "-", "*", "u-") and PRIMITIVES[n.fn].level >= level:
        own = PRIMITIVES[n.fn].level
        sides = [_pieces(a, own + (k > 0), names) for k, a in enumerate(n.args)]
        if any(p.startswith("<table") for side in sides for p in side):
            sign = {"+": " + ", "-": " − ", "*": "·", "u-": "−"}[n.fn]
            return [sign, *sides[0]] if n.fn == "u-" else [*sides[0], sign, *sides[1]]
    return [_inline(n, level, names)]


def _both_short(n: Call) -> bool:
    return all("/" not in expr.label(a) for a in n.args)


def _inline(n: Node, level: int, names: Mapping[str, str]) -> str:
    if isinstance(n, Num):
        text = {math.inf: "∞", -math.inf: "−∞", math.pi: "π"}.get(n.value, minus(f"{n.value:.6g}"))
        return text if n.value >= 0 or level <= 3 else f"({text})"
    if isinstance(n, Var):
        return _variable(names.get(n.name, n.name))
    base, exponent = _power(n)
    if exponent is not None:
        return _inline(base, 9, names) + _RAISED.format(_inline(exponent, 0, names))
    if n.fn == "exp":
        return "e" + _RAISED.format(_inline(n.args[0], 0, names))
    primitive = PRIMITIVES[n.fn]
    inner = 0 if primitive.level == 9 else primitive.level
    args = [_inline(a, inner + (k > 0 and inner > 0), names) for k, a in enumerate(n.args)]
    text = _MARKUP.get(n.fn, primitive.code).format(*args)
    return f"({text})" if primitive.level < level else text


def _power(n: Call) -> tuple[Node, Node | None]:
    if n.fn == "**":
        return n.args[0], n.args[1]
    if n.fn == "reciprocal":
        return n.args[0], Num(-1.0)
    if n.fn == "*" and n.args[0] == n.args[1] and isinstance(n.args[0], Var):
        return n.args[0], Num(2.0)
    return n, None


def indexed(name: str) -> tuple[str, str]:
    """A name without the number it ends in, and that number, which is set as an index: w14 is w with index 14."""
    found = re.fullmatch(r"(\w*[^\W\d_])([0-9]+)", name) or re.fullmatch(r"(\w+?)([₀-₉]+)", name)
    return (found[1], found[2].translate(_FULL_SIZE)) if found else (name, "")


_FULL_SIZE = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")


def _variable(name: str) -> str:
    """A name in italics, with its index."""
    stem, index = indexed(name)
    return f"<i>{escaped(stem)}</i>" + (_LOWERED.format(index) if index else "")


def _stacked(above: str, below: str) -> str:
    return (
        '<table border="0" cellborder="0" cellspacing="0" cellpadding="1">'
        f'<tr><td border="1" sides="B">{above}</td></tr><tr><td>{below}</td></tr></table>'
    )


def _cases(*cases: tuple[str, str]) -> str:
    rows = "".join(f'<tr><td align="left">{value}&nbsp;&nbsp;{when}</td></tr>' for value, when in cases)
    table = f'<table border="0" cellborder="0" cellspacing="0" cellpadding="1">{rows}</table>'
    return (
        '<table border="0" cellborder="0" cellspacing="0" cellpadding="0">'
        f'<tr><td border="1" sides="L" cellpadding="3">{table}</td></tr></table>'
    )


def _row(pieces: list[str]) -> str:
    cells = "".join(f"<td>{p}</td>" for p in pieces)
    return f'<table border="0" cellborder="0" cellspacing="0" cellpadding="0"><tr>{cells}</tr></table>'
