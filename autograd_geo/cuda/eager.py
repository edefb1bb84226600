"""One op on the device: a program for each op and each kind of operands, made when it is first needed.

What has no kernels (sorting, a user's own NumPy code) is computed by NumPy on copies in the host's memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..compiler.graph import Graph
from ..compiler.moves import frozen_key
from ..compiler.nodes import INPUT, Node
from ..compiler.regions import storage
from ..compiler.trace import Tracer
from ..op import Op
from ..value import NUMBERS
from .array import DeviceArray
from .precision import current
from .program import DeviceProgram, upload

#: Ops of which a literal operand is part of the formula, as in x**2.
_LITERAL = frozenset(["power"])
_programs: dict[Any, tuple[DeviceProgram | _Same, Any]] = {}


def to_device(value: Any) -> DeviceArray:
    """An array or number of the host on the device."""
    array = np.asarray(value)
    return DeviceArray(upload(array), array.shape, array.dtype)


def evaluate(op: Op, values: Sequence[Any], attrs: Mapping[str, Any]) -> DeviceArray:
    """What `op` computes of values some of which are on the device; arrays of the host are copied there."""
    literals = tuple([type(x) in NUMBERS and (op.name in _LITERAL or op.family != "pointwise") for x in values])
    kinds = [
        (type(x), repr(x)) if fixed else type(x) if type(x) in NUMBERS else (x.shape, x.dtype)
        for x, fixed in zip(values, literals, strict=True)
    ]
    key = op, tuple(kinds), frozen_key(attrs), "" if op.family == "pointwise" else current()
    if key not in _programs:
        _programs[key] = _program(op, values, literals, dict(attrs))
    program, at = _programs[key]
    _check_positions(op, values, attrs)
    try:
        given = [_given(x, at) for x, fixed in zip(values, literals, strict=True) if not fixed]
    except OverflowError:
        return _beyond(op, values, attrs)
    (result,) = program.run(*given)
    return result


def _beyond(op: Op, values: Sequence[Any], attrs: Mapping[str, Any]) -> DeviceArray:
    """What an op gives where a literal lies outside the dtype: comparisons, the same for all elements.

    NumPy says it of one element; other ops raise its OverflowError.
    """
    few = [x if type(x) in NUMBERS else np.zeros((), x.dtype) for x in values]
    shape, _ = _result(op, values, dict(attrs))
    return to_device(np.full(shape, op.forward(*few, **attrs)))


def _given(x: Any, at: np.dtype[Any]) -> DeviceArray:
    if isinstance(x, DeviceArray):
        return x
    if type(x) not in NUMBERS:
        return to_device(x)
    return number(
        np.asarray(x, np.dtype(bool) if type(x) is bool else at).tobytes(), np.dtype(bool) if type(x) is bool else at
    )


@lru_cache(maxsize=1024)
def number(x: bytes, dtype: np.dtype[Any]) -> DeviceArray:
    """A number, by its bytes, that is used again and again, such as a literal."""
    return to_device(np.frombuffer(x, dtype).reshape(()))


def _program(
    op: Op, values: Sequence[Any], literals: Sequence[bool], attrs: dict[str, Any]
) -> tuple[DeviceProgram | _Same, Any]:
    """The program of an op for such operands, and the dtype of its literals."""
    spec = _result(op, values, attrs)
    dtypes = [x if type(x) in NUMBERS else x.dtype for x in values]
    at = np.result_type(*dtypes) if spec[1].kind == "b" and values else spec[1]
    graph, args = Graph(Tracer()), list[Any]()
    for x, fixed in zip(values, literals, strict=True):
        if type(x) in NUMBERS:
            args.append(x if fixed else Node(INPUT, (), np.dtype(bool) if type(x) is bool else at))
        else:
            args.append(Node(INPUT, x.shape, x.dtype))
    result = graph.op(op, args, attrs, spec, None)
    inputs = [a for a, fixed in zip(args, literals, strict=True) if not fixed]
    root = storage(result)
    if root is not None and root in inputs and root.size == result.size:
        return _Same(inputs.index(root), result), at
    return DeviceProgram(inputs, [result]), at


class _Same(NamedTuple):
    """Another shape of the elements of an operand, in the same order: it shares the memory, which never changes."""

    operand: int
    node: Node

    def run(self, *arrays: DeviceArray) -> list[DeviceArray]:
        return [arrays[self.operand].in_shape(self.node.shape, self.node.dtype)]


def _result(op: Op, values: Sequence[Any], attrs: dict[str, Any]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of the result: NumPy's of arrays that take no memory."""
    stand_ins = []
    for x in values:
        if type(x) in NUMBERS:
            stand_ins.append(x)
        else:
            one = np.zeros((), x.dtype) if x.dtype.kind in "iub" else np.ones((), x.dtype)
            small = op.family == "pointwise" and x.ndim
            stand_ins.append(np.full((1,) * x.ndim, one) if small else np.broadcast_to(one, x.shape))
    with np.errstate(all="ignore"):
        z = np.asarray(op.forward(*stand_ins, **attrs))
    if op.family == "pointwise":
        shape = np.broadcast_shapes(*[() if type(x) in NUMBERS else x.shape for x in values])
        return shape, z.dtype
    return z.shape, z.dtype


def _check_positions(op: Op, values: Sequence[Any], attrs: Mapping[str, Any]) -> None:
    """Raise IndexError for positions outside an axis, as NumPy does: kernels would read what is nearest."""
    name = op.name.removesuffix(".T")
    if name not in ("take", "take_along_axis") or not values[1].size:
        return
    from ..op import registry

    length = (attrs["shape"] if op.name != name else values[0].shape)[attrs["axis"]]
    index = values[1]
    if isinstance(index, DeviceArray):
        low, high = (
            int(evaluate(registry[how], [index], {"axis": None, "keepdims": False}).numpy()) for how in ("min", "max")
        )
    else:
        low, high = int(index.min()), int(index.max())
    if low < -length or high >= length:
        wrong = low if low < -length else high
        raise IndexError(f"position {wrong} is out of range for axis {attrs['axis']} of length {length}")


__all__ = ["evaluate", "number", "to_device"]
