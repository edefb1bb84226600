"""What an op is, the registry of all ops, and how one runs.

An `Op` knows how to evaluate itself on arrays and has one `Rule` for each input that a gradient can flow to.
`declare` makes them in four families; here is what they are, the registry that holds them, and `apply`, which
runs one and records it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from inspect import Parameter
from math import prod
from sys import getrefcount
from typing import Any, TypeVar

import numpy as np

from . import expr
from .contract import product_shape
from .cuda.array import DeviceArray
from .memory import MANY, afford
from .tape import (
    ACTIVE,
    CONSTANT,
    GRADIENTS,
    TRACING,
    WEAK,
    Entry,
    caller,
    leaf,
    mode,
    next_number,
    recording,
    tracer,
    watcher,
)
from .tensor import Tensor, entry_of, wrap
from .value import NUMBERS, SCALAR, UNSHARED, Value, as_value, from_user, refuse_masked, strong
from .views import refuse_view

Function = Callable[..., Any]
TensorFunction = Callable[..., Tensor]
_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Rule:
    """How the cotangent `g` of an op's output becomes that of one of its inputs.

    `raw` maps arrays to arrays, `scalar` Python floats to a float, `traced` tensors to a recorded tensor; each
    takes (g, entry). `needs` are the values it reads: input names, and "z" for the output.
    """

    raw: Callable[[Value, Entry], Value]
    scalar: Callable[[Value, Entry], Value]
    traced: Callable[[Tensor, Entry], Tensor]
    needs: frozenset[str]
    text: tuple[str, str] = ("", "")  # the local derivative as LaTeX and as a plain label, where it is no expression
    partial: expr.Node | None = None  # the local derivative, where it is one
    support: Rule | None = None  # as a rule: 0 where the declaration says that the local derivative is 0, else 1

    @property
    def latex(self) -> str:
        """The local derivative as LaTeX, in terms of the op's inputs and its output z."""
        return self.text[0] if self.partial is None else expr.latex(self.partial)

    @property
    def label(self) -> str:
        """The local derivative as a short plain text."""
        return self.text[1] if self.partial is None else expr.label(self.partial)


