"""What runs a program: one Python function for each recording, written out.

It checks that the recording holds, puts the addresses of inputs where the program reads them, runs it, and puts back
what the function changed. With small programs nearly all time is spent here, so there are no loops, and of an array
is asked only whether it is the one of the last call.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from sys import getrefcount
from typing import Any

import numpy as np

from ..tensor import Tensor, wrap
from ..tree import fill, leaves
from ..value import SCALAR, UNSHARED
from .memory import Memory, number
from .nodes import Node
from .outside import is_same
from .places import Place, Scope, argument
from .program import Cell, Program, is_number
from .trace import Change, Held, Input, Read, Slot

#: What a call returns if its recording does not hold.
MISMATCH = object()
#: What looking into a place raises if it is no longer there.
GONE = AttributeError, IndexError, KeyError, ValueError
_numbers = count()


class Output(int):
    """Stands in a result's nesting for the program's output of this number."""


@dataclass(slots=True)
class Outline:
    """What a program is run for, in terms of the function that was recorded."""

    args: tuple[Any, ...]  # what it was called with
    kwargs: dict[str, Any]
    mode: int
    conditions: list[Place]
    inputs: list[Input]  # all that were read, also those that no result depends on
    result: Any  # what it returned, nested: outputs, places of tensors that it was given, or the objects themselves
    reads: list[tuple[Read, int]] = field(default_factory=list)
    #: Those of the program's updates, in order, and gradients that are forgotten.
    changes: list[Change] = field(default_factory=list)


def write_call(program: Program, outline: Outline) -> Callable[..., Any]:
    """The function `call(mode, args, kwargs, execute, ran)`, which returns the result, or MISMATCH.

    `execute` runs the program, and `ran` says whether it did; without, it runs once.
    """
    return _Writer(program, outline).function()


class _Writer:
    def __init__(self, program: Program, outline: Outline) -> None:
        self.program, self.outline = program, outline
        self.scope = Scope()
        self.bind = self.scope.bind
        self.specs = {program.slot(n): (n.shape, n.dtype) for n in program.fed}
        self.specs |= {c.slot: c.spec for c in program.cells}
        read = [*program.fed, *[c.old for c in program.cells if c.old is not None]]
        self.places = [program.inputs[n].place for n in read]
        self.values: dict[Any, str] = {}  # what holds the value of a node or, by its slot, of a cell
        self.before: list[str] = []  # all up to the run
        self.after: list[str] = []  # what puts back
        self._read: set[int] = set()
        self.marks: dict[str, Any] = {}  # generators, and what holds where they stood

    def function(self) -> Callable[..., Any]:
        program = self.program
        for k, x in enumerate(program.unpacked):
            self.values[x if isinstance(x, Node) else x.slot] = f"x{k}"
        self._check_arguments()
        self._check_conditions()
        drawn = [n for n in program.fed if program.inputs[n].generator is not None]
        for node in program.fed:
            if node not in drawn:
                self._input(node, program.inputs[node].place.text(self.bind))
        cells = iter(program.updates)
        for change in self.outline.changes:
            self._change(change, None if change.after is None else next(cells))
        draws = self._draws()  # last: nothing may turn out not to hold after them but what is read
        for node in drawn:
            self._input(node, draws[id(program.inputs[node])])
        if program.packed:
            self.before.append(f"pack({', '.join(f'n{program.slot(n)}' for n in program.packed)})")
        text = self._text()
        name = f"<autograd_geo call {next(_numbers)}>"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        scope: dict[str, Any] = {}
        memory = Memory(program.addresses, program.further, self.specs, scope)
        scope |= self.scope.names | {
            "MISMATCH": MISMATCH, "GONE": GONE, "Tensor": Tensor, "ndarray": np.ndarray, "getrefcount": getrefcount,
            "wrap": wrap, "empty": np.empty, "place": memory.place,
            "array_of": np.array, "number": number, "fill": fill,
            "put": memory.put, "own_value": memory.own_value, "own_gradient": memory.own_gradient,
            "own_slot": memory.own_slot, "pack": program.pack, "unpack": program.unpack, "run": program.execute,
            "look": program.look, "commit": program.commit,
            "program": program,  # whose memory kernels use
        }  # fmt: skip
        exec(compile(text, name, "exec"), scope)
        return scope["call"]  # type: ignore[no-any-return]

    def _text(self) -> str:
        program = self.program
        lines = ["def call(mode, args, kwargs, execute=run, ran=None):", "    try:", *_indented(self.before, 2)]
        lines += ["    except GONE:", "        return MISMATCH"]
        for n in program.results:
            slot = program.slot(n)
            if slot in program.views:
                self.values[n] = f"{self.bind(program.views[slot])}.copy()"
            elif not is_number(n):
                self.values[n] = f"r{slot}"
                lines.append(f"    r{slot} = empty({n.shape}, {self.bind(n.dtype)})")
                lines.append(f"    place({slot}, r{slot})")
        lines += _indented(self._run(), 1)
        lines.append(f"    return {self._tree(self.outline.result)}")
        return "\n".join(lines) + "\n"

    def _run(self) -> list[str]:
        """Run the program, and put back what it changed."""
        program, many = self.program, len(self.program.unpacked)
        taken = [f"{''.join(f'x{k}, ' for k in range(many))}= unpack()"] if many else []
        if program.calls_back:
            put = [*taken, *self.after] or ["pass"]
            return ["execute()", *taken, *self._checks(), "try:", "    commit()", "finally:", *_indented(put, 1)]
        lines = []
        if self.outline.reads:
            checks = self._checks()
            numbers = any(is_number(self.program.plan.outputs[k]) for _, k in self.outline.reads)
            lines += ["if ran is None:", "    look()", *_indented([*(taken if numbers else []), *checks], 1)]
        if not self.after:
            return [*lines, "execute()", *taken]
        # What was written in place belongs to what is put back, come what may.
        lines += ["try:", "    execute()", "finally:", *_indented(taken, 1), "    if ran is None or ran():"]
        return lines + _indented(self.after, 2)

    def _mismatch_unless(self, condition: str) -> None:
        self.before += [f"if not ({condition}):", "    return MISMATCH"]

    # --- what has to hold ---------------------------------------------------------------------------------------------

    def _check_arguments(self) -> None:
        args, kwargs = self.outline.args, self.outline.kwargs
        self._mismatch_unless(
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
            self._mismatch_unless(f"len({{{ids}}}) == {len(self._tensors)}")

    def _branch(self, at: str, tree: Any) -> None:
        """Check a branch of the arguments; its leaves get names, as `places.argument` has them."""
        if tree is None:
            self._mismatch_unless(f"{at} is None")
        elif isinstance(tree, dict):
            name = f"branch{next(self._branches)}"
            self.before.append(f"{name} = {at}")
            self._mismatch_unless(
                f"type({name}) is {self.bind(type(tree))} and list({name}) == {self.bind(list(tree))}"
            )
            for key, x in tree.items():
                self._branch(f"{name}[{self.bind(key)}]", x)
        elif isinstance(tree, list | tuple):
            name = f"branch{next(self._branches)}"
            self.before.append(f"{name} = {at}")
            self._mismatch_unless(f"type({name}) is {self.bind(type(tree))} and len({name}) == {len(tree)}")
            for k, x in enumerate(tree):
                self._branch(f"{name}[{k}]", x)
        else:
            name = argument(next(self._leaves)).template
            self.before.append(f"{name} = {at}")
            self._mismatch_unless(self._leaf(name, tree))

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
        if isinstance(x, np.ndarray | np.generic):
            kind = f"isinstance({name}, {self.bind((np.ndarray, np.generic))})"
            return f"{kind} and {name}.shape == {x.shape} and {name}.dtype == {self.bind(x.dtype)}"
        if type(x) is float:
            return f"type({name}) is float"
        if type(x) in (int, bool, str, bytes):
            return is_same(Place(name), x).text(self.bind)
        return f"{name} is {self.bind(x)}"

    def _check_conditions(self) -> None:
        texts = [c.text(self.bind) for c in self.outline.conditions]
        for start in range(0, len(texts), 8):
            self._mismatch_unless(" and ".join(texts[start : start + 8]))

    def _checks(self) -> list[str]:
        """Whether what Python looked at came out as it was; if not, random draws are taken back."""
        if not self.outline.reads:
            return []
        holds = " and ".join(self._holds(read, k) for read, k in self.outline.reads)
        rewound = [f"{self.bind(g)}.rewind({name})" for name, g in self.marks.items()]
        return [f"if not ({holds}):", *_indented([*rewound, "return MISMATCH"], 1)]

    def _holds(self, read: Read, k: int) -> str:
        view = self.program.views.get(self.program.slot(self.program.plan.outputs[k]))
        if view is not None and view.dtype == bool and view.size == 1 and read.convert is bool:
            return f"{self.bind(view)}.item() is {bool(read.expected)}"
        return f"{self.bind(read)}.holds({self._output(k)})"

    # --- inputs -------------------------------------------------------------------------------------------------------

    def _draws(self) -> dict[int, str]:
        """Draw random numbers, used or not, in the order of the recording; what holds those of each input."""
        drawn = {}
        for k, given in enumerate(self.outline.inputs):
            if given.generator is not None:
                if given.generator not in self.marks.values():
                    self.marks[f"mark{k}"] = given.generator
                    self.before.append(f"mark{k} = {self.bind(given.generator)}.mark()")
                drawn[id(given)] = f"drawn{k}"
                self.before.append(f"drawn{k} = {given.place.text(self.bind)}")
        return drawn

    def _input(self, node: Node, text: str) -> None:
        given, slot = self.program.inputs[node], self.program.slot(node)
        if is_number(node):
            self._number(slot, text)
        elif given.private:
            self.before += [f"a{slot} = {text}", f"if a{slot} is not array{slot}():"]
            self._replaced(f"a{slot}", f"put({slot}, a{slot})")
        elif slot in self.program.views:
            self.before.append(f"a{slot} = {text}")
            if not text.startswith("leaf"):
                self._mismatch_unless(f"a{slot}.shape == {node.shape} and a{slot}.dtype == {self.bind(node.dtype)}")
            self.before.append(f"{self.bind(self.program.views[slot])}[...] = a{slot}")
        else:
            self.before += [f"a{slot} = put({slot}, {text}, False)", f"if a{slot} is None:", "    return MISMATCH"]

    def _number(self, slot: int, text: str) -> None:
        if slot in self._read:  # numbers that are equal, by a condition
            return
        self._read.add(slot)
        self.before += [f"n{slot} = {text}", f"if type(n{slot}) is not float:"]
        self._replaced(f"n{slot}", f"number(n{slot})")

    def _replaced(self, name: str, by: str) -> None:
        """After an `if`: another value, which is None for what the recording is not for."""
        self.before += [f"    {name} = {by}", f"    if {name} is None:", "        return MISMATCH"]

    # --- changes ------------------------------------------------------------------------------------------------------

    def _change(self, change: Change, cell: Cell | None) -> None:
        of = change.of
        if isinstance(of, Slot):
            assert cell is not None
            self._slot_change(of, cell)
        elif change.kind == "value":
            assert cell is not None
            self._value_change(of, cell)
        else:
            self._gradient_change(of, cell)

    def _slot_change(self, of: Slot, cell: Cell) -> None:
        k, state, name = cell.slot, self.bind(of.state), self.bind(of.name)
        if is_number(cell):
            if cell.old is not None:
                self._number(k, f"{state}[{name}]")
            self.after.append(f"{state}[{name}] = {'round' if of.whole else 'array_of'}({self.values[k]})")
        else:
            self.before += [f"a{k} = {state}[{name}]"]
            self.before += [f"if a{k} is not array{k}() or getrefcount(a{k}) > {UNSHARED + 1}:"]
            self._replaced(f"a{k}", f"own_slot({k}, {state}, {name})")

    def _value_change(self, of: Held, cell: Cell) -> None:
        k, t = cell.slot, of.place.text(self.bind)
        if is_number(cell):
            if cell.old is not None:
                self._number(k, f"{t}._value")
            self.after.append(f"{t}.hold({self.values[k]})")
        else:
            self.before += [f"a{k} = {t}._value", f"e{k} = {t}._entry"]
            holders = f"{UNSHARED + 1} + (e{k} is not None)"  # the tensor, its leaf
            self.before += [
                f"if a{k} is not array{k}() or getrefcount(a{k}) > {holders} or getrefcount(e{k}) > {UNSHARED + 1}:"
            ]
            self._replaced(f"a{k}", f"own_value({k}, {t})")

    def _gradient_change(self, of: Held, cell: Cell | None) -> None:
        t = of.place.text(self.bind)
        if cell is None:
            self.after.append(f"({t}._entry.root or {t}._entry).grad = None")
            return
        k = cell.slot
        self.before.append(f"q{k} = {t}._entry.root or {t}._entry")
        if is_number(cell):
            if cell.old is not None:
                self._number(k, f"q{k}.grad._value")
            self.after.append(f"q{k}.grad = wrap({self.values[k]})")
        else:
            alone = f"getrefcount(g{k}) > {UNSHARED + 1} or g{k}._entry is not None"
            array = f"(a{k} := g{k}._value) is not array{k}() or getrefcount(a{k}) > {UNSHARED + 1}"
            self.before += [f"g{k} = q{k}.grad", f"if g{k} is not tensor{k}() or {alone} or {array}:"]
            self._replaced(f"g{k}", f"own_gradient({k}, q{k}, {cell.old is not None})")
            self.after.append(f"q{k}.grad = g{k}")

    # --- results ------------------------------------------------------------------------------------------------------

    def _output(self, k: int) -> str:
        node, (shape, dtype) = self.program.plan.outputs[k], self.program.specs[k]
        text = self.values[node]
        if node.shape == shape:
            return text
        if is_number(node):
            return f"array_of({text}).reshape({shape})"
        return f"{text}.item()" if (shape, dtype) == SCALAR else f"{text}.reshape({shape})"

    def _tree(self, tree: Any) -> str:
        """The result as an expression."""
        if isinstance(tree, Output):
            return f"wrap({self._output(tree)})"
        if isinstance(tree, Place):
            return tree.text(self.bind)
        if type(tree) is list:
            return f"[{', '.join(map(self._tree, tree))}]"
        if type(tree) is tuple:
            return f"({''.join(f'{self._tree(x)}, ' for x in tree)})"
        if type(tree) is dict:
            return f"{{{', '.join(f'{self.bind(key)}: {self._tree(x)}' for key, x in tree.items())}}}"
        if isinstance(tree, list | tuple | dict):
            return f"fill({self.bind(tree)}, iter({self._tree(list(leaves(tree)))}))"
        return self.bind(tree)


def _indented(lines: Iterable[str], depth: int) -> list[str]:
    return ["    " * depth + line for line in lines]


__all__ = ["MISMATCH", "Outline", "Output", "write_call"]
