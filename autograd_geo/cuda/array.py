"""What a tensor on the device holds: a shape, a dtype and memory there."""

from __future__ import annotations

from math import prod
from typing import Any, NoReturn

import numpy as np


class DeviceError(RuntimeError):
    """There is no device, or something on it is used where only the host's memory can be."""


class DeviceArray:
    """An array on the device, in C order. It never changes once it is filled; tensors share it.

    NumPy functions refuse it, so nothing is copied to the host unless asked for.
    """

    __slots__ = ("__weakref__", "_block", "_offset", "dtype", "shape")
    __array_ufunc__ = None
    base = None  # it is no view: NumPy's name for that
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, block: Any, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int = 0) -> None:
        self._block, self.shape, self.dtype, self._offset = block, shape, dtype, offset

    @property
    def address(self) -> int:
        """Where it begins in the device's memory."""
        return self._block.address + self._offset  # type: ignore[no-any-return]

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def numpy(self) -> np.ndarray[Any, Any]:
        """A copy on the host."""
        return self._block.read(self.shape, self.dtype, self._offset)  # type: ignore[no-any-return]

    def in_shape(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        """The same memory as an array of another shape."""
        return DeviceArray(self._block, shape, dtype, self._offset)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """For other libraries, without a copy: they must not write into it."""
        return {
            "shape": self.shape, "typestr": self.dtype.str, "data": (self.address, True), "strides": None,
            "version": 3, "stream": self._block.stream,
        }  # fmt: skip

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse()

    def __bool__(self) -> NoReturn:
        self._refuse()

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise TypeError(
            f"an array of shape {self.shape} is on the GPU, where NumPy cannot use it; .numpy() of its tensor copies "
            'it, .to("cpu") moves the tensor'
        )


def on_host(value: Any) -> Any:
    """A tensor's value as it is on the host: a copy of an array on the device."""
    if type(value) is not DeviceArray:
        return value
    array = value.numpy()
    return array if array.shape or array.dtype != np.float64 else float(array)


__all__ = ["DeviceArray", "DeviceError", "on_host"]
