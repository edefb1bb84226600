"""The support of a cotangent: the elements of a value that the output depends on at all.

What `where`, `clip`, `maximum` or an index leaves out has a cotangent of 0, which stays 0 even where a derivative
further up is infinite or NaN: sqrt(x) behind `where(x > 0, sqrt(x), 0)` adds nothing at 0. A zero that arithmetic made
is no such zero: at x = 0, exp(log(x)) has the derivative 0 * inf, which nobody can know from these numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .cuda.array import DeviceArray, on_host
from .device import put
from .expr import ZERO, Call, Num, Var
from .op import Op, Rule, functions
from .tape import CONSTANT, TRACING, Entry, duplicate, leaf, mode, set_grad_enabled
from .tensor import Tensor, constant, entry_of, wrap
from .value import Value, as_value, strong

_random = np.random.default_rng(0).uniform  # numbers that no sum of them cancels


class Support:
    """The supports of the cotangents of one reverse pass, as it finds them: a mask for each entry, None for all.

    Masks are arrays of booleans; tensors if `by_tensors`: in a pass that is traced, so that a program finds them anew
    in each call, and in one over values on the GPU, where ops run.
    """

    def __init__(self, output: Entry, by_tensors: bool) -> None:
        self._by_tensors, self._device = by_tensors, "cpu"
        self._masks: dict[Entry, Any] = {output: None}

    def contribution(self, rule: Rule, entry: Entry, k: int, g: Any) -> Any:
        """What the cotangent `g` of an entry's output contributes to that of input k, 0 outside the support."""
        if self._by_tensors and not isinstance(g, Tensor | list):  # a list is of several outputs
            with set_grad_enabled(False):
                return self.contribution(rule, entry, k, wrap(g))._value
        source, mask = entry.inputs[k], self._masks[entry]
        self._device = g.device if isinstance(g, Tensor) else "cpu"
        assert type(source) is Entry and entry.op is not None
        if entry.op.family == "pointwise":
            if rule.support is not None:
                found = self._run(rule.support, g, entry)
                found = _is_not_zero(found if isinstance(found, Tensor) else self._constant(np.asarray(found)))
                mask = found if mask is None else mask & found
            c = self._run(rule, g, entry)
            if mask is not None:
                c = self._chosen(mask, c)
                if mask.shape != source.shape:
                    spread = mask * self._constant(np.ones(entry.shape, source.dtype))
                    mask = _is_not_zero(self._fit(spread, entry, k))
        else:
            if mask is not None and entry.op.family == "multilinear":
                entry = self._cleaned(entry, k, mask)
            c = self._fit(self._run(rule, g, entry), entry, k)
            mask = self._passed(entry, k, mask)
            if mask is not None:
                c = self._chosen(mask, c)
        self._meet(source, mask)
        return c

    def _run(self, rule: Rule, g: Any, entry: Entry) -> Any:
        with np.errstate(divide="ignore", invalid="ignore"):  # of what does not count
            return rule.traced(g, entry) if self._by_tensors else rule.raw(strong(g), entry)

    def _fit(self, c: Any, entry: Entry, k: int) -> Any:
        from .backward import fit

        source = entry.inputs[k]
        assert type(source) is Entry
        return fit(c, entry, k, source)

    def _chosen(self, mask: Any, c: Any) -> Any:
        if self._by_tensors:
            return functions["where"](mask, c, 0.0)
        c = np.asarray(c)
        return as_value(np.where(mask, c, c.dtype.type(0)))

    def _constant(self, value: Value) -> Any:
        return constant(put(value, self._device)) if self._by_tensors else value

    def _meet(self, source: Entry, mask: Any) -> None:
        """Another path reaches `source`: what either depends on counts."""
        if source in self._masks:
            before = self._masks[source]
            mask = None if before is None or mask is None else before | mask
        self._masks[source] = None if mask is None or self._is_everywhere(mask) else mask

    def _is_everywhere(self, mask: Any) -> bool:
        if not isinstance(mask, Tensor):
            return bool(np.all(mask))
        known = not mode() & TRACING or mask._entry is None or mask._entry.state == CONSTANT
        return known and bool(np.all(on_host(mask._value)))

    def _passed(self, entry: Entry, k: int, mask: Any) -> Any:
        """The support of input k of an op that is not elementwise, from that of its output.

        The rule tells: it is given a cotangent of random numbers, 0 outside the support, and what comes out as 0 got
        nothing. Zeros among the values must not count, so it reads random numbers for those too.
        """
        op = entry.op
        assert op is not None
        if mask is None and not op.selects:
            return None
        probe = self._constant(_random(1, 2, entry.shape).astype(entry.dtype))
        if mask is not None:
            probe = self._chosen(mask, probe)
        if not _tells_itself(op):
            entry = _stand_in(entry, self._device)
        rule = op.rules[k]
        assert rule is not None
        return _is_not_zero(self._fit(self._run(rule, probe, entry), entry, k))

    def _cleaned(self, entry: Entry, k: int, mask: Any) -> Entry:
        """The entry of a product with operands 0 where they meet nothing but what was left out."""
        clean, inputs = duplicate(entry), list(entry.inputs)
        for j, source in enumerate(entry.inputs):
            if j != k and type(source) is Entry and (found := self._passed(entry, j, mask)) is not None:
                if self._by_tensors:
                    chosen = self._chosen(found, wrap(source.value, source))
                    inputs[j] = operand = entry_of(chosen)
                    operand.value = chosen._value
                else:
                    inputs[j] = leaf(self._chosen(found, source.value), CONSTANT)
        clean.inputs = tuple(inputs)
        return clean


