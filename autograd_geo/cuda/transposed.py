"""Sums over where the elements of a product go, as one product: the gradient of a convolution's image.

There, a product of the results' gradient and the filters gives the gradient of each patch, which is added to the image
where the patch was taken. Instead, each element of the image gathers: it is the product of the filters and of those
results that it went into, zero where there is none. No patch is stored, and no element is added to twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..compiler.moves import ZERO, Move
from ..compiler.nodes import PRODUCT, SCATTER, Node
from ..compiler.regions import Plan, Region, storage
from .gathers import Gather, Numbers, Operand, is_copy, read_by, separated

#: With a smaller share of results at which there is something, more would be multiplied by zero than is gained.
_LEAST_SHARE = 0.5
#: Of larger sums, to find the product would take much of the host's memory.
_MOST_ELEMENTS = 1 << 25


def scatter_by_products(plan: Plan, in_place: dict[tuple[Node, int], Operand]) -> None:
    """Make products of sums over where a product's elements go, where that can be: the plan and `in_place` change."""
    readers = read_by(plan, in_place)
    kept = {*plan.outputs, *plan.parts}
    for step in list(plan.steps):
        if not (isinstance(step, Node) and step.kind == SCATTER and isinstance(step.data, Move)):
            continue
        copy, order = storage(step.args[0]), None
        product = copy
        if copy is not None and is_copy(copy) and readers[copy] == [step] and copy not in kept:
            (moved, *others), order = copy.args[0].args, copy.args[0].data.table
            product = None if others else storage(moved)
        reader = step if product is copy else copy
        if product is None or product.kind != PRODUCT or readers[product] != [reader] or product in kept:
            continue
        found = _gathered(step, product, np.arange(step.args[0].size) if order is None else order, in_place)
        if found is None:
            continue
        step.kind, step.data, operands = PRODUCT, found.data, found.operands
        step.args = tuple(x.source for x in operands)
        for number, x in enumerate(operands):
            in_place.pop((product, number), None)
            in_place[step, number] = x
        plan.steps.remove(product)
        if product is not copy:
            region = next(s for s in plan.steps if isinstance(s, Region) and copy in s.nodes)
            region.nodes.remove(copy)  # type: ignore[arg-type]
            if not region.nodes:
                plan.steps.remove(region)


class _Found(NamedTuple):
    data: tuple[int, int, int, int, bool, bool]  # of the product
    operands: tuple[Operand, Operand]


def _gathered(
    scatter: Node, product: Node, order: Numbers, in_place: Mapping[tuple[Node, int], Operand]
) -> _Found | None:
    """The product of results and filters that gives what is scattered; `order` is each element's in the product.

    The axes of what is scattered are those of results, of channels, and of places in a patch. Channels are a digit of
    the positions, which the others leave 0: the result is (images, channels, pixels), or (pixels, channels).
    """
    batch, _, inner, columns, _, _ = product.data
    table = scatter.data.table
    order = order.reshape(table.shape)
    if batch != 1 or table.size > _MOST_ELEMENTS or ZERO in table or ZERO in order or order.size != product.size:
        return None
    result, column = order // columns, order % columns
    of_columns = [
        a for a in range(table.ndim) if table.shape[a] > 1 and np.take(column, 1, a).flat[0] != column.flat[0]
    ]
    channel = next((a for a in of_columns if _is_digit(table, a, scatter.size)), None)
    if channel is None:
        return None
    step, channels = int(np.take(table, 1, channel).flat[0] - table.flat[0]), table.shape[channel]
    places = [a for a in of_columns if a != channel]
    lines = [a for a in range(table.ndim) if a not in of_columns]

    def sorted_out(x: Numbers) -> Numbers:
        """By channel, result and place in the patch."""
        return x.transpose([channel, *lines, *places]).reshape(channels, -1, columns // channels)

    if columns % channels:
        return None
    to, result, column = map(sorted_out, (table, result, column))
    if (result != result[:1, :, :1]).any() or (column != column[:, :1]).any():
        return None
    results, filters = (_addresses(product, number, in_place) for number in (0, 1))
    if results is None or filters is None:
        return None
    images = scatter.size // (step * channels)
    # Which result each pixel went into, for each place in the patch.
    pixel = to[0] // (step * channels) * step + to[0] % step
    went = np.full((images * step, to.shape[2]), ZERO)
    at = np.broadcast_to(np.arange(to.shape[2]), pixel.shape)
    went[pixel, at] = results.lines[result[0]]
    if (went != ZERO).sum() != pixel.size or pixel.size < _LEAST_SHARE * went.size:
        return None
    gather = separated(went.reshape(*((images, step) if step > 1 else (1, images)), -1))
    of_filters = filters.lines[column[:, 0]]
    by_channel, by_place = of_filters[:, 0], of_filters[0] - of_filters[0, 0]
    if gather is None or (of_filters != by_channel[:, None] + by_place).any():
        return None
    masks = gather.place_masks
    gathered = gather._replace(
        places=(results.places[:, None] + gather.places).reshape(-1),
        place_masks=None if masks is None else np.tile(masks, inner),
    )
    weights = Gather(0, by_channel, (filters.places[:, None] + by_place).reshape(-1))
    sources = [_source(product, number, in_place) for number in (0, 1)]
    moving, fixed = Operand(sources[0], gathered), Operand(sources[1], weights)
    depth = inner * to.shape[2]
    if step > 1:
        return _Found((images, channels, depth, step, False, False), (fixed, moving))
    return _Found((1, images, depth, channels, False, False), (moving, fixed))


def _is_digit(table: Numbers, axis: int, size: int) -> bool:
    """Whether positions count along an axis in steps that nothing else makes."""
    step, count = int(np.take(table, 1, axis).flat[0] - table.flat[0]), table.shape[axis]
    if step < 1 or size % (step * count):
        return False
    counted = step * np.arange(count).reshape([-1 if a == axis else 1 for a in range(table.ndim)])
    rest = np.take(table, [0], axis)
    return not (rest // step % count).any() and np.array_equal(rest + counted, table)


def _addresses(product: Node, number: int, in_place: Mapping[tuple[Node, int], Operand]) -> Gather | None:
    """Where the elements of an operand lie: lines are rows of the first, columns of the second."""
    if (product, number) in in_place:
        gather = in_place[product, number].gather
        return gather if gather.line_masks is None else None
    _, m, k, n, turned_a, turned_b = product.data
    lines, lines_first = ((m, not turned_a), (n, turned_b))[number]
    of_line, of_place = (k, 1) if lines_first else (1, lines)
    return Gather(0, np.arange(lines) * of_line, np.arange(k) * of_place)


def _source(product: Node, number: int, in_place: Mapping[tuple[Node, int], Operand]) -> Any:
    if (product, number) in in_place:
        return in_place[product, number].source
    return storage(product.args[number])


__all__ = ["scatter_by_products"]
