"""Layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import random
from ..op import functions
from ..tensor import Parameter, Tensor
from . import init
from .module import Module


class Linear(Module):
    """A dense layer, x @ weight.T + bias.

    Input (..., in_features), result (..., out_features); `weight` has shape (out_features, in_features), `bias`
    (out_features,). `initialize` makes the weights (default `init.xavier`), `initialize_bias` the bias (default:
    uniform in ±1/sqrt(in_features)). Random numbers come from `generator`, by default the one `ag.seed` resets.
    Raises ValueError for sizes below one.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *,
        initialize: init.Initializer = init.xavier, initialize_bias: init.Initializer | None = None,
        dtype: Any = np.float64, generator: random.Generator | None = None,
    ) -> None:  # fmt: skip
        if in_features < 1 or out_features < 1:
            raise ValueError(f"Linear needs at least one input and one output, not {in_features} and {out_features}")
        generator = generator or random.default()
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(initialize((out_features, in_features), dtype, generator), name="weight")
        self.bias: Parameter | None = None
        if bias:
            initialize_bias = initialize_bias or init.uniform(1 / math.sqrt(in_features))
            self.bias = Parameter(initialize_bias((out_features,), dtype, generator), name="bias")

    def forward(self, x: Any) -> Tensor:
        shape = x.shape if isinstance(x, Tensor) else np.shape(x)
        if shape[-1:] != (self.in_features,):
            raise ValueError(
                f"Linear expects {self.in_features} features on the last axis, the input has shape {shape}"
            )
        y = functions["dense"](x, self.weight)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}" + ("" if self.bias is not None else ", bias=False")


class Sequential(Module):
    """Modules, or plain functions of a tensor, one after the other."""

    def __init__(self, *layers: Callable[[Any], Any]) -> None:
        self.layers = list(layers)

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: int) -> Callable[[Any], Any]:
        return self.layers[index]


class Activation(Module):
    """A function of the registry as a layer."""

    function = ""

    def __init__(self, **parameters: float) -> None:
        self.parameters_of_function = parameters

    def forward(self, x: Any) -> Tensor:
        return functions[self.function](x, **self.parameters_of_function)

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v}" for k, v in self.parameters_of_function.items())


def _activation(name: str, function: str) -> type[Activation]:
    return type(
        name, (Activation,), {"function": function, "__module__": __name__, "__doc__": functions[function].__doc__}
    )


Sigmoid = _activation("Sigmoid", "sigmoid")
LogSigmoid = _activation("LogSigmoid", "log_sigmoid")
Tanh = _activation("Tanh", "tanh")
ReLU = _activation("ReLU", "relu")
LeakyReLU = _activation("LeakyReLU", "leaky_relu")
ELU = _activation("ELU", "elu")
GELU = _activation("GELU", "gelu")
SiLU = _activation("SiLU", "silu")
Softplus = _activation("Softplus", "softplus")
BinaryStep = _activation("BinaryStep", "binary_step")
Softmax = _activation("Softmax", "softmax")
LogSoftmax = _activation("LogSoftmax", "log_softmax")


class Identity(Module):
    """Returns its input."""

    def forward(self, x: Any) -> Any:
        return x
