"""A tape as a drawing: cards for operations, leaves and closed boxes, frames around what is open."""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from ..names import place
from ..tape import Entry, describe, line_of
from .annotations import Annotations
from .boxes import ITERATION, LOOP, MODULE, TAPE, Box, Shown, frames
from .drawing import (
    ALARM,
    BOX,
    CONSTANT,
    INNER,
    LEAF,
    MARKED,
    MATH,
    MUTED,
    OUTPUT,
    Card,
    Drawing,
    Edge,
    Frame,
    literal,
)
from .mathematics import Text, beside, bold, colored, counted, italic, minus, muted, plain
from .values import spec

#: If there are more leaves to draw, those that the same operations read share a card.
MOST_LEAVES = 30
#: Letters in a line of a mark.
_MARK_WIDTH = 40


class _Use(NamedTuple):
    """A leaf goes into a card; if that is an operation, as which input, and the local derivative."""

    card: str
    operand: int = -1
    label: Text | None = None


class Picture:
    """The drawing of what `seen` lists. A click on a box leads to the picture numbered in `links`.

    `card_of` tells which card shows an entry: its own, one that it shares, or the box it is in.
    """

    def __init__(
        self, notes: Annotations, seen: Shown, rankdir: str, note: str = "",
        links: Mapping[Box, int | None] = MappingProxyType({}), most_leaves: int = MOST_LEAVES,
    ) -> None:  # fmt: skip
        self._notes, self._links, self._most_leaves = notes, links, most_leaves
        self.drawing = Drawing(rankdir)
        self._keys: dict[Box, str] = {}
        self.card_of: dict[Entry, str] = {}
        self._around: dict[str, Box] = {}  # the open box that a card stands in
        for box in frames(seen):
            self._frame(box)
        for item, around in seen:
            if isinstance(item, Entry):
                self._add(self._key(item), self._value(item), around, [item])
            else:
                inside = [entry for box in item for entry in box.entries()]
                self._add(self._key(item[0]), self._box(item, inside), around, inside)
        self._leaves(self._connect())
        closed = [item[0] for item, _ in seen if not isinstance(item, Entry)]
        if note and closed:
            how = f".expand({closed[0].name!r})"
            self.drawing.note = (
                f"{note}; boxes open on a click in a page or notebook, of many one at a time, or by {how}"
            )

    def _add(self, key: str, card: Card, around: Box, inside: Iterable[Entry] = ()) -> None:
        card.frame = self._key(around)
        self.drawing.cards[key] = card
        self._around[key] = around
        self.card_of.update(dict.fromkeys(inside, key))

    def _key(self, item: Entry | Box) -> str:
        """The name of a card or frame in the drawing; that of the whole drawing is empty."""
        if isinstance(item, Entry):
            return f"v{item.number}"
        return self._keys.setdefault(item, f"b{len(self._keys)}") if item.parent else ""

    def _href(self, box: Box) -> str:
        view = self._links.get(box)
        return "" if view is None else f"#view-{view}"

    # --- cards ------------------------------------------------------------------------------------------------

    def _frame(self, box: Box) -> None:
        assert box.parent is not None
        title = beside(bold(box.name), muted(_subtitle(box), MUTED))
        self.drawing.frames[self._key(box)] = Frame(title, self._key(box.parent), self._href(box), "close")

    def _value(self, entry: Entry) -> Card:
        notes = self._notes
        color = OUTPUT if entry is notes.last else INNER if entry.op is not None else LEAF if entry.state else CONSTANT
        title, shape, gradient = bold(notes.names[entry]), spec(entry), notes.gradients.get(entry)
        rows = [beside(title, muted(shape, MUTED)) if shape else title, plain(minus(notes.value(entry)))]
        if not entry.state:
            rows.append(muted("constant", MUTED))
        elif gradient is None:
            rows.append(muted("gradient not computed", MUTED))
        else:
            rows.append(colored(f"gradient {minus(gradient)}", MATH))
        tip = describe(entry)
        if mark := notes.marks.get(entry):
            color, tip = MARKED, f"{mark}\n{tip}"
            rows += [colored(line, ALARM) for line in textwrap.wrap(mark, _MARK_WIDTH)]
            if line := line_of(entry):
                rows.append(muted(place(*line), ALARM))
        return Card(rows, color, "" if entry.op is None else entry.op.symbol, tip=tip)

    def _box(self, boxes: Sequence[Box], inside: Sequence[Entry]) -> Card:
        """A closed box, or iterations of a loop that stay closed."""
        several = len(boxes) > 1
        title = f"{boxes[0].name} … {boxes[-1].name}" if several else boxes[0].name
        subtitle = f"{len(boxes):,} iterations" if several else _subtitle(boxes[0])
        ops = Counter(e.op.name for e in inside if e.op)
        most = ", ".join(op + (f" ×{n:,}" if n > 1 else "") for op, n in ops.most_common(3))
        more = f", {len(ops) - 3} more" if len(ops) > 3 else ""
        content = muted(f"{counted(len(inside), 'operation')}: {most}{more}", MUTED)
        rows, color = [bold(title), plain(subtitle), content], BOX
        if marked := sum(e in self._notes.marks for e in inside):
            rows.append(colored(f"{counted(marked, 'finding')} inside", ALARM))
            color = MARKED
        return Card(rows, color, href=self._href(boxes[0]), tip="open", stack=True)

    def _bundle(self, leaves: Sequence[Entry]) -> Card:
        """Leaves that share a card."""
        names = [self._notes.names[e] for e in leaves]
        kind = "leaves" if leaves[0].state else "constants"
        rows = [bold(f"{names[0]} … {names[-1]}"), plain(f"{len(leaves):,} {kind}")]
        return Card(rows, LEAF if leaves[0].state else CONSTANT, stack=True)

    # --- edges ------------------------------------------------------------------------------------------------

    def _connect(self) -> dict[Entry, list[_Use]]:
        """Draw literal numbers and the edges between operations; returns where each leaf goes."""
        uses: dict[Entry, list[_Use]] = defaultdict(list)
        into_boxes: dict[tuple[str, str], dict[Entry, None]] = defaultdict(dict)
        for entry in self._notes.operations:
            end = self.card_of[entry]
            whole = end == self._key(entry)
            for k, source in enumerate(entry.inputs):
                label = self._notes.locals.get((entry, k)) if whole else None
                if not isinstance(source, Entry):
                    if whole:
                        self._add(f"{end}.{k}", literal(source), self._around[end])
                        self._edge(f"{end}.{k}", end)
                elif source.op is None:
                    uses[source].append(_Use(end, k, label) if whole else _Use(end))
                elif whole and self.card_of[source] == self._key(source):
                    self._edge(self._key(source), end, label)
                elif self.card_of[source] != end:
                    into_boxes[self.card_of[source], end][source] = None
        for (start, end), sources in into_boxes.items():
            self._edge(start, end, self._carried(list(sources)) if self.drawing.cards[start].stack else None)
        return uses

    def _edge(self, start: str, end: str, label: Text | None = None) -> None:
        self.drawing.edges.append(Edge(start, end, label))

    def _carried(self, sources: Sequence[Entry]) -> Text:
        """What leaves a box."""
        return italic(self._notes.names[sources[0]]) if len(sources) == 1 else plain(f"{len(sources):,} values")

    def _leaves(self, uses: Mapping[Entry, Sequence[_Use]]) -> None:
        """Draw the leaves, but those that one closed box alone reads are only counted there."""
        hidden: Counter[str] = Counter()
        drawn = []
        for leaf in self._notes.leaves:
            cards = {use.card for use in uses[leaf]}
            alone = len(cards) == 1 and leaf not in self._notes.marks
            if alone and self.drawing.cards[card := cards.pop()].stack:
                hidden[card] += 1
                self.card_of[leaf] = card
            else:
                drawn.append(leaf)
        for card, count in hidden.items():
            box = self.drawing.cards[card]
            box.rows = [*box.rows, muted(f"and {count:,} leaves" if count > 1 else "and 1 leaf", MUTED)]
        for group in _bundles(drawn, uses, self._notes.marks, self._most_leaves):
            ends = [use if len(group) == 1 else _Use(use.card) for leaf in group for use in uses[leaf]]
            around = _common([self._around[use.card] for use in ends]) if ends else Box(TAPE, [])
            key = self._key(group[0])
            self._add(key, self._value(group[0]) if len(group) == 1 else self._bundle(group), around, group)
            for use in dict.fromkeys(ends):
                self._edge(key, use.card, use.label)