class Rules:
    """The rules of an op with any number of inputs, made when first asked for."""

    def __init__(self, make: Callable[[int], Rule | None]) -> None:
        self._make = cache(make)

    def __getitem__(self, k: int) -> Rule | None:
        return self._make(k)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Op:
    """One operation: its name, its inputs, how to evaluate it and how cotangents pass back through it."""

    name: str
    family: str
    inputs: tuple[str, ...]
    attrs: Mapping[str, Any]
    forward: Callable[..., Any]  # NumPy values in, NumPy value out
    rules: tuple[Rule | None, ...] | Rules  # of each input; None if no gradient flows to it
    body: expr.Node | None = None  # the formula of a pointwise op
    symbol: str = ""  # what a graph shows: "+", "tanh"
    variadic: bool = False  # any number of inputs, all under the one name
    domain: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    reference: str = ""  # NumPy/SciPy expression over the inputs, for the value test; default: NumPy's function
    surrogate: bool = False  # the rules are deliberately not the derivative
    moves: bool = False  # each element of the result is one of the inputs', or 0
    selects: bool = False  # it may leave elements of its inputs out, and then their derivatives are 0
    signatures: tuple[str, ...] = ()  # of a multilinear op; none if it takes its own
    transposes: Op | None = None  # the linear op that this one is the transpose of
    differentiable: int = field(default=-1, init=False)  # the inputs that have a rule, as bits
    _keeps: dict[int, tuple[tuple[int, ...], bool]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.rules, tuple):
            bits = [1 << k for k, rule in enumerate(self.rules) if rule is not None]
            object.__setattr__(self, "differentiable", sum(bits))

    def keeps(self, active: int) -> tuple[tuple[int, ...], bool]:
        """Which inputs' values, and whether the output's, the derivatives of the active inputs (bits) read."""
        found = self._keeps.get(active)
        if found is None:
            rules = [self.rules[k] for k in range(active.bit_length()) if active >> k & 1]
            needs = frozenset[str]().union(*[r.needs for r in rules if r])
            names = self.inputs * active.bit_length() if self.variadic else self.inputs
            found = tuple([k for k, name in enumerate(names) if name in needs]), "z" in needs
            self._keeps[active] = found
        return found

    def shape(self, *operands: Any, **attrs: Any) -> tuple[int, ...]:
        """The shape of the result for operands given by their shapes, or as arrays where the values matter (indices).

        Raises what the op itself would raise for them.
        """
        stand_ins = [np.broadcast_to(1.0, x) if isinstance(x, tuple) else x for x in operands]
        if self.family == "pointwise":
            return np.broadcast_shapes(*[np.shape(x) for x in stand_ins])
        defaults = {k: v for k, v in self.attrs.items() if v is not Parameter.empty}
        return np.shape(self.evaluate(stand_ins, {**defaults, **attrs}))

    def afford(self, values: Sequence[Any], attrs: Mapping[str, Any]) -> None:
        """Raise MemoryError where the result of an op that broadcasts or multiplies would not fit into memory."""
        if self.family not in ("pointwise", "multilinear") or prod([np.size(x) for x in values]) < MANY:
            return
        shapes = [np.shape(x) for x in values]
        if max(map(prod, shapes)) < MANY and self.family == "pointwise" and len(set(shapes) - {()}) == 1:
            return
        try:
            if self.family == "pointwise":
                shape = np.broadcast_shapes(*shapes)
            else:
                shape = product_shape(self.signatures, shapes, attrs)
        except ValueError:
            return  # what does not fit is told when it runs
        if self.family == "pointwise":
            few = [np.ones(1, x.dtype) if isinstance(x, np.ndarray) else x for x in values]
            dtype = np.asarray(self.forward(*few, **attrs)).dtype
        else:
            dtype = np.result_type(*values)
        afford(self.name, shape, dtype, f" of shapes {' and '.join(map(str, shapes))}")

    def evaluate(self, values: Sequence[Any], attrs: Mapping[str, Any]) -> Value:
        """The op's value for NumPy inputs, or such on the GPU. Errors name the op and the shapes."""
        if DeviceArray in map(type, values):
            return _on_device(self, values, dict(attrs))
        self.afford(values, attrs)
        try:
            return as_value(self.forward(*values, **attrs))
        except EXPLAINED as error:
            raise _explained(self, error, values, attrs) from error


@dataclass(frozen=True, slots=True)
class Sample:
    """One call for the derived tests: a tuple argument is the shape of a random array, anything else is itself."""

    args: tuple[Any, ...]
    attrs: dict[str, Any]


def sample(*args: Any, **attrs: Any) -> Sample:
    return Sample(args, attrs)


#: What NumPy raises of arguments that do not fit; the most special classes first.
EXPLAINED = (np.exceptions.AxisError, IndexError, OverflowError, TypeError, ValueError)


def _explained(op: Op, error: Exception, values: Sequence[Any], attrs: Mapping[str, Any]) -> Exception:
    """The error again, naming the op, the shapes and what to do."""
    shapes = " and ".join(str(np.shape(v)) for v in values)
    given = "".join(f", {k}={v!r:.60}" for k, v in attrs.items() if v is not None)
    told = str(error)
    text = f"{op.name}: {told}; shapes {shapes}{given}"
    if isinstance(error, np.exceptions.AxisError):
        text += ". Axes count from 0, or from -1 back"
    elif isinstance(error, ValueError) and "broadcast" in told:
        text = f"{op.name}: shapes {shapes} do not broadcast; axes must match from the right, or be 1"
    elif isinstance(error, ValueError) and ("core dimension" in told or "not aligned" in told):
        text = f"{op.name}: shapes {shapes} do not fit; the axes that are summed over must have equal lengths"
    elif isinstance(error, OverflowError) and "out of bounds" in told:
        text += ". Convert the tensor to a wider dtype first, as in x.astype(float)"
    elif isinstance(error, OverflowError):
        text += ". Use a smaller number; for operands up to 1.8e308 a float will do"
    return next(kind for kind in EXPLAINED if isinstance(error, kind))(text)


