"""Which matmul kernels to launch: `plan_matmul` chooses layout, tile and parts of k for a product of matrices.

Importing this module, planning and printing need neither a driver nor `numba-cuda`.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from math import ceil
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .. import expr
from .assemble import Assembled, assemble
from .fragments import BYTES, WIDTH
from .matmul_form import ADDEND, BIAS, OUTPUTS, PRODUCT, Form, Gathered, Panel, Tile, outputs
from .matmul_source import ADD_PARTS, ADDED, ADDERS, MATMUL, names_in, print_add_parts, print_matmul
from .precision import PRECISIONS
from .tiles import TENSOR_TILES, TILES, Machine, choose, machine

__all__ = [
    "ADDEND",
    "BIAS",
    "OUTPUTS",
    "PRECISIONS",
    "PRODUCT",
    "TENSOR_TILES",
    "TILES",
    "Launch",
    "Plan",
    "Tile",
    "plan_matmul",
]

_MOST_BATCH = 65535  # of one launch

Strides: TypeAlias = tuple[int, int, int]


class Launch(NamedTuple):
    """One kernel launch. An argument is a number, or the name of a buffer: a, b, a_table, b_table, c,
    d, e, f, bias, workspace.

    `shared` is the dynamic shared memory in bytes. More than 48 KB has to be allowed to the kernel once, by
    `cuKernelSetAttribute`. `resident` is how many blocks are to fit on one multiprocessor.
    """

    source: str
    grid: tuple[int, int, int]
    threads: int
    resident: int
    shared: int
    arguments: tuple[int | str, ...]

    @property
    def signature(self) -> tuple[str, ...]:
        return ("int64",) * len(self.arguments)

    def assemble(self, arch: str) -> Assembled:
        """Its machine code."""
        return assemble(self.source, self.signature, arch=arch, launch_bounds=(self.threads, self.resident))

    def values(self, addresses: Mapping[str, int]) -> tuple[int, ...]:
        """The arguments, all int64, for buffers at these addresses."""
        return tuple([addresses[x] if isinstance(x, str) else x for x in self.arguments])


class Plan(NamedTuple):
    """Launches in order, and the bytes of workspace that they need."""

    launches: tuple[Launch, ...]
    workspace: int


def plan_matmul(
    batch: int,
    m: int,
    n: int,
    k: int,
    dtype: Any,
    a_strides: Strides | Gathered,
    b_strides: Strides | Gathered,
    arch: str,
    *,
    d_strides: tuple[int, int] | None = None,
    c_strides: tuple[int, int] | None = None,
    epilogue: expr.Node = PRODUCT,
    also: tuple[expr.Node, ...] = (),
    precision: str = "float32",
    unaligned: Collection[str] = (),
    multiprocessors: int | None = None,
    tile: Tile | None = None,
    parts: int | None = None,
) -> Plan:
    """How to compute d = epilogue(a @ b) for a batch of matrices a (m, k), b (k, n) and d (m, n).

    `a_strides` and `b_strides` are those of (batch, row, column), in elements: any, also 0 for a matrix that serves the
    whole batch, and negative ones; transposed operands are not copied. Elements of an operand may also be found by a
    table, in a buffer a_table or b_table: then `Gathered` takes the place of its strides. d has unit stride along a
    row; `d_strides` are those of (batch, row), by default of a contiguous d.

    The epilogue is an expression of the product's element `PRODUCT`, of `ADDEND`, the element of a buffer c laid out by
    `c_strides` (by default as d; it may be d itself), and of `BIAS`, the column's element of a contiguous buffer of n;
    `also` are up to two more, stored to buffers e and f that are laid out as d. `precision` is how float32 is
    multiplied (`PRECISIONS`). `unaligned` are the buffers whose address may not be a multiple of 16 bytes.

    `tile` and `parts`, of k, are chosen by a model if they are not given, for a device with so many `multiprocessors`.
    Values are summed along k in an order that depends on the arguments alone. Raises ValueError and TypeError for what
    no kernel computes.
    """
    char = np.dtype(dtype).str[1:]
    if char not in TILES:
        raise TypeError(f"matmul on the GPU: dtype {np.dtype(dtype)}; there are kernels for float32 and float64")
    if precision not in PRECISIONS or (char != "f4" and precision != "float32"):
        known = ", ".join(PRECISIONS)
        raise ValueError(f"matmul on the GPU: {np.dtype(dtype)} in precision {precision!r}; float32 has {known}")
    if min(batch, m, n, k) < 0:
        raise ValueError(f"matmul on the GPU: batch {batch}, m {m}, n {n}, k {k}: sizes can't be negative")
    unknown = sorted(names_in(outputs(epilogue, also)) - {"x", "c", "bias"})
    if unknown:
        raise ValueError(
            f"matmul on the GPU: no {', '.join(unknown)} in an epilogue; compute that in a kernel of its own"
        )
    d_strides = d_strides or (m * n, n)
    return _plan(
        batch, m, n, k, char, a_strides, b_strides, d_strides, c_strides or d_strides, epilogue, also, precision,
        frozenset(unaligned), machine(arch, multiprocessors), tile, parts,
    )  # fmt: skip


@functools.lru_cache(maxsize=4096)
def _plan(
    batch: int,
    m: int,
    n: int,
    k: int,
    dtype: str,
    a_strides: Strides | Gathered,
    b_strides: Strides | Gathered,
    d_strides: tuple[int, int],
    c_strides: tuple[int, int],
    epilogue: expr.Node,
    also: tuple[expr.Node, ...],
    precision: str,
    unaligned: frozenset[str],
    device: Machine,
    given_tile: Tile | None,
    given_parts: int | None,
) -> Plan:
    if not batch * m * n:
        return Plan((), 0)
    if not isinstance(b_strides, Gathered):
        b_strides = b_strides[0], b_strides[2], b_strides[1]
    a, of_a = _operand(a_strides, ("a", "a_row", "a_k"), (batch, m, k), dtype, unaligned)
    b, of_b = _operand(b_strides, ("b", "b_column", "b_k"), (batch, n, k), dtype, unaligned)
    wide = all(panel.width > 1 and not panel.gathered for panel in (a, b))
    tile, part = choose(batch, m, n, k, dtype, device, precision, wide, given_tile, given_parts)
    parts = max(1, ceil(k / part))
    used: dict[str, str | int] = {
        name: name if name in names_in(outputs(epilogue, also)) else 0 for name in ("c", "bias")
    }
    used |= {name: name if name in outputs(epilogue, also) else 0 for name in OUTPUTS[1:]}
    sizes: dict[str, int] = {"m": m, "n": n}
    for name, (of_batch, of_row) in (("c", c_strides), ("d", d_strides)):
        sizes |= {f"{name}_batch": of_batch, f"{name}_row": of_row}
    stored = [d_strides] if parts == 1 else [(m * n, n)]
    if used["c"] and parts == 1:
        stored.append(c_strides)
    out = "d" if parts == 1 else "workspace"
    aligned = not unaligned & ({"c", *OUTPUTS} & {out, *used.values()} if parts == 1 else {out})
    vectors = aligned and not any(s % WIDTH[dtype] for pair in (*stored, (n, 0)) for s in pair)
    form = Form(
        dtype,
        tile,
        a,
        b,
        WIDTH[dtype] if vectors else 1,
        bool(m % tile.m or n % tile.n),
        epilogue if parts == 1 else PRODUCT,
        also if parts == 1 else (),
        precision,
    )
    product = {
        **sizes, **used, **of_a, **of_b, "d": out, "k": k, "part": part, "d_part": batch * m * n,
    }  # fmt: skip
    if parts > 1:
        product |= {"d_batch": m * n, "d_row": n, "c": 0, "e": 0, "f": 0, "bias": 0}
    addition = {**sizes, **used, "parts": "workspace", "d": "d", "count": parts, "batch": batch}
    launches = []
    tiles = ceil(m / tile.m) * ceil(n / tile.n)
    for first in range(0, batch, _MOST_BATCH):
        z = min(_MOST_BATCH, batch - first)
        arguments = tuple((product | {"first": first})[name] for name in MATMUL)
        launches.append(
            Launch(print_matmul(form), (tiles, parts, z), tile.threads, form.resident, form.shared_bytes, arguments)
        )
    for first in range(0, batch if parts > 1 else 0, _MOST_BATCH):
        z = min(_MOST_BATCH, batch - first)
        arguments = tuple((addition | {"first": first})[name] for name in ADD_PARTS)
        launches.append(
            Launch(print_add_parts(dtype, epilogue, also), (ceil(m * n / ADDED), 1, z), ADDED * ADDERS, 1, 0, arguments)
        )
    return Plan(tuple(launches), parts * batch * m * n * BYTES[dtype] if parts > 1 else 0)


def _operand(
    strides: Strides | Gathered,
    names: tuple[str, str, str],
    sizes: tuple[int, int, int],
    dtype: str,
    unaligned: frozenset[str],
) -> tuple[Panel, dict[str, int | str]]:
    """How to read an operand, its strides those of (batch, line, k), and the arguments that tell a kernel so."""
    name, line, along = names
    told: dict[str, int | str] = {name: name, f"{name}_table": 0, line: 0, along: 0}
    if isinstance(strides, Gathered):
        panel = strides.panel._replace(width=1) if name in unaligned else strides.panel
        return panel, told | {f"{name}_batch": strides.batch, f"{name}_table": f"{name}_table"}
    of_batch, of_line, of_k = (s if size > 1 else 0 for s, size in zip(strides, sizes, strict=True))
    panel = _panel(of_line, of_k, of_batch, sizes[1], sizes[2], dtype, name not in unaligned)
    return panel, told | {f"{name}_batch": of_batch, line: of_line, along: of_k}


def _panel(stride: int, k_stride: int, batch_stride: int, extent: int, k: int, dtype: str, aligned: bool) -> Panel:
    """How to read an operand: 16 bytes at a time where all loads are aligned and none reaches over the end."""
    width = WIDTH[dtype]
    aligned = aligned and batch_stride % width == 0
    if k_stride == 1 and aligned and stride % width == 0 and k % width == 0:
        return Panel(True, width)
    if stride == 1 and aligned and k_stride % width == 0 and extent % width == 0:
        return Panel(False, width)
    along_k = k > 1 and abs(k_stride) < abs(stride)
    return Panel(along_k, 1, (k_stride if along_k else stride) == 1)
