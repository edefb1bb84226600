"""What is changed behind a tape's back, through whatever alias, changes no gradient; a write into a view is refused."""

from __future__ import annotations

import array
import ctypes
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import autograd_geo as ag
from autograd_geo.op import functions, registry


def variable(value: Any) -> ag.Tensor:
    return ag.tensor(value, requires_grad=True)


def gradient(x: ag.Tensor) -> np.ndarray[Any, Any]:
    assert x.grad is not None
    return x.grad.numpy()


# --- buffers that change between forward and backward ------------------------------------------------------------


class Interface:
    """Memory that is no array, shown by the array interface."""

    def __init__(self, memory: np.ndarray[Any, Any]) -> None:
        self.memory, self.__array_interface__ = memory, memory.__array_interface__


def aliased(
    kind: str, values: np.ndarray[Any, Any], tmp_path: Path
) -> tuple[Any, Callable[[np.ndarray[Any, Any]], None]]:
    """Something that holds `values`, and a function that puts others there by another way."""
    memory = values.copy()
    raw = memory.view(np.uint8).reshape(-1) if memory.ndim else memory.reshape(1).view(np.uint8)

    def put(new: np.ndarray[Any, Any]) -> None:
        memory[...] = new

    if kind == "view":
        wide = np.stack([values, values])
        return wide[0], lambda new: wide.__setitem__(0, new)
    if kind == "strides":
        shown = np.lib.stride_tricks.as_strided(memory, memory.shape, memory.strides)
        return shown, put
    if kind == "memoryview":
        return memoryview(memory), put
    if kind == "through a memoryview":
        return memory, lambda new: memoryview(raw).__setitem__(slice(None), new.tobytes())
    if kind == "bytearray":
        held = bytearray(values.tobytes())
        return np.frombuffer(held, values.dtype).reshape(values.shape), lambda new: held.__setitem__(
            slice(None), new.tobytes()
        )
    if kind == "memory map":
        path = tmp_path / "values"
        path.write_bytes(values.tobytes())

        def rewrite(new: np.ndarray[Any, Any]) -> None:
            with path.open("r+b") as file:
                file.write(new.tobytes())

        return np.memmap(path, values.dtype, "r", shape=values.shape), rewrite
    if kind == "DLPack":
        return np.from_dlpack(memory), put
    if kind == "array interface":
        return Interface(memory), put
    if kind == "pointer":
        return memory, lambda new: ctypes.memmove(memory.ctypes.data, new.tobytes(), new.nbytes) and None
    if kind == "big-endian":
        swapped = values.astype(values.dtype.newbyteorder(">"))
        return swapped, lambda new: swapped.__setitem__(Ellipsis, new)
    read_only = memory.view()
    read_only.flags.writeable = False
    return read_only, put


KINDS = [
    "view", "strides", "memoryview", "through a memoryview", "bytearray", "memory map", "DLPack", "array interface",
    "pointer", "big-endian", "read-only view",
]  # fmt: skip
X = np.array([1.0, 2.0, 3.0])
NUMBERS, OTHERS = np.array([2.0, -3.0, 4.0]), np.array([-50.0, 60.0, 70.0])
PLACES, ELSEWHERE = np.array([0, 2, 2]), np.array([1, 1, 0])
MASK, UNMASK = np.array([True, False, True]), np.array([False, True, True])


def written(x: Any, index: Any, value: Any) -> Any:
    y = x * x
    y[index] = value
    return y


