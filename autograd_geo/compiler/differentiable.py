"""Compiled functions on a tape: a result that requires a gradient is one entry, whose rule runs a second program.

That program takes what the first one read and the cotangent of a result, and gives the cotangents of the leaves: it
computes again what it needs of the first. To differentiate that again, the cotangents are recorded and compiled as a
function of their own.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..cuda.array import DeviceArray
from ..cuda.precision import current, matmul_precision
from ..device import put
from ..op import Op, Rule, Rules
from ..tape import ACTIVE, TRACED, TRACING, Entry, caller, leaf, mode, next_number, recording, tape
from ..tensor import Tensor, entry_of, wrap
from ..transform import joined, pulled
from ..tree import leaves, map_leaves
from ..value import SCALAR, Spec, Value, as_value
from .errors import CompileError
from .memory import number
from .outside import is_equal
from .places import Place, Scope, argument, named
from .records import Input
from .target import build
from .trace import Tracer
from .writer import GONE, MISMATCH, Outline, Output


class Pullback:
    """From cotangents of a recorded function's results to those of the leaves it depends on.

    `results` are those that require a gradient, by their number among all leaves of what the function returned. Made
    while `tracer` traces, when all else is recorded.
    """

    def __init__(
        self, tracer: Tracer, results: Mapping[int, Tensor], fn: Callable[..., Any], name: str,
        conditions: Sequence[Place],
    ) -> None:  # fmt: skip
        from .function import Compiled

        if any(i.generator is not None for i in tracer.inputs.values()):
            raise CompileError(
                f"compile: the result of {name} requires a gradient and depends on random numbers; differentiate "
                "inside the function (ag.compile(ag.value_and_grad(loss)), or a step that calls backward())"
            )
        self._specs: dict[int, Spec] = {k: (t.shape, t.dtype) for k, t in results.items()}
        self._devices = {k: t.device for k, t in results.items()}
        self._given = [(i.entry.spec, i.private) for i in tracer.inputs.values()]
        self._read = _reader([i.place for i in tracer.inputs.values()])
        reached = dict.fromkeys(e for t in results.values() for e in tape(entry_of(t))[1] if e.op is None)
        variables = {e: place for e in reached if (place := tracer.place_of_leaf(e)) is not None}
        self._sources = _reader(list(variables.values()))
        seeds = [leaf(_seed(np.ones(t.shape), (t.shape, t.dtype), t.device), TRACED) for t in results.values()]
        given = [*tracer.inputs, *seeds]
        tracer.inputs = {e: Input(e, argument(k)) for k, e in enumerate(given)}
        with np.errstate(all="ignore"):  # of a cotangent that only stands for others
            cotangents, _ = pulled(
                joined(list(results.values())), [wrap(s.value, s) for s in seeds], list(variables), 0, True, True, True
            )
        outline = Outline(tuple([e.value for e in given]), {}, 0, [], [], [Output(k) for k in range(len(cotangents))])
        _, self._call = build(tracer, outline, [tracer.source(c) for c in cotangents])
        self._name = name
        self._holds = _reader(conditions)
        self._again = {k: Compiled(_pull_of(fn, k, self._sources)) for k in results}
        self._known: dict[tuple[int, int], tuple[weakref.ref[Tensor], list[Tensor]]] = {}  # while the cotangent lives
        self._lock = threading.Lock()
        self._precision = current()
        self._op = Op(
            name="compiled", family="custom", inputs=("x",), attrs={}, forward=_refuse, rules=Rules(self._rule),
            variadic=True, symbol="compiled",
        )  # fmt: skip

    def attach(self, result: Any, args: Any, kwargs: Any) -> Any:
        """Put the results of a call on the tape."""
        found = named(args, kwargs)
        given = [_held(v, *how) for v, how in zip(self._read(found), self._given, strict=True)]
        sources = tuple([entry_of(t) for t in self._sources(found)])
        call = map_leaves(lambda x: x, (args, kwargs))  # in containers that nobody changes
        code, lasti = caller(2)
        for k, t in enumerate(leaves(result)):
            if k in self._specs:
                t._entry = entry = Entry()
                entry.number, entry.op, entry.inputs = next_number(), self._op, sources
                entry.attrs = {"given": given, "result": k, "call": call, "pulled": (None, [])}
                entry.value, entry.spec, entry.state, entry.name = t._value, self._specs[k], ACTIVE, None
                entry.code, entry.lasti = code, lasti
        return result

    def _rule(self, k: int) -> Rule:
        def raw(g: Value, entry: Entry) -> Value:
            of, cotangents = entry.attrs["pulled"]
            if of is not g:  # the rules of all inputs are asked for the same cotangent, one after the other
                cotangents = self._cotangents(g, entry)
                entry.attrs["pulled"] = g, cotangents
            return cotangents[k]

        def traced(g: Tensor, entry: Entry) -> Tensor:
            if mode() & TRACING:
                raise TypeError(f"compile: a result of {self._name} from outside is differentiated; call it inside")
            return self._recorded(g, entry)[k] if recording() else wrap(raw(g._value, entry))

        return Rule(raw, raw, traced, frozenset(), (r"\text{compiled}", "compiled"))

    def _cotangents(self, g: Value, entry: Entry) -> list[Value]:
        seeds = [
            _seed(g if k == entry.attrs["result"] else np.zeros(spec[0]), spec, self._devices[k])
            for k, spec in self._specs.items()
        ]
        with self._lock, matmul_precision(self._precision):  # that of the call, wherever the pass is
            found = self._call(0, (*entry.attrs["given"], *seeds), {})
        assert found is not MISMATCH
        return [t._value for t in found]

    def _recorded(self, g: Tensor, entry: Entry) -> list[Tensor]:
        """The same as tensors on the tape, which depend on `g` and on all that the call did."""
        key = id(g), id(entry)
        if key not in self._known:
            args, kwargs = entry.attrs["call"]
            found = named(args, kwargs)
            now = self._read(found)
            if not all(map(_is_still, now, entry.attrs["given"], self._given)) or not self._is_recorded(found):
                raise TypeError(
                    f"compile: {self._name} is differentiated twice, but what it read has changed since the call. Call "
                    "it again, or change arrays and parameters after the last derivative"
                )
            same = wrap(g._value, g._entry)  # what is found keeps this one alive
            with matmul_precision(self._precision):
                cotangents = self._again[entry.attrs["result"]](same, args, kwargs)
            self._known[key] = weakref.ref(g, lambda _: self._known.pop(key, None)), cotangents
        return self._known[key][1]

    def _is_recorded(self, found: Mapping[str, Any]) -> bool:
        """Whether all that the recording depends on besides its inputs is what it was."""
        try:
            return all(self._holds(found))
        except GONE:
            return False


def _pull_of(
    fn: Callable[..., Any], k: int, sources: Callable[[Mapping[str, Any]], tuple[Any, ...]]
) -> Callable[..., Any]:
    """From the cotangent of result `k` of a call to those of the sources, as a function of all that the call reads."""

    def pull(g: Any, args: Any, kwargs: Any) -> list[Tensor]:
        if not mode() & TRACING:  # outside a recording, a pass would go on through what made the arguments
            raise TypeError("compile: derivatives of derivatives were recorded too often; call the function uncompiled")
        out = list(leaves(fn(*args, **kwargs)))[k]
        variables = [entry_of(t) for t in sources(named(args, kwargs))]
        return pulled(out, g, variables, 0, True, True, True)[0]

    return pull


def _is_still(value: Any, given: Value, how: tuple[Spec, bool]) -> bool:
    """Whether an input is what it was in the call."""
    if how[1] or type(given) is DeviceArray or how[0] == SCALAR:
        return value is given or (how[0] == SCALAR and is_equal(number(value), given))
    return np.array(value, how[0][1]).tobytes() == np.asarray(given).tobytes()


def _seed(g: Any, spec: Spec, device: str) -> Value:
    """A cotangent of a result, where that is."""
    return put(g if type(g) is DeviceArray else as_value(np.asarray(g, spec[1])), device)


def _held(value: Any, spec: Spec, private: bool) -> Value:
    """What an input is now, as it stays: other arrays than those of tensors are copied."""
    if type(value) is DeviceArray:
        return value
    if spec == SCALAR:
        return number(value)
    return value if private else np.array(value, spec[1])


def _reader(places: Sequence[Place]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """What looks into these places, for arguments by their names."""
    scope = Scope()
    text = f"({''.join(f'{p.text(scope.bind)}, ' for p in places)})"
    code = compile(text, "<autograd_geo read>", "eval")
    return lambda found: eval(code, {**scope.names, **found})


def _refuse(*args: Any) -> Any:
    raise RuntimeError("what a compiled function computed is not computed again")


__all__ = ["Pullback"]
