"""Nested lists, tuples and dicts of values: take the leaves out, put others in."""

from __future__ import annotations

import copy
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


def paths(tree: Any, root: str) -> Iterator[str]:
    """Where each of the `leaves` stands, as Python writes it: `root[0]['w']`."""
    if isinstance(tree, list | tuple):
        for n, branch in enumerate(tree):
            yield from paths(branch, f"{root}[{n}]")
    elif isinstance(tree, dict):
        for key, branch in tree.items():
            yield from paths(branch, f"{root}[{key!r}]")
    elif tree is not None:
        yield root


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """The same nesting with every leaf replaced by function(leaf)."""
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*[map_leaves(function, branch) for branch in tree])
    if isinstance(tree, list | tuple):
        return type(tree)([map_leaves(function, branch) for branch in tree])
    if isinstance(tree, dict):
        mapped = copy.copy(tree)  # dicts of other types, such as defaultdict, are made in their own ways
        for key, branch in tree.items():
            mapped[key] = map_leaves(function, branch)
        return mapped
    return None if tree is None else function(tree)


def fill(tree: Any, values: Iterator[Any]) -> Any:
    """The same nesting with the leaves taken from `values`, in order."""
    return map_leaves(lambda _: next(values), tree)


def leaves_like(tree: Any, like: Any, what: str) -> Iterator[Any]:
    """What `tree` holds for each leaf of `like`, in that order; a leaf may be a list of numbers.

    Raises ValueError, saying that `what` is nested otherwise, where the nestings differ.
    """
    if isinstance(like, dict):
        if not isinstance(tree, dict) or tree.keys() != like.keys():
            raise ValueError(f"{what} must be a dict with the keys {sorted(map(str, like))}, not {_outline(tree)}")
        for key, branch in like.items():
            yield from leaves_like(tree[key], branch, what)
    elif isinstance(like, list | tuple):
        if not isinstance(tree, list | tuple) or len(tree) != len(like):
            raise ValueError(f"{what} must be a {type(like).__name__} of {len(like)}, not {_outline(tree)}")
        for branch, model in zip(tree, like, strict=True):
            yield from leaves_like(branch, model, what)
    elif like is None:
        if tree is not None:
            raise ValueError(f"{what} must be None where the value is None, not {_outline(tree)}")
    elif tree is None or isinstance(tree, dict):
        raise ValueError(f"{what} must be a number or an array, not {_outline(tree)}")
    else:
        yield tree


def _outline(tree: Any) -> str:
    if isinstance(tree, dict):
        return f"a dict with the keys {sorted(map(str, tree))}"
    return f"a {type(tree).__name__} of {len(tree)}" if isinstance(tree, list | tuple) else type(tree).__name__
