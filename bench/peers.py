"""The libraries that compete, under one interface. Each function imports its library when it is called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .harness import OURS, threads

PACKAGES = ("numpy", "autograd-geo", "torch", "jax", "autograd", "mygrad", "micrograd")
Gradient = Callable[[Callable[..., Any]], Callable[..., Sequence[Any]]]


@dataclass(frozen=True, slots=True)
class Library:
    """What the rows use of a library.

    `gradient(fn)` is a function of the same arguments that gives the derivatives with respect to each. Libraries
    with a tape have `leaf`, those with networks `nn`, `optim` and `assign(parameter, array)`; `xp` are functions
    of NumPy's names.
    """

    gradient: Gradient
    xp: Any = None
    constant: Callable[[Any], Any] = np.asarray
    leaf: Callable[[Any], Any] | None = None
    nn: Any = None
    optim: Any = None
    assign: Callable[[Any, Any], Any] | None = None


def _by_tape(leaf: Callable[[Any], Any]) -> Gradient:
    def gradient(fn: Callable[..., Any]) -> Callable[..., Sequence[Any]]:
        def run(*values: Any) -> Sequence[Any]:
            leaves = [leaf(v) for v in values]
            fn(*leaves).backward()
            return [v.grad for v in leaves]

        return run

    return gradient


def _by_transform(grad: Callable[..., Any]) -> Gradient:
    def gradient(fn: Callable[..., Any]) -> Callable[..., Sequence[Any]]:
        def run(*values: Any) -> Sequence[Any]:
            found: Sequence[Any] = grad(fn, tuple(range(len(values))))(*values)
            return found

        return run

    return gradient


def ours() -> Library:
    import autograd_geo as ag

    leaf = partial(ag.tensor, requires_grad=True)
    return Library(_by_tape(leaf), ag, ag.tensor, leaf, ag.nn, ag.optim, lambda p, array: p.assign(array))


def pytorch() -> Library:
    import torch

    torch.set_num_threads(threads())
    leaf = partial(torch.tensor, requires_grad=True, dtype=torch.float64)
    return Library(
        _by_tape(leaf),
        torch,
        torch.tensor,
        leaf,
        torch.nn,
        torch.optim,
        lambda p, array: p.data.copy_(torch.tensor(array)),
    )


def hips_autograd() -> Library:
    import autograd
    import autograd.numpy

    return Library(_by_transform(autograd.grad), autograd.numpy)


def jax_eager() -> Library:
    import jax

    jax.config.update("jax_enable_x64", True)
    return Library(_by_transform(jax.grad), jax.numpy, jax.numpy.asarray)


def mygrad() -> Library:
    import mygrad

    return Library(_by_tape(mygrad.tensor), mygrad, leaf=mygrad.tensor)


def micrograd() -> Library:
    from micrograd.engine import Value

    return Library(_by_tape(Value), leaf=Value)


LIBRARIES: dict[str, Callable[[], Library]] = {
    OURS: ours,
    "PyTorch": pytorch,
    "HIPS autograd": hips_autograd,
    "JAX, not compiled": jax_eager,
    "MyGrad": mygrad,
    "micrograd": micrograd,
}
