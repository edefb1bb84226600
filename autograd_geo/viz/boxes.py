"""The operations of a tape as a tree of boxes: calls of modules, loops and their iterations, parts of what is long.

Modules are known from their calls. Loops are found afterwards: the same lines of the user's program, again and
again in the same order, are iterations. Both nest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import CodeType
from typing import Any, TypeAlias

import numpy as np

from ..names import Span, place, span
from ..tape import Entry, line_at
from .scopes import Scope, scopes

TAPE, MODULE, LOOP, ITERATION, PART = "tape", "module", "loop", "iteration", "part"
#: A box with more in it than this is cut into parts, into so many at most.
LONGEST, PARTS = 40, 10
#: What is no loop: fewer operations than this, and bodies of more items than that.
SHORTEST, LONGEST_BODY = 4, 5000


@dataclass(slots=True, eq=False)
class Box:
    """Operations and boxes in recording order. `name` is unique, for those who want to see inside."""

    kind: str
    items: list[Item]
    name: str = ""
    label: str = ""  # of a module its class and arguments
    code: CodeType | None = None  # where a module was called
    lasti: int = -1
    parent: Box | None = None

    def entries(self) -> Iterator[Entry]:
        """Every operation inside."""
        for item in self.items:
            if isinstance(item, Box):
                yield from item.entries()
            else:
                yield item

    def boxes(self) -> Iterator[Box]:
        """Every box inside, from the outside in."""
        for item in self.items:
            if isinstance(item, Box):
                yield item
                yield from item.boxes()

    def path(self) -> list[Box]:
        """This box and those around it, from the outside in."""
        return [*(self.parent.path() if self.parent else ()), self]

    def where(self) -> str:
        """The user's lines: `lesson.py:12-19`."""
        places = {(self.code, self.lasti)} if self.code else {(e.code, e.lasti) for e in self.entries()}
        lines = sorted({line_at(code, lasti) for code, lasti in places if code})
        if not lines:
            return ""
        file = lines[0][0]
        return place(file, lines[0][1], max(line for f, line in lines if f == file))


Item: TypeAlias = Entry | Box


def tree(order: Sequence[Entry], folded: bool) -> Box:
    """The box around a whole tape; unless `folded`, with modules only in it."""
    operations = [e for e in order if e.op is not None]
    top = Box(TAPE, _nested(operations, scopes(order)))
    if folded:
        _fold(top)
    _name(top, "", {})
    return top


def _nested(operations: Sequence[Entry], calls: Sequence[Scope]) -> list[Item]:
    """Operations with those that a module recorded put into its box; one alone needs none."""
    items: list[Item] = []
    at = 0
    for call in calls:
        while at < len(operations) and operations[at].number < call.start:
            items.append(operations[at])
            at += 1
        end = at
        while end < len(operations) and operations[end].number <= call.end:
            end += 1
        inner = _nested(operations[at:end], call.inner)
        at = end
        if len(inner) > 1:
            items.append(Box(MODULE, inner, call.path, _signature(call.module), call.code, call.lasti))
        else:
            items += inner
    return [*items, *operations[at:]]


def _signature(module: Any) -> str:
    arguments = module.extra_repr()
    return type(module).__name__ + (f"({arguments})" if arguments else "")


# --- loops ----------------------------------------------------------------------------------------------------


def _fold(box: Box) -> None:
    """Find the loops in a box and in those inside it, and cut what stays long into parts."""
    for item in box.items:
        if isinstance(item, Box):
            _fold(item)
    box.items = _in_parts(_loops(box.items))


def _loops(items: list[Item]) -> list[Item]:
    """Items with runs that repeat gathered into loops, inner loops first."""
    known: dict[Any, int] = {}
    spans: dict[Any, Span] = {}
    keys = np.array([known.setdefault(_key(item, spans), len(known)) for item in items], int)
    folded = True
    while folded:
        folded, period = False, 1
        while 2 * period <= len(keys) and period <= LONGEST_BODY:
            for start, stop in _repetitions(items, keys, period):
                bodies = [items[k : k + period] for k in range(start, stop, period)]
                key = known.setdefault((LOOP, *keys[start : start + period].tolist()), len(known))
                items[start:stop] = [Box(LOOP, [Box(ITERATION, _in_parts(body)) for body in bodies])]
                keys = np.concatenate([keys[:start], [key], keys[stop:]])
                folded = True
            period += 1
    return items


def _key(item: Item, spans: dict[Any, Span]) -> Any:
    """What an item does and where in the program it does so.

    That is a span of source: the interpreter moves the offset of an instruction once it has specialised it.
    """
    code, lasti = item.code, item.lasti
    site = id(code), lasti
    if site not in spans:
        spans[site] = (None,) * 4 if code is None else span(code, lasti)
    return item.name if isinstance(item, Box) else item.op, id(code), spans[site]


