"""Which nodes are computed together: regions, each one loop nest and so one kernel, in an order that works.

A region has one shape to loop over. A map joins a region if what it reads is there before, or is computed in the same
region at the same index. A reduction closes over the region of its operand. Positions only grow along dependencies, so
whatever joins whatever, the order stays right. `Reason` lists the rules by which a region ends; `crossings` says which
of them sent each value through memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf, prod
from typing import Any, NamedTuple

from .moves import Shape, in_order
from .nodes import (
    CALL,
    CONST,
    GATHER,
    INPUT,
    JOIN,
    MAP,
    MOVE,
    PRODUCT,
    REDUCE,
    RESULT,
    SCAN,
    SCATTER,
    TABLE,
    Node,
    copy_of,
)

#: Straight-line code compiles in more than linear time, so regions stay small.
MOST_NODES = 40
#: Loops over shorter rows would not vectorise well.
LEAST_ROW = 64
#: Nodes that are a step of their own.
_ALONE = PRODUCT, SCATTER, SCAN, TABLE, CALL


@dataclass(eq=False, slots=True)
class Region:
    """Maps and reductions over one index space."""

    shape: Shape
    position: int
    nodes: list[Node] = field(default_factory=list)
    #: The axes before those of a row, once there is a reduction over rows: they are finished row by row.
    rows: int | None = None

    def add(self, node: Node) -> None:
        """Take on a node; a first reduction over last axes says what a row is."""
        self.nodes.append(node)
        if node.kind == REDUCE and self.rows is None:
            first, ndim = node.data[1][0] if node.data[1] else 0, len(self.shape)
            last = node.data[1] == tuple(range(first, ndim)) and (first > 0 or ndim == 1)
            if last and prod(self.shape[first:]) >= LEAST_ROW:
                self.rows = first

    def is_per_row(self, node: Node) -> bool:
        """Whether a node of this region has one value per row."""
        if node.kind == REDUCE:
            return self.rows is not None and node.data[1] == tuple(range(self.rows, len(self.shape)))
        return node.shape != self.shape

    def row_value(self, a: Node) -> Node | None:
        """The node of this region whose value for the row `a` has at every element of it; None if there is none."""
        if self.rows is None:
            return None
        if a.kind == MOVE and a.shape == self.shape:
            found = storage(a.args[0]) if a.data.repeats(self.rows) else None
        else:
            found = storage(a) if a.size == prod(self.shape[: self.rows]) else None
        return found if found in self.nodes and self.is_per_row(found) else None

    def fits_rows(self, node: Node) -> bool:
        """Whether a map outside this region has one value per row of it."""
        k = self.rows
        return k is not None and node.shape[:k] == self.shape[:k] and prod(node.shape[k:]) == 1 != prod(self.shape[k:])


@dataclass(slots=True)
class Plan:
    """The steps of a program in order (regions, and nodes that are a step of their own) and what has a buffer."""

    steps: list[Region | Node]
    stored: set[Node]
    outputs: list[Node]  # where each output is found, an input or a node with a buffer
    home: dict[Node, Region]
    parts: dict[Node, tuple[Node, int]]  # what is part of a join, and at which of its elements it begins
    positions: dict[Node, int]  # the step that computes each node


def made_by(step: Region | Node) -> Sequence[Node]:
    """The values that a step makes: of a table, those that it leaves."""
    if isinstance(step, Region):
        return step.nodes
    return step.data.results if step.kind == TABLE else [step]


class Reason(Enum):
    """Why a value goes through memory to where it is read."""

    GIVEN = "it comes from outside"
    PRODUCT = "a product by BLAS is a step of its own"
    SCATTER = "a sum over where elements went is a step of its own"
    SCAN = "a running sum is a step of its own"
    TABLE = "a table of ops on single numbers is a step of its own"
    CALL = "an op called back in Python is a step of its own"
    REDUCE = "a reduction is finished before it is read"
    MOVE = "it is read at other indices"
    GATHER = "it is read at indices that are computed"
    JOIN = "many arrays are joined in memory"
    SHAPE = "it is read in a loop over another shape"
    WAITS = "its reader also needs what is there only later"
    FULL = f"a region has at most {MOST_NODES} nodes"
    LATER = "its reader is computed later, with what needs that"
    RESULT = "it is returned, left behind, or read by Python"


_APART = {
    INPUT: Reason.GIVEN, CONST: Reason.GIVEN, PRODUCT: Reason.PRODUCT, SCATTER: Reason.SCATTER, SCAN: Reason.SCAN,
    CALL: Reason.CALL, REDUCE: Reason.REDUCE, MOVE: Reason.MOVE, GATHER: Reason.GATHER,
    JOIN: Reason.JOIN, TABLE: Reason.TABLE, RESULT: Reason.TABLE,
}  # fmt: skip


def apart(a: Node, node: Node) -> Reason | None:
    """Why `node` cannot take its argument `a` from the same pass of a loop; None if it can."""
    if node.kind not in (MAP, REDUCE):
        return _APART[node.kind]
    if a.kind != MAP:
        return _APART[a.kind]
    return None if a.shape == space(node) else Reason.SHAPE


class Obstacle(NamedTuple):
    """Why nodes cannot be computed in a region, and the node that they would have to wait for."""

    reason: Reason
    waits_for: Node | None = None


def obstacle(nodes: Sequence[Node], region: Region, positions: Mapping[Node, int]) -> Obstacle | None:
    """What keeps these nodes, which need each other, out of a region; None if they can be computed there."""
    inside = set(nodes)
    for node in nodes:
        for a in node.args:
            after = apart(a, node) is not None and region.row_value(a) is None
            if a not in inside and position(a, positions) + after > region.position:
                return Obstacle(Reason.WAITS, a)
    return Obstacle(Reason.FULL) if len(region.nodes) + len(nodes) > MOST_NODES else None


def position(node: Node, positions: Mapping[Node, int]) -> float:
    """The step after which a node can be read; infinite for one that is not placed."""
    if node.kind in (MOVE, GATHER, JOIN, RESULT):
        return max([position(a, positions) for a in node.args])
    return -1 if node.kind in (INPUT, CONST) else positions.get(node, inf)


def storage(node: Node) -> Node | None:
    """The node in whose memory this one's elements lie, in order; None if it has no memory."""
    while node.kind == MOVE:
        if not node.data.in_order:
            return None
        node = node.args[0]
    return None if node.kind == GATHER else node


