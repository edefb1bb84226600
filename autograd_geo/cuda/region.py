"""A region as the source of a kernel on the device: what the CPU's printer writes as loops is spread over threads.

Which indices threads share depends on the reductions. Without any, each thread takes elements of the whole space; whole
sums are combined over a block, and the blocks' parts by a second kernel. Where reductions keep axes, each block (or,
where there are many, each thread) takes one index of those and goes through the others. The order in which a sum adds
up depends on the shape alone, so it is the same in each run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..compiler.nodes import MAP, REDUCE, Node
from ..compiler.phrases import Box, Span, letter, typed, watches_nan
from ..compiler.printer import Printer
from ..compiler.regions import Plan, Region
from .stencil import tiles_of

#: With so many indices to keep, each has a thread of its own, else a block.
MANY = 4096


class Launch(NamedTuple):
    """A kernel's source, `def kernel(p0, p1, ...)`, how many blocks run it, and what is spread over all threads.

    That is a number of indices, or 0 where threads of a block work together.
    """

    source: str
    blocks: int
    spread: int


class Printed(NamedTuple):
    """What computes a region: kernels in order, all of the same operands."""

    launches: list[Launch]
    operands: list[Any]
    offsets: list[int]  # in bytes


class DevicePrinter(Printer):
    """Writes one region for blocks of `threads`, at most `most_blocks` of them."""

    def __init__(self, region: Region, plan: Plan, threads: int, most_blocks: int) -> None:
        super().__init__(region, plan, {})
        self.threads, self.most_blocks = threads, most_blocks
        self.sums = [n for n in region.nodes if n.kind == REDUCE]
        self.tiles: list[str] = []  # the declarations of shared memory, once a box is gone through by tiles
        self._in_tiles: dict[Node, str] = {}
        self.blocks = most_blocks

    def _divide(self) -> None:
        """Choose who shares what; whole sums have a part in each block, and rows that are kept belong to a block."""
        axes, stages = range(len(self.shape)), self.stages
        #: Whether a row is gone through again with what its reductions gave: then a block has it.
        self.staged = self.region.rows is not None and (len(stages.inside) > 1 or any(stages.between))
        kept = {a for n in self.sums for a in axes if self.writes[n].spans[0].strides[a] and self.shape[a] > 1}
        if self.staged:
            kept |= set(range(self.rows))
        outer = prod(self.shape[a] for a in kept) if kept or self.staged else prod(self.shape)
        self.by_block = self.staged or bool(kept and outer < MANY)
        self.blocks = max(1, min(self.most_blocks, outer if self.by_block else -(-outer // self.threads)))
        self.chunks = self.blocks
        rowwise = {n for n in self.sums if self.staged and self.region.is_per_row(n)}
        whole = [n for n in self.sums if n not in rowwise and not self._keeps_axes(n)]
        self.parts = {n: self.operand(Node(MAP, (self.blocks,), n.dtype), ("parts of", n)) for n in whole}
        self.over_threads = 0 if self.by_block or whole else outer

    def _keeps_axes(self, node: Node) -> bool:
        return any(s and n > 1 for s, n in zip(self.writes[node].spans[0].strides, self.shape, strict=True))

    # --- text -------------------------------------------------------------------------------------------------------

    def launches(self) -> list[Launch]:
        """The kernels; prepare first."""
        if not any(access.tables for access in self.reads.values()):
            self.simplify()
        axes = range(len(self.shape))
        kept = {a for n in self.sums for a in axes if self.writes[n].spans[0].strides[a]}
        if self.staged:
            kept |= set(range(self.rows))
        outer = [a for a in axes if a in kept] if kept or self.staged else list(axes)
        inner = [a for a in axes if a not in outer]
        self.registers = {n: f"r{self.writes[n].spans[0].operand}" for n in self.sums}
        whole = [n for n in self.sums if n in self.parts]
        text = [line for n in whole for line in self._start(n)]
        inside = [dict(zip(inner, box, strict=True)) for box in self.boxes(inner)]
        for box in self.boxes(outer):
            part = dict(zip(outer, box, strict=True))
            text += self._by_tiles(part) or self._part(part, inside)
        for node in whole:
            k = self.parts[node]
            text += self._combined(node)
            store = f"store_{letter(node.dtype)}(p{k}, cuda.blockIdx.x, {self.registers[node]}, {k}, #)"
            text += ["if cuda.threadIdx.x == 0:", "    " + store]
        spread = 0 if self.tiles else self.over_threads
        launches = [Launch(self._kernel([*self.tiles, *text]), self.blocks, spread)] if text else []
        if whole:
            launches.append(Launch(self._kernel([line for n in whole for line in self._of_parts(n)]), 1, 0))
        return launches

    def _kernel(self, text: Sequence[str]) -> str:
        names = ", ".join(f"p{k}" for k in range(len(self.operands)))
        head = [f"p{k} += cuda.blockIdx.x * {row}" for k, row in self._rows_per_chunk()]
        for a, name in self.scalars.items():
            k = int(name[1:])
            head.append(f"{name} = load_{letter(a.dtype)}(p{k}, 0, {k}, #)")
        head += [f"{name} = {typed(char, value)}" for (char, value), name in self.constants.items()]
        body = "\n".join("    " + line for line in [*dict.fromkeys(head), *text])
        source = f"def kernel({names}):\n{body}\n".replace("#", str(len(self.operands)))
        return source.replace("vm.", "vm_")

    def _of_parts(self, node: Node) -> list[str]:
        """One block combines the parts of all."""
        k = self.parts[node]
        load = f"load_{letter(node.dtype)}(p{k}, c, {k}, #)"
        lines = [*self._start(node), f"for c in range(cuda.threadIdx.x, {self.blocks}, {self.threads}):"]
        lines += ["    " + line for line in self._accumulated(node, load)]
        return [*lines, *self._combined(node), *self._at_end(node, [0] * len(self.shape))]

    def _part(self, outer: Mapping[int, tuple[int, int]], inside: Sequence[Mapping[int, tuple[int, int]]]) -> list[str]:
        """What is done for a box of the outer axes, and in it for boxes of the inner ones."""
        if any(low == high for low, high in outer.values()):
            return []
        inside = [box for box in inside if all(low < high for low, high in box.values())]
        names = dict(self.scalars)
        loops: dict[int, Any] = {}
        first = "cuda.blockIdx.x" if self.by_block else "cuda.grid(1)"
        step = "cuda.gridDim.x" if self.by_block else "cuda.gridsize(1)"
        text = self._loop("t", outer, first, step, loops)
        anywhere = [loops.get(a, 0) for a in range(len(self.shape))]
        of_index = [n for n in self.sums if n not in self.parts]
        lines: list[str] = []
        for k, nodes in enumerate([*self.stages.inside, []]):
            row = [outer.get(a, (0, 1)) for a in range(len(self.shape))]
            lines += self._once(self._computed(self.stages.between[k], row, anywhere, names, f"u{k}_"))
            done = [n for n in nodes if n in of_index]
            lines += [line for n in done for line in self._start(n)]
            for box in inside if nodes else ():
                within = dict(loops)
                head = []
                if box:
                    first, step = ("cuda.threadIdx.x", str(self.threads)) if self.by_block else ("0", "1")
                    head = self._loop("u", box, first, step, within)
                at = [within[a] for a in range(len(self.shape))]
                whole = [{**outer, **box}[a] for a in range(len(self.shape))]
                body = self._computed(nodes, whole, at, dict(names), f"t{k}_")
                lines += [*head, *_indented(body, bool(head))]
            for node in done:
                lines += [*(self._combined(node) if self.by_block else []), *self._at_end(node, anywhere)]
                names[node] = self.registers[node]
        return [*text, *_indented(lines)]

    def _by_tiles(self, box: Mapping[int, tuple[int, int]]) -> list[str]:
        """What is done for a box where elements read around themselves; nothing for other boxes."""
        if self.sums or self.staged or self.tiles:
            return []
        whole = list(box.values())
        spans = [(a, span) for a, access in self.reads.items() if (span := self._span_of(access, whole)) is not None]
        side = 32 if self.threads >= 32 else 4
        tiles = tiles_of(box, spans, side, self.threads)
        if tiles is None:
            return []
        self.tiles = tiles.declarations()
        loops: dict[int, Any] = {}
        last: dict[int, int] = {}
        for span in (span for access in self.reads.values() for span in access.spans):
            ends = zip(span.strides, span.lower, span.upper, strict=True)
            end = span.base + sum(stride * max(high - 1 - low, 0) for stride, low, high in ends)
            last[span.operand] = max(last.get(span.operand, 0), end)
        lines, first = tiles.loops(loops, last)
        self._in_tiles = tiles.reads()
        at = [loops[a] for a in range(len(self.shape))]
        (nodes,) = [nodes for nodes in self.stages.inside if nodes]
        body = self._computed(nodes, whole, at, dict(self.scalars), "t0_")
        self._in_tiles = {}
        return [*lines, *["            " + line for line in (*first, *body)]]

    def _span_of(self, access: Any, box: Box) -> Span | None:
        """The span through which a read goes in a box, if there is one."""
        if access.tables or access.positions is not None:
            return None
        return next((s for s in access.spans if s.covers(box)), None)

    def _load(self, node: Node, box: Box, loops: list[str | int]) -> str:
        return self._in_tiles.get(node) or super()._load(node, box, loops)

    def _once(self, lines: list[str]) -> list[str]:
        """What each thread of a block computes, and one stores: when all have read what was there."""
        stores = [line for line in lines if line.startswith("store_")]
        if not stores or not self.by_block:
            return lines
        rest = [line for line in lines if not line.startswith("store_")]
        return [*rest, "cuda.syncthreads()", "if cuda.threadIdx.x == 0:", *_indented(stores)]

    def _loop(
        self, name: str, box: Mapping[int, tuple[int, int]], first: str, step: str, loops: dict[int, Any]
    ) -> list[str]:
        """A loop over all indices of a box, with the index along each axis; fills in `loops`."""
        lengths = {a: high - low for a, (low, high) in box.items()}
        lines = [f"for {name} in range({first}, {prod(lengths.values())}, {step}):"]
        rest, wide = name, [a for a in lengths if lengths[a] > 1]
        for axis in lengths:
            if axis not in wide:
                loops[axis] = box[axis][0]
        for axis in reversed(wide):
            low, high = box[axis]
            index = rest if axis == wide[0] else f"{rest} % {high - low}"
            lines.append(f"    j{axis} = {index}" + (f" + {low}" if low else ""))
            if axis != wide[0]:
                lines.append(f"    {name}{axis} = {rest} // {high - low}")
                rest = f"{name}{axis}"
            loops[axis] = f"j{axis}"
        return lines

    def _combined(self, node: Node) -> list[str]:
        """A reduction over the threads of a block."""
        name, char = self.registers[node], letter(node.dtype)
        lines = []
        if watches_nan(node):
            nan = typed(char, np.nan)
            lines = [f"{name} = select(nan{self.writes[node].spans[0].operand}, {nan}, {name})"]
        return [*lines, f"{name} = block_{node.data[0]}_{char}({name})"]

    def _at_end(self, node: Node, loops: list[Any]) -> list[str]:
        """Store a reduction that is finished."""
        name, (span,) = self.registers[node], self.writes[node].spans
        store = self._store(node, name, span, loops)
        if self.by_block or node in self.parts:
            return ["if cuda.threadIdx.x == 0:", "    " + store]
        if watches_nan(node):
            nan = typed(letter(node.dtype), np.nan)
            return [f"{name} = select(nan{span.operand}, {nan}, {name})", store]
        return [store]


def _indented(lines: Sequence[str], deeper: bool = True) -> list[str]:
    return ["    " + line for line in lines] if deeper else list(lines)


_printed: dict[Any, tuple[list[Launch], list[Any]]] = {}


def print_region(region: Region, plan: Plan, threads: int, most_blocks: int) -> Printed:
    """The kernels of a region."""
    printer = DevicePrinter(region, plan, threads, most_blocks)
    key = *printer.prepare(), threads, most_blocks
    if key not in _printed:  # formulas are told apart by their identity, so they stay alive with the key
        _printed[key] = printer.launches(), [n.data for n in region.nodes]
    return Printed(_printed[key][0], printer.operands, printer.offsets)


__all__ = ["Launch", "Printed", "print_region"]
