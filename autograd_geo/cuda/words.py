"""The names that kernels on the device are written in: loads and stores through addresses, casts, functions.

Matmul kernels take casts and functions from here; what they alone need is in `fragments`.

They are those of kernels on the CPU (`compiler.machine`, `compiler.vector_math`); elementary functions come from
CUDA's own library. For Numba's simulator, which runs kernels as Python, each has a twin that does the same on the host.
"""

from __future__ import annotations

import functools
import importlib
import math
from typing import Any

import numpy as np

#: The dtypes of kernels, by the letters in `load_d` and `store_d`.
LETTERS: dict[str, type[np.generic]] = {
    "d": np.float64, "f": np.float32, "bool": np.bool_, "b": np.int8, "h": np.int16, "i": np.int32, "l": np.int64,
    "B": np.uint8, "H": np.uint16, "I": np.uint32, "L": np.uint64,
}  # fmt: skip
_CASTS = {
    "f4": np.float32, "f8": np.float64, "b1": np.bool_, "i1": np.int8, "i2": np.int16, "i4": np.int32, "i8": np.int64,
    "u1": np.uint8, "u2": np.uint16, "u4": np.uint32, "u8": np.uint64,
}  # fmt: skip
#: What NumPy calls the functions whose names are others in kernels.
_NUMPY_NAMES = {
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh",
    "atan2": "arctan2",
}  # fmt: skip
#: Functions of kernels, and what CUDA's library calls them.
_LIBRARY = {
    name: name
    for name in (
        "sqrt cbrt exp exp2 expm1 log log1p log2 log10 sin cos tan sinh cosh tanh asin acos atan asinh acosh atanh "
        "erf hypot atan2 floor ceil trunc rint copysign fmod"
    ).split()
} | {"absolute": "fabs", "power": "pow"}
_OF_TWO = "hypot atan2 copysign fmod power".split()


@functools.cache
def common_words(simulated: bool) -> dict[str, Any]:
    """All but those that a block's threads say together."""
    cuda: Any = importlib.import_module("numba.cuda")  # it has no types
    scope: dict[str, Any] = {"inf": math.inf, "nan": math.nan, "cuda": cuda}
    return scope | (_on_the_host() if simulated else _on_the_device(cuda))


@functools.cache
def words(simulated: bool, threads: int) -> dict[str, Any]:
    """The scope of a kernel's source, for blocks of so many threads."""
    scope = dict(common_words(simulated))
    jit = scope["cuda"].jit(device=True)
    for how in ("sum", "prod", "max", "min"):
        for char in LETTERS:
            text = _BLOCK.format(how=how, char=char, threads=threads, both=_BOTH[how].format(char=char))
            inside = scope | ({"kind": LETTERS[char], "cuda": _Now()} if simulated else {"kind": _numba_type(char)})
            # A file of its own: Numba's simulator tells shared arrays apart by their line.
            exec(compile(text, f"<autograd_geo block_{how}_{char}>", "exec"), inside)
            scope[f"block_{how}_{char}"] = inside["reduce"] if simulated else jit(inside["reduce"])
    return scope


class _Now:
    """What `cuda` means in the kernel that is being simulated.

    The simulator puts that into a device function while a thread calls it, and so takes it away from the others.
    """

    def __getattr__(self, name: str) -> Any:
        kernel: Any = importlib.import_module("numba.cuda.simulator.kernel")
        return getattr(kernel._get_kernel_context(), name)


#: A value of each thread, combined over a block by a tree: in an order that is always the same.
_BLOCK = """\
def reduce(x):
    shared = cuda.shared.array({threads}, kind)
    me = cuda.threadIdx.x
    cuda.syncthreads()
    shared[me] = x
    cuda.syncthreads()
    step = {threads} // 2
    while step > 0:
        if me < step:
            shared[me] = {both}
        cuda.syncthreads()
        step //= 2
    return shared[0]
"""
_BOTH = {
    "sum": "shared[me] + shared[me + step]",
    "prod": "shared[me] * shared[me + step]",
    "max": "best_max_{char}(shared[me], shared[me + step])",
    "min": "best_min_{char}(shared[me], shared[me + step])",
}


