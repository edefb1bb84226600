"""Einsum signatures: make them explicit, transpose them, and run them on matrix products where they are one."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
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


def product_shape(
    signatures: Sequence[str], shapes: Sequence[tuple[int, ...]], attrs: Mapping[str, Any]
) -> tuple[int, ...]:
    """The shape of a product by the first signature that fits, or by the attribute `subscripts` if there are none."""
    ndims = tuple([len(s) for s in shapes])
    head, out = (choose(signatures, ndims) if signatures else explicit(attrs["subscripts"], ndims)).split("->")
    lengths: dict[str, int] = {}
    for labels, shape in zip(head.split(","), shapes, strict=True):
        for c, n in zip(labels, shape, strict=True):
            lengths[c] = max(n, lengths.get(c, 0))
    return tuple([lengths[c] for c in out])


def contracts_last(signature: str) -> bool:
    """Whether a signature of two sums over the last axis of the first, which the other has too."""
    x, _, rest = signature.partition(",")
    y, _, out = rest.partition("->")
    return x[-1] in y and x[-1] not in out


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


@lru_cache(maxsize=1024)
def contraction(signature: str) -> Callable[..., Any]:
    """The function of arrays that an explicit einsum signature means, through BLAS where it is a matrix product."""
    return _product(signature) or (lambda *operands: np.einsum(signature, *operands, optimize=len(operands) > 2))


def as_product(a: str, b: str, out: str) -> tuple[list[str], list[str], list[str], list[str]] | None:
    """The labels of a contraction of two as (batch, rows, inner, columns), None if it is no matrix product."""
    if len(set(a)) < len(a) or len(set(b)) < len(b) or len(set(out)) < len(out):
        return None
    shared = set(a) & set(b)
    batch = [c for c in out if c in shared]
    inner = [c for c in a if c in shared and c not in out]
    rows = [c for c in out if c in a and c not in shared]
    columns = [c for c in out if c in b and c not in shared]
    if not inner or len(a) != len(batch + rows + inner) or len(b) != len(batch + inner + columns):
        return None
    return batch, rows, inner, columns


def _product(signature: str) -> Callable[[Any, Any], Any] | None:
    """A contraction of two operands as a (batched) matrix product, or None if it is not one."""
    head, out = signature.split("->")
    a, _, b = head.partition(",")
    groups = None if "," in b else as_product(a, b, out)
    if groups is None:
        return None
    batch, rows, inner, columns = groups
    left = [a.index(c) for c in batch + rows + inner]
    right = [b.index(c) for c in batch + inner + columns]
    order = [(batch + rows + columns).index(c) for c in out]
    if len(a) == len(b) == len(out) == 2:
        return _matrices(signature, *(axes == [1, 0] for axes in (left, right, order)))
    front, split = len(batch), len(batch) + len(rows)

    def run(x: Any, y: Any) -> Any:
        x, y = x.transpose(left), y.transpose(right)
        if x.shape[split:] != y.shape[front : front + len(inner)]:
            return np.einsum(signature, x.transpose(np.argsort(left)), y.transpose(np.argsort(right)))
        row_shape, column_shape = x.shape[front:split], y.shape[front + len(inner) :]
        x = x.reshape((*x.shape[:front], prod(row_shape), prod(x.shape[split:])))
        y = y.reshape((*y.shape[:front], x.shape[-1], prod(column_shape)))
        z = np.matmul(x, y)
        return z.reshape((*z.shape[:front], *row_shape, *column_shape)).transpose(order)

    return run


def _matrices(signature: str, left: bool, right: bool, out: bool) -> Callable[[Any, Any], Any]:
    """The product of two matrices, either and the result transposed or not."""

    def run(x: Any, y: Any) -> Any:
        a, b = x.T if left else x, y.T if right else y
        if a.shape[1] != b.shape[0]:
            return np.einsum(signature, x, y)  # which broadcasts, or says what does not fit
        return np.dot(a, b).T if out else np.dot(a, b)

    return run
