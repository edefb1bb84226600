"""A recorded computation and its reverse pass as a sequence of steps, and a cursor on it.

The steps are the evaluations that the tape holds, then the events of the one reverse loop, `backward.events`. They run
on a private copy of the tape: what happens to the tape, its leaves and gradients afterwards changes no lesson.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from ..backward import Accumulate, Local, Seed, events, seed_of
from ..cuda.array import on_host
from ..names import printable
from ..tape import ACTIVE, CONSTANT, CONSUMED, Entry, duplicate, history, tape
from ..tensor import Tensor, entry_of
from ..value import Value, as_value, strong
from .values import names

if TYPE_CHECKING:
    from ..optim.optimizers import Optimizer
    from .card import Card
    from .quiz import Question

FORWARD, SEED, LOCAL, ACCUMULATE, WRITE, UPDATE = "forward", "seed", "local", "accumulate", "write", "update"


class Moment(NamedTuple):
    """What a step is made of; `came` is what it was made from: a cotangent, a contribution, a change; or None."""

    kind: str
    entry: Entry
    operand: int
    value: Value
    came: Any


class Record:
    """What all positions of one lesson share."""

    def __init__(self, output: Entry, order: Sequence[Entry], moments: Sequence[Moment], rule_of_updates: str) -> None:
        self.output, self.order, self.moments, self.rule_of_updates = output, order, moments, rule_of_updates

    @cached_property
    def named(self) -> dict[Entry, str]:
        """The name of each value, no two the same; no character of them moves a cursor."""
        named = {entry: printable(name) for entry, name in names(self.output).items()}
        for n, moment in enumerate(m for m in self.moments if m.kind == UPDATE and m.entry not in named):
            named[moment.entry] = printable(moment.entry.label or f"parameter {n}")
        return named

    @property
    def top(self) -> str:
        """The name of what is differentiated."""
        return self.named[self.output]

    @cached_property
    def arrivals(self) -> dict[Entry, list[int]]:
        """The local derivatives through which a cotangent reached each value, as positions in the lesson."""
        found: dict[Entry, list[int]] = defaultdict(list)
        for k, moment in enumerate(self.moments):
            if moment.kind == LOCAL:
                found[reached(moment)].append(k)
        return found


def reached(moment: Moment) -> Entry:
    """The input that a local derivative is with respect to."""
    source = moment.entry.inputs[moment.operand]
    assert isinstance(source, Entry)
    return source


@dataclass(frozen=True)
class Step:
    """One thing that happens: `kind` is "forward", "seed", "local", "accumulate", "write" or "update"."""

    index: int
    _record: Record = field(repr=False)

    @property
    def _moment(self) -> Moment:
        return self._record.moments[self.index]

    @property
    def kind(self) -> str:
        return self._moment.kind

    @property
    def name(self) -> str:
        """The value that the step is about; for a local derivative that of the op, whose input is `operand`."""
        return self._record.named[self._moment.entry]

    @property
    def operand(self) -> str | None:
        """The value that a local derivative is with respect to, else None."""
        return self._record.named[reached(self._moment)] if self.kind == LOCAL else None

    @property
    def value(self) -> Value:
        """What came of the step: a value, a derivative of the output, a gradient. A number or a read-only array."""
        return _read_only(self._moment.value)

    @property
    def card(self) -> Card:
        """What there is to say about the step."""
        from .card import card

        return card(self._record, self.index)

    @property
    def question(self) -> Question | None:
        """What a student can be asked before the step is shown, None where there is nothing to work out."""
        from .quiz import question

        return question(self._record, self.index)


@dataclass(frozen=True, eq=False)
class State:
    """What is known after a step, by name: `values`; `derivatives` of the output so far; the leaves' `grads`."""

    values: Mapping[str, Value]
    derivatives: Mapping[str, Value]
    grads: Mapping[str, Value]


