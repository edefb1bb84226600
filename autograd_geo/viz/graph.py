"""Computation graphs: values and operations as nodes, local derivatives on the edges."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..backward import Accumulate, Local, Seed, events
from ..tape import Entry, history, value_of
from ..tensor import Tensor, entry_of
from .formulas import local_derivative
from .values import names, number

LEAF, CONSTANT, _INNER, _OUTPUT = "#d5e8f7", "#eeeeee", "#ffffff", "#fde3c8"


class Graph:
    """The drawing of a tape. Shows itself in a notebook; `dot` is its source, `svg()`, `png`, `pdf` render it."""

    def __init__(self, dot: str) -> None:
        self.dot = dot

    def _render(self, kind: str) -> bytes:
        try:
            import pygraphviz
        except ImportError:
            raise ImportError("drawing a graph needs pygraphviz: pip install 'autograd-geo[viz]'") from None
        drawing: bytes = pygraphviz.AGraph(string=self.dot).draw(format=kind, prog="dot")
        return drawing

    def svg(self) -> str:
        """The drawing as an SVG element, to put into a page."""
        text = self._render("svg").decode()
        return text[text.index("<svg") :]

    def save(self, path: str | Path) -> None:
        """Write the drawing to a file; its ending says how: .svg, .png or .pdf. Raises ValueError for another."""
        kind = Path(path).suffix.removeprefix(".")
        if kind not in ("svg", "png", "pdf"):
            raise ValueError(f"a graph can be saved as .svg, .png or .pdf, not as {str(path)!r}")
        Path(path).write_bytes(self._render(kind))

    png = pdf = save

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"image/svg+xml": self.svg(), "text/plain": self.dot}


def graph(output: Tensor, *, rankdir: str = "LR") -> Graph:
    """Draw the tape of `output`: each value with its name and gradient, each edge with its local derivative.

    `rankdir` is "LR" (left to right) or "TB" (top to bottom). Gradients are those of `output`, where it is a
    single number; "not computed" is drawn as such. Raises RuntimeError where a backward pass has let go of the
    tape: draw first, or use backward(retain_graph=True).
    """
    drawing = canvas(rankdir)
    last = entry_of(output)
    named = names(last)
    cotangents, locals_ = _derivatives(last)
    for entry in history(last):
        drawing.node(str(entry.number), _card(entry, last, named, cotangents.get(entry)), id=f"v{entry.number}")
        for k, source in enumerate(entry.inputs):
            if isinstance(source, Entry):
                ends = f"v{source.number}-v{entry.number}"
                drawing.edge(str(source.number), str(entry.number), label=locals_.get((entry, k), ""), id=ends)
            else:
                draw_literal(drawing, f"{entry.number}.{k}", source)
                drawing.edge(f"{entry.number}.{k}", str(entry.number))
    return Graph(drawing.source)


def _derivatives(last: Entry) -> tuple[dict[Entry, Any], dict[tuple[Entry, int], str]]:
    """Every cotangent, and what to write on each edge, from one pass that changes nothing."""
    cotangents: dict[Entry, Any] = {}
    texts: dict[tuple[Entry, int], str] = {}
    if not last.state or last.shape:
        return cotangents, texts
    named = names(last)
    for kind, *fields in events(last, 1.0, retain=True, again=True):
        if kind is Seed:
            cotangents[fields[0]] = fields[1]
        elif kind is Local:
            entry, k, _, contribution = fields
            cotangents.setdefault(entry.inputs[k], contribution)
            symbols, value = local_derivative(entry, k, named)
            small = value is not None and type(value_of(entry)) is float
            texts[entry, k] = (
                f"{symbols} = {number(float(value))}" if small and symbols != number(float(value)) else symbols
            )
        elif kind is Accumulate:
            cotangents[fields[0]] = fields[2]
    return cotangents, texts


def _card(entry: Entry, last: Entry, named: dict[Entry, str], cotangent: Any) -> str:
    color = _OUTPUT if entry is last else _INNER if entry.op is not None else LEAF if entry.state else CONSTANT
    gradient = "gradient not computed" if cotangent is None else f"gradient {number(cotangent)}"
    if not entry.state:
        gradient = "constant"
    symbol = "" if entry.op is None else entry.op.symbol
    return card(color, symbol, [named[entry], number(value_of(entry)), gradient])


def canvas(rankdir: str) -> Any:
    """An empty drawing in our style. Raises ValueError for another direction than "LR" and "TB"."""
    if rankdir not in ("LR", "TB"):
        raise ValueError(f"rankdir may be 'LR' or 'TB', not {rankdir!r}")
    from graphviz import Digraph

    return Digraph(
        graph_attr={"rankdir": rankdir, "bgcolor": "transparent", "nodesep": "0.25", "ranksep": "0.45"},
        node_attr={"fontname": "Helvetica", "fontsize": "11", "shape": "plain"},
        edge_attr={"fontname": "Helvetica", "fontsize": "10", "color": "#666666", "fontcolor": "#9a3412"},
    )


def draw_literal(drawing: Any, name: str, value: Any) -> None:
    """A number that stands in the program, as a circle."""
    drawing.node(name, f"{value:g}", shape="circle", style="filled", fillcolor=CONSTANT, margin="0.02")


def card(color: str, symbol: str, rows: Sequence[str]) -> str:
    """The label of a value: what it is called in bold, more about it below, the symbol of its op on the left."""
    side = f'<td border="0" rowspan="{len(rows)}"><font point-size="15">{_escape(symbol)}</font></td>' if symbol else ""
    lines = [f"<b>{_escape(rows[0])}</b>", *map(_escape, rows[1:])]
    cells = [f'<td border="0" align="left">{line}</td>' for line in lines]
    body = f"<tr>{side}{cells[0]}</tr>" + "".join(f"<tr>{cell}</tr>" for cell in cells[1:])
    style = (
        f'border="1" cellborder="0" cellspacing="0" cellpadding="3" color="#888888" bgcolor="{color}" style="rounded"'
    )
    return f"<<table {style}>{body}</table>>"


def legend(rows: Sequence[tuple[str, str]]) -> str:
    """The label of a node that says what colours mean."""
    cells = [f'<tr><td bgcolor="{color}" align="left">{_escape(text)}</td></tr>' for color, text in rows]
    return (
        f'<<table border="1" cellborder="0" cellspacing="2" cellpadding="3" color="#888888">{"".join(cells)}</table>>'
    )


def _escape(text: str) -> str:
    return html.escape(text)
