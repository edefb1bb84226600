"""Where a NaN or infinity came from, and which units of a network have stopped learning.

Everything is read off a recorded tape: values that no derivative needed are computed again, the reverse pass is run
to look at, and nothing is changed.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .backward import Accumulate, Local, Write, events
from .expr import names_in
from .op import Op, Rule
from .tape import CONSTANT, TRACING, Entry, describe, history, line_of, mode
from .tensor import Tensor
from .value import Value, as_value, strong

if TYPE_CHECKING:
    from .viz.graph import TapeGraph

Array: TypeAlias = np.ndarray[Any, Any]

#: From this share of saturated elements on, a sigmoid or tanh is told.
_WORTH_TELLING = 0.1
_MOST_TOLD = 4  # findings of one kind in a printed report


@dataclass(frozen=True, eq=False)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: "input" (it came in as a leaf), "value" (an op made it of finite numbers), "nan" (an op turned infinities
            into NaN), "derivative" (the derivative by input number `operand` made it), "sum" (it appeared where paths
            of the gradient meet), "dead" or "saturated".
        entry: the operation on the tape; `line` is the user's file and line.
        index: the first bad element: of the entry for values, of its input for derivatives; None for units.
        what, advice: what happened, and what to do about it.
        hidden: whether the output does not depend on it: something after it, such as `where`, discards it.
    """

    kind: str
    entry: Entry
    what: str
    advice: str
    index: tuple[int, ...] | None = None
    operand: int | None = None
    hidden: bool = False

    @property
    def line(self) -> tuple[str, int] | None:
        """The user's file and line, if known."""
        return line_of(self.entry)

    def __str__(self) -> str:
        return f"{self.what}\n  {describe(self.entry)}\n  {self.advice}"


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

        with np.errstate(all="ignore"):
            return tape_graph(self.output, self.marks, rankdir=rankdir, theme=theme, expand=expand, depth=depth)

    def _repr_html_(self) -> str:
        report = f"<pre>{html.escape(str(self))}</pre>"
        if not self.findings:
            return report
        try:
            with np.errstate(all="ignore"):
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
        values = _values(order)
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
    array = np.asarray(value)
    if array.dtype.kind != "f":
        return None
    bad: Array = ~np.isfinite(array)
    return bad if bad.any() else None


def _first(mask: Array) -> tuple[int, ...]:
    """The index of the first True."""
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(mask)), mask.shape))


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
        if not _elementwise(e):
            return True
        return bool(np.any(np.broadcast_to(self.bad[source], e.shape) & self.bad[e]))

    def forward(self) -> Iterator[Finding]:
        """Where values stop being finite: leaves that hold such, then operations in the order of recording."""
        for e in self._order:
            if e.op is None and e in self._reached:
                yield self._of_leaf(e)
        for e in self._order:
            if e.op is None or e not in self.bad:
                continue
            hidden = e not in self._reached
            made, turned = self._made(e), self._turned(e)
            if made is not None:
                yield self._of_value(e, made, "value", hidden)
            elif turned is not None and not hidden:
                yield self._of_value(e, turned, "nan", hidden)

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
        seed = as_value(np.ones(self._output.shape, self._output.dtype))
        for kind, *fields in events(self._output, seed, retain=True, again=True):
            if kind is Write and not_finite(fields[1]) is not None:
                leaves.append(fields[0])
            found = watch.finding(kind, fields)
            if found is not None and not (found.kind == "derivative" and self._explained(found.entry)):
                findings.setdefault(found.entry, found)
        return list(findings.values()), leaves

    def _explained(self, e: Entry) -> bool:
        """Whether values that are not finite, and told as such, are what a derivative of this op reads."""
        return e in self._reached or any(s in self._reached for s in self._bad_inputs(e))

    # --- what to say ------------------------------------------------------------------------------------------

    def _of_leaf(self, e: Entry) -> Finding:
        bad = self.bad[e]
        index = _first(bad)
        what = f"{_called(e)} holds {_number(np.asarray(e.value)[index])}{_place(index, bad)}"
        return Finding(
            "input", e, what, "look at where these numbers come from; np.isfinite(...) finds the rows", index
        )

    def _of_value(self, e: Entry, where: Array, kind: str, hidden: bool) -> Finding:
        return of_value(e, where, kind, self._values.__getitem__, hidden)