def reads_in_order(user: Node, root: Node, region: Region) -> bool:
    """Whether a node of a region reads `root` in one pass, element by element, each at its own index only."""
    return region.rows is None and space(user) == region.shape and all(
        storage(a) is root and a.size == prod(region.shape) for a in user.args if root in sources(a)
    )  # fmt: skip


def sources(node: Node) -> list[Node]:
    """The nodes with memory that reading this one reads."""
    return [r for a in node.args for r in sources(a)] if node.kind in (MOVE, GATHER) else [node]


def plan(outputs: Sequence[Node], first: Sequence[int] = (), of_one_piece: bool = False) -> Plan:
    """Group what outputs need into steps; those of the outputs numbered in `first` come before all others.

    If `of_one_piece`, what is in a region shares arrays, and its reductions are over the same axes or over all.
    """
    _turn_products(_ordered(outputs), outputs)
    nodes = _ordered(outputs)
    copies: dict[Node, Node] = {}

    def copied(node: Node) -> Node:
        """The same values in memory of their own."""
        if node not in copies:
            copies[node] = copy_of(node)
            copies[node].rank = node.rank + 0.5
        return copies[node]

    final = [n if (root := storage(n)) and root.kind not in (INPUT, CONST) else copied(n) for n in outputs]
    for node in nodes:
        if node.kind in (*_ALONE, MOVE, GATHER):
            node.args = tuple(copied(a) if storage(a) is None else a for a in node.args)
        elif node.kind in (MAP, REDUCE):
            taken = [a for a in node.args if _stands_apart(a, node) and copies.get(a) is not node]
            node.args = tuple(copied(a) if a in taken else a for a in node.args)
    early = dict.fromkeys(_ordered([final[k] for k in first]))
    late = [n for n in _ordered(final) if n not in early]
    nodes = [*early, *late]

    placing = _Placing(nodes, final, of_one_piece)
    placing.roots.update(copies.values())
    for part in (list(early), late):
        placing.begin(part)
        for node in part:
            if node.kind in _ALONE:
                placing.alone(node)
            elif node.kind == REDUCE or (node.kind == MAP and node in placing.roots):
                placing.place(node)
    steps, home = placing.steps, placing.home

    stored: set[Node] = set()
    for node in nodes:
        for a in node.args:
            if apart(a, node) is not None or home[node] is not home[a]:
                root = storage(a)
                if root is not None and root.kind in (MAP, REDUCE):
                    stored.add(root)
    places = [storage(n) for n in final]
    stored.update(n for n in places if n is not None and n.kind in (MAP, REDUCE))
    stored.update(n for n in nodes if n.kind == REDUCE)
    parts = {a: (n, start) for n in nodes if n.kind == JOIN for a, start in zip(n.args, n.data, strict=True)}
    last = {n: max(placing.positions[a] for a in n.args) for n in nodes if n.kind in (JOIN, RESULT)}
    return Plan(steps, stored, [n for n in places if n is not None], home, parts, placing.positions | last)


