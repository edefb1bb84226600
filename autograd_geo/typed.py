"""An expression that somebody typed, evaluated as recorded ops: parsed by the grammar of declarations, never run.

Each value knows the part of the text that it came from, as values computed by a program know their line.
"""

from __future__ import annotations

import inspect
import keyword
import linecache
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from types import CodeType
from typing import Any
from weakref import finalize

import numpy as np

from .expr import CONSTANTS, ExpressionError, Num, Var, postfix
from .names import printable
from .op import functions
from .tape import history
from .tensor import Tensor, entry_of, tensor

#: The functions that the operators of the language stand for.
OPERATORS = {
    "+": "add", "-": "subtract", "*": "multiply", "/": "divide", "**": "power", "u-": "negative", "<": "less",
    "<=": "less_equal", ">": "greater", ">=": "greater_equal", "==": "equal", "!=": "not_equal", "&": "logical_and",
    "|": "logical_or",
}  # fmt: skip
_MANY = 99
_numbers = count(1)


def evaluate(text: str, values: Mapping[str, Any], name: str = "f") -> Tensor:
    """The value of an expression at `values` of its names, recorded and called `name`.

    Raises ValueError that shows the place: for what the language does not know, for an op that refuses its arguments,
    for a name without a value or a value without a name.
    """
    text = text.strip()
    inputs = {n: tensor(v, dtype=float, requires_grad=True, name=n) for n, v in values.items()}
    for given in inputs.values():
        entry_of(given).code = None
    try:
        items = list(postfix(text, inputs, _arities()))
        spare = set(inputs) - {item.name for item, _, _ in items if isinstance(item, Var)}
        if spare:
            raise ExpressionError(f"a value is given for {', '.join(sorted(spare))}, unused in", 0, len(text))
        file = f"expression {next(_numbers)}"
        linecache.cache[file] = (len(text), None, [text], file)
        code = compile(text, file, "eval")
        finalize(code, linecache.cache.pop, file, None).atexit = False
        out = _run(items, inputs, code)
    except ExpressionError as error:
        raise ValueError(_pointed(error, text)) from None
    if not isinstance(out, Tensor) or not out.requires_grad:
        raise ValueError(f"{text!r} has no derivative: it depends on none of its names")
    if out.size != 1:
        raise ValueError(f"the value has shape {out.shape}; a derivative is that of one number: sum(...) or mean(...)")
    if not out.is_leaf and name not in inputs:
        out.name = name
    return out


def _arities() -> dict[str, tuple[int, int]]:
    """The fewest and the most arguments of each function there is."""
    return {name: _arity(fn) for name, fn in functions.items() if name.isidentifier()}


def _arity(function: Callable[..., Any]) -> tuple[int, int]:
    kinds = inspect.Parameter
    given = inspect.signature(function).parameters.values()
    places = [p for p in given if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    variadic = any(p.kind is kinds.VAR_POSITIONAL for p in given)
    return sum(p.default is kinds.empty for p in places), _MANY if variadic else len(places)


def _run(items: Iterable[Any], inputs: Mapping[str, Tensor], code: CodeType) -> Any:
    """Evaluate on a stack; `code` is what Python would make of the text, for its positions only."""
    stack: list[Any] = []
    places = {position: 2 * n for n, position in reversed(list(enumerate(code.co_positions())))}
    for item, taken, node in items:
        if isinstance(item, Num):
            stack.append(item.value)
        elif isinstance(item, Var):
            stack.append(inputs[item.name])
        else:
            arguments = stack[len(stack) - taken :]
            del stack[len(stack) - taken :]
            stack.append(_call(item, arguments, node))
            made = stack[-1]._entry if isinstance(stack[-1], Tensor) else None
            for entry in history(made) if made is not None else ():
                if entry.op is not None and entry.code is not code:
                    place = (node.lineno, node.end_lineno, node.col_offset, node.end_col_offset)
                    entry.code, entry.lasti = code, places.get(place, 0)
    return stack[0]


def _call(name: str, arguments: list[Any], node: Any) -> Any:
    function = functions[OPERATORS.get(name, name)]
    if not any(isinstance(a, Tensor) for a in arguments):
        arguments = [tensor(a) for a in arguments]
    try:
        with np.errstate(all="ignore"):
            return function(*arguments)
    except (TypeError, ValueError, IndexError) as error:
        raise ExpressionError(str(error), node.col_offset, node.end_col_offset) from None


def _pointed(error: ExpressionError, text: str) -> str:
    """The message, and the expression with the place marked."""
    message = str(error)
    if len(message) > 200:
        message = re.sub(r" \(known: .*\)", "", message)
    marks = " " * error.start + "^" * max(min(error.end, len(text) + 1) - error.start, 1)
    return f"{printable(message)}\n  {printable(text)}\n  {marks}"


def read_values(settings: Iterable[str]) -> dict[str, Any]:
    """`["x=-2", "w=1,2,3"]` as numbers and lists of numbers by name. Raises ValueError for anything else."""
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier() or keyword.iskeyword(name) or name in CONSTANTS:
            raise ValueError(f"{setting!r} gives no name a value; write it as x=-2")
        if name in values:
            raise ValueError(f"{name} is given twice")
        try:
            numbers = [float(part) for part in text.replace("−", "-").split(",")]
        except ValueError:
            raise ValueError(f"{setting!r}: {text!r} is no number, nor numbers with commas between") from None
        values[name] = numbers if len(numbers) > 1 else numbers[0]
    return values
