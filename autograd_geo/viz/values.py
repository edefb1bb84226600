"""Names and numbers as a person reads them, shared by graphs and texts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, count, groupby
from typing import Any

import numpy as np

from ..cuda.array import on_host
from ..tape import Entry, history
from ..value import SCALAR, Number
from .scopes import parameter_names

#: Elements of an array that is shown in full, and in a drawing how long its text may be.
SHOWN, WIDEST = 6, 32


def number(value: Any) -> str:
    """Six significant digits; small arrays in full, to five; large ones by shape and dtype. It is one line."""
    if isinstance(value, float | int):
        return f"{value:.6g}"
    array = np.asarray(value)
    if array.ndim == 0:
        return f"{array.item():.6g}"
    if array.size <= SHOWN:
        return _listed(array.tolist())
    return f"{array.dtype} {'×'.join(map(str, array.shape))}"


def _listed(value: Any) -> str:
    """An array, as nested lists, on one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(_listed, value))}]"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def spec(entry: Entry) -> str:
    """Shape and dtype: `float64 3×2`; nothing for one float64 number."""
    if entry.spec == SCALAR:
        return ""
    return f"{entry.dtype} {'×'.join(map(str, entry.shape))}".rstrip()


def summary(value: Any) -> str:
    """A number, a small array in full, and of a large one the range: `-0.2 … 1.5`, or `all 1`."""
    array = np.asarray(on_host(value))
    if not array.ndim or (array.size <= SHOWN and len(number(array)) <= WIDEST):
        return number(array)
    if not array.size:
        return "empty"
    low, high = float(array.min()), float(array.max())
    return f"all {low:.4g}" if low == high else f"{low:.4g} … {high:.4g}"


def names(output: Entry) -> dict[Entry, str]:
    """A name for each entry: the user's, of a parameter with its module's, or a letter that is not taken.

    The same name twice gets a number.
    """
    order = history(output)
    given = _labels(order) | parameter_names(order)
    taken = set(given.values())
    fresh = (c for c in chain("abcdeghklmnopqrstuvw", map("t{}".format, count(1))) if c not in taken)
    found: dict[Entry, str] = {}
    used: dict[str, int] = {}
    for entry in order:
        base = given[entry] or next(fresh)
        name = base
        while name in used:
            used[base] += 1
            name = f"{base}{_subscript(used[base])}"
        used[name] = 1
        found[entry] = name
    return found


def _labels(order: Sequence[Entry]) -> dict[Entry, str | None]:
    """The user's names. Of all that one call recorded, `y = net(x)` names the last only.

    A loop records the same call again and again: then its operations repeat.
    """
    found = {e: e.label for e in order}
    operations = [e for e in order if e.op is not None]
    for _, group in groupby(operations, key=lambda e: (id(e.code), e.lasti)):
        run = list(group)
        ops = [e.op for e in run]
        period = next(p for p in range(1, len(ops) + 1) if len(ops) % p == 0 and ops[p:] == ops[: len(ops) - p])
        found.update((e, e.name) for k, e in enumerate(run, 1) if k % period)
    return found


def _subscript(n: int) -> str:
    return str(n).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def operand(source: Entry | Number, named: dict[Entry, str]) -> str:
    """An input by its name, or as the number it is."""
    return named[source] if isinstance(source, Entry) else f"{source:g}"
