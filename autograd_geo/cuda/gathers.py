"""Operands of products that are read where they lie: patches of an image, elements in another order.

A convolution is a product of matrices of which one holds patches, many times what they were taken from. It is not
made: its element in line i and at place j of the sum is element `lines[i] + places[j]` of the array, and what is beyond
the border is zero. So the kernel adds two numbers from a table (the implicit GEMM of cuDNN: Chetlur et al.,
arXiv:1410.0759). Every move of elements is found that can be said so, not only that of a convolution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..compiler.moves import APART, ZERO, Move
from ..compiler.nodes import MAP, MOVE, PRODUCT, Node, cast_formula
from ..compiler.regions import Plan, Region, made_by, sources, storage
from .fragments import WIDTH
from .matmul_form import Gathered, Panel

Numbers: TypeAlias = np.ndarray[Any, Any]
#: Bits of a mask: of how many kinds, with respect to borders, lines or places may be.
_MOST_KINDS = 63
#: Rounds in which offsets of lines follow from those of places, and back.
_MOST_ROUNDS = 64


class Gather(NamedTuple):
    """Element (b, i, j) of an operand is element `batch * b + lines[i] + places[j]` of an array.

    If there are masks, it is that only where those of i and j have a bit in common, else 0. The least of `lines` is 0.
    """

    batch: int
    lines: Numbers
    places: Numbers
    line_masks: Numbers | None = None
    place_masks: Numbers | None = None

    def table(self) -> Numbers:
        """What a kernel reads: offsets of lines, of places, and their masks."""
        parts = [self.lines, self.places, self.line_masks, self.place_masks]
        return np.concatenate([p for p in parts if p is not None]).astype(np.int64)

    def form(self, dtype: np.dtype[Any]) -> Gathered:
        """How a kernel reads it: neighbours together, 16 bytes at a time where they all lie together."""
        along_k, width = _nearness(self.places) > _nearness(self.lines), WIDTH[dtype.str[1:]]
        offsets, masks, others = self.lines, self.line_masks, self.places
        if along_k:
            offsets, masks, others = self.places, self.place_masks, self.lines
        wide = len(offsets) % width == 0 and not self.batch % width and not (others % width).any()
        if wide:
            groups = offsets.reshape(-1, width)
            wide = not (groups[:, 0] % width).any() and bool((groups == groups[:, :1] + np.arange(width)).all())
        if wide and masks is not None:
            groups = masks.reshape(-1, width)
            wide = bool((groups == groups[:, :1]).all())
        panel = Panel(along_k, width if wide else 1, gathered=True, masked=masks is not None)
        return Gathered(self.batch, panel)


def _nearness(offsets: Numbers) -> float:
    """How often the next one is the next element."""
    return float(np.mean(np.diff(offsets) == 1)) if len(offsets) > 1 else 0.0


class Operand(NamedTuple):
    """An operand that is read in `source`."""

    source: Node
    gather: Gather


def read_in_place(plan: Plan) -> dict[tuple[Node, int], Operand]:
    """Operands of products, by node and number, that need no copy; the plan is changed so that it makes none."""
    readers, kept = read_by(plan, {}), {*plan.outputs, *plan.parts}
    found: dict[tuple[Node, int], Operand] = {}
    for step in [s for s in plan.steps if isinstance(s, Region)]:
        for copy in list(step.nodes):
            if is_copy(copy) and copy not in kept and copy in readers:
                operands = _operands(copy, readers[copy])
                if operands is not None:
                    found |= operands
                    step.nodes.remove(copy)
                    plan.stored.discard(copy)
        if not step.nodes:
            plan.steps.remove(step)
    return found


def read_by(plan: Plan, in_place: Mapping[tuple[Node, int], Operand]) -> dict[Node, list[Node]]:
    """For each value with memory, the nodes that read it, as an operand in place too."""
    readers: dict[Node, list[Node]] = {}
    for step in plan.steps:
        for node in made_by(step):
            for root in dict.fromkeys(r for a in node.args for r in sources(a)):
                readers.setdefault(root, []).append(node)
    for (node, _), operand in in_place.items():
        readers.setdefault(operand.source, []).append(node)
    return readers


def is_copy(node: Node) -> bool:
    """Whether a node is a move's elements as they are, all out of one array."""
    if node.kind != MAP or node.args[0].kind != MOVE or node.data is not cast_formula(node.dtype):
        return False
    (move,) = node.args
    roots = {storage(a) for a in move.args}
    return move.dtype == node.dtype and len(roots) == 1 and None not in roots


