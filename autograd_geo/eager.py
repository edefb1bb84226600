"""The functions users call, written out as source for each op.

They do what `op.apply` does, without its loops: on small operands a tape spends its time here. Python floats have
a path of their own, about ten times faster than NumPy; whatever is neither tensor nor number is left to `apply`.
"""

from __future__ import annotations

import linecache
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FunctionType
from typing import Any

import numpy as np

from .op import Op, apply, frozen
from .tape import NO_ATTRS, Entry, caller, internal, next_number, recording
from .tensor import Tensor, entry_of
from .value import NUMBERS, SCALAR, Number, as_value

Lines = Callable[[], Sequence[str]]

_TEMPLATE = """\
def _function({signature}):
{unpack}{compute}    t = _new(_Tensor)
    t._value = z
    if ({live}) and _recording():
        frame = _getframe(1)
        code = frame.f_code
        lasti = frame.f_lasti
        if _internal[code.co_filename]:
            code, lasti = _caller(3)
        t._entry = e = _new(_Entry)
        e.number = _next_number()
        e.op = _op
        e.inputs = ({sources},)
        e.attrs = {frozen}
        e.state = 1
        e.code = code
        e.lasti = lasti
        e.name = None
        if type(z) is float:
            e.value = z
            e.spec = _SCALAR
        else:
            e.value = {kept}
            e.spec = (z.shape, z.dtype)
{pins}    else:
        t._entry = None
    return t
"""
_UNPACK = """\
    if isinstance({x}, _Tensor):
        {x}_v = {x}._value
        {x}_e = {x}._entry
        {x}_l = {x}_e is not None and {x}_e.state
    elif type({x}) in _numbers:
        {x}_v = {x}
        {x}_e = None
        {x}_l = False
    else:
        return {apply}
"""
# A tensor's float promotes like float64, a literal does not; NumPy is slow on a literal int beside an array.
_PROMOTE = """\
        if type({x}_v) is float and {x} is not {x}_v:
            {x}_v = _float64({x}_v)
"""
_LITERAL = """\
        if type({x}_v) is int and {y}_v.dtype.kind == "f":
            {x}_v = float({x}_v)
"""
_PIN = """\
            if {x}_e is not None and ({live}):
                {x}_e.value = {x}._value
"""


def define(name: str, text: Callable[[], str], namespace: Mapping[str, Any]) -> Callable[..., Any]:
    """A function from generated source, `def _function(...)`, that is written and compiled when it is first called.

    Import would take several times as long otherwise; tracebacks and debuggers can show the source.
    """
    scope = dict(namespace)
    function: Any = FunctionType(_first_call.__code__, scope, name)
    scope["_function"], scope["_complete"] = function, lambda: _complete(function, name, text(), scope)
    return function  # type: ignore[no-any-return]


def _first_call(*args: Any, **kwargs: Any) -> Any:
    _complete()  # type: ignore[call-arg]  # these are names in the scope of the function that runs this code
    return _function(*args, **kwargs)  # type: ignore[name-defined]  # noqa: F821


def _complete(function: Any, name: str, text: str, scope: dict[str, Any]) -> None:
    filename = f"<autograd_geo {name} {len(linecache.cache)}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    exec(compile(text, filename, "exec"), scope)
    written, scope["_function"] = scope["_function"], function
    function.__defaults__, function.__kwdefaults__ = written.__defaults__, written.__kwdefaults__
    function.__code__ = written.__code__.replace(co_name=name, co_qualname=name)


def _source_of(operand: Any, value: Any) -> Entry | Number:
    return entry_of(operand) if isinstance(operand, Tensor) else value


_SIMPLE = frozenset([type(None), bool, int, float, str, slice])
_RUNTIME = {
    "_apply": apply, "_frozen": frozen, "_Tensor": Tensor, "_Entry": Entry, "_new": object.__new__, "_SCALAR": SCALAR,
    "_recording": recording, "_getframe": sys._getframe, "_internal": internal, "_caller": caller,
    "_as_value": as_value, "_next_number": next_number, "_source_of": _source_of, "_float64": np.float64,
    "_ndarray": np.ndarray, "_numbers": NUMBERS, "_simple": _SIMPLE, "_NO_ATTRS": NO_ATTRS,
}  # fmt: skip


