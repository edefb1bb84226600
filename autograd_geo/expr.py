"""The expression language of op declarations: parse once, print as Python source, LaTeX or a plain label.

A declaration is a formula, `"softplus(x) = maximum(x, 0) + log1p(exp(-abs(x)))"`, parsed into a small tree of
`Num`, `Var` and `Call`. The only functions are those in `PRIMITIVES`; anything else is an error at import.
"""

from __future__ import annotations

import ast
import difflib
import html
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np


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


class Primitive(NamedTuple):
    """How a function of the language prints. `{0}` is an argument; `level` is its binding strength, 9 an atom."""

    arity: int
    code: str
    latex: str
    level: int = 9


def _function(name: str, latex: str | None = None, arity: int = 1) -> Primitive:
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
    "log": _function("log", r"\ln"),
    "log2": _function("log2", r"\log_2"),
    "log10": _function("log10", r"\log_{{10}}"),
    "expm1": _function("expm1"),
    "log1p": _function("log1p"),
    "sign": _function("sign"),
    "floor": Primitive(1, "floor({0})", r"\left\lfloor {0} \right\rfloor"),
    "ceil": Primitive(1, "ceil({0})", r"\left\lceil {0} \right\rceil"),
    "rint": _function("rint", r"\operatorname{{round}}"),
    "erf": _function("erf"),
    "maximum": _function("maximum", r"\max", 2),
    "minimum": _function("minimum", r"\min", 2),
    "hypot": _function("hypot", arity=2),
    "heaviside": _function("heaviside", "H", 2),
    "remainder": _function("remainder", r"\operatorname{{mod}}", 2),
    "reciprocal": Primitive(1, "reciprocal({0})", r"{0}^{{-1}}"),
    "atan2": _function("atan2", arity=2),
    **{name: _function(name, "\\" + name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{
        name: _function(name, rf"\operatorname{{{{ar{name[1:] if name.endswith('h') else 'c' + name[1:]}}}}}")
        for name in ("asin", "acos", "atan", "asinh", "acosh", "atanh")
    },
}
#: What only formulas for people contain: the derivative of one value with respect to another.
_PRINTED = {"∂": Primitive(2, "∂{0}/∂{1}", r"\frac{{\partial {0}}}{{\partial {1}}}")}
CONSTANTS = {"pi": math.pi, "inf": math.inf, "nan": math.nan}

_BINARY = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**"}
_COMPARE = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}


# --- parse ----------------------------------------------------------------------------------------------------


class Declaration(NamedTuple):
    """`name(inputs, *, attrs=...) = body`."""

    name: str
    inputs: tuple[str, ...]
    attrs: dict[str, float]
    body: Node


def parse_declaration(text: str) -> Declaration:
    """Parse `"name(x, y, *, slope=0.1) = expression"`; `"tanh(x)"` alone declares the primitive of that name."""
    match = re.fullmatch(r"\s*(\w+)\s*\(([^()]*)\)\s*(?:=(?!=)(.*))?", text, re.DOTALL)
    if match is None:
        raise ValueError(f"op declaration {text!r}: write it as 'name(x, y) = expression'")
    name, head, body = match.groups()
    try:
        function = ast.parse(f"def {name}({head}): pass").body[0]
        assert isinstance(function, ast.FunctionDef)
        arguments = function.args
        attrs = {
            a.arg: float(ast.literal_eval(d))
            for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
            if d is not None
        }
    except (SyntaxError, ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"op declaration {text!r}: {error}") from None
    if len({a.arg for a in (*arguments.args, *arguments.kwonlyargs)}) < len(arguments.args) + len(arguments.kwonlyargs):
        raise ValueError(f"op declaration {text!r}: duplicate argument name")
    inputs = tuple(a.arg for a in arguments.args)
    if len(attrs) < len(arguments.kwonlyargs) or arguments.defaults or arguments.vararg or arguments.kwarg:
        raise ValueError(f"op declaration {text!r}: inputs have no default, parameters after '*' need one")
    return Declaration(name, inputs, attrs, parse(body or f"{name}({head})", (*inputs, *attrs), text))


class ExpressionError(ValueError):
    """What is wrong with an expression, and from which character to which."""

    def __init__(self, message: str, start: int = 0, end: int = 0) -> None:
        super().__init__(message)
        self.start, self.end = start, end


