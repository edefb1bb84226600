"""The intrinsics of CUDA kernels: the code they generate, run on the processor, and their twins in the simulator."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

import numba
from hypothesis import given, settings
from hypothesis import strategies as st

from autograd_geo.cuda import fragments, simulated, words
from autograd_geo.cuda.assemble import assemble

ON_HOST = fragments.intrinsics(numba.extending.intrinsic, numba.types)
IN_SIMULATOR = simulated.names()
TARGETS = {"host": ON_HOST, "simulator": IN_SIMULATOR}
KINDS = [pytest.param(names, c, id=f"{target} {c}") for target, names in TARGETS.items() for c in ("f4", "f8")]


def run(source: str, names: dict[str, Any], *args: Any) -> Any:
    """Call the function `f` of a source: compiled where the names are intrinsics."""
    scope = dict(names)
    exec(source, scope)
    return (numba.njit(scope["f"]) if names is ON_HOST else scope["f"])(*args)


@pytest.mark.parametrize(("names", "char"), KINDS)
def test_memory_at_addresses(names: dict[str, Any], char: str) -> None:
    width, size = fragments.WIDTH[char], fragments.BYTES[char]
    x, y = np.arange(1, 13, dtype=char), np.zeros(12, char)
    copy = f"""
def f(x, y):
    store_{char}x{width}(y + {width * size}, load_{char}x{width}(x))
    store_{char}(y + {3 * width * size - size}, load_{char}(x + {size}))
"""
    run(copy, names, x.ctypes.data, y.ctypes.data)
    expected = np.zeros(12, char)
    expected[width : 2 * width] = x[:width]
    expected[3 * width - 1] = x[1]
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize(("names", "char"), KINDS)
def test_shared_arrays(names: dict[str, Any], char: str) -> None:
    width = fragments.WIDTH[char]
    x, y = np.arange(1, 13, dtype=char), np.zeros(12, char)
    copy = f"""
def f(x, y):
    write{width}(y, {width}, read{width}(x, {2 * width}))
    write1(y, 1, x[3])
"""
    run(copy, names, x, y)
    expected = np.zeros(12, char)
    expected[width : 2 * width] = x[2 * width : 3 * width]
    expected[1] = x[3]
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize(("names", "char"), KINDS)
def test_outer_products_are_added(names: dict[str, Any], char: str) -> None:
    random = np.random.default_rng(0)
    acc, a, b = (tuple(random.standard_normal(n).astype(char)) for n in (12, 4, 3))
    got = run("def f(acc, a, b):\n    return outer(acc, a, b)\n", names, acc, a, b)
    expected = np.reshape(acc, (4, 3)).astype("f8") + np.outer(a, b).astype("f8")
    np.testing.assert_allclose(np.reshape(got, (4, 3)), expected, rtol=2 * np.finfo(char).eps, atol=np.finfo(char).eps)


def test_outer_rounds_once() -> None:
    x = np.float32(1 + 2**-12)
    got = run("def f(acc, a, b):\n    return outer(acc, a, b)\n", ON_HOST, (np.float32(-1 - 2**-11),), (x,), (x,))
    assert got == (2**-24,)  # the product rounded would have lost it


maximum, minimum = (words._by_choices(numba.extending.intrinsic, numba.types, f) for f in ("maximum", "minimum"))


@numba.njit
def _both(x: float, y: float) -> tuple[float, float]:
    return maximum(x, y), minimum(x, y)


@settings(deadline=None)  # the first call compiles
@given(*[st.floats(width=32)] * 2)
def test_maximum_and_minimum_keep_nan(x: float, y: float) -> None:
    for got, expected in zip(_both(np.float32(x), np.float32(y)), (max, min), strict=True):
        assert math.isnan(got) if math.isnan(x) or math.isnan(y) else got == expected(x, y)


def test_an_access_that_a_device_refuses_is_refused_in_the_simulator() -> None:
    x = np.zeros(8, "f4")
    with pytest.raises(ValueError, match="is no multiple of 16"):
        IN_SIMULATOR["load_f4x4"](x.ctypes.data + 4)
    with pytest.raises(ValueError, match="is no multiple of 8"):
        IN_SIMULATOR["store_f8"](x.ctypes.data + 4, 1.0)
    with pytest.raises(IndexError, match="4 elements from 6 of a shared array of 8"):
        IN_SIMULATOR["read4"](x, 6)


def test_without_the_extra_an_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba_cuda", None)
    with pytest.raises(ImportError, match=r"pip install 'autograd-geo\[cuda\]'"):
        assemble("def nothing():\n    pass\n", (), arch="sm_90", launch_bounds=32)
    with pytest.raises(ValueError, match=r"architecture '9\.0'"):
        assemble("def nothing():\n    pass\n", (), arch="9.0", launch_bounds=32)
