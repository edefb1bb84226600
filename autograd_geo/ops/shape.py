"""Moving data: shapes, axes, joining, repeating. All linear; each is given with its transpose."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from ..declare import custom, linear, sample
from ..op import composite
from ..tensor import Tensor, tensor
from ..value import checked_dtype, unmasked
from ..views import note_view

Axes = int | tuple[int, ...]


def view(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Mark a function whose result NumPy holds in the memory of its first argument."""

    @functools.wraps(function)
    def read(x: Any, *args: Any, **kwargs: Any) -> Tensor:
        z = function(x, *args, **kwargs)
        if isinstance(x, Tensor):
            note_view(x, z)
        return z

    return composite()(read)


@linear(
    lambda g, shape: np.reshape(g, shape),
    samples=(sample((3, 4), newshape=(2, 6)), sample((6,), newshape=(-1, 2))),
    method=False,
    reference="np.reshape(x, newshape)",
    moves=True,
)
def _reshape(x: Any, /, newshape: tuple[int, ...]) -> Any:
    """See `reshape`."""
    return np.reshape(x, newshape)


@view
def reshape(x: Any, *shape: Any) -> Tensor:
    """The same elements in another shape, in C order; one length may be -1. `x.reshape(2, 3)` works too."""
    given = shape[0] if len(shape) == 1 and not isinstance(shape[0], int | np.integer) else shape
    return _reshape(x, tuple(int(n) for n in given))


@view
def ravel(x: Any) -> Tensor:
    """All elements in one axis."""
    return _reshape(x, (-1,))


@composite()
def flatten(x: Any) -> Tensor:
    """All elements in one axis, as a copy."""
    return _reshape(x, (-1,))


@linear(
    lambda g, axes: np.transpose(g, None if axes is None else tuple(np.argsort(axes))),
    samples=(sample((3, 4)), sample((2, 3, 4), axes=(1, 2, 0))),
    latex=r"(\cdot)^{\top}",
    symbol="ᵀ",
    method=False,
    reference="np.transpose(x, axes)",
    moves=True,
)
def _transpose(x: Any, /, axes: tuple[int, ...] | None = None) -> Any:
    """See `transpose`."""
    return np.transpose(x, axes)


@view
def transpose(x: Any, *axes: Any) -> Tensor:
    """Axes in another order; reversed if none is given. `x.transpose(1, 0)` works too."""
    given = axes[0] if len(axes) == 1 and not isinstance(axes[0], int | np.integer) else axes
    ndim = np.ndim(x)
    return _transpose(x, tuple(normalize_axis_index(int(a), ndim, "transpose") for a in given) if given else None)


@view
@linear(
    lambda g, source, destination: np.moveaxis(g, destination, source),
    samples=(sample((2, 3, 4), source=0, destination=-1), sample((2, 3, 4), source=(0, 1), destination=(1, 2))),
    moves=True,
)
def moveaxis(x: Any, /, source: Axes, destination: Axes) -> Any:
    """Axes moved to new positions, the others kept in order."""
    return np.moveaxis(x, source, destination)


@view
def swapaxes(x: Any, axis1: int, axis2: int) -> Tensor:
    """Two axes exchanged."""
    order = list(range(np.ndim(x)))
    a, b = (normalize_axis_index(axis, len(order), "swapaxes") for axis in (axis1, axis2))
    order[a], order[b] = b, a
    return _transpose(x, tuple(order))


@view
@linear(lambda g, shape: np.reshape(g, shape), samples=(sample((1, 3, 1)), sample((1, 3, 1), axis=0)), moves=True)
def squeeze(x: Any, /, axis: Axes | None = None) -> Any:
    """Axes of length one removed: all of them, or those named."""
    return np.squeeze(x, axis=axis)


@view
@linear(lambda g, shape: np.reshape(g, shape), samples=(sample((3, 4), axis=1), sample((3,), axis=(0, -1))), moves=True)
def expand_dims(x: Any, /, axis: Axes) -> Any:
    """New axes of length one at these positions of the result."""
    return np.expand_dims(x, axis)


