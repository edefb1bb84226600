"""Where a NaN or infinity came from, and which units of a network have stopped learning.

Everything is read off a recorded tape: values that no derivative needed are computed again, the reverse pass is run
to look at, and nothing is changed.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .backward import Accumulate, Local, Write, events, seed_of
from .cuda.array import on_host
from .findings import Array, Finding, elementwise, of_derivative, of_leaf, of_sum, of_value
from .tape import CONSTANT, TRACING, Entry, describe, history, hosted, mode, value_of
from .tensor import Tensor, wrap
from .value import Value, as_value, strong

if TYPE_CHECKING:
    from .viz.graph import TapeGraph

#: From this share of saturated elements on, a sigmoid or tanh is told.
_WORTH_TELLING = 0.1
_MOST_TOLD = 4  # findings of one kind in a printed report


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What `diagnose` found: the cause first, then what follows from it, then units.

    It prints as a report; a notebook shows the graph below it.
    """

    output: Entry
    finite: bool
    leaves: tuple[Entry, ...]  # whose gradients are not finite
    findings: tuple[Finding, ...]

    @property
    def first(self) -> Finding | None:
        """Where to look first: the cause of a value or gradient that is not finite, else the first finding."""
        return self.findings[0] if self.findings else None

    @property
    def healthy(self) -> bool:
        """Whether value and gradients are finite and no unit is dead or saturated; what is hidden does not count."""
        return all(f.hidden for f in self.findings)

    @property
    def marks(self) -> dict[Entry, str]:
        """What to write beside an entry in a drawing of the tape."""
        found: dict[Entry, str] = {}
        for f in self.findings:
            found.setdefault(f.entry, f.what)
        return found

    def __str__(self) -> str:
        value = "is finite" if self.finite else "is not finite"
        lines = [f"Diagnosis of {describe(self.output)}\nThe value {value}."]
        if self.leaves:
            named = [leaf.label or f"a leaf of shape {leaf.shape}" for leaf in self.leaves[:8]]
            more = f" and {len(self.leaves) - 8} more" if len(self.leaves) > 8 else ""
            lines[0] += f" Gradients that are not finite: {', '.join(named)}{more}."
        elif self.healthy:
            lines[0] += " All gradients are finite, and no unit is dead or saturated."
        told: dict[str, int] = {}
        for f in self.findings:
            told[f.kind] = told.get(f.kind, 0) + 1
            if told[f.kind] <= _MOST_TOLD:
                lines.append(f"{len(lines)}. {f}")
        left = sum(max(0, n - _MOST_TOLD) for n in told.values())
        return "\n".join([*lines, *([f"and {left} more like these, in .findings"] if left else [])])

    __repr__ = __str__

    def graph(
        self, *, rankdir: str = "LR", theme: str = "auto", expand: str | Iterable[str] = (), depth: int | None = None
    ) -> TapeGraph:
        """The tape as `ag.graph` draws it, with each finding and its line at the operation; the first is in sight.

        Arguments and errors are those of `ag.graph`.
        """
        from .viz.graph import tape_graph

        return tape_graph(self.output, self.marks, rankdir=rankdir, theme=theme, expand=expand, depth=depth)

    def _repr_html_(self) -> str:
        report = f"<pre>{html.escape(str(self))}</pre>"
        if not self.findings:
            return report
        try:
            return f"{report}\n{self.graph().fragment()}"
        except (ImportError, RuntimeError):  # no graphviz package; a backward pass has let go of the tape
            return report


def diagnose(output: Tensor, *, flat: float = 0.01) -> Diagnosis:
    """Say which operation made a NaN or infinity, in the values or in the gradient, and which units don't learn.

        report = ag.diagnose(loss)  # before loss.backward(), or with backward(retain_graph=True)
        print(report)

    Values are told where an op made a NaN or infinity of finite numbers, derivatives where its rule did so of a finite
    cotangent (for an output of several elements, that of their sum). A ReLU unit is dead if it is zero for all samples
    (two or more); a sigmoid or tanh is told where a tenth of its elements have a derivative below `flat`. Of arrays
    with several axes the last counts units, the others samples; one axis is samples of one unit.

    Nothing is changed. Raises RuntimeError where nothing was recorded, or where a backward pass let go of the tape.
    """
    entry = output._entry
    if mode() & TRACING:
        raise RuntimeError("diagnose looks at values, which a compiled function has only when it runs; call it outside")
    if entry is None or entry.state <= CONSTANT:
        raise RuntimeError(
            "diagnose: this tensor depends on nothing that requires a gradient, so nothing was recorded. Make its "
            "inputs with ag.tensor(..., requires_grad=True), and compute it outside ag.no_grad()"
        )
    order = history(entry)
    with np.errstate(all="ignore"):
        values = {e: on_host(value) for e, value in _values(order).items()}
        search = _Search(order, values, entry)
        forward = list(search.forward())
        backward, leaves = search.backward()
        units = [f for e in order for f in _units(e, values, flat)]
    causes = [f for f in forward if not f.hidden]
    hidden = [f for f in forward if f.hidden]
    finite = entry not in search.bad
    return Diagnosis(entry, finite, tuple(leaves), (*causes, *backward, *hidden, *units))


