"""Memory on the device for tensors: what one gives back the next one takes, in classes of size.

The driver takes some 100 microseconds to find memory, longer than most kernels run.
"""

from __future__ import annotations

import functools
import gc
import heapq
import threading
from typing import Any

import numpy as np

from .driver import driver


class Block:
    """Memory of a tensor; it goes back to the pool when the last one that holds it is gone."""

    __slots__ = ("_pool", "_room", "address")

    def __init__(self, pool: Pool, address: int, room: int) -> None:
        self._pool, self.address, self._room = pool, address, room

    @property
    def stream(self) -> int | None:
        """The stream whose work others have to wait for; None if there is none."""
        return self._pool.driver.stream or None

    def read(self, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int = 0) -> np.ndarray[Any, Any]:
        """A copy on the host, of what begins so many bytes in."""
        out = np.empty(shape, dtype)
        if out.size:
            self._pool.driver.read(self.address + offset, out)
        return out

    def write(self, array: np.ndarray[Any, Any]) -> None:
        """Fill it from the host."""
        if array.size:
            self._pool.driver.write(self.address, np.ascontiguousarray(array))

    def __del__(self) -> None:
        self._pool.give_back(self.address, self._room)


def room_of(size: int) -> int:
    """The class of a size in bytes: eight to each power of two, at least 512."""
    if size <= 512:
        return 512
    step = 1 << max((size - 1).bit_length() - 4, 9)
    return -(-size // step) * step


class Pool:
    """Blocks in use and blocks kept. Kernels run in one stream, so memory given back may be taken at once."""

    def __init__(self) -> None:
        self.driver = driver()
        #: Bytes that tensors use, and bytes that are kept for the next ones.
        self.used = 0
        self.kept = 0
        self._free: dict[int, list[int]] = {}  # addresses by size: heaps, so that a loop finds the same ones again
        self._lock = threading.RLock()  # a collection of garbage may give back in the middle of a take

    def take(self, size: int) -> Block:
        """Memory of so many bytes. Raises MemoryError, with the sizes, where there is not as much; nothing is lost."""
        room = room_of(size)
        with self._lock:
            free = self._free.get(room)
            if free:
                address = heapq.heappop(free)
                self.kept -= room
            else:
                address = self._allocate(room)
            self.used += room
        return Block(self, address, room)

    def _allocate(self, room: int) -> int:
        try:
            return self.driver.allocate(room)
        except MemoryError:
            gc.collect()
            self.clear()
        try:
            return self.driver.allocate(room)
        except MemoryError as error:
            free, total = self.driver.memory()
            raise MemoryError(
                f"the GPU has no {room / 1e9:.3g} GB for one more array: {free / 1e9:.3g} of {total / 1e9:.3g} GB are "
                f"free, tensors hold {self.used / 1e9:.3g} GB. Use smaller batches, or delete what is not needed"
            ) from error

    def give_back(self, address: int, room: int) -> None:
        with self._lock:
            heapq.heappush(self._free.setdefault(room, []), address)
            self.used -= room
            self.kept += room

    def clear(self) -> None:
        """Let go of what is kept."""
        with self._lock:
            while self._free:
                for address in self._free.popitem()[1]:
                    self.driver.free(address)
            self.kept = 0


@functools.cache
def pool() -> Pool:
    return Pool()


__all__ = ["Block", "Pool", "pool", "room_of"]