#: A program of a leaf's values and of something that the user holds; what that holds first, and then.
USES: dict[str, tuple[Callable[[Any, Any], Any], Any, Any]] = {
    "leaf": (lambda x, c: variable(c) ** 2 * x, NUMBERS, OTHERS),
    "constant": (lambda x, c: x * x * c, NUMBERS, OTHERS),
    "constant of a product": (lambda x, c: ag.dot(x, ag.tensor(c)), NUMBERS, OTHERS),
    "index": (lambda x, c: (x * x)[c], PLACES, ELSEWHERE),
    "index of take": (lambda x, c: ag.take(x * x, c), PLACES, ELSEWHERE),
    "index written to": (lambda x, c: written(x, c, 7.0), PLACES, ELSEWHERE),
    "value written": (lambda x, c: written(x, slice(None), x * c), NUMBERS, OTHERS),
    "mask": (lambda x, c: (x * x)[c], MASK, UNMASK),
    "condition": (lambda x, c: ag.where(c, x * x, x), MASK, UNMASK),
    "attribute": (lambda x, c: ag.repeat(x * x, c, axis=0), np.array([2, 1, 0]), np.array([0, 1, 2])),
    "exponent": (lambda x, c: x**c, NUMBERS, OTHERS),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:array interface:DeprecationWarning")
def test_memory_that_changes_later_changes_no_gradient(use: str, kind: str, tmp_path: Path) -> None:
    """Whatever a tape needs is a copy of its own, however the memory is reached."""
    program, values, others = USES[use]

    def run(c: Any, change: Callable[[], None]) -> Any:
        x = variable(X)
        out = program(x, c)
        value = out.numpy().copy()
        change()
        (out * np.arange(1.0, 1.0 + out.size)).sum().backward()
        return value, gradient(x), out.numpy()

    value, expected, _ = run(values, lambda: None)
    c, put = aliased(kind, values, tmp_path)
    try:
        found = run(c, lambda: put(others))
    except TypeError:
        return  # refused: then there is nothing to change
    for a, b in zip(found, (value, expected, value), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cotangent_and_a_gradient_are_copies(kind: str, tmp_path: Path) -> None:
    x, y = variable(X), variable(X)
    seed, put = aliased(kind, NUMBERS, tmp_path)
    (x + y).backward(seed)
    put(OTHERS)
    np.testing.assert_array_equal(gradient(x), NUMBERS)
    given, put = aliased(kind, NUMBERS, tmp_path)
    x.grad = given
    put(OTHERS)
    np.testing.assert_array_equal(gradient(x), NUMBERS)
    (x * 2.0).sum().backward()
    np.testing.assert_array_equal(gradient(x), NUMBERS + 2.0)
    np.testing.assert_array_equal(gradient(y), NUMBERS)


def test_gradients_share_nothing() -> None:
    """One cotangent may arrive at several leaves; what is done to the gradient of one is not seen in another."""
    x, y = variable(X), variable(X)
    (x + y).sum().backward()
    first = x.grad
    assert x.grad is not None
    x.grad *= 3.0
    x.grad[0] = 9.0
    np.testing.assert_array_equal(gradient(y), np.ones(3))
    (x + y).sum().backward()
    np.testing.assert_array_equal(gradient(x), [10.0, 4.0, 4.0])
    assert first is not None
    np.testing.assert_array_equal(first.numpy(), [9.0, 3.0, 3.0], err_msg="an earlier handle keeps what it was")


@pytest.mark.parametrize("make", [list, array.array, dict, set], ids=lambda m: m.__name__)
def test_containers_as_attributes_are_copies(make: Any) -> None:
    """What an op of the user's own gets as attribute stays what it was, for its derivative too."""
    held = {
        list: lambda: [2.0, 3.0], array.array: lambda: array.array("d", [2.0, 3.0]),
        dict: lambda: {"a": np.array([2.0, 3.0])}, set: lambda: {2.0, 3.0},
    }[make]()  # fmt: skip

    def factor(c: Any) -> Any:
        return float(np.sum(c["a"] if isinstance(c, dict) else sorted(c)))

    try:

        @ag.custom(x=lambda g, c: g * factor(c))
        def test_scaled(x: Any, /, c: Any) -> Any:
            return x * factor(c)

        x = variable(X)
        out = test_scaled(x, c=held)
        if isinstance(held, dict):
            held["a"][0] = 50.0
        elif isinstance(held, set):
            held.add(50.0)
        else:
            held[0] = 50.0
        out.backward(np.ones(3))
        np.testing.assert_array_equal(gradient(x), np.full(3, 5.0))
    finally:
        registry.pop("test_scaled"), functions.pop("test_scaled")


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "SGD": lambda p: ag.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda p: ag.optim.Adam(p, lr=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimiser_shares_nothing_with_what_goes_in_and_out(name: str) -> None:
    """Gradients, parameters and states may be changed after a step; tapes recorded before it keep their point."""

    def run(meddle: bool) -> Any:
        p = variable(X)
        optimizer = OPTIMIZERS[name]([p])
        before = (p * p * p).sum()
        for _ in range(3):
            optimizer.zero_grad()
            (p * p).sum().backward()
            grad, value, state = p.grad, p.numpy(), optimizer.state_dict()
            optimizer.step()
            if meddle:
                assert grad is not None
                grad *= 1000.0
                assert np.all(value <= 3.0) and not value.flags.writeable
                for slots in state["state"]:
                    for slot in slots.values():
                        if isinstance(slot, np.ndarray):
                            slot *= 1000.0
        state = optimizer.state_dict()
        optimizer.load_state_dict(state)
        if meddle:
            for slots in state["state"]:
                slots.clear()
        optimizer.zero_grad()
        (p * p).sum().backward()
        optimizer.step()
        p.grad = None
        before.backward()
        return p.numpy().copy(), gradient(p)

    for a, b in zip(run(meddle=True), run(meddle=False), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_state_that_is_loaded_or_saved_is_a_copy() -> None:
    model = ag.nn.Linear(3, 2)
    state = model.state_dict()
    expected = {k: v.copy() for k, v in state.items()}
    model.load_state_dict(state)
    for v in state.values():
        v *= 7.0
    for k, v in model.state_dict().items():
        np.testing.assert_array_equal(v, expected[k])


@pytest.mark.parametrize("how", ["argument", "closure", "tensor", "leaf", "index"])
def test_a_compiled_result_keeps_the_point_it_was_computed_at(how: str) -> None:
    held: Any = ag.tensor(NUMBERS) if how == "tensor" else NUMBERS.copy()
    index = PLACES.copy()

    @ag.compile
    def program(x: Any, c: Any) -> Any:
        if how == "index":
            return (x[c] ** 2).sum()
        return (x * x * (held if how in ("closure", "tensor") else c)).sum()

    for _ in range(3):
        x = variable(X)
        c = index if how == "index" else held
        out = program(x, np.ones(3) if how in ("closure", "tensor") else c)
        expected = np.array([2.0, 0.0, 12.0]) if how == "index" else 2 * X * np.asarray(held)
        if how == "index":
            index[:] = 1
        elif how == "leaf":
            with ag.no_grad():
                x *= 100.0
        else:
            held *= 100.0
        out.backward()
        np.testing.assert_array_equal(gradient(x), expected)
        index[:] = PLACES
        if how not in ("index", "leaf"):
            held[...] = NUMBERS


# --- views --------------------------------------------------------------------------------------------------------


def outcome(write: Callable[[Any], Any], y: Any, v: Any) -> Any:
    """What a write into v leaves in y and v, or that it was refused."""
    before = np.array(y if isinstance(y, np.ndarray) else y.numpy())
    held = np.array(v if isinstance(v, np.ndarray | np.generic) else v.numpy())
    try:
        write(v)
    except RuntimeError as error:
        assert "still in use" in str(error)
        np.testing.assert_array_equal(y.numpy(), before)
        np.testing.assert_array_equal(v.numpy(), held)
        return None
    return [np.array(t if isinstance(t, np.ndarray | np.generic) else t.numpy()) for t in (y, v)]


def scaled(v: Any) -> None:
    v *= 10.0


def filled(v: Any) -> None:
    v[...] = 7.0


def partly(v: Any) -> None:
    if v.ndim:
        v[:1] += 5.0
    else:
        v += 5.0


WRITES = [scaled, filled, partly]
MAKES: dict[str, Callable[[Any], Any]] = {
    "constant": ag.tensor, "recorded": lambda a: variable(a) * 1.0, "leaf": variable,
}  # fmt: skip
if ag.cuda.is_available():
    MAKES["on the GPU"] = lambda a: ag.tensor(a, device="cuda")


def agrees(read: Callable[[Any], Any], write: Callable[[Any], None], make: str, base: np.ndarray[Any, Any]) -> None:
    """A write into what was read does what NumPy does to both, or is refused where NumPy would change both."""
    theirs = base.copy()
    part = read(theirs)
    if not isinstance(part, np.ndarray):
        return  # a number, that no write changes
    shared = np.shares_memory(part, theirs)
    if not part.flags.writeable:
        return
    y = MAKES[make](base)
    with ag.set_grad_enabled(make != "leaf"):
        found = outcome(write, y, read(y))
    if found is None:
        assert shared or not part.size or read.__name__ == "in_doubt"
        return
    assert not (shared and part.size), "it did not write into both"
    write(part)
    np.testing.assert_array_equal(found[0], theirs)
    np.testing.assert_array_equal(found[1], part)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_a_write_into_what_was_read_by_index(data: st.DataObject) -> None:
    """Any index: integers, slices, ellipses, new axes, arrays of integers, masks."""
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=4))
    basic = hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True)
    index = data.draw(st.one_of(basic, hnp.integer_array_indices(shape), hnp.arrays(bool, shape)))
    base = np.arange(1.0, 1.0 + np.prod(shape)).reshape(shape)
    write, make = data.draw(st.sampled_from(WRITES)), data.draw(st.sampled_from(list(MAKES)))
    agrees(lambda a: a[index], write, make, base)


READS: dict[str, Callable[[Any], Any]] = {
    "T": lambda a: a.T,
    "transpose": lambda a: np.transpose(a, (1, 0, 2)),
    "swapaxes": lambda a: a.swapaxes(0, 2),
    "moveaxis": lambda a: np.moveaxis(a, 0, -1),
    "reshape": lambda a: a.reshape(4, 6),
    "ravel": np.ravel,
    "flatten": lambda a: a.flatten(),
    "squeeze": lambda a: np.squeeze(a[:1]),
    "expand_dims": lambda a: np.expand_dims(a, 0),
    "flip": lambda a: np.flip(a, 1),
    "split": lambda a: np.split(a, 2)[1],
    "row of T": lambda a: a.T[0],
    "slice of a slice": lambda a: a[1:][0],
    "integer of NumPy": lambda a: a[np.int64(1)],
    "integer of NumPy and a slice": lambda a: a[np.int32(0), 1:],
    "one element": lambda a: a[0, 0, 0, ...],
    "one element of a vector": lambda a: a.ravel()[:1].reshape(()),
    "iterated": lambda a: next(iter(a)),
    "diagonal": lambda a: np.einsum("iji->ij", a[:2, :, :2]),
    "einsum": lambda a: np.einsum("ijk->kij", a),
    "copy": lambda a: a[:1].copy(),
    "sum": lambda a: np.sum(a, axis=()) * 1.0,
    "astype": lambda a: a.astype(float),
    "concatenate": lambda a: np.concatenate([a, a]),
    "take": lambda a: np.take(a, [0], axis=0),
    "roll": lambda a: np.roll(a, 0),
    "repeat": lambda a: np.repeat(a, 1, axis=0),
    "tile": lambda a: np.tile(a, 1),
    "where": lambda a: np.where(True, a, a),
    "clip": lambda a: np.clip(a, -100, 100),
}


def in_doubt(a: Any) -> Any:
    """NumPy copies here, but would not with other strides."""
    return a.T.reshape(4, 6)


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("write", WRITES, ids=lambda w: w.__name__)
@pytest.mark.parametrize("name", [*READS, "in doubt"])
def test_a_write_into_what_a_function_returned(name: str, write: Any, make: str) -> None:
    agrees(READS.get(name, in_doubt), write, make, np.arange(24.0).reshape(2, 3, 4))


def test_a_view_that_is_only_read_is_broadcast() -> None:
    """NumPy's result cannot be written to at all."""
    y = ag.tensor([1.0, 2.0])
    v = ag.broadcast_to(y, (3, 2))
    with pytest.raises(RuntimeError, match="still in use"):
        v[0] = 5.0
    np.testing.assert_array_equal(y.numpy(), [1.0, 2.0])


Y = np.array([[1.0, 2.0], [3.0, 4.0]])


def chained(y: Any) -> None:
    y[0][1] = 5.0


def chained_update(y: Any) -> None:
    y[0][1] += 5.0


def updated_twice(y: Any) -> None:
    y[0][1:] *= 5.0


def transposed(y: Any) -> None:
    y.T[0] = 5.0


def in_a_list(y: Any) -> None:
    parts = [y[0], y[1]]
    parts[0] *= 5.0


def in_a_dict(y: Any) -> None:
    parts = {"row": y[0]}
    parts["row"] *= 5.0


def in_an_attribute(y: Any) -> None:
    class Holder:
        row = y[0]

    Holder.row *= 5.0


def in_a_loop(y: Any) -> None:
    for row in y:
        row *= 5.0


def by_a_call(y: Any) -> None:
    operator.imul(y[0], 5.0)


def by_a_method(y: Any) -> None:
    y[0].__imul__(5.0)


def put_into_a_list(y: Any) -> None:
    kept = [None]
    kept[0] = operator.imul(y[0], 5.0)


def kept_in_a_cell(y: Any) -> None:
    row = y[0]

    def update() -> None:
        nonlocal row
        row *= 5.0

    update()


def assigned(y: Any) -> None:
    if isinstance(y, np.ndarray):
        y[0][...] = 5.0
    else:
        y[0].assign(np.full(2, 5.0))


LOST = [
    chained, chained_update, updated_twice, transposed, in_a_list, in_a_dict, in_an_attribute, in_a_loop, by_a_call,
    by_a_method, put_into_a_list, kept_in_a_cell, assigned,
]  # fmt: skip


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("write", LOST, ids=lambda w: w.__name__)
def test_a_write_that_would_be_lost_is_refused(write: Callable[[Any], None], make: str) -> None:
    """Each of these changes y in NumPy."""
    theirs = Y.copy()
    write(theirs)
    assert not np.array_equal(theirs, Y)
    y = MAKES[make](Y)
    with ag.set_grad_enabled(make != "leaf"), pytest.raises(RuntimeError, match="still in use"):
        write(y)
    np.testing.assert_array_equal(y.numpy(), Y)
    if make == "recorded":
        y.sum().backward()


def part(y: Any) -> Any:
    y[:1] *= 10.0
    y[0, 1:] += y[1, :1]
    y[..., 0] -= 1.0
    y[-1] /= 2.0
    y[:, ::-1] **= 2.0
    return y


def part_of_an_attribute(y: Any) -> Any:
    class Holder:
        pass

    holder: Any = Holder()
    holder.y = y
    holder.y[:1] *= 10.0
    holder.y[1:, 0] += 1.0
    return y


def part_beside_a_view(y: Any) -> Any:
    row, last = y[0], y[1]
    y[0] += 2.0 * last
    y[:, 0] *= 3.0
    del row, last
    return y


def part_in_a_generator(y: Any) -> Any:
    def steps() -> Any:
        for k in range(2):
            y[k] *= 10.0 + k
            yield k

    list(steps())
    return y


def part_with_spread_lines(y: Any) -> Any:
    y[
        0,
        :,
    ] *= (
        3.0
        + 1.0
    )  # fmt: skip
    return y


PARTS = [part, part_of_an_attribute, part_beside_a_view, part_in_a_generator, part_with_spread_lines]


@pytest.mark.parametrize("program", PARTS, ids=lambda p: p.__name__)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_part_is_updated_as_ever(program: Callable[[Any], Any], compiled: bool) -> None:
    """`y[i] += v` reads a view, writes into it, and puts it back."""
    expected = program(Y.copy())
    compile = ag.compile if compiled else lambda f: f
    value = compile(lambda y: program(y * 1.0))
    slope = compile(ag.grad(lambda x: (program(x * 1.0) ** 2).sum()))
    x = variable(Y)
    (program(x * 1.0) ** 2).sum().backward()
    for _ in range(3):
        np.testing.assert_allclose(value(ag.tensor(Y)).numpy(), expected, rtol=1e-15)
        np.testing.assert_allclose(slope(Y).numpy(), gradient(x), rtol=1e-14)
    y = ag.tensor(Y)
    assert program(y) is y
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-15)
    ag.check_grad(lambda x: program(x * 1.0), Y)


