"""Results of compiled functions on a tape outside: their gradients are those of the uncompiled function."""

from __future__ import annotations

import gc
import types
from typing import Any

import numpy as np
import pytest

import autograd_geo as ag
from autograd_geo import nn, optim
from autograd_geo.tape import Entry


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(found.numpy()), np.asarray(expected.numpy()), rtol=1e-11, atol=1e-13)


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not ag.cuda.is_available(), reason="no GPU, none simulated")],
        ),
    ]
)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def variable(x: Any, device: str) -> ag.Tensor:
    return ag.tensor(x, requires_grad=True, device=device)


def model() -> nn.Module:
    ag.seed(2)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


X, Y = np.random.default_rng(0).normal(size=(2, 5, 3)), np.random.default_rng(1).normal(size=(2, 5, 2))


def test_a_loss_trains_a_network_from_outside(device: str) -> None:
    found = []
    for wrapped, where in ((lambda f: f, "cpu"), (ag.compile, device)):
        net = model().to(where)
        optimizer = optim.Adam(net.parameters(), 0.05)
        loss = wrapped(lambda x, y, net=net: nn.mse_loss(net(x), y))
        for k in range(4):
            optimizer.zero_grad()
            value = loss(ag.tensor(X[k % 2], device=where), ag.tensor(Y[k % 2], device=where)) * 2.0
            value.backward()
            optimizer.step()
        found.append([value, *net.parameters(), *[p.grad for p in net.parameters()]])
    assert loss.recordings == 1
    assert value.device == device and all(p.grad.device == device for p in net.parameters())
    for eager, compiled in zip(*found, strict=True):
        close(compiled, eager)


def test_arguments_and_several_results(device: str) -> None:
    def fn(a: Any, pair: dict[str, Any]) -> tuple[Any, Any, Any]:
        s = ag.sin(a) * pair["b"]
        return s.sum(), {"s": s, "n": a.detach() + 1}, s @ s

    fast = ag.compile(fn)
    for _ in range(3):
        gradients = []
        for f, where in ((fn, "cpu"), (fast, device)):
            a, b = (variable(v, where) for v in (X[0, 0], X[0, 1]))
            first, second, third = f(a, {"b": b})
            assert not second["n"].requires_grad
            (first * 2 + (second["s"] ** 2).sum() + third**3).backward()
            gradients.append((a.grad, b.grad))
        for eager, compiled in zip(*gradients, strict=True):
            close(compiled, eager)
    assert fast.recordings == 1


def test_transforms_go_through_it(device: str) -> None:
    def fn(x: Any, k: Any) -> Any:
        return (ag.exp(x * k) ** 2).sum()

    fast = ag.compile(fn)
    for scale in (0.1, 0.2):
        x = ag.tensor(X[0] * scale, device=device)
        value, slope = ag.value_and_grad(fast)(x, 0.5)
        wanted, expected = ag.value_and_grad(fn)(X[0] * scale, 0.5)
        close(value, wanted)
        close(slope, expected)
        close(ag.jacobian(lambda x: fast(x, 0.5) * np.ones(2))(x), expected * np.ones((2, 1, 1)))
    assert fast.recordings == 1
    inside = ag.compile(ag.value_and_grad(fast))
    for _ in range(2):
        close(inside(ag.tensor(X[0], device=device), 0.5)[1], ag.grad(fn)(X[0], 0.5))


def test_values_are_those_of_the_call(device: str) -> None:
    p, constant = variable([1.0, 2.0], device), np.array([3.0, 4.0])
    fast = ag.compile(lambda x: (p * p * constant * x).sum())
    for _ in range(2):
        p.assign([1.0, 2.0])
        p.grad = None
        constant[:] = [3.0, 4.0]
        x = np.array([1.0, 10.0])
        first = fast(x)
        second = fast(x * 2)
        p.assign([7.0, 7.0])
        constant[:] = x[:] = 0.0
        second.backward()
        first.backward()
        np.testing.assert_allclose(p.grad.numpy(), 3 * 2 * np.array([3.0, 80.0]))


