"""Random numbers made on the device: the same as `autograd_geo.random` makes on the host, by one kernel a draw.

A thread makes the four words of a block, and of each word its number. Products and sums are rounded one by one, as on
the host, so that all is the same to the last bit but normals, which depend on how `log`, `cos` and `sin` are rounded.
"""

from __future__ import annotations

import functools
import importlib
import math
import struct
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from .array import DeviceArray
from .driver import Kernel, driver
from .pool import pool
from .words import words

#: What follows are J. K. Salmon's ten rounds; `random.words` says of which counter and key.
_ROUNDS = """\
def philox(seed, stream, count, out, a, b):
    for j in range(cuda.grid(1), (count + 3) // 4, cuda.gridsize(1)):
        k0, k1 = word(seed), word(stream)
        w0, w1, w2, w3 = u8(j) + u8(1), u8(0), u8(0), u8(0)
        for r in range(10):
            h0, h1 = high_part(w0, u8(0xD2E7470EE14C6C93)), high_part(w2, u8(0xCA5A826395121157))
            l0, l1 = w0 * u8(0xD2E7470EE14C6C93), w2 * u8(0xCA5A826395121157)
            w0, w1, w2, w3 = h1 ^ w1 ^ k0, l1, h0 ^ w3 ^ k1, l0
            k0, k1 = k0 + u8(0x9E3779B97F4A7C15), k1 + u8(0xBB67AE8584CAA73B)
"""


def _fraction(word: str, bits: int) -> str:
    return f"f8({word} >> u8({64 - bits})) * {2.0**-bits!r}"


def _uniform(char: str) -> list[str]:
    if char == "d":
        return [f"add_d(number(a), mul_d(number(b), {_fraction(f'w{k}', 53)}))" for k in range(4)]
    return [f"add_f(f4(number(a)), mul_f(f4(number(b)), f4({_fraction(f'w{k}', 24)})))" for k in range(4)]


def _normal(char: str) -> list[str]:
    """Of words 2j and 2j + 1 a radius and an angle."""
    found: list[str] = []
    for k in (0, 0, 2, 2):
        radius = f"vm_sqrt(-2.0 * vm_log(1.0 - {_fraction(f'w{k}', 53)}))"
        angle = f"mul_d({2.0 * math.pi!r}, {_fraction(f'w{k + 1}', 53)})"
        side = "sin" if len(found) % 2 else "cos"
        number = f"add_d(number(a), mul_d(number(b), mul_d({radius}, vm_{side}({angle}))))"
        found.append(f"f4({number})" if char == "f" else number)
    return found


#: The number that each of the four words of a block becomes, by the name of the draw and the letter of the dtype.
_NUMBERS: dict[str, Callable[[str], list[str]]] = {
    "uniform": _uniform,
    "normal": _normal,
    "bernoulli": lambda char: [f"{_fraction(f'w{k}', 53)} < number(a)" for k in range(4)],
    "integers": lambda char: [f"i8(w{k} % word(a))" for k in range(4)],
}


def source(draw: str, char: str) -> str:
    """The kernel of a draw: `philox(seed, stream, count, out, a, b)`, where a and b are bits, by `draw`'s arguments."""
    lines = []
    for k, number in enumerate(_NUMBERS[draw](char)):
        lines += [f"if 4 * j + {k} < count:", f"    store_{char}(out, 4 * j + {k}, {number}, 0, 1)"]
    return _ROUNDS + "".join(f"        {line}\n" for line in lines)


@functools.cache
def _kernel(draw: str, char: str) -> Kernel:
    device = driver()
    return device.load(source(draw, char), 6, device.threads, 1, functools.partial(_names, device.simulated))


def drawn(
    draw: str, key: Callable[[], tuple[int, int]], shape: tuple[int, ...], dtype: np.dtype[Any], numbers: Sequence[Any]
) -> DeviceArray:
    """What the host's draw of this name makes of a stream of words.

    `key` is called for seed and stream when there is memory. `numbers` are low and high - low ("uniform"), mean and
    standard deviation ("normal"), a probability ("bernoulli"), a bound ("integers"). Raises MemoryError.
    """
    count = prod(shape)
    block = pool().take(max(1, count * dtype.itemsize))
    kernel = _kernel(draw, "bool" if dtype.kind == "b" else dtype.char if dtype.kind == "f" else "l")
    seed, stream = map(_signed, key())
    if count:
        device = driver()
        blocks = min(device.blocks, -(-count // (4 * device.threads)))
        a, b = [*(_signed(x) if type(x) is int else _bits(x) for x in numbers), 0][:2]
        kernel((blocks,), 0, (seed, stream, count, block.address, a, b))
    return DeviceArray(block, shape, dtype)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _bits(x: float) -> int:
    return int(struct.unpack("q", struct.pack("d", x))[0])


# --- what the kernel refers to ------------------------------------------------------------------------------------


def _names(simulated: bool) -> dict[str, Any]:
    return {**words(simulated, driver().threads), **(_on_the_host() if simulated else _on_the_device())}


def _on_the_host() -> dict[str, Any]:
    return {
        "word": lambda x: np.uint64(x % (1 << 64)),
        "number": lambda x: np.float64(struct.unpack("d", struct.pack("q", x))[0]),
        "high_part": lambda x, y: np.uint64(int(x) * int(y) >> 64),
        **dict.fromkeys(("add_d", "add_f"), lambda x, y: x + y),
        **dict.fromkeys(("mul_d", "mul_f"), lambda x, y: x * y),
    }


def _on_the_device() -> dict[str, Any]:
    """Intrinsics; sums and products are libdevice's, which no compiler joins to one that rounds once."""
    import numba
    from llvmlite import ir

    extending: Any = importlib.import_module("numba.cuda.extending")
    types: Any = importlib.import_module("numba.cuda.types")

    def called(symbol: str, kind: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            found = builder.module.globals.get(symbol)
            if found is None:
                of = args[0].type
                found = ir.Function(builder.module, ir.FunctionType(of, [of, of]), symbol)
            return builder.call(found, args)

        def typed(typingctx: Any, x: Any, y: Any) -> Any:
            return kind(kind, kind), code

        return extending.intrinsic(typed)

    def number(typingctx: Any, x: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], ir.DoubleType())

        return types.float64(types.int64), code

    return {
        "word": numba.uint64,
        "number": extending.intrinsic(number),
        "high_part": called("__nv_umul64hi", types.uint64),
        "add_d": called("__nv_dadd_rn", types.float64),
        "mul_d": called("__nv_dmul_rn", types.float64),
        "add_f": called("__nv_fadd_rn", types.float32),
        "mul_f": called("__nv_fmul_rn", types.float32),
    }


__all__ = ["drawn", "source"]
