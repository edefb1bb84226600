"""The four ways to declare an op: `pointwise`, `linear`, `multilinear`, `custom`.

Each writes an `Op` out of one short declaration, registers it and returns the function users call. Rules are
NumPy code: on arrays they run as they are; for higher orders the same code runs on tensors, whose NumPy
protocols record it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, wraps
from types import MappingProxyType
from typing import Any

import numpy as np

from . import expr
from .contract import Transposed, choose, constants, contraction, explicit, transposed
from .eager import Lines, define, eager_function
from .op import (
    OPERATORS,
    Function,
    Op,
    Rule,
    Rules,
    Sample,
    TensorFunction,
    apply,
    functions,
    register,
    registry,
    sample,
)
from .tape import Entry
from .tensor import Tensor, wrap
from .value import FLOAT64, UNSHARED, Number, Value, strong

# --- generated code -------------------------------------------------------------------------------------------


def _lift(source: Entry | Number) -> Any:
    return wrap(source.value, source) if type(source) is Entry else source


def _strong(source: Entry | Number) -> Any:
    return strong(source.value) if type(source) is Entry else source


def _from_float(raw: Callable[[Value, Entry], Value]) -> Callable[[float, Entry], Value]:
    """A rule in NumPy terms, for a cotangent held as a Python float."""
    return lambda g, entry: raw(np.float64(g), entry)


def _precision(source: np.dtype[Any], entry: Entry) -> np.dtype[Any]:
    """The dtype in which a partial of `entry` is computed of an operand."""
    if source.kind in "iu":
        return FLOAT64
    return np.promote_types(source, entry.dtype) if source.kind == entry.dtype.kind == "f" else source


def _floating(value: Value, entry: Entry) -> Value:
    value = strong(value)
    return value if value.dtype == (at := _precision(value.dtype, entry)) else value.astype(at)


def _lifted(source: Entry, entry: Entry) -> Tensor:
    t = wrap(source.value, source)
    return t if t.dtype == (at := _precision(t.dtype, entry)) else functions["astype"](t, dtype=at)


# How a rule's code reads what an entry {0} holds into {1}: as it is, as NumPy should see it, as a tensor on the tape.
_LIFTED = "{1} = _wrap({0}.value, {0})"
_HELD = "{1} = {0}.value if type({0}.value) is float else float({0}.value)"
_STRONG = "{1} = {0}.value if type({0}.value) is not float else _float64({0}.value)"
# Partials are computed in the result's precision: integers of few bits would overflow in them.
_LIFTED_FLOATING = "{1} = _lifted({0}, entry)"
_FLOATING = """\
{1} = {0}.value
{2}if type({1}) is not _ndarray or {1}.dtype is not _FLOAT64:
{2}    {1} = _floating({1}, entry)"""
_READERS = {
    "_floating": _floating,
    "_lifted": _lifted,
    "_float64": np.float64,
    "_wrap": wrap,
    "_Entry": Entry,
    "_ndarray": np.ndarray,
    "_FLOAT64": FLOAT64,
}


def _rule_function(
    name: str, k: int, inputs: Sequence[str], attrs: Iterable[str], asks: Iterable[str], body: Lines,
    read: str, namespace: Mapping[str, Any],
) -> Function:  # fmt: skip
    """A function of (g, entry) that binds what a rule asks for by name, then runs its body."""
    lines = ["def _function(g, entry):"]
    for ask in asks:
        if ask == "z":
            lines.append("    " + read.format("entry", "z", " " * 4))
        elif ask == "shape":
            lines.append(f"    shape = entry.inputs[{k}].spec[0]")
        elif ask == "shapes":
            lines.append("    shapes = [i.spec[0] for i in entry.inputs]")
        elif ask in inputs:
            lines.append(f"    {ask} = entry.inputs[{inputs.index(ask)}]")
            lines.append(f"    if type({ask}) is _Entry:\n        " + read.format(ask, ask, " " * 8))
        elif ask in attrs:
            lines.append(f"    {ask} = entry.attrs[{ask!r}]")
        elif ask == "k":
            lines.append(f"    k = {k}")
        elif ask != "g":
            raise ValueError(f"{name}: a rule may ask for g, z, shape, {', '.join([*inputs, *attrs])}; not {ask!r}")
    return define(
        name, lambda: "\n".join([*lines, *("    " + line for line in body())]) + "\n", {**namespace, **_READERS}
    )


def _written_rule(name: str, k: int, x: str, inputs: Sequence[str], attrs: Iterable[str], rule: Function) -> Rule:
    """A rule from a Python function over the names it asks for; the same code serves arrays and tensors."""
    asks = list(inspect.signature(rule).parameters)
    attrs = list(attrs)

    def body() -> list[str]:
        return [f"return _rule({', '.join(asks)})"]

    raw, traced = (
        _rule_function(f"d{name}_d{x}", k, inputs, attrs, asks, body, read, {"_rule": rule})
        for read in (_STRONG, _LIFTED)
    )
    return Rule(
        raw, _from_float(raw), traced, frozenset(asks) & {*inputs, "z"}, (_partial_latex(name, x), f"∂{name}/∂{x}")
    )


def _partial_latex(name: str, x: str) -> str:
    return rf"\frac{{\partial\,\mathrm{{{name}}}}}{{\partial {x}}}".replace("_", r"\_")


def _check_names(op: str, inputs: Sequence[str], attrs: Iterable[str]) -> None:
    """Raise ValueError for names that rules use for something else, or that occur twice."""
    names = [*inputs, *attrs]
    for name in names:
        if name in ("g", "z", "entry", "shape", "shapes") or name.startswith("_") or names.count(name) > 1:
            raise ValueError(
                f"op {op!r}: {name!r} cannot name an input or attribute; g, z, entry, shape, shapes and names with a "
                "leading underscore mean something else in a rule, and each name stands once"
            )


def _module_of_caller() -> str:
    return str(sys._getframe(2).f_globals.get("__name__", "__main__"))


# --- pointwise ------------------------------------------------------------------------------------------------


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
    _check_names(d.name, d.inputs, d.attrs)
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
        rule = _pointwise_rule(d, k, expr.times(expr.Var("g"), partial))
        support = expr.support(partial)
        if support != expr.ONE:
            rule = replace(rule, support=_pointwise_rule(d, k, support))
        rules.append(replace(rule, partial=partial))

    op = Op(
        name=d.name, family="pointwise", inputs=d.inputs, attrs=d.attrs, forward=forward, rules=tuple(rules),
        body=d.body, symbol=symbol or d.name, reference=reference, surrogate=surrogate,
        domain=domain if isinstance(domain, Mapping) else dict.fromkeys(d.inputs, domain),
        selects=any(rule is not None and rule.support is not None for rule in rules),
    )  # fmt: skip
    function = _pointwise_function(op, d.body)
    function.__doc__ = _pointwise_doc(op, expr.label(d.body), doc)
    function.__module__ = _module_of_caller()
    return register(op, function, method)


def _pointwise_rule(d: expr.Declaration, k: int, body: expr.Node) -> Rule:
    """A rule for input k from an expression of the cotangent g, the inputs, attributes and the output z."""
    asks = sorted(expr.names_in(body))
    raw, scalar, traced = (
        _rule_function(f"d{d.name}_d{d.inputs[k]}", k, d.inputs, d.attrs, asks, _lines(body, codes), read, namespace)
        for read, namespace, codes in (
            (_FLOATING, expr.NUMPY, {}), (_HELD, expr.SCALAR, expr.FLOAT_CODES), (_LIFTED_FLOATING, _TRACED, {})
        )
    )  # fmt: skip
    return Rule(raw, scalar, traced, frozenset(asks) & {*d.inputs, "z"})


def _lines(node: expr.Node, codes: Mapping[str, str]) -> Lines:
    return lambda: expr.source(node, codes=codes)


# The functions of the expression language as recorded ops, which don't all exist yet when a rule is made.
_TRACED = {name: lambda *xs, _name="abs" if name == "absolute" else name: functions[_name](*xs) for name in expr.NUMPY}


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
    _sign(direct, op.inputs, op.attrs)
    if op.name in OPERATORS:
        direct.reflected = function(op.inputs[::-1])  # type: ignore[attr-defined]
    return direct


def _sign(function: Any, operands: Iterable[str], attrs: Mapping[str, Any]) -> None:
    """Say what the function takes before its source is written."""
    kind = inspect.Parameter
    function.__signature__ = inspect.Signature(
        [kind(x, kind.POSITIONAL_OR_KEYWORD) for x in operands]
        + [kind(k, kind.KEYWORD_ONLY, default=v) for k, v in attrs.items()]
    )


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


# --- written in NumPy: linear and custom ----------------------------------------------------------------------


def _protected(function: Function) -> Function:
    """A user's function that cannot write into the arrays it is given, which tapes hold: NumPy raises ValueError."""

    @wraps(function)
    def run(*args: Any, **attrs: Any) -> Any:
        arrays = [x for x in args if type(x) is np.ndarray and x.flags.writeable]
        for x in arrays:
            x.flags.writeable = False
        try:
            return function(*args, **attrs)
        finally:
            for x in arrays:
                x.flags.writeable = True

    return run


