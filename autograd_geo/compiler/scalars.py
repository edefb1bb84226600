"""Long tapes of different scalar ops become tables of instructions, each one step of the program.

Straight-line kernels would be about as many as there are ops, and each takes a tenth of a second to compile. What is
done here for each entry of a tape is done on arrays of numbers, so that it takes microseconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from itertools import chain, count
from math import prod
from operator import attrgetter
from typing import Any

import numpy as np

from ..op import registry
from ..tape import Entry
from ..value import SCALAR
from .graph import SPECIAL, Graph
from .machine import compiled
from .moves import frozen_key
from .nodes import CONST, INPUT, MAP, MOVE, RESULT, TABLE, Node
from .table import MOST_KINDS, READS, Instruction, encode, single
from .trace import needed

Array = np.ndarray[Any, Any]
_native = partial(compiled, None)

#: A run of ops in which more than this differ, counting what they are computed from, becomes a table.
MOST_DIFFERENT = 400
_MOST_OPERANDS = 4
_DEEPEST = 6  # times four ops: how far back it is looked for a difference
# Instead of the number of an instruction: an entry that is no op on single numbers; one that hands on its first
# operand (one less for the second, and so on).
_OTHER, _SAME = -1, -2


def lower(graph: Graph, outputs: Sequence[Entry]) -> list[Node]:
    """The nodes of these entries, with long runs of different scalar ops as tables."""
    entries = needed(outputs, graph.tracer.defined)
    scalars = _Scalars(graph, entries) if len(entries) > MOST_DIFFERENT else None
    if scalars is not None and scalars.inside.any():
        scalars.add(outputs)
    else:
        graph.add(entries)
    return [graph.nodes[e] for e in outputs]


class _Scalars:
    """The entries of a recording as arrays, by their places in it; which of them are ops on single numbers.

    An op that is none has level 0, or more than that of the scalars it reads; a scalar has the level of what it reads.
    So all scalars of one level can be computed together, after the other ops of that level.
    """

    def __init__(self, graph: Graph, entries: Sequence[Entry]) -> None:
        self.graph, self.entries = graph, entries
        self._flatten()
        self._classify()
        #: The operands of entry k stand from starts[k] on: places of entries, or from len(entries) on, of literals.
        self.values = self.operands.copy()
        literal = np.flatnonzero(self.operands < 0)
        users = self.code[np.searchsorted(self.starts, literal, "right") - 1]
        self.values[literal] = len(entries) + _numbered(self.literals, users)
        self.source = np.arange(len(entries) + len(self.literals))  # where a value that is handed on comes from
        _pass_on(self.starts, self.values, self.code, self.source, _hash_table(len(entries)))
        self.level = np.zeros(len(entries), np.int64)
        _find_levels(self.starts, self.values, self.code, self.level)
        self.inside = self._different()

    def _flatten(self) -> None:
        defined, n = self.graph.tracer.defined, len(self.entries)
        inputs = [e.inputs if e.op is not None or e not in defined else (defined[e],) for e in self.entries]
        self.starts = np.zeros(n + 1, np.int64)
        np.cumsum(np.fromiter(map(len, inputs), np.int64, n), out=self.starts[1:])
        flat = list(chain.from_iterable(inputs))
        self.literals = [x for x in flat if type(x) is not Entry]
        self.numbers = np.fromiter(map(attrgetter("number"), self.entries), np.int64, n)
        number = np.array([x.number if type(x) is Entry else -1 for x in flat], np.int64)
        self.operands = np.where(number < 0, -1, np.searchsorted(self.numbers, number))

    def _classify(self) -> None:
        """Give each entry the number of the instruction that computes it."""
        specs: dict[Any, int] = defaultdict(count().__next__)
        ops: dict[Any, int] = defaultdict(count().__next__)
        types: dict[Any, int] = defaultdict(count().__next__)
        entries, one = self.entries, specs[SCALAR]
        spec = [one if e.spec is SCALAR else specs[e.spec if prod(e.spec[0]) == 1 else None] for e in entries]
        op = np.array([ops[(e.op, frozen_key(e.attrs)) if e.attrs else e.op] for e in entries])
        literal = np.flatnonzero(self.operands < 0)
        user = op[np.searchsorted(self.starts, literal, "right") - 1]
        special = {ops.get(registry[name]): numbers for name, numbers in SPECIAL.items()}
        kind = np.array(spec)[self.operands]
        kind[literal] = [
            len(specs) + types[type(x), x if x in special.get(k, ()) else None]
            for x, k in zip(self.literals, user.tolist(), strict=True)
        ]
        arity = np.diff(self.starts)
        key = (op * len(specs) + spec) * (_MOST_OPERANDS + 2) + np.minimum(arity, _MOST_OPERANDS + 1)
        for q in range(_MOST_OPERANDS):
            there = arity > q
            key *= len(specs) + len(types)
            key[there] += kind[self.starts[:-1][there] + q]
            if key.max() > 1 << 40:  # as many different ones, in smaller numbers
                key, _ = _labelled(key)
        which, first = _labelled(key)
        self.instructions: list[Instruction] = []
        self.taken: list[Sequence[int]] = []  # which operands each instruction reads
        self.code = np.array([self._code(k) for k in first.tolist()])[which]

    def _code(self, k: int) -> int:
        """The number of a new instruction that computes entries like number k."""
        e = self.entries[k]
        places = self.operands[self.starts[k] : self.starts[k + 1]].tolist()
        specs = [e.spec, *(self.entries[p].spec for p in places if p >= 0)]
        if not 0 < len(places) <= _MOST_OPERANDS or any(prod(shape) != 1 for shape, _ in specs):
            return _OTHER
        if e.op is None:
            return _SAME
        args = [
            Node(INPUT, *self.entries[p].spec) if p >= 0
            else Node(INPUT, (), e.dtype) if e.op.name == "power" and x not in SPECIAL["power"]
            else x
            for p, x in zip(places, e.inputs, strict=True)
        ]  # fmt: skip
        node = self.graph.op(e.op, args, e.attrs, e.spec, None)
        if node.kind == MOVE and node.data.in_order:
            (node,) = node.args
        if node in args:
            return _SAME - args.index(node)
        if node.kind != MAP or len(node.args) > len(args) or len(self.instructions) == MOST_KINDS:
            return _OTHER
        taken = [q for q, a in enumerate(node.args) if a is args[q] or (a.kind == CONST and places[q] < 0)]
        if len(taken) < len(node.args):
            return _OTHER
        self.instructions.append(single(node))
        self.taken.append(taken)
        return len(self.instructions) - 1

    def _different(self) -> Array:
        """Which entries become part of a table: the scalars of levels on which many are different."""
        scalar = self.code != _OTHER
        count = int(self.level.max()) + 1
        many = np.bincount(self.level[scalar], minlength=count) > MOST_DIFFERENT
        different, context = np.zeros(count, bool), np.zeros(len(self.code), np.int64)
        for _ in range(_DEEPEST):
            if not (many & ~different).any():
                break
            _find_contexts(self.starts, self.values, self.code, self.level, context)
            _, first = _labelled(context)
            different = np.bincount(self.level[first[scalar[first]]], minlength=count) > MOST_DIFFERENT
        inside: Array = scalar & different[self.level]
        return inside

    # --- nodes ------------------------------------------------------------------------------------------------------

    def add(self, outputs: Sequence[Entry]) -> None:
        """Make the nodes of all entries that are read by other than their table, each level's scalars last."""
        wanted = self._wanted(outputs)
        key = 2 * self.level + (self.code != _OTHER)
        order = np.argsort(key, kind="stable")
        for members in np.split(order, np.flatnonzero(np.diff(key[order])) + 1):
            if self.inside[members[0]]:
                self._add_table(members, wanted)
            else:
                self.graph.add([self.entries[k] for k in members.tolist()])

    def _wanted(self, outputs: Sequence[Entry]) -> Array:
        wanted = np.zeros(len(self.source), bool)
        wanted[np.searchsorted(self.numbers, [e.number for e in outputs])] = True
        owner = np.repeat(np.arange(len(self.entries)), np.diff(self.starts))
        there = self.operands >= 0
        owner, operand = owner[there], self.operands[there]
        wanted[operand[~self.inside[owner] | (self.level[owner] != self.level[operand])]] = True
        wanted[self.source[wanted]] = True
        return wanted

    def _add_table(self, members: Array, wanted: Array) -> None:
        """The table that computes these entries, and the nodes of those that others read."""
        graph, entries = self.graph, self.entries
        ops = members[self.code[members] >= 0]
        code, level, n = self.code[ops], self.level[ops[0]], len(entries)
        taken = np.full((len(self.instructions), _MOST_OPERANDS), -1)
        types = np.full(taken.shape, " ")
        for k, (places, one) in enumerate(zip(self.taken, self.instructions, strict=True)):
            taken[k, : len(places)] = places
            types[k, : len(places)] = [a.dtype.char for a in one.reads]
        there = taken[code] >= 0
        reads = np.full((len(ops), READS), -1, np.int32)
        reads[:, :_MOST_OPERANDS][there] = self.values[(self.starts[ops][:, None] + taken[code])[there]]
        read, its_type = reads[:, :_MOST_OPERANDS][there], types[code][there]

        apart = (read >= n) | ~self.inside[np.minimum(read, n - 1)] | (self.level[np.minimum(read, n - 1)] != level)
        outside, first = np.unique(read[apart], return_index=True)
        local = np.zeros(len(self.source), np.int64)
        local[ops], local[outside] = np.arange(len(ops)), np.arange(len(ops), len(ops) + len(outside))
        reads[reads >= 0] = local[reads[reads >= 0]]
        nodes = [graph.nodes[entries[k]] for k in outside[outside < n].tolist()]
        constants = [node.data.item() if node.kind == CONST else 0 for node in nodes]
        constants += [self.literals[k - n] for k in outside[outside >= n].tolist()]
        inputs = np.flatnonzero([node.kind != CONST for node in nodes])
        results = np.flatnonzero(wanted[ops])
        sizes = [nodes[k].dtype.itemsize for k in inputs.tolist()]
        sizes += [entries[k].dtype.itemsize for k in ops[results].tolist()]
        table = encode(
            self.instructions, code, reads, _bits(constants, its_type[apart][first]), len(ops) + inputs, results, sizes,
            _origins([entries[k] for k in ops.tolist()]),
        )  # fmt: skip
        node = Node(TABLE, (), SCALAR[1], tuple(nodes[k] for k in inputs.tolist()), table, entries[ops[-1]])
        for k in ops[results].tolist():
            e = entries[k]
            graph.nodes[e] = made = Node(RESULT, e.shape, e.dtype, (node,), entry=e)
            table.results.append(made)
        for k in members[(self.code[members] <= _SAME) & wanted[members]].tolist():
            graph.nodes[entries[k]] = graph.reshape(graph.nodes[entries[self.source[k]]], entries[k].shape)


