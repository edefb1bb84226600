"""The compiler's elementary functions: accuracy by mpmath, special values by NumPy, vectorisation, caching."""

import ctypes
import importlib.util
import math
import platform
import re

import mpmath
import numba
import numpy as np
import pytest
import scipy.special

from autograd_geo.compiler import vector_math as vm

FLOATS = (np.float64, np.float32)
UNARY = """
acos acosh asin asinh atan atanh cbrt cos cosh erf exp exp2 expm1 log log10 log1p log2 sin sinh tan tanh
""".split()
BINARY = ["atan2", "hypot", "power"]
EXACT = "absolute ceil copysign floor heaviside maximum minimum remainder rint sign sqrt trunc".split()
TAKES_TWO = {*BINARY, "copysign", "heaviside", "maximum", "minimum", "remainder"}
NUMPY = {"erf": scipy.special.erf} | {name: getattr(np, name) for name in [*UNARY, *BINARY, *EXACT] if name != "erf"}
ORACLE = {name: getattr(mpmath, name) for name in [*UNARY, *BINARY] if hasattr(mpmath, name)} | {
    "exp2": lambda x: mpmath.mpf(2) ** x,
    "log2": lambda x: mpmath.log(x, 2),
    "cbrt": lambda x: mpmath.sign(x) * mpmath.cbrt(abs(x)),
}
# where the result is finite and changes, for float64 and float32
RANGE = {
    "exp": ((-746, 710), (-104, 89)),
    "exp2": ((-1076, 1025), (-151, 129)),
    "expm1": ((-40, 710), (-20, 89)),
    "sinh": ((-711, 711), (-90, 90)),
    "cosh": ((-711, 711), (-90, 90)),
    "tanh": ((-23, 23), (-11, 11)),
    "erf": ((-6.5, 6.5), (-4.5, 4.5)),
    "asin": ((-1, 1), (-1, 1)),
    "acos": ((-1, 1), (-1, 1)),
    "atanh": ((-1, 1), (-1, 1)),
}
_loops = {}


def loop(name):
    """The function over arrays, as a kernel of the compiler would run it; compiled once."""
    if name not in _loops:
        function = getattr(vm, name)

        def unary(x, out):
            for i in range(out.shape[0]):
                out[i] = function(x[i])

        def binary(x, y, out):
            for i in range(out.shape[0]):
                out[i] = function(x[i], y[i])

        kernel = binary if name in TAKES_TWO else unary
        _loops[name] = numba.njit(kernel, fastmath={"contract"}, error_model="numpy")
    return _loops[name]


def evaluate(name, *arguments):
    out = np.empty_like(arguments[0])
    loop(name)(*arguments, out)
    return out


def patterns(dtype, count, rng):
    """Floats of all magnitudes, subnormal ones included, and both signs, evenly over their bit patterns."""
    integer = np.uint64 if dtype == np.float64 else np.uint32
    largest = int(np.array(np.finfo(dtype).max, dtype).view(integer))
    return rng.integers(0, largest, count, dtype=np.uint64).astype(integer).view(dtype) * signs(dtype, count, rng)


def signs(dtype, count, rng):
    return rng.choice(np.array([-1, 1], dtype), count)


