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

    __slots__ = ("__weakref__", "_block", "dtype", "shape")
    __array_ufunc__ = None
    base = None  # it is no view: NumPy's name for that
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, block: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._block, self.shape, self.dtype = block, shape, dtype

    @property
    def address(self) -> int:
        """Where it begins in the device's memory."""
        return self._block.address  # type: ignore[no-any-return]

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
        return self._block.read(self.shape, self.dtype)  # type: ignore[no-any-return]

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """For other libraries, without a copy: they must not write into it."""
        return {
            "shape": self.shape, "typestr": self.dtype.str, "data": (self.address, True), "strides": None,
            "version": 3, "stream": 1,
        }  # fmt: skip

    def __add__(self, other: Any) -> Any:
        """The sum of two cotangents."""
        from ..op import registry

        return registry["add"].evaluate([self, other], {})

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


__all__ = ["DeviceArray", "DeviceError"]
