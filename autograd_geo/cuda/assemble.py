"""Kernels from source to machine code without a driver or a device, kept on disk for the next process.

Numba and NVVM compile to PTX, nvJitLink assembles it. What comes back is loaded with `cuda.core.ObjectCode.from_cubin`,
and can be judged where there is no GPU: registers, spills, and the instructions themselves.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..compiler import kernels
from . import fragments

_PACKAGES = (
    "numba numba-cuda cuda-core nvidia-nvvm nvidia-nvjitlink nvidia-cuda-nvcc-cu12 nvidia-nvjitlink-cu12".split()
)
_assembled: dict[str, Assembled] = {}
_lock = threading.RLock()


@dataclass(frozen=True)
class Assembled:
    """A kernel's machine code for one architecture, and what it takes of a multiprocessor.

    `name` is the function's, and its symbol in the cubin; `registers` are per thread, `spilled` the bytes stored and
    loaded because they did not suffice, `stack` the bytes of local memory per thread, `shared` the bytes of static
    shared memory per block.
    """

    name: str
    arch: str
    registers: int
    spilled: int
    stack: int
    shared: int
    cubin: bytes = field(repr=False)

    @functools.cached_property
    def sass(self) -> str:
        """The instructions, as `cuobjdump -sass` prints them. Raises FileNotFoundError where that is not installed."""
        from cuda import pathfinder

        program = pathfinder.find_nvidia_binary_utility("cuobjdump")
        if program is None:
            raise FileNotFoundError("no cuobjdump: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
        path = f"{Path(program).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # it calls nvdisasm
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self.cubin)
            file.flush()
            command = [program, "-sass", file.name]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PATH": path})
        return done.stdout


def assemble(
    source: str,
    signature: Sequence[str],
    *,
    arch: str,
    launch_bounds: int | tuple[int, int],
    names: Callable[[], Mapping[str, Any]] = fragments.namespace,
) -> Assembled:
    """The machine code of a kernel, from memory, from disk, or compiled now.

    The kernel is the last function of the source, which may define device functions before it. `signature` has the name
    of a Numba type per argument, `int64` for a buffer's address; `arch` is as in `sm_90a`; `launch_bounds` is the
    threads of a block, and how many blocks at least are to fit on a multiprocessor. `names` gives what the source
    refers to, from modules of this package. Raises ImportError where the extra `cuda` is not installed.
    """
    if not re.fullmatch(r"sm_\d{2,3}[af]?", arch):
        raise ValueError(f"architecture {arch!r}: write it as in 'sm_90' or 'sm_90a'")
    told = json.dumps([source, list(signature), arch, launch_bounds, _version()])
    key = hashlib.sha256(told.encode()).hexdigest()
    with _lock:
        if key not in _assembled:
            folder = kernels.directory()
            path = folder and folder / f"cuda_{key[:24]}.cubin"
            found = path and _kept(path)
            if not found:
                found = _compile(source, signature, arch, launch_bounds, names)
                if path:
                    _keep(path, found)
            _assembled[key] = found
        return _assembled[key]


def _keep(path: Path, assembled: Assembled) -> None:
    told = {name: value for name, value in asdict(assembled).items() if name != "cubin"}
    head = json.dumps(told).encode() + b"\n"
    digest = hashlib.sha256(head + assembled.cubin).hexdigest().encode()
    try:
        kernels.write_once(path, digest + b"\n" + head + assembled.cubin)
    except OSError as error:
        kernels.warn_once(str(error))


def _kept(path: Path) -> Assembled | None:
    """What was kept in a file, unless something else has written there."""
    try:
        digest, content = path.read_bytes().split(b"\n", 1)
    except (FileNotFoundError, ValueError):
        return None
    if hashlib.sha256(content).hexdigest().encode() != digest:
        return None
    head, cubin = content.split(b"\n", 1)
    return Assembled(**json.loads(head), cubin=cubin)


@functools.cache
def _version() -> str:
    """What machine code depends on besides its source: this package, the compilers."""
    digest = hashlib.sha256()
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            digest.update(f"{name} {importlib.metadata.version(name)}\n".encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _compile(
    source: str,
    signature: Sequence[str],
    arch: str,
    launch_bounds: int | tuple[int, int],
    names: Callable[[], Mapping[str, Any]],
) -> Assembled:
    try:
        import numba_cuda  # noqa: F401 (replaces numba.cuda when it is installed)
        from cuda.core import Linker, LinkerOptions, ObjectCode
        from numba import cuda
        from numba.cuda import dispatcher, types
    except ImportError as error:
        raise ImportError(f"compiling for a GPU: {error}; pip install 'autograd-geo[cuda]'") from error
    scope: dict[str, Any] = dict(names())
    exec(compile(source, "<autograd_geo kernel>", "exec"), scope)
    name = re.findall(r"^def (\w+)", source, re.MULTILINE)[-1]
    digits, suffix = re.fullmatch(r"sm_(\d+)([af]?)", arch).groups()  # type: ignore[union-attr]
    capability = int(digits[:-1]), int(digits[-1])
    with _device(dispatcher, capability):
        ptx, _ = cuda.compile_ptx(
            scope[name],
            types.void(*(getattr(types, name) for name in signature)),
            cc=(*capability, suffix) if suffix else capability,
            launch_bounds=launch_bounds,
        )
    mangled = re.search(r"\.entry\s+(\w+)", ptx)
    assert mangled is not None
    ptx = ptx.replace(mangled[1], name)  # what profilers show
    # Numba aligns it to an element, loads of 16 bytes need more.
    ptx = re.sub(r"(\.extern \.shared) \.align \d+", r"\1 .align 16", ptx)
    options = LinkerOptions(arch=arch, verbose=True, ptxas_options=["-v"])
    linker = Linker(ObjectCode.from_ptx(ptx.encode()), options=options)
    cubin = bytes(linker.link("cubin").code)
    log = linker.get_info_log()

    def figure(pattern: str) -> int:
        return sum(int(n) for n in re.findall(pattern, log))

    return Assembled(
        name=name,
        arch=arch,
        registers=figure(r"Used (\d+) registers"),
        spilled=figure(r"(\d+) bytes spill"),
        stack=figure(r"(\d+) bytes stack frame"),
        shared=figure(r"(\d+) bytes smem"),
        cubin=cubin,
    )


@contextmanager
def _device(dispatcher: Any, capability: tuple[int, int]) -> Iterator[None]:
    """Let device functions that a kernel calls be compiled for an architecture: they ask for the current device's."""

    class Device:
        compute_capability = capability

    before = dispatcher.get_current_device
    dispatcher.get_current_device = Device
    try:
        yield
    finally:
        dispatcher.get_current_device = before
