"""The house style of Matplotlib figures: no global state, colours that colour-blind readers and printers tell apart."""

from __future__ import annotations

import io
from itertools import cycle, islice, product
from typing import Any

import numpy as np

try:
    from matplotlib.figure import Figure
except ImportError:
    raise ImportError("this picture needs matplotlib: pip install 'autograd-geo[viz]'") from None

#: Okabe and Ito's colours (2008) that are dark enough for lines on white, in the order they are used.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


class Picture(Figure):
    """A Matplotlib figure that also shows itself in a notebook where pyplot was never imported."""

    def _repr_png_(self) -> bytes:
        return png(self)


def figure(
    rows: int = 1, columns: int = 1, size: tuple[float, float] = (6.4, 4.4), **subplots: Any
) -> tuple[Picture, list[Any]]:
    """A figure of this size in inches, and its axes in a flat list; `subplots` are options of `Figure.subplots`."""
    made = Picture(figsize=size, layout="constrained")
    axes = list(np.ravel(made.subplots(rows, columns, **subplots)))
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, color="0.9", linewidth=0.6)
        ax.set_axisbelow(True)
    return made, axes


def png(drawn: Any, dpi: int = 120) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, dpi=dpi, format="png")
    return buffer.getvalue()


def line_styles(count: int) -> list[dict[str, Any]]:
    """A colour and dashing for each of so many lines, all different as long as there are dashings left."""
    every = [{"color": color, "linestyle": dash} for dash, color in product(("-", "--", "-.", ":"), COLORS)]
    return list(islice(cycle(every), count))


def sequence_colors(count: int) -> list[Any]:
    """So many colours in an order that is seen, dark to light; also without colour."""
    from matplotlib import colormaps

    return [colormaps["viridis"](x) for x in np.linspace(0.0, 0.85, count)]
