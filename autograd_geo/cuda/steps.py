"""The kernels of steps that are no region: sums over where elements went, running sums.

Each is deterministic: a thread has an element of the result, and adds up what belongs there in order.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..compiler.moves import ZERO, Move, Shape, c_strides
from ..compiler.nodes import Node
from ..compiler.phrases import Span, element, letter, typed, within
from ..compiler.regions import storage


def _each(size: int) -> str:
    return f"for t in range(cuda.grid(1), {size}, cuda.gridsize(1)):"


def _kernel(count: int, lines: list[str]) -> str:
    body = "\n".join("    " + line for line in lines)
    return f"def kernel({', '.join(f'p{k}' for k in range(count))}):\n{body}\n"


def print_scan(node: Node) -> tuple[str, list[Any], int]:
    """A running sum."""
    (outer, n, inner, back), char = node.data, letter(node.dtype)
    order = f"range({n - 1}, -1, -1)" if back else f"range({n})"
    lines = [
        _each(outer * inner),
        f"    first = t // {inner} * {n * inner} + t % {inner}",
        f"    total = {typed(char, 0)}",
        f"    for j in {order}:",
        f"        total += load_{char}(p0, first + j * {inner}, 0, 2)",
        f"        store_{char}(p1, first + j * {inner}, total, 1, 2)",
    ]
    return _kernel(2, lines), [*map(storage, node.args), node], outer * inner


def print_scatter(node: Node) -> tuple[str, list[Any], int]:
    """result[position] += g, for positions that are known or those in an array."""
    return _to_known(node) if isinstance(node.data, Move) else _to_positions(node)


def _to_known(node: Node) -> tuple[str, list[Any], int]:
    """For each element of the result, a list of those that came there."""
    char, table = letter(node.dtype), node.data.table.reshape(-1)
    sources = np.flatnonzero(table != ZERO)
    order = sources[np.argsort(table[sources], kind="stable")]
    starts = np.searchsorted(table[order], np.arange(node.size + 1)).astype(np.int64)
    lines = [
        _each(node.size),
        f"    total = {typed(char, 0)}",
        "    for j in range(load_l(p2, t, 2, 4), load_l(p2, t + 1, 2, 4)):",
        f"        total += load_{char}(p0, load_l(p3, j, 3, 4), 0, 4)",
        f"    store_{char}(p1, t, total, 1, 4)",
    ]
    return _kernel(4, lines), [storage(node.args[0]), node, starts, order.astype(np.int64)], node.size


def _to_positions(node: Node) -> tuple[str, list[Any], int]:
    """A thread has all elements along the axis of the positions: it adds to them what comes, in order."""
    g, where, char = node.args[0], node.data, letter(node.dtype)
    axes = range(len(g.shape))
    batch = [a for a in axes if where.strides[a]]  # along these nothing else reaches the same element
    lines = [_each(prod(g.shape[a] for a in batch))]
    rest = "t"
    for a in reversed(batch):
        lines += [f"    j{a} = {rest} % {g.shape[a]}", f"    t{a} = {rest} // {g.shape[a]}"]
        rest = f"t{a}"
    own = " + ".join(["0", *[f"{where.strides[a]} * j{a}" for a in batch]])
    indent = "    "
    lines += [
        f"{indent}for k in range({where.length}):",
        f"{indent}    store_{char}(p1, {own} + {where.step} * k, {typed(char, 0)}, 1, 3)",
    ]
    for a in axes:
        if a not in batch:
            lines.append(f"{indent}for j{a} in range({g.shape[a]}):")
            indent += "    "
    lines += _added(node, indent)
    return _kernel(3, lines), [storage(g), node, storage(node.args[1])], prod(g.shape[a] for a in batch)


def _added(node: Node, indent: str) -> list[str]:
    g, where, char = node.args[0], node.data, letter(node.dtype)
    loops: list[str | int] = [f"j{a}" for a in range(len(g.shape))]

    def at(strides: Shape) -> str:
        return element(Span((0,) * len(strides), g.shape, 0, 0, strides), loops)

    position = f"i8(load_{letter(node.args[1].dtype)}(p2, {at(where.index_strides)}, 2, 3))"
    total = f"load_{char}(p1, k, 1, 3) + load_{char}(p0, {at(c_strides(g.shape))}, 0, 3)"
    return [
        f"{indent}k = {at(where.strides)} + {where.step} * {within(position, where.length)}",
        f"{indent}store_{char}(p1, k, {total}, 1, 3)",
    ]


__all__ = ["print_scan", "print_scatter"]
