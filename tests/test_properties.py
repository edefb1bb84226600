"""Properties of every built-in op, for any shapes, layouts, dtypes and values that hypothesis draws.

`AUTOGRAD_GEO_EXAMPLES=1000000 pytest tests/test_properties.py` runs so many examples in all; a failing one is printed
as code, to be kept here as an `@example`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from drawn import FLOATING, LANES, POINTWISE, Call, Program, arrays, others, pointwise, programs
from exact import bounds
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import autograd_geo as ag
from autograd_geo.op import registry

TOTAL = int(os.environ.get("AUTOGRAD_GEO_EXAMPLES", "0"))


def eager(share: float, few: int) -> settings:
    """How many examples: `few`, or this share of those asked for."""
    return settings(
        max_examples=max(1, int(TOTAL * share)) if TOTAL else few,
        deadline=None, derandomize=False, print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def outcome(run: Any) -> Any:
    """What a call returns, or the exception that it raises."""
    try:
        return run()
    except (ValueError, TypeError, IndexError, ZeroDivisionError, OverflowError) as error:
        return error


#: Where we refuse what NumPy answers with a NaN and a warning, or wraps around.
REFUSED = {
    "mean": ("the mean of no elements",), "var": ("needs more than ddof",), "std": ("needs more than ddof",),
    "setitem": ("out of bounds for", "too large to convert", "cannot convert float"),
}  # fmt: skip


def exempt(call: Call) -> bool:
    """Whether NumPy is no model here."""
    first = call.args[0]
    return (
        (call.name in ("positive", "square") and first.dtype == bool)  # we copy, and multiply
        or (call.name == "power" and first.dtype == bool and type(call.args[1]) is int)  # x**2 is a square, in bytes
        or (call.name == "logaddexp" and first.dtype == np.uint8 and isinstance(call.args[1], int))  # a minimum with -1
        or (call.name == "clip" and any(not isinstance(a, np.ndarray) for a in call.args))  # one op, not a chain
        or (
            call.name in ("take", "norm", "logsumexp", "diff") and first.ndim == 0
        )  # some functions name an axis of a number
        or (call.name == "logsumexp" and first.size == 0)  # SciPy fails
        or (call.name == "prod" and np.isfinite(first).all() and _may_overflow(first))  # in one order, not in another
        or (call.name == "diff" and call.attrs["n"] == 0)  # then it looks at no axis
        or (call.name == "trace" and first.ndim < 2)  # the kind of exception
    )


def _may_overflow(x: Any) -> bool:
    """Whether a product of some of these is infinite."""
    with np.errstate(over="ignore"):
        return x.dtype.kind == "f" and bool(np.isinf(np.prod(np.fmax(np.abs(x), x.dtype.type(1)))))


def same_kind(wanted: Exception, found: Exception) -> bool:
    """Whether what handles NumPy's exception handles ours."""
    kinds = np.exceptions.AxisError, IndexError, TypeError, OverflowError, ValueError
    return isinstance(found, next(k for k in kinds if isinstance(wanted, k)))


def check_value(call: Call) -> None:
    """Our value is NumPy's, dtype and shape included, and exceptions are of the same kind. No operand changes."""
    if exempt(call):
        return
    before = [np.array(a) for a in call.args]
    wanted, found = outcome(call.theirs), outcome(call.ours)
    for a, b in zip(call.args, before, strict=True):
        np.testing.assert_array_equal(a, b, "an operand was written to")
    if isinstance(found, Exception):
        if any(what in str(found) for what in REFUSED.get(call.name, ())):
            return
        assert isinstance(wanted, Exception), f"raises {found!r} where NumPy returns {wanted!r}"
        assert same_kind(wanted, found), f"raises {found!r} where NumPy raises {wanted!r}"
        return
    assert not isinstance(wanted, Exception), f"returns {found!r} where NumPy raises {wanted!r}"
    wanted, found = np.asarray(wanted), np.asarray(found.numpy())
    wanted = wanted.astype(wanted.dtype.newbyteorder("="))
    assert found.shape == wanted.shape
    op = registry.get(call.name)
    if op is None or not op.reference or all(np.asarray(a).dtype.kind == "f" for a in call.args):
        assert found.dtype == wanted.dtype
    if call.name == "log_softmax":
        wanted = np.where(np.isnan(found) & np.isinf(wanted), np.nan, wanted)  # of an infinity: NaN or -inf
    eps = np.finfo(found.dtype).eps if found.dtype.kind == "f" else 0
    np.testing.assert_allclose(found, wanted, rtol=16 * eps, atol=16 * eps * size(call))


