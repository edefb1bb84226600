"""What a program's inputs and updates lie in outside: arrays of tensors and optimisers, found again in each call.

Weak references say whether an array is the one of the last call, whose address is known, and keep nothing alive. What
a program writes in place must be seen by nobody else: where a tape, a view or a second tensor holds the array too,
its owner gets a copy first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from sys import getrefcount
from typing import Any
from weakref import ref

import numpy as np

from ..cuda.array import DeviceArray
from ..tape import Entry
from ..tensor import Tensor, wrap
from ..value import SCALAR, UNSHARED, Spec
from .machine import address_of

Array = np.ndarray[Any, Any]


def _nothing() -> Any:
    """Stands for a weak reference to nothing that there is."""
    return _nothing


class Memory:
    """The arrays at a program's addresses, by slot; `specs` are their shapes and dtypes.

    Slots that are `further` on in a buffer, by so many bytes, are set with it.

    `names` gets weak references to those of the last call, `array5` for slot 5, and `tensor5` for the tensor that
    holds it, where that is a gradient.
    """

    def __init__(
        self, addresses: Array, further: Mapping[int, Sequence[tuple[int, int]]], specs: Mapping[int, Spec],
        names: dict[str, Any],
    ) -> None:  # fmt: skip
        self._addresses, self._specs, self._names = addresses, specs, names
        self._further = {slot: tuple(np.array(places).T) for slot, places in further.items()}
        for slot in specs:
            names[f"array{slot}"] = names[f"tensor{slot}"] = _nothing

    def put(self, slot: int, x: Any, private: bool = True) -> Array | None:
        """Let the program use an array; the one to keep alive while it runs, None if it has another shape or dtype.

        A `private` array is a tensor's or an optimiser's: nobody gives it another shape in place.
        """
        shape, dtype = self._specs[slot]
        if type(x) is DeviceArray:
            return None
        array: Array = np.asarray(x)
        if array.shape != shape or array.dtype.newbyteorder("=") != dtype:
            return None
        usable = array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative
        if not usable:
            array = np.array(array, dtype, order="C")
        self.place(slot, array)
        self._names[f"array{slot}"] = ref(array) if private and usable else _nothing
        return array

    def place(self, slot: int, array: Array) -> None:
        """Set the address of a buffer, and those of places further on in it."""
        address = self._addresses[slot] = address_of(array)
        if slot in self._further:
            slots, offsets = self._further[slot]
            self._addresses[slots] = address + offsets

    def own_value(self, slot: int, t: Tensor) -> Array | None:
        """The array of a tensor that the program may write into: its own, or a copy that it gets."""
        value, entry = t._value, t._entry
        if type(value) is not np.ndarray or (value.shape, value.dtype) != self._specs[slot]:
            return None
        holders = 2 + (entry is not None)  # the caller's variable, the tensor, its leaf
        alone = getrefcount(value) <= UNSHARED + holders and (
            entry is None or (entry.op is None and getrefcount(entry) <= UNSHARED + 2)
        )
        if not (alone and _is_plain(value)):
            value = np.array(value, order="C")
            t.hold(value)
        return self.put(slot, value)

    def own_slot(self, slot: int, state: dict[str, Any], name: str) -> Array | None:
        """The array of an optimiser's state that the program may write into."""
        value = state[name]
        if type(value) is not np.ndarray or (value.shape, value.dtype) != self._specs[slot]:
            return None
        if getrefcount(value) > UNSHARED + 2 or not _is_plain(value):
            state[name] = value = np.array(value, order="C")
        return self.put(slot, value)

    def own_gradient(self, slot: int, root: Entry, read: bool) -> Tensor | None:
        """A tensor for the gradient of a leaf that the program writes; with the present value if that is `read`."""
        shape, dtype = self._specs[slot]
        value = np.empty(shape, dtype)
        if read:
            given = root.grad._value
            if type(given) is not np.ndarray or (given.shape, given.dtype) != (shape, dtype):
                return None
            value[...] = given
        gradient = wrap(value)
        self.put(slot, value)
        self._names[f"tensor{slot}"] = ref(gradient)
        return gradient


def _is_plain(x: Array) -> bool:
    return x.base is None and x.flags.writeable and x.flags.c_contiguous and x.flags.aligned


def number(x: Any) -> float | None:
    """The one float64 that a tensor or an optimiser holds; None if it is something else."""
    if isinstance(x, int | np.generic):
        return float(x)
    x = np.asarray(x)
    return float(x) if (x.shape, x.dtype) == SCALAR else None


__all__ = ["Memory", "number"]