def eager_function(
    op: Op, signature: str, namespace: Mapping[str, Any], on_arrays: Lines, on_floats: Lines = list
) -> Callable[..., Tensor]:
    """The eager function of an op, with this signature.

    `on_arrays` and `on_floats` return statements that compute `z` from operands `x_v`; `namespace` is theirs.
    """
    return define(
        op.name, lambda: _written(op, signature, on_arrays(), on_floats()), {**namespace, **_RUNTIME, "_op": op}
    )


def _written(op: Op, signature: str, on_arrays: Sequence[str], on_floats: Sequence[str]) -> str:
    attrs = _dict(op, "{0}")
    if op.variadic or not op.differentiable:
        operands = op.inputs[0] if op.variadic else f"({', '.join(op.inputs)},)"
        return f"def _function({signature}):\n    return _apply(_op, {operands}, {attrs})\n"
    assert isinstance(op.rules, tuple)
    give_up = f"_apply(_op, ({', '.join(op.inputs)},), {attrs})"
    rules = {x: rule for x, rule in zip(op.inputs, op.rules, strict=True) if rule is not None}

    def needed_by(name: str) -> str:
        return " or ".join(f"{x}_l" for x, rule in rules.items() if name in rule.needs)

    return _TEMPLATE.format(
        signature=signature,
        unpack="".join(_UNPACK.format(x=x, apply=give_up) for x in op.inputs),
        compute=_compute(op.inputs, give_up, attrs, on_arrays, on_floats),
        live=" or ".join(f"{x}_l" for x in rules),
        sources=", ".join(f"{x}_e or _source_of({x}, {x}_v)" for x in op.inputs),
        frozen=_dict(op, "{0} if type({0}) in _simple else _frozen({0})"),
        kept=f"z if {needed_by('z')} else None" if needed_by("z") else "None",
        pins="".join(_PIN.format(x=x, live=needed_by(x)) for x in op.inputs if needed_by(x)),
    )


def _dict(op: Op, value: str) -> str:
    return "{" + ", ".join(f"{k!r}: {value.format(k)}" for k in op.attrs) + "}" if op.attrs else "_NO_ATTRS"


def _compute(xs: Sequence[str], give_up: str, attrs: str, on_arrays: Sequence[str], on_floats: Sequence[str]) -> str:
    prepare = "".join(_PROMOTE.format(x=x) for x in xs)
    if len(xs) > 1:
        numbers = " and ".join(f"type({x}_v) in _numbers" for x in xs)
        prepare = f"        if {numbers}:\n            return {give_up}\n" + prepare
    if len(xs) == 2:
        prepare += _LITERAL.format(x=xs[0], y=xs[1]) + _LITERAL.format(x=xs[1], y=xs[0])
    arrays = (
        f"{prepare}        try:\n{_indented(on_arrays, 3)}        except (ValueError, TypeError, IndexError):\n"
        f"            return {give_up}\n"
        "        if type(z) is not _ndarray or not z.ndim:\n            z = _as_value(z)\n"
    )
    if not on_floats or len(xs) > 2:
        return textwrap.indent(textwrap.dedent(arrays), "    ")
    x, y = xs[0], xs[-1]
    floats = f"type({x}_v) is float"
    if len(xs) == 2:
        floats += f" and type({y}_v) in _numbers or type({y}_v) is float and type({x}_v) in _numbers"
    values = ", ".join(f"_float64({x}_v)" for x in xs)
    return (
        f"    if {floats}:\n        try:\n{_indented(on_floats, 3)}        except (ArithmeticError, ValueError):\n"
        f"            z = _op.evaluate([{values}], {attrs})\n    else:\n{arrays}"
    )


def _indented(lines: Iterable[str], depth: int) -> str:
    return "".join(f"{'    ' * depth}{line}\n" for line in lines)
