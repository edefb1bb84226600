"""Dense networks drawn as neurons and weighted edges: the numbers, the steps, the drawing."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autograd_geo as ag
from autograd_geo import nn, viz
from autograd_geo.demo.lessons import TARGET, worked_network
from autograd_geo.viz.layers import Snapshot

SVG = "{http://www.w3.org/2000/svg}"


def worked(**options: Any) -> tuple[dict[str, ag.Tensor], viz.Network]:
    t = worked_network()
    return t, viz.network(t["O6"], [t["I1"], t["I2"], t["I3"]], TARGET, t["L"], **options)


def texts(drawing: viz.Network) -> list[str]:
    """What is written in a drawing, tooltips left out."""
    return [e.text or "" for e in ElementTree.fromstring(drawing.svg()).iter(f"{SVG}text")]


def tooltips(drawing: viz.Network) -> str:
    return "\n".join(e.text or "" for e in ElementTree.fromstring(drawing.svg()).iter(f"{SVG}title"))


def net_of(*sizes: int, activation: Any = nn.Tanh) -> nn.Sequential:
    ag.seed(0)
    layers: list[Any] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1])


# --- the worked network ---------------------------------------------------------------------------------------


def test_the_worked_network_in_numbers() -> None:
    t, drawing = worked()
    (shot,) = drawing.snapshots
    assert [[u.name for u in c.units] for c in shot.columns] == [["I1", "I2", "I3"], ["H4", "H5"], ["O6"]]
    assert [c.function for c in shot.columns] == ["", "sigmoid", "identity"]
    weights = {e.weight.name: e.weight for e in shot.edges}
    biases = {u.bias.name: u.bias for c in shot.columns for u in c.units if u.bias is not None}
    assert set(weights) == {"w14", "w24", "w34", "w15", "w25", "w35", "w46", "w56"}
    assert set(biases) == {"b4", "b5", "b6"}
    for name, w in {**weights, **biases}.items():
        assert (w.value, w.gradient) == (t[name].item(), t[name].grad.item())  # type: ignore[union-attr]
    (e,) = (e for e in shot.edges if e.weight.name == "w25")
    assert (e.source, e.target) == ((0, 1), (1, 1))
    hidden = shot.columns[1].units[1]
    assert (hidden.value, hidden.sum, hidden.sum_name) == (t["H5"].item(), t["S5"].item(), "S5")
    assert hidden.gradient == pytest.approx(t["w56"].item() * (t["O6"].item() - TARGET))
    assert hidden.sum_gradient == biases["b5"].gradient
    assert (shot.loss, shot.loss_name, shot.targets) == (t["L"].item(), "L", (TARGET,))
    assert shot.columns[0].units[1].gradient == t["I2"].grad.item()  # type: ignore[union-attr]


def test_both_sign_conventions() -> None:
    _, drawing = worked()
    written = texts(drawing)
    assert "w46 = −0.5295" in written
    assert "∂L/∂w46 = −0.4238" in written
    assert "∂L/∂I2 = 0.07666" in written
    assert "target 0.3" in written
    _, opposite = worked(descent=True)
    written = texts(opposite)
    assert "w46 = −0.5295" in written
    assert "−∂L/∂w46 = 0.4238" in written
    assert not any(w.startswith("∂L") for w in written)
    assert any("opposite sign" in w for w in written)


def test_stepping_shows_what_is_known_by_then() -> None:
    _, drawing = worked()
    assert drawing.steps == 6
    known = []
    for k in range(drawing.steps):
        written = texts(drawing.at(k))
        assert written[0].startswith(f"step {k + 1} of 6: ")
        slopes = {w.split(" = ")[0].removeprefix("∂L/∂") for w in written if w.startswith("∂L/∂") and " = " in w}
        known.append((written.count("?"), "L = 0.505" in written, slopes))
    output, hidden = {"O6"}, {"w46", "w56", "b6", "H4", "H5"}
    assert known[:3] == [(3, False, set()), (1, False, set()), (0, False, set())]
    assert known[3] == (0, True, output)
    assert known[4] == (0, True, output | hidden)
    first = {"S4", "S5", "b4", "b5", "I1", "I2", "I3"} | {f"w{i}{j}" for i in (1, 2, 3) for j in (4, 5)}
    assert known[5] == (0, True, output | hidden | first)
    assert "back through layer 1 (sigmoid)" in texts(drawing.at(5))[0]
    assert "not computed yet" in tooltips(drawing.at(0))
    assert "∂L" not in tooltips(drawing.at(2))
    assert drawing.at(5).at(None).svg() == drawing.svg()
    for k in (-1, 6):
        with pytest.raises(ValueError, match="from 0 to 5"):
            drawing.at(k)


# --- modules --------------------------------------------------------------------------------------------------


def test_a_module_on_one_sample() -> None:
    net = net_of(2, 3, 2)
    x, y = np.array([[1.0, 2.0], [-0.5, 0.3]]), np.array([[0.0, 1.0], [1.0, 0.5]])
    (shot,) = viz.network(net, x, y, nn.mse_loss, sample=1).snapshots
    assert all(p.grad is None for p in net.parameters())
    loss = nn.mse_loss(net(x[1:]), y[1:])
    loss.backward()
    named = dict(net.named_parameters())
    assert shot.loss == loss.item()
    for e in shot.edges:
        name, i, j = re.fullmatch(r"(.*)\[(\d+), (\d+)\]", e.weight.name).groups()  # type: ignore[union-attr]
        index = int(i), int(j)
        assert e.weight.value == named[name].numpy()[index]
        assert e.weight.gradient == named[name].grad.numpy()[index]  # type: ignore[union-attr]
        assert (e.target[1], e.source[1]) == index
        assert name == f"layers.{2 * e.source[0]}.weight"
    hidden = net[1](net[0](x[1:])).numpy()[0]
    assert [u.value for u in shot.columns[1].units] == hidden.tolist()
    assert [u.name for u in shot.columns[0].units] == ["x₀", "x₁"]
    assert [u.bias.name for u in shot.columns[2].units if u.bias] == ["layers.2.bias[0]", "layers.2.bias[1]"]
    assert shot.targets == (1.0, 0.5)
    assert (shot.sample, viz.network(net, x[1], y[1], nn.mse_loss).snapshots[0].edges) == (1, shot.edges)


def test_several_samples_one_below_the_other() -> None:
    net = net_of(2, 3, 2)
    x = np.random.default_rng(0).standard_normal((4, 2))
    classes = np.array([0, 1, 1, 0])
    drawing = viz.network(net, x, classes, nn.cross_entropy, sample=[0, -1])
    one, other = (viz.network(net, x, classes, nn.cross_entropy, sample=k).snapshots[0] for k in (0, 3))
    assert drawing.snapshots == (one, other)
    written = texts(drawing)
    assert [w for w in written if w.startswith("sample")] == ["sample 0", "sample 3"]
    assert written.count("target 0") == 2


def test_modules_of_your_own_and_other_functions() -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            self.first, self.second = nn.Linear(2, 3), nn.Linear(3, 1, bias=False)

        def forward(self, x: Any) -> ag.Tensor:
            h = self.first(x)
            return self.second(h * ag.sigmoid(h))

    ag.seed(0)
    (shot,) = viz.network(Mine(), [1.0, 2.0]).snapshots
    assert [c.function for c in shot.columns] == ["", "sigmoid multiply", "identity"]
    assert shot.columns[2].units[0].bias is None
    assert {e.weight.name.partition("[")[0] for e in shot.edges} == {"first.weight", "second.weight"}


def test_without_a_loss_gradients_are_not_computed() -> None:
    net = net_of(1, 1)
    drawing = viz.network(net, [2.0])
    assert drawing.steps == 2
    assert all(e.weight.gradient is None for e in drawing.snapshots[0].edges)
    written = texts(drawing)
    assert "∂L/∂x₀ not computed" in written
    assert "gradients of weights are not computed" in written
    t = worked_network()
    constant = ag.tensor(0.5, name="I")
    out = t["w14"] * constant
    (shot,) = viz.network(out, [constant], loss=out * out).snapshots
    assert shot.edges[0].weight.gradient == pytest.approx(2 * out.item() * 0.5)
    assert shot.columns[0].units[0].gradient is None


# --- tapes ----------------------------------------------------------------------------------------------------


def test_vectors_written_by_hand() -> None:
    rng = np.random.default_rng(1)
    V, W = (ag.tensor(rng.standard_normal(s), requires_grad=True, name=n) for s, n in (((3, 2), "V"), ((1, 3), "W")))
    b = ag.tensor(rng.standard_normal(3), requires_grad=True, name="b")
    x = ag.tensor([0.5, -1.0], name="x")
    hidden = ag.tanh(V @ x + b)
    out = W @ hidden
    loss = (out - 1.0).square().sum()
    drawing = viz.network(out, x, 1.0, loss)
    (shot,) = drawing.snapshots
    loss.backward()
    for e in shot.edges:
        leaf, index = (V, (e.target[1], e.source[1])) if e.target[0] == 1 else (W, (0, e.source[1]))
        assert e.weight.name == f"{leaf.name}[{index[0]}, {index[1]}]"
        assert (e.weight.value, e.weight.gradient) == (leaf.numpy()[index], leaf.grad.numpy()[index])  # type: ignore[union-attr]
    assert [u.name for u in shot.columns[1].units] == ["hidden[0]", "hidden[1]", "hidden[2]"]
    assert [u.bias.gradient for u in shot.columns[1].units if u.bias] == b.grad.tolist()  # type: ignore[union-attr]
    assert shot.sample is None


def test_rows_of_samples_written_by_hand() -> None:
    rng = np.random.default_rng(1)
    W = ag.tensor(rng.standard_normal((2, 3)), requires_grad=True, name="W")
    U = ag.tensor(rng.standard_normal((2, 1)), requires_grad=True, name="U")
    x = ag.tensor(rng.standard_normal((5, 3)))
    h = ag.relu(x @ W.T)
    out = h @ U
    loss = out.square().mean()
    drawing = viz.network(out, x, np.zeros((5, 1)), loss, sample=4)
    (shot,) = drawing.snapshots
    loss.backward()
    assert [u.value for u in shot.columns[1].units] == h.numpy()[4].tolist()
    assert [u.value for u in shot.columns[0].units] == x.numpy()[4].tolist()
    for e in shot.edges:
        if e.target[0] == 1:
            index = e.target[1], e.source[1]
            assert e.weight.name == f"W[{index[0]}, {index[1]}]"
            assert e.weight.value == W.numpy()[index]
            assert e.weight.gradient == pytest.approx(W.grad.numpy()[index])  # type: ignore[union-attr]
    assert shot.whole
    assert any("all samples together" in w for w in texts(drawing))
    with pytest.raises(IndexError, match="there are 5"):
        viz.network(out, x, sample=5)


def test_single_neurons_on_many_samples() -> None:
    w, b = ag.tensor(0.5, requires_grad=True, name="w"), ag.tensor(0.1, requires_grad=True, name="b")
    x = ag.tensor([1.0, 2.0, 3.0], name="x")
    out = ag.sigmoid(sum([w * x, b]))
    loss = out.sum()
    (shot,) = viz.network(out, [x], np.array([0.0, 1.0, 2.0]), loss, sample=2).snapshots
    (unit,) = shot.columns[1].units
    assert (unit.value, unit.gradient, shot.columns[0].units[0].value) == (out.numpy()[2], 1.0, 3.0)
    assert shot.targets == (2.0,)
    loss.backward()
    assert shot.edges[0].weight.gradient == w.grad.item()  # type: ignore[union-attr]


def test_connections_that_skip_a_layer() -> None:
    w = [ag.tensor(float(k), requires_grad=True, name=f"w{k}") for k in (1, 2, 3)]
    x = ag.tensor(0.5, name="x")
    h = ag.tanh(w[0] * x)
    out = w[1] * h + w[2] * x
    (shot,) = viz.network(out, [x]).snapshots
    assert {(e.source[0], e.target[0], e.weight.name) for e in shot.edges} == {(0, 1, "w1"), (1, 2, "w2"), (0, 2, "w3")}


def test_after_a_backward_pass_small_tapes_are_still_drawn() -> None:
    t, drawing = worked()  # its tape is consumed
    t["L"].name = "L"
    assert "∂L/∂H4 = 0.5321" in texts(drawing)


# --- the drawing ----------------------------------------------------------------------------------------------


def test_large_layers_are_abbreviated_and_it_says_so() -> None:
    net = net_of(300, 20, 10)
    drawing = viz.network(net, np.random.default_rng(0).random(300), np.zeros(10), nn.mse_loss, most=6)
    (shot,) = drawing.snapshots
    assert [(c.size, len(c.units), c.split) for c in shot.columns] == [(300, 6, 3), (20, 6, 3), (10, 6, 3)]
    assert [u.name for u in shot.columns[0].units] == ["x₀", "x₁", "x₂", "x₂₉₇", "x₂₉₈", "x₂₉₉"]
    assert len(shot.edges) == 72
    assert "layers.0.weight[19, 299]" in tooltips(drawing)
    written = texts(drawing)
    assert {"294 more", "14 more", "4 more"} < set(written)
    assert any("abbreviated" in w for w in written)
    whole = texts(viz.network(net_of(2, 10, 2), [1.0, 2.0]))
    assert not any("abbreviated" in w or "more" in w for w in whole)


def test_thickness_and_colour_are_magnitude_and_sign() -> None:
    w = [ag.tensor(v, requires_grad=True, name=f"w{k}") for k, v in enumerate([1.0, -0.5, np.nan])]
    x = [ag.tensor(1.0, name=f"x{k}") for k in range(3)]
    out = w[0] * x[0] + w[1] * x[1] + w[2] * x[2]
    lines = list(ElementTree.fromstring(viz.network(out, x).svg()).iter(f"{SVG}line"))[:3]
    assert [line.get("class") for line in lines] == ["s-plus", "s-minus", "s-odd"]
    widths = [float(line.get("stroke-width", 0)) for line in lines]
    assert widths[0] == widths[2] > widths[1] > 0


def test_names_are_text_whatever_they_hold() -> None:
    hostile = "</text><script>alert('\"&')\x00"
    w = ag.tensor(1.0, requires_grad=True, name=hostile)
    x = ag.tensor(1.0, name=hostile[::-1])
    out = w * x
    out.name = "\\frac{<b>}&amp;"
    svg = viz.network(out, [x]).svg()
    tags = {e.tag.removeprefix(SVG) for e in ElementTree.fromstring(svg).iter()}
    assert tags == {"svg", "style", "rect", "g", "title", "line", "circle", "text"}
    assert "</text><script>alert('\"&')" in tooltips(viz.network(out, [x]))


def test_light_dark_and_files(tmp_path: Path) -> None:
    _, drawing = worked()
    auto, light, dark = (drawing.svg(theme) for theme in ("auto", "light", "dark"))
    assert auto == drawing._repr_svg_()
    assert "prefers-color-scheme: dark" in auto
    assert "<style>" not in light + dark
    assert 'fill="#ffffff"' in light
    assert 'fill="#ffffff"' not in dark
    drawing.save(tmp_path / "n.svg", theme="dark")
    assert (tmp_path / "n.svg").read_text("utf-8") == dark
    with pytest.raises(ValueError, match=r"saved as \.svg"):
        drawing.save(tmp_path / "n.png")
    with pytest.raises(ValueError, match="theme"):
        drawing.svg("blue")


# --- bad input ------------------------------------------------------------------------------------------------


def test_what_is_no_dense_network_is_named() -> None:
    x = ag.tensor([1.0, 2.0], requires_grad=True, name="x")
    w = ag.tensor([1.0, 2.0], requires_grad=True)
    for make, named in (
        (lambda: (x * w).sum(), "sum"),
        (lambda: (ag.tensor(np.eye(2), requires_grad=True) @ x).reshape(2, 1), "reshape"),
        (lambda: ag.tensor(np.eye(2), requires_grad=True) @ x + x, "add"),
    ):
        out = make()
        with pytest.raises(ValueError, match=f"no dense network, because of {named}.*test_network_view"):
            viz.network(out, x)
    with pytest.raises(ValueError, match="does not depend on these inputs"):
        viz.network(w * 2.0, x)


def test_bad_arguments() -> None:
    net, x, y = net_of(2, 2), np.ones((3, 2)), np.ones((3, 2))
    out = net(x)
    for arguments, options, error, message in (
        ((net, x, y, nn.mse_loss), {"sample": 3}, IndexError, "no sample 3; there are 3"),
        ((net, x, y[:2], nn.mse_loss), {}, ValueError, "x has 3 samples"),
        ((net, np.ones((2, 2, 2))), {}, ValueError, "features"),
        ((net, x, None, nn.mse_loss), {}, ValueError, "pass y"),
        ((net, x, y, lambda p, t: p - t), {}, ValueError, "one number"),
        ((net, x), {"most": 1}, ValueError, "most is 1"),
        ((net, x), {"sample": []}, ValueError, "at least one sample"),
        ((net, x), {"step": 2}, ValueError, "from 0 to 1"),
        ((out, x), {}, TypeError, "as tensors"),
        ((out, ag.tensor(x), y, nn.mse_loss), {}, TypeError, "recorded loss"),
    ):
        with pytest.raises(error, match=message):
            viz.network(*arguments, **options)  # type: ignore[arg-type]


def test_snapshots_are_plain_numbers() -> None:
    _, drawing = worked()
    (shot,) = drawing.snapshots
    assert isinstance(shot, Snapshot)
    assert all(type(e.weight.value) is float and type(e.weight.gradient) is float for e in shot.edges)
