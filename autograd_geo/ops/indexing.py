"""Reading and writing parts of a tensor by index."""

from __future__ import annotations

import operator
from math import prod
from typing import Any

import numpy as np

from ..cuda.array import DeviceArray
from ..declare import custom, linear, sample
from ..op import composite
from ..tape import TRACING, mode, tracer
from ..tensor import Tensor, tensor
from ..value import NUMBERS, from_user, refuse_masked
from ..views import note_view
from .elementary import where
from .shape import moveaxis, ravel, reshape


def _plain(index: Any) -> Any:
    """An index in NumPy's terms, private to the tape: tensors and lists become arrays."""
    if type(index) is int or index is None or index is Ellipsis:
        return index
    if isinstance(index, np.integer):
        return int(index)
    if isinstance(index, tuple):
        return tuple([_plain(i) for i in index])
    if isinstance(index, slice):
        ends = index.start, index.stop, index.step
        for i in ends:
            if i is not None and type(i) is not int:
                return slice(*[None if i is None else operator.index(i) for i in ends])
        return index
    if isinstance(index, Tensor):
        if index.requires_grad:
            raise TypeError("a tensor that requires a gradient cannot be an index; round it, and take .detach()")
        return index.numpy()
    if isinstance(index, np.ndarray) and mode() & TRACING:
        tracer().guard_array(index)
    refuse_masked(index)
    array = np.array(index)
    return array.astype(np.intp) if array.size == 0 and array.dtype.kind == "f" else array


def _may_repeat(index: Any) -> bool:
    """Whether an index may reach one element twice: only arrays of integers do."""
    if type(index) is int or type(index) is slice:
        return False
    parts = index if type(index) is tuple else (index,)
    return any(isinstance(i, np.ndarray) and i.dtype.kind != "b" for i in parts)


def _scatter(g: Any, shape: tuple[int, ...], index: Any) -> Any:
    z = np.zeros(shape, g.dtype if isinstance(g, np.ndarray) else np.float64)
    if _may_repeat(index):
        np.add.at(z, index, g)
    else:
        z[index] = g
    return z


_ROWS = np.array([0, 2, 2, -1])


@linear(
    _scatter, method=False, moves=True, selects=True, symbol="[ ]", latex=r"(\cdot)_{[i]}", reference="x[index]",
    samples=(
        sample((4,), index=1), sample((4, 3), index=-1), sample((5,), index=slice(None, None, 2)),
        sample((4, 3), index=(slice(3, 0, -1), 1)), sample((2, 3, 4), index=(Ellipsis, 2)),
        sample((3,), index=(None, slice(None))), sample((4, 3), index=_ROWS), sample((3,), index=np.array([], int)),
        sample((3, 4), index=(slice(None), _ROWS)), sample((3, 4), index=(np.array([0, 1, 0]), np.array([1, 1, 1]))),
        sample((2, 3), index=np.array([[True, False, True], [False, False, True]])),
        sample((4, 3), index=np.array([True, False, True, True])),
    ),
)  # fmt: skip
def getitem(x: Any, /, index: Any) -> Any:
    """`x[index]`: integers, slices, ellipsis, new axes, integer and boolean arrays, as in NumPy."""
    return x[index]


def _read(x: Tensor, index: Any) -> Tensor:
    """`x[index]`, for indices as users write them."""
    if mode() & TRACING and (parts := _positions(x, index)) is not None:
        return _read_at(x, parts)
    z = getitem(x, plain := _plain(index))
    value, source = z._value, x._value
    if type(source) is DeviceArray:
        indices: tuple[Any, ...] = plain if type(plain) is tuple else (plain,)
        basic = all(i is None or i is Ellipsis or type(i) in (int, slice) for i in indices)
        if basic and (z.shape or any(i is Ellipsis for i in indices)):
            note_view(x, z)
    elif type(value) is not float and type(source) is not float and (base := value.base) is not None:
        if base is source or base is source.base:
            note_view(x, z)
    elif index is Ellipsis or (type(index) is tuple and len(index) > x.ndim and not z.shape):
        note_view(x, z)  # one element, but read with an ellipsis
    return z


Tensor.__getitem__ = _read


