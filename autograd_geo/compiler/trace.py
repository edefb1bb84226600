"""Recording a function: every op that runs, and whatever its program has to read and to write.

The ordinary tape is the recording: while a tracer is set, each op leaves an entry, whether a gradient flows
through it or not, and the reverse pass runs as ops too. What comes from outside (arguments, tensors and arrays the
function closes over, gradients that are there already) becomes an input that is read anew in each call; tensors
that the function changes become results that are put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..cuda.array import DeviceArray, on_host
from ..op import OPERATORS, SIMPLE, Op, frozen, functions
from ..random import Generator
from ..tape import (
    ACTIVE,
    CONSTANT,
    CONSUMED,
    GRADIENTS,
    TRACED,
    WEAK,
    Entry,
    caller,
    describe,
    leaf,
    mode,
    next_number,
    succeed,
    untraced,
)  # fmt: skip
from ..tensor import Tensor, wrap
from ..tree import map_leaves
from ..value import NUMBERS, SCALAR, Value, as_value, from_user
from .errors import CompileError
from .outside import array_is_unchanged, is_same, requires_grad_as_now
from .places import Place, argument
from .records import Change, Held, Input, Read, Slot

_REAL = (int, float, np.integer, np.floating)


def needed(outputs: Iterable[Entry], defined: dict[Entry, Entry]) -> list[Entry]:
    """Every entry that outputs are computed from, in an order in which all inputs come first."""
    order = list(dict.fromkeys(outputs))
    seen = set(order)
    for entry in order:
        for source in (defined[entry],) if entry.op is None and entry in defined else entry.inputs:
            if type(source) is Entry and source not in seen:
                seen.add(source)
                order.append(source)
    order.sort(key=attrgetter("number"))
    return order


class Tracer:
    """Records one run of a function; set it with `tape.traced_by`."""

    def __init__(self, outside: Mapping[int, Tensor] | None = None) -> None:
        """`outside` has, by id, tensors that the function may find, whose conditions are known."""
        self._outside = outside or {}
        self.start = next_number()
        self.entries: list[Entry] = []
        self.inputs: dict[Entry, Input] = {}
        self.reads: list[Read] = []
        #: What stands for the value of a leaf that the function made or moved on.
        self.defined: dict[Entry, Entry] = {}
        self._held: dict[int, Held] = {}
        self._arguments: dict[int, Tensor] = {}
        self._leaves: dict[Entry, Held] = {}
        self._arrays: dict[int, tuple[np.ndarray[Any, Any], Entry]] = {}
        self._grads_known: set[Entry] = set()
        self._forgotten: set[Entry] = set()  # leaves whose gradient the function sets, whatever it was
        self._slots: dict[tuple[int, str], Slot] = {}
        self._marks: dict[Generator, tuple[int, int]] = {}  # where generators were before the first draw
        self._own_generators: set[Generator] = set()  # made by the function
        self._takes_numbers = False  # of NumPy, which may come from anywhere
        #: What has to hold besides inputs' shapes and dtypes.
        self.guards: list[Place] = []

    # --- ops ----------------------------------------------------------------------------------------------------

    def apply(self, op: Op, operands: Sequence[Any], attrs: dict[str, Any]) -> Tensor:
        """Evaluate an op and record it."""
        for v in attrs.values():
            if isinstance(v, np.ndarray):
                self.guard_array(v)
        attrs = {k: v if type(v) in SIMPLE else frozen(v) for k, v in attrs.items()} if attrs else attrs
        values: list[Any] = []
        sources: list[Any] = []
        active, bit, state, known = 0, 1, WEAK, True
        for x in operands:
            if type(x) in NUMBERS and (values or op.family == "pointwise"):
                value, source = x, x
            else:
                source = self.source(x, op)
                value = x._value if isinstance(x, Tensor) else source.value
                known = known and source.op is None and source.state == CONSTANT and source not in self.inputs
                if source.state != WEAK or op.family != "pointwise":
                    state = TRACED
                    value = np.float64(value) if type(value) is float else value
                elif op.name not in OPERATORS:  # NumPy's functions make float64 of Python numbers
                    state = TRACED
                active |= bit if source.state > 0 else 0
            values.append(value)
            sources.append(source)
            bit <<= 1
        if DeviceArray in map(type, values):
            self._refuse_mixed(op, operands)
        z = op.evaluate(values, attrs)
        if known:
            return wrap(z, leaf(z, CONSTANT))
        active &= op.differentiable
        if active and mode() & GRADIENTS:
            state = ACTIVE
            kept, keep_output = op.keeps(active)
            for k in range(len(operands)) if op.variadic and kept else kept:  # those that carry no gradient too
                x = operands[k]
                if isinstance(x, Tensor):
                    sources[k].value = x._value
        else:
            keep_output = False
        entry = Entry()
        entry.number = next_number()
        entry.op, entry.inputs, entry.attrs, entry.state, entry.name = op, tuple(sources), attrs, state, None
        entry.code, entry.lasti = caller(2)
        entry.value = z if type(z) is float or keep_output else None
        entry.spec = SCALAR if type(z) is float else (z.shape, z.dtype)
        self.entries.append(entry)
        return wrap(z, entry)

    def _refuse_mixed(self, op: Op, operands: Sequence[Any]) -> None:
        """Raise as uncompiled code does where tensors are on two devices; what is made of arrays alone may be."""
        from ..device import refuse_mixed

        def is_array(x: Any) -> bool:
            if not isinstance(x, Tensor) or x._entry is None:
                return False
            behind = [self.inputs[e] for e in needed([x._entry], self.defined) if e in self.inputs]
            return bool(behind) and not any(i.private for i in behind)

        refuse_mixed(op, [x for x in operands if not is_array(x)])

    def source(self, x: Any, op: Op | None = None) -> Entry:
        """The entry that stands for an operand: an input if it comes from outside."""
        if isinstance(x, Tensor):
            entry = x._entry
            if entry is not None and entry.number >= self.start:
                return entry
            return self.hold(x).node
        if isinstance(x, np.ndarray) and x.ndim and x.dtype.kind in "fiub" and not isinstance(x, np.ma.MaskedArray):
            return self.array(x)
        if isinstance(x, list | tuple) and any(isinstance(i, Tensor) for i in x):
            raise TypeError(f"{op.name if op else 'tensor'}: join a list of tensors with ag.stack first")
        self._takes_numbers |= isinstance(x, np.generic | np.ndarray)
        return leaf(from_user(x), CONSTANT)

    # --- what comes from outside ----------------------------------------------------------------------------------

    def argument(self, k: int, x: Any) -> Tensor:
        """Argument leaf number k as the recorded function sees it: a tensor whose value may differ in each call.

        One that the function may find outside too is that tensor in each call, as it may be written into.
        """
        if isinstance(x, Tensor):
            if id(x) not in self._outside:
                if self._outside:
                    self.guards.append(Place("id({0}) not in {1}", argument(k), self._outside))
            elif x.is_leaf:
                self.guards.append(Place("{0} is {1}", argument(k), x))
                self.hold(x)
                return x
            seen = self._arguments.get(id(x))
            if seen is None:
                seen = x
                if not x.requires_grad:
                    seen = wrap(x._value)
                elif not x.is_leaf:  # recorded outside: inside it is a variable
                    seen = wrap(x._value, leaf(x._value, ACTIVE, x.name))
                self._arguments[id(x)] = seen
                self.hold(seen, argument(k), x)
            return seen
        value = from_user(x)
        entry = leaf(value, WEAK if type(x) is float else TRACED)
        self.inputs[entry] = Input(entry, argument(k))
        return wrap(value, entry)

    def hold(self, x: Tensor, place: Place | None = None, owner: Tensor | None = None) -> Held:
        """Note a tensor from outside, whose value is read anew in each call."""
        if x._entry is not None and x._entry.op is not None and x._entry.state == CONSTANT:
            x._entry = None  # a value that an earlier recording made, cut from it
        entry = x._entry
        if entry is not None and entry.op is not None:
            raise CompileError(
                f"compile: the function uses {describe(entry)}, which was recorded outside it; its gradient would "
                "be lost. Pass it as an argument after .detach(), or compute it inside the function"
            )
        # Rules wrap the entries they read anew: the leaf says which tensor it is, where there is one.
        held = self._held.get(id(x)) if entry is None else self._leaves.get(entry.root or entry)
        if held is None:
            node = leaf(x._value, TRACED) if entry is None else entry
            place = place or Place("{0}", x)
            gradient = None if entry is None else (entry.root or entry).grad
            held = Held(place, x, x if owner is None else owner, entry, node, gradient, x._value)
            self._held[id(x)] = held
            if entry is not None:
                self._leaves[entry.root or entry] = held
            self.inputs[node] = Input(node, Place("{0}._value", place), private=True)
            if owner is None and id(x) not in self._outside:  # arguments are looked at anyhow
                self.guards.append(requires_grad_as_now(x))
        return held

    def array(self, x: np.ndarray[Any, Any]) -> Entry:
        """Note an array from outside, which is read anew in each call: it may have been written into."""
        known = self._arrays.get(id(x))
        if known is not None and _is_changed(*known):
            self.inputs.pop(known[1], None)  # the function writes into it: each value it had is a constant
            known = self._arrays[id(x)] = x, leaf(from_user(x), CONSTANT)
        if known is None:
            entry = leaf(from_user(x), TRACED)
            self._arrays[id(x)] = known = x, entry
            self.inputs[entry] = Input(entry, Place("{0}", x))
        return known[1]

    def takes(self, x: np.ndarray[Any, Any]) -> bool:
        """Whether an op took this array as an input."""
        known = self._arrays.get(id(x))
        return known is not None and known[1] in self.inputs

    def takes_others(self, knows: Callable[[Any], bool]) -> bool:
        """Whether an op took arrays or numbers of NumPy that are not known from outside."""
        return self._takes_numbers or not all(knows(x) for x, _ in self._arrays.values())

    def guard_array(self, x: np.ndarray[Any, Any]) -> None:
        """Note an array whose elements the recording depends on, such as an index."""
        self.guards.append(array_is_unchanged(x))

    def draw(self, generator: Generator, name: str, args: Sequence[Any], where: Mapping[str, str]) -> Tensor:
        """Random numbers, drawn anew in each call: what the generator's method of this name returns for `args`."""
        self.found_generator(generator)
        method, own = getattr(generator, name), generator in self._own_generators
        places = Place("".join(f"{{{k}}}, " for k in range(len(args))), *[self._place_of_number(x, own) for x in args])
        args = map_leaves(lambda x: as_number(x._value) if isinstance(x, Tensor) else x, args)
        with untraced():
            drawn = method(*args, **where)
        value = drawn._value if isinstance(drawn, Tensor) else from_user(drawn)
        if own:
            return wrap(value, leaf(value, CONSTANT))
        entry = leaf(value, TRACED)
        self.inputs[entry] = Input(entry, Place("{0}({1})", method, places), generator=generator)
        return wrap(value, entry)

    def _place_of_number(self, x: Any, fixed: bool) -> Any:
        """Where what a draw is made with is found: an input in its place, what is computed as it is now."""
        if isinstance(x, Tensor):
            entry: Any = self.source(x)
            while entry.op is functions["positive"].op:  # type: ignore[attr-defined]  # detached
                entry = entry.inputs[0]
            if entry in self.inputs and not fixed and self.inputs[entry].generator is None:
                return Place("{0}({1})", as_number, self.inputs[entry].place)
        return map_leaves(lambda t: self.read(t, as_number) if isinstance(t, Tensor) else t, x)

    def found_generator(self, generator: Generator) -> tuple[int, int]:
        """Where a generator was when the function began."""
        if generator not in self._marks:
            with untraced():
                self._marks[generator] = generator.mark()
        return self._marks[generator]

    def make_generator(self, generator: Generator) -> None:
        """Note a generator that the function makes: it draws the same numbers in each call."""
        self._own_generators.add(generator)

    def read_generator(self, generator: Generator, what: str, found: Any) -> None:
        """The function asks where a generator stands: it has to stand where it was found when the program runs."""
        if generator not in self._own_generators:
            self.guards.append(Place(f"{what} == {{1}}", generator, found))

    def move_generator(self, generator: Generator) -> None:
        """Raise CompileError where the function seeds a generator that it did not make."""
        if generator not in self._own_generators:
            raise CompileError(
                "compile: the function seeds a generator from outside; only its recording would do that. Seed it "
                "outside, between calls, or draw from an ag.random.Generator(seed) that the function makes"
            )

    def number(self, place: Place, value: float) -> Tensor:
        """A Python number that is read anew in each call."""
        entry = leaf(float(value), WEAK)
        self.inputs[entry] = Input(entry, place)
        return wrap(entry.value, entry)

    def settings(self, of: Any) -> SimpleNamespace:
        """The attributes of an object that are numbers, or tuples of them, read anew in each call."""
        found: dict[str, Any] = {}
        for name, value in vars(of).items():
            place = Place(f"{{0}}.{name}", of)
            if isinstance(value, tuple | list) and all(isinstance(v, _REAL) for v in value):
                self.guards.append(Place("len({0}) == {1}", place, len(value)))
                found[name] = tuple(self._setting(Place("{0}[{1}]", place, k), v) for k, v in enumerate(value))
            elif isinstance(value, float | np.floating) or name == "lr":
                found[name] = self._setting(place, value)
            elif type(value) in (bool, int, str):
                self.guards.append(is_same(place, value))
                found[name] = value
        return SimpleNamespace(**found)

    def _setting(self, place: Place, value: float) -> Tensor:
        self.guards.append(Place("{0}" if value else "not {0}", place))  # code may ask whether it is zero
        return self.number(place, value)

    def slot(self, state: dict[str, Any], name: str) -> Tensor:
        """An array or number that a dict holds, read anew in each call."""
        key = id(state), name
        if key not in self._slots:
            value, place = state[name], Place("{0}[{1}]", state, name)
            same = [s for s in self._slots.values() if isinstance(value, int) and s.whole and s.state[s.name] == value]
            if same:  # counts of steps, which stay equal
                self.guards.append(Place("{0} == {1}[{2}]", place, same[0].state, same[0].name))
                found = same[0].found
            elif isinstance(value, int):
                found = self.number(place, value)
            else:
                entry = leaf(value if type(value) is DeviceArray else from_user(value), TRACED)
                self.inputs[entry] = Input(entry, place, private=True)
                found = wrap(entry.value, entry)
            self._slots[key] = Slot(state, name, found, found, value)
        return self._slots[key].new

    def fill(self, state: dict[str, Any], name: str, new: Tensor) -> None:
        """Put a new value into a slot."""
        self._slots[id(state), name].new = new

    # --- what tensors ask of a tracer -------------------------------------------------------------------------------

    def place_of(self, x: Tensor) -> Place | None:
        """Where a tensor that the function was given is found; None for one that it made."""
        held = self._held.get(id(x))
        return None if held is None else held.place

    def place_of_leaf(self, entry: Entry) -> Place | None:
        """Where the tensor of a leaf from outside is found; None for a leaf that the function made."""
        held = self._leaves.get(entry.root or entry)
        return None if held is None else held.place

    def owner_of(self, x: Tensor) -> Tensor | None:
        """The tensor that the function was given and sees as `x`; None for one that it made."""
        held = self._held.get(id(x))
        return None if held is None else held.owner

    def tensor(self, x: Any, dtype: Any, requires_grad: bool, name: str | None) -> Tensor:
        """`ag.tensor` inside the recorded function."""
        t = wrap(x._value if isinstance(x, Tensor) else from_user(x), self.source(x))
        t = t.detach() if dtype is None else t.detach().astype(dtype)
        if requires_grad or name is not None:
            made = leaf(t._value, ACTIVE if requires_grad else CONSTANT, name, *caller(3))
            assert t._entry is not None
            self.defined[made] = t._entry
            self._grads_known.add(made)
            t._entry = made
        return t

    def read(self, x: Tensor, convert: Callable[[Value], Any] = as_value) -> Any:
        """What Python wants to know of a tensor's value: it has to come out the same when the program runs."""
        entry, found = self.source(x), convert(on_host(x._value))
        if entry in self.inputs or entry.op is not None or entry in self.defined:
            self.reads.append(Read(entry, convert, found, *caller(2)))
        return found

    def detach(self, x: Tensor) -> Tensor:
        """The same value, through which no gradient flows."""
        t = self.apply(functions["positive"].op, (x,), {})  # type: ignore[attr-defined]
        if t._entry is not None and t._entry.state == ACTIVE:
            t._entry.state = TRACED
        return t

    def remake(self, x: Tensor, state: int) -> None:
        """`x` becomes a leaf with this state: one that requires a gradient or does not."""
        made = leaf(x._value, state, x.name)
        self.defined[made] = self.source(x)
        self._grads_known.add(made)
        x._entry = made

    def assign(self, x: Tensor, result: Tensor) -> None:
        """`x`, an unrecorded tensor or leaf, takes the value of `result` but stays the leaf that it is."""
        old = self.source(x)
        if x.device != result.device:
            raise CompileError(
                f"compile: the function assigns what is on {result.device!r} to a tensor on {x.device!r}; move that "
                "tensor there before, or assign outside"
            )
        if old in self.inputs and id(x) not in self._held and old.state != WEAK:  # nobody else has a Python number
            raise CompileError(
                "compile: the function writes into an array that it was given; pass a tensor, or copy it first"
            )
        if x.requires_grad:
            new = succeed(old, result._value)
            self.defined[new] = self.source(result)
            x._entry = new
        else:
            x._entry = self.source(result.detach())
        x._value = result._value

    def gradient(self, entry: Entry) -> Tensor | None:
        """The gradient a leaf holds, as the recorded function finds it."""
        root = entry.root or entry
        grad: Tensor | None = root.grad
        if root not in self._grads_known:
            self._grads_known.add(root)
            place = Place("({0}._entry.root or {0}._entry).grad", self._leaves[root].place)
            self.guards.append(Place("({0} is None) is {1}", place, grad is None))
            if grad is not None:
                self.hold(grad, place)
        return grad

    def forget_gradient(self, x: Tensor) -> None:
        """The gradient of a leaf is about to be set, whatever it was before."""
        entry = self.source(x)
        self._grads_known.add(entry.root or entry)
        self._forgotten.add(entry.root or entry)

    # --- afterwards ---------------------------------------------------------------------------------------------------

    def effects(self) -> list[Change]:
        """What changed outside; handles are left as an unrecorded run leaves them."""
        changes: list[Change] = []
        for array, entry in self._arrays.values():
            if _is_changed(array, entry):
                self.inputs.pop(entry, None)
        for held in list(self._held.values()):
            x = held.tensor
            if x._entry is not held.entry and x._entry is not None and x._entry is not held.node:
                changes.append(Change("value", held, held.node, x._entry))
                if held.owner is not x:
                    held.owner.hold(x._value)
                    continue
                x._entry = None if held.entry is None else succeed(held.entry, x._value)
            root = None if held.entry is None else held.entry.root or held.entry
            if root is not None and (root.grad is not held.gradient or root in self._forgotten):
                known = self._held.get(id(held.gradient))
                before = None if known is None else known.node
                after = None if root.grad is None else self.source(root.grad)
                changes.append(Change("gradient", held, before, after))
                root.grad = None if root.grad is None else wrap(root.grad._value)
        for slot in self._slots.values():
            if slot.new is not slot.found:
                changes.append(Change("slot", slot, slot.found._entry, self.source(slot.new)))
                slot.put(slot.new._value)
        return changes

    def undo(self) -> None:
        """Leave what is outside as it was found; only NumPy arrays keep what the function wrote into them."""
        for held in self._held.values():
            held.restore()
        for slot in self._slots.values():
            slot.state[slot.name] = slot.before
        for generator, mark in self._marks.items():
            generator.rewind(mark)

    def close(self) -> None:
        """Cut what outlives the recording from it: it was recorded for the program only."""
        for entry in self.entries:
            entry.state = CONSTANT if entry.state < 0 else CONSUMED
            entry.inputs, entry.value = (), None
        for entry in self.inputs:
            if entry.state < 0:
                entry.state, entry.value = CONSTANT, None


def as_number(x: Any) -> Any:
    """A value of one element as a Python number."""
    return np.asarray(on_host(x._value if isinstance(x, Tensor) else x)).item()


def _is_changed(x: np.ndarray[Any, Any], entry: Entry) -> bool:
    """Whether an array is no longer what it was when the entry was made."""
    was = np.asarray(entry.value)
    return x.shape != was.shape or not np.array_equal(x, was, equal_nan=was.dtype.kind == "f")