def _numba_type(char: str) -> Any:
    import numba

    return numba.from_dtype(np.dtype(LETTERS[char]))


# --- on the device ------------------------------------------------------------------------------------------------


def _on_the_device(cuda: Any) -> dict[str, Any]:
    import numba
    from llvmlite import ir

    try:
        extending: Any = importlib.import_module("numba.cuda.extending")
        types: Any = importlib.import_module("numba.cuda.types")
    except ImportError:  # Numba's own target
        extending, types = importlib.import_module("numba.extending"), numba.types
    intrinsic = extending.intrinsic

    def pointer(builder: Any, char: str, address: Any, index: Any) -> Any:
        bits = np.dtype(LETTERS[char]).itemsize * 8
        kind = {"d": ir.DoubleType(), "f": ir.FloatType()}.get(char, ir.IntType(bits))
        return builder.gep(builder.inttoptr(address, ir.PointerType(kind, 1)), [index])  # 1: global memory

    def loader(char: str, kind: Any) -> Any:
        def load(typingctx: Any, address: Any, index: Any, k: Any, count: Any) -> Any:
            def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                value = builder.load(pointer(builder, char, args[0], args[1]))
                return builder.icmp_unsigned("!=", value, ir.Constant(ir.IntType(8), 0)) if char == "bool" else value

            return kind(types.int64, types.int64, types.int64, types.int64), code

        return intrinsic(load)

    def storer(char: str, kind: Any) -> Any:
        def store(typingctx: Any, address: Any, index: Any, value: Any, k: Any, count: Any) -> Any:
            def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                value = builder.zext(args[2], ir.IntType(8)) if char == "bool" else args[2]
                builder.store(value, pointer(builder, char, args[0], args[1]))
                return context.get_dummy_value()

            return types.void(types.int64, types.int64, kind, types.int64, types.int64), code

        return intrinsic(store)

    scope: dict[str, Any] = {name: getattr(numba, _numba_name(name)) for name in _CASTS}
    for char in LETTERS:
        kind = getattr(types, "boolean" if char == "bool" else np.dtype(LETTERS[char]).name)
        scope[f"load_{char}"], scope[f"store_{char}"] = loader(char, kind), storer(char, kind)
    jit = cuda.jit(device=True)
    functions = {name: _from_library(intrinsic, types, name) for name in _LIBRARY}
    functions |= {name: _by_choices(intrinsic, types, name) for name in _CHOICES}
    inside = {"fmod": functions["fmod"], "copysign": functions["copysign"]}
    exec(_REMAINDER, inside)
    functions["remainder"] = jit(inside["function"])
    scope |= {f"vm_{name}": f for name, f in functions.items()}
    for name, text in _WORDS.items():
        inside = {}
        exec(f"def function({text}\n", inside)
        scope[name] = jit(inside["function"])
    for char in LETTERS:
        for how in ("max", "min"):
            scope[f"best_{how}_{char}"] = functions[f"{how}imum"] if char in "df" else scope[f"{how}_of"]
    return scope


def _numba_name(cast: str) -> str:
    return {"b1": "boolean"}.get(cast) or np.dtype(_CASTS[cast]).name


def _from_library(intrinsic: Any, types: Any, name: str) -> Any:
    """A function of libdevice, in the precision of its argument."""
    from llvmlite import ir

    two, base = name in _OF_TWO, _LIBRARY[name]

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = args[0].type
        symbol = f"__nv_{base}{'f' if isinstance(kind, ir.FloatType) else ''}"
        found = builder.module.globals.get(symbol)
        if found is None:
            found = ir.Function(builder.module, ir.FunctionType(kind, [kind] * len(args)), symbol)
        return builder.call(found, args)

    def one(typingctx: Any, x: Any) -> Any:
        return (x(x), code) if isinstance(x, types.Float) else (types.float64(types.float64), code)

    def both(typingctx: Any, x: Any, y: Any) -> Any:
        kind = types.float32 if x == y == types.float32 else types.float64
        return kind(kind, kind), code

    return intrinsic(both if two else one)


