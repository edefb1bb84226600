"""Kernels that do not wait for each other, in one launch: the updates of all parameters, for one.

Work whose results no later kernel reads is done last, together; other work joins its neighbour where it can. Each
kernel becomes a device function, and a thread runs one after the other; where in its elements it begins is shifted, so
that many small ones occupy different threads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..compiler.nodes import CONST, INPUT, Node

#: Buffers of one launch: kernels take at most 4 KB of arguments.
MOST_OPERANDS = 500


class Work(NamedTuple):
    """One launch: the buffers that it is given, where in each it begins, in bytes, and what it is.

    That is the source of a kernel `def kernel(p0, p1, ...)` for so many blocks, or a function of addresses, or an op
    that is computed on the host. If `spread`, that many elements are spread over all threads, which do not wait for
    each other.
    """

    operands: Sequence[Any]
    offsets: Sequence[int]
    source: str = ""
    blocks: int = 0
    spread: int = 0
    run: Callable[..., None] | Node | None = None


def is_given(x: Any) -> bool:
    """Whether an operand is there before a program runs: an input, a constant, a table."""
    return not isinstance(x, Node) or x.kind in (INPUT, CONST)


def joined(works: Sequence[Work], threads: int, most_blocks: int) -> list[Work]:
    """The same work in fewer launches, by blocks of `threads`, `most_blocks` of them at most."""
    found: list[Work] = []
    group: list[Work] = []
    written: set[int] = set()
    known: set[int] = set()
    for work in _last_things_last(works):
        fresh = {id(x) for x in work.operands if not is_given(x)} - known
        known |= fresh
        fits = _count([*group, work]) <= MOST_OPERANDS and written.isdisjoint(map(id, work.operands))
        if not (work.spread and fits):
            found += _launch(group, threads, most_blocks)
            group, written = [], set()
        if work.spread:
            group.append(work)
            written |= fresh
        else:
            found.append(work)
    return [*found, *_launch(group, threads, most_blocks)]


def _last_things_last(works: Sequence[Work]) -> list[Work]:
    """What nothing else needs at the end; all other work in its order."""
    uses: dict[int, list[int]] = {}
    for k, work in enumerate(works):
        for key in {id(x) for x in work.operands if not is_given(x)}:
            uses.setdefault(key, []).append(k)
    early, late = list[Work](), list[Work]()
    for k, work in enumerate(works):
        written = [using for x in work.operands if not is_given(x) and (using := uses[id(x)])[0] == k]
        (late if work.spread and all(using == [k] for using in written) else early).append(work)
    return [*early, *late]


def _count(works: Sequence[Work]) -> int:
    return len({(id(x), offset) for w in works for x, offset in zip(w.operands, w.offsets, strict=True)})


def _launch(works: Sequence[Work], threads: int, most_blocks: int) -> list[Work]:
    """These in one launch."""
    if len(works) < 2:
        return list(works)
    total = sum(work.spread for work in works)
    blocks = max(1, min(most_blocks, -(-total // threads)))
    step = blocks * threads
    parts: dict[str, str] = {}  # by their source: the same for all arrays of a shape
    places: dict[tuple[int, int], str] = {}
    operands, offsets = list[Any](), list[int]()
    calls = []
    begun = 0
    for work in works:
        name = parts.setdefault(work.source, f"part{len(parts)}")
        names = []
        for x, offset in zip(work.operands, work.offsets, strict=True):
            key = id(x), offset
            if key not in places:
                places[key] = f"p{len(places)}"
                operands.append(x)
                offsets.append(offset)
            names.append(places[key])
        shift = -begun % step
        first = f"(cuda.grid(1) + {shift}) % {step}" if shift else "cuda.grid(1)"
        calls.append(f"    {name}({first}, {', '.join(names)})")
        begun += work.spread
    functions = [_as_part(source, name, step) for source, name in parts.items()]
    head = f"def kernel({', '.join(f'p{k}' for k in range(len(operands)))}):"
    source = "\n".join([*functions, head, *calls, ""])
    return [Work(operands, offsets, source, blocks, total)]


def _as_part(source: str, name: str, step: int) -> str:
    """A kernel as a device function, which is told where in its elements the thread begins."""
    body = re.sub(r"^def kernel\(", f"@cuda.jit(device=True)\ndef {name}(first, ", source)
    return body.replace("cuda.grid(1)", "first").replace("cuda.gridsize(1)", str(step))


__all__ = ["Work", "is_given", "joined"]