def test_what_nobody_shares_is_written_to() -> None:
    """Once the source is gone, or after a copy, a view is a tensor like others."""
    y = variable(Y) * 1.0
    v = y[0].copy()
    v *= 10.0
    flat = (y * 2.0).reshape(4)
    flat[0] = 7.0
    flat *= 2.0
    y = y.T
    y[0] = 1.0
    np.testing.assert_array_equal(v.numpy(), [10.0, 20.0])
    np.testing.assert_array_equal(flat.numpy(), [14.0, 8.0, 12.0, 16.0])
    np.testing.assert_array_equal(y.numpy(), [[1.0, 1.0], [2.0, 4.0]])
    row, rest = y[0], y[1:]
    y[0] *= 5.0
    del y
    with pytest.raises(RuntimeError, match="read from a tensor without a copy, and what else was read from it"):
        row *= 2.0
    del rest
    row *= 2.0
    np.testing.assert_array_equal(row.numpy(), [2.0, 2.0])
    again = row[:1]
    row[0] = 3.0
    with pytest.raises(RuntimeError, match="'again' of shape \\(1,\\) was read from 'row'"):
        again += 1.0


def test_a_loop_of_views_keeps_nothing() -> None:
    y = ag.tensor(np.arange(2000.0))
    for _ in range(1000):
        y = y[1:]
    y[0] = 5.0
    assert y.shape == (1000,)
    assert y._base is None or y._base() is y


