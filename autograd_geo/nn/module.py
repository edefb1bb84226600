"""Modules: functions with parameters, nested in each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from sys import _getframe
from typing import Any, TypeVar

import numpy as np

from ..device import checked, put
from ..names import printable
from ..tape import Entry, next_number
from ..tensor import Parameter, Tensor, wrap
from ..tree import leaves
from ..value import Value, from_user

Self = TypeVar("Self", bound="Module")


class Module:
    """Base class of all networks and layers: assign parameters and modules as attributes, write `forward`.

    Attributes that are `Parameter`s are trained; other tensors are buffers, kept in the state but not trained.
    Lists, tuples and dicts of parameters and modules are found too.
    """

    training: bool = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} defines no forward(self, x)")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        start = next_number()
        result = self.forward(*args, **kwargs)
        if type(result) is Tensor:
            _sign(self, start, result._entry)
        else:
            for t in leaves(result):
                if isinstance(t, Tensor):
                    _sign(self, start, t._entry)
        return result

    # --- what is inside ---------------------------------------------------------------------------------------

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly inside, with their attribute names."""
        for name, value in _members(self):
            if isinstance(value, Module):
                yield name, value

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all inside it, with their dotted names; each once."""
        seen: set[int] = set()

        def walk(module: Module, path: str) -> Iterator[tuple[str, Module]]:
            if id(module) not in seen:
                seen.add(id(module))
                yield path, module
                for name, child in module.named_children():
                    yield from walk(child, _join(path, name))

        return walk(self, prefix)

    def modules(self) -> Iterator[Module]:
        """This module and all inside it."""
        return (module for _, module in self.named_modules())

    def _named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        seen: set[int] = set()
        for path, module in self.named_modules():
            for name, value in _members(module):
                if isinstance(value, Tensor) and id(value) not in seen:
                    seen.add(id(value))
                    yield _join(path, name), value

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """All parameters with their dotted names, in the order of assignment; a shared one once."""
        return ((name, t) for name, t in self._named_tensors() if isinstance(t, Parameter))

    def parameters(self) -> Iterator[Parameter]:
        """All parameters."""
        return (p for _, p in self.named_parameters())

    # --- state ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray[Any, Any]]:
        """A copy of every parameter and buffer, by dotted name."""
        return {name: np.array(t.numpy()) for name, t in self._named_tensors()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the values of `state_dict()`.

        Raises KeyError for missing or unknown names, ValueError for shapes that differ and numbers too large for
        the dtype here, TypeError for values that are not numeric or of another kind (floats for integers),
        RuntimeError for a buffer that was computed from others; then nothing has been changed.
        """
        own = dict(self._named_tensors())
        missing, unknown = own.keys() - state.keys(), state.keys() - own.keys()
        if missing or unknown:
            parts = [f"missing {sorted(missing)}"] if missing else []
            parts += [f"unknown {sorted(unknown)}"] if unknown else []
            raise KeyError(f"this state does not fit {type(self).__name__}: {', '.join(parts)}")
        values: dict[str, Value] = {}
        for name, t in own.items():
            if not t.is_leaf:
                raise RuntimeError(f"{name} is computed from other tensors and cannot be loaded; detach() it first")
            given = state[name].numpy() if isinstance(state[name], Tensor) else state[name]
            try:
                with np.errstate(over="ignore"):
                    values[name] = from_user(given, t.dtype)
            except TypeError as error:
                raise TypeError(f"{name}: {error}") from None
            array = np.asarray(given)
            if not np.can_cast(array.dtype, t.dtype, "same_kind"):
                raise TypeError(f"{name} has dtype {t.dtype}, the state gives {array.dtype}")
            if t.dtype.kind == "f" and np.any(np.isinf(values[name]) & np.isfinite(array)):
                raise ValueError(f"{name}: the state has numbers too large for {t.dtype}")
            if np.shape(values[name]) != t.shape:
                raise ValueError(f"{name} has shape {t.shape}, the state gives {np.shape(values[name])}")
        for name, t in own.items():
            t.hold(put(values[name], t.device))

    def to(self: Self, device: str) -> Self:
        """Move every parameter and buffer, and its gradient, to a device, "cpu" or "cuda"; returns itself.

        Raises as `Tensor.to` does, and RuntimeError for a buffer that was computed from others; then nothing has moved.
        """
        device = checked(device)
        tensors = [t for _, t in self._named_tensors()]
        for name, t in self._named_tensors():
            if not t.is_leaf:
                raise RuntimeError(f"{name} is computed from other tensors and cannot be moved; detach() it first")
        moved = [(put(t._value, device), None if t.grad is None else wrap(put(t.grad._value, device))) for t in tensors]
        for t, (value, grad) in zip(tensors, moved, strict=True):
            t.hold(value)
            if grad is not None:
                t.grad = grad
        return self

    def train(self: Self, mode: bool = True) -> Self:
        """Switch this module and all inside it to training (dropout acts) or not; returns itself."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self: Self) -> Self:
        """Switch to evaluation: `train(False)`."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Set every parameter's `.grad` to None."""
        for p in self.parameters():
            p.grad = None

    def extra_repr(self) -> str:
        """What `repr` shows between the parentheses."""
        return ""

    def __repr__(self) -> str:
        children = [
            f"  ({printable(name)}): " + repr(child).replace("\n", "\n  ") for name, child in self.named_children()
        ]
        body = "\n" + "\n".join(children) + "\n" if children else self.extra_repr()
        return f"{type(self).__name__}({body})"


def _sign(module: Module, start: int, entry: Entry | None) -> None:
    """Note on what a module returned that it did so, if it recorded that: see `Entry`."""
    if entry is not None and entry.number > start:
        frame, end = _getframe(2), next_number()
        # Nothing inside has signed this entry if no number was taken since.
        earlier = None if end == entry.number + 1 else getattr(entry, "call", None)
        entry.call = module, start, end, frame.f_code, frame.f_lasti, earlier


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _members(module: Module) -> Iterator[tuple[str, Any]]:
    """Attributes in the order of assignment, containers opened."""

    def open_up(name: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, list | tuple):
            for i, item in enumerate(value):
                yield from open_up(_join(name, str(i)), item)
        elif isinstance(value, dict):
            for key, item in value.items():
                yield from open_up(_join(name, str(key)), item)
        elif isinstance(value, Module | Tensor):
            yield name, value

    for name, value in vars(module).items():
        yield from open_up(name, value)
