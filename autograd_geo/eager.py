"""The functions users call, written out as source for each op.

They do what `op.apply` does, without its loops: on small operands a tape spends its time here. Python floats have
a path of their own, about ten times faster than NumPy; whatever is neither tensor nor number is left to `apply`.
"""

from __future__ import annotations

import linecache
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from types import FunctionType
from typing import Any
from weakref import finalize

import numpy as np

from .contract import contracts_last
from .memory import MANY
from .op import EXPLAINED, SIMPLE, Op, apply, frozen
from .tape import NO_ATTRS, Entry, caller, mode, next_number, users
from .tensor import Tensor, entry_of
from .value import NUMBERS, SCALAR, Number, as_value

Lines = Callable[[], Sequence[str]]

_TEMPLATE = """\
def _function({signature}):
    _m = _mode()
    if _m > 1:
        return {apply}
{unpack}{compute}    _t = _Tensor()
    _t._value, _t._base = _z, None
    if _m and ({live}):
{entry}        if type(_z) is float:
            _e.value = _z
            _e.spec = _SCALAR
        else:
            _e.value = {kept}
            _s = ({some}).spec
            _e.spec = _s if _z.shape == _s[0] and _z.dtype is _s[1] else (_z.shape, _z.dtype)
{pins}    else:
        _t._entry = None
    return _t
"""
_ENTRY = """\
        _frame = _getframe(1)
        _code = _frame.f_code
        _lasti = _frame.f_lasti
        if _code.co_filename not in _users:
            _code, _lasti = _caller(2)
        _t._entry = _e = _Entry()
        _e.number = _next_number()
        _e.op = _op
        _e.inputs = ({sources},)
        _e.attrs = {attrs}
        _e.state = 1
        _e.code = _code
        _e.lasti = _lasti
        _e.name = None
"""
# On Python floats: entries of numbers always keep their value, so nothing is left to keep for the derivatives.
_FLOATS = """\
    if {floats}:
        try:
{statements}        except (ArithmeticError, ValueError):
            _z = _op.evaluate([{values}], {attrs})
        if type(_z) is float:
            _t = _Tensor()
            _t._value, _t._base = _z, None
            if _m and ({live}):
{entry}                _e.value = _z
                _e.spec = _SCALAR
            else:
                _t._entry = None
            return _t
        _z = _as_value(_z)
    else:
{arrays}"""
_TWO_FLOATS = """\
    _floats = type(_v_{x}) is float and type(_v_{y}) is float
    if not _floats and ({mixed}):
        try:
            _v_{x}, _v_{y}, _floats = float(_v_{x}), float(_v_{y}), True
        except OverflowError:
            return {apply}
"""
# The names of operands don't start with an underscore; what belongs to operand x is called _v_x, _e_x, _live_x.
_UNPACK = """\
    if isinstance({x}, _Tensor):
        _v_{x} = {x}._value
        _e_{x} = {x}._entry
        _live_{x} = _e_{x} is not None and _e_{x}.state
    elif type({x}) in _numbers:
        _v_{x} = {x}
        _e_{x} = None
        _live_{x} = False
    else:
        return {apply}
"""
_UNPACK_ARRAY = """\
    if isinstance({x}, _Tensor):
        _v_{x} = {x}._value
        _e_{x} = {x}._entry
        _live_{x} = _e_{x} is not None and _e_{x}.state
    else:
        return {apply}
"""
# A tensor's float promotes like float64, a literal does not; NumPy is slow on a literal int beside an array.
_PROMOTE = """\
        if type(_v_{x}) is float and {x} is not _v_{x}:
            _v_{x} = _float64(_v_{x})
"""
_LITERAL = """\
        if type(_v_{x}) is int and _v_{y}.dtype.kind == "f":
            try:
                _v_{x} = float(_v_{x})
            except OverflowError:
                return {apply}
"""
_PIN = """\
        if _e_{x} is not None and ({live}):
            _e_{x}.value = {x}._value
"""


