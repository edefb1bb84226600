"""`pointwise`: an elementwise op by its formula and the partial derivatives of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .. import expr
from ..eager import Lines, define, eager_function
from ..op import OPERATORS, Op, Rule, TensorFunction, functions, register
from .rules import FLOATING, HELD, LIFTED_FLOATING, check_names, give_signature, module_of_caller, rule_function


def pointwise(
    declaration: str, /, *, domain: Any = (-2.0, 2.0), doc: str = "", symbol: str = "", reference: str = "",
    surrogate: bool = False, method: bool = True, **partials: str,
) -> TensorFunction:  # fmt: skip
    """Declare an elementwise op by its formula and that formula's partial derivatives.

    `softsign = pointwise("softsign(x) = x / (1 + abs(x))", x="1 / (1 + abs(x))**2")`. Partials may use the
    inputs, the parameters (after `*` in the declaration) and the output `z`; an input without a partial carries
    no gradient. `domain` is the interval (or one per input) from which the derived tests draw their points,
    `reference` a NumPy or SciPy expression to test the value against (default: NumPy's function of that name).
    `surrogate` says that the partials are deliberately not the derivative.

    Raises ValueError for a name the expression language does not know, and for a built-in op's name.
    """
    d = expr.parse_declaration(declaration)
    check_names(d.name, d.inputs, d.attrs)
    stray = set(partials) - set(d.inputs)
    if stray:
        raise ValueError(f"op declaration {declaration!r}: no input is called {', '.join(sorted(stray))}")
    head = f"def _function({', '.join([*d.inputs, *d.attrs])}):\n    "
    forward = define(d.name, lambda: head + "\n    ".join(expr.source(d.body)) + "\n", expr.NUMPY)

    rules: list[Rule | None] = []
    for k, x in enumerate(d.inputs):
        if x not in partials:
            rules.append(None)
            continue
        partial = expr.parse(partials[x], (*d.inputs, *d.attrs, "z"), f"{declaration}, {x}={partials[x]}")
        rule = pointwise_rule(d, k, expr.times(expr.Var("g"), partial))
        support = expr.support(partial)
        if support != expr.ONE:
            rule = replace(rule, support=pointwise_rule(d, k, support))
        rules.append(replace(rule, partial=partial))

    op = Op(
        name=d.name, family="pointwise", inputs=d.inputs, attrs=d.attrs, forward=forward, rules=tuple(rules),
        body=d.body, symbol=symbol or d.name, reference=reference, surrogate=surrogate,
        domain=domain if isinstance(domain, Mapping) else dict.fromkeys(d.inputs, domain),
        selects=any(rule is not None and rule.support is not None for rule in rules),
    )  # fmt: skip
    function = _pointwise_function(op, d.body)
    function.__doc__ = _pointwise_doc(op, expr.label(d.body), doc)
    function.__module__ = module_of_caller()
    return register(op, function, method)


def pointwise_rule(d: expr.Declaration, k: int, body: expr.Node) -> Rule:
    """A rule for input k from an expression of the cotangent g, the inputs, attributes and the output z."""
    asks = sorted(expr.names_in(body))
    raw, scalar, traced = (
        rule_function(f"d{d.name}_d{d.inputs[k]}", k, d.inputs, d.attrs, asks, _lines(body, codes), read, namespace)
        for read, namespace, codes in (
            (FLOATING, expr.NUMPY, {}), (HELD, expr.SCALAR, expr.FLOAT_CODES), (LIFTED_FLOATING, _TRACED, {})
        )
    )  # fmt: skip
    return Rule(raw, scalar, traced, frozenset(asks) & {*d.inputs, "z"})


def _lines(node: expr.Node, codes: Mapping[str, str]) -> Lines:
    return lambda: expr.source(node, codes=codes)


# The functions of the expression language as recorded ops, which don't all exist yet when a rule is made.
_TRACED = {name: lambda *xs, _name="abs" if name == "absolute" else name: functions[_name](*xs) for name in expr.NUMPY}
_TRACED["choose"] = expr.choose_by(_TRACED["where"])


def _pointwise_function(op: Op, body: expr.Node) -> TensorFunction:
    formula = expr.rename(body, {x: f"_v_{x}" for x in op.inputs})
    attrs = [f"{k}={v!r}" for k, v in op.attrs.items()]
    namespace = {**expr.SCALAR, **{f"np_{k}": v for k, v in expr.NUMPY.items()}}

    def on_arrays() -> list[str]:
        return expr.source(formula, "_z = ", expr.ARRAY_CODES)

    def on_floats() -> list[str]:
        return expr.source(formula, "_z = ", expr.FLOAT_CODES)

    def function(order: Sequence[str]) -> TensorFunction:
        signature = ", ".join([*order, *(["*"] if attrs else []), *attrs])
        return eager_function(op, signature, namespace, on_arrays, on_floats)

    direct = function(op.inputs)
    give_signature(direct, op.inputs, op.attrs)
    if op.name in OPERATORS:
        direct.reflected = function(op.inputs[::-1])  # type: ignore[attr-defined]
    return direct


def _pointwise_doc(op: Op, formula: str, doc: str) -> str:
    slopes = [f"d/d{x} = {r.label}" for k, x in enumerate(op.inputs) if (r := op.rules[k]) is not None]
    calls = f"{op.name}({', '.join(op.inputs)})"
    lines = [f"{doc or calls.join(['', ', element by element.'])}"]
    if formula != calls:
        lines.append(f"{calls} = {formula}")
    lines.append("Derivatives: " + ", ".join(slopes) + "." if slopes else "It carries no gradient.")
    lines.append("Inputs: tensors, arrays or numbers of shapes that broadcast (else ValueError); the result has the")
    lines.append("broadcast shape and NumPy's promoted dtype.")
    return "\n".join([lines[0], "", *lines[1:]])


__all__ = ["pointwise"]
