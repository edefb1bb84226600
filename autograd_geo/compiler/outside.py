"""What a function reads from outside besides tensors: variables, defaults, attributes of objects, classes and modules.

Python reads them while a function is recorded, so a recording holds only as long as they are what they were. Objects
are opened up; of classes and modules counts what the code of the function, and of all that it uses, has a name for.
"""

from __future__ import annotations

import dis
import functools
import struct
import sys
from array import array
from collections import deque
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import (
    BuiltinMethodType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)  # fmt: skip
from typing import Any
from weakref import ReferenceType

import numpy as np

from ..op import Op
from ..random import Generator
from ..tensor import Tensor
from .errors import CompileError
from .places import Named, Place
from .unrepeatable import Unrepeatable

_SIMPLE = (bool, int, float, complex, str, bytes, type(None), np.generic, np.dtype)
#: Arrays up to this size are always compared; larger ones unless ops take them as they are, as inputs.
SMALL_ARRAY = 4096
#: Other libraries' arrays up to this size are compared.
MOST_COMPARED = 1 << 20
#: Modules of the standard library whose objects are looked into: they hold what users put there.
_CONTAINERS = frozenset(["argparse", "collections", "functools", "types"])
_VIEWS = tuple(type(view) for view in (dict[Any, Any]().keys(), dict[Any, Any]().values(), dict[Any, Any]().items()))
#: Names of functions that read attributes whose names the code does not tell.
_DYNAMIC = frozenset(["getattr", "vars", "__dict__", "__getattribute__"])
_ABSENT = object()