_numbers = count()


def define(name: str, text: Callable[[], str], namespace: Mapping[str, Any]) -> Callable[..., Any]:
    """A function from generated source, `def _function(...)`, that is written and compiled when it is first called.

    Import would take several times as long otherwise; tracebacks and debuggers can show the source.
    """
    scope = dict(namespace)
    function: Any = FunctionType(_first_call.__code__, scope, name)
    function.__qualname__ = name
    scope["_function"], scope["_complete"] = function, lambda: _complete(function, name, text(), scope)
    return function  # type: ignore[no-any-return]


def _first_call(*args: Any, **kwargs: Any) -> Any:
    _complete()  # type: ignore[call-arg]  # these are names in the scope of the function that runs this code
    return _function(*args, **kwargs)  # type: ignore[name-defined]  # noqa: F821


def _complete(function: Any, name: str, text: str, scope: dict[str, Any]) -> None:
    filename = f"<autograd_geo {name} {next(_numbers)}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    exec(compile(text, filename, "exec"), scope)
    written, scope["_function"] = scope["_function"], function
    function.__defaults__, function.__kwdefaults__ = written.__defaults__, written.__kwdefaults__
    function.__code__ = written.__code__.replace(co_name=name, co_qualname=name)
    finalize(function.__code__, linecache.cache.pop, filename, None).atexit = False


def _source_of(operand: Any, value: Any) -> Entry | Number:
    return entry_of(operand) if isinstance(operand, Tensor) else value


_RUNTIME = {
    "_apply": apply, "_frozen": frozen, "_Tensor": Tensor, "_Entry": Entry, "_SCALAR": SCALAR,
    "_mode": mode, "_getframe": sys._getframe, "_users": users, "_caller": caller,
    "_as_value": as_value, "_next_number": next_number, "_source_of": _source_of, "_float64": np.float64,
    "_ndarray": np.ndarray, "_numbers": NUMBERS, "_simple": SIMPLE, "_EXPLAINED": EXPLAINED,
    "_NO_ATTRS": NO_ATTRS,
}  # fmt: skip


def eager_function(
    op: Op, signature: str, namespace: Mapping[str, Any], on_arrays: Lines, on_floats: Lines = list
) -> Callable[..., Tensor]:
    """The eager function of an op, with this signature.

    `on_arrays` and `on_floats` return statements that compute `_z` from operands `_v_x`; `namespace` is theirs.
    """
    return define(
        op.name, lambda: _written(op, signature, on_arrays(), on_floats()), {**namespace, **_RUNTIME, "_op": op}
    )


def _written(op: Op, signature: str, on_arrays: Sequence[str], on_floats: Sequence[str]) -> str:
    attrs = "{" + ", ".join(f"{k!r}: {k}" for k in op.attrs) + "}" if op.attrs else "_NO_ATTRS"
    if op.variadic or not op.differentiable:
        operands = op.inputs[0] if op.variadic else f"({', '.join(op.inputs)},)"
        return f"def _function({signature}):\n    return _apply(_op, {operands}, {attrs})\n"
    assert isinstance(op.rules, tuple)
    give_up = f"_apply(_op, ({', '.join(op.inputs)},), {attrs})"
    literals = op.family == "pointwise"  # elsewhere the first operand is an array even where the user wrote a number
    rules = {x: rule for x, rule in zip(op.inputs, op.rules, strict=True) if rule is not None}

    def needed_by(name: str) -> str:
        return " or ".join(f"_live_{x}" for x, rule in rules.items() if name in rule.needs)

    live = " or ".join(f"_live_{x}" for x in rules)
    entry = _ENTRY.format(sources=", ".join(f"_e_{x} or _source_of({x}, _v_{x})" for x in op.inputs), attrs=attrs)
    return _TEMPLATE.format(
        signature=signature,
        apply=give_up,
        unpack="".join(f"    if type({k}) not in _simple:\n        {k} = _frozen({k})\n" for k in op.attrs)
        + "".join(
            (_UNPACK if literals or k else _UNPACK_ARRAY).format(x=x, apply=give_up) for k, x in enumerate(op.inputs)
        ),
        compute=_compute(op.inputs, give_up, attrs, live, entry, on_arrays, on_floats, _large(op)),
        live=live,
        entry=entry,
        some=" or ".join(f"_e_{x}" for x in rules),
        kept=f"_z if {needed_by('z')} else None" if needed_by("z") else "None",
        pins="".join(_PIN.format(x=x, live=needed_by(x)) for x in op.inputs if needed_by(x)),
    )


