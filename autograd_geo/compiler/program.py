"""A program of kernels: buffers at addresses, and one loop that calls kernel after kernel.

What is computed on the way lies in one arena, planned from when each value is last used. Inputs are read where they
lie; what the function updates is written where it lies, at once if nothing reads the old value later, else by a
copy at the end. Single numbers come and go through one block, packed and unpacked in one call each.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np

from ..tape import Entry
from ..value import SCALAR, Spec
from . import blas, scalars
from .graph import Graph
from .kernels import Kernel, kernel
from .loops import print_scan, print_scatter
from .machine import address_of, program_table, runner
from .moves import ZERO
from .nodes import CALL, CONST, INPUT, JOIN, MAP, PRODUCT, RESULT, SCAN, SCATTER, TABLE, Node
from .printer import print_region
from .records import Input
from .regions import Plan, Region, made_by, plan, reads_in_order, sources, storage
from .table import interpreter

_ALIGNED = 64
#: Arrays of up to this many bytes are copied in and out of memory that stays, larger ones are used where they lie.
SMALL = 2048


@dataclass(slots=True)
class Step:
    """One call of a kernel, or of an op in Python: the buffers that it uses."""

    what: Region | Node
    operands: list[Any]
    kernel: Kernel | None
    offsets: Sequence[int] = ()  # in bytes, where the kernel begins in each operand, if not at 0
    chunks: int = 0  # in which it is computed, of a range of `extent`; 0 if in one
    extent: int = 0


@dataclass(slots=True)
class Cell:
    """Memory outside that a call changes: number `slot` among the addresses; `old` is the input found there."""

    old: Node | None
    new: Node
    spec: Spec  # of what is outside: another shape of as many elements, perhaps
    slot: int = -1


class Program:
    """What a recorded function computes, as kernels over one arena. It may run in one thread at a time.

    `outputs` are entries; those numbered in `updates` are put where they belong outside, each with the input whose
    place it takes, if it is read. Those numbered in `looks` are looked at before anything outside changes: `look` runs
    the program up to there, `execute` the rest. Where ops are called back, which may fail, `execute` is all of it, and
    updates wait for `commit`.
    """

    def __init__(
        self, graph: Graph, outputs: Sequence[Entry], updates: Sequence[tuple[int, Entry | None]], looks: Sequence[int]
    ) -> None:
        nodes = scalars.lower(graph, outputs)
        updated = {k for k, _ in updates}
        # A number that came before all changes, such as a loss, still does, so that one can look at it first.
        change = min([nodes[k].rank for k in updated], default=0)
        first = [*looks, *[k for k, n in enumerate(nodes) if n.size == 1 and n.rank < change and k not in updated]]
        self.plan: Plan = plan(nodes, first if looks and updates else ())
        self.specs = [(n.shape, n.dtype) for n in nodes]
        self.inputs: dict[Node, Input] = {node: graph.tracer.inputs[entry] for entry, node in graph.inputs.items()}
        self.calls_back = any(isinstance(s, Node) and s.kind == CALL for s in self.plan.steps)
        self._looks = [self.plan.outputs[k] for k in looks]
        found: dict[Any, Cell] = {}
        taken: set[Node | None] = set()
        #: The cell of each update; those that change equal numbers in the same way share one.
        self.updates: list[Cell] = []
        for k, entry in updates:
            old, new = graph.inputs.get(entry) if entry else None, self.plan.outputs[k]
            key = (old, new) if old else k
            if key not in found:  # equal numbers that become different need a place each
                found[key] = Cell(None if old in taken else old, new, self.specs[k])
                taken.add(old)
            self.updates.append(found[key])
        self.cells = list(found.values())
        #: The nodes that are results, and what their memory holds.
        self.results = dict.fromkeys(n for k, n in enumerate(self.plan.outputs) if k not in updated)
        self._place_updates([self.plan.outputs[k] for k in first])
        self.steps = [self._step(s) for s in self.plan.steps]
        self._lay_out()
        self._encode()

    # --- steps ----------------------------------------------------------------------------------------------------

    def _place_updates(self, first: Sequence[Node]) -> None:
        """Find which updates can be written in place, after `first`; the others are copied there at the end."""
        at = self.plan.positions
        readers: dict[Node, list[Node]] = {}
        for node in at:
            for a in node.args:
                for root in sources(a):
                    readers.setdefault(root, []).append(node)
        looked_at = max([at[n] for n in first], default=-1)
        self.direct: dict[Node, Cell] = {}
        self.into: dict[Node, Node] = {}  # what is written into the memory of an input
        self.copied: list[Cell] = []
        for cell in self.cells:
            old, new = cell.old, cell.new
            free = not self.calls_back and new.kind != JOIN and at[new] > looked_at
            free = free and new not in self.direct and new not in self.results
            if free and old is not None:
                free = all(at[r] < at[new] or self._reads_before(r, old, new) for r in readers.get(old, ()))
            if free:
                self.direct[new] = cell
                if old is not None:
                    self.into[new] = old
            else:
                self.copied.append(cell)

    def _reads_before(self, reader: Node, old: Node, new: Node) -> bool:
        """Whether a node has read what is at each place of `old` when `new` is written there."""
        if self.plan.positions[reader] != self.plan.positions[new]:
            return False
        home = self.plan.home.get(new)
        return new.kind == RESULT or (home is not None and new.kind == MAP and reads_in_order(reader, old, home))

    def _step(self, what: Region | Node) -> Step:
        if isinstance(what, Region):
            p = print_region(what, self.plan, self.into)
            return Step(what, p.operands, kernel(p.source), p.offsets, p.chunks, p.extent)
        places = [storage(a) for a in what.args]
        if what.kind == PRODUCT:
            return Step(what, [*places, what, blas.parameters(what)], blas.product())
        if what.kind == SCAN:
            return Step(what, [*places, what], kernel(print_scan(what)))
        if what.kind == SCATTER:
            fixed = [np.where(what.data.table == ZERO, -1, what.data.table)] if len(places) == 1 else []
            return Step(what, [places[0], what, *places[1:], *fixed], kernel(print_scatter(what)))
        if what.kind == TABLE:
            return Step(what, [what.data.words, what.data.slots, *places, *what.data.results], interpreter())
        return Step(what, [*places, what], None)

    # --- memory -----------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        """Give what lies between a place in the arena, reused when it is dead."""
        elsewhere = {*self.results, *self.direct}
        last: dict[Any, int] = {}
        for k, step in enumerate(self.steps):
            for x in step.operands:
                if isinstance(x, Node):
                    last[x] = k
        kept = {cell.new for cell in self.copied}
        dying: dict[int, list[Node]] = {}
        for node, k in last.items():
            if node not in kept:
                dying.setdefault(k, []).append(node)
        self._offset: dict[Node, int] = {}
        free: dict[int, list[int]] = {}
        end = 0
        for k, step in enumerate(self.steps):
            for x in step.operands:
                if (
                    isinstance(x, Node)
                    and x not in self._offset
                    and x not in elsewhere
                    and x.kind not in (INPUT, CONST)
                ):
                    size = _room(x)
                    if free.get(size):
                        self._offset[x] = free[size].pop()
                    else:
                        self._offset[x] = end
                        end += size
            for x in dying.get(k, ()):
                if x in self._offset:
                    free.setdefault(_room(x), []).append(self._offset[x])
        self._memory = np.empty(end + _ALIGNED, np.uint8)
        self._base = address_of(self._memory) + -address_of(self._memory) % _ALIGNED
        self.arena_bytes = end

    # --- as arrays that compiled code can run through -----------------------------------------------------------------

    def _encode(self) -> None:
        self._slots: dict[Any, int] = {}
        self._addresses: list[int] = []
        self._kept: list[Any] = []
        #: For buffers from outside: which slots are so many bytes further on.
        self.further: dict[int, list[tuple[int, int]]] = {}
        #: Arrays that stay where they are, by slot: what is small is copied in and out of them.
        self.views: dict[int, np.ndarray[Any, Any]] = {}
        self._number_places()
        for cell in self.cells:
            cell.slot = self.slot(cell.old or cell)
        kernels: list[int] = []
        operands: list[int] = []
        starts: list[int] = []
        divided: list[int] = []
        segments: list[Any] = []
        first = 0
        self.ready: dict[Node, int] = {}  # how many kernels have run when a value is there

        def add(
            address: int, places: Sequence[Any], offsets: Sequence[int] = (), chunks: int = 0, extent: int = 0
        ) -> None:
            kernels.append(address)
            divided.extend([chunks, extent])
            starts.append(len(operands))
            operands.extend([self.slot(x, offset=o) for x, o in zip_longest(places, offsets, fillvalue=0)])

        for step in self.steps:
            if step.kernel is None:
                segments += [(first, len(kernels)), (step.what, [*map(self.slot, step.operands)])]
                first = len(kernels)
                continue
            add(step.kernel.address, step.operands, step.offsets, step.chunks, step.extent)
            for node in made_by(step.what):
                self.ready[node] = len(kernels)
                if node in self.plan.parts:
                    self.ready[self.plan.parts[node][0]] = len(kernels)
        self.main = len(kernels)
        segments.append((first, self.main))
        for cell in self.copied:
            add(kernel(_COPY).address, [cell.new, cell.old or cell, np.array([_bytes(cell.new)])])
        self.all = len(kernels)
        #: How many kernels run before one changes something outside.
        self.unchanged = min([self.ready[n] - 1 for n in self.direct], default=self.main)
        self.addresses = np.array(self._addresses or [0], np.int64)
        table = program_table(self.addresses, kernels, operands, starts, divided)
        self._kept.append(table)
        #: Where the table is that `machine.run` goes through.
        self.address = address_of(table[-1])
        #: Whether a step is in chunks, which threads share.
        self.divided = any(divided)
        run = runner(self.divided)
        self._segments, self._run = segments, run
        #: How many kernels run before Python looks.
        self.looked = max([self.ready[n] for n in self._looks if n in self.ready], default=0)
        self.look = partial(run, self.address, 0, self.looked)
        self.execute: Callable[[], Any] = (
            self._execute if self.calls_back else partial(run, self.address, self.looked, self.all)
        )
        self.commit = partial(run, self.address, self.main, self.all)

    def _number_places(self) -> None:
        """The block of single numbers: those read, those read and changed, those changed, results."""
        used = {x for step in self.steps for x in step.operands if isinstance(x, Node)}
        used |= {cell.old for cell in self.cells if cell.old is not None}
        old = {cell.old for cell in self.cells}
        self.fed = [n for n in self.inputs if n in used and n not in old]
        numbers = [n for n in self.fed if is_number(n)]
        changed = sorted([c for c in self.cells if is_number(c)], key=lambda c: c.old is None)
        #: What is packed before a run, and unpacked after it, in order.
        self.packed: list[Node] = [*numbers, *[c.old for c in changed if c.old is not None]]
        results = [n for n in self.results if is_number(n)]
        self.unpacked: list[Node | Cell] = [*changed, *results]
        keys = [*numbers, *[c.old or c for c in changed], *results]
        block: Any = np.zeros(len(keys) + 1)
        base = address_of(block)
        for k, key in enumerate(keys):
            self.slot(key, base + 8 * k)
        self.pack = partial(struct.Struct(f"{len(self.packed)}d").pack_into, block, 0)
        self.unpack = partial(
            struct.Struct(f"{len(self.unpacked)}d").unpack_from, block, 8 * (len(keys) - len(self.unpacked))
        )

    def slot(self, x: Any, address: int | None = None, offset: int = 0) -> int:
        """The number among the addresses of a buffer, or of where it is `offset` bytes further on."""
        if isinstance(x, Node) and x in self.direct:
            x = self.direct[x].old or self.direct[x]
        key: Any = x if isinstance(x, Node) else id(x)
        if offset:
            whole, key = self.slot(x), (key, offset)
            if key not in self._slots and not self._addresses[whole]:
                self.further.setdefault(whole, []).append((len(self._addresses), offset))
            address = self._addresses[whole] and self._addresses[whole] + offset
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = len(self._addresses)
            self._kept.append(x)
            self._addresses.append(self._address(x, slot) if address is None else address)
        return slot

    def _address(self, x: Any, slot: int) -> int:
        """Where a buffer lies; 0 for those that are put there in each call."""
        if isinstance(x, Node):
            if x in self._offset:
                return self._base + self._offset[x]
            if x.kind == CONST:
                x = x.data
            elif _bytes(x) <= SMALL and (x in self.results or (x.kind == INPUT and not self.inputs[x].private)):
                x = self.views[slot] = np.empty(x.shape, x.dtype)
        if isinstance(x, np.ndarray):
            array = np.ascontiguousarray(x)
            self._kept.append(array)
            return address_of(array)
        return 0

    def offset(self, node: Node) -> int | None:
        """Where in the arena a value lies; None for what lies elsewhere."""
        return self._offset.get(node)

    # --- running ----------------------------------------------------------------------------------------------------

    def _execute(self) -> None:
        for segment in self._segments:
            if isinstance(segment[0], Node):
                self._call(*segment)
            else:
                self._run(self.address, *segment)

    def _call(self, node: Node, slots: Sequence[int]) -> None:
        """An op that has no kernel: called back in Python."""
        op, attrs = node.data
        values = []
        for a, slot in zip(node.args, slots, strict=False):
            value = self._array(slot, a).copy()
            values.append(np.float64(value) if is_number(a) else value)
        self._array(slots[-1], node)[...] = op.evaluate(values, attrs)

    def _array(self, slot: int, node: Node) -> np.ndarray[Any, Any]:
        """The memory of a buffer as an array of the node's shape."""
        memory: Any = (ctypes.c_byte * _bytes(node)).from_address(int(self.addresses[slot]))
        return np.ndarray(node.shape, node.dtype, memory)


def is_number(x: Node | Cell) -> bool:
    """Whether a value is one float64, which Python holds as a float."""
    return (x.spec if isinstance(x, Cell) else (x.shape, x.dtype)) == SCALAR


def _bytes(node: Node) -> int:
    return node.size * node.dtype.itemsize


def _room(node: Node) -> int:
    """The bytes that a node takes in the arena."""
    return -(-max(_bytes(node), 1) // _ALIGNED) * _ALIGNED


_COPY = (
    "def kernel(a, o):\n    p0 = a[o[0]]\n    p1 = a[o[1]]\n    p2 = a[o[2]]\n"
    "    for i in range(load_l(p2, 0, 2, 3)):\n        store_b(p1, i, load_b(p0, i, 0, 3), 1, 3)\n"
)


__all__ = ["SMALL", "Cell", "Program", "Step", "is_number"]
