"""The device as this package uses it: memory by address, copies, kernels. Numba's simulator is one too.

Everything on a device happens in one stream, in the order in which it was asked for.
"""

from __future__ import annotations

import ctypes.util
import functools
import importlib.util
import itertools
import linecache
import re
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from .array import DeviceError
from .fragments import is_simulated
from .words import words

_INSTALL = 'pip install "autograd-geo[cuda]"'

_numbers = itertools.count()
#: Launches a kernel: (grid, bytes of dynamic shared memory, arguments), all arguments int64.
Kernel = Callable[[tuple[int, ...], int, tuple[int, ...]], None]
#: What the source of a kernel refers to.
Names = Callable[[], Mapping[str, Any]]


class Driver(Protocol):
    """What a device does for this package."""

    simulated: bool
    arch: str
    multiprocessors: int
    threads: int  # of a block in pointwise kernels and reductions
    blocks: int  # of them that are launched at most
    stream: int

    def name(self) -> str: ...

    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""

    def synchronize(self) -> None: ...

    def allocate(self, size: int) -> int:
        """The address of new memory of so many bytes. Raises MemoryError."""

    def free(self, address: int) -> None:
        """Give memory back, when the kernels that use it are done."""

    def write(self, address: int, array: np.ndarray[Any, Any]) -> None:
        """Fill memory from a contiguous array on the host."""

    def read(self, address: int, out: np.ndarray[Any, Any]) -> None:
        """Fill a contiguous array on the host from memory."""

    def copy(self, to: int, address: int, size: int) -> None:
        """So many bytes from one place on the device to another."""

    def capture(self, launch: Callable[[], None]) -> Callable[[], None]:
        """What does again, as one, the launches that `launch` asks for, which does nothing else. None runs yet."""

    def load(self, source: str, count: int, threads: int, resident: int, names: Names) -> Kernel:
        """The kernel of this source with so many arguments, for blocks of so many threads, `resident` at once."""


class Simulator:
    """Numba's simulator: kernels are Python, and memory is the host's."""

    simulated, arch, multiprocessors, stream = True, "sm_90a", 1, 0
    threads, blocks = 4, 2  # some hundreds are simulated per second

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._local = threading.local()
        self._memory: dict[int, np.ndarray[Any, Any]] = {}

    def name(self) -> str:
        return "Numba's simulator"

    def memory(self) -> tuple[int, int]:
        import psutil

        found = psutil.virtual_memory()
        return int(found.available), int(found.total)

    def synchronize(self) -> None:
        pass

    def allocate(self, size: int) -> int:
        memory = np.empty(size + 256, np.uint8)
        address = int(memory.ctypes.data) + -int(memory.ctypes.data) % 256
        self._memory[address] = memory
        return address

    def free(self, address: int) -> None:
        del self._memory[address]

    def write(self, address: int, array: np.ndarray[Any, Any]) -> None:
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def read(self, address: int, out: np.ndarray[Any, Any]) -> None:
        ctypes.memmove(out.ctypes.data, address, out.nbytes)

    def copy(self, to: int, address: int, size: int) -> None:
        ctypes.memmove(to, address, size)

    def capture(self, launch: Callable[[], None]) -> Callable[[], None]:
        captured: list[Callable[[], None]] = []
        self._local.captured = captured
        try:
            launch()
        finally:
            self._local.captured = None

        def replay() -> None:
            for each in captured:
                each()

        return replay

    def load(self, source: str, count: int, threads: int, resident: int, names: Names) -> Kernel:
        scope = dict(names())
        filename = f"<autograd_geo kernel {next(_numbers)}>"
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        exec(compile(source, filename, "exec"), scope)
        kernel = self._cuda.jit(scope[re.findall(r"^def (\w+)", source, re.MULTILINE)[-1]])

        def run(grid: tuple[int, ...], shared: int, arguments: tuple[int, ...]) -> None:
            with warnings.catch_warnings():  # a device does not warn
                warnings.simplefilter("ignore", RuntimeWarning)
                kernel[grid, threads, 0, shared](*arguments)

        def launch(grid: tuple[int, ...], shared: int, arguments: tuple[int, ...]) -> None:
            captured = getattr(self._local, "captured", None)
            if captured is None:
                run(grid, shared, arguments)
            else:
                captured.append(functools.partial(run, grid, shared, arguments))

        return launch


