"""Reductions and what is built on them. `axis` is None (all), an int or a tuple of ints, as in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..declare import custom, linear, sample
from ..op import composite, functions

Axis = int | tuple[int, ...] | None
_axes = (
    sample((3, 4)),
    sample((3, 4), axis=0),
    sample((2, 3, 4), axis=(0, -1), keepdims=True),
    sample((3, 4), axis=-1),
)


def _restore(g: Any, ndim: int, axis: Axis, keepdims: bool) -> Any:
    """A reduction's result with its reduced axes back as axes of length one."""
    if keepdims or axis is None or ndim == 0:  # NumPy lets a single number have an axis 0 here
        return g
    axes = (axis,) if isinstance(axis, int | np.integer) else axis
    return np.expand_dims(g, tuple(int(a) % ndim for a in axes))


def _count(shape: tuple[int, ...], axis: Axis) -> int:
    axes = range(len(shape)) if axis is None else (axis,) if isinstance(axis, int | np.integer) else axis
    count, ndim = 1, len(shape)
    for a in axes:
        if not -ndim <= a < ndim:
            raise np.exceptions.AxisError(a, ndim)
        count *= shape[a]
    return count


def _spread(g: Any, shape: tuple[int, ...], axis: Axis, keepdims: bool) -> Any:
    spread = np.empty(shape, g.dtype)  # much faster than np.broadcast_to where the array is small
    spread[...] = _restore(g, len(shape), axis, keepdims)
    return spread


@linear(_spread, samples=_axes, symbol="Σ", latex=r"\textstyle\sum")
def sum(x: Any, /, axis: Axis = None, keepdims: bool = False) -> Any:
    """Sum over `axis`."""
    return x.sum(axis=axis, keepdims=keepdims)


@linear(
    lambda g, shape, axis, keepdims: _spread(
        (g / np.float64(_count(shape, axis))).astype(g.dtype), shape, axis, keepdims
    ),
    samples=_axes, symbol="mean", latex=r"\operatorname{mean}",
)  # fmt: skip
def mean(x: Any, /, axis: Axis = None, keepdims: bool = False) -> Any:
    """Arithmetic mean over `axis`. Raises ValueError where there is nothing to average."""
    count = _count(x.shape, axis)
    if count == 0:
        raise ValueError("the mean of no elements is undefined")
    if x.dtype == np.float16:
        return np.mean(x, axis=axis, keepdims=keepdims)  # which adds in single precision
    return x.sum(axis=axis, keepdims=keepdims) / (x.dtype.type(count) if x.dtype.kind == "f" else count)


@linear(
    lambda g, shape, axis: np.reshape(
        np.flip(np.cumsum(np.flip(g, -1 if axis is None else axis), axis=-1 if axis is None else axis),
                -1 if axis is None else axis), shape),
    samples=(sample((4,)), sample((3, 4)), sample((3, 4), axis=0), sample((2, 3, 4), axis=-2)),
)  # fmt: skip
def cumsum(x: Any, /, axis: int | None = None) -> Any:
    """Running sum along `axis`; of the flattened tensor if None."""
    return np.cumsum(x, axis=axis)


