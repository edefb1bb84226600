"""The training loop."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..data.loader import DataLoader
from ..nn.module import Module
from ..tape import WATCHING, mode, no_grad
from ..value import from_user
from .epochs import Epochs, NotFinite
from .optimizers import Optimizer

#: From so many steps on, compiling them is worth the second or two that it takes.
COMPILED_FROM = 2000


@dataclass
class History:
    """The loss of each epoch: over the training batches as they were seen, and on the test set after them."""

    train: list[float] = field(default_factory=list)
    test: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.train)


def evaluate(model: Module, loss: Callable[[Any, Any], Any], x: Any, y: Any) -> float:
    """The loss on a data set in evaluation mode, without recording; the mode is restored."""
    modes = [(m, m.training) for m in model.modules()]
    try:
        with no_grad():
            return float(loss(model.eval()(x), y).item())
    finally:
        for module, mode in modes:
            module.training = mode


def fit(
    model: Module, optimizer: Optimizer, loss: Callable[[Any, Any], Any], train: tuple[Any, Any], *,
    test: tuple[Any, Any] | None = None, epochs: int = 1, batch_size: int = 32, seed: int = 0,
    progress: bool | str = False, callback: Callable[[History], Any] | None = None, compile: bool | None = None,
) -> History:  # fmt: skip
    """Train `model` by mini-batches and return the loss per epoch.

    Args:
        train, test: pairs of arrays (inputs, targets), rows are samples.
        seed: fixes the order of the batches, anew in each epoch.
        progress: a progress bar on standard error, with this text if it is one.
        callback: called after each epoch with the history so far; training stops where it returns True.
        compile: compile the step, and run epochs in native code where nothing in it needs Python; by default for
            2,000 steps and more. Results agree with those of uncompiled steps to rounding.

    Raises ValueError for no epochs, and FloatingPointError where the loss is not finite, naming the epoch.
    Interrupting it (Ctrl-C) leaves the model as the last finished step left it.
    """
    if epochs < 1:
        raise ValueError(f"fit: epochs must be at least 1, not {epochs}")
    arrays = [np.asarray(from_user(a)) for a in train]
    loader = DataLoader(*arrays, batch_size=batch_size, seed=seed)
    if compile is None:
        compile = epochs * len(loader) >= COMPILED_FROM
    compile = compile and not mode() & WATCHING
    steps = Epochs(model, optimizer, loss, arrays, loader.batch_size, compile)
    history = History()
    model.train()
    bar = _bar(epochs, progress)
    try:
        for epoch in range(1, epochs + 1):
            try:
                history.train.append(steps.run(loader.order()))
            except NotFinite as error:
                raise FloatingPointError(
                    f"fit: the loss became {error} in epoch {epoch}; lower the learning rate ({optimizer.lr}), "
                    "or scale the data"
                ) from None
            if test is not None:
                history.test.append(evaluate(model, loss, *test))
            if bar is not None:
                bar.set_postfix_str(" ".join(f"{k} {v[-1]:.4f}" for k, v in vars(history).items() if v), refresh=False)
                bar.update()
            if callback is not None and callback(history):
                break
    finally:
        if bar is not None:
            bar.close()
    return history


def _bar(epochs: int, progress: bool | str) -> Any:
    if not progress:
        return None
    from tqdm import tqdm

    return tqdm(total=epochs, desc=progress if isinstance(progress, str) else "fit", unit="epoch", file=sys.stderr)