SMOOTH = [name for name in POINTWISE if not registry[name].surrogate]


def gradients(call: Call) -> tuple[Any, list[Any]]:
    """The value, and what `backward` of ones leaves at each floating operand."""
    args: list[Any] = list(call.args)
    for k in call.floating:
        args[k] = ag.tensor(args[k], requires_grad=True)
    out = call.ours(*args)
    if out.requires_grad:
        out.backward(np.ones(out.shape, out.dtype))
    return out.numpy(), [args[k].grad for k in call.floating]


def check_slopes(call: Call) -> None:
    """The gradient of an elementwise op: between the derivatives from either side, or visibly not finite."""
    args = list(call.args)
    if not call.floating or any(np.ndim(a) and isinstance(outcome(call.ours), Exception) for a in args):
        return
    z, found = gradients(call)
    if z.dtype.kind != "f":
        assert all(g is None for g in found)
        return
    eps = max(float(np.finfo(args[k].dtype).eps) for k in call.floating)
    typed = [z.dtype.type(a) if type(a) is float else a for a in args]  # a literal counts as it is rounded
    if len({a for a in args if type(a) is float}) > len({a for a in typed if isinstance(a, np.floating)}):
        return  # two that are one
    whole, attrs = np.broadcast_arrays(*typed), registry[call.name].attrs
    for k, g in zip(call.floating, found, strict=True):
        assert g.shape == args[k].shape and g.dtype == args[k].dtype.newbyteorder("=")
        low, high = (summed(x, g.shape) for x in bounds(call.name, (k,), whole, attrs, z, 1e5 * eps, 8 * eps))
        wrong = np.isfinite(g.numpy()) & ~((low <= g.numpy()) & (g.numpy() <= high))
        assert not wrong.any(), f"derivative {k} is {g.numpy()[wrong]}, should be in {low[wrong]} .. {high[wrong]}"


def check_direction(call: Call) -> None:
    """The gradient along a direction: between the derivatives of NumPy's function towards it and away from it.

    Those are differences, extrapolated to order three (Richardson), in extended precision.
    """
    if exempt(call) or not call.floating or isinstance(outcome(call.ours), Exception):
        return
    rng = np.random.default_rng(0)
    z = call.ours().numpy()
    if z.dtype.kind != "f":
        return
    weights = rng.uniform(0.5, 1.5, z.shape)
    args: list[Any] = list(call.args)
    for k in call.floating:
        args[k] = ag.tensor(args[k], requires_grad=True)
    out = call.ours(*args)
    out.backward(weights.astype(z.dtype))
    steps = {k: rng.uniform(0.5, 1.5, args[k].shape) * rng.choice([-1, 1], args[k].shape) for k in call.floating}
    found = sum(np.sum(args[k].grad.numpy() * d) for k, d in steps.items())
    size = sum(np.sum(np.abs(args[k].grad.numpy() * d)) for k, d in steps.items())
    wide = [np.asarray(a, np.longdouble) if k in steps else a for k, a in enumerate(call.args)]

    if call.name == "astype":  # which would cut these
        return

    def at(h: float) -> Any:
        moved = [a + h * steps[k] if k in steps else a for k, a in enumerate(wide)]
        return np.sum(weights * np.asarray(call._replace(args=tuple(moved)).theirs(), np.longdouble))

    here, ends = at(0.0), []
    for side in (-1e-5, 1e-5):
        one, two, four = ((at(side / n) - here) / (side / n) for n in (1, 2, 4))
        ends.append((8 * four - 6 * two + one) / 3)
    slack = max(float(np.finfo(call.args[k].dtype).eps) for k in steps) * 1e4 * (1 + size + abs(here))
    assert min(ends) - slack <= found <= max(ends) + slack, f"along {steps}: {found}, should be within {ends}"


