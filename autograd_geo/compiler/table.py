"""A table of instructions on single numbers, and the kernel that runs it.

All values lie in slots of one array, eight bytes each. An instruction is the number of a small kernel and the slots
that this reads and writes; a kernel computes one op, or a few that often follow each other, and is printed like that of
any other region. Calls through pointers are as fast as a switch would be, and each kernel serves every program.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from llvmlite import ir
from numba import cfunc, types
from numba.extending import intrinsic

from .graph import INPUT, MAP, Node
from .kernels import Kernel, kernel
from .machine import LOADS, SIGNATURE, STORES, address_of, jit
from .printer import print_region
from .regions import Region

Array = np.ndarray[Any, Any]

#: An instruction reads and writes at most so many slots.
READS, WRITES = 6, 4
# Which adjacent instructions become one: at most so many kinds of pairs a round, each so frequent at least.
_ROUNDS, _KINDS, _OFTEN = 2, 12, 0.01
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
    """Both instructions as one; `wiring` as `_pair_keys` packs it."""
    inner, reads = wiring >> 4 * READS, list(first.reads)
    places = []
    for k, stand_in in enumerate(second.reads):
        place = wiring >> 4 * (READS - 1 - k) & 15
        if place == _NEW:
            reads.append(Node(INPUT, (), stand_in.dtype))
        places.append(
            reads[-1] if place == _NEW else first.writes[place - _WRITTEN] if place >= _WRITTEN else first.reads[place - 1]
        )
    then = _copied(second, places)
    kept = [n for v, n in enumerate(first.writes) if not inner >> v & 1]
    return Instruction(reads, first.nodes + then.nodes, kept + then.writes)


def _printed(one: Instruction) -> tuple[Kernel, list[int]]:
    """The kernel of an instruction, and the order in which it takes what it reads and writes."""
    source, operands = print_region(Region((), 0, one.nodes), set(one.writes))
    source = re.sub(r"= a\[o\[(\d+)\]\]", r"= a[0] + 8 * o[\1]", source)  # slots from a[0], not buffers
    number = {n: k for k, n in enumerate(one.reads)} | {n: READS + k for k, n in enumerate(one.writes)}
    return kernel(source), [number[x] for x in operands]


# --- making a table ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Table:
    """A table: the words that its kernel reads, and what they point to."""

    words: Array
    kernels: list[Kernel]
    results: list[Node]  # filled by who asked for the table
    _kept: list[Any]


def encode(
    kinds: Sequence[Instruction], code: Array, reads: Array, initial: Array, inputs: Array, results: Array,
    sizes: Sequence[int],
) -> Table:  # fmt: skip
    """A table of instructions, given by their numbers in `kinds`; row t of `reads` has the values that number t reads.

    Values are numbers: t for what instruction t computes; larger ones for what is there before, with the bits
    `initial`, or comes from outside (`inputs`) in each run. There are -1s where an instruction reads no more. `results`
    are left outside. `sizes` are the bytes of inputs, then results.
    """
    count = len(code) + len(initial)
    kept = np.zeros(count, bool)
    kept[results] = True
    writes = np.full((len(code), WRITES), -1)
    writes[:, 0] = np.arange(len(code))
    fused = list(kinds)
    code, reads, writes = _fuse(fused, code.copy(), reads, writes, kept)
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
    arrays = [
        slots, code.astype(np.uint16), operands, np.array([k.address for k in kernels]), counts, places,
        np.array(sizes, np.uint8),
    ]  # fmt: skip
    words = [*map(address_of, arrays), len(code), len(inputs), len(results)]
    return Table(np.array(words), kernels, [], arrays)


def _fuse(
    kinds: list[Instruction], code: Array, reads: Array, writes: Array, kept: Array
) -> tuple[Array, Array, Array]:
    """Make one instruction of adjacent ones that often stand together; `kinds` grows by those."""
    uses = np.zeros(len(kept), np.int64)
    for _ in range(_ROUNDS):
        keys = np.empty(max(0, len(code) - 1), np.int64)
        _pair_keys(code, reads, writes, kept, uses, keys)
        sample = keys[:: max(1, len(keys) // 100_000)]
        found, times = np.unique(sample[sample >= 0], return_counts=True)
        often = np.argsort(-times, kind="stable")[:_KINDS]
        chosen = np.sort(found[often[times[often] > max(16, _OFTEN * len(sample))]])
        if not len(chosen):
            break
        first, bits = len(kinds), 4 * READS + WRITES
        for key in chosen.tolist():
            kinds.append(_joined(kinds[key >> bits + 14], kinds[key >> bits & 0x3FFF], key & (1 << bits) - 1))
        n = _merge(code, reads, writes, keys, chosen, first)
        code, reads, writes = code[:n], reads[:n], writes[:n]
    return code, reads, writes


@jit
def _pair_keys(code: Any, reads: Any, writes: Any, kept: Any, uses: Any, keys: Any) -> None:
    """For each instruction but the last, what it and the next one would be as one; -1 if that has too many operands.

    The two codes, 14 bits each; results of the first that nothing else reads, as bits; the second's operands.
    """
    n, most_reads, most_writes = len(code), reads.shape[1], writes.shape[1]
    for t in range(n):
        for k in range(most_reads):
            if reads[t, k] >= 0:
                uses[reads[t, k]] = 0
    for t in range(n):
        for k in range(most_reads):
            if reads[t, k] >= 0:
                uses[reads[t, k]] += 1
    for t in range(n - 1):
        wiring, new, there, inner = 0, 0, 0, 0
        taken = 0  # how often each result of the first is read by the second, 8 bits each
        for k in range(most_reads):
            x, place = reads[t + 1, k], 15
            there += reads[t, k] >= 0
            if x >= 0:
                place = 0
                for v in range(most_writes):
                    if writes[t, v] == x:
                        place = 1 + most_reads + v
                        taken += 1 << 8 * v
                for w in range(most_reads):
                    if place == 0 and reads[t, w] == x:
                        place = 1 + w
                new += place == 0
            wiring = wiring << 4 | place
        left = 0
        for v in range(most_writes):
            x = writes[t, v]
            if x >= 0:
                if not kept[x] and uses[x] == taken >> 8 * v & 255 and uses[x] > 0:
                    inner |= 1 << v
                else:
                    left += 1
            left += writes[t + 1, v] >= 0
        if there + new > most_reads or left > most_writes:
            keys[t] = -1
        else:
            keys[t] = ((code[t] << 14 | code[t + 1]) << most_writes | inner) << 4 * most_reads | wiring


@jit
def _merge(code: Any, reads: Any, writes: Any, keys: Any, chosen: Any, first: Any) -> Any:
    """Make one of pairs whose key is chosen, in place; returns how many instructions there are now."""
    most_reads, most_writes = reads.shape[1], writes.shape[1]
    n, t, to = len(code), 0, 0
    while t < n:
        k = np.searchsorted(chosen, keys[t]) if t + 1 < n else len(chosen)
        if k < len(chosen) and chosen[k] == keys[t]:
            inner = keys[t] >> 4 * most_reads & (1 << most_writes) - 1
            code[to] = first + k
            r = 0
            for w in range(most_reads):
                reads[to, w] = reads[t, w]
                r += reads[t, w] >= 0
            for w in range(most_reads):
                if keys[t] >> 4 * (most_reads - 1 - w) & 15 == 0:
                    reads[to, r] = reads[t + 1, w]
                    r += 1
            r = 0
            for v in range(most_writes):
                x = writes[t, v]
                if x >= 0 and not inner >> v & 1:
                    writes[to, r] = x
                    r += 1
            for v in range(most_writes):
                x = writes[t + 1, v]
                if x >= 0:
                    writes[to, r] = x
                    r += 1
            for v in range(r, most_writes):
                writes[to, v] = -1
            t += 2
        else:
            code[to] = code[t]
            reads[to] = reads[t]
            writes[to] = writes[t]
            t += 1
        to += 1
    return to


@jit
def _number_slots(code: Any, reads: Any, writes: Any, orders: Any, counts: Any, slot: Any, operands: Any) -> Any:
    """Give each value a slot, in the order in which they are used; returns how many there are."""
    most_reads, j, n = reads.shape[1], 0, 0
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

_SLOTS, _CODE, _OPERANDS, _KERNELS, _COUNTS, _PLACES, _SIZES, _LENGTH, _INPUTS, _RESULTS = range(10)
_intrinsic: Any = intrinsic
_load, _code, _place, _size = LOADS["load_l"], LOADS["load_H"], LOADS["load_i"], LOADS["load_B"]
_moves = {n: (LOADS[f"load_{c}"], STORES[f"store_{c}"]) for n, c in ((1, "b"), (2, "h"), (4, "i"), (8, "l"))}
(_load_1, _store_1), (_load_2, _store_2), (_load_4, _store_4), (_load_8, _store_8) = _moves.values()


@_intrinsic
def _call(typingctx: Any, kernel: Any, addresses: Any, operands: Any) -> Any:
    def code(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        pointers = [ir.IntType(64).as_pointer(), ir.IntType(32).as_pointer()]
        kind = ir.FunctionType(ir.VoidType(), pointers)
        passed = [builder.inttoptr(x, p) for x, p in zip(args[1:], pointers, strict=True)]
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), passed)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), code


@jit
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
    """The kernel of all tables: operands are a table's words, its inputs and its results."""

    def interpret(addresses: Any, o: Any) -> None:
        words = addresses[o[0]]
        slots, code, operands = _load(words, _SLOTS, 0, 1), _load(words, _CODE, 0, 1), _load(words, _OPERANDS, 0, 1)
        kernels, counts = _load(words, _KERNELS, 0, 1), _load(words, _COUNTS, 0, 1)
        places, sizes = _load(words, _PLACES, 0, 1), _load(words, _SIZES, 0, 1)
        inputs, results = _load(words, _INPUTS, 0, 1), _load(words, _RESULTS, 0, 1)
        for k in range(inputs):
            _moved(addresses[o[1 + k]], slots + 8 * _place(places, k, 0, 1), _size(sizes, k, 0, 1))
        for k in range(_load(words, _LENGTH, 0, 1)):
            c = np.int64(_code(code, k, 0, 1))
            _call(_load(kernels, c, 0, 1), words, operands)
            operands += 4 * _load(counts, c, 0, 1)
        for k in range(inputs, inputs + results):
            _moved(slots + 8 * _place(places, k, 0, 1), addresses[o[1 + k]], _size(sizes, k, 0, 1))

    function = cfunc(SIGNATURE)(interpret)
    return Kernel(cast(int, function.address), "table of instructions", 0.0, function)


__all__ = ["READS", "Instruction", "Table", "encode", "interpreter", "single"]