# --- the registry ---------------------------------------------------------------------------------------------

#: Every op, by name.
registry: dict[str, Op] = {}
#: The function of every op, by name.
functions: dict[str, TensorFunction] = {}

OPERATORS = {
    "add": ("__add__", "__radd__"),
    "subtract": ("__sub__", "__rsub__"),
    "multiply": ("__mul__", "__rmul__"),
    "divide": ("__truediv__", "__rtruediv__"),
    "power": ("__pow__", "__rpow__"),
    "matmul": ("__matmul__", "__rmatmul__"),
    "remainder": ("__mod__", "__rmod__"),
    "negative": ("__neg__", None),
    "positive": ("__pos__", None),
    "abs": ("__abs__", None),
    "less": ("__lt__", None),
    "less_equal": ("__le__", None),
    "greater": ("__gt__", None),
    "greater_equal": ("__ge__", None),
}


def register(op: Op, function: TensorFunction, method: bool = True) -> TensorFunction:
    """Add an op to the registry; a built-in one also becomes a method, and an operator if it has one.

    Raises ValueError for a name that a built-in op has. A user's own op may be declared again.
    """
    built_in = function.__module__.startswith(f"{__package__}.")
    if op.name in functions and functions[op.name].__module__.startswith(f"{__package__}."):
        raise ValueError(f"an op named {op.name!r} is built in; choose another name")
    registry[op.name], functions[op.name] = op, function
    function.op = op  # type: ignore[attr-defined]
    if built_in and method and op.name.isidentifier():
        setattr(Tensor, op.name, function)
        direct, reflected = OPERATORS.get(op.name, (None, None))
        if direct:
            _install_operator(direct, function)
        if reflected:
            _install_operator(reflected, getattr(function, "reflected", lambda self, other: function(other, self)))
    return function


def composite(method: bool = True) -> Callable[[_F], _F]:
    """Mark a function made of ops: known by its name to NumPy's protocols, and a method of tensors."""

    def mark(function: _F) -> _F:
        functions[function.__name__] = function
        if method:
            setattr(Tensor, function.__name__, function)
        return function

    return mark


def _install_operator(name: str, function: Function) -> None:
    setattr(Tensor, name, function)
    in_place = f"__i{name.strip('_')}__"
    if name in ("__add__", "__sub__", "__mul__", "__truediv__", "__pow__", "__matmul__"):

        def update(self: Tensor, other: Any) -> Tensor:
            if mode() & TRACING and self._entry is not None and self._entry.state == WEAK:
                return function(self, other)  # type: ignore[no-any-return]  # stands for a Python number
            how = f"x {_SYMBOLS[name]}= v"
            if getattr(self, "_base", None) is not None:
                temporary = getrefcount(self) <= UNSHARED + 1  # besides this frame only the stack of the caller
                refuse_view(self, how, temporary)
            self._become(function(self, other), how)
            return self

        setattr(Tensor, in_place, update)


_SYMBOLS = {
    "__add__": "+", "__sub__": "-", "__mul__": "*", "__truediv__": "/", "__pow__": "**", "__matmul__": "@"
}  # fmt: skip


#: Types of attributes that nobody can change.
SIMPLE = frozenset([type(None), bool, int, float, str, slice])

# --- running an op --------------------------------------------------------------------------------------------


