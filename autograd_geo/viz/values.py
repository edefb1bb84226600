"""Names and numbers as a person reads them, shared by graphs and texts."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..tape import Entry, history
from ..value import Number


def number(value: Any) -> str:
    """Six significant digits, small arrays in full, large ones by shape and dtype."""
    if isinstance(value, float | int):
        return f"{value:.6g}"
    array = np.asarray(value)
    if array.ndim == 0:
        return f"{array.item():.6g}"
    if array.size <= 6:
        return np.array2string(array, precision=4, separator=", ", max_line_width=10**6)
    return f"{array.dtype} {'×'.join(map(str, array.shape))}"


def names(output: Entry) -> dict[Entry, str]:
    """A name for each entry: the user's, or letters that are not taken; the same name twice gets a number."""
    order = history(output)
    taken = {e.label for e in order} - {None}
    letters = iter([c for c in "abcdeghklmnopqrstuvw" if c not in taken])
    found: dict[Entry, str] = {}
    used: set[str] = set()
    copies: dict[str, int] = {}
    for entry in order:
        base = name = entry.label or next(letters, f"t{entry.number}")
        while name in used:
            copies[base] = copies.get(base, 1) + 1
            name = f"{base}{_subscript(copies[base])}"
        used.add(name)
        found[entry] = name
    return found


def printable(text: str) -> str:
    """The text without control characters, which would move a terminal's cursor."""
    return "".join(c if c.isprintable() else "�" for c in text)


def _subscript(n: int) -> str:
    return str(n).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def operand(source: Entry | Number, named: dict[Entry, str]) -> str:
    """An input by its name, or as the number it is."""
    return named[source] if isinstance(source, Entry) else f"{source:g}"