def check_passes(call: Call) -> None:
    """One reverse pass, whether its values are arrays, recorded tensors or the steps of a lesson."""
    if isinstance(outcome(call.ours), Exception) or not call.floating:
        return
    literals = [abs(a) for a in call.args if type(a) is float and a and np.isfinite(a)]
    if any(not np.finfo(np.float32).tiny <= a <= np.finfo(np.float32).max for a in literals):
        return  # in single precision that is zero or not, infinite or not
    names = [f"x{k}" for k in call.floating]

    def recorded() -> tuple[Any, list[Any]]:
        args: list[Any] = list(call.args)
        for k in call.floating:
            args[k] = ag.tensor(args[k], requires_grad=True, name=f"x{k}")
        return call.ours(*args), [args[k] for k in call.floating]

    out, leaves = recorded()
    if not out.requires_grad or (call.name == "power" and np.isnan(out.numpy()).any()):
        return  # an exponent less 1 may be rounded to a whole number
    seed = np.random.default_rng(0).uniform(0.5, 1.5, out.shape).astype(out.dtype)
    lesson = ag.steps(out, seed)
    out.backward(seed)
    again, others = recorded()
    again.backward(seed, create_graph=True)
    state = lesson.goto(-1).state.grads
    np.testing.assert_array_equal(again.numpy(), out.numpy())
    for name, a, b in zip(names, leaves, others, strict=True):
        if a.grad is None:
            assert b.grad is None and name not in state
            continue
        assert a.grad.dtype == b.grad.dtype == np.asarray(state[name]).dtype == a.dtype
        np.testing.assert_array_equal(state[name], a.grad.numpy(), "the steps of a lesson differ from backward")
        rtol = atol = 0.0
        if a.dtype != np.float64:  # a literal beside single precision is rounded once more, or once less
            rtol = (100 if call.name == "power" else 8) * float(np.finfo(np.float32).eps)
            atol = 8 * float(np.finfo(np.float32).smallest_subnormal)
        x, y = b.grad.numpy(), a.grad.numpy()
        if rtol and call.name == "power":  # where either overflows on the way
            x, y = (np.where(np.isfinite(x) & np.isfinite(y), each, 0.0) for each in (x, y))
        np.testing.assert_allclose(x, y, rtol, atol)


def check_dot(call: Call) -> None:
    """Forward mode is the transpose of reverse mode, to 100 units of rounding."""
    if isinstance(outcome(call.ours), Exception) or not call.floating:
        return

    def run(*xs: Any) -> Any:
        return call.of(call.floating, *xs)

    if call.ours().dtype.kind == "f" and call.name != "astype":  # which rounds
        with np.errstate(all="ignore"):
            ag.check_dot(run, *[call.args[k] for k in call.floating], rtol=100 * float(np.finfo(np.float64).eps))


def shared(hit: Any, tangent: Any, axis: int | None) -> Any:
    """The mean of the tangents that were chosen."""
    return np.where(hit, tangent, 0.0).sum(axis) / hit.sum(axis)


def halves(first: Any, second: Any, tangent: Any, towards: Any) -> Any:
    """One tangent, the other, or half of each where neither is first."""
    tied = np.where(first | second, 0.0, 0.5 * tangent + 0.5 * towards)
    return np.where(first, tangent, 0.0) + np.where(second, towards, 0.0) + tied


MASK = np.array([[True, False, True], [False, False, True]])


