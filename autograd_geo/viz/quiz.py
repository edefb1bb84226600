"""Predict, then reveal: what a student is asked before a derivative is shown, and what a wrong answer says.

The right answer and the wrong ones that have a name are worked out here, for every view: a view compares, it knows no
errors of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..expr import Call, Node, Var, negative, rename
from ..tape import Entry, duplicate
from .card import arrived, before, paths
from .formulas import Formula, derivative, formula, partial, partial_value, product, quantity, total
from .steps import ACCUMULATE, LOCAL, Moment, Record, reached

#: How far an answer may be off: of its size, and where it is zero.
RELATIVE, ABSOLUTE = 5e-3, 1e-9
RIGHT = "Right."
UNKNOWN = "Not this one."
UNREADABLE = "Type a number, such as -24, 0.5 or 1/3."
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"


class Option(NamedTuple):
    """An answer: its value, the expression that leads to it, and what to say to it."""

    value: float
    formula: Node
    says: str


class Question(NamedTuple):
    """`asked` is the derivative in question, `given` what to work it out from; of `options` the first is right."""

    asked: Node
    given: tuple[Formula, ...]
    options: tuple[Option, ...]

    def judge(self, answer: str) -> tuple[bool, str]:
        """Whether an answer is right, and what to say to it: an error that has a name is named."""
        value = read(answer)
        if value is None:
            return False, UNREADABLE
        for n, option in enumerate(self.options):
            if close(value, option.value):
                return n == 0, option.says
        return False, UNKNOWN


def read(answer: str) -> float | None:
    """The number a student typed, a fraction too; None if it is none."""
    text = answer.strip().replace("−", "-").replace(",", ".").replace(" ", "")
    match = re.fullmatch(rf"({NUMBER})(?:/({NUMBER}))?", text)
    if match is None or (match[2] and float(match[2]) == 0):
        return None
    return float(match[1]) / float(match[2] or 1)


def close(value: float, other: float) -> bool:
    """Whether an answer passes for a number."""
    return math.isclose(value, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def question(record: Record, k: int) -> Question | None:
    """What to ask before step k: for a number that a local derivative passes on or that paths add up to, else None."""
    moment = record.moments[k]
    if moment.kind not in (LOCAL, ACCUMULATE) or np.size(moment.value) != 1 or not np.isfinite(moment.value).all():
        return None
    if moment.kind == LOCAL:
        about, options, given = reached(moment), _of_local(record, moment), _given(record, moment)
    else:
        about, options, given = moment.entry, _of_accumulation(record, k), _arrived(record, k)
    found = _distinct([Option(float(np.asarray(v).reshape(())), f, s) for v, f, s in options if np.size(v) == 1])
    return Question(derivative(record.top, record.named[about]), tuple(given), found) if found else None


def _distinct(options: Sequence[Option]) -> tuple[Option, ...]:
    """Those that can be told from the ones before them by their value."""
    kept: list[Option] = []
    for option in options:
        if math.isfinite(option.value) and not any(close(option.value, o.value) for o in kept):
            kept.append(option)
    return tuple(kept)


def _given(record: Record, moment: Moment) -> list[Formula]:
    """What the op computes, and the derivative that comes from above."""
    entry, named = moment.entry, record.named
    return [
        Formula((Var(named[entry]), formula(entry, named), quantity(entry.value))),
        Formula((derivative(record.top, named[entry]), quantity(moment.came))),
    ]


def _arrived(record: Record, k: int) -> list[Formula]:
    """What came through the last paths, this one included."""
    steps, _ = arrived(record, k)
    terms = paths(record, k)[-len(steps) :]
    return [Formula((term, quantity(record.moments[j].value))) for term, j in zip(terms, steps, strict=True)]


def _of_local(record: Record, moment: Moment) -> Iterator[tuple[Any, Node, str]]:
    entry, k, named = moment.entry, moment.operand, record.named
    local = partial_value(entry, k)
    if local is None or np.size(local) != 1 or np.size(moment.came) != 1:
        return
    g, above, symbols = moment.came, derivative(record.top, named[entry]), partial(entry, k, named)
    yield moment.value, product([above, symbols]), RIGHT
    yield -moment.value, negative(product([above, symbols])), "The sign is flipped."
    yield g, above, "The local derivative was forgotten."
    yield local, symbols, "What comes from above was forgotten: multiply by it."
    yield g + local, total([above, symbols]), "Added where it should be multiplied."
    other = _elsewhere(entry, k)
    if other is not None:
        value, names = other
        wrong = rename(symbols, {named[a]: named[b] for a, b in names.items()})
        yield g * value, product([above, wrong]), "The local derivative was evaluated at the wrong point."


def _elsewhere(entry: Entry, k: int) -> tuple[Any, dict[Entry, Entry]] | None:
    """The local derivative with two of the values it may read taken for one another, and which."""
    operands = [i for i in entry.inputs if isinstance(i, Entry)]
    a, b = (operands[0], operands[1]) if len(operands) == 2 else (operands[0], entry)
    if a is b or a.spec != b.spec:
        return None
    swapped = {a: b, b: a}
    moved = {e: _valued(e, swapped[e].value) for e in swapped}
    there = moved.get(entry) or _valued(entry, entry.value)
    there.inputs = tuple([moved[i] if isinstance(i, Entry) else i for i in entry.inputs])
    return partial_value(there, k), swapped


def _valued(entry: Entry, value: Any) -> Entry:
    """A copy of an entry that holds another value."""
    copy = duplicate(entry)
    copy.value = value
    return copy


def _of_accumulation(record: Record, k: int) -> Iterator[tuple[Any, Node, str]]:
    moment = record.moments[k]
    sofar, new = before(record, k), moment.came
    terms = paths(record, k)
    yield moment.value, total(terms), RIGHT
    yield new, terms[-1], "A path was forgotten: the earlier ones count too."
    yield sofar, total(terms[:-1]), "A path was forgotten: the one that arrives now counts too."
    yield np.multiply(sofar, new), Call("*", (total(terms[:-1]), terms[-1])), "Multiplied where it should be added."
    yield np.subtract(sofar, new), Call("-", (total(terms[:-1]), terms[-1])), "A sign is flipped: the paths add."
    yield -moment.value, negative(total(terms)), "The sign is flipped."
