"""What follows a product on the device: in one launch with it where it fits, and the same numbers as on the CPU."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

import autograd_geo as ag
from autograd_geo.cuda import program

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not ag.cuda.is_available(), reason="no GPU, and the simulator is off"),
]

RNG = np.random.default_rng(0)
X, W, BIAS, SAME = (RNG.normal(size=s).astype(np.float32) for s in ((18, 20), (20, 16), (16,), (18, 16)))
NAN, INF = np.float32("nan"), np.float32("inf")


def check(fn: Callable[..., Any], *values: Any, launches: list[str], exact: float = 1e-5) -> None:
    """Compiled on the device: these kernels, and the numbers of the CPU."""
    fast = ag.compile(fn)
    found = fast(*[ag.tensor(v, device="cuda") for v in values])
    with np.errstate(all="ignore"):
        wanted = fn(*map(ag.tensor, values))
    assert re.findall(r"^def (\w+)", fast.source(), re.MULTILINE) == launches
    several = isinstance(wanted, tuple)
    for a, b in zip(found if several else [found], wanted if several else [wanted], strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=exact, atol=exact)


FUSED: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
    "bias": lambda x, w, b, s: x @ w + b,
    "relu": lambda x, w, b, s: ag.relu(x @ w + b),
    "tanh": lambda x, w, b, s: ag.tanh(x @ w + b),
    "sigmoid": lambda x, w, b, s: ag.sigmoid(x @ w + b),
    "gelu": lambda x, w, b, s: ag.gelu(x @ w + b),
    "elu": lambda x, w, b, s: ag.elu(x @ w),
    "residual": lambda x, w, b, s: s + ag.silu(x @ w + b),
    "numbers": lambda x, w, b, s: 0.5 * (x @ w) - s / 3.0,
    "twice": lambda x, w, b, s: (y := x @ w + b) * s + y**2 * s,
    "condition": lambda x, w, b, s: ag.where((y := x @ w) > 0.25, y, s) * (y < b),
    "other functions": lambda x, w, b, s: ag.cbrt(ag.floor(y := x @ w)) + ag.remainder(y, 2.0) * ag.atan2(s, b),
    "the product and two of it": lambda x, w, b, s: ((y := x @ w), ag.relu(y) * s, s - ag.tanh(y) * b),
    "activation and what it is of": lambda x, w, b, s: ((y := x @ w + b), ag.relu(y)),
}


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("name", FUSED)
def test_one_launch(name: str, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where k is cut into parts, which the second kernel adds before the epilogue."""
    monkeypatch.setattr(program, "plan_matmul", functools.partial(program.plan_matmul, parts=parts))
    check(FUSED[name], X, W, BIAS, SAME, launches=["matmul"] if parts == 1 else ["matmul", "add_parts"])


def test_layers_that_are_batched_and_of_float64() -> None:
    x = RNG.normal(size=(2, 9, 20))
    model = ag.nn.Sequential(ag.nn.Linear(20, 17), ag.nn.ReLU(), ag.nn.Linear(17, 18), ag.nn.Tanh())
    wanted = model(ag.tensor(x)).numpy()
    model.to("cuda")
    fast = ag.compile(lambda x: model(x).detach())
    found = fast(ag.tensor(x, device="cuda"))
    assert re.findall(r"^def (\w+)", fast.source(), re.MULTILINE) == ["matmul"] * 2
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-12)
    batch, other = RNG.normal(size=(3, 18, 20)), RNG.normal(size=(3, 20, 5))
    check(lambda a, b, c: ag.relu(a @ b + c), batch, other, RNG.normal(size=5), launches=["matmul"], exact=1e-12)
    check(lambda a, b, c: ag.relu(a @ b) * c, batch, other, RNG.normal(size=(3, 18, 5)), launches=["matmul"])


def test_nan_and_infinity() -> None:
    x = X.copy()
    x[0, 0], x[1, :2], x[2, 3] = NAN, (INF, -INF), INF
    bias = BIAS.copy()
    bias[:3] = NAN, INF, -INF
    for name in ("relu", "tanh", "sigmoid", "condition", "residual"):
        check(FUSED[name], x, W, bias, SAME, launches=["matmul"])


UNFUSED: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
    "four results": lambda x, w, b, s: ((y := x @ w), ag.relu(y), y * s, y + b),
    "a value per row": lambda x, w, b, s: x @ w + s[:, :1],
    "two of its shape": lambda x, w, b, s: (x @ w) * s + ag.flip(s, 1),
    "two per column": lambda x, w, b, s: (x @ w) * b + s[0],
    "another dtype": lambda x, w, b, s: (x @ w + b) * s.astype(np.float64),
    "a sum": lambda x, w, b, s: (x @ w + b).sum(0),
    "read elsewhere": lambda x, w, b, s: ag.flip(y := x @ w, 1) + y,
    "-0, which added is not 0": lambda x, w, b, s: x @ w + -0.0,
}


@pytest.mark.parametrize("name", UNFUSED)
def test_what_does_not_fit_is_a_kernel_of_its_own(name: str) -> None:
    fast = ag.compile(UNFUSED[name])
    fast(*[ag.tensor(v, device="cuda") for v in (X, W, BIAS, SAME)])
    kernels = re.findall(r"^def (\w+)", fast.source(), re.MULTILINE)
    assert kernels[0] == "matmul" and "kernel" in kernels
    check(UNFUSED[name], X, W, BIAS, SAME, launches=kernels)


def test_a_product_may_be_what_another_is_added_to() -> None:
    check(lambda x, w, b, s: ag.tanh(x @ w + s @ s.T @ x @ w + b), X, W, BIAS, SAME, launches=["matmul"] * 4)


def test_a_product_that_another_reads_first_in_another_order() -> None:
    def fn(x: Any, w: Any, b: Any, v: Any) -> Any:
        y = x @ w
        z = ag.einsum("aij,ki->kaj", y.reshape(3, 6, 16), v)
        return z, ag.relu(y + b + z.sum())

    launches = ["matmul", "matmul", "kernel", "kernel", "kernel"]
    check(fn, X, W, BIAS, RNG.normal(size=(18, 6)).astype(np.float32), launches=launches, exact=1e-4)


def test_a_step_of_training() -> None:
    """What gradients need is stored by the product too: a sum, an activation, what the step looks for NaN in."""

    def losses(device: str, compiled: bool) -> tuple[list[float], Any]:
        ag.seed(3)
        layers = [ag.nn.Linear(20, 16), ag.nn.ReLU(), ag.nn.Linear(16, 17), ag.nn.Tanh(), ag.nn.Linear(17, 16)]
        model = ag.nn.Sequential(*layers).to(device)
        optimizer = ag.optim.Adam(model.parameters(), lr=0.01)

        def step(x: Any) -> Any:
            optimizer.zero_grad()
            loss = (model(x) ** 2).mean()
            loss.backward()
            optimizer.step()
            return loss.detach()

        run = ag.compile(step) if compiled else step
        x = ag.tensor(X.astype(np.float64), device=device)
        return [run(x).item() for _ in range(3)], run

    wanted, _ = losses("cpu", False)
    found, fast = losses("cuda", True)
    np.testing.assert_allclose(found, wanted, rtol=1e-11)
    assert "vm_maximum(element_x + element_bias, constant0)" in fast.source()
    assert "vm_tanh(element_x + element_bias" in fast.source()