def _repetitions(items: Sequence[Item], keys: np.ndarray[Any, Any], period: int) -> list[tuple[int, int]]:
    """From where to where something of this length repeats, last first: twice or more, and not a mere pair."""
    same = np.concatenate([[0], keys[period:] == keys[:-period], [0]])
    runs = np.flatnonzero(np.diff(same)).reshape(-1, 2)
    found: list[tuple[int, int]] = []
    for start, end in runs[runs[:, 1] - runs[:, 0] >= period][::-1].tolist():
        stop = min(end + period, found[-1][0]) if found else end + period
        start += _offset(items[start : start + period])
        count = (stop - start) // period
        if count >= 2 and count * period >= SHORTEST:
            found.append((start, start + count * period))
    return found


def _offset(items: Sequence[Item]) -> int:
    """Which of these comes first in the program: the loop's first pass may have recorded less than the others."""
    places = [_place(item) for item in items]
    code = places[0][0]
    return min((lasti, k) for k, (c, lasti) in enumerate(places) if c is code)[1]


def _place(item: Item) -> tuple[CodeType | None, int]:
    while isinstance(item, Box) and item.code is None:
        item = item.items[0]
    return item.code, item.lasti


def _in_parts(items: list[Item]) -> list[Item]:
    if len(items) <= LONGEST:
        return items
    size = -(-len(items) // PARTS)
    return [Box(PART, _in_parts(items[k : k + size])) for k in range(0, len(items), size)]


# --- names ----------------------------------------------------------------------------------------------------


def _name(box: Box, prefix: str, counts: dict[str, int]) -> None:
    """Name the boxes inside: modules by their path, the others by number, each within its iteration or part."""
    for k, item in enumerate(box.items):
        if not isinstance(item, Box):
            continue
        item.parent = box
        if item.kind == ITERATION:
            item.name = f"{box.name}[{k}]"
            _name(item, f"{item.name}.", {})
            continue
        base = prefix + (item.name if item.kind == MODULE else item.kind)
        counts[base] = counts.get(base, 0) + 1
        again = f"#{counts[base]}" if counts[base] > 1 else ""
        item.name = base + again if item.kind == MODULE else f"{base}{counts[base]}"
        _name(item, f"{item.name}." if item.kind == PART else prefix, counts)


# --- what is open ---------------------------------------------------------------------------------------------

#: What is seen, each with the open box it stands in: operations, and closed boxes. Those are tuples, since iterations
#: of an open loop that stay closed are seen as one.
Shown: TypeAlias = list[tuple[Entry | tuple[Box, ...], Box]]


def shown(box: Box, opened: Collection[Box]) -> Shown:
    """What is seen of an open box."""
    seen: Shown = []
    if box.kind == LOOP:
        iterations = [item for item in box.items if isinstance(item, Box)]
        for is_open, group in groupby(iterations, key=opened.__contains__):
            if is_open:
                for iteration in group:
                    seen += shown(iteration, opened)
            else:
                seen.append((tuple(group), box))
        return seen
    for item in box.items:
        if isinstance(item, Entry):
            seen.append((item, box))
        elif item in opened:
            seen += shown(item, opened)
        else:
            seen.append(((item,), box))
    return seen


def frames(seen: Shown) -> list[Box]:
    """The open boxes that are seen, from the outside in, without the one around everything."""
    return list(dict.fromkeys(box for _, around in seen for box in around.path()[1:]))


def opening(box: Box) -> list[Box]:
    """What to open to see inside a box, from the outside in: what is around it, itself, of a loop the first pass."""
    inside = [item for item in box.items[:1] if isinstance(item, Box)] if box.kind == LOOP else []
    return [*box.path(), *inside]


def closed_without(opened: Collection[Box], box: Box) -> list[Box]:
    """The open boxes without one and all inside it."""
    return [b for b in opened if box not in b.path()]


def readable(top: Box, most: int, depth: int | None) -> set[Box]:
    """The boxes to open, from the outside in: down to `depth`, or as long as no more than `most` cards are seen."""
    opened, size = {top}, len(top.items)
    waiting = [(item, 1) for item in top.items if isinstance(item, Box)]
    for box, level in waiting:  # grows while it is walked
        new = opening(box)
        grown = size - 1 + len(shown(box, new))
        if level <= depth if depth is not None else grown <= most:
            opened.update(new)
            size = grown
            waiting += [(item, level + 1) for item in new[-1].items if isinstance(item, Box)]
    return opened
