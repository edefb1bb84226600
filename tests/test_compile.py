"""`ag.compile`: what a recording reads, what it leaves behind, and when it holds."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from typing import Any

import numpy as np
import pytest

import autograd_geo as ag
from autograd_geo import nn, optim


def same(found: Any, expected: Any, rtol: float = 1e-12) -> None:
    np.testing.assert_allclose(np.asarray(found.numpy()), np.asarray(expected.numpy()), rtol=rtol, atol=rtol)


def kernels(fast: Any) -> set[str]:
    """The sources of the distinct kernels of a compiled function."""
    return {step.kernel.source for r in fast.recorded for step in r.program.steps if step.kernel is not None}


# --- what it computes ---------------------------------------------------------------------------------------------


def wave(c: Any, steps: int = 60) -> Any:
    u0, u1, total = np.zeros(50), ag.zeros(50), 0.0
    u1[10] = 1.0
    for _ in range(steps):
        u0, u1 = u1, 2 * u1 - u0 + c * (np.roll(u1, 1) - 2 * u1 + np.roll(u1, -1))
        total = total + u1[35] ** 2
    return total


def test_a_loop_over_time_is_a_few_kernels() -> None:
    eager = ag.value_and_grad(wave)
    fast = ag.compile(eager)
    for c in (np.full(50, 0.2), np.linspace(0.1, 0.3, 50)):
        for found, expected in zip(fast(c), eager(c), strict=True):
            same(found, expected)
    assert fast.recordings == 1
    assert len(fast.recorded[0].program.steps) > 120
    assert len(kernels(fast)) <= 15


@pytest.mark.parametrize("index", [slice(1, -1), 0, (slice(None, None, 2),)])
def test_item_assignment_in_a_loop(index: Any) -> None:
    def fn(x: Any) -> Any:
        u = x * 1.0
        for k in range(4):
            u[index] = ag.tanh(u[index]) + k
        return (u * u).sum()

    eager = ag.value_and_grad(fn)
    fast = ag.compile(eager)
    for x in (np.linspace(-1, 1, 7), np.linspace(0, 1, 7)):
        for found, expected in zip(fast(x), eager(x), strict=True):
            same(found, expected)


@pytest.mark.parametrize("shapes", [((40, 30), (30, 20)), ((3, 40, 30), (3, 30, 20)), ((40, 30), (20, 30))])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_large_products_go_to_blas(shapes: Any, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=s).astype(dtype) for s in shapes)
    product = (lambda x, y: x @ y.T) if shapes[1] == (20, 30) else (lambda x, y: x @ y)
    eager = ag.grad(lambda x, y: (product(x, y) ** 2).sum(), (0, 1))
    fast = ag.compile(eager)
    fast(a, b)
    for found, expected in zip(fast(a, b), eager(a, b), strict=True):
        scale = np.abs(expected.numpy()).max()
        same(found / scale, expected / scale, 1e-12 if dtype == np.float64 else 1e-5)


ROWS: dict[str, Any] = {
    "softmax": lambda x, w: ag.softmax(x) * w,
    "log_softmax": lambda x, w: (ag.log_softmax(x) * w).sum(-1),
    "layer norm": lambda x, w: (x - ag.mean(x, -1, True)) / (ag.std(x, -1, keepdims=True) + 0.1) * w,
    "logsumexp": lambda x, w: x * ag.logsumexp(x * w, -1, True),
    "rows joined": lambda x, w: ag.softmax(np.concatenate([x[:, 3:], w * 2], -1)),
    "rows moved": lambda x, w: ag.softmax(np.roll(x, 2, 0)) + ag.max(np.roll(w, 1, 1), -1, True),
    "rows and columns": lambda x, w: ag.softmax(x).sum(0) + (x - ag.max(x, -1, True)).max(0) * w[0],
    "a vector": lambda x, w: ag.softmax(x[0]) * ag.norm(x[1] * w[1]),
    "values per row from outside": lambda x, w: x * (ag.sum(x * w, -1, True) * w[:, :1] + ag.tanh(w[:, 5:6])),
    "other rows": lambda x, w: x + np.flip(ag.sum(x * w, -1, True), 0),
    "one row": lambda x, w: ag.softmax(x[:1]) - ag.min(w[:1], -1, True),
    "where the largest is": lambda x, w: ag.softmax(x) * (ag.argmax(x * w, -1, True) == np.arange(80)),
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rows_are_finished_one_by_one(name: str, dtype: Any) -> None:
    fn, rng = ROWS[name], np.random.default_rng(0)
    eager = ag.value_and_grad(lambda x, w: (fn(x, w) ** 2).sum(), (0, 1))
    fast, value = ag.compile(eager), ag.compile(fn)
    for _ in range(2):
        x, w = rng.normal(size=(2, 6, 80)).astype(dtype)
        (loss, gradients), (wanted, slopes) = fast(x, w), eager(x, w)
        pairs = [(value(x, w), fn(ag.tensor(x), ag.tensor(w))), (loss, wanted), *zip(gradients, slopes, strict=True)]
        for found, expected in pairs:
            scale = np.abs(expected.numpy()).max() or 1.0
            same(found / scale, expected / scale, 1e-12 if dtype == np.float64 else 1e-5)


@pytest.mark.parametrize("fn", [ag.softmax, ag.log_softmax, lambda x: ag.logsumexp(x, -1), lambda x: ag.std(x, -1)])
def test_rows_pass_memory_once(fn: Any) -> None:
    x = np.random.default_rng(0).normal(size=(20, 100))
    x[3], x[4, 5], x[5, 6] = -np.inf, np.inf, np.nan
    with np.errstate(all="ignore"):
        fast = ag.compile(fn)
        fast(x)
        same(fast(x), fn(ag.tensor(x)))
    (recorded,) = fast.recorded
    assert len(recorded.program.steps) == 1
    assert recorded.program.arena_bytes < x.nbytes


def test_a_gradient_of_rows_passes_memory_once() -> None:
    x, w = np.random.default_rng(0).normal(size=(20, 100)), np.linspace(1, 2, 20)
    eager = ag.value_and_grad(lambda x, w: (ag.logsumexp(x, -1) * w).sum(), (0, 1))
    fast = ag.compile(eager)
    fast(x, w)
    (value, gradients), (loss, slopes) = fast(x, w), eager(x, w)
    for found, expected in zip((value, *gradients), (loss, *slopes), strict=True):
        same(found, expected)
    (recorded,) = fast.recorded
    assert [s.what.shape for s in recorded.program.steps] == [(20, 100), (20,)]


@pytest.mark.parametrize("lead", [(), (3,)])
@pytest.mark.parametrize(
    "fn",
    [
        lambda a, b, at, bt: a @ b, lambda a, b, at, bt: np.swapaxes(at, -1, -2) @ b,
        lambda a, b, at, bt: a @ np.swapaxes(bt, -1, -2), lambda a, b, at, bt: bt @ at,
        lambda a, b, at, bt: np.swapaxes(at, -1, -2) @ np.swapaxes(bt, -1, -2),
        lambda a, b, at, bt: np.swapaxes(a @ b, -1, -2), lambda a, b, at, bt: np.swapaxes(bt @ at, -1, -2),
        lambda a, b, at, bt: np.swapaxes(np.swapaxes(at, -1, -2) @ b, -1, -2),
        lambda a, b, at, bt: ag.einsum("...ij,...jk->...ki", a, b),
    ],
)  # fmt: skip
def test_products_take_transposed_matrices_as_they_lie(fn: Any, lead: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    args = [rng.normal(size=(*lead, *s)) for s in ((40, 30), (30, 20), (30, 40), (20, 30))]
    fast = ag.compile(fn)
    fast(*args)
    same(fast(*args), fn(*map(ag.tensor, args)))
    (recorded,) = fast.recorded
    assert len(recorded.program.steps) == 1


def test_a_product_that_is_turned_of_an_operand_that_is_copied() -> None:
    y, v = (np.random.default_rng(0).normal(size=s) for s in ((3, 6, 16), (18, 6)))
    fast = ag.compile(lambda y, v: ag.einsum("aij,ki->kaj", y, v))
    fast(y, v)
    same(fast(y, v), ag.tensor(np.einsum("aij,ki->kaj", y, v)))


def test_a_product_and_its_transpose() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 30, 30))
    fast = ag.compile(lambda a, b: ((c := a @ b) * 2, (c + 1).T, c.T @ c))
    fast(a, b)
    c = a @ b
    for found, expected in zip(fast(a, b), (c * 2, (c + 1).T, c.T @ c), strict=True):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.float32, np.bool_])
def test_loops_over_many_axes_in_every_dtype(dtype: Any) -> None:
    x = (np.arange(2 * 3 * 2 * 3 * 2 * 3 * 2 * 3 * 2) % 7 > 2).reshape(2, 3, 2, 3, 2, 3, 2, 3, 2).astype(dtype)

    def fn(x: Any) -> Any:
        odd = x[::-1, :, ::-1, :, ::-1, :, ::-1, :, ::-1]
        return ag.maximum(odd, x), x.max(axis=(0, 2)), x.min(axis=(1, 8)), odd.max(), odd.min()

    fast = ag.compile(fn)
    for given in (x, x[:, ::-1].copy()):
        for found, expected in zip(fast(given), fn(ag.tensor(given)), strict=True):
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found.numpy(), expected.numpy())


# --- training steps -------------------------------------------------------------------------------------------------


def trained(make: Any, compiled: bool) -> tuple[list[float], list[Any], int]:
    ag.seed(3)
    net = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
    optimizer = make(net.parameters())
    x = np.linspace(-1, 1, 5)[:, None]

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = nn.mse_loss(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    run: Any = ag.compile(step) if compiled else step
    losses = []
    for k in range(12):
        optimizer.lr = 0.05 if k < 6 else 0.01  # a schedule: read anew in each call
        losses.append(run(ag.tensor(x), ag.tensor(np.tanh(x * (1 + k)))).item())
    arrays = [p.numpy() for p in net.parameters()] + [p.grad.numpy() for p in net.parameters()]
    arrays += [np.asarray(v) for state in optimizer.state for v in state.values()]
    return losses, arrays, run.recordings if compiled else 1


@pytest.mark.parametrize(
    "make",
    [
        lambda ps: optim.SGD(ps, 0.1),
        lambda ps: optim.SGD(ps, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda ps: optim.Adam(ps),
    ],
    ids=["sgd", "nesterov", "adam"],
)
def test_a_training_step_is_compiled_whole(make: Any) -> None:
    expected, found = trained(make, False), trained(make, True)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-10)
    for a, b in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
        assert a.dtype == b.dtype
    assert found[2] == 1


def test_a_gradient_that_is_forgotten_is_forgotten_in_each_call() -> None:
    w, v = nn.Parameter([1.0, 2.0]), nn.Parameter([3.0, 4.0])

    def fn(x: Any) -> None:
        w.grad = v.grad = None
        loss = (w * x).sum()
        if x.sum() > 0:
            loss = loss + (v * x).sum() ** 2
        loss.backward()

    fast = ag.compile(fn)
    for sign in (-1.0, 1.0, -1.0, 1.0, -1.0):
        fast(np.full(2, sign))
        assert (v.grad is None) == (sign < 0)


def test_an_op_of_the_user_is_called_back_as_it_may_do_something_else_each_time() -> None:
    factor = [2.0]

    @ag.custom(x=lambda g, x: g * factor[0], samples=(ag.sample((3,)),))
    def scaled(x: Any, /) -> Any:
        return np.positive(x) * factor[0]

    fast = ag.compile(lambda x: scaled(x) + 1.0)
    for f in (2.0, 3.0):
        factor[0] = f
        same(fast(np.ones(3)), scaled(np.ones(3)) + 1.0)


def test_products_that_broadcast_and_means_of_large_integers() -> None:
    fast = ag.compile(lambda a, b: a @ b)
    x, y = np.ones((3, 30, 40)), np.ones((1, 40, 50))
    for _ in range(2):
        np.testing.assert_allclose(fast(x, y).numpy(), x @ y)
    mean = ag.compile(lambda a: a.mean())
    big = np.array([0, 2**64 - 1, 0, 1, 2, 3], np.uint64)
    for _ in range(2):
        assert mean(big).item() == ag.tensor(big).mean().item()


def test_gradients_accumulate_as_eager_ones_do() -> None:
    w = nn.Parameter([1.0, 2.0])
    run = ag.compile(lambda x: (w * w * x).sum().backward())
    run(3.0)
    run(1.0)
    run(1.0)
    assert w.grad is not None
    np.testing.assert_allclose(w.grad.numpy(), [10.0, 20.0])


# --- when a recording holds -----------------------------------------------------------------------------------------


def test_branches_on_values_are_recorded_apart() -> None:
    def fn(x: Any) -> Any:
        n = 0
        while x.sum() < 10:
            x, n = x * 2, n + 1
        return x + n

    fast = ag.compile(fn)
    for value in (1.0, 6.0, 1.0, 3.0, 6.0, 1.5):
        same(fast(np.array([value])), fn(ag.tensor([value])))
    assert fast.recordings == 4  # 1.0 and 6.0 double as often as before when they come again


def test_tensors_and_arrays_from_outside_are_read_anew() -> None:
    w, a = ag.tensor([1.0, 2.0]), np.array([3.0, 4.0])
    fast = ag.compile(lambda x: x * w + a)
    fast(np.ones(2))
    w[0] = 5.0
    a[1] = -1.0
    np.testing.assert_array_equal(fast(np.ones(2)).numpy(), [8.0, 1.0])


def test_variables_of_the_closure_are_guarded() -> None:
    factor, settings, index = 2.0, {"shift": 1.0}, np.array([0, 1])

    def fn(x: Any) -> Any:
        return (x * factor + settings["shift"])[index]

    fast = ag.compile(fn)
    x = np.array([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(fast(x).numpy(), [3.0, 5.0])
    factor = 3.0
    np.testing.assert_array_equal(fast(x).numpy(), [4.0, 7.0])
    settings["shift"] = 0.0
    np.testing.assert_array_equal(fast(x).numpy(), [3.0, 6.0])
    index[:] = [2, 2]
    np.testing.assert_array_equal(fast(x).numpy(), [9.0, 9.0])


def test_the_same_tensor_twice_is_another_kind_of_call() -> None:
    fast = ag.compile(lambda a, b: a - 2 * b)
    x, y = ag.tensor([1.0, 2.0]), ag.tensor([10.0, 20.0])
    np.testing.assert_array_equal(fast(x, x).numpy(), [-1.0, -2.0])
    np.testing.assert_array_equal(fast(x, y).numpy(), [-19.0, -38.0])
    w = ag.tensor([1.0, 2.0])
    mixed = ag.compile(lambda a: a * 10 + w)
    np.testing.assert_array_equal(mixed(w).numpy(), [11.0, 22.0])
    np.testing.assert_array_equal(mixed(ag.tensor([5.0, 6.0])).numpy(), [51.0, 62.0])


def test_an_array_that_the_function_fills_has_the_value_of_each_use() -> None:
    def fn(x: Any) -> Any:
        b = np.zeros(2)
        b[0] = 1
        first = x * b
        b[1] = 5
        return first, x * b

    fast = ag.compile(fn)
    for _ in range(2):
        first, second = fast(np.ones(2))
        np.testing.assert_array_equal(first.numpy(), [1.0, 0.0])
        np.testing.assert_array_equal(second.numpy(), [1.0, 5.0])


def test_writing_into_an_argument_reaches_the_caller() -> None:
    def fn(x: Any) -> None:
        x[0] = x[1] * 2

    fast = ag.compile(fn)
    for value in (1.0, 2.0):
        x = ag.tensor([0.0, value])
        fast(x)
        np.testing.assert_array_equal(x.numpy(), [2 * value, value])
    with pytest.raises(TypeError, match="writes into an array"):
        fast(np.zeros(2))


def test_ever_new_shapes_end_in_eager_calls_and_a_warning() -> None:
    fast = ag.compile(lambda x: x + 1)
    with pytest.warns(UserWarning, match="was recorded 32 times"):
        for n in range(34):
            assert fast(np.zeros(n)).shape == (n,)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_assigning_to_outer_variables_is_refused() -> None:
    count = 0

    def fn(x: Any) -> Any:
        nonlocal count
        count += 1
        return x * 2

    with pytest.raises(TypeError, match="assigns to 'count'"):
        ag.compile(fn)(np.ones(2))


def test_what_is_refused_leaves_all_as_it_was() -> None:
    leaf, plain = ag.tensor([1.0, 2.0], requires_grad=True), ag.tensor([3.0, 4.0])
    argument, array = ag.tensor([5.0, 6.0]), np.zeros(2)
    parameter, generator = ag.nn.Parameter([1.0, -1.0]), ag.random.Generator(3)
    optimizer = ag.optim.Adam([parameter], lr=0.1)
    leaf.sum().backward()
    held, mark = leaf.grad, generator.mark()

    def fn(x: Any, array: Any) -> None:
        leaf.assign(leaf * 2)
        plain.assign(plain + generator.normal(2))
        x[0] = 7.0
        ((parameter * leaf) ** 2).sum().backward()
        optimizer.step()
        array[0] = 1.0  # refused

    with pytest.raises(TypeError, match="writes into an array"):
        ag.compile(fn)(argument, array)
    for t, values in ((leaf, [1.0, 2.0]), (plain, [3.0, 4.0]), (argument, [5.0, 6.0]), (parameter, [1.0, -1.0])):
        np.testing.assert_array_equal(t.numpy(), values)
    assert leaf.grad is held and parameter.grad is None and generator.mark() == mark
    assert all(not np.any(v) for v in optimizer.state_dict()["state"][0].values())
    (leaf * plain).sum().backward()  # still a leaf, and what was recorded is gone
    np.testing.assert_array_equal(leaf.grad.numpy(), [4.0, 5.0])


def test_what_fails_after_the_function_ran_leaves_all_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    w = ag.tensor([1.0, 2.0], requires_grad=True)

    def step() -> None:
        (w**2).sum().backward()
        w.assign(w - 0.1 * w.grad)

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    fast = ag.compile(step)
    with monkeypatch.context() as patch:
        patch.setattr("autograd_geo.compiler.target.Program", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fast()
    np.testing.assert_array_equal(w.numpy(), [1.0, 2.0])
    assert w.grad is None and w.requires_grad and w.is_leaf
    fast()
    np.testing.assert_allclose(w.numpy(), [0.8, 1.6])


@pytest.mark.parametrize("value", [-2, 300, 2**63, 2**64, -(2**63) - 1])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int64", "uint64"])
def test_comparisons_with_numbers_beyond_the_dtype_are_numpys(dtype: str, value: int) -> None:
    x = np.array([0, 1, 127], dtype)

    def compared(x: Any) -> Any:
        return [x < value, x >= value, x == value, x != value]

    fast = ag.compile(compared)
    for _ in range(2):
        for a, b in zip(fast(ag.tensor(x)), compared(x), strict=True):
            np.testing.assert_array_equal(a.numpy(), b)


def test_integers_without_a_common_dtype_are_compared_exactly() -> None:
    x, y = ag.tensor(np.array([2**62 + 1, -1])), ag.tensor(np.array([2**62, 2**64 - 1], np.uint64))
    fast = ag.compile(lambda x, y: [x == y, x > y, x <= y])
    for _ in range(2):
        np.testing.assert_array_equal([t.numpy() for t in fast(x, y)], [[False, False], [True, False], [False, True]])


def test_random_draws_are_drawn_anew_in_each_call() -> None:
    def masked(x: Any) -> Any:
        ag.random.normal(2)  # a draw that nothing depends on takes its stream all the same
        return (ag.random.uniform(x.shape) < 0.5) * x + ag.random.uniform(())

    fast = ag.compile(masked)
    ag.seed(3)
    expected = [np.asarray(masked(np.arange(6.0))) for _ in range(4)]
    ag.seed(3)
    for e in expected:
        np.testing.assert_allclose(fast(np.arange(6.0)).numpy(), e, rtol=1e-15)
    assert fast.recordings == 1


def test_draws_are_taken_back_where_a_recording_does_not_hold() -> None:
    def branching(x: Any) -> Any:
        u = ag.random.uniform(())
        return x * u if ag.tensor(u) > 0.5 else x + ag.random.uniform(())

    fast = ag.compile(branching)
    ag.seed(0)
    expected = [float(ag.tensor(branching(1.0)).item()) for _ in range(8)]
    ag.seed(0)
    assert [float(fast(1.0).item()) for _ in range(8)] == pytest.approx(expected, rel=1e-15)
    assert fast.recordings == 2


def training(seed: int = 0) -> tuple[Any, Any, Any]:
    """Parameters, an optimiser and a step."""
    rng = np.random.default_rng(seed)
    w, b = ag.nn.Parameter(rng.standard_normal((3, 2))), ag.nn.Parameter(0.5)
    optimizer = ag.optim.Adam([w, b], lr=0.1)

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = ((x @ w).tanh() * b).sum()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return (w, b), optimizer, step


def test_what_others_see_of_a_parameter_does_not_change_with_it() -> None:
    (w, _), optimizer, step = training()
    fast, x = ag.compile(step), np.ones((4, 3))
    for _ in range(3):
        fast(x)
    seen, gradient, mean = w.numpy(), w.grad, optimizer.state[0]["mean"]
    before = seen.copy(), gradient.numpy().copy(), mean.copy()
    out = (w * w).sum()  # a tape that was recorded before the next steps
    fast(x), fast(x)
    for now, then in zip((seen, gradient.numpy(), mean), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert w.grad is not gradient and not np.array_equal(w.numpy(), seen)
    w.grad = None
    out.backward()
    np.testing.assert_allclose(w.grad.numpy(), 2 * before[0])


def test_equal_counts_of_steps_may_become_different() -> None:
    _, often, step = training()
    c = ag.nn.Parameter(1.0)
    once = ag.optim.Adam([c], lr=0.1)

    def twice(x: Any) -> None:
        step(x)
        step(x)
        once.zero_grad()
        (c * c).backward()
        once.step()

    fast, x = ag.compile(twice), np.ones((4, 3))
    once.state[0].update({"step": 3, "mean": np.array(0.1), "square": np.array(0.1)})
    twice(x)
    for _ in range(2):
        for state in (*often.state, *once.state):
            state["step"] = 3
        fast(x)
        assert [s["step"] for s in (*often.state, *once.state)] == [5, 5, 4]
    assert fast.recordings == 1


def test_a_step_goes_on_from_state_that_was_loaded() -> None:
    (w, b), optimizer, step = training()
    (v, c), other, same_step = training()
    fast, x = ag.compile(step), np.ones((4, 3))
    for _ in range(3):
        fast(x), same_step(x)
    saved = optimizer.state_dict(), w.numpy().copy(), b.item()
    for _ in range(2):
        fast(x)
    optimizer.load_state_dict(saved[0])
    w.assign(saved[1]), b.assign(saved[2])
    fast(x), same_step(x)
    assert fast.recordings == 1
    np.testing.assert_allclose(w.numpy(), v.numpy(), rtol=1e-13)
    assert b.item() == pytest.approx(c.item(), rel=1e-13)
    assert optimizer.state[1]["step"] == other.state[1]["step"] == 4


def test_compiled_and_eager_steps_take_turns() -> None:
    (w, _), _, step = training()
    (v, _), _, same_step = training()
    fast = ag.compile(step)
    for k in range(8):
        x = np.full((4 + k % 2, 3), 0.1 * k)  # two shapes, which share the parameters
        (fast if k % 3 else step)(x)
        same_step(x)
        np.testing.assert_allclose(w.numpy(), v.numpy(), rtol=1e-13)
        np.testing.assert_allclose(w.grad.numpy(), v.grad.numpy(), rtol=1e-13)
    assert fast.recordings == 2


def test_gradients_accumulate_where_nobody_forgets_them() -> None:
    w = ag.nn.Parameter(np.array([1.0, 2.0]))

    def step(x: Any) -> None:
        (w * x).sum().backward()

    fast = ag.compile(step)
    w.grad = np.zeros(2)
    kept = w.grad
    for k in range(1, 4):
        fast(np.array([1.0, 3.0]))
        np.testing.assert_array_equal(w.grad.numpy(), [k, 3 * k])
    np.testing.assert_array_equal(kept.numpy(), [0, 0])
    assert fast.recordings == 1


def test_what_is_given_comes_back_as_the_same_object() -> None:
    t, p = ag.tensor(np.ones(2)), ag.nn.Parameter(np.zeros(2))
    fast = ag.compile(lambda x: (x, p, x + p.detach()))
    for _ in range(2):
        first, second, third = fast(t)
        assert first is t and second is p
        np.testing.assert_array_equal(third.numpy(), [1, 1])


def test_what_the_function_makes_is_another_object_in_each_call() -> None:
    table = np.ones(2)
    fast = ag.compile(lambda x: (x * 2.0, {"a": np.zeros(2), "b": [{1}]}, x.numpy() + 1.0, table))
    for _ in range(3):
        _, made, computed, held = fast(np.ones(2))
        np.testing.assert_array_equal([made["a"], computed - 2.0], np.zeros((2, 2)))
        assert made["b"] == [{1}]
        assert held is table
        made["a"] += 1.0
        made["b"][0].add(2)
        computed += 1.0


def test_what_is_returned_twice_is_one_object() -> None:
    def fn(x: Any) -> Any:
        y = x * x
        return y, {"again": y}

    fast = ag.compile(fn)
    for _ in range(2):
        first, more = fast(np.array([1.0, 3.0]))
        assert more["again"] is first
        x = ag.tensor([1.0, 3.0], requires_grad=True)
        first, more = fast(x)
        assert more["again"] is first
        (first.sum() * more["again"][0]).backward()
        np.testing.assert_array_equal(x.grad.numpy(), [2.0 * (10.0 + 1.0), 6.0])


def test_an_argument_that_is_written_into_is_written_into() -> None:
    def step(x: Any, y: Any) -> Any:
        x += y
        return x.sum()

    fast = ag.compile(step)
    x, y = ag.tensor(np.zeros(3)), ag.tensor(np.arange(3.0))
    seen = x.numpy()
    for k in range(1, 4):
        assert fast(x, y).item() == 3 * k
        np.testing.assert_array_equal(x.numpy(), k * np.arange(3.0))
    np.testing.assert_array_equal(seen, np.zeros(3))
    z = ag.tensor(np.ones(3))
    fast(z, z)
    np.testing.assert_array_equal(z.numpy(), [2, 2, 2])


def test_values_change_places() -> None:
    a, b = ag.tensor(np.zeros(3)), ag.tensor(np.ones(3))

    def swap() -> None:
        before = a.copy()
        a.assign(b)
        b.assign(before)

    fast = ag.compile(swap)
    for k in range(4):
        fast()
        np.testing.assert_array_equal(a.numpy(), np.full(3, (k + 1) % 2))
        np.testing.assert_array_equal(b.numpy(), np.full(3, k % 2))


def test_a_large_array_that_numpy_code_reads_is_compared() -> None:
    large, direct = np.ones(10_000), np.ones(10_000)
    fast = ag.compile(lambda x: (x * (large * 2.0)).sum() + (x * direct).sum())
    assert fast(1.0).item() == fast(1.0).item() == 30_000
    direct[:] = 2.0  # NumPy may have read this one too
    assert fast(1.0).item() == 40_000
    assert fast.recordings == 2
    large[0] = 101.0
    assert fast(1.0).item() == 40_200
    assert fast.recordings == 3
    alone = ag.compile(lambda x: (x * direct).sum())
    for value in (2.0, 2.0, 3.0):
        direct[:] = value
        assert alone(1.0).item() == 10_000 * value
    assert alone.recordings == 1


def test_arguments_are_not_kept() -> None:
    fast = ag.compile(lambda x, y: (x * y).sum())
    x, y = np.ones(20_000), ag.tensor(np.ones(20_000))
    seen = weakref.ref(x), weakref.ref(y._value)
    fast(x, y), fast(x, y)
    del x, y
    gc.collect()
    assert [r() for r in seen] == [None, None]


def test_an_attribute_of_an_argument_that_changes_is_seen() -> None:
    class Scale:
        factor = 2.0

        def __init__(self) -> None:
            self.factor = 2.0

    scale, fast = Scale(), ag.compile(lambda s, x: x * s.factor)
    assert fast(scale, 3.0).item() == 6.0
    scale.factor = 5.0
    assert fast(scale, 3.0).item() == 15.0


def test_a_number_that_an_operator_makes_an_array_of() -> None:
    def fn(c: Any, x: Any) -> Any:
        c *= x
        return c.sum()

    for _ in range(2):
        assert ag.compile(fn)(2.0, np.ones(3)).item() == 6.0


def test_after_too_many_recordings_it_runs_as_it_was_recorded() -> None:
    fast = ag.compile(lambda x: (x * 2).sum())
    with pytest.warns(UserWarning, match="runs uncompiled"):
        for n in range(1, 40):
            out = fast(np.ones(n))
            assert isinstance(out, ag.Tensor) and out.item() == 2 * n


def test_an_update_whose_old_value_is_read_later() -> None:
    state, kept = ag.tensor(np.arange(5.0)), ag.tensor(np.zeros(5))

    def step(x: Any) -> Any:
        old = state.copy()
        state.assign(ag.roll(state, 1) + x)
        kept.assign(old * 2)
        return (old * state).sum()

    fast, expected = ag.compile(step), np.arange(5.0)
    for _ in range(4):
        new = np.roll(expected, 1) + 0.5
        assert fast(0.5).item() == pytest.approx((expected * new).sum())
        np.testing.assert_array_equal(kept.numpy(), 2 * expected)
        expected = new
        np.testing.assert_array_equal(state.numpy(), expected)


def test_an_error_while_recording_leaves_everything_as_it_was() -> None:
    w = nn.Parameter([1.0, 2.0])
    fast = ag.compile(lambda x: (w @ x).sum())
    with pytest.raises(ValueError, match="matmul"):
        fast(np.ones(3))
    assert w.grad is None
    np.testing.assert_array_equal((w * 2.0).numpy(), [2.0, 4.0])


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_many_arrays_are_joined(axis: int) -> None:
    def fn(x: Any, y: Any) -> Any:
        rows = [ag.sin(x * k) + y[k % 3] for k in range(20)]
        joined = ag.stack(rows, axis) * 2.0
        longer = ag.concatenate([*rows, x[:, :1], joined.reshape(-1, 4)[:2].T[:3]] if axis else [*rows, x[:1]], axis)
        return joined, (joined**2).sum() + (longer**3).sum(), longer

    def loss(x: Any, y: Any) -> Any:
        return fn(x, y)[1]

    x, y = np.linspace(0, 1, 12).reshape(3, 4), np.array([0.5, -1.0, 2.0])
    for eager in (fn, ag.value_and_grad(loss, (0, 1))):
        fast = ag.compile(eager)
        for scale in (1.0, 0.5):
            given = ag.tensor(x * scale), ag.tensor(y)
            for found, expected in zip(ag.tree.leaves(fast(*given)), ag.tree.leaves(eager(*given)), strict=True):
                same(found, expected)


def test_joined_arrays_are_left_in_a_tensor() -> None:
    state = ag.tensor(np.zeros((12, 2)))

    def step(x: Any) -> Any:
        before = state.sum()
        state.assign(ag.stack([x * k + state[k] for k in range(12)]))
        return before

    fast, expected = ag.compile(step), np.zeros((12, 2))
    for _ in range(3):
        assert fast(np.ones(2)).item() == expected.sum()
        expected = expected + np.arange(12.0)[:, None]
        np.testing.assert_array_equal(state.numpy(), expected)


def test_steps_that_read_and_write_row_after_row_share_their_kernels() -> None:
    observed, wavelet = np.sin(np.arange(120.0)).reshape(40, 3), ag.tensor(np.cos(np.arange(40.0)))

    def misfit(c: Any) -> Any:
        now, traces, total = ag.zeros(30), [], 0.0
        for t in range(40):
            now = now + c * (np.roll(now, 1) - now)
            now[5] += wavelet[t]
            total = total + ((now[[3, 10, 20]] - observed[t]) ** 2).sum()
            traces.append(now[::10])
        return total + (ag.stack(traces) ** 2).mean()

    eager = ag.value_and_grad(misfit)
    fast = ag.compile(eager)
    for c in (np.full(30, 0.2), np.linspace(0.1, 0.3, 30)):
        for found, expected in zip(fast(c), eager(c), strict=True):
            same(found, expected)
        observed *= 0.5
    assert fast.recordings == 2  # an array that small is compared, as other NumPy code may have read it
    assert len(kernels(fast)) < 40


# --- kernels on disk --------------------------------------------------------------------------------------------------

PROGRAM = """\
import numpy as np, autograd_geo as ag
fast = ag.compile(lambda x: ag.sin(x) + 1)
fast(np.zeros(3))
print(fast(np.zeros(3)).numpy())
"""


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Any) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    environment = {**os.environ, "AUTOGRAD_GEO_CACHE_DIR": str(blocked)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[1. 1. 1.]"
    assert done.stderr.count("cannot be kept on disk") == 1


def test_processes_may_compile_the_same_kernel_at_once(tmp_path: Any) -> None:
    environment = {**os.environ, "AUTOGRAD_GEO_CACHE_DIR": str(tmp_path), "PYTHONWARNINGS": "error"}
    several = [
        subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert [p.communicate()[0].strip() for p in several] == ["[1. 1. 1.]"] * 4
    assert all(p.returncode == 0 for p in several)
    assert len(list((tmp_path / "kernels").glob("kernel_*.py"))) == 1
    assert not list((tmp_path / "kernels").glob("*.tmp"))


def run_program(folder: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "AUTOGRAD_GEO_CACHE_DIR": str(folder)}
    return subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)


@pytest.mark.parametrize("ending", ["nbi", "nbc", "py", "sha256"])
def test_files_that_were_damaged_are_made_again(tmp_path: Any, ending: str) -> None:
    assert run_program(tmp_path).stdout.strip() == "[1. 1. 1.]"
    (file,) = [f for f in tmp_path.rglob(f"*.{ending}") if f.stem.startswith("kernel_")]
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x10
    for damaged in (whole[: len(whole) // 2], bytes(flipped)):
        file.write_bytes(damaged)
        done = run_program(tmp_path)
        assert (done.stdout.strip(), done.stderr) == ("[1. 1. 1.]", "")


@pytest.mark.skipif(os.name == "nt", reason="modes of files are those of POSIX")
def test_kernels_are_kept_in_a_private_folder(tmp_path: Any) -> None:
    run_program(tmp_path)
    assert (tmp_path / "kernels").stat().st_mode & 0o777 == 0o700
    (tmp_path / "kernels").chmod(0o777)
    done = run_program(tmp_path)
    assert done.stdout.strip() == "[1. 1. 1.]"
    assert "others may write there" in done.stderr


def test_a_result_that_is_also_what_an_argument_becomes() -> None:
    def fn(x: Any) -> Any:
        x *= 2.0
        return ag.max(x, axis=0, keepdims=True)  # of one element: the element

    fast = ag.compile(fn)
    for start in (1.0, 2.0, 3.0):
        x = ag.tensor([start])
        same(fast(x), ag.tensor([2 * start]))
        same(x, ag.tensor([2 * start]))


def test_integers_computed_inside_are_no_constants_of_a_derivative() -> None:
    def slope(x: Any) -> Any:
        return ag.grad(lambda x: (ag.argmin(x, axis=0) * x).sum())(x)

    fast = ag.compile(slope)
    for x in ([[3.0, 1.0], [2.0, 2.0]], [[1.0, 3.0], [2.0, 2.0]], [[1.0, 1.0], [2.0, 2.0]]):
        same(fast(np.array(x)), slope(np.array(x)))


def test_a_numpy_function_of_a_number_makes_float64_as_without_compile() -> None:
    x = np.ones(3, np.float32)
    for fn in (
        lambda x, a: ag.tensor(x) * np.add(a, 1), lambda x, a: ag.tensor(x) * np.maximum(a, 0),
        lambda x, a: ag.tensor(x) * (a * 2 + abs(a)),
    ):  # fmt: skip
        assert ag.compile(fn)(x, 0.5).dtype == fn(x, 0.5).dtype


def test_derivatives_with_respect_to_python_numbers_inside() -> None:
    for fn in (
        lambda m: ag.grad(lambda x: x * x * m)(2.0), lambda m: ag.grad(ag.grad(lambda x: x**3 * m))(2.0),
        lambda m: ag.jvp(lambda x: x * x * m, (2.0,), (1.0,))[1],
        lambda m: ag.grad(lambda x: x["a"] * m)({"a": 2.0})["a"],
    ):  # fmt: skip
        fast = ag.compile(fn)
        for m in (1.0, 1.0, 3.0):
            assert fast(m).item() == fn(m).item()
        assert fast.recordings == 1
