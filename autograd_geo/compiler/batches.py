"""Many batches through one program: rows are gathered and kernels run without returning to Python between batches."""

from __future__ import annotations

import ctypes
import functools
import time
from collections.abc import Sequence
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
from numba import types

from ..tape import mode
from ..tensor import Tensor, wrap
from . import machine
from .function import Compiled, Recorded
from .machine import address_of
from .nodes import Node
from .writer import MISMATCH, Output

load_b, load_d, load_f, load_l = (machine.LOADS[f"load_{char}"] for char in "bdfl")
store_b, store_d, store_l = (machine.STORES[f"store_{char}"] for char in "bdl")

#: Native code returns to Python about this often, in seconds, so that Ctrl-C is noticed.
_PAUSE = 0.02
#: So many batches are run to find out how long one takes.
_TRIAL = 16
# What `_run_batches` is told, as 64-bit words; then, for each array, where it lies, the bytes of a row, and where the
# rows of a batch go; then, for each truth value that Python has read, where it is and what it was.
_PROGRAM, _CHECK, _ALL, _LOSS, _DOUBLE, _TOTAL, _ORDER, _SIZE, _COUNT, _READS, _ARRAYS = range(11)


def _loop(run: Any) -> Any:
    """What runs batches by `run`, which runs kernels."""

    def run_batches(words: int, many: int) -> int:
        """Run this many batches, adding loss times rows to the total; returns how many were run.

        It stops before a step whose loss is not finite, or that a value would lead elsewhere: that changes nothing.
        """
        program, check, end = load_l(words, _PROGRAM, 0, 1), load_l(words, _CHECK, 0, 1), load_l(words, _ALL, 0, 1)
        order, size, total = load_l(words, _ORDER, 0, 1), load_l(words, _SIZE, 0, 1), load_l(words, _TOTAL, 0, 1)
        at, double, count = load_l(words, _LOSS, 0, 1), load_l(words, _DOUBLE, 0, 1), load_l(words, _COUNT, 0, 1)
        for batch in range(many):
            for k in range(count):
                source, length = load_l(words, _ARRAYS + 3 * k, 0, 1), load_l(words, _ARRAYS + 3 * k + 1, 0, 1)
                target = load_l(words, _ARRAYS + 3 * k + 2, 0, 1)
                for row in range(size):
                    here = source + load_l(order, batch * size + row, 0, 1) * length
                    for i in range(length // 8):
                        store_l(target, i, load_l(here, i, 0, 2), 1, 2)
                    for i in range(length // 8 * 8, length):
                        store_b(target, i, load_b(here, i, 0, 2), 1, 2)
                    target += length
            run(program, 0, check)
            reads = words + 8 * (_ARRAYS + 3 * count)
            for k in range(load_l(words, _READS, 0, 1)):
                if load_b(load_l(reads, 2 * k, 0, 1), 0, 0, 1) != load_l(reads, 2 * k + 1, 0, 1):
                    return batch
            loss = load_d(at, 0, 0, 1) if double else float(load_f(at, 0, 0, 1))
            if not isfinite(loss):
                return batch
            run(program, check, end)
            store_d(total, 0, load_d(total, 0, 0, 1) + loss * size, 0, 1)
        return many

    return run_batches


@functools.cache
def _native(in_threads: bool) -> Any:
    run = machine.run_in_threads() if in_threads else machine.run
    return machine.compiled(types.int64(types.int64, types.int64), _loop(run))


class Done(NamedTuple):
    """How many batches were run, the sum of losses times rows, and the next loss if that is not finite."""

    batches: int
    total: float = 0.0
    loss: float | None = None


class Batches:
    """Runs a compiled step, `step(*rows)` with a tensor of rows of each array, on batch after batch of `size` rows.

    The step returns its loss, one number. Recordings that call Python back, draw random numbers, or read more of
    values than whether they are true are not run here.
    """

    def __init__(self, step: Compiled[..., Tensor], arrays: Sequence[np.ndarray[Any, Any]], size: int) -> None:
        self._step, self._arrays, self._size = step, [np.ascontiguousarray(a) for a in arrays], size
        self._rows = [wrap(np.empty((size, *a.shape[1:]), a.dtype)) for a in self._arrays]
        self._total = np.zeros(1)
        self._seconds = 0.0  # that a batch takes

    def run(self, order: np.ndarray[Any, np.dtype[np.int64]]) -> Done:
        """Run batches of the rows in this order: all full ones, or those until it is time to look for Ctrl-C.

        It stops at a loss that is not finite; that step has changed nothing. No batch is run if no recording fits, or
        a value leads the first batch elsewhere: the step is to be called then.
        """
        recorded = self._recorded()
        if recorded is None:
            return Done(0)
        many = min(len(order) // self._size, max(1, int(_PAUSE / self._seconds)) if self._seconds else _TRIAL)
        loss = recorded.program.plan.outputs[recorded.outline.result]
        words = self._words(recorded, loss, order)
        self._total[0], done = 0.0, 0

        native = _native(recorded.program.divided and machine.has_threads())

        def execute() -> None:
            nonlocal done
            done = native(address_of(words), many)

        start = time.perf_counter()
        if recorded.call(mode(), tuple(self._rows), {}, execute, lambda: done > 0) is MISMATCH:
            return Done(0)
        total = float(self._total[0])
        if done < many:
            kind = ctypes.c_double if loss.dtype == np.float64 else ctypes.c_float
            number = kind.from_address(int(words[_LOSS])).value
            return Done(done, total, None if isfinite(number) else number)
        self._seconds = (time.perf_counter() - start) / done
        return Done(done, total)

    @property
    def fits(self) -> bool:
        """Whether there is a recording that can be run."""
        return self._recorded() is not None

    def _recorded(self) -> Recorded | None:
        return next((r for r in self._step.recorded if self._is_for(r)), None)

    def _is_for(self, recorded: Recorded) -> bool:
        """Whether a recording is for these batches, and needs Python at its beginning and end only."""
        if recorded.is_on_device:
            return False
        program, outline = recorded.program, recorded.outline
        given = [(x.shape, x.dtype) if isinstance(x, Tensor) else None for x in outline.args]
        if given != [(r.shape, r.dtype) for r in self._rows] or type(outline.result) is not Output:
            return False
        if program.calls_back or any(i.generator is not None for i in outline.inputs):
            return False
        if any(read.convert is not bool or program.specs[k] != ((), np.dtype(bool)) for read, k in outline.reads):
            return False
        loss = program.plan.outputs[outline.result]
        return loss.size == 1 and program.ready.get(loss, program.all) <= program.unchanged

    def _words(self, recorded: Recorded, loss: Node, order: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        program = recorded.program
        check = max(program.ready[loss], program.looked)
        words = [program.address, check, program.all, int(program.addresses[program.slot(loss)])]
        words += [loss.dtype == np.float64, address_of(self._total), address_of(order), self._size, len(self._arrays)]
        words.append(len(recorded.outline.reads))
        for array, rows in zip(self._arrays, self._rows, strict=True):
            words += [address_of(array), array[:1].nbytes, address_of(rows._value)]
        for read, k in recorded.outline.reads:
            words += [int(program.addresses[program.slot(program.plan.outputs[k])]), read.expected]
        return np.array(words, np.int64)


__all__ = ["Batches", "Done"]
