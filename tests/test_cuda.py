"""Tensors on the device, in Numba's simulator where there is no GPU: every op, its gradient, and what is refused."""

from __future__ import annotations

import copy
import operator
import os
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from op_calls import calls, differentiable, scalar_of

import autograd_geo as ag
from autograd_geo.op import Op, registry

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not ag.cuda.is_available(), reason="no GPU, and the simulator is off"),
]


def there(x: Any) -> Any:
    return ag.tensor(x, device="cuda") if isinstance(x, np.ndarray) else x


@pytest.mark.parametrize("op", registry.values(), ids=registry)
def test_every_op_and_its_gradient(op: Op) -> None:
    for args, attrs in calls(op)[:2]:
        active = differentiable(op, len(args))
        fn = scalar_of(op, [there(a) for a in args], attrs, active)
        wanted = scalar_of(op, args, attrs, active)
        here = [ag.tensor(args[k], requires_grad=True) for k in active]
        moved = [ag.tensor(args[k], requires_grad=True, device="cuda") for k in active]
        z, found = wanted(*here), fn(*moved)
        assert found.device == "cuda" if any(isinstance(a, np.ndarray) for a in args) else True
        np.testing.assert_allclose(found.numpy(), z.numpy(), rtol=1e-12, atol=1e-14)
        assert (found.shape, found.dtype) == (z.shape, z.dtype)
        if not z.requires_grad:
            continue
        seed = np.random.default_rng(0).normal(size=z.shape)
        z.backward(seed)
        found.backward(seed)
        for a, b in zip(here, moved, strict=True):
            assert b.grad is not None and b.grad.device == "cuda"
            np.testing.assert_allclose(b.grad.numpy(), a.grad.numpy(), rtol=1e-11, atol=1e-13)


