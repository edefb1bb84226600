"""A region as the source of a Numba kernel: loops over boxes of its index space, in which every access is affine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .. import expr
from .accesses import Accesses
from .nodes import MAP, REDUCE, Formula, Node
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


class Printer(Accesses):
    """Writes one region of a plan; the nodes in `into` are written into another's buffer."""

    def __init__(self, region: Region, plan: Plan, into: Mapping[Node, Node]) -> None:
        super().__init__(region, plan, into)
        self.constants: dict[tuple[str, float], str] = {}

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
        for outer in self.boxes(axes[: self.rows]):
            text += self._row(outer, self.boxes(axes[self.rows :]))
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