def _unbroadcast(g: Any, shape: tuple[int, ...]) -> Any:
    lead = g.ndim - len(shape)
    axes = tuple(i for i in range(g.ndim) if i < lead or (shape[i - lead] == 1 and g.shape[i] != 1))
    return np.reshape(np.sum(g, axis=axes, keepdims=True), shape)


@linear(
    _unbroadcast,
    samples=(sample((3, 1), to=(2, 3, 4)), sample((4,), to=(3, 4)), sample((), to=(2, 2))),
    method=False,
    reference="np.broadcast_to(x, to)",
    moves=True,
)
def _broadcast_to(x: Any, /, to: tuple[int, ...]) -> Any:
    """See `broadcast_to`."""
    return np.broadcast_to(x, to)


@view
def broadcast_to(x: Any, shape: Any) -> Tensor:
    """Repeated along new axes and axes of length one, up to `shape`; no memory is copied."""
    return _broadcast_to(x, (int(shape),) if isinstance(shape, int | np.integer) else tuple(map(int, shape)))


@linear(
    lambda g, shape: g.astype(g.dtype),
    samples=(sample((3,), dtype="float64"),),
    method=False,
    reference="x.astype(dtype)",
)
def _astype(x: Any, /, dtype: Any) -> Any:
    """See `astype`."""
    return np.asarray(x).astype(dtype)


@composite()
def astype(x: Any, dtype: Any) -> Tensor:
    """The values in another dtype; a gradient comes back in the old one. Integers carry none."""
    dtype = checked_dtype(np.dtype(dtype)).newbyteorder("=")
    if dtype.kind != "f":
        x = x.detach() if isinstance(x, Tensor) else x
    return _astype(x, dtype)


# --- joining and repeating --------------------------------------------------------------------------------------


def _part(g: Any, k: int, axis: int, cuts: tuple[int, ...]) -> Any:
    return g[(slice(None),) * (axis % g.ndim) + (slice(cuts[k], cuts[k + 1]),)]


@custom(
    arrays=_part,
    samples=(sample((2, 3), (4, 3), cuts=(0, 2, 6)), sample((2, 3), (2, 1), (2, 2), axis=-1, cuts=(0, 3, 4, 6))),
    method=False,
    reference="np.concatenate(arrays, axis)",
    moves=True,
)
def _concatenate(*arrays: Any, axis: int = 0, cuts: tuple[int, ...] = ()) -> Any:
    """See `concatenate`; `cuts` is where each array starts, and the end."""
    return np.concatenate(arrays, axis)


@composite(method=False)
def concatenate(arrays: Sequence[Any], axis: int | None = 0) -> Tensor:
    """Arrays joined along an existing axis; flattened first if `axis` is None."""
    if axis is None:
        arrays, axis = [ravel(a) for a in arrays], 0
    shapes = [np.shape(a) for a in arrays]
    lengths = [s[axis] if -len(s) <= axis < len(s) else 0 for s in shapes]
    return _concatenate(*arrays, axis=axis, cuts=tuple(accumulate(lengths, initial=0)))


@custom(
    arrays=lambda g, k, axis: np.moveaxis(g, axis, 0)[k],
    samples=(sample((3,), (3,)), sample((2, 3), (2, 3), axis=-1)),
    method=False,
    reference="np.stack(arrays, axis)",
    moves=True,
)
def _stack(*arrays: Any, axis: int = 0) -> Any:
    """See `stack`."""
    return np.stack(arrays, axis)


@composite(method=False)
def stack(arrays: Sequence[Any], axis: int = 0) -> Tensor:
    """Arrays of one shape joined along a new axis."""
    return _stack(*arrays, axis=axis)