def written(x: Any, y: Any) -> Any:
    x = x * 1.0
    x[MASK] = y[MASK]
    return x


#: Ours, of x and y, and the tangent that NumPy chooses.
CHOICES: dict[str, tuple[Any, Any]] = {
    "max": (lambda x, y: ag.max(x), lambda x, y, t, u: shared(x == x.max(), t, None)),
    "max of rows": (lambda x, y: ag.max(x, axis=1), lambda x, y, t, u: shared(x == x.max(1, keepdims=True), t, 1)),
    "min of columns": (lambda x, y: ag.min(x, axis=0), lambda x, y, t, u: shared(x == x.min(0), t, 0)),
    "maximum": (lambda x, y: ag.maximum(x, y), lambda x, y, t, u: halves(x > y, y > x, t, u)),
    "minimum": (lambda x, y: ag.minimum(x, y), lambda x, y, t, u: halves(x < y, y < x, t, u)),
    "where": (lambda x, y: ag.where(x > y, x, y), lambda x, y, t, u: np.where(x > y, t, u)),
    "clip": (lambda x, y: ag.clip(x, -0.5, 1.0), lambda x, y, t, u: np.where((x >= -0.5) & (x <= 1.0), t, 0.0)),
    "relu": (lambda x, y: ag.nn.ReLU()(x), lambda x, y, t, u: np.where(x > 0, t, 0.0)),
    "sort": (
        lambda x, y: ag.sort(x, axis=1),
        lambda x, y, t, u: np.take_along_axis(t, np.argsort(x, axis=1, kind="stable"), 1),
    ),
    "index": (lambda x, y: x[:, 1], lambda x, y, t, u: t[:, 1]),
    "mask": (lambda x, y: x[MASK], lambda x, y, t, u: t[MASK]),
    "written": (written, lambda x, y, t, u: np.where(MASK, u, t)),
    "take": (lambda x, y: ag.take(x, [2, 0], axis=1), lambda x, y, t, u: np.take(t, [2, 0], axis=1)),
    "diagonal": (lambda x, y: ag.einsum("ii->i", x[:, :2]), lambda x, y, t, u: np.diag(t)),
    "lower triangle": (lambda x, y: ag.tril(x), lambda x, y, t, u: np.where(np.tri(2, 3, dtype=bool), t, 0.0)),
    "joined": (lambda x, y: ag.concatenate([x, y])[1:3], lambda x, y, t, u: np.concatenate([t, u])[1:3]),
}


def check_choice(chosen: str, x: Any, tangent: Any, y: Any, towards: Any) -> None:
    """Forward mode through a choice is the same choice of tangents, whatever those are that were not chosen."""
    ours, theirs = CHOICES[chosen]
    found = ag.jvp(ours, (x, y), (tangent, towards))[1].numpy()
    np.testing.assert_array_equal(found, theirs(x, y, tangent, towards))
    along = [ag.tensor(v, requires_grad=True) for v in (tangent, towards)]
    recorded = ag.jvp(ours, (x, y), along)[1]
    np.testing.assert_array_equal(recorded.numpy(), found)
    recorded.sum().backward()
    assert all(t.grad is None or np.isfinite(t.grad.numpy()).all() for t in along)


def check_poison(program: Program, x: Any, alive: Any, how: str) -> None:
    """The gradient of a program is that of the lanes and branches that count, whatever is computed besides."""
    if not np.any(alive):
        return
    every = np.ones(LANES, bool)

    def chosen(x: Any) -> Any:
        whole = program(x, every)
        return ag.tanh((ag.where(alive, whole, 0.0) if how == "where" else whole[alive]).sum())

    found = ag.grad(chosen)(x).numpy()
    wanted = ag.grad(lambda x: ag.tanh(program(x, alive, clean=True).sum()))(x[alive]).numpy()
    np.testing.assert_array_equal(found[~alive], 0.0)
    np.testing.assert_allclose(found[alive], wanted, rtol=1e-9, atol=1e-300)


