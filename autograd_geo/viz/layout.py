"""A plain layered drawing without Graphviz, so that a graph is always seen: cards in columns, curves between them.

Sugiyama's method in short: columns by longest path, long edges cut at each column, order by barycentres.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise

from .drawing import INK, LINE, MATH, Card, Drawing, Edge
from .mathematics import xml

_CHARACTER, _LINE, _PAD, _BETWEEN, _GAP = 6.4, 15.0, 7.0, 22.0, 48.0
_ROUNDS = 8


def svg(drawing: Drawing) -> str:
    """The drawing as an SVG element, left to right or top to bottom."""
    sizes = {name: _size(card) for name, card in drawing.cards.items()}
    flip = drawing.rankdir == "TB"
    columns, paths = _columns(drawing)
    _untangle(columns, paths)
    spots: dict[str, tuple[float, float]] = {}  # the middle of each card, and of each bend of an edge
    gap = _GAP + max((len(e.label.plain) for e in drawing.edges if e.label), default=0) * _CHARACTER
    along = 0.0
    for column in columns:
        depth = max(_turned(sizes.get(name, (0.0, 0.0)), flip)[0] for name in column)
        heights = [_turned(sizes.get(name, (0.0, 8.0)), flip)[1] + _BETWEEN for name in column]
        across = -sum(heights) / 2
        for name, height in zip(column, heights, strict=True):
            spots[name] = _turned((along + depth / 2, across + height / 2), flip)
            across += height
        along += depth + gap
    parts = [_edge(edge, [spots[p] for p in path], flip) for edge, path in zip(drawing.edges, paths, strict=True)]
    parts += [
        f'<g id="{name}" class="node">{_box(card, spots[name], sizes[name])}</g>'
        for name, card in drawing.cards.items()
    ]
    left, top = (min(spots[n][i] - sizes[n][i] / 2 for n in sizes) - _PAD for i in (0, 1))
    right, bottom = (max(spots[n][i] + sizes[n][i] / 2 for n in sizes) + _PAD for i in (0, 1))
    if drawing.note:
        bottom += 2 * _LINE
        parts.append(_text(drawing.note, left + _PAD, bottom - _PAD, INK))
    width, height = right - left, bottom - top
    return (
        f'<svg width="{width:.0f}pt" height="{height:.0f}pt" viewBox="{left:.1f} {top:.1f} {width:.1f} {height:.1f}" '
        f'xmlns="http://www.w3.org/2000/svg"><g>{"".join(parts)}</g></svg>'
    )


def _turned(pair: tuple[float, float], flip: bool) -> tuple[float, float]:
    return (pair[1], pair[0]) if flip else pair


def _size(card: Card) -> tuple[float, float]:
    if card.round:
        return 30.0, 30.0
    width = max(len(row.plain) for row in card.rows) + len(card.symbol) * 1.5
    return width * _CHARACTER + 3 * _PAD, len(card.rows) * _LINE + _PAD


def _columns(drawing: Drawing) -> tuple[list[list[str]], list[list[str]]]:
    """Names column by column, and for each edge its way through them; names of bends hold a line break."""
    after: dict[str, list[str]] = defaultdict(list)
    missing = dict.fromkeys(drawing.cards, 0)
    for edge in drawing.edges:
        after[edge.start].append(edge.end)
        missing[edge.end] += 1
    rank = dict.fromkeys(drawing.cards, 0)
    order = [name for name, count in missing.items() if not count]
    for name in order:
        for end in after[name]:
            rank[end] = max(rank[end], rank[name] + 1)
            missing[end] -= 1
            if not missing[end]:
                order.append(end)
    for name in reversed(order):  # sources stand next to what first reads them
        if after[name]:
            rank[name] = min(rank[end] for end in after[name]) - 1
    columns: list[list[str]] = [[] for _ in range(max(rank.values()) + 1)]
    for name in order:
        columns[rank[name]].append(name)
    paths = []
    for k, edge in enumerate(drawing.edges):
        bends = {r: f"\n{k} {r}" for r in range(rank[edge.start] + 1, rank[edge.end])}
        for r, bend in bends.items():
            columns[r].append(bend)
        paths.append([edge.start, *bends.values(), edge.end])
    return columns, paths


def _untangle(columns: list[list[str]], paths: Iterable[list[str]]) -> None:
    """Order each column by where its neighbours stand, from left to right and back."""
    before: dict[str, list[str]] = defaultdict(list)
    behind: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        for a, b in pairwise(path):
            before[b].append(a)
            behind[a].append(b)
    place = {name: k - len(column) / 2 for column in columns for k, name in enumerate(column)}
    for turn in range(_ROUNDS):
        near = behind if turn % 2 else before
        for column in columns[::-1] if turn % 2 else columns:
            wish = {n: sum(place[m] for m in near[n]) / len(near[n]) if near[n] else place[n] for n in column}
            column.sort(key=wish.__getitem__)
            place.update((name, k - len(column) / 2) for k, name in enumerate(column))


def _edge(edge: Edge, points: list[tuple[float, float]], flip: bool) -> str:
    label = ""
    if edge.label:
        (x, y), (u, v) = points[:2]
        label = _text(edge.label.plain, 0.6 * x + 0.4 * u, 0.6 * y + 0.4 * v - 4, MATH, anchor="middle")
    return f'<g id="{edge.start}-{edge.end}" class="edge">{_curve(points, flip)}{label}</g>'


def _curve(points: list[tuple[float, float]], flip: bool) -> str:
    """A smooth line through points; the cards are drawn over its ends."""
    text = f"M{points[0][0]:.1f},{points[0][1]:.1f}"
    for (x, y), (u, v) in pairwise(points):
        a, b = (x, (y + v) / 2) if flip else ((x + u) / 2, y), (u, (y + v) / 2) if flip else ((x + u) / 2, v)
        text += f"C{a[0]:.1f},{a[1]:.1f} {b[0]:.1f},{b[1]:.1f} {u:.1f},{v:.1f}"
    return f'<path fill="none" stroke="{LINE}" d="{text}"/>'


def _box(card: Card, spot: tuple[float, float], size: tuple[float, float]) -> str:
    x, y = spot[0] - size[0] / 2, spot[1] - size[1] / 2
    corner = size[1] / 2 if card.round else 6
    parts = [
        f"<title>{xml(card.tip)}</title>" if card.tip else "",
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{size[0]:.1f}" height="{size[1]:.1f}" rx="{corner}" '
        f'fill="{card.color}" stroke="{LINE}"/>',
    ]
    if card.round:
        return "".join([*parts, _text(card.rows[0].plain, spot[0], spot[1] + 4, INK, anchor="middle")])
    if card.symbol:
        parts.append(_text(card.symbol, x + _PAD, spot[1] + 4, INK))
        x += len(card.symbol) * 1.5 * _CHARACTER + _PAD
    for k, row in enumerate(card.rows):
        weight = "bold" if k == 0 else "normal"
        parts.append(_text(row.plain, x + _PAD, y + (k + 0.9) * _LINE, INK, weight=weight))
    return "".join(parts)


def _text(text: str, x: float, y: float, color: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-family="Helvetica,sans-serif" font-size="11" text-anchor="{anchor}" '
        f'font-weight="{weight}" fill="{color}">{xml(text)}</text>'
    )
