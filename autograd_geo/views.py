"""Tensors that NumPy would hold in one memory: what was read by a slice, a reshape, a transpose, and its source.

Here each tensor keeps a value of its own, so a write into one does not reach the others. Where NumPy's would, it is
refused. `_base` of a tensor that was read so is a weak reference to its source, one and the same object for all its
views and for the source itself.
"""

from __future__ import annotations

import linecache
import sys
from inspect import CO_OPTIMIZED
from sys import getrefcount
from types import FrameType
from typing import TYPE_CHECKING
from weakref import ref

from .names import place, stores_by_index
from .tape import caller, line_at
from .value import UNSHARED

if TYPE_CHECKING:
    from .tensor import Tensor


def note_view(source: Tensor, view: Tensor) -> None:
    """Note that NumPy would hold `view`, just read from `source`, in the memory of `source`."""
    base = getattr(source, "_base", None)
    if base is None or (base() is None and getrefcount(base) <= UNSHARED + 1):  # nobody shares with the source
        source._base = base = ref(source)
    view._base = base


def refuse_view(t: Tensor, how: str, temporary: bool = False) -> None:
    """Raise RuntimeError if NumPy would write into another tensor too, one that is still in use, with a view `t`.

    What nothing but the caller's statement holds (`temporary`) may be written into if that is `y[i] += v`: Python
    puts it back into y.
    """
    base = t._base
    assert base is not None
    owner = base()
    if owner is t:
        return
    if owner is not None or getrefcount(base) > UNSHARED + 1:
        here = sys._getframe(2)
        if not (temporary and stores_by_index(here.f_code, here.f_lasti)):
            message = _refusal(t, owner, how)
            del base, owner, here  # a traceback that is kept would keep them in use
            raise RuntimeError(message)
    t._base = None  # from now on it is a tensor apart


def _refusal(t: Tensor, owner: Tensor | None, how: str) -> str:
    code, lasti = caller()
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back

    def called(t: Tensor) -> str:
        name = (frame and _variable(frame, t)) or t.name
        return f"{repr(name) if name else 'a tensor'} of shape {t.shape}"

    if code is not None:
        file, line = line_at(code, lasti)
        source = linecache.getline(file, line).strip()
        how += f" at {place(file, line)}" + (f" ({source})" if source else "")
    source, other = (called(owner), "that") if owner is not None else ("a tensor", "what else was read from it")
    return (
        f"{how}: {called(t)} was read from {source} without a copy, and {other} is still in use. NumPy would write "
        "into both, but a tensor has a value of its own. Index the one that is to change, as in y[:2] *= 10 or "
        "y[0, 1:] = v, or make a copy first, as in v = y[:2].copy()"
    )


def _variable(frame: FrameType, x: object) -> str | None:
    """The name of a variable that is `x`."""
    variables = frame.f_locals
    name = next((k for scope in (variables, frame.f_globals) for k, v in scope.items() if v is x), None)
    if type(variables) is dict and frame.f_code.co_flags & CO_OPTIMIZED:  # before Python 3.13 a function's is a copy,
        variables.clear()  # which would keep them in use
    return name


__all__ = ["note_view", "refuse_view"]
