"""The reverse pass, its events, its errors; functions of functions of any order; and the tests of derivatives."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import autograd_geo as ag
from autograd_geo.backward import Accumulate, Local, Seed, Write, events
from autograd_geo.op import functions, registry
from autograd_geo.tape import Entry

A = np.array([0.5, -1.5, 2.0])


@pytest.fixture(autouse=True)
def own_ops() -> Iterator[None]:
    """Ops declared in a test are gone after it."""
    saved = dict(registry), dict(functions)
    yield
    for table, before in zip((registry, functions), saved, strict=True):
        for name in set(table) - set(before):
            del table[name]  # type: ignore[attr-defined]


def variable(value: Any, **options: Any) -> ag.Tensor:
    return ag.tensor(value, requires_grad=True, **options)


def entry(t: ag.Tensor) -> Entry:
    assert t._entry is not None
    return t._entry


def gradient(x: ag.Tensor) -> np.ndarray[Any, Any]:
    assert x.grad is not None
    return x.grad.numpy()


def close(found: Any, expected: Any, **options: Any) -> None:
    """Equal nesting, equal shapes, equal numbers."""
    if isinstance(expected, dict):
        assert isinstance(found, dict) and list(found) == list(expected)
        for key in expected:
            close(found[key], expected[key], **options)
    elif isinstance(expected, list | tuple):
        assert type(found) is type(expected) and len(found) == len(expected)
        for f, e in zip(found, expected, strict=True):
            close(f, e, **options)
    else:
        assert isinstance(found, ag.Tensor)
        assert found.shape == np.shape(expected)
        np.testing.assert_allclose(found.numpy(), expected, **{"rtol": 1e-12, "atol": 1e-14, **options})


# --- events ---------------------------------------------------------------------------------------------------


def test_the_events_of_the_lecture() -> None:
    """((x + y) z)^2 at (-2, 5, -4): every number of the pass, in order."""
    x, y, z = (variable(v, name=n) for n, v in {"x": -2.0, "y": 5.0, "z": -4.0}.items())
    f = ((x + y) * z) ** 2
    square = entry(f)
    product = square.inputs[0]
    assert isinstance(product, Entry)
    total = product.inputs[0]
    assert list(events(square, 1.0, retain=True)) == [
        (Seed, square, 1.0),
        (Local, square, 0, 1.0, -24.0),
        (Local, product, 0, -24.0, 96.0),
        (Local, product, 1, -24.0, -72.0),
        (Local, total, 0, 96.0, 96.0),
        (Local, total, 1, 96.0, 96.0),
        (Write, entry(z), -72.0),
        (Write, entry(x), 96.0),
        (Write, entry(y), 96.0),
    ]
    f.backward()
    assert [t.grad.item() for t in (x, y, z)] == [96.0, 96.0, -72.0]  # type: ignore[union-attr]


def test_an_event_knows_its_fields() -> None:
    x = variable(3.0)
    f = x * x
    found = [kind(*fields) for kind, *fields in events(entry(f), 2.0, retain=True)]
    assert found == [
        Seed(entry=entry(f), cotangent=2.0),
        Local(entry=entry(f), operand=0, cotangent=2.0, contribution=6.0),
        Local(entry=entry(f), operand=1, cotangent=2.0, contribution=6.0),
        Accumulate(entry=entry(x), contribution=6.0, total=12.0),
        Write(entry=entry(x), cotangent=12.0),
    ]
    with pytest.raises(AttributeError):
        found[0].cotangent = 5.0  # type: ignore[misc]


def test_where_paths_meet_contributions_accumulate() -> None:
    x, y = variable(2.0), variable(5.0)
    f = (x + y) * x
    kinds = [(kind.__name__, *[v for v in fields if isinstance(v, float)]) for kind, *fields in events(entry(f), 1.0)]
    assert kinds == [
        ("Seed", 1.0), ("Local", 1.0, 2.0), ("Local", 1.0, 7.0), ("Local", 2.0, 2.0), ("Accumulate", 2.0, 9.0),
        ("Local", 2.0, 2.0), ("Write", 9.0), ("Write", 2.0),
    ]  # fmt: skip


def test_an_output_that_is_a_leaf_is_seeded_and_written() -> None:
    x = variable([1.0, 2.0])
    seed = np.array([3.0, 4.0])
    assert [kind for kind, *_ in events(entry(x), seed)] == [Seed, Write]
    x.backward(seed)
    np.testing.assert_array_equal(gradient(x), seed)


def test_a_pass_can_pause_anywhere() -> None:
    """The generator does what has been asked for so far and nothing else; leaves are written last."""
    x = variable(np.linspace(0.1, 1.0, 100))
    out = (ag.exp(x) * ag.sin(x)).sum()
    steps = events(entry(out), 1.0)
    for _ in range(3):
        next(steps)
    assert x.grad is None
    steps.close()
    with pytest.raises(RuntimeError, match="consumed"):
        out.backward()


def program(kind: str) -> tuple[ag.Tensor, list[ag.Tensor], Any]:
    """A tape of many kinds of ops, its leaves, and a cotangent."""
    dtype = np.float32 if kind == "float32" else np.float64
    if kind == "scalar":
        x, y = variable(0.7), variable(1.3)
        h = ag.sin(x * y) + ag.exp(-x) / y
        return h * h + ag.where(x > y, x, y) * ag.maximum(x, y) ** x, [x, y], 1.0
    rng = np.random.default_rng(0)
    w, x = variable(rng.normal(size=(4, 3)).astype(dtype)), variable(rng.normal(size=(5, 4)).astype(dtype))
    b = variable(rng.normal(size=3).astype(dtype))
    h = ag.tanh(x @ w + b)
    h[1:3] = h[:2] * b
    h *= ag.softmax(h, axis=0)
    out = ag.concatenate([h, h.sum(axis=1, keepdims=True)], axis=1).max(axis=0) + b[0]
    return out, [w, x, b], rng.normal(size=4).astype(dtype)


@pytest.mark.parametrize("kind", ["scalar", "array", "float32"])
def test_draining_the_events_is_backward_bit_for_bit(kind: str) -> None:
    out, leaves, seed = program(kind)
    drained = {e: g for kind_, e, g in [ev for ev in events(entry(out), seed, retain=True) if ev[0] is Write]}
    assert set(drained) == {entry(x) for x in leaves}
    out.backward(seed)
    for x in leaves:
        assert x.grad is not None
        np.testing.assert_array_equal(np.asarray(drained[entry(x)]), x.grad.numpy())
        assert np.asarray(drained[entry(x)]).dtype == x.dtype == x.grad.dtype


def test_sums_of_cotangents_write_into_no_array_that_anything_else_holds() -> None:
    kept = np.full(3, 5.0)

    @ag.custom(x=lambda g: kept)
    def held(x, /):
        return 2.0 * x

    @ag.custom(x=lambda g: kept[:])
    def viewed(x, /):
        return 2.0 * x

    x, y = (ag.tensor(np.arange(3.0), requires_grad=True) for _ in range(2))
    seed = np.ones(3)
    (held(x) + held(x) + viewed(x) + viewed(x) + x).backward(seed)
    np.testing.assert_array_equal(kept, 5.0)
    np.testing.assert_array_equal(seed, 1.0)
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), 21.0)
    before = x.grad.numpy()
    (x + (y + (x + (x + y)))).backward(seed)  # one cotangent array goes to both inputs of a sum
    np.testing.assert_array_equal(before, 21.0)
    np.testing.assert_array_equal(x.grad.numpy(), 24.0)
    np.testing.assert_array_equal(y.grad.numpy(), 2.0)


@pytest.mark.parametrize("kind", ["scalar", "array", "float32"])
def test_a_recorded_pass_finds_the_same_numbers(kind: str) -> None:
    out, leaves, seed = program(kind)
    out.backward(seed, retain_graph=True)
    first = [gradient(x).copy() for x in leaves]
    for x in leaves:
        x.grad = None
    out.backward(seed, create_graph=True)
    for x, g in zip(leaves, first, strict=True):
        np.testing.assert_allclose(gradient(x), g, rtol=1e-5 if kind == "float32" else 1e-13, atol=1e-7)
        assert x.grad is not None and x.grad.dtype == x.dtype


def test_two_runs_give_the_same_bits() -> None:
    def run() -> list[bytes]:
        out, leaves, seed = program("array")
        out.backward(seed)
        return [gradient(x).tobytes() for x in leaves]

    assert run() == run()


# --- backward(gradient) and what it refuses ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seed",
    [
        np.array([1.0, 10.0, 100.0]), [1.0, 10.0, 100.0], (1, 10, 100), np.array([1, 10, 100]),
        ag.tensor([1.0, 10.0, 100.0]),
        np.array([1.0, 10.0, 100.0], np.float32), np.array([1.0, 10.0, 100.0], ">f8"), ag.tensor([1, 10, 100]),
    ],
    ids=lambda s: f"{type(s).__name__} {getattr(s, 'dtype', '')}",
)  # fmt: skip
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("create_graph", [False, True])
def test_backward_takes_a_gradient_for_any_output(seed: Any, dtype: Any, create_graph: bool) -> None:
    x = variable(A.astype(dtype))
    (x * x).backward(seed, create_graph=create_graph)
    np.testing.assert_array_equal(gradient(x), (2 * A * [1, 10, 100]).astype(dtype))
    assert gradient(x).dtype == dtype
    leaf = variable(A.astype(dtype))
    leaf.backward(seed, create_graph=create_graph)
    assert gradient(leaf).dtype == dtype


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_one_element_needs_no_gradient(shape: tuple[int, ...], dtype: Any) -> None:
    x = variable(np.full(shape, 3.0, dtype))
    (x * x).backward()
    np.testing.assert_array_equal(gradient(x), np.full(shape, 6.0, dtype))
    assert gradient(x).dtype == dtype


@pytest.mark.parametrize("seed", [2.0, 2, np.float64(2.0), np.float32(2.0), np.array(2.0), True], ids=repr)
def test_a_number_takes_a_number(seed: Any) -> None:
    x = variable(3.0)
    (x * x).backward(seed)
    assert gradient(x).item() == 6.0 * seed


REFUSED: dict[str, tuple[Callable[[ag.Tensor], Any], type[Exception], str]] = {
    "no gradient": (lambda x: (x * x).backward(), ValueError, r"(?s)multiply.*\.sum\(\).*\.mean\(\).*shape \(3,\)"),
    "an empty output": (lambda x: x[:0].backward(), ValueError, r"\.sum\(\)"),
    "number": (lambda x: (x * x).backward(1.0), ValueError, r"shape \(\), the tensor \(3,\)"),
    "too long": (lambda x: (x * x).backward(np.ones(4)), ValueError, r"shape \(4,\), the tensor \(3,\)"),
    "column": (lambda x: (x * x).backward(np.ones((3, 1))), ValueError, r"shape \(3, 1\), the tensor \(3,\)"),
    "one of one": (lambda x: x.sum().backward([1.0]), ValueError, r"shape \(1,\), the tensor \(\)"),
    "tensor of another shape": (lambda x: (x * x).backward(ag.tensor(np.ones(2))), ValueError, r"shape \(2,\)"),
    "complex": (lambda x: (x * x).backward(np.ones(3) * 1j), TypeError, "complex"),
    "text": (lambda x: (x * x).backward(["a", "b", "c"]), TypeError, "text"),
    "objects": (lambda x: (x * x).backward(np.array([None] * 3)), TypeError, "objects"),
    "dates": (lambda x: (x * x).backward(np.array(["2026-01-01"] * 3, "M8[D]")), TypeError, "dates"),
    "masked": (lambda x: (x * x).backward(np.ma.masked_array(A, A > 0)), TypeError, "mask"),
    "ragged": (lambda x: (x * x).backward([[1.0], [2.0, 3.0]]), ValueError, "equal lengths"),
    "detached": (
        lambda x: (x * x).detach().sum().backward(),
        RuntimeError,
        r"(?s)nothing.*requires_grad=True.*no_grad",
    ),
    "constant": (lambda x: ag.tensor(1.0).backward(), RuntimeError, "nothing that requires a gradient"),
    "under no_grad": (lambda x: unrecorded(x).backward(), RuntimeError, "nothing that requires a gradient"),
    "comparison": (lambda x: (x > 0).backward(np.ones(3)), RuntimeError, "nothing that requires a gradient"),
    "integers": (lambda x: x.astype(int).sum().backward(), RuntimeError, "nothing that requires a gradient"),
}


def unrecorded(x: ag.Tensor) -> ag.Tensor:
    with ag.no_grad():
        return (x * x).sum()


@pytest.mark.parametrize("name", REFUSED)
def test_backward_refuses_what_has_no_meaning(name: str) -> None:
    call, error, message = REFUSED[name]
    x = variable(A)
    (x * 3.0).sum().backward()
    held = x.grad
    with pytest.raises(error, match=message):
        call(x)
    assert x.grad is held
    np.testing.assert_array_equal(gradient(x), [3.0, 3.0, 3.0])
    (x * x).sum().backward()
    np.testing.assert_array_equal(gradient(x), 3.0 + 2 * A)


def test_a_refused_gradient_leaves_the_tape_whole() -> None:
    x = variable(A)
    out = x * x
    for wrong in (None, 1.0, np.ones(4), "text"):
        with pytest.raises((ValueError, TypeError)):
            out.backward(wrong)
    out.backward(np.ones(3))
    np.testing.assert_array_equal(gradient(x), 2 * A)


def test_a_failing_rule_changes_no_gradient() -> None:
    @ag.custom(x=lambda g: 1 / 0)
    def test_fails(x: Any, /) -> Any:
        return x * 1.0

    x, y = variable(A), variable(A)
    with pytest.raises(ZeroDivisionError):
        ((x * 2.0).sum() + test_fails(y * 3.0).sum()).backward()
    assert (x.grad, y.grad) == (None, None)


@pytest.mark.parametrize(
    "data",
    [1, True, [1, 2], np.arange(3), np.array([True]), np.uint8(3), ag.tensor([1, 2]), np.zeros((0,), int)],
    ids=repr,
)
@pytest.mark.parametrize("make", ["tensor", "Parameter", "requires_grad_", "attribute"])
def test_integers_cannot_require_a_gradient(data: Any, make: str) -> None:
    t = ag.tensor(data)
    with pytest.raises(TypeError, match=r"(?s)floating-point.*dtype"):
        if make == "tensor":
            ag.tensor(data, requires_grad=True)
        elif make == "Parameter":
            ag.Parameter(data)
        elif make == "requires_grad_":
            t.requires_grad_()
        else:
            t.requires_grad = True
    assert not t.requires_grad
    assert ag.tensor(data, requires_grad=True, dtype=float).requires_grad


MEANINGLESS: dict[str, Any] = {
    "object array": np.array([1.0, None]),
    "objects": [object()],
    "None": None,
    "text": "1.5",
    "texts": np.array(["1.5"]),
    "bytes": b"1.5",
    "dict": {"a": 1.0},
    "set": {1.0},
    "dates": np.array(["2026-11-01"], "M8[s]"),
    "date": np.datetime64("2026-11-01"),
    "spans": np.array([1, 2], "m8[h]"),
    "complex": np.array([1j]),
    "complex number": 1 + 2j,
    "masked": np.ma.masked_array([1.0, 1e20], [False, True]),
    "masked without a mask": np.ma.masked_array([1.0]),
    "records": np.zeros(2, [("a", float), ("b", int)]),
    "ragged": [[1.0, 2.0], [3.0]],
    "huge integer": 2**80,
    "mixed": [1.0, "a"],
    "generator": (k for k in range(3)),
}


@pytest.mark.parametrize("name", MEANINGLESS)
def test_tensors_of_what_is_no_number_are_refused(name: str) -> None:
    data = MEANINGLESS[name]
    for make in (ag.tensor, ag.Parameter, lambda d: ag.tensor(d, requires_grad=True)):
        with pytest.raises((TypeError, ValueError)) as error:
            make(data)
        assert len(str(error.value)) > 30, "the message teaches"
    with pytest.raises((TypeError, ValueError)):
        ag.grad(lambda x: x)(data)


@pytest.mark.parametrize("dtype", [complex, object, str, "M8[s]", "m8[s]", "V4"])
def test_other_dtypes_are_refused(dtype: Any) -> None:
    with pytest.raises(TypeError, match="a tensor holds numbers"):
        ag.tensor([1.0], dtype=dtype)
    with pytest.raises(TypeError, match="a tensor holds numbers"):
        ag.tensor([1.0]).astype(dtype)


def test_a_dtype_is_native_however_it_is_asked_for() -> None:
    for t in (ag.tensor([1.0], dtype=">f8"), ag.tensor([1.0]).astype(">f8"), ag.tensor(np.array([1.0], ">f8"))):
        assert t.dtype == np.float64 and t.dtype.isnative


# --- create_graph -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [2.0, np.float32(2.0), np.array([1.0, 2.0])], ids=["number", "float32", "array"])
def test_gradients_can_be_differentiated_again(value: Any) -> None:
    x = variable(value)
    g: Any = (x**4).sum()
    for expected in (4 * value**3, 12 * value**2, 24 * value):
        x.grad = None
        g.backward(create_graph=True)
        assert x.grad is not None and x.grad.requires_grad
        np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-6)
        g = x.grad.sum()
    x.grad = None
    g.backward()
    assert x.grad is not None and not x.grad.requires_grad
    np.testing.assert_allclose(gradient(x), 24 * np.ones_like(value), rtol=1e-6)


def test_a_gradient_penalty() -> None:
    w, x = variable([[1.0, -2.0], [0.5, 1.0]]), np.array([0.3, 0.7])

    def loss(w: Any) -> Any:
        slope = ag.grad(lambda t: ag.tanh(w @ t).sum())(x)
        return (slope * slope).sum()

    point = variable(x)
    ag.tanh(w @ point).sum().backward(create_graph=True)
    assert point.grad is not None
    w.grad = None
    (point.grad * point.grad).sum().backward()
    close(ag.grad(loss)(w.numpy()), gradient(w))
    ag.check_grad(loss, w.numpy())


def test_a_recorded_gradient_is_a_constant_to_the_first_pass_and_an_input_to_the_next() -> None:
    x, v = variable([1.0, 2.0]), variable([3.0, 4.0])
    (x * x).backward(v, create_graph=True)
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), [6.0, 16.0])
    assert v.grad is None
    x.grad.sum().backward()
    np.testing.assert_array_equal(gradient(v), [2.0, 4.0])


def test_accumulating_recorded_gradients() -> None:
    x = variable(2.0)
    (x**3).backward(create_graph=True)
    (x**2).backward(create_graph=True)
    total = x.grad
    assert total is not None and total.item() == 16.0
    x.grad = None
    total.backward()
    assert gradient(x).item() == 6 * 2.0 + 2.0


def test_without_create_graph_a_gradient_is_a_constant() -> None:
    x = variable(2.0)
    (x**3).backward()
    assert x.grad is not None
    with pytest.raises(RuntimeError, match="nothing that requires a gradient"):
        x.grad.backward()


def nothing() -> Any:
    return np.zeros((0, 3))


@pytest.mark.parametrize("program", [ag.prod, ag.sum, lambda x: (x @ np.ones((3, 2))).sum(), lambda x: ag.exp(x).sum()])
def test_a_gradient_of_nothing_is_a_tensor_too(program: Any) -> None:
    for create_graph in (False, True):
        x = variable(nothing())
        program(x).backward(create_graph=create_graph)
        assert isinstance(x.grad, ag.Tensor)
        assert (x.grad.shape, x.grad.dtype) == ((0, 3), np.float64)
    close(ag.jvp(program, (nothing(),), (nothing(),))[1], 0.0)
    close(ag.vjp(program, nothing())[1](1.0), (nothing(),))
    close(ag.grad(lambda x: ag.grad(program)(x).sum())(nothing()), nothing())


# --- grad, vjp, jvp, jacobian, hessian, hvp ---------------------------------------------------------------------

Layer = namedtuple("Layer", "weight bias")


def test_grad_of_numbers_and_arrays() -> None:
    close(ag.grad(lambda x: x**3)(2.0), 12.0)
    close(ag.grad(lambda x: x**3)(np.float64(2.0)), 12.0)
    close(ag.grad(lambda x: (x**3).sum())(A), 3 * A**2)
    close(ag.grad(lambda x: (x**3).sum())(A.tolist()[0]), 0.75)
    close(ag.grad(lambda x: (x**3).sum())(ag.tensor(A)), 3 * A**2)
    close(ag.grad(lambda x: (x * x).sum())(A.astype(np.float32)), np.float32(2 * A), rtol=1e-6)
    assert ag.grad(lambda x: (x * x).sum())(A.astype(np.float32)).dtype == np.float32
    close(ag.grad(lambda x: x * 2.0)(np.ones((1, 1))), np.full((1, 1), 2.0))


def test_grad_keeps_the_nesting() -> None:
    tree = {"a": 2.0, "b": [A, (3.0, None)], "c": Layer(np.eye(2), -1.0)}

    def fn(t: Any) -> Any:
        inner = t["b"][1]
        return t["a"] ** 2 * (t["b"][0] ** 2).sum() + inner[0] ** 3 + (t["c"].weight * 5.0).sum() * t["c"].bias

    value, found = ag.value_and_grad(fn)(tree)
    size = float((A**2).sum())
    assert value.item() == pytest.approx(4 * size + 27 - 10)
    assert isinstance(found["c"], Layer)
    assert found["b"][1][1] is None
    close([found["a"], found["b"][0], found["b"][1][0]], [4 * size, 8 * A, 27.0])
    close([found["c"].weight, found["c"].bias], [np.full((2, 2), -5.0), 10.0])


@pytest.mark.parametrize(
    "make",
    [dict, OrderedDict, lambda d: defaultdict(float, d), lambda d: [*d.values()], lambda d: Layer(*d.values())],
    ids=["dict", "OrderedDict", "defaultdict", "list", "namedtuple"],
)
def test_a_nesting_comes_back_as_it_went_in(make: Any) -> None:
    tree = make({"weight": A, "bias": 2.0})
    found = ag.grad(lambda t: sum((v * v).sum() for v in (t.values() if isinstance(t, dict) else t)))(tree)
    assert type(found) is type(tree)
    values = list(found.values() if isinstance(found, dict) else found)
    close(values, [2 * A, 4.0])


def test_argnums() -> None:
    def fn(x: Any, y: Any, scale: float = 1.0) -> Any:
        return x * y**2 * scale

    close(ag.grad(fn)(2.0, 3.0), 9.0)
    close(ag.grad(fn, 1)(2.0, 3.0), 12.0)
    close(ag.grad(fn, -1)(2.0, 3.0), 12.0)
    close(ag.grad(fn, np.int64(1))(2.0, 3.0), 12.0)
    close(ag.grad(fn, (0, 1))(2.0, 3.0), (9.0, 12.0))
    close(ag.grad(fn, [1])(2.0, 3.0), (12.0,))
    close(ag.grad(fn, range(2))(2.0, 3.0, scale=10.0), (90.0, 120.0))
    value, (dx, dy) = ag.value_and_grad(fn, (0, 1))(2.0, 3.0)
    close([value, dx, dy], [18.0, 9.0, 12.0])
    close(ag.jacobian(lambda x, y: x * y, 1)(A, A * 2), np.diag(A))
    close(ag.hessian(lambda x, y: (x * y**3).sum(), 1)(A, A), np.diag(6 * A * A))
    close(ag.jacobian(lambda x, y: x * y, -2)(A, A * 2), np.diag(A * 2))
    close(ag.hessian(lambda x, y: (x * y**3).sum(), -1)(A, A), np.diag(6 * A * A))
    with pytest.raises(TypeError, match="number 2"):
        ag.grad(fn, 2)(1.0, 2.0)


def test_the_same_tensor_twice_is_two_arguments() -> None:
    for x in (ag.tensor(A), variable(A), variable(A) * 1.0):
        dx, dy = ag.grad(lambda x, y: (x * x * y).sum(), (0, 1))(x, x)
        close([dx, dy], [2 * A * A, A * A])
        found = ag.grad(lambda d: (d["a"] * d["a"] * d["b"]).sum())({"a": x, "b": x})
        close(found, {"a": 2 * A * A, "b": A * A})


def test_has_aux() -> None:
    def fn(x: Any) -> Any:
        residual = x * 2.0
        return (residual**2).sum(), {"residual": residual, "note": "text", "worst": abs(residual).max()}

    (value, aux), found = ag.value_and_grad(fn, has_aux=True)(A)
    close([value, found], [4 * float((A**2).sum()), 8 * A])
    assert aux["note"] == "text"
    assert float(aux["worst"]) == 4.0
    np.testing.assert_array_equal(np.asarray(aux["residual"]), 2 * A)


def test_results_of_transforms_are_plain_numbers() -> None:
    """What a finished transform returns hangs on no tape: it is read, stored and summed as numbers are."""
    assert float(ag.grad(lambda x: x**2)(3.0)) == 6.0
    assert float(ag.value_and_grad(lambda x: x**2)(3.0)[0]) == 9.0
    assert float(ag.grad(lambda x: ag.grad(lambda y: x * y * y)(3.0))(2.0)) == 6.0
    assert float(ag.grad(lambda x: x * ag.grad(lambda y: x * y * y)(3.0))(2.0)) == 24.0
    assert float(ag.grad(lambda v: ag.jvp(lambda y: y**3, (3.0,), (v,))[1])(2.0)) == 27.0
    assert float(ag.grad(lambda v: ag.vjp(lambda y: y**3, 3.0)[1](v)[0])(2.0)) == 27.0
    assert float(ag.jvp(lambda x: x * ag.grad(lambda y: x * y * y)(3.0), (2.0,), (1.0,))[1]) == 24.0
    for found in (
        ag.jacobian(lambda x: x**2)(A), ag.hessian(lambda x: (x**3).sum())(A), ag.hvp(lambda x: (x**3).sum(), A, A),
        ag.jvp(lambda x: x**2, (A,), (A,))[0], *ag.vjp(lambda x: x**2, A)[1](A),
        ag.grad(lambda x: ag.hessian(lambda y: (y**3).sum() * x)(A).sum())(2.0),
    ):  # fmt: skip
        assert not found.requires_grad
        assert np.all(np.isfinite(np.asarray(found)))


def test_transforms_write_to_nothing_outside() -> None:
    w, x = variable(2.0), variable(A)
    close(ag.grad(lambda t: (t * t * w).sum())(x), 4 * A)
    ag.jacobian(lambda t: t * w)(x)
    ag.jvp(lambda t: t * w, (x,), (A,))
    ag.vjp(lambda t: t * w, x)[1](A)
    assert (w.grad, x.grad) == (None, None)


@pytest.mark.parametrize("transform", ["grad", "value_and_grad", "vjp", "jvp", "jacobian", "hessian"])
@pytest.mark.parametrize("result", [1.0, None, "text", A, object()], ids=lambda x: repr(x).split(" at 0x")[0])
def test_a_function_must_return_tensors(transform: str, result: Any) -> None:
    def fn(x: Any) -> Any:
        return result

    with pytest.raises(TypeError, match="must return a tensor"):
        if transform == "vjp":
            ag.vjp(fn, A)
        elif transform == "jvp":
            ag.jvp(fn, (A,), (A,))
        else:
            getattr(ag, transform)(fn)(A)
        if result is None and transform in ("vjp", "jvp"):
            raise TypeError("None is an empty nesting: the function must return a tensor only where one is needed")


def test_a_constant_result_has_zero_gradient() -> None:
    close(ag.grad(lambda x: ag.tensor(5.0))(A), np.zeros(3))
    close(ag.jacobian(lambda x: ag.tensor([1.0, 2.0]))(A), np.zeros((2, 3)))
    close(ag.jvp(lambda x: ag.tensor([1.0, 2.0]), (A,), (A,))[1], np.zeros(2))
    close(ag.grad(lambda x, y: ag.sum(y * y))(A, A), np.zeros(3))
    close(ag.hessian(lambda x: x.sum())(A), np.zeros((3, 3)))


@pytest.mark.parametrize("argument", [3, np.arange(3), [1.0, 2], True, {"a": 1}])
def test_arguments_of_transforms_are_floating_point(argument: Any) -> None:
    with pytest.raises(TypeError, match=r"grad: argument 0.*only floating-point.*2\.0 instead of 2"):
        ag.grad(lambda x: x)(argument)


def test_grad_needs_one_number() -> None:
    with pytest.raises(ValueError, match=r"one number, it returned shape \(3,\); see jacobian"):
        ag.grad(lambda x: x * 2)(A)


def test_vjp() -> None:
    out, pull = ag.vjp(lambda x, d: {"a": x * d["s"], "b": [(x**2).sum()]}, A, {"s": 2.0})
    close(out, {"a": 2 * A, "b": [float((A**2).sum())]})
    for _ in range(2):
        close(pull({"a": np.array([1.0, 0.0, 0.0]), "b": [0.0]}), (np.array([2.0, 0.0, 0.0]), {"s": 0.5}))
        close(pull({"a": np.zeros(3), "b": [1.0]}), (2 * A, {"s": 0.0}))
    with pytest.raises(ValueError, match="the cotangent must be a dict with the keys"):
        pull({"a": A})
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        pull({"a": np.ones(2), "b": [1.0]})
    close(ag.vjp(lambda x: (x.detach(), x * 1.0), A)[1]((A, A)), (A,))


@pytest.mark.parametrize("argument", ["plain", "recorded"])
def test_the_residual_may_be_pulled_back(argument: str) -> None:
    """J'(Jm) of a Gauss-Newton step, where the forward map holds parameters that require a gradient."""
    weight = np.array([[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]])
    w = variable(weight)
    m = np.array([1.0, -1.0])
    out, pull = ag.vjp(lambda m: w @ m, m if argument == "plain" else variable(m))
    close(pull(out), (weight.T @ (weight @ m),))
    close(pull(out * 2.0 - 1.0), (weight.T @ (2 * weight @ m - 1),))


