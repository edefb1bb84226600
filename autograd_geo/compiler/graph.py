"""From a recorded tape to a graph of what is computed.

Formulas become maps, ops that move elements are moves, products and sums of products are what einsum says; `lowering`
has ops of other kinds. Ops that are written in these (softmax, norm ...) are taken apart. What cannot be said so stays
an op that is called back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from math import inf, prod
from typing import Any

import numpy as np

from .. import expr
from ..contract import as_product, choose, explicit
from ..cuda.array import on_host
from ..op import Op, registry
from ..tape import CONSTANT, WEAK, Entry
from ..value import Value
from .decompose import recorded_steps
from .lowering import LOWERED
from .moves import (
    Move,
    Shape,
    broadcast,
    composed,
    in_order,
    move_of,
)
from .nodes import (
    CALL,
    CONST,
    INPUT,
    JOIN,
    MAP,
    MOVE,
    PRODUCT,
    REDUCE,
    SCATTER,
    Formula,
    Node,
    cast_formula,
    copy_of,
    plus_zero,
    product_formula,
    unknown_types,
)
from .phrases import limits
from .powers import has_power, powers_in
from .trace import Tracer

#: Products of matrices with up to this many multiplications are loops, larger ones are left to BLAS.
SMALL_PRODUCT = 4096
#: Numbers with which an op is another formula, by its name: for all others, the number is an operand of the same one.
SPECIAL: dict[str, frozenset[float]] = {
    "multiply": frozenset([1.0]), "power": frozenset([-2.0, -1.0, 0.5, 1.0, 2.0, 3.0, 4.0]),
}  # fmt: skip
#: Up to so many arrays are joined where they are read; more are copied together first.
MOST_MOVED = 8


def is_ours(op: Op) -> bool:
    """Whether an op's NumPy code is part of the library: what it does is known to be the same each time."""
    return (op.transposes or op).forward.__module__.startswith("autograd_geo.")


