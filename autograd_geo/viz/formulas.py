"""What a tape computes and its local derivatives, as expressions over the user's names, to be printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from .. import expr
from ..expr import Call, Node, Num, Var, names_in
from ..tape import Entry, value_of
from ..value import Number, strong
from .values import number


class Formula(NamedTuple):
    """Expressions that are equal, written one after the other; an arrow instead of the first equals sign if `flows`."""

    sides: tuple[Node, ...]
    flows: bool = False

    @property
    def text(self) -> str:
        """One line of plain text, such as `∂f/∂b = 2·b`."""
        first, *rest = map(expr.label, self.sides)
        return " = ".join([f"{first} ← {rest[0]}", *rest[1:]] if self.flows else [first, *rest])


def symbol(source: Entry | Number, named: Mapping[Entry, str]) -> Node:
    """An input by its name, or as the number it is."""
    return Var(named[source]) if isinstance(source, Entry) else Num(float(source.real))


def quantity(value: Any) -> Node:
    """A value as it stands in a formula: a number, a small array in full, a large one by its shape."""
    return Num(float(value)) if np.ndim(value) == 0 else Var(number(value))


def derivative(top: str, name: str) -> Node:
    """∂top/∂name."""
    return Call("∂", (Var(top), Var(name)))


def formula(entry: Entry, named: Mapping[Entry, str]) -> Node:
    """What an op computes, in the names of its inputs: `a·z`, `sin(x)`; a leaf by its own name."""
    op = entry.op
    if op is None:
        return Var(named[entry])
    inputs = tuple(symbol(i, named) for i in entry.inputs)
    if isinstance(op.body, Call) and all(isinstance(a, Var) for a in op.body.args):
        return replaced(op.body, dict(zip(op.inputs, inputs, strict=True)))
    return Call(op.name, inputs)


def partial(entry: Entry, k: int, named: Mapping[Entry, str]) -> Node:
    """The derivative of an entry with respect to its k-th input, literals put in; a rule in words where it is none.

    What it does at single points, such as `0 ** 0`, is left out unless an element is there.
    """
    op = entry.op
    assert op is not None
    rule = op.rules[k]
    assert rule is not None
    if op.family == "multilinear" and len(entry.inputs) > 1:
        return product([symbol(i, named) for j, i in enumerate(entry.inputs) if j != k])
    if rule.partial is None:
        return Var(rule.label)
    inputs = dict(zip(op.inputs, entry.inputs, strict=True))
    known = {x: float(i.real) for x, i in inputs.items() if not isinstance(i, Entry)}
    read = {x: i for x, i in inputs.items() if isinstance(i, Entry)} | {"z": entry}

    def holds(condition: Node) -> bool | None:
        if not isinstance(condition, Call) or not _asks_for_points(condition):
            return None
        values = {x: strong(value_of(read[x])) for x in names_in(condition)}
        with np.errstate(all="ignore"):
            found = np.unique(expr.evaluate(condition, values))
        return bool(found[0]) if len(found) == 1 else None

    shown = expr.simplify(rule.partial, {**entry.attrs, **known}, holds)
    return expr.rename(shown, {x: named[e] for x, e in read.items()})


def _asks_for_points(condition: Call) -> bool:
    """Whether a condition holds, or fails, at single points only."""
    if condition.fn == "&":
        return any(isinstance(a, Call) and _asks_for_points(a) for a in condition.args)
    limit = condition.args[-1]
    return condition.fn in ("==", "!=") or (condition.fn == "<=" and isinstance(limit, Num) and 0 < limit.value < 1e-30)


def partial_value(entry: Entry, k: int) -> Any:
    """That derivative's value, element by element; None for an op that does not act element by element."""
    assert entry.op is not None
    rule = entry.op.rules[k]
    assert rule is not None
    if rule.partial is None:
        return None
    value = strong(value_of(entry))
    with np.errstate(all="ignore"):
        return rule.raw(np.ones_like(value) if np.ndim(value) else value.dtype.type(1), entry)


def product(factors: Sequence[Node]) -> Node:
    """Factors in a row."""
    return reduce(lambda a, b: Call("*", (a, b)), factors)


def total(terms: Sequence[Node]) -> Node:
    """Terms in a row."""
    return reduce(lambda a, b: Call("+", (a, b)), terms)


def replaced(node: Node, by: Mapping[str, Node]) -> Node:
    """The expression with variables replaced by expressions."""
    if isinstance(node, Var):
        return by.get(node.name, node)
    if isinstance(node, Call):
        return Call(node.fn, tuple(replaced(a, by) for a in node.args))
    return node
