"""Matmul kernels in the simulator: values against NumPy's, and no access to memory that isn't the operands'."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numba import cuda
from simulator import in_simulator

from autograd_geo import expr
from autograd_geo.cuda import fragments, matmul, matmul_source, simulated
from autograd_geo.cuda.matmul import ADDEND, BIAS, PRODUCT, TILES, Plan, plan_matmul
from autograd_geo.cuda.matmul_form import Form, Panel, Tile
from autograd_geo.cuda.matmul_source import print_matmul
from autograd_geo.cuda.simulated_tensor_cores import rounded
from autograd_geo.op import registry

#: Few threads: some hundreds are simulated per second.
SMALL = {"f4": Tile(8, 8, 8, 4, 4, 2, 2), "f8": Tile(8, 8, 4, 4, 4, 2, 2)}
SUM = expr.Call("+", (PRODUCT, BIAS))


class Memory:
    """Buffers of one plan: each lies among elements of which nothing may be read or written."""

    def __init__(self, dtype: str, seed: int = 0) -> None:
        self.dtype, self.random = np.dtype(dtype), np.random.default_rng(seed)
        self.buffers: dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = {}
        self.allowed: set[int] = set()

    def matrices(self, name: str, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> Any:
        """Random numbers with strides in elements, `offset` elements after a multiple of 16 bytes."""
        size = self.dtype.itemsize
        low = sum(min(0, (n - 1) * s) for n, s in zip(shape, strides, strict=True))
        high = sum(max(0, (n - 1) * s) for n, s in zip(shape, strides, strict=True))
        base = np.full(high - low + 64, np.nan, self.dtype)
        first = 16 - low
        first += -(base.ctypes.data + first * size) % 16 // size + offset
        view = np.ndarray(shape, self.dtype, base, first * size, tuple(s * size for s in strides))
        view[...] = self.random.standard_normal(shape)
        self.buffers[name] = base, view
        places = np.arange(first, first + 1)
        for n, s in zip(shape, strides, strict=True):
            places = np.unique(places[:, None] + np.arange(n) * s)
        self.allowed.update((base.ctypes.data + places * size).tolist())
        return view

    def run(self, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
        addresses = {name: view.ctypes.data for name, (_, view) in self.buffers.items()}
        if plan.workspace:
            count = plan.workspace // self.dtype.itemsize
            addresses["workspace"] = self.matrices("workspace", (count,), (1,)).ctypes.data
        outside = {name: base.copy() for name, (base, _) in self.buffers.items()}
        memory, size = simulated._memory, self.dtype.itemsize

        def checked(address: int, char: str, count: int) -> Any:
            assert all(address + i * size in self.allowed for i in range(count)), "outside of the buffers"
            return memory(address, char, count)

        with monkeypatch.context() as patch:
            patch.setattr(simulated, "_memory", checked)
            for launch in plan.launches:
                scope = dict(fragments.namespace())
                exec(launch.source, scope)
                kernel = cuda.jit(scope["add_parts" if "def add_parts" in launch.source else "matmul"])
                kernel[launch.grid, launch.threads, 0, launch.shared](*launch.values(addresses))
        for name, (base, _) in self.buffers.items():
            if name not in ("d", "workspace"):
                assert base.tobytes() == outside[name].tobytes(), f"{name} was written"


def strides_of(layout: str, rows: int, columns: int, width: int) -> tuple[int, int]:
    """The strides of (row, column); `padded` ones are multiples of 16 bytes."""
    up = math.ceil(columns / width) * width + width, math.ceil(rows / width) * width + width
    return {
        "rows": (columns, 1),
        "columns": (1, rows),
        "padded rows": (up[0], 1),
        "padded columns": (1, up[1]),
        "every second": (2 * columns + 1, 2),
        "backwards": (-columns, -1),
    }[layout]


LAYOUTS = ("rows", "columns", "padded rows", "padded columns", "every second", "backwards")


def check(
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    batch: int,
    m: int,
    n: int,
    k: int,
    layouts: tuple[str, str] = ("rows", "rows"),
    *,
    shared: str = "",
    offsets: tuple[int, int, int] = (0, 0, 0),
    epilogue: expr.Node = PRODUCT,
    function: Any = lambda x, c, bias: x,
    d_pad: int = 0,
    precision: str = "float32",
    tile: Tile | None = None,
    parts: int = 1,
) -> Plan:
    """Plan, run in the simulator, compare with NumPy. `shared` are the operands with one matrix for the whole batch."""
    operand = {"tf32": lambda x: rounded(x, 10), "bf16": lambda x: rounded(x, 7)}.get(precision, lambda x: x)
    char = np.dtype(dtype).str[1:]
    width, memory = fragments.WIDTH[char], Memory(dtype)
    strides, operands = {}, {}
    for name, rows, columns, layout, offset in (
        ("a", m, k, layouts[0], offsets[0]),
        ("b", k, n, layouts[1], offsets[1]),
    ):
        row, column = strides_of(layout, rows, columns, width)
        of_batch = 0 if name in shared else abs(row) * rows + abs(column) * columns + 3
        strides[name] = of_batch, row, column
        operands[name] = memory.matrices(name, (batch, rows, columns), strides[name], offset)
    d_strides = m * (n + d_pad), n + d_pad
    c = memory.matrices("c", (batch, m, n), (*d_strides, 1), offsets[2]).copy()
    bias = memory.matrices("bias", (n,), (1,), 1)
    d = memory.matrices("d", (batch, m, n), (*d_strides, 1), offsets[2])
    plan = plan_matmul(
        batch, m, n, k, dtype, strides["a"], strides["b"], "sm_90", d_strides=d_strides, epilogue=epilogue,
        precision=precision,
        unaligned=[name for name, x in zip(("a", "b", "c", "d"), (*offsets, offsets[2]), strict=True) if x],
        tile=tile or SMALL[char], parts=parts,
    )  # fmt: skip
    before = memory.buffers["d"][0].copy()
    memory.run(plan, monkeypatch)
    expected = function(
        operand(operands["a"]).astype("f8") @ operand(operands["b"]).astype("f8"), c.astype("f8"), bias.astype("f8")
    )
    tolerance = 4 * (k + 4) * np.finfo(dtype).eps
    np.testing.assert_allclose(d, expected, rtol=tolerance, atol=tolerance * math.sqrt(k + 1))
    d[...] = np.nan
    for x in (before, memory.buffers["d"][0]):
        x[~np.isnan(x)] = 0
    assert np.isnan(memory.buffers["d"][0]).all(), "written outside of d"
    return plan


PAIRS = [("float32", *pair) for pair in product(LAYOUTS, LAYOUTS)] + [("float64", x, x) for x in LAYOUTS]


@pytest.mark.parametrize(("dtype", "a", "b"), PAIRS)
def test_pairs_of_layouts(dtype: str, a: str, b: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(monkeypatch, dtype, 1, 12, 8, 12, (a, b))
    check(monkeypatch, dtype, 1, 9, 7, 11, (a, b))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_product(data: st.DataObject, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = data.draw
    m, n = draw(st.sampled_from([1, 3, 4, 8, 9, 13])), draw(st.sampled_from([1, 2, 4, 8, 10, 12]))
    check(
        monkeypatch,
        draw(st.sampled_from(["float32", "float64"])),
        draw(st.integers(1, 2)),
        m,
        n,
        draw(st.integers(0, 21)),
        (draw(st.sampled_from(LAYOUTS)), draw(st.sampled_from(LAYOUTS))),
        shared=draw(st.sampled_from(["", "a", "b", "ab"])),
        offsets=(draw(st.integers(0, 1)), draw(st.integers(0, 1)), draw(st.integers(0, 1))),
        d_pad=draw(st.sampled_from([0, 1, 4])),
        parts=draw(st.integers(1, 3)),
    )


@pytest.mark.parametrize(("dtype", "tile"), [(t, tile) for t in TILES for tile in TILES[t]], ids=str)
def test_tiles(dtype: str, tile: Tile, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests of small tiles don't see: several warps, lanes that lie otherwise, threads without a load."""
    check(monkeypatch, fragments.DTYPES[dtype], 1, tile.m - 3, tile.n - 4, tile.k + 4, tile=tile)


