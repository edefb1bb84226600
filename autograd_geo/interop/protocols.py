"""NumPy's protocols: `np.sin(t)`, `ndarray * t` and `np.concatenate([t, u])` run our op of the same name.

What cannot be recorded raises with a hint; nothing is detached silently.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ..op import functions


@cache
def _table() -> dict[Any, Callable[..., Any]]:
    """NumPy's function -> ours, wherever the names agree."""
    table = {getattr(np, name): function for name, function in functions.items() if hasattr(np, name)}
    table[np.linalg.norm] = functions["norm"]
    return table


def _ours(function: Any) -> Callable[..., Any] | None:
    return _table().get(function)


def _unsupported(name: str, what: str) -> TypeError:
    return TypeError(
        f"np.{name} {what}. Use ops that autograd_geo records (autograd_geo.ops lists them), declare your own "
        "with ag.custom, or leave the tape on purpose with .numpy() or .detach()"
    )


def array_ufunc(ufunc: np.ufunc, method: str, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = ufunc.__name__
    if kwargs.get("out") is not None:
        raise TypeError(
            f"np.{name} cannot write a recorded result into an existing array (out=, or array {name}= tensor): "
            "write a = a + t instead of a += t"
        )
    kwargs.pop("out", None)
    reductions = {np.add: "sum", np.multiply: "prod", np.maximum: "max", np.minimum: "min"}
    if method == "reduce" and ufunc in reductions:
        kwargs.setdefault("axis", 0)
        return functions[reductions[ufunc]](*inputs, **kwargs)
    if method == "accumulate" and ufunc is np.add:
        return functions["cumsum"](*inputs, axis=kwargs.get("axis", 0))
    function = _ours(ufunc)
    if method != "__call__" or function is None:
        raise _unsupported(name + ("" if method == "__call__" else f".{method}"), "is not recorded on tensors")
    if kwargs:
        raise _unsupported(name, f"on tensors takes no {', '.join(kwargs)}")
    return function(*inputs)


def array_function(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = f"{function.__module__.removeprefix('numpy').lstrip('.')}.{function.__name__}".lstrip(".")
    if function in _METADATA:
        return _METADATA[function](*args, **kwargs)
    ours = _ours(function)
    if ours is None:
        raise _unsupported(name, "is not recorded on tensors")
    try:
        return ours(*args, **kwargs)
    except TypeError as error:
        if "argument" in str(error) and getattr(ours, "__name__", "?") + "(" in str(error):
            raise _unsupported(name, f"on tensors does not take these arguments: {error}") from None
        raise


_METADATA: dict[Any, Callable[..., Any]] = {
    np.shape: lambda a: a.shape,
    np.ndim: lambda a: a.ndim,
    np.size: lambda a, axis=None: a.size if axis is None else a.shape[axis],
    np.zeros_like: lambda a, dtype=None: np.zeros(a.shape, dtype or a.dtype),
    np.ones_like: lambda a, dtype=None: np.ones(a.shape, dtype or a.dtype),
    np.result_type: lambda *a: np.result_type(*[getattr(x, "dtype", x) for x in a]),
    np.array_repr: lambda a, *_, **__: repr(a),
    np.array_str: lambda a, *_, **__: str(a),
}