def test_it_records_nothing_without_a_gradient(device: str) -> None:
    p = variable([1.0, 2.0], device)
    fast = ag.compile(lambda x: (p * x).sum())
    for _ in range(2):
        assert fast(np.ones(2)).requires_grad
        with ag.no_grad():
            assert not fast(np.ones(2)).requires_grad
    assert fast.recordings == 2


def test_the_tape_is_consumed_and_can_be_kept(device: str) -> None:
    p = variable([1.0, 2.0], device)
    fast = ag.compile(lambda: (p**3).sum())
    fast()
    out = fast()
    out.backward(retain_graph=True)
    out.backward()
    np.testing.assert_allclose(p.grad.numpy(), 6 * p.numpy() ** 2)
    with pytest.raises(RuntimeError, match="consumed"):
        out.backward()


def test_it_is_differentiated_as_often_as_one_likes(device: str) -> None:
    q, v = (ag.tensor(a, device=device) for a in ([0.3, -0.2, 0.5], [1.0, 2.0, -1.0]))
    found = []
    for wrapped in (lambda f: f, ag.compile):
        w = variable([1.0, -2.0, 0.5], device)
        f = wrapped(lambda q, w=w: (ag.sin(q * w) * q[::-1]).sum())
        slope = ag.grad(lambda q, f=f: ag.exp(f(q)))(q)
        slope.sum().backward()
        both = wrapped(lambda q, w=w: {"a": ag.tanh(q * w), "b": (q * q).sum() * w})
        penalty = ag.grad(lambda q, both=both: (both(q)["a"] * both(q)["b"]).sum())(q)
        third = ag.grad(lambda q, f=f: (ag.grad(lambda q: (ag.grad(f)(q) ** 2).sum())(q) * v).sum())(q)
        leaf = variable(q.numpy(), device)
        (f(leaf) ** 2).backward(create_graph=True)
        assert leaf.grad is not None
        once = leaf.grad.detach()
        leaf.grad.sum().backward()
        found.append(
            [
                slope, w.grad, penalty, third, once, leaf.grad, ag.hvp(f, q, v), ag.hessian(f)(q),
                *ag.jvp(f, (q,), (v,)), ag.jvp(ag.grad(f), (q,), (v,))[1], ag.jacobian(lambda q, b=both: b(q)["b"])(q),
            ]
        )  # fmt: skip
    for eager, compiled in zip(*found, strict=True):
        close(compiled, eager)


def test_derivatives_of_derivatives_are_compiled_once_and_leave_nothing_behind() -> None:
    w = variable([1.0, 2.0], "cpu")
    fast = ag.compile(lambda q: ((q * w) ** 3).sum())
    slope = ag.grad(fast)
    gc.collect()
    gc.disable()
    try:
        slopes, entries = [], []
        for k in range(6):
            slopes.append(slope(np.array([1.0, float(k)])).numpy())
            entries.append(sum(isinstance(x, Entry) for x in gc.get_objects()))
    finally:
        gc.enable()
    np.testing.assert_allclose(slopes, [[3.0, 24.0 * k * k] for k in range(6)])
    assert fast.recordings == 1
    assert len(set(entries[2:])) == 1


def test_each_of_many_results_is_differentiated_twice() -> None:
    w = variable([1.0, 2.0], "cpu")
    many = ag.compile(lambda x: [(x * w).sum() ** 2 * k for k in range(34)])  # more than one function is recorded
    for k, out in enumerate(many(x := variable([3.0, 5.0], "cpu"))):
        x.grad = None
        (out * 1.0).backward(create_graph=True)
        assert x.grad is not None
        np.testing.assert_allclose(x.grad.numpy(), 2 * k * 13.0 * w.numpy())


def test_what_was_passed_may_be_emptied_before_the_pass() -> None:
    x = variable([1.0, 2.0], "cpu")
    fast = ag.compile(lambda given, factor: (given["x"][0] ** 3 * factor).sum())
    for factor in (1.0, np.nan):
        given = {"x": [x]}
        out = fast(given, factor)
        given["x"].clear()
        given.clear()
        x.grad = None
        out.backward(create_graph=True)
        assert x.grad is not None
        np.testing.assert_array_equal(x.grad.numpy(), np.array([3.0, 12.0]) * factor)