def _turn_products(nodes: Sequence[Node], outputs: Sequence[Node]) -> None:
    """Let products of which only the transpose is used be computed as such: of the other operand and this one."""
    users: dict[Node, list[Node]] = {}
    for node in nodes:
        for a in node.args:
            if a.kind == PRODUCT:
                users.setdefault(a, []).append(node)
    for node, using in users.items():
        b, m, k, n, turned_a, turned_b = node.data
        if node not in outputs and all(u.kind == MOVE and len(u.args) == 1 and u.data.turns(b, n, m) for u in using):
            turned = Node(
                PRODUCT, (b, n, m), node.dtype, node.args[::-1], (b, n, k, m, not turned_b, not turned_a), node.entry
            )
            turned.rank = node.rank
            for u in using:
                u.args, u.data = (turned,), in_order(turned.shape, u.shape)


def _stands_apart(node: Node, user: Node) -> bool:
    """Whether what is taken from elsewhere has to be stored before it is used.

    So has one element that is used at every index, and a few of something large, which need not be kept for them.
    """
    if node.kind not in (MOVE, GATHER):
        return False
    if storage(node) is None and node.size == 1 and node.shape != space(user):
        return True
    made = [a.size for a in node.args if a.kind not in (INPUT, CONST)]
    return bool(made) and 16 * node.size <= max(made)


class _Placing:
    """Puts nodes into regions. Maps wait until something outside their region needs them, and come with it then."""

    def __init__(self, nodes: Sequence[Node], outputs: Sequence[Node], of_one_piece: bool) -> None:
        self._of_one_piece = of_one_piece
        self.steps: list[Region | Node] = []
        self.home: dict[Node, Region] = {}
        self.roots = {root for n in outputs if (root := storage(n)) is not None}
        self.positions: dict[Node, int] = {}
        self._latest: dict[Shape, Region] = {}
        self._waiting: dict[Node, int] = {}  # how many users of a node are not placed
        self._users: dict[Node, list[Node]] = {}
        for node in nodes:
            for a in dict.fromkeys(node.args):
                self._users.setdefault(a, []).append(node)
                self._waiting[a] = self._waiting.get(a, 0) + 1
                if apart(a, node) is not None:
                    root = storage(a)
                    if root is not None:
                        self.roots.add(root)
        self._kept = {root for n in outputs if (root := storage(n)) is not None}
        self._begun = 0  # the step before which no region takes on more
        self._not_yet: set[Node] = set()

    def begin(self, part: Sequence[Node]) -> None:
        """What comes next is in steps of its own: no output of what comes later is among them."""
        self._latest.clear()
        self._begun = len(self.steps)
        self._not_yet = self._kept.difference(part)

    def alone(self, node: Node) -> None:
        """A step of its own."""
        self._note(node, len(self.steps))
        self.steps.append(node)

    def place(self, node: Node) -> None:
        """A node that has to be stored now, with all it waits for."""
        if node in self.home:
            return
        together = [n for n in self._closure([node]) if not self._joins_rows(n)]
        while len(together) > MOST_NODES:
            self._join(together[:MOST_NODES])
            together = together[MOST_NODES:]
        if together:
            self._absorb(self._join(together), together)

    def _closure(self, wanted: Sequence[Node], most: float = inf) -> list[Node]:
        """These nodes and the maps beside them that are not placed yet, arguments first; [] if more than `most`."""
        found = dict.fromkeys(wanted)
        for node in (order := list(found)):
            for a in node.args:
                if apart(a, node) is None and a not in self.home and a not in found:
                    found[a] = None
                    order.append(a)
            if len(order) > most:
                return []
        return sorted(found, key=lambda n: n.rank)

    def _row_home(self, a: Node) -> Region | None:
        """The region that has the value which `a` holds or spreads as one per row."""
        root = storage(a.args[0] if a.kind == MOVE and storage(a) is None else a)
        region = None if root is None else self.home.get(root)
        return region if region is not None and region.row_value(a) is root else None

    def _joins_rows(self, node: Node) -> bool:
        """Place a map with one value per row into the region whose rows it goes on with, if there is one."""
        homes = [region for a in node.args if (region := self._row_home(a)) is not None]
        if node.kind != MAP or not homes:
            return False
        region = max(homes, key=lambda r: r.position)
        if region.position < self._begun or not region.fits_rows(node) or len(region.nodes) >= MOST_NODES:
            return False
        if any(self._row_home(a) is not region and position(a, self.positions) >= region.position for a in node.args):
            return False
        self._add(region, [node])
        return True

    def _join(self, nodes: Sequence[Node]) -> Region:
        shape = space(nodes[-1])
        region = self._latest.get(shape)
        if region is None or obstacle(nodes, region, self.positions) is not None or self._is_other(nodes, region):
            region = self._latest[shape] = Region(shape, len(self.steps))
            self.steps.append(region)
        self._add(region, nodes)
        return region

    def _is_other(self, nodes: Sequence[Node], region: Region) -> bool:
        """Whether these nodes share no array with a region that has to be of one piece, or reduce along other axes."""
        if not self._of_one_piece:
            return False
        over = {n.data[1] for n in (*nodes, *region.nodes) if n.kind == REDUCE and n.size > 1}
        least = min(2, prod(region.shape))  # numbers are no arrays, where there are arrays
        arrays = {a for a in (*region.nodes, *_read(region.nodes)) if a.size >= least}
        return len(over) > 1 or arrays.isdisjoint(_read(nodes))

    def _add(self, region: Region, nodes: Sequence[Node]) -> None:
        for node in nodes:
            region.add(node)
            self.home[node] = region
            self._note(node, region.position)

    def _note(self, node: Node, position: int) -> None:
        self.positions[node] = position
        for a in dict.fromkeys(node.args):
            self._waiting[a] -= 1

    def _absorb(self, region: Region, fresh: Sequence[Node]) -> None:
        """Take on waiting users of what was just computed where that frees more memory than it needs."""
        tried: set[Node] = set()
        for node in (frontier := list(fresh)):
            for user in self._users.get(node, ()):
                if user.kind != MAP or user.shape != region.shape or user in self.home or user in tried:
                    continue
                tried.add(user)
                nodes = self._closure([user], 3)
                if nodes and self._not_yet.isdisjoint(nodes) and obstacle(nodes, region, self.positions) is None:
                    if self._gain(nodes) > 0:
                        self._add(region, nodes)
                        frontier += nodes
                    elif len(frontier) < 4 * len(fresh):
                        frontier.append(user)

    def _gain(self, nodes: Sequence[Node]) -> int:
        """How many values of this shape need no memory any more, less those that do, if these nodes are computed."""
        inside = set(nodes)
        gain = 0
        for a in dict.fromkeys(a for n in nodes for a in n.args):
            if a in inside or a in self._kept or a.kind in (INPUT, CONST) or a.shape != nodes[0].shape:
                continue
            uses = sum(1 for u in self._users[a] if u in inside)
            gain += self._waiting[a] == uses
        for n in nodes:
            gain -= any(u not in inside for u in self._users.get(n, ())) or n in self._kept
        return gain