class Gpu:
    """The current NVIDIA GPU, through `cuda.core` and the driver's own functions."""

    simulated = False
    threads = 256

    def __init__(self) -> None:
        from cuda.bindings import driver as api
        from cuda.core import Device

        self._api, self._device, self._local = api, Device(), threading.local()
        self._device.set_current()
        self._stream = self._device.create_stream()
        self.stream = int(self._stream.handle)
        major, minor = self._device.compute_capability
        self.arch = f"sm_{major}{minor}" + ("a" if (major, minor) >= (9, 0) else "")
        self.multiprocessors = int(self._device.properties.multiprocessor_count)
        self.blocks = 8 * self.multiprocessors

    def _enter(self) -> None:
        """Threads other than the first have no current device yet."""
        if not hasattr(self._local, "entered"):
            self._device.set_current()
            self._local.entered = True

    def _checked(self, result: tuple[Any, ...]) -> Any:
        error, *found = result
        codes = self._api.CUresult
        if error == codes.CUDA_ERROR_OUT_OF_MEMORY:
            raise MemoryError("the driver finds no memory")
        if error != codes.CUDA_SUCCESS:
            raise DeviceError(f"the CUDA driver reports {error}")
        return found[0] if found else None

    def name(self) -> str:
        return str(self._device.name)

    def memory(self) -> tuple[int, int]:
        self._enter()
        error, free, total = self._api.cuMemGetInfo()
        self._checked((error,))
        return int(free), int(total)

    def synchronize(self) -> None:
        self._enter()
        self._checked(self._api.cuStreamSynchronize(self.stream))

    def allocate(self, size: int) -> int:
        self._enter()
        return int(self._checked(self._api.cuMemAlloc(size)))

    def free(self, address: int) -> None:
        self._enter()
        self._checked(self._api.cuMemFree(address))

    def write(self, address: int, array: np.ndarray[Any, Any]) -> None:
        self._enter()
        self._checked(self._api.cuMemcpyHtoDAsync(address, array.ctypes.data, array.nbytes, self.stream))
        self.synchronize()  # the array may go, or change

    def read(self, address: int, out: np.ndarray[Any, Any]) -> None:
        self._enter()
        self._checked(self._api.cuMemcpyDtoHAsync(out.ctypes.data, address, out.nbytes, self.stream))
        self.synchronize()

    def copy(self, to: int, address: int, size: int) -> None:
        self._enter()
        self._checked(self._api.cuMemcpyDtoDAsync(to, address, size, self.stream))

    def capture(self, launch: Callable[[], None]) -> Callable[[], None]:
        self._enter()
        api, checked = self._api, self._checked
        stream = self._device.create_stream()  # of this capture's own: other threads launch meanwhile
        handle = int(stream.handle)
        checked(api.cuStreamBeginCapture(handle, api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
        self._local.capturing = stream
        try:
            launch()
        finally:
            self._local.capturing = None
            graph = checked(api.cuStreamEndCapture(handle))
        try:
            return _Graph(self, checked(api.cuGraphInstantiate(graph, 0)))
        finally:
            checked(api.cuGraphDestroy(graph))

    def replay(self, graph: Any) -> None:
        """Launch a captured graph."""
        self._enter()
        self._checked(self._api.cuGraphLaunch(graph, self.stream))

    def load(self, source: str, count: int, threads: int, resident: int, names: Names) -> Kernel:
        from cuda.core import LaunchConfig, ObjectCode
        from cuda.core import launch as run

        from .assemble import assemble

        self._enter()
        made = assemble(source, ("int64",) * count, arch=self.arch, launch_bounds=(threads, resident), names=names)
        code = ObjectCode.from_cubin(made.cubin)
        kernel = code.get_kernel(made.name)
        allowed = 48 << 10

        def launch(grid: tuple[int, ...], shared: int, arguments: tuple[int, ...]) -> None:
            nonlocal allowed
            self._enter()
            if shared > allowed:
                what = self._api.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                device = self._checked(self._api.cuDeviceGet(self._device.device_id))
                self._checked(self._api.cuKernelSetAttribute(what, shared, kernel.handle, device))
                allowed = shared
            stream = getattr(self._local, "capturing", None) or self._stream
            try:
                run(stream, LaunchConfig(grid=grid, block=threads, shmem_size=shared), kernel, *arguments)
            except Exception as error:  # of a class that cuda.core keeps to itself
                raise DeviceError(f"a kernel could not be launched, on a grid of {grid}: {error}") from error

        launch.code = code  # type: ignore[attr-defined]  # the kernel is part of it
        return launch


class _Graph:
    """Launches that were captured; call it to do them again."""

    def __init__(self, gpu: Gpu, graph: Any) -> None:
        self._gpu, self._graph = gpu, graph

    def __call__(self) -> None:
        self._gpu.replay(self._graph)

    def __del__(self) -> None:
        self._gpu._api.cuGraphExecDestroy(self._graph)  # after it has run


@functools.cache
def _find() -> tuple[Driver | None, str]:
    """The device, or why there is none."""
    try:
        cuda: Any = importlib.import_module("numba.cuda")  # it has no types
    except ImportError as error:
        return None, f"numba cannot be imported ({error}); {_INSTALL}"
    if is_simulated():
        return Simulator(cuda), ""
    if ctypes.util.find_library("cuda") is None:
        return None, "no CUDA driver (libcuda) was found: this machine has no NVIDIA GPU, or it lacks its driver"
    for package in ("numba_cuda", "cuda.core", "cuda.bindings"):
        try:
            importlib.import_module(package)
        except ImportError:
            return None, f"the package {package} is not installed; {_INSTALL}"
    try:
        return Gpu(), ""
    except Exception as error:  # of several libraries
        return None, f"no usable device ({type(error).__name__}: {error})"


def available() -> bool:
    return _find()[0] is not None


def driver() -> Driver:
    """The device. Raises DeviceError that says what is missing where there is none."""
    found, problem = _find()
    if found is None:
        raise DeviceError(f'device "cuda": {problem}. Without a GPU, tensors stay on the "cpu"')
    return found


@functools.cache
def kernel(source: str, count: int) -> Callable[..., None]:
    """What runs a region's kernel `def kernel(p0, p1, ...)`: call it with a number of blocks, and the addresses."""
    device = driver()
    names = functools.partial(words, device.simulated, device.threads)
    launch = device.load(source, count, device.threads, 1, names)
    return lambda blocks, *addresses: launch((blocks,), 0, addresses)


__all__ = ["Driver", "Kernel", "Names", "available", "driver", "kernel"]