def check_compiled(call: Call) -> None:
    """Compiled, recorded and then replayed: the value and the gradient of eager code."""
    if isinstance(outcome(call.ours), Exception):
        return
    places = call.floating or [k for k, a in enumerate(call.args) if isinstance(a, np.ndarray)]

    def run(*xs: Any) -> Any:
        return call.of(places, *xs)

    def both(*xs: Any) -> Any:
        out = run(*xs)
        if out.dtype.kind != "f" or not call.floating:
            return [out]
        return [out, *ag.grad(lambda *xs: run(*xs).sum(), tuple(range(len(xs))))(*xs)]

    xs = [ag.tensor(call.args[k]) for k in places]
    wanted, fast = both(*xs), ag.compile(both)
    for _ in range(2):  # recorded, replayed
        for a, b in zip(fast(*xs), wanted, strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            rtol = 16 * np.finfo(b.dtype).eps if b.dtype.kind == "f" else 0
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol, rtol)


def summed(x: Any, shape: tuple[int, ...]) -> Any:
    """Summed over the axes along which an operand of this shape was broadcast."""
    x = x.sum(tuple(range(x.ndim - len(shape))))
    return x.sum(tuple(a for a, n in enumerate(shape) if n == 1), keepdims=True).reshape(shape)


def size(call: Call) -> float:
    """The size of the largest finite intermediate result that may cancel."""
    if call.name in POINTWISE:
        return 1.0
    numbers = [np.abs(a[np.isfinite(a)]).max(initial=1.0) for a in map(np.asarray, call.args) if a.dtype.kind in "fiu"]
    return float(np.prod(np.array(numbers, np.longdouble)) if len(numbers) < 3 else 1.0)


@eager(0.2, 300)
@given(pointwise())
@example(Call("power", (np.array(True), 2)))
@example(Call("log_sigmoid", (np.array(1, np.uint8),)))
@example(Call("softplus", (np.array(True),)))
@example(Call("logaddexp", (np.ones(3, np.float32), np.ones(3))))
@example(Call("logaddexp", (np.array(1.0, np.float32), 2.0)))
def test_values_of_elementwise_ops_are_numpys(call: Call) -> None:
    check_value(call)


@eager(0.1, 300)
@given(others())
@example(Call("setitem", (np.array([1], np.uint8), np.array(-1.0)), {"index": 0}))
@example(Call("setitem", (np.array([1]), np.array(1.79769313e308)), {"index": 0}))
@example(Call("prod", (np.array([[1, 1, 0], [2, 1.79769313e308, 1]]),), {"axis": None, "keepdims": False}))
@example(Call("dot", (np.ones(3), np.ones((2, 1, 3)))))
@example(Call("dot", (np.array([1.145625, 2.355625, 1.795625]), np.array([-1, 100, -128]))))
@example(Call("norm", (np.array([2**64 - 1, 7], np.uint64),), {"axis": None, "keepdims": False}))
def test_values_of_other_ops_are_numpys(call: Call) -> None:
    check_value(call)


@eager(0.2, 300)
@given(pointwise(dtypes=FLOATING, names=SMOOTH))
@example(Call("maximum", (np.array(0.0, np.float32), 5e-324)))
@example(Call("power", (np.array([-1.0]), np.array([1.79769313e308]))))
@example(Call("power", (np.array(0.0), np.array([1.035625]))))
@example(Call("power", (np.array([-1.0, -1.0]), np.array([2.0**54, -(2.0**54)]))))
@example(Call("multiply", (np.array(0.1), np.ones(3, np.float32))))
@example(Call("remainder", (np.array(1.0), np.array(0.1))))
@example(Call("remainder", (np.array(1.0), np.array(-np.inf))))
@example(Call("clip", (np.ones(3), np.ones(3), np.ones(3))))
@example(Call("clip", (np.array(0.1, np.float32), 0.1, 0.10000000149011612)))
def test_gradients_of_elementwise_ops_are_never_silently_wrong(call: Call) -> None:
    check_slopes(call)


