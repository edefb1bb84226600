"""The names of `fragments.py` as plain Python, for Numba's simulator: there, device memory is the host's.

What a device would refuse is refused here too: a load or store of 16 bytes at an address that isn't a multiple of 16.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from . import simulated_tensor_cores
from .fragments import DTYPES, WIDTH

_NUMBERS = {"f4": ctypes.c_float, "f8": ctypes.c_double}


class Scalar:
    """A scalar type of Numba: called, a conversion; where an array is made, its dtype."""

    def __init__(self, dtype: str) -> None:
        self.dtype = np.dtype(dtype)
        self.itemsize = self.dtype.itemsize

    def __call__(self, value: Any) -> Any:
        return self.dtype.type(value)


def _memory(address: int, char: str, count: int) -> Any:
    """The elements at an address, to read and to write."""
    kind = _NUMBERS[char] * count
    if address % ctypes.sizeof(kind):
        raise ValueError(
            f"address {address:#x} is no multiple of {ctypes.sizeof(kind)}, the bytes loaded or stored there"
        )
    return np.ctypeslib.as_array(kind.from_address(int(address)))


def _loader(char: str, count: int) -> Any:
    def load(address: int) -> Any:
        values = tuple(_memory(address, char, count))
        return values[0] if count == 1 else values

    return load


def _storer(char: str, count: int) -> Any:
    def store(address: int, values: Any) -> None:
        _memory(address, char, count)[:] = values

    return store


def _span(array: Any, index: int, count: int) -> slice:
    if index % count or not 0 <= index <= len(array) - count:
        raise IndexError(f"{count} elements from {index} of a shared array of {len(array)}: not aligned, or not there")
    return slice(index, index + count)


def read1(array: Any, index: int) -> Any:
    return array[index]


def read2(array: Any, index: int) -> Any:
    return tuple(array[_span(array, index, 2)])


def read4(array: Any, index: int) -> Any:
    return tuple(array[_span(array, index, 4)])


def write1(array: Any, index: int, value: Any) -> None:
    array[_span(array, index, 1)] = value


def write2(array: Any, index: int, values: Any) -> None:
    array[_span(array, index, 2)] = values


def write4(array: Any, index: int, values: Any) -> None:
    array[_span(array, index, 4)] = values


def outer(acc: Any, a: Any, b: Any) -> Any:
    columns = len(b)
    with np.errstate(all="ignore"):  # a device doesn't warn
        return tuple(x + a[k // columns] * b[k % columns] for k, x in enumerate(acc))


def names() -> dict[str, Any]:
    """The names that kernels use."""
    memory = {
        f"{verb}_{char}{'' if count == 1 else f'x{count}'}": make(char, count)
        for verb, make in (("load", _loader), ("store", _storer))
        for char, width in WIDTH.items()
        for count in {1, 2, width}
    }
    shared = {name: globals()[name] for name in ("read1", "read2", "read4", "write1", "write2", "write4")}
    scalars = {name: Scalar(name) for name in DTYPES.values()}
    return {**memory, **shared, **scalars, "int32": int, "outer": outer, **simulated_tensor_cores.names()}
