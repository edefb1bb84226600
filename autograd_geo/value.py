"""What a tensor holds: a Python float for one float64 number, a native NumPy array for everything else on the host.

Python floats make a tape of single numbers an order of magnitude faster than NumPy's 0-d arrays do.
"""

from __future__ import annotations

import sys
from typing import Any, TypeAlias

import numpy as np

from .cuda.array import DeviceArray
from .memory import MANY, afford

Value: TypeAlias = Any
#: Shape and dtype of a value.
Spec: TypeAlias = tuple[tuple[int, ...], np.dtype[Any]]
Number: TypeAlias = bool | int | float | complex

FLOAT64 = np.dtype(np.float64)
SCALAR: Spec = ((), FLOAT64)
NUMBERS = frozenset([bool, int, float])


def _references_of_a_local() -> int:
    local = object()
    return sys.getrefcount(local)


#: What `sys.getrefcount` says of an object that only a local variable holds: 2, or 1 from Python 3.14 on, where
#: arguments are borrowed.
UNSHARED = _references_of_a_local()


def as_value(result: Any) -> Value:
    """What an op's NumPy code returned, in the form a tensor holds it."""
    if type(result) is float or type(result) is DeviceArray:
        return result
    array = result if type(result) is np.ndarray else np.asarray(result)
    if not array.shape and array.dtype == FLOAT64:
        return float(array)
    return array


def strong(value: Value) -> Value:
    """A held value as NumPy should see it: a float held for a tensor promotes like float64, not like a literal."""
    return np.float64(value) if type(value) is float else value


def from_user(data: Any, dtype: Any = None) -> Value:
    """A private, native-endian copy of what the user passed.

    Raises TypeError for what has no derivative and no meaning here: objects, strings, dates, masked arrays.
    """
    if type(data) is float and dtype is None:
        return data
    refuse_masked(data)
    try:
        array = np.asarray(data)
    except ValueError as error:
        raise ValueError(f"this is no regular array: {error}. Rows must have equal lengths") from None
    checked_dtype(array.dtype, data)
    if dtype is not None:
        checked_dtype(np.dtype(dtype))
        _check_fits(data, array, np.dtype(dtype))
    dtype = array.dtype if dtype is None else np.dtype(dtype)
    if array.size >= MANY:
        afford("tensor", array.shape, dtype)
    return as_value(np.array(array, dtype.newbyteorder("="), copy=True, order="C"))


def _check_fits(data: Any, array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> None:
    """Raise OverflowError for Python integers that the dtype cannot hold; arrays wrap around, as NumPy's do."""
    if array.dtype.kind not in "iu" or dtype.kind not in "iu" or np.can_cast(array.dtype, dtype) or not array.size:
        return
    if not isinstance(data, np.ndarray | np.generic) and not hasattr(data, "__array__"):
        info = np.iinfo(dtype)
        wrong = next((int(x) for x in (array.min(), array.max()) if not info.min <= x <= info.max), None)
        if wrong is not None:
            raise OverflowError(f"{wrong} does not fit into {dtype}, which holds {info.min} to {info.max}")


def refuse_masked(data: Any, where: str = "") -> None:
    """Raise TypeError for a masked array, also in a list: NumPy would take what is masked for numbers.

    The message begins with `where`.
    """
    if isinstance(data, np.ma.MaskedArray):
        raise TypeError(
            f"{where}a masked array would lose its mask here; fill it first: data.filled(value), or data[~mask]"
        )
    if isinstance(data, list | tuple):
        for part in data:
            if type(part) not in NUMBERS:
                refuse_masked(part, where)


def unmasked(data: Any, where: str, dtype: Any = None) -> np.ndarray[Any, Any]:
    """What the user passed, as `np.asarray` gives it. Raises TypeError, beginning with `where`, for masked arrays."""
    refuse_masked(data, f"{where}: ")
    return np.asarray(data, dtype)


def checked_dtype(dtype: np.dtype[Any], data: Any = None) -> np.dtype[Any]:
    """The dtype itself if tensors may hold it. Raises TypeError otherwise."""
    if dtype.kind in "fiub":
        return dtype
    what = {"O": "objects", "U": "text", "S": "bytes", "M": "dates", "m": "time spans", "c": "complex numbers"}
    kind = what.get(dtype.kind, "records")
    found = f" (here: {str(data)[:60]!r})" if dtype.kind in "OUS" and data is not None else ""
    hint = {
        "c": "differentiate with respect to real and imaginary parts",
        "M": "convert it to numbers first, such as seconds: (t - t[0]) / np.timedelta64(1, 's')",
        "m": "convert it to numbers first: dt / np.timedelta64(1, 's')",
    }.get(dtype.kind, "convert it to numbers first, such as np.asarray(data, dtype=float)")
    raise TypeError(f"a tensor holds numbers, not {kind} (dtype {dtype}){found}; {hint}")