@dataclass(slots=True)
class Conditions:
    """Under which a recording holds: what it reads is equal, or the object that it was.

    `arrays` are large arrays with the condition that they are unchanged, for NumPy code that makes others of them.
    """

    places: list[Place] = field(default_factory=list)
    arrays: list[tuple[np.ndarray[Any, Any], Place]] = field(default_factory=list)
    #: Tensors that are found outside, by id.
    tensors: dict[int, Tensor] = field(default_factory=dict)
    #: What the function may change, besides, in its recording only.
    unrepeatable: Unrepeatable = field(default_factory=Unrepeatable)
    _seen: set[int] = field(default_factory=set)
    _names: set[str] = field(default_factory=set)  # of variables and attributes, in all code that was found
    _scopes: dict[int, dict[str, Any]] = field(default_factory=dict)  # of modules that objects hold, of optimisers
    _classes: dict[type, None] = field(default_factory=dict)
    _members: set[tuple[int, str]] = field(default_factory=set)  # of these that have been visited

    def add(self, x: Any, place: Place | None = None) -> None:
        """Add what a recording that uses `x` depends on; `place` is where `x` itself is found.

        Raises CompileError where a function assigns to a global or to a variable of an enclosing function: only the
        recording would do that.
        """
        if place is None:
            self._inside(x)
        else:
            self.visit(place, x)
        known = -1
        while known != (known := len(self._names) + len(self._scopes) + len(self._classes)):
            for scope in list(self._scopes.values()):
                self._read_names(scope, self._names)
            for cls in list(self._classes):
                self._class(cls)
        if "random" in self._names:
            self.unrepeatable.add_modules()

    def knows(self, x: Any) -> bool:
        """Whether an object was found outside."""
        return id(x) in self._seen

    def visit(self, place: Place, value: Any) -> None:
        """Guard a value and what it is made of."""
        if isinstance(value, ModuleType):
            self._inside(value)
        elif isinstance(value, _SIMPLE):
            self.places.append(is_same(place, value))
        else:
            self.places.append(Place("{0} is {1}", place, value))
            self._inside(value)

    def _inside(self, value: Any) -> None:
        """Guard what an object is made of."""
        if isinstance(value, Tensor):
            self._tensor(value)
            return
        if id(value) in self._seen or isinstance(value, (*_SIMPLE, Generator)):
            return
        self._seen.add(id(value))
        self.unrepeatable.add(value)
        if isinstance(value, ModuleType):
            if not _is_library(value.__name__):
                self._scopes[id(vars(value))] = vars(value)
        elif isinstance(value, type):
            self._classes |= {value: None, type(value): None}
        elif isinstance(value, FunctionType):
            self._function(value)
        elif isinstance(value, MethodType | BuiltinMethodType):
            self._method(value)
        elif "__wrapped__" in getattr(value, "__dict__", ()):  # such as functools.lru_cache
            self._inside(value.__wrapped__)
        elif isinstance(value, functools.partial):
            self._inside(value.func)
            self._items(value.args)
            self._items(value.keywords)
        elif isinstance(value, ReferenceType):
            self.visit(Place("{0}()", value), value())
        elif isinstance(value, ContextVar):
            self.visit(Place("{0}.get({1})", value, _ABSENT), value.get(_ABSENT))
        elif isinstance(value, np.ndarray):
            if value.size <= SMALL_ARRAY:
                self.places.append(array_is_unchanged(value))
            else:
                self.arrays.append((value, array_is_unchanged(value)))
            for v in value.flat if value.dtype.kind == "O" else ():
                self._inside(v)
        elif isinstance(value, bytearray | array | memoryview):
            self.places.append(Place("bytes({0}) == {1}", value, bytes(value)))
        elif isinstance(value, _VIEWS):
            self._inside(value.mapping)
        else:
            if isinstance(value, list | tuple | dict | MappingProxyType | deque | set | frozenset):
                self._items(value)
            elif hasattr(type(value), "__array__") and getattr(value, "size", 0) <= MOST_COMPARED:  # of a table, say
                self.places.append(Place("{0}({1}, {2})", _has_contents, value, _contents(value)))
            self._attributes(value)

    def _tensor(self, value: Tensor) -> None:
        if id(value) not in self.tensors:
            self.tensors[id(value)] = value
            self.places.append(requires_grad_as_now(value))

    # --- code -----------------------------------------------------------------------------------------------------

    def _function(self, fn: FunctionType) -> None:
        if isinstance(getattr(fn, "op", None), Op) and not hasattr(fn, "__wrapped__"):  # its own code is generated
            for part in getattr(fn, "runs", ()):
                self._inside(part)
            return
        cells = list(_cells(fn))
        if _is_library(fn.__globals__.get("__name__")):  # whose variables stay as they are
            for _, value in cells:
                self._inside(value)
            return
        names = {name for code in _codes(fn.__code__) for name in code.co_names}
        for cell, value in cells:
            if isinstance(value, ModuleType):
                self._read_module(value, names)
            else:
                self.visit(Place("{0}.cell_contents", cell), value)
        if fn.__defaults__:
            self.visit(Place("{0}.__defaults__", fn), fn.__defaults__)
        if fn.__kwdefaults__:
            self.visit(Place("{0}.__kwdefaults__", fn), fn.__kwdefaults__)
        for name, value in vars(fn).items():
            if name == "__wrapped__":
                self._inside(value)
            else:
                self.visit(Place("{0}.__dict__[{1}]", fn, name), value)
        for code in _codes(fn.__code__):
            _refuse_assignments(code, fn)
        self._names |= names
        self._read_names(fn.__globals__, names)
        for name in names:
            if isinstance(sys.modules.get(name), ModuleType):  # it imports that itself
                self._read_module(sys.modules[name], names)

    def _method(self, method: Any) -> None:
        owner = method.__self__
        if owner is not None and not isinstance(owner, ModuleType):
            self.visit(Place("{0}.__self__", method), owner)
        if isinstance(method, MethodType):
            self._inside(method.__func__)

    def _read_names(self, scope: dict[str, Any], names: set[str], within: tuple[ModuleType, ...] = ()) -> None:
        """Guard those variables of a module that have one of these names, and those of modules in it."""
        for name in sorted(scope.keys() & names):
            value = scope[name]
            if isinstance(value, ModuleType):
                self._read_module(value, names, within)
            elif (id(scope), name) not in self._members:
                self._members.add((id(scope), name))
                self.visit(Place("{0}[{1}]", scope, name), value)

    def _read_module(self, module: ModuleType, names: set[str], within: tuple[ModuleType, ...] = ()) -> None:
        self.unrepeatable.add(module)
        if not _is_library(module.__name__) and module not in within:
            self._read_names(vars(module), names, (*within, module))

    def _class(self, cls: type) -> None:
        """Guard what code reads of a class, and what its methods read."""
        ours = [base for base in cls.__mro__ if not _is_library(base.__module__)]
        theirs = {name for base in cls.__mro__ if base not in ours for name in vars(base)}  # who may call ours
        for base in ours:
            if (id(base), "") not in self._members:
                self._members.add((id(base), ""))
                self.places.append(Place("len({0}.__dict__) == {1}", base, len(vars(base))))
            for name, value in list(vars(base).items()):
                special = name.startswith("__") and name.endswith("__")
                used = name in self._names or name in theirs or not self._names.isdisjoint(_DYNAMIC)
                if not (used or special) or (id(base), name) in self._members:
                    continue
                self._members.add((id(base), name))
                if used and not special and not isinstance(value, MemberDescriptorType):
                    self.visit(Place("{0}.__dict__[{1}]", base, name), value)
                for fn in _functions(value):
                    self._inside(fn)

    # --- data -----------------------------------------------------------------------------------------------------

    def _attributes(self, value: Any) -> None:
        cls = type(value)
        if _is_optimizer(value):
            self._optimizer(value)
            self.unrepeatable.add_optimizer(value)
        elif hasattr(value, "__dict__"):
            module = cls.__module__.split(".")[0]
            installed = _is_library(module) and module != "autograd_geo" and module not in _CONTAINERS
            attributes: Any = Place("{0}.__dict__", value)
            if not installed:
                same = "(type({0}) is {1} and {0}.__dict__ is {2} and len({2}) == {3})"
                attributes = vars(value)
                self.places.append(Place(same, value, cls, attributes, len(attributes)))
            for name, v in list(vars(value).items()):
                if installed and not isinstance(v, (*_SIMPLE, np.ndarray)):
                    continue  # its insides may lead anywhere
                self.visit(Place("{0}[{1}]", attributes, name), v)
        for base in cls.__mro__:
            if not (installed := _is_library(base.__module__)):
                self._classes[cls] = None
            for name, slot in vars(base).items():
                if isinstance(slot, MemberDescriptorType):
                    found = getattr(value, name, _ABSENT)
                    if not installed or isinstance(found, (*_SIMPLE, np.ndarray)):
                        self.visit(Place("getattr({0}, {1}, {2})", value, name, _ABSENT), found)

    def _optimizer(self, value: Any) -> None:
        """Its settings and state are read anew by its steps; what else reads the settings is to find them again."""
        for name in ("parameters", "state"):
            held = getattr(value, name)
            same = Place(f"{{0}}.{name} is {{1}}", value, held)
            self.places.append(same if isinstance(held, tuple) else Place("{0}", False))  # a list may change inside
        for p in value.parameters:
            self._tensor(p)
        self._members |= {(id(vars(value)), name) for name in ("parameters", "state")}
        self._scopes[id(vars(value))] = vars(value)

    def _items(self, value: Any) -> None:
        if isinstance(value, set | frozenset):
            kept: Any = list(value)
            self.places.append(Place("{0}({1}, {2})", _are_the_same, value, kept))
            for v in kept:
                self._inside(v)
            return
        named = isinstance(value, dict | MappingProxyType)
        items = list(value.items() if named else enumerate(value))
        plain = [isinstance(v, _SIMPLE) for _, v in items]
        if isinstance(value, list) and all(plain) and not any(type(v) is float and v == 0 for v in value):
            kept = list(value)  # maybe thousands
            kinds = list(map(type, kept))
            self.places.append(Place("({0} == {1} and list(map(type, {0})) == {2})", value, kept, kinds))
        elif not isinstance(value, tuple):  # whose items stay what they are
            if named and value:
                self.places.append(Place("list({0}) == {1}", value, list(value)))
            else:
                self.places.append(Place("len({0}) == {1}" if value else "not {0}", value, len(items)))
            if any(plain):
                some = [(k, v) for (k, v), simple in zip(items, plain, strict=True) if simple]
                self.places.append(Place("{0}({1}, {2})", _has_items, value, some))
        for (k, v), simple in zip(items, plain, strict=True):
            if isinstance(value, tuple):
                self._inside(v)
            elif not simple:
                self.visit(Place("{0}[{1}]", value, k), v)


