"""The device as this package uses it: a handful of calls, to `numba.cuda` or to its simulator."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from typing import Any

import numpy as np

from .array import DeviceError

_INSTALL = 'pip install "autograd-geo[cuda]"'


class Driver:
    """One device. Memory is told by address; whoever asks for it keeps what `allocate` returns alive."""

    def __init__(self, cuda: Any) -> None:
        self.cuda = cuda
        self.simulated: bool = bool(getattr(cuda, "is_simulated", False)) or "simulator" in cuda.jit.__module__
        #: Threads of a block in pointwise kernels and reductions. Simulated ones are slow.
        self.threads = 4 if self.simulated else 256
        self.blocks = 2 if self.simulated else 8 * int(cuda.get_current_device().MULTIPROCESSOR_COUNT)

    def name(self) -> str:
        if self.simulated:
            return "Numba's simulator"
        name = self.cuda.get_current_device().name
        return name.decode() if isinstance(name, bytes) else str(name)

    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""
        if self.simulated:
            import psutil

            found = psutil.virtual_memory()
            return found.available, found.total
        info = self.cuda.current_context().get_memory_info()
        return int(info.free), int(info.total)

    def synchronize(self) -> None:
        self.cuda.synchronize()

    def allocate(self, size: int) -> tuple[Any, int]:
        """New memory of so many bytes: what keeps it, and its address. Raises MemoryError."""
        if self.simulated:
            memory = np.empty(size, np.uint8)
            return memory, int(memory.__array_interface__["data"][0])
        try:
            memory = self.cuda.device_array(size, np.uint8)
        except self.cuda.cudadrv.driver.CudaAPIError as error:
            raise MemoryError(str(error)) from error
        return memory, int(memory.device_ctypes_pointer.value)

    def write(self, memory: Any, array: np.ndarray[Any, Any]) -> None:
        """Fill memory from an array on the host."""
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if self.simulated:
            memory[: flat.size] = flat
        elif flat.size:
            memory[: flat.size].copy_to_device(flat)

    def read(self, memory: Any, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int) -> np.ndarray[Any, Any]:
        """A copy on the host, of what begins so many bytes in."""
        out = np.empty(shape, dtype)
        flat = out.reshape(-1).view(np.uint8)
        if self.simulated:
            flat[...] = memory[offset : offset + flat.size]
        elif flat.size:
            memory[offset : offset + flat.size].copy_to_host(flat)
        return out


@functools.cache
def _find() -> tuple[Driver | None, str]:
    """The device, or why there is none."""
    try:
        cuda: Any = importlib.import_module("numba.cuda")  # it has no types
    except ImportError as error:
        return None, f"numba cannot be imported ({error}); {_INSTALL}"
    if "simulator" in cuda.jit.__module__:
        return Driver(cuda), ""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None, "no CUDA driver (libcuda) was found: this machine has no NVIDIA GPU, or it lacks its driver"
    if importlib.util.find_spec("numba_cuda") is None:
        return None, f"the package numba-cuda is not installed; {_INSTALL}"
    if not cuda.is_available():
        return None, f"Numba finds no usable CUDA device ({cuda.cuda_error() or 'none is visible'})"
    return Driver(cuda), ""


def available() -> bool:
    return _find()[0] is not None


def driver() -> Driver:
    """The device. Raises DeviceError that says what is missing where there is none."""
    found, problem = _find()
    if found is None:
        raise DeviceError(f'device "cuda": {problem}. Without a GPU, tensors stay on the "cpu"')
    return found


__all__ = ["Driver", "available", "driver"]
