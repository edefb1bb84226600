"""NumPy's protocols: `np.sin(t)`, `ndarray * t` and `np.concatenate([t, u])` run our op of the same name.

What cannot be recorded raises with a hint; nothing is detached silently.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ..op import functions
from ..tape import TRACING, WEAK, mode
from ..tensor import Tensor


@cache
def _table() -> dict[Any, Callable[..., Any]]:
    """NumPy's function -> ours, wherever the names agree."""
    table = {getattr(np, name): function for name, function in functions.items() if hasattr(np, name)}
    table |= {np.linalg.norm: functions["norm"], np.amin: functions["min"], np.amax: functions["max"]}
    return table


def _ours(function: Any) -> Callable[..., Any] | None:
    return _table().get(function)


def _unsupported(name: str, what: str) -> TypeError:
    return TypeError(
        f"np.{name} {what}. Use ops that autograd_geo records (autograd_geo.ops lists them), declare your own "
        "with ag.custom, or leave the tape on purpose with .numpy() or .detach()"
    )


_REDUCTIONS = {np.add: "sum", np.multiply: "prod", np.maximum: "max", np.minimum: "min"}


def array_ufunc(ufunc: np.ufunc, method: str, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = ufunc.__name__ + ("" if method == "__call__" else f".{method}")
    if any(o is not None for o in kwargs.pop("out", ())):
        raise TypeError(
            f"np.{name} cannot write a recorded result into an existing array (out=, or array += tensor): write "
            "a = a + t, or leave the tape on purpose with .numpy()"
        )
    if method == "reduce" and ufunc in _REDUCTIONS:
        function = functions[_REDUCTIONS[ufunc]]
        kwargs.setdefault("axis", 0)
    elif method == "accumulate" and ufunc is np.add:
        function = functions["cumsum"]
        kwargs.setdefault("axis", 0)
    elif method == "__call__" and (found := _ours(ufunc)) is not None and not kwargs:
        result = found(*inputs)
        if mode() & TRACING and result._entry is not None and result._entry.state == WEAK:
            return result.astype(np.float64)  # as NumPy returns for a Python number
        return result
    else:
        raise _unsupported(name, "is not recorded on tensors" + (f" with {', '.join(kwargs)}" if kwargs else ""))
    if len(inputs) > 1 or not kwargs.keys() <= {"axis", "keepdims"}:
        raise _unsupported(name, f"on tensors takes axis and keepdims only, not {', '.join(kwargs)}")
    return function(*inputs, **kwargs)


def array_function(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = f"{function.__module__.removeprefix('numpy')}.{function.__name__}".lstrip(".")
    if function in _METADATA:
        return _METADATA[function](*args, **kwargs)
    ours = _ours(function)
    if ours is None:
        raise _unsupported(name, "is not recorded on tensors")
    try:
        try:
            positional, named = _translated(_signature(function).bind(*args, **kwargs), ours)
        except ValueError:  # a function written in C may not tell its signature
            positional, named = list(args), kwargs
        _signature(ours).bind(*positional, **named)
    except TypeError as error:
        raise _unsupported(name, f"on tensors does not take these arguments ({error})") from None
    return ours(*positional, **named)


_signature = cache(inspect.signature)
_RENAMED = {"a_min": "min", "a_max": "max"}


def _translated(theirs: inspect.BoundArguments, ours: Callable[..., Any]) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call of NumPy's function as arguments of ours: by name, operands by position."""
    parameters = list(_signature(ours).parameters.values())
    by_name = {p.name for p in parameters if p.kind is not p.VAR_POSITIONAL}
    positional: list[Any] = []
    named: dict[str, Any] = {}

    def fits(index: int) -> bool:
        """Whether our parameter here means the same, having no name that NumPy uses for something else."""
        return index < len(parameters) and (
            index == 0
            or parameters[index].kind is inspect.Parameter.VAR_POSITIONAL
            or parameters[index].name not in theirs.signature.parameters
        )

    for index, (name, value) in enumerate(theirs.arguments.items()):
        parameter = theirs.signature.parameters[name]
        name = _RENAMED.get(name, name)
        if value is parameter.default or (name in ("out", "dtype", "where", "initial") and value is None):
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            positional += value
        elif parameter.kind is parameter.VAR_KEYWORD:
            named |= value
        elif name in by_name and index > 0:
            named[name] = value
        elif len(positional) == index and parameter.kind is not parameter.KEYWORD_ONLY and fits(index):
            positional.append(value)
        else:
            raise TypeError(f"{name}= is not supported")
    return positional, named


_METADATA: dict[Any, Callable[..., Any]] = {
    np.shape: lambda a: a.shape,
    np.ndim: lambda a: a.ndim,
    np.size: lambda a, axis=None: a.size if axis is None else a.shape[axis],
    np.zeros_like: lambda a, dtype=None: np.zeros(a.shape, dtype or a.dtype),
    np.ones_like: lambda a, dtype=None: np.ones(a.shape, dtype or a.dtype),
    np.result_type: lambda *a: np.result_type(*[x.dtype if isinstance(x, Tensor) else x for x in a]),
    np.array_repr: lambda a, *_, **__: repr(a),
    np.array_str: lambda a, *_, **__: str(a),
}
