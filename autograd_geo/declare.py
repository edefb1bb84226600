"""The four ways to declare an op: `pointwise`, `linear`, `multilinear`, `custom`.

Each writes an `Op` out of one short declaration, registers it and returns the function users call. Rules are
NumPy code: on arrays they run as they are; for higher orders the same code runs on tensors, whose NumPy
protocols record it.
"""

from __future__ import annotations

import inspect
import linecache
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from . import expr
from .contract import choose, constants, contract, explicit, transposed
from .op import Function, Op, Rule, Rules, Sample, apply, functions, register, sample
from .tape import Entry, caller, internal, next_number, recording
from .tensor import Tensor, entry_of, wrap
from .value import SCALAR, Number, Value, strong

# --- generated code -------------------------------------------------------------------------------------------


def _define(name: str, text: str, namespace: Mapping[str, Any]) -> Function:
    """Compile generated source, `def _function(...)`, under a name, so that tracebacks and debuggers can show it."""
    filename = f"<autograd_geo {name}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    scope = dict(namespace)
    exec(compile(text, filename, "exec"), scope)
    function: Any = scope["_function"]
    function.__code__ = function.__code__.replace(co_name=name, co_qualname=name)
    function.__name__ = function.__qualname__ = name
    return function  # type: ignore[no-any-return]


def _lift(source: Entry | Number) -> Any:
    return wrap(source.value, source) if type(source) is Entry else source


def _strong(source: Entry | Number) -> Any:
    return strong(source.value) if type(source) is Entry else source


# How a rule's code reads an entry: as it is held, as NumPy should see it, as a tensor on the tape.
_HELD, _STRONG, _LIFTED = "{0}.value", "_strong({0}.value)", "_wrap({0}.value, {0})"
_READERS = {"_strong": strong, "_wrap": wrap, "_Entry": Entry}


def _rule_function(
    name: str, k: int, inputs: Sequence[str], attrs: Iterable[str], asks: Iterable[str], body: Sequence[str],
    read: str, namespace: Mapping[str, Any],
) -> Function:  # fmt: skip
    """A function of (g, entry) that binds what a rule asks for by name, then runs its body."""
    lines = ["def _function(g, entry):"]
    for ask in asks:
        if ask == "z":
            lines.append("    z = " + read.format("entry"))
        elif ask == "shape":
            lines.append(f"    shape = entry.inputs[{k}].spec[0]")
        elif ask == "shapes":
            lines.append("    shapes = [i.spec[0] for i in entry.inputs]")
        elif ask == "k":
            lines.append(f"    k = {k}")
        elif ask in inputs:
            lines.append(f"    {ask} = entry.inputs[{inputs.index(ask)}]")
            lines.append(f"    {ask} = {read.format(ask)} if type({ask}) is _Entry else {ask}")
        elif ask in attrs:
            lines.append(f"    {ask} = entry.attrs[{ask!r}]")
        elif ask != "g":
            raise ValueError(f"{name}: a rule may ask for g, z, shape, {', '.join([*inputs, *attrs])}; not {ask!r}")
    lines += ["    " + line for line in body]
    return _define(name, "\n".join(lines) + "\n", {**namespace, **_READERS})


def _written_rule(name: str, k: int, x: str, inputs: Sequence[str], attrs: Iterable[str], rule: Function) -> Rule:
    """A rule from a Python function over the names it asks for; the same code serves arrays and tensors."""
    asks = list(inspect.signature(rule).parameters)
    body = [f"return _rule({', '.join(asks)})"]
    attrs = list(attrs)
    raw, traced = (
        _rule_function(f"d{name}_d{x}", k, inputs, attrs, asks, body, read, {"_rule": rule}) for read in (_STRONG, _LIFTED)
    )
    return Rule(raw, raw, traced, frozenset(asks) & {*inputs, "z"}, _partial_latex(name, x), f"∂{name}/∂{x}")


def _partial_latex(name: str, x: str) -> str:
    return rf"\frac{{\partial\,\mathrm{{{name}}}}}{{\partial {x}}}".replace("_", r"\_")


def _module_of_caller() -> str:
    return str(sys._getframe(2).f_globals.get("__name__", "__main__"))


# --- pointwise ------------------------------------------------------------------------------------------------


