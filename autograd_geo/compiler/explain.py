"""What the compiler made of a function, as numbers and texts: its steps, their kernels, and why they end where they do.

`explain` reads this off the plan of each recording. The reasons are the planner's own rules (`regions.Reason`); times
are measured by `profile`; `report` prints it all.
"""

from __future__ import annotations

import inspect
import linecache
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from ..names import printable
from ..tape import GRADIENTS, Entry, line_at
from ..tensor import Tensor
from . import report
from .graph import is_ours
from .moves import Move, Shape
from .nodes import GATHER, INPUT, MAP, MOVE, PRODUCT, TABLE, Node, unknown_types
from .profile import Times
from .profile import measure as measured
from .program import Program, Step
from .regions import Crossing, Plan, Reason, Region, crossings, made_by, sources, storage
from .table import Table

if TYPE_CHECKING:
    from .function import Compiled, Recorded


@dataclass(frozen=True, slots=True)
class Operation:
    """An op where the user wrote it."""

    op: str
    name: str | None  # the variable that its value was assigned to, or the name the user gave it
    where: str | None  # file and line
    code: str  # that line

    def __str__(self) -> str:
        return self.op + (f" {self.name!r}" if self.name else "") + (f" at {self.where}" if self.where else "")


@dataclass(frozen=True, slots=True)
class Operand:
    """A buffer that a kernel uses."""

    value: str
    shape: Shape
    dtype: str
    access: str  # "read", "written" or "read and written"


@dataclass(frozen=True, slots=True)
class KernelInfo:
    """A distinct kernel: its source, the seconds that it took to compile or load, operands of its first call.

    A table counts as one: its source has those of the kernels that do its instructions.
    """

    number: int
    source: str
    seconds: float
    operands: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class StepInfo:
    """One step of a program: a call of a kernel, or of an op in Python (`kernel` is None, `called_back` says why)."""

    number: int
    kind: str  # "loops", "product", "scatter", "scan", "table" or "call"
    operations: tuple[Operation, ...]
    shape: Shape  # that it loops over; of the result where it is no loop; a table's length, in instructions
    kernel: KernelInfo | None
    calls: int  # steps of this program that call the same
    read: int  # bytes of distinct elements, whatever a cache saves or an access repeats
    written: int
    seconds: float | None  # of one call; None if not measured
    ends: tuple[Reason, ...]  # why values leave it through memory
    called_back: str = ""

    @property
    def label(self) -> str:
        """How a report calls it: by the number of its kernel, or by its op."""
        return self.operations[0].op if self.kernel is None else str(self.kernel.number)

    @property
    def bandwidth(self) -> float | None:
        """Bytes a second, where that says something: for loops over more than a page of memory."""
        if self.kind != "loops" or not self.seconds or self.read + self.written < 4096:
            return None
        return (self.read + self.written) / self.seconds


@dataclass(frozen=True, slots=True)
class Boundary:
    """A value that one step leaves in memory for another."""

    value: Operation
    shape: Shape
    bytes: int
    step: int
    reader: int | None  # the number of the step that reads it; None for a result
    reason: Reason
    waits_for: Operation | None  # what the reader needs besides, where that is the reason


