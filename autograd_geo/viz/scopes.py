"""Which entries of a tape the calls of modules recorded, and what modules and their parameters are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

from ..names import called_name
from ..tape import Entry


@dataclass(slots=True, eq=False)
class Scope:
    """One call of a module: its dotted name, and that it recorded the entries numbered from `start` to `end`."""

    path: str
    module: Any
    start: int
    end: int
    code: CodeType
    lasti: int
    inner: list[Scope] = field(default_factory=list)


def scopes(order: Sequence[Entry]) -> list[Scope]:
    """The outermost calls of modules on a tape, in order, with those inside them."""
    calls: dict[int, tuple[Any, ...]] = {}
    for entry in order:
        call = getattr(entry, "call", None)
        while call is not None:
            start = call[1]
            if start not in calls or calls[start][2] < call[2]:  # a module may return several tensors
                calls[start] = call
            call = call[-1]
    outermost: list[Scope] = []
    around: list[Scope] = []
    for start in sorted(calls):
        module, _, end, code, lasti, _ = calls[start]
        while around and around[-1].end < start:
            around.pop()
        path = _inside(around[-1], module) if around else called_name(code, lasti) or _class_name(module)
        scope = Scope(path, module, start, end, code, lasti)
        (around[-1].inner if around else outermost).append(scope)
        around.append(scope)
    return outermost


def _class_name(module: Any) -> str:
    return type(module).__name__.lower()


def _inside(outer: Scope, module: Any) -> str:
    """The name of a module called inside another; it need not be an attribute of that."""
    names = (name for name, child in outer.module.named_modules() if child is module and name)
    return f"{outer.path}.{next(names, _class_name(module))}"


def parameter_names(order: Sequence[Entry]) -> dict[Entry, str]:
    """The dotted names of the leaves that are parameters of modules called on the tape: `net.layers.0.weight`."""
    found: dict[Entry, str] = {}
    seen = set()
    for scope in scopes(order):
        if id(scope.module) not in seen:
            seen.add(id(scope.module))
            for name, parameter in scope.module.named_parameters():
                entry = parameter._entry
                found.setdefault(entry.root or entry, f"{scope.path}.{name}")
    return {e: found[root] for e in order if e.op is None and (root := e.root or e) in found}