def _cells(fn: FunctionType) -> Iterator[tuple[Any, Any]]:
    for cell in fn.__closure__ or ():
        try:
            yield cell, cell.cell_contents
        except ValueError:
            continue  # assigned later


def _functions(member: Any) -> Iterator[FunctionType]:
    """The functions in a member of a class: itself, or those of a property, class method, static method."""
    parts = [member]
    if isinstance(member, property):
        parts = [member.fget, member.fset]
    elif isinstance(member, classmethod | staticmethod):
        parts = [member.__func__]
    elif isinstance(member, functools.cached_property):
        parts = [member.func]
    return (fn for fn in parts if isinstance(fn, FunctionType))


def _is_library(module: str | None) -> bool:
    """Whether a module is installed: what its functions read is their own affair."""
    top = (module or "").split(".")[0]
    if top in ("autograd_geo", "builtins") or top in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(top), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file


def _is_optimizer(value: Any) -> bool:
    """Optimisers say themselves what of them is read anew."""
    from ..optim.optimizers import Optimizer

    return isinstance(value, Optimizer)


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


def _has_items(of: Any, items: list[tuple[Any, Any]]) -> bool:
    return all(is_equal(of[k], v) for k, v in items)


def _contents(of: Any) -> tuple[Any, ...]:
    """What an object holds that NumPy can make an array of; nothing where it can't, as of another device's."""
    try:
        found = np.asarray(of)
    except Exception:  # whatever a library raises
        return ()
    return found.shape, found.dtype, found.ravel().tolist() if found.dtype.kind == "O" else found.tobytes()


