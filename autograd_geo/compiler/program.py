"""A program of kernels: buffers laid out in one arena, and one loop that calls kernel after kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..tape import Entry
from ..value import Value, as_value
from . import blas
from .graph import CONST, INPUT, PRODUCT, SCAN, SCATTER, Graph, Node
from .kernels import Kernel, kernel
from .machine import address_of, run
from .moves import ZERO
from .printer import print_region, print_scan, print_scatter
from .regions import Plan, Region, plan, storage

_ALIGNED = 64


@dataclass(slots=True)
class Step:
    """One call of a kernel, or of an op in Python: the buffers that it uses."""

    what: Region | Node
    operands: list[Any]
    kernel: Kernel | None


class Program:
    """What a recorded function computes, as kernels over one arena. `run` may be called from one thread at a time."""

    def __init__(self, graph: Graph, outputs: Sequence[Entry]) -> None:
        self.graph = graph
        nodes = graph.lower(outputs)
        self.plan: Plan = plan(nodes)
        self.steps = [self._step(s) for s in self.plan.steps]
        self._shapes = [(n.shape, n.dtype) for n in nodes]
        self._lay_out()
        self._encode()

    # --- steps ----------------------------------------------------------------------------------------------------

    def _step(self, what: Region | Node) -> Step:
        if isinstance(what, Region):
            source, operands = print_region(what, self.plan.stored)
            return Step(what, operands, kernel(source))
        places = [storage(a) for a in what.args]
        if what.kind == PRODUCT:
            return Step(what, [*places, what, blas.parameters(what)], blas.product())
        if what.kind == SCAN:
            return Step(what, [*places, what], kernel(print_scan(what)))
        if what.kind == SCATTER:
            fixed = [np.where(what.data.table == ZERO, -1, what.data.table)] if len(places) == 1 else []
            return Step(what, [places[0], what, *places[1:], *fixed], kernel(print_scatter(what)))
        return Step(what, [*places, what], None)

    # --- memory -----------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        """Give each buffer a place: results of their own, everything between in an arena, reused when it is dead."""
        results = dict.fromkeys(self.plan.outputs)
        self.results = list(results)
        last: dict[Any, int] = {}
        for k, step in enumerate(self.steps):
            for x in step.operands:
                if isinstance(x, Node):
                    last[x] = k
        self.offset: dict[Node, int] = {}
        free: dict[int, list[int]] = {}
        end = 0
        dying: dict[int, list[Node]] = {}
        for node, k in last.items():
            dying.setdefault(k, []).append(node)
        for k, step in enumerate(self.steps):
            for x in step.operands:
                if isinstance(x, Node) and x not in self.offset and x not in results and x.kind not in (INPUT, CONST):
                    size = _room(x)
                    if free.get(size):
                        self.offset[x] = free[size].pop()
                    else:
                        self.offset[x] = end
                        end += size
            for x in dying.get(k, ()):
                if x in self.offset:
                    free.setdefault(-(-max(x.size * x.dtype.itemsize, 1) // _ALIGNED) * _ALIGNED, []).append(
                        self.offset[x]
                    )
        self._memory = np.empty(end + _ALIGNED, np.uint8)
        base = address_of(self._memory)
        self._base = base + (-base) % _ALIGNED
        self.arena_bytes = end

    def _encode(self) -> None:
        """The program as arrays that compiled code can run through."""
        number: dict[Any, int] = {}
        self._kept: list[Any] = []
        addresses: list[int] = []
        kernels: list[int] = []
        operands: list[int] = []
        starts: list[int] = []
        self._segments: list[tuple[int, int] | Step] = []
        first = 0

        def place(x: Any) -> int:
            key = x if isinstance(x, Node) else id(x)
            if key not in number:
                number[key] = len(addresses)
                if isinstance(x, Node) and x in self.offset:
                    addresses.append(self._base + self.offset[x])
                elif isinstance(x, np.ndarray) or x.kind == CONST:
                    array = np.ascontiguousarray(x if isinstance(x, np.ndarray) else x.data)
                    self._kept += [x, array]
                    addresses.append(address_of(array))
                else:
                    addresses.append(0)
            return number[key]

        for step in self.steps:
            if step.kernel is None:
                self._segments += [(first, len(kernels)), step]
                first = len(kernels)
                for x in step.operands:
                    place(x)
                continue
            kernels.append(step.kernel.address)
            starts.append(len(operands))
            operands += [place(x) for x in step.operands]
        self._segments.append((first, len(kernels)))
        self._numbers = number
        self.addresses = np.array(addresses or [0], np.int64)
        self.kernels = np.array(kernels, np.int64)
        self.operands = np.array(operands or [0], np.int32)
        self.starts = np.array(starts, np.int32)
        self._inputs = [
            (number[node], node.shape, node.dtype, self.graph.tracer.inputs[entry].get)
            for entry, node in self.graph.inputs.items()
            if node in number
        ]
        self._outputs = [(number[n], n.shape, n.dtype) for n in self.results]
        where = {n: k for k, n in enumerate(self.results)}
        self._which = [where[n] for n in self.plan.outputs]

    # --- running ----------------------------------------------------------------------------------------------------

    def run(self, leaves: Sequence[Any]) -> list[Value] | None:
        """The outputs for these arguments; None if an input's shape or dtype is not that of the recording."""
        addresses = self.addresses
        alive: list[Any] = []
        for k, shape, dtype, get in self._inputs:
            value = get(leaves)
            if type(value) is not np.ndarray:
                value = np.asarray(value, None if type(value) is float else dtype)
            if value.shape != shape or value.dtype != dtype:
                return None
            if not value.flags.c_contiguous or not value.flags.aligned:
                value = np.ascontiguousarray(value)
            alive.append(value)
            addresses[k] = address_of(value)
        results = []
        for k, shape, dtype in self._outputs:
            result = np.empty(shape, dtype)
            addresses[k] = address_of(result)
            results.append(result)
        known = {k: value for (k, *_), value in zip(self._inputs, alive, strict=True)}
        known |= {k: value for (k, *_), value in zip(self._outputs, results, strict=True)}
        for segment in self._segments:
            if isinstance(segment, tuple):
                run(addresses, self.kernels, self.operands, self.starts, *segment)
            else:
                self._call(segment, known)
        found = []
        for (shape, _), k in zip(self._shapes, self._which, strict=True):
            found.append(as_value(results[k].reshape(shape)))
        return found

    def _array(self, node: Node, known: dict[int, Any]) -> np.ndarray[Any, Any]:
        """The memory of a node as an array."""
        number = self._numbers[node]
        if number in known:
            return np.asarray(known[number])
        if node.kind == CONST:
            return np.asarray(node.data)
        start = self.offset[node] + self._base - address_of(self._memory)
        part = self._memory[start : start + node.size * node.dtype.itemsize]
        return part.view(node.dtype).reshape(node.shape)

    def _call(self, step: Step, known: dict[int, Any]) -> None:
        """An op that has no kernel: called back in Python."""
        node = step.what
        assert isinstance(node, Node)
        op, attrs = node.data
        values = []
        for a, place in zip(node.args, step.operands, strict=False):
            value = self._array(place, known).reshape(a.shape)
            values.append(np.float64(value) if not value.ndim and value.dtype == float else value)
        self._array(node, known)[...] = op.evaluate(values, attrs)


def _room(node: Node) -> int:
    """The bytes that a node takes in the arena."""
    return -(-max(node.size * node.dtype.itemsize, 1) // _ALIGNED) * _ALIGNED


__all__ = ["Program", "Step"]
