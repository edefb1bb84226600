"""The expression language: parsing, algebra, printing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autograd_geo import expr
from autograd_geo.eager import define

NAMES = ("x", "y", "z")


def run(node: expr.Node, values: dict[str, float]) -> float:
    body = "\n".join("    " + line for line in expr.source(node))
    function = define("test", lambda: f"def _function({', '.join(NAMES)}):\n{body}\n", expr.NUMPY)
    return float(function(*[np.float64(values[n]) for n in NAMES]))


def expressions() -> st.SearchStrategy[str]:
    leaf = st.sampled_from(["x", "y", "z", "2", "0.5", "1", "3"])

    def grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        pair = st.tuples(inner, inner)
        return (
            pair.map(lambda p: f"({p[0]}) + ({p[1]})")
            | pair.map(lambda p: f"({p[0]}) - ({p[1]})")
            | pair.map(lambda p: f"({p[0]}) * ({p[1]})")
            | pair.map(lambda p: f"({p[0]}) / (1.5 + abs({p[1]}))")
            | inner.map(lambda a: f"-({a})")
            | inner.map(lambda a: f"tanh({a}) ** 2")
            | pair.map(lambda p: f"where(({p[0]}) > 0.3, {p[1]}, sin({p[0]}))")
        )

    return st.recursive(leaf, grow, max_leaves=8)


@given(expressions(), st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1))
def test_printed_source_means_what_python_means(text: str, x: float, y: float, z: float) -> None:
    values = {"x": x, "y": y, "z": z}
    node = expr.parse(text, NAMES)
    names = {"where": lambda c, a, b: a if c else b, "tanh": math.tanh, "sin": math.sin, "abs": abs, **values}
    expected = eval(text, names)
    assert run(node, values) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(expressions(), expressions(), st.floats(-1, 1), st.floats(-1, 1))
def test_times_and_simplify_keep_the_value(text: str, factor: str, x: float, y: float) -> None:
    values = {"x": x, "y": y, "z": 0.7}
    a, b = expr.parse(text, NAMES), expr.parse(factor, NAMES)
    product = run(a, values) * run(b, values)
    g = expr.Var("z")
    assert run(expr.times(g, b), values) == pytest.approx(0.7 * run(b, values), rel=1e-12, abs=1e-12)
    assert run(expr.simplify(expr.Call("*", (a, b)), {"x": x}), values) == pytest.approx(product, rel=1e-12, abs=1e-12)


def test_what_occurs_twice_is_computed_once() -> None:
    node = expr.parse("exp(x) / (1 + exp(x))", NAMES)
    assert expr.source(node) == ["_0 = exp(x)", "return _0 / (1.0 + _0)"]


def test_zeros_of_either_sign_are_two() -> None:
    node = expr.parse("atan2(x, 0.0) - atan2(x, -0.0)", NAMES)
    assert run(node, {"x": 0.0, "y": 0.0, "z": 0.0}) == -math.pi


#: Each nests an expression once more.
NESTS = {
    "power": lambda n: expr.Call("**", (n, expr.Var("y"))),
    "exponent": lambda n: expr.Call("**", (expr.Var("y"), n)),
    "difference": lambda n: expr.Call("-", (expr.Var("x"), n)),
    "sum": lambda n: expr.Call("+", (n, expr.Var("x"))),
    "sign": lambda n: expr.Call("u-", (n,)),
    "function": lambda n: expr.Call("tanh", (n,)),
    "choice": lambda n: expr.Call("where", (expr.Call("<", (expr.Var("x"), expr.Num(1.0))), n, expr.Var("z"))),
}


@pytest.mark.parametrize("name", NESTS)
@pytest.mark.parametrize("depth", [150, 200, 1500])
def test_an_expression_of_any_depth_prints_as_code_that_compiles(name: str, depth: int) -> None:
    """Python nests 200 parentheses, and calls itself 1000 times, at most."""
    node: expr.Node = expr.Var("x")
    for _ in range(depth):
        node = NESTS[name](node)
    value = 0.5
    for _ in range(depth):
        value = {
            "power": lambda v: v**0.5, "exponent": lambda v: 0.5**v, "difference": lambda v: 0.5 - v,
            "sum": lambda v: v + 0.5, "sign": lambda v: -v, "function": math.tanh, "choice": lambda v: v,
        }[name](value)  # fmt: skip
    assert run(node, {"x": 0.5, "y": 0.5, "z": 7.0}) == pytest.approx(value, rel=1e-12)
    assert expr.names_in(node) <= set(NAMES)
    for text in (expr.latex(node), expr.label(node), expr.mathml(node)):
        assert len(text) >= depth
    assert expr.source(expr.rename(node, {"x": "x"})) == expr.source(node)
    expr.simplify(node, {})
    expr.support(node)


def test_paths_without_number_are_code_without_repetition() -> None:
    node: expr.Node = expr.Var("x")
    for _ in range(300):
        node = expr.Call("*", (node, node))
    assert len(expr.source(node)) == 300
    assert expr.names_in(node) == {"x"}


@pytest.mark.parametrize(
    ("text", "latex", "label"),
    [
        ("1 - z*z", r"1 - z \, z", "1 - z²"),
        ("-z / y", r"\frac{-z}{y}", "-z/y"),
        ("x - (y - z)", r"x - \left(y - z\right)", "x - (y - z)"),
        ("y * x**(y - 1)", "y \\, x^{y - 1}", "y·x^(y - 1)"),
        ("(x**2)**y", r"\left(x^{2}\right)^{y}", "(x²)^y"),
        ("(x*x)**2", r"\left(x \, x\right)^{2}", "(x²)²"),
        ("(x/y)**2", r"\left(\frac{x}{y}\right)^{2}", "(x/y)²"),
        ("(-x)**2", r"\left(-x\right)^{2}", "(-x)²"),
        ("sqrt(abs(x))", r"\sqrt{\left|x\right|}", "sqrt(|x|)"),
    ],
)
def test_latex_and_label(text: str, latex: str, label: str) -> None:
    node = expr.parse(text, NAMES)
    assert expr.latex(node) == latex
    assert expr.label(node) == label


def test_simplify_puts_literals_in() -> None:
    node = expr.parse("where(y == 0, 0, y * x ** (y - 1))", NAMES)
    assert expr.label(expr.simplify(node, {"y": 2})) == "2·x"
    assert expr.label(expr.simplify(node, {"y": 3})) == "3·x²"
    assert expr.simplify(node, {"y": 0}) == expr.Num(0.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("softish(x) = x / (1 + abs(y))", "unknown name 'y'"),
        ("softish(x) = expn1(x)", "did you mean 'expm1'"),
        ("softish(x) = exp(x, x)", "exp takes 1 argument"),
        ("softish(x) = x.real", "not part of the expression language"),
        ("softish(x) = __import__('os')", "unknown function"),
        ("softish(x) = x +", "invalid syntax"),
        ("softish x", "write it as"),
        ("softish(x=1) = x", "inputs have no default"),
        ("softish(x, *, a) = a*x", "parameters after"),
    ],
)
def test_a_bad_declaration_says_why(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="op declaration") as caught:
        expr.parse_declaration(text)
    assert message in str(caught.value)
