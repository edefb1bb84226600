"""Networks: modules, layers, losses, initial weights. PyTorch's names."""

from ..tensor import Parameter
from . import init
from .layers import (
    ELU,
    GELU,
    Activation,
    BinaryStep,
    Identity,
    LeakyReLU,
    Linear,
    LogSigmoid,
    LogSoftmax,
    ReLU,
    Sequential,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from .loss import CrossEntropyLoss, MSELoss, cross_entropy, mse_loss
from .module import Module

__all__ = [
    "ELU", "GELU", "Activation", "BinaryStep", "CrossEntropyLoss", "Identity", "LeakyReLU", "Linear", "LogSigmoid",
    "LogSoftmax", "MSELoss", "Module", "Parameter", "ReLU", "Sequential", "SiLU", "Sigmoid", "Softmax", "Softplus",
    "Tanh", "cross_entropy", "init", "mse_loss",
]  # fmt: skip
