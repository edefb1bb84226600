"""The four ways to declare an op, each of which writes an `Op` out of one short declaration and registers it."""

from ..op import sample
from .multilinear import multilinear
from .pointwise import pointwise
from .written import custom, linear

__all__ = ["custom", "linear", "multilinear", "pointwise", "sample"]
