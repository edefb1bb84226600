"""Kernels as machine code, assembled without a device: registers, spills, what the main loop is made of."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

if any(importlib.util.find_spec(name) is None for name in ("numba", "numba_cuda", "cuda")):
    pytest.skip("needs the extra `cuda`", allow_module_level=True)

from numba.core import config

if config.ENABLE_CUDASIM:
    pytest.skip("Numba simulates a device; NUMBA_ENABLE_CUDASIM=0 to compile for one", allow_module_level=True)

import sass

from autograd_geo import expr
from autograd_geo.compiler import kernels
from autograd_geo.compiler.phrases import CODES
from autograd_geo.cuda import assemble as module
from autograd_geo.cuda.assemble import Assembled, assemble
from autograd_geo.cuda.fragments import BYTES, DTYPES, WIDTH
from autograd_geo.cuda.matmul import (
    ADDEND,
    BIAS,
    PRECISIONS,
    PRODUCT,
    TENSOR_TILES,
    TILES,
    Launch,
    Tile,
    plan_matmul,
)
from autograd_geo.cuda.matmul_form import Gathered, Panel
from autograd_geo.op import registry

ARCHITECTURES = ("sm_80", "sm_90a")
TILES_OF = [(dtype, tile) for dtype in TILES for tile in TILES[dtype]]
#: What multiplies and adds, and for how many cycles that keeps the issue of instructions busy.
MULTIPLY = {"f4": ("FFMA", 1), "f8": ("DFMA", 2)}


def launches(dtype: str, tile: Tile, arch: str, layout: str, ragged: int = 0, **how: Any) -> tuple[Launch, ...]:
    """For matrices of a few tiles in each direction."""
    m, n, k = 4 * tile.m - ragged, 4 * tile.n - ragged, 4 * tile.k
    strides = {"rows": ((0, k, 1), (0, n, 1)), "columns": ((0, 1, m), (0, 1, k)), "odd": ((0, k + 1, 1), (0, 1, k + 1))}
    return plan_matmul(1, m, n, k, DTYPES[dtype], *strides[layout], arch, tile=tile, **how).launches


def assembled(launch: Launch, arch: str) -> Assembled:
    """Its code, in which nothing is spilled and blocks fit as they are to."""
    found = launch.assemble(arch)
    assert found.spilled == found.stack == 0, found
    assert found.registers <= 65536 // (launch.threads * launch.resident), found
    return found


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(("dtype", "tile"), TILES_OF, ids=str)
def test_tiles(dtype: str, tile: Tile, arch: str) -> None:
    """Loads are of 16 bytes; large tiles spend 85 % of their main loop on products, which nothing else interrupts."""
    name, slots = MULTIPLY[dtype]
    products = tile.thread_m * tile.thread_n
    for layout in ("rows", "columns") if arch == "sm_90a" and products >= 64 else ("rows",):
        (launch,) = launches(dtype, tile, arch, layout, parts=1)
        found = assembled(launch, arch)
        loop = sass.main_loop(found.sass, name)
        assert loop[name] == products * tile.k
        if products >= 64:
            assert slots * loop[name] >= 0.85 * (loop.total() + (slots - 1) * loop[name]), loop
        assert loop["LDS.128"] == (tile.thread_m + tile.thread_n) // WIDTH[dtype] * tile.k
        loads = {x for x in loop if x.startswith(("LD.", "LDG", "LDL", "LDS"))}
        assert loads == {"LDS.128", "LDG.E.128"}, loop
        assert "STG.E.128" in found.sass and "ST.E" not in found.sass


@pytest.mark.parametrize(("dtype", "tile"), TILES_OF, ids=str)
def test_tiles_of_unaligned_matrices(dtype: str, tile: Tile) -> None:
    if tile.thread_m * tile.thread_n * BYTES[dtype] > 256:
        (launch,) = launches(dtype, tile, "sm_80", "rows", ragged=4, parts=1)  # what is chosen only where it's aligned
    else:
        (launch,) = launches(dtype, tile, "sm_90a", "odd", ragged=1, parts=1)
    assembled(launch, "sm_90a")


#: A tile of each precision, and how an operand that is read by a table lies.
GATHERED = [("float32", TILES["f4"][2]), ("float32", TILES["f4"][4]), ("tf32", TENSOR_TILES["tf32"][1])]
PANELS = [Panel(along_k, width, True, True, masked) for along_k, width, masked in ((False, 1, True), (True, 4, True),
                                                                                  (True, 1, False))]  # fmt: skip


@pytest.mark.parametrize(("precision", "tile"), GATHERED, ids=str)
def test_operands_read_by_tables(precision: str, tile: Tile) -> None:
    """Patches of a convolution: offsets and masks take registers but spill none, and loads stay wide."""
    for panel in PANELS:
        (launch,) = plan_matmul(
            1, 4 * tile.m - 4, 4 * tile.n, 4 * tile.k, "float32", Gathered(0, panel), (0, 4 * tile.n, 1), "sm_90a",
            tile=tile, parts=1, precision=precision,
        ).launches  # fmt: skip
        loop = sass.main_loop(
            assembled(launch, "sm_90a").sass, "FFMA" if precision == "float32" else "HMMA.1688.F32.TF32"
        )
        assert loop["LDG.E.128"] and bool(loop["LDG.E"]) == (panel.width == 1)
        if precision == "float32":
            assert loop["FFMA"] >= 0.7 * loop.total()


@pytest.mark.parametrize("precision", TENSOR_TILES)
def test_tensor_cores(precision: str) -> None:
    """All products of a warp are its tensor core's; nothing is spilled."""
    depth, each = PRECISIONS[precision], 3 if precision == "tf32x3" else 1
    name = "HMMA.16816.F32.BF16" if precision == "bf16" else "HMMA.1688.F32.TF32"
    for tile in TENSOR_TILES[precision]:
        for arch in ARCHITECTURES if tile == TENSOR_TILES[precision][0] else ["sm_90a"]:
            (launch,) = launches("f4", tile, arch, "rows", precision=precision, parts=1)
            loop = sass.main_loop(assembled(launch, arch).sass, name)
            assert loop[name] == tile.warp_m // 16 * (tile.warp_n // 8) * (tile.k // depth) * each
            assert loop["FFMA"] == 0 and loop["LDG.E.128"] and launch.shared <= 163 * 1024  # of sm_80, for a block

    (launch,) = launches("f4", TENSOR_TILES[precision][1], "sm_90a", "odd", ragged=1, precision=precision, parts=1)
    assembled(launch, "sm_90a")


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("dtype", TILES)
def test_epilogues_and_parts(dtype: str, arch: str) -> None:
    tile = next(t for t in TILES[dtype] if t.thread_m * t.thread_n == 32)
    body = registry["silu"].body
    assert body is not None
    silu = expr.substitute(body, {"x": expr.Call("+", (PRODUCT, BIAS))})
    for parts in (1, 2):
        plan = launches(dtype, tile, arch, "rows", epilogue=silu, parts=parts)
        assert len(plan) == parts
        for launch in plan:
            found = assembled(launch, arch)
            doubles = [x.name for x in sass.instructions(found.sass) if x.name.startswith(("DADD", "DMUL", "DFMA"))]
            assert bool(doubles) == (dtype == "f8"), "float32 is computed in float64, or the reverse"