def _private(forward: Function) -> Function:
    """A user's function that can't write into its operands, and whose result nobody else holds.

    One that works in place, or returns its workspace, would change tapes.
    """
    protected = _protected(forward)

    def run(*operands: Any, **attrs: Any) -> Any:
        z = protected(*operands, **attrs)
        if isinstance(z, np.ndarray) and (z.base is not None or sys.getrefcount(z) > UNSHARED):
            return z.copy()
        return z

    run.__module__ = forward.__module__  # the compiler asks whose code it is
    return run


def _declared(forward: Function) -> tuple[tuple[str, ...], dict[str, Any], bool]:
    """Operands (before `/`, or `*name` for any number), attributes with their defaults, variadic or not."""
    operands: list[str] = []
    attrs: dict[str, Any] = {}
    variadic = False
    for p in inspect.signature(forward).parameters.values():
        if p.kind is p.VAR_POSITIONAL:
            variadic = True
        if p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL):
            operands.append(p.name)
        else:
            attrs[p.name] = p.default
    if not operands:
        raise ValueError(f"op {forward.__name__!r}: put its array operands before a '/', as in f(x, /, axis=None)")
    _check_names(forward.__name__, operands, attrs)
    return tuple(operands), attrs, variadic


def _function_of(op: Op, forward: Function, module: str) -> TensorFunction:
    """A function with the declared signature that runs and records the op."""
    parameters = []
    for p in inspect.signature(forward).parameters.values():
        kind = p.POSITIONAL_OR_KEYWORD if p.kind is p.POSITIONAL_ONLY else p.kind
        parameters.append(p.replace(kind=kind, annotation=p.empty))
    defaults = {f"_default_{p.name}": p.default for p in parameters if p.default is not p.empty}
    named = [p if p.default is p.empty else p.replace(default=_Name(f"_default_{p.name}")) for p in parameters]
    signature = str(inspect.Signature(named))[1:-1]
    passed = ", ".join([*(f"_v_{x}" for x in op.inputs), *(f"{k}={k}" for k in op.attrs)])
    function = eager_function(op, signature, {"_forward": op.forward, **defaults}, lambda: [f"_z = _forward({passed})"])
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__doc__, function.__module__ = forward.__doc__, module
    return function


