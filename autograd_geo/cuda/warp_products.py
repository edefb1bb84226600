"""How the warps of a block share a tile, and multiply: with outer products of fragments, or on tensor cores."""

from __future__ import annotations

from collections.abc import Iterator

from .fragments import DTYPES, WIDTH
from .matmul_form import Form, log2
from .precision import PRECISIONS


class Outer:
    """Each thread adds outer products of columns of a and rows of b, read 16 bytes at a time, to its part of d.

    `row` and `column` are those of a thread's first element in the block's tile; `rows` and `columns` how far from it
    the others are, of which `together` lie next to each other; element (i, j) of them is `acc[place(i, j)]`. Lanes lie
    in two interleaved rows, so that neighbours share a fragment of a or of b, and a load from shared memory takes fewer
    passes: the `RowMajorInterleaved<2>` of CUTLASS.
    """

    def __init__(self, form: Form) -> None:
        tile = self.tile = form.tile
        self.form, self.together = form, WIDTH[form.dtype]
        self.warps_n = tile.n // tile.warp_n
        if self.is_impossible() or tile.m < tile.warp_m or not self.warps_n:
            lanes = f"{tile.lanes_m}x{tile.lanes_n} lanes"
            raise ValueError(f"no matmul of {DTYPES[form.dtype]} in {form.precision} with a tile of {tile}, {lanes}")
        self.rows, self.columns = self.elements()

    def is_impossible(self) -> bool:
        return bool(self.tile.thread_m % self.together or self.tile.thread_n % self.together)

    def elements(self) -> tuple[list[int], list[int]]:
        tile, width = self.tile, self.together
        pairs = ((tile.thread_m, tile.lanes_m), (tile.thread_n, tile.lanes_n))
        rows, columns = ([i // width * lanes * width + i % width for i in range(thread)] for thread, lanes in pairs)
        return rows, columns

    def place(self, i: int, j: int) -> int:
        return i * len(self.columns) + j

    def start(self) -> Iterator[str]:
        """Where a thread is."""
        tile, width = self.tile, self.together
        lanes = tile.lanes_m * tile.lanes_n
        yield f"warp = tid >> {log2(lanes)}"
        yield f"lane_row = (tid & 1) + ((tid & {lanes - 1}) >> {log2(2 * tile.lanes_n)}) * 2"
        yield f"lane_column = (tid >> 1) & {tile.lanes_n - 1}"
        yield f"row = int32((warp >> {log2(self.warps_n)}) * {tile.warp_m} + lane_row * {width})"
        yield f"column = int32((warp & {self.warps_n - 1}) * {tile.warp_n} + lane_column * {width})"

    def step(self, a_row: int, b_row: int, b_offset: int) -> Iterator[str]:
        """Multiply the panels in shared memory from `now` on, in rows so long."""
        width = self.together
        yield "from_a = now + row"
        yield f"from_b = now + {b_offset} + column"
        for k in range(self.tile.k):
            a = [f"read{width}(shared, from_a + {k * a_row + i})" for i in self.rows[::width]]
            b = [f"read{width}(shared, from_b + {k * b_row + j})" for j in self.columns[::width]]
            yield f"acc = outer(acc, {' + '.join(a)}, {' + '.join(b)})"


class TensorCores(Outer):
    """A warp multiplies 16 rows of a by 8 columns of b with one instruction, 8 (TF32) or 16 (bfloat16) along k.

    What each lane holds of the operands and of the sums: PTX ISA, "Matrix Fragments for mma.m16n8k8" and
    "mma.m16n8k16". A word of shared memory has one element, or two of bfloat16, so that both are read alike. Three
    products of TF32 for one of float32: Markidis et al., arXiv:1803.04014, and CUTLASS's example 27.
    """

    def is_impossible(self) -> bool:
        tile = self.tile
        lanes = tile.lanes_m * tile.lanes_n
        uneven = tile.warp_m % 16 or tile.warp_n % 8 or tile.k % PRECISIONS[self.form.precision]
        return bool(self.form.dtype != "f4" or lanes != 32 or uneven)

    def elements(self) -> tuple[list[int], list[int]]:
        self.together = 2
        rows = [i + half for i in range(0, self.tile.warp_m, 16) for half in (0, 8)]
        return rows, [j + q for j in range(0, self.tile.warp_n, 8) for q in (0, 1)]

    def place(self, i: int, j: int) -> int:
        return (i // 2 * (len(self.columns) // 2) + j // 2) * 4 + i % 2 * 2 + j % 2

    def start(self) -> Iterator[str]:
        tile = self.tile
        yield "warp = tid >> 5"
        yield "group = (tid & 31) >> 2"
        yield f"warp_row = (warp >> {log2(self.warps_n)}) * {tile.warp_m}"
        yield f"warp_column = (warp & {self.warps_n - 1}) * {tile.warp_n}"
        yield "row = int32(warp_row + group)"
        yield "column = int32(warp_column + (tid & 3) * 2)"

    def step(self, a_row: int, b_row: int, b_offset: int) -> Iterator[str]:
        yield f"from_a = now + (tid & 3) * {a_row} + row"
        yield f"from_b = now + (tid & 3) * {b_row} + {b_offset} + warp_column + group"
        a = [h * a_row + i + half for i in range(0, self.tile.warp_m, 16) for h in (0, 4) for half in (0, 8)]
        b = [h * b_row + j for j in range(0, self.tile.warp_n, 8) for h in (0, 4)]
        for k in range(0, self.tile.k // self.form.pair, 8):
            for name, places, row in (("a", a, a_row), ("b", b, b_row)):
                loads = [f"read1(shared, from_{name} + {k * row + place})" for place in places]
                parts = [f"({', '.join(loads[i : i + 8])},)" for i in range(0, len(loads), 8)]
                yield f"{name}_fragment = {' + '.join(parts)}"
            yield f"acc = mma_{self.form.precision}(acc, a_fragment, b_fragment)"


def products(form: Form) -> Outer:
    """How a form's products are computed. Raises ValueError for a tile that they don't divide."""
    return Outer(form) if form.precision == "float32" else TensorCores(form)
