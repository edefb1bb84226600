"""Optimisers and the training loop."""

from .fit import History, evaluate, fit
from .optimizers import SGD, Adam, Optimizer

__all__ = ["SGD", "Adam", "History", "Optimizer", "evaluate", "fit"]
