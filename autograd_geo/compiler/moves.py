"""Index maps: where each element of an op that only moves data comes from, derived by running the op on indices.

Roll, pad, slice, transpose, flip, concatenate, item assignment ...: their NumPy code says it all. Run on arrays of
numbered elements, it gives the source of every element of the result; most such maps are affine on a few boxes,
and are found to be so, which makes loops of them that vectorise. The others keep their table of indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..op import Op

Shape = tuple[int, ...]
MOST_BOXES = 27
ZERO = -(1 << 60)  # the source of an element that is 0, whatever the inputs
_LEAP = 1 << 39
APART = 40  # element i of source k has number (k << APART) + i, so that no stretch runs from one into the next


class Piece(NamedTuple):
    """On the box lower <= i < upper: element base + sum(strides * (i - lower)) of source number `source`.

    The element is 0 where `source` is -1.
    """

    lower: Shape
    upper: Shape
    source: int
    base: int
    strides: Shape


class Move:
    """An index map. `table` says, for each element of the result, which element of which source it is, or ZERO."""

    __slots__ = ("_inverse", "_pieces", "shape", "sources", "table")

    def __init__(self, table: np.ndarray[Any, Any], sources: Sequence[Shape]) -> None:
        self.table, self.sources, self.shape = table, tuple(sources), table.shape
        self._pieces: Sequence[Piece] | bool | None = False
        self._inverse: Move | bool | None = False

    @property
    def pieces(self) -> Sequence[Piece] | None:
        """The map as affine pieces, None if it is irregular."""
        if self._pieces is False:
            self._pieces = _pieces(self.table)
        return self._pieces  # type: ignore[return-value]

    @property
    def inverse(self) -> Move | None:
        """The map back, which is also the transpose; None where an element went to more than one place."""
        if self._inverse is False:
            flat = self.table.reshape(-1)
            (shape,) = self.sources
            used = flat[flat != ZERO]
            self._inverse = None
            if np.bincount(used, minlength=1).max(initial=0) <= 1:
                table = np.full(prod(shape), ZERO, np.int64)
                table[used] = np.flatnonzero(flat != ZERO)
                self._inverse = Move(table.reshape(shape), (self.shape,))
        return self._inverse  # type: ignore[return-value]

    @property
    def in_order(self) -> bool:
        """Whether the elements stay in their order, all of them: the same memory under another shape."""
        found = self.pieces
        return len(self.sources) == 1 and prod(self.shape) == prod(self.sources[0]) and (
            found is not None and len(found) == 1 and _is_c_order(found[0], self.shape)
        )  # fmt: skip

    def taken(self, k: int) -> np.ndarray[Any, Any]:
        """For each element of source k, in order, whether it is taken."""
        found = np.zeros(prod(self.sources[k]), bool)
        found[self.table[self.table >> APART == k] - (k << APART)] = True
        return found

    def repeats(self, axes: int) -> bool:
        """Whether the elements of one source stay in order over the first axes, the same one along all others."""
        found = self.pieces
        if (
            found is None
            or len(found) != 1
            or len(self.sources) > 1
            or prod(self.sources[0]) != prod(self.shape[:axes])
        ):
            return False
        strides = (*c_strides(self.shape[:axes]), *[0] * (len(self.shape) - axes))
        return found[0].base == found[0].source == 0 and all(
            n == 1 or a == b for n, a, b in zip(self.shape, found[0].strides, strides, strict=True)
        )

    def turns(self, count: int, rows: int, columns: int) -> bool:
        """Whether this is all of one source, as so many matrices of this shape that lie there transposed."""
        if len(self.sources) > 1 or prod(self.sources[0]) != self.table.size or ZERO in self.table:
            return False
        there = np.arange(self.table.size).reshape(count, columns, rows)
        return np.array_equal(self.table.reshape(-1), there.transpose(0, 2, 1).reshape(-1))

    def after(self, first: Sequence[Move | None]) -> Move:
        """This map with some of its sources moved themselves before, by maps of one source each.

        A map of one source takes over all sources of the map before it.
        """
        if len(self.sources) == 1 and first[0] is not None:
            table = np.full(self.shape, ZERO, np.int64)
            there = self.table != ZERO
            table[there] = first[0].table.reshape(-1)[self.table[there]]
            return Move(table, first[0].sources)
        table = self.table.copy()
        number = self.table >> APART
        for k, move in enumerate(first):
            if move is not None:
                here = (number == k) & (self.table != ZERO)
                found = move.table.reshape(-1)[self.table[here] - (k << APART)]
                table[here] = np.where(found == ZERO, ZERO, found + (k << APART))
        return Move(table, [m.sources[0] if m else s for m, s in zip(first, self.sources, strict=True)])


class Positions(NamedTuple):
    """How a gather, or its transpose, finds elements by an array of positions that is read when it runs.

    At index i it is element sum(strides * i) + step * position of the source, where the position is element
    sum(index_strides * i) of the array and lies within -length and length.
    """

    strides: Shape
    index_strides: Shape
    step: int
    length: int


def positions_of_take(source: Shape, index: Shape, axis: int) -> Positions:
    """How `np.take(source, index, axis)` finds its elements."""
    axis %= len(source)
    strides, inner = c_strides(source), len(source) - axis - 1
    return Positions(
        (*strides[:axis], *[0] * len(index), *strides[axis + 1 :]), (*[0] * axis, *c_strides(index), *[0] * inner),
        strides[axis], source[axis],
    )  # fmt: skip


def positions_along(source: Shape, index: Shape, axis: int) -> Positions:
    """How `np.take_along_axis(source, index, axis)` finds its elements: other axes broadcast."""
    axis %= len(source)
    strides = c_strides(source)
    return Positions(
        tuple(0 if a == axis or n == 1 else s for a, (s, n) in enumerate(zip(strides, source, strict=True))),
        tuple(0 if n == 1 else s for s, n in zip(c_strides(index), index, strict=True)),
        strides[axis], source[axis],
    )  # fmt: skip


def c_strides(shape: Shape) -> Shape:
    """How many elements lie between neighbours along each axis, in C order."""
    strides, step = [], 1
    for n in shape[::-1]:
        strides.append(step)
        step *= n
    return tuple(strides[::-1])


def _is_c_order(piece: Piece, shape: Shape) -> bool:
    expected = 1
    for stride, n in zip(piece.strides[::-1], shape[::-1], strict=True):
        if n > 1 and stride != expected:
            return False
        expected *= n
    return piece.base == 0 and piece.source == 0


_known: dict[Any, Move] = {}


def move_of(op: Op, attrs: dict[str, Any], shapes: Sequence[Shape]) -> Move:
    """The index map of an op that moves data, for operands of these shapes."""
    key = op.name, tuple(shapes), frozen_key(attrs)
    move = _known.get(key)
    if move is None:
        numbered = [np.arange(1, prod(s) + 1).reshape(s) + (k << APART) for k, s in enumerate(shapes)]
        table = np.asarray(op.forward(*numbered, **attrs))
        move = _known[key] = Move(np.where(table == 0, ZERO, table - 1), shapes)
        if len(_known) > 4096:
            _known.pop(next(iter(_known)))
    return move


@lru_cache(maxsize=4096)
def _composed(move: Move, first: tuple[Move | None, ...]) -> Move:
    return move.after(first)


def composed(move: Move, first: Sequence[Move | None]) -> Move:
    """The index map `move` after others of its sources; the same object for the same maps."""
    return _composed(move, tuple(first))


@lru_cache(maxsize=4096)
def in_order(shape: Shape, to: Shape) -> Move:
    """The index map of a reshape."""
    return Move(np.arange(prod(shape), dtype=np.int64).reshape(to), (shape,))


def broadcast(shape: Shape, to: Shape) -> Move:
    """The index map of NumPy's broadcasting."""
    return _broadcast(shape, to)


