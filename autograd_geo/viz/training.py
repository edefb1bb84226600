"""What training did: loss curves, and the magnitude of the gradient in each layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..tape import enable_grad
from ..tensor import Tensor
from .descent import gradients

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..nn import Module
    from ..optim import History


def loss_curves(histories: Any, *, quantity: str = "loss", title: str = "Loss over training") -> Figure:
    """Training and test loss over the epochs, logarithmic where they are positive; a Matplotlib figure.

    `histories` is what `fit` returned, or a mapping of names to such or to sequences of numbers; `quantity` says what
    the loss is, with its unit. Raises ValueError where there is no loss to draw.
    """
    from .figure import figure, line_styles

    named: Mapping[str, History | Sequence[float]] = histories if isinstance(histories, Mapping) else {"": histories}
    curves = {name: _curves(history) for name, history in named.items()}
    everything = np.concatenate([c for pair in curves.values() for _, c in pair] or [np.zeros(0)])
    if not everything.size:
        raise ValueError("loss_curves: there is no loss in these histories")
    drawn, (ax,) = figure()
    for (name, pair), style in zip(curves.items(), line_styles(len(curves)), strict=True):
        for (what, losses), dash in zip(pair, ("-", (0, (4, 1.5))), strict=False):
            epochs = np.arange(1, len(losses) + 1)
            few = "o" if len(losses) <= 30 else None
            ax.plot(
                epochs, losses, color=style["color"], linestyle=dash, marker=few, markersize=3.5,
                label=f"{name}, {what}" if name and what else name or what,
            )  # fmt: skip
    finite = everything[np.isfinite(everything)]
    ax.set(title=title, xlabel="epoch", ylabel=quantity, yscale="log" if np.all(finite > 0) else "linear")
    if any(line.get_label()[0] != "_" for line in ax.lines):
        ax.legend(fontsize="small", frameon=False)
    return drawn


def _curves(history: Any) -> list[tuple[str, Any]]:
    """What to draw of one history, each with what it is."""
    if not hasattr(history, "train"):
        return [("", np.asarray(history, float))]
    sets = (("training batches", history.train), ("test set", history.test))
    return [(what, np.asarray(losses, float)) for what, losses in sets if len(losses)]


class GradientRecorder:
    """Records the magnitude of the gradient in each layer of `model`; a callback for `fit`.

        recorder = ag.viz.GradientRecorder(net, nn.mse_loss, (x, y))
        optim.fit(net, optimizer, nn.mse_loss, (x, y), epochs=50, callback=recorder)
        ag.viz.gradient_magnitudes(recorder)

    Each call takes the gradient of `loss(model(x), y)` at the present parameters, always on these samples, and changes
    nothing. `magnitudes` holds, for each layer that has parameters, the root mean square over its parameters, first
    that before training. Raises TypeError where the loss does not depend on the parameters.
    """

    def __init__(self, model: Module, loss: Callable[[Any, Any], Any], samples: tuple[Any, Any]) -> None:
        self._model, self._loss, self._samples = model, loss, samples
        self._layers: dict[str, list[Tensor]] = {}
        for name, p in model.named_parameters():
            self._layers.setdefault(name.rpartition(".")[0] or type(model).__name__, []).append(p)
        self.magnitudes: dict[str, list[float]] = {name: [] for name in self._layers}
        self()

    def __call__(self, history: History | None = None) -> None:
        """Record the present state."""
        x, y = self._samples
        parameters = [p for layer in self._layers.values() for p in layer]
        with enable_grad():
            found = iter(gradients(self._loss(self._model(x), y), parameters))
        for name, layer in self._layers.items():
            flat = np.concatenate([np.ravel(next(found)) for _ in layer])
            self.magnitudes[name].append(float(np.sqrt(np.mean(np.square(flat, dtype=np.float64)))))


def gradient_magnitudes(
    recorders: GradientRecorder | Mapping[str, GradientRecorder], *, title: str = "Magnitude of the gradient per layer"
) -> Figure:
    """The magnitude of the gradient in each layer over training, dark for the first layer; a Matplotlib figure.

    Several recorders, by name, are drawn side by side on the same scale: where gradients vanish, the lines of the first
    layers lie decades below those of the last. Zeros are not drawn on the logarithmic scale; the legend tells them.
    """
    from matplotlib.ticker import MaxNLocator

    from .figure import figure, sequence_colors

    named = {"": recorders} if isinstance(recorders, GradientRecorder) else dict(recorders)
    drawn, axes = figure(1, len(named), size=(1.0 + 5.2 * len(named), 4.4), sharey=True)
    for ax, (name, recorder) in zip(axes, named.items(), strict=True):
        colors = sequence_colors(len(recorder.magnitudes))
        for (layer, values), color in zip(recorder.magnitudes.items(), colors, strict=True):
            sizes = np.array(values)
            zeros = int(np.sum(sizes == 0))
            few = "o" if len(sizes) <= 30 else None
            label = layer + (f" (zero {zeros} times)" if zeros else "")
            ax.plot(np.ma.masked_equal(sizes, 0.0), color=color, marker=few, markersize=3.5, label=label)
        ax.set(title=name or title, xlabel="epochs trained", yscale="log")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=4, fontsize="small", frameon=False,
            title="layer, first to last", title_fontsize="small",
        )  # fmt: skip
    axes[0].set_ylabel("root mean square of ∂loss/∂parameter")
    if any(named):
        drawn.suptitle(title)
    return drawn


__all__ = ["GradientRecorder", "gradient_magnitudes", "loss_curves"]
