"""What the output does not depend on adds nothing to a gradient, however infinite its derivative is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import autograd_geo as ag
from autograd_geo import expr
from autograd_geo.op import registry

X = np.array([0.0, 1.0, 4.0])
NAN = np.array([np.nan, 1.0, 4.0])
BIG = np.array([1e4, 1.0, 4.0])


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


def safe(x: Any) -> Any:
    """The part of an array that the bad element is not in."""
    return x[1:]


#: A function of an array whose first element goes wrong, and the same function of the rest.
CASES: dict[str, tuple[np.ndarray[Any, Any], Callable[[Any], Any], Callable[[Any], Any]]] = {
    "where, sqrt": (X, lambda x: ag.where(x > 0, ag.sqrt(x), 0.0), ag.sqrt),
    "where, a chain": (X, lambda x: ag.where(x > 0, ag.sqrt(x) + ag.log(x), 1.0), lambda x: ag.sqrt(x) + ag.log(x)),
    "where, division": (X, lambda x: ag.where(x > 0, 1 / x, 2.0), lambda x: 1 / x),
    "where, overflow": (BIG, lambda x: ag.where(x < 700, ag.exp(x), 1.0), ag.exp),
    "where, sqrt of a negative": (X - 0.5, lambda x: ag.where(x > 0, ag.sqrt(x), 0.0), ag.sqrt),
    "where, missing value": (NAN, lambda x: ag.where(np.isnan(x), 0.0, x * x), lambda x: x * x),
    "where, twice": (X, lambda x: ag.where(x > 0, 1 / ag.where(x > 0, x, 0.0), 0.0), lambda x: 1 / x),
    "maximum": (X, lambda x: ag.maximum(ag.log(x), -9.0), ag.log),
    "minimum": (X, lambda x: ag.minimum(1 / x, 9.0), lambda x: 1 / x),
    "clip": (X, lambda x: ag.clip(ag.log(x), -9.0, 9.0), ag.log),
    "relu": (X, lambda x: ag.relu(ag.log(x) + 1.0), lambda x: ag.log(x) + 1.0),
    "slice": (X, lambda x: ag.sqrt(x)[1:], ag.sqrt),
    "mask": (X, lambda x: ag.sqrt(x)[np.array([False, True, True])], ag.sqrt),
    "take": (X, lambda x: ag.take(ag.sqrt(x), np.array([1, 2])), ag.sqrt),
    "max": (X, lambda x: ag.max(ag.sqrt(x)), lambda x: ag.max(ag.sqrt(x))),
    "min": (X, lambda x: ag.min(-ag.sqrt(x)), lambda x: ag.min(-ag.sqrt(x))),
    "norm of rows": (
        NAN, lambda x: ag.where(np.isnan(x), 0.0, ag.norm(ag.stack([x, x + 1]), axis=0)),
        lambda x: ag.norm(ag.stack([x, x + 1]), axis=0),
    ),
    "joined and cut": (X, lambda x: ag.concatenate([ag.log(x), 0 * x])[1:], ag.log),
    "overwritten": (X, lambda x: put(ag.log(x)), ag.log),
    "product of matrices": (
        NAN, lambda x: ag.where(np.isnan(x), 0.0, (x.reshape(3, 1) @ ag.reshape(x[1:], (1, 2))).sum(1)),
        lambda x: (x.reshape(-1, 1) @ ag.reshape(x, (1, 2))).sum(1),
    ),
}  # fmt: skip


def put(x: Any) -> Any:
    x[0] = 1.0
    return x


def slope(fn: Any, x: Any) -> Any:
    return ag.grad(lambda x: (fn(x) * 1.5).sum())(x)


def expected(case: str, of: Any = slope) -> Any:
    x, _, rest = CASES[case]
    return np.concatenate([[0.0], of(rest, safe(x)).numpy()])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_what_does_not_count_adds_nothing(case: str, dtype: Any) -> None:
    x, fn, _ = CASES[case]
    found = slope(fn, x.astype(dtype))
    assert found.dtype == dtype
    np.testing.assert_allclose(found.numpy(), expected(case), rtol=1e-6 if dtype == np.float32 else 1e-14)


@pytest.mark.parametrize("case", CASES)
def test_backward_and_its_steps_agree(case: str) -> None:
    x = ag.tensor(CASES[case][0], requires_grad=True, name="x")
    out = (CASES[case][1](x) * 1.5).sum()
    lesson = ag.steps(out)
    out.backward()
    np.testing.assert_array_equal(lesson.goto(-1).state.grads["x"], x.grad.numpy())
    np.testing.assert_allclose(x.grad.numpy(), expected(case), rtol=1e-14)


@pytest.mark.parametrize("case", CASES)
def test_of_a_gradient_too(case: str) -> None:
    def curvature(fn: Any, x: Any) -> Any:
        return ag.grad(lambda x: (slope(fn, x) ** 2).sum())(x)

    np.testing.assert_allclose(curvature(CASES[case][1], CASES[case][0]), expected(case, curvature), rtol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_compiled_before_and_after_it_goes_wrong(case: str) -> None:
    """A recording made where all is finite does not hold where it is not; then both are kept."""
    x, fn, _ = CASES[case]
    fine = np.array([2.0, 1.0, 4.0])
    fast = ag.compile(lambda x: slope(fn, x))
    for values in (fine, x, fine, x):
        np.testing.assert_allclose(fast(values).numpy(), slope(fn, values).numpy(), rtol=1e-12)
    assert fast.recordings <= 3
    np.testing.assert_allclose(fast(x).numpy(), expected(case), rtol=1e-12)


@pytest.mark.parametrize("case", ["where, sqrt", "maximum", "minimum", "clip", "relu", "slice", "overwritten"])
def test_forward_mode(case: str) -> None:
    x, fn, rest = CASES[case]
    _, found = ag.jvp(fn, (x,), (np.ones(3),))
    _, wanted = ag.jvp(rest, (safe(x),), (np.ones(2),))
    np.testing.assert_allclose(found.numpy()[-2:], wanted.numpy(), rtol=1e-14)
    np.testing.assert_array_equal(found.numpy()[:-2], 0.0)


def test_single_numbers() -> None:
    assert ag.grad(lambda x: ag.where(x > 0, ag.sqrt(x), 0.0))(0.0).item() == 0.0
    assert ag.grad(lambda x: ag.maximum(ag.log(x), -1.0))(0.0).item() == 0.0


def test_a_masked_loss_of_a_network_with_missing_values() -> None:
    """Rows without a measurement, and one without its input, count for nothing in any gradient."""
    rng = np.random.default_rng(0)
    model = ag.nn.Sequential(ag.nn.Linear(3, 4), ag.nn.Tanh(), ag.nn.Linear(4, 1))
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(6, 1))
    x[1], y[4] = np.nan, np.nan
    known = ~np.isnan(x).any(1, keepdims=True) & ~np.isnan(y)

    def gradients(x: Any, y: Any, known: Any) -> list[Any]:
        model.zero_grad()
        (ag.where(known, (model(ag.tensor(x)) - y) ** 2, 0.0).sum() / known.sum()).backward()
        return [p.grad.numpy() for p in model.parameters()]

    rows = known[:, 0]
    for found, wanted in zip(gradients(x, y, known), gradients(x[rows], y[rows], known[rows]), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("width", [2, 40])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_compiled_training_step_meets_a_masked_row(width: int, bad: float) -> None:
    """Products tell that all is finite, or that it is not: of few elements they do, else the gradients."""
    rng = np.random.default_rng(0)
    x, y, known = rng.normal(size=(6, width)), rng.normal(size=(6, 1)), np.ones((6, 1), bool)
    broken, but = x.copy(), known.copy()
    broken[1], but[1] = bad, False

    def trained(compiled: bool) -> tuple[list[Any], int]:
        ag.seed(0)
        model = ag.nn.Sequential(ag.nn.Linear(width, 5), ag.nn.ReLU(), ag.nn.Linear(5, 1))
        optimizer = ag.optim.SGD(model.parameters(), lr=0.01)

        def step(x: Any, known: Any) -> Any:
            optimizer.zero_grad()
            loss = (ag.where(known, model(x) - y, 0.0) ** 2).sum()
            loss.backward()
            optimizer.step()
            return loss

        run = ag.compile(step) if compiled else step
        for data in ((x, known), (broken, but), (x, known)):
            run(ag.tensor(data[0]), ag.tensor(data[1]))
        if compiled:
            assert not run.recorded[-1].program.copied  # updates need not wait
        return [p.numpy() for p in model.parameters()], run.recordings if compiled else 0

    (found, recordings), (wanted, _) = trained(True), trained(False)
    assert recordings == 2
    for a, b in zip(found, wanted, strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("fn", [lambda x: ag.exp(ag.log(x)), lambda x: ag.sqrt(x) ** 2, lambda x: x * ag.log(x)])
def test_a_zero_that_arithmetic_made_hides_nothing(fn: Any) -> None:
    """0 * inf is not known to be 0: the derivatives are 1, 1 and -inf."""
    assert not np.isfinite(slope(fn, X).numpy()[0])
    assert np.all(np.isfinite(slope(fn, X).numpy()[1:]))
    assert not np.isfinite(ag.grad(fn)(0.0).item())


def test_a_real_nan_stays() -> None:
    for fn in (
        ag.relu,
        ag.abs,
        lambda x: ag.maximum(x, 0.0),
        lambda x: ag.clip(x, 0.0, 1.0),
        lambda x: ag.where(x > 9, 0.0, x),
    ):
        assert np.isnan(fn(ag.tensor(NAN)).numpy()[0])
    for fn in (lambda x: x * x, lambda x: ag.sqrt(x - 2.0), lambda x: ag.where(x > 9, 0.0, x * x)):
        assert np.isnan(slope(fn, NAN).numpy()[0])


def test_the_support_of_a_partial_derivative() -> None:
    def of(text: str) -> str:
        return expr.label(expr.support(expr.parse(text, ("x", "y", "z"))))

    assert of("0") == "0" and of("1 / x") == "1"
    assert (
        of("where(x > 0, 1 / x, 0)")
        == of("-where(x > 0, y, 0) / x")
        == expr.label(expr.parse("where(x > 0, 1, 0)", ("x",)))
    )
    assert of("y * x ** (y - where(y == 0, 0, 1))") == "1"
    assert of("where(x > 0, 2, y)") == "1"


@given(st.lists(st.sampled_from([0.0, -1.0, 2.0, np.nan, np.inf, -np.inf, 1e-320]), min_size=1, max_size=4), st.data())
def test_any_chain_behind_a_choice(values: list[float], data: Any) -> None:
    """Whatever is computed of the values that were not chosen, their gradient is 0 and that of the others unchanged."""
    unary = [
        n
        for n, op in registry.items()
        if hasattr(ag, n) and op.family == "pointwise" and len(op.inputs) == 1 and op.differentiable
    ]
    names = data.draw(st.lists(st.sampled_from(unary), min_size=1, max_size=3))
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    x = np.array(values)

    def chain(x: Any) -> Any:
        for name in names:
            x = getattr(ag, name)(x)
        return x

    whole = ag.grad(lambda x: ag.where(chosen, chain(x), 0.0).sum())(x).numpy()
    np.testing.assert_array_equal(whole[~chosen], 0.0)
    if chosen.any():
        np.testing.assert_array_equal(whole[chosen], ag.grad(lambda x: chain(x).sum())(x[chosen]).numpy())


def test_sorting_and_products_that_select_read_their_own_values() -> None:
    """Zeros among the values of an einsum leave nothing out, and sort leaves out what came elsewhere."""
    x = np.array([3.0, 1.0, 2.0])
    t = ag.tensor(x, requires_grad=True)
    ag.sort(t)[0].backward(create_graph=True)
    np.testing.assert_array_equal(t.grad.numpy(), [0.0, 1.0, 0.0])
    t, u = ag.tensor(x, requires_grad=True), ag.tensor(0.0, requires_grad=True)
    (ag.sort(t)[0] + ag.where(u > 0, ag.sqrt(u), 0.0)).backward()
    np.testing.assert_array_equal(t.grad.numpy(), [0.0, 1.0, 0.0])
    assert u.grad.item() == 0.0
    second = ag.hessian(lambda x: (ag.sort(x) ** 2)[1])(x)
    np.testing.assert_array_equal(second.numpy(), np.diag([0.0, 0.0, 2.0]))
    second = ag.hessian(lambda x: ag.einsum("i,i->", x, ag.sin(x)))(np.array([0.0, 1.0]))
    np.testing.assert_allclose(second[0, 0].item(), 2.0)
    a, b, q = (ag.tensor(v, requires_grad=True) for v in ([[-2.0, -1], [0.5, 0.25]], [1.0, -2], [[1.0, -1], [0.5, 0]]))
    ag.where(np.array([False, True]), ag.einsum("ij,j,jk->ik", a, b, q), 0.0).sum().backward(create_graph=True)
    np.testing.assert_allclose(q.grad[1, 1].item(), 2.0 - 0.5)


def test_one_number_that_is_left_out() -> None:
    a, x = ag.tensor(0.0, requires_grad=True), ag.tensor([1.0, 2.0], requires_grad=True)
    ag.where(np.array([False, False]), ag.sqrt(a), x).sum().backward()
    assert a.grad.item() == 0.0
    np.testing.assert_array_equal(x.grad.numpy(), [1.0, 1.0])