def _by_choices(intrinsic: Any, types: Any, name: str) -> Any:
    """A function that chooses among its arguments and constants, as NumPy does."""
    from llvmlite import ir

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, kind = args[0], args[0].type
        zero, one, minus_one = (ir.Constant(kind, v) for v in (0.0, 1.0, -1.0))
        is_nan = builder.fcmp_unordered("uno", x, x)
        if name in ("maximum", "minimum"):
            better = builder.fcmp_ordered(">" if name == "maximum" else "<", x, args[1])
            return builder.select(builder.or_(better, is_nan), x, args[1])
        positive, negative = (builder.fcmp_ordered(how, x, zero) for how in "><")
        below = minus_one if name == "sign" else zero
        found = builder.select(positive, one, builder.select(negative, below, zero if name == "sign" else args[1]))
        return builder.select(is_nan, x, found)

    def one(typingctx: Any, x: Any) -> Any:
        return x(x), code

    def both(typingctx: Any, x: Any, y: Any) -> Any:
        return x(x, x), code

    return intrinsic(one if name == "sign" else both)


_CHOICES = "maximum minimum sign heaviside".split()
_REMAINDER = """\
def function(x, y):
    r = fmod(x, y)
    if r != 0:
        if (r < 0) != (y < 0):
            r += y
    else:
        r = copysign(r, y)
    return r
"""
_WORDS = {
    "select": "condition, a, b): return a if condition else b",
    "add_in_any_order": "a, b): return a + b",
    "larger": "a, b): return b if b > a else a",
    "smaller": "a, b): return b if b < a else a",
    "or_nan": "found, x): return found or x != x",
    "max_of": "a, b): return max(a, b)",
    "min_of": "a, b): return min(a, b)",
}


# --- in the simulator ---------------------------------------------------------------------------------------------


def _on_the_host() -> dict[str, Any]:
    def loader(kind: Any) -> Any:
        size, c_type = np.dtype(kind).itemsize, np.ctypeslib.as_ctypes_type(kind)
        return lambda address, index, k, count: kind(c_type.from_address(int(address) + size * int(index)).value)

    def storer(kind: Any) -> Any:
        size, c_type = np.dtype(kind).itemsize, np.ctypeslib.as_ctypes_type(kind)

        def store(address: int, index: int, value: Any, k: int, count: int) -> None:
            c_type.from_address(int(address) + size * int(index)).value = kind(value).item()

        return store

    def quiet(function: Any) -> Any:
        def run(*args: Any) -> Any:
            with np.errstate(all="ignore"):
                return function(*args)

        return run

    scope: dict[str, Any] = dict(_CASTS)
    for char, kind in LETTERS.items():
        scope[f"load_{char}"], scope[f"store_{char}"] = loader(kind), storer(kind)
    names = [*_LIBRARY, *_CHOICES, "remainder"]
    functions = {name: quiet(_erf if name == "erf" else getattr(np, _NUMPY_NAMES.get(name, name))) for name in names}
    scope |= {f"vm_{name}": f for name, f in functions.items()}
    scope |= {
        "select": lambda condition, a, b: a if condition else b,
        "add_in_any_order": quiet(lambda a, b: a + b),
        "larger": lambda a, b: b if b > a else a,
        "smaller": lambda a, b: b if b < a else a,
        "or_nan": lambda found, x: bool(found or x != x),
    }
    for char in LETTERS:
        for how in ("max", "min"):
            scope[f"best_{how}_{char}"] = functions[f"{how}imum"]
    return scope


def _erf(x: Any) -> Any:
    return type(x)(math.erf(x))


__all__ = ["LETTERS", "common_words", "words"]
