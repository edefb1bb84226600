"""From a kernel's source to something that can be launched, once per source."""

from __future__ import annotations

import functools
import linecache
from collections.abc import Callable
from typing import Any

from .driver import driver
from .words import words


@functools.cache
def kernel(source: str, name: str = "kernel") -> Any:
    """The kernel `def kernel(p0, p1, ...)` of this source; its arguments are addresses on the device."""
    device = driver()
    scope = dict(words(device.simulated, device.threads))
    filename = f"<autograd_geo {name} {len(linecache.cache)}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    exec(compile(source, filename, "exec"), scope)
    return device.cuda.jit(scope["kernel"])


def launcher(source: str, blocks: int) -> Callable[..., None]:
    """What runs a kernel with addresses, on so many blocks."""
    return kernel(source)[blocks, driver().threads]  # type: ignore[no-any-return]


__all__ = ["kernel", "launcher"]
