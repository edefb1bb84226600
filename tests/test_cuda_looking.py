"""What is shown of tensors on the device is what is shown of the same computation on the host."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

import autograd_geo as ag
from autograd_geo import nn, optim

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not ag.cuda.is_available(), reason="no GPU, and the simulator is off"),
]

X = np.array([[0.5, -1.0], [2.0, 0.25], [-0.75, 1.5]])


def scalars(device: str) -> Any:
    x, y, z = (ag.tensor(v, requires_grad=True, device=device) for v in (-2.0, 5.0, -4.0))
    return ((x + y) * z) ** 2 + ag.sin(x) * y / 3.0


def arrays(device: str) -> Any:
    x = ag.tensor(X, name="x", device=device)
    w = ag.tensor([0.5, -0.25], requires_grad=True, name="w", device=device)
    b = ag.tensor(0.1, requires_grad=True, device=device)
    y = ag.tanh(x @ w + b)
    return (y * y).sum() + (w * w).sum()


def network(device: str) -> Any:
    ag.seed(3)
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).to(device)
    x, y = ag.tensor(X, name="x", device=device), ag.tensor(X[:, :1], name="y", device=device)
    return nn.mse_loss(net(x), y)


def loop(device: str) -> Any:
    x = total = ag.tensor([0.1, 0.2], requires_grad=True, device=device, dtype=np.float32)
    for _ in range(4):
        total = total + ag.sin(total) * x
    return total.sum()


def masked(device: str) -> Any:
    """An infinite derivative of what is left out."""
    x = ag.tensor([0.0, 4.0], requires_grad=True, device=device)
    known = ag.tensor([False, True], name="known", device=device)
    return ag.where(known, ag.sqrt(x), 0.0).sum()


def moved(device: str) -> Any:
    """Only the middle is elsewhere."""
    x = ag.tensor([0.0, 4.0], requires_grad=True)
    y = x.to(device)
    return ag.where(y > 1.0, ag.sqrt(y), 0.0).sum().to("cpu")


COMPUTATIONS = [scalars, arrays, network, loop, masked]
each = pytest.mark.parametrize("make", COMPUTATIONS)


def numbered(page: str) -> str:
    """A page in which what has the number of an entry is counted from the first."""
    found: dict[str, str] = {}
    return re.sub(r"\bv\d+\b", lambda m: found.setdefault(m[0], f"v{len(found)}"), page)


@each
def test_lessons(make: Callable[[str], Any], tmp_path: Path) -> None:
    here, there = (ag.steps(make(device)) for device in ("cpu", "cuda"))
    assert here.text() == there.text()
    for a, b in zip(here, there, strict=True):
        assert (a.kind, a.name, a.operand, type(a.value)) == (b.kind, b.name, b.operand, type(b.value))
        np.testing.assert_allclose(b.value, a.value, rtol=1e-6)
        assert a.card._replace(check=None) == b.card._replace(check=None)
        here_found, there_found = ([c and (c.agrees, c.words, c.said)] for c in (a.card.check, b.card.check))
        assert here_found == there_found
        assert (a.question is None) == (b.question is None)
    pages = []
    for lesson in (here, there):
        lesson.html(tmp_path / "lesson.html", quiz=True)
        pages.append((tmp_path / "lesson.html").read_text())
    assert pages[0] == pages[1]


def test_a_lesson_stays_as_it_is() -> None:
    x = ag.tensor([1.0, 2.0], requires_grad=True, device="cuda")
    output = (ag.sin(x) * x).sum()
    lesson = ag.steps(output)
    before = lesson.text()
    output.backward()
    x.assign([5.0, 6.0])
    assert lesson.text() == before


def test_steps_of_an_optimizer_and_gradients_that_are_there() -> None:
    found = []
    for device in ("cpu", "cuda"):
        w = nn.Parameter([1.0, -2.0], name="w").to(device) if device == "cpu" else None
        w = w if w is not None else ag.tensor([1.0, -2.0], requires_grad=True, name="w", device=device)
        optimizer = optim.Adam([w], lr=0.1)
        for _ in range(2):  # the second gradient adds to the first
            loss = (w * w * w).sum()
            if w.grad is None:
                loss.backward(retain_graph=True)
                optimizer.step()
                loss = (w * w * w).sum()
            lesson = ag.steps(loss, optimizer=optimizer)
        found.append(lesson)
        assert w.device == device and w.grad.device == device
    here, there = found
    assert here.text() == there.text()
    assert [s.kind for s in there][-1] == "update"
    np.testing.assert_allclose(there[-1].value, here[-1].value, rtol=1e-12)


@each
def test_graphs(make: Callable[[str], Any], tmp_path: Path) -> None:
    pages = []
    for device in ("cpu", "cuda"):
        drawn = ag.graph(make(device))
        drawn.html(tmp_path / "graph.html")
        pages.append([numbered(drawn.dot), numbered((tmp_path / "graph.html").read_text())])
    assert pages[0] == pages[1]


def test_derivatives_are_those_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other derivatives there are others in the lesson."""
    module = importlib.import_module("autograd_geo.backward")
    there = module._on_device

    def doubled(*args: Any) -> Any:
        return (ag.tensor(there(*args).numpy()) * 2.0).to("cuda")._value

    monkeypatch.setattr(module, "_on_device", doubled)
    x = ag.tensor([1.0, 2.0], requires_grad=True, device="cuda")
    np.testing.assert_allclose(ag.steps(ag.sin(x).sum())[-1].value, 4.0 * np.cos([1.0, 2.0]), rtol=1e-12)


