"""`ag.compile`: a function that is recorded once per kind of arguments and then runs as a program of kernels."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

import numpy as np

from ..tape import ACTIVE, TRACING, Entry, mode, set_grad_enabled, tape, traced_by
from ..tensor import Tensor, wrap
from ..tree import leaves, map_leaves
from .graph import Graph
from .outside import guards_of
from .program import Program
from .trace import Getter, Read, Setter, Tracer

P = ParamSpec("P")
R = TypeVar("R")
#: After so many recordings of one function it runs uncompiled.
MOST_RECORDINGS = 32


@dataclass(slots=True)
class Recorded:
    """One recording: its program, what it returns, what it leaves behind, and when it holds."""

    program: Program
    result: Any  # the result's nesting, with a number of an output for each tensor
    reads: list[tuple[Read, int]]
    changes: list[tuple[Setter, int | None]]
    guards: list[tuple[Getter, Any]]


class _Output(int):
    """Stands in a result for the program's output of this number."""


class Compiled(Generic[P, R]):
    """A compiled function; made by `compile`."""

    def __init__(self, fn: Callable[P, R]) -> None:
        functools.update_wrapper(self, fn)
        self._fn = fn
        self._recordings: dict[Any, list[Recorded]] = {}
        self._count = 0
        self._lock = threading.RLock()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if mode() & TRACING:
            return self._fn(*args, **kwargs)
        found = list(leaves((args, kwargs)))
        first: dict[int, int] = {}
        shared = tuple(first.setdefault(id(x), k) for k, x in enumerate(found) if isinstance(x, Tensor))
        key = (_signature((args, kwargs)), shared, mode())
        with self._lock:
            recordings = self._recordings.setdefault(key, [])
            for k, recorded in enumerate(recordings):
                result = self._replay(recorded, found)
                if result is not _MISMATCH:
                    if k:
                        recordings.insert(0, recordings.pop(k))
                    return result  # type: ignore[no-any-return]
            if self._count >= MOST_RECORDINGS:
                warnings.warn(
                    f"{self._fn.__qualname__} was recorded {self._count} times, for ever new shapes or values that "
                    "Python reads; from now on it runs uncompiled. Keep shapes the same, and choose by ag.where",
                    stacklevel=2,
                )
                return self._fn(*args, **kwargs)
            result, recorded = _record(self._fn, args, kwargs)
            self._count += 1
            recordings.insert(0, recorded)
            return result  # type: ignore[no-any-return]

    @property
    def recordings(self) -> int:
        """How often the function was recorded."""
        return self._count

    def _replay(self, recorded: Recorded, found: Sequence[Any]) -> Any:
        for get, expected in recorded.guards:
            if get(found) != expected:
                return _MISMATCH
        outputs = recorded.program.run(found)
        if outputs is None or not all(read.holds(outputs[k]) for read, k in recorded.reads):
            return _MISMATCH
        for put, number in recorded.changes:
            put(found, None if number is None else outputs[number])
        return map_leaves(lambda x: wrap(outputs[x]) if type(x) is _Output else x, recorded.result)


_MISMATCH = object()
_NUMERIC = Tensor, np.ndarray, np.generic


def compile(fn: Callable[P, R]) -> Compiled[P, R]:
    """The same function, run as native code: as decorator, or `step = ag.compile(step)`.

    It is recorded when it is first called with arguments of new shapes or dtypes: Python runs it once, and every op
    (forward, backward, updates in place) becomes part of a program of kernels that later calls run. Arguments are
    tensors, arrays, numbers, modules and nested lists, tuples and dicts of them.
    """
    return fn if isinstance(fn, Compiled) else Compiled(fn)


def _signature(tree: Any) -> Any:
    """What has to be equal for a recording to hold: nesting, shapes, dtypes, and the value of what is no number."""
    if isinstance(tree, Tensor):
        # Gradients are written to leaves, so that a recording holds for these leaves.
        return "tensor", tree.shape, tree.dtype.char, _Same(tree) if tree.requires_grad else None
    if isinstance(tree, np.ndarray | np.generic):
        return "array", tree.shape, tree.dtype.str
    if type(tree) is float:
        return float
    if isinstance(tree, list | tuple):
        return (type(tree), *map(_signature, tree))
    if isinstance(tree, dict):
        return (type(tree), *((k, _signature(v)) for k, v in tree.items()))
    if type(tree) in (int, bool, str, bytes, type(None)):
        return type(tree), tree
    return _Same(tree)


def _reaches_leaf(t: Tensor) -> bool:
    """Whether a backward pass from here, outside the recording, would have a leaf to write to."""
    assert t._entry is not None
    try:
        return t._entry.state == ACTIVE and any(e.op is None for e in tape(t._entry)[1])
    except RuntimeError:  # consumed by a pass inside
        return False


class _Same:
    """Equal to what holds the very same object."""

    __slots__ = ("of",)

    def __init__(self, of: Any) -> None:
        self.of = of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.of is other.of

    def __hash__(self) -> int:
        return id(self.of)


def _record(fn: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, Recorded]:
    """Run a function once under a tracer, and make its program."""
    tracer = Tracer()
    numbers = iter(range(1 << 30))

    def watched(x: Any) -> Any:
        k = next(numbers)
        return tracer.argument(k, x) if isinstance(x, _NUMERIC) or type(x) is float else x

    guards = guards_of(fn)
    try:
        with traced_by(tracer):
            passed_args, passed_kwargs = map_leaves(watched, (args, kwargs))
            result = fn(*passed_args, **passed_kwargs)
        for t in leaves(result):
            if isinstance(t, Tensor) and t.requires_grad and _reaches_leaf(t):
                raise TypeError(
                    f"compile: the result of {fn.__qualname__} requires a gradient, but what a compiled function "
                    "returns is not on a tape. Differentiate inside it (ag.compile(ag.value_and_grad(loss)), or a step "
                    "that calls backward()), or call it under ag.no_grad()"
                )
        entries: list[Entry] = []

        def output(entry: Entry) -> int:
            entries.append(entry)
            return len(entries) - 1

        with traced_by(tracer), set_grad_enabled(False):
            outline = map_leaves(lambda x: _Output(output(tracer.source(x))) if isinstance(x, Tensor) else x, result)
            reads = [(read, output(read.entry)) for read in tracer.reads]
            changes = [(put, None if e is None else output(e)) for put, e in tracer.effects()]
        program = Program(Graph(tracer), entries)
        finished = map_leaves(lambda x: wrap(x._value) if isinstance(x, Tensor) else x, result)
        return finished, Recorded(program, outline, reads, changes, [*guards, *tracer.guards])
    finally:
        tracer.close()


__all__ = ["Compiled", "compile"]