@eager(0.1, 300)
@given(others(dtypes=FLOATING, ordinary=True))
@example(Call("sum", (np.array(2.0),), {"axis": 0, "keepdims": False}))
@example(Call("prod", (np.array(2.0),), {"axis": -1, "keepdims": True}))
@example(Call("max", (np.array(2.0),), {"axis": 0, "keepdims": False}))
@example(Call("repeat", (np.array(2.0),), {"repeats": 2, "axis": 0}))
@example(Call("setitem", (np.ones((2, 3)), np.ones((2, 0))), {"index": (0, np.array([], int))}))
@example(Call("setitem", (np.array([1.0]), np.array(1.0)), {"index": np.array([[0], [-1]])}))
def test_gradients_of_other_ops_are_those_of_differences(call: Call) -> None:
    check_direction(call)


NEW_AXIS = Call("getitem", (np.array(1.0),), {"index": None})
ANY_CALL = st.one_of(pointwise(dtypes=FLOATING), others(dtypes=FLOATING))


@eager(0.2, 200)
@given(ANY_CALL)
@example(NEW_AXIS)
@example(Call("multiply", (np.ones(3, np.float32), np.array(2.0))))
@example(Call("power", (np.array(2.0), np.full(3, 2, np.float32))))
@example(Call("power", (np.array(0.0, np.float32), 5e-324)))
@example(Call("power", (np.array(0.0, np.float32), 1.7976931348623157e308)))
@example(Call("power", (np.array(1.1754944e-38, np.float32), 0.1)))
@example(Call("power", (np.array(-0.1, np.float32), 1e-08)))
@example(Call("power", (np.array(1e-45, np.float32), 1e-08)))
def test_passes_are_one(call: Call) -> None:
    check_passes(call)


@eager(0.1, 100)
@given(st.one_of(pointwise(dtypes=["float64"], names=SMOOTH, ordinary=True), others(dtypes=["float64"], ordinary=True)))
@example(Call("power", (np.array(2.585625), np.array([2.585625]))))
def test_forward_mode_is_the_transpose_of_reverse(call: Call) -> None:
    check_dot(call)


GRID = st.lists(st.sampled_from([-1.0, 0.0, 1.0, 2.0]), min_size=6, max_size=6).map(lambda v: np.reshape(v, (2, 3)))
TANGENTS = st.sampled_from([1.0, 2.0, -3.0, 0.0, np.inf, -np.inf, np.nan])
ALONG = st.lists(TANGENTS, min_size=6, max_size=6).map(lambda v: np.reshape(v, (2, 3)))


@eager(0.1, 300)
@given(st.sampled_from(sorted(CHOICES)), GRID, ALONG, GRID, ALONG)
def test_a_tangent_that_was_not_chosen_does_not_count(chosen: str, x: Any, tangent: Any, y: Any, towards: Any) -> None:
    check_choice(chosen, x, tangent, y, towards)


@eager(0.1, 100)
@given(
    programs(), arrays((LANES,), ["float64"]), st.lists(st.booleans(), min_size=LANES, max_size=LANES).map(np.array),
    st.sampled_from(["where", "index"]),
)  # fmt: skip
def test_what_does_not_count_poisons_no_program(program: Program, x: Any, alive: Any, how: str) -> None:
    check_poison(program, x, alive, how)


@settings(max_examples=max(8, TOTAL // 2000), deadline=None, print_blob=True)
@given(st.one_of(ANY_CALL, pointwise(), others()))
@example(Call("isfinite", (np.array([1, 2]),)))
@example(Call("norm", (np.array([1, 2]),), {"axis": None, "keepdims": False}))
@example(Call("equal", (np.array([1, 2], np.uint8), -2)))
def test_compiled_is_eager(call: Call) -> None:
    check_compiled(call)