def test_drawing_copies_what_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    from autograd_geo.cuda.array import DeviceArray

    sizes: list[int] = []
    read = DeviceArray.numpy
    monkeypatch.setattr(DeviceArray, "numpy", lambda self: sizes.append(self.size) or read(self))
    x = total = ag.tensor(np.ones(5), requires_grad=True, device="cuda")
    for _ in range(100):
        total = total + ag.sin(total) * x
    loss = total.sum()
    assert sizes == []
    drawn = ag.graph(loss)
    assert drawn.closed
    assert 0 < len(sizes) < 100


@pytest.mark.parametrize("make", [masked, moved])
def test_what_is_left_out_does_not_count(make: Callable[[str], Any]) -> None:
    gradients = []
    for device in ("cpu", "cuda"):
        output = make(device)
        lesson = ag.steps(output)
        gradients.append(lesson[-1].value)
        assert ag.diagnose(output).healthy
        with ag.detect_anomaly():
            output.backward()
    np.testing.assert_array_equal(gradients[0], gradients[1])
    assert np.isfinite(gradients[1]).all()


def overflowing(device: str) -> Any:
    x = ag.tensor([1.0, 800.0, 2.0], requires_grad=True, name="x", device=device)
    return ag.log(ag.exp(x)).sum()


def zero(device: str) -> Any:
    x = ag.tensor([[4.0, 0.0]], requires_grad=True, name="x", device=device)
    return (ag.sqrt(x) * 2.0).sum()


def given(device: str) -> Any:
    x = ag.tensor([1.0, np.nan], requires_grad=True, name="x", device=device)
    return (x * 3.0).sum()


def large(device: str) -> Any:
    """Finite contributions whose sum is not."""
    x = ag.tensor(np.array([2e38], np.float32), requires_grad=True, name="x", device=device)
    return (x * np.float32(2e38) * np.float32(1e-38) + x * np.float32(2e38) * np.float32(1e-38)).sum()


def nothing_learns(device: str) -> Any:
    x = ag.tensor(X - 10.0, requires_grad=True, device=device)
    return (ag.relu(x) + ag.sigmoid(x)).sum()


@pytest.mark.parametrize("make", [arrays, network, overflowing, zero, given, large, nothing_learns])
def test_diagnoses(make: Callable[[str], Any]) -> None:
    with np.errstate(all="ignore"):
        here, there = (ag.diagnose(make(device)) for device in ("cpu", "cuda"))
    assert str(here) == str(there)
    assert [(f.kind, f.index, f.operand, f.line) for f in here.findings] == [
        (f.kind, f.index, f.operand, f.line) for f in there.findings
    ]
    assert numbered(here._repr_html_()) == numbered(there._repr_html_())


@pytest.mark.parametrize("make", [overflowing, zero, given, large])
def test_the_first_anomaly(make: Callable[[str], Any]) -> None:
    told = []
    for device in ("cpu", "cuda"):
        try:
            with ag.detect_anomaly():
                make(device).backward()
        except FloatingPointError as error:
            told.append((str(error), error.finding.kind, error.finding.index, error.finding.line))  # type: ignore[attr-defined]
        else:
            told.append(())
    assert told[0] == told[1]
    assert bool(told[1]) == (make is not given)


def test_anomalies_of_products_of_second_order_and_forward_mode() -> None:
    def product(x: Any) -> Any:
        return (x @ ag.transpose(x)).sum()

    def second(x: Any) -> Any:
        return ag.grad(lambda x: (x**1.5).sum())(x).sum()

    cases: list[Callable[[Any], Any]] = [
        lambda x: product(x * 1e200),
        lambda x: ag.grad(second)(x - x),
        lambda x: ag.jvp(lambda x: ag.sqrt(x - 0.5).sum(), (x,), (np.ones((3, 2)),)),
        lambda x: ag.compile(lambda x: ag.log(x * 0.0).detach())(x),
    ]
    for case in cases:
        told = []
        for device in ("cpu", "cuda"):
            with pytest.raises(FloatingPointError) as error, ag.detect_anomaly():
                case(ag.tensor(np.abs(X), device=device))
            told.append(str(error.value))
        assert told[0] == told[1]


def test_networks_and_surfaces() -> None:
    ag.seed(1)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    shots, values = [], []
    for device in ("cpu", "cuda", "cpu"):
        model.to(device)
        shots.append(ag.viz.network(model, X, X[:, :1], loss=nn.mse_loss, sample=1))
        x, y = (ag.tensor(v, device=device) for v in (X, X[:, :1]))

        def loss(x: Any = x, y: Any = y) -> Any:
            return nn.mse_loss(model(x), y)

        (path,) = ag.viz.descent_paths(loss, model, {"SGD": lambda p: optim.SGD(p, lr=0.1)}, steps=2)
        values.append(path.losses)
        names = [name for name, _ in model.named_parameters()]
        ag.viz.misfit_surface(loss, (names[0], (0, 0)), (names[0], (0, 1)), model=model, paths=path, points=3)
        assert all(p.device == device for p in model.parameters())
    assert len({shot.svg() for shot in shots}) == 1
    np.testing.assert_allclose(values[0], values[1], rtol=1e-12)
