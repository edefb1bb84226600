"""Losses: one number from predictions and targets, the mean over all elements or samples."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..op import functions
from ..tensor import Tensor, tensor
from .module import Module


def mse_loss(prediction: Any, target: Any) -> Tensor:
    """Mean squared error. Raises ValueError unless both have the same shape (they never broadcast)."""
    given, wanted = (x.shape if isinstance(x, Tensor) else np.shape(x) for x in (prediction, target))
    if given != wanted:
        raise ValueError(f"mse_loss: the prediction has shape {given}, the target {wanted}; they must be equal")
    return functions["mean"](functions["square"](functions["subtract"](prediction, target)))


def cross_entropy(logits: Any, classes: Any) -> Tensor:
    """Mean of -log softmax(logits)[class] over samples: logits (n, classes), integer classes (n,).

    Raises ValueError for other shapes, IndexError for a class out of range, TypeError for classes not integer.
    """
    labels = classes if isinstance(classes, Tensor) else tensor(classes)
    if np.ndim(logits) != 2 or labels.shape != np.shape(logits)[:1]:
        raise ValueError(f"cross_entropy: logits (n, classes) and classes (n,), not {np.shape(logits)}, {labels.shape}")
    if labels.dtype.kind not in "iu":
        raise TypeError(f"cross_entropy: classes are integers, not {labels.dtype}")
    count = np.shape(logits)[1]
    if labels.size and ((labels < 0) | (labels >= count)).max():
        first, last = labels.min().item(), labels.max().item()
        raise IndexError(f"cross_entropy: classes run from 0 to {count - 1}, here {first}..{last}")
    chosen = functions["take_along_axis"](functions["log_softmax"](logits), labels[:, None], 1)
    return -functions["mean"](chosen)


class MSELoss(Module):
    """`mse_loss` as a module."""

    def forward(self, prediction: Any, target: Any) -> Tensor:
        return mse_loss(prediction, target)


class CrossEntropyLoss(Module):
    """`cross_entropy` as a module."""

    def forward(self, logits: Any, classes: Any) -> Tensor:
        return cross_entropy(logits, classes)