class PassWatch:
    """Looks at the events of a reverse pass for where they stop being finite; `value` gives that of an entry."""

    def __init__(self, value: Callable[[Entry], Value]) -> None:
        self._value = value
        self._totals: dict[Entry, Any] = {}

    def finding(self, kind: Any, fields: Sequence[Any]) -> Finding | None:
        """What is wrong with an event: a derivative, or a sum of finite contributions, that is not finite."""
        if kind is Local:
            e, k, g, c = fields
            self._totals.setdefault(e.inputs[k], c)
            new = _new_in(e, k, g, c)
            return None if new is None else _of_derivative(e, k, g, c, new, self._value)
        if kind is Accumulate:
            e, c, total = fields
            before, self._totals[e] = self._totals[e], total
            bad = not_finite(total)
            if bad is not None and not_finite(c) is None and not_finite(before) is None:
                return _of_sum(e, bad, total)
        return None


# --- what to say ----------------------------------------------------------------------------------------------


def of_value(e: Entry, where: Array, kind: str, value: Callable[[Entry], Value], hidden: bool = False) -> Finding:
    """The finding that an op made something that is not finite: of finite numbers, or ("nan") NaN of infinities."""
    op, index = e.op, _first(where)
    assert op is not None
    result = np.asarray(value(e))[index]
    literal = any(not isinstance(s, Entry) and not np.isfinite(s) for s in e.inputs)
    of = "infinities" if kind == "nan" else "a number written in the program" if literal else "finite numbers"
    what = f"{op.name} made {_number(result)} of {of}{_place(index, where)}"
    operands = _operands(e, index, value) if _elementwise(e) else []
    if operands:
        what += f": {op.name}({', '.join(map(_number, operands))})"
    if kind == "nan" or literal:
        advice = "infinity minus infinity, 0 times infinity and their like are NaN: see where the infinity comes from"
    else:
        advice = _value_advice(op, operands, result, e.dtype)
    if hidden:
        what += "; it does not reach the output"
    return Finding(kind, e, what, advice, index, hidden=hidden)


def _of_derivative(e: Entry, k: int, g: Any, c: Any, where: Array, value: Callable[[Entry], Value]) -> Finding:
    op = e.op
    assert op is not None
    rule, x = op.rules[k], op.inputs[0 if op.variadic else k]
    assert rule is not None
    index, shape = _first(where), np.shape(c)
    there = _within(index, shape) if where.shape != shape else index
    what = f"the derivative of {op.name} by {x} made {_number(np.asarray(c)[there])} of a finite gradient"
    what += _place(there, where, count=where.shape == shape)
    cotangent: Any = None
    if _elementwise(e) and where.shape == e.shape:
        operands = _operands(e, index, value)
        cotangent = np.broadcast_to(np.asarray(g), e.shape)[index]
        known = dict(zip(op.inputs, operands, strict=True))
        if rule.partial is not None and "z" in names_in(rule.partial):
            known["z"] = np.asarray(value(e))[index]
        at = ", ".join(f"{name} = {_number(v)}" for name, v in known.items())
        what += f": {_number(cotangent)} times {_slope(rule, e, index)}, at {at}"
    return Finding("derivative", e, what, _derivative_advice(op, cotangent, e), there, k)


def _of_sum(e: Entry, bad: Array, total: Any) -> Finding:
    index = _first(bad)
    what = f"where paths of the gradient meet at {_called(e)}, finite numbers add up to "
    what += f"{_number(np.asarray(total)[index])}{_place(index, bad)}"
    return Finding("sum", e, what, _OVERFLOW.format(**_limits(e.dtype)), index)


def _operands(e: Entry, index: tuple[int, ...], value: Callable[[Entry], Value]) -> list[Any]:
    """The operands of an elementwise op at an element of its result."""
    values = [value(s) if isinstance(s, Entry) else s for s in e.inputs]
    return [np.broadcast_to(np.asarray(v), e.shape)[index] for v in values]


def _elementwise(e: Entry) -> bool:
    return e.op is not None and e.op.family == "pointwise"


def new_in_value(e: Entry, here: Array, before: Sequence[tuple[Entry, Array]]) -> Array | None:
    """Where the result of an op is bad (`here`) though its inputs, some of which are bad (`before`), are not."""
    new = np.asarray(here)
    if _elementwise(e):
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
    if not _elementwise(e):
        return bad if before is None else None
    rule = e.op.rules[k]  # type: ignore[union-attr]
    assert rule is not None
    made = not_finite(np.broadcast_to(np.asarray(rule.raw(strong(g), e)), e.shape))
    if made is None:
        return bad
    new: Array = made if before is None else made & ~before
    return new if new.any() else None