def _has_contents(of: Any, kept: tuple[Any, ...]) -> bool:
    found = _contents(of)
    if found[:2] != kept[:2] or not found or found[1].kind != "O":
        return found == kept
    return all(a is b or (isinstance(b, _SIMPLE) and is_equal(a, b)) for a, b in zip(found[2], kept[2], strict=True))


def _are_the_same(of: Any, kept: list[Any]) -> bool:
    """Whether these are the same objects, or plain values that are equal, in the same order."""
    return len(of) == len(kept) and all(
        a is b or (isinstance(b, _SIMPLE) and is_equal(a, b)) for a, b in zip(of, kept, strict=True)
    )


def is_same(place: Place, value: Any) -> Place:
    """Whether a plain value is what it was."""
    if value is None or type(value) is bool:
        return Place("{0} is {1}", place, value)
    return Place("({0} is {1} or {2}({0}, {1}))", place, Named(value), is_equal)


_bits = struct.Struct("d").pack


def is_equal(a: Any, b: Any) -> bool:
    """Whether plain values are of one type and equal, NaN to itself, and 0 not to -0."""
    if type(a) is not type(b):
        return False
    if type(a) is float:
        return _bits(a) == _bits(b)
    if isinstance(a, complex) and not isinstance(a, np.generic):
        return is_equal(a.real, b.real) and is_equal(a.imag, b.imag)
    if isinstance(a, np.generic):
        return bool(a.dtype == b.dtype and a.tobytes() == b.tobytes())
    return bool(a == b)


def requires_grad_as_now(x: Tensor) -> Place:
    """Whether a tensor requires a gradient if it does now, and does not otherwise."""
    return Place("{0}._entry.state > 0" if x.requires_grad else "({0}._entry is None or {0}._entry.state <= 0)", x)


def array_is_unchanged(x: np.ndarray[Any, Any]) -> Place:
    """Whether an array is bit for bit what it is now."""
    return Place("({0}.tobytes() == {1} and {0}.shape == {2})", x, x.tobytes(), x.shape)
