"""The names of `tensor_cores.py` for the simulator: the lanes of a warp are threads of Python that meet at a barrier.

What lane holds which element is written here from the PTX ISA's tables, independently of the kernels.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

#: What each thread of the block that is being simulated has brought.
_brought: dict[int, tuple[Any, Any]] = {}


def rounded(x: Any, bits: int) -> Any:
    """Float32 rounded to so many bits after the leading one."""
    drop = 23 - bits
    whole = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    kept = ((whole + (1 << drop - 1)) >> drop << drop).astype(np.uint32).view(np.float32)
    return np.where(np.isfinite(x), kept, x).astype(np.float32)


def _cut(x: Any) -> Any:
    """The 10 bits of TF32 of float32, without the others."""
    return (np.asarray(x, np.float32).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def tf32(x: Any) -> Any:
    return np.float32(rounded(x, 10))


def pack(low: Any, high: Any) -> Any:
    """Two bfloat16 in a word."""
    first, second = (int(rounded(x, 7).view(np.uint32)) >> 16 for x in (low, high))
    return np.uint32(second << 16 | first).view(np.float32)


def _unpack(words: Any) -> Any:
    """The elements, twice as many along the last axis."""
    halves = words.view(np.uint32)
    return np.stack([halves << 16, halves & 0xFFFF0000], -1).view(np.float32).reshape(*words.shape[:-1], -1)


def _products(a: Any, b: Any, precision: str) -> Any:
    if precision == "bf16":
        return _unpack(a) @ _unpack(np.ascontiguousarray(b.T)).T
    large_a, large_b = rounded(a, 10), rounded(b, 10)
    if precision == "tf32":
        return large_a @ large_b
    return _cut(a - large_a) @ large_b + large_a @ _cut(b - large_b) + large_a @ large_b


def _multiplier(precision: str) -> Callable[[Any, Any, Any], Any]:
    k = np.arange(8)

    def mma(acc: Any, a: Any, b: Any) -> Any:
        thread: Any = threading.current_thread()
        number = thread.threadIdx.x
        _brought[number] = a, b
        thread.syncthreads()
        lanes = [_brought[number // 32 * 32 + lane] for lane in range(32)]
        of_a, of_b = (np.array([x[which] for x in lanes], np.float32) for which in (0, 1))
        rows, columns = np.arange(16)[:, None], np.arange(8)
        lane_k, register_k = k % 4, k // 4
        out = list(acc)
        group, place = divmod(number % 32, 4)
        count = len(b) // 2
        for i in range(len(a) // 4):
            left = of_a[rows % 8 * 4 + lane_k, i * 4 + rows // 8 + 2 * register_k]
            for j in range(count):
                right = of_b[columns * 4 + lane_k[:, None], j * 2 + register_k[:, None]]
                product = _products(left, right, precision)
                for q in range(4):
                    out[(i * count + j) * 4 + q] += product[group + q // 2 * 8, place * 2 + q % 2]
        thread.syncthreads()
        return tuple(out)

    return mma


def names() -> dict[str, Any]:
    return {
        "tf32": tf32,
        "pack": pack,
        **{f"mma_{precision}": _multiplier(precision) for precision in ("tf32", "tf32x3", "bf16")},
    }
