"""Lessons: the steps of a computation and its backward pass, the cursor, cards and their checks, the text."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import example as given_also
from hypothesis import given
from hypothesis import strategies as st
from op_calls import calls, differentiable

import autograd_geo as ag
from autograd_geo import nn, optim
from autograd_geo.names import place
from autograd_geo.op import Op, apply, functions, registry
from autograd_geo.viz import Lesson, State
from autograd_geo.viz.text import wants_color

OPS = [pytest.param(op, id=name) for name, op in registry.items()]
SMOOTH = [pytest.param(op, id=name) for name, op in registry.items() if not op.surrogate]


def example(of: str = "f") -> ag.Tensor:
    x = ag.tensor(-2.0, requires_grad=True)
    y = ag.tensor(5.0, requires_grad=True)
    z = ag.tensor(-4.0, requires_grad=True)
    f = ((x + y) * z) ** 2
    f.name = of
    return f


def bits(value: Any) -> tuple[Any, ...]:
    array = np.asarray(value)
    return array.dtype, array.shape, array.tobytes()


def same(a: State, b: State) -> bool:
    return all(
        {k: bits(v) for k, v in x.items()} == {k: bits(v) for k, v in y.items()}
        for x, y in ((a.values, b.values), (a.derivatives, b.derivatives), (a.grads, b.grads))
    )


def assert_ends_as_backward(out: ag.Tensor, leaves: dict[str, ag.Tensor], gradient: Any = None) -> Lesson:
    """The last state holds, bit for bit, what `backward` then leaves; making the lesson changed nothing."""
    before = {name: None if t.grad is None else bits(t.grad.numpy()) for name, t in leaves.items()}
    lesson = ag.steps(out, gradient)
    assert before == {name: None if t.grad is None else bits(t.grad.numpy()) for name, t in leaves.items()}
    grads = lesson.goto(-1).state.grads
    out.backward(gradient)  # would raise if the lesson had consumed the tape
    for name, t in leaves.items():
        if t.grad is None:
            assert name not in grads
        else:
            assert bits(grads[name]) == bits(t.grad.numpy()), name
    assert same(lesson.goto(-1).state, Lesson(lesson._record, len(lesson) - 1).state)
    return lesson


# --- what the steps are ---------------------------------------------------------------------------------------


def test_the_steps_of_the_lecture() -> None:
    found = [(s.index, s.kind, s.name, s.operand, s.value) for s in ag.steps(example())]
    assert found == [
        (0, "forward", "x", None, -2.0),
        (1, "forward", "y", None, 5.0),
        (2, "forward", "z", None, -4.0),
        (3, "forward", "a", None, 3.0),
        (4, "forward", "b", None, -12.0),
        (5, "forward", "f", None, 144.0),
        (6, "seed", "f", None, 1.0),
        (7, "local", "f", "b", -24.0),
        (8, "local", "b", "a", 96.0),
        (9, "local", "b", "z", -72.0),
        (10, "local", "a", "x", 96.0),
        (11, "local", "a", "y", 96.0),
        (12, "write", "z", None, -72.0),
        (13, "write", "x", None, 96.0),
        (14, "write", "y", None, 96.0),
    ]


@pytest.mark.parametrize("op", OPS)
def test_the_last_state_is_what_backward_leaves(op: Op) -> None:
    for args, attrs in calls(op):
        for dtype in (np.float64, np.float32):
            active = differentiable(op, len(args))
            if not active or attrs.get("dtype"):
                continue
            leaves = {f"in{k}": ag.tensor(dtype(args[k]), requires_grad=True, name=f"in{k}") for k in active}
            given = [leaves.get(f"in{k}", a) for k, a in enumerate(args)]
            inner = [x * dtype(0.9) if k in active else x for k, x in enumerate(given)]
            with np.errstate(all="ignore"):
                out = (functions["sum"](apply(op, inner, attrs)) + functions["sum"](given[active[0]])) ** 2
                assert_ends_as_backward(out, leaves)


@given(st.lists(st.tuples(st.sampled_from(["add", "subtract", "multiply", "sin", "tanh", "maximum", "sum", "index"]),
                          st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=25), st.booleans())  # fmt: skip
def test_random_tapes_end_as_backward_does(program: list[tuple[str, int, int]], arrays: bool) -> None:
    rng = np.random.default_rng(len(program))
    leaves = {n: ag.tensor(rng.normal(size=(2, 3) if arrays else ()), requires_grad=True, name=n) for n in "pqr"}
    values = list(leaves.values())
    for name, i, j in program:
        a, b = values[i % len(values)], values[j % len(values)]
        if name == "index":
            values.append(a[:1] if a.ndim else a * 2)
        elif name == "sum":
            values.append(functions["sum"](a))
        elif name in ("sin", "tanh"):
            values.append(functions[name](a))
        else:
            values.append(functions[name](a, b))
    out = functions["sum"](values[-1] * values[0])
    lesson = assert_ends_as_backward(out, leaves)
    assert len(lesson) == len(list(lesson)) == len([lesson[k] for k in range(len(lesson))])


def test_gradients_add_to_what_leaves_hold() -> None:
    x = ag.tensor(3.0, requires_grad=True)
    x.grad = 5.0
    lesson = assert_ends_as_backward(x * x, {"x": x})
    assert lesson[-1].card.rule.text == "x.grad ← x.grad + ∂a/∂x"  # type: ignore[union-attr]
    assert lesson[-1].card.numbers.text == "x.grad ← 5 + 6 = 11"  # type: ignore[union-attr]


def test_a_network_in_float32_with_its_optimiser() -> None:
    ag.seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    for p in net.parameters():
        p.assign(p.numpy().astype(np.float32))
    x = np.linspace(-1, 1, 15).reshape(5, 3).astype(np.float32)
    for optimizer in (optim.SGD(net.parameters(), lr=0.1, momentum=0.5), optim.Adam(net.parameters())):
        for _ in range(2):
            optimizer.zero_grad()
            loss = nn.mse_loss(net(x), np.ones((5, 1), np.float32))
            before = [bits(p.numpy()) for p in net.parameters()]
            lesson = ag.steps(loss, optimizer=optimizer)
            assert before == [bits(p.numpy()) for p in net.parameters()]
            updates = [s for s in lesson if s.kind == "update"]
            loss.backward()
            optimizer.step()
            assert [bits(s.value) for s in updates] == [bits(p.numpy()) for p in net.parameters()]
            assert "updated" in updates[0].card.title


def test_a_lesson_outlives_its_tape() -> None:
    w = ag.tensor(np.ones((20, 30)), requires_grad=True)
    loss = functions["sum"]((w * 3.0) ** 2)
    lesson = ag.steps(loss)
    text = lesson.text()
    loss.backward()
    w.assign(np.zeros((20, 30)))
    assert lesson.text() == text
    with pytest.raises(RuntimeError, match="consumed"):
        ag.steps(loss)
    small = example()
    small.backward()
    assert ag.steps(small).text() == ag.steps(example()).text()


def test_what_cannot_be_stepped_through() -> None:
    with pytest.raises(RuntimeError, match="requires a gradient"):
        ag.steps(ag.tensor(1.0))
    x = ag.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(ValueError, match="no single number"):
        ag.steps(x * 2)
    with pytest.raises(ValueError, match="shape"):
        ag.steps(x * 2, [1.0])
    assert_ends_as_backward(x * 2, {"x": x}, np.array([1.0, 3.0]))


def test_ten_thousand_entries() -> None:
    x = start = ag.tensor(0.5, requires_grad=True, name="start")
    for _ in range(5000):
        x = functions["sin"](x) + start
    x.name = "out"
    lesson = assert_ends_as_backward(x, {"start": start})
    assert len(lesson) == 10_001 + 1 + 15_000 + 5_000 + 1
    assert lesson[20_000].card.check.agrees  # type: ignore[union-attr]


def test_what_is_made_into_a_constant_comes_before_the_op_that_reads_it() -> None:
    x = ag.tensor(2.0, requires_grad=True)
    lesson = ag.steps(ag.where(x > 0, x * 3, -x) * ag.tensor(0.5))
    assert [s.kind for s in lesson].index("seed") == len(lesson.names)
    assert lesson.goto(-1).state.grads["x"] == 1.5


@pytest.mark.parametrize(
    "x, y, formula",
    [
        ([2.0, 3.0], [3.0, 0.5], ["y·x^(y - 1)", "a·log(x)"]),
        ([0.0, 3.0], [3.0, 0.5], ["y·x^(y - 1)", "a·log(where(x == 0, 1, x))"]),
        ([0.0, 3.0], [0.0, 0.0], ["y·where(|x| <= 3e-39, 1, x)^(y - 1)", "a·log(where(x == 0, 1, x))"]),
        ([2.0, 3.0], [0.0, 1.0], ["y·x^(y - 1)", "a·log(x)"]),
    ],
)
def test_a_formula_speaks_of_single_points_only_where_an_element_is_there(
    x: list[float], y: list[float], formula: list[str]
) -> None:
    a, b = (ag.tensor(v, requires_grad=True, name=name) for v, name in ((x, "x"), (y, "y")))
    text = ag.steps((a**b).sum()).text(color=False)
    assert [line.partition(",  ")[2].partition(" = ")[2] for line in text.splitlines() if "∂b/∂a·∂a" in line] == formula


# --- the cursor -----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 14), max_size=6), st.integers(0, 14))
def test_a_state_is_the_same_however_reached(stops: list[int], k: int) -> None:
    lesson = start = ag.steps(example())
    direct = start.goto(k)
    for stop in [*stops, k]:
        while lesson.position < stop:
            assert lesson.next().prev() == lesson
            lesson = lesson.next()
        while lesson.position > stop:
            assert lesson.prev().next() == lesson
            lesson = lesson.prev()
    assert lesson == direct and hash(lesson) == hash(direct)
    assert same(lesson.state, direct.state)
    assert lesson.step == lesson[k] and start.position == 0


def test_the_cursor_stops_at_the_ends() -> None:
    lesson = ag.steps(example())
    assert lesson.goto(-1).position == len(lesson) - 1
    assert [s.index for s in lesson[3:6]] == [3, 4, 5]
    for move in (lesson.prev, lesson.goto(-1).next, lambda: lesson.goto(15), lambda: lesson[-16]):
        with pytest.raises(IndexError):
            move()


def test_nothing_in_a_lesson_can_be_changed() -> None:
    w = ag.tensor(np.ones((2, 3)), requires_grad=True)
    lesson = ag.steps(functions["sum"](w * np.arange(3.0)))
    for step in lesson:
        if isinstance(step.value, np.ndarray):
            with pytest.raises(ValueError, match="read-only"):
                step.value += 1
            with pytest.raises(ValueError, match="WRITEABLE"):
                step.value.flags.writeable = True
    with pytest.raises(TypeError):
        lesson.state.values["w"] = 0  # type: ignore[index]
    with pytest.raises(AttributeError):
        lesson.step.index = 3  # type: ignore[misc]


# --- cards ----------------------------------------------------------------------------------------------------


def test_a_card_tells_rule_numbers_chain_line_and_check() -> None:
    card = ag.steps(example())[8].card
    assert card.title == "The local derivative of b with respect to a"
    formulas = [f.text for f in (card.rule, card.numbers, card.passed, card.chain) if f]
    assert formulas == [
        "∂b/∂a = z",
        "∂b/∂a = -4",
        "∂f/∂a ← ∂f/∂b·∂b/∂a = (-24)·(-4) = 96",
        "∂f/∂a = ∂f/∂f·∂f/∂b·∂b/∂a = 1·(-24)·(-4) = 96",
    ]
    assert card.value == "96"
    assert card.source is not None and card.source.place.startswith("test_steps.py:")
    assert card.source.text == "f = ((x + y) * z) ** 2"
    assert card.source.text[card.source.start : card.source.end] == "(x + y) * z"
    assert card.check is not None and card.check.agrees and card.check.ours == -4.0


def test_where_paths_meet_each_one_is_told() -> None:
    x = ag.tensor(3.0, requires_grad=True)
    f = x * x + x
    meeting = [s.card for s in ag.steps(f) if s.kind == "accumulate"]
    assert [c.rule.text for c in meeting if c.rule] == [
        "∂f/∂x = ∂f/∂f·∂f/∂x + ∂f/∂a·∂a/∂x",
        "∂f/∂x = ∂f/∂f·∂f/∂x + ∂f/∂a·∂a/∂x + ∂f/∂a·∂a/∂x",
    ]
    assert [c.numbers.text for c in meeting if c.numbers] == ["∂f/∂x = 1 + 3 = 4", "∂f/∂x = 4 + 3 = 7"]
    assert any("2 places" in s.card.note for s in ag.steps(f))


@pytest.mark.parametrize("op", SMOOTH)
def test_every_local_derivative_agrees_with_finite_differences(op: Op) -> None:
    for args, attrs in calls(op):
        active = differentiable(op, len(args))
        if not active:
            continue
        given = [ag.tensor(a, requires_grad=True) if k in active else a for k, a in enumerate(args)]
        out = apply(op, given, attrs)
        lesson = ag.steps(out, np.random.default_rng(1).normal(size=out.shape))
        for step in lesson:
            check = step.card.check
            assert (check is not None) == (step.kind == "local")
            assert check is None or check.agrees, (check, args, attrs)


@pytest.mark.parametrize(("rule", "at"), [("-cos(x)", 0.3), ("cos(x) + 1", 1e-12), ("x", 1e-12), ("x", 1e-300)])
def test_a_wrong_rule_is_found_out(rule: str, at: float) -> None:
    wrong = ag.pointwise("wrongly(x) = sin(x) + 1", x=rule)
    try:
        lesson = ag.steps(wrong(ag.tensor(at, requires_grad=True)))
    finally:
        for table in (registry, functions):
            del table["wrongly"]  # type: ignore[attr-defined]
    check = lesson[3].card.check
    assert check is not None and check.agrees is False
    assert f"{np.cos(at):.6g} by finite differences, not " in check.text


@given(st.floats(), st.floats(), st.sampled_from([n for n, op in registry.items() if op.family == "pointwise"]))
@given_also(1e-320, 1e-320, "negative")
@given_also(np.inf, -np.inf, "multiply")
@given_also(1e308, 1e-320, "multiply")
def test_any_number_can_be_stepped_through(a: float, b: float, name: str) -> None:
    x, y = (ag.tensor(v, requires_grad=True) for v in (a, b))
    with np.errstate(all="ignore"):
        f = functions[name](*[x, y, x][: len(registry[name].inputs)]) + x * y
    lesson = ag.steps(f)
    assert lesson.text(color=False).count("\n") == len(lesson) + 1


def test_checks_say_where_there_is_nothing_to_compare() -> None:
    def told(fn: Any, x: float) -> Any:
        with np.errstate(all="ignore"):
            return ag.steps(fn(ag.tensor(x, requires_grad=True)))[3].card.check

    assert told(functions["relu"], 0.0).text.startswith("there is a kink")
    assert told(functions["sqrt"], 0.0).text == "there is no finite difference at this point"
    assert "deliberately" in told(functions["binary_step"], 0.2).text
    assert told(functions["sqrt"], 1e-9).agrees


def test_a_compiled_function_is_one_step() -> None:
    pytest.importorskip("numba")
    fast = ag.compile(lambda x: functions["sin"](x) * x)
    x = ag.tensor([1.0, 2.0], requires_grad=True)
    lesson = assert_ends_as_backward(functions["sum"](fast(x) ** 2), {"x": x})
    checks = [s.card.check for s in lesson if s.kind == "local"]
    assert [c.agrees for c in checks if c] == [True, True, None]
    assert checks[-1] is not None and checks[-1].text == "this op cannot be evaluated at other points"


def test_attributes_are_told_where_they_are_not_the_usual_ones() -> None:
    w = ag.tensor(np.ones((2, 3)), requires_grad=True)
    notes = [s.card.note for s in ag.steps(functions["sum"](functions["sum"](w, axis=1)))]
    assert "With axis=1." in notes and not any("keepdims" in n for n in notes)


def test_division_by_zero_is_seen_to_happen() -> None:
    x = ag.tensor(0.0, requires_grad=True)
    with np.errstate(all="ignore"):
        f = 1 / x
        lesson = ag.steps(f)
    assert lesson[1].card.numbers.text == "f = 1/0 = inf"  # type: ignore[union-attr]
    assert "stops being finite" in lesson[1].card.note
    assert "  f = 1/x = inf  Here a number stops being finite." in lesson.text().splitlines()
    assert lesson.goto(-1).state.grads["x"] == -np.inf


def test_names_are_shown_as_they_are() -> None:
    x = ag.tensor(1.0, requires_grad=True, name="<b>&\\frac{λ}")
    assert "∂f/∂<b>&\\frac{λ}" in ag.steps(x * 2, of="f").text()


def test_names_cannot_move_the_cursor_of_a_terminal() -> None:
    x = ag.tensor(1.0, requires_grad=True, name="a\x1b[2J\nb")
    assert "∂f/∂a�[2J�b" in ag.steps(x * 2, of="f").text()


def test_long_arrays_are_told_by_their_shape() -> None:
    w = ag.tensor(np.ones((20, 30)), requires_grad=True)
    loss = functions["sum"](functions["tanh"](w))
    text = ag.steps(loss).text()
    assert "w = float64 20×30" in text
    assert max(map(len, text.splitlines())) < 160


# --- text -----------------------------------------------------------------------------------------------------


def test_colours_only_where_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    lesson = ag.steps(example())
    assert "\x1b" not in lesson.text()
    assert "\x1b[33m∂f/∂b ←" in lesson.text(color=True)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert wants_color()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_color()


@pytest.mark.parametrize(
    ("file", "last", "said"),
    [
        ("/home/me/lesson.py", None, "lesson.py:3"),
        ("/home/me/lesson.py", 3, "lesson.py:3"),
        ("/home/me/lesson.py", 7, "lesson.py:3–7"),
        ("/tmp/ipykernel_12/979652371.py", None, "cell, line 3"),
        (r"C:\Temp\ipykernel_12\979652371.py", 7, "cell, lines 3–7"),
        ("/tmp/ipython-input-1-979652371.py", None, "cell, line 3"),
        ("<ipython-input-1-0a1b>", None, "cell, line 3"),
        ("/tmp/marimo_7/__marimo__cell_Hbol_.py", None, "cell, line 3"),
    ],
)
def test_places_are_lines_of_files_or_of_cells(file: str, last: int | None, said: str) -> None:
    assert place(file, 3, last) == said


def test_a_cell_is_called_by_its_number_where_ipython_knows_it() -> None:
    shells = pytest.importorskip("IPython.core.interactiveshell")
    shell = shells.InteractiveShell()
    file = shell.compile.cache("y = x * x", 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["IPython"], "get_ipython", lambda: shell)
        assert place(file, 1) == "In[4], line 1"
        assert place("<ipython-input-0-gone>", 1) == "cell, line 1"