def test_nestings_match_by_key_not_by_order() -> None:
    """A dict is the same dict in another order: what belongs to "a" stays with "a"."""

    def fn(d: Any) -> Any:
        return {"a": d["a"] * 2.0, "b": d["b"] ** 2}

    point, swapped = {"a": A, "b": A}, {"b": np.ones(3), "a": np.zeros(3)}
    for run, expected in (
        (lambda: ag.vjp(fn, point)[1](swapped), ({"a": np.zeros(3), "b": 2 * A},)),
        (lambda: ag.jvp(fn, (point,), (swapped,))[1], {"a": np.zeros(3), "b": 2 * A}),
        (lambda: ag.hvp(lambda d: ag.sum(fn(d)["b"]) * 1.0, point, swapped), {"a": np.zeros(3), "b": np.full(3, 2.0)}),
    ):
        try:
            found = run()
        except ValueError as error:
            assert len(str(error)) > 40
            continue
        close(found, expected)


@pytest.mark.parametrize("wrong", [{"a": A}, {"a": A, "c": A}, [A, A], (A, A), {"a": A, "b": [A]}, A])
def test_another_nesting_is_refused(wrong: Any) -> None:
    point = {"a": A, "b": A}

    def fn(d: Any) -> Any:
        return {"a": d["a"] * 2.0, "b": d["b"] ** 2}

    with pytest.raises((ValueError, TypeError)):
        ag.vjp(fn, point)[1](wrong)
    with pytest.raises((ValueError, TypeError)):
        ag.jvp(fn, (point,), (wrong,))


