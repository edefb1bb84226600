"""Reading a tape as a dense network: which of its values are neurons, and which weights lie between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeAlias

import numpy as np

from ..backward import Accumulate, Local, Seed, events, seed_of
from ..cuda.array import on_host
from ..op import Op
from ..tape import Entry, describe, history, value_of
from ..tensor import Tensor, entry_of

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(eq=False)
class Group:
    """Neurons that one value on the tape holds: a vector of them, or one.

    `value` is what they pass on, `sum` what their function was applied to (None for inputs). `terms` are the groups
    they read with the weights for it, `biases` what is added; `layer` is 0 for inputs.
    """

    value: Entry
    sum: Entry | None
    vector: bool
    layer: int
    function: str = ""
    terms: list[tuple[Group, Entry, bool]] = field(default_factory=list)  # the weight is (inputs, outputs) if True
    biases: list[Entry] = field(default_factory=list)


@dataclass(eq=False)
class _Sum:
    """A sum that is still growing: weighted values, and what is added to them."""

    vector: bool
    terms: list[tuple[Group, Entry, bool]]
    biases: list[Entry]


def read_layers(outputs: Sequence[Entry], inputs: Sequence[Entry], vector: bool) -> list[list[Group]]:
    """The groups of neurons of each layer, inputs first.

    `vector` says that an input holds a vector of neurons (in rows, if there are several samples), not one neuron.
    Raises ValueError, naming the operation, where the tape is no dense network of these inputs.
    """
    reader = _Reader(inputs, vector)
    order = sorted({e for o in outputs for e in history(o)}, key=lambda e: e.number)
    for entry in order:
        if entry.op is not None and entry not in reader.inputs:
            reader.read(entry)
    last = []
    for entry in outputs:
        if entry not in reader.roots or entry in reader.inputs:
            raise ValueError(f"network: {describe(entry)} does not depend on these inputs; pass those it was made from")
        last.append(reader.group(entry))
    depth = max(g.layer for g in last)
    for g in last:
        g.layer = depth
    groups = [
        *(reader.group(e) for e in inputs),
        *(g for g in reader.groups.values() if g.layer and g not in last),
        *last,
    ]
    return [[g for g in groups if g.layer == k] for k in range(depth + 1)]


class _Reader:
    """Goes through a tape in the order of recording and says of each entry what it is in terms of neurons."""

    def __init__(self, inputs: Sequence[Entry], vector: bool) -> None:
        self.inputs, self._vector = set(inputs), vector
        self.roots: dict[Entry, Entry] = {
            e: e for e in inputs
        }  # of what depends on the inputs: the sum it is a function of
        self._sums: dict[Entry, _Sum] = {}
        self._functions: dict[Entry, tuple[str, ...]] = {}
        self.groups: dict[Entry, Group] = {}

    def read(self, entry: Entry) -> None:
        op, sources = entry.op, entry.inputs
        assert op is not None
        if not any(s in self.roots for s in sources if isinstance(s, Entry)):
            return  # made of weights and constants alone
        self.roots[entry] = entry
        if (weighted := self._weighted(entry)) is not None:
            self._sums[entry] = weighted
        elif op.name == "add" and (total := self._added(entry)) is not None:
            self._sums[entry] = total
        else:
            self._apply(op, entry)

    def _weighted(self, entry: Entry) -> _Sum | None:
        """A product of neurons with weights."""
        op, sources = entry.op, entry.inputs
        assert op is not None
        if op.name not in ("multiply", "dense", "matmul"):
            return None
        for k in (0, 1):
            signal, weight = sources[k], sources[1 - k]
            if not (isinstance(signal, Entry) and isinstance(weight, Entry)):
                continue
            if signal not in self.roots or weight in self.roots:
                continue
            vector = self._is_vector(signal)
            if op.name == "multiply":
                fits = not vector and weight.shape == ()
            else:
                fits = (
                    vector and len(weight.shape) == 2 and (k == 0 or (op.name == "matmul" and len(signal.shape) == 1))
                )
            if fits:
                return _Sum(vector, [(self.group(signal), weight, op.name == "matmul" and k == 0)], [])
        return None

    def _added(self, entry: Entry) -> _Sum | None:
        """A sum of sums, or of one and a bias; None where neither is a sum of weighted neurons."""
        total: _Sum | None = None
        biases: list[Entry] = []
        for source in entry.inputs:
            if not isinstance(source, Entry):
                if source != 0:  # sum() of Python starts with it
                    return None
            elif source not in self.roots:
                if prod(source.shape) not in (1, prod(entry.shape[-1:])):
                    return None  # another number for each sample
                biases.append(source)
            elif (part := self._sums.get(source)) is None:
                return None
            elif total is None:
                total = _Sum(part.vector, list(part.terms), list(part.biases))
            else:
                total.terms += part.terms
                total.biases += part.biases
        if total is not None:
            total.biases += biases
        return total

    def _apply(self, op: Op, entry: Entry) -> None:
        """A function of one group of neurons, as activations are."""
        sources = [s for s in entry.inputs if isinstance(s, Entry) and s in self.roots]
        roots = {self.roots[s] for s in sources}
        if len(roots) > 1 or entry.shape != sources[0].shape:
            raise ValueError(
                f"network: this is no dense network, because of {describe(entry)}: from inputs to outputs there may be "
                "weighted sums, biases, and functions of one sum that keep its shape. ag.graph draws any tape"
            )
        (self.roots[entry],) = roots
        done = max((self._functions.get(s, ()) for s in sources), key=len)
        self._functions[entry] = (*done, op.name)

    def _is_vector(self, entry: Entry) -> bool:
        found = self._sums.get(self.roots[entry])
        return self._vector if found is None else found.vector

    def group(self, entry: Entry) -> Group:
        """The neurons whose values an entry holds, made when a weight or the outside first reads them."""
        if entry not in self.groups:
            root = self.roots[entry]
            found = self._sums.get(root)
            function = " ".join(self._functions.get(entry, ()))
            if found is None:
                self.groups[entry] = Group(entry, None, self._vector, 0, function)
            else:
                layer = 1 + max(g.layer for g, _, _ in found.terms)
                self.groups[entry] = Group(entry, root, found.vector, layer, function, found.terms, found.biases)
        return self.groups[entry]


# --- numbers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weight:
    """A weight or bias: `gradient` is that of the loss, None if not computed."""

    name: str
    value: float
    gradient: float | None


@dataclass(frozen=True)
class Unit:
    """A neuron. `sum` and `sum_gradient` belong to what its function was applied to, None for an input."""

    name: str
    value: float
    gradient: float | None
    sum_name: str = ""
    sum: float | None = None
    sum_gradient: float | None = None
    bias: Weight | None = None


@dataclass(frozen=True)
class Column:
    """The neurons of a layer that are shown: the first `split` of `size`, and the last ones."""

    function: str
    units: tuple[Unit, ...]
    size: int
    split: int


@dataclass(frozen=True)
class Edge:
    """The weight between a shown neuron and one of a later layer; each is (layer, place among those shown)."""

    source: tuple[int, int]
    target: tuple[int, int]
    weight: Weight


@dataclass(frozen=True)
class Snapshot:
    """A network for one sample, in numbers. `whole` says that gradients of weights are sums over all samples."""

    columns: tuple[Column, ...]
    edges: tuple[Edge, ...]
    loss_name: str
    loss: float | None
    targets: tuple[Any, ...]  # of each output, or of all of them together
    sample: int | None
    whole: bool = False


def gradients_of(loss: Tensor) -> dict[Entry, Any]:
    """The derivative of one number with respect to everything it was computed from; nothing is changed."""
    found: dict[Entry, Any] = {}
    for kind, *fields in events(entry_of(loss), seed_of(loss, None), retain=True, again=True):
        if kind is Seed:
            found[fields[0]] = fields[1]
        elif kind is Local:
            entry, k, _, contribution = fields
            found.setdefault(entry.inputs[k], contribution)
        elif kind is Accumulate:
            found[fields[0]] = fields[2]
    return {entry: on_host(g) for entry, g in found.items()}


class Numbers:
    """Takes the numbers of one sample out of the groups of a tape."""

    def __init__(
        self, layers: list[list[Group]], loss: Tensor | None, names: Mapping[Entry, str] | None, most: int
    ) -> None:
        recorded = loss is not None and loss.requires_grad
        self._layers, self._most = layers, most
        self._gradients: dict[Entry, Any] = gradients_of(loss) if loss is not None and recorded else {}
        self._given = names
        groups = [g for layer in layers for g in layer]
        self._labels = _unique_labels(groups) if names is None else {}
        self._values: dict[Entry, Any] = {}

    @property
    def samples(self) -> int | None:
        """How many samples the tape holds, None if it is for one without an axis for samples."""
        group = self._layers[-1][0]
        shape = group.value.shape
        return shape[0] if len(shape) > group.vector else None

    def snapshot(self, sample: int) -> tuple[tuple[Column, ...], tuple[Edge, ...]]:
        """The columns and edges for one sample."""
        shown: dict[Group, list[tuple[int, int]]] = {}  # (place in the group, place among those shown)
        columns = []
        for k, layer in enumerate(self._layers):
            sizes = [self._size(g) for g in layer]
            whole = [(g, i) for g, size in zip(layer, sizes, strict=True) for i in range(size)]
            split = len(whole) if len(whole) <= self._most else self._most - self._most // 2
            kept = whole if len(whole) <= self._most else whole[:split] + whole[len(whole) - self._most // 2 :]
            for place, (g, i) in enumerate(kept):
                shown.setdefault(g, []).append((i, place))
            offsets = dict(zip(layer, np.cumsum([0, *sizes]).tolist(), strict=False))
            units = tuple(self._unit(g, i, offsets[g] + i, k, sample) for g, i in kept)
            functions = dict.fromkeys(g.function or "identity" for g in layer) if k else {}
            columns.append(Column(", ".join(functions), units, len(whole), split))
        edges = [
            Edge((source.layer, a), (group.layer, b), self._weight(weight, (i, j) if across else (j, i)))
            for layer in self._layers for group in layer for source, weight, across in group.terms
            for i, a in shown.get(source, ()) for j, b in shown.get(group, ())
        ]  # fmt: skip
        return tuple(columns), tuple(edges)

    def _size(self, group: Group) -> int:
        return group.value.shape[-1] if group.vector else 1

    def _unit(self, group: Group, i: int, place: int, layer: int, sample: int) -> Unit:
        name = self._name(group, group.value, i) or self._letter(layer, place)
        value, gradient = self._at(group, group.value, i, sample), self._gradient(group, group.value, i, sample)
        if group.sum is None:
            return Unit(name, value, gradient)
        bias = None
        if group.biases:
            parts = [self._weight(b, i) for b in group.biases]
            bias = Weight(" + ".join(p.name for p in parts), float(np.sum([p.value for p in parts])), parts[0].gradient)
        return Unit(
            name, value, gradient, self._name(group, group.sum, i) or f"sum of {name}",
            self._at(group, group.sum, i, sample), self._gradient(group, group.sum, i, sample), bias,
        )  # fmt: skip

    def _name(self, group: Group, entry: Entry, i: int) -> str:
        label = self._labels.get(entry, "")
        return f"{label}[{i}]" if label and group.vector else label

    def _letter(self, layer: int, place: int) -> str:
        last = len(self._layers) - 1
        if layer in (0, last):
            return ("x" if layer == 0 else "ŷ") + _small(place, "₀₁₂₃₄₅₆₇₈₉")
        raised = _small(layer, "⁰¹²³⁴⁵⁶⁷⁸⁹") if last > 2 else ""
        return "h" + raised + _small(place, "₀₁₂₃₄₅₆₇₈₉")

    def _value(self, entry: Entry) -> Any:
        if entry not in self._values:
            self._values[entry] = np.asarray(on_host(value_of(entry)))
        return self._values[entry]

    def _at(self, group: Group, entry: Entry, i: int, sample: int) -> float:
        return _picked(self._value(entry), group.vector, i, sample)

    def _gradient(self, group: Group, entry: Entry, i: int, sample: int) -> float | None:
        g = self._gradients.get(entry)
        return None if g is None else _picked(np.asarray(g), group.vector, i, sample)

    def _weight(self, entry: Entry, index: int | tuple[int, int]) -> Weight:
        """An element of a matrix of weights, or of biases; a single number serves all neurons."""
        value, g = self._value(entry), self._gradients.get(entry)
        name = self._weight_name(entry)
        if value.size == 1:
            return Weight(name, value.item(), None if g is None else np.asarray(g).item())
        if isinstance(index, int):
            index = (*(0,) * (value.ndim - 1), index)
        place = index[::-1] if entry.op is not None and entry.op.name == "transpose" else index  # in what is named
        name += f"[{', '.join(map(str, place))}]"
        return Weight(name, float(value[index]), None if g is None else float(g[index]))

    def _weight_name(self, entry: Entry) -> str:
        leaves = [e for e in history(entry) if e.op is None]
        if len(leaves) != 1:
            return entry.label or "weight"
        leaf = leaves[0]
        return (self._given or {}).get(leaf) or leaf.label or "weight"


def _picked(value: Array, vector: bool, i: int, sample: int) -> float:
    if value.ndim > vector:
        value = value[sample]
    return float(value[i] if vector else value)


def _unique_labels(groups: Iterable[Group]) -> dict[Entry, str]:
    """The user's names of values and sums, where a name stands for one of them only."""
    entries = list(dict.fromkeys(e for g in groups for e in (g.value, g.sum) if e is not None))
    labels = {e: e.label for e in entries}
    found = list(labels.values())
    return {e: label for e, label in labels.items() if label and found.count(label) == 1}


def _small(n: int, digits: str) -> str:
    return str(n).translate(str.maketrans("0123456789", digits))


__all__ = ["Column", "Edge", "Group", "Numbers", "Snapshot", "Unit", "Weight", "gradients_of", "read_layers"]