def _values(order: Sequence[Entry]) -> dict[Entry, Value]:
    """The value of every entry of a tape in recording order, computed again where it was not kept."""
    known = {e: e.value for e in order if e.value is not None}  # constants may be numbered after what reads them
    for e in order:
        if e in known:
            continue
        if not e.inputs:
            raise RuntimeError(
                f"diagnose: the value at {describe(e)} went with the backward pass that consumed its tape. Run the "
                "computation again and diagnose it before backward(), or keep its tape with backward(retain_graph=True)"
            )
        assert e.op is not None
        known[e] = e.op.evaluate([strong(known[i]) if isinstance(i, Entry) else i for i in e.inputs], e.attrs)
    return known


# --- what is not finite ---------------------------------------------------------------------------------------


def not_finite(value: Any) -> Array | None:
    """Where a value is NaN or infinite, None if nowhere."""
    array = np.asarray(on_host(value))
    if array.dtype.kind != "f":
        return None
    bad: Array = ~np.isfinite(array)
    return bad if bad.any() else None


def new_in_value(e: Entry, here: Array, before: Sequence[tuple[Entry, Array]]) -> Array | None:
    """Where the result of an op is bad (`here`) though its inputs, some of which are bad (`before`), are not."""
    new = np.asarray(here)
    if elementwise(e):
        for _, mask in before:
            new = new & ~np.broadcast_to(mask, e.shape)
    elif before:
        return None
    return new if new.any() else None


def _new_in(e: Entry, k: int, g: Any, c: Any) -> Array | None:
    """Where a contribution is not finite though the cotangent is.

    Of an elementwise op in the shape of its result, unless that was finite and summing what was broadcast was not.
    """
    bad, before = not_finite(c), not_finite(g)
    if bad is None:
        return None
    if not elementwise(e):
        return bad if before is None else None
    rule = e.op.rules[k]  # type: ignore[union-attr]
    assert rule is not None
    made = not_finite(np.broadcast_to(np.asarray(rule.raw(strong(g), hosted(e))), e.shape))
    if made is None:
        return bad
    new: Array = made if before is None else made & ~before
    return new if new.any() else None


class _Search:
    """Looks for where numbers stop being finite, forward and backward."""

    def __init__(self, order: Sequence[Entry], values: dict[Entry, Value], output: Entry) -> None:
        self._order, self._values, self._output = order, values, output
        self.bad = {e: bad for e in order if (bad := not_finite(values[e])) is not None}
        self._reached = self._reaching()

    def _reaching(self) -> set[Entry]:
        """The entries from which what is not finite gets to the output."""
        stack = [self._output] if self._output in self.bad else []
        found = set(stack)
        while stack:
            e = stack.pop()
            for source in self._bad_inputs(e):
                if source not in found and self._passes(source, e):
                    found.add(source)
                    stack.append(source)
        return found

    def _bad_inputs(self, e: Entry) -> list[Entry]:
        return [s for s in e.inputs if isinstance(s, Entry) and s in self.bad]

    def _passes(self, source: Entry, e: Entry) -> bool:
        """Whether the bad elements of an input of an op are behind those of its result, as far as it can be told."""
        if not elementwise(e):
            return True
        return bool(np.any(np.broadcast_to(self.bad[source], e.shape) & self.bad[e]))

    def forward(self) -> Iterator[Finding]:
        """Where values stop being finite: leaves that hold such, then operations in the order of recording."""
        for e in self._order:
            if e.op is None and e in self._reached:
                yield of_leaf(e, self.bad[e])
        for e in self._order:
            if e.op is None or e not in self.bad:
                continue
            hidden = e not in self._reached
            made, turned = self._made(e), self._turned(e)
            if made is not None:
                yield of_value(e, made, "value", self._values.__getitem__, hidden)
            elif turned is not None and not hidden:
                yield of_value(e, turned, "nan", self._values.__getitem__, hidden)

    def _made(self, e: Entry) -> Array | None:
        """Where an op made something that is not finite of finite inputs."""
        return new_in_value(e, self.bad[e], [(s, self.bad[s]) for s in self._bad_inputs(e)])

    def _turned(self, e: Entry) -> Array | None:
        """Where an op made a NaN of inputs that had none."""
        nans = [(s, np.isnan(self._values[s])) for s in self._bad_inputs(e)]
        return new_in_value(e, np.isnan(self._values[e]), [(s, n) for s, n in nans if n.any()])

    # --- backward ---------------------------------------------------------------------------------------------

    def backward(self) -> tuple[list[Finding], list[Entry]]:
        """Where the gradient stops being finite, in the order of the reverse pass; and the leaves that it ends at."""
        findings: dict[Entry, Finding] = {}
        leaves: list[Entry] = []
        watch = PassWatch(self._values.__getitem__)
        seed = seed_of(wrap(value_of(self._output)), np.ones(self._output.shape))
        for kind, *told in events(self._output, seed, retain=True, again=True):
            fields = list(map(on_host, told))
            if kind is Write and not_finite(fields[1]) is not None:
                leaves.append(fields[0])
            found = watch.finding(kind, fields)
            if found is not None and not (found.kind == "derivative" and self._explained(found.entry)):
                findings.setdefault(found.entry, found)
        return list(findings.values()), leaves

    def _explained(self, e: Entry) -> bool:
        """Whether values that are not finite, and told as such, are what a derivative of this op reads."""
        return e in self._reached or any(s in self._reached for s in self._bad_inputs(e))


