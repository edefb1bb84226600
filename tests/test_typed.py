"""Expressions that somebody types, and the commands that step through them and draw them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_expr import expressions

import autograd_geo as ag
from autograd_geo.cli import main
from autograd_geo.op import functions, registry
from autograd_geo.typed import OPERATORS, evaluate, read_values

NAMES = {"where": lambda c, a, b: a if c else b, "tanh": math.tanh, "sin": math.sin, "abs": abs}


@given(expressions(), st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1))
def test_the_value_is_pythons(text: str, x: float, y: float, z: float) -> None:
    values = {"x": x, "y": y, "z": z}
    whole = f"({text}) + 0*(x + y + z)"
    assert evaluate(whole, values).item() == pytest.approx(eval(whole, {**NAMES, **values}), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", [n for n, op in registry.items() if op.family == "pointwise" and n in functions])
def test_every_elementwise_function_is_known(name: str) -> None:
    op = registry[name]
    values = {x: sum(op.domain.get(x, (0.2, 0.4))) / 2 + 0.1 for x in op.inputs}
    out = evaluate(f"{name}({', '.join(op.inputs)}) + 0*{op.inputs[0]}", values)
    assert out.item() == functions[name](*values.values()).item()


def test_operators_stand_for_ops() -> None:
    assert set(OPERATORS.values()) <= set(registry)
    assert evaluate("-x + (x > 1 and x < 3) * 5", {"x": 2.0}).item() == 3.0


def test_each_step_knows_its_part_of_the_text() -> None:
    lesson = ag.steps(evaluate("((λ+y)*z)**2", {"λ": -2.0, "y": 5.0, "z": -4.0}))
    parts = [s and s.text[s.start : s.end] for s in (step.card.source for step in lesson)]
    assert parts[:6] == [None, None, None, "λ+y", "(λ+y)*z", "((λ+y)*z)**2"]
    assert lesson.goto(-1).state.grads == {"λ": 96.0, "y": 96.0, "z": -72.0}
    assert lesson.names[-1] == "f"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sinn(x) + 1", "unknown function 'sinn'; did you mean 'sin'?\n  sinn(x) + 1\n  ^^^^"),
        ("x * speed", "unknown name 'speed' (known: inf, nan, pi, x)\n  x * speed\n      ^^^^^"),
        ("2 * x^2", "a power is written **"),
        ("(x + 1", "was never closed\n  (x + 1\n  ^"),
        ("sin(x, x, x) ", "sin takes 1 argument, here it has 3\n  sin(x, x, x)\n  ^^^^^^^^^^^^"),
        ("λλ + x", "unknown name 'λλ' (known: inf, nan, pi, x)\n  λλ + x\n  ^^"),
        ("matmul(x, 2)", "matmul: "),
        ("__import__('os').system('ls')", "not part of the expression language"),
        ("x.grad", "not part of the expression language"),
        ("[x for x in x]", "not part of the expression language"),
        ("(lambda: x)()", "not part of the expression language"),
        ("sin(x=x)", "not part of the expression language"),
        ("x\0", "null bytes"),
        ("", "invalid syntax"),
        ("2x", "; a product is written *"),
        ("sin x", "a function sin(x)"),
        ("2(x + 1)", "; a product is written *"),
        ("x(2)", "unknown function 'x'; a product is written *"),
        ("ln(x)", "did you mean 'log'?"),
        ("x * sin", "a function is written sin(x)"),
        ("e**x", "e**x is written exp(x)"),
        ("1,5 * x", "; decimals have a point"),
        ("|x|", "; the size of x is abs(x)"),
        ("x²", "; a power is written **"),
        ("sqrt(x", "'(' was never closed\n"),
        ("sin(2) + 0*2", "a value is given for x, unused in\n  sin(2)"),
        ("(" * 300 + "x" + ")" * 300, "too many nested parentheses"),
        ("-" * 900 + "x", "nested too deeply"),
        ("-" * 5000 + "x", "nested too deeply"),
    ],
)
def test_a_typo_is_pointed_at(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        evaluate(text, {"x": 0.5})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["x"], "write it as x=-2"),
        (["2=x"], "write it as x=-2"),
        (["pi=3"], "write it as x=-2"),
        (["if=3"], "write it as x=-2"),
        (["x=two"], "'two' is no number"),
        (["x=1,,2"], "is no number"),
        (["x=1", "x=2"], "x is given twice"),
    ],
)
def test_values_that_cannot_be_read(settings: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_values(settings)
    assert read_values(["x=-2", "y=1e3", "z = −1", "w=1,2"]) == {"x": -2.0, "y": 1000.0, "z": -1.0, "w": [1.0, 2.0]}


def test_results_without_a_derivative() -> None:
    for text, values, message in (
        ("2 + 3", {}, "depends on none of its names"),
        ("x > 2", {"x": 1.0}, "depends on none of its names"),
        ("w * 2", {"w": [1.0, 2.0]}, "sum"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(text, values)


# --- commands -------------------------------------------------------------------------------------------------


def test_step_prints_the_lesson(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["step", "((x+y)*z)**2", "x=-2", "y=5", "z=-4", "--text"]) == 0
    told = capsys.readouterr().out
    assert "∂f/∂a ← ∂f/∂b·∂b/∂a = (-24)·(-4) = 96" in told
    assert main(["step", "1/x", "x=0"]) == 0  # no terminal here: text
    assert "f = 1/x = inf" in capsys.readouterr().out


def test_step_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lesson.html"
    assert main(["step", "x*x", "x=3", "--html", str(path), "--quiz"]) == 0
    assert capsys.readouterr().out == f"written: {path}\n"
    assert '"quiz":true' in path.read_text("utf-8")


def test_graph_prints_or_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pygraphviz")
    assert main(["graph", "x*sin(x)", "x=3"]) == 0
    assert "digraph" in capsys.readouterr().out
    assert main(["graph", "--out", str(tmp_path / "g.svg"), "--", "-x**2", "x=3"]) == 0
    assert "<svg" in (tmp_path / "g.svg").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["step", "sinn(x)", "x=1"], "did you mean 'sin'"),
        (["step", "x*x", "x=3", "--html", "/nowhere/at/all.html"], "cannot be written"),
        (["step", "x*x", "x=3", "--text", "--quiz"], "nobody to ask"),
        (["step", "x*x", "x=3", "--quiz"], "with --html FILE it asks in a page"),
        (["graph", "x*x", "x=3", "--out", "/nowhere/g.svg"], "graph: the graph cannot be written: No such file"),
        (["graph", "x*x", "x=3", "--out", "g.bmp"], ".svg, .png, .pdf, .html or .dot"),
        (["graph", "x*y", "x=3"], "unknown name 'y'"),
    ],
)
def test_commands_say_what_is_wrong(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert message in output.err and "Traceback" not in output.err and not output.out


def test_an_expression_that_looks_like_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["step", "-x**2", "x=3"])
    assert "goes after --" in capsys.readouterr().err