@composite()
def split(x: Any, indices_or_sections: Any, axis: int = 0) -> list[Tensor]:
    """Parts along `axis`: that many equal ones, or cut before each of these indices.

    Raises ValueError where equal parts do not come out even.
    """
    x = x if isinstance(x, Tensor) else tensor(x)
    axis = normalize_axis_index(axis, x.ndim, "split")
    length = x.shape[axis]
    if isinstance(indices_or_sections, int | np.integer):
        parts = int(indices_or_sections)
        if parts < 1 or length % parts:
            raise ValueError(f"split: axis {axis} of length {length} does not divide into {parts} equal parts")
        cuts = [length // parts * i for i in range(1, parts)]
    else:
        cuts = [int(i) for i in indices_or_sections]
    lead = (slice(None),) * axis
    return [x[(*lead, slice(a, b))] for a, b in zip([0, *cuts], [*cuts, length], strict=True)]


def _untile(g: Any, shape: tuple[int, ...], reps: tuple[int, ...]) -> Any:
    ndim = max(len(shape), len(reps))
    shape_full = (1,) * (ndim - len(shape)) + shape
    reps_full = (1,) * (ndim - len(reps)) + reps
    pairs = tuple(n for pair in zip(reps_full, shape_full, strict=True) for n in pair)
    return np.reshape(np.sum(np.reshape(g, pairs), axis=tuple(range(0, 2 * ndim, 2))), shape)


@linear(
    _untile,
    samples=(
        sample((3,), reps=(2,)),
        sample((2, 3), reps=(2, 2)),
        sample((3,), reps=(2, 2)),
        sample((2, 3), reps=(2,)),
    ),
    method=False,
    reference="np.tile(x, reps)",
    moves=True,
)
def _tile(x: Any, /, reps: tuple[int, ...]) -> Any:
    """See `tile`."""
    return np.tile(x, reps)


@composite()
def tile(x: Any, reps: Any) -> Tensor:
    """The whole tensor repeated `reps` times along each axis."""
    return _tile(x, (int(reps),) if isinstance(reps, int | np.integer) else tuple(int(r) for r in reps))


def _collect(g: Any, source: Any, length: int, axis: int) -> Any:
    """Along `axis`, add each element of g to where it came from."""
    g = np.moveaxis(g, axis, 0)
    z = np.zeros((length, *g.shape[1:]), g.dtype)
    np.add.at(z, source, g)
    return np.moveaxis(z, 0, axis)


def _unrepeat(g: Any, shape: tuple[int, ...], repeats: Any, axis: int) -> Any:
    if not shape:  # which has an axis 0 for NumPy
        return np.sum(g)
    return _collect(g, np.repeat(np.arange(shape[axis]), repeats), shape[axis], axis)


@linear(
    _unrepeat,
    samples=(
        sample((3,), repeats=2, axis=0),
        sample((2, 3), repeats=(1, 0, 2), axis=1),
        sample((), repeats=2, axis=0),
    ),
    method=False,
    reference="np.repeat(x, repeats, axis)",
    moves=True,
    selects=True,
)
def _repeat(x: Any, /, repeats: Any, axis: int) -> Any:
    """See `repeat`."""
    return np.repeat(x, repeats, axis)


@composite()
def repeat(x: Any, repeats: Any, axis: int | None = None) -> Tensor:
    """Each element repeated, `repeats` times or as often as its entry says; flattened first if `axis` is None."""
    return _repeat(ravel(x), repeats, 0) if axis is None else _repeat(x, repeats, axis)


@view
@linear(lambda g, axis: np.flip(g, axis), samples=(sample((3, 4)), sample((3, 4), axis=1)), moves=True)
def flip(x: Any, /, axis: Axes | None = None) -> Any:
    """Order of the elements reversed along `axis`; along all if None."""
    return np.flip(x, axis)


def _rolled(x: Any, shift: Axes, axis: Axes | None) -> Any:
    if type(shift) is not int or not (type(axis) is int or (axis is None and x.ndim == 1)):
        return np.roll(x, shift, axis)
    ahead: tuple[Any, ...] = ()  # one axis: several times faster than np.roll
    if axis is not None and (axis or x.ndim != 1):
        ahead = (slice(None),) * normalize_axis_index(axis, x.ndim)
    z = np.empty_like(x)
    n = x.shape[len(ahead)]
    k = shift % n if n else 0
    if ahead:
        z[(*ahead, slice(k, None))], z[(*ahead, slice(k))] = x[(*ahead, slice(n - k))], x[(*ahead, slice(n - k, None))]
    else:
        z[k:], z[:k] = x[: n - k], x[n - k :]
    return z


@linear(
    lambda g, shift, axis: _rolled(g, tuple(-s for s in shift) if isinstance(shift, tuple | list) else -shift, axis),
    samples=(
        sample((5,), shift=2),
        sample((3, 4), shift=-1, axis=1),
        sample((3, 4), shift=(1, 2), axis=(0, 1)),
        sample((2, 3, 4), shift=1, axis=2),
    ),
    moves=True,
)
def roll(x: Any, /, shift: Axes, axis: Axes | None = None) -> Any:
    """Elements shifted along `axis`, those that leave at the end coming back at the start."""
    return _rolled(x, shift, axis)


def _widths(pad_width: Any, ndim: int) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for a, b in np.broadcast_to(np.asarray(pad_width), (ndim, 2))]


