"""Products: everything that is linear in each operand, by its einsum signature."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..declare import multilinear, sample
from ..op import composite
from ..tensor import Tensor
from ..views import note_view
from .elementary import multiply
from .shape import moveaxis, ravel

matmul = multilinear(
    "matmul(x, y)", "i,i->", "i,...ij->...j", "...ij,j->...i", "...ij,...jk->...ik", forward=np.matmul, symbol="@",
    doc="Matrix product by NumPy's rules: the last two axes are the matrices, the others broadcast; 1-D operands\n"
    "are a row on the left, a column on the right. Raises ValueError where the inner axes differ.",
    samples=(
        sample((3, 4), (4, 2)), sample((4,), (4,)), sample((4,), (4, 3)), sample((3, 4), (4,)),
        sample((2, 3, 4), (4, 2)), sample((2, 1, 3, 4), (5, 4, 2)), sample((4,), (2, 4, 3)), sample((2, 3, 4), (4,)),
    ),
)  # fmt: skip

dense = multilinear(
    "dense(x, weight)", "...i,oi->...o", symbol="Wx", method=False,
    forward=lambda x, weight: (np.dot if x.ndim <= 2 else np.matmul)(x, weight.T),
    doc="The weighted sums of a dense layer, x @ weight.T: x (..., inputs), weight (outputs, inputs).",
    reference="x @ weight.T", samples=(sample((5, 3), (2, 3)), sample((3,), (2, 3)), sample((2, 4, 3), (5, 3))),
)  # fmt: skip

_einsum = multilinear(
    "einsum(operands)", method=False, reference="np.einsum(subscripts, *operands)", symbol="Σ",
    doc="See `einsum`.",
    samples=(
        sample((3, 4), (4, 2), subscripts="ij,jk"), sample((3, 3), subscripts="ii"), sample((3, 3), subscripts="ii->i"),
        sample((2, 3), (3, 4), (4, 2), subscripts="ij,jk,kl->il"), sample((2, 3, 4), subscripts="...ij->...ji"),
        sample((2, 3), (3,), subscripts="ij,j->i"), sample((3, 4), subscripts="ij->"),
        sample((3,), (4,), subscripts="i,j->ji"),
        sample((2, 3, 4), (2, 4, 5), subscripts="bij,bjk->bik"), sample((2, 3, 3), (3,), subscripts="...ii,i->..."),
        sample((2, 3, 4), (5, 3, 4), subscripts="aij,bij->ba"), sample((2, 3), (4,), subscripts="ij,k->i"),
    ),
)  # fmt: skip


@composite(method=False)
def einsum(subscripts: str, *operands: Any) -> Tensor:
    """Einstein summation with NumPy's notation: implicit output, ellipsis and repeated indices included.

    Raises ValueError where the subscripts do not fit the operands.
    """
    if not isinstance(subscripts, str):
        raise TypeError("einsum: write the subscripts as a string, such as 'ij,jk->ik'")
    z = _einsum(*operands, subscripts=subscripts)
    if len(operands) == 1 and isinstance(x := operands[0], Tensor):
        small = np.ones((1,) * x.ndim)
        if np.may_share_memory(np.einsum(subscripts, small), small):
            note_view(x, z)  # axes in another order, or a diagonal
    return z


def _letters(count: int, skip: int = 0) -> str:
    return string.ascii_letters[skip : skip + count]


@composite(method=False)
def tensordot(x: Any, y: Any, axes: int | Sequence[Any] = 2) -> Tensor:
    """Sum of products over the given axes: the last `axes` of x with the first of y, or a pair of lists of axes."""
    m, n = np.ndim(x), np.ndim(y)
    if isinstance(axes, int | np.integer):
        left, right = list(range(m - axes, m)), list(range(axes))
    else:
        left, right = ([int(a)] if isinstance(a, int | np.integer) else list(a) for a in axes)
    if len(left) != len(right):
        raise ValueError(f"tensordot: {len(left)} axes of x cannot pair with {len(right)} of y")
    a, b = list(_letters(m)), list(_letters(n, m))
    for i, j in zip(left, right, strict=True):
        if np.shape(x)[i] != np.shape(y)[j]:
            raise ValueError(f"tensordot: axis {i} of shape {np.shape(x)} cannot pair with axis {j} of {np.shape(y)}")
        b[j] = a[i]
    out = [c for c in a if c not in b] + [c for c in b if c not in a]
    return _einsum(x, y, subscripts=f"{''.join(a)},{''.join(b)}->{''.join(out)}")


@composite()
def dot(x: Any, y: Any) -> Tensor:
    """NumPy's dot: inner product of vectors, matrix product of matrices, else over x's last and y's second-last."""
    m, n = np.ndim(x), np.ndim(y)
    if m == 0 or n == 0:
        return multiply(x, y)
    if m <= 2 and n <= 2:
        return matmul(x, y)
    return tensordot(x, y, (-1, -1 if n == 1 else -2))


@composite()
def outer(x: Any, y: Any) -> Tensor:
    """All products of an element of x with one of y, shape (x.size, y.size)."""
    return _einsum(ravel(x), ravel(y), subscripts="i,j->ij")


@composite()
def trace(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    """Sum of the diagonal of two axes, `offset` places above the main one."""
    x = moveaxis(x, (axis1, axis2), (0, 1))
    rows = np.arange(max(0, min(x.shape[0] + min(offset, 0), x.shape[1] - max(offset, 0))))
    diagonal: Tensor = x[rows - min(offset, 0), rows + max(offset, 0)]
    return diagonal.sum(axis=0)