def test_a_refusal_names_both_and_the_line() -> None:
    model = variable(Y) * 1.0
    shallow = model[:1]
    with pytest.raises(RuntimeError) as error:
        shallow *= 10.0
    message = str(error.value)
    for expected in (
        r"test_mutation.py:", "(shallow *= 10.0)", "'shallow' of shape (1, 2)", "'model' of shape (2, 2)",
        "y[:2] *= 10", "v = y[:2].copy()",
    ):  # fmt: skip
        assert expected in message
    with pytest.raises(RuntimeError, match=r"x\[\.\.\.\] = v at test_mutation.py:\d+ \(shallow\[0, 0\] = 1.0\)"):
        shallow[0, 0] = 1.0


@pytest.mark.parametrize("write", LOST[:-1], ids=lambda w: w.__name__)
def test_a_compiled_function_refuses_what_it_refuses_uncompiled(write: Callable[[Any], None]) -> None:
    @ag.compile
    def program(x: Any) -> Any:
        y = x * 1.0
        write(y)
        return y.sum()

    with pytest.raises(RuntimeError, match="still in use"):
        program(variable(Y))


def test_a_view_passed_to_a_compiled_function() -> None:
    """It is refused in the call in which the source is in use, whichever that is."""

    @ag.compile
    def double(v: Any) -> None:
        v *= 2.0

    y = ag.tensor(Y)
    v = y[0]
    with pytest.raises(RuntimeError, match="still in use"):
        double(v)
    alone = ag.tensor(Y)[0]
    for factor in (2.0, 4.0, 8.0):
        double(alone)
        np.testing.assert_array_equal(alone.numpy(), factor * Y[0])
        with pytest.raises(RuntimeError, match="still in use"):
            double(v)
    np.testing.assert_array_equal(y.numpy(), Y)
    np.testing.assert_array_equal(v.numpy(), Y[0])
    del y
    double(v)
    np.testing.assert_array_equal(v.numpy(), 2.0 * Y[0])


def test_tape_and_view_survive_a_refusal() -> None:
    x = variable(Y)
    y = x * x
    v = y[0]
    with pytest.raises(RuntimeError, match="still in use"):
        v *= variable(3.0)
    (y.sum() + v.sum()).backward()
    np.testing.assert_array_equal(gradient(x), 2 * Y * np.array([[2.0], [1.0]]))


# --- code of users' own ops ---------------------------------------------------------------------------------------


def test_an_op_cannot_write_into_its_operand() -> None:
    @ag.custom(x=lambda g: 2.0 * g)
    def doubled_in_place(x: Any, /) -> Any:
        x *= 2.0
        return x

    x = ag.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(ValueError, match=r"doubled_in_place: .*read-only"):
        doubled_in_place(x)
    np.testing.assert_array_equal(x.numpy(), [1.0, 2.0])


def test_a_rule_cannot_write_into_the_cotangent() -> None:
    @ag.custom(x=lambda g: np.multiply(g, 3.0, out=g))
    def tripled(x: Any, /) -> Any:
        return 3.0 * x

    a, b = ag.tensor([1.0, 2.0], requires_grad=True), ag.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(ValueError, match="read-only"):
        (b + tripled(a)).sum().backward()
    assert a.grad is None and b.grad is None
