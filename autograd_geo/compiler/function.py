"""`ag.compile`: a function that is recorded once per kind of arguments and then runs as a program of kernels."""

from __future__ import annotations

import copy
import functools
import gc
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from types import MethodType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

import numpy as np

from ..tape import ACTIVE, TRACING, WATCHING, Entry, describe, mode, set_grad_enabled, tape, traced_by
from ..tensor import Tensor, entry_of, wrap
from ..tree import leaves, map_leaves
from ..value import from_user
from .differentiable import Pullback
from .errors import CompileError
from .explain import Explanation, explain, source
from .outside import Conditions
from .places import argument
from .program import Program
from .records import Change, Held
from .target import build
from .trace import Tracer
from .writer import MISMATCH, Copied, Outline, Output

if TYPE_CHECKING:
    from .. import viz
    from ..cuda.compiled import DeviceRecording

P = ParamSpec("P")
R = TypeVar("R")
#: After so many recordings of one function it runs uncompiled.
MOST_RECORDINGS = 32
#: Arguments of more bytes are not kept with a recording.
_KEPT = 1 << 16
#: What may be written into where it is returned.
_COPIED = np.ndarray, set, bytearray, deque


@dataclass(slots=True)
class Recorded:
    """One recording: its program, what it was recorded from, and what runs it: `call(mode, args, kwargs)`."""

    made: Program | DeviceRecording
    outline: Outline
    call: Callable[..., Any]
    pullback: Pullback | None = None  # where results require a gradient

    @property
    def is_on_device(self) -> bool:
        """Whether it runs on the GPU."""
        return not isinstance(self.made, Program)

    @property
    def program(self) -> Program:
        """The program in the host's memory. Raises CompileError for one on the GPU."""
        if isinstance(self.made, Program):
            return self.made
        raise CompileError("compile: this function was recorded on the GPU; only its .source() can be looked at there")


