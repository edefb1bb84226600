"""Graphs as SVG, PNG, PDF and pages: by Graphviz, or by a plain layout of our own where there is none."""

from __future__ import annotations

import html
import os
import re
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ..files import write_atomically
from . import layout, page
from .drawing import Drawing
from .mathematics import xml
from .theme import PAPER, adaptive, checked, darkened

KINDS = ("svg", "png", "pdf", "html", "dot")


class Graph:
    """A drawing that shows itself in a notebook.

    `dot` is its source for Graphviz; `svg()` is an SVG element; `png`, `pdf`, `html` and `save` write files. SVG
    and pages need no Graphviz, though they look better with it. With the theme "auto" they follow the reader's
    choice of light or dark, and PNG and PDF are light.
    """

    def __init__(self, drawing: Drawing, theme: str = "auto") -> None:
        self._drawing, self._theme = drawing, checked(theme)
        self.dot: str = drawing.dot()

    def svg(self) -> str:
        """The drawing as an SVG element, to put into a page."""
        return svg(self._drawing, self.dot, self._theme)

    def fragment(self) -> str:
        """The drawing as an HTML element, in which boxes open and close on a click."""
        return page.fragment(self._views())

    def save(self, path: str | Path) -> None:
        """Write the drawing to a file; its ending says how: .svg, .png, .pdf, .html or .dot.

        Raises ValueError for another ending, OSError where the file cannot be written, ImportError for PNG and PDF
        where there is no Graphviz.
        """
        kind = Path(path).suffix.removeprefix(".").lower()
        if kind not in KINDS:
            raise ValueError(f"a graph can be saved as .svg, .png, .pdf, .html or .dot, not as {str(path)!r}")
        self._write(kind, path)

    def png(self, path: str | Path) -> None:
        """Write a PNG file; see `save`."""
        self._write("png", path)

    def pdf(self, path: str | Path) -> None:
        """Write a PDF file; see `save`."""
        self._write("pdf", path)

    def html(self, path: str | Path) -> None:
        """Write a page that needs no other file and no network; boxes open and close on a click. See `save`."""
        self._write("html", path)

    def _write(self, kind: str, path: str | Path) -> None:
        write(path, self._content(kind), "graph")

    def _content(self, kind: str) -> bytes:
        if kind == "html":
            return page.document(self._views(), self._theme).encode()
        if kind == "svg":
            return f'<?xml version="1.0" encoding="UTF-8"?>\n{self.svg()}\n'.encode()
        if kind == "dot":
            return self.dot.encode()
        source = darkened(self.dot) if self._theme == "dark" else self.dot
        content = _graphviz(source.replace("bgcolor=transparent", f'bgcolor="{PAPER[self._theme]}"', 1), kind)
        if content is None:
            raise ImportError(f"to write {kind.upper()}, install Graphviz: pip install 'autograd-geo[viz]'")
        return content

    def _views(self) -> Sequence[str]:
        """The pictures of a page: the first is what it opens with, links lead from one to another."""
        return [self.svg()]

    def _repr_svg_(self) -> str:
        return self.svg()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        views = self._views()
        bundle = {"image/svg+xml": views[0] if len(views) == 1 else self.svg(), "text/plain": repr(self)}
        return bundle if len(views) == 1 else bundle | {"text/html": page.fragment(views)}


def write(path: str | Path, content: bytes | str, what: str) -> None:
    """Write a file that appears complete or not at all. Raises OSError, saying `what` cannot be written and why."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise OSError(error.errno, f"the {what} cannot be written: {error.strerror}", str(path)) from None


def svg(drawing: Drawing, dot: str, theme: str) -> str:
    """A drawing, and its source, as an SVG element."""
    rendered = _graphviz(dot, "svg")
    text = layout.svg(drawing) if rendered is None else _polished(rendered.decode(), drawing)
    return adaptive(text) if theme == "auto" else darkened(text) if theme == "dark" else text


def _graphviz(dot: str, kind: str) -> bytes | None:
    """What Graphviz makes of it: the one inside pygraphviz, else the system's; None without either."""
    try:
        import pygraphviz
    except ImportError:
        import graphviz

        try:
            piped: bytes = graphviz.Source(dot).pipe(format=kind)
            return piped
        except graphviz.ExecutableNotFound:
            return None
    _load_fonts()
    drawn: bytes = pygraphviz.AGraph(string=dot).draw(format=kind, prog="dot")
    return drawn


@cache
def _load_fonts() -> None:
    """Have Graphviz read the system's font settings, without a word on what in them its Fontconfig does not know.

    It is a library in this process, which writes to the file descriptor of standard error; what else arrives there
    in the meantime is passed on.
    """
    import pygraphviz

    try:
        stderr = os.dup(2)
    except OSError:  # there is none
        return
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            pygraphviz.AGraph(string="digraph { a }").draw(format="svg", prog="dot")
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        caught.seek(0)
        for line in caught:
            if not line.startswith(b"Fontconfig warning"):
                os.write(2, line)


def _polished(text: str, drawing: Drawing) -> str:
    """Graphviz's SVG as browsers show it well: indices are moved by hand, tips tell something."""
    text = re.sub(r"<!--.*?-->\n?", "", text[text.index("<svg") :].strip(), flags=re.DOTALL)
    text = text.replace('baseline-shift="super"', 'dy="-4.5"').replace('baseline-shift="sub"', 'dy="2.5"')
    text = text.replace(' target="_self"', "")

    def tip(match: re.Match[str]) -> str:
        card = drawing.cards.get(html.unescape(match[1]))
        return f"<title>{xml(card.tip)}</title>" if card and card.tip else ""

    return re.sub(r"<title>(.*?)</title>\n?", tip, text)
