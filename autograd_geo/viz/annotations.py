"""What a drawing says of the entries of a tape: names, values, gradients, and local derivatives as mathematics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from .. import expr
from ..backward import Accumulate, Local, Seed, events, seed_of
from ..tape import CONSUMED, Entry, describe, history, hosted, value_of
from ..tensor import wrap
from ..value import SCALAR, strong
from .mathematics import Text, equation, plain, product, quotient, typeset
from .values import names, number, summary


class Annotations:
    """The tape of `last`; values and derivatives are worked out for those entries that are asked for.

    `marks` is what to write beside entries. Raises RuntimeError where a backward pass has let go of the tape.
    """

    def __init__(self, last: Entry, marks: Mapping[Entry, str] = MappingProxyType({})) -> None:
        order = history(last)
        self.last, self.marks = last, marks
        self.operations = [e for e in order if e.op is not None]
        self.leaves = [e for e in order if e.op is None]
        self.names = names(last)
        #: The derivative of `last` by an entry as text, where it was computed.
        self.gradients: dict[Entry, str] = {}
        #: The derivative of an entry by its k-th input, where a gradient passed.
        self.locals: dict[tuple[Entry, int], Text] = {}
        self._values: dict[Entry, str] = {}

    def value(self, entry: Entry) -> str:
        """The value of an entry as text."""
        if entry not in self._values:
            with np.errstate(all="ignore"):  # it may be computed again
                self._values[entry] = summary(value_of(entry))
        return self._values[entry]

    @np.errstate(all="ignore")
    def derive(self, seen: Iterable[Entry]) -> None:
        """Find the derivatives of leaves and of the operations in `seen` by a backward pass that changes nothing."""
        for entry in self.operations:
            if entry.state == CONSUMED and not entry.inputs:
                raise RuntimeError(
                    f"a backward pass has let go of this tape, at {describe(entry)}; draw it before that, or use "
                    "backward(retain_graph=True)"
                )
        wanted = {*seen, *self.leaves}
        if not self.last.state or self.last.shape:
            return
        found: dict[Entry, Any] = {}
        seed = seed_of(wrap(value_of(self.last)), None)
        for kind, *fields in events(self.last, seed, retain=True, again=True):
            if (kind is Seed or kind is Accumulate) and fields[0] in wanted:
                found[fields[0]] = fields[-1]
            elif kind is Local:
                entry, k, _, contribution = fields
                if entry.inputs[k] in wanted:
                    found[entry.inputs[k]] = contribution
                if entry in wanted:
                    self.locals[entry, k] = self._local(entry, k)
        self.gradients |= {entry: summary(g) for entry, g in found.items()}

    def _local(self, entry: Entry, k: int) -> Text:
        """The derivative of an entry by its k-th input: in symbols, and its value where that is one number."""
        op, source = entry.op, entry.inputs[k]
        assert op is not None and isinstance(source, Entry)
        rule = op.rules[k]
        assert rule is not None
        if rule.partial is not None:
            inputs = dict(zip(op.inputs, entry.inputs, strict=True))
            known: dict[str, Any] = {x: i for x, i in inputs.items() if not isinstance(i, Entry)}
            symbols = {x: self.names[i] for x, i in inputs.items() if isinstance(i, Entry)} | {"z": self.names[entry]}
            text = typeset(expr.simplify(rule.partial, {**entry.attrs, **known}), symbols)
            if entry.spec == SCALAR:
                return equation(text, number(float(rule.raw(strong(1.0), hosted(entry)))))
            return text
        if op.family == "multilinear":
            others = [i for j, i in enumerate(entry.inputs) if j != k]
            return product([self.names[i] if isinstance(i, Entry) else number(i) for i in others])
        return plain(rule.label) if op.family == "linear" else quotient(self.names[entry], self.names[source])