def _bundles(
    leaves: Sequence[Entry], uses: Mapping[Entry, Sequence[_Use]], alone: Collection[Entry], most: int
) -> list[list[Entry]]:
    """Leaves one by one; of more than `most`, those not in `alone` that go the same ways together, or begin so."""
    groups = [[leaf] for leaf in leaves]
    for first_only in (False, True):
        if len(groups) <= most:
            break
        gathered: dict[object, list[Entry]] = defaultdict(list)
        for leaf in leaves:
            cards = [use.card for use in uses[leaf]]
            ways: object = leaf if leaf in alone else cards[0] if first_only else frozenset(cards)
            gathered[ways, leaf.state > 0].append(leaf)
        groups = list(gathered.values())
    return groups


def _common(boxes: Sequence[Box]) -> Box:
    """The innermost box around all of these."""
    shared = boxes[0].path()
    for box in boxes[1:]:
        shared = [a for a, b in zip(shared, box.path(), strict=False) if a is b]
    return shared[-1]


def _subtitle(box: Box) -> str:
    what = {MODULE: box.label, LOOP: f"×{len(box.items):,}"}.get(box.kind, "")
    inner = box.kind == ITERATION or (box.parent is not None and box.parent.kind == box.kind == MODULE)
    where = "" if inner else box.where()
    return "  ".join(part for part in (what, where) if part)
