"""`fit` with compiled steps against `fit` in Python: the same losses, parameters, gradients and optimiser state."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

import autograd_geo as ag
from autograd_geo import nn, optim

RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (53, 2))
Y = np.sin(3 * X[:, :1]) * X[:, 1:]


class Counted(nn.Module):
    """A network that counts how often Python runs it in training."""

    calls: SimpleQueue[None]  # how many are in a queue is no condition of a recording

    def __init__(self, dtype: Any = np.float64) -> None:
        self.inner = nn.Linear(2, 4, dtype=dtype)
        self.outer = nn.Linear(4, 1, dtype=dtype)

    def forward(self, x: Any) -> Any:
        if self.training:
            Counted.calls.put(None)
        return self.outer(self.inner(x).tanh())


def everything(model: nn.Module, optimizer: optim.Optimizer) -> Iterator[Any]:
    for p in model.parameters():
        yield p.numpy()
        yield np.nan if p.grad is None else p.grad.numpy()
    for state in optimizer.state:
        yield from (np.asarray(state[k]) for k in sorted(state))


def both(
    make_optimizer: Callable[[Any], optim.Optimizer], make_model: Callable[[], nn.Module] = Counted,
    data: tuple[Any, Any] = (X, Y), loss: Any = nn.mse_loss, rtol: float = 1e-9, **more: Any,
) -> list[int]:  # fmt: skip
    """Fit both ways and compare; how often Python ran each."""
    found, calls = [], []
    for compile in (False, True):
        ag.seed(1)
        Counted.calls = SimpleQueue()
        model = make_model()
        optimizer = make_optimizer(model.parameters())
        error = ""
        history = optim.History()
        try:
            with np.errstate(all="ignore"):
                history = optim.fit(model, optimizer, loss, data, compile=compile, **more)
        except FloatingPointError as stopped:
            error = str(stopped)
        found.append((error, [history.train, history.test, *everything(model, optimizer)]))
        calls.append(Counted.calls.qsize())
    assert found[0][0] == found[1][0]
    for eager, native in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_allclose(native, eager, rtol=rtol, atol=1e-13)
    return calls


OPTIMIZERS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "sgd": lambda p: optim.SGD(p, 0.1),
    "nesterov": lambda p: optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: optim.Adam(p, 0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_epochs_run_without_python(name: str) -> None:
    """Python sees one batch of each size, to record it."""
    eager, native = both(OPTIMIZERS[name], epochs=6, batch_size=5, test=(X[:9], Y[:9]))
    assert (eager, native) == (6 * 11, 2)


def test_batches_of_one_size_and_one_batch() -> None:
    assert both(OPTIMIZERS["adam"], epochs=3, batch_size=53)[1] == 1
    assert both(OPTIMIZERS["adam"], data=(X[:50], Y[:50]), epochs=3, batch_size=10)[1] == 1


def test_float32_and_targets_of_other_dtypes() -> None:
    data = X.astype(np.float32), (Y > 0).astype(np.int64)
    loss = lambda z, y: ((z - y.astype(np.float32)) ** 2).mean()  # noqa: E731
    both(OPTIMIZERS["adam"], lambda: Counted(np.float32), data, loss, rtol=1e-3, epochs=3, batch_size=8)


class Classifier(nn.Module):
    def __init__(self) -> None:
        self.layer = nn.Linear(2, 3)

    def forward(self, x: Any) -> Any:
        if self.training:
            Counted.calls.put(None)
        return self.layer(x)


LABELS = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0.5)


def test_a_classifier_of_labels_runs_without_python() -> None:
    calls = both(
        OPTIMIZERS["adam"], Classifier, (X, LABELS), nn.cross_entropy, epochs=4, batch_size=5, test=(X[:9], LABELS[:9])
    )
    assert calls == [4 * 11, 2]


def test_a_label_out_of_range_raises_in_the_middle_of_an_epoch() -> None:
    found = []
    for compile in (False, True):
        ag.seed(0)
        labels = LABELS.copy()
        model = Classifier()
        optimizer = optim.SGD(model.parameters(), 0.1)
        optim.fit(model, optimizer, nn.cross_entropy, (X, labels), batch_size=5, compile=compile)
        labels[29] = 7
        with pytest.raises(IndexError, match=r"classes run from 0 to 2, here \d..7"):
            optim.fit(model, optimizer, nn.cross_entropy, (X, labels), batch_size=5, compile=compile)
        found.append(list(everything(model, optimizer)))
    for eager, native in zip(*found, strict=True):
        np.testing.assert_allclose(native, eager, rtol=1e-9)


def test_a_schedule_is_followed() -> None:
    optimizers: list[optim.Optimizer] = []

    def make(parameters: Any) -> optim.Optimizer:
        optimizers.append(optim.Adam(parameters, 0.1))
        return optimizers[-1]

    def decay(history: optim.History) -> bool:
        optimizers[-1].lr *= 0.5
        return len(history) == 7

    assert both(make, epochs=20, batch_size=6, callback=decay)[1] == 2


@pytest.mark.parametrize("batch_size", [5, 53])
def test_a_loss_that_is_not_finite_stops_it_before_the_step(batch_size: int) -> None:
    x = X.copy()
    x[17] = np.inf
    both(OPTIMIZERS["adam"], data=(x, Y), epochs=3, batch_size=batch_size)
    both(lambda p: optim.SGD(p, 1e200, momentum=0.5), epochs=3, batch_size=batch_size)


def test_models_that_branch_on_values_or_draw_numbers() -> None:
    class Branching(Counted):
        def forward(self, x: Any) -> Any:
            z = super().forward(x)
            return z * 0.5 if z.max() > 0.3 else z

    class Noisy(Counted):
        def forward(self, x: Any) -> Any:
            return super().forward(x) + 0.1 * ag.random.normal((len(x), 1))

    for model in (Branching, Noisy):
        eager, native = both(OPTIMIZERS["adam"], model, epochs=5, batch_size=6)
        assert native < eager


def test_a_model_that_cannot_be_compiled_is_run_in_python() -> None:
    seen: list[int] = []
    last = None

    class Counting(Counted):
        def forward(self, x: Any) -> Any:
            nonlocal last
            last = len(x)
            seen.append(last)
            return super().forward(x)

    eager, native = both(OPTIMIZERS["sgd"], Counting, epochs=3, batch_size=6)
    assert native == eager


def test_a_loss_that_reads_values_is_given_up_on() -> None:
    loss = lambda z, y: nn.mse_loss(z, y) * (1 + 1e-9 * z.numpy().sum())  # noqa: E731
    eager, native = both(OPTIMIZERS["sgd"], loss=loss, epochs=4, batch_size=6)
    assert eager == native == 4 * 9


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Ctrl-C after some time, also where the shell that started the tests has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(seconds, signal.raise_signal, [signal.SIGINT])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_leaves_the_last_finished_step() -> None:
    ag.seed(0)
    model = Counted()
    optimizer = optim.Adam(model.parameters(), 1e-3)
    x, y = np.tile(X, (2000, 1)), np.tile(Y, (2000, 1))
    optim.fit(model, optimizer, nn.mse_loss, (x[:12], y[:12]), batch_size=4, compile=True)
    with pytest.raises(KeyboardInterrupt), interrupted_after(0.3):
        optim.fit(model, optimizer, nn.mse_loss, (x, y), batch_size=4, epochs=10**6, compile=True)
    steps = {state["step"] for state in optimizer.state}
    assert len(steps) == 1 and steps.pop() > 3
    before = optim.evaluate(model, nn.mse_loss, X, Y)
    assert np.isfinite(before)
    optim.fit(model, optimizer, nn.mse_loss, (X, Y), epochs=50, batch_size=4, compile=True)
    assert optim.evaluate(model, nn.mse_loss, X, Y) < before


def test_others_do_not_see_parameters_change() -> None:
    ag.seed(0)
    model = Counted()
    seen = [p.numpy() for p in model.parameters()]
    kept = [s.copy() for s in seen]
    out = (model.inner.weight**2).sum()
    optim.fit(model, optim.SGD(model.parameters(), 0.1), nn.mse_loss, (X, Y), epochs=3, batch_size=4, compile=True)
    for s, k in zip(seen, kept, strict=True):
        np.testing.assert_array_equal(s, k)
    model.zero_grad()
    out.backward()
    np.testing.assert_allclose(model.inner.weight.grad.numpy(), 2 * kept[0])


def test_long_fits_are_compiled_by_themselves() -> None:
    Counted.calls = SimpleQueue()
    model = Counted()
    optim.fit(model, optim.SGD(model.parameters(), 0.1), nn.mse_loss, (X, Y), epochs=1, batch_size=4)
    assert Counted.calls.qsize() == 14
    Counted.calls = SimpleQueue()
    optim.fit(model, optim.SGD(model.parameters(), 0.1), nn.mse_loss, (X, Y), epochs=200, batch_size=4)
    assert Counted.calls.qsize() == 2
