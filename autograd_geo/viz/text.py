"""A tape and its backward pass as plain text, one derivative to a line."""

from __future__ import annotations

from typing import Any

from .. import expr
from ..backward import Accumulate, Local, Seed, Write, events
from ..tape import Entry, history, value_of
from ..tensor import Tensor, entry_of
from ..value import strong
from .values import names, number, operand


def formula(entry: Entry, named: dict[Entry, str]) -> str:
    """The operation of one entry with the names of its inputs: `a × z`, `sin(x)`."""
    op = entry.op
    if op is None:
        return named[entry]
    inputs = [operand(i, named) for i in entry.inputs]
    if len(inputs) == 2 and op.family == "pointwise" and not op.symbol.isidentifier():
        return f"{inputs[0]} {op.symbol} {inputs[1]}"
    return f"{op.name}({', '.join(inputs)})"


def local_derivative(entry: Entry, k: int, named: dict[Entry, str]) -> tuple[str, Any]:
    """The derivative of an entry with respect to its k-th input: in symbols, and its value for pointwise ops."""
    op = entry.op
    assert op is not None
    rule = op.rules[k]
    assert rule is not None
    if rule.partial is None:
        return rule.label, None
    inputs = dict(zip(op.inputs, entry.inputs, strict=True))
    literals: dict[str, Any] = {x: i for x, i in inputs.items() if not isinstance(i, Entry)}
    symbols = {x: named[i] for x, i in inputs.items() if isinstance(i, Entry)} | {"z": named[entry]}
    text = expr.label(expr.simplify(rule.partial, {**entry.attrs, **literals}), symbols)
    one = 1.0 if type(value_of(entry)) is float else strong(value_of(entry)) * 0 + 1
    return text, rule.raw(strong(one), entry)


def backward_text(output: Tensor, of: str | None = None) -> str:
    """The forward and backward pass of a tape, derivative by derivative.

    `of` names the output (default: its own name). The tape is not consumed, nor is any `.grad` written.
    """
    last = entry_of(output)
    named = names(last)
    if of is not None:
        named[last] = of
    top = named[last]
    lines = ["forward"]
    for entry in history(last):
        value = number(value_of(entry))
        lines.append(
            f"  {named[entry]} = {value}"
            if entry.op is None
            else f"  {named[entry]} = {formula(entry, named)} = {value}"
        )
    lines.append("backward")
    for kind, *fields in events(last, 1.0, retain=True, again=True):
        if kind is Seed:
            lines.append(f"  ∂{top}/∂{top} = 1")
        elif kind is Local:
            entry, k, g, contribution = fields
            x = operand(entry.inputs[k], named)
            symbols, value = local_derivative(entry, k, named)
            local = f"∂{named[entry]}/∂{x}"
            known = "" if value is None else f" = {number(g)} · {_signed(number(value))}"
            rule = "" if entry.op.family != "pointwise" else f",  {local} = {symbols}"
            lines.append(f"  ∂{top}/∂{x} ← ∂{top}/∂{named[entry]} · {local}{known} = {number(contribution)}{rule}")
        elif kind is Accumulate:
            entry, contribution, total = fields
            before = number(strong(total) - contribution)
            lines.append(
                f"  ∂{top}/∂{named[entry]}: paths meet, {before} + {_signed(number(contribution))} = {number(total)}"
            )
        elif kind is Write:
            entry, g = fields
            lines.append(f"  {named[entry]}.grad = {number(g)}")
    return "\n".join(lines)


def _signed(text: str) -> str:
    return f"({text})" if text.startswith("-") else text