@dataclass(frozen=True)
class RecordingInfo:
    """One recording: for which arguments and while what Python reads comes out the same, its steps and boundaries."""

    arguments: str
    holds: tuple[str, ...]
    steps: tuple[StepInfo, ...]
    boundaries: tuple[Boundary, ...]
    seconds: float | None  # of all steps in order; None if not measured
    arena_bytes: int
    copied_bytes: int  # of updates that are put in place only when all steps are done

    @cached_property
    def groups(self) -> tuple[tuple[StepInfo, ...], ...]:
        """The steps that do the same, together; in the order of their first."""
        found: dict[Any, list[StepInfo]] = {}
        for step in self.steps:
            what = step.kernel.number if step.kernel else step.operations
            found.setdefault((what, step.shape), []).append(step)
        return tuple(map(tuple, found.values()))

    @property
    def called_back(self) -> tuple[StepInfo, ...]:
        """The steps that no kernel does."""
        return tuple(step for step in self.steps if step.kernel is None)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What became of a function. Prints as tables, and shows itself in a notebook."""

    function: str
    status: str  # how often it was recorded, and what its next call does
    recordings: tuple[RecordingInfo, ...]  # oldest first
    kernels: tuple[KernelInfo, ...]  # by number; the same source is one kernel in all recordings

    def __str__(self) -> str:
        return report.as_text(self)

    def _repr_html_(self) -> str:
        return report.as_html(self)


def explain(compiled: Compiled[..., Any], measure: bool = True) -> Explanation:
    """What the compiler made of a function so far; see `Compiled.explain`."""
    kernels: dict[str, KernelInfo] = {}
    found = tuple(_recording_info(compiled, r, kernels, measure) for r in recorded(compiled))
    name = printable(getattr(compiled, "__qualname__", type(compiled).__name__))
    return Explanation(name, _status(name, len(found)), found, tuple(kernels.values()))


def recorded(compiled: Compiled[..., Any]) -> list[Recorded]:
    """The recordings of a function, oldest first."""
    with compiled._lock:
        found = list(compiled._recordings)
    return sorted(found, key=lambda r: min((n.rank for n in r.program.plan.positions), default=0))


def source(compiled: Compiled[..., Any], k: int | None = None) -> str:
    """The kernels of a function as text; see `Compiled.source`."""
    explanation = explained(compiled)
    kernels = explanation.kernels
    if k is not None and not 0 <= k < len(kernels):
        raise IndexError(f"{explanation.function} has {len(kernels)} kernels, numbered from 0; there is no kernel {k}")
    steps = [step for r in explanation.recordings for step in r.steps]
    return "\n\n".join(
        report.kernel_text(kernel, [step for step in steps if step.kernel is kernel])
        for kernel in (kernels if k is None else kernels[k : k + 1])
    )


def explained(compiled: Compiled[..., Any]) -> Explanation:
    """An explanation without times. Raises RuntimeError if there is nothing to explain yet."""
    explanation = explain(compiled, measure=False)
    if not explanation.recordings:
        raise RuntimeError(explanation.status)
    return explanation


def _status(name: str, recorded: int) -> str:
    from .function import MOST_RECORDINGS

    if not recorded:
        return f"{name} is not compiled yet: it is recorded in the first call that succeeds"
    if recorded < MOST_RECORDINGS:
        times = "once" if recorded == 1 else f"{recorded} times"
        return f"{name} was recorded {times}; it is again for arguments of other shapes, dtypes or settings"
    return (
        f"{name} was recorded {recorded} times, for ever new shapes or values that Python reads: where none of these "
        "recordings holds, it runs uncompiled"
    )


# --- one recording ------------------------------------------------------------------------------------------------


def _recording_info(
    compiled: Compiled[..., Any], recorded: Recorded, kernels: dict[str, KernelInfo], measure: bool
) -> RecordingInfo:
    program, outline = recorded.program, recorded.outline
    operations = Operations(program)
    boundaries = tuple(_boundary(crossing, program.plan, operations) for crossing in crossings(program.plan))
    times = measured(program, outline) if measure else None
    return RecordingInfo(
        arguments=arguments_text(compiled, outline.args, outline.kwargs)
        + ("" if outline.mode & GRADIENTS else ", under no_grad"),
        holds=tuple(_condition(read) for read, _ in outline.reads),
        steps=tuple(_step_infos(program, operations, kernels, boundaries, times)),
        boundaries=boundaries,
        seconds=None if times is None else times.whole,
        arena_bytes=program.arena_bytes,
        copied_bytes=sum(_bytes(cell.new) for cell in program.copied),
    )


def _boundary(crossing: Crossing, plan: Plan, operations: Operations) -> Boundary:
    value, reader, reason, waits_for = crossing
    return Boundary(
        operations(value), value.shape, _bytes(value), plan.positions[value],
        None if reader is None else plan.positions[reader], reason,
        None if waits_for is None else operations(waits_for),
    )  # fmt: skip


def _step_infos(
    program: Program, operations: Operations, kernels: dict[str, KernelInfo], boundaries: Sequence[Boundary],
    times: Times | None,
) -> Iterator[StepInfo]:  # fmt: skip
    ends: dict[int, dict[Reason, None]] = {}
    for b in boundaries:
        ends.setdefault(b.step, {})[b.reason] = None
    alike = [_same(step) for step in program.steps]
    calls = Counter(alike)
    traffic = Traffic(program.plan.stored)
    for number, step in enumerate(program.steps):
        what, kernel, same, table = step.what, step.kernel, alike[number], _table(step.what)
        if kernel is not None and same not in kernels:
            operands = tuple(_operands(step, program, operations))
            compiled = [kernel] if table is None else table.kernels
            kernels[same] = KernelInfo(len(kernels), same, sum(k.seconds for k in compiled), operands)
        shape = what.shape if table is None else (table.length,)
        yield StepInfo(
            number, _kind(what), operations.of(what), shape, kernels[same] if kernel else None, calls[same],
            *traffic(step), None if times is None else times.steps[number], tuple(ends.get(number, ())),
            "" if kernel else _why_called_back(what),
        )  # fmt: skip


def _same(step: Step) -> Any:
    """What steps that do the same have in common: the source of their kernel, or the op that is called."""
    table = _table(step.what)
    if table is not None:
        return table.text()
    return step.kernel.source if step.kernel is not None else step.what.data[0]  # type: ignore[union-attr]


def _table(what: Region | Node) -> Table | None:
    """The table that a step runs, if it does."""
    return what.data if isinstance(what, Node) and what.kind == TABLE else None


def _kind(what: Region | Node) -> str:
    return "loops" if isinstance(what, Region) else what.kind


def _bytes(node: Node) -> int:
    return node.size * node.dtype.itemsize


def _operands(step: Step, program: Program, operations: Operations) -> Iterator[Operand]:
    kind, made = _kind(step.what), set(made_by(step.what))
    changed = {program.into.get(n) for n in made}
    tables = iter(_TABLES.get(kind, [("table of indices", "read")] * len(step.operands)))
    for x in step.operands:
        if isinstance(x, Node):
            value = str(operations(x))
            access = "read and written" if x in changed else "written" if x in made else "read"
        else:
            value, access = next(tables)
        yield Operand(value, x.shape, str(x.dtype), access)


#: What operands are that are no values, and how they are used.
_TABLES = {PRODUCT: [("sizes", "read")], TABLE: [("instructions", "read"), ("numbers on the way", "read and written")]}


def _why_called_back(node: Any) -> str:
    unknown = sorted(str(d) for d in unknown_types(node.args, node.dtype))
    if unknown:
        return f"kernels do not compute in {' and '.join(unknown)}; use float64 or float32"
    if is_ours(node.data[0]):
        return "no loops are known for it, so NumPy does it"
    return "what its code does may change; write it as ag.pointwise, or without an op, to have it compiled"


def _condition(read: Any) -> str:
    """What Python read of a value, and where."""
    expected = np.array2string(np.asarray(read.expected), threshold=6, edgeitems=2).replace("\n", "")
    where, code = _place(read.code, read.lasti)
    label = read.entry.label
    what = (read.entry.op.name if read.entry.op else "a value") + (f" {label!r}" if label else "")
    return printable(f"{what} is {expected}" + (f", read at {where}: {code}" if where else ""))


class Traffic:
    """Counts the bytes that steps have to move; of what is gathered, as many elements as there are positions."""

    def __init__(self, stored: set[Node]) -> None:
        self._stored = stored
        self._counted: dict[tuple[tuple[Move, int], ...], int] = {}

    def __call__(self, step: Step) -> tuple[int, int]:
        """Bytes read and written by one call: each element that is used counts once."""
        what = step.what
        if isinstance(what, Node):
            read = sum(_bytes(n) for n in dict.fromkeys(n for a in what.args for n in sources(a)))
            written = sum(map(_bytes, made_by(what)))
            if what.kind == TABLE:
                return read + what.data.size + what.data.slots.nbytes, written + what.data.slots.nbytes
            return read + (0 if what.kind == PRODUCT else _tables(step)), written
        maps = {n for n in what.nodes if n.kind == MAP}
        whole: set[Node] = set()
        gathered = 0
        parts: dict[Node, dict[tuple[Move, int], None]] = {}
        for a in dict.fromkeys(a for n in what.nodes for a in n.args if a not in maps):
            root = storage(a)
            if root is not None:
                whole.add(root)
                continue
            if a.kind == GATHER:
                source, index = (next(iter(sources(b))) for b in a.args)
                whole.add(index)
                gathered += min(_bytes(a), _bytes(source))
                continue
            for k, b in enumerate(a.args):
                root = storage(b)
                assert root is not None
                parts.setdefault(root, {})[a.data, k] = None
        read = gathered + sum(map(_bytes, whole))
        read += sum(self._count(tuple(p)) * n.dtype.itemsize for n, p in parts.items() if n not in whole)
        return read + _tables(step), sum(_bytes(n) for n in what.nodes if n in self._stored)

    def _count(self, moves: tuple[tuple[Move, int], ...]) -> int:
        """How many elements of one source these index maps take together."""
        if moves not in self._counted:
            taken = np.logical_or.reduce([move.taken(k) for move, k in moves])
            self._counted[moves] = int(np.count_nonzero(taken))
        return self._counted[moves]


def _tables(step: Step) -> int:
    return sum(x.nbytes for x in step.operands if isinstance(x, np.ndarray))


# --- what the user wrote ------------------------------------------------------------------------------------------


class Operations:
    """The ops of a program as the user wrote them."""

    def __init__(self, program: Program) -> None:
        found = [n.entry for node in program.plan.positions for n in (node, *node.args)]
        tables = [table for what in program.plan.steps if (table := _table(what)) is not None]
        found += [entry for table in tables for entry in table.origins]
        entries = {entry.number: entry for entry in found if entry is not None}
        self._named = set(_assigned([entries[k] for k in sorted(entries)]))
        self._known: dict[Any, Operation] = {}

    def __call__(self, node: Node) -> Operation:
        """The op that a node is part of."""
        if node.entry is None:
            return Operation("constant", None, None, "")
        return self._operation(node.entry, "input" if node.kind == INPUT else "copy")

    def _operation(self, entry: Entry, otherwise: str = "") -> Operation:
        op = entry.op.name if entry.op is not None else otherwise
        key = op, entry.name, entry.code, entry.lasti, entry in self._named
        if key not in self._known:
            name = entry.label if entry in self._named else entry.name
            where = _place(entry.code, entry.lasti)
            self._known[key] = Operation(op, None if name is None else printable(name), *where)
        return self._known[key]

    def of(self, what: Region | Node) -> tuple[Operation, ...]:
        """The ops that a step computes, each once, the moves that its loops read through among them."""
        table = _table(what)
        if table is not None:
            return tuple(o for entry, n in table.origins.items() for o in repeat(self._operation(entry), n))
        nodes = [what] if isinstance(what, Node) else list(computed(what))
        entries = {node.entry or node: node for node in reversed(nodes)}
        return tuple(self(node) for node in reversed(entries.values()))


def computed(region: Region) -> Iterator[Node]:
    """What the loops of a region do, in order: its nodes, and before each the moves through which it reads."""
    moves: set[Node] = set()
    for node in region.nodes:
        for a in node.args:
            if a.kind == MOVE and storage(a) is None and a not in moves:
                moves.add(a)
                yield a
        yield node


def _assigned(entries: Sequence[Entry]) -> Iterator[Entry]:
    """The entries whose label is theirs: of several ops that one call ran, those of the kind that came last."""
    for _, group in groupby(entries, lambda e: (e.code, e.lasti)):
        run = list(group)
        yield from (e for e in run if e.op is run[-1].op)


def _place(code: Any, lasti: int) -> tuple[str | None, str]:
    """File and line of an instruction, and the text of that line."""
    if code is None:
        return None, ""
    file, line = line_at(code, lasti)
    return printable(f"{os.path.basename(file)}:{line}"), printable(linecache.getline(file, line).strip())


def arguments_text(fn: Any, args: Any, kwargs: Any) -> str:
    """What a recording's arguments are, by name: shapes and dtypes, and the values that are part of it."""
    try:
        given = inspect.signature(fn).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        given = {**{str(k): a for k, a in enumerate(args)}, **kwargs}
    text = ", ".join(f"{name}: {_outline(value)}" for name, value in given.items()) or "no arguments"
    return printable(text if len(text) <= 300 else text[:297] + "...")


def _outline(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray | np.generic):
        leaf = "this leaf, " if isinstance(value, Tensor) and value.requires_grad else ""
        return f"{leaf}{value.dtype} {value.shape}"
    if type(value) is float:
        return "float"
    if isinstance(value, list | tuple):
        inside = ", ".join(map(_outline, value[:4])) + (", ..." if len(value) > 4 else "")
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_outline(v)}" for k, v in list(value.items())[:4]) + "}"
    return repr(value)[:40] if type(value) in (int, bool, str, bytes, type(None)) else type(value).__name__