class PassWatch:
    """Looks at the events of a reverse pass for where they stop being finite; `value` gives that of an entry.

    All of these are in the host's memory.
    """

    def __init__(self, value: Callable[[Entry], Value]) -> None:
        self._value = value
        self._totals: dict[Entry, Any] = {}

    def finding(self, kind: Any, fields: Sequence[Any]) -> Finding | None:
        """What is wrong with an event: a derivative, or a sum of finite contributions, that is not finite."""
        if kind is Local:
            e, k, g, c = fields
            self._totals.setdefault(e.inputs[k], c)
            new = _new_in(e, k, g, c)
            return None if new is None else of_derivative(e, k, g, c, new, self._value)
        if kind is Accumulate:
            e, c, total = fields
            before, self._totals[e] = self._totals[e], total
            bad = not_finite(total)
            if bad is not None and not_finite(c) is None and not_finite(before) is None:
                return of_sum(e, bad, total)
        return None


# --- units that don't learn -----------------------------------------------------------------------------------


def _units(e: Entry, values: dict[Entry, Value], flat: float) -> Iterator[Finding]:
    """Dead ReLUs, saturated sigmoids and tanhs."""
    op = e.op
    if op is None or not (_is_relu(e) or op.name in ("sigmoid", "tanh")):
        return
    value = np.asarray(values[e])
    if not value.size:
        return
    rows = value.reshape(-1, value.shape[-1] if value.ndim > 1 else 1)  # samples, units
    if _is_relu(e):
        dead = np.flatnonzero(np.all(rows <= 0, axis=0))
        if dead.size and len(rows) > 1:
            what = f"{op.name}: {_units_text(dead, rows.shape[1])} zero for all {len(rows):,} samples"
            yield Finding("dead", e, what + ", and no gradient passes", _REVIVE)
        return
    rule = op.rules[0]
    assert rule is not None
    slopes = np.abs(np.asarray(rule.raw(strong(as_value(np.ones(e.shape, e.dtype))), hosted(e))))
    low = np.reshape(slopes < flat, rows.shape)
    if low.mean() >= _WORTH_TELLING:
        what = f"{op.name}: {low.mean():.0%} of its {low.size:,} derivatives are below {flat:g}"
        stuck = np.flatnonzero(low.all(axis=0))
        if stuck.size and len(rows) > 1:
            what += f"; {_units_text(stuck, rows.shape[1])} saturated for all {len(rows):,} samples"
        yield Finding("saturated", e, what, _DESATURATE)


_REVIVE = "lower the learning rate, start from nn.init.he, or use nn.LeakyReLU, whose slope is nowhere zero"
_DESATURATE = (
    "scale the inputs, start from smaller weights (nn.init.normalized_xavier), or use nn.ReLU in hidden layers"
)


def _is_relu(e: Entry) -> bool:
    assert e.op is not None
    return e.op.name == "relu" or (
        e.op.name == "maximum" and any(not isinstance(s, Entry) and s == 0 for s in e.inputs)
    )


def _units_text(which: Array, total: int) -> str:
    if total == 1:
        return "its unit is"
    named = ", ".join(map(str, which[:8])) + (", …" if len(which) > 8 else "")
    return f"{len(which):,} of {total:,} units ({named}) {'is' if len(which) == 1 else 'are'}"


__all__ = ["Diagnosis", "Finding", "diagnose"]
