"""What a function does outside besides computing, which only its recording would do: it is refused, and undone.

Random numbers of generators that are not ours, items of iterators, settings of optimisers. What it changes of other
objects needs no care: the conditions of its recording do not hold any more.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from operator import length_hint
from types import GeneratorType
from typing import Any

import numpy as np

from .errors import CompileError

_BUILT_IN: tuple[Any, ...] = ([], (), "", range(0), {}, {}.values(), {}.items(), set(), reversed([]))
_ITERATORS = tuple({type(iter(x)) for x in _BUILT_IN})


@dataclass(slots=True)
class _Noted:
    """An object, and what it was like before the function ran."""

    of: Any
    state: Callable[[], Any]
    before: Any
    restore: Callable[[Any], Any] | None
    refusal: str


class Unrepeatable:
    """What such things were like before the function ran."""

    def __init__(self) -> None:
        self._noted: dict[int, _Noted] = {}

    def add(self, x: Any) -> None:
        """Note what `x` is like, if it is one of these."""
        if isinstance(x, np.random.Generator):
            self._note(x, lambda: x.bit_generator.state, lambda s: setattr(x.bit_generator, "state", s), _DRAWS)
        elif isinstance(x, np.random.RandomState) or x is np.random:
            self._note(x, lambda: x.get_state(legacy=False), x.set_state, _DRAWS)
        elif isinstance(x, random.Random) or x is random:
            self._note(x, x.getstate, x.setstate, _DRAWS)
        elif isinstance(x, GeneratorType):
            self._note(x, lambda: x.gi_frame and x.gi_frame.f_lasti, None, _ADVANCES)
        elif type(x) is count:
            self._note(x, lambda: repr(x), None, _ADVANCES)
        elif isinstance(x, _ITERATORS):
            self._note(x, lambda: length_hint(x), None, _ADVANCES)

    def add_optimizer(self, optimizer: Any) -> None:
        """Note the settings of an optimiser."""
        self._note(optimizer, lambda: _settings(optimizer), lambda s: _set(optimizer, s), _SETS)

    def add_modules(self) -> None:
        """Note the generators behind the functions of NumPy's and Python's modules."""
        self.add(np.random)
        self.add(random)

    def check(self, name: str) -> None:
        """Raise CompileError if the function of this name has changed any of these."""
        for noted in self._noted.values():
            if not _is_equal(noted.state(), noted.before):
                raise CompileError(f"compile: {name} {noted.refusal.format(type(noted.of).__name__)}")

    def restore(self) -> None:
        """Put back what was changed, except for the items of iterators."""
        for noted in self._noted.values():
            if noted.restore is not None and not _is_equal(noted.state(), noted.before):
                noted.restore(noted.before)

    def _note(self, x: Any, state: Callable[[], Any], restore: Callable[[Any], Any] | None, refusal: str) -> None:
        self._noted.setdefault(id(x), _Noted(x, state, state(), restore, refusal))


_DRAWS = (
    "draws random numbers from a {} that is not autograd_geo's; each call would get those of the recording. Draw by "
    "ag.random, or pass the numbers as an argument"
)
_ADVANCES = "takes items of a {} from outside; only its recording would do that. Pass the items as arguments"
_SETS = "changes settings of a {}; only its recording would do that. Change them outside, between calls"


def _settings(optimizer: Any) -> dict[str, Any]:
    """The attributes of an optimiser that are plain values."""
    plain = (bool, int, float, str, tuple, np.generic, type(None))
    return {name: v for name, v in vars(optimizer).items() if isinstance(v, plain)}


def _set(optimizer: Any, settings: dict[str, Any]) -> None:
    for name in _settings(optimizer).keys() - settings.keys():
        delattr(optimizer, name)
    for name, value in settings.items():
        setattr(optimizer, name, value)


def _is_equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_is_equal(a[k], b[k]) for k in a)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    return bool(a is b or (type(a) is type(b) and (a == b or (a != a and b != b))))


__all__ = ["Unrepeatable"]