def _operands(copy: Node, readers: Sequence[Node]) -> dict[tuple[Node, int], Operand] | None:
    """The operands that a copy is, if it is nothing else and all of them can be read in place."""
    (move,) = copy.args
    source = storage(move.args[0])
    assert source is not None
    found = {}
    for node in readers:
        if node.kind != PRODUCT:
            return None
        b, m, k, n, turned_a, turned_b = node.data
        for number, (lines, lines_first) in enumerate(((m, not turned_a), (n, turned_b))):
            if storage(node.args[number]) is not copy:
                continue
            gather = _separated(move.data, b, lines, k, lines_first)
            if gather is None:
                return None
            found[node, number] = Operand(source, gather)
    return found


@lru_cache(maxsize=512)
def _separated(move: Move, batch: int, lines: int, places: int, lines_first: bool) -> Gather | None:
    """A move as a gather for a batch of matrices, (lines, places) or turned; None if it is not such."""
    shape = (batch, lines, places) if lines_first else (batch, places, lines)
    table = move.table.reshape(shape)
    return separated(table if lines_first else table.transpose(0, 2, 1))


def separated(table: Numbers) -> Gather | None:
    """The positions of the elements of a batch of matrices, or ZERO, as sums of two; None if they are not such."""
    if not table.size:
        return None
    batch = len(table)
    there, table = table != ZERO, table & ((1 << APART) - 1)
    offsets = _offsets(table[0], there[0])
    if offsets is None or not (there == there[0]).all():
        return None
    of_lines, of_places = offsets[0] - offsets[0].min(), offsets[1] + offsets[0].min()
    inside = np.argwhere(there[0])[:1]
    of_batch = table[:, inside[0][0], inside[0][1]] if len(inside) else np.zeros(batch, np.int64)
    stride = int(of_batch[1] - of_batch[0]) if batch > 1 else 0
    expected = (stride * np.arange(batch))[:, None, None] + of_lines[:, None] + of_places
    if not ((expected == table) | ~there).all():
        return None
    if there.all():
        return Gather(stride, of_lines, of_places)
    masks = _masks(there[0])
    return None if masks is None else Gather(stride, of_lines, of_places, *masks)


def _offsets(table: Numbers, there: Numbers) -> tuple[Numbers, Numbers] | None:
    """Offsets of lines and places whose sums may be a table where something is `there`: to be checked."""
    lines, places = (np.zeros(n, np.int64) for n in table.shape)
    known_lines, known_places = (np.zeros(n, bool) for n in table.shape)
    weight = there.sum(1)
    for _ in range(_MOST_ROUNDS):
        found = there & known_lines[:, None] & ~known_places
        if found.any():
            new = found.any(0)
            line = found.argmax(0)[new]
            places[new], known_places = table[line, np.flatnonzero(new)] - lines[line], known_places | new
            continue
        found = there & known_places & ~known_lines[:, None]
        if found.any():
            new = found.any(1)
            place = found.argmax(1)[new]
            lines[new], known_lines = table[np.flatnonzero(new), place] - places[place], known_lines | new
            continue
        left = np.where(known_lines, 0, weight)
        if not left.any():
            return lines, places
        known_lines[left.argmax()] = True
    return None


def _masks(there: Numbers) -> tuple[Numbers, Numbers] | None:
    """Masks of lines and of places that have a bit in common just where something is there."""
    for turned in there.shape[0] < there.shape[1], there.shape[0] >= there.shape[1]:
        matrix = there.T if turned else there
        kinds, which = np.unique(np.packbits(matrix, axis=0), axis=1, return_inverse=True)
        if kinds.shape[1] <= _MOST_KINDS:
            which = which.reshape(-1)
            bits = np.int64(1) << np.arange(kinds.shape[1], dtype=np.int64)
            examples = np.unique(which, return_index=True)[1]
            masks = (matrix[:, examples] * bits).sum(1), bits[which]
            return masks[::-1] if turned else masks
    return None


__all__ = ["Gather", "Operand", "is_copy", "read_by", "read_in_place", "separated"]