class _Name(str):
    """Text that shows without quotes in a signature."""

    __repr__ = str.__str__


def custom(
    *, samples: Sequence[Sample] = (), latex: Mapping[str, str] = MappingProxyType({}), symbol: str = "",
    reference: str = "", method: bool = True, moves: bool = False, selects: bool = False, **rules: Function,
) -> Callable[[Function], TensorFunction]:  # fmt: skip
    """Declare an op by a NumPy function and one rule for each input that a gradient flows to.

        @custom(x=lambda g, x: g * np.cos(x))
        def sine(x, /):
            return np.sin(x)

    The function's parameters before `/` are its array operands (`*xs`: any number of them, sharing one rule),
    the others its attributes. A rule is a function of what it asks for by name: the output's cotangent `g`, the
    output `z`, operands, attributes, and `shape`, that of its own operand; only what it asks for is kept on the
    tape. Write it in NumPy, and it is differentiable itself. Rules of a variadic op also get `k` and `shapes`.
    `moves` says that each element of the result is an element of an input, or 0; `selects` that what
    gets no gradient was left out, so that whatever it was computed by does not count.
    """

    def declare(forward: Function) -> TensorFunction:
        operands, attrs, variadic = _declared(forward)
        stray = set(rules) - set(operands)
        if stray:
            raise ValueError(f"op {forward.__name__!r}: no operand is called {', '.join(sorted(stray))}")
        name, module = forward.__name__.lstrip("_"), _module_of_caller()
        ours = module.startswith("autograd_geo.")
        run = forward if ours else _private(forward)
        own: Callable[[Function], Function] = (lambda f: f) if ours else _protected

        def rule(k: int) -> Rule | None:
            x = operands[0 if variadic else k]
            if x not in rules:
                return None
            made = _written_rule(name, k, x, () if variadic else operands, attrs, own(rules[x]))
            return replace(made, text=(latex[x], made.label)) if x in latex else made

        op = Op(
            name=name, family="custom", inputs=operands, attrs=attrs, forward=run, variadic=variadic,
            rules=Rules(rule) if variadic else tuple(rule(k) for k in range(len(operands))),
            symbol=symbol or name, samples=tuple(samples), reference=reference, moves=moves, selects=selects,
        )  # fmt: skip
        return register(op, _function_of(op, forward, module), method)

    return declare


