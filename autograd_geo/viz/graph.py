"""`ag.graph`: a tape drawn, modules and loops in boxes that open."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

from ..names import printable
from ..tape import Entry, history
from ..tensor import Tensor, entry_of
from .annotations import Annotations
from .boxes import ITERATION, Box, Shown, closed_without, frames, opening, readable, shown, tree
from .mathematics import counted
from .picture import MOST_LEAVES, Picture
from .render import Graph, svg

#: A tape of more operations is not drawn whole; then so many cards of operations and boxes are, in an overview so many.
WHOLE, MOST, FEWEST = 60, 30, 10
#: Pictures in a page for boxes that open and close one at a time; and cards in all, beyond which boxes that are open
#: together get no picture of their own: each has to be laid out when the page is made.
MOST_VIEWS, MOST_CARDS = 16, 400


class TapeGraph(Graph):
    """The graph of a tape. What is too much to draw at once is in boxes: `closed` names them, `expand` opens some."""

    def __init__(
        self, notes: Annotations, top: Box, opened: Collection[Box], *, rankdir: str, theme: str, note: str
    ) -> None:
        self._notes, self._top, self._opened, self._rankdir = notes, top, frozenset(opened), rankdir
        self._note = note
        seen = shown(top, self._opened)
        notes.derive(item for item, _ in seen if isinstance(item, Entry))
        super().__init__(Picture(notes, seen, rankdir, note).drawing, theme)

    @property
    def closed(self) -> list[str]:
        """The names of the boxes in the picture that could be opened."""
        return [item[0].name for item, _ in shown(self._top, self._opened) if not isinstance(item, Entry)]

    def expand(self, *boxes: str) -> TapeGraph:
        """The same graph with these boxes open as well: `expand("net.layers.0", "loop1[10]")`.

        Of a loop the first iteration is opened, or the one given in brackets. Raises KeyError for a box that does
        not exist, RuntimeError where a backward pass has let go of the tape in the meantime.
        """
        return self._with(self._opened.union(*[opening(found(self._top, name)) for name in boxes]))

    def collapse(self, *boxes: str) -> TapeGraph:
        """The same graph with these boxes closed, all of them if none is named. Raises as `expand` does."""
        opened: Collection[Box] = self._opened if boxes else [self._top]
        for name in boxes:
            opened = closed_without(opened, found(self._top, name))
        return self._with(opened)

    def _with(self, opened: Collection[Box]) -> TapeGraph:
        return TapeGraph(
            self._notes, self._top, opened, rankdir=self._rankdir, theme=self._theme, note=self._note
        )  # fmt: skip

    def _views(self) -> Sequence[str]:
        """This picture, those with one box more or fewer open, and as many combinations of those as there is room for.

        A click leads to the picture with that box toggled; if there is none, to the one with that box alone toggled.
        """
        views: dict[frozenset[Box], int] = {self._opened: 0}
        order = [self._opened]
        cards = 0
        for together in (False, True):
            for opened in order:  # grows while it is walked
                for box in _clickable(shown(self._top, opened)):
                    target = self._toggled(box, opened, together)
                    if target not in views and (cards < MOST_CARDS if together else len(views) < MOST_VIEWS):
                        views[target] = len(views)
                        order.append(target)
                        cards += len(shown(self._top, target))
        if len(views) == 1:
            return [self.svg()]
        pictures = []
        self._notes.derive(e for opened in order for e, _ in shown(self._top, opened) if isinstance(e, Entry))
        for opened in order:
            seen = shown(self._top, opened)
            links = {
                box: views.get(self._toggled(box, opened, True), views.get(self._toggled(box, opened, False)))
                for box in _clickable(seen)
            }
            drawing = Picture(self._notes, seen, self._rankdir, self._note, links).drawing
            pictures.append(svg(drawing, drawing.dot(), self._theme))
        return pictures

    def _toggled(self, box: Box, opened: frozenset[Box], together: bool) -> frozenset[Box]:
        """What is open after a click on a box; unless `together`, of what was opened since only the way to it stays."""
        if together:
            return opened.union(opening(box)) if box not in opened else frozenset(closed_without(opened, box))
        if box not in opened:
            return self._opened.union(opening(box))
        if box in self._opened:
            return frozenset(closed_without(self._opened, box))
        return self._opened.union(opening(box)[: len(box.path()) - 1])

    def __repr__(self) -> str:
        name = printable(self._notes.names[self._notes.last])
        return f"<graph of {name}: {counted(len(self._notes.operations), 'operation')}>"


def overview(output: Entry) -> tuple[Picture, str]:
    """A tape at a glance, as `graph` draws it or with fewer boxes open; and that it is not whole, or nothing."""
    drawn = tape_graph(output, rankdir="LR", theme="light", expand=(), depth=None, most=FEWEST)
    leaves = FEWEST if drawn.closed else MOST_LEAVES
    picture = Picture(drawn._notes, shown(drawn._top, drawn._opened), "LR", most_leaves=leaves)
    return picture, drawn._note if drawn.closed else ""


def _clickable(seen: Shown) -> list[Box]:
    """Closed boxes, which open, and frames, which close; iterations close with their loop."""
    closed = [item[0] for item, _ in seen if not isinstance(item, Entry)]
    return [*closed, *(box for box in frames(seen) if box.kind != ITERATION)]


def _around(top: Box, entry: Entry) -> list[Box]:
    """The boxes around an operation, from the outside in; none for a leaf."""
    return next((box.path() for box in [top, *top.boxes()] if entry in box.items), [])


def found(top: Box, name: str) -> Box:
    """The box of a name. Raises KeyError, which tells names like it."""
    boxes = {box.name: box for box in top.boxes()}
    if name not in boxes:
        near = difflib.get_close_matches(name, boxes, 5, 0.3) or list(boxes)[:5]
        there = f"boxes are {', '.join(near)}" if near else "this graph has no boxes"
        raise KeyError(f"no box is called {name!r}; {there}")
    return boxes[name]


def graph(
    output: Tensor, *, rankdir: str = "LR", theme: str = "auto", expand: str | Iterable[str] = (),
    depth: int | None = None,
) -> TapeGraph:  # fmt: skip
    """Draw the tape of `output`: each value with its name and gradient, each edge with its local derivative.

    Calls of modules and loops are boxes. Of a large tape, boxes stay closed as far as a readable picture needs;
    in pages and notebooks they open on a click.

    Args:
        rankdir: "LR" (left to right) or "TB" (top to bottom).
        theme: "light", "dark", or "auto", which follows the reader's system or notebook.
        expand: names of boxes to open besides; see `TapeGraph.expand`.
        depth: open boxes down to this depth, instead of as many as are readable; 0 opens none.

    Gradients are those of `output`, where it is a single number; "not computed" is drawn as such. Raises
    RuntimeError where a backward pass has let go of the tape: draw first, or use backward(retain_graph=True);
    ValueError for another direction or theme, KeyError for a box that does not exist.
    """
    return tape_graph(entry_of(output), rankdir=rankdir, theme=theme, expand=expand, depth=depth)


def tape_graph(
    last: Entry, marks: Mapping[Entry, str] = MappingProxyType({}), *, rankdir: str, theme: str,
    expand: str | Iterable[str], depth: int | None, most: int = MOST,
) -> TapeGraph:  # fmt: skip
    """`graph` of an entry, with `marks` beside some: the first is shown, boxes around it opened, where it may be."""
    names = [expand] if isinstance(expand, str) else list(expand)
    notes = Annotations(last, marks)
    large = len(notes.operations) > WHOLE
    top = tree(history(notes.last), folded=large or bool(names) or depth is not None)
    if depth is None and not large:
        depth = len(notes.operations)
    opened = readable(top, most, depth)
    opened.update(*[opening(found(top, name)) for name in names])
    first = next(iter(marks), None)
    if first is not None and depth is None:
        opened.update(_around(top, first))
    note = f"{counted(len(notes.operations), 'operation')}, too many to draw at once" if large else ""
    return TapeGraph(notes, top, opened, rankdir=rankdir, theme=theme, note=note)