def _positions(x: Tensor, index: Any) -> list[Any] | None:
    """An index by tensors of integers, one part for each axis; None for other indices.

    Where a recorded function gets such tensors as input, they are read anew in each call.
    """
    parts = list(index) if isinstance(index, tuple) else [index]
    if not any(isinstance(i, Tensor) and i.dtype.kind in "iu" for i in parts):
        return None
    if Ellipsis in (dots := [i for i in parts if i is Ellipsis or i is None]):
        k = next(k for k, i in enumerate(parts) if i is Ellipsis)
        parts[k : k + 1] = [slice(None)] * (x.ndim - len(parts) + 1)
    parts += [slice(None)] * (x.ndim - len(parts))
    whole = [i if isinstance(i, slice | Tensor) else np.asarray(i) for i in parts]
    if (
        len(dots) > 1
        or len(parts) > x.ndim
        or any(not isinstance(i, slice) and i.dtype.kind not in "iu" for i in whole)
    ):
        return None
    return whole


def _read_at(x: Tensor, parts: list[Any]) -> Tensor:
    """`x[parts]`: what is sliced first, then one position for all axes that are indexed by integers."""
    getitem.op.shape(x.shape, index=tuple([_value(i) for i in parts]))  # type: ignore[attr-defined]  # may raise
    x = getitem(x, _plain(tuple([i if isinstance(i, slice) else slice(None) for i in parts])))
    axes = [a for a, i in enumerate(parts) if not isinstance(i, slice)]
    first = axes[0] if axes[-1] - axes[0] < len(axes) else 0  # NumPy puts them in front if a slice is between them
    x = moveaxis(x, tuple(axes), tuple(range(first, first + len(axes))))
    lengths, position = x.shape[first : first + len(axes)], None
    for a, n in zip(axes, lengths, strict=True):
        i = parts[a].astype(np.intp)
        _stay_within(i, n)
        i = i if len(axes) == 1 else where(i < 0, i + n, i)
        position = i if position is None else position * n + i
    rest = x.shape[first + len(axes) :]
    return _take(reshape(x, (*x.shape[:first], prod(lengths), *rest)), position, first)


def _value(index: Any) -> Any:
    return index._value if isinstance(index, Tensor) else index


def _stay_within(indices: Any, length: int) -> None:
    """While a function is recorded: the recording holds as long as indices fit (else the next one raises)."""
    if mode() & TRACING and isinstance(indices, Tensor) and indices.size:
        bool(((indices >= -length) & (indices < length)).min())


def _kept(g: Any, index: Any) -> Any:
    mask = np.zeros(g.shape, bool)
    mask[index] = True
    return np.where(mask, 0.0, g)


def _written(g: Any, shape: tuple[int, ...], shapes: Any, index: Any) -> Any:
    part = g[index]
    if 0 in shape:
        return np.reshape(part, shape)  # NumPy writes nothing, of whatever shape
    if len(shape) > len(part.shape):  # NumPy drops leading axes of length one
        part = np.reshape(part, (1,) * (len(shape) - len(part.shape)) + part.shape)
    if not _may_repeat(index):
        return part
    order = np.full(shapes[0], -1)  # where an element is written twice, the last write is the one that holds
    mine = np.arange(order[index].size).reshape(order[index].shape)
    order[index] = mine
    return np.where((order[index] == mine).reshape(part.shape), part, 0.0)


@custom(
    x=lambda g, index: _kept(g, index), value=_written, method=False, moves=True, selects=True, symbol="[ ]=",
    samples=(
        sample((4,), (), index=1), sample((4, 3), (3,), index=0), sample((4, 3), (1, 3), index=0),
        sample((5,), (3,), index=slice(None, None, 2)),
        sample((4, 3), (2, 1), index=(slice(1, 3), slice(None))), sample((4, 3), (4, 3), index=_ROWS),
        sample((2, 3), (3,), index=np.array([[True, False, True], [False, False, True]])),
    ),
)  # fmt: skip
def setitem(x: Any, value: Any, /, index: Any) -> Any:
    """A copy of x with `value` at `index`: what `x[index] = value` records."""
    if x.dtype.kind not in "fc" and np.asarray(value).dtype.kind == "f":
        raise TypeError(f"writing {np.asarray(value).dtype} into {x.dtype} would cut it; use x.astype(float) first")
    z = np.array(x)
    z[index] = value
    return z


def _write(x: Tensor, index: Any, value: Any) -> None:
    """`x[index] = value`: x moves on to the result; without a tape, in its own buffer where nobody else sees it."""
    x.refuse_as_view("x[...] = v")
    index = _plain(index)
    on_device = x.device != "cpu"
    if on_device or x.requires_grad or (isinstance(value, Tensor) and value.requires_grad) or mode() & TRACING:
        return x._become(setitem(x, value, index), "x[...] = v")
    raw = value.numpy() if isinstance(value, Tensor) else value if type(value) in NUMBERS else from_user(value)
    target = x.buffer()
    if target is not x._value:
        target[...] = x._value
    target[index] = raw
    x.hold(target)