class Lesson(Sequence[Step]):
    """The steps of a computation, and a position among them. Immutable: to move is to get another lesson.

    `len(lesson)`, `lesson[k]` and iteration give the steps; `step` is the one at `position`, `state` what is known
    once it is done. `goto(k)`, `next()` and `prev()` give the lesson at another position. Made by `steps`.
    """

    __slots__ = ("_position", "_record")

    def __init__(self, record: Record, position: int = 0) -> None:
        self._record, self._position = record, position

    @property
    def position(self) -> int:
        return self._position

    @property
    def step(self) -> Step:
        return Step(self._position, self._record)

    @property
    def state(self) -> State:
        values: dict[str, Value] = {}
        derivatives: dict[str, Value] = {}
        grads: dict[str, Value] = {}
        named = self._record.named
        for moment in self._record.moments[: self._position + 1]:
            name, value = named[moment.entry], _read_only(moment.value)
            if moment.kind in (FORWARD, UPDATE):
                values[name] = value
            elif moment.kind == LOCAL:
                derivatives.setdefault(named[reached(moment)], value)
            elif moment.kind == WRITE:
                grads[name] = value
            else:
                derivatives[name] = value
        return State(*map(MappingProxyType, (values, derivatives, grads)))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the values in the order they are computed in; the last one is what is differentiated."""
        return tuple([self._record.named[entry] for entry in self._record.order])

    def goto(self, k: int) -> Lesson:
        """The lesson at step k; negative k count from the end. Raises IndexError where there is no such step."""
        count = len(self)
        if not -count <= k < count:
            raise IndexError(f"this lesson has the steps 0 to {count - 1}; there is no step {k}")
        return Lesson(self._record, k % count)

    def next(self) -> Lesson:
        """The lesson one step further. Raises IndexError at the last one."""
        return self.goto(self._position + 1)

    def prev(self) -> Lesson:
        """The lesson one step back. Raises IndexError at the first one."""
        if not self._position:
            raise IndexError("this is the first step; there is none before it")
        return self.goto(self._position - 1)

    def __len__(self) -> int:
        return len(self._record.moments)

    @overload
    def __getitem__(self, k: int) -> Step: ...

    @overload
    def __getitem__(self, k: slice) -> tuple[Step, ...]: ...

    def __getitem__(self, k: int | slice) -> Step | tuple[Step, ...]:
        if isinstance(k, slice):
            return tuple([Step(i, self._record) for i in range(*k.indices(len(self)))])
        return self.goto(k).step

    def __iter__(self) -> Iterator[Step]:
        return (Step(k, self._record) for k in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lesson) and (self._record, self._position) == (other._record, other._position)

    def __hash__(self) -> int:
        return hash((id(self._record), self._position))

    def __repr__(self) -> str:
        return f"<lesson on {self._record.top}: step {self._position} of 0 to {len(self) - 1}>"

    def text(self, *, color: bool | None = None) -> str:
        """The whole lesson, one step to a line; in colours if `color`, by default where it goes to a terminal."""
        from .text import lesson_text

        return lesson_text(self, color)

    def play(self, *, quiz: bool = False) -> None:
        """Step through the lesson in the terminal; with `quiz`, derivatives are asked for before they are shown.

        Raises OSError where there is no terminal.
        """
        from .player import play

        play(self, quiz=quiz)

    def html(self, path: str | Path, *, quiz: bool = False) -> None:
        """Write the lesson as one page that works without a network; with `quiz`, it opens asking.

        Raises OSError where the file cannot be written; one that is there stays as it is then. ValueError for more
        steps than a page can hold, some 100,000.
        """
        from .lesson_page import write_page

        write_page(self, Path(path), quiz)

    def widget(self, *, quiz: bool = False) -> Any:
        """The lesson as a notebook widget. Raises ImportError without anywidget."""
        from .widget import lesson_widget

        return lesson_widget(self, quiz)


def steps(output: Tensor, gradient: Any = None, *, of: str | None = None, optimizer: Optimizer | None = None) -> Lesson:
    """The computation of `output` and its backward pass, step by step.

    Args:
        output: a tensor of one element; of any shape if `gradient` is given.
        gradient: the cotangent of `output`, of its shape; default 1.
        of: what to call the output (default: its own name).
        optimizer: its updates of the parameters follow as steps; nothing is updated.

    The tape is not consumed, nor is any `.grad` written. Gradients add to what leaves hold, as in `backward()`; on a
    tape that a pass has consumed they are that pass's own. Every value and derivative is kept, arrays too. Raises
    RuntimeError where nothing was recorded or an earlier pass has let go of the tape, ValueError where `gradient` is
    missing or has the wrong shape.
    """
    last = output._entry
    if last is None or last.state <= CONSTANT:
        raise RuntimeError(
            "steps: this tensor depends on nothing that requires a gradient. Make its inputs with "
            "ag.tensor(..., requires_grad=True), and compute it outside ag.no_grad() and without .detach()"
        )
    seed = seed_of(output, gradient)
    tape(last, again=True)
    with np.errstate(all="ignore"):
        copies = _copied(last)
        copies[last].name = of or last.name
        order = list(copies.values())
        fresh = last.state == CONSUMED  # the pass that is told has been: what it left is no start for it
        roots = [entry.root for entry in order if entry.op is None]
        grads = {root: None if fresh or root.grad is None else on_host(root.grad._value) for root in roots}
        reverse = list(_reverse(copies[last], seed, grads))
        for entry in order:
            entry.value = on_host(entry.value)
        moments = [Moment(FORWARD, entry, -1, entry.value, None) for entry in order] + reverse
        if optimizer is not None:
            moments += _updates(optimizer, order, grads)
    rule_of_updates = "" if optimizer is None else (inspect.getdoc(type(optimizer)) or "").partition("\n")[0]
    return Lesson(Record(copies[last], order, moments, rule_of_updates))


def _copied(last: Entry) -> dict[Entry, Entry]:
    """A copy of each entry of a tape, values filled in; a leaf's `root` is the one that holds its gradient."""
    copies: dict[Entry, Entry] = {}
    for entry in history(last):
        for source in entry.inputs:  # a constant may be numbered after the op that made a leaf of it
            if isinstance(source, Entry) and source not in copies:
                copies[source] = _copy(source, copies)
        if entry not in copies:
            copies[entry] = _copy(entry, copies)
    return copies