def pointwise(
    declaration: str, /, *, domain: Any = (-2.0, 2.0), doc: str = "", symbol: str = "", reference: str = "",
    surrogate: bool = False, method: bool = True, **partials: str,
) -> Function:  # fmt: skip
    """Declare an elementwise op by its formula and that formula's partial derivatives.

    `softsign = pointwise("softsign(x) = x / (1 + abs(x))", x="1 / (1 + abs(x))**2")`. Partials may use the
    inputs, the parameters (after `*` in the declaration) and the output `z`; an input without a partial carries
    no gradient. `domain` is the interval (or one per input) from which the derived tests draw their points,
    `reference` a NumPy or SciPy expression to test the value against (default: NumPy's function of that name).
    `surrogate` says that the partials are deliberately not the derivative.

    Raises ValueError for a name the expression language does not know, and for a built-in op's name.
    """
    d = expr.parse_declaration(declaration)
    stray = set(partials) - set(d.inputs)
    if stray:
        raise ValueError(f"op declaration {declaration!r}: no input is called {', '.join(sorted(stray))}")
    head = f"def _function({', '.join([*d.inputs, *d.attrs])}):\n    "
    forward = _define(d.name, head + "\n    ".join(expr.source(d.body)) + "\n", expr.NUMPY)

    rules: list[Rule | None] = []
    for k, x in enumerate(d.inputs):
        if x not in partials:
            rules.append(None)
            continue
        partial = expr.parse(partials[x], (*d.inputs, *d.attrs, "z"), f"{declaration}, {x}={partials[x]}")
        product = expr.times(expr.Var("g"), partial)
        asks = sorted(expr.names_in(product))
        raw, scalar, traced = (
            _rule_function(f"d{d.name}_d{x}", k, d.inputs, d.attrs, asks, expr.source(product, codes=codes), read, namespace)
            for read, namespace, codes in (
                (_STRONG, expr.NUMPY, {}), (_HELD, expr.SCALAR, expr.SCALAR_CODES), (_LIFTED, _TRACED, {})
            )
        )
        needs = frozenset(asks) & {*d.inputs, "z"}
        rules.append(Rule(raw, scalar, traced, needs, expr.latex(partial), expr.label(partial)))

    op = Op(
        name=d.name, family="pointwise", inputs=d.inputs, attrs=d.attrs, forward=forward, rules=tuple(rules),
        formula=expr.latex(d.body), symbol=symbol or d.name, reference=reference, surrogate=surrogate,
        domain=domain if isinstance(domain, Mapping) else dict.fromkeys(d.inputs, domain),
    )  # fmt: skip
    function = _pointwise_function(op, d.body)
    function.__doc__ = _pointwise_doc(op, expr.label(d.body), doc)
    function.__module__ = _module_of_caller()
    return register(op, function, method)


# The functions of the expression language as recorded ops, which don't all exist yet when a rule is made.
_TRACED = {
    name: lambda *xs, _name="abs" if name == "absolute" else name: functions[_name](*xs) for name in expr.NUMPY
}

# Python floats take the path written out here, about ten times faster than NumPy; everything else takes `apply`.
_EAGER = """\
def _function({signature}):
{unpack}{dispatch}    try:
{compute}    except (ArithmeticError, ValueError):
        z = _op.evaluate([{floats}], {attrs})
    t = _new(_Tensor)
    t._value = z
    if ({live}) and _recording():
        frame = _getframe(1)
        code = frame.f_code
        lasti = frame.f_lasti
        if _internal[code.co_filename]:
            code, lasti = _caller(3)
        e = _new(_Entry)
        e.number = _next_number()
        e.op = _op
        e.inputs = ({sources},)
        e.attrs = {attrs}
        e.value = z
        e.spec = _SCALAR
        e.state = 1
        e.code = code
        e.lasti = lasti
        e.name = None
        t._entry = e
    else:
        t._entry = None
    return t
"""


def _source_of(operand: Any) -> Entry | Number:
    return entry_of(operand) if isinstance(operand, Tensor) else operand