def test_jvp() -> None:
    value, tangent = ag.jvp(lambda x, d: [x * d["s"], (x**2).sum()], (A, {"s": 2.0}), (np.ones(3), {"s": 10.0}))
    close(value, [2 * A, float((A**2).sum())])
    close(tangent, [2 + 10 * A, float(2 * A.sum())])
    close(ag.jvp(lambda x: x, (A,), (A * 2,))[1], A * 2)
    close(ag.jvp(lambda x: (x, x + x), (A,), (A,))[1], (A, 2 * A))
    with pytest.raises(ValueError, match="1 primals; their tangents must be a tuple of 1"):
        ag.jvp(lambda x: x, (A,), (A, A))
    with pytest.raises(ValueError, match=r"shape \(\)"):
        ag.jvp(lambda x: x, (A,), (1.0,))


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x + np.ones(3), lambda x: x * np.ones(3), lambda x: (x * np.ones(3)).sum(),
        lambda x: x * np.float64(2.0),
        lambda x: ag.concatenate([x, np.ones(2)]), lambda x: ag.where(x > 0, x, np.zeros(3)), lambda x: x.astype(float),
        lambda x: x * 2.0, lambda x: ag.softmax(x), lambda x: x @ x, lambda x: x.max(),
    ],
)  # fmt: skip
def test_a_tangent_has_the_dtype_of_its_value(fn: Any) -> None:
    value, tangent = ag.jvp(fn, (A.astype(np.float32),), (A.astype(np.float32),))
    assert (tangent.dtype, tangent.shape) == (value.dtype, value.shape)