def _numbered(literals: Sequence[Any], users: Array) -> Array:
    """For each number the place of the first that is the same for the same instruction; 0.0 and -0.0 are not.

    Instructions for other dtypes have the number in other bits.
    """
    first: dict[Any, int] = {}
    return np.array(
        [first.setdefault((type(x), x or str(x), u), k) for k, (x, u) in enumerate(zip(literals, users, strict=True))],
        np.int64,
    )


def _origins(entries: Sequence[Entry]) -> dict[Entry, int]:
    """An entry for each op at each place in the user's code, and how many are from there."""
    key = np.fromiter(map(attrgetter("lasti"), entries), np.int64, len(entries))
    for name in ("code", "op"):
        label, first = _labelled(np.fromiter(map(id, map(attrgetter(name), entries)), np.int64, len(entries)))
        key = key * len(first) + label
    label, first = _labelled(key)
    return dict(zip([entries[k] for k in first.tolist()], np.bincount(label).tolist(), strict=True))


def _bits(values: Sequence[Any], types: Array) -> Array:
    """Numbers of these types as slots hold them."""
    slots = np.zeros(len(values), np.int64)
    for char in np.unique(types).tolist():
        here = np.flatnonzero(types == char)
        dtype = np.dtype(char)
        of_type = np.array([values[k] for k in here.tolist()], dtype)
        slots.view(dtype).reshape(len(values), -1)[here, 0] = of_type
    return slots


