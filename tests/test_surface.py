"""Figures of surfaces, descents, training and activations, and what they are drawn from."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import autograd_geo as ag
from autograd_geo import nn, optim, viz
from autograd_geo.op import registry

pytest.importorskip("matplotlib")


def valley() -> tuple[ag.Tensor, ag.Tensor, Any]:
    x = ag.tensor(-1.2, requires_grad=True)
    y = ag.tensor(1.6, requires_grad=True)
    return x, y, lambda: (1 - x) ** 2 + 10 * (y - x**2) ** 2


def small_network(activation: Any = nn.Tanh) -> tuple[nn.Sequential, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    ag.seed(0)
    net = nn.Sequential(nn.Linear(2, 3), activation(), nn.Linear(3, 1))
    x = np.random.default_rng(0).standard_normal((12, 2))
    return net, x, np.sin(x[:, :1]) * x[:, 1:]


def outlines(figure: Any) -> list[np.ndarray[Any, Any]]:
    return [p.vertices for c in figure.axes[0].collections for p in c.get_paths()]


def texts(figure: Any) -> str:
    legend = figure.axes[0].get_legend()
    return "; ".join([legend.get_title().get_text(), *(t.get_text() for t in legend.get_texts())])


# --- descents -------------------------------------------------------------------------------------------------


def test_a_path_is_what_the_optimiser_does_and_changes_nothing() -> None:
    x, y, loss = valley()
    other = ag.tensor(2.0, requires_grad=True)
    x.grad, recorded = ag.tensor(7.0), loss() * other
    (path,) = viz.descent_paths(lambda: loss() * other, [x, y], {"SGD": lambda p: optim.SGD(p, lr=0.002)}, steps=5)
    at = np.array([-1.2, 1.6])
    for k in range(6):
        assert [float(p[k]) for p in path.positions] == pytest.approx(list(at), rel=1e-12)
        a, b = at
        assert path.losses[k] == pytest.approx(2 * ((1 - a) ** 2 + 10 * (b - a**2) ** 2))
        at = at - 0.002 * 2 * np.array([-2 * (1 - a) - 40 * a * (b - a**2), 20 * (b - a**2)])
    assert (x.item(), y.item(), other.grad, y.grad) == (-1.2, 1.6, None, None)
    assert x.grad.item() == 7
    recorded.backward()  # a tape from before still ends at these leaves
    assert y.grad is not None


def test_every_optimiser_starts_at_the_same_place() -> None:
    x, y, loss = valley()
    makers = {"a": lambda p: optim.Adam(p, lr=0.1), "b": lambda p: optim.SGD(p, lr=0.001, momentum=0.9)}
    a, b = viz.descent_paths(loss, [x, y], makers, steps=3)
    assert a.losses[0] == b.losses[0] == loss().item()
    assert a.losses[3] != b.losses[3]


def test_a_diverging_path_ends_where_it_is_not_finite() -> None:
    x, y, loss = valley()
    with np.errstate(all="ignore"):
        (path,) = viz.descent_paths(loss, [x, y], {"too fast": lambda p: optim.SGD(p, lr=1.0)}, steps=50)
    assert len(path.losses) < 50
    assert np.isfinite(path.losses[:-1]).all()
    figure = viz.misfit_surface(loss, x, y, paths=path, points=5)
    assert np.ptp(figure.axes[0].get_xlim()) < 10  # the frame does not follow it


def test_descent_says_what_is_wrong() -> None:
    x, y, loss = valley()
    makers = {"SGD": lambda p: optim.SGD(p)}
    with pytest.raises(ValueError, match="one step"):
        viz.descent_paths(loss, [x, y], makers, steps=0)
    with pytest.raises(TypeError, match="one number"):
        viz.descent_paths(lambda: ag.stack([x, y]), [x, y], makers)
    with pytest.raises(TypeError, match="requires a gradient"):
        viz.descent_paths(lambda: 3.0, [x, y], makers)


# --- surfaces -------------------------------------------------------------------------------------------------


def test_the_surface_evaluates_a_grid_and_leaves_everything_as_it_was() -> None:
    x, y, loss = valley()
    seen = []

    def watched() -> ag.Tensor:
        seen.append((x.item(), y.item()))
        return loss()  # type: ignore[no-any-return]

    recorded, entries = loss(), (x._entry, y._entry)
    figure = viz.misfit_surface(watched, x, y, spans=((-2, 2), (-1, 3)), points=5)
    grid = [(a, b) for b in np.linspace(-1, 3, 5) for a in np.linspace(-2, 2, 5)]
    np.testing.assert_allclose(seen, grid, atol=1e-12)
    assert (x.item(), y.item(), x.grad) == (-1.2, 1.6, None)
    assert (x._entry, y._entry) == entries
    recorded.backward()
    assert x.grad is not None
    ax = figure.axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_xlim(), ax.get_ylim()) == ("x", "y", (-2, 2), (-1, 3))


def test_a_loss_that_fails_leaves_everything_as_it_was() -> None:
    x, y, _ = valley()

    def fails() -> float:
        if x.item() > 0:
            raise ZeroDivisionError
        return 1.0

    with pytest.raises(ZeroDivisionError):
        viz.misfit_surface(fails, x, y, spans=((-1, 1), (-1, 1)))
    assert (x.item(), y.item()) == (-1.2, 1.6)


def test_contours_lie_where_the_loss_has_that_value() -> None:
    w = ag.tensor(np.array([0.0, 9.0, 0.0]), requires_grad=True, name="w")
    figure = viz.misfit_surface(lambda: (w[0] ** 2 + w[2] ** 2 + w[1]).sum(), (w, 0), (w, (2,)), points=41)
    _, lines = figure.axes[0].collections
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("w[0]", "w[2]")
    for level, path in zip(lines.levels, lines.get_paths(), strict=True):
        if len(path.vertices):
            assert np.sum(path.vertices**2, axis=1) + 9 == pytest.approx(level, abs=2e-3)


def test_compiled_and_in_python_give_the_same_surface() -> None:
    net, x, y = small_network()

    def loss() -> ag.Tensor:
        return nn.mse_loss(net(x), y)

    before = net.state_dict()
    ours, theirs = (
        viz.misfit_surface(loss, ("layers.0.weight", (1, 0)), ("layers.2.bias", 0), model=net, points=7, compile=c)
        for c in (False, True)
    )
    for a, b in zip(outlines(ours), outlines(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_random_directions_have_the_norms_of_the_filters() -> None:
    net, x, y = small_network()
    first, second = viz.random_directions(net, seed=3)
    for p, step in zip(first.leaves, first.steps, strict=True):
        if p.ndim == 2:
            np.testing.assert_allclose(np.linalg.norm(step, axis=1), np.linalg.norm(p.numpy(), axis=1))
        else:
            assert not step.any()
    assert not np.allclose(first.steps[0], second.steps[0])
    again, _ = viz.random_directions(list(net.parameters()), seed=3)
    np.testing.assert_array_equal(again.steps[0], first.steps[0])
    figure = viz.misfit_surface(lambda: nn.mse_loss(net(x), y), first, second, points=5)
    assert figure.axes[0].get_xlim() == (-1, 1)
    velocity = ag.tensor([3.0, 4.0], requires_grad=True)
    (step,) = viz.random_directions([velocity])[0].steps
    assert np.linalg.norm(step) == pytest.approx(5)
    with pytest.raises(ValueError, match="all these parameters are zero"):
        viz.random_directions([ag.tensor([0.0, 0.0], requires_grad=True)])


def test_principal_directions_of_a_path() -> None:
    w = ag.tensor(np.zeros(4), requires_grad=True)
    t = np.linspace(0, 1, 20)
    along, across = np.array([0.0, 0.6, 0.8, 0.0]), np.array([1.0, 0.0, 0.0, 0.0])
    positions = np.outer(t, 10 * along) + np.outer(np.sin(6 * t), across)
    path = viz.Path("p", (w,), (positions,), 1.0 / (1 + t))
    first, second = viz.pca_directions(path)
    for direction in (first, second):
        assert np.linalg.norm(direction.steps[0]) == pytest.approx(1)
        np.testing.assert_array_equal(direction.centre[0], positions[-1])
    assert abs(first.steps[0] @ second.steps[0]) < 1e-12
    assert "of the spread" in first.label
    figure = viz.misfit_surface(lambda: (w**2).sum(), first, second, paths=path, points=5)
    line = figure.axes[0].lines[0].get_xydata()
    back = positions[-1] + line[:, :1] * first.steps[0] + line[:, 1:] * second.steps[0]
    np.testing.assert_allclose(back, positions, atol=1e-12)
    assert "projected" not in texts(figure)
    assert w.tolist() == [0] * 4
    same = ag.tensor(np.zeros(4), requires_grad=True)
    with pytest.raises(ValueError, match="same leaves"):
        viz.pca_directions([path, viz.Path("p", (same,), (positions,), path.losses)])
    with pytest.raises(ValueError, match="one line"):
        viz.pca_directions(viz.Path("p", (w,), (np.outer(t, along),), t))


def test_a_projected_path_is_said_to_be_one() -> None:
    net, x, y = small_network()

    def loss() -> ag.Tensor:
        return nn.mse_loss(net(x), y)

    paths = viz.descent_paths(loss, net, {"Adam": lambda p: optim.Adam(p, lr=0.1)}, steps=10)
    figure = viz.misfit_surface(loss, ("layers.2.weight", (0, 0)), ("layers.2.bias", 0), model=net, paths=paths)
    assert "other parameters move too" in texts(figure)
    assert "Adam: 10 steps, to " in texts(figure)
    expected = np.stack([paths[0].positions[2][:, 0, 0], paths[0].positions[3][:, 0]], axis=1)
    np.testing.assert_allclose(figure.axes[0].lines[0].get_xydata(), expected, atol=1e-12)
    a, b, f = valley()
    assert "move too" not in texts(
        viz.misfit_surface(
            f, a, b, paths=viz.descent_paths(f, [a, b], {"S": lambda p: optim.SGD(p, lr=1e-3)}), points=3
        )
    )


def test_points_without_a_finite_loss_are_told() -> None:
    x, y, _ = valley()
    figure = viz.misfit_surface(lambda: ag.log(x) + y, x, y, spans=((-1, 1), (0, 1)), points=11)
    assert "not a finite number" in texts(figure)
    with pytest.raises(ValueError, match="not finite anywhere"):
        viz.misfit_surface(lambda: ag.log(x - 5), x, y)


def test_a_flat_loss_is_drawn() -> None:
    x, y, _ = valley()
    assert viz.misfit_surface(lambda: 3.0, x, y, points=3)._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (("nothing", ("layers.2.bias", 0)), "no parameter is called 'nothing'; there are layers.0.weight"),
        (("layers.0.weight", ("layers.2.bias", 0)), "say which element"),
        ((("layers.2.bias", 0), ("layers.2.bias", 0)), "the same direction"),
    ],
)
def test_surface_says_what_is_wrong(axes: Any, message: str) -> None:
    net, x, y = small_network()
    with pytest.raises(ValueError, match=message):
        viz.misfit_surface(lambda: nn.mse_loss(net(x), y), *axes, model=net)


def test_names_are_no_mathematics() -> None:
    x, y, loss = valley()
    x.name = r"$\nothing_{$"
    assert viz.misfit_surface(loss, x, y, points=3)._repr_png_()


def test_surface_checks_its_options() -> None:
    x, y, loss = valley()
    with pytest.raises(TypeError, match="one number"):
        viz.misfit_surface(lambda: np.ones(3), x, y)
    with pytest.raises(ValueError, match="low < high"):
        viz.misfit_surface(loss, x, y, spans=((1, 0), None))
    with pytest.raises(ValueError, match="two or more"):
        viz.misfit_surface(loss, x, y, points=1)
    with pytest.raises(ValueError, match="positive loss"):
        viz.misfit_surface(lambda: x + y, x, y, log=True)
    for axis in (x * 2, 1.0, (x, 0, 0)):
        with pytest.raises(TypeError, match="an axis is"):
            viz.misfit_surface(loss, axis, y)  # type: ignore[arg-type]
    z = ag.tensor(1.0, requires_grad=True)
    (path,) = viz.descent_paths(lambda: z * z, [z], {"SGD": lambda p: optim.SGD(p)}, steps=1)
    with pytest.raises(ValueError, match="none of the parameters"):
        viz.misfit_surface(loss, x, y, paths=path)


# --- training -------------------------------------------------------------------------------------------------


def test_loss_curves_are_the_histories() -> None:
    history = optim.History([3.0, 2.0, 1.0], [4.0, 3.0, 2.0])
    ax = viz.loss_curves({"Adam": history, "by hand": [5.0, 0.5]}, quantity="mean squared error").axes[0]
    drawn = {line.get_label(): line.get_ydata().tolist() for line in ax.lines}
    assert drawn == {"Adam, training batches": history.train, "Adam, test set": history.test, "by hand": [5.0, 0.5]}
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("epoch", "mean squared error", "log")
    assert viz.loss_curves([1.0, -1.0]).axes[0].get_yscale() == "linear"
    assert len(viz.loss_curves(optim.History([1.0])).axes[0].lines) == 1
    with pytest.raises(ValueError, match="no loss"):
        viz.loss_curves(optim.History())


def test_the_recorder_measures_gradients_and_changes_nothing() -> None:
    states = []
    for record in (False, True):
        net, x, y = small_network()
        optimizer = optim.Adam(net.parameters(), lr=0.05)
        recorder = viz.GradientRecorder(net, nn.mse_loss, (x, y)) if record else None
        optim.fit(net, optimizer, nn.mse_loss, (x, y), epochs=4, callback=recorder)
        states.append(net.state_dict())
    for name, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][name])
    assert recorder is not None
    net.zero_grad()
    nn.mse_loss(net(x), y).backward()
    for layer, index in (("layers.0", 0), ("layers.2", 2)):
        weight, bias = (p.grad.numpy().ravel() for p in net[index].parameters())  # type: ignore[attr-defined]
        expected = np.sqrt(np.mean(np.concatenate([weight, bias]) ** 2))
        assert recorder.magnitudes[layer][-1] == pytest.approx(expected)
        assert len(recorder.magnitudes[layer]) == 5
    grads = [p.grad for p in net.parameters()]
    recorder()
    assert all(p.grad is g for p, g in zip(net.parameters(), grads, strict=True))


def test_vanishing_gradients_are_seen() -> None:
    shares, recorders = {}, {}
    for activation in (nn.Sigmoid, nn.ReLU):
        ag.seed(0)
        hidden = [m for _ in range(6) for m in (nn.Linear(8, 8, initialize=nn.init.he), activation())]
        net = nn.Sequential(nn.Linear(2, 8), activation(), *hidden, nn.Linear(8, 1))
        _, x, y = small_network()
        recorder = recorders[activation.__name__] = viz.GradientRecorder(net, nn.mse_loss, (x, y))
        sizes = list(recorder.magnitudes.values())
        shares[activation] = sizes[0][0] / sizes[-1][0]
    assert shares[nn.Sigmoid] < 1e-3 < 1e-2 < shares[nn.ReLU]
    figure = viz.gradient_magnitudes(recorders)
    assert [ax.get_title() for ax in figure.axes] == ["Sigmoid", "ReLU"]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert [line.get_label() for line in figure.axes[0].lines] == [f"layers.{2 * k}" for k in range(8)]


def test_gradients_of_zero_are_told_as_such() -> None:
    net, x, y = small_network(nn.ReLU)
    net[0].bias.assign([-100.0] * 3)  # type: ignore[attr-defined]
    figure = viz.gradient_magnitudes(viz.GradientRecorder(net, nn.mse_loss, (x, y)))
    assert "layers.0 (zero 1 times)" in texts(figure)


# --- activations ----------------------------------------------------------------------------------------------

ACTIVATIONS = [getattr(nn, name) for name in nn.__all__ if getattr(getattr(nn, name), "function", "")]


@pytest.mark.parametrize("layer", [a for a in ACTIVATIONS if registry[a.function].family == "pointwise"])
def test_activations_show_function_and_derivative(layer: Any) -> None:
    left, right = viz.activations([layer(), layer.function], span=(-3.0, 3.0)).axes
    for k in range(2):
        x, values = left.lines[k].get_data()
        _, slopes = right.lines[k].get_data()
        np.testing.assert_array_equal(np.nan_to_num(values), np.where(np.isnan(values), 0, layer()(x).numpy()))
        expected = np.gradient(layer()(x).numpy(), x)
        smooth = np.isfinite(slopes) & (np.abs(x) > 0.01)
        if not registry[layer.function].surrogate:
            np.testing.assert_allclose(slopes[smooth], expected[smooth], atol=1e-3)


def test_a_surrogate_is_told_and_jumps_are_gaps() -> None:
    figure = viz.activations(["binary_step"])
    assert "surrogate" in figure.legends[0].get_texts()[0].get_text()
    assert np.isnan(figure.axes[0].lines[0].get_ydata()).sum() == 1


def test_activations_of_parameters_and_of_your_own() -> None:
    softsign = ag.pointwise("softsign_drawn(x) = x / (1 + abs(x))", x="1 / (1 + abs(x))**2")
    figure = viz.activations([softsign, nn.LeakyReLU(negative_slope=0.3), lambda x: x * ag.sigmoid(2 * x)])
    left, right = figure.axes
    assert right.lines[0].get_ydata()[0] == pytest.approx(1 / 25)
    assert left.lines[1].get_ydata()[0] == pytest.approx(-1.2)
    assert "leaky_relu (negative_slope=0.3)" in figure.legends[0].get_texts()[1].get_text()


def test_what_is_no_activation_is_refused() -> None:
    for which, message in (
        (["swish"], "no op called 'swish'"),
        ([nn.Softmax()], "element by element"),
        (["sum"], "element by element"),
        ([], "at least one"),
    ):
        with pytest.raises(ValueError, match=message):
            viz.activations(which)
    with pytest.raises(ValueError, match="low < high"):
        viz.activations(["tanh"], span=(1.0, 1.0))


# --- matplotlib -----------------------------------------------------------------------------------------------


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_matplotlib_is_imported_when_used_and_pyplot_never() -> None:
    code = (
        "import sys, autograd_geo as ag; ag.viz; print('matplotlib' in sys.modules); "
        "f = ag.viz.activations(['tanh']); print(len(f._repr_png_()) > 1000, 'matplotlib.pyplot' in sys.modules)"
    )
    assert run(code).split() == ["False", "True", "False"]


def test_without_matplotlib_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = sys.modules['matplotlib.figure'] = None\n"
        "import autograd_geo as ag\n"
        "try: ag.viz.activations(['tanh'])\n"
        "except ImportError as error: print(error)"
    )
    assert "pip install 'autograd-geo[viz]'" in run(code)