def _stand_in(entry: Entry, device: str = "cpu") -> Entry:
    """The entry, for its rules, with random numbers for its values: they are constants, not computed by its op."""

    def numbers(e: Entry) -> Value:
        if e.dtype.kind != "f":
            return e.value
        return put(as_value(_random(1, 2, e.shape).astype(e.dtype)), device)

    copy = duplicate(entry)
    copy.op, copy.state, copy.value = None, CONSTANT, numbers(entry)
    copy.inputs = tuple([leaf(numbers(i), CONSTANT) if type(i) is Entry else i for i in entry.inputs])
    return copy


def _is_not_zero(x: Any) -> Any:
    return x != 0 if isinstance(x, Tensor) else np.asarray(np.asarray(x) != 0)


def _tells_itself(op: Op) -> bool:
    """Whether zeros that come out of an op's rule say what it leaves out, whatever values it reads."""
    return op.family == "linear" or op.moves or (op.selects and op.family != "multilinear")


class Doubts(NamedTuple):
    """Where a pass may meet an infinite or undefined derivative outside the support of its cotangent."""

    #: Products, whose derivatives are operands: finite where what they make is.
    products: Sequence[Entry]
    elsewhere: bool

    def __bool__(self) -> bool:
        return self.elsewhere or bool(self.products)


def doubts(order: Iterable[Entry]) -> Doubts:
    """Whether supports may matter in a pass over these entries, latest first.

    If there are no doubts, a NaN among its gradients is a NaN with supports too.
    """
    partly: set[Any] = set()
    known: dict[Any, bool] = {}
    products: dict[Entry, None] = {}
    for entry in order:
        op, part = entry.op, entry in partly
        assert op is not None
        for k, source in enumerate(entry.inputs):
            if type(source) is not Entry or source.state <= CONSTANT or (rule := op.rules[k]) is None:
                continue
            if op.family == "pointwise":
                leaves_out = rule.support is not None
                if leaves_out and rule.partial == ZERO:
                    return Doubts((), elsewhere=True)
                if part and type(rule.partial) is Var:  # an operand, or the output
                    products[entry] = None
                elif part and not _is_bounded(rule.partial):
                    return Doubts((), elsewhere=True)
            elif part and op.family == "multilinear":
                products[entry] = None
            elif part and not _tells_itself(op):
                return Doubts((), elsewhere=True)
            elif leaves_out := op.selects:
                key = op, k, source.spec, repr(entry.attrs)
                if key not in known:
                    known[key] = _may_leave_out(entry, k)
                leaves_out = known[key]
            if part or leaves_out:
                partly.add(source)
    return Doubts(tuple(products), elsewhere=False)


def _may_leave_out(entry: Entry, k: int) -> bool:
    """Whether an op that selects leaves elements of its input k out."""
    op = entry.op
    assert op is not None
    if any(type(i) is Entry and type(i.value) is DeviceArray for i in entry.inputs):
        return True  # looking would take longer than to be on the safe side
    read = entry if _tells_itself(op) else _stand_in(entry)
    rule = op.rules[k]
    assert rule is not None
    return not np.asarray(rule.raw(_random(1, 2, entry.shape).astype(entry.dtype), read)).all()


def _is_bounded(partial: Any) -> bool:
    """Whether a partial derivative is one of some numbers, such as 0 or 1, at any point."""
    if type(partial) is Call:
        return partial.fn == "where" and all(map(_is_bounded, partial.args[1:]))
    return type(partial) is Num


__all__ = ["Doubts", "Support", "doubts"]
