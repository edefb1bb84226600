"""The neurons and edges of a network as SVG text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import atan2, degrees, hypot, isfinite
from typing import Any

from ..names import printable
from .layers import Column, Edge, Snapshot, Unit, Weight

#: With more edges, or more neurons in a layer, numbers go into tooltips.
_MOST_LABELLED, _TALLEST_LABELLED = 24, 6
_DASHES = ' stroke-dasharray="5 3"'


@dataclass(frozen=True)
class Stage:
    """How far a sample has come: layers computed forward, whether the loss is, and layers passed backward."""

    forward: int
    loss: bool
    backward: int  # gradients of values from this layer on are known; of weights and sums from the next on
    text: str = ""
    live: int | None = None  # the layer that this step computes

    def value(self, layer: int) -> bool:
        return layer <= self.forward

    def gradient(self, layer: int) -> bool:
        return layer >= self.backward

    def inner_gradient(self, layer: int) -> bool:
        """Of the weights into a layer, its sums and biases."""
        return layer > self.backward


_LIGHT = {
    "ground": "#ffffff", "ink": "#1a1a1a", "faint": "#6b6b6b", "line": "#c9c9c9", "band": "#f3f1e7",
    "plus": "#0072B2", "minus": "#D55E00", "odd": "#A4487F",
}  # fmt: skip
_DARK = {
    "ground": "#15181d", "ink": "#f0f0f0", "faint": "#a5a9b0", "line": "#4a4f57", "band": "#23272e",
    "plus": "#5ab4ec", "minus": "#ff9a4d", "odd": "#e58bc1",
}  # fmt: skip
_FONT = "Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class _Size:
    """Measures in pixels."""

    column: float
    row: float
    radius: float
    thickest: float


_LABELLED, _COMPACT = _Size(330.0, 180.0, 29.0, 7.0), _Size(170.0, 46.0, 16.0, 4.5)


class Sheet:
    """Draws a network: one panel for each sample, a legend below."""

    def __init__(self, shots: Sequence[Snapshot], stage: Stage, descent: bool, theme: str) -> None:
        self._shots, self._stage, self._descent, self._theme = shots, stage, descent, theme
        tallest = max(len(c.units) for s in shots for c in s.columns)
        self._labelled = max(len(s.edges) for s in shots) <= _MOST_LABELLED and tallest <= _TALLEST_LABELLED
        self._size = _LABELLED if self._labelled else _COMPACT
        self._sign = "−" if descent else ""
        slots = max(len(c.units) + (len(c.units) < c.size) for s in shots for c in s.columns)
        self._height = 92.0 + slots * self._size.row
        aside = 170.0 if shots[0].loss is not None or shots[0].targets else 60.0
        self._width = max(620.0, self._x(len(shots[0].columns) - 1) + 80.0 + aside)
        self._peaks = {
            "weight": _peak(e.weight.value for s in shots for e in s.edges),
            "gradient": _peak(e.weight.gradient for s in shots for e in s.edges),
            "value": _peak(u.value for s in shots for c in s.columns for u in c.units),
            "slope": _peak(u.gradient for s in shots for c in s.columns for u in c.units),
        }
        self._parts: list[str] = []

    def text(self) -> str:
        """The whole drawing."""
        head = 34.0 if self._stage.text else 8.0
        if self._stage.text:
            self._label(20, 24, self._stage.text, size=15, bold=True)
        for shot in self._shots:
            if shot.sample is not None:
                self._label(20, head + 18, f"sample {shot.sample}", size=13, bold=True)
                head += 24.0
            self._parts.append(f'<g transform="translate(0 {head:g})">')
            self._panel(shot)
            self._parts.append("</g>")
            head += self._height
        bottom = self._legend(head)
        sizes = ", ".join(str(c.size) for c in self._shots[0].columns)
        head_tag = (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="ag-network ag-{self._theme}" role="img" '
            f'aria-label="A dense network with layers of {sizes} neurons" width="{self._width:g}" height="{bottom:g}" '
            f'viewBox="0 0 {self._width:g} {bottom:g}" font-family="{_FONT}">{_style(self._theme)}'
            f'<rect class="ground" width="100%" height="100%" rx="8" fill="{self._color("ground")}"/>'
        )
        return head_tag + "".join(self._parts) + "</svg>"

    # --- one sample -------------------------------------------------------------------------------------------

    def _panel(self, shot: Snapshot) -> None:
        for k, column in enumerate(shot.columns):
            x = self._x(k)
            if k == self._stage.live:
                self._parts.append(
                    f'<rect class="band" x="{x - 52:g}" y="6" width="104" height="{self._height - 14:g}" rx="10" '
                    f'fill="{self._color("band")}"/>'
                )
            count = f"{column.size:,} neuron{'s' * (column.size != 1)}"
            self._label(x, 24, "input" if k == 0 else column.function, middle=True, bold=True, size=13)
            self._label(x, 40, count, middle=True, size=11, color="faint")
        for edge in shot.edges:
            self._edge(shot, edge)
        if self._labelled:
            for edge in shot.edges:
                self._edge_label(shot, edge)
        for k, column in enumerate(shot.columns):
            if len(column.units) < column.size:
                y = self._y(column, column.split) - self._size.row
                more = f"{column.size - len(column.units):,} more"
                self._label(self._x(k), y - 4, "⋮", middle=True, size=18)
                self._label(self._x(k), y + 12, more, middle=True, size=11, color="faint", halo=True)
            for i, unit in enumerate(column.units):
                self._unit(k, self._x(k), self._y(column, i), unit)
        if shot.loss is not None or shot.targets:
            self._outcome(shot)

    def _x(self, layer: int) -> float:
        return 80.0 + layer * self._size.column

    def _y(self, column: Column, place: int) -> float:
        gap = len(column.units) < column.size
        slots = len(column.units) + gap
        slot = place + (gap and place >= column.split)
        return 60.0 + (self._height - 92.0) / 2 + (slot - (slots - 1) / 2) * self._size.row

    def _along(self, shot: Snapshot, edge: Edge) -> tuple[str, float]:
        """The transform that puts an edge on the x axis, from rim to rim of its neurons, and its length."""
        (a, i), (b, j) = edge.source, edge.target
        x, y = self._x(a), self._y(shot.columns[a], i)
        dx, dy = self._x(b) - x, self._y(shot.columns[b], j) - y
        length, r = hypot(dx, dy), self._size.radius
        x, y = x + dx / length * r, y + dy / length * r
        return f"translate({x:.1f} {y:.1f}) rotate({degrees(atan2(dy, dx)):.2f})", length - 2 * r

    def _widths(self, edge: Edge) -> tuple[float, float, float | None]:
        """How thick the lines of the weight and of its gradient are, and the gradient if it is known by now."""
        gradient = self._shown(edge.weight.gradient) if self._stage.inner_gradient(edge.target[0]) else None
        thick = self._width_of(edge.weight.value, "weight")
        return thick, 0.0 if gradient is None else self._width_of(gradient, "gradient"), gradient

    def _edge(self, shot: Snapshot, edge: Edge) -> None:
        """The weight as a solid line and its gradient as a dashed one beside it."""
        transform, length = self._along(shot, edge)
        thick, beside, gradient = self._widths(edge)
        faded = ' opacity="0.35"' if self._stage.live not in (None, edge.target[0]) else ""
        told = _escaped(self._told(edge.weight, gradient is not None))
        self._parts.append(f'<g transform="{transform}"{faded}><title>{told}</title>')
        self._line(length, -beside / 2, thick, edge.weight.value)
        if gradient is not None:
            self._line(length, thick / 2 + 0.8, beside, gradient, _DASHES)
        self._parts.append("</g>")

    def _line(self, length: float, y: float, width: float, value: float, dashes: str = "") -> None:
        sign = _sign(value)
        self._parts.append(
            f'<line x2="{length:.1f}" y1="{y:.2f}" y2="{y:.2f}" class="s-{sign}" stroke="{self._color(sign)}" '
            f'stroke-width="{width:.2f}"{dashes}/>'
        )

    def _edge_label(self, shot: Snapshot, edge: Edge) -> None:
        """The weight above an edge and its gradient below, near its source, where fewer edges cross."""
        transform, length = self._along(shot, edge)
        thick, beside, gradient = self._widths(edge)
        w, half = edge.weight, (thick + beside) / 2
        self._parts.append(f'<g transform="{transform}">')
        text = f"{_cut(w.name)} = {_number(w.value)}"
        self._label(0.3 * length, -half - 4, text, middle=True, size=11, color=_sign(w.value), halo=True)
        if self._stage.inner_gradient(edge.target[0]):
            color = "faint" if gradient is None else _sign(gradient)
            text = self._slope(shot, w.name, gradient)
            self._label(0.3 * length, half + 12, text, middle=True, size=11, color=color, halo=True, italic=True)
        self._parts.append("</g>")

    def _unit(self, layer: int, x: float, y: float, unit: Unit) -> None:
        stage, r = self._stage, self._size.radius
        known, slope = stage.value(layer), self._shown(unit.gradient) if stage.gradient(layer) else None
        fill, share = (_sign(unit.value), self._share(unit.value, "value")) if known else ("ground", 0.0)
        rim = self._color("line") if slope is None else self._color(_sign(slope))
        width = 1.2 if slope is None else 1.2 + 3.8 * self._share(slope, "slope")
        dash = "" if slope is None else _DASHES
        self._parts.append(
            f"<g><title>{_escaped(self._told_unit(layer, unit))}</title>"
            f'<circle cx="{x:g}" cy="{y:g}" r="{r:g}" class="ground" fill="{self._color("ground")}"/>'
            f'<circle cx="{x:g}" cy="{y:g}" r="{r:g}" class="f-{fill} s-{"line" if slope is None else _sign(slope)}" '
            f'fill="{self._color(fill)}" fill-opacity="{0.06 + 0.5 * share if known else 1:.2f}" stroke="{rim}" '
            f'stroke-width="{width:.2f}"{dash}/>'
        )
        if self._labelled:
            self._label(x, y + 4.5, _number(unit.value) if known else "?", middle=True, size=13)
            self._label(x, y - r - 7, _cut(unit.name), middle=True, size=13, bold=True, halo=True)
            for k, (line, color) in enumerate(self._lines(layer, unit)):
                self._label(x, y + r + 16 + 13.5 * k, line, middle=True, size=11, color=color, halo=True)
        else:
            self._label(x, y + 3.2, _number(unit.value, 2) if known else "?", middle=True, size=9.5)
        self._parts.append("</g>")

    def _lines(self, layer: int, unit: Unit) -> list[tuple[str, str]]:
        """What stands below a neuron: its bias and sum, and the gradients of all three."""
        stage, shot = self._stage, self._shots[0]
        lines = []
        if stage.gradient(layer):
            lines.append((self._slope(shot, unit.name, self._shown(unit.gradient)), "ink"))
        if unit.sum is not None and unit.sum_name != unit.name and not unit.sum_name.startswith("sum of"):
            if stage.value(layer):
                lines.append((f"{_cut(unit.sum_name)} = {_number(unit.sum)}", "faint"))
            if stage.inner_gradient(layer):
                lines.append((self._slope(shot, unit.sum_name, self._shown(unit.sum_gradient)), "faint"))
        if unit.bias is not None:
            lines.append((f"{_cut(unit.bias.name)} = {_number(unit.bias.value)}", "faint"))
            if stage.inner_gradient(layer):
                lines.append((self._slope(shot, unit.bias.name, self._shown(unit.bias.gradient)), "faint"))
        return lines

    def _outcome(self, shot: Snapshot) -> None:
        """Targets beside the outputs, and the loss."""
        column, layer = shot.columns[-1], len(shot.columns) - 1
        x = self._x(layer) + self._size.radius + 22
        if len(shot.targets) == column.size == len(column.units):
            for i, target in enumerate(shot.targets):
                self._label(x, self._y(column, i) + 4, f"target {_number(target)}", size=12)
        elif shot.targets:
            told = ", ".join(_number(t) for t in shot.targets[:4]) + (" …" if len(shot.targets) > 4 else "")
            self._label(x, 42, f"target {told}", size=12)
        if shot.loss is not None:
            told = _number(shot.loss) if self._stage.loss else "?"
            self._label(x, 24, f"{_cut(shot.loss_name)} = {told}", size=14, bold=True)

    # --- texts ------------------------------------------------------------------------------------------------

    def _shown(self, gradient: float | None) -> float | None:
        """A gradient in the sign convention of the drawing."""
        return None if gradient is None else 0.0 - gradient if self._descent else gradient  # no minus zero

    def _slope(self, shot: Snapshot, name: str, shown: float | None) -> str:
        left = f"{self._sign}∂{_cut(shot.loss_name)}/∂{_cut(name)}"
        return f"{left} not computed" if shown is None else f"{left} = {_number(shown)}"

    def _told(self, w: Weight, passed: bool) -> str:
        """The tooltip of a weight."""
        text = f"{w.name} = {_number(w.value, 6)}"
        if passed and w.gradient is not None:
            shown = self._shown(w.gradient)
            text += f"\n{self._sign}∂{self._shots[0].loss_name}/∂{w.name} = {_number(shown, 6)}"
        return text

    def _told_unit(self, layer: int, unit: Unit) -> str:
        if not self._stage.value(layer):
            return f"{unit.name}: not computed yet"
        rows = [f"{unit.name} = {_number(unit.value, 6)}"]
        loss = self._shots[0].loss_name
        if self._stage.gradient(layer):
            shown = self._shown(unit.gradient)
            told = "not computed" if shown is None else f"= {_number(shown, 6)}"
            rows.append(f"{self._sign}∂{loss}/∂{unit.name} {told}")
        if unit.sum is not None:
            rows.append(f"{unit.sum_name} = {_number(unit.sum, 6)}")
        if unit.bias is not None:
            rows.append(self._told(unit.bias, self._stage.inner_gradient(layer)))
        return "\n".join(rows)

    def _label(
        self, x: float, y: float, text: str, *, size: float = 12, middle: bool = False, bold: bool = False,
        italic: bool = False, color: str = "ink", halo: bool = False,
    ) -> None:  # fmt: skip
        style = f' class="f-{color}"'
        if halo:
            ground = self._color("ground")
            style = f' class="f-{color} s-ground" paint-order="stroke" stroke="{ground}" stroke-width="3"'
        style += ' font-weight="bold"' * bold + ' font-style="italic"' * italic + ' text-anchor="middle"' * middle
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{self._color(color)}"{style}>'
            f"{_escaped(text)}</text>"
        )

    def _legend(self, y: float) -> float:
        """What lines, colours and fillings mean, and how large the largest are; returns where it ends."""
        shots, row = self._shots, y + 6
        gradient = f"{self._sign}∂{_cut(shots[0].loss_name)}/∂w"
        slope = f"dashed: {gradient}, up to {_number(self._peaks['gradient'])} in magnitude", "plus", _DASHES
        if not any(e.weight.gradient is not None for s in shots for e in s.edges):
            slope = "gradients of weights are not computed", "line", ""
        for text, color, dashes in (
            (f"solid: weights w, up to |w| = {_number(self._peaks['weight'])}", "plus", ""),
            slope,
        ):
            self._parts.append(
                f'<line x1="20" y1="{row:g}" x2="56" y2="{row:g}" class="s-{color}" stroke="{self._color(color)}" '
                f'stroke-width="4"{dashes}/>'
            )
            self._label(64, row + 4, text, size=11.5, color="faint")
            row += 18
        notes = ["filling: activation; dashed rim: its gradient. Blue is positive, orange negative."]
        if self._descent:
            notes.append(f"Gradients have the opposite sign: {gradient} points downhill, and η times it is added to w.")
        if any(len(c.units) < c.size for s in shots for c in s.columns):
            notes.append(
                "Large layers are abbreviated to their first and last neurons; edges of the others are not drawn."
            )
        if any(s.whole for s in shots):
            notes.append("Gradients of weights are those of the loss of all samples together.")
        for note in notes:
            self._label(20, row + 4, note, size=11.5, color="faint")
            row += 18
        return row + 4

    # --- colour and size --------------------------------------------------------------------------------------

    def _color(self, name: str) -> str:
        return (_DARK if self._theme == "dark" else _LIGHT)[name]

    def _share(self, value: float, of: str) -> float:
        """The magnitude as a part of the largest; 1 for what is not finite, to be seen."""
        peak = self._peaks[of]
        return 1.0 if not isfinite(value) else abs(value) / peak if peak else 0.0

    def _width_of(self, value: float, of: str) -> float:
        return 0.5 + (self._size.thickest - 0.5) * self._share(value, of)


def _style(theme: str) -> str:
    """The dark colours, for readers whose system is dark."""
    if theme != "auto":
        return ""
    at = ".ag-network.ag-auto"
    rules = "".join(f"{at} .f-{k}{{fill:{c}}}{at} .s-{k}{{stroke:{c}}}" for k, c in _DARK.items())
    rules += f"{at} .ground{{fill:{_DARK['ground']}}}{at} .band{{fill:{_DARK['band']}}}"
    return f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"


def _escaped(text: str) -> str:
    """Text that is nothing but text in SVG, whatever a name holds."""
    return escape("\n".join(map(printable, text.split("\n"))))


def _peak(values: Iterable[float | None]) -> float:
    return max((abs(v) for v in values if v is not None and isfinite(v)), default=0.0)


def _sign(value: float) -> str:
    """The colour of a number: what is not finite has its own."""
    return "odd" if not isfinite(value) else "minus" if value < 0 else "plus"


def _number(value: Any, digits: int = 4) -> str:
    return f"{float(value):.{digits}g}".replace("-", "−")


def _cut(name: str, longest: int = 16) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"


__all__ = ["Sheet", "Stage"]
