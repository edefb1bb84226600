"""`ag.compile`: what a recording reads, what it leaves behind, and when it holds."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import autograd_geo as ag
from autograd_geo import nn, optim


def same(found: Any, expected: Any, rtol: float = 1e-12) -> None:
    np.testing.assert_allclose(np.asarray(found.numpy()), np.asarray(expected.numpy()), rtol=rtol, atol=rtol)


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
    (recorded,) = next(iter(fast._recordings.values()))
    kernels = {step.kernel.source for step in recorded.program.steps if step.kernel is not None}
    assert len(recorded.program.steps) > 120
    assert len(kernels) <= 15


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
    (recorded,) = next(iter(fast._recordings.values()))
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
    (recorded,) = next(iter(fast._recordings.values()))
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
    (recorded,) = next(iter(fast._recordings.values()))
    assert len(recorded.program.steps) == 1


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


def test_a_result_on_the_tape_is_refused() -> None:
    w = nn.Parameter([1.0, 2.0])
    with pytest.raises(TypeError, match="requires a gradient"):
        ag.compile(lambda x: x * w)(np.ones(2))
    with ag.no_grad():
        assert not ag.compile(lambda x: x * w)(np.ones(2)).requires_grad
    recorded = w * 2
    with pytest.raises(TypeError, match="recorded outside"):
        ag.compile(lambda x: (x * recorded).sum())(np.ones(2))


def test_random_draws_are_refused() -> None:
    before = ag.random.uniform(3)
    ag.seed(0)
    with pytest.raises(TypeError, match="drawn inside the function"):
        ag.compile(lambda x: x * ag.random.uniform(3))(np.ones(3))
    ag.seed(0)
    assert ag.random.uniform(3).shape == before.shape


def test_an_error_while_recording_leaves_everything_as_it_was() -> None:
    w = nn.Parameter([1.0, 2.0])
    fast = ag.compile(lambda x: (w @ x).sum())
    with pytest.raises(ValueError, match="matmul"):
        fast(np.ones(3))
    assert w.grad is None
    np.testing.assert_array_equal((w * 2.0).numpy(), [2.0, 4.0])


# --- kernels on disk --------------------------------------------------------------------------------------------------

PROGRAM = "import numpy as np, autograd_geo as ag; print(ag.compile(lambda x: ag.sin(x) + 1)(np.zeros(3)).numpy())"


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Any) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    environment = {**os.environ, "AUTOGRAD_GEO_CACHE_DIR": str(blocked)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[1. 1. 1.]"
    assert done.stderr.count("cannot be kept on disk") == 1


def test_two_processes_may_compile_the_same_kernel(tmp_path: Any) -> None:
    environment = {**os.environ, "AUTOGRAD_GEO_CACHE_DIR": str(tmp_path)}
    both = [
        subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [p.communicate()[0].strip() for p in both] == ["[1. 1. 1.]"] * 2
    assert len(list((tmp_path / "kernels").glob("kernel_*.py"))) >= 1
    assert not list((tmp_path / "kernels").glob("*.tmp"))