def softmax_rows(x: Any) -> Any:
    e = ag.exp(x - ag.max(x, axis=-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


SPREAD: dict[str, Any] = {
    "elementwise": lambda x: ag.tanh(x) * x + 1.0,
    "whole sum": lambda x: (x * x).sum(),
    "whole max and min": lambda x: ag.max(x) - ag.min(x),
    "rows": lambda x: (x * x).sum(-1),
    "columns": lambda x: ag.sin(x).sum(0),
    "middle": lambda x: x.mean(1),
    "two axes": lambda x: ag.max(x, axis=(0, 2)),
    "first and last": lambda x: x.sum(0).sum(-1),
    "softmax": softmax_rows,
    "log-softmax": lambda x: ag.log_softmax(x, -1),
    "normalised": lambda x: (x - x.mean(-1, keepdims=True)) / ag.sqrt(x.var(-1, keepdims=True) + 1e-5),
    "over the batch": lambda x: (x - x.mean(0)) / ag.std(x, axis=0),
    "product": lambda x: x @ ag.transpose(x, (0, 2, 1)),
    "shifted": lambda x: x[:, 1:] - x[:, :-1],
    "turned": lambda x: ag.transpose(x, (2, 0, 1)) * 2.0,
    "padded": lambda x: ag.pad(x, ((1, 0), (0, 2), (0, 0))).sum(1),
    "broadcast": lambda x: x + x[:, :1] * x[:1],
    "running": lambda x: ag.cumsum(x, axis=1),
    "chosen": lambda x: ag.where(x > 0.2, ag.sqrt(ag.abs(x)), 0.0),
    "taken": lambda x: ag.take(x, np.array([[2, 0], [1, 1]]), axis=1),
    "joined": lambda x: ag.concatenate([x, x * 2, x[:, :2]], axis=1),
}


@pytest.mark.parametrize("short", [False, True], ids=["as on the CPU", "rows of two, many kept"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", SPREAD)
def test_how_work_is_spread(case: str, dtype: Any, short: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """All ways to share a region among threads, with rows that are finished one by one and without."""
    from autograd_geo.compiler import regions
    from autograd_geo.cuda import eager, region

    if short:
        monkeypatch.setattr(regions, "LEAST_ROW", 2)
        monkeypatch.setattr(region, "MANY", 3)
        monkeypatch.setattr(region, "_printed", {})
    monkeypatch.setattr(eager, "_programs", {})
    x = np.random.default_rng(3).normal(size=(3, 4, 5)).astype(dtype)
    fn = SPREAD[case]
    here, moved = ag.tensor(x, requires_grad=True), ag.tensor(x, requires_grad=True, device="cuda")
    z, found = fn(here), fn(moved)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(found.numpy(), z.numpy(), rtol=100 * eps, atol=100 * eps)
    assert found.dtype == z.dtype
    seed = np.random.default_rng(0).normal(size=z.shape).astype(dtype)
    z.backward(seed)
    found.backward(seed)
    np.testing.assert_allclose(moved.grad.numpy(), here.grad.numpy(), rtol=1000 * eps, atol=1000 * eps)


def five_points(u: Any, c: Any) -> Any:
    return c * (ag.roll(u, 1, 0) + ag.roll(u, -1, 0) + ag.roll(u, 1, 1) + ag.roll(u, -1, 1) - 4.0 * u)


def fourth_order(u: Any, c: Any) -> Any:
    def second(axis: int) -> Any:
        near, far = (ag.roll(u, k, axis) + ag.roll(u, -k, axis) for k in (1, 2))
        return (16.0 * near - far - 30.0 * u) / 12.0

    return c[:, 1:] * (second(0) + second(1))[:, 1:] + u[:, :-1]


def of_two_arrays(u: Any, c: Any) -> Any:
    inner = (slice(1, -1), slice(1, -1))
    flux = (c[2:, 1:-1] - c[:-2, 1:-1]) * (u[2:, 1:-1] - u[:-2, 1:-1]) + (c[1:-1, 2:] - c[1:-1, :-2]) * u[inner]
    return ag.tanh(flux) + c[inner]


STENCILS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "5 points": (five_points, (9, 18)),
    "fourth order": (fourth_order, (11, 19)),
    "two arrays": (of_two_arrays, (10, 21)),
    "a batch": (lambda u, c: c[:, 1:-1, 1:] * (u[:, 2:, 1:] + u[:, :-2, :-1] - u[:, 1:-1, 1:]), (2, 9, 20)),
    "three dimensions": (lambda u, c: five_points(u, c) + ag.roll(u, 1, 2) * ag.roll(u, -1, 2), (3, 5, 17)),
}


@pytest.mark.parametrize("case", STENCILS)
def test_what_reads_around_itself(case: str) -> None:
    """Tiles in shared memory, of the arrays and of the cotangents."""
    fn, shape = STENCILS[case]
    rng = np.random.default_rng(0)
    u, c, w = (rng.normal(size=shape) for _ in range(3))

    def value_and_slopes(u: Any, c: Any) -> Any:
        z = fn(u, c)
        return z, ag.grad(lambda u, c: (fn(u, c) ** 2).sum(), (0, 1))(u, c * w)

    fast = ag.compile(value_and_slopes)
    wanted, (du, dc) = value_and_slopes(ag.tensor(u), ag.tensor(c))
    for _ in range(2):
        z, slopes = fast(ag.tensor(u, device="cuda"), ag.tensor(c, device="cuda"))
        for found, expected in zip((z, *slopes), (wanted, du, dc), strict=True):
            np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-11, atol=1e-12)
    if case != "three dimensions":
        assert "cuda.shared.array" in fast.source()


class Dropout(ag.nn.Module):
    def forward(self, x: Any) -> Any:
        return x * ag.random.bernoulli(0.7, x.shape) / 0.7


def trained(device: str, compiled: bool, make: Any, steps: int = 3) -> list[Any]:
    """Losses and parameters of a few steps of a network with dropout."""
    ag.seed(5)
    model = ag.nn.Sequential(ag.nn.Linear(3, 4), ag.nn.ReLU(), Dropout(), ag.nn.Linear(4, 2)).to(device)
    optimizer = make(list(model.parameters()))
    rng = np.random.default_rng(1)
    x, y = (ag.tensor(rng.normal(size=s), device=device) for s in ((5, 3), (5, 2)))

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = ag.nn.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    run = ag.compile(step) if compiled else step
    losses = []
    for _ in range(steps):
        losses.append(run(x, y))
        optimizer.lr *= 0.9
    assert all(loss.device == device for loss in losses)
    assert all(p.device == device for p in model.parameters())
    if compiled:
        assert run.recordings == 1
    return [*(loss.item() for loss in losses), *(p.numpy() for p in model.parameters())]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: ag.optim.SGD(p, lr=0.1), lambda p: ag.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        lambda p: ag.optim.Adam(p, lr=0.05, weight_decay=0.01),
    ],
)  # fmt: skip
def test_training_gives_the_same_numbers(make: Any, compiled: bool) -> None:
    """Dropout included: its random numbers are those of the CPU."""
    for a, b in zip(trained("cuda", compiled, make), trained("cpu", False, make), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("compiled", [False, True])
def test_all_parameters_are_updated_in_one_launch(compiled: bool) -> None:
    def of(device: str) -> Any:
        rng = np.random.default_rng(0)
        values = [rng.normal(size=s) for s in ((3, 4), (4,), (2, 3), (1,), ())]
        parameters = [ag.nn.Parameter(ag.tensor(v, device=device)) for v in values]
        here = ag.nn.Parameter(np.ones(2))  # on the CPU, whatever the others are on
        optimizer = ag.optim.Adam([*parameters, here], lr=0.1)

        def step() -> None:
            for p in parameters:
                p.grad = ag.tensor(p.detach() * 0.5)
            optimizer.step()

        here.grad = ag.tensor([1.0, -1.0])
        for _ in range(3):
            step()
        if compiled:
            here.grad = None
            step = ag.compile(step)
            for _ in range(3):
                step()
        return optimizer, step, [p.numpy() for p in (*parameters, here)]

    (optimizer, step, found), (_, _, wanted) = of("cuda"), of("cpu")
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    recorded = (step if compiled else optimizer._step_there).recorded[0]
    assert len(recorded.made.program.sources) == 1


def test_an_optimiser_whose_gradients_come_and_go() -> None:
    parameters = [ag.nn.Parameter(ag.tensor([1.0, 2.0], device="cuda")) for _ in range(6)]
    optimizer = ag.optim.SGD(parameters, lr=0.5)
    wanted = np.full((6, 2), [1.0, 2.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # op by op after so many recordings
        for k in range(1, 40):
            there = [bool(k >> n & 1) for n in range(6)]
            for p, has in zip(parameters, there, strict=True):
                p.grad = ag.tensor([1.0, 1.0], device="cuda") if has else None
            optimizer.step()
            wanted[there] -= 0.5
    np.testing.assert_array_equal([p.numpy() for p in parameters], wanted)


def test_launches_that_come_again_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the same addresses they are captured; values that change in place of nothing are seen."""
    from autograd_geo.cuda.driver import driver

    captured: list[Any] = []
    capture = driver().capture
    monkeypatch.setattr(driver(), "capture", lambda launch: captured.append(launch) or capture(launch))
    w, lr = ag.nn.Parameter(ag.tensor(np.linspace(-1.0, 1.0, 12).reshape(3, 4), device="cuda")), 0.1

    @ag.compile
    def step(x: Any, lr: Any) -> Any:
        loss = (ag.tanh(x @ w) ** 2).sum()
        w.grad = None
        loss.backward()
        w.assign(w.detach() - lr * w.grad)
        return loss.detach()

    rng, wanted = np.random.default_rng(0), w.numpy()
    for k in range(12):
        x = rng.normal(size=(5, 3))
        z = np.tanh(x @ wanted)
        assert step(ag.tensor(x, device="cuda"), lr / (k + 1)).item() == pytest.approx(np.sum(z**2), rel=1e-12)
        wanted = wanted - lr / (k + 1) * x.T @ (2 * z * (1 - z**2))
        np.testing.assert_allclose(w.numpy(), wanted, rtol=1e-11, atol=1e-13)
    assert step.recordings == 1 and 1 <= len(captured) <= 4


def test_a_compiled_function_follows_its_tensors_to_another_device() -> None:
    model = ag.nn.Linear(3, 2)
    run = ag.compile(lambda x: ag.tanh(model(x).detach()))
    x = np.arange(6.0).reshape(2, 3)
    wanted = run(ag.tensor(x)).numpy()
    for device in ("cuda", "cpu", "cuda"):
        model.to(device)
        for _ in range(2):
            found = run(ag.tensor(x, device=device))
            assert found.device == device
            np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-13)
    assert run.recordings == 2


def test_a_branch_on_a_value_is_recorded_anew() -> None:
    def fn(x: Any) -> Any:
        return x * 2.0 if x.sum() > 0 else -x

    fast = ag.compile(fn)
    for sign in (1.0, 1.0, -1.0, 1.0, -1.0):
        x = ag.tensor(sign * np.arange(3.0), device="cuda")
        np.testing.assert_array_equal(fast(x).numpy(), fn(x).numpy())
    assert fast.recordings == 2


def test_where_a_compiled_function_draws_numbers() -> None:
    def fn(x: Any) -> Any:
        return x * ag.random.normal(3)

    x = ag.tensor(np.ones(3), device="cuda")
    ag.seed(3)
    wanted = [fn(x).numpy() for _ in range(3)]
    ag.seed(3)
    fast = ag.compile(fn)
    for w in wanted:
        np.testing.assert_array_equal(fast(x).numpy(), w)


def test_devices_do_not_mix() -> None:
    x, y = ag.tensor([1.0, 2.0], device="cuda"), ag.tensor([3.0, 4.0])
    with pytest.raises(RuntimeError, match=r"multiply: its operands are on two devices, \(2,\) on 'cuda' and \(2,\)"):
        x * y
    np.testing.assert_array_equal((x * np.array([3.0, 4.0])).numpy(), [3.0, 8.0])  # what is no tensor goes there
    np.testing.assert_array_equal((x * ag.tensor(2.0)).numpy(), [2.0, 4.0])  # so does one number
    with pytest.raises(ValueError, match="device must be 'cpu' or 'cuda', not 'gpu'"):
        x.to("gpu")
    with pytest.raises(TypeError, match=r"on the GPU, where NumPy cannot use it"):
        np.asarray(x._value)
    with pytest.raises(ValueError, match=r"add: shapes \(2,\) and \(3,\) do not broadcast"):
        x + np.ones(3)


def test_positions_outside_are_refused() -> None:
    x = ag.tensor([1.0, 2.0, 3.0], device="cuda")
    for index in (np.array([0, 3]), ag.tensor([0, -4], device="cuda")):
        with pytest.raises(IndexError, match="out of range for axis 0 of length 3"):
            ag.take(x, index, axis=0)


def test_gradients_flow_between_devices() -> None:
    w = ag.tensor([1.0, 2.0], requires_grad=True)
    there = w.to("cuda")
    assert there.device == "cuda" and w.to("cpu") is w and there.to("cuda") is there
    (there * there).sum().to("cpu").backward()
    assert w.grad is not None and w.grad.device == "cpu"
    np.testing.assert_array_equal(w.grad.numpy(), [2.0, 4.0])


def test_gradients_of_second_order() -> None:
    x = np.array([0.3, -0.7])

    def slope(x: Any) -> Any:
        return (ag.grad(lambda x: (ag.tanh(x) ** 3).sum())(x) ** 2).sum()

    found = ag.grad(slope)(ag.tensor(x, device="cuda"))
    np.testing.assert_allclose(found.numpy(), ag.grad(slope)(x).numpy(), rtol=1e-12)


def test_memory_is_given_back_and_taken_again() -> None:
    from autograd_geo.cuda.pool import room_of

    before = ag.cuda.memory_info()["used"]
    x = ag.tensor(np.zeros(1000), device="cuda")
    assert ag.cuda.memory_info()["used"] - before == room_of(8000) == 8192
    address = x._value.address
    del x
    assert ag.cuda.memory_info()["used"] == before
    assert ag.tensor(np.ones(1001), device="cuda")._value.address == address  # of the same class
    ag.cuda.empty_cache()
    assert ag.cuda.memory_info()["kept"] == 0


def test_other_shapes_share_memory() -> None:
    x = ag.tensor(np.arange(24.0).reshape(2, 3, 4), device="cuda")
    for same in (x.reshape(6, 4), ag.expand_dims(x, 1), x.reshape(-1).reshape(4, 6), x.detach()):
        assert same._value.address == x._value.address
        np.testing.assert_array_equal(same.numpy().ravel(), np.arange(24.0))
    for other in (x.transpose(), x[0], x + 0.0):
        assert other._value.address != x._value.address


def test_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clear error, and what was there before is still there."""
    from autograd_geo.cuda.pool import pool

    x = ag.tensor(np.ones(8), requires_grad=True, device="cuda")
    y = (x * 2.0).sum()

    def full(size: int) -> Any:
        raise MemoryError("simulated")

    pool().clear()
    monkeypatch.setattr(pool().driver, "allocate", full)
    with pytest.raises(MemoryError, match=r"the GPU has no .* GB for one more array"):
        ag.tensor(np.ones(100_000), device="cuda")
    monkeypatch.undo()
    y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.full(8, 2.0))


def test_copies_and_printing() -> None:
    import pickle

    x = ag.tensor([1.0, 2.0], device="cuda")
    assert repr(x) == 'tensor([1., 2.], device="cuda")'
    assert x.tolist() == [1.0, 2.0] and float(x.sum()) == 3.0 and bool(x[0] > 0)
    for y in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        np.testing.assert_array_equal(y.numpy(), x.numpy())


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_large_products_run_the_matmul_kernels(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(19, 17)).astype(dtype), rng.normal(size=(18, 17)).astype(dtype)
    here = [ag.tensor(v, requires_grad=True) for v in (x, w)]
    moved = [ag.tensor(v, requires_grad=True, device="cuda") for v in (x, w)]
    seed = rng.normal(size=(19, 18)).astype(dtype)
    for a, b in (here, moved):
        (a @ b.T).backward(seed)
    for a, b in zip(here, moved, strict=True):
        np.testing.assert_allclose(b.grad.numpy(), a.grad.numpy(), rtol=1e-4 if dtype == np.float32 else 1e-12)
    fast = ag.compile(lambda a, b: a.detach() @ b.detach().T)
    np.testing.assert_allclose(fast(*moved).numpy(), x @ w.T, rtol=1e-4 if dtype == np.float32 else 1e-12)
    assert "def matmul" in fast.source()


def test_without_a_device_the_error_says_what_is_missing() -> None:
    """In a process of its own, for which nothing is simulated."""
    code = (
        "import autograd_geo as ag, sys\n"
        "assert not ag.cuda.is_available()\n"
        "for fail in (lambda: ag.tensor([1.0], device='cuda'), lambda: ag.tensor(1.0).to('cuda'),\n"
        "             ag.cuda.device_name, ag.cuda.memory_info, lambda: ag.nn.Linear(2, 1).to('cuda')):\n"
        "    try:\n"
        "        fail()\n"
        "    except RuntimeError as error:\n"
        "        assert 'device \"cuda\"' in str(error) and 'stay on the \"cpu\"' in str(error), error\n"
        "    else:\n"
        "        sys.exit('no error')\n"
    )
    hidden = {"NUMBA_ENABLE_CUDASIM": "0", "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **hidden}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_does_not_count_adds_nothing() -> None:
    """As on the CPU: a masked row without a measurement, and derivatives that are infinite where nothing is taken."""
    x, w = np.array([[0.0], [1.0], [np.nan], [4.0]]), np.array([0.5])
    known = ~np.isnan(x)

    def loss(x: Any, w: Any) -> Any:
        return ag.where(known, ag.where(x > 0.0, ag.sqrt(x), 0.0) * w, 0.0).sum()

    here, moved = ([ag.tensor(v, requires_grad=True, device=device) for v in (x, w)] for device in ("cpu", "cuda"))
    for leaves in (here, moved):
        loss(*leaves).backward()
    for a, b in zip(here, moved, strict=True):
        assert np.isfinite(a.grad.numpy()).all()
        np.testing.assert_allclose(b.grad.numpy(), a.grad.numpy(), rtol=1e-14)
    fast = ag.compile(ag.value_and_grad(loss, (0, 1)))
    for _ in range(2):
        _, slopes = fast(*(t.detach() for t in moved))
        for a, b in zip(here, slopes, strict=True):
            np.testing.assert_allclose(b.numpy(), a.grad.numpy(), rtol=1e-14)


def test_what_does_not_count_in_several_results() -> None:
    def fn(x: Any) -> Any:
        known = x > 1.0
        return ag.where(known, ag.sqrt(x), 0.0), ag.where(known, x**0.25, 0.0) * 2.0

    found, wanted = (
        ag.vjp(fn, ag.tensor([0.0, 16.0], device=device))[1]((np.ones(2), np.ones(2)))[0] for device in ("cuda", "cpu")
    )
    np.testing.assert_allclose(wanted.numpy(), [0.0, 0.125 + 0.0625])
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-14)


def test_einsum_of_one_operand() -> None:
    x = np.arange(9.0).reshape(3, 3)
    for subscripts in ("ij->ji", "ii->i", "ij->i", "ii"):
        np.testing.assert_array_equal(
            ag.einsum(subscripts, ag.tensor(x, device="cuda")).numpy(), np.einsum(subscripts, x)
        )


def test_saving_and_loading(tmp_path: Any) -> None:
    x = ag.tensor([1.0, 2.0], device="cuda")
    ag.save(tmp_path / "x.safetensors", {"x": x})
    assert ag.load(tmp_path / "x.safetensors")["x"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint32, np.int64, np.uint64])
def test_comparisons_with_numbers_that_no_element_can_be(dtype: Any) -> None:
    x = np.array([[0, 1], [2, 100]]).astype(dtype)
    for compare in (operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne):
        for number in (1, 300, -1, -(2**40), 2**63, 2**64, 2**70):
            for fn in (lambda x, n=number, f=compare: f(x, n), lambda x, n=number, f=compare: f(n, x)):
                found = fn(ag.tensor(x, device="cuda"))
                assert found.device == "cuda" and found.dtype == np.bool_
                np.testing.assert_array_equal(found.numpy(), fn(x))
    with pytest.raises(OverflowError, match="add: Python int too large"):
        ag.tensor(x, device="cuda") + 2**70
    x = ag.tensor(x, device="cuda")
    if dtype == np.uint8:
        np.testing.assert_array_equal((x + 3).numpy(), [[3, 4], [5, 103]])
        with pytest.raises(OverflowError, match="add: Python integer 300 out of bounds for uint8"):
            x + 300


def test_literals_with_a_sign_of_zero_are_two() -> None:
    x = ag.tensor([1.0], device="cuda")
    assert [(x / 0.0).item(), (x / -0.0).item(), (x / 0.0).item()] == [np.inf, -np.inf, np.inf]


def test_state_follows_the_device() -> None:
    def losses(*devices: str) -> list[float]:
        ag.seed(2)
        model = ag.nn.Linear(2, 1)
        optimizer = ag.optim.Adam(model.parameters(), lr=0.1)

        def step(x: Any) -> Any:
            optimizer.zero_grad()
            loss = (model(x) ** 2).sum()
            loss.backward()
            optimizer.step()
            return loss.detach()

        fast, x, found = ag.compile(step), np.ones((3, 2)), []
        for device in devices:
            model.to(device).load_state_dict(model.state_dict())
            assert {p.device for p in copy.deepcopy(model).parameters()} == {device}
            for run in (step, fast):
                found.append(run(ag.tensor(x, device=device)).item())
                assert {p.device for p in model.parameters()} == {device}
        return found

    np.testing.assert_allclose(losses("cuda", "cpu", "cuda", "cpu"), losses(*["cpu"] * 4), rtol=1e-12)


def test_buffers_stay_where_they_are_and_devices_do_not_mix_in_compiled_code() -> None:
    total = ag.tensor(0.0)
    add = ag.compile(lambda a: total.assign(total + a.sum()))
    with pytest.raises(TypeError, match="assigns what is on 'cuda' to a tensor on 'cpu'"):
        add(ag.tensor([1.0, 2.0], device="cuda"))
    assert total.device == "cpu" and total.item() == 0.0
    total = total.to("cuda")
    for expected in (3.0, 6.0, 9.0):
        add(ag.tensor([1.0, 2.0], device="cuda"))
        assert total.device == "cuda" and total.item() == expected
    model = ag.nn.Linear(2, 1).to("cuda")
    fast = ag.compile(lambda x: model(x).detach())
    assert fast(np.ones((1, 2))).device == "cuda"  # an array goes there by itself
    with pytest.raises(RuntimeError, match="its operands are on two devices"):
        fast(ag.tensor(np.ones((1, 2))))


def test_cotangents_and_tangents_come_from_anywhere() -> None:
    x, xs = np.array([1.0, 2.0]), ag.tensor([1.0, 2.0], device="cuda")
    for seed in (np.array([1.0, 3.0]), ag.tensor([1.0, 3.0]), ag.tensor([1.0, 3.0], device="cuda")):
        y = ag.tensor(x, requires_grad=True, device="cuda")
        (y * y).backward(seed)
        np.testing.assert_array_equal(y.grad.numpy(), [2.0, 12.0])
        (found,) = ag.vjp(lambda x: x * x, xs)[1](seed)
        np.testing.assert_array_equal(found.numpy(), [2.0, 12.0])
        value, pushed = ag.jvp(lambda x: (ag.sin(x) * x).sum() * ag.max(x), (xs,), (seed,))
        wanted = ag.jvp(lambda x: (ag.sin(x) * x).sum() * ag.max(x), (x,), (np.array([1.0, 3.0]),))
        np.testing.assert_allclose([value.item(), pushed.item()], [w.item() for w in wanted], rtol=1e-13)
        np.testing.assert_array_equal(ag.hvp(lambda x: (x**3).sum(), xs, seed).numpy(), [6.0, 36.0])
    a = ag.tensor(2.0, requires_grad=True)
    ((a * xs).sum().to("cpu") + a * a).backward()
    assert a.grad is not None and a.grad.device == "cpu" and a.grad.item() == 7.0


def test_fit_takes_its_batches_to_the_model() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 2)), rng.normal(size=(8, 1))

    def fitted(device: str) -> Any:
        ag.seed(1)
        model = ag.nn.Linear(2, 1).to(device)
        history = ag.optim.fit(
            model, ag.optim.SGD(model.parameters(), lr=0.1), ag.nn.mse_loss, (x, y), epochs=2, batch_size=4
        )
        assert next(iter(model.parameters())).device == device
        return history.train

    np.testing.assert_allclose(fitted("cuda"), fitted("cpu"), rtol=1e-12)


def test_items_are_assigned() -> None:
    x = ag.tensor([1.0, 2.0, 3.0], device="cuda")
    x[0] = 5
    x[1:] = ag.tensor([7.0, 8.0], device="cuda")
    assert x.device == "cuda" and x.tolist() == [5.0, 7.0, 8.0]


def test_gradients_of_what_no_rule_reads_are_where_the_argument_is() -> None:
    x = ag.tensor([1.0, 2.0], device="cuda")
    for fn in (lambda x: x.sum(), lambda x: (x + 1.0).sum() * 2.0):
        assert ag.grad(fn)(x).device == "cuda"
        assert ag.compile(ag.grad(fn))(x).device == "cuda"
