"""Where a region reads and writes: spans over its index space, and the boxes in which each access goes through one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from math import prod
from typing import Any

import numpy as np

from .moves import APART, ZERO, Positions, Shape, c_strides
from .nodes import GATHER, MAP, REDUCE, Node
from .phrases import Box, Span
from .regions import Plan, Region, storage
from .stages import stages

#: More boxes than this make a kernel long to compile; then irregular reads go through tables of indices.
MOST_BOXES = 30
#: With more boxes, what lies around a large one is gone through in few loops, which ask where they are.
FEW_BOXES = 4
#: Regions with so many values are computed in chunks, which threads share, each of about this many.
CHUNK = 1 << 19
MOST_CHUNKS = 64


class Access:
    """How a node is read or written over the region's index space: spans, or a table per operand.

    A gather has two spans, of its source and of the positions in it.
    """

    __slots__ = ("positions", "spans", "tables")

    def __init__(
        self, spans: list[Span], tables: Sequence[tuple[int, int]] = (), positions: Positions | None = None
    ) -> None:
        self.spans, self.tables, self.positions = spans, tables, positions


class Accesses:
    """How a region of a plan reads and writes; the nodes in `into` are written into another's buffer."""

    def __init__(self, region: Region, plan: Plan, into: Mapping[Node, Node]) -> None:
        self.region, self.plan, self.into = region, plan, into
        self.shape = region.shape
        self.operands: list[Any] = []
        self.offsets: list[int] = []
        self._number: dict[Any, int] = {}
        self.stages = stages(region, plan.stored)
        self.rows = region.rows or 0
        self.reads: dict[Node, Access] = {}
        self.writes: dict[Node, Access] = {}
        #: Where a row of what later loops need is kept.
        self.kept: dict[Node, Access] = {}
        #: What stands for a value per row of this region.
        self.spread: dict[Node, Node] = {}
        self.scalars: dict[Node, str] = {}
        #: How many chunks of the first axis there are, 0 for small regions; where each leaves its part of reductions.
        self.chunks = 0
        self.parts: dict[Node, int] = {}
        self.axis: int | None = None  # that is divided into chunks

    def operand(self, x: Any, key: Any = None) -> int:
        key = self.into.get(x, x) if key is None else key
        if key not in self._number:
            self._number[key] = len(self.operands)
            self.operands.append(x)
        return self._number[key]

    def prepare(self) -> tuple[Any, ...]:
        """Find out how everything is accessed; returns what regions with the same source have in common."""
        region, full = self.region, self.shape
        inside = {n for n in region.nodes if n.kind == MAP}
        for node in region.nodes:
            for a in node.args:
                value = region.row_value(a)
                if value is not None:
                    self.spread[a] = value
                if value is None and a not in inside and a not in self.reads and a not in self.scalars:
                    root = storage(a)
                    if root is not None and a.size == 1:
                        self.scalars[a] = f"s{self.operand(root)}"
                    else:
                        self.reads[a] = self._read(a)
        self._limit_boxes()
        for node in region.nodes:
            if node.kind == REDUCE:
                kept = iter(c_strides(node.shape))
                strides = tuple(0 if a in node.data[1] else next(kept) for a in range(len(full)))
                self.writes[node] = Access([self._span(node.args[0], self.operand(node), strides)])
            elif node in self.plan.parts:
                join, start = self.plan.parts[node]
                self.writes[node] = Access([self._span(node, self.operand(join), c_strides(join.shape), base=start)])
            elif node in self.plan.stored:
                self.writes[node] = Access([self._span(node, self.operand(node), c_strides(node.shape))])
        self._divide()
        for node in self.stages.kept:
            row = full[self.rows :]
            buffer = self.operand(Node(MAP, (self.chunks or 1, *row), node.dtype), ("row of", node))
            self.kept[node] = Access([self._span(node, buffer, (*[0] * self.rows, *c_strides(row)))])
        self._begin_where_used()
        local = {n: k for k, n in enumerate(region.nodes)}
        places = {a: (k, "read") for k, a in enumerate(self.reads)} | {
            a: (local[v], "row") for a, v in self.spread.items()
        }
        nodes = tuple(
            (
                node.kind, node.dtype.char, id(node.data) if node.kind == MAP else node.data, node.shape == full,
                tuple(local[a] if a in local else places.get(a) or (self.scalars[a], a.dtype.char) for a in node.args),
            )
            for node in region.nodes
        )  # fmt: skip
        accesses = tuple(
            (a.dtype.char, tuple(x.spans), tuple(x.tables), x.positions and (x.positions, a.args[1].dtype.char))
            for group in (self.reads, self.writes, self.kept)
            for a, x in group.items()
        )
        return (
            full,
            region.rows,
            self.chunks,
            nodes,
            accesses,
            *(tuple(local[n] for n in group) for group in (self.writes, self.kept)),
        )

    def _divide(self) -> None:
        """Divide a large region into chunks of its first axis, unless a reduction needs the whole axis in one place.

        How many there are depends on the region alone, so that sums are the same for any number of threads.
        """
        shape, rows = self.region.shape, self.region.rows
        axis = next((a for a, n in enumerate(shape) if n > 1), 0)
        work = prod(shape) * len(self.region.nodes)
        by_row = rows is not None and axis < rows
        if work < 2 * CHUNK or (not by_row and (len(self.stages.inside) > 1 or any(self.stages.between))):
            return
        whole = []
        for node in self.region.nodes:
            if node.kind == REDUCE and not (by_row and self.region.is_per_row(node)):
                strides = self.writes[node].spans[0].strides
                if any(strides) and not strides[axis]:
                    return
                whole += [] if any(strides) else [node]
        self.chunks = min(MOST_CHUNKS, work // CHUNK)
        self.parts = {n: self.operand(Node(MAP, (self.chunks,), n.dtype), ("parts of", n)) for n in whole}

    def _begin_where_used(self) -> None:
        """Count the elements of each operand from the first that is used: steps of a loop then have one source."""
        accesses = [*self.reads.values(), *self.writes.values(), *self.kept.values()]
        first: dict[int, int] = {}
        for access in accesses:
            for s in access.spans:
                first[s.operand] = min(first.get(s.operand, s.base), s.base)
        whole = {k for access in accesses for _, k in access.tables} | {int(name[1:]) for name in self.scalars.values()}
        for k in whole:
            first[k] = 0
        self.offsets = [
            first.get(k, 0) * x.dtype.itemsize if isinstance(x, Node) else 0 for k, x in enumerate(self.operands)
        ]
        for access in accesses:
            access.spans = [s._replace(base=s.base - first[s.operand]) for s in access.spans]

    def _span(
        self, a: Node, operand: int, strides: Shape, box: tuple[Shape, Shape] | None = None, base: int = 0
    ) -> Span:
        """An access to a node over the region's index space: its own, or, for one value per row, that of the rows."""
        full = self.shape
        lower, upper = box or ((0,) * len(a.shape), a.shape)
        if a.shape != full:
            k, row = self.rows, full[self.rows :]
            zeros = (0,) * len(row)
            lower, upper, strides = (*lower[:k], *zeros), (*upper[:k], *row), (*strides[:k], *zeros)
        return Span(lower, upper, operand, base, strides)

    def _read(self, a: Node) -> Access:
        """How an argument from elsewhere is read."""
        if a.kind == GATHER:
            source, index = (self.operand(storage(x)) for x in a.args)
            how: Positions = a.data
            spans = [self._span(a, source, how.strides), self._span(a, index, how.index_strides)]
            return Access(spans, positions=how)
        root = storage(a)
        if root is not None:
            return Access([self._span(a, self.operand(root), c_strides(a.shape))])
        if a.data.pieces is None:
            return self._by_table(a)
        operands = [self.operand(storage(x)) for x in a.args]
        return Access(
            [
                self._span(a, -1 if p.source < 0 else operands[p.source], p.strides, (p.lower, p.upper), p.base)
                for p in a.data.pieces
            ]
        )

    def _by_table(self, a: Node) -> Access:
        number = a.data.table >> APART
        tables = []
        for k, source in enumerate(a.args):
            if len(a.args) == 1:
                table = np.where(a.data.table == ZERO, -1, a.data.table)
            else:
                table = np.where(number == k, a.data.table - (k << APART), -1)
            tables.append((self.operand(np.ascontiguousarray(table), (id(a.data), k)), self.operand(storage(source))))
        return Access([self._span(a, -1, c_strides(a.shape))], tables)

    def simplify(self) -> None:
        """Axes of length one go, and neighbouring axes that every access walks through as one become one."""
        accesses = [*self.reads.values(), *self.writes.values(), *self.kept.values()]
        for axis in reversed(range(len(self.shape))):
            if self.shape[axis] == 1:
                self._drop(accesses, axis)
        axis = 0
        while axis + 1 < len(self.shape):
            m, n = self.shape[axis : axis + 2]
            if axis + 1 != self.rows and all(
                s.strides[axis] == s.strides[axis + 1] * n
                and (s.lower[axis], s.upper[axis], s.lower[axis + 1], s.upper[axis + 1]) == (0, m, 0, n)
                for access in accesses
                for s in access.spans
            ):
                self.shape = (*self.shape[:axis], m * n, *self.shape[axis + 2 :])
                self.rows -= axis + 1 < self.rows
                for access in accesses:
                    access.spans = [
                        s._replace(
                            lower=(*s.lower[:axis], 0, *s.lower[axis + 2 :]),
                            upper=(*s.upper[:axis], m * n, *s.upper[axis + 2 :]),
                            strides=(*s.strides[:axis], *s.strides[axis + 1 :]),
                        )
                        for s in access.spans
                    ]
            else:
                axis += 1

    def _drop(self, accesses: Sequence[Access], axis: int) -> None:
        def without(t: Shape) -> Shape:
            return t[:axis] + t[axis + 1 :]

        self.shape = without(self.shape)
        self.rows -= axis < self.rows
        for access in accesses:
            access.spans = [
                s._replace(lower=without(s.lower), upper=without(s.upper), strides=without(s.strides))
                for s in access.spans
            ]

    def _cuts(self) -> list[list[int]]:
        """Where along each axis a span of some read begins or ends."""
        cuts: list[set[int]] = [{0, n} for n in self.shape]
        for access in self.reads.values():
            for s in access.spans:
                for axis, ends in enumerate(zip(s.lower, s.upper, strict=True)):
                    cuts[axis].update(ends)
        return [sorted(c) for c in cuts]

    def boxes(self, axes: Sequence[int]) -> list[Box]:
        """These axes in boxes, in each of which a read goes through one span, except in the margins of a large one."""
        cuts = self._cuts()
        cells: list[Box] = list(product(*[list(pairwise(cuts[a])) for a in axes]))
        if len(cells) <= FEW_BOXES:
            return cells
        whole = [(0, self.shape[a]) for a in axes]
        largest = max(cells, key=_size)
        if 4 * _size(largest) < 3 * _size(whole):
            return cells
        margins = []
        for k, (begin, end) in enumerate(largest):
            for part in ((0, begin), (end, whole[k][1])):
                if part[0] < part[1]:
                    margins.append((*largest[:k], part, *whole[k + 1 :]))
        return [*margins, largest]

    def _limit_boxes(self) -> None:
        """Let the reads of most spans go through tables where there would be too many boxes."""
        axes = range(len(self.shape))
        while len(self.boxes(axes[: self.rows])) * len(self.boxes(axes[self.rows :])) > MOST_BOXES:
            worst = max(self.reads, key=lambda n: len(self.reads[n].spans))
            self.reads[worst] = self._by_table(worst)


def _size(box: Box) -> int:
    return prod(high - low for low, high in box)


__all__ = ["Access", "Accesses"]