class Compiled(Generic[P, R]):
    """A compiled function; made by `compile`. It may be called from several threads, which take turns."""

    def __init__(self, fn: Callable[P, R]) -> None:
        functools.update_wrapper(self, fn)
        self._fn = fn
        self._recordings: list[Recorded] = []
        self._count = 0
        self._lock = threading.RLock()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        now = mode()
        if now & TRACING:
            return self._fn(*args, **kwargs)
        if now & WATCHING:
            return self._uncompiled(args, kwargs)
        with self._lock:
            for recorded in self._recordings:
                result = recorded.call(now, args, kwargs)
                if result is not MISMATCH:
                    if recorded is not self._recordings[0]:
                        self._recordings.remove(recorded)
                        self._recordings.insert(0, recorded)
                    if recorded.pullback is not None:
                        return recorded.pullback.attach(result, args, kwargs)  # type: ignore[no-any-return]
                    return result  # type: ignore[no-any-return]
            return self._first_call(args, kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """A compiled method is bound as others are; each object keeps recordings of its own."""
        if instance is None or not hasattr(self._fn, "__get__"):
            return self
        held = getattr(instance, "__dict__", None)
        if held is None:
            return MethodType(self, instance)
        key = f"{name_of(self._fn)} {id(self)}"  # no name that an attribute has
        if key not in held:
            held[key] = Compiled(MethodType(self._fn, instance))
        return held[key]

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled[P, R]:
        return Compiled(copy.deepcopy(self._fn, memo))

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Pickled as what it is of: functions by their names, methods by their objects."""
        return (compile, (self._fn,)) if isinstance(self._fn, MethodType) else name_of(self._fn)

    @property
    def recorded(self) -> tuple[Recorded, ...]:
        """The recordings, that of the last call first."""
        return tuple(self._recordings)

    @property
    def recordings(self) -> int:
        """How often the function was recorded."""
        return self._count

    def _first_call(self, args: Any, kwargs: Any) -> R:
        """A call that no recording holds for: run in Python, and recorded."""
        if self._count >= MOST_RECORDINGS:
            warnings.warn(
                f"{name_of(self._fn)} was recorded {self._count} times, for ever new shapes or values that "
                "Python reads; from now on it runs uncompiled. Keep shapes the same, and choose by ag.where",
                stacklevel=3,
            )
            return self._uncompiled(args, kwargs)
        with _collector_paused():
            result, recorded = _record(self._fn, args, kwargs)
        self._count += 1
        self._recordings.insert(0, recorded)
        return result  # type: ignore[no-any-return]

    def _uncompiled(self, args: Any, kwargs: Any) -> R:
        with _containers_unchanged(self._fn, map_leaves(_as_recorded, (args, kwargs))) as (given, named):
            return self._fn(*given, **named)

    # --- looking inside -------------------------------------------------------------------------------------------

    def explain(self, measure: bool = True) -> Explanation:
        """What the compiler made of the function: steps, kernels, times, bytes, and why values go through memory.

        It prints as tables; its fields hold every step. With `measure` the steps run, with what the function was
        recorded for and on memory of their own, as large as the program's: nothing that a call changes is touched,
        but ops that are called back in Python are called.
        """
        return explain(self, measure)

    def source(self, k: int | None = None) -> str:
        """The source of the distinct kernels, or of kernel k, as `explain` numbers them.

        Raises RuntimeError before the first call, and IndexError if there is no such kernel.
        """
        if self._recordings and all(r.is_on_device for r in self._recordings):
            sources = list(dict.fromkeys(s for r in self._recordings for s in r.made.program.sources))  # type: ignore[union-attr]
            return "\n\n".join(sources) if k is None else sources[k]
        return source(self, k)

    def graph(self, recording: int = -1, *, rankdir: str = "LR") -> viz.Graph:
        """Draw what a recording computes, coloured by the kernels that do it; the latest unless another is asked for.

        What identical steps of a long program do is drawn once. `rankdir` is "LR" (left to right) or "TB". Raises
        RuntimeError before the first call, and IndexError if there is no such recording.
        """
        from ..viz.program import program_graph

        return program_graph(self, recording, rankdir)


def compile(fn: Callable[P, R]) -> Compiled[P, R]:
    """The same function, run as native code: as decorator, or `step = ag.compile(step)`.

    It is recorded when it is first called with arguments of new shapes or dtypes: Python runs it once, and every op
    (forward, backward, updates in place) becomes part of a program of kernels that later calls run. Arguments are
    tensors, arrays, numbers, modules and nested lists, tuples and dicts of them. Where Python reads a value, the other
    branch is recorded when it is first taken; what a function prints, it prints while it is recorded only. Variables of
    its module and its closure, and what its objects and their classes hold, are read anew or compared in each call;
    of objects of installed packages, what NumPy can read and their own numbers and arrays. Inside, numbers and arrays
    among the arguments are tensors, floats too; text that is made of them is that of the recording.

    A result that requires a gradient is on the tape: `backward()` and transforms go through it, to what it was computed
    from, as often as one likes. Raises CompileError, a TypeError, for a function that would not do the same in each
    call: one that assigns to a variable outside, writes into an array, list or dict that it was given, sets an
    optimiser's learning rate, seeds a generator from outside, draws random numbers that are not `ag.random`'s, or takes
    items of an iterator from outside.
    """
    return fn if isinstance(fn, Compiled) else Compiled(fn)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """No collection of cycles: a recording makes many objects, and keeps them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def name_of(fn: Callable[..., Any]) -> str:
    """What to call a function, which may be any callable object, in messages."""
    return str(getattr(fn, "__qualname__", type(fn).__qualname__))


def _is_numeric(x: Any) -> bool:
    return isinstance(x, Tensor | np.ndarray | np.generic) or type(x) is float


def _without_memory(x: Any) -> Any:
    """An argument as a recording keeps it: in place of large data something of the same shape and dtype."""
    value = x._value if isinstance(x, Tensor) and not x.requires_grad else x
    if not isinstance(value, np.ndarray) or value.nbytes <= _KEPT:
        return x
    light = np.broadcast_to(np.ones((), value.dtype), value.shape)
    return wrap(light) if isinstance(x, Tensor) else light


def _as_recorded(x: Any) -> Any:
    """An argument as a recorded function sees it: numbers and arrays are tensors."""
    return wrap(from_user(x)) if _is_numeric(x) and not isinstance(x, Tensor) else x


def _reaches_leaf(t: Tensor) -> bool:
    """Whether a backward pass from here, outside the recording, would have a leaf to write to."""
    assert t._entry is not None
    try:
        return t._entry.state == ACTIVE and any(e.op is None for e in tape(t._entry)[1])
    except RuntimeError:  # consumed by a pass inside
        return False


@contextmanager
def _containers_unchanged(fn: Callable[..., Any], passed: Any) -> Iterator[Any]:
    """What a function is passed: its lists and dicts are copies, so what is written into them would be lost."""
    before = map_leaves(lambda x: x, passed)
    yield passed
    if not _is_same_tree(passed, before):
        raise CompileError(
            f"compile: {name_of(fn)} writes into a list or dict that it was given, which would be lost there. Copy "
            "it first, as in dict(given), and return the new values, or keep them in an object's attributes"
        )


def _is_same_tree(a: Any, b: Any) -> bool:
    """Whether two nestings have the same containers of the same objects."""
    if type(a) is not type(b) or not isinstance(a, dict | list | tuple):
        return a is b
    if len(a) != len(b) or (isinstance(a, dict) and list(a) != list(b)):
        return False
    return all(map(_is_same_tree, a.values() if isinstance(a, dict) else a, b.values() if isinstance(b, dict) else b))


def _refuse_changes(fn: Callable[..., Any], changes: Sequence[Change], differentiable: bool) -> None:
    """Raise CompileError for changes that a later call could not make as an uncompiled one does."""
    for change in changes:
        owner = change.of.owner if isinstance(change.of, Held) else None
        if differentiable or (owner is not None and not owner.is_leaf):
            what = "" if owner is None else f" {change.kind} of {describe(entry_of(owner))}"
            raise CompileError(
                f"compile: {name_of(fn)} changes{what or ' state outside'} and "
                + ("returns what requires a gradient" if differentiable else "got it as recorded outside")
                + "; differentiate inside the function (a step that calls backward()), or detach what it returns"
            )


def _record(fn: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, Recorded]:
    """Run a function once under a tracer, and make its program."""
    numbers = count()
    conditions = Conditions()
    conditions.add(fn)
    for k, x in enumerate(leaves((args, kwargs))):
        if not _is_numeric(x):
            conditions.add(x, argument(k))
    tracer = Tracer(conditions.tensors)

    def watched(x: Any) -> Any:
        k = next(numbers)
        return tracer.argument(k, x) if _is_numeric(x) else x

    entries: list[Entry] = []

    def output(entry: Entry) -> int:
        entries.append(entry)
        return len(entries) - 1

    outputs: dict[int, Output] = {}  # what is returned twice is one object
    wrapped: dict[int, Tensor] = {}

    def outlined(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return Copied(x.copy()) if isinstance(x, _COPIED) and not conditions.knows(x) else x
        place = tracer.place_of(x)
        if place is None and id(x) not in outputs:
            outputs[id(x)] = Output(output(tracer.source(x)))
        return place or outputs[id(x)]

    def finished(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        owner = tracer.owner_of(x)
        return wrapped.setdefault(id(x), wrap(x._value)) if owner is None else owner

    now = mode()
    undone: type[BaseException] = CompileError  # the function's own exceptions leave behind what it has done
    try:
        with traced_by(tracer), _containers_unchanged(fn, map_leaves(watched, (args, kwargs))) as (given, named):
            result = fn(*given, **named)
        undone = BaseException
        conditions.unrepeatable.check(name_of(fn))
        differentiable = {
            k: t for k, t in enumerate(leaves(result))
            if isinstance(t, Tensor) and t.requires_grad and not tracer.place_of(t) and _reaches_leaf(t)
        }  # fmt: skip
        with traced_by(tracer), set_grad_enabled(False):
            returned, nested = map_leaves(finished, result), map_leaves(outlined, result)
            reads = [(read, output(read.entry)) for read in tracer.reads]
            changes = tracer.effects()
            updates = [(output(c.after), c.before) for c in changes if c.after is not None]
        _refuse_changes(fn, changes, bool(differentiable))
        compared = tracer.takes_others(conditions.knows)  # NumPy may have made them of an array that ops take too
        unchanged = [place for array, place in conditions.arrays if compared or not tracer.takes(array)]
        outline = Outline(
            args, kwargs, now, [*conditions.places, *unchanged, *tracer.guards], list(tracer.inputs.values()), nested,
            reads, changes,
        )  # fmt: skip
        made, call = build(tracer, outline, entries, updates)
        recorded = Recorded(made, outline, call)
        if differentiable:
            with traced_by(tracer):
                recorded.pullback = Pullback(tracer, differentiable, fn, name_of(fn), outline.conditions)
            returned = recorded.pullback.attach(returned, args, kwargs)
        outline.args, outline.kwargs = map_leaves(_without_memory, (args, kwargs))
        return returned, recorded
    except undone:
        tracer.undo()
        conditions.unrepeatable.restore()
        raise
    except BaseException:
        with traced_by(tracer), set_grad_enabled(False):
            tracer.effects()
        raise
    finally:
        tracer.close()


__all__ = ["Compiled", "compile"]
