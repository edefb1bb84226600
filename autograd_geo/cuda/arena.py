"""Places in one block of memory for what lies between the launches of a program: reused when it is dead."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..compiler.nodes import Node
from .together import Work, is_given

_ALIGNED = 256


def laid_out(works: Sequence[Work], elsewhere: Collection[int]) -> tuple[dict[int, int], int]:
    """Where each value begins, by its identity, and the bytes of all; without those `elsewhere` and what is given."""
    last: dict[int, int] = {}
    for k, work in enumerate(works):
        last |= {id(x): k for x in work.operands}
    places: dict[int, int] = {}
    sizes: dict[int, int] = {}
    memory = _Memory()
    for k, work in enumerate(works):
        mine = {id(x): x for x in work.operands if not is_given(x) and id(x) not in elsewhere}
        for key, x in mine.items():
            if key not in places:
                sizes[key] = room(x)
                places[key] = memory.take(sizes[key])
        for key in mine:
            if last[key] == k:
                memory.give_back(places[key], sizes[key])
    return places, memory.size


def room(x: Node) -> int:
    """The bytes that a value takes."""
    return -(-max(x.size * x.dtype.itemsize, 1) // _ALIGNED) * _ALIGNED


class _Memory:
    """A range of memory that grows, with holes: the smallest that suffices is taken."""

    def __init__(self) -> None:
        self.size = 0
        self._holes: list[tuple[int, int]] = []  # beginnings and ends, in order, with something between

    def take(self, size: int) -> int:
        fitting = [(end - begin, begin) for begin, end in self._holes if end - begin >= size]
        if fitting:
            length, begin = min(fitting)
            self._holes.remove((begin, begin + length))
            if length > size:
                self._insert(begin + size, begin + length)
            return begin
        begin = self.size
        if self._holes and self._holes[-1][1] == begin:  # what is free at the end is made longer
            begin = self._holes.pop()[0]
        self.size = begin + size
        return begin

    def give_back(self, begin: int, size: int) -> None:
        self._insert(begin, begin + size)

    def _insert(self, begin: int, end: int) -> None:
        before = [h for h in self._holes if h[1] < begin]
        after = [h for h in self._holes if h[0] > end]
        touching = self._holes[len(before) : len(self._holes) - len(after)]
        whole = (min([begin, *[b for b, _ in touching]]), max([end, *[e for _, e in touching]]))
        self._holes = [*before, whole, *after]


__all__ = ["laid_out", "room"]