def _others(x: Any) -> Any:
    """Along the last axis, the product of all other elements: no division, so zeros and every order are exact."""
    n = x.shape[-1]
    if n == 1:
        return np.ones_like(x)
    even, odd, rest = x[..., 0 : n - n % 2 : 2], x[..., 1::2], x[..., n - n % 2 :]
    above = _others(np.concatenate([even * odd, rest], axis=-1))
    pairs = above[..., : n // 2]
    both = np.stack([pairs * odd, pairs * even], axis=-1)
    both = np.reshape(both, (*x.shape[:-1], n - n % 2))
    return np.concatenate([both, above[..., n // 2 :]], axis=-1)


def _product_rule(g: Any, x: Any, axis: Axis, keepdims: bool) -> Any:
    ndim = len(x.shape)
    if 0 in x.shape:
        return x * 0.0
    if ndim == 0:
        return g
    axes = tuple(range(ndim)) if axis is None else (axis,) if isinstance(axis, int | np.integer) else axis
    axes = tuple(int(a) % ndim for a in axes)
    last = tuple(range(ndim - len(axes), ndim))
    moved = np.moveaxis(x, axes, last)
    flat = np.reshape(moved, (*moved.shape[: ndim - len(axes)], -1))
    others = np.moveaxis(np.reshape(_others(flat), moved.shape), last, axes)
    return _restore(g, ndim, axis, keepdims) * others


@custom(x=_product_rule, samples=(*_axes, sample((), axis=0)), symbol="Π")
def prod(x: Any, /, axis: Axis = None, keepdims: bool = False) -> Any:
    """Product over `axis`; the derivative is exact with any number of zeros."""
    return np.prod(x, axis=axis, keepdims=keepdims)


def _share(g: Any, z: Any, x: Any, axis: Axis, keepdims: bool) -> Any:
    """Ties share the cotangent equally; a NaN takes it."""
    ndim = len(x.shape)
    z = _restore(z, ndim, axis, keepdims)
    hit = np.where(z == z, x == z, x != x)
    share = _restore(g, ndim, axis, keepdims) / np.sum(hit * 1.0, axis=axis, keepdims=True)
    return np.where(hit, share, 0.0)  # no product: an infinite tangent may meet what was not chosen


@custom(x=_share, samples=_axes, selects=True)
def max(x: Any, /, axis: Axis = None, keepdims: bool = False) -> Any:
    """Largest element over `axis`; equal ones share the gradient."""
    return np.max(x, axis=axis, keepdims=keepdims)


@custom(x=_share, samples=_axes, selects=True)
def min(x: Any, /, axis: Axis = None, keepdims: bool = False) -> Any:
    """Smallest element over `axis`; equal ones share the gradient."""
    return np.min(x, axis=axis, keepdims=keepdims)


@custom(samples=(sample((3, 4)), sample((3, 4), axis=0)))
def argmax(x: Any, /, axis: int | None = None, keepdims: bool = False) -> Any:
    """Index of the largest element; integers carry no gradient."""
    return np.argmax(x, axis=axis, keepdims=keepdims)


@custom(samples=(sample((3, 4)), sample((3, 4), axis=0)))
def argmin(x: Any, /, axis: int | None = None, keepdims: bool = False) -> Any:
    """Index of the smallest element; integers carry no gradient."""
    return np.argmin(x, axis=axis, keepdims=keepdims)


def _centred(x: Any, axis: Axis) -> Any:
    return x - np.mean(x, axis=axis, keepdims=True)


def _variance(x: Any, axis: Axis, ddof: int, keepdims: bool) -> Any:
    if x.dtype == np.float16:
        return np.var(x, axis=axis, ddof=ddof, keepdims=keepdims)  # which adds in single precision
    centred = _centred(x if x.dtype.kind == "f" else x.astype(np.float64), axis)
    centred *= centred
    return centred.sum(axis=axis, keepdims=keepdims) / (_count(x.shape, axis) - ddof)


def _largest(x: Any, axis: Axis, of_none: float) -> Any:
    """The largest elements over `axis`, which stays with length one; `of_none` where there are no elements."""
    if _count(x.shape, axis):
        return np.max(x, axis=axis, keepdims=True)
    return np.full(x.sum(axis=axis, keepdims=True).shape, of_none, x.dtype)


@custom(
    x=lambda g, x, axis, ddof, keepdims: _restore(g, len(x.shape), axis, keepdims)
    * (2.0 / (_count(x.shape, axis) - ddof)) * _centred(x, axis),
    samples=(*_axes, sample((4, 3), axis=0, ddof=1)),
)  # fmt: skip
def var(x: Any, /, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Any:
    """Variance over `axis`, with divisor N - ddof. Raises ValueError where that is not positive."""
    if _count(x.shape, axis) <= ddof:
        raise ValueError(f"the variance needs more than ddof={ddof} elements")
    return _variance(x, axis, ddof, keepdims)


def _std_rule(g: Any, z: Any, x: Any, axis: Axis, ddof: int, keepdims: bool) -> Any:
    ndim = len(x.shape)
    z = _restore(z, ndim, axis, keepdims)
    slope = _centred(x, axis) / np.where(z == 0, 1.0, z) / float(_count(x.shape, axis) - ddof)
    return _restore(g, ndim, axis, keepdims) * slope


@custom(x=_std_rule, samples=(*_axes, sample((4, 3), axis=0, ddof=1)))
def std(x: Any, /, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Any:
    """Standard deviation over `axis`, with divisor N - ddof; its derivative at a constant is 0."""
    if _count(x.shape, axis) <= ddof:
        raise ValueError(f"the standard deviation needs more than ddof={ddof} elements")
    return np.sqrt(_variance(x, axis, ddof, keepdims))


@custom(
    x=lambda g, z, x, axis, keepdims: _restore(g, len(x.shape), axis, keepdims)
    * (x / np.where((r := _restore(z, len(x.shape), axis, keepdims)) == 0, 1.0, r)),
    samples=_axes, reference="np.sqrt(np.sum(x * x, axis=axis, keepdims=keepdims))", symbol="‖x‖", method=False,
)  # fmt: skip
def _norm(x: Any, /, axis: Axis = None, keepdims: bool = False) -> Any:
    """Euclidean (Frobenius) norm over `axis`, without overflow or underflow; its derivative at 0 is 0."""
    x = x if x.dtype.kind == "f" else x / 1.0
    largest = _largest(np.abs(x), axis, 0.0)
    scale = np.where((largest > 0) & np.isfinite(largest), largest, 1.0).astype(x.dtype)
    root = np.sqrt(np.sum((x / scale) ** 2, axis=axis, keepdims=True)) * scale
    return root if keepdims else np.squeeze(root, axis=axis)


@composite()
def norm(x: Any, ord: float | None = None, axis: Axis = None, keepdims: bool = False) -> Any:
    """Vector norm over `axis` (all axes if None): `ord` None or 2 Euclidean, 1 sum, inf largest of |x|.

    Raises ValueError for another order or a single number, TypeError where NumPy would take a matrix norm.
    """
    if ord is not None and np.ndim(x) == 0:
        raise ValueError(f"norm: ord={ord!r} needs at least one axis")
    if ord is not None and (np.ndim(x) > 1 if axis is None else np.ndim(axis) > 0):
        raise TypeError(f"norm: ord={ord!r} over several axes is a matrix norm, which is not built in; name one axis")
    if ord is None or ord == 2:
        return _norm(x, axis=axis, keepdims=keepdims)
    if ord == 1:
        return sum(functions["abs"](x), axis=axis, keepdims=keepdims)
    if ord == np.inf:
        return max(functions["abs"](x), axis=axis, keepdims=keepdims)
    raise ValueError(f"norm: ord may be None, 1, 2 or inf, not {ord!r}")


def _finite(z: Any) -> Any:
    return np.where(abs(z) < np.inf, z, 0.0)


def _logsumexp_rule(g: Any, z: Any, x: Any, axis: Axis, keepdims: bool) -> Any:
    """exp(x - z); all to those that are inf where there are any, nothing where all are -inf."""
    z = _restore(z, len(x.shape), axis, keepdims)
    infinite = np.sum((x == np.inf) * 1.0, axis=axis, keepdims=True)
    share = np.where(x == np.inf, 1.0, 0.0) / np.maximum(infinite, 1.0)
    return _restore(g, len(x.shape), axis, keepdims) * np.where(abs(z) == np.inf, share, np.exp(x - z))


@custom(
    x=_logsumexp_rule,
    samples=_axes, reference="special.logsumexp(x, axis=axis, keepdims=keepdims)",
)  # fmt: skip
def logsumexp(x: Any, /, axis: Axis = None, keepdims: bool = False) -> Any:
    """log(sum(exp(x))) over `axis`, without overflow; -inf, with derivative 0, where all are -inf.

    Elements that are inf share the gradient.
    """
    x = x if x.dtype.kind == "f" else x.astype(float)
    shift = _finite(_largest(x, axis, -np.inf)).astype(x.dtype)
    with np.errstate(divide="ignore"):
        z = np.log(np.sum(np.exp(x - shift), axis=axis, keepdims=True)) + shift
    return z if keepdims else np.squeeze(z, axis=axis)


@custom(
    x=lambda g, z, axis: z * (g - np.sum(g * z, axis=axis, keepdims=True)),
    samples=(sample((5,)), sample((3, 4)), sample((3, 4), axis=0)), reference="special.softmax(x, axis=axis)",
)  # fmt: skip
def softmax(x: Any, /, axis: int = -1) -> Any:
    """exp(x) / sum(exp(x)) along `axis`, without overflow."""
    e = np.exp(x - np.max(x, axis=axis, keepdims=True))
    return e / np.sum(e, axis=axis, keepdims=True)


@custom(
    x=lambda g, z, axis: g - np.exp(z) * np.sum(g, axis=axis, keepdims=True),
    samples=(sample((5,)), sample((3, 4)), sample((3, 4), axis=0)), reference="special.log_softmax(x, axis=axis)",
)  # fmt: skip
def log_softmax(x: Any, /, axis: int = -1) -> Any:
    """log(softmax(x)) along `axis`, without overflow or underflow."""
    shifted = x - np.max(x, axis=axis, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=axis, keepdims=True))
