"""A region as the source of a Numba kernel: loops over boxes of its index space, in which every access is affine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .. import expr
from .moves import _APART, ZERO, Positions, Shape, c_strides
from .nodes import GATHER, MAP, REDUCE, Formula, Node
from .phrases import (
    CODES,
    Box,
    Span,
    combined,
    converted,
    element,
    is_boolean,
    is_condition,
    letter,
    limits,
    rename_temporaries,
    typed,
    watches_nan,
    within,
)
from .regions import Plan, Region, storage
from .stages import stages

#: More boxes than this make a kernel long to compile; then irregular reads go through tables of indices.
MOST_BOXES = 30
#: With more boxes, what lies around a large one is gone through in few loops, which ask where they are.
FEW_BOXES = 4
#: Regions with so many values are computed in chunks, which threads share, each of about this many.
CHUNK = 1 << 19
MOST_CHUNKS = 64


class _Access:
    """How a node is read or written over the region's index space: spans, or a table per operand.

    A gather has two spans, of its source and of the positions in it.
    """

    __slots__ = ("positions", "spans", "tables")

    def __init__(
        self, spans: list[Span], tables: Sequence[tuple[int, int]] = (), positions: Positions | None = None
    ) -> None:
        self.spans, self.tables, self.positions = spans, tables, positions


class Printer:
    """Writes one region of a plan; the nodes in `into` are written into another's buffer."""

    def __init__(self, region: Region, plan: Plan, into: Mapping[Node, Node]) -> None:
        self.region, self.plan, self.into = region, plan, into
        self.shape = region.shape
        self.operands: list[Any] = []
        self.offsets: list[int] = []
        self._number: dict[Any, int] = {}
        self.stages = stages(region, plan.stored)
        self.rows = region.rows or 0
        self.reads: dict[Node, _Access] = {}
        self.writes: dict[Node, _Access] = {}
        #: Where a row of what later loops need is kept.
        self.kept: dict[Node, _Access] = {}
        #: What stands for a value per row of this region.
        self.spread: dict[Node, Node] = {}
        self.scalars: dict[Node, str] = {}
        self.constants: dict[tuple[str, float], str] = {}
        #: How many chunks of the first axis there are, 0 for small regions; where each leaves its part of reductions.
        self.chunks = 0
        self.parts: dict[Node, int] = {}
        self.axis: int | None = None  # that is divided into chunks

    def operand(self, x: Any, key: Any = None) -> int:
        key = self.into.get(x, x) if key is None else key
        if key not in self._number:
            self._number[key] = len(self.operands)
            self.operands.append(x)
        return self._number[key]

    # --- accesses ----------------------------------------------------------------------------------------------------

    def prepare(self) -> tuple[Any, ...]:
        """Find out how everything is accessed; returns what regions with the same source have in common."""
        region, full = self.region, self.shape
        inside = {n for n in region.nodes if n.kind == MAP}
        for node in region.nodes:
            for a in node.args:
                value = region.row_value(a)
                if value is not None:
                    self.spread[a] = value
                if value is None and a not in inside and a not in self.reads and a not in self.scalars:
                    root = storage(a)
                    if root is not None and a.size == 1:
                        self.scalars[a] = f"s{self.operand(root)}"
                    else:
                        self.reads[a] = self._read(a)
        self._limit_boxes()
        for node in region.nodes:
            if node.kind == REDUCE:
                kept = iter(c_strides(node.shape))
                strides = tuple(0 if a in node.data[1] else next(kept) for a in range(len(full)))
                self.writes[node] = _Access([self._span(node.args[0], self.operand(node), strides)])
            elif node in self.plan.parts:
                join, start = self.plan.parts[node]
                self.writes[node] = _Access([self._span(node, self.operand(join), c_strides(join.shape), base=start)])
            elif node in self.plan.stored:
                self.writes[node] = _Access([self._span(node, self.operand(node), c_strides(node.shape))])
        self._divide()
        for node in self.stages.kept:
            row = full[self.rows :]
            buffer = self.operand(Node(MAP, (self.chunks or 1, *row), node.dtype), ("row of", node))
            self.kept[node] = _Access([self._span(node, buffer, (*[0] * self.rows, *c_strides(row)))])
        self._begin_where_used()
        local = {n: k for k, n in enumerate(region.nodes)}
        places = {a: (k, "read") for k, a in enumerate(self.reads)} | {
            a: (local[v], "row") for a, v in self.spread.items()
        }
        nodes = tuple(
            (
                node.kind, node.dtype.char, id(node.data) if node.kind == MAP else node.data, node.shape == full,
                tuple(local[a] if a in local else places.get(a) or (self.scalars[a], a.dtype.char) for a in node.args),
            )
            for node in region.nodes
        )  # fmt: skip
        accesses = tuple(
            (a.dtype.char, tuple(x.spans), tuple(x.tables), x.positions and (x.positions, a.args[1].dtype.char))
            for group in (self.reads, self.writes, self.kept)
            for a, x in group.items()
        )
        return (
            full,
            region.rows,
            self.chunks,
            nodes,
            accesses,
            *(tuple(local[n] for n in group) for group in (self.writes, self.kept)),
        )

    def _divide(self) -> None:
        """Divide a large region into chunks of its first axis, unless a reduction needs the whole axis in one place.

        How many there are depends on the region alone, so that sums are the same for any number of threads.
        """
        shape, rows = self.region.shape, self.region.rows
        axis = next((a for a, n in enumerate(shape) if n > 1), 0)
        work = prod(shape) * len(self.region.nodes)
        by_row = rows is not None and axis < rows
        if work < 2 * CHUNK or (not by_row and (len(self.stages.inside) > 1 or any(self.stages.between))):
            return
        whole = []
        for node in self.region.nodes:
            if node.kind == REDUCE and not (by_row and self.region.is_per_row(node)):
                strides = self.writes[node].spans[0].strides
                if any(strides) and not strides[axis]:
                    return
                whole += [] if any(strides) else [node]
        self.chunks = min(MOST_CHUNKS, work // CHUNK)
        self.parts = {n: self.operand(Node(MAP, (self.chunks,), n.dtype), ("parts of", n)) for n in whole}

    def _begin_where_used(self) -> None:
        """Count the elements of each operand from the first that is used: steps of a loop then have one source."""
        accesses = [*self.reads.values(), *self.writes.values(), *self.kept.values()]
        first: dict[int, int] = {}
        for access in accesses:
            for s in access.spans:
                first[s.operand] = min(first.get(s.operand, s.base), s.base)
        whole = {k for access in accesses for _, k in access.tables} | {int(name[1:]) for name in self.scalars.values()}
        for k in whole:
            first[k] = 0
        self.offsets = [
            first.get(k, 0) * x.dtype.itemsize if isinstance(x, Node) else 0 for k, x in enumerate(self.operands)
        ]
        for access in accesses:
            access.spans = [s._replace(base=s.base - first[s.operand]) for s in access.spans]

    def _span(
        self, a: Node, operand: int, strides: Shape, box: tuple[Shape, Shape] | None = None, base: int = 0
    ) -> Span:
        """An access to a node over the region's index space: its own, or, for one value per row, that of the rows."""
        full = self.shape
        lower, upper = box or ((0,) * len(a.shape), a.shape)
        if a.shape != full:
            k, row = self.rows, full[self.rows :]
            zeros = (0,) * len(row)
            lower, upper, strides = (*lower[:k], *zeros), (*upper[:k], *row), (*strides[:k], *zeros)
        return Span(lower, upper, operand, base, strides)

    def _read(self, a: Node) -> _Access:
        """How an argument from elsewhere is read."""
        if a.kind == GATHER:
            source, index = (self.operand(storage(x)) for x in a.args)
            how: Positions = a.data
            spans = [self._span(a, source, how.strides), self._span(a, index, how.index_strides)]
            return _Access(spans, positions=how)
        root = storage(a)
        if root is not None:
            return _Access([self._span(a, self.operand(root), c_strides(a.shape))])
        if a.data.pieces is None:
            return self._by_table(a)
        operands = [self.operand(storage(x)) for x in a.args]
        return _Access(
            [
                self._span(a, -1 if p.source < 0 else operands[p.source], p.strides, (p.lower, p.upper), p.base)
                for p in a.data.pieces
            ]
        )

    def _by_table(self, a: Node) -> _Access:
        number = a.data.table >> _APART
        tables = []
        for k, source in enumerate(a.args):
            if len(a.args) == 1:
                table = np.where(a.data.table == ZERO, -1, a.data.table)
            else:
                table = np.where(number == k, a.data.table - (k << _APART), -1)
            tables.append((self.operand(np.ascontiguousarray(table), (id(a.data), k)), self.operand(storage(source))))
        return _Access([self._span(a, -1, c_strides(a.shape))], tables)

    def simplify(self) -> None:
        """Axes of length one go, and neighbouring axes that every access walks through as one become one."""
        accesses = [*self.reads.values(), *self.writes.values(), *self.kept.values()]
        for axis in reversed(range(len(self.shape))):
            if self.shape[axis] == 1:
                self._drop(accesses, axis)
        axis = 0
        while axis + 1 < len(self.shape):
            m, n = self.shape[axis : axis + 2]
            if axis + 1 != self.rows and all(
                s.strides[axis] == s.strides[axis + 1] * n
                and (s.lower[axis], s.upper[axis], s.lower[axis + 1], s.upper[axis + 1]) == (0, m, 0, n)
                for access in accesses
                for s in access.spans
            ):
                self.shape = (*self.shape[:axis], m * n, *self.shape[axis + 2 :])
                self.rows -= axis + 1 < self.rows
                for access in accesses:
                    access.spans = [
                        s._replace(
                            lower=(*s.lower[:axis], 0, *s.lower[axis + 2 :]),
                            upper=(*s.upper[:axis], m * n, *s.upper[axis + 2 :]),
                            strides=(*s.strides[:axis], *s.strides[axis + 1 :]),
                        )
                        for s in access.spans
                    ]
            else:
                axis += 1

    def _drop(self, accesses: Sequence[_Access], axis: int) -> None:
        def without(t: Shape) -> Shape:
            return t[:axis] + t[axis + 1 :]

        self.shape = without(self.shape)
        self.rows -= axis < self.rows
        for access in accesses:
            access.spans = [
                s._replace(lower=without(s.lower), upper=without(s.upper), strides=without(s.strides))
                for s in access.spans
            ]

    def _cuts(self) -> list[list[int]]:
        """Where along each axis a span of some read begins or ends."""
        cuts: list[set[int]] = [{0, n} for n in self.shape]
        for access in self.reads.values():
            for s in access.spans:
                for axis, ends in enumerate(zip(s.lower, s.upper, strict=True)):
                    cuts[axis].update(ends)
        return [sorted(c) for c in cuts]

    def _boxes(self, axes: Sequence[int]) -> list[Box]:
        """These axes in boxes, in each of which a read goes through one span, except in the margins of a large one."""
        cuts = self._cuts()
        cells: list[Box] = list(product(*[list(pairwise(cuts[a])) for a in axes]))
        if len(cells) <= FEW_BOXES:
            return cells
        whole = [(0, self.shape[a]) for a in axes]
        largest = max(cells, key=_size)
        if 4 * _size(largest) < 3 * _size(whole):
            return cells
        margins = []
        for k, (begin, end) in enumerate(largest):
            for part in ((0, begin), (end, whole[k][1])):
                if part[0] < part[1]:
                    margins.append((*largest[:k], part, *whole[k + 1 :]))
        return [*margins, largest]

    def _limit_boxes(self) -> None:
        """Let the reads of most spans go through tables where there would be too many boxes."""
        axes = range(len(self.shape))
        while len(self._boxes(axes[: self.rows])) * len(self._boxes(axes[self.rows :])) > MOST_BOXES:
            worst = max(self.reads, key=lambda n: len(self.reads[n].spans))
            self.reads[worst] = self._by_table(worst)

    # --- text -------------------------------------------------------------------------------------------------------

    def print(self) -> str:
        """The source of the kernel; prepare first."""
        if not any(access.tables for access in self.reads.values()):
            self.simplify()
        reductions = [n for n in self.region.nodes if n.kind == REDUCE]
        per_row = [n for n in reductions if self.region.is_per_row(n)]
        whole = [n for n in reductions if n not in per_row and not any(self.writes[n].spans[0].strides)]
        self.registers = {n: f"r{self.writes[n].spans[0].operand}" for n in (*per_row, *whole)}
        if self.chunks:
            self.axis = next((a for a, n in enumerate(self.shape) if n > 1), 0)
        text = [line for n in reductions if n not in per_row for line in self._start(n)]
        axes = range(len(self.shape))
        for outer in self._boxes(axes[: self.rows]):
            text += self._row(outer, self._boxes(axes[self.rows :]))
        for node in whole:
            text += self._finish(node, [0] * len(self.shape), part=True)
        head = [f"p{k} = a[o[{k}]]" for k in range(len(self.operands))]
        if self.chunks:
            head += [f"p{k} += max(chunk, 0) * {row}" for k, row in self._rows_per_chunk()]
            text = ["if chunk < 0:", *["    " + line for line in [*self._together(), "return"]], *text]
        for a, name in self.scalars.items():
            k = int(name[1:])
            head.append(f"{name} = load_{letter(a.dtype)}(p{k}, 0, {k}, #)")
        head += [f"{name} = {typed(char, value)}" for (char, value), name in self.constants.items()]
        body = "\n".join("    " + line for line in [*dict.fromkeys(head), *text])
        given = "a, o, lo, hi, chunk" if self.chunks else "a, o"
        return f"def kernel({given}):\n{body}\n".replace("#", str(len(self.operands)))

    def _rows_per_chunk(self) -> list[tuple[int, int]]:
        """The operands in which each chunk keeps a row of its own, and the bytes of that."""
        found = [(access.spans[0].operand, node.dtype.itemsize) for node, access in self.kept.items()]
        return [(k, prod(self.operands[k].shape[1:]) * size) for k, size in found]

    def _together(self) -> list[str]:
        """What is left to do when all chunks are done: to reduce their parts, in order."""
        lines = []
        for node, k in self.parts.items():
            name, load = self.registers[node], f"load_{letter(node.dtype)}(p{k}, c, {k}, #)"
            lines += [*self._start(node), f"for c in range({self.chunks}):"]
            lines += [f"    {name} = {combined(node, name, load)}", *self._finish(node, [0] * len(self.shape))]
        return lines

    def _start(self, node: Node) -> list[str]:
        """A reduction before its first element."""
        how = node.data[0]
        char = letter(node.dtype)
        first = {"sum": 0.0, "prod": 1.0, "max": -np.inf, "min": np.inf}[how]
        if how in ("max", "min") and node.dtype.kind != "f":
            low, high = (0, 1) if node.dtype.kind == "b" else limits(node.dtype)
            first = low if how == "max" else high
        k, value = self.writes[node].spans[0].operand, self._constant(char, first)
        if node not in self.registers:
            span = self.writes[node].spans[0]
            part = (
                f"lo * {span.strides[self.axis]}, hi * {span.strides[self.axis]}"
                if self.axis is not None
                else node.size
            )
            return [f"for i in range({part}):", f"    store_{char}(p{k}, i, {value}, {k}, #)"]
        lines = [f"{self.registers[node]} = {value}"]
        return [*lines, f"nan{k} = False"] if watches_nan(node) else lines

    def _finish(self, node: Node, loops: list[str | int], part: bool = False) -> list[str]:
        """A reduction in a variable after its last element, or, if a `part`, after that of a chunk."""
        name, (span,) = self.registers[node], self.writes[node].spans
        lines = [self._store(node, name, span, loops)]
        if part and node in self.parts:
            k = self.parts[node]
            lines = [f"store_{letter(node.dtype)}(p{k}, chunk, {name}, {k}, #)"]
        if watches_nan(node):
            nan = typed(letter(node.dtype), np.nan)
            lines = [f"{name} = select(nan{span.operand}, {nan}, {name})", *lines]
        return lines

    def _constant(self, char: str, value: float) -> str:
        key = char, value
        if value != value:
            return typed(char, value)
        if key not in self.constants:
            self.constants[key] = f"k{len(self.constants)}"
        return self.constants[key]

    def _row(self, outer: Box, boxes: list[Box]) -> list[str]:
        """What is done for each row (all there is, if there are none): loop after loop over its elements."""
        head, indent, loops = self._nest(outer, 0)
        lines: list[str] = []
        names = dict(self.scalars)
        anywhere: list[str | int] = [*loops, *[0] * (len(self.shape) - self.rows)]
        for k, inside in enumerate([*self.stages.inside, []]):
            first = (*outer, *[(0, 1)] * (len(self.shape) - self.rows))
            lines += self._computed(self.stages.between[k], first, anywhere, names, f"u{k}_")
            done = [n for n in inside if n.kind == REDUCE and self.region.is_per_row(n)]
            lines += [line for n in done for line in self._start(n)]
            for box in boxes if inside else ():
                start, deeper, within = self._nest(box, self.rows)
                body = self._computed(inside, (*outer, *box), [*loops, *within], dict(names), f"t{k}_")
                lines += start + [deeper + line for line in body]
            for node in done:
                lines += self._finish(node, anywhere, part=True)
                names[node] = self.registers[node]
        return head + [indent + line for line in lines]

    def _nest(self, box: Box, first: int) -> tuple[list[str], str, list[str | int]]:
        """Loops over a box of axes from `first` on: their heads, the indentation inside, and what indexes each axis."""
        lines, indent = [], ""
        loops: list[str | int] = []
        for axis, (a, b) in enumerate(box, first):
            divided = axis == self.axis
            if b - a == 1:
                loops.append(a)
                lines += [f"{indent}if lo <= {a} < hi:"] if divided else []
            else:  # Numba's types are i1, i2, i4 and i8 in a kernel
                ends = f"max(lo, {a}), min(hi, {b})" if divided else f"{a}, {b}"
                lines.append(f"{indent}for j{axis} in range({ends}):")
                loops.append(f"j{axis}")
            indent += "    " if divided or b - a > 1 else ""
        return lines, indent, loops

    def _computed(
        self, nodes: list[Node], box: Box, loops: list[str | int], names: dict[Node, str], prefix: str
    ) -> list[str]:
        """The statements that compute nodes at one index of a box; `names` says what is known, and is added to."""
        loaded: dict[str, str] = {}
        body: list[str] = []

        def read(node: Node) -> str:
            node = self.spread.get(node, node)
            if node not in names:
                text = self._load(node, box, loops)
                if text not in loaded:
                    loaded[text] = f"{prefix}{len(loaded)}"
                    body.append(f"{loaded[text]} = {text}")
                names[node] = loaded[text]
            return names[node]

        overwritten = {self.into[n] for n in nodes if n in self.into}
        for operand in self.reads:
            if storage(operand) in overwritten:
                read(operand)  # before it is
        for node in nodes:
            values = [read(a) for a in node.args]
            if node.kind == MAP:
                names[node] = name = f"v{self.region.nodes.index(node)}"
                body += self._formula(node, values, name)
                for access in (self.writes.get(node), self.kept.get(node)):
                    if access is not None:
                        body.append(self._store(node, name, access.spans[0], loops))
            elif node in self.registers:
                body += self._accumulated(node, values[0])
            else:
                (span,) = self.writes[node].spans
                before = f"load_{letter(node.dtype)}(p{span.operand}, {element(span, loops)}, {span.operand}, #)"
                body.append(self._store(node, combined(node, before, values[0]), span, loops))
        return body

    def _accumulated(self, node: Node, value: str) -> list[str]:
        """One more element of a reduction in a variable. NaN is watched for apart, so that the loop vectorises."""
        name, k = self.registers[node], self.writes[node].spans[0].operand
        if not watches_nan(node):
            return [f"{name} = {combined(node, name, value)}"]
        larger = "larger" if node.data[0] == "max" else "smaller"
        return [f"nan{k} = or_nan(nan{k}, {value})", f"{name} = {larger}({name}, {value})"]

    def _load(self, node: Node, box: Box, loops: list[str | int]) -> str:
        access = next(found[node] for found in (self.reads, self.kept, self.writes) if node in found)
        char = letter(node.dtype)
        zero = self._constant(char, 0.0)
        if access.tables:
            at = element(access.spans[0], loops)
            text = zero
            for table, k in access.tables:
                index = f"load_l(p{table}, {at}, {table}, #)"
                text = f"select({index} >= 0, load_{char}(p{k}, max({index}, 0), {k}, #), {text})"
            return text
        if access.positions is not None:
            source, positions = access.spans
            k, kind, how = positions.operand, letter(node.args[1].dtype), access.positions
            position = within(f"i8(load_{kind}(p{k}, {element(positions, loops)}, {k}, #))", how.length)
            at = f"{element(source, loops)} + {how.step} * {position}"
            return f"load_{char}(p{source.operand}, {at}, {source.operand}, #)"
        text = zero
        for s in access.spans:
            if s.operand < 0 or not s.meets(box):
                continue
            load = f"load_{char}(p{s.operand}, {element(s, loops)}, {s.operand}, #)"
            if s.covers(box):
                return load
            text = f"({load} if {_inside(s, box, loops)} else {text})"
        return text

    def _store(self, node: Node, value: str, span: Span, loops: list[str | int]) -> str:
        return f"store_{letter(node.dtype)}(p{span.operand}, {element(span, loops)}, {value}, {span.operand}, #)"

    def _formula(self, node: Node, values: Sequence[str], name: str) -> list[str]:
        formula: Formula = node.data
        char, out = letter(formula.at), letter(node.dtype)
        names: dict[str, str] = {}
        for k, (a, value) in enumerate(zip(node.args, values, strict=True)):
            same = letter(a.dtype) == char or is_condition(formula.body, f"a{k}", a)
            names[f"a{k}"] = value if same else converted(value, letter(a.dtype), char)
        text = expr.source(self._typed_numbers(formula.body, char, names), f"{name} = ", CODES[formula.at.kind])
        lines = [rename_temporaries(line, name) for line in text]
        result = "bool" if is_boolean(formula.body) else char
        if result != out or formula.at.kind in "iu":
            lines[-1] = f"{name} = {converted(lines[-1].removeprefix(f'{name} = '), result, out)}"
        return lines

    def _typed_numbers(self, node: expr.Node, char: str, names: dict[str, str]) -> expr.Node:
        if isinstance(node, expr.Num):
            return expr.Var(self._constant(char, node.value) if node.value == node.value else typed(char, node.value))
        if isinstance(node, expr.Var):
            return expr.Var(names[node.name])
        if node.fn == "reciprocal":
            node = expr.Call("/", (expr.Num(1.0), *node.args))
        return expr.Call(node.fn, tuple(self._typed_numbers(a, char, names) for a in node.args))


def _size(box: Box) -> int:
    return prod(high - low for low, high in box)


def _inside(span: Span, box: Box, loops: Sequence[str | int]) -> str:
    """Whether an index of a box is one that a span covers."""
    asked = []
    for low, (begin, end), high, i in zip(span.lower, box, span.upper, loops, strict=True):
        if low > begin or high < end:
            asked.append((f"{low} <= " if low > begin else "") + str(i) + (f" < {high}" if high < end else ""))
    return " and ".join(asked)


class Printed(NamedTuple):
    """A region's kernel: its source, its operands (nodes with memory, or tables of indices) and where each begins.

    That is an offset in bytes, for operands of which the kernel reads or writes a part only. A kernel that is called
    for `chunks` parts of a range of `extent`, and then once more, takes (a, o, lo, hi, chunk); others take (a, o).
    """

    source: str
    operands: list[Any]
    offsets: list[int]
    chunks: int
    extent: int


_printed: dict[Any, tuple[str, int, list[Any]]] = {}


def print_region(region: Region, plan: Plan, into: Mapping[Node, Node]) -> Printed:
    """The kernel of a region."""
    printer = Printer(region, plan, into)
    key = printer.prepare()
    if key not in _printed:
        source = printer.print()
        extent = 0 if printer.axis is None else printer.shape[printer.axis]
        # Formulas are told apart by their identity, so they stay alive with the key.
        _printed[key] = source, extent, [n.data for n in region.nodes]
    source, extent, _ = _printed[key]
    return Printed(source, printer.operands, printer.offsets, printer.chunks, extent)
