"""The intrinsics of tensor cores: `mma_tf32`, `mma_tf32x3`, `mma_bf16` add a warp's product to its sums.

Their arguments are tuples of float32, what a lane holds: of sums 4 words for each 16 rows by 8 columns, of a 4 for each
16 rows, of b 2 for each 8 columns. `tf32` rounds to a word of TF32; `pack` makes a word of two bfloat16. They are
inline PTX: `warp_products.py` has the sources.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

_F4, _I4 = ir.FloatType(), ir.IntType(32)


def _round(builder: Any, x: Any) -> Any:
    """The bits of float32 x rounded to TF32."""
    return builder.asm(ir.FunctionType(_I4, [_F4]), "cvt.rna.tf32.f32 $0, $1;", "=r,f", [x], False)


def _multiply(builder: Any, name: str, a: Any, b: Any, c: Any) -> list[Any]:
    kind = ir.FunctionType(ir.LiteralStructType([_F4] * 4), [_I4] * 6 + [_F4] * 4)
    text = f"mma.sync.aligned.{name} {{$0,$1,$2,$3}}, {{$4,$5,$6,$7}}, {{$8,$9}}, {{$10,$11,$12,$13}};"
    result = builder.asm(kind, text, "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f", [*a, *b, *c], True)
    return [builder.extract_value(result, q) for q in range(4)]


def _registers(builder: Any, precision: str, values: list[Any]) -> list[list[Any]]:
    """Operands as registers: of float32 in TF32 also, second, what rounding has left, cut off."""
    if precision != "tf32x3":  # rounded before
        return [[builder.bitcast(x, _I4) for x in values]]
    large = [_round(builder, x) for x in values]
    left = [builder.fsub(x, builder.bitcast(r, _F4)) for x, r in zip(values, large, strict=True)]
    return [large, [builder.and_(builder.bitcast(x, _I4), _I4(0xFFFFE000)) for x in left]]  # cheaper than to round


def intrinsics(intrinsic: Any, types: Any) -> dict[str, Any]:
    """The names, made by the decorator `intrinsic` of a target, whose types are in the module `types`."""

    def make(precision: str) -> Any:
        name = "m16n8k16.row.col.f32.bf16.bf16.f32" if precision == "bf16" else "m16n8k8.row.col.f32.tf32.tf32.f32"

        @intrinsic
        def mma(typing: Any, acc: Any, a: Any, b: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                out = args[0]
                left, right = (
                    _registers(builder, precision, [builder.extract_value(x, i) for i in range(len(kind))])
                    for x, kind in zip(args[1:], (a, b), strict=True)
                )
                # Small products first. What is smaller than they, of both remainders, is left out.
                orders = [(1, 0), (0, 1), (0, 0)] if precision == "tf32x3" else [(0, 0)]
                columns = len(right[0]) // 2
                for i in range(len(left[0]) // 4):
                    for j in range(columns):
                        first = (i * columns + j) * 4
                        sums = [builder.extract_value(out, first + q) for q in range(4)]
                        for x, y in orders:
                            parts = left[x][4 * i : 4 * i + 4], right[y][2 * j : 2 * j + 2]
                            sums = _multiply(builder, name, *parts, sums)
                        for q in range(4):
                            out = builder.insert_value(out, sums[q], first + q)
                return out

            return acc(acc, a, b), generate

        return mma

    @intrinsic
    def tf32(typing: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(_round(builder, args[0]), _F4)

        return types.float32(types.float32), generate

    @intrinsic
    def pack(typing: Any, low: Any, high: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = ir.FunctionType(_I4, [_F4, _F4])
            word = builder.asm(kind, "cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,f,f", args, False)
            return builder.bitcast(word, _F4)

        return types.float32(types.float32, types.float32), generate

    return {
        "tf32": tf32,
        "pack": pack,
        **{f"mma_{precision}": make(precision) for precision in ("tf32", "tf32x3", "bf16")},
    }