def _within(index: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The element of an input that an element of the result was broadcast from."""
    return tuple(i if n > 1 else 0 for i, n in zip(index[len(index) - len(shape) :], shape, strict=True))


def _slope(rule: Rule, e: Entry, index: tuple[int, ...]) -> str:
    """The local derivative of an elementwise op at one element, in symbols and its value."""
    one = as_value(np.ones(e.shape, e.dtype))
    value = np.broadcast_to(np.asarray(rule.raw(strong(one), e)), e.shape)[index]
    return f"{rule.label} = {_number(value)}" if len(rule.label) < 40 else _number(value)


def _called(e: Entry) -> str:
    return f"{e.label!r}" if e.label else ("a leaf" if e.op is None else e.op.name)


def _place(index: tuple[int, ...], where: Array, count: bool = True) -> str:
    """` at index (3,), one of 2 such elements`, nothing for a single number."""
    if not index:
        return ""
    total = int(np.count_nonzero(where))
    shown = f"({', '.join(map(str, index))}{',' * (len(index) == 1)})"
    return f" at index {shown}" + (f", the first of {total:,} such elements" if count and total > 1 else "")


def _number(value: Any) -> str:
    return f"{float(value):.6g}"


# --- advice ---------------------------------------------------------------------------------------------------

_OVERFLOW = "the result lies beyond the largest {dtype}, {largest:.2g}: scale the numbers, or see why they grew"
_POSITIVE = "a logarithm needs a positive argument: keep it so, as in ag.clip(x, 1e-12)"
_UNIT = "its argument lies between -1 and 1: see why it left that, or use ag.clip(x, -1, 1)"
_DENOMINATOR = (
    "the denominator is zero: add a small number to it, or choose before dividing: y = ag.where(y == 0, 1, y)"
)
#: What an elementwise op needs of its arguments, for results that are no overflow.
_NEEDS = {
    **dict.fromkeys(("log", "log2", "log10"), _POSITIVE),
    "log1p": "log1p needs an argument above -1: see why it is not",
    "sqrt": "a square root needs an argument that is not negative: keep it so, as in ag.clip(x, 0)",
    "power": "a negative number has no fractional power, and zero no negative one: see why the base got there",
    **dict.fromkeys(("asin", "acos", "atanh"), _UNIT),
    "acosh": "its argument is 1 or above: see why it is not, or use ag.clip(x, 1)",
    **dict.fromkeys(("divide", "reciprocal"), _DENOMINATOR),
    "remainder": "the divisor is zero: see why it is",
}
_EXPONENTIALS = ("exp", "expm1", "sinh", "cosh")
_ZERO_TIMES = (
    "the gradient that arrives is 0, and 0 times infinity is NaN: keep the argument away from where the derivative is "
    "infinite, or choose what should count with ag.where, which leaves the rest out"
)


def _limits(dtype: np.dtype[Any]) -> dict[str, Any]:
    return {"dtype": dtype, "largest": float(np.finfo(dtype).max)}


def _value_advice(op: Op, operands: Sequence[Any], result: Any, dtype: np.dtype[Any]) -> str:
    if op.name in _EXPONENTIALS:
        largest = float(np.log(np.finfo(dtype).max))
        return (
            f"{op.name} overflows beyond {largest:.4g} in {dtype}: subtract the largest argument first, as "
            "ag.sigmoid, ag.logsumexp and ag.log_softmax do, or scale the inputs"
        )
    overflows = (op.name == "divide" and operands[1] != 0) or (
        op.name == "power" and np.isinf(result) and operands[0] != 0
    )
    if op.name in _NEEDS and not overflows:
        return _NEEDS[op.name]
    return _OVERFLOW.format(**_limits(dtype)) if np.isinf(result) else f"see what {op.name} needs of its arguments"


def _derivative_advice(op: Op, cotangent: Any, e: Entry) -> str:
    if cotangent is not None and cotangent == 0:
        return _ZERO_TIMES
    if op.name in ("sqrt", "cbrt", "power"):
        return f"the slope is infinite at zero: keep the argument of {op.name} away from it, as in x + 1e-12"
    if op.name in ("asin", "acos", "atanh", "acosh"):
        return (
            "the slope is infinite at the end of the domain: keep the argument inside, as in ag.clip(x, -0.999, 0.999)"
        )
    if op.name in ("divide", "reciprocal"):
        return "the denominator is so small that its square overflows: keep it away from zero, or scale it"
    return _OVERFLOW.format(**_limits(e.dtype))


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
    slopes = np.abs(np.asarray(rule.raw(strong(as_value(np.ones(e.shape, e.dtype))), e)))
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