def _pointwise_function(op: Op, body: expr.Node) -> Function:
    xs = op.inputs
    differentiable = [x for x, rule in zip(xs, op.rules, strict=True) if rule is not None]
    signature = ", ".join([*xs, *(["*"] if op.attrs else []), *(f"{k}={v!r}" for k, v in op.attrs.items())])
    attrs = "{" + ", ".join(f"{k!r}: {k}" for k in op.attrs) + "}" if op.attrs else "_no_attrs"
    array_path = f"return _apply(_op, ({', '.join(xs)},), {attrs})\n"
    if not differentiable or len(xs) > 2:
        return _define(op.name, f"def _function({signature}):\n    {array_path}",
                       {"_apply": apply, "_op": op, "_no_attrs": {}})  # fmt: skip
    unpack = "".join(
        f"    if isinstance({x}, _Tensor):\n        {x}v = {x}._value\n        {x}e = {x}._entry\n"
        f"    else:\n        {x}v = {x}\n        {x}e = None\n"
        for x in xs
    )
    if len(xs) == 1:
        dispatch = f"    if type({xs[0]}v) is not float:\n        {array_path}"
    else:
        x, y = xs
        dispatch = (
            f"    if type({x}v) is float:\n"
            f"        if type({y}v) is not float:\n"
            f"            if type({y}v) is not int:\n                {array_path}"
            f"            {y}v = float({y}v)\n"
            f"    elif type({x}v) is int and type({y}v) is float:\n        {x}v = float({x}v)\n"
            f"    else:\n        {array_path}"
        )
    compute = expr.source(expr.rename(body, {x: f"{x}v" for x in xs}), "z = ", expr.SCALAR_CODES)
    text = _EAGER.format(
        signature=signature, unpack=unpack, dispatch=dispatch, attrs=attrs,
        compute="".join(f"        {line}\n" for line in compute),
        floats=", ".join(f"_float64({x}v)" for x in xs),
        live=" or ".join(f"{x}e is not None and {x}e.state" for x in differentiable),
        sources=", ".join(f"{x}e or _source_of({x})" for x in xs),
    )  # fmt: skip
    return _define(op.name, text, {
        **expr.SCALAR, "_op": op, "_apply": apply, "_no_attrs": {}, "_Tensor": Tensor, "_Entry": Entry,
        "_new": object.__new__, "_recording": recording, "_getframe": sys._getframe, "_internal": internal,
        "_caller": caller, "_next_number": next_number, "_SCALAR": SCALAR, "_source_of": _source_of,
        "_float64": np.float64,
    })  # fmt: skip


def _pointwise_doc(op: Op, formula: str, doc: str) -> str:
    slopes = [f"d/d{x} = {r.label}" for x, r in zip(op.inputs, op.rules, strict=True) if r is not None]
    calls = f"{op.name}({', '.join(op.inputs)})"
    lines = [f"{doc or calls.join(['', ', element by element.'])}"]
    if formula != calls:
        lines.append(f"{calls} = {formula}")
    lines.append("Derivatives: " + ", ".join(slopes) + "." if slopes else "It carries no gradient.")
    lines.append("Inputs: tensors, arrays or numbers of shapes that broadcast (else ValueError); the result has the")
    lines.append("broadcast shape and NumPy's promoted dtype.")
    return "\n".join([lines[0], "", *lines[1:]])


# --- written in NumPy: linear and custom ----------------------------------------------------------------------


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
    return tuple(operands), attrs, variadic


def _eager_function(op: Op, forward: Function, module: str) -> Function:
    """A function with the declared signature that runs and records the op."""
    signature = inspect.signature(forward)
    plain = [
        p.replace(kind=p.POSITIONAL_OR_KEYWORD, annotation=p.empty) if p.kind is p.POSITIONAL_ONLY
        else p.replace(annotation=p.empty)
        for p in signature.parameters.values()
    ]  # fmt: skip
    defaults = {f"_default_{p.name}": p.default for p in plain if p.default is not p.empty}
    head = []
    seen_star = False
    for p in plain:
        if p.kind is p.KEYWORD_ONLY and not seen_star:
            head.append("*")
            seen_star = True
        seen_star = seen_star or p.kind is p.VAR_POSITIONAL
        star = "*" if p.kind is p.VAR_POSITIONAL else ""
        head.append(star + p.name + (f"=_default_{p.name}" if p.default is not p.empty else ""))
    operands = f"{op.inputs[0]}" if op.variadic else f"({', '.join(op.inputs)},)"
    packed = "{" + ", ".join(f"{k!r}: {k}" for k in op.attrs) + "}"
    text = f"def _function({', '.join(head)}):\n    return _apply(_op, {operands}, {packed})\n"
    function = _define(op.name, text, {"_apply": apply, "_op": op, **defaults})
    function.__signature__ = signature.replace(parameters=plain)  # type: ignore[attr-defined]
    function.__doc__, function.__module__ = forward.__doc__, module
    return function


