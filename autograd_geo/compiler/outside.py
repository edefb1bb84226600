"""What a function reads from outside besides tensors: variables of its closure and globals, settings of its modules.

Python reads them while a function is recorded, so a recording holds only as long as they are what they were.
"""

from __future__ import annotations

import copy
import dis
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from ..tensor import Tensor
from .trace import Getter

Guard = tuple[Getter, Any]
_SIMPLE = (bool, int, float, complex, str, bytes, type(None), np.generic, np.dtype)
#: Arrays up to this size are compared element by element, for NumPy code that makes other arrays of them.
SMALL_ARRAY = 4096
_ABSENT = object()


def guards_of(fn: Callable[..., Any]) -> list[Guard]:
    """What has to stay equal, or the same object, for a recording of `fn` to hold.

    Raises TypeError where `fn` assigns to a global or to a variable of an enclosing function: only the recording
    would do that.
    """
    found: list[Guard] = []
    seen: set[int] = set()
    _visit_function(fn, found, seen)
    return found


def _visit_function(fn: Any, found: list[Guard], seen: set[int]) -> None:
    if isinstance(fn, MethodType):
        _visit(lambda: fn.__self__, fn.__self__, found, seen)
        fn = fn.__func__
    fn = getattr(fn, "__wrapped__", fn)
    if not isinstance(fn, FunctionType) or id(fn) in seen or _is_library(fn):
        return
    seen.add(id(fn))
    for code in _codes(fn.__code__):
        _refuse_assignments(code, fn)
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):

        def inside(cell: Any = cell) -> Any:
            return cell.cell_contents

        try:
            value = inside()
        except ValueError:
            continue  # assigned later
        del name
        _visit(inside, value, found, seen)
    names = {name for code in _codes(fn.__code__) for name in code.co_names}
    for name in names & fn.__globals__.keys():

        def of_module(scope: dict[str, Any] = fn.__globals__, name: str = name) -> Any:
            return scope.get(name, _ABSENT)

        _visit(of_module, of_module(), found, seen)


def _is_library(fn: FunctionType) -> bool:
    return fn.__module__ is not None and fn.__module__.split(".")[0] in ("autograd_geo", "numpy", "scipy", "math")


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _refuse_assignments(code: CodeType, fn: FunctionType) -> None:
    outer = set(fn.__code__.co_freevars)
    for step in dis.get_instructions(code):
        if step.opname == "STORE_GLOBAL" or (step.opname == "STORE_DEREF" and step.argval in outer):
            raise TypeError(
                f"compile: {fn.__qualname__} assigns to {step.argval!r}, a variable from outside; only its recording "
                "would do that. Return the new value, or keep it in a tensor"
            )


def _visit(get: Callable[[], Any], value: Any, found: list[Guard], seen: set[int]) -> None:
    """Guard a value and what it is made of."""

    def same(leaves: Any) -> bool:
        return get() is value

    if isinstance(value, ModuleType | type) or value is _ABSENT:
        return
    if isinstance(value, _SIMPLE):
        found.append((lambda leaves: _is_equal(get(), value), True))
        return
    found.append((same, True))
    if id(value) in seen or isinstance(value, Tensor):
        return
    if isinstance(value, FunctionType | MethodType) or hasattr(value, "__wrapped__"):
        _visit_function(value, found, seen)
        return
    seen.add(id(value))
    if isinstance(value, np.ndarray):
        if value.size <= SMALL_ARRAY:
            kept = value.copy()
            found.append((lambda leaves: _is_equal(value, kept), True))
    elif isinstance(value, list | tuple | dict):
        items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
        plain = {k: v for k, v in items if isinstance(v, _SIMPLE)}
        size, kept_plain = len(items), copy.copy(plain)
        if len(plain) == size and not isinstance(value, dict):
            kept_list = list(value)
            found.append((lambda leaves: list(value) == kept_list, True))
            return
        found.append((lambda leaves: len(value) == size, True))
        found.append((lambda leaves: all(_is_equal(_item(value, k), v) for k, v in kept_plain.items()), True))
        for k, v in items:
            if not isinstance(v, _SIMPLE):
                _visit(lambda k=k: _item(value, k), v, found, seen)  # type: ignore[misc]
    elif hasattr(value, "__dict__") and not _guards_itself(value):
        for name, v in list(vars(value).items()):
            _visit(lambda name=name: vars(value).get(name, _ABSENT), v, found, seen)  # type: ignore[misc]


def _guards_itself(value: Any) -> bool:
    """Optimisers say themselves what of them is read anew."""
    from ..optim.optimizers import Optimizer

    return isinstance(value, Optimizer)


def _item(of: Any, key: Any) -> Any:
    try:
        return of[key]
    except (KeyError, IndexError):
        return _ABSENT


def _is_equal(a: Any, b: Any) -> bool:
    if isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=b.dtype.kind == "f")
    return type(a) is type(b) and bool(a == b or (a != a and b != b))
