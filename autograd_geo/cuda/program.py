"""A plan of regions as launches on the device: what each reads and writes there, and memory for what lies between."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..compiler.nodes import CALL, CONST, INPUT, MAP, PRODUCT, SCAN, SCATTER, Node
from ..compiler.regions import Region, plan, storage
from . import fragments
from .array import DeviceArray
from .driver import Kernel, driver, kernel
from .matmul import Launch, plan_matmul
from .pool import Block, pool
from .region import print_region
from .steps import print_scan, print_scatter

_PRINTED = {SCAN: print_scan, SCATTER: print_scatter}


class DeviceProgram:
    """Computes `outputs` from `inputs`, nodes; run it with arrays on the device. It changes none of them."""

    def __init__(self, inputs: Sequence[Node], outputs: Sequence[Node]) -> None:
        self._device = driver()
        self._specs = [(n.shape, n.dtype) for n in outputs]
        found = plan(outputs, one_kind=True)
        self._inputs, self._outputs = list(inputs), found.outputs
        self._fixed: dict[int, Block] = {}  # constants and tables, once they are on the device
        #: What runs, the buffers that it is given, and where each begins; an op without kernels stands for itself.
        self._steps: list[tuple[Callable[..., None] | Node, list[Any], Sequence[int]]] = []
        #: The source of each kernel, in order.
        self.sources: list[str] = []
        for step in found.steps:
            if isinstance(step, Region):
                printed = print_region(step, found, self._device.threads, self._device.blocks)
                for source, blocks in printed.launches:
                    self._add(source, blocks, printed.operands, printed.offsets)
            elif step.kind == CALL:
                operands = [*map(storage, step.args), step]
                self._steps.append((step, operands, [0] * len(operands)))
            elif step.kind == PRODUCT:
                self._add_product(step)
            else:
                source, operands, size = _PRINTED[step.kind](step)
                blocks = max(1, min(self._device.blocks, -(-size // self._device.threads)))
                self._add(source, blocks, operands, [0] * len(operands))
        self._find_ends()

    def _add(self, source: str, blocks: int, operands: list[Any], offsets: Sequence[int]) -> None:
        self._steps.append((functools.partial(kernel(source, len(operands)), blocks), operands, offsets))
        self.sources.append(source)

    def _add_product(self, node: Node) -> None:
        """A product of matrices (batch, m, k) and (batch, k, n), each of which may lie transposed."""
        b, m, k, n, turned_a, turned_b = node.data
        a_strides = (m * k, 1, m) if turned_a else (m * k, k, 1)
        b_strides = (k * n, 1, k) if turned_b else (k * n, n, 1)
        device = self._device
        found = plan_matmul(
            b, m, n, k, node.dtype, a_strides, b_strides, device.arch, multiprocessors=device.multiprocessors
        )
        operands: list[Any] = [*map(storage, node.args), node]
        if found.workspace:
            operands.append(Node(MAP, (found.workspace,), np.dtype(np.uint8)))
        for each in found.launches:
            run = _matmul(each.source, len(each.arguments), each.threads, each.resident)
            self._steps.append((functools.partial(_launch, run, each), operands, [0] * len(operands)))
            self.sources.append(each.source)

    def _find_ends(self) -> None:
        """After which step each value is not needed any more."""
        kept = {id(n) for n in (*self._outputs, *self._inputs)}
        last: dict[int, int] = {}
        for k, (_, operands, _) in enumerate(self._steps):
            last |= {id(x): k for x in operands}
        self._ends: list[list[int]] = [[] for _ in self._steps]
        for key, k in last.items():
            if key not in kept:
                self._ends[k].append(key)

    def run(self, *arrays: DeviceArray) -> list[DeviceArray]:
        """The outputs, for inputs in order. Raises MemoryError; then nothing has changed."""
        blocks: dict[int, Any] = {id(n): x for n, x in zip(self._inputs, arrays, strict=True)}

        def memory(x: Any) -> Any:
            if id(x) in blocks:
                return blocks[id(x)]
            if isinstance(x, np.ndarray) or x.kind == CONST:
                if id(x) not in self._fixed:
                    self._fixed[id(x)] = upload(x if isinstance(x, np.ndarray) else x.data)
                return self._fixed[id(x)]
            assert x.kind != INPUT, "an input that was not given"
            block = blocks[id(x)] = pool().take(max(1, x.size * x.dtype.itemsize))
            return block

        for (what, operands, offsets), ends in zip(self._steps, self._ends, strict=True):
            if isinstance(what, Node):
                blocks[id(what)] = upload(
                    _called(what, [_array(memory(x), a) for x, a in zip(operands[:-1], what.args, strict=True)])
                )
            else:
                what(*[memory(x).address + o for x, o in zip(operands, offsets, strict=True)])
            for key in ends:
                blocks.pop(key, None)
        return [_array(memory(n), None, *spec) for n, spec in zip(self._outputs, self._specs, strict=True)]


@functools.cache
def _matmul(source: str, count: int, threads: int, resident: int) -> Kernel:
    return driver().load(source, count, threads, resident, fragments.namespace)


def _launch(run: Kernel, what: Launch, *addresses: int) -> None:
    names = ("a", "b", "d", "workspace")
    run(what.grid, what.shared, what.values(dict(zip(names, addresses, strict=False))))


def _array(found: Block | DeviceArray, like: Node | None, *spec: Any) -> DeviceArray:
    """The memory of a value as an array of a node's shape, or of the one that was asked for."""
    shape, dtype = (like.shape, like.dtype) if like is not None else spec
    return found.in_shape(shape, dtype) if isinstance(found, DeviceArray) else DeviceArray(found, shape, dtype)


def _called(node: Node, operands: Sequence[DeviceArray]) -> np.ndarray[Any, Any]:
    """An op without kernels, by NumPy on the host."""
    op, attrs = node.data
    values = [x.numpy() if x.shape else x.numpy()[()] for x in operands]
    return np.asarray(op.evaluate(values, attrs), node.dtype)


def upload(array: np.ndarray[Any, Any]) -> Block:
    """A copy on the device."""
    block = pool().take(max(1, array.nbytes))
    block.write(array)
    return block


__all__ = ["DeviceProgram", "upload"]
