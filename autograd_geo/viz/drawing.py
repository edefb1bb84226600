"""What a drawing is made of: cards for values and boxes, edges, frames around cards; and its source in DOT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .mathematics import Text, escaped, muted, plain

INK, MUTED, LINE, MATH = "#1f2328", "#5f6b76", "#8a939d", "#9a3412"
FONT = "Helvetica,Arial,sans-serif"
LEAF, CONSTANT, INNER, OUTPUT, BOX, FRAME = "#d5e8f7", "#eeeeee", "#ffffff", "#fde3c8", "#e9e4f5", "#f7f6fb"
MARKED, ALARM = "#fbd5d5", "#a40e26"


@dataclass(slots=True)
class Card:
    """A node: its first row is what it is called, the symbol of its op stands on the left.

    `frame` is the name of the frame it stands in, `href` where a click leads, `tip` what a pointer over it tells.
    """

    rows: Sequence[Text]
    color: str = INNER
    symbol: str = ""
    frame: str = ""
    href: str = ""
    tip: str = ""
    round: bool = False  # a circle: a number that stands in the program
    stack: bool = False  # a second border: something is inside
    swatches: Sequence[str] = ()  # a colour for each row: a legend


@dataclass(slots=True)
class Edge:
    """An arrow from one card to another."""

    start: str
    end: str
    label: Text | None = None
    thick: bool = False


@dataclass(slots=True)
class Frame:
    """A border around cards, with a title; `parent` is the name of the frame it stands in."""

    title: Text
    parent: str = ""
    href: str = ""
    tip: str = ""


@dataclass
class Drawing:
    """Cards, edges and frames by name. Raises ValueError for another direction than "LR" and "TB"."""

    rankdir: str = "LR"
    cards: dict[str, Card] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    frames: dict[str, Frame] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        if self.rankdir not in ("LR", "TB"):
            raise ValueError(f"rankdir may be 'LR' or 'TB', not {self.rankdir!r}")

    def dot(self) -> str:
        """The source for Graphviz."""
        from graphviz import Digraph

        sheet = Digraph(
            graph_attr={
                "rankdir": self.rankdir, "bgcolor": "transparent", "nodesep": "0.22", "ranksep": "0.42",
                "fontname": FONT, "fontsize": "11", "fontcolor": INK,
            },
            node_attr={"fontname": FONT, "fontsize": "11", "fontcolor": INK, "shape": "plain"},
            edge_attr={
                "fontname": "Times", "fontsize": "12", "fontcolor": MATH, "color": LINE, "arrowsize": "0.7",
            },
        )  # fmt: skip
        if self.note:
            sheet.attr(label=f"<{muted(self.note, MUTED).markup}>", labelloc="b")
        self._fill(sheet, "")
        for e in self.edges:
            style = {"penwidth": "2.2", "color": INK} if e.thick else {}
            label = f"<{e.label.markup}>" if e.label else ""
            sheet.edge(e.start, e.end, label=label, id=f"{e.start}-{e.end}", **style)
        return str(sheet.source)

    def _fill(self, sheet: Any, frame: str) -> None:
        """Write the cards and frames that stand in a frame."""
        for name, card in self.cards.items():
            if card.frame == frame:
                sheet.node(name, id=name, **_attributes(card))
        for name, inner in self.frames.items():
            if inner.parent == frame:
                with sheet.subgraph(name=f"cluster_{name}") as box:
                    box.attr(
                        label=f"<{inner.title.markup}>", style="rounded,filled", color=LINE, fillcolor=FRAME,
                        labeljust="l", labelloc="t", margin="10", **_link(inner.href, inner.tip),
                    )  # fmt: skip
                    self._fill(box, name)


def _attributes(card: Card) -> dict[str, str]:
    attributes = _link(card.href, card.tip)
    if card.round:
        return attributes | {
            "label": f"<{card.rows[0].markup}>", "shape": "circle", "style": "filled", "fillcolor": card.color,
            "color": LINE, "margin": "0.02",
        }  # fmt: skip
    return attributes | {"label": f"<{_legend(card) if card.swatches else _table(card)}>"}


def _link(href: str, tip: str) -> dict[str, str]:
    return {"URL": href, "target": "_self", "tooltip": escaped(tip)} if href else {}


def _table(card: Card) -> str:
    side = ""
    if card.symbol:
        symbol = f'<font face="Times" point-size="17">{escaped(card.symbol)}</font>'
        side = f'<td rowspan="{len(card.rows)}" border="1" sides="R" color="{LINE}" cellpadding="5">{symbol}</td>'
    gap = "&nbsp;" if side else ""
    cells = [f'<td align="left">{gap}{row.markup}</td>' for row in card.rows]
    body = f"<tr>{side}{cells[0]}</tr>" + "".join(f"<tr>{cell}</tr>" for cell in cells[1:])
    table = f'<table border="0" cellspacing="0" cellpadding="1">{body}</table>'
    for padding in (5, 3)[: 1 + card.stack]:
        style = f'border="1" cellborder="0" cellspacing="0" color="{LINE}" bgcolor="{card.color}" style="rounded"'
        table = f'<table {style} cellpadding="{padding}"><tr><td>{table}</td></tr></table>'
    return table


def _legend(card: Card) -> str:
    rows = [
        f'<tr><td bgcolor="{color}" align="left">{row.markup}</td></tr>'
        for color, row in zip(card.swatches, card.rows, strict=True)
    ]
    return f'<table border="1" cellborder="0" cellspacing="2" cellpadding="3" color="{LINE}">{"".join(rows)}</table>'


def literal(value: Any, frame: str = "") -> Card:
    """A number that stands in the program, as a circle."""
    return Card([plain(f"{value:g}".replace("-", "−"))], CONSTANT, frame=frame, round=True)
