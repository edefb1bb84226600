"""The tape: what was computed, in order, and nothing else.

An op that runs on a tensor that requires a gradient leaves one `Entry` behind. Entries point at the entries
they were computed from, so an output keeps exactly its own tape alive and frees it when it is dropped. Each
carries a number from one counter: any set of entries sorted by number is in topological order.
"""

from __future__ import annotations

import functools
import inspect
import linecache
import os
import sys
from collections.abc import Callable
from contextlib import ContextDecorator
from contextvars import ContextVar, Token
from itertools import count
from math import prod
from operator import attrgetter
from types import CodeType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from .cuda.array import DeviceArray, on_host
from .names import assigned_name, place, span
from .value import SCALAR, Number, Spec, Value, strong

if TYPE_CHECKING:
    from .op import Op

# What an entry means to the reverse loop. Below zero it means nothing there: only a tracer recorded it. WEAK is what
# comes of Python numbers alone, which take on the dtype of what they meet.
CONSTANT, ACTIVE, CONSUMED, TRACED, WEAK = 0, 1, 2, -1, -2

# Arrays up to this size stay on a consumed tape, so that a small one can still be drawn and stepped.
SMALL = 64

next_number: Callable[[], int] = count().__next__


class Entry:
    """One operation on the tape, or one leaf (`op` is None, no inputs).

    `inputs` holds entries, and plain Python numbers where the user wrote a literal. `value` is kept only if a
    derivative needs it (leaves always keep theirs); `value_of` recomputes it otherwise. Only leaves have a
    `grad`, and a `root`: the leaf that holds it where this one is a later value of the same tensor. Only what a
    module returned has a `call`, which drawings read: (module, first number, last number, code, lasti, the `call` of a
    module inside that returned the same, or None).
    """

    __slots__ = (
        "attrs", "call", "code", "grad", "inputs", "lasti", "name", "number", "op", "root", "spec", "state", "value"
    )  # fmt: skip

    number: int
    op: Op | None
    inputs: tuple[Entry | Number, ...]
    attrs: dict[str, Any]
    value: Value
    spec: Spec
    state: int
    code: CodeType | None
    lasti: int
    name: str | None
    root: Entry
    grad: Any
    call: tuple[Any, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spec[0]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.spec[1]

    @property
    def label(self) -> str | None:
        """The name the user gave, or the variable the result was assigned to; None if neither."""
        if self.name is None and self.code is not None:
            return assigned_name(self.code, self.lasti)
        return self.name

    def __repr__(self) -> str:
        what = "leaf" if self.op is None else self.op.name
        return f"<{what} {self.label or self.number} {self.shape}>"


NO_ATTRS: dict[str, Any] = {}


def leaf(value: Value, state: int, name: str | None = None, code: CodeType | None = None, lasti: int = -1) -> Entry:
    entry = Entry()
    entry.number = next_number()
    entry.op, entry.inputs, entry.attrs = None, (), NO_ATTRS
    entry.value = value
    entry.spec = SCALAR if type(value) is float else (value.shape, value.dtype)
    entry.state, entry.name, entry.code, entry.lasti = state, name, code, lasti
    entry.root = entry.grad = None  # type: ignore[assignment]
    return entry


def succeed(old: Entry, value: Value) -> Entry:
    """A leaf for the next value of the same tensor: same name and gradient."""
    new = leaf(value, old.state, old.name, old.code, old.lasti)
    new.root = old.root or old
    return new


def duplicate(entry: Entry) -> Entry:
    """Another entry that holds the same."""
    copy = Entry()
    for slot in Entry.__slots__:
        if hasattr(entry, slot):
            setattr(copy, slot, getattr(entry, slot))
    return copy


# --- reading a tape -------------------------------------------------------------------------------------------


def tape(output: Entry, since: int = 0, again: bool = False) -> tuple[list[Entry], dict[Any, Any]]:
    """What `output` depends on: the operations, latest first; and a dict of them and the leaves, values None.

    Only active entries numbered from `since` count. Raises RuntimeError where an earlier pass consumed part of it;
    with `again`, only where that let go of something.
    """
    order = [] if output.op is None else [output]
    last, in_order = output.number, True
    live: dict[Any, Any] = {output: None}
    for entry in order:  # grows while it is walked
        if entry.state == CONSUMED and not (again and entry.inputs):
            raise RuntimeError(
                f"this tape was consumed by an earlier backward pass, at {describe(entry)}. Run the computation "
                "again, or keep its tape with backward(retain_graph=True)"
            )
        for source in entry.inputs:
            if type(source) is Entry and source.state > 0 and source not in live:
                number = source.number
                if number >= since:
                    live[source] = None
                    if source.op is not None:
                        order.append(source)
                        if number > last:
                            in_order = False
                        last = number
    if not in_order:
        order.sort(key=_number, reverse=True)
    return order, live


def history(output: Entry) -> list[Entry]:
    """Every entry that `output` was computed from, constants included, consumed or not, in recording order."""
    order, seen = [output], {output}
    for entry in order:
        for source in entry.inputs:
            if type(source) is Entry and source not in seen:
                seen.add(source)
                order.append(source)
    order.sort(key=_number)
    return order


_number = attrgetter("number")


def value_of(entry: Entry) -> Value:
    """The value of an entry, computed again from what the tape kept where no derivative needed it."""
    known: dict[Entry, Value] = {}
    stack = [entry]
    while stack:
        e = stack[-1]
        if e.value is not None:
            known[e] = e.value
        elif e not in known:
            if not e.inputs:
                raise RuntimeError(
                    f"the value at {describe(e)} went with the backward pass that consumed its tape; "
                    "keep it with backward(retain_graph=True)"
                )
            missing = [i for i in e.inputs if type(i) is Entry and i not in known]
            if missing:
                stack += missing
                continue
            assert e.op is not None
            known[e] = e.op.evaluate([strong(known[i]) if type(i) is Entry else i for i in e.inputs], e.attrs)
        stack.pop()
    return known[entry]


def hosted(entry: Entry) -> Entry:
    """The entry for those who look at it with NumPy: copies of values on the GPU take their place."""
    inputs = [i for i in entry.inputs if type(i) is Entry]
    if DeviceArray not in [type(e.value) for e in (entry, *inputs)]:
        return entry
    copies = {e: duplicate(e) for e in (entry, *inputs)}
    for e in copies.values():
        e.value = on_host(e.value)
    copies[entry].inputs = tuple([copies[i] if type(i) is Entry else i for i in entry.inputs])
    return copies[entry]


def consume(entry: Entry) -> None:
    """Let go of what the entry's derivative needed; numbers and small arrays stay for drawing and stepping."""
    entry.state = CONSUMED
    if type(entry.value) is float:
        return
    if prod(entry.spec[0]) <= SMALL:
        for source in entry.inputs:
            if type(source) is Entry and prod(source.spec[0]) > SMALL:
                break
        else:
            return
    entry.value, entry.inputs = None, ()


# --- whether to record ------------------------------------------------------------------------------------------

_F = TypeVar("_F", bound=Callable[..., Any])
# What ops do besides computing, as bits: record for gradients, let a tracer record everything, let a watcher look.
GRADIENTS, TRACING, WATCHING = 1, 2, 4
_mode: ContextVar[int] = ContextVar("autograd_geo.mode", default=GRADIENTS)
_tracer: ContextVar[Any] = ContextVar("autograd_geo.tracer", default=None)
_watcher: ContextVar[Any] = ContextVar("autograd_geo.watcher", default=None)
#: What ops do in this thread or task: the bits above.
mode = _mode.get
#: The tracer of this thread or task, None without one.
tracer = _tracer.get
#: What looks at the results of ops in this thread or task, None if nothing does.
watcher = _watcher.get


def recording() -> bool:
    """Whether ops record for gradients in this thread or task."""
    return bool(_mode.get() & GRADIENTS)


class traced_by:
    """Context manager: `tracer.apply(op, operands, attrs)` runs every op, recorded for gradients or not."""

    def __init__(self, tracer: Any) -> None:
        self.tracer = tracer

    def __enter__(self) -> None:
        self._tokens = _tracer.set(self.tracer), _mode.set(_mode.get() | TRACING)

    def __exit__(self, *exc: object) -> None:
        _tracer.reset(self._tokens[0])
        _mode.reset(self._tokens[1])


class untraced:
    """Context manager: no tracer sees what is done."""

    def __enter__(self) -> None:
        self._token = _mode.set(_mode.get() & ~TRACING)

    def __exit__(self, *exc: object) -> None:
        _mode.reset(self._token)


class watched_by:
    """Context manager: `watcher.apply(op, operands, attrs)` runs every op that is not traced; None: nothing looks."""

    def __init__(self, watcher: Any) -> None:
        self.watcher = watcher

    def __enter__(self) -> None:
        now = _mode.get() & ~WATCHING
        self._tokens = _watcher.set(self.watcher), _mode.set(now if self.watcher is None else now | WATCHING)

    def __exit__(self, *exc: object) -> None:
        _watcher.reset(self._tokens[0])
        _mode.reset(self._tokens[1])


class set_grad_enabled(ContextDecorator):
    """Context manager and decorator: record (`True`) or do not (`False`), in this thread or task only."""

    def __init__(self, mode: bool) -> None:
        self.mode = mode
        self._tokens: list[Token[int]] = []

    def __call__(self, function: _F) -> _F:
        mode = self.mode
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                with set_grad_enabled(mode):
                    return await function(*args, **kwargs)

            return cast(_F, awaited)
        if inspect.isasyncgenfunction(function):

            @functools.wraps(function)
            async def stepped(*args: Any, **kwargs: Any) -> Any:
                steps = function(*args, **kwargs)
                while True:
                    try:
                        with set_grad_enabled(mode):
                            item = await anext(steps)
                    except StopAsyncIteration:
                        return
                    yield item

            return cast(_F, stepped)
        if inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def generated(*args: Any, **kwargs: Any) -> Any:
                """Each step runs in this mode; between steps the caller keeps its own."""
                steps = function(*args, **kwargs)
                resume: Callable[[], Any] = lambda: next(steps)  # noqa: E731
                while True:
                    try:
                        with set_grad_enabled(mode):
                            item = resume()
                    except StopIteration as stop:
                        return stop.value
                    try:
                        sent = yield item
                        resume = functools.partial(steps.send, sent)
                    except GeneratorExit:
                        steps.close()
                        raise
                    except BaseException as error:
                        resume = functools.partial(steps.throw, error)

            return cast(_F, generated)
        return super().__call__(function)

    def _recreate_cm(self) -> set_grad_enabled:
        return set_grad_enabled(self.mode)

    def __enter__(self) -> None:
        self._tokens.append(_mode.set((_mode.get() & ~GRADIENTS) | self.mode))

    def __exit__(self, *exc: object) -> None:
        _mode.reset(self._tokens.pop())


class no_grad(set_grad_enabled):
    """`with ag.no_grad():` or `@ag.no_grad()`: compute without recording."""

    def __init__(self) -> None:
        super().__init__(False)


class enable_grad(set_grad_enabled):
    """Record again inside a `no_grad` block."""

    def __init__(self) -> None:
        super().__init__(True)


# --- whose line it was ----------------------------------------------------------------------------------------

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


#: Files seen to be the user's, and those seen to be ours, so that to find the user's frame takes look-ups only.
users: set[str] = set()
_ours: set[str] = set()
_getframe = sys._getframe


def caller(depth: int = 1) -> tuple[CodeType | None, int]:
    """Code object and instruction offset of the innermost frame that is not ours: cheap, resolved when asked."""
    frame: Any = _getframe(depth)
    while (filename := frame.f_code.co_filename) not in users:
        if filename not in _ours:
            if not filename.startswith((_PACKAGE, "<autograd_geo")):
                users.add(filename)
                break
            _ours.add(filename)
        frame = frame.f_back
        if frame is None:
            return None, -1
    return frame.f_code, frame.f_lasti


def line_of(entry: Entry) -> tuple[str, int] | None:
    """File and line on which the user recorded this entry, if known."""
    return None if entry.code is None else line_at(entry.code, entry.lasti)


def line_at(code: CodeType, lasti: int) -> tuple[str, int]:
    """File and line of an instruction."""
    return code.co_filename, span(code, lasti)[0] or code.co_firstlineno


def describe(entry: Entry) -> str:
    """`multiply 'f' of shape (3,), recorded at lesson.py:12: f = x * y`, for error messages."""
    label = entry.label
    text = ("leaf" if entry.op is None else entry.op.name) + (f" {label!r}" if label else "")
    text += f" of shape {entry.shape}"
    where = line_of(entry)
    if where is None:
        return text
    source = linecache.getline(*where).strip()
    return f"{text}, recorded at {place(*where)}" + (f": {source}" if source else "")
