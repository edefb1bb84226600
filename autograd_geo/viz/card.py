"""What there is to say about one step of a lesson: the rule, the numbers, the chain, the user's line, a check."""

from __future__ import annotations

import inspect
import linecache
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from types import CodeType
from typing import Any, NamedTuple

import numpy as np

from ..expr import Call, Node, Var, names_in
from ..names import place, printable, span
from ..tape import Entry
from .difference import Check, check
from .formulas import (
    Formula,
    derivative,
    formula,
    partial,
    partial_value,
    product,
    quantity,
    replaced,
    total,
)
from .steps import ACCUMULATE, FORWARD, LOCAL, SEED, UPDATE, WRITE, Moment, Record, reached
from .values import number

#: Factors of a chain that are written out; it starts with the derivative of the output by the value before them.
LONGEST_CHAIN = 5
#: Arrays up to this size are written out in formulas.
_SHORT = 6

#: Said of a step that makes an infinity or NaN out of finite numbers.
TROUBLE = "Here a number stops being finite."
#: What happens, by kind, in the names of the value and of the operand.
TITLES = {
    "given": "{0} is given",
    FORWARD: "{0} is computed",
    SEED: "The pass starts at {0}",
    LOCAL: "The local derivative of {0} with respect to {1}",
    ACCUMULATE: "Paths meet at {0}: what arrives is added",
    WRITE: "The gradient of {0} is complete",
    UPDATE: "{0} is updated",
}


class Source(NamedTuple):
    """A line of the user's program, and from which character to which it is about the step."""

    place: str
    text: str
    start: int
    end: int


class Card(NamedTuple):
    """One step, told.

    `rule` is what happens in symbols, `numbers` the same with numbers put in, `passed` how the derivative of the output
    is passed on, `chain` the product of local derivatives so far; each None where there is none.
    """

    title: str
    rule: Formula | None
    numbers: Formula | None
    passed: Formula | None
    chain: Formula | None
    value: str
    source: Source | None
    check: Check | None
    note: str


def card(record: Record, k: int) -> Card:
    """The card of the step at position k."""
    moment = record.moments[k]
    entry = moment.entry
    rule, numbers, passed, chain = (*_TELL[moment.kind](record, k), None, None, None)[:4]
    compared = None
    if moment.kind == LOCAL:
        compared = check(entry, moment.operand, moment.came, moment.value)
    return Card(
        title(record, moment), rule, None if numbers == rule else numbers, passed, chain, number(moment.value),
        source_of(entry), compared, " ".join(_notes(record, k)),
    )  # fmt: skip


def title(record: Record, moment: Moment) -> str:
    """What happens, in one line."""
    by = record.named[reached(moment)] if moment.kind == LOCAL else ""
    return TITLES[title_kind(moment)].format(record.named[moment.entry], by)


def title_kind(moment: Moment) -> str:
    """The key of the step's title."""
    return "given" if moment.kind == FORWARD and moment.entry.op is None else moment.kind


# --- formulas, by kind ----------------------------------------------------------------------------------------


def _forward(record: Record, k: int) -> tuple[Formula | None, ...]:
    entry = record.moments[k].entry
    name = Var(record.named[entry])
    if entry.op is None:
        return (Formula((name, quantity(entry.value))),)
    symbols = formula(entry, record.named)
    return Formula((name, symbols)), _with_numbers(name, symbols, entry, entry.value, record)


def _seed(record: Record, k: int) -> tuple[Formula | None, ...]:
    moment = record.moments[k]
    return (Formula((derivative(record.top, record.top), quantity(moment.value))),)


def _local(record: Record, k: int) -> tuple[Formula | None, ...]:
    moment = record.moments[k]
    entry, operand = moment.entry, moment.operand
    x = record.named[reached(moment)]
    local, target = derivative(record.named[entry], x), derivative(record.top, x)
    symbols = partial(entry, operand, record.named)
    value = partial_value(entry, operand)
    numbers = None if value is None else _with_numbers(local, symbols, entry, value, record)
    steps = chain_of(record, k)
    return (
        Formula((local, symbols)), numbers, Formula(_chained(record, steps[-1:], target, moment), flows=True),
        Formula(_chained(record, steps, target, moment)) if len(steps) > 1 else None,
    )  # fmt: skip


def chain_of(record: Record, k: int) -> list[int]:
    """The local derivatives that one path leads through to step k, back to the output or to where paths met."""
    steps = [k]
    while len(steps) < LONGEST_CHAIN - 1:
        through = record.arrivals.get(record.moments[steps[0]].entry, [])
        if len(through) != 1:
            break
        steps.insert(0, through[0])
    return steps


def _chained(record: Record, steps: Sequence[int], target: Node, last: Moment) -> tuple[Node, ...]:
    """∂f/∂x = ∂f/∂b · ∂b/∂a · ∂a/∂x = numbers = value."""
    moments = [record.moments[j] for j in steps]
    named = record.named
    symbols = [derivative(named[m.entry], named[reached(m)]) for m in moments]
    values = [moments[0].came, *(partial_value(m.entry, m.operand) for m in moments)]
    sides = [target, product([derivative(record.top, named[moments[0].entry]), *symbols])]
    if all(v is not None and np.size(v) <= _SHORT for v in values):
        sides.append(product([quantity(v) for v in values]))
    return (*sides, quantity(last.value))


def _accumulate(record: Record, k: int) -> tuple[Formula | None, ...]:
    moment = record.moments[k]
    target = derivative(record.top, record.named[moment.entry])
    numbers = Call("+", (quantity(before(record, k)), quantity(moment.came)))
    return Formula((target, total(paths(record, k)))), Formula((target, numbers, quantity(moment.value)))


