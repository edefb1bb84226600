"""Which nodes are computed together: regions, each one loop nest and so one kernel, in an order that respects what needs what.

A region has one shape to loop over. A map joins a region if what it reads is there before, or is computed in the same
region at the same index. A reduction closes over the region of its operand. Positions only grow along dependencies, so
whatever joins whatever, the order stays right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import expr
from .graph import CALL, CONST, INPUT, MAP, MOVE, PRODUCT, REDUCE, SCATTER, Formula, Node
from .moves import Shape

#: Straight-line code compiles in more than linear time, so regions stay small.
MOST_NODES = 40


@dataclass(eq=False, slots=True)
class Region:
    """Maps and reductions over one index space."""

    shape: Shape
    position: int
    nodes: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Plan:
    """The steps of a program in order (regions, and nodes that are a step of their own) and what has a buffer."""

    steps: list[Region | Node]
    stored: set[Node]
    outputs: list[Node]  # where each output is found, an input or a node with a buffer


def storage(node: Node) -> Node | None:
    """The node in whose memory this one's elements lie, in order; None if it has no memory."""
    while node.kind == MOVE:
        if not node.data.in_order:
            return None
        node = node.args[0]
    return node


def plan(outputs: Sequence[Node]) -> Plan:
    """Group what outputs need into steps."""
    copies: dict[Node, Node] = {}

    def copied(node: Node) -> Node:
        """The same values in memory of their own."""
        if node not in copies:
            copies[node] = Node(MAP, node.shape, node.dtype, (node,), Formula(expr.Var("a0"), node.dtype), node.entry)
            copies[node].rank = node.rank + 0.5
        return copies[node]

    final = [copied(n) if storage(n) is None or storage(n).kind in (INPUT, CONST) else n for n in outputs]  # type: ignore[union-attr]
    nodes = _ordered(final)
    for node in nodes:
        if node.kind in (PRODUCT, SCATTER, CALL) or (node.kind == MOVE and not node.data.in_order):
            node.args = tuple(copied(a) if storage(a) is None else a for a in node.args)
    nodes = _ordered(final)

    positions: dict[Node, int] = {}
    home: dict[Node, Region] = {}
    steps: list[Region | Node] = []
    by_shape: dict[Shape, list[Region]] = {}
    for node in nodes:
        if node.kind in (INPUT, CONST):
            positions[node] = -1
        elif node.kind == MOVE:
            positions[node] = max(positions[a] for a in node.args)  # readable from the next position on
        elif node.kind in (MAP, REDUCE):
            shape = node.shape if node.kind == MAP else node.args[0].shape
            least = 0
            for a in node.args:
                beside = a.kind == MAP and a.shape == shape
                least = max(least, positions[a] + (not beside))
            open_regions = by_shape.setdefault(shape, [])
            region = None
            for candidate in reversed(open_regions):
                if candidate.position < least:
                    break
                if len(candidate.nodes) < MOST_NODES:
                    region = candidate
            if region is None:
                region = Region(shape, len(steps))
                steps.append(region)
                open_regions.append(region)
            region.nodes.append(node)
            home[node] = region
            positions[node] = region.position
        else:
            positions[node] = len(steps)
            steps.append(node)

    stored: set[Node] = set()
    for node in nodes:
        for a in node.args:
            beside = a.kind == MAP and a in home and home.get(node) is home[a] and a.shape == home[a].shape
            if not beside or node.kind == MOVE:
                root = storage(a)
                if root is not None and root.kind in (MAP, REDUCE):
                    stored.add(root)
    places = [storage(n) for n in final]
    stored.update(n for n in places if n is not None and n.kind in (MAP, REDUCE))
    stored.update(n for n in nodes if n.kind == REDUCE)
    return Plan(steps, stored, [n for n in places if n is not None])


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