def _read(nodes: Sequence[Node]) -> Iterator[Node]:
    """The nodes with memory that these read."""
    return (source for n in nodes for a in n.args for source in sources(a))


def space(node: Node) -> Shape:
    """The index space of the region that a map or reduction belongs to."""
    return node.args[0].shape if node.kind == REDUCE else node.shape


class Crossing(NamedTuple):
    """A value that leaves the step that computes it, the node that reads it (None: a result), and why."""

    value: Node
    reader: Node | None
    reason: Reason
    waits_for: Node | None = None


def crossings(plan: Plan) -> Iterator[Crossing]:
    """Every value that goes through memory, for each node that reads it, with the rule that made it so."""
    for step in plan.steps:
        for node in step.nodes if isinstance(step, Region) else (step,):
            for a in dict.fromkeys(node.args):
                reason = apart(a, node)
                if reason is None:
                    if plan.home[a] is not plan.home[node]:
                        yield Crossing(a, node, *_separation(plan, a, node))
                    continue
                if plan.home.get(node) is not None and plan.home[node].row_value(a) is not None:
                    continue  # it stays in a register while the row is gone on with
                if reason is Reason.MOVE and storage(a) is not None:
                    reason = Reason.SHAPE
                for root in dict.fromkeys(sources(a)):
                    if root.kind not in (INPUT, CONST):
                        yield Crossing(root, node, Reason.REDUCE if root.kind == REDUCE else reason)
    yield from (Crossing(n, None, Reason.RESULT) for n in dict.fromkeys(plan.outputs) if n.kind not in (INPUT, CONST))


def _separation(plan: Plan, a: Node, node: Node) -> Obstacle:
    """Why `node` is not in the region of `a`, from which it could take `a` at the same index."""
    here = plan.home[node]
    needed = dict.fromkeys([node])
    for n in (order := [node]):
        for b in n.args:
            if plan.home.get(b) is here and b not in needed:
                needed[b] = None
                order.append(b)
    return obstacle(order, plan.home[a], plan.positions) or Obstacle(Reason.LATER)


def _ordered(outputs: Sequence[Node]) -> list[Node]:
    """All nodes that outputs need, arguments first; those made first come first."""
    order: list[Node] = []
    done: set[Node] = set()
    for output in outputs:
        stack: list[tuple[Node, Any]] = [(output, iter(output.args))]
        while stack:
            node, rest = stack[-1]
            if node in done:
                stack.pop()
                continue
            following = next((a for a in rest if a not in done), None)
            if following is None:
                done.add(node)
                order.append(node)
                stack.pop()
            else:
                stack.append((following, iter(following.args)))
    return sorted(order, key=lambda n: n.rank)
