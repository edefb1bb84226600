"""Tensors on an NVIDIA GPU: `tensor.to("cuda")` moves one there, ops on it run as `numba.cuda` kernels.

Kernels are printed from the same declarations as on the CPU. Everything that imports `numba.cuda` is in this package,
and is imported when a tensor first goes to the device. With NUMBA_ENABLE_CUDASIM=1 kernels run in Numba's simulator.
"""

from __future__ import annotations

from .array import DeviceArray, DeviceError
from .precision import matmul_precision

__all__ = [
    "DeviceArray", "DeviceError", "device_name", "empty_cache", "is_available", "matmul_precision", "memory_info",
    "synchronize",
]  # fmt: skip


def is_available() -> bool:
    """Whether tensors can go to a GPU here: Numba finds the CUDA driver and a device, or simulates them."""
    from .driver import available

    return available()


def device_name() -> str:
    """The name of the GPU, such as "NVIDIA H200". Raises DeviceError where there is none."""
    from .driver import driver

    return driver().name()


def memory_info() -> dict[str, int]:
    """Bytes on the device: `free` and `total`, as the driver tells; `used` by tensors; `kept` for tensors to come.

    Raises DeviceError where there is no GPU.
    """
    from .driver import driver
    from .pool import pool

    free, total = driver().memory()
    return {"free": free, "total": total, "used": pool().used, "kept": pool().kept}


def empty_cache() -> None:
    """Give back to the driver what is kept for tensors to come. Raises DeviceError where there is no GPU."""
    from .pool import pool

    pool().clear()


def synchronize() -> None:
    """Wait until the device has done all that it was given. Raises DeviceError where there is no GPU."""
    from .driver import driver

    driver().synchronize()
