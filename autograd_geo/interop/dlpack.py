"""DLPack, both ways: tensors to and from other libraries without a copy, on the host and on the GPU.

The structures are those of https://dmlc.github.io/dlpack/latest/c_api.html, the protocol that of the Python array API.
"""

from __future__ import annotations

import atexit
import ctypes
from math import prod
from typing import Any

import numpy as np

from ..cuda.array import DeviceArray, DeviceError
from ..tape import TRACING, mode, recording
from ..tensor import Tensor, wrap
from ..value import checked_dtype, from_user

_CPU, _CUDA = 1, 2
_READ_ONLY = 1
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
_KINDS = {code: kind for kind, code in _CODES.items()}


class _Device(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("id", ctypes.c_int32))


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Array(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p), ("device", _Device), ("ndim", ctypes.c_int32), ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )  # fmt: skip


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    name = b"dltensor"
    _fields_ = (("array", _Array), ("context", ctypes.c_void_p), ("deleter", _Deleter))


class _Versioned(ctypes.Structure):
    name = b"dltensor_versioned"
    _fields_ = (
        ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("context", ctypes.c_void_p), ("deleter", _Deleter),
        ("flags", ctypes.c_uint64), ("array", _Array),
    )  # fmt: skip


_api = ctypes.pythonapi
_api.PyCapsule_New.restype = ctypes.py_object
_api.PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_api.PyCapsule_IsValid.argtypes = (ctypes.py_object, ctypes.c_char_p)
_api.PyCapsule_GetPointer.restype = ctypes.c_void_p
_api.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
_api.PyCapsule_SetName.argtypes = (ctypes.py_object, ctypes.c_char_p)

#: What exported structures refer to, by their addresses, until their new owners let go.
_lent: dict[int, Any] = {}


def _forget(address: int) -> None:
    _lent.pop(address, None)


_let_go = _Deleter(_forget)


# A capsule that nobody took calls this when it is collected; its argument is the capsule itself, borrowed.
_raw = ctypes.PyDLL(None)
_raw.PyCapsule_IsValid.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
_raw.PyCapsule_GetPointer.restype = ctypes.c_void_p
_raw.PyCapsule_GetPointer.argtypes = (ctypes.c_void_p, ctypes.c_char_p)


def _forget_capsule(capsule: int) -> None:
    for kind in (_Versioned, _Managed):
        if _raw.PyCapsule_IsValid(capsule, kind.name):
            _lent.pop(_raw.PyCapsule_GetPointer(capsule, kind.name), None)


_collected = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_forget_capsule)


@atexit.register
def _keep_what_is_lent() -> None:
    """At the end no callback may run any more: what others still hold stays as it is."""
    for held in list(_lent.values()):
        held[0].deleter = _Deleter()
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(held))
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(_collected))


def dlpack_device(x: Tensor) -> tuple[int, int]:
    """The device of a tensor as DLPack numbers it: (1, 0) for the host, (2, 0) for the GPU."""
    return (_CUDA, 0) if x.device == "cuda" and not _driver().simulated else (_CPU, 0)


def to_dlpack(
    x: Tensor, *, stream: int | None = None, max_version: tuple[int, int] | None = None,
    dl_device: tuple[int, int] | None = None, copy: bool | None = None,
) -> Any:  # fmt: skip
    """A capsule of the tensor's memory, read-only; a copy for libraries that do not know of read-only memory.

    Raises BufferError for a tensor that requires a gradient (detach it first), or for another device.
    """
    if mode() & TRACING:
        raise BufferError(
            "a compiled function cannot give a tensor's memory to another library: what that does is lost"
        )
    if x.requires_grad and recording():
        raise BufferError("this tensor requires a gradient, which would be lost; pass t.detach()")
    if dl_device not in (None, dlpack_device(x)):
        raise BufferError(f"the tensor is on {x.device!r}; move it first")
    value = x._value
    versioned = max_version is not None and max_version[0] >= 1
    if type(value) is not DeviceArray:
        value = np.ascontiguousarray(value).reshape(x.shape)
    if copy or (not versioned and copy is not False):
        value = _copied(value)
    elif not versioned:
        raise BufferError("memory that must not be written cannot be passed without a copy to DLPack before 1.0")
    if type(value) is DeviceArray:
        _driver().synchronize()  # whatever stream goes on with it
    kind = _Versioned if versioned else _Managed
    managed = kind()
    address, ndim = ctypes.addressof(managed), len(value.shape)
    shape = (ctypes.c_int64 * max(1, ndim))(*value.shape)
    strides = (ctypes.c_int64 * max(1, ndim))(*[prod(value.shape[k + 1 :]) for k in range(ndim)])
    data = value.address if type(value) is DeviceArray else value.ctypes.data
    dtype = value.dtype
    managed.array = _Array(
        data, _Device(*dlpack_device(x)), ndim, _DataType(_CODES[dtype.kind], 8 * dtype.itemsize, 1),
        ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64)), ctypes.cast(strides, ctypes.POINTER(ctypes.c_int64)), 0,
    )  # fmt: skip
    managed.deleter = _let_go
    if versioned:
        managed.major, managed.minor, managed.flags = 1, 0, 0 if copy else _READ_ONLY
    _lent[address] = managed, shape, strides, value
    return _api.PyCapsule_New(address, kind.name, ctypes.cast(_collected, ctypes.c_void_p))


