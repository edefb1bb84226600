"""Scaling of columns to a range, and labels as rows of zeros and a one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..value import unmasked

_FITTED = "data_min_", "data_max_"


class MinMaxScaler:
    """Maps each column's least and greatest fitted values to the ends of `feature_range`.

    The names and meaning are scikit-learn's, except that a constant column maps to the middle of the range.
    Fitted on 1-D values (n,), it scales values of any shape; fitted on (n, features), arrays (..., features).
    Raises ValueError for a range that is not two finite numbers, low before high.
    """

    data_min_: NDArray[np.float64]
    data_max_: NDArray[np.float64]

    def __init__(self, feature_range: tuple[float, float] = (-1, 1)) -> None:
        low, high = map(float, feature_range)
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"feature_range needs two finite numbers, low < high, not {feature_range}")
        self.feature_range = low, high

    def fit(self, x: ArrayLike) -> Self:
        """Take the ranges of `x`, (n,) or (n, features).

        Raises ValueError, leaving the scaler as it was, for other shapes, no rows, NaN and infinity, TypeError for
        masked arrays.
        """
        values = unmasked(x, "fit", np.float64)
        if values.ndim not in (1, 2) or not values.size:
            raise ValueError(f"fit needs values of shape (n,) or (n, features), not {values.shape}")
        if not np.isfinite(values).all():
            first = tuple(np.argwhere(~np.isfinite(values))[0].tolist())
            raise ValueError(f"fit needs finite numbers, but at {first} there is {values[first]}")
        self.data_min_, self.data_max_ = values.min(axis=0), values.max(axis=0)
        return self

    def transform(self, x: Any) -> Any:
        """`x` on the scale of `feature_range`, in its shape; floating-point `x` keeps its dtype.

        `x` is anything with arithmetic, recorded or not. Raises ValueError before `fit` and where the number
        of features differs from the fitted one.
        """
        least, span, start = self._terms(x)
        low, high = self.feature_range
        return (x - least) / span * (high - low) + start

    def inverse_transform(self, x: Any) -> Any:
        """Undo `transform`, up to rounding but exactly for constant columns. Raises ValueError as it does."""
        least, span, start = self._terms(x)
        low, high = self.feature_range
        return (x - start) / (high - low) * span + least

    def fit_transform(self, x: ArrayLike) -> Any:
        """`fit` and then `transform` of an array."""
        return self.fit(x).transform(np.asarray(x))

    def state_dict(self) -> dict[str, Any]:
        """The range to scale to and, once fitted, a copy of the ranges found."""
        fitted = {name: np.array(getattr(self, name)) for name in _FITTED if hasattr(self, name)}
        return {"feature_range": self.feature_range, **fitted}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a `state_dict()`.

        Raises KeyError, ValueError or TypeError, with nothing changed, for anything else.
        """
        if state.keys() not in ({"feature_range"}, {"feature_range", *_FITTED}):
            raise KeyError(f"a scaler's state has feature_range, {' and '.join(_FITTED)}, not {sorted(state)}")
        fresh = MinMaxScaler(state["feature_range"])
        if len(state) > 1:
            low, high = (np.array(unmasked(state[name], name, np.float64)) for name in _FITTED)
            if low.shape != high.shape or low.ndim > 1 or not (np.isfinite(high - low) & (low <= high)).all():
                raise ValueError(f"a scaler's ranges are finite, least before greatest, not {low!r:.80}, {high!r:.80}")
            fresh.data_min_, fresh.data_max_ = low, high
        self.__dict__ = fresh.__dict__

    def _terms(self, x: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """The least value, the span and the image of the least value, per column, in the dtype of `x`."""
        if not hasattr(self, "data_min_"):
            raise ValueError("this scaler has no range yet; call fit first")
        shape = x.shape if hasattr(x, "shape") else np.shape(x)
        features = np.shape(self.data_min_)
        if features and shape[-1:] != features:
            raise ValueError(f"x needs shape (..., {features[0]}), the features of fit, not {shape}")
        low, high = self.feature_range
        constant = self.data_min_ == self.data_max_
        span = np.where(constant, 1.0, self.data_max_ - self.data_min_)
        start = np.where(constant, (low + high) / 2, low)
        dtype = getattr(x, "dtype", np.dtype(np.float64))
        if dtype.kind != "f":
            dtype = np.dtype(np.float64)
        return self.data_min_.astype(dtype), span.astype(dtype), start.astype(dtype)


def one_hot(labels: ArrayLike, classes: int | None = None) -> NDArray[np.float64]:
    """Labels 0 .. classes - 1, (n,), as rows with a one in the label's column, (n, classes).

    Without `classes` there are as many as the greatest label needs. Raises ValueError for labels that are not
    1-D, not whole numbers or out of range, and where there are none to count classes by.
    """
    values = unmasked(labels, "one_hot", np.float64)
    if values.ndim != 1:
        raise ValueError(f"labels must be 1-D, not of shape {values.shape}")
    if classes is None and not values.size:
        raise ValueError("no labels to count classes by; give classes")
    limit = math.inf if classes is None else classes
    wrong = ~((values >= 0) & (values < limit) & (values == np.floor(values)))
    if wrong.any():
        place = int(wrong.argmax())
        raise ValueError(f"labels[{place}] is {values[place]}, not a whole number >= 0 and < {limit}")
    columns = values.astype(np.int64)
    rows = np.zeros((values.size, int(columns.max()) + 1 if classes is None else classes))
    rows[np.arange(values.size), columns] = 1
    return rows


def from_one_hot(rows: ArrayLike) -> NDArray[np.int64]:
    """The column of each row's greatest entry, (n, classes) -> (n,): undoes `one_hot`, decides probabilities.

    Raises ValueError for an array that is not 2-D or has no columns.
    """
    values = unmasked(rows, "from_one_hot", np.float64)
    if values.ndim != 2 or not values.shape[1]:
        raise ValueError(f"rows must have shape (n, classes), not {values.shape}")
    columns: NDArray[np.int64] = values.argmax(axis=1)
    return columns