@pytest.mark.parametrize("tile", [TILES["f4"][0], TILES["f4"][2], TILES["f8"][0]], ids=str)
def test_epilogues_of_large_tiles(tile: Tile) -> None:
    """Functions beside many sums, and three results, spill nothing."""
    dtype = "f8" if tile in TILES["f8"] else "f4"
    body = registry["gelu"].body
    assert body is not None
    total = expr.Call("+", (PRODUCT, BIAS))
    gelu = expr.Call("+", (ADDEND, expr.substitute(body, {"x": total})))
    for ragged in (0, 1):
        layout = "odd" if ragged and dtype == "f4" and tile.threads * tile.resident > 256 else "rows"
        (launch,) = launches(
            dtype, tile, "sm_90a", layout, ragged=4 * ragged, parts=1, epilogue=gelu, also=(total, PRODUCT)
        )
        assembled(launch, "sm_90a")


def test_every_function_is_computed_in_float32() -> None:
    codes = {f: code for f, code in CODES["f"].items() if "vm." in code and f != "reciprocal"}  # that is a quotient
    calls = [code.format(*"xx"[: expr.PRIMITIVES[f].arity]).replace("vm.", "vm_") for f, code in codes.items()]
    lines = [f"    store_f4(d + {4 * i}, {call})" for i, call in enumerate(calls)]
    source = "\n".join(["def functions(a, d):", "    x = load_f4(a)", *lines]) + "\n"
    found = assemble(source, ("int64",) * 2, arch="sm_90a", launch_bounds=32)
    doubles = [x.name for x in sass.instructions(found.sass) if x.name.startswith(("DADD", "DFMA", "F2F.F64"))]
    assert not doubles  # a DMUL is in the sine of large numbers


KERNEL = """
def double(a, d, n):
    i = cuda.grid(1)
    if i < n:
        store_f4(d + i * 4, 2 * load_f4(a + i * 4))
"""
WITH_FUNCTION = """
@cuda.jit(device=True)
def twice(x):
    return x + x

""" + KERNEL.replace("2 * load_f4(a + i * 4)", "twice(load_f4(a + i * 4))")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place to keep machine code."""
    monkeypatch.setattr(kernels, "directory", lambda: tmp_path)
    monkeypatch.setattr(module, "_assembled", {})
    return tmp_path


def kernel(source: str = KERNEL, arch: str = "sm_80") -> Assembled:
    return assemble(source, ("int64",) * 3, arch=arch, launch_bounds=256)


def test_device_functions_are_compiled_for_the_architecture(folder: Path) -> None:
    for arch in ARCHITECTURES:
        found = kernel(WITH_FUNCTION, arch)
        assert found.name == "double" and found.arch == arch
        assert {"LDG.E", "FADD", "STG.E"} <= {x.name for x in sass.instructions(found.sass)}


def test_what_was_kept_is_not_compiled_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = kernel()
    assert len(list(folder.iterdir())) == 1
    monkeypatch.setattr(module, "_assembled", {})
    monkeypatch.setattr(module, "_compile", lambda *a: pytest.fail("compiled"))
    assert kernel() == first


@pytest.mark.parametrize("change", ["emptied", "cut", "changed"])
def test_a_file_that_was_tampered_with_is_compiled_anew(change: str, folder: Path, monkeypatch: Any) -> None:
    first = kernel()
    (path,) = folder.iterdir()
    content = path.read_bytes()
    path.write_bytes({"emptied": b"", "cut": content[:-1], "changed": content.replace(b"sm_80", b"sm_90", 1)}[change])
    monkeypatch.setattr(module, "_assembled", {})
    again = kernel()
    assert again.arch == "sm_80" and again.registers == first.registers and len(again.cubin) == len(first.cubin)
    monkeypatch.setattr(module, "_assembled", {})
    monkeypatch.setattr(module, "_compile", lambda *a: pytest.fail("compiled"))
    assert kernel() == again


def test_what_cannot_be_kept_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "directory", lambda: None)
    monkeypatch.setattr(module, "_assembled", {})
    assert kernel().registers > 0
