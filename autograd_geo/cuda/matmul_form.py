"""What tells the kernels of the matmul family apart: tile, layouts, precision, epilogue."""

from __future__ import annotations

from typing import NamedTuple

from .. import expr
from .fragments import BYTES, WIDTH

#: What an epilogue is written in: the product's element, what was added to (same shape as d), and one value per column.
PRODUCT, ADDEND, BIAS = expr.Var("x"), expr.Var("c"), expr.Var("bias")
#: The buffers that epilogues are stored to.
OUTPUTS = "d", "e", "f"


class Tile(NamedTuple):
    """What a block computes, m by n, and its step along k; what a thread computes; how the threads of a warp lie.

    All are powers of 2; a thread's m and n are multiples of the elements in 16 bytes. `resident` is how many blocks are
    to fit on one multiprocessor, which bounds the registers of a thread.
    """

    m: int
    n: int
    k: int
    thread_m: int
    thread_n: int
    lanes_m: int = 8
    lanes_n: int = 4
    resident: int = 1

    @property
    def threads(self) -> int:
        return self.m // self.thread_m * (self.n // self.thread_n)

    @property
    def warp_m(self) -> int:
        return self.thread_m * self.lanes_m

    @property
    def warp_n(self) -> int:
        return self.thread_n * self.lanes_n

    def __str__(self) -> str:
        return f"{self.m}x{self.n}x{self.k}, {self.thread_m}x{self.thread_n} a thread"


class Panel(NamedTuple):
    """How an operand is read: loads of `width` elements, neighbouring threads along k, or along the other axis.

    Along that axis the stride is 1 if it is known to be (`unit`). A width above 1 takes that, and 16-byte boundaries.
    If `gathered`, it has no strides: offsets of its lines (rows of a, columns of b) and of places along k are in a
    table; and if `masked`, also masks of both, and elements whose masks have no bit in common are 0 (see `gathers`).
    """

    along_k: bool
    width: int
    unit: bool = True
    gathered: bool = False
    masked: bool = False


class Gathered(NamedTuple):
    """An operand that is read by a table: the stride of its batch, in elements, and how."""

    batch: int
    panel: Panel


class Form(NamedTuple):
    """One kernel of the family.

    `store` is the width of stores to d and e and of loads from c; `edges` is whether m or n is no multiple of the
    tile's; `also` are more epilogues, stored to e and f.
    """

    dtype: str
    tile: Tile
    a: Panel
    b: Panel
    store: int
    edges: bool
    epilogue: expr.Node = PRODUCT
    also: tuple[expr.Node, ...] = ()
    precision: str = "float32"

    @property
    def outputs(self) -> dict[str, expr.Node]:
        """What is stored where."""
        return outputs(self.epilogue, self.also)

    @property
    def resident(self) -> int:
        """Blocks for which there are to be registers: fewer where many addresses are to be kept, or masks."""
        if min(self.a.width, self.b.width) == 1:
            return max(1, self.tile.resident // 2)
        return max(1, self.tile.resident - (self.a.masked or self.b.masked))

    @property
    def shared_bytes(self) -> int:
        tile = self.tile
        rows = tile.m + self.pad(self.a) + tile.n + self.pad(self.b)
        return 2 * tile.k // self.pair * rows * BYTES[self.dtype]

    @property
    def pair(self) -> int:
        """Elements along k in one word of shared memory."""
        return 2 if self.precision == "bf16" else 1

    def pad(self, panel: Panel) -> int:
        """Elements between the rows of a panel in shared memory, so that the lanes of a warp meet in few banks.

        They meet when panels are stored transposed, and when tensor cores read a row per lane.
        """
        if self.precision == "float32":
            return WIDTH[self.dtype] if panel.along_k else 0
        return 8


def outputs(epilogue: expr.Node, also: tuple[expr.Node, ...]) -> dict[str, expr.Node]:
    """What is stored in which buffer."""
    return dict(zip(OUTPUTS, (epilogue, *also), strict=False))


def log2(n: int) -> int:
    if n & (n - 1) or n < 1:
        raise ValueError(f"a matmul tile is made of powers of 2, not of {n}")
    return n.bit_length() - 1
