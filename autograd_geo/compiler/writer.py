"""The text of the function that runs a recording: what it checks first, and the result that it returns.

With small programs nearly all time is spent there, so it has no loops: each check is written out. How the program is
given its inputs, and what it changed is put back, is written by those who know where it runs.
"""

from __future__ import annotations

import linecache
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from ..cuda.array import DeviceArray
from ..tensor import Tensor, wrap
from ..tree import fill, leaves
from .outside import is_same
from .places import Place, Scope, argument
from .records import Change, Held, Input, Read

#: What a call returns if its recording does not hold.
MISMATCH = object()
#: What looking into a place raises if it is no longer there.
GONE = AttributeError, IndexError, KeyError, ValueError
_numbers = count()


class Output(int):
    """Stands in a result's nesting for the program's output of this number."""


@dataclass(slots=True)
class Copied:
    """Stands in a result's nesting for an object that the function makes: each call returns another one."""

    of: Any


@dataclass(slots=True)
class Outline:
    """What a program is run for, in terms of the function that was recorded."""

    args: tuple[Any, ...]  # what it was called with
    kwargs: dict[str, Any]
    mode: int
    conditions: list[Place]
    inputs: list[Input]  # all that were read, also those that no result depends on
    result: Any  # what it returned, nested: outputs, places of tensors that it was given, copies, or objects themselves
    reads: list[tuple[Read, int]] = field(default_factory=list)
    #: Those of the program's updates, in order, and gradients that are forgotten.
    changes: list[Change] = field(default_factory=list)


