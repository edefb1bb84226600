"""The expression language of op declarations: parse once, print as Python source, LaTeX or a plain label.

A declaration is a formula, `"softplus(x) = maximum(x, 0) + log1p(exp(-abs(x)))"`, parsed into a small tree of
`Num`, `Var` and `Call`. The only functions are those in `PRIMITIVES`; anything else is an error at import.
"""

from __future__ import annotations

from .algebra import ONE, ZERO, negative, rename, simplify, substitute, support, times
from .code import ARRAY_CODES, FLOAT_CODES, NUMPY, SCALAR, choose_by, evaluate, source
from .nodes import CONSTANTS, PRIMITIVES, Call, Node, Num, Primitive, Var, names_in
from .notation import is_square, label, latex, mathml
from .parsing import Declaration, ExpressionError, parse, parse_declaration, postfix

__all__ = [
    "ARRAY_CODES",
    "CONSTANTS",
    "FLOAT_CODES",
    "NUMPY",
    "ONE",
    "PRIMITIVES",
    "SCALAR",
    "ZERO",
    "Call",
    "Declaration",
    "ExpressionError",
    "Node",
    "Num",
    "Primitive",
    "Var",
    "choose_by",
    "evaluate",
    "is_square",
    "label",
    "latex",
    "mathml",
    "names_in",
    "negative",
    "parse",
    "parse_declaration",
    "postfix",
    "rename",
    "simplify",
    "source",
    "substitute",
    "support",
    "times",
]
