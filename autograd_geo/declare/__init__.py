"""The four ways to declare an op, each of which writes an `Op` out of one short declaration and registers it."""

from ..op import sample
from .by_code import custom, linear
from .by_formula import pointwise
from .by_signature import multilinear

__all__ = ["custom", "linear", "multilinear", "pointwise", "sample"]
