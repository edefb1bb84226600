"""The tiles that matmul kernels come in, and the choice of one by a model of the device."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from math import ceil
from typing import NamedTuple

from .fragments import BYTES, WIDTH
from .matmul_form import Tile
from .matmul_source import ADDERS

#: The kernels there are. Large tiles read least, small ones keep all multiprocessors at work, thin ones waste little on
#: thin matrices.
TILES: dict[str, tuple[Tile, ...]] = {
    "f4": (
        Tile(128, 256, 16, 8, 16),
        Tile(256, 128, 16, 16, 8),
        Tile(128, 128, 8, 8, 8, resident=2),
        Tile(64, 128, 8, 8, 8, resident=3),
        Tile(64, 64, 16, 8, 4, resident=4),
        Tile(128, 32, 16, 8, 4, resident=4),
        Tile(32, 128, 16, 4, 8, resident=4),
        Tile(32, 64, 16, 4, 4, 4, 8, resident=4),
        Tile(32, 32, 16, 4, 4, resident=8),
        Tile(128, 16, 16, 4, 4, resident=4),
        Tile(16, 128, 16, 4, 4, 4, 8, resident=4),
        Tile(128, 8, 16, 4, 4, 16, 2, resident=8),
        Tile(8, 128, 16, 4, 4, 2, 16, resident=8),
    ),
    "f8": (
        Tile(128, 64, 8, 8, 8, resident=2),
        Tile(64, 64, 8, 8, 4, resident=3),
        Tile(32, 32, 8, 4, 4, resident=8),
        Tile(128, 8, 8, 4, 4, 16, 2, resident=6),
        Tile(8, 128, 8, 4, 4, 2, 16, resident=6),
    ),
}
#: Those for tensor cores: a warp's tile is 64 by 64, 64 by 32, 32 by 32.
TENSOR_TILES: dict[str, tuple[Tile, ...]] = {
    "tf32": (
        Tile(128, 256, 16, 8, 16),
        Tile(128, 128, 16, 8, 8, resident=2),
        Tile(64, 64, 16, 4, 8, resident=4),
    ),
    "tf32x3": (
        Tile(128, 256, 16, 8, 16),
        Tile(128, 128, 16, 8, 8),
        Tile(64, 64, 16, 4, 8, resident=3),
    ),
    "bf16": (
        Tile(128, 256, 32, 8, 16),
        Tile(128, 128, 32, 8, 8),
        Tile(64, 64, 32, 4, 8, resident=3),
    ),
}
#: How much faster than float32 their products are about, at most.
_GAIN = {"float32": 1.0, "tf32x3": 1.5, "tf32": 4.0, "bf16": 8.0}


class Machine(NamedTuple):
    """What the model knows of a device.

    Its multiprocessors; the multiplications of float32 that one does per cycle, twice those of float64; the cycles
    until a load from global memory arrives; the bytes from there per cycle.
    """

    multiprocessors: int
    rate: int
    latency: int
    bandwidth: int


#: The data-centre device of each architecture: A100 and H100. From their data sheets and the CUDA C++ Programming
#: Guide's table of arithmetic throughput; latencies are round figures.
_MACHINES = {80: Machine(108, 64, 600, 1400), 90: Machine(132, 128, 700, 2000)}
_START, _SECOND = 2000, 4000  # cycles: until a block computes; to launch a kernel that adds parts
_MOST_PARTS = 256


def machine(arch: str, multiprocessors: int | None = None) -> Machine:
    """The model of a device, with its own number of multiprocessors if that is given."""
    found = re.fullmatch(r"sm_(\d+)[af]?", arch)
    if found is None or int(found[1]) < min(_MACHINES):
        raise ValueError(f"matmul on the GPU: architecture {arch!r}; it must be sm_80 or newer")
    near = _MACHINES[max(number for number in _MACHINES if number <= int(found[1]))]
    return near._replace(multiprocessors=multiprocessors or near.multiprocessors)


@functools.lru_cache(maxsize=4096)
def choose(
    batch: int,
    m: int,
    n: int,
    k: int,
    dtype: str,
    device: Machine,
    precision: str = "float32",
    wide: bool = True,
    tile: Tile | None = None,
    parts: int | None = None,
) -> tuple[Tile, int]:
    """The tile and the elements of k in a part that take least time by the model, where they are not given.

    Where loads are not `wide`, of 16 bytes by strides, what they need leaves no registers for large tiles.
    """

    def candidates() -> Iterator[tuple[float, int, Tile, int]]:
        for order, each in enumerate([tile] if tile else tiles(dtype, precision)):
            if not (wide or tile or each.thread_m * each.thread_n * BYTES[dtype] <= 256):
                continue
            steps = max(1, ceil(k / each.k))
            for count in [parts] if parts else [1 << j for j in range(_MOST_PARTS.bit_length())]:
                per_part = ceil(steps / count)
                if parts or count == ceil(steps / per_part):
                    time = cycles(batch, m, n, per_part, count, dtype, each, device, precision)
                    yield time, order, each, per_part * each.k

    _, _, best, part = min(candidates())
    return best, part


def tiles(dtype: str, precision: str) -> tuple[Tile, ...]:
    """Those to choose from."""
    return TILES[dtype] if precision == "float32" else TENSOR_TILES[precision]


def cycles(
    batch: int,
    m: int,
    n: int,
    steps: int,
    parts: int,
    dtype: str,
    tile: Tile,
    device: Machine,
    precision: str = "float32",
) -> float:
    """About how long a product takes, in cycles, for `steps` along each part of k.

    A multiprocessor computes at its full rate with 8 warps or more; a step takes no less than a load from global
    memory, which the step before it has begun. Small thread tiles spend more instructions on loads. Parts are written
    and read.
    """
    blocks = ceil(m / tile.m) * ceil(n / tile.n) * batch * parts
    most = ceil(blocks / device.multiprocessors)  # on one multiprocessor
    active = min(most, tile.resident)
    products, loads = tile.thread_m * tile.thread_n, (tile.thread_m + tile.thread_n) / WIDTH[dtype]
    share = products / (products + 5 * loads + 4)  # a 16-byte load from shared memory takes as long as four products
    rate = device.rate * _GAIN[precision] * 4 / BYTES[dtype] * share * min(1.0, active * ceil(tile.threads / 32) / 8)
    rounds = ceil(most / active)
    total = max(most * steps * tile.m * tile.n * tile.k / rate, rounds * steps * device.latency) + rounds * _START
    if parts > 1:
        traffic = 2 * parts * batch * m * n * BYTES[dtype] / device.bandwidth
        total += _SECOND + max(traffic, parts / ADDERS * device.latency / 4)
    return total
