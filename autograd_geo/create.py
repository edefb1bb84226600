"""New tensors with given contents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .memory import afford
from .tensor import Tensor, tensor
from .value import unmasked

Shape = int | Sequence[int]


def _shape(shape: Shape) -> Sequence[int]:
    return (shape,) if isinstance(shape, int | np.integer) else shape


def zeros(shape: Shape, *, requires_grad: bool = False, dtype: Any = None, name: str | None = None) -> Tensor:
    """A tensor of zeros."""
    afford("zeros", _shape(shape), dtype or float)
    return tensor(np.zeros(shape, dtype), requires_grad=requires_grad, name=name)


def ones(shape: Shape, *, requires_grad: bool = False, dtype: Any = None, name: str | None = None) -> Tensor:
    """A tensor of ones."""
    afford("ones", _shape(shape), dtype or float)
    return tensor(np.ones(shape, dtype), requires_grad=requires_grad, name=name)


def full(
    shape: Shape, value: float, *, requires_grad: bool = False, dtype: Any = None, name: str | None = None
) -> Tensor:
    """A tensor filled with one value."""
    afford("full", _shape(shape), dtype or unmasked(value, "full").dtype)
    return tensor(np.full(shape, value, dtype), requires_grad=requires_grad, name=name)


def eye(n: int, *, requires_grad: bool = False, dtype: Any = None, name: str | None = None) -> Tensor:
    """The identity matrix of n rows."""
    afford("eye", (n, n), dtype or float)
    return tensor(np.eye(n, dtype=dtype), requires_grad=requires_grad, name=name)


def arange(
    start: float, stop: float | None = None, step: float = 1, *, requires_grad: bool = False, dtype: Any = None,
    name: str | None = None,
) -> Tensor:  # fmt: skip
    """Evenly spaced values in [start, stop), or [0, start) if `stop` is None, as `numpy.arange`."""
    begin, end = (0, start) if stop is None else (start, stop)
    afford("arange", (max(0, int((end - begin) / step) + 1),), dtype or np.result_type(begin, end, step))
    return tensor(np.arange(begin, end, step, dtype=dtype), requires_grad=requires_grad, name=name)


def linspace(
    start: float, stop: float, num: int = 50, *, requires_grad: bool = False, dtype: Any = None, name: str | None = None
) -> Tensor:
    """`num` evenly spaced values from start to stop, both included."""
    afford("linspace", (num,), dtype or float)
    return tensor(np.linspace(start, stop, num, dtype=dtype), requires_grad=requires_grad, name=name)


__all__ = ["arange", "eye", "full", "linspace", "ones", "zeros"]
