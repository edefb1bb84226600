"""What noting the user's source line on each entry costs: an op as it is, and written out again without it."""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable
from typing import Any

import numpy as np

import autograd_geo as ag
from autograd_geo.eager import define

from .harness import OURS, Work

WITHOUT = "without source lines"
#: The statements of a generated function that find the line: the frame, what is read from it, the check of whose it is.
_FINDING = re.compile(
    r"^( +)(\w+) = _getframe\(1\)\n\1(\w+) = \2\.f_code\n\1(\w+) = \2\.f_lasti\n\1if .*\n\1 +.*\n", re.MULTILINE
)


def _multiply(name: str) -> Callable[[Any, Any], Any]:
    multiply: Any = ag.multiply
    multiply(ag.tensor(1.0), 1.0)  # its source is written when it is first called
    if name == OURS:
        return multiply  # type: ignore[no-any-return]
    source = "".join(linecache.getlines(multiply.__code__.co_filename))
    without, found = _FINDING.subn(r"\1\3, \4 = None, -1\n", source)
    if not found:
        raise RuntimeError("the generated functions no longer find the source line where this looks for it")
    return define("multiply", lambda: without, multiply.__globals__)


def _op(name: str, value: Any) -> Work:
    multiply = _multiply(name)
    x, y = ag.tensor(value, requires_grad=True), ag.tensor(value, requires_grad=True)

    def run() -> None:
        for _ in range(100):
            multiply(x, y)

    return Work(run, lambda: [multiply(x, y).numpy()], items=100)


def scalar_op(name: str) -> Work:
    """A product of two numbers."""
    return _op(name, 1.5)


def small_array_op(name: str) -> Work:
    """A product of two arrays of 500."""
    return _op(name, np.linspace(0.5, 1.5, 500))
