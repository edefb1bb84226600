"""What runs a program: one Python function for each recording, written out.

It checks that the recording holds, puts the addresses of inputs where the program reads them, runs it, and puts back
what the function changed. With small programs nearly all time is spent here, so there are no loops, and of an array
is asked only whether it is the one of the last call.
"""

from __future__ import annotations

from collections.abc import Callable
from sys import getrefcount
from typing import Any

import numpy as np

from ..value import SCALAR, UNSHARED
from .memory import Memory, number
from .nodes import Node
from .program import Cell, Program, is_number
from .records import Change, Held, Read, Slot
from .writer import Outline, Writer, indented


def write_call(program: Program, outline: Outline) -> Callable[..., Any]:
    """The function `call(mode, args, kwargs, execute, ran)`, which returns the result, or MISMATCH.

    `execute` runs the program, and `ran` says whether it did; without, it runs once.
    """
    return _Writer(program, outline).function()


class _Writer(Writer):
    def __init__(self, program: Program, outline: Outline) -> None:
        read = [*program.fed, *[c.old for c in program.cells if c.old is not None]]
        super().__init__(outline, [program.inputs[n].place for n in read])
        self.program = program
        self.specs = {program.slot(n): (n.shape, n.dtype) for n in program.fed}
        self.specs |= {c.slot: c.spec for c in program.cells}
        self.values: dict[Any, str] = {}  # what holds the value of a node or, by its slot, of a cell
        self._read: set[int] = set()

    def function(self) -> Callable[..., Any]:
        program = self.program
        for k, x in enumerate(program.unpacked):
            self.values[x if isinstance(x, Node) else x.slot] = f"x{k}"
        self.check_arguments()
        self.check_conditions()
        drawn = [n for n in program.fed if program.inputs[n].generator is not None]
        for node in program.fed:
            if node not in drawn:
                self._input(node, program.inputs[node].place.text(self.bind))
        cells = iter(program.updates)
        for change in self.outline.changes:
            self._change(change, None if change.after is None else next(cells))
        draws = self.draws()  # last: nothing may turn out not to hold after them but what is read
        for node in drawn:
            self._input(node, draws[id(program.inputs[node])])
        if program.packed:
            self.before.append(f"pack({', '.join(f'n{program.slot(n)}' for n in program.packed)})")
        text = self._text()
        scope: dict[str, Any] = {}
        memory = Memory(program.addresses, program.further, self.specs, scope)
        scope |= {
            "getrefcount": getrefcount, "empty": np.empty, "place": memory.place, "array_of": np.array,
            "number": number, "put": memory.put, "own_value": memory.own_value, "own_gradient": memory.own_gradient,
            "own_slot": memory.own_slot, "pack": program.pack, "unpack": program.unpack, "run": program.execute,
            "look": program.look, "commit": program.commit,
            "program": program,  # whose memory kernels use
        }  # fmt: skip
        return self.finished(text, scope)

    def _text(self) -> str:
        program = self.program
        lines = ["def call(mode, args, kwargs, execute=run, ran=None):", "    try:", *indented(self.before, 2)]
        lines += ["    except GONE:", "        return MISMATCH"]
        for n in program.results:
            slot = program.slot(n)
            if slot in program.views:
                self.values[n] = f"{self.bind(program.views[slot])}.copy()"
            elif not is_number(n):
                self.values[n] = f"r{slot}"
                lines.append(f"    r{slot} = empty({n.shape}, {self.bind(n.dtype)})")
                lines.append(f"    place({slot}, r{slot})")
        lines += indented(self._run(), 1)
        lines.append(f"    return {self.tree(self.outline.result)}")
        return "\n".join(lines) + "\n"

    def _run(self) -> list[str]:
        """Run the program, and put back what it changed."""
        program, many = self.program, len(self.program.unpacked)
        taken = [f"{''.join(f'x{k}, ' for k in range(many))}= unpack()"] if many else []
        if program.calls_back:
            put = [*taken, *self.after] or ["pass"]
            return ["execute()", *taken, *self.checks(), "try:", "    commit()", "finally:", *indented(put, 1)]
        lines = []
        if self.outline.reads:
            checks = self.checks()
            numbers = any(is_number(self.program.plan.outputs[k]) for _, k in self.outline.reads)
            lines += ["if ran is None:", "    look()", *indented([*(taken if numbers else []), *checks], 1)]
        if not self.after:
            return [*lines, "execute()", *taken]
        # What was written in place belongs to what is put back, come what may.
        lines += ["try:", "    execute()", "finally:", *indented(taken, 1), "    if ran is None or ran():"]
        return lines + indented(self.after, 2)

    # --- inputs -------------------------------------------------------------------------------------------------------

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
                self.mismatch_unless(f"a{slot}.shape == {node.shape} and a{slot}.dtype == {self.bind(node.dtype)}")
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

    def output(self, k: int) -> str:
        node, (shape, dtype) = self.program.plan.outputs[k], self.program.specs[k]
        text = self.values[node]
        if node.shape == shape:
            return text
        if is_number(node):
            return f"array_of({text}).reshape({shape})"
        return f"{text}.item()" if (shape, dtype) == SCALAR else f"{text}.reshape({shape})"

    def holds(self, read: Read, k: int) -> str:
        view = self.program.views.get(self.program.slot(self.program.plan.outputs[k]))
        if view is not None and view.dtype == bool and view.size == 1 and read.convert is bool:
            return f"{self.bind(view)}.item() is {bool(read.expected)}"
        return f"{self.bind(read)}.holds({self.output(k)})"


__all__ = ["write_call"]