def _copy(entry: Entry, copies: Mapping[Entry, Entry]) -> Entry:
    copy = duplicate(entry)
    copy.inputs = tuple([copies[i] if isinstance(i, Entry) else i for i in entry.inputs])
    if copy.state == CONSUMED:
        copy.state = ACTIVE
    if copy.op is None:
        copy.root, copy.grad = entry.root or entry, None
    elif copy.value is None:
        known = [strong(i.value) if isinstance(i, Entry) else i for i in copy.inputs]
        copy.value = copy.op.evaluate(known, copy.attrs)
    return copy


def _reverse(output: Entry, seed: Value, grads: dict[Entry, Value | None]) -> Iterator[Moment]:
    """What the reverse loop does; `grads` become what `backward` would leave in each leaf's `.grad`."""
    for kind, entry, *told in events(output, seed, retain=True):
        fields = list(map(on_host, told))
        if kind is Seed:
            yield Moment(SEED, entry, -1, fields[0], None)
        elif kind is Local:
            k, cotangent, contribution = fields
            yield Moment(LOCAL, entry, k, contribution, cotangent)
        elif kind is Accumulate:
            contribution, total = fields
            yield Moment(ACCUMULATE, entry, -1, total, contribution)
        else:
            (g,) = fields
            before = grads[entry.root]
            grads[entry.root] = total = g if before is None else as_value(before + g)
            yield Moment(WRITE, entry, -1, total, g)


def _updates(optimizer: Optimizer, order: Iterable[Entry], grads: Mapping[Entry, Value | None]) -> Iterator[Moment]:
    """What the optimiser's next step would do to each parameter that has a gradient."""
    copies = {entry.root: entry for entry in order if entry.op is None}
    for p, state in zip(optimizer.parameters, optimizer.state, strict=True):
        entry = entry_of(p)
        root = entry.root or entry
        g, value = grads.get(root, None if p.grad is None else on_host(p.grad._value)), on_host(p._value)
        if g is not None:
            held = {name: on_host(x) for name, x in state.items()} or optimizer.initial(value)
            change, _ = optimizer.update(value, g, held, optimizer)
            yield Moment(UPDATE, copies.get(root, entry), -1, as_value(np.subtract(value, change)), as_value(change))


def _read_only(value: Value) -> Value:
    """The value as nobody can change it."""
    if isinstance(value, np.ndarray):
        if isinstance(value.base, np.ndarray):
            value.base.flags.writeable = False  # else NumPy would let anyone make the view writable again
        value.flags.writeable = False
        return value.view()
    return value