def test_jacobian_and_hessian() -> None:
    close(ag.jacobian(lambda x: x**2)(A), np.diag(2 * A))
    close(ag.jacobian(lambda x: ag.stack([x, x**2]))(A), np.stack([np.eye(3), np.diag(2 * A)]))
    close(ag.jacobian(lambda x: (x**2).sum())(A), 2 * A)
    close(ag.jacobian(lambda x: x * A)(2.0), A)
    close(ag.jacobian(lambda x: x[:0])(A), np.zeros((0, 3)))
    close(ag.jacobian(lambda x: x.reshape(3, 1) * 2)(A), 2 * np.eye(3).reshape(3, 1, 3))
    assert ag.jacobian(lambda x: x * 2)(A.astype(np.float32)).dtype == np.float32
    matrix = np.array([[2.0, 1.0, 0.0], [1.0, 3.0, 1.0], [0.0, 1.0, 1.0]])
    close(ag.hessian(lambda x: 0.5 * x @ matrix @ x)(A), matrix)
    close(ag.hessian(lambda x: x**4)(2.0), 48.0)

    def rosenbrock(x: Any) -> Any:
        return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()

    from scipy.optimize import rosen_der, rosen_hess, rosen_hess_prod

    close(ag.grad(rosenbrock)(A), rosen_der(A))
    close(ag.hessian(rosenbrock)(A), rosen_hess(A))
    close(ag.hvp(rosenbrock, A, A[::-1]), rosen_hess_prod(A, A[::-1]))


