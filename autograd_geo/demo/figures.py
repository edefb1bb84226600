"""The demo's pictures, drawn with matplotlib and no global state."""

from __future__ import annotations

from typing import Any

import numpy as np

from .porosity import Array, Study
from .wave import BACKGROUND, RECEIVERS, SOURCE, SPACING, Inversion


def _figure(columns: int = 1, width: float = 6.4) -> tuple[Any, list[Any]]:
    from ..viz.figure import figure

    return figure(1, columns, (width, 4.0))


def loss_curves(s: Study) -> Any:
    """Training and test loss of each network over the epochs."""
    trained = [m for m in s.models if m.history is not None]
    figure, axes = _figure(len(trained), 9.0)
    line = s.models[1]
    for ax, model in zip(axes, trained, strict=True):
        assert model.history is not None
        epochs = np.arange(1, len(model.history) + 1)
        ax.plot(epochs, model.history.train, label="training batches")
        ax.plot(epochs, model.history.test, label="test wells")
        ax.axhline(line.test, color="0.5", linestyle=":", label="linear regression, test")
        ax.set(title=model.name, xlabel="epoch", ylabel="mean squared error", yscale="log")
        ax.legend(fontsize="small")
    return figure


def fitted_curves(s: Study) -> Any:
    """The wells and every model's curve through them, in their own units."""
    figure, (ax,) = _figure()
    for (x, y), marker, label in ((s.train, "o", "training wells"), (s.test, "^", "test wells")):
        ax.plot(s.impedance.inverse_transform(x), s.porosity.inverse_transform(y), marker, ms=4, alpha=0.6, label=label)
    grid = np.linspace(-1, 1, 300)[:, None]
    for model in s.models:
        ax.plot(
            s.impedance.inverse_transform(grid), s.porosity.inverse_transform(model.predict(grid)),
            label=f"{model.name} (test {model.test:.4f})",
        )  # fmt: skip
    ax.set(xlabel="acoustic impedance", ylabel="porosity", title="Porosity from impedance")
    ax.legend(fontsize="small")
    return figure


def maps(impedance: Array, porosity: Array, model: str) -> Any:
    """The impedance map and the porosity predicted from it."""
    figure, axes = _figure(2, 9.0)
    for ax, values, title, colors in zip(
        axes, (impedance, porosity), ("Acoustic impedance", f"Porosity: {model}"), ("viridis", "magma"), strict=True
    ):
        image = ax.imshow(values, cmap=colors)
        ax.grid(False)
        ax.set(title=title, xlabel="column", ylabel="row")
        figure.colorbar(image, ax=ax, shrink=0.85)
    return figure


def inverted_velocity(i: Inversion) -> Any:
    """The velocity along the line, true and found, and the misfit over the steps."""
    figure, (along, over) = _figure(2, 9.0)
    x = np.arange(len(i.true)) * SPACING
    along.plot(x, i.true, color="0.4", label="true")
    along.plot(x, i.found, label="found")
    along.axhline(BACKGROUND, color="0.7", linestyle=":", label="start")
    along.plot(x[SOURCE], BACKGROUND, "*", ms=12, color="tab:red", label="source")
    along.plot(x[RECEIVERS], np.full(len(RECEIVERS), BACKGROUND), "v", ms=5, color="tab:green", label="receivers")
    along.set(title="Velocity along the line", xlabel="distance in m", ylabel="velocity in m/s")
    along.legend(fontsize="small")
    over.plot(np.arange(1, len(i.misfits) + 1), i.misfits)
    over.set(title="Misfit of the seismogram", xlabel="step", ylabel="sum of squares", yscale="log")
    return figure
