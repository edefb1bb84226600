"""What a function reads from outside besides tensors: variables of its closure and globals, settings of its modules.

Python reads them while a function is recorded, so a recording holds only as long as they are what they were.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from ..tensor import Tensor
from .errors import CompileError
from .places import Place

_SIMPLE = (bool, int, float, complex, str, bytes, type(None), np.generic, np.dtype)
#: Arrays up to this size are always compared; larger ones unless ops take them as they are, as inputs.
SMALL_ARRAY = 4096
_ABSENT = object()


@dataclass(slots=True)
class Conditions:
    """Under which a recording holds: what it reads is equal, or the object that it was.

    `arrays` are large arrays with the condition that they are unchanged, for NumPy code that makes others of them.
    """

    places: list[Place] = field(default_factory=list)
    arrays: list[tuple[np.ndarray[Any, Any], Place]] = field(default_factory=list)
    _seen: set[int] = field(default_factory=set)

    def add(self, x: Any, place: Place | None = None) -> None:
        """Add what a recording that uses `x` depends on; `place` is where `x` itself is found.

        Raises CompileError where a function assigns to a global or to a variable of an enclosing function: only the
        recording would do that.
        """
        if place is None:
            _visit_function(x, self, self._seen)
        else:
            _visit(place, x, self, self._seen)


def _visit_function(fn: Any, found: Conditions, seen: set[int]) -> None:
    if isinstance(fn, MethodType):
        _visit(Place("{0}.__self__", fn), fn.__self__, found, seen)
        fn = fn.__func__
    fn = getattr(fn, "__wrapped__", fn)
    if not isinstance(fn, FunctionType) or id(fn) in seen:
        return
    seen.add(id(fn))
    for cell in fn.__closure__ or ():
        try:
            value = cell.cell_contents
        except ValueError:
            continue  # assigned later
        _visit(Place("{0}.cell_contents", cell), value, found, seen)
    if _is_library(fn.__module__):
        return
    for code in _codes(fn.__code__):
        _refuse_assignments(code, fn)
    names = {name for code in _codes(fn.__code__) for name in code.co_names}
    scopes = [fn.__globals__]
    for name in sorted(names & fn.__globals__.keys()):
        value = fn.__globals__[name]
        if not isinstance(value, ModuleType):
            _visit(Place("{0}.get({1}, {2})", fn.__globals__, name, _ABSENT), value, found, seen)
        elif not _is_library(value.__name__):
            scopes.append(vars(value))
    for scope in scopes[1:]:
        for name in sorted(names & scope.keys()):
            _visit(Place("{0}.get({1}, {2})", scope, name, _ABSENT), scope[name], found, seen)


def _visit_class(cls: type, found: Conditions, seen: set[int]) -> None:
    """Guard what the methods of a class read."""
    for base in cls.__mro__:
        if not _is_library(base.__module__):
            for value in list(vars(base).values()):
                functions = [getattr(value, name, None) for name in ("fget", "fset", "__func__")]
                for fn in (value, *functions):
                    _visit_function(fn, found, seen)


def _is_library(module: str | None) -> bool:
    """Whether a module is installed: what its functions read is their own affair."""
    top = (module or "").split(".")[0]
    if top in ("autograd_geo", "builtins") or top in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(top), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _refuse_assignments(code: CodeType, fn: FunctionType) -> None:
    outer = set(fn.__code__.co_freevars)
    for step in dis.get_instructions(code):
        if step.opname == "STORE_GLOBAL" or (step.opname == "STORE_DEREF" and step.argval in outer):
            raise CompileError(
                f"compile: {fn.__qualname__} assigns to {step.argval!r}, a variable from outside; only its recording "
                "would do that. Return the new value, or keep it in a tensor"
            )


def _visit(place: Place, value: Any, found: Conditions, seen: set[int]) -> None:
    """Guard a value and what it is made of."""
    if isinstance(value, ModuleType):
        return
    if isinstance(value, type):
        _visit_class(value, found, seen)
        return
    if isinstance(value, _SIMPLE):
        found.places.append(is_same(place, value))
        return
    found.places.append(Place("{0} is {1}", place, value))
    if id(value) in seen or isinstance(value, Tensor):
        return
    if isinstance(value, FunctionType | MethodType) or hasattr(value, "__wrapped__"):
        _visit_function(value, found, seen)
        return
    seen.add(id(value))
    if isinstance(value, np.ndarray):
        if value.size <= SMALL_ARRAY:
            found.places.append(array_is_unchanged(value))
        else:
            found.arrays.append((value, array_is_unchanged(value)))
    elif isinstance(value, list | tuple | dict):
        _visit_items(value, found, seen)
    elif hasattr(value, "__dict__") and not _guards_itself(value):
        _visit_class(type(value), found, seen)
        installed = _is_library(type(value).__module__) and not type(value).__module__.startswith("autograd_geo.")
        for name, v in list(vars(value).items()):
            if installed and not isinstance(v, (*_SIMPLE, np.ndarray)):
                continue  # its insides may lead anywhere
            _visit(Place("{0}.__dict__.get({1}, {2})", value, name, _ABSENT), v, found, seen)


def _visit_items(value: Any, found: Conditions, seen: set[int]) -> None:
    items = list(value.items() if isinstance(value, dict) else enumerate(value))
    plain = [isinstance(v, _SIMPLE) for _, v in items]
    if isinstance(value, list) and all(plain):  # maybe thousands
        kept = list(value)
        found.places.append(Place("({0} == {1} and list(map(type, {0})) == {2})", value, kept, list(map(type, kept))))
    elif not isinstance(value, tuple):  # whose items stay what they are
        found.places.append(Place("len({0}) == {1}", value, len(items)))
        if any(plain):
            some = [(k, v) for (k, v), simple in zip(items, plain, strict=True) if simple]
            found.places.append(Place("{0}({1}, {2})", _has_items, value, some))
    for (k, v), simple in zip(items, plain, strict=True):
        if not simple:
            _visit(Place("{0}[{1}]", value, k), v, found, seen)


def _guards_itself(value: Any) -> bool:
    """Optimisers say themselves what of them is read anew."""
    from ..optim.optimizers import Optimizer

    return isinstance(value, Optimizer)


def _has_items(of: Any, items: list[tuple[Any, Any]]) -> bool:
    return all(is_equal(of[k], v) for k, v in items)


def is_same(place: Place, value: Any) -> Place:
    """Whether a plain value is what it was."""
    if type(value) in (int, str):
        return Place("(type({0}) is {1} and {0} == {2})", place, type(value), value)
    if value is None or type(value) is bool:
        return Place("{0} is {1}", place, value)
    return Place("({0} is {1} or {2}({0}, {1}))", place, value, is_equal)


def is_equal(a: Any, b: Any) -> bool:
    """Whether plain values are of one type and equal, NaN to itself."""
    return type(a) is type(b) and bool(a == b or (a != a and b != b))


def array_is_unchanged(x: np.ndarray[Any, Any]) -> Place:
    """Whether an array is bit for bit what it is now."""
    return Place("({0}.tobytes() == {1} and {0}.shape == {2})", x, x.tobytes(), x.shape)
