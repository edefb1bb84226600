"""What is asked of the CUDA driver, where there is no GPU: of a library of its functions that runs no kernels.

The tests run in a process of their own, which finds that library instead of the driver's.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import gc
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

COMPILER = shutil.which("cc")
if any(importlib.util.find_spec(name) is None for name in ("numba", "numba_cuda", "cuda")) or COMPILER is None:
    pytest.skip("needs the extra `cuda` and a C compiler", allow_module_level=True)
if sys.platform != "linux":
    pytest.skip("the driver's library has another name", allow_module_level=True)

HERE = os.environ.get("AUTOGRAD_GEO_DRIVER") == "none"

if not HERE:

    def test_with_a_driver_that_runs_nothing(tmp_path: Path) -> None:
        assert COMPILER is not None
        source = Path(__file__).with_name("libcuda.c")
        library = tmp_path / "libcuda.so.1"
        command = [COMPILER, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(library), str(source), "-ldl"]
        subprocess.run(command, check=True)
        changed = {"AUTOGRAD_GEO_DRIVER": "none", "NUMBA_ENABLE_CUDASIM": "0", "LD_LIBRARY_PATH": str(tmp_path)}
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
        done = subprocess.run(command, env={**os.environ, **changed}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

else:
    found = ctypes.util.find_library
    ctypes.util.find_library = lambda name: "libcuda.so.1" if name == "cuda" else found(name)

    import autograd_geo as ag
    from autograd_geo.cuda.driver import driver
    from autograd_geo.cuda.pool import pool

    STUB = ctypes.CDLL("libcuda.so.1")
    STUB.noted.restype = ctypes.c_char_p

    @pytest.fixture(autouse=True)
    def _afresh() -> None:
        gc.collect()
        pool().clear()
        STUB.forget()

    def noted(beginning: str) -> list[str]:
        return [line for line in STUB.noted().decode().splitlines() if line.startswith(beginning)]

    def test_what_the_device_is() -> None:
        assert (ag.cuda.is_available(), ag.cuda.device_name(), driver().arch) == (True, "No GPU", "sm_90a")
        assert driver().multiprocessors == 132
        info = ag.cuda.memory_info()
        assert info["total"] == 1 << 30 and info["used"] == 0

    @pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.bool_])
    def test_there_and_back(dtype: Any) -> None:
        x = np.arange(1000).astype(dtype).reshape(10, 100)
        t = ag.tensor(x, device="cuda")
        np.testing.assert_array_equal(t.numpy(), x)
        assert ag.cuda.memory_info()["free"] == (1 << 30) - ag.cuda.memory_info()["used"]

    def test_launches() -> None:
        x = ag.tensor(np.ones((100, 1000), np.float32), device="cuda")
        ag.tanh(x)
        assert re.fullmatch(r"launch 391 x 1 x 1 of 256, shared 0, stream 0x\w+", noted("launch")[-1])
        a = ag.tensor(np.ones((512, 512), np.float32), device="cuda")
        STUB.forget()
        a @ a
        assert noted("launch") and all("shared" in line for line in noted("launch"))

    def test_much_shared_memory_is_asked_for_once() -> None:
        launch = driver().load("def kernel(p0):\n    pass\n", 1, 128, 1, dict)
        for shared in (1000, 60_000, 60_000, 100_000):
            launch((1,), shared, (0,))
        assert noted("attribute") == [f"attribute 8 of a kernel: {n}" for n in (60_000, 100_000)]
        assert [int(line.split("shared ")[1].split(",")[0]) for line in noted("launch")] == [
            1000,
            60_000,
            60_000,
            100_000,
        ]

    def test_what_comes_again_is_replayed() -> None:
        w = ag.nn.Parameter(ag.tensor(np.ones((30, 40)), device="cuda"))
        optimizer = ag.optim.SGD([w], lr=0.1)

        @ag.compile
        def step(x: Any) -> Any:
            optimizer.zero_grad()
            loss = (ag.tanh(x @ w) ** 2).sum()
            loss.backward()
            optimizer.step()
            return loss.detach()

        x = ag.tensor(np.ones((50, 30)), device="cuda")
        for _ in range(12):
            step(x)
        text = STUB.noted().decode()
        assert len(noted("replay")) >= 5
        stream = hex(driver().stream)
        inside = re.findall(r"capture (0x\w+)\n(.*?)captured\n", text, re.DOTALL)
        assert inside
        for own, launches in inside:
            assert own != stream and launches.count("\n") == launches.count(own) >= 2  # on a stream of its own
        assert all(line.endswith(stream) for line in noted("replay"))
        count = text.count("captured")
        del step
        gc.collect()
        assert len(noted("forget a graph")) == count

    def test_no_memory_is_an_error_with_sizes() -> None:
        x = ag.tensor(np.arange(10.0), device="cuda")
        kept = ag.tensor(np.ones(1 << 26), device="cuda")
        with pytest.raises(MemoryError, match=r"the GPU has no 0\.537 GB .* of 1\.07 GB are free"):
            kept + 1.0
        np.testing.assert_array_equal(x.numpy(), np.arange(10.0))
        del kept
        ag.tensor(np.ones(1 << 26), device="cuda")  # what is kept is found again
        assert len(noted("allocate 536870912")) == 1

    def test_memory_in_cycles_is_freed_once() -> None:
        address = ag.tensor(np.ones(1000), device="cuda")._value.address
        cycle: list[Any] = [ag.tensor(np.ones(1000), device="cuda")]
        assert cycle[0]._value.address == address
        cycle.append(cycle)
        del cycle
        gc.collect()
        assert not noted("free")
        assert ag.tensor(np.ones(1000), device="cuda")._value.address == address
        ag.cuda.empty_cache()
        assert len(noted("free")) == len(noted("allocate"))

    def test_what_the_driver_reports_is_an_error() -> None:
        x = ag.tensor(np.ones(10), device="cuda")
        ag.exp(x)
        flag = ctypes.c_int.in_dll(STUB, "fail_launches")
        flag.value = 1
        try:
            with pytest.raises(ag.cuda.DeviceError, match=r"could not be launched, on a grid of \(1,\)"):
                ag.exp(x)
        finally:
            flag.value = 0
        ag.exp(x)

    def test_other_threads_have_a_context() -> None:
        x, done = ag.tensor(np.ones(10), device="cuda"), []

        def work() -> None:
            done.append((ag.tensor(np.ones(10), device="cuda") + x).numpy())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert len(done) == 1
