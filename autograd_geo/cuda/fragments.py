"""What kernels are made of beside plain `numba.cuda`: loads and stores of up to 16 bytes, products of fragments.

A kernel gets its buffers as int64 addresses, one argument each, and so global memory is read and written at addresses
in bytes. A fragment is a tuple of scalars, which stays in registers. In names, `f4` and `f8` are the dtypes and `x4`,
`x2` the elements of a fragment: `load_f4x4(address)`, `store_f8(address, value)`. Shared arrays are read and written by
`read4(array, index)` and `write4(array, index, values)`, at an element's index.

`namespace()` gives these names, and those of `words`, as they run here: as intrinsics of `numba.cuda`, or, in its
simulator, as the functions of `simulated.py`.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir

from .words import common_words

#: The address spaces of NVPTX (https://docs.nvidia.com/cuda/nvvm-ir-spec/index.html#address-space).
GLOBAL = 1
DTYPES = {"f4": "float32", "f8": "float64"}
BYTES = {"f4": 4, "f8": 8}
#: Elements in 16 bytes, the most that one instruction loads.
WIDTH = {"f4": 4, "f8": 2}


def is_simulated() -> bool:
    """Whether Numba was told to simulate a device: NUMBA_ENABLE_CUDASIM=1 when it was imported."""
    from numba.core import config

    return bool(vars(config)["ENABLE_CUDASIM"])


@functools.cache
def namespace() -> dict[str, Any]:
    """The names that kernels use, for the device, or for the simulator if Numba was told to simulate one."""
    if is_simulated():
        from . import simulated

        return {**common_words(True), **simulated.names()}
    from numba.cuda import types
    from numba.cuda.extending import intrinsic

    from . import tensor_cores

    scalars = {dtype: getattr(types, dtype) for dtype in ("int32", *DTYPES.values())}
    return {
        **common_words(False),
        **scalars,
        **intrinsics(intrinsic, types),
        **tensor_cores.intrinsics(intrinsic, types),
    }


def intrinsics(intrinsic: Any, types: Any) -> dict[str, Any]:
    """The names, made by the decorator `intrinsic` of a target, whose types are in the module `types`."""
    return {
        **_memory(intrinsic, types),
        **_shared(intrinsic, types),
        **_arithmetic(intrinsic, types),
    }


def _element(char: str) -> ir.Type:
    return ir.FloatType() if char == "f4" else ir.DoubleType()


def _packed(builder: Any, vector: Any, as_type: Any) -> Any:
    """A vector's elements as the aggregate that Numba uses for a tuple."""
    out = ir.Constant(as_type, ir.Undefined)
    for k in range(vector.type.count):
        out = builder.insert_value(out, builder.extract_element(vector, ir.IntType(32)(k)), k)
    return out


def _vector(builder: Any, values: Any, element: Any, count: int) -> Any:
    out = ir.Constant(ir.VectorType(element, count), ir.Undefined)
    for k in range(count):
        out = builder.insert_element(out, builder.extract_value(values, k), ir.IntType(32)(k))
    return out


def _memory(intrinsic: Any, types: Any) -> dict[str, Any]:
    names = {}
    for char, dtype in DTYPES.items():
        for count in sorted({1, 2, WIDTH[char]}):
            name = char if count == 1 else f"{char}x{count}"
            names[f"load_{name}"] = _load(intrinsic, types, char, getattr(types, dtype), count)
            names[f"store_{name}"] = _store(intrinsic, types, char, getattr(types, dtype), count)
    return names


def _load(intrinsic: Any, types: Any, char: str, scalar: Any, count: int) -> Any:
    kind = _element(char) if count == 1 else ir.VectorType(_element(char), count)
    result = scalar if count == 1 else types.UniTuple(scalar, count)

    @intrinsic
    def load(typing: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = builder.load(builder.inttoptr(args[0], kind.as_pointer(GLOBAL)))
            value.align = BYTES[char] * count
            return value if count == 1 else _packed(builder, value, context.get_value_type(result))

        return result(types.int64), generate

    return load


def _store(intrinsic: Any, types: Any, char: str, scalar: Any, count: int) -> Any:
    kind = _element(char) if count == 1 else ir.VectorType(_element(char), count)
    given = scalar if count == 1 else types.UniTuple(scalar, count)

    @intrinsic
    def store(typing: Any, address: Any, values: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = args[1] if count == 1 else _vector(builder, args[1], _element(char), count)
            pointer = builder.inttoptr(args[0], kind.as_pointer(GLOBAL))
            builder.store(value, pointer).align = BYTES[char] * count
            return context.get_dummy_value()

        return types.void(types.int64, given), generate

    return store


def _shared(intrinsic: Any, types: Any) -> dict[str, Any]:
    names = {}
    for count in (1, 2, 4):
        names[f"write{count}"] = _write(intrinsic, types, count)
        names[f"read{count}"] = _read(intrinsic, types, count)
    return names


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """An element's address, without Numba's test for indices below 0."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index], inbounds=True)


def _read(intrinsic: Any, types: Any, count: int) -> Any:
    @intrinsic
    def read(typing: Any, array: Any, index: Any) -> Any:
        result = array.dtype if count == 1 else types.UniTuple(array.dtype, count)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _pointer(context, builder, array, *args)
            if count == 1:
                return builder.load(pointer)
            kind = ir.VectorType(context.get_value_type(array.dtype), count)
            value = builder.load(builder.bitcast(pointer, kind.as_pointer(pointer.type.addrspace)))
            value.align = 16
            return _packed(builder, value, context.get_value_type(result))

        return result(array, types.int64), generate

    return read


def _write(intrinsic: Any, types: Any, count: int) -> Any:
    @intrinsic
    def write(typing: Any, array: Any, index: Any, values: Any) -> Any:
        given = array.dtype if count == 1 else types.UniTuple(array.dtype, count)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _pointer(context, builder, array, *args[:2])
            if count == 1:
                builder.store(args[2], pointer)
            else:
                element = context.get_value_type(array.dtype)
                kind = ir.VectorType(element, count).as_pointer(pointer.type.addrspace)
                vector = _vector(builder, args[2], element, count)
                builder.store(vector, builder.bitcast(pointer, kind)).align = 16
            return context.get_dummy_value()

        return types.void(array, types.int64, given), generate

    return write


def _arithmetic(intrinsic: Any, types: Any) -> dict[str, Any]:
    @intrinsic
    def outer(typing: Any, acc: Any, a: Any, b: Any) -> Any:
        """acc[i * len(b) + j] + a[i] * b[j] for each i and j, each rounded once."""
        columns = len(b)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = context.get_value_type(acc.dtype)
            suffix = "f32" if kind == ir.FloatType() else "f64"
            # declare_intrinsic() gives it a wrong type.
            fma = builder.module.globals.get(f"llvm.fma.{suffix}") or ir.Function(
                builder.module, ir.FunctionType(kind, [kind] * 3), f"llvm.fma.{suffix}"
            )
            out, left, right = args
            for k in range(len(acc)):
                x, y = builder.extract_value(left, k // columns), builder.extract_value(right, k % columns)
                out = builder.insert_value(out, builder.call(fma, [x, y, builder.extract_value(out, k)]), k)
            return out

        return acc(acc, a, b), generate

    return {"outer": outer}