def arrived(record: Record, k: int) -> tuple[list[int], bool]:
    """The last of the local derivatives that step k adds up, three at most; and whether there were more before."""
    arrivals = record.arrivals[record.moments[k].entry]
    count = bisect_left(arrivals, k)
    return arrivals[max(count - 3, 0) : count], count > 3


def paths(record: Record, k: int) -> list[Node]:
    """What arrived there, as products; what is left out as one word."""
    entry, named = record.moments[k].entry, record.named
    steps, more = arrived(record, k)
    sources = [record.moments[j].entry for j in steps]
    terms = [product([derivative(record.top, named[e]), derivative(named[e], named[entry])]) for e in sources]
    return [Var("earlier"), *terms] if more else terms


def before(record: Record, k: int) -> Any:
    """What had arrived before the accumulation at position k, which follows the local derivative it adds."""
    steps, _ = arrived(record, k)
    return record.moments[steps[-2] + (len(steps) > 2)].value


def _write(record: Record, k: int) -> tuple[Formula | None, ...]:
    moment = record.moments[k]
    name = record.named[moment.entry]
    grad, g = Var(f"{name}.grad"), derivative(record.top, name)
    if moment.value is moment.came:
        return Formula((grad, g)), Formula((grad, quantity(moment.value)))
    held = quantity(np.subtract(moment.value, moment.came))
    return (
        Formula((grad, Call("+", (grad, g))), flows=True),
        Formula((grad, Call("+", (held, quantity(moment.came))), quantity(moment.value)), flows=True),
    )


def _update(record: Record, k: int) -> tuple[Formula | None, ...]:
    moment = record.moments[k]
    name = record.named[moment.entry]
    new, old, change = quantity(moment.value), quantity(np.add(moment.value, moment.came)), quantity(moment.came)
    return (
        Formula((Var(name), Call("-", (Var(name), Var(f"Δ{name}")))), flows=True),
        Formula((Var(name), Call("-", (old, change)), new), flows=True),
    )


_TELL = {
    FORWARD: _forward, SEED: _seed, LOCAL: _local, ACCUMULATE: _accumulate, WRITE: _write, UPDATE: _update
}  # fmt: skip


def _with_numbers(name: Node, symbols: Node, entry: Entry, value: Any, record: Record) -> Formula | None:
    """An expression over an entry's operands with their values put in, where these are short enough to read."""
    known = {record.named[i]: i.value for i in (*entry.inputs, entry) if isinstance(i, Entry)}
    if any(np.size(known[x]) > _SHORT for x in names_in(symbols) if x in known):
        return Formula((name, quantity(value)))
    filled = replaced(symbols, {x: quantity(v) for x, v in known.items()})
    result = quantity(value)
    return Formula((name, result) if filled == result else (name, filled, result))


# --- words ----------------------------------------------------------------------------------------------------


def _notes(record: Record, k: int) -> list[str]:
    moment = record.moments[k]
    entry, notes = moment.entry, []
    if moment.kind == FORWARD and entry.op is None and not entry.state:
        notes.append("A constant: no derivative flows to it.")
    if moment.kind == FORWARD and entry.op is not None:
        given = {a: entry.attrs[a] for a, usual in entry.op.attrs.items() if not _equal(entry.attrs[a], usual)}
        if given:
            notes.append("With " + ", ".join(f"{a}={' '.join(repr(v).split()):.60}" for a, v in given.items()) + ".")
    if moment.kind == LOCAL:
        places = [j for j, i in enumerate(entry.inputs) if i is reached(moment)]
        if len(places) > 1:
            notes.append(f"{record.named[reached(moment)]} enters at {len(places)} places; this is the derivative by "
                         f"place {places.index(moment.operand) + 1}.")  # fmt: skip
        if entry.op is not None and entry.op.family == "pointwise" and np.shape(moment.value) != np.shape(moment.came):
            notes.append(f"Summed over what was broadcast, from shape {np.shape(moment.came)}.")
    if moment.kind == UPDATE:
        notes.append(record.rule_of_updates)
    if _first_trouble(moment):
        notes.append(TROUBLE)
    return notes


def _equal(a: Any, b: Any) -> bool:
    return b is not inspect.Parameter.empty and bool(np.array_equal(a, b)) if a is not None else b is None


def _first_trouble(moment: Moment) -> bool:
    """Whether the step makes an infinity or NaN out of finite numbers."""
    if moment.kind == FORWARD and moment.entry.op is None:
        return False
    read = [moment.came] if moment.came is not None else []
    if moment.kind in (FORWARD, LOCAL):
        read += [i.value if isinstance(i, Entry) else i for i in moment.entry.inputs]
    return not np.isfinite(moment.value).all() and all(np.isfinite(v).all() for v in read)


def source_of(entry: Entry) -> Source | None:
    """The user's line on which an entry was recorded, if known."""
    return None if entry.code is None else _source(entry.code, entry.lasti)


@lru_cache(maxsize=4096)  # a loop records the same line again and again
def _source(code: CodeType, lasti: int) -> Source:
    line, last, start, end = span(code, lasti)
    line = line or code.co_firstlineno
    file = code.co_filename
    text = printable(linecache.getline(file, line).rstrip().replace("\t", " "))
    encoded = text.encode()
    first = len(encoded[:start].decode(errors="ignore")) if start is not None else 0
    final = len(encoded[:end].decode(errors="ignore")) if end is not None and last == line else len(text)
    margin = len(text) - len(text.lstrip())
    return Source(place(file, line), text.strip(), max(first - margin, 0), final - margin)