class Writer:
    """Writes the function of one recording, line by line."""

    def __init__(self, outline: Outline, places: Sequence[Place]) -> None:
        self.outline, self.places = outline, places
        self.scope = Scope()
        self.bind = self.scope.bind
        self.before: list[str] = []  # all up to the run
        self.after: list[str] = []  # what puts back
        self._returned: set[Output] = set()
        self.marks: dict[str, Any] = {}  # generators, and what holds where they stood

    def output(self, k: int) -> str:
        """The value of the program's output k, once it has run."""
        raise NotImplementedError

    def finished(self, text: str, scope: dict[str, Any]) -> Callable[..., Any]:
        """The function `call` of this text, whose globals `scope` becomes."""
        filename = f"<autograd_geo call {next(_numbers)}>"
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
        scope |= self.scope.names
        scope |= {
            "MISMATCH": MISMATCH,
            "GONE": GONE,
            "Tensor": Tensor,
            "ndarray": np.ndarray,
            "wrap": wrap,
            "fill": fill,
        }
        exec(compile(text, filename, "exec"), scope)
        call: Callable[..., Any] = scope["call"]
        forget: Any = weakref.finalize(call.__code__, linecache.cache.pop, filename, None)
        forget.atexit = False
        return call

    def mismatch_unless(self, condition: str) -> None:
        self.before += [f"if not ({condition}):", "    return MISMATCH"]

    # --- what has to hold ---------------------------------------------------------------------------------------------

    def check_arguments(self) -> None:
        args, kwargs = self.outline.args, self.outline.kwargs
        self.mismatch_unless(
            f"mode == {self.outline.mode} and len(args) == {len(args)} and "
            + (f"list(kwargs) == {list(kwargs)!r}" if kwargs else "not kwargs")
        )
        self._leaves = count()
        self._branches = count()
        self._tensors: dict[int, str] = {}
        self._changed = [c.of.place.template for c in self.outline.changes if isinstance(c.of, Held)]
        for k, x in enumerate(args):
            self._branch(f"args[{k}]", x)
        for key, x in kwargs.items():
            self._branch(f"kwargs[{key!r}]", x)
        # One tensor given twice is one to the function, which may write into it.
        if len(self._tensors) > 1 and any(name in self._changed for name in self._tensors.values()):
            ids = ", ".join(f"id({name})" for name in self._tensors.values())
            self.mismatch_unless(f"len({{{ids}}}) == {len(self._tensors)}")

    def _branch(self, at: str, tree: Any) -> None:
        """Check a branch of the arguments; its leaves get names, as `places.argument` has them."""
        if tree is None:
            self.mismatch_unless(f"{at} is None")
        elif isinstance(tree, dict):
            name = f"branch{next(self._branches)}"
            self.before.append(f"{name} = {at}")
            self.mismatch_unless(f"type({name}) is {self.bind(type(tree))} and list({name}) == {self.bind(list(tree))}")
            for key, x in tree.items():
                self._branch(f"{name}[{self.bind(key)}]", x)
        elif isinstance(tree, list | tuple):
            name = f"branch{next(self._branches)}"
            self.before.append(f"{name} = {at}")
            self.mismatch_unless(f"type({name}) is {self.bind(type(tree))} and len({name}) == {len(tree)}")
            for k, x in enumerate(tree):
                self._branch(f"{name}[{k}]", x)
        else:
            name = argument(next(self._leaves)).template
            self.before.append(f"{name} = {at}")
            self.mismatch_unless(self._leaf(name, tree))

    def _leaf(self, name: str, x: Any) -> str:
        """What has to hold of an argument; shape and dtype of a tensor that the program reads are looked at later."""
        if isinstance(x, Tensor):
            first = self._tensors.setdefault(id(x), name)
            if first != name:
                return f"{name} is {first}"
            if x.requires_grad and name in self._changed:  # what is written to a leaf is written to this leaf
                return f"{name} is {self.bind(x)}"
            plain = f"isinstance({name}, Tensor) and ({name}._entry is None or {name}._entry.state <= 0)"
            if x.requires_grad:
                plain = f"isinstance({name}, Tensor) and {name}._entry is not None and {name}._entry.state > 0"
            if any(place.mentions(name) for place in self.places):
                return plain
            return f"{plain} and {name}.shape == {x.shape} and {name}.dtype == {self.bind(x.dtype)}"
        if isinstance(x, np.ndarray | np.generic | DeviceArray):
            kind = f"type({name}) is {self.bind(DeviceArray)}"
            if not isinstance(x, DeviceArray):
                kinds, masked = self.bind((np.ndarray, np.generic)), self.bind(np.ma.MaskedArray)
                kind = f"(type({name}) is {self.bind(np.ndarray)} or "
                kind += f"isinstance({name}, {kinds}) and not isinstance({name}, {masked}))"
            return f"{kind} and {name}.shape == {x.shape} and {name}.dtype == {self.bind(x.dtype)}"
        if type(x) is float:
            return f"type({name}) is float"
        if type(x) in (int, bool, str, bytes):
            return is_same(Place(name), x).text(self.bind)
        return f"{name} is {self.bind(x)}"

    def check_conditions(self) -> None:
        texts = [c.text(self.bind) for c in self.outline.conditions]
        for start in range(0, len(texts), 8):
            self.mismatch_unless(" and ".join(texts[start : start + 8]))

    def checks(self) -> list[str]:
        """Whether what Python looked at came out as it was; if not, random draws are taken back."""
        if not self.outline.reads:
            return []
        holds = " and ".join(self.holds(read, k) for read, k in self.outline.reads)
        rewound = [f"{self.bind(g)}.rewind({name})" for name, g in self.marks.items()]
        return [f"if not ({holds}):", *indented([*rewound, "return MISMATCH"], 1)]

    def holds(self, read: Read, k: int) -> str:
        """Whether output k came out as Python read it."""
        return f"{self.bind(read)}.holds({self.output(k)})"

    # --- random numbers -----------------------------------------------------------------------------------------------

    def draws(self) -> dict[int, str]:
        """Draw random numbers, used or not, in the order of the recording; what holds those of each input."""
        drawn = {}
        for k, given in enumerate(self.outline.inputs):
            if given.generator is not None:
                if given.generator not in self.marks.values():
                    self.marks[f"mark{k}"] = given.generator
                    self.before.append(f"mark{k} = {self.bind(given.generator)}.mark()")
                drawn[id(given)] = f"drawn{k}"
                self.before.append(f"drawn{k} = {self.draw(given)}")
        return drawn

    def draw(self, given: Input) -> str:
        """The random numbers that an input stands for."""
        return given.place.text(self.bind)

    # --- results ------------------------------------------------------------------------------------------------------

    def tree(self, tree: Any) -> str:
        """The result as an expression."""
        if isinstance(tree, Output):
            if tree in self._returned:
                return f"out{tree}"
            self._returned.add(tree)
            return f"(out{tree} := wrap({self.output(tree)}))"
        if isinstance(tree, Copied):
            return f"{self.bind(tree.of)}.copy()"
        if isinstance(tree, Place):
            return tree.text(self.bind)
        if type(tree) is list:
            return f"[{', '.join(map(self.tree, tree))}]"
        if type(tree) is tuple:
            return f"({''.join(f'{self.tree(x)}, ' for x in tree)})"
        if type(tree) is dict:
            return f"{{{', '.join(f'{self.bind(key)}: {self.tree(x)}' for key, x in tree.items())}}}"
        if isinstance(tree, list | tuple | dict):
            return f"fill({self.bind(tree)}, iter({self.tree(list(leaves(tree)))}))"
        return self.bind(tree)


def indented(lines: Iterable[str], depth: int) -> list[str]:
    return ["    " * depth + line for line in lines]


__all__ = ["GONE", "MISMATCH", "Outline", "Output", "Writer", "indented"]
