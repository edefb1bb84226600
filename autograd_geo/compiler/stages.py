"""A region with rows, loop by loop: what each loop over a row computes, once earlier loops have reduced the row.

softmax takes three: the largest element, the sum of exponentials, the quotients. Between loops stands what is one
number per row. What a later loop needs again it computes again if that is cheap, else the row is kept in a buffer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .. import expr
from .nodes import MAP, REDUCE, Formula, Node
from .regions import Region

#: What is as fast as reading its result would be.
_CHEAP = frozenset(["+", "-", "*", "u-", "abs", "maximum", "minimum", "where", "<", "<=", ">", ">=", "==", "!="])
#: So many maps may be computed again together.
_MOST_AGAIN = 3


@dataclass(slots=True)
class Stages:
    """The loops over each row of a region; a region without rows has one."""

    #: The nodes over all elements that each loop computes.
    inside: list[list[Node]] = field(default_factory=list)
    #: The nodes with one value per row to compute before each loop, and after the last.
    between: list[list[Node]] = field(default_factory=list)
    #: Nodes of which a row is kept for later loops.
    kept: list[Node] = field(default_factory=list)


def stages(region: Region, stored: set[Node]) -> Stages:
    """The loops of a region; `stored` are the nodes that have a buffer anyway."""
    of: dict[Node, int] = {}  # the loop that computes a node, or before which it is computed
    ready: dict[Node, int] = {}  # the first loop that may read a value per row
    for node in region.nodes:
        per_row = [ready[v] for a in node.args if (v := region.row_value(a)) is not None]
        beside = [of[a] for a in node.args if a in of and a.shape == region.shape and a.kind == MAP]
        of[node] = max([0, *per_row, *beside])
        if region.is_per_row(node):
            ready[node] = of[node] + (node.kind == REDUCE)
    count = 1 + max([k for n, k in of.items() if n.kind == REDUCE or n.shape == region.shape], default=0)
    found = Stages(between=[[] for _ in range(count + 1)])
    kept: dict[Node, None] = {}
    for k in range(count):
        now = {n: None for n in region.nodes if of[n] == k and (n.kind == REDUCE or n.shape == region.shape)}
        for node in (wanted := list(now)):
            for a in node.args:
                if a.kind == MAP and a.shape == region.shape and of.get(a, k) < k and a not in now:
                    if a not in stored and a not in kept and not _is_cheap(a, region, stored):
                        kept[a] = None
                    elif a not in stored and a not in kept:
                        now[a] = None
                        wanted.append(a)
        found.inside.append([n for n in region.nodes if n in now])
    for node in region.nodes:
        if node.kind == MAP and node.shape != region.shape:
            found.between[of[node]].append(node)
    found.kept = list(kept)
    return found


def _is_cheap(node: Node, region: Region, stored: set[Node]) -> bool:
    """Whether computing a map again costs no more than keeping its row."""
    again = [node]
    for n in again:
        formula: Formula = n.data
        if not _is_plain(formula.body) or len(again) > _MOST_AGAIN:
            return False
        again += [
            a for a in n.args if a.kind == MAP and a.shape == region.shape and a in region.nodes and a not in stored
        ]
    return True


def _is_plain(body: expr.Node) -> bool:
    return not isinstance(body, expr.Call) or (body.fn in _CHEAP and all(map(_is_plain, body.args)))
