"""A table of instructions on single numbers, and the kernel that runs it.

All values lie in slots of one array, eight bytes each; slot 0 has its address. An instruction is the number of a small
kernel and the slots that this reads and writes; a kernel computes one op, or a few that often follow each other, and is
printed like that of any other region. Calls through pointers are as fast as a switch would be, and each kernel serves
every program.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
from numba import cfunc

from ..tape import Entry
from .kernels import Kernel, kernel
from .machine import LOADS, SIGNATURE, STORES, address_of, call, compiled
from .nodes import INPUT, MAP, Node
from .printer import print_region
from .regions import Plan, Region

Array = np.ndarray[Any, Any]
_native = partial(compiled, None)

#: An instruction reads and writes at most so many slots.
READS, WRITES = 6, 4
#: There are at most so many instructions besides those that are joined.
MOST_KINDS = 10_000
# Which instructions are joined: at most so many kinds of pairs at a time, each so frequent at least, in a table that is
# so long at least: a kernel takes a tenth of a second to compile.
_KINDS, _OFTEN, _LONG = 12, 0.01, 5_000
# How an operand of the second of two instructions is found: as an operand of both that is new, one or a result of the
# first, or not there. Four bits each.
_NEW, _READ, _WRITTEN, _NONE = 0, 1, 1 + READS, 15


class Instruction(NamedTuple):
    """What one instruction computes: maps, arguments first, over stand-ins for the slots it reads."""

    reads: list[Node]
    nodes: list[Node]
    writes: list[Node]


def single(node: Node) -> Instruction:
    """The instruction that computes what one map does."""
    reads = [Node(INPUT, (), a.dtype) for a in node.args]
    made = Node(MAP, (), node.dtype, tuple(reads), node.data)
    return Instruction(reads, [made], [made])


def _copied(one: Instruction, reads: Sequence[Node]) -> Instruction:
    """The same instruction on other operands."""
    known = dict(zip(one.reads, reads, strict=True))
    for node in one.nodes:
        known[node] = Node(MAP, node.shape, node.dtype, tuple(known[a] for a in node.args), node.data)
    return Instruction(list(reads), [known[n] for n in one.nodes], [known[n] for n in one.writes])


def _joined(first: Instruction, second: Instruction, wiring: int) -> Instruction:
    """Both instructions as one; `wiring` as `_find_keys` packs it."""
    inner, reads = wiring >> 4 * READS, list(first.reads)
    known = [*first.reads, *[None] * (READS - len(reads)), *first.writes]  # by place, from _READ on
    places = []
    for k, stand_in in enumerate(second.reads):
        place = wiring >> 4 * (READS - 1 - k) & 15
        node = Node(INPUT, (), stand_in.dtype) if place == _NEW else known[place - _READ]
        assert node is not None
        places.append(node)
        if place == _NEW:
            reads.append(node)
    then = _copied(second, places)
    kept = [n for v, n in enumerate(first.writes) if not inner >> v & 1]
    return Instruction(reads, first.nodes + then.nodes, kept + then.writes)


def _printed(one: Instruction) -> tuple[Kernel, list[int]]:
    """The kernel of an instruction, and the order in which it takes what it reads and writes."""
    plan = Plan([], set(one.writes), [], {}, {}, {})
    source, operands, *_ = print_region(Region((), 0, one.nodes), plan, {})
    source = re.sub(r"= a\[o\[(\d+)\]\]", r"= a[0] + 8 * o[\1]", source)  # slots from a[0], not buffers
    number = {n: k for k, n in enumerate(one.reads)} | {n: READS + k for k, n in enumerate(one.writes)}
    return kernel(source), [number[x] for x in operands]


# --- making a table ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Table:
    """A table: the words that its kernel reads, and the slots that it computes in."""

    words: Array
    slots: Array
    kernels: list[Kernel]  # of instructions, by their numbers
    results: list[Node]  # the values that it leaves
    origins: dict[Entry, int]  # an op for each place in the user's code, and how many others are from there, and it
    _constants: Array
    _instructions: list[Array]  # what `words` points to: first their numbers
    _addresses: list[Array]  # and, for each number, where the kernel is, and how many operands it has

    @property
    def length(self) -> int:
        """How many instructions it has."""
        return len(self._instructions[0])

    @property
    def size(self) -> int:
        """The bytes that its kernel reads, besides slots and inputs."""
        return sum(x.nbytes for x in (self.words, *self._instructions, *self._addresses))

    def text(self) -> str:
        """The sources of its instructions; the same only for the same instructions on the same numbers."""
        times = np.bincount(self._instructions[0], minlength=len(self.kernels))
        parts = [f"# {n:,} times\n{k.source}" for n, k in zip(times.tolist(), self.kernels, strict=True)]
        digest = hashlib.sha256("".join(parts).encode())
        for x in (self._constants, *self._instructions):
            digest.update(x.dtype.str.encode() + x.tobytes())
        title = f"# table {digest.hexdigest()[:12]}: {self.length:,} instructions of {len(parts)} kinds, "
        order = np.argsort(-times, kind="stable").tolist()
        return "\n".join([f"{title}{len(self.slots) - 1:,} numbers\n", *[parts[k] for k in order]])


def encode(
    kinds: Sequence[Instruction], code: Array, reads: Array, initial: Array, inputs: Array, results: Array,
    sizes: Sequence[int], origins: dict[Entry, int],
) -> Table:  # fmt: skip
    """A table of instructions, given by their numbers in `kinds`; row t of `reads` has the values that number t reads.

    Values are numbers: t for what instruction t computes; larger ones for what is there before, with the bits
    `initial`, or comes from outside (`inputs`) in each run. There are -1s where an instruction reads no more. `results`
    are left outside. `sizes` are the bytes of inputs, then results; `origins` are kept with it.
    """
    count = len(code) + len(initial)
    kept = np.zeros(count, bool)
    kept[results] = True
    fused = list(kinds)
    code, reads, writes = _fuse(fused, code, reads, kept)
    used = np.unique(code)
    printed = [_printed(fused[k]) for k in used.tolist()]
    code = np.searchsorted(used, code)
    counts = np.array([len(order) for _, order in printed])
    orders = np.zeros((len(used), READS + WRITES), np.int64)
    for row, (_, order) in zip(orders, printed, strict=True):
        row[: len(order)] = order
    operands = np.empty(int(counts[code].sum()), np.int32)
    slot = np.full(count, -1)
    slots = np.zeros(_number_slots(code, reads, writes, orders, counts, slot, operands), np.int64)
    slots[slot[len(slot) - len(initial) :]] = initial
    places = slot[np.concatenate([inputs, results])].astype(np.int32)
    kernels = [k for k, _ in printed]
    instructions = [code.astype(np.uint16), operands, places, np.array(sizes, np.uint8)]
    addresses = [np.array([k.address for k in kernels]), counts]
    words = np.array([*map(address_of, [*instructions, *addresses]), len(code), len(inputs), len(results)])
    return Table(words, slots, kernels, [], origins, initial, instructions, addresses)


def _fuse(kinds: list[Instruction], code: Array, reads: Array, kept: Array) -> tuple[Array, Array, Array]:
    """Order instructions and join those that often stand together; `kinds` grows by what those compute.

    First come those that can be computed first, so that what a derivative needs is computed beside what it is the
    derivative of: a chain of ops leaves the processor time for that.
    """
    writes = np.full((len(code), WRITES), -1, np.int32)
    writes[:, 0] = np.arange(len(code))
    for find_partners in (_lone_users, _siblings, _lone_users):
        depth, uses = np.zeros(len(code), np.int32), np.zeros(len(kept), np.int32)
        _measure(reads, writes, depth, uses, np.zeros(len(kept), np.int32))
        if find_partners is _siblings:
            order = _sorted(depth, _sorted(code, np.arange(len(code))))
            code, reads, writes, depth = code[order], reads[order], writes[order], depth[order]
        partner, keys = np.full(len(code), -1, np.int32), np.full(len(code), -1)
        find_partners(reads, writes, kept, depth, uses, np.full(len(kept), -1, np.int32), partner)
        _find_keys(partner, code, reads, writes, kept, uses, keys)
        found, times = np.unique(keys[:: 1 + len(keys) // 100_000], return_counts=True)
        often = np.argsort(np.where(found >= 0, -times, 0), kind="stable")[:_KINDS]
        chosen = np.sort(found[often[(times[often] > _OFTEN * max(_LONG, times.sum())) & (found[often] >= 0)]])
        first, bits = len(kinds), 4 * READS + WRITES
        for key in chosen.tolist():
            kinds.append(_joined(kinds[key >> bits + 14], kinds[key >> bits & 0x3FFF], key & (1 << bits) - 1))
        left = np.ones(len(code), bool)
        _join(partner, code, reads, writes, keys, chosen, first, left)
        code, reads, writes = code[left], reads[left], writes[left]
    return code, reads, writes


@_native
def _measure(reads: Any, writes: Any, depth: Any, uses: Any, of: Any) -> None:
    """After how many others each instruction can be computed, and how often each value is read."""
    for t in range(len(reads)):
        for x in reads[t]:
            if x >= 0:
                uses[x] += 1
                depth[t] = max(depth[t], of[x])
        for x in writes[t]:
            if x >= 0:
                of[x] = depth[t] + 1


@_native
def _sorted(by: Any, order: Any) -> Any:
    """`order`, sorted by an array of numbers that are not many more than there are elements; equal ones stay."""
    starts, result = np.zeros(by.max() + 2, np.int64), np.empty_like(order)
    for x in by:
        starts[x + 1] += 1
    starts = np.cumsum(starts)
    for k in order:
        result[starts[by[k]]] = k
        starts[by[k]] += 1
    return result


@_native
def _count(rows: Any, t: Any, x: Any) -> Any:
    n = 0
    for k in range(rows.shape[1]):
        n += rows[t, k] == x
    return n


@_native
def _lone_users(reads: Any, writes: Any, kept: Any, depth: Any, uses: Any, maker: Any, partner: Any) -> None:
    """The partner of an instruction is one just before it whose results nothing else reads."""
    for t in range(len(reads)):
        for x in reads[t]:
            if x >= 0 and maker[x] >= 0 and depth[maker[x]] + 1 == depth[t]:
                lone = True
                for y in writes[maker[x]]:
                    if y >= 0:
                        lone = lone and not kept[y] and uses[y] == _count(reads, t, y)
                if lone:
                    partner[t] = maker[x]
        for x in writes[t]:
            if x >= 0:
                maker[x] = t


@_native
def _siblings(reads: Any, writes: Any, kept: Any, depth: Any, uses: Any, reader: Any, partner: Any) -> None:
    """The partner of an instruction is one that can be computed at the same time and reads the same."""
    for t in range(len(reads)):
        for x in reads[t]:
            if x >= 0:
                if reader[x] >= 0 and reader[x] != t and depth[reader[x]] == depth[t]:
                    partner[t] = reader[x]
                reader[x] = t


@_native
def _find_keys(partner: Any, code: Any, reads: Any, writes: Any, kept: Any, uses: Any, keys: Any) -> None:
    """For each instruction what its partner and it would be as one; -1 if that had too many operands.

    The two codes, 14 bits each; which results of the partner nothing else reads, a bit each; how the operands that it
    reads itself are found, four bits each.
    """
    most_reads, most_writes = reads.shape[1], writes.shape[1]
    for t in range(len(code)):
        u = partner[t]
        if u < 0:
            continue
        wiring, there, inner, left = 0, 0, 0, 0
        for k in range(most_reads):
            x, place = reads[t, k], _NONE
            there += reads[u, k] >= 0
            if x >= 0:
                place = _NEW
                for v in range(most_writes):
                    if writes[u, v] == x:
                        place = _WRITTEN + v
                for w in range(most_reads):
                    if place == _NEW and reads[u, w] == x:
                        place = _READ + w
                there += place == _NEW
            wiring = wiring << 4 | place
        for v in range(most_writes):
            x = writes[u, v]
            if x >= 0:
                if not kept[x] and uses[x] == _count(reads, t, x):
                    inner |= 1 << v
                else:
                    left += 1
            left += writes[t, v] >= 0
        if there <= most_reads and left <= most_writes:
            keys[t] = ((np.int64(code[u]) << 14 | np.int64(code[t])) << most_writes | inner) << 4 * most_reads | wiring


@_native
def _join(partner: Any, code: Any, reads: Any, writes: Any, keys: Any, chosen: Any, first: Any, left: Any) -> None:
    """Join each instruction whose key is chosen with its partner, if neither is joined; the partner is not `left`."""
    most_reads, most_writes = reads.shape[1], writes.shape[1]
    joined = np.zeros(len(code), np.bool_)
    for t in range(len(code)):
        u, k = partner[t], np.searchsorted(chosen, keys[t])
        if k == len(chosen) or chosen[k] != keys[t] or joined[t] or joined[u]:
            continue
        joined[t] = joined[u] = True
        left[u] = False
        code[t] = first + k
        n, its_own = 0, reads[t].copy()
        for x in reads[u]:
            if x >= 0:
                reads[t, n] = x
                n += 1
        for q in range(most_reads):
            if keys[t] >> 4 * (most_reads - 1 - q) & 15 == _NEW:
                reads[t, n] = its_own[q]
                n += 1
        n, its_own = 0, writes[t].copy()
        for v in range(most_writes):
            if writes[u, v] >= 0 and not keys[t] >> 4 * most_reads + v & 1:
                writes[t, n] = writes[u, v]
                n += 1
        for x in its_own:
            if x >= 0:
                writes[t, n] = x
                n += 1


@_native
def _number_slots(code: Any, reads: Any, writes: Any, orders: Any, counts: Any, slot: Any, operands: Any) -> Any:
    """Give each value a slot, in the order in which they are used; returns how many slots there are."""
    most_reads, j, n = reads.shape[1], 0, 1
    for t in range(len(code)):
        for q in range(counts[code[t]]):
            k = orders[code[t], q]
            x = reads[t, k] if k < most_reads else writes[t, k - most_reads]
            if slot[x] < 0:
                slot[x] = n
                n += 1
            operands[j] = slot[x]
            j += 1
    return n


# --- running it -------------------------------------------------------------------------------------------------------

_CODE, _OPERANDS, _PLACES, _SIZES, _KERNELS, _COUNTS, _LENGTH, _INPUTS, _RESULTS = range(9)
_load, _code, _place, _size = LOADS["load_l"], LOADS["load_H"], LOADS["load_i"], LOADS["load_B"]
_moves = {n: (LOADS[f"load_{c}"], STORES[f"store_{c}"]) for n, c in ((1, "b"), (2, "h"), (4, "i"), (8, "l"))}
(_load_1, _store_1), (_load_2, _store_2), (_load_4, _store_4), (_load_8, _store_8) = _moves.values()


@_native
def _moved(source: Any, to: Any, size: Any) -> None:
    """Copy one number of so many bytes."""
    if size == 8:
        _store_8(to, 0, _load_8(source, 0, 0, 2), 1, 2)
    elif size == 4:
        _store_4(to, 0, _load_4(source, 0, 0, 2), 1, 2)
    elif size == 2:
        _store_2(to, 0, _load_2(source, 0, 0, 2), 1, 2)
    else:
        _store_1(to, 0, _load_1(source, 0, 0, 2), 1, 2)


@functools.cache
def interpreter() -> Kernel:
    """The kernel of all tables: operands are a table's words, its slots, inputs and results."""

    def interpret(addresses: Any, o: Any) -> None:
        words, slots = addresses[o[0]], addresses[o[1]]
        _store_8(slots, 0, slots, 0, 1)  # they may have been copied
        code, operands = _load(words, _CODE, 0, 1), _load(words, _OPERANDS, 0, 1)
        kernels, counts = _load(words, _KERNELS, 0, 1), _load(words, _COUNTS, 0, 1)
        places, sizes = _load(words, _PLACES, 0, 1), _load(words, _SIZES, 0, 1)
        inputs, results = _load(words, _INPUTS, 0, 1), _load(words, _RESULTS, 0, 1)
        for k in range(inputs):
            _moved(addresses[o[2 + k]], slots + 8 * _place(places, k, 0, 1), _size(sizes, k, 0, 1))
        for k in range(_load(words, _LENGTH, 0, 1)):
            c = np.int64(_code(code, k, 0, 1))
            call(_load(kernels, c, 0, 1), slots, operands)
            operands += 4 * _load(counts, c, 0, 1)
        for k in range(inputs, inputs + results):
            _moved(slots + 8 * _place(places, k, 0, 1), addresses[o[2 + k]], _size(sizes, k, 0, 1))

    function = cfunc(SIGNATURE)(interpret)
    return Kernel(cast(int, function.address), "table of instructions", 0.0, function)


__all__ = ["MOST_KINDS", "READS", "Instruction", "Table", "encode", "interpreter", "single"]
