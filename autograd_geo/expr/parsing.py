"""From text to expressions: one formula, or the declaration of an op."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from .algebra import negative
from .nodes import CONSTANTS, PRIMITIVES, Call, Node, Num, Var

_BINARY = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**"}
_COMPARE = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}


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


#: What other notations call a function.
_OTHER_NAMES = {
    "ln": "log", "lg": "log10", "tg": "tan", "arctg": "atan", "sh": "sinh", "ch": "cosh", "th": "tanh", "sgn": "sign",
}  # fmt: skip
_PRODUCT = "; a product is written *"


def _syntax_hint(text: str, at: int) -> str:
    """What may have been meant where Python's grammar ends."""
    if any(c in "²³⁴⁵⁶⁷⁸⁹⁰¹ⁿ" for c in text):
        return "; a power is written **"
    if "|" in text:
        return "; the size of x is abs(x)"
    neighbours = re.search(r"[\w)]\s*$", text[:at]) and re.match(r"\s*[\w(]", text[at:])
    return f"{_PRODUCT}, and a function sin(x)" if neighbours or re.match(r"\d+[A-Za-z]", text[at:]) else ""


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
        other = _OTHER_NAMES.get(name, "")
        near = [other] if other in among else difflib.get_close_matches(name, among, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        if kind == "name" and name in functions:
            hint = f"; a function is written {name}(x)"
        elif kind == "name" and name == "e":
            hint = "; e**x is written exp(x)"
        elif kind == "function" and name in known:
            hint = _PRODUCT
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
                    s = "" if count == "1" else "s"
                    raise fail(f"{name} takes {count} argument{s}, here it has {len(args)}", node)
                yield from call(name, args, node)
            case _:
                hint = ""
                if isinstance(getattr(node, "op", None), ast.BitXor):
                    hint = "; a power is written **"
                elif isinstance(node, ast.Call) and not isinstance(node.func, ast.Name | ast.Attribute):
                    hint = _PRODUCT
                elif isinstance(node, ast.Tuple) and node.elts:
                    hint = "; decimals have a point"
                raise fail(f"{ast.unparse(node)!r} is not part of the expression language{hint}", node)

    def call(name: str, args: Sequence[ast.expr], node: ast.expr) -> Iterator[Postfix]:
        for arg in args:
            yield from read(arg)
        yield name, len(args), node

    try:
        yield from read(ast.parse(text, mode="eval").body)
    except SyntaxError as error:
        at = (error.offset or 1) - 1
        message = error.msg + ("" if "never closed" in error.msg else _syntax_hint(text, at))
        raise ExpressionError(message, at, max(at + 1, (error.end_offset or 0) - 1)) from None
    except (RecursionError, MemoryError):
        raise ExpressionError("this expression is nested too deeply") from None
