"""A plan of regions as launches on the device: what each reads and writes there, and memory for what lies between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..compiler.nodes import CALL, CONST, INPUT, PRODUCT, SCAN, SCATTER, Node
from ..compiler.regions import Region, plan, storage
from .array import DeviceArray
from .driver import driver
from .launch import launcher
from .pool import Block, pool
from .region import print_region
from .steps import print_product, print_scan, print_scatter


class DeviceProgram:
    """Computes `outputs` from `inputs`, nodes; run it with arrays on the device. It changes none of them."""

    def __init__(self, inputs: Sequence[Node], outputs: Sequence[Node]) -> None:
        self._device = driver()
        self._specs = [(n.shape, n.dtype) for n in outputs]
        found = plan(outputs, one_kind=True)
        self._inputs, self._outputs = list(inputs), found.outputs
        self._fixed: dict[Any, Block] = {}  # constants and tables, once they are on the device
        self._launches: list[tuple[Callable[..., None], list[Any], list[int]]] = []
        for step in found.steps:
            if isinstance(step, Region):
                printed = print_region(step, found, self._device.threads, self._device.blocks)
                for source, blocks in printed.launches:
                    self._launches.append((launcher(source, blocks), printed.operands, printed.offsets))
                continue
            if step.kind == CALL:
                raise NotImplementedError(step.data[0].name)
            source, operands, size = {PRODUCT: print_product, SCAN: print_scan, SCATTER: print_scatter}[step.kind](step)
            blocks = max(1, min(self._device.blocks, -(-size // self._device.threads)))
            self._launches.append((launcher(source, blocks), operands, [0] * len(operands)))
        self._find_ends()

    def _find_ends(self) -> None:
        """After which launch each value is not needed any more."""
        kept = {id(n) for n in (*self._outputs, *self._inputs)}
        last: dict[int, int] = {}
        for k, (_, operands, _) in enumerate(self._launches):
            last |= {id(x): k for x in operands}
        self._ends: list[list[int]] = [[] for _ in self._launches]
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

        for (launch, operands, offsets), ends in zip(self._launches, self._ends, strict=True):
            launch(*[memory(x).address + o for x, o in zip(operands, offsets, strict=True)])
            for key in ends:
                blocks.pop(key, None)
        return [_array(memory(n), *spec) for n, spec in zip(self._outputs, self._specs, strict=True)]


def _array(found: Block | DeviceArray, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
    """The memory of an output as an array of the shape that was asked for."""
    return DeviceArray(found._block if isinstance(found, DeviceArray) else found, shape, dtype)


def upload(array: np.ndarray[Any, Any]) -> Block:
    """A copy on the device."""
    block = pool().take(max(1, array.nbytes))
    block.write(array)
    return block


__all__ = ["DeviceProgram", "storage", "upload"]
