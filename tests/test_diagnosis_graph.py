"""What a diagnosis found, shown on the graph of the tape."""

from __future__ import annotations

import html
import inspect
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import autograd_geo as ag
from autograd_geo import nn
from autograd_geo.viz.drawing import MARKED
from autograd_geo.viz.graph import TapeGraph

SVG = "{http://www.w3.org/2000/svg}"
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def shown(graph: TapeGraph) -> str:
    """All text in a picture, with one space between words."""
    root = ElementTree.fromstring(graph.svg())
    return " ".join(" ".join("".join(e.itertext()) for e in root.iter(f"{SVG}text")).split())


def test_the_first_op_that_made_it_is_marked_with_the_users_line() -> None:
    x = ag.tensor(np.array([1.0, 0.0, 4.0]), requires_grad=True)
    line = inspect.currentframe().f_lineno + 1  # type: ignore[union-attr]
    y = ag.log(x)
    report = ag.diagnose((y * 2.0).sum())
    graph = report.graph(theme="light")
    assert "log made -inf of finite numbers at index (1,): log(0)" in shown(graph).replace("−", "-")
    assert f"{Path(__file__).name}:{line}" in shown(graph)
    assert graph.dot.count(MARKED) == 1


@pytest.mark.filterwarnings("error")
def test_nothing_is_said_besides_where_a_derivative_is_infinite() -> None:
    x = ag.tensor(np.zeros(2), requires_grad=True)
    y = ag.sqrt(x).sum()
    report = ag.diagnose(y)
    assert "inf" in shown(ag.graph(y))
    assert "z = 0" in shown(report.graph().expand())
    assert "z = 0" in report._repr_html_()


@pytest.mark.parametrize("rankdir", ["LR", "TB"])
def test_derivatives_dead_and_saturated_units_are_marked(rankdir: str) -> None:
    x = ag.tensor(np.zeros((4, 2)), requires_grad=True)
    hidden = ag.relu(x - 1.0)
    flat = ag.sigmoid(x + 50.0)
    total = (ag.sqrt(x) + hidden + flat).sum()
    report = ag.diagnose(total)
    assert {f.kind for f in report.findings} == {"derivative", "dead", "saturated"}
    graph = report.graph(rankdir=rankdir, theme="light")
    text = shown(graph)
    for what in ("the derivative of sqrt by x made inf", "zero for all 4 samples", "saturated for all 4 samples"):
        assert what in text
    assert graph.dot.count(MARKED) == 3


def test_a_leaf_is_marked_even_where_leaves_share_cards() -> None:
    leaves = [ag.tensor(float(k), requires_grad=True, name=f"leaf{k}") for k in range(60)]
    leaves[7] = ag.tensor(float("nan"), requires_grad=True, name="bad")
    graph = ag.diagnose(sum(leaves)).graph()  # type: ignore[arg-type]
    assert "'bad' holds nan" in shown(graph)


def test_of_a_large_tape_the_cause_is_in_sight_and_closed_boxes_count_theirs() -> None:
    v = ag.tensor(1.0, requires_grad=True)
    for _ in range(500):
        v = v * 1.0 + 0.0
    v = ag.log(v - v)
    for _ in range(500):
        v = ag.sqrt(v) + 1.0
    report = ag.diagnose(v)
    assert "log made -inf" in shown(report.graph()).replace("−", "-")
    w = ag.tensor(-1.0, requires_grad=True)
    total = ag.tensor(0.0)
    for _ in range(200):
        total = total + ag.log(w)
    report = ag.diagnose(total)
    count = len(report.marks)
    assert count == 200
    graph = report.graph()
    assert "log made nan" in shown(graph)
    told = sum(int(n.replace(",", "")) for n in re.findall(r"([\d,]+) findings? inside", shown(graph)))
    assert told + shown(graph).count("log made nan") == count


def test_a_notebook_shows_report_and_graph_and_a_healthy_one_the_report_alone() -> None:
    x = ag.tensor(0.0, requires_grad=True)
    y = ag.log(x)
    y.name = "<b onclick=alert(1)>"
    report = ag.diagnose(y)
    page = report._repr_html_()
    assert page.startswith(f"<pre>{html.escape(str(report))}</pre>")
    assert "<svg" in page and "<b onclick" not in page
    healthy = ag.diagnose(ag.exp(x))
    assert healthy._repr_html_() == f"<pre>{html.escape(str(healthy))}</pre>"


def test_after_a_backward_pass_let_go_of_the_tape_the_report_is_left() -> None:
    total = ag.log(ag.tensor(np.zeros(1000), requires_grad=True)).sum()
    report = ag.diagnose(total)
    total.backward()
    with pytest.raises(RuntimeError, match="let go of this tape"):
        report.graph()
    assert report._repr_html_() == f"<pre>{html.escape(str(report))}</pre>"


class LogOfZero(nn.Module):
    def forward(self, x: ag.Tensor) -> ag.Tensor:
        return ag.log(x - x) + 1.0


def test_modules_around_the_cause_are_open_unless_a_depth_is_asked_for() -> None:
    net = nn.Sequential(nn.Linear(3, 4), LogOfZero())
    report = ag.diagnose(net(np.ones((5, 3))).sum())
    assert "log made -inf" in shown(report.graph())
    closed = report.graph(depth=0)
    assert closed.closed == ["net"]
    assert "1 finding inside" in shown(closed)
