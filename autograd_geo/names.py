"""Where in the user's program a value was computed, and which variable it was assigned to.

Recording keeps a code object and an instruction offset only; all of this runs when somebody asks.
"""

from __future__ import annotations

import ast
import dis
import linecache
import os
import re
import sys
from functools import lru_cache
from itertools import pairwise
from types import CodeType

# What Jupyter's kernels, Colab, IPython and marimo call the code of a cell.
_CELL = re.compile(r"ipykernel_\d+[/\\]\d+\.py$|<?ipython-input-|__marimo__cell_")
# First line, last line, first column, last column (in UTF-8 bytes), as both `ast` and code objects count them.
Span = tuple[int | None, int | None, int | None, int | None]


def span(code: CodeType, lasti: int) -> Span:
    """The source span of the instruction at byte offset `lasti`."""
    for i, position in enumerate(code.co_positions()):
        if 2 * i == lasti:
            return position
    return code.co_firstlineno, None, None, None


def place(file: str, first: int, last: int | None = None) -> str:
    """Lines as a reader finds them: `lesson.py:12`, `lesson.py:12–19`, and of a notebook `In[3], line 12`."""
    through = f"–{last}" if last is not None and last > first else ""
    if not _CELL.search(file):
        return f"{os.path.basename(file)}:{first}{through}"
    return f"{_cell(file)}, line{'s' if through else ''} {first}{through}"


def _cell(file: str) -> str:
    """`In[3]`, as IPython's tracebacks say it, where IPython still knows the number; else `cell`."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    named = shell.compile.format_code_name(file) if shell is not None else None
    return str(named[1]) if named else "cell"


@lru_cache(maxsize=4096)
def assigned_name(code: CodeType, lasti: int) -> str | None:
    """The variable that the value computed at instruction `lasti` is assigned to right away, else None.

    `y = f(x)`, `self.y = f(x)`, `a, y = 1, f(x)` and `(y := f(x))` all give "y"; a value that goes on into a
    larger expression has no name.
    """
    names = _assignments("".join(linecache.getlines(code.co_filename)))
    return names.get(span(code, lasti)) or _stored_next(code, lasti)


@lru_cache(maxsize=64)
def _assignments(source: str) -> dict[Span, str]:
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return {}
    names: dict[Span, str] = {}

    def bind(target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple | ast.List) and isinstance(value, ast.Tuple | ast.List):
            if len(target.elts) == len(value.elts):
                for t, v in zip(target.elts, value.elts, strict=True):
                    bind(t, v)
        elif name := _name_of(target):
            names[_span_of(value)] = name

    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            bind(node.targets[0], node.value)
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            bind(node.target, node.value)
    return names


@lru_cache(maxsize=4096)
def called_name(code: CodeType, lasti: int) -> str | None:
    """What the function called at instruction `lasti` is called there: "net" for `net(x)` and `self.net(x)`."""
    try:
        tree = ast.parse("".join(linecache.getlines(code.co_filename)))
    except SyntaxError:
        return None
    where = span(code, lasti)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _span_of(node) == where:
            return _name_of(node.func)
    return None


def _span_of(node: ast.expr) -> Span:
    return node.lineno, node.end_lineno, node.col_offset, node.end_col_offset


def _name_of(node: ast.expr) -> str | None:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None


def _stored_next(code: CodeType, lasti: int) -> str | None:
    """Without source (`python -c`, `exec`), the bytecode still tells a plain `y = f(x)`."""
    _, following = _at(code, lasti)
    name = ""
    if following.opname.startswith("STORE_FAST_"):  # 3.13 fuses two instructions into one
        name = str(following.argval[0])
    elif following.opname in ("STORE_FAST", "STORE_NAME", "STORE_GLOBAL", "STORE_DEREF"):
        name = str(following.argval)
    return name if name.isidentifier() else None  # not what a tool made up


def _at(code: CodeType, lasti: int) -> tuple[dis.Instruction, dis.Instruction]:
    """The instruction at byte offset `lasti`, and the next that does more than turn the stack around."""
    instructions = [i for i in dis.get_instructions(code) if i.opname not in ("CACHE", "NOP", "SWAP")]
    for here, following in pairwise(instructions):
        if here.offset <= lasti < following.offset:  # before 3.13 a frame may stand on the cache behind its CALL
            return here, following
    return instructions[-1], instructions[-1]


#: What `stores_by_index` found; code objects are kept, as to hash one would cost more than all the rest.
_stores: dict[tuple[int, int], tuple[CodeType, bool]] = {}


def stores_by_index(code: CodeType, lasti: int) -> bool:
    """Whether instruction `lasti` is the operator of `y[i] += v`, whose result Python puts back at y[i]."""
    key = id(code), lasti
    if key not in _stores:
        here, following = _at(code, lasti)
        in_place = here.opname == "BINARY_OP" and here.argrepr.endswith("=")
        _stores[key] = code, in_place and following.opname in ("STORE_SUBSCR", "STORE_SLICE")
    return _stores[key][1]


def printable(text: str) -> str:
    """The text without control and format characters, which move a terminal's cursor or turn the order of reading."""
    return "".join(c if c.isprintable() else "�" for c in text)