class Graph:
    """The nodes of a recording's entries."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        self.inputs: dict[Entry, Node] = {}
        self.nodes: dict[Entry, Node] = {}
        self._numbers: dict[Any, Node] = {}
        self._made: dict[Any, Node] = {}

    def add(self, entries: Iterable[Entry]) -> None:
        """Make the nodes of entries, in an order in which what they are computed from is there before them."""
        for entry in entries:
            self.nodes[entry] = self._node(entry)

    # --- sources --------------------------------------------------------------------------------------------------

    def _node(self, entry: Entry) -> Node:
        if entry in self.tracer.inputs:
            label = copy(entry)  # programs keep no leaf alive: an update may write into one that nobody else holds
            label.value, label.root, label.grad = None, None, None  # type: ignore[assignment]
            node = Node(INPUT, entry.shape, entry.dtype, entry=label)
            self.inputs[entry] = node
            return node
        defined = self.tracer.defined.get(entry)
        if defined is not None:
            return self.nodes[defined]
        if entry.op is None:
            return self.constant(entry.value, entry.dtype)
        args = [self.nodes[i] if type(i) is Entry else i for i in entry.inputs]
        return self.op(entry.op, args, entry.attrs, entry.spec, entry)

    def constant(self, value: Value, dtype: np.dtype[Any]) -> Node:
        """A value that never changes; the same number is one node."""
        array = np.asarray(on_host(value), dtype)
        known = not unknown_types((), dtype)
        if known and array.size > 1 and array.tobytes() == array.reshape(-1)[0].tobytes() * array.size:  # ones, zeros
            return self.move(broadcast((), array.shape), [self.constant(array.reshape(-1)[0], dtype)])
        if array.ndim:
            return Node(CONST, array.shape, dtype, data=array)
        key = dtype.char, array.tobytes()
        if key not in self._numbers:
            self._numbers[key] = Node(CONST, (), dtype, data=array)
        return self._numbers[key]

    # --- ops ------------------------------------------------------------------------------------------------------

    def op(self, op: Op, args: Sequence[Any], attrs: dict[str, Any], spec: Any, entry: Entry | None) -> Node:
        """What an op computes from nodes and literal numbers."""
        shape, dtype = spec
        operands = [x for x in args if isinstance(x, Node)]
        known = not unknown_types(operands, dtype) and not (dtype.kind == "b" and _have_no_common_integer(operands))
        if known and op.family == "pointwise":
            return self._pointwise(op, args, attrs, shape, dtype, entry)
        nodes = [self.constant(x, np.dtype(type(x))) if not isinstance(x, Node) else x for x in args]
        if known:
            try:
                found = self._known(op, nodes, attrs, shape, dtype, entry)
            except ValueError:  # code of the op accepts what its declaration does not
                found = None
            if found is not None and (found.shape, found.dtype) == (shape, dtype):
                return found
        return Node(CALL, shape, dtype, tuple(nodes), (op, attrs), entry)

    def _known(
        self, op: Op, nodes: list[Node], attrs: dict[str, Any], shape: Shape, dtype: np.dtype[Any], entry: Entry | None
    ) -> Node | None:
        if op.name in ("stack", "concatenate") and len(nodes) > MOST_MOVED:
            return self._joined([self.cast(n, dtype) for n in nodes], attrs["axis"] % len(shape), shape, entry)
        if op.moves:
            if len(nodes) > 1 and any(n.dtype != dtype for n in nodes):
                nodes = [self.cast(n, dtype) for n in nodes]
            return self.move(move_of(op, attrs, [n.shape for n in nodes]), nodes, entry)
        if op.transposes is not None and op.transposes.moves and len(nodes) == 1:
            rest = {k: v for k, v in attrs.items() if k != "shape"}
            return self.moved_back(move_of(op.transposes, rest, [attrs["shape"]]), nodes[0], entry)
        made = LOWERED.get(op.name)
        if made is not None:
            return made(self, nodes, attrs, shape, dtype, entry)
        if op.family == "multilinear":
            return self._contraction(op, nodes, attrs, shape, dtype, entry)
        if is_ours(op):
            return self._taken_apart(op, nodes, attrs, entry)
        return None

    def _pointwise(
        self, op: Op, args: Sequence[Any], attrs: dict[str, Any], shape: Shape, dtype: np.dtype[Any],
        entry: Entry | None,
    ) -> Node:  # fmt: skip
        assert op.body is not None
        if all(not isinstance(x, Node) or (x.kind == CONST and not x.shape) for x in args) and not shape:
            values = [np.asarray(x.data)[()] if isinstance(x, Node) else x for x in args]
            return self.constant(op.evaluate(values, attrs), dtype)
        if op.name == "multiply":  # the seed of a reverse pass
            for one, x in (args, args[::-1]):
                if isinstance(x, Node) and (x.shape, x.dtype) == (shape, dtype) and _is_one(one):
                    return x
        at = dtype
        if dtype.kind == "b":  # a comparison happens in the dtype of what is compared
            args = _in_range(args)
            at = np.result_type(*[x.dtype if isinstance(x, Node) else x for x in args])
        body = op.body
        if at.kind == "f" and has_power(op):
            body = powers_in(op, args, attrs)
            if op.name == "power" and "y" not in expr.names_in(body):
                args = args[:1]
        inputs = op.inputs[: len(args)]
        if isinstance(body, expr.Var) and isinstance(args[inputs.index(body.name)], Node):
            only = args[inputs.index(body.name)]
            if only.dtype == dtype and only.shape == shape:
                return only  # type: ignore[no-any-return]
        nodes = [x if isinstance(x, Node) else self.constant(x, _literal_dtype(x, at)) for x in args]
        key = op.name, tuple(attrs.items()), at.char, body
        formula = _formulas.get(key)
        if formula is None:
            names: dict[str, expr.Node] = {k: expr.Num(float(v)) for k, v in attrs.items()}
            formula = _formulas[key] = Formula(
                expr.substitute(body, names | {x: expr.Var(f"a{k}") for k, x in enumerate(inputs)}), at
            )
        return self.map(formula, nodes, shape, dtype, entry)

    def map(
        self, formula: Formula, nodes: Sequence[Node], shape: Shape, dtype: np.dtype[Any], entry: Entry | None = None
    ) -> Node:
        """A formula over nodes that broadcast to `shape`."""
        args = [
            n if n.shape == shape or n.size == 1 else self.move(broadcast(n.shape, shape), [n], entry) for n in nodes
        ]
        return self._once(MAP, shape, dtype, args, formula, formula, entry)

    def _once(
        self, kind: str, shape: Shape, dtype: np.dtype[Any], args: Sequence[Node], data: Any, key: Any,
        entry: Entry | None,
    ) -> Node:  # fmt: skip
        """A node; the same again if the same was asked for before."""
        key = kind, key, shape, dtype.char, *args
        node = self._made.get(key)
        if node is None:
            node = self._made[key] = Node(kind, shape, dtype, tuple(args), data, entry)
        return node

    def cast(self, x: Node, dtype: np.dtype[Any]) -> Node:
        """The values in another dtype."""
        return x if x.dtype == dtype else self.map(cast_formula(dtype), [x], x.shape, dtype, x.entry)

    def move(self, move: Move, nodes: Sequence[Node], entry: Entry | None = None) -> Node:
        """Moved data; moves of moves are one."""
        dtype = nodes[0].dtype
        first = [n.data if n.kind == MOVE and (len(n.args) == 1 or len(nodes) == 1) else None for n in nodes]
        if any(first) and move.table.size <= 1 << 22:
            move = composed(move, first)
            nodes = (
                nodes[0].args if len(nodes) == 1 else [n.args[0] if m else n for n, m in zip(nodes, first, strict=True)]
            )
        if move.in_order and move.shape == nodes[0].shape:
            return nodes[0]
        return self._once(MOVE, move.shape, dtype, nodes, move, move, entry)

    def reduce(self, how: str, x: Node, axes: Any, keepdims: bool, entry: Entry | None) -> Node:
        """Elements combined along axes: `how` is sum, prod, max or min."""
        ndim = len(x.shape)
        given = range(ndim) if axes is None else (axes,) if isinstance(axes, int | np.integer) else axes
        gone = tuple(sorted(int(a) % ndim for a in given)) if ndim else ()
        kept = tuple(n for a, n in enumerate(x.shape) if a not in gone)
        if all(x.shape[a] == 1 for a in gone):  # one number each: its sum with 0, which -0 is not, or itself
            zero = how == "sum" and x.dtype.kind == "f"
            node = self.reshape(self.map(plus_zero(x.dtype), [x], x.shape, x.dtype, entry) if zero else x, kept)
        else:
            node = self._once(REDUCE, kept, x.dtype, (x,), (how, gone), (how, gone), entry)
        if keepdims:
            node = self.reshape(node, tuple(1 if a in gone else n for a, n in enumerate(x.shape)))
        return node

    def reshape(self, x: Node, shape: Shape) -> Node:
        return self.move(in_order(x.shape, shape), [x], x.entry)

    def moved_back(self, there: Move, g: Node, entry: Entry | None) -> Node:
        """The transpose of an index map: a sum over where each element went, if it went to more than one place."""
        if there.inverse is not None:
            return self.move(there.inverse, [g], entry)
        shape: Shape = there.sources[0]
        pieces = there.pieces
        if pieces is not None and len(pieces) == 1 and 0 in pieces[0].strides and 0 not in shape:
            repeated = tuple(
                a for a, (s, n) in enumerate(zip(pieces[0].strides, there.shape, strict=True)) if s == 0 and n > 1
            )
            node = self.reduce("sum", g, repeated, False, entry)
            if node.size == prod(shape) and there.table.reshape(-1)[0] == 0:
                kept = tuple(n for a, n in enumerate(there.shape) if a not in repeated)
                order = there.table[tuple(0 if a in repeated else slice(None) for a in range(len(there.shape)))]
                back = Move(order.reshape(kept), (shape,)).inverse
                if back is not None:
                    return self.move(back, [node], entry)
        return Node(SCATTER, shape, g.dtype, (g,), there, entry)

    def _contraction(
        self, op: Op, nodes: list[Node], attrs: dict[str, Any], shape: Shape, dtype: np.dtype[Any], entry: Entry | None
    ) -> Node | None:
        signature = _signature(op, nodes, attrs)
        head, out = signature.split("->")
        labels = head.split(",")
        nodes = [self.cast(n, dtype) for n in nodes]
        size: dict[str, int] = {}
        for word, n in zip(labels, nodes, strict=True):
            for c, length in zip(word, n.shape, strict=True):
                size[c] = length if size.get(c, 1) == 1 else size[c]
        product = as_product(labels[0], labels[1], out) if len(nodes) == 2 and dtype.kind == "f" else None
        whole = all(n.shape == tuple(size[c] for c in word) for word, n in zip(labels, nodes, strict=True))
        if product is not None and whole and prod(size.values()) > SMALL_PRODUCT:  # BLAS does not broadcast
            return self._product(product, nodes, labels, out, size, dtype, entry)
        if dtype.kind == "b" or prod(size.values()) > 1 << 24:
            return None
        inner = [c for c in size if c not in out]
        space = tuple(size[c] for c in [*out, *inner])
        spread = [
            self.move(_spread(word, [*out, *inner], n.shape, space), [n], entry)
            for word, n in zip(labels, nodes, strict=True)
        ]
        total = spread[0]
        for n in spread[1:]:
            total = self.map(product_formula(dtype), [total, n], space, dtype, entry)
        return self.reduce("sum", total, tuple(range(len(out), len(space))), False, entry) if inner else total

    def _product(
        self, groups: Any, nodes: list[Node], labels: list[str], out: str, size: dict[str, int],
        dtype: np.dtype[Any], entry: Entry | None,
    ) -> Node:  # fmt: skip
        """A (batched) matrix product, (batch, m, k) by (batch, k, n) to (batch, m, n), with operands as they lie."""
        batch, rows, inner, columns = groups
        b, m, k, n = (prod([size[c] for c in group]) for group in (batch, rows, inner, columns))
        sides, flags = [], []
        for word, node, axes, shape in (
            (labels[0], nodes[0], [*batch, *rows, *inner], (b, m, k)),
            (labels[1], nodes[1], [*batch, *inner, *columns], (b, k, n)),
        ):
            side = self.reshape(self._ordered(node, [word.index(c) for c in axes]), shape)
            turned = side.kind == MOVE and side.data.turns(*shape)
            sides.append(side.args[0] if turned else side)
            flags.append(turned)
        node = Node(PRODUCT, (b, m, n), dtype, tuple(sides), (b, m, k, n, *flags), entry)
        order = [*batch, *rows, *columns]
        node = self.reshape(node, tuple(size[c] for c in order))
        return self._ordered(node, [order.index(c) for c in out])

    def _joined(self, nodes: list[Node], axis: int, shape: Shape, entry: Entry | None) -> Node:
        """Many arrays in one after each other along an axis: each is copied to its place there."""
        parts, starts, start = [], [], 0
        for n in nodes:
            length = n.shape[axis] if len(n.shape) == len(shape) else 1
            part = self.reshape(n, (*shape[:axis], length, *shape[axis + 1 :]))
            parts.append(copy_of(part))
            starts.append(start * prod(shape[axis + 1 :]))
            start += length
        return Node(JOIN, shape, nodes[0].dtype, tuple(parts), tuple(starts), entry)

    def _ordered(self, node: Node, axes: list[int]) -> Node:
        if axes == sorted(axes):
            return node
        return self.move(move_of(registry["transpose"], {"axes": tuple(axes)}, [node.shape]), [node], node.entry)

    def _taken_apart(self, op: Op, nodes: list[Node], attrs: dict[str, Any], entry: Entry | None) -> Node | None:
        """An op of ours by the ops that its NumPy code runs; None if that code is not made of such."""
        steps = recorded_steps(op, [(n.shape, n.dtype) for n in nodes], attrs)
        if steps is None:
            return None
        entries, operands, result, defined = steps
        known: dict[Entry, Node] = dict(zip(operands, nodes, strict=True))
        for e in entries:
            if e in known:
                continue
            if e in defined:
                known[e] = known[defined[e]]
            elif e.op is None:
                known[e] = self.constant(e.value, e.dtype)
            else:
                known[e] = self.op(
                    e.op, [known[i] if type(i) is Entry else i for i in e.inputs], e.attrs, e.spec, entry
                )
        return known[result]


_formulas: dict[Any, Formula] = {}


def _is_one(x: Any) -> bool:
    """Whether this is 1 everywhere, in each call."""
    while isinstance(x, Node) and x.kind == MOVE and len(x.args) == 1 and x.data.repeats(0):
        x = x.args[0]
    return bool(x.kind == CONST and x.size == 1 and x.data == 1 if isinstance(x, Node) else x == 1)


def _literal_dtype(x: Any, at: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(bool) if type(x) is bool else at


def _in_range(args: Sequence[Any]) -> Sequence[Any]:
    """Operands of a comparison; an integer beyond the dtype that it is compared in is an infinity."""
    dtypes = [x.dtype for x in args if isinstance(x, Node)]
    if not dtypes or (at := np.result_type(*dtypes)).kind not in "iu":
        return args
    low, high = limits(at)
    return [x if type(x) is not int or low <= x <= high else inf if x > 0 else -inf for x in args]


def _have_no_common_integer(nodes: Sequence[Node]) -> bool:
    """Whether integers would be compared as floats (int64 and uint64), in which those above 2**53 are the same."""
    return (
        bool(nodes)
        and all(n.dtype.kind in "iu" for n in nodes)
        and np.result_type(*[n.dtype for n in nodes]).kind == "f"
    )


def _signature(op: Op, nodes: Sequence[Node], attrs: dict[str, Any]) -> str:
    ndims = tuple(len(n.shape) for n in nodes)
    if "subscripts" in attrs:
        return explicit(attrs["subscripts"], ndims)
    return choose(op.signatures, ndims)


def _spread(word: str, space_labels: Sequence[str], shape: Shape, space: Shape) -> Move:
    """An operand of an einsum laid out over all labels: new axes where it has none, diagonals where one repeats."""
    numbers = np.arange(prod(shape), dtype=np.int64).reshape(shape)
    unique = list(dict.fromkeys(word))
    table = np.einsum(f"{word}->{''.join(c for c in space_labels if c in unique)}", numbers)
    full = table.reshape(
        [table.shape[[d for d in space_labels if d in unique].index(c)] if c in unique else 1 for c in space_labels]
    )
    return Move(np.broadcast_to(full, space), (shape,))


__all__ = ["CONSTANT", "WEAK", "Formula", "Graph", "Node"]