def _compute(
    xs: Sequence[str], give_up: str, attrs: str, live: str, entry: str, on_arrays: Sequence[str],
    on_floats: Sequence[str], large: str,
) -> str:  # fmt: skip
    prepare = "".join(_PROMOTE.format(x=x) for x in xs)
    if len(xs) > 1:
        numbers = " and ".join(f"type(_v_{x}) in _numbers" for x in xs)
        prepare = f"        if {numbers}:\n            return {give_up}\n" + prepare
    if len(xs) == 2:
        prepare += "".join(_LITERAL.format(x=x, y=y, apply=give_up) for x, y in (xs, xs[::-1]))
    if large and len(xs) > 2:
        prepare += f"        if {large}:\n            _op.afford([{', '.join(f'_v_{x}' for x in xs)}], {attrs})\n"
    elif large:
        both = " and ".join(f"type(_v_{x}) is _ndarray" for x in xs)
        asked = f"        if {both}:\n            if {large}:\n                return {give_up}\n        else:\n"
        prepare = asked + textwrap.indent(prepare, "    ")
    arrays = (
        f"{prepare}        try:\n{_indented(on_arrays, 3)}        except _EXPLAINED:\n            return {give_up}\n"
        "        if type(_z) is not _ndarray or not _z.ndim:\n            _z = _as_value(_z)\n"
    )
    if not on_floats or len(xs) > 2:
        return textwrap.indent(textwrap.dedent(arrays), "    ")
    widen, floats = "", f"type(_v_{xs[0]}) is float"
    if len(xs) == 2:
        x, y = xs
        mixed = (
            f"type(_v_{x}) is float and type(_v_{y}) in _numbers or type(_v_{y}) is float and type(_v_{x}) in _numbers"
        )
        widen, floats = _TWO_FLOATS.format(x=x, y=y, mixed=mixed, apply=give_up), "_floats"
    return widen + _FLOATS.format(
        floats=floats, statements=_indented(on_floats, 3), values=", ".join(f"_float64(_v_{x})" for x in xs),
        attrs=attrs, live=live, entry=textwrap.indent(entry, "        "), arrays=arrays,
    )  # fmt: skip


def _large(op: Op) -> str:
    """When arrays may have a result that is larger than each, and large: `apply` asks before it makes that."""
    if len(op.inputs) == 1 or op.family not in ("pointwise", "multilinear"):
        return ""
    if len(op.inputs) > 2:
        return " * ".join(f"(_v_{x}.size if type(_v_{x}) is _ndarray else 1)" for x in op.inputs) + f" > {MANY}"
    x, y = (f"_v_{x}" for x in op.inputs)
    sizes = f"{x}.size * {y}.size > {MANY}"
    if op.family == "pointwise":
        return f"{sizes} and ({x}.shape != {y}.shape or {x}.size > {MANY})"
    inner = f"({x}.shape or (1,))[-1]"
    return f"{sizes} and {sizes} * {inner} ** 2" if all(map(contracts_last, op.signatures)) else sizes


def _indented(lines: Iterable[str], depth: int) -> str:
    return "".join(f"{'    ' * depth}{line}\n" for line in lines)
