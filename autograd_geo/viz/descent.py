"""Paths of optimisers: where each goes from the same start."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backward import events, seed_of
from ..cuda.array import on_host
from ..device import put
from ..tape import enable_grad
from ..tensor import Tensor, entry_of, wrap

if TYPE_CHECKING:
    from ..nn import Module
    from ..optim import Optimizer

Array = np.ndarray[Any, Any]
Loss = Callable[[], Any]


@dataclass(frozen=True, eq=False)
class Path:
    """What an optimiser called `name` did: `positions` of each of `leaves`, and `losses` there.

    Both start before the first step: positions have shape (steps + 1, *leaf.shape), losses (steps + 1,).
    """

    name: str
    leaves: tuple[Tensor, ...]
    positions: tuple[Array, ...]
    losses: Array


def descent_paths(
    loss: Loss,
    parameters: Module | Iterable[Tensor],
    optimizers: Mapping[str, Callable[[Sequence[Tensor]], Optimizer]],
    steps: int = 100,
) -> list[Path]:
    """Run each optimiser from the present values of `parameters` and return its path; nothing is changed by it.

        paths = descent_paths(loss, [x, y], {"Adam": lambda p: optim.Adam(p, lr=0.1)}, steps=50)

    Args:
        loss: a function without arguments that computes one number from the parameters.
        parameters: leaves that require a gradient, or a network for all of its own. Others that `loss` depends on stay
            where they are.
        optimizers: by name, functions that make an optimiser of a list of parameters.
        steps: how many; a path ends early where its loss or gradient is no longer finite.

    Raises ValueError for no steps or no optimisers, TypeError for a loss that is not one number.
    """
    leaves = leaves_of(parameters)
    if steps < 1 or not optimizers:
        raise ValueError(f"descent_paths: give at least one optimiser and one step, not {len(optimizers)} and {steps}")
    paths = []
    for name, make in optimizers.items():
        with unchanged(leaves), enable_grad():
            paths.append(_descend(name, loss, leaves, make(list(leaves)), steps))
    return paths


def _descend(name: str, loss: Loss, leaves: tuple[Tensor, ...], optimizer: Optimizer, steps: int) -> Path:
    visited: list[list[Array]] = []
    losses: list[float] = []
    for k in range(steps + 1):
        value = loss()
        visited.append([np.array(p.numpy()) for p in leaves])
        losses.append(number(value))
        if k == steps or not np.isfinite(losses[-1]):
            break
        found = gradients(value, leaves)
        if not all(np.isfinite(on_host(g)).all() for g in found):
            break
        for p, g in zip(leaves, found, strict=True):
            p.grad = wrap(g)
        optimizer.step()
    return Path(name, leaves, tuple(map(np.stack, zip(*visited, strict=True))), np.array(losses))


def leaves_of(model: Module | Iterable[Tensor]) -> tuple[Tensor, ...]:
    """The parameters of a network, or the leaves themselves. Raises ValueError for none."""
    found = tuple(model.parameters() if hasattr(model, "parameters") else model)
    if not found:
        raise ValueError("there are no parameters to move along")
    return found


def number(value: Any) -> float:
    """What a loss returned, as a float. Raises TypeError where it is not one number."""
    if isinstance(value, Tensor):
        value = value.numpy()
    if np.size(value) != 1 or np.asarray(value).dtype.kind not in "fiub":
        raise TypeError(
            f"the loss must return one number, here it is {type(value).__name__} of shape {np.shape(value)}"
        )
    return float(np.asarray(value).item())


def gradients(value: Any, leaves: Sequence[Tensor]) -> list[Any]:
    """The gradient of a recorded number with respect to each leaf, zero where it does not depend on it.

    No `.grad` is written, neither of these leaves nor of others. Consumes the tape. Raises TypeError where nothing
    was recorded.
    """
    if not isinstance(value, Tensor) or not value.requires_grad:
        raise TypeError("the loss does not depend on anything that requires a gradient, so nothing can descend")
    cotangents = {leaf.root or leaf: g for _, leaf, g in events(entry_of(value), seed_of(value, None), quiet=True)}
    roots = [entry_of(p).root or entry_of(p) for p in leaves]
    return [
        cotangents[root] if root in cotangents else put(np.zeros(p.shape, p.dtype), p.device)
        for root, p in zip(roots, leaves, strict=True)
    ]


@contextmanager
def unchanged(leaves: Sequence[Tensor]) -> Iterator[None]:
    """Whatever becomes of these leaves inside, afterwards each has the value, tape entry and gradient it had."""
    entries = [entry_of(p) for p in leaves]  # while these are held, no update writes into them
    before = [(p._value, p.grad) for p in leaves]
    try:
        yield
    finally:
        for p, entry, (value, grad) in zip(leaves, entries, before, strict=True):
            p._value, p._entry = value, entry
            if p.requires_grad:
                p.grad = grad


__all__ = ["Path", "descent_paths", "gradients", "leaves_of", "number", "unchanged"]