def test_hvp_of_a_nesting() -> None:
    def fn(d: Any) -> Any:
        return (d["a"] ** 2).sum() * d["b"]

    found = ag.hvp(fn, {"a": A, "b": 3.0}, {"a": np.ones(3), "b": 2.0})
    close(found, {"a": 2 * 3.0 * np.ones(3) + 2 * A * 2.0, "b": float(2 * A.sum())})


# --- nested -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "derivatives"),
    [
        (lambda x: x**5, (5, 20, 60)),
        (ag.exp, (np.e, np.e, np.e)),
        (lambda x: ag.sin(x * 2.0), (2 * np.cos(2), -4 * np.sin(2), -8 * np.cos(2))),
        (lambda x: 1.0 / x, (-1, 2, -6)),
        (lambda x: ag.log(x) * x, (1, 1, -1)),
        (lambda x: ag.sqrt(x), (0.5, -0.25, 0.375)),
        (lambda x: (x * np.ones(3)).prod(), (3, 6, 6)),
        (lambda x: ag.logsumexp(ag.stack([x, x * 2.0])), None),
        (lambda x: ag.softmax(ag.stack([x, x * x]))[0], None),
        (lambda x: ag.norm(ag.stack([x, x * x, 1.0])), None),
        (lambda x: ag.tanh(x) * ag.sigmoid(x) + ag.softplus(x), None),
        (lambda x: ag.hypot(x, 2.0) + ag.atan2(x, 3.0), None),
        (lambda x: ag.stack([x, 2.0 * x]) @ ag.stack([x, x * x]), (1 * 2 + 6, 2 + 12, 12)),
    ],
)
def test_three_orders(fn: Any, derivatives: Any) -> None:
    """grad in grad in grad, reverse over forward, forward over reverse and forward over forward agree."""

    def push(f: Any) -> Any:
        return lambda x: ag.jvp(f, (x,), (1.0,))[1]

    first, second, third = ag.grad(fn), ag.grad(ag.grad(fn)), ag.grad(ag.grad(ag.grad(fn)))
    found = [f(1.0).item() for f in (first, second, third)]
    if derivatives is not None:
        np.testing.assert_allclose(found, derivatives, rtol=1e-12)
    h = 1e-5
    for f, expected in ((fn, found[0]), (first, found[1]), (second, found[2])):
        slope = (f(1.0 + h).item() - f(1.0 - h).item()) / (2 * h) if f is not fn else None
        if slope is not None:
            assert slope == pytest.approx(expected, rel=1e-6, abs=1e-8)
    orders = [
        (push(fn), found[0]), (push(push(fn)), found[1]), (push(ag.grad(fn)), found[1]), (ag.grad(push(fn)), found[1]),
        (push(push(push(fn))), found[2]), (ag.grad(push(ag.grad(fn))), found[2]),
        (push(ag.grad(ag.grad(fn))), found[2]),
        (ag.grad(push(push(fn))), found[2]),
    ]  # fmt: skip
    for f, expected in orders:
        assert f(1.0).item() == pytest.approx(expected, rel=1e-10)


