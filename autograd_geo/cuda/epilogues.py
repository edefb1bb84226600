"""Formulas that read a product of matrices element by element, handed to its kernel as what it does before it stores.

Bias, activation and a residual addend then cost no kernel of their own, and a product that nothing else reads is never
in memory. The formulas may read besides it one value per column, one array of the same shape, and numbers that are
known; they may leave two results, such as an activation and what its gradient needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import copysign, prod
from typing import NamedTuple

from .. import expr
from ..compiler.moves import c_strides
from ..compiler.nodes import CONST, MAP, MOVE, PRODUCT, Node
from ..compiler.phrases import is_boolean, is_condition
from ..compiler.regions import Plan, Region, made_by, storage
from ..expr.nodes import fold
from . import matmul_form
from .gathers import Operand, read_by

#: Longer formulas stay kernels of their own.
MOST_TERMS = 300
_ZERO, _ONE = expr.Num(0.0), expr.Num(1.0)


class Product(NamedTuple):
    """A product as it is launched: of `node`, with what is computed of it and of two other nodes, and stored."""

    node: Node
    stored: tuple[tuple[Node, expr.Node], ...]
    addend: Node | None = None
    bias: Node | None = None


def with_epilogues(plan: Plan, in_place: Mapping[tuple[Node, int], Operand]) -> list[Region | Node | Product]:
    """The steps of a plan; each product is one with the region that reads it where that can be.

    `in_place` are operands of products that have no memory of their own.
    """
    places = {node: k for k, step in enumerate(plan.steps) for node in made_by(step)}
    outputs = set(plan.outputs)
    first: dict[
        int, dict[Node, bool]
    ] = {}  # by the step that reads it first: a product, and whether it is needed later
    for root, nodes in read_by(plan, in_place).items():
        if root.kind == PRODUCT:
            by = {places[node] for node in nodes}
            first.setdefault(min(by), {})[root] = len(by) > 1 or root in outputs
    steps: list[Region | Node | Product] = list(plan.steps)
    taken: set[Node] = set()
    for k, products in first.items():
        step = plan.steps[k]
        found = _fused(step, plan, products) if isinstance(step, Region) else None
        if found is not None:
            steps[k] = found
            taken.add(found.node)
    return [
        Product(s, ((s, matmul_form.PRODUCT),)) if isinstance(s, Node) and s.kind == PRODUCT else s
        for s in steps
        if not isinstance(s, Node) or s not in taken
    ]


def _fused(region: Region, plan: Plan, first: Mapping[Node, bool]) -> Product | None:
    """A product with a region's formulas, of those that it is the first to read; None if they do not fit together.

    For each, `first` has whether it is also needed later.
    """
    stored = [n for n in region.nodes if n in plan.stored]
    if not 0 < len(stored) <= 2 or region.rows is not None or not plan.parts.keys().isdisjoint(stored):
        return None
    products = [n for n in first if n.size == prod(region.shape)]
    for product in sorted(products, key=lambda n: -plan.positions[n]):
        epilogue = _Epilogue(region, product)
        if epilogue.read() and all(n.dtype == product.dtype for n in stored):
            found = [(n, epilogue.terms[n]) for n in stored] + [(product, matmul_form.PRODUCT)] * first[product]
            return Product(product, tuple(found), epilogue.addend, epilogue.bias)
    return None


class _Epilogue:
    """The formulas of a region as expressions of a product's element and of what else is read."""

    def __init__(self, region: Region, product: Node) -> None:
        self.region, self.product, self.size = region, product, product.size
        self.addend: Node | None = None
        self.bias: Node | None = None
        self.terms: dict[Node, expr.Node] = {}

    def read(self) -> bool:
        """Fill in `terms`; whether all of them are such."""
        return all(self._formula(node) for node in self.region.nodes)

    def _formula(self, node: Node) -> bool:
        dtype = self.product.dtype
        if node.kind != MAP or node.data.at != dtype or (node.dtype != dtype and node.dtype.kind != "b"):
            return False
        values: dict[str, expr.Node] = {}
        for k, a in enumerate(node.args):
            value = self._value(a)
            if value is None:
                return False
            if a.dtype.kind == "b" and not is_condition(node.data.body, f"a{k}", a):
                value = expr.Call("where", (value, _ONE, _ZERO))
            values[f"a{k}"] = value
        term = expr.substitute(node.data.body, values)
        if is_boolean(node.data.body) and node.dtype == dtype:
            term = expr.Call("where", (term, _ONE, _ZERO))
        elif node.dtype.kind == "b" and not is_boolean(node.data.body):
            term = expr.Call("!=", (term, _ZERO))
        self.terms[node] = term
        terms: int = fold(term, _count)
        return terms <= MOST_TERMS

    def _value(self, a: Node) -> expr.Node | None:
        """An argument of a formula; None if a matmul kernel cannot read it."""
        if a in self.terms:
            return self.terms[a]
        constant = a.args[0] if a.kind == MOVE and len(a.args) == 1 and a.data.repeats(0) else a
        if constant.kind == CONST and constant.size == 1:
            number = float(constant.data.item())
            is_minus_zero = number == 0 and copysign(1, number) < 0  # which, in what is cached, is equal to 0
            return None if is_minus_zero else expr.Num(number)
        if a.dtype != self.product.dtype:
            return None
        root = storage(a)
        if root is not None and a.size == self.size:
            if root is self.product:
                return matmul_form.PRODUCT
            self.addend = self.addend or root
            return matmul_form.ADDEND if root is self.addend else None
        if a.kind == MOVE and len(a.args) == 1 and _is_per_column(a, self.product.data[3]):
            root = storage(a.args[0])
            self.bias = self.bias or root
            return matmul_form.BIAS if root is not None and root is self.bias else None
        return None


def _count(node: expr.Node, args: Sequence[int]) -> int:
    return 1 + sum(args)


def _is_per_column(a: Node, columns: int) -> bool:
    """Whether a move repeats one array, a value per column, for every row."""
    pieces, first = a.data.pieces, len(a.shape)
    while first and prod(a.shape[first:]) < columns:
        first -= 1
    if prod(a.shape[first:]) != columns or prod(a.data.sources[0]) != columns or not pieces or len(pieces) > 1:
        return False
    strides = (*[0] * first, *c_strides(a.shape[first:]))
    return pieces[0].source == pieces[0].base == 0 and all(
        n == 1 or s == t for n, s, t in zip(a.shape, pieces[0].strides, strides, strict=True)
    )


__all__ = ["Product", "with_epilogues"]