def linear(
    transpose: Function, *, samples: Sequence[Sample] = (), latex: str = "", symbol: str = "", reference: str = "",
    method: bool = True, moves: bool = False, selects: bool = False,
) -> Callable[[Function], TensorFunction]:  # fmt: skip
    """Declare an op that is linear in its first operand by a NumPy function and that function's transpose.

        @linear(lambda g, shift: np.roll(g, -shift))
        def shifted(x, /, shift=1):
            return np.roll(x, shift)

    The transpose maps the output's cotangent `g` to the input's; it may ask by name for other operands, for
    attributes and for `shape`, that of the input. It becomes an op of its own, `shifted.T`, whose transpose is
    the function itself, so every order of derivative follows; both are checked by <Ax, y> = <x, A'y>. `moves` says
    that each element of the result is one of the first operand's, or 0; `selects` that some elements of the operand
    may be in none.
    """

    def declare(forward: Function) -> TensorFunction:
        operands, attrs, variadic = _declared(forward)
        assert not variadic, "a linear op has one linear operand"
        name, module = forward.__name__.lstrip("_"), _module_of_caller()
        run = forward if module.startswith("autograd_geo.") else _private(forward)
        asks = list(inspect.signature(transpose).parameters)
        back_run = transpose if run is forward else _protected(transpose)
        constants, given = operands[1:], [*operands[1:], *attrs]
        text = f"def _function({', '.join(['g', *constants, 'shape', *attrs])}):\n    return _rule({', '.join(asks)})\n"
        back = define(f"{name}.T", lambda: text, {"_rule": back_run})
        raw = _rule_function(
            f"d{name}",
            0,
            operands,
            attrs,
            asks,
            lambda: [f"return _rule({', '.join(asks)})"],
            _STRONG,
            {"_rule": back_run},
        )
        again = f"return _rule({', '.join(['g', *constants, *(f'{k}={k}' for k in attrs)])})"
        raw_again = _rule_function(
            f"d{name}.T", 0, ("_", *constants), attrs, given, lambda: [again], _STRONG, {"_rule": run}
        )

        def traced(g: Tensor, entry: Entry) -> Tensor:
            shape = entry.inputs[0].spec[0]  # type: ignore[union-attr]
            return apply(backward_op, (g, *[_lift(i) for i in entry.inputs[1:]]), {"shape": shape, **entry.attrs})

        def traced_again(g: Tensor, entry: Entry) -> Tensor:
            rest = {k: v for k, v in entry.attrs.items() if k != "shape"}
            return apply(op, (g, *[_lift(i) for i in entry.inputs[1:]]), rest)

        formula = latex or rf"\mathrm{{{name}}}".replace("_", r"\_")
        needs = frozenset(constants)
        no_rules = (None,) * len(constants)
        rule = Rule(raw, _from_float(raw), traced, needs, (rf"{formula}^{{\top}}", f"{name}ᵀ"))
        op = Op(
            name=name, family="linear", inputs=operands, attrs=attrs, forward=run, rules=(rule, *no_rules),
            symbol=symbol or name, samples=tuple(samples), reference=reference, moves=moves,
            selects=selects or not module.startswith("autograd_geo."),
        )  # fmt: skip
        rule = Rule(raw_again, _from_float(raw_again), traced_again, needs, (formula, name))
        backward_op = Op(
            name=f"{name}.T", family="linear", inputs=("g", *constants), attrs={"shape": None, **attrs},
            forward=back, rules=(rule, *no_rules), symbol=f"{symbol or name}ᵀ", transposes=op, selects=True,
        )  # fmt: skip
        function = _function_of(op, forward, module)
        register(op, function, method)
        register(backward_op, _function_of(backward_op, back, module), method=False)
        return function

    return declare


