"""Modules, layers, losses, initial weights."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest

import autograd_geo as ag
from autograd_geo import nn


def network() -> nn.Sequential:
    generator = ag.random.Generator(4)
    return nn.Sequential(nn.Linear(3, 4, generator=generator), nn.Tanh(), nn.Linear(4, 2, generator=generator))


def test_linear_is_x_w_transposed_plus_b() -> None:
    layer = nn.Linear(3, 4)
    x = np.random.default_rng(0).normal(size=(5, 3))
    assert layer.bias is not None
    np.testing.assert_allclose(layer(x).numpy(), x @ layer.weight.numpy().T + layer.bias.numpy(), rtol=1e-14)
    assert layer(x[0]).shape == (4,)
    assert layer(np.zeros((2, 5, 3))).shape == (2, 5, 4)
    with pytest.raises(ValueError, match="3 features"):
        layer(np.zeros((5, 4)))
    with pytest.raises(ValueError, match="at least one"):
        nn.Linear(0, 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_network_gradients(dtype: Any) -> None:
    net = nn.Sequential(nn.Linear(3, 4, dtype=dtype), nn.Sigmoid(), nn.Linear(4, 2, dtype=dtype))
    x, y = np.ones((5, 3), dtype), np.zeros((5, 2), dtype)
    loss = nn.mse_loss(net(x), y)
    assert loss.dtype == dtype
    loss.backward()
    for p in net.parameters():
        assert p.grad is not None
        assert (p.grad.shape, p.grad.dtype) == (p.shape, np.dtype(dtype))
    if dtype == np.float64:
        values = [p.numpy() for p in net.parameters()]

        def of(w1: Any, b1: Any, w2: Any, b2: Any) -> ag.Tensor:
            return nn.mse_loss(ag.sigmoid(x @ w1.T + b1) @ w2.T + b2, y)

        ag.check_grad(of, *values, order=2)


def test_named_parameters_nested_and_shared() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            self.blocks = [nn.Linear(2, 2), nn.Linear(2, 2)]
            self.heads = {"a": nn.Linear(2, 1, bias=False)}
            self.scale = nn.Parameter(1.0)
            self.again = self.blocks[0]
            self.mean = ag.zeros(2)

        def forward(self, x: Any) -> Any:
            for block in self.blocks:
                x = block(x)
            return self.heads["a"](x) * self.scale

    net = Net()
    names = [n for n, _ in net.named_parameters()]
    assert names == ["scale", "blocks.0.weight", "blocks.0.bias", "blocks.1.weight", "blocks.1.bias", "heads.a.weight"]
    assert set(net.state_dict()) == {*names, "mean"}
    assert [type(m).__name__ for m in net.modules()] == ["Net", "Linear", "Linear", "Linear"]
    net(np.ones((3, 2))).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    assert not any(m.training for m in net.eval().modules())
    assert all(m.training for m in net.train().modules())


def test_state_round_trip_and_refusals_change_nothing() -> None:
    net, other = network(), network()
    for p in other.parameters():
        p.assign(np.zeros(p.shape))
    state = net.state_dict()
    other.load_state_dict(state)
    for key, value in other.state_dict().items():
        np.testing.assert_array_equal(value, state[key])
    bad = [
        {**state, "layers.0.weight": np.zeros((4, 4))},
        {k: v for k, v in state.items() if k != "layers.2.bias"},
        {**state, "extra": np.zeros(1)},
        {**state, "layers.2.bias": np.array(["a", "b"])},
    ]
    for wrong in bad:
        with pytest.raises((ValueError, KeyError, TypeError)):
            other.load_state_dict(wrong)
        for key, value in other.state_dict().items():
            np.testing.assert_array_equal(value, state[key])
    state["layers.0.weight"][:] = 7.0  # a copy: the network does not notice
    assert not np.any(net.state_dict()["layers.0.weight"] == 7.0)


def test_copies_and_pickles() -> None:
    net = network()
    x = np.ones((2, 3))
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        np.testing.assert_array_equal(twin(x).numpy(), net(x).numpy())
        next(twin.parameters()).assign(np.zeros((4, 3)))
        assert np.any(next(net.parameters()).numpy())


def test_initial_weights_follow_the_lecture() -> None:
    generator = ag.random.Generator(0)
    shape = (400, 300)
    cases = {
        nn.init.xavier: (1 / math.sqrt(300), None),
        nn.init.normalized_xavier: (math.sqrt(6 / 700), None),
        nn.init.he: (None, math.sqrt(2 / 300)),
    }
    for initialize, (bound, deviation) in cases.items():
        w = initialize(shape, np.float64, generator)
        expected = bound / math.sqrt(3) if bound else deviation
        assert w.std() == pytest.approx(expected, rel=0.01)
        if bound:
            assert bound * 0.999 < np.abs(w).max() <= bound
    assert nn.init.zeros((2,), np.float32, generator).dtype == np.float32
    with pytest.raises(ValueError, match="two axes"):
        nn.init.xavier((3,), np.float64, generator)


def test_seed_makes_networks_equal() -> None:
    def weights() -> list[np.ndarray[Any, Any]]:
        ag.seed(11)
        return [p.numpy() for p in nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)).parameters()]

    for a, b in zip(weights(), weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_activations_are_the_ops() -> None:
    x = np.linspace(-2, 2, 7)
    for layer, function in ((nn.ReLU(), ag.relu), (nn.GELU(), ag.gelu), (nn.Softplus(), ag.softplus)):
        np.testing.assert_array_equal(layer(x).numpy(), function(x).numpy())
    np.testing.assert_allclose(nn.LeakyReLU(negative_slope=0.2)(x).numpy(), np.where(x > 0, x, 0.2 * x))
    assert repr(nn.LeakyReLU(negative_slope=0.2)) == "LeakyReLU(negative_slope=0.2)"
    assert repr(network()).splitlines()[1] == "  (layers.0): Linear(3, 4)"


def test_mse_never_broadcasts() -> None:
    assert nn.mse_loss([1.0, 2.0], [0.0, 0.0]).item() == 2.5
    with pytest.raises(ValueError, match=r"\(3, 1\).*\(3,\)"):
        nn.MSELoss()(np.zeros((3, 1)), np.zeros(3))


def test_cross_entropy() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 3))
    classes = np.array([0, 2, 1, 2])
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = -np.log(p[np.arange(4), classes]).mean()
    assert nn.cross_entropy(logits, classes).item() == pytest.approx(expected, rel=1e-12)
    gradient = ag.grad(lambda a: nn.CrossEntropyLoss()(a, classes))(logits).numpy()
    np.testing.assert_allclose(gradient, (p - np.eye(3)[classes]) / 4, atol=1e-15)
    for wrong, error in (
        ((logits, [0, 1]), ValueError),
        ((logits, [0.0] * 4), TypeError),
        ((logits, [0, 1, 2, 3]), IndexError),
    ):
        with pytest.raises(error, match="cross_entropy"):
            nn.cross_entropy(*wrong)


def test_a_module_without_forward_says_so() -> None:
    with pytest.raises(NotImplementedError, match="forward"):
        nn.Module()(1.0)