def _labelled(key: Array) -> tuple[Array, Array]:
    """Each element's number among the different ones, and where each of those stands first."""
    label, first = np.empty(len(key), np.int64), np.empty(len(key), np.int64)
    return label, first[: _find_labels(key, _hash_table(len(key)), label, first)]


def _hash_table(count: int) -> Array:
    """An empty one for so many elements, as many as a power of two."""
    return np.full(2 << max(4, count).bit_length(), -1)


@_native
def _find_labels(key: Any, table: Any, label: Any, first: Any) -> Any:
    found, mask = 0, len(table) - 1
    for k in range(len(key)):
        at = key[k] * 0x5851F42D4C957F2D
        at = (at ^ at >> 29) & mask
        while table[at] >= 0 and key[first[table[at]]] != key[k]:
            at = (at + 1) & mask
        if table[at] < 0:
            table[at] = found
            first[found] = k
            found += 1
        label[k] = table[at]
    return found


@_native
def _is_alike(starts: Any, values: Any, code: Any, a: Any, b: Any) -> Any:
    alike = code[a] == code[b]
    for q in range(starts[b + 1] - starts[b]):
        alike = alike and values[starts[a] + q] == values[starts[b] + q]
    return alike


@_native
def _pass_on(starts: Any, values: Any, code: Any, source: Any, table: Any) -> None:
    """Find where the value of each entry comes from: itself, or what an op that hands it on is given.

    What computes the same from the same as an entry before hands on the value of that. `values` become sources.
    """
    mask = len(table) - 1
    for k in range(len(code)):
        at = np.int64(code[k])
        for q in range(starts[k], starts[k + 1]):
            values[q] = source[values[q]]
            at = at * 0x2545F4914F6CDD1D + values[q]
            at ^= at >> 31
        if code[k] <= _SAME:
            source[k] = values[starts[k] + _SAME - code[k]]
        elif code[k] != _OTHER:
            at *= 0x5851F42D4C957F2D  # spreads what stands side by side
            at = (at ^ at >> 29) & mask
            while table[at] >= 0 and not _is_alike(starts, values, code, table[at], k):
                at = (at + 1) & mask
            if table[at] < 0:
                table[at] = k
            else:
                source[k], code[k] = table[at], _SAME


@_native
def _find_levels(starts: Any, values: Any, code: Any, level: Any) -> None:
    for k in range(len(code)):
        for q in range(starts[k], starts[k + 1]):
            x = values[q]
            if x < len(code):
                level[k] = max(level[k], level[x] + (code[k] == _OTHER and code[x] != _OTHER))


@_native
def _find_contexts(starts: Any, values: Any, code: Any, level: Any, context: Any) -> None:
    """A number for what each scalar computes from what, four ops deeper than that of `context` so far.

    It is the same for the same on one level.
    """
    before = np.zeros(len(code), np.int64)
    for _ in range(4):
        before[:] = context
        for k in range(len(code)):
            h = np.int64(code[k] + 7)
            for q in range(starts[k], starts[k + 1]):
                x = values[q]
                h *= 0x2545F4914F6CDD1D
                if x < len(code) and code[x] != _OTHER and level[x] == level[k]:
                    h ^= before[x] + 1
                h ^= h >> 31
            context[k] = h * 0x5851F42D4C957F2D + level[k] * 0x14057B7EF767814F