# --- multilinear ----------------------------------------------------------------------------------------------


def multilinear(
    declaration: str, *signatures: str, forward: Function | None = None, samples: Sequence[Sample] = (),
    symbol: str = "", reference: str = "", doc: str = "", method: bool = True,
) -> TensorFunction:  # fmt: skip
    """Declare an op that is linear in each operand by its einsum signature.

    `matvec = multilinear("matvec(a, x)", "...ij,...j->...i")`. Of several signatures the first that fits the
    operands' dimensions holds; with none, the op takes its signature as the attribute `subscripts`. `forward`
    may name a faster NumPy function of the same meaning. Derivatives swap subscripts.
    """
    name, _, rest = declaration.partition("(")
    inputs = tuple(p.strip() for p in rest.rstrip(") ").split(","))
    variadic = not signatures
    _check_names(name, inputs, ())

    def signature_of(ndims: tuple[int, ...], attrs: Mapping[str, Any]) -> str:
        return choose(signatures, ndims) if signatures else explicit(attrs["subscripts"], ndims)

    def evaluate(*operands: Any, **attrs: Any) -> Any:
        arrays = [np.asarray(x) for x in operands]
        return contraction(signature_of(tuple([x.ndim for x in arrays]), attrs))(*arrays)

    @cache
    def swapped(ndims: tuple[int, ...], k: int, subscripts: str | None) -> tuple[Transposed, str, Function]:
        """The transpose for operand k, the signature that it transposes, and what evaluates it."""
        signature = signature_of(ndims, {"subscripts": subscripts})
        plan = transposed(signature, k)
        return plan, signature, contraction(plan.signature)

    def plan_of(entry: Entry, k: int) -> tuple[Transposed, Function, list[Any]]:
        ndims = tuple([len(i.spec[0]) if type(i) is Entry else 0 for i in entry.inputs])
        plan, signature, run = swapped(ndims, k, entry.attrs.get("subscripts") if variadic else None)
        if not plan.ones and not plan.eyes:
            return plan, run, []
        mine = entry.inputs[k]
        assert type(mine) is Entry
        return plan, run, constants(plan, signature, k, mine.shape, mine.dtype)

    def rule(k: int) -> Rule:
        def raw(g: Value, entry: Entry) -> Value:
            plan, run, extra = plan_of(entry, k)
            operands = [np.asarray(_strong(entry.inputs[j])) for j in plan.others]
            return run(np.asarray(g), *operands, *extra)

        def traced(g: Tensor, entry: Entry) -> Tensor:
            plan, _, extra = plan_of(entry, k)
            operands = (g, *[_lift(entry.inputs[j]) for j in plan.others], *extra)
            return apply(registry["einsum"], operands, {"subscripts": plan.signature})

        others = [x for j, x in enumerate(inputs) if j != k]
        needs = frozenset(inputs if variadic else others)
        return Rule(raw, _from_float(raw), traced, needs, (r" \, ".join(others) or "1", "·".join(others) or "1"))

    op = Op(
        name=name, family="multilinear", inputs=inputs, attrs={} if signatures else {"subscripts": ""},
        forward=forward or evaluate, variadic=variadic,
        rules=Rules(rule) if variadic else tuple(rule(k) for k in range(len(inputs))),
        symbol=symbol or name, samples=tuple(samples), reference=reference, signatures=signatures,
        selects=variadic,  # a repeated subscript takes a diagonal
    )  # fmt: skip
    module = _module_of_caller()
    if variadic:
        function = eager_function(op, f"*{inputs[0]}, subscripts", {}, list)
    else:
        passed = ", ".join(f"_v_{x}" for x in inputs)
        function = eager_function(op, ", ".join(inputs), {"_forward": op.forward}, lambda: [f"_z = _forward({passed})"])
        _sign(function, inputs, {})
    function.__doc__, function.__module__ = doc, module
    return register(op, function, method)


__all__ = ["custom", "linear", "multilinear", "pointwise", "sample"]