def test_what_cannot_be_is_refused(device: str) -> None:
    p = variable([1.0, 2.0], device)
    x, scale = np.ones(2), types.SimpleNamespace(of=2.0)
    fast = ag.compile(lambda x: (p * p * x * scale.of).sum())
    for change in (lambda: p.assign(p * 2), lambda: x.__setitem__(0, 3.0), lambda: setattr(scale, "of", 5.0)):
        out = fast(x)
        change()
        with pytest.raises(TypeError, match="<lambda> is differentiated twice, but what it read has changed"):
            out.backward(create_graph=True)
        out.backward()
    with pytest.raises(TypeError, match="random numbers"):
        ag.compile(lambda: (p * ag.random.uniform(2)).sum())()
    state = ag.tensor(np.zeros(2), device=device)

    def changing(x: Any) -> Any:
        state.assign(x)
        return (p * x).sum()

    with pytest.raises(TypeError, match=r"changes value of leaf of shape \(2,\)"):
        ag.compile(changing)(ag.tensor(np.ones(2), device=device))
    with pytest.raises(TypeError, match="recorded outside"):
        ag.compile(lambda y: y.sum().backward())(p * 2)


def test_through_what_was_written_into_a_slice(device: str) -> None:
    def fn(x: Any) -> Any:
        y = x * 1.0
        y[:1] *= 4.0
        return y

    grads = []
    for f, where in ((fn, "cpu"), (ag.compile(fn), device)):
        x = variable(np.ones((2, 2)), where)
        out = f(x)
        (out * out).sum().backward()
        grads.append(x.grad.numpy())
    np.testing.assert_array_equal(grads[0], [[32.0, 32.0], [2.0, 2.0]])
    np.testing.assert_array_equal(grads[1], grads[0])


def test_nothing_is_said_of_derivatives_that_nobody_asked_for(device: str) -> None:
    """They are recorded with a cotangent of ones; an infinity in it is told by a pass alone, as uncompiled."""
    fast = ag.compile(lambda x: (ag.sqrt(x) ** 2).sum())
    for _ in range(2):
        fast(variable([0.0, 1.0], device))


@pytest.mark.gpu
@pytest.mark.skipif(not ag.cuda.is_available(), reason="no GPU, none simulated")
def test_numbers_on_the_host_and_arrays_on_the_gpu() -> None:
    """Each gradient is where its leaf is, of results that are on either."""

    def fn(a: Any, x: Any) -> tuple[Any, Any]:
        return a * a * 3.0, (ag.sin(x * a) ** 2).sum()

    fast = ag.compile(fn)
    for scale in (1.0, 2.0, 3.0):
        gradients = []
        for f, where in ((fn, "cpu"), (fast, "cuda")):
            a, x = variable(0.5 * scale, "cpu"), variable(X[0], where)
            first, second = f(a, x)
            assert (first.device, second.device) == ("cpu", where)
            (first + second.to("cpu") * 2.0).backward()
            assert (a.grad.device, x.grad.device) == ("cpu", where)
            gradients.append((first, second, a.grad, x.grad))
        for wanted, found in zip(*gradients, strict=True):
            close(found, wanted)
    assert fast.recordings == 1


@pytest.mark.gpu
@pytest.mark.skipif(not ag.cuda.is_available(), reason="no GPU, none simulated")
def test_what_does_not_count_adds_nothing_on_the_gpu() -> None:
    """Infinite derivatives of what a `where` outside leaves out; the recording inside has one of its own."""
    fast = ag.compile(lambda x: ag.where(x > 0.0, ag.sqrt(x), 0.0))
    for _ in range(2):
        x = variable([0.0, 4.0], "cuda")
        ag.where(x > 1.0, fast(x), 0.0).sum().backward()
        np.testing.assert_array_equal(x.grad.numpy(), [0.0, 0.25])
