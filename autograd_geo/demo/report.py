"""The demo's report: one page that opens without a network, and its pictures as files."""

from __future__ import annotations

import base64
import html
from importlib.resources import files
from pathlib import Path
from string import Template

from ..files import write_atomically
from ..viz import graph
from . import figures
from .lessons import chain_rule, chain_rule_text, worked_network_text
from .porosity import Array, Study, verdict
from .wave import Inversion, inversion_text


def report_files(s: Study, impedance_map: Array, inversion: Inversion) -> dict[str, bytes]:
    """The contents of every file of the report, by file name."""
    from ..viz.figure import png

    best, best_row = s.best, ' class="best"'
    f, _ = chain_rule()
    drawing = graph(f)
    contents = {
        "graph.svg": drawing.svg().encode(),
        "loss.png": png(figures.loss_curves(s)),
        "fit.png": png(figures.fitted_curves(s)),
        "wave.png": png(figures.inverted_velocity(inversion)),
        "map.png": png(figures.maps(impedance_map, s.predict(best, impedance_map), best.name)),
    }
    rows = "\n".join(
        f"<tr{best_row if m is best else ''}><td>{html.escape(m.name)}</td><td>{m.parameters}</td>"
        f"<td>{m.train:.4f}</td><td>{m.test:.4f}</td></tr>"
        for m in s.models
    )
    page = Template(files(__package__).joinpath("report.html").read_text("utf-8")).substitute(
        summary=html.escape(
            f"{len(s.train[0])} wells to train and {len(s.test[0])} to test, from {s.source}. "
            "Errors are mean squared errors of porosity scaled to [-1, 1]."
        ),
        rows=rows,
        verdict=html.escape(verdict(s)),
        best=html.escape(best.name),
        graph=contents["graph.svg"].decode(),
        lesson=html.escape(chain_rule_text()),
        network=html.escape(worked_network_text()),
        wave_text=html.escape(inversion_text(inversion)),
        **{name: _embedded(contents[f"{name}.png"]) for name in ("loss", "fit", "map", "wave")},
    )
    return {**contents, "report.html": page.encode()}


def _embedded(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def write_files(contents: dict[str, bytes], directory: Path) -> None:
    """Write the files into a directory, made if need be; each appears complete or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomically(directory / name, content)