#: A warp of 16x8, and four of 16x16.
WARPS = (Tile(16, 8, 16, 2, 2), Tile(32, 32, 16, 2, 4))


@pytest.mark.parametrize("precision", ["tf32", "tf32x3", "bf16"])
def test_tensor_cores(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(monkeypatch, "float32", 1, 16, 8, 32, precision=precision, tile=WARPS[0])
    for tile, layouts in zip(WARPS, (("padded rows", "padded columns"), ("columns", "backwards")), strict=True):
        check(monkeypatch, "float32", 1, 27, 28, 20, layouts, precision=precision, tile=tile)
    check(
        monkeypatch, "float32", 2, 13, 7, 37, precision=precision, tile=WARPS[0], parts=2, d_pad=1,
        epilogue=SUM, function=lambda x, c, bias: x + bias,
    )  # fmt: skip


def test_three_products_of_tf32_are_nearly_as_exact_as_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the tolerance of float32, of which one product of TF32 is far out."""
    check(monkeypatch, "float32", 1, 16, 8, 64, precision="tf32x3", tile=WARPS[0])
    monkeypatch.setattr("test_cuda_matmul.rounded", lambda x, bits: x)
    with pytest.raises(AssertionError, match="Mismatched elements"):
        check(monkeypatch, "float32", 1, 16, 8, 64, precision="tf32", tile=WARPS[0])


def test_blocks_of_several_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    check(monkeypatch, "float32", 1, (matmul_source.GROUP + 2) * 8, 20, 4)


RELU = expr.substitute(registry["relu"].body, {"x": SUM})
EPILOGUES: dict[str, tuple[expr.Node, Any]] = {
    "bias": (SUM, lambda x, c, bias: x + bias),
    "relu": (RELU, lambda x, c, bias: np.maximum(x + bias, 0)),
    "accumulate": (expr.Call("+", (ADDEND, PRODUCT)), lambda x, c, bias: c + x),
    "alpha and beta": (expr.parse("0.5 * x + 3 * c", ["x", "c"]), lambda x, c, bias: 0.5 * x + 3 * c),
    "functions": (
        expr.parse("cbrt(x) * sign(c) + maximum(floor(x), bias)", ["x", "c", "bias"]),
        lambda x, c, bias: np.cbrt(x) * np.sign(c) + np.maximum(np.floor(x), bias),
    ),
    "mask": (expr.parse("where(c > 0, x, 0)", ["x", "c"]), lambda x, c, bias: np.where(c > 0, x, 0)),
    "twice used": (
        expr.parse("(x + bias) * tanh(x + bias) + c / 2", ["x", "c", "bias"]),
        lambda x, c, bias: (x + bias) * np.tanh(x + bias) + c / 2,
    ),
}


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("name", EPILOGUES)
def test_epilogues(name: str, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    epilogue, function = EPILOGUES[name]
    for n in (8, 7):
        check(monkeypatch, "float32", 2, 5, n, 11, epilogue=epilogue, function=function, parts=parts)


def test_nan_and_infinity_beyond_a_matrix_stay_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros take the place of what is beyond k; a row of another matrix does not enter either."""
    memory = Memory("float32")
    a = memory.matrices("a", (1, 5, 6), (30, 6, 1))
    b = memory.matrices("b", (1, 6, 4), (24, 4, 1))
    d = memory.matrices("d", (1, 5, 4), (20, 4, 1))
    a[0, 4] = np.inf
    b[0, :, 3] = np.nan
    memory.run(plan_matmul(1, 5, 4, 6, "f4", (30, 6, 1), (24, 4, 1), "sm_80", tile=SMALL["f4"]), monkeypatch)
    with np.errstate(invalid="ignore"):
        expected = a @ b
    np.testing.assert_allclose(d, expected, rtol=1e-5)


def test_a_batch_is_launched_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "_MOST_BATCH", 2)
    matmul._plan.cache_clear()
    for parts in (1, 2):
        plan = check(monkeypatch, "float32", 5, 3, 4, 12, epilogue=SUM, function=lambda x, c, b: x + b, parts=parts)
        assert [launch.grid[2] for launch in plan.launches] == [2, 2, 1] * parts
    matmul._plan.cache_clear()