def custom(
    *, samples: Sequence[Sample] = (), latex: Mapping[str, str] = MappingProxyType({}), symbol: str = "", reference: str = "",
    method: bool = True, **rules: Function,
) -> Callable[[Function], Function]:  # fmt: skip
    """Declare an op by a NumPy function and one rule for each input that a gradient flows to.

        @custom(x=lambda g, x: g * np.cos(x))
        def sine(x, /):
            return np.sin(x)

    The function's parameters before `/` are its array operands (`*xs`: any number of them, sharing one rule),
    the others its attributes. A rule is a function of what it asks for by name: the output's cotangent `g`, the
    output `z`, operands, attributes, and `shape`, that of its own operand; only what it asks for is kept on the
    tape. Write it in NumPy, and it is differentiable itself. Rules of a variadic op also get `k` and `shapes`.
    """

    def declare(forward: Function) -> Function:
        operands, attrs, variadic = _declared(forward)
        stray = set(rules) - set(operands)
        if stray:
            raise ValueError(f"op {forward.__name__!r}: no operand is called {', '.join(sorted(stray))}")
        name = forward.__name__

        def rule(k: int) -> Rule | None:
            x = operands[0 if variadic else k]
            if x not in rules:
                return None
            made = _written_rule(name, k, x, () if variadic else operands, attrs, rules[x])
            return replace(made, latex=latex[x]) if x in latex else made

        op = Op(
            name=name, family="custom", inputs=operands, attrs=attrs, forward=forward, variadic=variadic,
            rules=Rules(rule) if variadic else tuple(rule(k) for k in range(len(operands))),
            symbol=symbol or name, samples=tuple(samples), reference=reference,
        )  # fmt: skip
        return register(op, _eager_function(op, forward, _module_of_caller()), method)

    return declare


def linear(
    transpose: Function, *, samples: Sequence[Sample] = (), latex: str = "", symbol: str = "", reference: str = "",
    method: bool = True,
) -> Callable[[Function], Function]:  # fmt: skip
    """Declare an op that is linear in its first operand by a NumPy function and that function's transpose.

        @linear(lambda g, shift: np.roll(g, -shift))
        def shifted(x, /, shift=1):
            return np.roll(x, shift)

    The transpose maps the output's cotangent `g` to the input's; it may ask by name for other operands, for
    attributes and for `shape`, that of the input. It becomes an op of its own, `shifted.T`, whose transpose is
    the function itself, so every order of derivative follows; both are checked by <Ax, y> = <x, A'y>.
    """

    def declare(forward: Function) -> Function:
        operands, attrs, variadic = _declared(forward)
        assert not variadic, "a linear op has one linear operand"
        name, module = forward.__name__, _module_of_caller()
        asks = list(inspect.signature(transpose).parameters)
        names = ["g", *operands[1:], "shape", *attrs]
        back = _define(f"{name}.T", f"def _function({', '.join(names)}):\n    return _transpose({', '.join(asks)})\n",
                       {"_transpose": transpose})  # fmt: skip
        needs = frozenset(operands[1:])

        def attrs_of(entry: Entry) -> dict[str, Any]:
            return {"shape": entry.inputs[0].spec[0], **entry.attrs}  # type: ignore[union-attr]

        def raw(g: Value, entry: Entry) -> Value:
            return back(g, *[_strong(i) for i in entry.inputs[1:]], **attrs_of(entry))

        def traced(g: Tensor, entry: Entry) -> Tensor:
            return apply(backward_op, (g, *[_lift(i) for i in entry.inputs[1:]]), attrs_of(entry))

        def raw_again(g: Value, entry: Entry) -> Value:
            rest = {k: v for k, v in entry.attrs.items() if k != "shape"}
            return forward(g, *[_strong(i) for i in entry.inputs[1:]], **rest)

        def traced_again(g: Tensor, entry: Entry) -> Tensor:
            rest = {k: v for k, v in entry.attrs.items() if k != "shape"}
            return apply(op, (g, *[_lift(i) for i in entry.inputs[1:]]), rest)

        formula = latex or rf"\mathrm{{{name}}}".replace("_", r"\_")
        no_rules = (None,) * (len(operands) - 1)
        rule = Rule(raw, raw, traced, needs, rf"{formula}^{{\top}}", f"{name}ᵀ")
        op = Op(
            name=name, family="linear", inputs=operands, attrs=attrs, forward=forward, rules=(rule, *no_rules),
            symbol=symbol or name, samples=tuple(samples), reference=reference,
        )  # fmt: skip
        rule = Rule(raw_again, raw_again, traced_again, needs, formula, name)
        backward_op = Op(
            name=f"{name}.T", family="linear", inputs=("g", *operands[1:]), attrs={"shape": None, **attrs},
            forward=back, rules=(rule, *no_rules), symbol=f"{symbol or name}ᵀ",
        )  # fmt: skip
        function = _eager_function(op, forward, module)
        register(op, function, method)
        register(backward_op, _eager_function(backward_op, back, module), method=False)
        return function

    return declare