def parse(text: str, names: Iterable[str], where: str | None = None) -> Node:
    """Parse one expression over `names`. Raises ValueError that names what is unknown and what there is."""
    functions = {name: (p.arity, p.arity) for name, p in PRIMITIVES.items() if name.isidentifier()}
    stack: list[Node] = []
    try:
        for item, count, _ in postfix(text.strip(), names, functions):
            if not isinstance(item, str):
                stack.append(item)
                continue
            arguments = tuple(stack[len(stack) - count :])
            del stack[len(stack) - count :]
            stack.append(negative(arguments[0]) if item == "u-" else Call(item, arguments))
    except ExpressionError as error:
        raise ValueError(f"op declaration {where or text!r}: {error}") from None
    return stack[0]


#: A number, a variable, or the name of a function and how many arguments it takes off the stack; and where it stands.
Postfix: TypeAlias = tuple[Num | Var | str, int, ast.expr]


def postfix(text: str, names: Iterable[str], functions: Mapping[str, tuple[int, int]]) -> Iterator[Postfix]:
    """An expression over `names` in the order in which it is evaluated.

    `functions` says of each function the fewest and the most arguments it takes. Raises ExpressionError.
    """
    known = set(names)

    def fail(message: str, node: ast.expr) -> ExpressionError:
        encoded = text.encode()
        start, end = (len(encoded[:n].decode(errors="ignore")) for n in (node.col_offset, node.end_col_offset or 0))
        return ExpressionError(message, start, end)

    def unknown(kind: str, name: str, among: Iterable[str], node: ast.expr) -> ExpressionError:
        near = difflib.get_close_matches(name, among, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return fail(f"unknown {kind} {name!r}{hint} (known: {', '.join(sorted(among))})", node)

    def read(node: ast.expr) -> Iterator[Postfix]:
        match node:
            case ast.Constant(value=bool() | int() | float()):
                try:
                    yield Num(float(node.value)), 0, node  # type: ignore[arg-type]
                except OverflowError:
                    raise fail("a whole number is too large for float64; the largest is about 1.8e308", node) from None
            case ast.Name(id=name) if name in known:
                yield Var(name), 0, node
            case ast.Name(id=name) if name in CONSTANTS:
                yield Num(CONSTANTS[name]), 0, node
            case ast.Name(id=name):
                raise unknown("name", name, known | set(CONSTANTS), node)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                yield from call("u-", [operand], node)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                yield from call(_BINARY[type(op)], [left, right], node)
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARE:
                yield from call(_COMPARE[type(op)], [left, right], node)
            case ast.BoolOp(op=op, values=[left, right]):
                yield from call("&" if isinstance(op, ast.And) else "|", [left, right], node)
            case ast.Call(func=ast.Name(id=name) as function, args=args, keywords=[]):
                if name not in functions:
                    raise unknown("function", name, functions, function)
                fewest, most = functions[name]
                if not fewest <= len(args) <= most:
                    count = str(fewest) if fewest == most else f"{fewest} to {most}"
                    raise fail(f"{name} takes {count} arguments, here it has {len(args)}", node)
                yield from call(name, args, node)
            case _:
                hint = "; a power is written **" if isinstance(getattr(node, "op", None), ast.BitXor) else ""
                raise fail(f"{ast.unparse(node)!r} is not part of the expression language{hint}", node)

    def call(name: str, args: Sequence[ast.expr], node: ast.expr) -> Iterator[Postfix]:
        for arg in args:
            yield from read(arg)
        yield name, len(args), node

    try:
        yield from read(ast.parse(text, mode="eval").body)
    except SyntaxError as error:
        at = (error.offset or 1) - 1
        raise ExpressionError(error.msg, at, max(at + 1, (error.end_offset or 0) - 1)) from None
    except (RecursionError, MemoryError):
        raise ExpressionError("this expression is nested too deeply") from None


# --- algebra --------------------------------------------------------------------------------------------------


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


ZERO, ONE = Num(0.0), Num(1.0)


def support(node: Node) -> Node:
    """1 where an expression is not 0 by the choice of a `where`, else 0: an expression again."""
    match node:
        case Num(value=0.0):
            return ZERO
        case Call(fn="where", args=(condition, a, b)):
            a, b = support(a), support(b)
            return a if a == b else Call("where", (condition, a, b))
        case Call(fn="*", args=(a, b)):
            a, b = support(a), support(b)
            return b if a == ONE else a if b == ONE else Call("*", (a, b))
        case Call(fn="/", args=(a, _)) | Call(fn="u-", args=(a,)):
            return support(a)
        case _:
            return ONE


def rename(node: Node, names: Mapping[str, str]) -> Node:
    if isinstance(node, Var):
        return Var(names.get(node.name, node.name))
    if isinstance(node, Call):
        return Call(node.fn, tuple(rename(a, names) for a in node.args))
    return node


_FOLD: dict[str, Callable[[float, float], float]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "**": operator.pow,
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip


def simplify(node: Node, known: Mapping[str, float]) -> Node:
    """The expression with known variables put in and what follows worked out: for people to read, not to run."""
    if isinstance(node, Var):
        return Num(float(known[node.name])) if node.name in known else node
    if isinstance(node, Num):
        return node
    args = tuple(simplify(a, known) for a in node.args)
    if node.fn == "where" and isinstance(args[0], Num):
        return args[1] if args[0].value else args[2]
    match Call(node.fn, args):
        case Call(fn=fn, args=(Num(value=a), Num(value=b))) if fn in _FOLD and not (fn in ("/", "**") and a * b == 0):
            return Num(float(_FOLD[fn](a, b)))
        case Call(fn="*", args=(Num(value=1.0), x)) | Call(fn="*" | "/" | "**", args=(x, Num(value=1.0))):
            return x
        case Call(fn="**", args=(_, Num(value=0.0))):
            return Num(1.0)
        case Call(fn="u-", args=(x,)):
            return negative(x)
        case folded:
            return folded


def names_in(node: Node) -> frozenset[str]:
    if isinstance(node, Var):
        return frozenset([node.name])
    if isinstance(node, Call):
        return frozenset().union(*map(names_in, node.args))
    return frozenset()


# --- print ----------------------------------------------------------------------------------------------------


def source(node: Node, result: str = "return ", codes: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """Python statements that evaluate the expression; what occurs twice is computed once.

    `codes` prints some primitives otherwise than their own `code`.
    """
    uses: Counter[Node] = Counter()

    def visit(n: Node) -> None:
        uses[n] += 1
        if isinstance(n, Call) and uses[n] == 1:
            for a in n.args:
                visit(a)

    visit(node)
    lines: list[str] = []
    temporaries: dict[Node, str] = {}

    def emit(n: Node, level: int) -> str:
        if n in temporaries:
            return temporaries[n]
        if isinstance(n, Num):
            return _number(n.value) if n.value >= 0 or level <= 5 else f"({_number(n.value)})"
        if isinstance(n, Var):
            return n.name
        primitive = PRIMITIVES[n.fn]
        inner = 0 if primitive.level == 9 or n.fn == "**" else primitive.level
        args = [emit(a, inner + (k > 0 and inner > 0)) for k, a in enumerate(n.args)]
        text = codes.get(n.fn, primitive.code).format(*args)
        if uses[n] > 1:
            temporaries[n] = f"_{len(temporaries)}"
            lines.append(f"{temporaries[n]} = {text}")
            return temporaries[n]
        return f"({text})" if primitive.level < level and n.fn != "**" else text

    lines.append(result + emit(node, 0))
    return lines


def _number(value: float) -> str:
    if value != value or value in (math.inf, -math.inf):
        return f"float('{value}')"
    return repr(value)


def _printed(call: Call) -> Primitive:
    """How a function prints for people, one that is no primitive by its name."""
    return PRIMITIVES.get(call.fn) or _PRINTED.get(call.fn) or _function(call.fn, arity=len(call.args))


def _is_negative(call: Call, operand: Node) -> bool:
    """Whether a right operand starts with a sign where another one stands."""
    return call.fn in ("+", "-", "*") and isinstance(operand, Call) and operand.fn == "u-"


def is_square(call: Call) -> bool:
    """Whether this is a variable times itself."""
    x = call.args[0]
    return call.fn == "*" and call.args[1] == x and isinstance(x, Var) and x.name[:1].isalpha()


def latex(node: Node, names: Mapping[str, str] | None = None) -> str:
    """The expression as LaTeX mathematics, variables replaced by `names`."""
    names = names or {}

    def emit(n: Node, level: int) -> str:
        if isinstance(n, Num):
            text = {math.inf: r"\infty", -math.inf: r"-\infty", math.pi: r"\pi"}.get(n.value, f"{n.value:g}")
            return text if n.value >= 0 or level <= 4 else rf"\left({text}\right)"
        if isinstance(n, Var):
            return names.get(n.name, n.name)
        primitive = _printed(n)
        if n.fn == "/":
            return primitive.latex.format(emit(n.args[0], 0), emit(n.args[1], 0))
        if n.fn == "**":
            return primitive.latex.format(emit(n.args[0], 9), emit(n.args[1], 0))
        inner = 0 if primitive.level == 9 else primitive.level
        args = [emit(a, inner + (k > 0 and inner > 0)) for k, a in enumerate(n.args)]
        text = primitive.latex.format(*args)
        return rf"\left({text}\right)" if primitive.level < level else text

    return emit(node, 0)


_SUPERSCRIPT = str.maketrans("-0123456789.", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹·")


def label(node: Node, names: Mapping[str, str] | None = None) -> str:
    """The expression as a short line of plain text, for graph edges and terminals: `1 - z²`, `cos(x)`."""
    names = names or {}

    def emit(n: Node, level: int) -> str:
        if isinstance(n, Num):
            return f"{n.value:.6g}" if n.value >= 0 or level <= 3 else f"({n.value:.6g})"
        if isinstance(n, Var):
            return names.get(n.name, n.name)
        primitive = _printed(n)
        if n.fn == "**" or is_square(n):
            exponent = n.args[1] if n.fn == "**" else Num(2.0)
            if isinstance(exponent, Num):
                return emit(n.args[0], 9) + f"{exponent.value:g}".translate(_SUPERSCRIPT)
            return f"{emit(n.args[0], 9)}^{emit(exponent, 9)}"
        if n.fn == "abs":
            return f"|{emit(n.args[0], 0)}|"
        inner = 0 if primitive.level == 9 else primitive.level
        args = [emit(a, inner + (k > 0 and inner > 0)) for k, a in enumerate(n.args)]
        args = [f"({t})" if k and _is_negative(n, a) else t for k, (t, a) in enumerate(zip(args, n.args, strict=True))]
        text = primitive.code.format(*args).replace(" * ", "·").replace(" / ", "/")
        return f"({text})" if primitive.level < level else text

    return emit(node, 0)


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
    leaf = leaf or _mathml_leaf

    def emit(n: Node, level: int) -> str:
        if not isinstance(n, Call):
            text = leaf(n)
            negative = isinstance(n, Num) and math.copysign(1.0, n.value) < 0
            return _PARENTHESISED.format(text) if negative and level > 3 else text
        if is_square(n):
            return emit(Call("**", (n.args[0], Num(2.0))), level)
        strength = _printed(n).level
        inner = 0 if strength == 9 or n.fn in _ATOMS else strength
        levels = (9, 0) if n.fn == "**" else [inner + (k > 0 and inner > 0) for k in range(len(n.args))]
        args = [emit(a, at) for a, at in zip(n.args, levels, strict=True)]
        args = [
            _PARENTHESISED.format(t) if k and _is_negative(n, a) else t
            for k, (t, a) in enumerate(zip(args, n.args, strict=True))
        ]
        known = _MATHML.get(n.fn)
        text = known.format(*args) if known else _mathml_function(n.fn) + _PARENTHESISED.format("<mo>,</mo>".join(args))
        return _PARENTHESISED.format(text) if strength < level and n.fn not in _ATOMS else f"<mrow>{text}</mrow>"

    return emit(node, 0)


def _mathml_leaf(n: Num | Var) -> str:
    if isinstance(n, Var):
        return f"<mi>{html.escape(n.name)}</mi>"
    text = {math.pi: "π"}.get(n.value, f"{n.value:.6g}".replace("-", "−").replace("inf", "∞"))
    return f"<mn>{text}</mn>"


# --- what the printed names mean ------------------------------------------------------------------------------


def _erf(x: Any) -> Any:
    from scipy.special import erf  # NumPy has none; SciPy loads when it is first needed

    return erf(x)


def _power(x: Any, y: Any) -> Any:
    return x**y if type(y) is int or type(y) is float else np.power(x, y)  # the operator squares by multiplying


def _choose(condition: Any, a: Any, b: Any) -> Any:
    return (a if condition else b) if type(condition) is bool else np.where(condition, a, b)


#: NumPy arrays.
NUMPY: dict[str, Any] = {
    name: getattr(np, name)
    for name in (
        "absolute sqrt cbrt exp expm1 log log1p log2 log10 sign floor ceil rint maximum minimum hypot heaviside "
        "remainder reciprocal sin cos tan sinh cosh tanh asinh acosh atanh asin acos atan atan2"
    ).split()
} | {"power": _power, "where": _choose, "erf": _erf}


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
