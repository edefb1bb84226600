"""`with ag.detect_anomaly():` stops at the first operation that makes a NaN or infinity, forward or backward.

A watcher looks at the result of every op, and at the events of every reverse pass. Without one nothing is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .backward import Local, Write
from .cuda.array import on_host
from .diagnosis import PassWatch, new_in_value, not_finite
from .findings import Finding, of_value
from .op import Op, apply
from .tape import (
    ACTIVE,
    CONSTANT,
    TRACING,
    Entry,
    caller,
    leaf,
    mode,
    next_number,
    value_of,
    watched_by,
)
from .tensor import Tensor, entry_of
from .value import NUMBERS, Value, from_user


class AnomalyError(FloatingPointError):
    """An operation or a derivative made a NaN or infinity; `finding` has its entry, line and first bad index."""

    def __init__(self, finding: Finding, value: Callable[[Entry], Value]) -> None:
        super().__init__(f"{finding}{_inputs(finding, value)}")
        self.finding = finding


class detect_anomaly(watched_by):
    """`with ag.detect_anomaly():` in this thread or task the first NaN or infinity that an op makes is an AnomalyError.

    Forward that is an op which makes one of finite inputs, or a NaN of infinities; backward a derivative that makes one
    of a finite cotangent, or a sum of finite ones that overflows, in passes of any order; in forward mode the same of
    tangents. The error names the op, the line that recorded it, the inputs and the index of the first bad element.
    Compiled functions run uncompiled inside.

    Raises RuntimeError inside a compiled function, whose values are known only when it runs.
    """

    def __init__(self) -> None:
        super().__init__(_Watcher())

    def __enter__(self) -> None:
        if mode() & TRACING:
            raise RuntimeError("detect_anomaly looks at values: use it around the call of a compiled function")
        super().__enter__()


class _Watcher:
    def apply(self, op: Op, operands: Sequence[Any], attrs: dict[str, Any]) -> Tensor:
        with watched_by(None), np.errstate(all="ignore"):
            t = apply(op, operands, attrs)
            if (bad := not_finite(t._value)) is not None:
                _look(op, operands, attrs, t, bad)
        return t

    def passed(self, steps: Iterator[tuple[Any, ...]], forward: bool = False) -> Iterator[tuple[Any, ...]]:
        """The `Write` events of a pass, all of whose events are looked at; if `forward`, cotangents are tangents."""
        watch: PassWatch | _ForwardWatch = _ForwardWatch(_value_of) if forward else PassWatch(_value_of)
        while True:
            start = next_number()
            with watched_by(None), np.errstate(all="ignore"):
                event = next(steps, None)
                if event is None:
                    return
                kind, *fields = event
                if kind is Local and isinstance(fields[3], Tensor):
                    _belongs_to(fields[0], fields[3]._entry, start)
                if not any(isinstance(f, list) for f in fields):  # cotangents of several results
                    found = watch.finding(kind, [on_host(f._value if isinstance(f, Tensor) else f) for f in fields])
                    if found is not None:
                        raise AnomalyError(found, _value_of)
            if kind is Write:
                yield event


def _value_of(entry: Entry) -> Value:
    return on_host(value_of(entry))


class _ForwardWatch:
    """Looks at the events of forward mode for where tangents stop being finite; `value` gives that of an entry.

    Only what gets to an output is told, and when it does: `where` may leave out what was found on the way.
    """

    def __init__(self, value: Callable[[Entry], Value]) -> None:
        self._local = PassWatch(value)
        self._tangents: dict[Entry, Any] = {}
        self._found: list[Finding] = []

    def finding(self, kind: Any, fields: Sequence[Any]) -> Finding | None:
        """What made the tangent of an output that is not finite."""
        if kind is Write:
            behind = self._behind(fields[0])
            return next((f for f in self._found if f.entry in behind), None)
        if kind is Local:
            self._tangents.setdefault(fields[0], fields[3])
            found = self._local.finding(kind, fields)
            if found is not None:
                self._found.append(replace(found, what=_of_tangent(found.what), advice=_of_tangent(found.advice)))
            return None
        e, pushed, total = fields
        before, self._tangents[e] = self._tangents[e], total
        bad = not_finite(total)
        if bad is not None and not_finite(pushed) is None and not_finite(before) is None:
            index = tuple(map(int, np.argwhere(bad)[0]))
            place = f" at index ({', '.join(map(str, index))}{',' * (len(index) == 1)})" if index else ""
            what = f"tangents of the operands of {e.op.name if e.op else 'a leaf'}, finite numbers, add up to "
            what += f"{float(np.asarray(total)[index]):.6g}{place}"
            self._found.append(Finding("sum", e, what, "scale the tangents, or see why they grew", index))
        return None

    def _behind(self, output: Entry) -> set[Entry]:
        """The entries from which a tangent that is not finite gets to this one."""
        stack, found = [output], set[Entry]()
        while stack:
            e = stack.pop()
            if e not in found and e in self._tangents and not_finite(self._tangents[e]) is not None:
                found.add(e)
                stack += [s for s in e.inputs if isinstance(s, Entry)]
        return found


def _of_tangent(text: str) -> str:
    """What is told of a derivative in a reverse pass, said of one in forward mode."""
    return text.replace("of a finite gradient", "of a finite tangent").replace(
        "the gradient that arrives", "the tangent that arrives"
    )


def _look(op: Op, operands: Sequence[Any], attrs: dict[str, Any], t: Tensor, bad: Any) -> None:
    """Raise AnomalyError if an op made what is not finite in its result `t`."""
    e, values = _entry_of(op, operands, attrs, t)
    literals = [s for s in e.inputs if not isinstance(s, Entry)]
    before = [(s, mask) for s in values if s is not e and (mask := not_finite(values[s])) is not None]
    made = new_in_value(e, bad, before) if all(map(np.isfinite, literals)) else None
    nans = [(s, np.isnan(values[s])) for s, _ in before if np.isnan(values[s]).any()]
    turned = None if any(map(np.isnan, literals)) else new_in_value(e, np.isnan(values[e]), nans)
    for where, kind in ((made, "value"), (turned, "nan")):
        if where is not None:
            raise AnomalyError(of_value(e, where, kind, values.__getitem__), values.__getitem__)


def _entry_of(op: Op, operands: Sequence[Any], attrs: dict[str, Any], t: Tensor) -> tuple[Entry, dict[Entry, Value]]:
    """The entry of an op that ran, made for it if it was not recorded, and the values of it and its inputs."""
    if t._entry is not None:
        e = t._entry
    else:
        e = leaf(t._value, CONSTANT, None, *caller())
        e.op, e.attrs = op, attrs
        e.inputs = tuple(
            entry_of(x) if isinstance(x, Tensor) else x if type(x) in NUMBERS else leaf(from_user(x), CONSTANT)
            for x in operands
        )
    values = {
        s: on_host(x._value if isinstance(x, Tensor) else s.value)
        for s, x in zip(e.inputs, operands, strict=True)
        if isinstance(s, Entry)
    }
    values[e] = on_host(t._value)
    return e, values


def _inputs(finding: Finding, value: Callable[[Entry], Value]) -> str:
    """The inputs of an op by name, shape and range, where the finding does not tell one element of each."""
    e, told = finding.entry, []
    if (
        e.op is None
        or finding.kind == "sum"
        or (e.op.family == "pointwise" and len(finding.index or ()) == len(e.shape))
    ):
        return ""
    for s in e.inputs[:4]:
        x = np.asarray(value(s) if isinstance(s, Entry) else s)
        name = repr(s.label) if isinstance(s, Entry) and s.label else "an array" if x.shape else "a number"
        told.append(f"{name} of shape {x.shape}" + (f", from {x.min():.6g} to {x.max():.6g}" if x.size else ""))
    return f"\n  inputs: {'; '.join(told)}"


def _belongs_to(e: Entry, made: Entry | None, start: int) -> None:
    """Note of what the derivative of `e` recorded since `start` that it belongs to e, and to its line."""
    stack = [made]
    name = f"derivative of {e.label or (e.op.name if e.op else 'a leaf')}"
    while stack:
        entry = stack.pop()
        if isinstance(entry, Entry) and entry.number > start and entry.op is not None and entry.state == ACTIVE:
            if entry.name == name:
                continue
            entry.name, entry.code, entry.lasti = name, e.code, e.lasti
            stack += entry.inputs  # type: ignore[arg-type]


__all__ = ["AnomalyError", "detect_anomaly"]
