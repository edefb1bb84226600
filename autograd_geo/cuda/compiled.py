"""A recorded function on the device: its program there, and the Python function that runs it.

Python numbers (learning rates, counts of steps) and what is computed from them alone stay on the host, and go to the
device together, once in each call. The program changes nothing that was there before; when all has come out as it was
recorded, tensors and optimisers get the new arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..compiler.errors import CompileError
from ..compiler.graph import Graph
from ..compiler.moves import frozen_key
from ..compiler.nodes import INPUT, Node
from ..compiler.places import Place
from ..compiler.records import Change, Input, Read, Slot
from ..compiler.trace import Tracer, needed
from ..compiler.writer import Outline, Writer, indented
from ..device import device_of, move, put
from ..tape import Entry
from ..value import NUMBERS, SCALAR, strong
from .array import DeviceArray, on_host
from .eager import to_device
from .precision import current, matmul_precision, when_recorded
from .program import DeviceProgram, upload


class DeviceRecording:
    """What a recording computes: first on the host, from numbers alone, then on the device."""

    def __init__(self, tracer: Tracer, outputs: Sequence[Entry]) -> None:
        entries = needed(outputs, tracer.defined)
        for e in entries:
            if e.op is move:
                raise CompileError(
                    "compile: the function moves tensors between devices; move them before it is called, or after"
                )
        self.outputs = [tracer.defined.get(e, e) for e in outputs]
        self._on_host: dict[Entry, Entry | None] = {}  # what is computed on the host, and what it is the value of
        known: dict[Any, Entry] = {}
        for e in entries:
            source = tracer.defined.get(e)
            if source is not None and source in self._on_host:
                self._on_host[e] = self._on_host[source] or source
            elif e in tracer.inputs:
                if e.spec == SCALAR and not isinstance(e.value, DeviceArray) and tracer.inputs[e].generator is None:
                    self._on_host[e] = None
            elif e.op is not None and e.spec == SCALAR:
                inputs = [i for i in e.inputs if type(i) is Entry]
                if inputs and all(i in self._on_host for i in inputs) and e.op.family == "pointwise":
                    of = [self._on_host[i] or i if type(i) is Entry else (type(i), repr(i)) for i in e.inputs]
                    first = known.setdefault((e.op, *of, frozen_key(e.attrs)), e)
                    self._on_host[e] = None if first is e else first  # the same of each parameter
        # As they are now: entries lose what they are computed from when the recording ends.
        self.host = [
            (e, e.op, e.inputs, e.attrs) for e in entries if self._on_host.get(e, e) is None and e not in tracer.inputs
        ]
        self.same = {e: source for e, source in self._on_host.items() if source is not None}
        graph = Graph(tracer)
        for e in entries:
            if e in self._on_host:
                same = self._on_host[e]
                graph.nodes[e] = graph.nodes[same] if same else Node(INPUT, (), np.dtype(float))
            else:
                graph.add([e])
        there = [a for e in entries if e not in self._on_host for a in e.inputs if a in self._on_host]
        #: Numbers that the device reads, and what else it is given, in order.
        self.numbers = list(dict.fromkeys([self._on_host[a] or a for a in there]))
        self.inputs: list[Input] = [tracer.inputs[e] for e in graph.inputs]
        self.read: list[Input] = [tracer.inputs[e] for e in entries if e in tracer.inputs and e in self._on_host]
        outputs = [e for e in self.outputs if e not in self._on_host]
        given = [*(graph.nodes[e] for e in self.numbers), *graph.inputs.values()]
        #: The shape and dtype of each of those, and whether it is on the device.
        self.specs = [(n.shape, n.dtype, isinstance(e.value, DeviceArray)) for e, n in graph.inputs.items()]
        precision = when_recorded(tracer)
        #: That of products when the recording began.
        self.precision = precision(None)
        if current() != self.precision:
            matmul_precision(self.precision)
            raise CompileError(
                "compile: the function changes ag.cuda.matmul_precision for what comes after it; write "
                "`with ag.cuda.matmul_precision(...):` in it, or set it before it is called"
            )
        self.program = DeviceProgram(given, [graph.nodes[e] for e in outputs], True, precision)
        self._there = {e: k for k, e in enumerate(outputs)}

    def run(self, numbers: Sequence[Any], arrays: Sequence[DeviceArray]) -> list[Any]:
        """The values of the outputs: numbers on the host where they depend on nothing else."""
        values: dict[Any, Any] = {i.entry: float(x) for i, x in zip(self.read, numbers, strict=True)}
        for e, op, inputs, attrs in self.host:
            given = [strong(values[self.same.get(i, i)]) if type(i) is Entry else i for i in inputs]
            values[e] = op.evaluate(given, attrs)  # type: ignore[union-attr]
        values |= {e: values[source] for e, source in self.same.items()}
        block = upload(np.array([values[e] for e in self.numbers], float))
        sent = [DeviceArray(block, *SCALAR, 8 * k) for k in range(len(self.numbers))]
        found = self.program.run(*sent, *arrays)
        return [values[e] if e in values else found[self._there[e]] for e in self.outputs]


class _DeviceWriter(Writer):
    """Writes the function that runs a recording on the device."""

    def __init__(self, recording: DeviceRecording, outline: Outline, updates: Sequence[int]) -> None:
        super().__init__(outline, [i.place for i in recording.inputs])
        self.recording, self.updates = recording, updates

    def function(self) -> Any:
        recording = self.recording
        self.check_arguments()
        if recording.program.depends_on_precision:
            self.mismatch_unless(f"precision() == {recording.precision!r}")
        self.check_conditions()
        for k, i in enumerate(recording.read):
            self.before.append(f"n{k} = number({i.place.text(self.bind)})")
            self.mismatch_unless(f"n{k} is not None")
        drawn = {}
        for k, (i, spec) in enumerate(zip(recording.inputs, recording.specs, strict=True)):
            if i.generator is None:
                self._given(f"x{k}", i.place.text(self.bind), spec)
            else:
                drawn[f"x{k}"] = i
        draws = self.draws()  # last: nothing may turn out not to hold after them but what is read
        for name, i in drawn.items():
            self.before.append(f"{name} = put({draws[id(i)]}, 'cuda')")
        numbers = ", ".join(f"n{k}" for k in range(len(recording.read)))
        arrays = ", ".join(f"x{k}" for k in range(len(recording.inputs)))
        updates = iter(self.updates)
        for change in self.outline.changes:
            self._change(change, None if change.after is None else next(updates))
        lines = ["def call(mode, args, kwargs):", "    try:", *indented(self.before, 2)]
        lines += ["    except GONE:", "        return MISMATCH", f"    found = run([{numbers}], [{arrays}])"]
        lines += indented(self.checks(), 1)
        lines += indented(self.after, 1)
        lines.append(f"    return {self.tree(self.outline.result)}")
        scope = {"run": recording.run, "given": _given, "number": _number, "on_host": on_host}
        scope |= {"put": put, "precision": current}
        return self.finished("\n".join(lines) + "\n", scope)

    def draw(self, given: Input) -> str:
        """Drawn on the device, but permutations."""
        method, args = given.place.parts
        if method.__name__ == "permutation":
            return super().draw(given)
        return Place("{0}({1}device='cuda')._value", method, args).text(self.bind)

    def _given(self, name: str, text: str, spec: Any) -> None:
        self.before.append(f"{name} = given({text}, {self.bind(spec)})")
        self.mismatch_unless(f"{name} is not None")

    def output(self, k: int) -> str:
        return f"found[{k}]"

    def holds(self, read: Read, k: int) -> str:
        return f"{self.bind(read)}.holds(on_host(found[{k}]))"

    def _change(self, change: Change, k: int | None) -> None:
        of = change.of
        if isinstance(of, Slot):
            state, name = self.bind(of.state), self.bind(of.name)
            where = device_of(of.state[of.name])
            value = f"round(float(on_host(found[{k}])))" if of.whole else f"put(found[{k}], {where!r})"
            self.after.append(f"{state}[{name}] = {value}")
        elif change.kind == "value":
            t = of.place.text(self.bind)
            self.after.append(f"{t}.hold(put(found[{k}], {t}.device))")
        else:
            t = of.place.text(self.bind)
            new = "None" if k is None else f"wrap(put(found[{k}], {t}.device))"
            self.after.append(f"({t}._entry.root or {t}._entry).grad = {new}")


def _given(x: Any, spec: Any) -> DeviceArray | None:
    """What a program is given, on the device; None if it is of another shape or dtype, or was elsewhere."""
    if isinstance(x, DeviceArray):
        return x if (x.shape, x.dtype, True) == spec else None
    array = np.asarray(x)
    return to_device(array) if (array.shape, array.dtype, False) == spec else None


def _number(x: Any) -> float | None:
    if isinstance(x, DeviceArray):
        return None
    return float(x) if type(x) in NUMBERS or isinstance(x, np.generic) or np.shape(x) == () else None


def write_call(recording: DeviceRecording, outline: Outline, updates: Sequence[int]) -> Any:
    """The function `call(mode, args, kwargs)`, which returns the result, or MISMATCH.

    `updates` are the outputs that the changes of the outline leave behind, in their order.
    """
    return _DeviceWriter(recording, outline, updates).function()


__all__ = ["DeviceRecording", "write_call"]
