"""Stencils: where elements read an array around themselves, a block first brings a tile of it into shared memory.

Threads then take the tile's elements, and find their neighbours there instead of each in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from ..compiler.nodes import Node
from ..compiler.phrases import Span, cast_of, element, letter

#: How far from its own place an element may read, along each axis, and the shared memory of a block for all tiles.
_REACH, _MOST_BYTES = 8, 32 << 10

#: For each axis, by its number, where a part of it begins and ends.
Part = Mapping[int, tuple[int, int]]


class Stencil(NamedTuple):
    """Reads of one array around each element: where from, first the row and then the column."""

    origin: Span  # what an element reads at its own place
    dtype: np.dtype[np.generic]
    places: dict[Node, tuple[int, int]]

    @property
    def first(self) -> tuple[int, int]:
        rows, columns = zip(*self.places.values(), strict=True)
        return min(rows), min(columns)

    def halo(self, axis: int) -> int:
        """By how much the tile of the array is longer than that of the elements."""
        along = [place[axis] for place in self.places.values()]
        return max(along) - min(along)


class Tiles:
    """The loops over a box whose last two axes are cut into tiles of `side` by `side`, for blocks of `threads`."""

    def __init__(self, box: Part, stencils: Sequence[Stencil], side: int, threads: int) -> None:
        self.box, self.stencils, self.side, self.threads = box, stencils, side, threads
        *self.others, self.rows, self.columns = [a for a, (low, high) in box.items() if high - low > 1]

    def declarations(self) -> list[str]:
        return [
            f"tile{k} = cuda.shared.array({self._height(s) * self._width(s)}, {cast_of(letter(s.dtype))})"
            for k, s in enumerate(self.stencils)
        ]

    def loops(self, loops: dict[int, str | int], last: Mapping[int, int]) -> tuple[list[str], list[str]]:
        """Lines before those for an element, and those that begin with it; fills in the index along each axis.

        `last` is the last element of each operand that anything reads.
        """
        lengths = {a: high - low for a, (low, high) in self.box.items()}
        counts = {a: lengths[a] for a in self.others}
        counts |= {a: -(-lengths[a] // self.side) for a in (self.rows, self.columns)}
        lines = [f"for t in range(cuda.blockIdx.x, {prod(counts.values())}, cuda.gridDim.x):"]
        for a, (low, _) in self.box.items():
            loops[a] = f"j{a}" if a in counts else low
        rest = "t"
        for a in reversed([*counts]):
            step, name = (self.side, f"c{a}") if a in (self.rows, self.columns) else (1, f"j{a}")
            lines.append(f"    {name} = {rest} % {counts[a]} * {step} + {self.box[a][0]}")
            lines.append(f"    t{a} = {rest} // {counts[a]}")
            rest = f"t{a}"
        corner: list[str | int] = [f"c{a}" if a in (self.rows, self.columns) else loops[a] for a in sorted(self.box)]
        lines.append("    cuda.syncthreads()")
        for k, s in enumerate(self.stencils):
            operand, width, (row, column) = s.origin.operand, self._width(s), s.first
            begin = element(s.origin._replace(base=s.origin.base + row * s.origin.strides[self.rows] + column), corner)
            at = f"{begin} + u // {width} * {s.origin.strides[self.rows]} + u % {width}"
            inside = f"min(max({at}, 0), {last[operand]})"
            lines.append(f"    for u in range(cuda.threadIdx.x, {self._height(s) * width}, {self.threads}):")
            lines.append(f"        tile{k}[u] = load_{letter(s.dtype)}(p{operand}, {inside}, {operand}, #)")
        lines += ["    cuda.syncthreads()"]
        lines += [f"    for u in range(cuda.threadIdx.x, {self.side * self.side}, {self.threads}):"]
        for a, at in ((self.rows, f"u // {self.side}"), (self.columns, f"u % {self.side}")):
            lines.append(f"        j{a} = c{a} + {at}")
        ends = f"j{self.rows} < {self.box[self.rows][1]} and j{self.columns} < {self.box[self.columns][1]}"
        lines += [f"        if {ends}:"]
        starts = [f"u{k} = u // {self.side} * {self._width(s)} + u % {self.side}" for k, s in enumerate(self.stencils)]
        return lines, starts

    def reads(self) -> dict[Node, str]:
        """How each neighbour is read."""
        found = {}
        for k, s in enumerate(self.stencils):
            row, column = s.first
            for node, (i, j) in s.places.items():
                found[node] = f"tile{k}[u{k} + {(i - row) * self._width(s) + j - column}]"
        return found

    def _height(self, s: Stencil) -> int:
        return self.side + s.halo(0)

    def _width(self, s: Stencil) -> int:
        return self.side + s.halo(1)


def tiles_of(box: Part, reads: Iterable[tuple[Node, Span]], side: int, threads: int) -> Tiles | None:
    """How to go through a box by tiles, if arrays are read around each element, by so many threads; else None."""
    long = [a for a, (low, high) in box.items() if high - low > 1]
    if len(long) < 2 or any(box[a][1] - box[a][0] < side for a in long[-2:]):
        return None
    rows, columns = long[-2:]
    groups: dict[tuple[int, tuple[int, ...]], list[tuple[Node, Span]]] = {}
    for node, span in reads:
        if span.operand >= 0 and span.strides[columns] == 1 and span.strides[rows] > 2 * _REACH:
            groups.setdefault((span.operand, span.strides), []).append((node, span))
    stencils = []
    room = _MOST_BYTES
    for group in groups.values():
        found = _stencil(group, rows)
        if found is not None:
            size = (side + found.halo(0)) * (side + found.halo(1)) * found.dtype.itemsize
            if size <= room:
                stencils.append(found)
                room -= size
    return Tiles(box, stencils, side, threads) if stencils else None


def _stencil(group: Sequence[tuple[Node, Span]], rows: int) -> Stencil | None:
    """Reads through spans of the same strides, if they are neighbours in more than one row."""
    begins = [s.base - sum(stride * low for stride, low in zip(s.strides, s.lower, strict=True)) for _, s in group]
    origin = sorted(begins)[len(begins) // 2]
    stride, places = group[0][1].strides[rows], {}
    for (node, _), begin in zip(group, begins, strict=True):
        row = round((begin - origin) / stride)
        places[node] = row, begin - origin - row * stride
    far = max(abs(n) for place in places.values() for n in place)
    if far > _REACH or len(set(places.values())) < 3 or len({row for row, _ in places.values()}) < 2:
        return None
    span = group[0][1]
    return Stencil(span._replace(base=origin, lower=(0,) * len(span.lower)), group[0][0].dtype, places)


__all__ = ["Stencil", "Tiles", "tiles_of"]
