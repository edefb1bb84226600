"""A plan of regions as launches on the device: what each reads and writes there, and memory for what lies between."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..compiler.nodes import CALL, INPUT, MAP, SCAN, SCATTER, Node
from ..compiler.regions import Plan, Region, plan, storage
from . import fragments
from .arena import laid_out
from .array import DeviceArray
from .driver import Kernel, driver, kernel
from .epilogues import Product, with_epilogues
from .gathers import read_in_place
from .matmul import OUTPUTS, Launch, plan_matmul
from .pool import Block, pool
from .precision import current
from .region import print_region
from .replay import Replays
from .steps import print_scan, print_scatter
from .together import Work, is_given, joined
from .transposed import scatter_by_products

_PRINTED = {SCAN: print_scan, SCATTER: print_scatter}


class DeviceProgram:
    """Computes `outputs` from `inputs`, nodes; run it with arrays on the device. It changes none of them.

    What lies between is in one block of memory, which runs take anew: any number of threads may run it. If `replayed`,
    launches that come at the same addresses again are captured, and then launched as one. `precision` gives that of a
    product of float32 for its node's entry on the tape.
    """

    def __init__(
        self, inputs: Sequence[Node], outputs: Sequence[Node], replayed: bool = False,
        precision: Callable[[Any], str] = lambda _: current(),
    ) -> None:  # fmt: skip
        self._device = device = driver()
        self._specs = [(n.shape, n.dtype) for n in outputs]
        self._precision = precision
        self.depends_on_precision = False
        found = plan(outputs, of_one_piece=True)
        self._in_place = read_in_place(found)
        scatter_by_products(found, self._in_place)
        works: list[Work] = []
        for step in with_epilogues(found, self._in_place):
            if isinstance(step, Region):
                works += self._region(step, found)
            elif isinstance(step, Product):
                works += self._product(step)
            elif step.kind == CALL:
                operands = [*map(storage, step.args), step]
                works.append(Work(operands, [0] * len(operands), run=step))
            else:
                source, operands, size = _PRINTED[step.kind](step)
                blocks = max(1, min(device.blocks, -(-size // device.threads)))
                works.append(Work(operands, [0] * len(operands), source, blocks, size))
        works = joined(works, device.threads, device.blocks)
        #: The source of each kernel, in order.
        self.sources = [work.source for work in works if work.source]
        self._place(inputs, works, found.outputs)
        calls_back = any(isinstance(work.run, Node) for work in works)
        self._replays = Replays() if replayed and len(works) > 1 and not calls_back else None

    def _region(self, region: Region, found: Plan) -> list[Work]:
        printed = print_region(region, found, self._device.threads, self._device.blocks)
        return [Work(printed.operands, printed.offsets, *launch) for launch in printed.launches]

    def _product(self, product: Product) -> list[Work]:
        """A product of matrices (batch, m, k) and (batch, k, n), each of which may lie transposed."""
        node = product.node
        b, m, k, n, turned_a, turned_b = node.data
        layouts: list[Any] = [
            (m * k, 1, m) if turned_a else (m * k, k, 1),
            (k * n, 1, k) if turned_b else (k * n, n, 1),
        ]
        buffers: dict[str, Any] = {}
        for number, (name, x) in enumerate(zip("ab", node.args, strict=True)):
            buffers[name], operand = storage(x), self._in_place.get((node, number))
            if operand is not None:
                buffers |= {name: operand.source, f"{name}_table": operand.gather.table()}
                layouts[number] = operand.gather.form(node.dtype)
        device, precision = self._device, "float32"
        (_, epilogue), *others = product.stored
        if node.dtype == np.float32:
            precision, self.depends_on_precision = self._precision(node.entry), True
        found = plan_matmul(
            b, m, n, k, node.dtype, layouts[0], layouts[1], device.arch, epilogue=epilogue,
            also=tuple(term for _, term in others), precision=precision, multiprocessors=device.multiprocessors,
        )  # fmt: skip
        buffers |= {name: out for name, (out, _) in zip(OUTPUTS, product.stored, strict=False)}
        buffers |= {"c": product.addend, "bias": product.bias}
        if found.workspace:
            buffers["workspace"] = Node(MAP, (found.workspace,), np.dtype(np.uint8))
        works = []
        for each in found.launches:
            run = _matmul(each.source, len(each.arguments), each.threads, each.resident)
            names = [name for name in buffers if name in each.arguments]
            operands = [buffers[name] for name in names]
            launch = functools.partial(_launch, run, each, names)
            works.append(Work(operands, [0] * len(operands), each.source, run=launch))
        return works

    def _place(self, inputs: Sequence[Node], works: Sequence[Work], outputs: Sequence[Node]) -> None:
        """Say where each operand lies: in which of the blocks of memory of a run, and where in it."""
        places = {id(n): (k, 0) for k, n in enumerate(inputs)}
        self._constants: list[np.ndarray[Any, Any]] = []
        for x in (x for operands in (*(work.operands for work in works), outputs) for x in operands):
            if id(x) not in places and is_given(x):
                assert not (isinstance(x, Node) and x.kind == INPUT), "an input that was not given"
                places[id(x)] = (len(places), 0)
                self._constants.append(x.data if isinstance(x, Node) else x)
        first, own = len(places), {id(n): n for n in outputs if id(n) not in places}
        places |= {key: (first + k, 0) for k, key in enumerate(own)}
        #: The bytes of memory that a run takes: for outputs, and for all that is between.
        self._rooms = [max(1, n.size * n.dtype.itemsize) for n in own.values()]
        between, size = laid_out(works, places.keys())
        places |= {key: (first + len(own), offset) for key, offset in between.items()}
        self._rooms += [size] if size else []
        self._steps: list[tuple[Callable[..., None] | Node, int, list[tuple[int, int]]]] = []
        for work in works:
            run = kernel(work.source, len(work.operands)) if work.run is None else work.run
            at = [places[id(x)] for x in work.operands]
            spots = [(k, offset + further) for (k, offset), further in zip(at, work.offsets, strict=True)]
            self._steps.append((run, work.blocks, spots))
        self._found = [places[id(n)][0] for n in outputs]

    @functools.cached_property
    def _fixed(self) -> list[DeviceArray]:
        """Constants and tables, once they are on the device."""
        return [DeviceArray(upload(x), x.shape, x.dtype) for x in self._constants]

    def run(self, *arrays: DeviceArray) -> list[DeviceArray]:
        """The outputs, for inputs in order. Raises MemoryError; then nothing has changed."""
        blocks: list[Any] = [*arrays, *self._fixed, *[pool().take(size) for size in self._rooms]]
        bases = tuple([b.address for b in blocks])
        if self._replays is not None:
            self._replays.run(bases, functools.partial(self._launch, bases))
        else:
            self._launch(bases)
        return [_array(blocks[k], *spec) for k, spec in zip(self._found, self._specs, strict=True)]

    def _launch(self, bases: Sequence[int]) -> None:
        for what, blocks, spots in self._steps:
            addresses = [bases[k] + offset for k, offset in spots]
            if isinstance(what, Node):
                self._call(what, addresses)
            elif blocks:
                what(blocks, *addresses)
            else:
                what(*addresses)

    def _call(self, node: Node, addresses: Sequence[int]) -> None:
        """An op without kernels, by NumPy on the host."""
        op, attrs = node.data
        values = [np.empty(a.shape, a.dtype) for a in node.args]
        for x, address in zip(values, addresses, strict=False):
            self._device.read(address, x)
        found = np.asarray(op.evaluate([x if x.shape else x[()] for x in values], attrs), node.dtype)
        self._device.write(addresses[-1], np.ascontiguousarray(found))


@functools.cache
def _matmul(source: str, count: int, threads: int, resident: int) -> Kernel:
    return driver().load(source, count, threads, resident, fragments.namespace)


def _launch(run: Kernel, what: Launch, names: Sequence[str], *addresses: int) -> None:
    run(what.grid, what.shared, what.values(dict(zip(names, addresses, strict=True))))


def _array(found: Block | DeviceArray, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
    """The memory of a value as an array of this shape."""
    return found.in_shape(shape, dtype) if isinstance(found, DeviceArray) else DeviceArray(found, shape, dtype)


def upload(array: np.ndarray[Any, Any]) -> Block:
    """A copy on the device."""
    block = pool().take(max(1, array.nbytes))
    block.write(array)
    return block


__all__ = ["DeviceProgram", "upload"]