def rows(m: int, n: int, k: int, dtype: str = "float32", batch: int = 1, **how: Any) -> Plan:
    """The plan for contiguous matrices."""
    return plan_matmul(batch, m, n, k, dtype, (m * k, k, 1), (k * n, n, 1), "sm_90", **how)


def test_sixteen_bytes_at_a_time_only_where_every_load_is_aligned() -> None:
    def widths(plan: Plan) -> tuple[bool, bool, bool]:
        """Whether a, b and d are read or written so."""
        source = plan.launches[0].source
        return "a_0 = load_f4x4" in source, "b_0 = load_f4x4" in source, "store_f4x4" in source

    assert widths(rows(64, 64, 64)) == (True, True, True)
    assert widths(rows(63, 64, 64)) == (True, True, True)
    assert widths(rows(64, 63, 64)) == (True, False, False)
    assert widths(rows(64, 64, 63)) == (False, True, True)
    assert widths(rows(64, 64, 64, unaligned=["a"])) == (False, True, True)
    assert widths(rows(64, 64, 64, unaligned=["d"])) == (True, True, False)
    assert widths(rows(64, 64, 64, d_strides=(0, 66))) == (True, True, False)
    assert widths(rows(64, 64, 64, unaligned=["c"])) == (True, True, True)
    assert widths(rows(64, 64, 64, unaligned=["c"], epilogue=expr.Call("+", (PRODUCT, ADDEND)))) == (True, True, False)
    columns = plan_matmul(1, 64, 64, 63, "float32", (0, 1, 64), (0, 1, 63), "sm_90")
    assert widths(columns) == (True, False, True)  # a is read down its columns


