"""Kernels from source: compiled once per distinct source, kept on disk for the next process."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numba

from . import machine

_HEAD = f"""\
from math import inf, nan
from numba import boolean as b1, cfunc, float32 as f4, float64 as f8, int8 as i1, int16 as i2, int32 as i4, int64 as i8
from numba import uint8 as u1, uint16 as u2, uint32 as u4, uint64 as u8
from autograd_geo.compiler import vector_math as vm
from autograd_geo.compiler.machine import PART_SIGNATURE, SIGNATURE, add_in_any_order, larger, or_nan, select, smaller
from autograd_geo.compiler.machine import {", ".join([*machine.LOADS, *machine.STORES])}


@cfunc(KIND, cache=CACHE, fastmath={{"contract"}}, error_model="numpy")
"""


class Kernel(NamedTuple):
    """A compiled kernel: where its code is, its source, and the seconds that it took to compile or load."""

    address: int
    source: str
    seconds: float
    function: Any


_kernels: dict[str, Kernel] = {}
_lock = threading.Lock()


def kernel(source: str) -> Kernel:
    """The kernel of this source, `def kernel(a, o): ...` or `def kernel(a, o, lo, hi, chunk): ...`."""
    found = _kernels.get(source)
    if found is None:
        with _lock:
            found = _kernels.get(source)
            if found is None:
                start = time.perf_counter()
                function = _load(source)
                found = Kernel(function.address, source, time.perf_counter() - start, function)
                _kernels[source] = found
    return found


def _load(source: str) -> Any:
    name = "kernel_" + hashlib.sha256(f"{_version()}\n{source}".encode()).hexdigest()[:24]
    folder = directory()
    if folder is not None:
        path = folder / f"{name}.py"
        for _ in range(2):
            try:
                return _kept(name, path, _module_text(source, True))
            except OSError as error:
                warn_once(str(error))
                break
            except Exception:  # something else has written into its files
                _discard(path)
    scope: dict[str, Any] = {"__name__": name}
    exec(compile(_module_text(source, False), f"<autograd_geo {name}>", "exec"), scope)
    return scope["kernel"]


def _kept(name: str, path: Path, text: str) -> Any:
    """A kernel from its files, which are made if they are not there, or not as they were written."""
    note = path.with_suffix(".sha256")
    with _only_process(path.with_suffix(".lock")):
        if not note.exists() or note.read_bytes() != _digest(path):
            _discard(path)
        write_once(path, text.encode())
        function = _module(name, path).kernel
        write_once(note, _digest(path))
    return function


@contextmanager
def _only_process(path: Path) -> Iterator[None]:
    """One process at a time: others wait here. The lock goes with the process, however that ends."""
    with path.open("wb") as file:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compiled_files(path: Path) -> list[Path]:
    return sorted((path.parent / "__pycache__").glob(f"{path.stem}.*.nb[ic]"))


def _digest(path: Path) -> bytes:
    """What stands for the contents of what was compiled: it is native code, and would run whatever it became."""
    digest = hashlib.sha256()
    for file in _compiled_files(path):
        digest.update(file.read_bytes())
    return digest.hexdigest().encode()


def _discard(path: Path) -> None:
    for file in (path, path.with_suffix(".sha256"), *_compiled_files(path)):
        file.unlink(missing_ok=True)


def _module_text(source: str, cache: bool) -> str:
    kind = "SIGNATURE" if source.startswith("def kernel(a, o):") else "PART_SIGNATURE"
    return _HEAD.replace("CACHE", str(cache)).replace("KIND", kind) + source


def _module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Numba looks for it there when it loads from its cache
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def write_once(path: Path, content: bytes) -> None:
    """Write a file unless it is there, so that it is never there in part."""
    if path.exists() and path.read_bytes() == content:
        return
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@functools.cache
def directory() -> Path | None:
    """Where kernels are kept: AUTOGRAD_GEO_CACHE_DIR, else the platform's folder for caches.

    None if it cannot be written, or if others can: they could put code there that would run here.
    """
    chosen = os.environ.get("AUTOGRAD_GEO_CACHE_DIR")
    if chosen is None:
        from platformdirs import user_cache_dir

        chosen = user_cache_dir("autograd_geo", appauthor=False)
    folder = Path(chosen) / "kernels"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        if hasattr(os, "geteuid") and (found.st_uid != os.geteuid() or found.st_mode & 0o022):
            raise PermissionError(f"{folder} belongs to another user, or others may write there")
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        warn_once(str(error))
        return None


@functools.cache
def warn_once(problem: str) -> None:
    warnings.warn(
        f"compiled kernels cannot be kept on disk ({problem}); each process compiles its own. Set "
        "AUTOGRAD_GEO_CACHE_DIR to a folder that can be written",
        stacklevel=2,
    )


@functools.cache
def _version() -> str:
    """What kernels depend on besides their source and the processor, which Numba checks."""
    here = Path(__file__).parent
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted([here / "machine.py", *(here / "vector_math").glob("*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()