CONFUSING: dict[str, tuple[Callable[[], Any], float]] = {
    "x d/dy (x + y)": (lambda: ag.grad(lambda x: x * ag.grad(lambda y: x + y)(1.0))(1.0), 1.0),
    "the same, forward": (
        lambda: ag.jvp(lambda x: x * ag.jvp(lambda y: x + y, (1.0,), (1.0,))[1], (1.0,), (1.0,))[1],
        1.0,
    ),
    "reverse in forward": (lambda: ag.jvp(lambda x: x * ag.grad(lambda y: x + y)(1.0), (1.0,), (1.0,))[1], 1.0),
    "forward in reverse": (lambda: ag.grad(lambda x: x * ag.jvp(lambda y: x + y, (1.0,), (1.0,))[1])(1.0), 1.0),
    "x d/dy (x y^2) at y = x": (lambda: ag.grad(lambda x: x * ag.grad(lambda y: x * y * y)(x))(2.0), 2.0 * 3 * 4.0),
    "inner at a function of the outer": (lambda: ag.grad(lambda x: ag.grad(lambda y: y**3)(x**2))(2.0), 3 * 4 * 8.0),
    "inner ignores its own": (lambda: ag.grad(lambda x: ag.grad(lambda y: x * x)(x))(3.0), 0.0),
    "outer ignored": (lambda: ag.grad(lambda x: ag.grad(lambda y: y * y)(5.0))(3.0), 0.0),
    "the same name": (lambda: ag.grad(lambda x: x * ag.grad(lambda x: x**2)(x))(3.0), 12.0),
    "three levels": (
        lambda: ag.grad(lambda x: ag.grad(lambda y: ag.grad(lambda z: x * y**2 * z**3)(y))(x))(2.0),
        # d/dz = 3 x y^2 z^2 at z=y: 3 x y^4; d/dy = 12 x y^3 at y=x: 12 x^4; d/dx = 48 x^3
        48 * 8.0,
    ),
    "pull along the outer": (lambda: ag.grad(lambda v: ag.vjp(lambda y: y**3, 3.0)[1](v)[0])(2.0), 27.0),
    "pull at and along the outer": (lambda: ag.grad(lambda v: ag.vjp(lambda y: y**3, v)[1](v)[0])(2.0), 36.0),
    "pull the output": (lambda: ag.grad(lambda v: pulled(lambda y: y * v, v))(2.0), 12.0),
    "push along the outer": (lambda: ag.grad(lambda v: ag.jvp(lambda y: y**3, (3.0,), (v,))[1])(2.0), 27.0),
    "push at and along the outer": (lambda: ag.grad(lambda v: ag.jvp(lambda y: y**3, (v,), (v,))[1])(2.0), 36.0),
    "hessian of the outer": (
        lambda: ag.grad(lambda x: ag.hessian(lambda y: (y**3).sum() * x)(A).sum())(2.0),
        6 * A.sum(),
    ),
    "hvp along the outer": (lambda: ag.grad(lambda v: ag.hvp(lambda y: y**3, 2.0, v))(1.0), 12.0),
    "a branch of the outer": (lambda: ag.grad(lambda x: ag.grad(lambda y: y * x if x > 1 else y)(1.0))(2.0), 1.0),
}