def apply(op: Op, operands: Sequence[Any], attrs: dict[str, Any]) -> Tensor:
    """Evaluate an op and, where a gradient can flow through it, record it."""
    if (now := mode()) > GRADIENTS:
        return (tracer() if now & TRACING else watcher()).apply(op, operands, attrs)  # type: ignore[no-any-return]
    attrs = {k: v if type(v) in SIMPLE else frozen(v) for k, v in attrs.items()} if attrs else attrs
    values: list[Any] = []
    sources: list[Any] = []
    active, bit = 0, 1
    for x in operands:
        if isinstance(x, Tensor):
            v, source = x._value, x._entry
            if source is not None and source.state > 0:
                active |= bit
            values.append(np.float64(v) if type(v) is float else v)
            sources.append(source)
        elif type(x) in NUMBERS and (values or op.family == "pointwise"):
            values.append(x)
            sources.append(x)
        else:
            values.append(_array(op, len(values), x))
            sources.append(None)
        bit <<= 1
    if DeviceArray in map(type, values):
        z = _on_device(op, values, attrs, operands)
        for k, x in enumerate(operands):  # what is noted of them is where the derivatives will be
            if not isinstance(x, Tensor) and type(values[k]) is np.ndarray and values[k].dtype.kind == "f":
                values[k] = _moved(values[k])
    else:
        op.afford(values, attrs)
        try:
            z = op.forward(*values, **attrs)
        except EXPLAINED as error:
            raise _explained(op, error, values, attrs) from error
    if type(z) is not np.ndarray or not z.shape:
        z = as_value(z)
        if type(z) is not float and z.dtype.kind == "O":  # of two literals, one of which no dtype holds
            raise _explained(op, OverflowError("Python int too large to convert to float"), values, attrs)
    t = wrap(z)
    active &= op.differentiable
    if not active or not recording():
        return t
    for k, source in enumerate(sources):
        if source is None:
            x = operands[k]
            sources[k] = entry_of(x) if isinstance(x, Tensor) else leaf(as_value(values[k]), CONSTANT)
    kept, keep_output = op.keeps(active)
    for k in kept:
        x = operands[k]
        if isinstance(x, Tensor):
            sources[k].value = x._value
    t._entry = entry = Entry()
    entry.number = next_number()
    entry.op = op
    entry.inputs = tuple(sources)
    entry.attrs = attrs
    entry.state = ACTIVE
    entry.name = None
    entry.code, entry.lasti = caller(2)
    if type(z) is float:
        entry.value = z
        entry.spec = SCALAR
    else:
        entry.value = z if keep_output else None
        entry.spec = (z.shape, z.dtype)
    return t


def _moved(value: Value) -> Value:
    from .device import put

    return put(value, "cuda")


def _on_device(op: Op, values: Sequence[Any], attrs: dict[str, Any], operands: Sequence[Any] = ()) -> Value:
    from .device import evaluate

    try:
        return evaluate(op, values, attrs, operands)
    except EXPLAINED as error:
        raise _explained(op, error, values, attrs) from error


def _array(op: Op, k: int, x: Any) -> Value:
    """A private copy of an operand that is no tensor, so that changing it later changes no tape."""
    if isinstance(x, list | tuple) and any(isinstance(i, Tensor) for i in x):
        raise TypeError(f"{op.name}: a list of tensors would be cut from the tape; join them with ag.stack first")
    try:
        return strong(from_user(x))
    except TypeError as error:
        raise TypeError(f"{op.name}: argument {op.inputs[0 if op.variadic else k]!r}: {error}") from None


def frozen(attr: Any) -> Any:
    """An attribute as the user cannot change it later. Raises TypeError for a tensor that requires a gradient."""
    if isinstance(attr, Tensor):
        if attr.requires_grad:
            raise TypeError(
                "a gradient flows through operands only, not through an attribute; pass its .item() or .numpy()"
            )
        return attr.tolist() if attr.ndim == 0 else attr.numpy()
    if isinstance(attr, tuple):
        return tuple([a if type(a) in SIMPLE else frozen(a) for a in attr])
    if isinstance(attr, list):
        return [a if type(a) in SIMPLE else frozen(a) for a in attr]
    if isinstance(attr, dict):
        return {k: frozen(v) for k, v in attr.items()}
    if isinstance(attr, set):
        return attr.copy()
    refuse_masked(attr)
    return np.array(attr) if _is_array_like(attr) else attr


def _is_array_like(x: Any) -> bool:
    """Whether it shows memory that may change: arrays of other libraries, buffers."""
    if isinstance(x, type | bytes | np.generic):
        return False
    if hasattr(x, "__array__") or hasattr(x, "__array_interface__"):
        return True
    try:
        memoryview(x)
    except (TypeError, ValueError, BufferError):
        return False
    return True