def from_dlpack(x: Any) -> Tensor:
    """A tensor of another library's array, without a copy where it is on the GPU; one on the host is copied, and one
    that does not begin at a multiple of 16 bytes.

    `x` has `__dlpack__` and `__dlpack_device__`. As long as the tensor lives, its memory must not be written. Raises
    TypeError for dtypes that tensors cannot have, ValueError for an array on the GPU that is not in C order,
    DeviceError for one on a device that this process does not use.
    """
    if mode() & TRACING:
        raise TypeError(
            "from_dlpack: a compiled function would keep the array of its first call; pass it as an argument"
        )
    if not hasattr(x, "__dlpack_device__"):
        raise TypeError(f"from_dlpack takes an array of a library that knows DLPack, not {type(x).__name__}")
    device, _ = x.__dlpack_device__()
    if device == _CPU:
        return wrap(from_user(np.from_dlpack(x)))
    if device != _CUDA or _driver().simulated:
        raise DeviceError(f"from_dlpack: an array on DLPack's device {device}; tensors are on the host or on a GPU (2)")
    stream = _driver().stream
    try:
        capsule = x.__dlpack__(stream=stream, max_version=(1, 0))
    except TypeError:  # it does not know of versions
        capsule = x.__dlpack__(stream=stream)
    return wrap(_taken(capsule))


def _taken(capsule: Any) -> DeviceArray:
    """The memory of a capsule, which nobody else can take any more."""
    kind = next((k for k in (_Versioned, _Managed) if _api.PyCapsule_IsValid(capsule, k.name)), None)
    if kind is None:
        raise TypeError("from_dlpack: this is no capsule of DLPack, or it was taken before")
    address = _api.PyCapsule_GetPointer(capsule, kind.name)
    managed = kind.from_address(address)
    array: Any = managed.array
    shape = tuple(array.shape[k] for k in range(array.ndim))
    given = tuple(array.strides[k] for k in range(array.ndim)) if array.strides else None
    code, bits = array.dtype.code, array.dtype.bits
    if code not in _KINDS or array.dtype.lanes != 1:
        raise TypeError(f"from_dlpack: DLPack's type {code} of {bits} bits is none that a tensor can have")
    dtype = checked_dtype(np.dtype(f"{_KINDS[code]}{bits // 8}"))
    wanted = tuple(prod(shape[k + 1 :]) for k in range(len(shape)))
    if given is not None and any(g != w for g, w, n in zip(given, wanted, shape, strict=True) if n > 1):
        raise ValueError(f"from_dlpack: strides {given} of shape {shape} are not C order; make it contiguous first")
    _api.PyCapsule_SetName(capsule, b"used_" + kind.name)
    taken = DeviceArray(_Borrowed(managed, address, array.data + array.byte_offset), shape, dtype)
    return _copied(taken) if taken.address % 16 else taken  # kernels load 16 bytes at a time


class _Borrowed:
    """Memory of another library, given back when the last tensor that holds it is gone."""

    def __init__(self, managed: Any, managed_at: int, address: int) -> None:
        self._managed, self._at, self.address = managed, managed_at, address

    @property
    def stream(self) -> int | None:
        return _driver().stream or None

    def read(self, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int = 0) -> np.ndarray[Any, Any]:
        out = np.empty(shape, dtype)
        if out.size:
            _driver().read(self.address + offset, out)
        return out

    def __del__(self) -> None:
        if self._managed.deleter:
            self._managed.deleter(self._at)


def _copied(value: Any) -> Any:
    if type(value) is not DeviceArray:
        return np.array(value)
    from ..cuda.pool import pool

    block = pool().take(max(1, value.nbytes))
    _driver().copy(block.address, value.address, value.nbytes)
    return DeviceArray(block, value.shape, value.dtype)


def _driver() -> Any:
    from ..cuda.driver import driver

    return driver()


__all__ = ["dlpack_device", "from_dlpack", "to_dlpack"]