def pulled(fn: Any, x: Any) -> Any:
    out, pull = ag.vjp(fn, x)
    return pull(out)[0]


@pytest.mark.parametrize("name", CONFUSING)
def test_perturbations_are_not_confused(name: str) -> None:
    run, expected = CONFUSING[name]
    assert run().item() == pytest.approx(expected, rel=1e-13)


def test_an_escaped_variable_is_a_constant() -> None:
    """A value that leaves its transform by a side door is no variable of another one."""
    box: list[Any] = []

    def leaks(x: Any) -> Any:
        box.append(x * x)
        return x**3

    ag.grad(leaks)(2.0)
    close(ag.grad(lambda y: y * 3.0 * box[0].detach())(5.0), 12.0)


@pytest.mark.parametrize("nested", [False, True], ids=["plain", "recorded"])
@pytest.mark.parametrize("transform", ["grad", "vjp", "jvp", "jacobian"])
def test_a_function_may_write_into_its_argument_or_is_told_not_to(nested: bool, transform: str) -> None:
    """In-place programs get the gradient at the value that was passed in, or an error; never another gradient."""

    def overwrites(x: Any) -> Any:
        x *= 2.0
        x[1:] = x[:-1] * x[1:]
        return (x * x).sum()

    def functional(x: Any) -> Any:
        x = x * 2.0
        return (ag.concatenate([x[:1], x[:-1] * x[1:]]) ** 2).sum()

    def derivative(fn: Any) -> Any:
        point = variable(A) if nested else A
        if transform == "grad":
            return ag.grad(fn)(point)
        if transform == "jacobian":
            return ag.jacobian(fn)(point)
        if transform == "vjp":
            return ag.vjp(fn, point)[1](1.0)[0]
        return ag.jvp(fn, (point,), (np.ones(3),))[1]

    expected = derivative(functional)
    try:
        found = derivative(overwrites)
    except RuntimeError as error:
        assert "no_grad" in str(error)
        return
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-13)


def test_the_argument_that_was_passed_in_is_not_written_to() -> None:
    def overwrites(x: Any) -> Any:
        y = x.copy()
        y *= 0.0
        return y.sum() + x.sum()

    for point in (A.copy(), ag.tensor(A), variable(A)):
        close(ag.grad(overwrites)(point), np.ones(3))
        np.testing.assert_array_equal(point if isinstance(point, np.ndarray) else point.numpy(), A)


# --- parameters in closures, no_grad, threads --------------------------------------------------------------------


def test_closures_over_parameters() -> None:
    """A derivative with respect to the argument is itself a function of the parameters, and is recorded as such."""
    w = variable(A)

    def field(x: Any) -> Any:
        return (w * x**3).sum()

    slope = ag.grad(field)(2.0)
    close(slope, 12.0 * A.sum())
    assert slope.requires_grad
    slope.backward()
    np.testing.assert_allclose(gradient(w), np.full(3, 12.0))
    w.grad = None
    value, slope = ag.value_and_grad(field)(2.0)
    (value + slope).backward()
    np.testing.assert_allclose(gradient(w), np.full(3, 8.0 + 12.0))
    w.grad = None
    ag.hessian(field)(2.0).backward()
    np.testing.assert_allclose(gradient(w), np.full(3, 12.0))
    w.grad = None
    _, tangent = ag.jvp(field, (2.0,), (10.0,))
    tangent.backward()
    np.testing.assert_allclose(gradient(w), np.full(3, 120.0))


def test_an_argument_that_is_recorded_stays_on_its_tape() -> None:
    x = variable(2.0)
    point = x * 3.0
    slope = ag.grad(lambda t: t**3)(point)
    slope.backward()
    assert gradient(x).item() == 6 * 6.0 * 3.0


def test_derivatives_under_no_grad() -> None:
    w = variable(2.0)
    with ag.no_grad():
        close(ag.grad(lambda x: w * x**3)(2.0), 24.0)
        slope, tangent = ag.grad(lambda x: w * x**3)(w), ag.jvp(lambda x: w * x**3, (2.0,), (1.0,))[1]
        (pull,) = ag.vjp(lambda x: w * x**3, 2.0)[1](1.0)
        close(ag.grad(ag.grad(lambda x: w * x**3))(2.0), 24.0)
        for found in (slope, tangent, pull):
            assert found.item() == 24.0 and not found.requires_grad

    @ag.no_grad()
    def fn(x: Any) -> Any:
        return x**2

    close(ag.grad(fn)(3.0), 0.0), "the function itself asked for no tape"


def test_backward_works_under_no_grad() -> None:
    x = variable(3.0)
    out = x * x
    with ag.no_grad():
        out.backward()
    assert gradient(x).item() == 6.0
    y = variable(3.0)
    out = y**3
    with ag.no_grad():
        out.backward(create_graph=True)
        assert y.grad is not None and y.grad.requires_grad


def test_nested_gradients_in_two_threads_interleaved() -> None:
    """Both threads stand in the same place of the same nested derivative, one after the other, every time."""
    turn = threading.Barrier(2, timeout=10)

    def derivative(scale: float) -> list[float]:
        def outer(x: Any) -> Any:
            turn.wait()

            def inner(y: Any) -> Any:
                turn.wait()
                z = x * y * y * scale
                turn.wait()
                return z

            slope = ag.grad(inner)(x)
            turn.wait()
            return x * slope

        found = []
        for k in range(5):
            found.append(ag.grad(outer)(1.0 + k).item())
            turn.wait()
            found.append(ag.jvp(outer, (1.0 + k,), (1.0,))[1].item())
        return found

    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(derivative, s) for s in (1.0, 10.0)]
        for scale, run in zip((1.0, 10.0), runs, strict=True):
            expected = [6 * scale * (1.0 + k) ** 2 for k in range(5) for _ in "ab"]
            np.testing.assert_allclose(run.result(timeout=30), expected, rtol=1e-13)


