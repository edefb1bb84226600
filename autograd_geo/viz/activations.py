"""Activation functions beside their derivatives, both as the op registry has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import expr
from ..op import Op, functions, registry
from ..tape import enable_grad, history, untraced
from ..tensor import Tensor, entry_of, tensor
from .descent import Array, gradients

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_POINTS = 2001


def activations(which: Sequence[Any], *, span: tuple[float, float] = (-4.0, 4.0), title: str = "") -> Figure:
    """Each activation on the left, its derivative on the right; a Matplotlib figure.

        ag.viz.activations(["sigmoid", "tanh", nn.LeakyReLU(negative_slope=0.1), my_own_op])

    `which` holds names of ops, functions (built in or declared by you) and layers; derivatives are what the backward
    pass computes by the op's own rule, so a surrogate shows as that. Raises ValueError for an unknown name, and for
    what is not a function of one number, element by element.
    """
    from .figure import figure, line_styles

    low, high = span
    if not (np.isfinite(span).all() and low < high):
        raise ValueError(f"activations: span is (low, high) with low < high, not {span}")
    if not which:
        raise ValueError("activations: name at least one function")
    x = np.linspace(low, high, _POINTS)
    drawn, (left, right) = figure(1, 2, size=(9.0, 4.4), sharex=True)
    for function, style in zip(which, line_styles(len(which)), strict=True):
        label, op, values, slopes = _sampled(function, x)
        left.plot(x, _cut_at_jumps(values), label=label + _slope_text(op), **style)
        right.plot(x, _cut_at_jumps(slopes), **style)
    for ax, ylabel, name in ((left, "f(x)", "Function"), (right, "f′(x)", "Derivative")):
        ax.axhline(0.0, color="0.6", linewidth=0.8, zorder=1)
        ax.axvline(0.0, color="0.6", linewidth=0.8, zorder=1)
        ax.set(title=name, xlabel="x", ylabel=ylabel, xlim=span)
    drawn.legend(fontsize="small", frameon=False, loc="outside lower center", ncols=2)
    if title:
        drawn.suptitle(title)
    return drawn


def _sampled(which: Any, x: Array) -> tuple[str, Op | None, Array, Array]:
    """A label of a function, its op if it is one, its values and its derivative."""
    function: Callable[[Any], Any] = which
    if isinstance(which, str):
        if which not in functions:
            raise ValueError(f"activations: there is no op called {which!r}")
        function = functions[which]
    name = (
        which if isinstance(which, str) else getattr(which, "function", "") or getattr(which, "__name__", repr(which))
    )
    op = getattr(function, "op", None) or registry.get(getattr(which, "function", ""))
    extra = getattr(which, "extra_repr", str)()
    label = f"{name} ({extra})" if extra else str(name)
    with enable_grad(), untraced():
        at = tensor(x, requires_grad=True)
        try:
            z = function(at)
        except TypeError as error:
            raise ValueError(f"activations: {label} is no function of one tensor: {error}") from None
        if not isinstance(z, Tensor) or z.shape != x.shape or not _element_by_element(z, at):
            raise ValueError(f"activations: {label} does not work element by element, so it is no curve over x")
        values = z.numpy()
        (slopes,) = gradients(z.sum(), [at]) if z.requires_grad else (np.zeros_like(x),)
    return label, op, values, slopes


def _element_by_element(z: Tensor, x: Tensor) -> bool:
    """Whether every op between x and z is pointwise."""
    return all(e.op is None or e.op.family == "pointwise" for e in history(entry_of(z)))


def _slope_text(op: Op | None) -> str:
    """The derivative as the rule writes it, if that is a formula short enough for a legend."""
    if op is None or len(op.inputs) != 1 or (rule := op.rules[0]) is None or rule.partial is None:
        return ""
    text = expr.label(rule.partial, {"z": "f"})
    formula = f",  f′ = {text}" if len(text) < 30 and "where" not in text else ""
    return formula + (" (derivative: a surrogate)" if op.surrogate else "")


def _cut_at_jumps(values: Array) -> Array:
    """The values with a gap where they jump, so that no upright line is drawn there."""
    steps = np.abs(np.diff(values))
    cut = values.astype(float)
    cut[1:][steps > 0.1 * np.ptp(values)] = np.nan
    return cut


__all__ = ["activations"]
