"""The source of a matmul kernel: register-blocked, warp-tiled, double-buffered, for one tile and one layout.

d = epilogue(a @ b), where a is (m, k), b is (k, n) and d is (m, n), or batches of them. A block of threads computes one
tile of d. It walks along k; at each step a panel of a and a panel of b are in shared memory, and the next two are on
their way into registers. Warps share the tile, and each thread keeps its part in registers, to which it adds outer
products of fragments: columns of a, rows of b. This is the hierarchy of CUTLASS (Kerr et al., "CUTLASS: fast linear
algebra in CUDA C++", NVIDIA, 2017) and of maxDNN before it (Lavin, arXiv:1501.06633).

- The first step takes what is left of k over whole steps, with zeros beyond, so that no later load has a condition.
- Rows of a and columns of b beyond the edge are read as the last one; what they give is not stored.
- A panel lies in shared memory with k first. Loads along k are stored transposed, in rows padded by a fragment's width,
  so that the stores of a warp meet few bank conflicts.
- Blocks that run together take tiles that are close in both directions, which keeps their panels in the L2 cache (the
  grouped order of Triton's matrix multiplication tutorial).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping

from .. import expr
from ..compiler.phrases import CODES
from .fragments import BYTES, DTYPES
from .matmul_form import ADDEND, BIAS, PRODUCT, Form, Tile, log2, outputs
from .warp_products import Outer, products

#: Rows of tiles that are computed together.
GROUP = 8
#: Elements that a block of the kernel that adds parts computes, and threads per element.
ADDED, ADDERS = 32, 8
#: The arguments of `matmul`: addresses, sizes, strides in elements; `part` is a multiple of the tile's k.
MATMUL = (
    "a b a_table b_table c d e f bias m n k part a_row a_k b_k b_column c_row d_row a_batch b_batch c_batch d_batch "
    "d_part first"
).split()
#: The arguments of `add_parts`.
ADD_PARTS = "parts c d e f bias m n count c_row d_row c_batch d_batch batch first".split()


class _Read:
    """The lines that bring an operand's panel into registers, and from there into shared memory.

    `name` is a or b; `extent` is what its rows (of a) or columns (of b) are counted by, `origin` the tile's first.
    """

    def __init__(self, name: str, form: Form, lines: int, offset: int) -> None:
        self.name, self.form, self.offset = name, form, offset
        self.panel = form.a if name == "a" else form.b
        self.row = lines + form.pad(self.panel)  # in shared memory
        self.extent, self.origin, stride = ("m", "row0", "a_row") if name == "a" else ("n", "column0", "b_column")
        along_k, width, unit = self.panel[:3]
        self.k_stride = "1" if along_k and unit else f"{name}_k"
        self.stride = "1" if not along_k and unit else stride
        depth, threads, pair = form.tile.k, form.tile.threads, form.pair
        # What a thread loads together: along k a load, or a pair; else a load of each of a pair of lines.
        self.per_line = depth // max(width, pair) if along_k else lines // width
        self.count = self.per_line * (lines if along_k else depth // pair)
        #: Of each of a thread's loads, how far it is from the first: along the extent, along k.
        self.loads: list[tuple[int, int]] = []
        for i in range(max(1, self.count // threads)):
            line, place = divmod(i * threads, self.per_line)
            if along_k:
                self.loads += [(line, place * max(width, pair) + p) for p in range(0, max(width, pair), width)]
            else:
                self.loads += [(place * width, line * pair + p) for p in range(pair)]
        self.columns = sorted({e for e, _ in self.loads})
        self.places = sorted({k for _, k in self.loads})

    def begin(self) -> Iterator[str]:
        """Where a block's matrix and its part of k begin, and its tables; k is all of k."""
        name, size = self.name, BYTES[self.form.dtype]
        if not self.panel.gathered:
            yield f"{name} += (batch * {name}_batch + k0 * {self.k_stride}) * {size}"
            return
        yield f"{name} += batch * {name}_batch * {size}"
        yield f"{name}_lines = {name}_table"
        yield f"{name}_places = {name}_table + ({self.extent} + k0) * 8"
        if self.panel.masked:
            yield f"{name}_line_masks = {name}_table + ({self.extent} + k) * 8"
            yield f"{name}_place_masks = {name}_line_masks + ({self.extent} + k0) * 8"

    def start(self) -> Iterator[str]:
        """Where a thread's loads begin, in the panel, in global and in shared memory."""
        name, size, width, pair = self.name, BYTES[self.form.dtype], self.panel.width, self.form.pair
        # Threads without a load of their own repeat others', and store the same values.
        yield f"t = tid & {min(self.count, self.form.tile.threads) - 1}"
        across, along = f"t >> {log2(self.per_line)}", f"t & {self.per_line - 1}"
        if self.panel.along_k:
            yield f"line_of_{name} = {across}"
            yield f"k_of_{name} = ({along}) * {max(width, pair)}"
        else:
            yield f"line_of_{name} = ({along}) * {width}"
            yield f"k_of_{name} = ({across}) * {pair}"
        yield f"{name}_to = {self.offset} + (k_of_{name} >> {pair - 1}) * {self.row} + line_of_{name}"
        for j, e in enumerate(self.columns):
            at = f"{self.origin} + line_of_{name} + {e}"
            if self.form.edges:
                at = f"min({at}, {self.extent} - {1 if self.panel.along_k else width})"
            if self.panel.gathered:
                yield f"{name}{j} = {name} + load_l({name}_lines, {at}, 0, 0) * {size}"
                if self.panel.masked:
                    yield f"{name}_mask{j} = load_l({name}_line_masks, {at}, 0, 0)"
                continue
            yield f"{name}{j} = {name} + (({at}) * {self.stride} + k_of_{name} * {self.k_stride}) * {size}"

        for table in self.tables:
            yield f"{table} += k_of_{name} * 8"

    @property
    def tables(self) -> list[str]:
        """Addresses of what is read for each place along k."""
        panel = self.panel
        return [f"{self.name}_places"] * panel.gathered + [f"{self.name}_place_masks"] * panel.masked

    def fetch(self, limit: str = "") -> Iterator[str]:
        """Into registers; of k only what is below a limit, if there is one, else zero."""
        dtype, width = self.form.dtype, self.panel.width
        function = f"load_{dtype}" if width == 1 else f"load_{dtype}x{width}"
        nothing = "zero" if width == 1 else f"({', '.join(['zero'] * width)})"
        size = BYTES[dtype]
        for table in self.tables:
            for k in self.places:
                at = f"min({k}, {limit} - 1 - k_of_{self.name})" if limit else str(k)
                yield f"{table}{k} = load_l({table}, {at}, 0, 0)"
        for i, (e, k) in enumerate(self.loads):
            j = self.columns.index(e)
            offset = f" + {k * size} * {self.k_stride}" if k else ""
            if self.panel.gathered:
                offset = f" + {self.name}_places{k} * {size}"
            conditions = [f"k_of_{self.name} + {k} < {limit}"] if limit else []
            if self.panel.masked:
                conditions.append(f"({self.name}_mask{j} & {self.name}_place_masks{k}) != 0")
            load = f"{self.name}_{i} = {function}({self.name}{j}{offset})"
            if not conditions:
                yield load
                continue
            yield f"{self.name}_{i} = {nothing}"
            yield f"if {' and '.join(conditions)}:"
            yield f"    {load}"

    def advance(self, count: str) -> Iterator[str]:
        for table in self.tables:
            yield f"{table} += {count} * 8"
        for j in range(0 if self.panel.gathered else len(self.columns)):
            yield f"{self.name}{j} += {count} * {self.k_stride} * {BYTES[self.form.dtype]}"

    def keep(self, buffer: str) -> Iterator[str]:
        """From registers into a buffer of shared memory."""
        along_k, width = self.panel[:2]
        values: dict[tuple[int, int], str] = {}
        for i, (e, k) in enumerate(self.loads):
            for q in range(width):
                place = (e, k + q) if along_k else (e + q, k)
                values[place] = f"{self.name}_{i}" + (f"[{q}]" if width > 1 else "")
        if self.form.precision == "tf32":
            values = {place: f"tf32({value})" for place, value in values.items()}
        if self.form.pair == 2:
            values = {(e, k // 2): f"pack({x}, {values[e, k + 1]})" for (e, k), x in values.items() if k % 2 == 0}
        together = 1 if along_k else width
        for e, k in values:
            if e % together == 0:
                words = [values[e + q, k] for q in range(together)]
                word = words[0] if together == 1 else f"({', '.join(words)})"
                yield f"write{together}(shared, {buffer} + {self.name}_to + {k * self.row + e}, {word})"


@functools.cache
def print_matmul(form: Form) -> str:
    """The source of `matmul`, whose arguments are `MATMUL`.

    One block computes one tile. The grid is (tiles of d, parts of k, batch); `first` is the batch's first matrix. Each
    part of k, of `part` elements, is written to its own d, `d_part` elements apart. Raises ValueError for a tile that
    cannot be.
    """
    return "\n".join(["def matmul(" + ", ".join(MATMUL) + "):", *("    " + line for line in _matmul(form))]) + "\n"


def _matmul(form: Form) -> Iterator[str]:
    tile, dtype = form.tile, form.dtype
    warps = products(form)
    a = _Read("a", form, tile.m, 0)
    b = _Read("b", form, tile.n, tile.k // form.pair * a.row)
    stage = tile.k // form.pair * (a.row + b.row)
    reads = (a, b)
    yield f"shared = cuda.shared.array(0, {DTYPES[dtype]})"
    yield f"zero = {DTYPES[dtype]}(0)"
    yield "tid = cuda.threadIdx.x"
    yield from _place(tile)
    yield "batch = first + cuda.blockIdx.z"
    yield "k0 = cuda.blockIdx.y * part"
    for read in reads:
        yield from read.begin()
    yield "k = min(part, k - k0)"
    yield from warps.start()
    for read in reads:
        yield from read.start()
    yield f"steps = int32(max(1, (k + {tile.k - 1}) >> {log2(tile.k)}))"
    yield f"rest = k - (steps - 1) * {tile.k}"
    for read in reads:
        yield from read.fetch("rest")
        yield from read.advance("rest")
    for read in reads:
        yield from read.keep("0")
    yield "cuda.syncthreads()"
    yield from _zeros(tile.thread_m * tile.thread_n)
    yield "now = 0"
    yield "for step in range(steps):"
    yield "    if step + 1 < steps:"
    for read in reads:
        for line in (*read.fetch(), *read.advance(str(tile.k))):
            yield "        " + line
    yield from ("    " + line for line in warps.step(a.row, b.row, b.offset))
    yield f"    now = {stage} - now"
    yield "    if step + 1 < steps:"
    for read in reads:
        for line in read.keep("now"):
            yield "        " + line
    yield "    cuda.syncthreads()"
    yield from _store(form, warps)


def _place(tile: Tile) -> Iterator[str]:
    """Which tile of d a block computes."""
    yield f"tiles_m = (m + {tile.m - 1}) >> {log2(tile.m)}"
    yield f"tiles_n = (n + {tile.n - 1}) >> {log2(tile.n)}"
    yield f"group = cuda.blockIdx.x // ({GROUP} * tiles_n)"
    yield f"inside = cuda.blockIdx.x - group * {GROUP} * tiles_n"
    yield f"rows = min(tiles_m - group * {GROUP}, {GROUP})"
    yield f"row0 = int32((group * {GROUP} + inside % rows) * {tile.m})"
    yield f"column0 = int32((inside // rows) * {tile.n})"


def _zeros(count: int) -> Iterator[str]:
    """Numba rejects tuple displays of more than 30 items."""
    yield "acc1 = (zero,)"
    for j in range(log2(count)):
        yield f"acc{2 << j} = acc{1 << j} + acc{1 << j}"
    yield f"acc = acc{count}"


def _store(form: Form, warps: Outer) -> Iterator[str]:
    """What a thread does with its sums: the epilogue, and the stores."""
    dtype, size, columns = form.dtype, BYTES[form.dtype], warps.columns
    used = names_in(form.outputs)
    constants, formulas = printed(form.outputs, dtype)
    yield from constants
    for name in form.outputs:  # here, not to be kept in registers before
        yield f"{name} += (batch * d_batch + cuda.blockIdx.y * d_part) * {size}"
    if ADDEND.name in used:
        yield f"c += batch * c_batch * {size}"
    yield "row0 += row"
    yield "column0 += column"
    if BIAS.name in used:
        for j, column in enumerate(columns):
            at = f"min(column0 + {column}, n - 1)" if form.edges else f"(column0 + {column})"
            yield f"bias{j} = load_{dtype}(bias + {at} * {size})"
    store = min(form.store, warps.together)
    suffix = "" if store == 1 else f"x{store}"
    for i, row in enumerate(warps.rows):
        indent = "    " if form.edges else ""
        if form.outputs != {"d": PRODUCT}:
            yield "cuda.syncthreads()"  # or the compiler begins many rows together, and has no registers for them
        yield f"row = row0 + {row}"
        if form.edges:
            yield "if row < m:"
        for name in formulas:
            yield f"{indent}to_{name} = {name} + (row * d_row + column0) * {size}"
        if ADDEND.name in used:
            yield f"{indent}addend = c + (row * c_row + column0) * {size}"
        for j in range(0, len(columns), store):
            body = []
            if ADDEND.name in used:
                body.append(f"addends = load_{dtype}{suffix}(addend + {columns[j] * size})")
            for q in range(store):
                values = {
                    PRODUCT.name: f"acc[{warps.place(i, j + q)}]",
                    ADDEND.name: "addends" if store == 1 else f"addends[{q}]",
                    BIAS.name: f"bias{j + q}",
                }
                body += [f"element_{name} = {values[name]}" for name in sorted(used)]
                for name, lines in formulas.items():
                    body += [*lines[:-1], f"{name}{q} = {lines[-1]}"]
            for name in formulas:
                result = f"{name}0" if store == 1 else f"({', '.join(f'{name}{q}' for q in range(store))})"
                body.append(f"store_{dtype}{suffix}(to_{name} + {columns[j] * size}, {result})")
            inner = indent
            if form.edges:
                yield f"{indent}if column0 + {columns[j]} < n:"
                inner += "    "
            yield from (inner + line for line in body)


def names_in(stored: Mapping[str, expr.Node]) -> frozenset[str]:
    """The variables of all epilogues."""
    return frozenset[str]().union(*map(expr.names_in, stored.values()))


def printed(stored: Mapping[str, expr.Node], dtype: str) -> tuple[list[str], dict[str, list[str]]]:
    """Epilogues as lines: constants in the dtype, then what is computed of element_x, element_c and element_bias.

    The last line of each is an expression, the result.
    """
    constants: dict[str, str] = {}

    def typed(n: expr.Node) -> expr.Node:
        if isinstance(n, expr.Num):
            return expr.Var(constants.setdefault(repr(n.value), f"constant{len(constants)}"))
        if isinstance(n, expr.Var):
            return expr.Var(f"element_{n.name}")
        if n.fn == "reciprocal":
            n = expr.Call("/", (expr.Num(1.0), *n.args))
        return expr.Call(n.fn, tuple(typed(x) for x in n.args))

    lines = {
        name: [line.replace("vm.", "vm_") for line in expr.source(typed(node), "", CODES["f"])]
        for name, node in stored.items()
    }
    return [f"{name} = {DTYPES[dtype]}({value})" for value, name in constants.items()], lines


@functools.cache
def print_add_parts(dtype: str, epilogue: expr.Node, also: tuple[expr.Node, ...] = ()) -> str:
    """The source of `add_parts`, whose arguments are `ADD_PARTS`: d = epilogue(sum of parts), (m, n) each.

    A part holds the whole batch. The grid is (blocks of `ADDED` elements, 1, batch). In a block of 256 threads, each
    warp adds every eighth part, and the first one what the others have found, in order.
    """
    stored = outputs(epilogue, also)
    size, used = BYTES[dtype], names_in(stored)
    constants, formulas = printed(stored, dtype)
    in_first = [
        *[f"element_x += shared[{ADDED * j} + lane]" for j in range(1, ADDERS)],
        "row = i // n",
        "column = i - row * n",
    ]
    if ADDEND.name in used:
        in_first.append(f"element_c = load_{dtype}(c + (z * c_batch + row * c_row + column) * {size})")
    if BIAS.name in used:
        in_first.append(f"element_bias = load_{dtype}(bias + column * {size})")
    for name, lines in formulas.items():
        place = f"{name} + (z * d_batch + row * d_row + column) * {size}"
        in_first += [*lines[:-1], f"store_{dtype}({place}, {lines[-1]})"]
    body = [
        *constants,
        f"shared = cuda.shared.array({ADDED * ADDERS}, {DTYPES[dtype]})",
        f"lane = cuda.threadIdx.x & {ADDED - 1}",
        f"adder = cuda.threadIdx.x >> {log2(ADDED)}",
        f"i = cuda.blockIdx.x * {ADDED} + lane",
        "z = first + cuda.blockIdx.z",
        f"element_x = {DTYPES[dtype]}(0)",
        "if i < m * n:",
        f"    for part in range(adder, count, {ADDERS}):",
        f"        element_x += load_{dtype}(parts + ((part * batch + z) * m * n + i) * {size})",
        "write1(shared, cuda.threadIdx.x, element_x)",
        "cuda.syncthreads()",
        "if adder == 0 and i < m * n:",
        *("    " + line for line in in_first),
    ]
    return "\n".join([f"def add_parts({', '.join(ADD_PARTS)}):", *("    " + line for line in body)]) + "\n"