def test_tapes_of_two_threads_share_a_constant_and_no_gradient() -> None:
    shared, turn = ag.tensor(A), threading.Barrier(2, timeout=10)

    def train(seed: int) -> Any:
        x = variable(A * seed)
        for _ in range(20):
            turn.wait()
            out = (x * x * shared).sum()
            turn.wait()
            x.grad = None
            out.backward()
        return gradient(x)

    with ThreadPoolExecutor(2) as pool:
        for seed, run in zip((1, 2), [pool.submit(train, s) for s in (1, 2)], strict=True):
            np.testing.assert_array_equal(run.result(timeout=30), 2 * A * A * seed)


# --- check_grad, check_taylor, check_dot -------------------------------------------------------------------------

RIGHT: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "number": (lambda x: x**3, (2.0,)),
    "arrays": (lambda x, y: ag.tanh(x) * y, (A, A[::-1].copy())),
    "methods": (lambda x: x.tanh().reshape(3, 1).T, (A,)),
    "a method of a number": (lambda x: x.tanh(), (0.5,)),
    "several outputs": (lambda x: {"a": x * 2, "b": [x.sum()]}, (A,)),
    "constant output": (lambda x: ag.tensor([1.0, 2.0]), (A,)),
    "integers": (lambda x: (x * x).sum(), ([1, 2, 3],)),
    "numpy only": (lambda x: np.sin(x) @ np.ones(3), (A,)),
    "big": (lambda x: (x * 1e6) ** 2, (A,)),
    "in place": (lambda x: doubled_in_place(x.copy()), (A,)),
    "empty": (lambda x: x.sum(), (np.zeros(0),)),
}


def doubled_in_place(x: Any) -> Any:
    x *= 2.0
    x[0] = x[1] * x[2]
    return x


@pytest.mark.parametrize("name", RIGHT)
def test_right_derivatives_pass(name: str) -> None:
    fn, args = RIGHT[name]
    ag.check_grad(fn, *args)
    ag.check_grad(fn, *args, order=2, atol=1e-4 if name != "big" else 1e4)
    ag.check_dot(fn, *args)


def test_taylor_tells_the_order() -> None:
    assert ag.check_taylor(lambda x: (ag.sin(x) ** 2).sum(), A) == pytest.approx(2.0, abs=0.1)
    assert ag.check_taylor(lambda x: x.tanh().sum(), A) == pytest.approx(2.0, abs=0.1)
    assert ag.check_taylor(lambda x: (x * 3.0).sum(), A) == np.inf
    assert ag.check_taylor(lambda x, y: (x * ag.exp(y)).sum(), A, A, seed=5) == pytest.approx(2.0, abs=0.1)


WRONG: dict[str, tuple[str, dict[str, str]]] = {
    "sign": ("test_wrong(x) = cos(x)", {"x": "sin(x)"}),
    "factor": ("test_wrong(x) = x * x", {"x": "x"}),
    "small factor": ("test_wrong(x) = exp(x)", {"x": "1.0001 * z"}),
    "offset": ("test_wrong(x) = x * x * x", {"x": "3 * x * x + 0.001"}),
    "zero": ("test_wrong(x) = x", {"x": "0"}),
    "nan": ("test_wrong(x) = x", {"x": "nan"}),
    "infinite": ("test_wrong(x) = x", {"x": "inf"}),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_derivatives_are_found(name: str) -> None:
    declaration, partials = WRONG[name]
    op = ag.pointwise(declaration, **partials)
    for args in ((0.7,), (A,), (np.array([[0.3, 0.9]]),)):
        with pytest.raises(ag.GradientError, match=r"argument 0.*finite differences say"):
            ag.check_grad(op, *args)
    if name not in ("nan", "infinite", "small factor", "offset"):
        with pytest.raises(ag.GradientError, match="order"):
            ag.check_taylor(lambda x: op(x).sum(), A)


def test_the_message_names_argument_element_and_values() -> None:
    op = ag.pointwise("test_wrong(x, y) = x * y", x="y", y="2 * x")
    message = r"argument 1\[1, 0\] is ([\d.]+), finite differences say ([\d.]+)"
    with pytest.raises(AssertionError, match=message) as error:
        ag.check_grad(op, np.array([[0.0], [1.3]]), np.array([[1.0], [1.0]]))
    found = re.search(message, str(error.value))
    assert found is not None
    assert float(found[1]) == pytest.approx(2 * float(found[2]))


def test_the_message_tells_the_derivative_of_the_function_itself() -> None:
    op = ag.pointwise("test_wrong(x) = x * x", x="x")
    with pytest.raises(AssertionError, match=r"is 3\.0\d*, finite differences say (6\.0|5\.9)"):
        ag.check_grad(op, 3.0)


def test_a_wrong_second_derivative_is_found() -> None:
    """The slope is right, but its own derivative is lost on the way."""

    @ag.custom(x=lambda g, x: g * 2.0 * (np.rint(x * 1e9) / 1e9))
    def test_wrong(x: Any, /) -> Any:
        return x * x

    ag.check_grad(test_wrong, A)
    with pytest.raises(ag.GradientError, match="order 2"):
        ag.check_grad(test_wrong, A, order=2)


def test_a_wrong_transpose_is_found() -> None:
    @ag.linear(lambda g: np.concatenate([g[1:], g[:1] * 0.0]))
    def test_wrong(x: Any, /) -> Any:
        """Shifted by one, coming back at the start; the transpose forgets that."""
        return np.concatenate([x[-1:], x[:-1]])

    with pytest.raises(ag.GradientError, match=r"<Ju, v>"):
        ag.check_dot(test_wrong, A)
    with pytest.raises(ag.GradientError):
        ag.check_grad(test_wrong, A)


def test_a_missing_sum_over_what_was_broadcast_is_an_error() -> None:
    @ag.custom(x=lambda g: g[..., :2], y=lambda g: g)
    def test_wrong(x: Any, y: Any, /) -> Any:
        return x + y

    with pytest.raises(ValueError, match="rule of op 'test_wrong' for input 0"):
        ag.check_grad(test_wrong, A, np.ones((2, 3)))


def test_other_orders_are_refused() -> None:
    for order in (0, 3):
        with pytest.raises(ValueError, match="1 or 2"):
            ag.check_grad(lambda x: x, 1.0, order=order)


def test_a_rule_may_return_an_array_that_no_op_made() -> None:
    @ag.custom(x=lambda g: np.zeros(g.shape), method=False)
    def stopped(x: Any, /) -> Any:
        return x * 1.0

    x = np.array([1.0, 2.0])
    value, tangent = ag.jvp(lambda x: (stopped(x) * x).sum(), (x,), (np.ones(2),))
    assert (value.item(), tangent.item()) == (5.0, 3.0)
    assert ag.jvp(ag.grad(lambda x: (stopped(x) * x).sum()), (x,), (np.ones(2),))[1].tolist() == [0.0, 0.0]