@lru_cache(maxsize=4096)
def _broadcast(shape: Shape, to: Shape) -> Move:
    return Move(np.broadcast_to(np.arange(prod(shape), dtype=np.int64).reshape(shape), to), (shape,))


def frozen_key(value: Any) -> Any:
    """Something hashable that is equal for equal attributes."""
    if isinstance(value, dict):
        return tuple((k, frozen_key(v)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return (type(value).__name__, *map(frozen_key, value))
    if isinstance(value, slice):
        return "slice", value.start, value.stop, value.step
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, value.tobytes()
    return type(value).__name__, value


def _pieces(table: np.ndarray[Any, Any]) -> Sequence[Piece] | None:
    """The boxes on which a table is affine, found axis by axis, and checked; None if there are too many."""
    if table.size == 0:
        return ()
    cuts = [_cuts(table, axis) for axis in range(table.ndim)]
    if any(c is None for c in cuts) or prod(len(c) for c in cuts if c) > MOST_BOXES:
        return None
    spans = [list(zip(c, [*c[1:], n], strict=True)) for c, n in zip(cuts, table.shape, strict=True) if c is not None]
    found = []
    for box in product(*spans):
        lower, upper = tuple(a for a, _ in box), tuple(b for _, b in box)
        part = table[tuple(slice(a, b) for a, b in box)]
        first = (0,) * part.ndim
        base = int(part[first])
        strides = tuple(
            int(part[(*first[:a], 1, *first[a + 1 :])]) - base if n > 1 else 0 for a, n in enumerate(part.shape)
        )
        affine = np.full((), base)
        for a, (stride, n) in enumerate(zip(strides, part.shape, strict=True)):
            affine = affine + (stride * np.arange(n)).reshape((-1,) + (1,) * (part.ndim - 1 - a))
        if not np.array_equal(np.broadcast_to(affine, part.shape), part):
            return None
        source = -1 if base == ZERO else base >> APART
        found.append(Piece(lower, upper, source, 0 if source < 0 else base - (source << APART), strides))
    return found


def _cuts(table: np.ndarray[Any, Any], axis: int) -> list[int] | None:
    """Where along an axis a new stretch of constant stride begins."""
    n = table.shape[axis]
    if n < 2:
        return [0]
    step = np.diff(np.moveaxis(table, axis, 0).reshape(n, -1), axis=0)
    if n == 2:
        return [0, 1] if (np.abs(step) >= _LEAP).any() or (step != step[0, 0]).any() else [0]
    leaps = np.flatnonzero((np.abs(step) >= _LEAP).any(axis=1)) + 1  # to another source, or to zeros
    changes = np.flatnonzero((step[1:] != step[:-1]).any(axis=1)) + 1
    if len(changes) > 4 * MOST_BOXES or len(leaps) > MOST_BOXES:
        return None
    cuts = [0]
    ends = [*map(int, leaps), n]
    for end in ends:
        for p in map(int, changes):
            if cuts[-1] < p < end - 1:
                cuts.append(p if p == cuts[-1] + 1 else p + 1)  # a first element that stands alone
        if end < n:
            cuts.append(end)
    return cuts
