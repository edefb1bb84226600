"""Whether a large array fits into memory, asked before it is made: the system would grant it, then swap or kill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

#: Bytes from which on it is asked. Smaller results are made without a look.
LARGE = 1 << 30
#: No array of fewer elements is as large: the widest dtype, longdouble, takes 16 bytes.
MANY = LARGE // 16


def afford(name: str, shape: Sequence[int], dtype: Any, of: str = "") -> None:
    """Raise MemoryError if an array of this shape and dtype does not fit into the memory that is available."""
    wanted = prod(shape) * np.dtype(dtype).itemsize
    if wanted < LARGE:
        return
    left = available()
    if wanted > left:
        raise MemoryError(
            f"{name}: the result{of} would have shape {tuple(shape)} and take {_gib(wanted)} as {np.dtype(dtype)}; "
            f"{_gib(left)} of memory are available. Work on parts of it, reduce while you multiply (as ag.einsum and "
            "matrix products do), or use dtype float32"
        )


def _gib(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB"


def available() -> int:
    """Bytes that can be taken without swapping: free memory, or less where a container is given less."""
    import psutil

    return min([int(psutil.virtual_memory().available), *_limits()])


_GROUPS, _MINE = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


#: The files of the limit and of what is in use, by what version 1 calls the controller; version 2 has no name for it.
_FILES = {"": ("memory.max", "memory.current"), "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes")}


def _limits() -> Iterator[int]:
    """What control groups (Linux, both versions) leave to this process."""
    try:
        lines = _MINE.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in _FILES:
            root = _GROUPS / controllers
            mine = root / path.lstrip("/")
            for group in (mine, *mine.parents):
                if group.is_relative_to(root):
                    yield from _left(group, *_FILES[controllers])


def _left(group: Path, most: str, used: str) -> Iterator[int]:
    try:
        limit, taken = (group / most).read_text().strip(), int((group / used).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return
    if limit != "max":
        cached = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))  # given back when needed
        yield max(0, int(limit) - taken + cached)


__all__ = ["LARGE", "MANY", "afford", "available"]
