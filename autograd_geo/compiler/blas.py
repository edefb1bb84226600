"""Large matrix products: BLAS, called through the pointers that SciPy exports."""

from __future__ import annotations

import functools
from typing import Any, cast

import numpy as np
from llvmlite import ir
from numba import cfunc, types
from numba.extending import get_cython_function_address, intrinsic

from .kernels import Kernel
from .machine import SIGNATURE
from .nodes import Node

# What a product's parameters are, as 64-bit words: BLAS takes pointers to them.
_FUNCTION, _BATCH, _COLUMNS, _ROWS, _INNER, _ONE, _ZERO, _TURN_B, _TURN_A, _STEP_B, _STEP_A, _STEP_C = range(12)
_NEXT_A, _NEXT_B, _NEXT_C, _COUNT = range(12, 16)


def parameters(node: Node) -> np.ndarray[Any, Any]:
    """The parameters of a product node (batch, m, k, n, and whether each operand lies transposed)."""
    batch, m, k, n, turned_a, turned_b = node.data
    double = node.dtype == np.float64
    words = np.zeros(_COUNT, np.int64)
    words[_FUNCTION] = get_cython_function_address("scipy.linalg.cython_blas", "dgemm" if double else "sgemm")
    words[_BATCH], words[_COLUMNS], words[_ROWS], words[_INNER] = batch, n, m, k
    words[_ONE : _ONE + 1].view(node.dtype)[0] = 1
    # Our rows are BLAS's columns: it computes the transpose of c, from those of b and a.
    words[_TURN_B], words[_TURN_A] = (ord("T" if turned else "N") for turned in (turned_b, turned_a))
    words[_STEP_B], words[_STEP_A], words[_STEP_C] = k if turned_b else n, m if turned_a else k, n
    words[_NEXT_A : _NEXT_C + 1] = np.array([m * k, k * n, m * n]) * node.dtype.itemsize
    return words


_intrinsic: Any = intrinsic


@_intrinsic
def _word(typingctx: Any, address: Any, k: Any) -> Any:
    def code(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.load(builder.gep(pointer, [args[1]]))

    return types.int64(types.int64, types.int64), code


@_intrinsic
def _gemm(typingctx: Any, function: Any, a: Any, b: Any, c: Any, words: Any) -> Any:
    def code(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        function, a, b, c = (builder.inttoptr(x, byte) for x in args[:4])
        at = [builder.inttoptr(builder.add(args[4], ir.Constant(ir.IntType(64), 8 * k)), byte) for k in range(_COUNT)]
        passed = [at[_TURN_B], at[_TURN_A], at[_COLUMNS], at[_ROWS], at[_INNER], at[_ONE], b, at[_STEP_B], a,
                  at[_STEP_A], at[_ZERO], c, at[_STEP_C]]  # fmt: skip
        kind = ir.FunctionType(ir.VoidType(), [byte] * len(passed))
        builder.call(builder.bitcast(function, kind.as_pointer()), passed)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), code


@functools.cache
def product() -> Kernel:
    """The kernel of all products: operands a, b, c and the parameters."""

    def multiply(addresses: Any, o: Any) -> None:
        a, b, c, words = addresses[o[0]], addresses[o[1]], addresses[o[2]], addresses[o[3]]
        for _ in range(_word(words, _BATCH)):
            _gemm(_word(words, _FUNCTION), a, b, c, words)
            a, b, c = a + _word(words, _NEXT_A), b + _word(words, _NEXT_B), c + _word(words, _NEXT_C)

    function = cfunc(SIGNATURE)(multiply)
    return Kernel(cast(int, function.address), "BLAS gemm", 0.0, function)