# --- multilinear ----------------------------------------------------------------------------------------------


def multilinear(
    declaration: str, *signatures: str, forward: Function | None = None, samples: Sequence[Sample] = (),
    symbol: str = "", reference: str = "", doc: str = "", method: bool = True,
) -> Function:  # fmt: skip
    """Declare an op that is linear in each operand by its einsum signature.

    `matvec = multilinear("matvec(a, x)", "...ij,...j->...i")`. Of several signatures the first that fits the
    operands' dimensions holds; with none, the op takes its signature as the attribute `subscripts`. `forward`
    may name a faster NumPy function of the same meaning. Derivatives swap subscripts.
    """
    name, _, rest = declaration.partition("(")
    inputs = tuple(p.strip() for p in rest.rstrip(") ").split(","))
    variadic = not signatures

    def signature_of(ndims: tuple[int, ...], attrs: Mapping[str, Any]) -> str:
        return choose(signatures, ndims) if signatures else explicit(attrs["subscripts"], ndims)

    def evaluate(*operands: Any, **attrs: Any) -> Any:
        return contract(signature_of(tuple(map(np.ndim, operands)), attrs), *map(np.asarray, operands))

    def plan(entry: Entry, k: int) -> tuple[str, list[int], list[Any]]:
        ndims = tuple(len(i.spec[0]) if type(i) is Entry else 0 for i in entry.inputs)
        signature = signature_of(ndims, entry.attrs)
        swapped = transposed(signature, k)
        mine = entry.inputs[k]
        assert isinstance(mine, Entry)
        return swapped.signature, list(swapped.others), constants(swapped, signature, k, mine.shape, mine.dtype)

    def rule(k: int) -> Rule:
        def raw(g: Value, entry: Entry) -> Value:
            signature, others, extra = plan(entry, k)
            return contract(signature, np.asarray(g), *[np.asarray(_strong(entry.inputs[j])) for j in others], *extra)

        def traced(g: Tensor, entry: Entry) -> Tensor:
            signature, others, extra = plan(entry, k)
            return functions["contract"](g, *[_lift(entry.inputs[j]) for j in others], *extra, subscripts=signature)

        others = [x for j, x in enumerate(inputs) if j != k]
        needs = frozenset(inputs if variadic else others)
        return Rule(raw, raw, traced, needs, r" \, ".join(others) or "1", "·".join(others) or "1")

    op = Op(
        name=name, family="multilinear", inputs=inputs, attrs={} if signatures else {"subscripts": ""},
        forward=forward or evaluate, variadic=variadic,
        rules=Rules(rule) if variadic else tuple(rule(k) for k in range(len(inputs))),
        symbol=symbol or name, samples=tuple(samples), reference=reference,
    )  # fmt: skip
    module = _module_of_caller()
    if variadic:
        def function(*operands: Any, subscripts: str) -> Tensor:
            return apply(op, operands, {"subscripts": subscripts})
    else:
        text = f"def _function({', '.join(inputs)}):\n    return _apply(_op, ({', '.join(inputs)},), _no_attrs)\n"
        function = _define(name, text, {"_apply": apply, "_op": op, "_no_attrs": {}})
    function.__doc__, function.__module__ = doc, module
    return register(op, function, method)


__all__ = ["custom", "linear", "multilinear", "pointwise", "sample"]
