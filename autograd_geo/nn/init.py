"""Initial weights. Each takes a shape whose first axis is the outputs and second the inputs of a layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from .. import random

Array: TypeAlias = np.ndarray[Any, Any]
Initializer: TypeAlias = Callable[[tuple[int, ...], Any, random.Generator], Array]


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Inputs and outputs of one unit of a layer with weights of this shape (out, in, *kernel)."""
    if len(shape) < 2:
        raise ValueError(f"the fans of weights need two axes or more, (out, in, ...), here the shape is {shape}")
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


def xavier(shape: tuple[int, ...], dtype: Any, generator: random.Generator) -> Array:
    """Uniform in ±1/sqrt(n) for n inputs (Glorot and Bengio, 2010, eq. 1); PyTorch's default for `Linear`."""
    bound = 1 / math.sqrt(fans(shape)[0])
    return generator.uniform(shape, -bound, bound, dtype)


def normalized_xavier(shape: tuple[int, ...], dtype: Any, generator: random.Generator) -> Array:
    """Uniform in ±sqrt(6/(n + m)), m outputs (Glorot and Bengio, 2010, eq. 16); PyTorch's `xavier_uniform_`."""
    bound = math.sqrt(6 / sum(fans(shape)))
    return generator.uniform(shape, -bound, bound, dtype)


def he(shape: tuple[int, ...], dtype: Any, generator: random.Generator) -> Array:
    """Normal with standard deviation sqrt(2/n), for ReLU (He et al., 2015, eq. 10)."""
    return generator.normal(shape, 0.0, math.sqrt(2 / fans(shape)[0]), dtype)


def uniform(bound: float) -> Initializer:
    """An initialiser that draws uniformly in ±bound."""
    return lambda shape, dtype, generator: generator.uniform(shape, -bound, bound, dtype)


def zeros(shape: tuple[int, ...], dtype: Any, generator: random.Generator) -> Array:
    """All zero."""
    return np.zeros(shape, dtype)
