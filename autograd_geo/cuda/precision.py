"""How float32 matrices are multiplied on the GPU: a setting of each thread or task, and what it was for each op."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

from .. import tape

#: The products along k of one instruction. On tensor cores, operands are rounded to the 10 bits of TF32 or the 7 of
#: bfloat16, and sums are float32; `tf32x3` adds the products with what that rounding left.
PRECISIONS = {"float32": 1, "tf32x3": 8, "tf32": 8, "bf16": 16}
_precision: ContextVar[str] = ContextVar("autograd_geo.matmul_precision", default="float32")
#: The setting of this thread or task.
current = _precision.get
#: What was set while a tracer recorded: each setting, from which number of entries on.
_settings: WeakKeyDictionary[Any, list[tuple[int, str]]] = WeakKeyDictionary()


class matmul_precision:
    """How products of float32 matrices are computed on the GPU, from now on or in a `with` block.

    "float32" (the default) is exact to the rounding of float32. On tensor cores, "tf32" rounds operands to 10 bits
    after the leading one and "bf16" to 7; both add up in float32. "tf32x3" adds the products with what that rounding
    left: nearly as exact as float32. It holds where a product is computed, those of gradients too, in this thread or
    task only; a compiled function is recorded anew for another one. Products of float64, and small ones that are
    loops, are not affected.

    Raises ValueError for another name.
    """

    def __init__(self, name: str) -> None:
        if name not in PRECISIONS:
            raise ValueError(f"matmul_precision: {name!r} is not known; known are {', '.join(PRECISIONS)}")
        self.name, self._before = name, current()
        _set(name)

    def __enter__(self) -> None:
        _set(self.name)

    def __exit__(self, *exc: object) -> None:
        _set(self._before)

    def __repr__(self) -> str:
        return f"matmul_precision({self.name!r})"


def _set(name: str) -> None:
    tracer = tape.tracer()
    if tracer is not None:
        _settings.setdefault(tracer, [(0, current())]).append((tape.next_number(), name))
    _precision.set(name)


def when_recorded(tracer: Any) -> Callable[[Any], str]:
    """The precision of an entry of a recording, or, for None, that in which the recording began."""
    settings = _settings.get(tracer, [(0, current())])

    def of(entry: Any) -> str:
        number = 0 if entry is None else entry.number
        return next(name for since, name in reversed(settings) if since <= number)

    return of


__all__ = ["PRECISIONS", "current", "matmul_precision", "when_recorded"]
