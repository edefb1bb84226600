"""What generated kernels are made of: loads and stores through addresses, and the loop that runs a program.

A kernel gets two pointers, to the addresses of all buffers and to the numbers of its own operands. Loads and stores
tell LLVM that different operands don't overlap, or it would have to check that before each loop.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import njit, prange
from numba.extending import intrinsic

# Numba's typed parts call untyped ones.
types: Any = numba.types
_intrinsic: Any = intrinsic

NUMBA_TYPES: dict[str, Any] = {
    "d": types.float64, "f": types.float32, "?": types.boolean,
    "b": types.int8, "h": types.int16, "i": types.int32, "l": types.int64, "q": types.int64,
    "B": types.uint8, "H": types.uint16, "I": types.uint32, "L": types.uint64, "Q": types.uint64,
}  # fmt: skip
#: What a kernel is called with: the addresses of buffers, the numbers of its operands.
SIGNATURE = types.void(types.CPointer(types.int64), types.CPointer(types.int32))
#: The same, for a kernel that is called for a part of a range: from where to where, the number of the part.
PART_SIGNATURE = types.void(*SIGNATURE.args, types.int64, types.int64, types.int64)


def _memory_type(char: str) -> ir.Type:
    kind = NUMBA_TYPES[char]
    if kind == types.boolean:
        return ir.IntType(8)
    if kind == types.float64:
        return ir.DoubleType()
    return ir.FloatType() if kind == types.float32 else ir.IntType(kind.bitwidth)


def _apart(builder: ir.IRBuilder, instruction: Any, k: int, count: int) -> None:
    """Say that operand k of `count` shares no memory with the others."""
    module = builder.module
    domain = module.add_metadata(["operands"])
    scopes = [module.add_metadata([f"operand {i}", domain]) for i in range(count)]
    instruction.set_metadata("alias.scope", module.add_metadata([scopes[k]]))
    others = [s for i, s in enumerate(scopes) if i != k]
    if others:
        instruction.set_metadata("noalias", module.add_metadata(others))


def _element(builder: ir.IRBuilder, char: str, address: ir.Value, index: ir.Value) -> ir.Value:
    pointer = builder.inttoptr(address, _memory_type(char).as_pointer())
    return builder.gep(pointer, [index])


def _loader(char: str) -> Any:
    kind = NUMBA_TYPES[char]

    @_intrinsic(prefer_literal=True)
    def load(typingctx: Any, address: Any, index: Any, k: Any, count: Any) -> Any:
        def code(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            value = builder.load(_element(builder, char, args[0], args[1]))
            _apart(builder, value, k.literal_value, count.literal_value)
            if kind == types.boolean:
                return builder.icmp_unsigned("!=", value, ir.Constant(ir.IntType(8), 0))
            return value

        return kind(types.int64, types.int64, k, count), code

    return load


def _storer(char: str) -> Any:
    kind = NUMBA_TYPES[char]

    @_intrinsic(prefer_literal=True)
    def store(typingctx: Any, address: Any, index: Any, value: Any, k: Any, count: Any) -> Any:
        def code(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            value = builder.zext(args[2], ir.IntType(8)) if kind == types.boolean else args[2]
            _apart(
                builder, builder.store(value, _element(builder, char, args[0], args[1])), k.literal_value,
                count.literal_value,
            )  # fmt: skip
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, kind, k, count), code

    return store


LOADS = {f"load_{char}": _loader(char) for char in NUMBA_TYPES if char != "?"} | {"load_bool": _loader("?")}
STORES = {f"store_{char}": _storer(char) for char in NUMBA_TYPES if char != "?"} | {"store_bool": _storer("?")}

globals().update(LOADS | STORES)  # kernels import them by name


@_intrinsic
def select(typingctx: Any, condition: Any, a: Any, b: Any) -> Any:
    """a where the condition holds, else b: both are there, nothing branches."""
    kind = typingctx.unify_types(types.unliteral(a), types.unliteral(b))

    def code(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return builder.select(args[0], args[1], args[2])

    return kind(types.boolean, kind, kind), code


@_intrinsic
def add_in_any_order(typingctx: Any, a: Any, b: Any) -> Any:
    """a + b, as part of a sum whose order does not matter: sums vectorise."""

    def code(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        if isinstance(args[0].type, ir.IntType):
            return builder.add(args[0], args[1])
        return builder.fadd(args[0], args[1], flags=("reassoc", "contract"))

    kind = types.unliteral(a)
    return kind(kind, kind), code


def _extreme(relation: str) -> Any:
    @_intrinsic
    def extreme(typingctx: Any, a: Any, b: Any) -> Any:
        """The larger or smaller of two numbers; whatever if one is NaN. Reductions by it vectorise."""
        kind = types.unliteral(a)

        def code(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            better = builder.fcmp_ordered(relation, args[1], args[0], flags=("nnan", "nsz"))
            return builder.select(better, args[1], args[0], flags=("nnan", "nsz"))

        return kind(kind, kind), code

    return extreme


larger, smaller = _extreme(">"), _extreme("<")


@_intrinsic
def or_nan(typingctx: Any, found: Any, x: Any) -> Any:
    """`found`, or whether x is NaN."""

    def code(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return builder.or_(args[0], builder.fcmp_unordered("uno", args[1], args[1]))

    return types.boolean(types.boolean, types.unliteral(x)), code


def _caller(count: int) -> Any:
    """What calls a kernel with addresses, operands, and `count` more numbers."""

    def code(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        pointers = zip(args[1:3], (64, 32), strict=True)
        given = [builder.inttoptr(x, ir.IntType(bits).as_pointer()) for x, bits in pointers] + list(args[3:])
        kind = ir.FunctionType(ir.VoidType(), [x.type for x in given])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), given)
        return context.get_dummy_value()

    signature = types.void(*[types.int64] * (3 + count))
    if count:
        return _intrinsic(lambda typingctx, kernel, a, o, lo, hi, chunk: (signature, code))
    return _intrinsic(lambda typingctx, kernel, a, o: (signature, code))


_call, _call_part = _caller(0), _caller(3)


def compiled(signature: Any, function: Any, **how: Any) -> Any:
    """A function of the library in native code, kept on disk beside its module where that can be written."""
    try:
        return njit(signature, cache=True, nogil=True, **how)(function)
    except RuntimeError:  # no folder to keep it in
        return njit(signature, nogil=True, **how)(function)


def program_table(
    addresses: np.ndarray[Any, Any], kernels: Sequence[int], operands: Sequence[int], starts: Sequence[int],
    divided: Sequence[int],
) -> list[np.ndarray[Any, Any]]:  # fmt: skip
    """The arrays of a program, and a table of where they are, which `run` is told the address of.

    `divided` has, for each kernel, the number of chunks it is called for and the range that they divide, or zeros.
    """
    arrays: list[Any] = [addresses, np.array(kernels, np.int64), np.array(operands, np.int32)]
    arrays += [np.array(starts, np.int32), np.array(divided, np.int64)]
    return [*arrays, np.array([address_of(a) for a in arrays], np.int64)]


def _loop(chunks: Any) -> Any:
    def run(program: int, first: int, last: int) -> None:
        """Call kernels `first` to `last` of a program, which is the address of its table."""
        addresses, kernels = load_l(program, 0, 0, 1), load_l(program, 1, 0, 1)
        operands, starts = load_l(program, 2, 0, 1), load_l(program, 3, 0, 1)
        divided = load_l(program, 4, 0, 1)
        for k in range(first, last):
            kernel, o = load_l(kernels, k, 0, 1), operands + 4 * load_i(starts, k, 0, 1)
            count = load_l(divided, 2 * k, 0, 1)
            if count:
                chunks(kernel, addresses, o, load_l(divided, 2 * k + 1, 0, 1), count)
                _call_part(kernel, addresses, o, 0, 0, -1)
            else:
                _call(kernel, addresses, o)

    return run


def _chunk_after_chunk(kernel: int, addresses: int, operands: int, extent: int, count: int) -> None:
    for chunk in range(count):
        _call_part(kernel, addresses, operands, chunk * extent // count, (chunk + 1) * extent // count, chunk)


def _chunks_in_threads(kernel: int, addresses: int, operands: int, extent: int, count: int) -> None:
    for chunk in prange(count):
        _call_part(kernel, addresses, operands, chunk * extent // count, (chunk + 1) * extent // count, chunk)


load_i, load_l = LOADS["load_i"], LOADS["load_l"]
_RUN, _CHUNKS = types.void(*[types.int64] * 3), types.void(*[types.int64] * 5)
#: Runs kernels of a program one after the other.
run = compiled(_RUN, _loop(njit(_CHUNKS, inline="always")(_chunk_after_chunk)))


@functools.cache
def run_in_threads() -> Any:
    """As `run`, but threads share the chunks of a kernel; made when first used, as that takes a second."""
    return compiled(_RUN, _loop(compiled(_CHUNKS, _chunks_in_threads, parallel=True)))


# Numba's threads serve one caller at a time, and do not live on in a process that was forked.
_threads = threading.Lock()
_forked: list[bool] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _forked.append(True))


def has_threads() -> bool:
    """Whether there are threads to share chunks."""
    return numba.get_num_threads() > 1 and not _forked


def runner(divided: bool) -> Callable[[int, int, int], None]:
    """What runs kernels of a program, some of them in chunks if `divided`."""

    def shared(program: int, first: int, last: int) -> None:
        if has_threads():
            with _threads:
                run_in_threads()(program, first, last)
        else:
            run(program, first, last)

    return shared if divided else run


def address_of(array: np.ndarray[Any, Any]) -> int:
    """Where an array's data begins."""
    return int(array.__array_interface__["data"][0])
