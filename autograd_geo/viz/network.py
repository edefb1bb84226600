"""A dense network as neurons and weighted edges: weights, activations and gradients in one SVG drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..tape import enable_grad, untraced
from ..tensor import Tensor, entry_of, tensor
from .layers import Column, Numbers, Snapshot, read_layers
from .neurons import Sheet, Stage
from .render import write

if TYPE_CHECKING:
    from ..nn import Module

#: Layers of more neurons are abbreviated, unless asked otherwise.
MOST_UNITS = 10


def network(
    model_or_output: Module | Tensor | Sequence[Tensor], x: Any, y: Any = None, loss: Any = None, *,
    sample: int | Sequence[int] = 0, step: int | None = None, descent: bool = False, most: int = MOST_UNITS,
) -> Network:  # fmt: skip
    """Draw a dense network: neurons with their activations, edges with their weights, and the gradients of both.

        ag.viz.network(net, x, y, nn.mse_loss, sample=3)
        ag.viz.network(O6, [I1, I2, I3], 0.3, L)

    Args:
        model_or_output: a module of dense layers and activations, or the output (or list of outputs) of a network
            that was written by hand and recorded.
        x: for a module its inputs, (features,) or samples as rows. Else the input tensor of the tape, a vector or
            samples as rows, or the list of input tensors where each holds one neuron's value(s).
        y: the target: for a module an array, with samples as rows if x has them. It is drawn beside the output.
        loss: for a module a function of (prediction, target), else the recorded loss, a tensor. Without it there are
            no gradients, and the drawing says so.
        sample: which row to draw, or several, one below the other. A module runs on that row alone.
        step: how far the sample has come, from 0 to `steps` - 1: layer by layer forward, the loss, layer by layer
            back; None shows everything.
        descent: show -∂L/∂w, the direction of descent, as some lectures do, instead of ∂L/∂w.
        most: neurons that are drawn of a layer; the first and last ones of larger layers.

    Nothing is changed, no `.grad` is written. Raises ValueError for a tape that is no dense network, naming the
    operation, for shapes that don't fit and a step there is not, IndexError for a sample there is not, TypeError for
    what is neither module nor tensor.
    """
    if most < 2:
        raise ValueError(f"network: at least the first and the last neuron of a layer are drawn; most is {most}")
    chosen = [int(sample)] if isinstance(sample, int | np.integer) else [int(s) for s in sample]
    if not chosen:
        raise ValueError("network: name at least one sample")
    if hasattr(model_or_output, "named_parameters"):
        shots = [_of_module(model_or_output, x, y, loss, s, most) for s in chosen]
    else:
        shots = _of_tape(model_or_output, x, y, loss, chosen, most)
    return Network(tuple(shots), None, descent).at(step)


def _of_module(model: Any, x: Any, y: Any, loss: Any, sample: int, most: int) -> Snapshot:
    """A module run on one sample."""
    inputs = x.numpy() if isinstance(x, Tensor) else np.asarray(x)
    rows = inputs if inputs.ndim > 1 else inputs[None]
    if rows.ndim != 2 or rows.dtype.kind not in "fiub":
        raise ValueError(f"network: x must be numbers of shape (features,) or (samples, features), not {inputs.shape}")
    sample = _checked(sample, len(rows))
    target = None
    if y is not None:
        targets = y.numpy() if isinstance(y, Tensor) else np.asarray(y)
        if inputs.ndim > 1 and len(np.atleast_1d(targets)) != len(rows):
            raise ValueError(f"network: x has {len(rows)} samples, y has shape {targets.shape}")
        target = targets[sample : sample + 1] if inputs.ndim > 1 else targets[None]
    if loss is not None and (target is None or not callable(loss)):
        raise ValueError("network: the loss of a module is a function of prediction and target; pass y and that")
    with enable_grad(), untraced():
        values = np.asarray(rows[sample : sample + 1], np.result_type(rows, np.float32))
        named = dict(model.named_parameters())
        row = tensor(values, requires_grad=True, device=next((p.device for p in named.values()), "cpu"))
        out = model(row)
        if not isinstance(out, Tensor):
            raise TypeError(f"network: the module must return a tensor, it returned {type(out).__name__}")
        value = None if loss is None else _scalar(loss(out, target))
    names = {entry_of(p): name for name, p in named.items()}
    numbers = Numbers(read_layers([entry_of(out)], [entry_of(row)], vector=True), value, names, most)
    columns, edges = numbers.snapshot(0)
    shown = () if target is None else tuple(np.ravel(target).tolist())
    return Snapshot(columns, edges, "L", _item(value), shown, sample if inputs.ndim > 1 else None)


def _of_tape(output: Any, x: Any, y: Any, loss: Any, chosen: Sequence[int], most: int) -> list[Snapshot]:
    """A recorded network, for each of the samples chosen."""
    outputs = [output] if isinstance(output, Tensor) else list(output)
    inputs = [x] if isinstance(x, Tensor) else list(x)
    for t in (*outputs, *inputs, *(() if loss is None else (loss,))):
        if not isinstance(t, Tensor):
            raise TypeError(
                "network: pass a module; or the recorded output, its input tensors and the recorded loss as tensors. "
                f"Here is {t!r:.80}"
            )
    layers = read_layers([entry_of(t) for t in outputs], [entry_of(t) for t in inputs], isinstance(x, Tensor))
    numbers = Numbers(layers, None if loss is None else _scalar(loss), None, most)
    targets = np.array(()) if y is None else y.numpy() if isinstance(y, Tensor) else np.asarray(y)
    samples = numbers.samples
    shots = []
    for sample in chosen:
        sample = _checked(sample, 1 if samples is None else samples)
        columns, edges = numbers.snapshot(sample)
        own = targets[sample] if samples is not None and targets.ndim and len(targets) == samples else targets
        name = "L" if loss is None else loss.name or "L"
        many = samples is not None and samples > 1
        shown = None if samples is None else sample
        shots.append(Snapshot(columns, edges, name, _item(loss), tuple(np.ravel(own).tolist()), shown, many))
    return shots


def _checked(sample: int, count: int) -> int:
    if not -count <= sample < count:
        raise IndexError(f"network: there is no sample {sample}; there {'is 1' if count == 1 else f'are {count}'}")
    return sample % count


def _scalar(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor) or loss.size != 1:
        raise ValueError(f"network: the loss must be a tensor of one number, not {loss!r:.80}")
    return loss


def _item(loss: Tensor | None) -> float | None:
    return None if loss is None else float(loss.item())


# --- what is shown --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """The drawing of a network for one sample or several. Shows itself in a notebook; `at(step)` is one of `steps`."""

    snapshots: tuple[Snapshot, ...]
    step: int | None = None
    descent: bool = False

    @property
    def steps(self) -> int:
        """How many steps there are: every layer forward and, with a loss, the loss and every layer but one back."""
        shot = self.snapshots[0]
        return len(shot.columns) * (1 if shot.loss is None else 2)

    def at(self, step: int | None) -> Network:
        """The same drawing at another step, None for everything. Raises ValueError where there is no such step."""
        if step is not None and not 0 <= step < self.steps:
            raise ValueError(f"network: there is no step {step}; they run from 0 to {self.steps - 1}")
        return replace(self, step=step)

    def svg(self, theme: str = "auto") -> str:
        """The drawing as an SVG element. `theme` is "light", "dark" or "auto", as the reader's system has it."""
        if theme not in ("auto", "light", "dark"):
            raise ValueError(f"network: theme is 'auto', 'light' or 'dark', not {theme!r}")
        return Sheet(self.snapshots, self.stage(), self.descent, theme).text()

    def save(self, path: str | Path, theme: str = "auto") -> None:
        """Write the drawing to an .svg file. Raises ValueError for another ending, OSError where that cannot be."""
        if Path(path).suffix != ".svg":
            raise ValueError(f"network: a network can be saved as .svg, not as {str(path)!r}")
        write(path, self.svg(theme), "network")

    def _repr_svg_(self) -> str:
        return self.svg()

    def stage(self) -> Stage:
        """What is known at this step."""
        columns, k = self.snapshots[0].columns, self.step
        n = len(columns)
        if k is None:
            return Stage(n, True, 0)
        text = f"step {k + 1} of {self.steps}: "
        if k < n:
            what = "the inputs" if k == 0 else f"forward into {_layer_name(columns, k)}"
            return Stage(k, False, n, text + what, k)
        if k == n:
            return Stage(n, True, n - 1, text + "the loss, and its derivative with respect to the output")
        layer = 2 * n - k
        return Stage(n, True, layer - 1, text + f"back through {_layer_name(columns, layer)}, to what it reads", layer)


def _layer_name(columns: Sequence[Column], k: int) -> str:
    kind = "the output layer" if k == len(columns) - 1 else f"layer {k}"
    return f"{kind} ({columns[k].function})"


__all__ = ["Network", "network"]