def points(name, dtype, count, rng):
    """Arguments for a function of one: everywhere, of ordinary size, and where it is hard."""
    index = FLOATS.index(dtype)
    sign = signs(dtype, count, rng)
    parts = [
        patterns(dtype, count, rng),
        sign * 2.0 ** rng.uniform(-12, 12, count),
        rng.uniform(-2, 2, count),
        sign * (1 + rng.uniform(-1, 1, count) * 2.0 ** rng.uniform(-54, 0, count)),  # near one
    ]
    if name in RANGE:
        low, high = RANGE[name][index]
        edges = np.repeat([low, high], count // 2) + rng.uniform(-2, 2, count // 2 * 2)  # overflow and underflow
        parts += [rng.uniform(low, high, count), edges]
    if name in ("sin", "cos", "tan"):  # beside multiples of pi / 2, and around the end of the fast reduction
        turns = np.floor(2.0 ** rng.uniform(0, (45, 20)[index], count))
        parts += [turns * (np.pi / 2), 2.0 ** rng.uniform((38, 14)[index], (42, 18)[index], count)]
    x = np.concatenate([np.asarray(part).astype(dtype) for part in parts])
    if name in ("log", "log2", "log10"):
        return np.abs(x)
    if name == "acosh":
        x = np.abs(x)
        return np.where(x < 1, x + 1, x)
    if name in ("asin", "acos", "atanh"):
        return x[np.abs(x) < 1]
    return x[x > -1] if name == "log1p" else x


def pairs(name, dtype, count, rng):
    """Arguments for a function of two: independent, and of like size; for the power with a result within range."""
    x = points("", dtype, count, rng)
    if name == "power":
        x = np.abs(x)
        with np.errstate(all="ignore"):
            y = rng.uniform(*((-1076, 1025), (-151, 129))[FLOATS.index(dtype)], x.size) / np.log2(x.astype(float))
        usable = np.abs(y) < np.finfo(dtype).max
        return x[usable], y[usable].astype(dtype)
    with np.errstate(over="ignore"):
        near = (x * 2.0 ** rng.uniform(-3, 3, x.size) * signs(float, x.size, rng)).astype(dtype)
    near = np.where(np.isinf(near), x, near)
    return np.concatenate([x, x]), np.concatenate([rng.permutation(x), near])


def arguments(name, dtype, count, rng):
    return pairs(name, dtype, count, rng) if name in TAKES_TWO else (points(name, dtype, count, rng),)


def error_in_ulps(got, exact, info):
    """|got - exact| in units of the last place of the exact value; infinity stands for the next power of two."""
    if mpmath.isinf(exact) or exact == 0:
        return 0.0 if got == exact else math.inf
    limit = mpmath.ldexp(1, info.maxexp)
    unit = mpmath.ldexp(1, min(max(mpmath.frexp(exact)[1] - 1, info.minexp), info.maxexp - 1) - info.nmant)
    if abs(exact) > limit:
        exact = limit * mpmath.sign(exact)
    got = limit * int(math.copysign(1, got)) if math.isinf(got) else mpmath.mpf(got)
    return float(abs(got - exact) / unit)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", [*UNARY, *BINARY])
def test_is_within_two_units_of_the_exact_value(name, dtype):
    rng = np.random.default_rng(sum(map(ord, name)))
    inputs = arguments(name, dtype, 500, rng)
    got, worst = evaluate(name, *inputs), (0.0,)
    with mpmath.workprec(130):
        for *xs, y in zip(*(a.tolist() for a in inputs), got.tolist(), strict=True):
            if name in ("exp", "exp2", "expm1", "sinh", "cosh"):
                xs = [min(max(xs[0], -3000.0), 3000.0)]  # mpmath would compute all digits of exp(1e300)
            worst = max(worst, (error_in_ulps(y, ORACLE[name](*map(mpmath.mpf, xs)), np.finfo(dtype)), *xs, y))
    assert worst[0] <= 2, worst


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", [*UNARY, *BINARY])
def test_is_near_numpy_on_a_broad_sweep(name, dtype):
    """NumPy in float64: for float32 the exact answer, for float64 one that is itself off by up to 4 units."""
    rng = np.random.default_rng(1)
    inputs = arguments(name, dtype, 1_000_000 // (16 if name in TAKES_TWO else 6), rng)
    got = evaluate(name, *inputs)
    with np.errstate(all="ignore"):
        expected = NUMPY[name](*(a.astype(np.float64) for a in inputs))
        rounded = expected.astype(dtype)
        error = np.abs(got.astype(np.float64) - expected) / np.spacing(np.abs(rounded)).astype(np.float64)
    error[(got == rounded) | (np.isnan(got) & np.isnan(rounded))] = 0
    at_the_end = np.abs(rounded) >= np.finfo(dtype).max * 0.999999  # infinity or the largest numbers
    error[at_the_end & (np.abs(got) >= np.finfo(dtype).max * 0.999999)] = 0
    worst = np.argmax(np.where(np.isnan(error), np.inf, error))
    assert error[worst] <= (4 if dtype == np.float64 else 2), (*(a[worst] for a in inputs), got[worst], expected[worst])


def special_values(dtype):
    info = np.finfo(dtype)
    values = [0, info.smallest_subnormal, info.tiny, info.eps, 0.5, 1 - info.epsneg, 1, 1 + info.eps, 1.5, 2, 3, 7]
    values += [0.41421356, math.pi / 4, math.pi / 2, 22, 1e5, 1e10, 2.0**23 + 1, 2.0**24 - 1, info.max, math.inf]
    positive = np.array(values, dtype)
    return np.concatenate([positive, -positive, np.array([math.nan], dtype)])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", [*UNARY, *BINARY, *EXACT])
def test_special_values_are_numpys_with_the_sign_of_zero(name, dtype):
    values = special_values(dtype)
    inputs = [a.ravel() for a in np.meshgrid(values, values)] if name in TAKES_TWO else [values]
    got = evaluate(name, *inputs)
    with np.errstate(all="ignore"):
        expected = NUMPY[name](*inputs)
        apart = np.abs(got - expected) / np.spacing(np.abs(expected))
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    close = same if name in EXACT else same | (apart <= 6)
    zero = (got == 0) & (expected == 0)
    if name not in ("maximum", "minimum"):  # of two zeros either is right
        close &= ~zero | (np.signbit(got) == np.signbit(expected))
    wrong = np.flatnonzero(~close)[:5]
    assert close.all(), [(*(a[i] for a in inputs), got[i], expected[i]) for i in wrong]


@pytest.mark.parametrize("dtype", FLOATS)
def test_remainder_is_exact_however_large_the_quotient(dtype):
    rng = np.random.default_rng(2)
    x, y = patterns(dtype, 20_000, rng), patterns(dtype, 20_000, rng)
    np.testing.assert_array_equal(evaluate("remainder", x, y), np.remainder(x, y))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_a_huge_angle_is_reduced_in_any_lane(name, dtype):
    small = np.linspace(-3, 3, 37, dtype=dtype)
    for lane in range(37):
        x = small.copy()
        x[lane] = np.finfo(dtype).max
        expected = NUMPY[name](x.astype(np.float64))
        np.testing.assert_allclose(evaluate(name, x), expected, rtol=4 * np.finfo(dtype).eps)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64", "aarch64", "arm64"), reason="may have no vectors")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", [*UNARY, *BINARY, *EXACT])
def test_a_loop_is_vectorised(name, dtype):
    kernel = loop(name)
    array = numba.from_dtype(np.dtype(dtype))[::1]
    signature = (array,) * (3 if name in TAKES_TWO else 2)
    kernel.compile(signature)
    # a result that ends with a change of its sign bit is stored as integers
    stores = re.findall(r"store <\d+ x (?:double|float|i64|i32)>", kernel.inspect_llvm(signature))
    assert stores, "the loop writes no vectors"


def test_called_from_python_and_with_mixed_types():
    assert vm.exp(1.0) == math.e
    assert vm.power(np.float32(2), 0.5) == pytest.approx(math.sqrt(2), rel=1e-15)
    assert isinstance(vm.sin(np.float32(1)), float)


def test_in_a_callback():
    @numba.cfunc("float64(float64)", fastmath={"contract"}, error_model="numpy")
    def callback(x):
        return vm.sin(vm.exp(x)) + vm.cos(x) + vm.tan(x) + vm.remainder(x, 0.3)

    x = 30.0
    expected = math.sin(math.exp(x)) + math.cos(x) + math.tan(x) + x % 0.3
    assert callback.ctypes(ctypes.c_double(x)) == pytest.approx(expected, rel=1e-14)


def test_a_kernel_is_cached_on_disk(tmp_path):
    """With the functions for large arguments in it, which live in more than one loaded module then."""
    source = tmp_path / "kernel_for_test.py"
    source.write_text("""
import numba
from autograd_geo.compiler import vector_math as vm

@numba.njit("void(float64[::1], float64[::1])", cache=True, fastmath={"contract"}, error_model="numpy")
def kernel(x, out):
    for i in range(x.shape[0]):
        out[i] = vm.sin(x[i]) * vm.exp(x[i])
""")
    x, results = np.array([0.5, 1.0, 2.0, 1e15, 3.0]) * -1, []
    for hits in (0, 1):
        spec = importlib.util.spec_from_file_location("kernel_for_test", source)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        results.append(np.empty_like(x))
        module.kernel(x, results[-1])
        assert sum(module.kernel.stats.cache_hits.values()) == hits
    np.testing.assert_allclose(results[0], np.sin(x) * np.exp(x), rtol=1e-14)
    np.testing.assert_array_equal(*results)