def _unpad(g: Any, shape: tuple[int, ...], pad_width: Any, mode: str) -> Any:
    widths = _widths(pad_width, len(shape))
    if mode == "constant":
        return g[tuple(slice(a, a + n) for (a, _), n in zip(widths, shape, strict=True))]
    for axis, (n, width) in enumerate(zip(shape, widths, strict=True)):
        source = np.pad(np.arange(n), width, mode=mode)  # type: ignore[call-overload]
        g = _collect(g, source, n, axis)
    return g


@linear(
    _unpad,
    samples=(
        sample((3,), pad_width=1),
        sample((3, 4), pad_width=((1, 2), (0, 1))),
        sample((4,), pad_width=2, mode="edge"),
        sample((4, 3), pad_width=1, mode="reflect"),
        sample((4,), pad_width=(1, 2), mode="wrap"),
    ),
    method=False,
    reference="np.pad(x, pad_width, mode)",
    moves=True,
)
def _pad(x: Any, /, pad_width: Any, mode: str = "constant") -> Any:
    """See `pad`."""
    return np.pad(x, pad_width, mode=mode)  # type: ignore[call-overload]


@composite()
def pad(x: Any, pad_width: Any, mode: str = "constant", constant_values: Any = 0.0) -> Tensor:
    """Wider by `pad_width` (a number, (before, after), or one pair per axis), as NumPy does.

    Modes: constant, edge, reflect, symmetric, wrap. Raises ValueError for another.
    """
    if mode not in ("constant", "edge", "reflect", "symmetric", "wrap"):
        raise ValueError(f"pad: mode may be constant, edge, reflect, symmetric or wrap, not {mode!r}")
    z = _pad(x, pad_width, mode)
    if mode == "constant" and np.any(unmasked(constant_values, "pad") != 0):
        z = z + np.pad(np.zeros(np.shape(x), z.dtype), pad_width, constant_values=constant_values)
    return z


def _undiff(g: Any, shape: tuple[int, ...], n: int, axis: int) -> Any:
    if n >= shape[axis]:
        return np.zeros(shape, g.dtype)  # nothing was left
    width = [(0, 0)] * g.ndim
    width[axis] = (1, 1)
    for _ in range(n):
        g = -np.diff(np.pad(g, width), axis=axis)
    return g


@linear(_undiff, samples=(sample((5,)), sample((3, 5), n=2, axis=1), sample((4, 3), axis=0)))
def diff(x: Any, /, n: int = 1, axis: int = -1) -> Any:
    """n-th difference of neighbours along `axis`."""
    if n < 0:
        raise ValueError(f"the order of a difference is at least 0, not {n}")
    lead = (slice(None),) * normalize_axis_index(axis, len(x.shape))
    minus = np.not_equal if x.dtype == np.bool_ else np.subtract
    for _ in range(n):
        x = minus(x[(*lead, slice(1, None))], x[(*lead, slice(None, -1))])
    return x


@linear(lambda g, k: np.tril(g, k), samples=(sample((3, 4)), sample((3, 3), k=-1)), moves=True, selects=True)
def tril(x: Any, /, k: int = 0) -> Any:
    """The lower triangle of the last two axes, up to diagonal `k`; zero elsewhere."""
    return np.tril(x, k)


@linear(lambda g, k: np.triu(g, k), samples=(sample((3, 4)), sample((3, 3), k=1)), moves=True, selects=True)
def triu(x: Any, /, k: int = 0) -> Any:
    """The upper triangle of the last two axes, from diagonal `k`; zero elsewhere."""
    return np.triu(x, k)
