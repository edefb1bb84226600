"""Results of compiled functions on a tape outside: their gradients are those of the uncompiled function."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import autograd_geo as ag
from autograd_geo import nn, optim


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(found.numpy()), np.asarray(expected.numpy()), rtol=1e-11, atol=1e-13)


def model() -> nn.Module:
    ag.seed(2)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


X, Y = np.random.default_rng(0).normal(size=(2, 5, 3)), np.random.default_rng(1).normal(size=(2, 5, 2))


def test_a_loss_trains_a_network_from_outside() -> None:
    found = []
    for wrapped in (lambda f: f, ag.compile):
        net = model()
        optimizer = optim.Adam(net.parameters(), 0.05)
        loss = wrapped(lambda x, y, net=net: nn.mse_loss(net(x), y))
        for k in range(6):
            optimizer.zero_grad()
            value = loss(ag.tensor(X[k % 2]), ag.tensor(Y[k % 2])) * 2.0
            value.backward()
            optimizer.step()
        found.append([value, *net.parameters(), *[p.grad for p in net.parameters()]])
    assert loss.recordings == 1
    for eager, compiled in zip(*found, strict=True):
        close(compiled, eager)


def test_arguments_and_several_results() -> None:
    def fn(a: Any, pair: dict[str, Any]) -> tuple[Any, Any, Any]:
        s = ag.sin(a) * pair["b"]
        return s.sum(), {"s": s, "n": a.detach() + 1}, s @ s

    fast = ag.compile(fn)
    for _ in range(3):
        gradients = []
        for f in (fn, fast):
            a, b = (ag.tensor(v, requires_grad=True) for v in (X[0, 0], X[0, 1]))
            first, second, third = f(a, {"b": b})
            assert not second["n"].requires_grad
            (first * 2 + (second["s"] ** 2).sum() + third**3).backward()
            gradients.append((a.grad, b.grad))
        for eager, compiled in zip(*gradients, strict=True):
            close(compiled, eager)
    assert fast.recordings == 1


def test_transforms_go_through_it() -> None:
    def fn(x: Any, k: Any) -> Any:
        return (ag.exp(x * k) ** 2).sum()

    fast = ag.compile(fn)
    for scale in (0.1, 0.2):
        value, slope = ag.value_and_grad(fast)(X[0] * scale, 0.5)
        wanted, expected = ag.value_and_grad(fn)(X[0] * scale, 0.5)
        close(value, wanted)
        close(slope, expected)
        close(ag.jacobian(lambda x: fast(x, 0.5) * np.ones(2))(X[0] * scale), expected * np.ones((2, 1, 1)))
    assert fast.recordings == 1
    inside = ag.compile(ag.value_and_grad(fast))
    for _ in range(2):
        close(inside(X[0], 0.5)[1], ag.grad(fn)(X[0], 0.5))


def test_values_are_those_of_the_call() -> None:
    p, constant = nn.Parameter([1.0, 2.0]), np.array([3.0, 4.0])
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


def test_it_records_nothing_without_a_gradient() -> None:
    p = nn.Parameter([1.0, 2.0])
    fast = ag.compile(lambda x: (p * x).sum())
    for _ in range(2):
        assert fast(np.ones(2)).requires_grad
        with ag.no_grad():
            assert not fast(np.ones(2)).requires_grad
    assert fast.recordings == 2


def test_the_tape_is_consumed_and_can_be_kept() -> None:
    p = nn.Parameter([1.0, 2.0])
    fast = ag.compile(lambda: (p**3).sum())
    fast()
    out = fast()
    out.backward(retain_graph=True)
    out.backward()
    np.testing.assert_allclose(p.grad.numpy(), 6 * p.numpy() ** 2)
    with pytest.raises(RuntimeError, match="consumed"):
        out.backward()


def test_what_cannot_be_is_refused() -> None:
    p = nn.Parameter([1.0, 2.0])
    fast = ag.compile(lambda x: (p * p * x).sum())
    with pytest.raises(TypeError, match="gradients of gradients"):
        fast(np.ones(2)).backward(create_graph=True)
    with pytest.raises(TypeError, match="gradients of gradients"):
        ag.jvp(lambda x: fast(x), (np.ones(2),), (np.ones(2),))
    with pytest.raises(TypeError, match="random numbers"):
        ag.compile(lambda: (p * ag.random.uniform(2)).sum())()
    state = ag.tensor(np.zeros(2))

    def changing(x: Any) -> Any:
        state.assign(x)
        return (p * x).sum()

    with pytest.raises(TypeError, match=r"changes value of leaf of shape \(2,\)"):
        ag.compile(changing)(np.ones(2))
    with pytest.raises(TypeError, match="recorded outside"):
        ag.compile(lambda y: y.sum().backward())(p * 2)


def test_through_what_was_written_into_a_slice() -> None:
    def fn(x: Any) -> Any:
        y = x * 1.0
        y[:1] *= 4.0
        return y

    grads = []
    for f in (fn, ag.compile(fn)):
        x = ag.tensor(np.ones((2, 2)), requires_grad=True)
        out = f(x)
        (out * out).sum().backward()
        grads.append(x.grad.numpy())
    np.testing.assert_array_equal(grads[0], [[32.0, 32.0], [2.0, 2.0]])
    np.testing.assert_array_equal(grads[1], grads[0])
