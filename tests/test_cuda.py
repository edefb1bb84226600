"""Tensors on the device, in Numba's simulator where there is no GPU: every op, its gradient, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from op_calls import calls, differentiable, scalar_of

import autograd_geo as ag
from autograd_geo.op import Op, registry

pytestmark = pytest.mark.skipif(not ag.cuda.is_available(), reason="no GPU, and the simulator is off")


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