Tensor.__setitem__ = _write


def _untake(g: Any, shape: tuple[int, ...], indices: Any, axis: int) -> Any:
    z = np.zeros(shape, g.dtype)
    where = np.moveaxis(z, axis, 0)
    lead = axis % len(shape)
    g = np.moveaxis(g, tuple(range(lead, lead + indices.ndim)), tuple(range(indices.ndim)))
    np.add.at(where, indices, g)
    return z


@linear(
    _untake, method=False, selects=True, reference="np.take(x, indices, axis)",
    samples=(sample((4, 3), _ROWS, axis=0), sample((4, 3), np.array([[0, 2], [1, 1]]), axis=1)),
)  # fmt: skip
def _take(x: Any, indices: Any, /, axis: int) -> Any:
    """See `take`."""
    return np.take(x, indices, axis)


@composite()
def take(x: Any, indices: Any, axis: int | None = None) -> Tensor:
    """Elements at integer positions along `axis`; of the flattened tensor if None. Raises IndexError outside."""
    indices = indices if isinstance(indices, Tensor) else tensor(indices)
    if indices.dtype.kind not in "iub" and indices.size:
        raise TypeError(f"take: indices are integers, not {indices.dtype}")
    indices = indices.astype(np.intp)
    x, axis = (ravel(x), 0) if axis is None else (x, axis)
    z = _take(x, indices, axis)
    _stay_within(indices, np.shape(x)[axis])
    return z


def _untake_along(g: Any, shape: tuple[int, ...], indices: Any, axis: int) -> Any:
    z = np.zeros(shape, g.dtype)
    grid = list(np.ogrid[tuple(slice(n) for n in g.shape)])
    grid = [i if n > 1 else np.zeros_like(i) for i, n in zip(grid, shape, strict=True)]  # an axis of one broadcasts
    grid[axis] = indices
    np.add.at(z, tuple(grid), g)
    return z


@linear(
    _untake_along, method=False, selects=True, reference="np.take_along_axis(x, indices, axis)",
    samples=(sample((3, 4), np.array([[0, 0], [1, 3], [2, 2]]), axis=1),
             sample((3, 4), np.array([[0, 2, 1, 0]]), axis=0), sample((1, 4), np.array([[0, 0], [1, 3]]), axis=1)),
)  # fmt: skip
def _take_along_axis(x: Any, indices: Any, /, axis: int) -> Any:
    """See `take_along_axis`."""
    return np.take_along_axis(x, indices, axis)


@composite()
def take_along_axis(x: Any, indices: Any, axis: int | None = -1) -> Tensor:
    """One element per position along `axis`, chosen by `indices` of x's dimensions, as `argsort` returns them.

    Raises IndexError for positions outside, or for indices that are not integers.
    """
    x, axis = (ravel(x), 0) if axis is None else (x, axis)
    indices = indices if isinstance(indices, Tensor) else tensor(indices)
    z = _take_along_axis(x, indices, axis)
    _stay_within(indices.astype(np.intp), np.shape(x)[axis])
    return z


# --- order --------------------------------------------------------------------------------------------------------


@custom(samples=(sample((5,)), sample((3, 4)), sample((3, 4), axis=0)))
def argsort(x: Any, /, axis: int = -1, kind: str | None = None) -> Any:
    """The indices that sort along `axis`, equal elements in the order they have; integers carry no gradient.

    `kind` is NumPy's; the order is stable whatever it says.
    """
    return np.argsort(x, axis=axis, kind="stable")


def _sorted_back(g: Any, x: Any, axis: int | None) -> Any:
    if axis is None:
        return np.reshape(_sorted_back(g, np.ravel(x), 0), x.shape)
    order = np.argsort(x, axis=axis, kind="stable")
    return np.take_along_axis(g, np.argsort(order, axis=axis, kind="stable"), axis=axis)


@custom(
    x=_sorted_back, selects=True,
    samples=(sample((5,)), sample((3, 4)), sample((3, 4), axis=0), sample((3, 4), axis=None)),
)  # fmt: skip
def sort(x: Any, /, axis: int | None = -1) -> Any:
    """The elements in ascending order along `axis` (None: all of them), NaN last.

    Each gets the gradient of the place it came to.
    """
    return np.sort(x, axis=axis, kind="stable")
