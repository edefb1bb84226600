"""Kernels of regions as machine code, where no device is: every op and its gradient compiles, in registers alone."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba_cuda")
pytest.importorskip("cuda.core")
from numba.core import config

if config.ENABLE_CUDASIM:
    pytest.skip("Numba simulates a device; NUMBA_ENABLE_CUDASIM=0 to compile for one", allow_module_level=True)

from op_calls import calls, differentiable, scalar_of

import autograd_geo as ag
from autograd_geo.cuda import driver, eager, pool, random, region
from autograd_geo.cuda.assemble import Assembled, assemble
from autograd_geo.op import Op, registry


class Compiler:
    """A device that compiles what it is given, and runs nothing: all memory reads as zeros."""

    simulated, multiprocessors, threads, blocks, stream = False, 132, 256, 1056, 0

    def __init__(self, arch: str) -> None:
        self.arch = arch
        self.made: list[Assembled] = []
        self._addresses = itertools.count(1 << 20, 1 << 20)

    def name(self) -> str:
        return f"a compiler for {self.arch}"

    def memory(self) -> tuple[int, int]:
        return 1 << 40, 1 << 40

    def synchronize(self) -> None:
        pass

    def allocate(self, size: int) -> int:
        return next(self._addresses)

    def free(self, address: int) -> None:
        pass

    def write(self, address: int, array: np.ndarray[Any, Any]) -> None:
        pass

    def read(self, address: int, out: np.ndarray[Any, Any]) -> None:
        out[...] = 0

    def copy(self, to: int, address: int, size: int) -> None:
        pass

    def capture(self, launch: Any) -> Any:
        return lambda: None

    def load(self, source: str, count: int, threads: int, resident: int, names: Any) -> Any:
        made = assemble(source, ("int64",) * count, arch=self.arch, launch_bounds=(threads, resident), names=names)
        self.made.append(made)
        return lambda grid, shared, arguments: None


@pytest.fixture
def compiler(arch: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiler]:
    found = Compiler(arch)
    monkeypatch.setattr(driver, "_find", lambda: (found, ""))
    monkeypatch.setattr(eager, "_programs", {})
    monkeypatch.setattr(region, "_printed", {})
    monkeypatch.setattr(driver, "kernel", functools.cache(driver.kernel.__wrapped__))
    monkeypatch.setattr("autograd_geo.cuda.program.kernel", driver.kernel)
    caches = pool.pool, eager.number, random._kernel
    for cache in caches:
        cache.cache_clear()
    yield found
    for cache in caches:
        cache.cache_clear()


#: All ops in single precision, and some in each other way.
CALLS = [(op, "sm_90a", np.float32) for op in registry.values()] + [
    (op, arch, dtype)
    for arch, dtype in (("sm_90a", np.float64), ("sm_80", np.float32), ("sm_80", np.float64))
    for op in list(registry.values())[::6]
]


@pytest.mark.parametrize(("op", "arch", "dtype"), CALLS, ids=[f"{o.name}-{a}-{d.__name__}" for o, a, d in CALLS])
def test_every_op_compiles(op: Op, arch: str, dtype: Any, compiler: Compiler) -> None:
    args, attrs = calls(op)[1 if len(calls(op)) > 1 else 0]
    args = [a.astype(dtype) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in args]
    active = differentiable(op, len(args))
    there = [ag.tensor(args[k], requires_grad=True, device="cuda") for k in active]
    moved = [ag.tensor(a, device="cuda") if isinstance(a, np.ndarray) else a for a in args]
    z = scalar_of(op, moved, attrs, active)(*there)
    if z.requires_grad:
        z.backward(np.ones(z.shape, z.dtype))
    for made in compiler.made:
        assert made.spilled == 0
        assert made.registers <= 128


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_a_pointwise_chain_streams(compiler: Compiler) -> None:
    """One kernel for a chain and its gradient: each array is read or written once."""
    x, y = (ag.tensor(np.ones((1024, 512), np.float32), device="cuda") for _ in range(2))
    fast = ag.compile(ag.value_and_grad(lambda x, y: (ag.tanh(x + 4.0 * y) ** 2 + x).sum(), (0, 1)))
    fast(x, y)
    compiler.made.clear()
    source = fast.source()
    assert len(re.findall("^def kernel", source, re.MULTILINE)) == 2  # the second combines the blocks' parts of the sum
    assert len(re.findall(r"load_f\(p\d+, j0,", source)) == 2
    assert len(re.findall(r"store_f\(p\d+, j0,", source)) == 2


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_rows_are_finished_by_a_block(compiler: Compiler) -> None:
    """softmax, one kernel: what is a row's stays in registers and shared memory."""
    x = ag.tensor(np.ones((64, 512), np.float32), device="cuda")
    fast = ag.compile(lambda x: ag.softmax(x, -1))
    fast(x)
    assert fast.source().count("def kernel") == 1
    (made,) = [m for m in compiler.made if "block_" in fast.source() and m.shared]
    assert made.spilled == 0 and made.shared <= 4096


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_updates_of_many_parameters_are_one_kernel(compiler: Compiler) -> None:
    shapes = [(512, 512), (512,), (10, 512), (10,)] * 12
    parameters = [ag.nn.Parameter(ag.tensor(np.ones(s, np.float32), device="cuda")) for s in shapes]
    optimizer = ag.optim.Adam(parameters)
    for p in parameters:
        p.grad = ag.tensor(np.ones(p.shape, np.float32), device="cuda")
    optimizer.step()
    (source,) = optimizer._step_there.recorded[0].made.program.sources
    assert source.count("def part") == 4 and source.count("    part") == 48
    made = compiler.made[-1]  # after those of the recorded ops
    assert made.spilled == 0 and made.registers <= 64


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_a_stencil_reads_each_array_once(compiler: Compiler) -> None:
    u, before, c = (ag.tensor(np.ones((256, 320), np.float32), device="cuda") for _ in range(3))

    def step(u: Any, before: Any, c: Any) -> Any:
        around = sum((ag.roll(u, k, axis) for k in (-1, 1) for axis in (0, 1)), -4 * u)
        return 2 * u - before + c * around

    fast = ag.compile(step)
    fast(u, before, c)
    (source,) = [s for s in fast.recorded[0].made.program.sources if "tile0" in s]
    (inside,) = re.findall(r"if j0 < .*?\n(?:    for|$)", source, re.DOTALL)
    assert inside.count("load_f") == 2  # the values before, and the velocity
    (made,) = [m for m in compiler.made if m.shared]
    assert made.spilled == 0 and made.registers <= 128
    assert 34 * 34 * 4 <= made.shared <= 34 * 34 * 4 + 1024  # which the driver keeps for itself


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_random_numbers_are_made_in_registers_and_rounded_as_on_the_host(compiler: Compiler) -> None:
    for dtype in (np.float64, np.float32):
        ag.random.uniform(64, -1.0, 1.0, dtype, device="cuda")
        ag.random.normal(64, -1.0, 1.0, dtype, device="cuda")
    ag.random.bernoulli(0.5, 64, device="cuda")
    ag.random.integers(10, 64, device="cuda")
    assert len(compiler.made) == 6
    for made in compiler.made:
        assert made.spilled == 0
        assert made.registers <= 96
    for uniform in compiler.made[::2][:2]:
        assert not re.search("[DF]FMA", uniform.sass)  # a product and a sum in one rounding
