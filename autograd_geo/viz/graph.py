"""Computation graphs: values and operations as nodes, local derivatives on the edges."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from ..backward import Accumulate, Local, Seed, events
from ..tape import Entry, history, value_of
from ..tensor import Tensor, entry_of
from .text import local_derivative
from .values import names, number

_LEAF, _CONSTANT, _INNER, _OUTPUT = "#d5e8f7", "#eeeeee", "#ffffff", "#fde3c8"


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
    if rankdir not in ("LR", "TB"):
        raise ValueError(f"rankdir may be 'LR' or 'TB', not {rankdir!r}")
    from graphviz import Digraph

    last = entry_of(output)
    named = names(last)
    cotangents, locals_ = _derivatives(last)
    drawing = Digraph(
        graph_attr={"rankdir": rankdir, "bgcolor": "transparent", "nodesep": "0.25", "ranksep": "0.45"},
        node_attr={"fontname": "Helvetica", "fontsize": "11", "shape": "plain"},
        edge_attr={"fontname": "Helvetica", "fontsize": "10", "color": "#666666", "fontcolor": "#9a3412"},
    )
    for entry in history(last):
        drawing.node(str(entry.number), _card(entry, last, named, cotangents.get(entry)))
        for k, source in enumerate(entry.inputs):
            if isinstance(source, Entry):
                drawing.edge(str(source.number), str(entry.number), label=locals_.get((entry, k), ""))
            else:
                literal = f"{entry.number}.{k}"
                drawing.node(literal, f"{source:g}", shape="circle", style="filled", fillcolor=_CONSTANT, margin="0.02")
                drawing.edge(literal, str(entry.number))
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
    color = _OUTPUT if entry is last else _INNER if entry.op is not None else _LEAF if entry.state else _CONSTANT
    symbol = (
        ""
        if entry.op is None
        else f'<td border="0" rowspan="3"><font point-size="15">{_escape(entry.op.symbol)}</font></td>'
    )
    gradient = "gradient not computed" if cotangent is None else f"gradient {number(cotangent)}"
    if not entry.state:
        gradient = "constant"
    rows = [f"<b>{_escape(named[entry])}</b>", _escape(number(value_of(entry))), _escape(gradient)]
    cells = [f'<td border="0" align="left">{row}</td>' for row in rows]
    body = f"<tr>{symbol}{cells[0]}</tr>" + "".join(f"<tr>{cell}</tr>" for cell in cells[1:])
    style = (
        f'border="1" cellborder="0" cellspacing="0" cellpadding="3" color="#888888" bgcolor="{color}" style="rounded"'
    )
    return f"<<table {style}>{body}</table>>"


def _escape(text: str) -> str:
    return html.escape(text)
