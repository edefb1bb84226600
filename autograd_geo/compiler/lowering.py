"""Ops that are neither formulas nor moves nor products, in terms of nodes: reductions, running sums, positions.

`LOWERED` has them by name. Each takes the graph, the nodes of the operands, attributes, and the result's shape, dtype
and entry; it returns None for what it is not for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ..op import Op, registry
from .moves import Move, Positions, Shape, broadcast, positions_along, positions_of_take
from .nodes import CONST, GATHER, SCAN, SCATTER, Node, choice_formula, hit_formula, quotient_formula

if TYPE_CHECKING:
    from .graph import Graph


def _reduction(how: str) -> Callable[..., Node | None]:
    def lower(g: Graph, nodes: list[Node], attrs: dict[str, Any], shape: Shape, dtype: Any, entry: Any) -> Node | None:
        (x,) = nodes
        if how in ("sum", "prod"):
            x = g.cast(x, dtype)
        if x.dtype != dtype or (how in ("max", "min") and x.size == 0):
            return None
        return g.reduce(how, x, attrs["axis"], attrs["keepdims"], entry)

    return lower


def _mean(g: Graph, nodes: list[Node], attrs: dict[str, Any], shape: Shape, dtype: Any, entry: Any) -> Node | None:
    (x,) = nodes
    if dtype == np.float16 or x.dtype.kind != "f":  # integers are summed as such
        return None
    total = g.reduce("sum", g.cast(x, dtype), attrs["axis"], attrs["keepdims"], entry)
    count = g.constant(x.size // max(1, prod(shape)), dtype)
    return g.map(quotient_formula(dtype), [total, count], shape, dtype, entry)


def _spread_back(scaled: bool) -> Callable[..., Node | None]:
    def lower(g: Graph, nodes: list[Node], attrs: dict[str, Any], shape: Shape, dtype: Any, entry: Any) -> Node | None:
        (x,) = nodes
        if scaled:
            count = g.constant(prod(shape) // max(1, x.size), np.dtype(float))
            divided = quotient_formula(np.dtype(float))
            x = g.cast(g.map(divided, [x, count], x.shape, np.dtype(float), entry), dtype)
        axes, ndim = attrs["axis"], len(shape)
        given = range(ndim) if axes is None else (axes,) if isinstance(axes, int | np.integer) else axes
        gone = {int(a) % ndim for a in given} if ndim else set()
        ones = tuple(1 if a in gone else n for a, n in enumerate(shape))
        return g.move(broadcast(ones, shape), [g.reshape(x, ones)], entry)

    return lower


def _running_sum(g: Graph, nodes: list[Node], attrs: dict[str, Any], shape: Shape, dtype: Any, entry: Any) -> Node:
    """The sum of what stands before along an axis; its transpose, of what stands behind."""
    x, axis = g.cast(nodes[0], dtype), attrs["axis"]
    back = "shape" in attrs
    if axis is None:
        x, axis = g.reshape(x, (x.size,)), 0
    elif not x.shape:
        x = g.reshape(x, (1,))
    axis %= len(x.shape)
    data = prod(x.shape[:axis]), x.shape[axis], prod(x.shape[axis + 1 :]), back
    return g.reshape(Node(SCAN, x.shape, dtype, (x,), data, entry), shape)


def _first_largest(largest: bool) -> Callable[..., Node | None]:
    """Where along an axis the largest (or smallest) element is, the first of equal ones; NaN is before all."""

    def lower(g: Graph, nodes: list[Node], attrs: dict[str, Any], shape: Shape, dtype: Any, entry: Any) -> Node | None:
        (x,), axis = nodes, attrs["axis"]
        if axis is None:
            x, axis = g.reshape(x, (x.size,)), 0
        if not x.shape:
            return g.constant(0, dtype)
        n = x.shape[axis]
        best = g.reduce("max" if largest else "min", x, axis, True, entry)
        hit = g.map(hit_formula(x.dtype), [x, best], x.shape, np.dtype(bool), entry)
        places = np.arange(n).reshape([n if a == axis % len(x.shape) else 1 for a in range(len(x.shape))])
        numbers = [hit, g.constant(places, dtype), g.constant(n, dtype)]
        found = g.reduce("min", g.map(choice_formula(dtype), numbers, x.shape, dtype, entry), axis, False, entry)
        return g.reshape(found, shape)

    return lower


def _astype(g: Graph, nodes: list[Node], attrs: dict[str, Any], shape: Shape, dtype: Any, entry: Any) -> Node | None:
    return g.cast(nodes[0], dtype)


def _at_positions(
    g: Graph,
    nodes: list[Node],
    attrs: dict[str, Any],
    shape: Shape,
    dtype: Any,
    entry: Any,
    how: Callable[[Shape, Shape, int], Positions],
    op: Op,
) -> Node | None:
    """Elements at positions along an axis, or the transpose of that."""
    x, index = nodes
    source = attrs.get("shape", x.shape)
    if index.kind == CONST:
        numbers = np.arange(prod(source), dtype=np.int64).reshape(source)
        table = Move(op.forward(numbers, index.data, axis=attrs["axis"]), (source,))
        return g.moved_back(table, x, entry) if "shape" in attrs else g.move(table, [x], entry)
    if index.dtype.kind not in "iu" or 0 in source:
        return None
    return Node(
        SCATTER if "shape" in attrs else GATHER,
        shape,
        dtype,
        (x, index),
        how(source, index.shape, attrs["axis"]),
        entry,
    )


LOWERED: dict[str, Callable[..., Node | None]] = {
    **{how: _reduction(how) for how in ("sum", "prod", "max", "min")},
    "mean": _mean,
    "sum.T": _spread_back(False),
    "mean.T": _spread_back(True),
    "cumsum": _running_sum,
    "cumsum.T": _running_sum,
    "argmax": _first_largest(True),
    "argmin": _first_largest(False),
    "astype": _astype,
    "astype.T": _astype,
    **{
        name + transposed: partial(_at_positions, op=registry[name], how=how)
        for name, how in (("take", positions_of_take), ("take_along_axis", positions_along))
        for transposed in ("", ".T")
    },
}
