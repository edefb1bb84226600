"""What a recorded function reads from outside, and what it leaves behind there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType
from typing import Any

import numpy as np

from ..cuda.array import DeviceArray
from ..random import Generator
from ..tape import Entry
from ..tensor import Tensor
from ..value import Value
from .places import Place


@dataclass(slots=True)
class Input:
    """What the program reads: the entry that stands for it, and where it is found."""

    entry: Entry
    place: Place
    private: bool = False  # a tensor's or an optimiser's own array, which nobody gives another shape in place
    generator: Generator | None = None  # where it is drawn anew


@dataclass(slots=True)
class Held:
    """A tensor from outside that the function uses: its handle as it was found, to see what changed."""

    place: Place  # the tensor itself
    tensor: Tensor  # as the function sees it
    owner: Tensor  # as the caller holds it: another handle on an argument, which may be found elsewhere too
    entry: Entry | None
    node: Entry  # what stands for its value in the recording
    gradient: Tensor | None
    value: Value

    def restore(self) -> None:
        """Give it back the value and the gradient with which it was found."""
        self.tensor._value, self.tensor._entry = self.value, self.entry
        if self.owner._value is not self.value:
            self.owner.hold(self.value)
        if self.entry is not None:
            (self.entry.root or self.entry).grad = self.gradient


@dataclass(slots=True)
class Slot:
    """An array or number that a dict holds, such as an optimiser's state."""

    state: dict[str, Any]
    name: str
    found: Tensor
    new: Tensor
    before: Any  # what was there

    @property
    def whole(self) -> bool:
        """Whether it is a whole number, which a program computes with as a float."""
        return isinstance(self.state[self.name], int)

    def put(self, value: Value) -> None:
        on_device = type(value) is DeviceArray
        self.state[self.name] = value if on_device else round(value) if self.whole else np.asarray(value)


@dataclass(slots=True)
class Change:
    """What a call leaves behind: the value or gradient of a tensor, or a slot. `after` is None for no gradient.

    `before` is the input that it takes the place of, if the function reads that.
    """

    kind: str  # "value", "gradient" or "slot"
    of: Held | Slot
    before: Entry | None
    after: Entry | None


@dataclass(slots=True)
class Read:
    """A value that Python looked at while recording; the program holds only as long as it comes out the same."""

    entry: Entry
    convert: Callable[[Value], Any]
    expected: Any
    code: CodeType | None  # where in the user's program
    lasti: int

    def holds(self, value: Value) -> bool:
        """Whether `value` would have led Python the same way."""
        found, expected = np.asarray(self.convert(value)), np.asarray(self.expected)
        if found.dtype.kind != "f":
            return np.array_equal(found, expected)
        negative = np.signbit(found) & (found == 0), np.signbit(expected) & (expected == 0)
        return np.array_equal(found, expected, equal_nan=True) and np.array_equal(*negative)


__all__ = ["Change", "Held", "Input", "Read", "Slot"]
