"""Nested lists, tuples and dicts of values: take the leaves out, put others in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def leaves(tree: Any) -> Iterator[Any]:
    """The leaves of nested lists, tuples and dicts, in order; None has none."""
    if isinstance(tree, list | tuple):
        for branch in tree:
            yield from leaves(branch)
    elif isinstance(tree, dict):
        for branch in tree.values():
            yield from leaves(branch)
    elif tree is not None:
        yield tree


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """The same nesting with every leaf replaced by function(leaf)."""
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*[map_leaves(function, branch) for branch in tree])
    if isinstance(tree, list | tuple):
        return type(tree)([map_leaves(function, branch) for branch in tree])
    if isinstance(tree, dict):
        return type(tree)({key: map_leaves(function, branch) for key, branch in tree.items()})
    return None if tree is None else function(tree)


def fill(tree: Any, values: Iterator[Any]) -> Any:
    """The same nesting with the leaves taken from `values`, in order."""
    return map_leaves(lambda _: next(values), tree)
