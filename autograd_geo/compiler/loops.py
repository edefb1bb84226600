"""The kernels of steps that are no region: sums over where elements went, and running sums."""

from __future__ import annotations

from .moves import Move, Shape, c_strides
from .nodes import Node
from .phrases import Span, element, letter, typed, within


def print_scatter(node: Node) -> str:
    """The source of a sum over where elements went, result[position] += g; operands g, result, positions."""
    g, char, where = node.args[0], letter(node.dtype), node.data
    lines = [f"for i in range({node.size}):", f"    store_{char}(p1, i, {typed(char, 0)}, 1, 3)"]
    if isinstance(where, Move):
        lines += [f"for i in range({g.size}):", "    k = load_l(p2, i, 2, 3)", "    if k >= 0:"]
        place, indent = "i", " " * 8
    else:
        loops: list[str | int] = [f"j{axis}" for axis in range(len(g.shape))]
        lines += [f"{' ' * 4 * a}for j{a} in range({n}):" for a, n in enumerate(g.shape)]
        indent = " " * 4 * len(loops)

        def at(strides: Shape) -> str:
            return element(Span((0,) * len(strides), g.shape, 0, 0, strides), loops)

        position = f"i8(load_{letter(node.args[1].dtype)}(p2, {at(where.index_strides)}, 2, 3))"
        lines.append(f"{indent}k = {at(where.strides)} + {where.step} * {within(position, where.length)}")
        place = at(c_strides(g.shape))
    total = f"load_{char}(p1, k, 1, 3) + load_{char}(p0, {place}, 0, 3)"
    lines.append(f"{indent}store_{char}(p1, k, {total}, 1, 3)")
    body = "\n".join("    " + line for line in lines)
    return f"def kernel(a, o):\n    p0, p1, p2 = a[o[0]], a[o[1]], a[o[2]]\n{body}\n"


def print_scan(node: Node) -> str:
    """The source of a running sum; operands x and the result."""
    (outer, n, inner, back), char = node.data, letter(node.dtype)
    order = f"range({n - 1}, -1, -1)" if back else f"range({n})"
    first, before = (n - 1, inner) if back else (0, -inner)
    return f"""\
def kernel(a, o):
    p0, p1 = a[o[0]], a[o[1]]
    for i in range({outer}):
        for j in {order}:
            for k in range({inner}):
                at = (i * {n} + j) * {inner} + k
                x = load_{char}(p0, at, 0, 2)
                if j != {first}:
                    x = load_{char}(p1, at + {before}, 1, 2) + x
                store_{char}(p1, at, x, 1, 2)
"""
