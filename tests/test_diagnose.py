"""Where NaN and infinity come from, and which units don't learn."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import autograd_geo as ag
from autograd_geo import nn
from autograd_geo.op import functions, registry

pytestmark = pytest.mark.filterwarnings(
    "ignore::RuntimeWarning"
)  # NumPy's, for the numbers that are made here on purpose


def leaf(*data: Any, name: str = "x", dtype: Any = float) -> ag.Tensor:
    return ag.tensor(data[0] if len(data) == 1 else list(data), requires_grad=True, name=name, dtype=dtype)


# --- values ---------------------------------------------------------------------------------------------------

VALUES: list[tuple[Callable[[], ag.Tensor], str, tuple[int, ...], str, str]] = [
    (lambda: ag.log(leaf(1.0, 2.0, -0.2)).sum(), "log", (2,), "log made nan of finite numbers", "positive argument"),
    (lambda: ag.log(leaf(0.0)), "log", (), "log made -inf of finite numbers: log(0)", "positive argument"),
    (lambda: ag.log1p(leaf(-2.0)), "log1p", (), "log1p(-2)", "above -1"),
    (lambda: ag.sqrt(leaf(-1.0)), "sqrt", (), "sqrt(-1)", "not negative"),
    (lambda: leaf(0.0) / leaf(0.0), "divide", (), "divide(0, 0)", "denominator is zero"),
    (
        lambda: leaf(1.0) / ag.tensor(0.0),
        "divide",
        (),
        "divide made inf of finite numbers: divide(1, 0)",
        "denominator",
    ),
    (lambda: leaf(1e300) / 1e-300, "divide", (), "divide(1e+300, 1e-300)", "beyond the largest float64, 1.8e+308"),
    (lambda: ag.exp(leaf(1.0, 710.0)).sum(), "exp", (1,), "exp(710)", "overflows beyond 709.8 in float64"),
    (lambda: ag.exp(leaf(89.0, dtype=np.float32)), "exp", (), "exp(89)", "overflows beyond 88.72 in float32"),
    (lambda: leaf(-8.0) ** (1 / 3), "power", (), "power(-8, 0.333333)", "no fractional power"),
    (lambda: leaf(0.0) ** -1, "power", (), "power(0, -1)", "zero no negative one"),
    (lambda: leaf(1e200) ** 2, "power", (), "power(1e+200, 2)", "beyond the largest float64"),
    (lambda: ag.asin(leaf(1.5)), "asin", (), "asin(1.5)", "between -1 and 1"),
    (lambda: ag.acosh(leaf(0.5)), "acosh", (), "acosh(0.5)", "1 or above"),
    (lambda: leaf(1e308, 1e308).sum(), "sum", (), "sum made inf of finite numbers", "beyond the largest float64"),
    (lambda: (leaf(1.0, 2.0) * np.array([[1.0], [1e308]])).sum(), "multiply", (1, 1), "multiply(2, 1e+308)", "beyond"),
    (
        lambda: leaf(1.0) * math.inf,
        "multiply",
        (),
        "of a number written in the program: multiply(1, inf)",
        "comes from",
    ),
]


@pytest.mark.parametrize(("make", "op", "index", "what", "advice"), VALUES)
def test_the_first_operation_that_made_it(
    make: Callable[[], ag.Tensor], op: str, index: tuple[int, ...], what: str, advice: str
) -> None:
    report = ag.diagnose(make())
    first = report.first
    assert first is not None
    assert (first.kind, first.entry.op.name, first.index) == ("value", op, index)  # type: ignore[union-attr]
    assert what in first.what
    assert advice in first.advice
    assert first.line is not None
    assert first.line[0].endswith("test_diagnose.py")
    assert "test_diagnose.py" in str(report)
    assert (report.finite, report.healthy) == (False, False)


def test_what_follows_is_told_after_its_cause() -> None:
    x = leaf(800.0)
    large = ag.exp(x)
    report = ag.diagnose(large / (1 + large))
    assert [(f.kind, f.entry.op.name) for f in report.findings] == [("value", "exp"), ("nan", "divide")]  # type: ignore[union-attr]
    assert "divide made nan of infinities: divide(inf, inf)" in report.findings[1].what
    assert report.findings[0].entry.label == "large"
    assert [e.label for e in report.leaves] == ["x"]


@pytest.mark.parametrize("make", [lambda inf: inf - inf, lambda inf: inf * 0.0, lambda inf: ag.sin(inf)])
def test_infinities_become_nan(make: Callable[[ag.Tensor], ag.Tensor]) -> None:
    overflow = ag.exp(leaf(1.0, 1000.0))
    report = ag.diagnose(make(overflow).sum())
    assert [f.kind for f in report.findings] == ["value", "nan"]
    assert [f.index for f in report.findings] == [(1,), (1,)]


def test_numbers_that_came_in() -> None:
    w = leaf([[1.0, 2.0], [math.nan, math.inf]], name="w")
    report = ag.diagnose((w * 2.0).sum())
    first = report.first
    assert first is not None
    assert (first.kind, first.index, len(report.findings)) == ("input", (1, 0), 1)
    assert "'w' holds nan at index (1, 0), the first of 2 such elements" in first.what
    data = np.array([1.0, math.inf])
    (finding,) = ag.diagnose((leaf(1.0, 1.0) * data).sum()).findings
    assert (finding.kind, finding.index) == ("input", (1,))


def test_a_new_one_beside_old_ones_is_found() -> None:
    x = leaf(math.nan, -1.0, 4.0)
    report = ag.diagnose(ag.sqrt(x).sum())
    assert [(f.kind, f.index) for f in report.findings] == [("input", (0,)), ("value", (1,))]


def test_only_what_reaches_the_output_is_a_cause() -> None:
    x = leaf(-1.0, 4.0)
    masked = ag.where(x.numpy() > 0, ag.log(x), 0.0)
    bad = ag.exp(x * 1000.0)
    report = ag.diagnose((masked + bad).sum())
    assert report.first is not None
    assert (report.first.entry.op.name, report.first.index) == ("exp", (1,))  # type: ignore[union-attr]
    assert [f.entry.op.name for f in report.findings if f.hidden] == ["log"]  # type: ignore[union-attr]


# --- derivatives ----------------------------------------------------------------------------------------------

DERIVATIVES: list[tuple[Callable[[], ag.Tensor], str, tuple[int, ...], str, str]] = [
    (lambda: ag.sqrt(leaf(1.0, 0.0)).sum(), "sqrt", (1,), "1 times 0.5/z = inf, at x = 0, z = 0", "at zero"),
    (lambda: ag.sqrt((leaf(0.0, 0.0) ** 2).sum()), "sqrt", (), "made inf of a finite gradient", "x + 1e-12"),
    (lambda: leaf(0.0) ** 0.5, "power", (), "at x = 0, y = 0.5", "infinite at zero"),
    (lambda: ag.asin(leaf(1.0)), "asin", (), "the derivative of asin by x", "end of the domain"),
    (lambda: 1e100 / leaf(1e-200), "divide", (), "the derivative of divide by y", "its square overflows"),
    (lambda: ag.exp(ag.log(leaf(0.0, 1.0))).sum(), "log", (0,), "0 times 1/x = inf, at x = 0", "with ag.where"),
    (lambda: ag.sqrt(leaf(0.0)) * 0.0, "sqrt", (), "0 times 0.5/z = inf, at x = 0, z = 0", "infinity is NaN"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "op", "index", "what", "advice"), DERIVATIVES)
def test_the_first_derivative_that_made_it(
    make: Callable[[], ag.Tensor], op: str, index: tuple[int, ...], what: str, advice: str
) -> None:
    report = ag.diagnose(make())
    first = report.first
    assert first is not None
    assert report.finite
    assert report.leaves
    assert (first.kind, first.entry.op.name, first.index) == ("derivative", op, index)  # type: ignore[union-attr]
    assert what in first.what
    assert advice in first.advice


def test_a_derivative_by_what_was_broadcast_names_the_element() -> None:
    x, y = leaf([[1.0], [0.0]], name="x"), ag.tensor([[2.0, 0.5]])
    (first,) = ag.diagnose((x**y).sum()).findings
    assert (first.index, first.operand) == ((1, 0), 0)
    assert "at x = 0, y = 0.5" in first.what


def test_gradients_that_overflow_where_paths_meet() -> None:
    x = leaf(1e-10)
    (first,) = ag.diagnose(x * 1.5e308 + x * 1.5e308).findings
    assert (first.kind, first.entry.label) == ("sum", "x")
    assert "paths of the gradient meet at 'x'" in first.what


def test_sums_over_what_was_broadcast_overflow() -> None:
    x = leaf(1e-10)
    (first,) = ag.diagnose((x * np.array([1.5e308, 1.5e308])).sum()).findings
    assert (first.kind, first.entry.op.name) == ("derivative", "multiply")  # type: ignore[union-attr]
    assert "beyond the largest" in first.advice


def test_a_masked_value_with_a_finite_derivative_is_no_illness() -> None:
    x = leaf(-1.0, 4.0)
    report = ag.diagnose(ag.where(x.numpy() > 0, ag.log(x), 0.0).sum())
    (finding,) = report.findings
    assert (finding.hidden, report.healthy, report.leaves) == (True, True, ())
    assert "does not reach the output" in finding.what
    safe = ag.log(ag.where(x.numpy() > 0, x, 1.0))
    assert ag.diagnose(ag.where(x.numpy() > 0, safe, 0.0).sum()).findings == ()


AWKWARD = [-1e308, -800.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 800.0, 1e308]
UNARY = sorted(
    n for n, op in registry.items() if op.family == "pointwise" and len(op.inputs) == 1 and op.differentiable
)


@pytest.mark.parametrize("name", UNARY)
def test_every_elementwise_op_at_awkward_points(name: str) -> None:
    op = registry[name]
    for at in AWKWARD:
        x = leaf(at, at)
        z = functions[name](x).sum()
        (g,) = ag.vjp(lambda v: functions[name](v).sum(), x)[1](1.0)
        report = ag.diagnose(z)
        kinds = [f.kind for f in report.findings if f.kind not in ("dead", "saturated")]
        value, slope = np.isfinite(functions[name](x).numpy()[0]), np.isfinite(g.numpy()[0])
        assert kinds[:1] == (
            [] if value and slope and report.finite else ["value" if not report.finite else "derivative"]
        )
        assert bool(report.leaves) == (not slope)
        if kinds and not value:
            assert report.first is not None
            assert report.first.entry.op is op


# --- units ----------------------------------------------------------------------------------------------------


def test_dead_and_saturated_units() -> None:
    ag.seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 1))
    net[0].bias.assign([-50.0, 0, -50.0, 0, 0, 0, 0, 0])  # type: ignore[attr-defined]
    net[2].bias.assign([0.0, 0, 0, 5.0])  # type: ignore[attr-defined]
    x = np.random.default_rng(0).standard_normal((64, 2))
    report = ag.diagnose(nn.mse_loss(net(x), np.zeros((64, 1))))
    dead, saturated = report.findings
    assert (dead.kind, saturated.kind, report.healthy) == ("dead", "saturated", False)
    assert "relu: 2 of 8 units (0, 2) are zero for all 64 samples" in dead.what
    assert "1 of 4 units (3) is saturated for all 64 samples" in saturated.what
    slopes = 1 - np.tanh(net[2](net[1](net[0](x))).numpy()) ** 2
    assert f"tanh: {np.mean(slopes < 0.01):.0%} of its 256 derivatives are below 0.01" in saturated.what
    assert ag.diagnose(nn.mse_loss(net(x), np.zeros((64, 1))), flat=1e-6).findings[1:] == ()


def test_units_of_one_sample_are_not_judged_and_one_axis_is_samples() -> None:
    assert ag.diagnose(ag.relu(leaf(-1.0))).healthy
    assert ag.diagnose(ag.relu(leaf([[-1.0, 2.0]])).sum()).healthy
    assert ag.diagnose(ag.relu(leaf(-1.0, 2.0)).sum()).healthy
    (dead,) = ag.diagnose(ag.maximum(leaf(-1.0, -2.0), 0).sum()).findings
    assert "its unit is zero for all 2 samples" in dead.what
    (flat,) = ag.diagnose(ag.sigmoid(leaf(50.0))).findings
    assert flat.kind == "saturated"


# --- what it needs and leaves alone ---------------------------------------------------------------------------


def test_nothing_is_changed_and_values_that_were_not_kept_are_found() -> None:
    x = leaf(np.linspace(1.0, 2.0, 200), name="x")
    middle = x * 2.0 - 5.0
    loss = (ag.sqrt(middle + 0.0) * 3.0).sum()
    kept = middle._entry.value  # type: ignore[union-attr]
    assert kept is None  # no derivative needs it
    report = ag.diagnose(loss)
    assert report.first is not None
    assert report.first.index == (0,)
    assert (middle._entry.value, x.grad) == (None, None)  # type: ignore[union-attr]
    again = ag.diagnose(loss)
    assert str(again) == str(report)
    loss.backward()
    assert x.grad is not None


def test_consumed_tapes() -> None:
    x = leaf(-1.0)
    small = ag.log(x) * 2.0
    before = str(ag.diagnose(small))
    small.backward()
    assert str(ag.diagnose(small)) == before  # small tapes stay
    assert x.grad.item() == -2.0
    large = (ag.log(leaf(np.ones(1000))) * 2.0).sum()
    large.backward(retain_graph=True)
    assert ag.diagnose(large).healthy
    large.backward()
    with pytest.raises(RuntimeError, match=r"diagnose it before backward.*retain_graph=True"):
        ag.diagnose(large)


def test_what_was_not_recorded_is_refused() -> None:
    for t in (ag.tensor(1.0), ag.tensor(1.0) * 2.0, ag.log(leaf(1.0)).detach()):
        with pytest.raises(RuntimeError, match="nothing was recorded"):
            ag.diagnose(t)

    def inside(x: ag.Tensor) -> ag.Tensor:
        y = ag.log(x)
        ag.diagnose(y)
        return y

    with pytest.raises(RuntimeError, match="outside"):
        ag.compile(inside)(leaf(1.0))


def test_outputs_of_several_elements_and_of_other_dtypes() -> None:
    x = leaf(1.0, -1.0, dtype=np.float32)
    report = ag.diagnose(ag.log(x))
    assert report.first is not None
    assert report.first.index == (1,)
    assert ag.diagnose(leaf(np.zeros((0, 3))).sum()).healthy


def test_a_healthy_tape_says_so() -> None:
    report = ag.diagnose(leaf(2.0) * 3.0)
    assert (report.healthy, report.first, report.findings, report.marks) == (True, None, (), {})
    assert "The value is finite. All gradients are finite, and no unit is dead or saturated." in str(report)


def test_reports_are_short_escaped_and_mark_the_tape() -> None:
    x = leaf(-1.0)
    line = inspect.currentframe().f_lineno + 1  # type: ignore[union-attr]
    total = sum([ag.log(x) for _ in range(20)])
    total.name = "<b>"
    report = ag.diagnose(total)
    assert len(report.findings) == 20
    assert "and 16 more like these" in str(report)
    assert {f.line[1] for f in report.findings if f.line} == {line}
    assert len(report.marks) == 20
    assert all("log made nan" in text for text in report.marks.values())
    assert "&lt;b&gt;" in report._repr_html_()
    assert "<b>" not in report._repr_html_()
