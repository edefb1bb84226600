"""Optimisers against their formulas, and the training loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import autograd_geo as ag
from autograd_geo import nn, optim


def quadratic(p: ag.Tensor) -> Any:
    return ((p - 3.0) ** 2 * np.array([1.0, 10.0])).sum()


def descend(make: Any, steps: int) -> np.ndarray[Any, Any]:
    p = nn.Parameter([0.0, 0.0])
    optimizer = make([p])
    path = []
    for _ in range(steps):
        optimizer.zero_grad()
        quadratic(p).backward()
        optimizer.step()
        path.append(p.numpy())
    return np.array(path)


def gradient(p: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return 2 * (p - 3.0) * np.array([1.0, 10.0])


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_its_formula(momentum: float, nesterov: bool) -> None:
    if nesterov and not momentum:
        with pytest.raises(ValueError, match="momentum above 0"):
            optim.SGD([nn.Parameter(1.0)], nesterov=True)
        return
    found = descend(lambda ps: optim.SGD(ps, 0.01, momentum, nesterov, weight_decay=0.1), 20)
    p, v = np.zeros(2), np.zeros(2)
    for row in found:
        g = gradient(p) + 0.1 * p
        v = momentum * v + g
        p = p - 0.01 * (g + momentum * v if nesterov else v)
        np.testing.assert_allclose(row, p, rtol=1e-13)


def test_adam_is_algorithm_one() -> None:
    found = descend(lambda ps: optim.Adam(ps, 0.1, betas=(0.8, 0.99), eps=1e-6), 30)
    p, m, v = np.zeros(2), np.zeros(2), np.zeros(2)
    for t, row in enumerate(found, 1):
        g = gradient(p)
        m, v = 0.8 * m + 0.2 * g, 0.99 * v + 0.01 * g * g
        p = p - 0.1 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-6)
        np.testing.assert_allclose(row, p, rtol=1e-12)
    assert np.abs(descend(lambda ps: optim.Adam(ps, 0.1), 400)[-1] - 3).max() < 1e-2


@pytest.mark.parametrize("make", [lambda p: optim.SGD([p], 0.1), lambda p: optim.Adam([p], 0.1)])
@pytest.mark.parametrize("value", [2.0, np.float32(2.0), np.ones((2, 3), np.float32)])
def test_shape_dtype_and_numbers(make: Any, value: Any) -> None:
    p = nn.Parameter(value)
    before = (p.shape, p.dtype)
    make_step = make(p)
    for _ in range(3):
        (p * p).sum().backward()
        make_step.step()
    assert (p.shape, p.dtype) == before
    assert p.is_leaf
    assert np.all(p.numpy() < np.asarray(value))


def test_steps_reuse_the_buffer_only_when_nobody_sees_it() -> None:
    p = nn.Parameter(np.ones(1000))
    optimizer = optim.SGD([p], 0.1)
    (p * 2.0).sum().backward()
    optimizer.step()
    address = p._value.__array_interface__["data"][0]
    (p * 2.0).sum().backward()
    optimizer.step()
    assert p._value.__array_interface__["data"][0] == address
    seen = p.numpy()
    kept = seen.copy()
    loss = (p * p).sum()
    optimizer.step()
    np.testing.assert_array_equal(seen, kept)
    p.grad = None
    loss.backward()  # at the value the loss was computed with
    assert p.grad is not None
    np.testing.assert_array_equal(p.grad.numpy(), 2 * kept)


def test_parameters_without_gradient_stay() -> None:
    a, b = nn.Parameter(1.0), nn.Parameter(1.0)
    (a * 2.0).backward()
    optim.Adam([a, b]).step()
    assert b.item() == 1.0
    assert a.item() != 1.0


def test_state_goes_on_where_it_stopped() -> None:
    whole = descend(lambda ps: optim.Adam(ps, 0.1), 10)
    p = nn.Parameter([0.0, 0.0])
    optimizer = optim.Adam([p], 0.1)
    for _ in range(5):
        optimizer.zero_grad()
        quadratic(p).backward()
        optimizer.step()
    q = nn.Parameter(p.numpy())
    resumed = optim.Adam([q], 0.7)
    resumed.load_state_dict(optimizer.state_dict())
    for _ in range(5):
        resumed.zero_grad()
        quadratic(q).backward()
        resumed.step()
    np.testing.assert_array_equal(q.numpy(), whole[-1])
    with pytest.raises(ValueError, match="for 1 parameters"):
        optim.Adam([p, q]).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: optim.SGD([]), ValueError),
        (lambda: optim.SGD([ag.tensor(1.0)]), TypeError),
        (lambda: optim.SGD([nn.Parameter(1.0) * 2.0]), TypeError),
        (lambda: optim.SGD([nn.Parameter(1.0)], lr=-1.0), ValueError),
        (lambda: optim.SGD([nn.Parameter(1.0)], momentum=1.0), ValueError),
        (lambda: optim.Adam([nn.Parameter(1.0)], betas=(1.0, 0.9)), ValueError),
        (lambda: optim.Adam([nn.Parameter(1.0)], lr=float("nan")), ValueError),
    ],
)
def test_bad_settings(make: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        make()


def line(n: int = 40) -> tuple[Any, Any]:
    x = np.linspace(-1, 1, n)[:, None]
    return x, 0.5 * x - 0.2


def test_fit_learns_and_reports() -> None:
    ag.seed(0)
    net = nn.Linear(1, 1)
    lengths: list[int] = []
    history = optim.fit(
        net, optim.Adam(net.parameters(), 0.05), nn.mse_loss, line(), test=line(9), epochs=60, batch_size=8,
        callback=lambda h: lengths.append(len(h)),
    )  # fmt: skip
    assert len(history) == len(history.test) == 60
    assert lengths == list(range(1, 61))
    assert history.train[0] > 1e-2 > 1e-4 > history.test[-1]
    assert history.test[-1] == optim.evaluate(net, nn.mse_loss, *line(9))


def test_fit_is_reproducible_and_can_stop_early() -> None:
    def train(**more: Any) -> optim.History:
        ag.seed(3)
        net = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
        return optim.fit(net, optim.SGD(net.parameters(), 0.1), nn.mse_loss, line(), epochs=5, batch_size=7, **more)

    assert train().train == train().train
    assert train(seed=1).train != train().train
    assert len(train(callback=lambda h: len(h) == 2)) == 2


def test_fit_stops_at_a_loss_that_is_not_finite() -> None:
    net = nn.Linear(1, 1)
    x, y = line()
    with pytest.raises(FloatingPointError, match="learning rate"), np.errstate(all="ignore"):
        optim.fit(net, optim.SGD(net.parameters(), 1e150), nn.mse_loss, (x, y), epochs=50)
    with pytest.raises(ValueError, match="epochs"):
        optim.fit(net, optim.SGD(net.parameters()), nn.mse_loss, (x, y), epochs=0)


def test_fit_progress_bar_and_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    net = nn.Linear(1, 1)

    def interrupt(history: optim.History) -> None:
        if len(history) == 3:
            raise KeyboardInterrupt

    optimizer = optim.SGD(net.parameters(), 0.1)
    with pytest.raises(KeyboardInterrupt):
        optim.fit(net, optimizer, nn.mse_loss, line(), epochs=9, progress="wells", callback=interrupt)
    assert "wells" in capsys.readouterr().err
    assert np.isfinite(optim.evaluate(net, nn.mse_loss, *line()))
    optim.fit(net, optimizer, nn.mse_loss, line(), epochs=1)


def test_evaluate_restores_the_mode_and_records_nothing() -> None:
    net = nn.Sequential(nn.Linear(1, 1), nn.Tanh())
    net[0].training = False  # type: ignore[attr-defined]
    optim.evaluate(net, nn.mse_loss, *line())
    assert [m.training for m in net.modules()] == [True, False, True]
