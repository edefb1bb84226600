"""Every built-in op, declared. To add one, write its declaration into the module it belongs to."""

from . import elementary, indexing, linalg, reduce, shape

__all__ = ["elementary", "indexing", "linalg", "reduce", "shape"]
