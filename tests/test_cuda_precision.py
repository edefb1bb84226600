"""The precision of products on the device: what is set is what is computed, eagerly, compiled, and in gradients."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

import autograd_geo as ag

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not ag.cuda.is_available(), reason="no GPU, and the simulator is off"),
]

RNG = np.random.default_rng(0)
X, W, G = (RNG.normal(size=s).astype(np.float32) for s in ((18, 20), (16, 20), (18, 16)))
#: Between which bounds the largest error of a product of these lies.
BOUNDS = {"float32": (0.0, 1e-5), "tf32x3": (0.0, 1e-5), "tf32": (5e-4, 2e-2), "bf16": (1e-2, 0.2)}


def there(x: Any, **how: Any) -> Any:
    return ag.tensor(x, device="cuda", **how)


EXACT = X.astype("f8") @ W.T


def check(found: Any, precision: str, exact: Any = EXACT) -> None:
    low, high = BOUNDS[precision]
    assert low <= np.abs(found.numpy() - exact).max() <= high, precision


@pytest.mark.parametrize("precision", BOUNDS)
def test_each_precision_is_as_exact_as_it_says(precision: str) -> None:
    linear = ag.nn.Linear(20, 16, bias=False, dtype=np.float32).to("cuda")
    linear.weight.assign(there(W))
    x, w = there(X), there(W.T)
    with ag.cuda.matmul_precision(precision):
        check(ag.matmul(x, w), precision)
        check(linear(x).detach(), precision)
        check(ag.compile(ag.matmul)(x, w), precision)
        a = there(X, requires_grad=True)
        (a @ w).backward(there(G))
        assert a.grad is not None
        check(a.grad, precision, G.astype("f8") @ W)


def step_of_training() -> tuple[Callable[[Any, Any], Any], Any]:
    model = ag.nn.Linear(20, 16, bias=False, dtype=np.float32).to("cuda")
    model.weight.assign(there(W))
    optimizer = ag.optim.SGD(model.parameters(), lr=1.0)

    def step(x: Any, g: Any) -> Any:
        optimizer.zero_grad()
        loss = (model(x) * g).sum()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step, model


def test_a_compiled_step_of_training_obeys_it_in_gradients_too() -> None:
    """One compiled function under each setting in turn; the gradient is all that changes the weights."""
    step, model = step_of_training()
    fast, x, g = ag.compile(step), there(X), there(G)
    exact = W - G.T.astype("f8") @ X
    for _ in range(2):
        for precision in BOUNDS:
            model.weight.assign(there(W))
            with ag.cuda.matmul_precision(precision):
                fast(x, g)
            check(model.weight, precision, exact)
    assert fast.recordings == len(BOUNDS)


def test_set_inside_of_a_compiled_function() -> None:
    def mixed(x: Any, w: Any) -> Any:
        with ag.cuda.matmul_precision("bf16"):
            rough = x @ w
        return rough, x @ w

    x, w = there(X), there(W.T)
    fast = ag.compile(mixed)
    for outside in ("float32", "tf32", "float32"):
        with ag.cuda.matmul_precision(outside):
            rough, other = fast(x, w)
        check(rough, "bf16")
        check(other, outside)
    assert fast.recordings == 2

    def leaves_it(x: Any) -> Any:
        ag.cuda.matmul_precision("tf32")
        return x * 2.0

    with pytest.raises(TypeError, match=r"changes ag\.cuda\.matmul_precision for what comes after it"):
        ag.compile(leaves_it)(x)
    check(x @ w, "float32")


def test_it_lasts_for_a_block_or_for_good_and_for_one_thread() -> None:
    x, w = there(X), there(W.T)
    with pytest.raises(ZeroDivisionError), ag.cuda.matmul_precision("bf16"):
        check(x @ w, "bf16")
        raise ZeroDivisionError
    check(x @ w, "float32")
    found = []

    def other_thread() -> None:
        ag.cuda.matmul_precision("bf16")
        found.append(x @ w)

    thread = threading.Thread(target=other_thread)
    thread.start()
    thread.join()
    check(found[0], "bf16")
    check(x @ w, "float32")
    with ag.cuda.matmul_precision("tf32") as nothing, ag.cuda.matmul_precision("bf16"):
        ag.cuda.matmul_precision("float32")
        check(x @ w, "float32")
    assert nothing is None
    check(x @ w, "float32")
    again = ag.cuda.matmul_precision("tf32")
    with again:
        pass
    check(x @ w, "float32")
    with again:
        check(x @ w, "tf32")


def test_float64_is_not_affected() -> None:
    with ag.cuda.matmul_precision("bf16"):
        found = there(X.astype("f8")) @ there(W.T.astype("f8"))
    np.testing.assert_allclose(found.numpy(), X.astype("f8") @ W.T, rtol=1e-12, atol=1e-13)


def test_other_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'high' is not known; known are float32, tf32x3, tf32, bf16"):
        ag.cuda.matmul_precision("high")
    check(there(X) @ there(W.T), "float32")
