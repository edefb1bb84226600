"""Epochs of training steps: many in native code where the step can be compiled, else one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cuda.array import on_host
from ..nn.module import Module
from ..tape import TRACING, mode
from ..tensor import Tensor, tensor
from .optimizers import Optimizer

if TYPE_CHECKING:
    from ..compiler.batches import Batches

Array = np.ndarray[Any, Any]
Step = Callable[[Tensor, Tensor], Tensor]
#: A step that has been recorded so often depends on values that Python reads, and is not worth it.
MOST_RECORDINGS = 8


class NotFinite(FloatingPointError):
    """The loss is no finite number; it is the argument. The step that met it changed nothing."""


def training_step(model: Module, optimizer: Optimizer, loss: Callable[[Any, Any], Any], looks: bool) -> Step:
    """A step for a batch of inputs and targets, which returns the loss. Raises NotFinite before it changes anything.

    Compiled, it looks at the loss in each call if `looks`, else while it is recorded only.
    """

    def step(x: Tensor, y: Tensor) -> Tensor:
        value = loss(model(x), y)
        finite = bool(abs(value) < np.inf) if looks and mode() & TRACING else isfinite(on_host(value._value))
        if not finite:
            raise NotFinite(float(on_host(value._value)))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        return value.detach()  # type: ignore[no-any-return]

    return step


class Epochs:
    """Runs epochs over `arrays`, inputs and targets with samples as rows, in batches of `size` rows."""

    def __init__(
        self, model: Module, optimizer: Optimizer, loss: Callable[[Any, Any], Any], arrays: Sequence[Array], size: int,
        compile: bool,
    ) -> None:  # fmt: skip
        self._arrays, self._size = arrays, size
        self._given = model, optimizer, loss
        self._device = optimizer.parameters[0].device
        self._step: Any = training_step(*self._given, looks=False)
        self._batches: dict[int, Batches] = {}  # by their rows; the last batch of an epoch may have fewer
        self._native = compile
        if compile:
            self._compile(self._step)

    def run(self, order: Array) -> float:
        """One epoch, of the rows in this order: the loss, averaged over rows. Raises NotFinite."""
        total, at = 0.0, 0
        while at < len(order):
            rows = min(self._size, len(order) - at)
            done, summed = self._many(order[at:], rows) if self._native else (0, 0.0)
            if not done:
                done, summed = 1, self._one(order[at : at + rows]) * rows
            total += summed
            at += done * rows
        return total / len(order)

    def _many(self, order: Array, rows: int) -> tuple[int, float]:
        """Run batches of this many rows in native code: how many, and the sum of their losses times rows."""
        from ..compiler.batches import Batches

        if rows not in self._batches:
            self._batches[rows] = Batches(self._step, self._arrays, rows)
        done = self._batches[rows].run(order)
        if done.loss is not None:
            raise NotFinite(done.loss)
        return done.batches, done.total

    def _one(self, rows: Array) -> float:
        """Run one batch, which may record it; the loss."""
        from ..compiler.errors import CompileError

        batch = [tensor(a[rows], device=self._device) for a in self._arrays]
        recordings = getattr(self._step, "recordings", 0)
        try:
            number = float(self._step(*batch).item())
        except CompileError:
            self._native, self._step = False, training_step(*self._given, looks=False)
            return float(self._step(*batch).item())
        if getattr(self._step, "recordings", 0) > recordings:
            self._judge(len(rows))
        return number

    def _judge(self, rows: int) -> None:
        """After a recording: if batches cannot be run natively, let compiled steps look at their losses themselves."""
        if self._step.recordings > MOST_RECORDINGS:
            self._native, self._step = False, training_step(*self._given, looks=False)
        elif self._native and not self._batches[rows].fits:
            self._native = False
            self._compile(training_step(*self._given, looks=True))

    def _compile(self, step: Step) -> None:
        from ..compiler import compile

        self._step = compile(step)


__all__ = ["Epochs", "NotFinite"]
