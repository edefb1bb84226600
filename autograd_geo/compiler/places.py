"""Where a recorded function finds what it reads, checks and writes, as Python expressions for generated code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..tree import leaves

#: What names an object in generated code.
Bind = Callable[[Any], str]
_LITERALS = frozenset([bool, int, str, type(None)])


class Place:
    """A Python expression over objects: `Place("{0}[{1}]", state, "step")`. Parts may be places themselves."""

    __slots__ = ("parts", "template")

    def __init__(self, template: str, *parts: Any) -> None:
        self.template, self.parts = template, parts

    def text(self, bind: Bind) -> str:
        """The expression, with `bind(x)` for each object."""
        return self.template.format(*[p.text(bind) if isinstance(p, Place) else bind(p) for p in self.parts])

    def mentions(self, name: str) -> bool:
        """Whether the expression is, or has as a part, a place that is just this name."""
        return self.template == name or any(isinstance(p, Place) and p.mentions(name) for p in self.parts)


class Named:
    """Stands for an object that gets a name also where it has a literal."""

    __slots__ = ("of",)

    def __init__(self, of: Any) -> None:
        self.of = of


class Scope:
    """The names of generated code: `bind` gives each object one."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}
        self._known: dict[int, str] = {}

    def bind(self, x: Any) -> str:
        """A literal where the object has one, else a name."""
        if type(x) in _LITERALS:
            return repr(x)
        x = x.of if type(x) is Named else x
        name = self._known.get(id(x))
        if name is None:
            name = self._known[id(x)] = f"_{len(self.names)}"
            self.names[name] = x  # keeps it alive, and its id with it
        return name


def named(args: Any, kwargs: Any) -> dict[str, Any]:
    """The leaves of the arguments of a call, by their names."""
    return {argument(k).template: x for k, x in enumerate(leaves((args, kwargs)))}


def argument(k: int) -> Place:
    """Leaf number k of the arguments."""
    return Place(f"leaf{k}")


__all__ = ["Bind", "Named", "Place", "Scope", "argument", "named"]
