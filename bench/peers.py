"""The libraries that compete, under one interface. Each function imports its library; ImportError if it is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from .harness import OURS, threads

PACKAGES = ("numpy", "torch", "jax", "autograd", "mygrad", "micrograd", "tinygrad")
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
    torch: Any = import_module("torch")
    torch.set_num_threads(threads())
    leaf = partial(torch.tensor, requires_grad=True, dtype=torch.float64)

    def assign(parameter: Any, array: Any) -> None:
        parameter.data.copy_(torch.tensor(array))

    return Library(_by_tape(leaf), torch, torch.tensor, leaf, torch.nn, torch.optim, assign)


def hips_autograd() -> Library:
    return Library(_by_transform(import_module("autograd").grad), import_module("autograd.numpy"))


def jax_eager() -> Library:
    jax: Any = import_module("jax")
    jax.config.update("jax_enable_x64", True)
    return Library(_by_transform(jax.grad), jax.numpy, jax.numpy.asarray)


def mygrad() -> Library:
    module: Any = import_module("mygrad")
    return Library(_by_tape(module.tensor), module, leaf=module.tensor)


def micrograd() -> Library:
    leaf = import_module("micrograd.engine").Value
    return Library(_by_tape(leaf), leaf=leaf)


LIBRARIES: dict[str, Callable[[], Library]] = {
    OURS: ours,
    "PyTorch": pytorch,
    "HIPS autograd": hips_autograd,
    "JAX, not compiled": jax_eager,
    "MyGrad": mygrad,
    "micrograd": micrograd,
}