def test_what_is_chosen() -> None:
    def tile(plan: Plan) -> Tile:
        return next(t for t in TILES["f4"] if f"+ {t.m - 1}) >> {t.m.bit_length() - 1}\n    tiles_n = (n + {t.n - 1})"
                    in plan.launches[0].source and t.threads == plan.launches[0].threads)  # fmt: skip

    for size in (4096, 8192):
        plan = rows(size, size, size)
        assert tile(plan).m * tile(plan).n >= 128 * 128 and len(plan.launches) == 1 and plan.workspace == 0
    assert tile(rows(512, 512, 512)).m * tile(rows(512, 512, 512)).n < 128 * 128  # else few multiprocessors have work
    assert tile(rows(100_000, 8, 64)).n == 8
    assert tile(rows(8, 100_000, 64)).m == 8
    deep = rows(64, 64, 1_000_000)
    assert len(deep.launches) == 2
    parts = deep.launches[0].grid[1]
    assert parts > 16 and deep.workspace == parts * 64 * 64 * 4
    assert len(rows(64, 64, 64, batch=1000).launches) == 1


def test_parts_cover_k() -> None:
    for k in (1, 8, 9, 63, 64, 65, 1000):
        for parts in (1, 2, 3, 7):
            launch = rows(8, 8, k, tile=SMALL["f4"], parts=parts).launches[0]
            part = dict(zip(matmul_source.MATMUL, launch.arguments, strict=True))["part"]
            assert isinstance(part, int) and part % SMALL["f4"].k == 0
            assert (launch.grid[1] - 1) * part < k <= launch.grid[1] * part


def test_nothing_to_compute_is_no_launch() -> None:
    for batch, m, n in ((0, 4, 4), (1, 0, 4), (1, 4, 0)):
        assert rows(m, n, 4, batch=batch) == Plan((), 0)


def test_buffers_that_an_epilogue_does_not_use_need_no_address() -> None:
    assert {x for x in rows(64, 64, 64).launches[0].arguments if isinstance(x, str)} == {"a", "b", "d"}
    with_bias = rows(64, 64, 1_000_000, epilogue=SUM).launches
    assert {x for x in with_bias[0].arguments if isinstance(x, str)} == {"a", "b", "workspace"}
    assert {x for x in with_bias[1].arguments if isinstance(x, str)} == {"workspace", "d", "bias"}


def test_what_is_refused() -> None:
    with pytest.raises(TypeError, match="dtype int32; there are kernels for float32 and float64"):
        rows(4, 4, 4, "int32")
    with pytest.raises(ValueError, match="batch 1, m -1, n 4, k 4"):
        rows(-1, 4, 4)
    with pytest.raises(ValueError, match="no y in an epilogue"):
        rows(4, 4, 4, epilogue=expr.parse("x + y", ["x", "y"]))
    with pytest.raises(ValueError, match="'sm_75'; it must be sm_80 or newer"):
        plan_matmul(1, 4, 4, 4, "float32", (0, 4, 1), (0, 4, 1), "sm_75")
    with pytest.raises(ValueError, match="float64 in precision 'tf32'; float32 has float32, tf32x3, tf32, bf16"):
        rows(4, 4, 4, "float64", precision="tf32")
    with pytest.raises(ValueError, match="in bf16 with a tile of 16x8x8, 2x2 a thread, 8x4 lanes"):
        rows(4, 4, 4, precision="bf16", tile=Tile(16, 8, 8, 2, 2))
    with pytest.raises(ValueError, match="powers of 2, not of 12"):
        print_matmul(Form("f4", Tile(12, 8, 8, 4, 4, 2, 2), Panel(True, 4), Panel(False, 4), 4, True))


in_simulator(globals())
