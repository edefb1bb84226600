"""Rules as functions of a cotangent and an entry, out of what a declaration says.

They are NumPy code: on arrays they run as they are; for higher orders the same code runs on tensors, whose NumPy
protocols record it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..eager import Lines, define
from ..op import Function, Rule, functions
from ..tape import Entry
from ..tensor import Tensor, wrap
from ..value import FLOAT64, Number, Value, strong


def lift(source: Entry | Number) -> Any:
    return wrap(source.value, source) if type(source) is Entry else source


def from_float(raw: Callable[[Value, Entry], Value]) -> Callable[[float, Entry], Value]:
    """A rule in NumPy terms, for a cotangent held as a Python float."""
    return lambda g, entry: raw(np.float64(g), entry)


def _precision(source: np.dtype[Any], entry: Entry) -> np.dtype[Any]:
    """The dtype in which a partial of `entry` is computed of an operand."""
    if source.kind in "iu":
        return FLOAT64
    return np.promote_types(source, entry.dtype) if source.kind == entry.dtype.kind == "f" else source


def _floating(value: Value, entry: Entry) -> Value:
    value = strong(value)
    return value if value.dtype == (at := _precision(value.dtype, entry)) else value.astype(at)


def _lifted(source: Entry, entry: Entry) -> Tensor:
    t = wrap(source.value, source)
    return t if t.dtype == (at := _precision(t.dtype, entry)) else functions["astype"](t, dtype=at)


# How a rule's code reads what an entry {0} holds into {1}: as it is, as NumPy should see it, as a tensor on the tape.
LIFTED = "{1} = _wrap({0}.value, {0})"
HELD = "{1} = {0}.value if type({0}.value) is float else float({0}.value)"
STRONG = "{1} = {0}.value if type({0}.value) is not float else _float64({0}.value)"
# Partials are computed in the result's precision: integers of few bits would overflow in them.
LIFTED_FLOATING = "{1} = _lifted({0}, entry)"
FLOATING = """\
{1} = {0}.value
{2}if type({1}) is not _ndarray or {1}.dtype is not _FLOAT64:
{2}    {1} = _floating({1}, entry)"""
_READERS = {
    "_floating": _floating,
    "_lifted": _lifted,
    "_float64": np.float64,
    "_wrap": wrap,
    "_Entry": Entry,
    "_ndarray": np.ndarray,
    "_FLOAT64": FLOAT64,
}


def rule_function(
    name: str, k: int, inputs: Sequence[str], attrs: Iterable[str], asks: Iterable[str], body: Lines,
    read: str, namespace: Mapping[str, Any],
) -> Function:  # fmt: skip
    """A function of (g, entry) that binds what a rule asks for by name, then runs its body."""
    lines = ["def _function(g, entry):"]
    for ask in asks:
        if ask == "z":
            lines.append("    " + read.format("entry", "z", " " * 4))
        elif ask == "shape":
            lines.append(f"    shape = entry.inputs[{k}].spec[0]")
        elif ask == "shapes":
            lines.append("    shapes = [i.spec[0] for i in entry.inputs]")
        elif ask in inputs:
            lines.append(f"    {ask} = entry.inputs[{inputs.index(ask)}]")
            lines.append(f"    if type({ask}) is _Entry:\n        " + read.format(ask, ask, " " * 8))
        elif ask in attrs:
            lines.append(f"    {ask} = entry.attrs[{ask!r}]")
        elif ask == "k":
            lines.append(f"    k = {k}")
        elif ask != "g":
            raise ValueError(f"{name}: a rule may ask for g, z, shape, {', '.join([*inputs, *attrs])}; not {ask!r}")
    return define(
        name, lambda: "\n".join([*lines, *("    " + line for line in body())]) + "\n", {**namespace, **_READERS}
    )


def written_rule(name: str, k: int, x: str, inputs: Sequence[str], attrs: Iterable[str], rule: Function) -> Rule:
    """A rule from a Python function over the names it asks for; the same code serves arrays and tensors."""
    asks = list(inspect.signature(rule).parameters)
    attrs = list(attrs)

    def body() -> list[str]:
        return [f"return _rule({', '.join(asks)})"]

    raw, traced = (
        rule_function(f"d{name}_d{x}", k, inputs, attrs, asks, body, read, {"_rule": rule}) for read in (STRONG, LIFTED)
    )
    return Rule(
        raw, from_float(raw), traced, frozenset(asks) & {*inputs, "z"}, (_partial_latex(name, x), f"∂{name}/∂{x}")
    )


def _partial_latex(name: str, x: str) -> str:
    return rf"\frac{{\partial\,\mathrm{{{name}}}}}{{\partial {x}}}".replace("_", r"\_")


def check_names(op: str, inputs: Sequence[str], attrs: Iterable[str]) -> None:
    """Raise ValueError for names that rules use for something else, or that occur twice."""
    names = [*inputs, *attrs]
    for name in names:
        if name in ("g", "z", "entry", "shape", "shapes") or name.startswith("_") or names.count(name) > 1:
            raise ValueError(
                f"op {op!r}: {name!r} cannot name an input or attribute; g, z, entry, shape, shapes and names with a "
                "leading underscore mean something else in a rule, and each name stands once"
            )


def give_signature(function: Any, operands: Iterable[str], attrs: Mapping[str, Any]) -> None:
    """Say what the function takes before its source is written."""
    kind = inspect.Parameter
    function.__signature__ = inspect.Signature(
        [kind(x, kind.POSITIONAL_OR_KEYWORD) for x in operands]
        + [kind(k, kind.KEYWORD_ONLY, default=v) for k, v in attrs.items()]
    )


def module_of_caller() -> str:
    return str(sys._getframe(2).f_globals.get("__name__", "__main__"))


__all__ = [
    "FLOATING",
    "HELD",
    "LIFTED_FLOATING",
    "STRONG",
    "check_names",
    "from_float",
    "give_signature",
    "lift",
    "module_of_caller",
    "rule_function",
    "written_rule",
]
