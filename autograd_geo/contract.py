"""Einsum signatures: make them explicit, transpose them, and run them on matrix products where they are one."""

from __future__ import annotations

import string
from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np


@lru_cache(maxsize=1024)
def explicit(signature: str, ndims: tuple[int, ...]) -> str:
    """The signature without spaces, ellipses and implicit output, for operands of these dimensions.

    Raises ValueError for a signature that does not fit them.
    """
    signature = signature.replace(" ", "")
    head, arrow, out = signature.partition("->")
    operands = head.split(",")
    if len(operands) != len(ndims):
        raise ValueError(f"the signature {signature!r} has {len(operands)} operands, given are {len(ndims)}")
    extra = [n - len(s.replace("...", "")) for s, n in zip(operands, ndims, strict=True)]
    for s, n, e in zip(operands, ndims, extra, strict=True):
        if e < 0 or (e > 0 and "..." not in s):
            raise ValueError(f"the signature {signature!r} expects {s!r}, given is an operand of {n} dimensions")
    spare = [c for c in string.ascii_letters if c not in signature]
    widest = max((e for s, e in zip(operands, extra, strict=True) if "..." in s), default=0)
    dots = "".join(spare[:widest])
    operands = [s.replace("...", dots[widest - e :]) for s, e in zip(operands, extra, strict=True)]
    if arrow:
        out = out.replace("...", dots)
    else:
        labels = "".join(operands)
        out = dots + "".join(c for c in sorted(set(labels)) if labels.count(c) == 1 and c not in dots)
    return ",".join(operands) + "->" + out


def choose(signatures: Sequence[str], ndims: tuple[int, ...]) -> str:
    """The first of several signatures that fits operands of these dimensions, made explicit."""
    for signature in signatures:
        try:
            return explicit(signature, ndims)
        except ValueError:
            continue
    raise ValueError(f"operands of {' and '.join(map(str, ndims))} dimensions do not fit {' or '.join(signatures)}")


class Transposed(NamedTuple):
    """A signature for the cotangent of one operand: operands are g, the others, then the constants."""

    signature: str
    others: tuple[int, ...]
    ones: str  # labels of an operand of ones: summed in this operand alone, so spread back
    eyes: tuple[str, ...]  # labels of identity matrices: a repeated index, so back onto the diagonal


@lru_cache(maxsize=1024)
def transposed(signature: str, k: int) -> Transposed:
    """The signature of the transpose with respect to operand k of an explicit signature: swap g and operand k."""
    head, out = signature.split("->")
    operands = head.split(",")
    mine = operands[k]
    others = tuple(j for j in range(len(operands)) if j != k)
    fresh = iter([c for c in string.ascii_letters if c not in signature])
    target, eyes = "", []
    for c in mine:
        if c in target:
            eyes.append(c + (d := next(fresh)))
            target += d
        else:
            target += c
    have = set(out).union(*(operands[j] for j in others))
    ones = "".join(dict.fromkeys(c for c in mine if c not in have))
    parts = [out, *(operands[j] for j in others), *([ones] if ones else []), *eyes]
    return Transposed(",".join(parts) + "->" + target, others, ones, tuple(eyes))


def constants(plan: Transposed, signature: str, k: int, shape: tuple[int, ...], dtype: Any) -> list[Any]:
    """The ones and identities that `plan` asks for, sized for operand k of this shape."""
    size = dict(zip(signature.split("->")[0].split(",")[k], shape, strict=True))
    arrays = [np.ones([size[c] for c in plan.ones], dtype)] if plan.ones else []
    return arrays + [np.eye(size[pair[0]], dtype=dtype) for pair in plan.eyes]


class _Product(NamedTuple):
    left: tuple[int, ...]  # axes of the first operand in the order batch, rows, inner
    right: tuple[int, ...]  # axes of the second operand in the order batch, inner, columns
    batch: int
    rows: int
    inner: int
    out: tuple[int, ...]  # axes that bring (batch, rows, columns) to the output's order
    plain: bool  # one axis each of rows, inner and columns: nothing to merge


@lru_cache(maxsize=1024)
def _as_product(signature: str) -> _Product | None:
    """How a contraction of two operands is a (batched) matrix product, or None if it is not."""
    head, out = signature.split("->")
    a, b = head.split(",")
    if len(set(a)) < len(a) or len(set(b)) < len(b) or len(set(out)) < len(out):
        return None
    shared = set(a) & set(b)
    batch = [c for c in out if c in shared]
    inner = [c for c in a if c in shared and c not in out]
    rows = [c for c in out if c in a and c not in shared]
    columns = [c for c in out if c in b and c not in shared]
    if not inner or len(a) != len(batch + rows + inner) or len(b) != len(batch + inner + columns):
        return None
    order = batch + rows + columns
    return _Product(
        tuple(a.index(c) for c in batch + rows + inner),
        tuple(b.index(c) for c in batch + inner + columns),
        len(batch),
        len(rows),
        len(inner),
        tuple(order.index(c) for c in out),
        len(rows) == len(inner) == len(columns) == 1,
    )


def contract(signature: str, *operands: Any) -> Any:
    """Evaluate an explicit einsum signature on arrays, through BLAS where it is a matrix product."""
    product = _as_product(signature) if len(operands) == 2 else None
    if product is None:
        return np.einsum(signature, *operands, optimize=len(operands) > 2)
    a, b = operands[0].transpose(product.left), operands[1].transpose(product.right)
    batch, rows, inner = product.batch, product.rows, product.inner
    if a.shape[batch + rows :] != b.shape[batch : batch + inner]:
        return np.einsum(signature, *operands)  # which broadcasts, or says what does not fit
    if product.plain:
        return np.matmul(a, b).transpose(product.out)
    row_shape, column_shape = a.shape[batch : batch + rows], b.shape[batch + inner :]
    a = a.reshape((*a.shape[:batch], prod(row_shape), prod(a.shape[batch + rows :])))
    b = b.reshape((*b.shape[:batch], a.shape[-1], prod(column_shape)))
    z = np.matmul(a, b)
    return z.reshape((*z.shape[:batch], *row_shape, *column_shape)).transpose(product.out)
