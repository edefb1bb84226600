"""The tensor: a handle on a value and, where it is recorded, on its entry of the tape.

Tensors have value semantics. Nothing outside can write into a tensor's buffer, in-place operators move the
handle to a new entry, and an update reuses the buffer only when nobody else can see it; so a tape never finds
a value changed under it. Operators and methods are installed by the op registry.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import ref

import numpy as np

from .cuda.array import DeviceArray, on_host
from .tape import ACTIVE, CONSTANT, TRACING, Entry, caller, describe, leaf, mode, recording, succeed, tracer
from .value import UNSHARED, Value, as_value, from_user
from .views import refuse_view


class Tensor:
    """An n-dimensional array that can record what is done to it. Make one with `autograd_geo.tensor`."""

    __slots__ = ("__weakref__", "_base", "_entry", "_value")

    _value: Value
    _entry: Entry | None
    _base: ref[Tensor] | None  # see `views`; may be unset

    if TYPE_CHECKING:  # installed from the registry
        __add__: Callable[[Tensor, Any], Tensor]
        __radd__: Callable[[Tensor, Any], Tensor]
        __sub__: Callable[[Tensor, Any], Tensor]
        __rsub__: Callable[[Tensor, Any], Tensor]
        __mul__: Callable[[Tensor, Any], Tensor]
        __rmul__: Callable[[Tensor, Any], Tensor]
        __truediv__: Callable[[Tensor, Any], Tensor]
        __rtruediv__: Callable[[Tensor, Any], Tensor]
        __pow__: Callable[[Tensor, Any], Tensor]
        __rpow__: Callable[[Tensor, Any], Tensor]
        __matmul__: Callable[[Tensor, Any], Tensor]
        __rmatmul__: Callable[[Tensor, Any], Tensor]
        __neg__: Callable[[Tensor], Tensor]
        __abs__: Callable[[Tensor], Tensor]
        __lt__: Callable[[Tensor, Any], Tensor]
        __le__: Callable[[Tensor, Any], Tensor]
        __gt__: Callable[[Tensor, Any], Tensor]
        __ge__: Callable[[Tensor, Any], Tensor]
        __getitem__: Callable[[Tensor, Any], Tensor]
        __and__: Callable[[Tensor, Any], Tensor]
        __rand__: Callable[[Tensor, Any], Tensor]
        __or__: Callable[[Tensor, Any], Tensor]
        __ror__: Callable[[Tensor, Any], Tensor]
        __invert__: Callable[[Tensor], Tensor]
        __setitem__: ClassVar[Callable[[Tensor, Any, Any], None]]
        backward: Callable[..., None]
        to: Callable[..., Tensor]

        def __getattr__(self, name: str) -> Callable[..., Tensor]: ...

    # --- what it is -------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        return () if type(self._value) is float else self._value.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float64) if type(self._value) is float else self._value.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return 1 if type(self._value) is float else int(self._value.size)

    @property
    def device(self) -> str:
        """Where the value is: "cpu", or "cuda" for the memory of a GPU."""
        return "cuda" if type(self._value) is DeviceArray else "cpu"

    @property
    def T(self) -> Tensor:
        """The tensor with its axes reversed."""
        return self.transpose()

    @property
    def requires_grad(self) -> bool:
        """Whether ops on this tensor are recorded."""
        return self._entry is not None and self._entry.state > CONSTANT

    @requires_grad.setter
    def requires_grad(self, flag: bool) -> None:
        self.requires_grad_(flag)

    def requires_grad_(self, flag: bool = True) -> Tensor:
        """Start or stop recording what is done to this leaf; returns the tensor itself."""
        if not self.is_leaf:
            raise RuntimeError(
                f"requires_grad can be set on a leaf only, and this is {describe(self._entry)}; "  # type: ignore[arg-type]
                "use .detach() for a tensor cut from the tape"
            )
        if flag != self.requires_grad:
            if flag:
                _check_floating(self._value)
            if mode() & TRACING:
                tracer().remake(self, ACTIVE if flag else CONSTANT)
                return self
            self._entry = leaf(self._value, ACTIVE if flag else CONSTANT, self.name)
        return self

    @property
    def is_leaf(self) -> bool:
        """Whether the tape starts here: the user made this tensor, no recorded op did."""
        return self._entry is None or self._entry.op is None

    @property
    def grad(self) -> Tensor | None:
        """The gradient that `backward()` accumulated here, None before; of the tensor's shape and dtype."""
        entry = self._entry
        if entry is None or entry.op is not None:
            return None
        if mode() & TRACING and entry.state > CONSTANT:
            return tracer().gradient(tracer().source(self))  # type: ignore[no-any-return]
        return (entry.root or entry).grad  # type: ignore[no-any-return]

    @grad.setter
    def grad(self, value: Any) -> None:
        if value is not None:
            if not self.requires_grad or not self.is_leaf:
                raise RuntimeError("grad can be set on a leaf that requires a gradient only")
            value = value if isinstance(value, Tensor) else tensor(value, dtype=self.dtype)
            if value.shape != self.shape or value.dtype != self.dtype:
                raise ValueError(
                    f"grad must have shape {self.shape} and dtype {self.dtype}, not {value.shape} and {value.dtype}"
                )
        entry = entry_of(self)
        if mode() & TRACING:
            tracer().forget_gradient(self)
        (entry.root or entry).grad = value

    @property
    def name(self) -> str | None:
        """The name given, or the variable this was assigned to; drawn in graphs, told in errors."""
        return None if self._entry is None else self._entry.label

    @name.setter
    def name(self, name: str | None) -> None:
        entry_of(self).name = name

    # --- out of the tape --------------------------------------------------------------------------------------

    def numpy(self) -> np.ndarray[Any, Any]:
        """The value as a read-only array, without a copy. It is cut from the tape and never changes later."""
        array = np.asarray(self._on_host())
        if isinstance(array.base, np.ndarray):
            array.base.flags.writeable = False  # else NumPy would let anyone make the view writable again
        array.flags.writeable = False
        return array.view()

    def item(self) -> Any:
        """The one number in this tensor, as a Python number, cut from the tape."""
        if self.size != 1:
            raise ValueError(f"item() needs a tensor of one element, this one has shape {self.shape}")
        value = self._on_host()
        return value if type(value) is float else value.item()

    def tolist(self) -> Any:
        """The value as (nested lists of) Python numbers."""
        value = self._on_host()
        return value if type(value) is float else value.tolist()

    def _on_host(self) -> Value:
        return tracer().read(self) if mode() & TRACING else on_host(self._value)

    def detach(self) -> Tensor:
        """The same value, not recorded."""
        if mode() & TRACING:
            return tracer().detach(self)  # type: ignore[no-any-return]
        return wrap(self._value)

    def copy(self) -> Tensor:
        """A recorded copy."""
        return self.positive()

    clone = copy

    def _number(self, convert: Callable[[Any], Any]) -> Any:
        if self.requires_grad and recording():
            raise TypeError(
                f"{convert.__name__}() would cut {describe(entry_of(self))} from the tape, and its gradient with it. "
                "Use autograd_geo's or NumPy's functions instead of math's; to read the number, .item()"
            )
        return convert(self.item())

    def __float__(self) -> float:
        return float(self._number(float))

    def __int__(self) -> int:
        return int(self._number(int))

    def __index__(self) -> int:
        if self.dtype.kind not in "iu" or self.shape:
            raise TypeError(f"only a single integer can be an index, not shape {self.shape}, dtype {self.dtype}")
        return int(self.item())

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(
                f"the truth of a tensor of shape {self.shape} is ambiguous; use .all() or .any() on .numpy()"
            )
        if mode() & TRACING:
            return bool(tracer().read(self, bool))
        return bool(self._on_host())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if self.requires_grad and recording():
            raise TypeError(
                f"making a NumPy array of {describe(entry_of(self))} would cut it from the tape; "
                "say so with .numpy() or .detach()"
            )
        return np.array(self.numpy(), dtype) if copy else np.asarray(self.numpy(), dtype)

    def __dlpack__(self, **kwargs: Any) -> Any:
        from .interop.dlpack import to_dlpack

        return to_dlpack(self, **kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        from .interop.dlpack import dlpack_device

        return dlpack_device(self)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if type(self._value) is not DeviceArray:
            raise AttributeError("__cuda_array_interface__: the tensor is in the host's memory")
        if self.requires_grad and recording():
            raise TypeError("this tensor requires a gradient, which would be lost; pass t.detach()")
        if mode() & TRACING:
            raise TypeError(
                "a compiled function cannot give a tensor's memory to another library: what that does is lost"
            )
        return self._value.__cuda_array_interface__

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        from .interop.protocols import array_ufunc

        return array_ufunc(ufunc, method, inputs, kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        from .interop.protocols import array_function

        return array_function(function, args, kwargs)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a tensor of one number (shape ()) has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return iter([self[i] for i in range(len(self))])

    def __contains__(self, item: Any) -> bool:
        return bool(np.any(self.numpy() == getattr(item, "_value", item)))

    def __eq__(self, other: object) -> Tensor:  # type: ignore[override]
        return self.equal(other)

    def __ne__(self, other: object) -> Tensor:  # type: ignore[override]
        return self.not_equal(other)

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        body = np.array2string(np.asarray(on_host(self._value)), separator=", ", prefix="tensor(", threshold=1000)
        notes = "" if self.dtype in (np.float64, np.int64, np.bool_) else f", dtype={self.dtype}"
        notes += ', device="cuda"' if self.device == "cuda" else ""
        if self.requires_grad:
            op = self._entry.op if self._entry is not None else None
            notes += ", requires_grad=True" if op is None else f", op={op.name}"
        return f"tensor({body}{notes})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if not self.is_leaf:
            raise RuntimeError(f"only leaves can be deep-copied, and this is {describe(entry_of(self))}; use .detach()")
        return _rebuild(type(self), np.array(on_host(self._value)), self.requires_grad, self.name, self.device)

    def __reduce__(self) -> Any:
        if not self.is_leaf:
            raise RuntimeError(f"only leaves can be pickled, and this is {describe(entry_of(self))}; use .detach()")
        return _rebuild, (type(self), np.array(on_host(self._value)), self.requires_grad, self.name, self.device)

    # --- backward and in place --------------------------------------------------------------------------------

    def refuse_as_view(self, how: str) -> None:
        """Raise RuntimeError where NumPy would write into another tensor too."""
        if getattr(self, "_base", None) is not None:
            refuse_view(self, how)

    def _become(self, result: Tensor, how: str) -> None:
        """Move this handle to the result of an in-place operation, keeping shape and dtype."""
        if result.shape != self.shape:
            raise ValueError(f"{how} cannot change the shape of a tensor from {self.shape} to {result.shape}")
        if result.dtype != self.dtype:
            if not np.can_cast(result.dtype, self.dtype, "same_kind"):
                raise TypeError(f"{how} cannot put {result.dtype} into a tensor of dtype {self.dtype}")
            result = result.astype(self.dtype)
        if self.is_leaf and not result.requires_grad:
            if mode() & TRACING:
                tracer().assign(self, result)
            else:
                self.hold(result._value)
            return
        if self.is_leaf and self.requires_grad:
            raise RuntimeError(
                f"{how} on a leaf that requires a gradient would lose the leaf: write it as a new tensor, "
                "or update it inside `with ag.no_grad():`"
            )
        self._value, self._entry = result._value, result._entry

    def assign(self, value: Any) -> None:
        """Replace the value of an unrecorded tensor or leaf by a copy of `value`, keeping dtype, name and `.grad`.

        Tapes recorded before keep differentiating at the old value. Raises ValueError for another shape, TypeError
        for data that is not numeric; then nothing has changed.
        """
        if mode() & TRACING:
            self.refuse_as_view("assign")
            self._become(tensor(value, dtype=self.dtype), "assign")
        else:
            fresh = from_user(value.numpy() if isinstance(value, Tensor) else value, self.dtype)
            self.hold(wrap(fresh).to(self.device)._value)

    def hold(self, value: Value) -> None:
        """As `assign`, but takes over `value`, of this tensor's dtype, which nobody else may change afterwards."""
        self.refuse_as_view("assign")
        if not self.is_leaf:
            raise RuntimeError(f"only leaves can be assigned, and this is {describe(entry_of(self))}")
        value = as_value(value)
        shape = () if type(value) is float else value.shape
        if shape != self.shape:
            raise ValueError(f"a value of shape {shape} cannot replace one of shape {self.shape}")
        old, self._value = self._entry, value
        if old is None:
            return
        if sys.getrefcount(old) <= UNSHARED + 1:  # besides this frame only the handle: no tape holds it
            old.value = value
        else:
            self._entry = succeed(old, value)

    def buffer(self) -> Value:
        """An array an update of this tensor may write into: its own if nothing else can see it, else a new one."""
        value = self._value
        if type(value) is float or type(value) is DeviceArray:
            return np.empty(())
        entry = self._entry
        alone = entry is None or (entry.value is value and sys.getrefcount(entry) <= UNSHARED + 1)
        holders = UNSHARED + 1 + (entry is not None)  # this frame; the handle; its leaf
        if alone and value.base is None and value.flags.writeable and sys.getrefcount(value) <= holders:
            return value
        return np.empty_like(value)


class Parameter(Tensor):
    """A leaf that requires a gradient and that an `nn.Module` finds among its attributes.

    Args: data (anything `tensor` takes), dtype, name. Raises TypeError for data that is not floating point.
    """

    __slots__ = ()

    def __init__(self, data: Any, dtype: Any = None, name: str | None = None) -> None:
        self._value, self._base = _value_of(data, dtype), None
        _check_floating(self._value)
        self._entry = leaf(self._value, ACTIVE, name, *caller(2))


def wrap(value: Value, entry: Entry | None = None) -> Tensor:
    """A tensor around a held value, without a copy or a check."""
    t = Tensor()
    t._value, t._entry, t._base = value, entry, None
    return t


def constant(value: Value) -> Tensor:
    """A tensor around a held value that is no input of anything: a tracer takes it for the same in each run."""
    return wrap(value, leaf(value, CONSTANT))


def tensor(
    data: Any, *, requires_grad: bool = False, dtype: Any = None, name: str | None = None, device: str | None = None
) -> Tensor:
    """A tensor with a private copy of `data`: a number, nested lists or an array.

    With `requires_grad=True` it is a leaf of the tape; floating point only. `name` is drawn in graphs (default:
    the variable it is assigned to). `device` is "cpu" or "cuda" (default: that of `data`). Raises TypeError for data
    that is not numeric, or for an integer leaf, DeviceError for "cuda" where there is no GPU.
    """
    if device is not None:
        moved = tensor(data, dtype=dtype).to(device)
        return tensor(moved, requires_grad=requires_grad, name=name) if requires_grad or name else moved
    if mode() & TRACING and type(data) is not float:
        return tracer().tensor(data, dtype, requires_grad, name)  # type: ignore[no-any-return]
    value = data if type(data) is float and dtype is None else _value_of(data, dtype)
    t = wrap(value)
    if requires_grad:
        if type(value) is not float:
            _check_floating(value)
        code, lasti = caller(2)
        t._entry = leaf(value, ACTIVE, name, code, lasti)
    elif name is not None:
        t._entry = leaf(value, CONSTANT, name)
    return t


def _value_of(data: Any, dtype: Any) -> Value:
    if isinstance(data, Tensor):
        if data.requires_grad and recording():
            raise TypeError(
                f"a new tensor of {describe(entry_of(data))} would cut it from the tape; say so with .detach(), "
                "or keep it recorded with .copy()"
            )
        data = data._value
        if type(data) is DeviceArray:
            return data if dtype in (None, data.dtype) else wrap(from_user(data.numpy(), dtype)).to("cuda")._value
    elif isinstance(data, list | tuple) and _holds_tensor(data):
        raise TypeError("tensors in a list would be cut from the tape; join them with ag.stack or ag.concatenate")
    return from_user(data, dtype)


def _holds_tensor(data: Any) -> bool:
    return any(isinstance(d, Tensor) or (isinstance(d, list | tuple) and _holds_tensor(d)) for d in data)


def _check_floating(value: Value) -> None:
    if type(value) is not float and value.dtype.kind != "f":
        raise TypeError(
            f"only floating-point tensors can require a gradient, this one has dtype {value.dtype}; "
            "write 2.0 instead of 2, or pass dtype=float"
        )


def entry_of(t: Tensor) -> Entry:
    """The tensor's entry, made on first use for a constant."""
    if t._entry is None:
        t._entry = leaf(t._value, CONSTANT)
    return t._entry


def _rebuild(cls: type[Tensor], value: Any, requires_grad: bool, name: str | None, device: str = "cpu") -> Tensor:
    t = cls.__new__(cls)
    t._value = wrap(as_value(value)).to(device)._value
    t._entry = leaf(t._value, ACTIVE if requires_grad else CONSTANT, name)
    return t


__all__ = ["Parameter", "Tensor", "constant", "entry_of", "tensor", "wrap"]
