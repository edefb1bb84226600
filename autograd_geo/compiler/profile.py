"""How long the steps of a program take.

They run on memory of their own, with what the inputs are now: nothing is put back anywhere, and the program may run at
the same time. Ops without a kernel are called, as each run of the program calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, groupby, zip_longest
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from .machine import address_of, program_table, runner
from .nodes import CONST, INPUT, Node
from .places import Scope, named
from .program import Program, Step
from .records import Input
from .writer import GONE, Outline

#: A step is repeated until that takes so many seconds, or its share of the budget; the best of some rounds counts.
_ENOUGH, _BUDGET, _ROUNDS = 20e-6, 0.2, 3
#: What takes so many seconds is not repeated.
_LONG = 0.2


class Times(NamedTuple):
    """Seconds: of each step when it is repeated, so that small operands stay in the cache; and of all in order."""

    steps: list[float]
    whole: float


def measure(program: Program, outline: Outline) -> Times:
    """Run the steps of a program, each several times."""
    memory = _Memory(program, outline)
    dispatch = _best(memory.runner([]))
    enough = min(_ENOUGH, _BUDGET / max(1, len(program.steps)))
    steps = []
    for step in program.steps:
        once = _seconds(memory.runner([step]))
        if once < _LONG:
            count = max(1, round(enough / max(once - dispatch, 1e-8))) if step.kernel is not None else 1
            once = min(once, dispatch + max(0.0, _best(memory.runner([step] * count)) - dispatch) / count)
        steps.append(max(0.0, once - dispatch))
    rounds = min(10 * _ROUNDS, 1 + round(_BUDGET / max(sum(steps), 1e-6)))
    return Times(steps, _best(memory.runner(program.steps), rounds))


def _seconds(runner: Callable[[], None]) -> float:
    start = perf_counter()
    runner()
    return perf_counter() - start


def _best(runner: Callable[[], None], rounds: int = _ROUNDS) -> float:
    return min(_seconds(runner) for _ in range(rounds))


class _Memory:
    """The operands of a program's steps, at addresses of their own."""

    def __init__(self, program: Program, outline: Outline) -> None:
        self._program = program
        self._arena = np.empty(program.arena_bytes + 64, np.uint8)
        self._start = -address_of(self._arena) % 64
        self._inputs = _Inputs(outline)
        self._arrays: dict[Any, np.ndarray[Any, Any]] = {}
        for step in program.steps:
            for x in step.operands:
                key = self._key(x)
                if key not in self._arrays:
                    self._arrays[key] = self._placed(key) if isinstance(key, Node) else x.copy()
        self._numbers: dict[Any, int] = {}
        addresses: list[int] = []
        for step in program.steps:
            for x, offset in zip_longest(step.operands, step.offsets, fillvalue=0):
                place = self._key(x), offset
                if place not in self._numbers:
                    self._numbers[place] = len(addresses)
                    addresses.append(address_of(self._arrays[place[0]]) + offset)
        self._addresses = np.array(addresses or [0], np.int64)

    def _key(self, operand: Any) -> Any:
        """What stands for the memory of an operand: an input for what is written in its place."""
        return self._program.into.get(operand, operand) if isinstance(operand, Node) else id(operand)

    def _placed(self, node: Node) -> np.ndarray[Any, Any]:
        if node.kind == CONST:
            return np.array(node.data, node.dtype, order="C")
        if node.kind == INPUT:
            return self._inputs.array(node, self._program.inputs[node])
        offset = self._program.offset(node)
        if offset is None:
            return np.empty(node.shape, node.dtype)
        start = self._start + offset
        return self._arena[start : start + node.size * node.dtype.itemsize].view(node.dtype).reshape(node.shape)

    def runner(self, steps: Sequence[Step]) -> Callable[[], None]:
        """What runs these steps in order."""
        parts: list[Callable[[], None]] = []
        for compiled, group in groupby(steps, lambda step: step.kernel is not None):
            alike = list(group)
            parts += [self._kernels(alike)] if compiled else [partial(self._call, step) for step in alike]

        def run_all() -> None:
            for part in parts:
                part()

        return run_all if steps else self._kernels([])

    def _kernels(self, steps: Sequence[Step]) -> Callable[[], None]:
        operands = [
            [self._numbers[self._key(x), o] for x, o in zip_longest(step.operands, step.offsets, fillvalue=0)]
            for step in steps
        ]
        kernels = [step.kernel.address for step in steps if step.kernel is not None]
        starts = [0, *accumulate(map(len, operands))]
        divided = [n for step in steps for n in (step.chunks, step.extent)]
        table = program_table(self._addresses, kernels, [k for numbers in operands for k in numbers], starts, divided)
        run = runner(any(divided))
        return lambda: run(address_of(table[-1]), 0, len(kernels))

    def _call(self, step: Step) -> None:
        node = step.what
        assert isinstance(node, Node)
        op, attrs = node.data
        places = [self._arrays[self._key(x)] for x in step.operands]
        values = [place.reshape(a.shape) for a, place in zip(node.args, places, strict=False)]
        places[-1].reshape(node.shape)[...] = op.evaluate([v.copy() if v.shape else v[()] for v in values], attrs)


class _Inputs:
    """What inputs are now; where one is gone, or has become something else, ones of its shape."""

    def __init__(self, outline: Outline) -> None:
        self._leaves = named(outline.args, outline.kwargs)

    def array(self, node: Node, given: Input) -> np.ndarray[Any, Any]:
        """A copy for a node; random numbers are drawn, but will be drawn again."""
        mark = None if given.generator is None else given.generator.mark()
        scope = Scope()
        try:
            value = np.asarray(eval(given.place.text(scope.bind), {**self._leaves, **scope.names}))
        except GONE:
            value = np.empty(0)
        finally:
            if given.generator is not None and mark is not None:
                given.generator.rewind(mark)
        return np.array(value if value.shape == node.shape else np.ones(node.shape), node.dtype, order="C")
