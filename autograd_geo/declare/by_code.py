"""`custom` and `linear`: ops written in NumPy, with rules for their operands, or a transpose."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from types import MappingProxyType
from typing import Any

import numpy as np

from ..eager import define, eager_function
from ..op import Function, Op, Rule, Rules, Sample, TensorFunction, apply, register
from ..tape import Entry
from ..tensor import Tensor
from ..value import UNSHARED
from .rules import STRONG, check_names, from_float, lift, module_of_caller, rule_function, written_rule


def _real(z: Any) -> Any:
    """What a user's function returned, if it is real numbers or booleans, without a mask. Raises TypeError."""
    if isinstance(z, Tensor) or (type(z) is np.ndarray and z.dtype.kind in "fiub"):
        return z
    if isinstance(z, np.ma.MaskedArray) or np.asarray(z).dtype.kind not in "fiub":
        kind = "a masked array" if isinstance(z, np.ma.MaskedArray) else f"dtype {np.asarray(z).dtype}"
        raise TypeError(
            f"the op's function returned {kind}; return real numbers or booleans, such as masked.filled(0.0), or real "
            "and imaginary parts"
        )
    return z


def _protected(function: Function) -> Function:
    """A user's function that cannot write into the arrays it is given, which tapes hold: NumPy raises ValueError."""

    @wraps(function)
    def run(*args: Any, **attrs: Any) -> Any:
        arrays = [x for x in args if type(x) is np.ndarray and x.flags.writeable]
        for x in arrays:
            x.flags.writeable = False
        try:
            return _real(function(*args, **attrs))
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
    check_names(forward.__name__, operands, attrs)
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
        name, module = forward.__name__.lstrip("_"), module_of_caller()
        ours = module.startswith("autograd_geo.")
        run = forward if ours else _private(forward)
        own: Callable[[Function], Function] = (lambda f: f) if ours else _protected

        def rule(k: int) -> Rule | None:
            x = operands[0 if variadic else k]
            if x not in rules:
                return None
            made = written_rule(name, k, x, () if variadic else operands, attrs, own(rules[x]))
            return replace(made, text=(latex[x], made.label)) if x in latex else made

        op = Op(
            name=name, family="custom", inputs=operands, attrs=attrs, forward=run, variadic=variadic,
            rules=Rules(rule) if variadic else tuple(rule(k) for k in range(len(operands))),
            symbol=symbol or name, samples=tuple(samples), reference=reference, moves=moves, selects=selects,
        )  # fmt: skip
        function = _function_of(op, forward, module)
        function.runs = (forward, *rules.values())  # type: ignore[attr-defined]  # the user's code, see compiler.outside
        return register(op, function, method)

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
        name, module = forward.__name__.lstrip("_"), module_of_caller()
        run = forward if module.startswith("autograd_geo.") else _private(forward)
        asks = list(inspect.signature(transpose).parameters)
        back_run = transpose if run is forward else _protected(transpose)
        constants, given = operands[1:], [*operands[1:], *attrs]
        text = f"def _function({', '.join(['g', *constants, 'shape', *attrs])}):\n    return _rule({', '.join(asks)})\n"
        back = define(f"{name}.T", lambda: text, {"_rule": back_run})
        raw = rule_function(
            f"d{name}",
            0,
            operands,
            attrs,
            asks,
            lambda: [f"return _rule({', '.join(asks)})"],
            STRONG,
            {"_rule": back_run},
        )
        again = f"return _rule({', '.join(['g', *constants, *(f'{k}={k}' for k in attrs)])})"
        raw_again = rule_function(
            f"d{name}.T", 0, ("_", *constants), attrs, given, lambda: [again], STRONG, {"_rule": run}
        )

        def traced(g: Tensor, entry: Entry) -> Tensor:
            shape = entry.inputs[0].spec[0]  # type: ignore[union-attr]
            return apply(backward_op, (g, *[lift(i) for i in entry.inputs[1:]]), {"shape": shape, **entry.attrs})

        def traced_again(g: Tensor, entry: Entry) -> Tensor:
            rest = {k: v for k, v in entry.attrs.items() if k != "shape"}
            return apply(op, (g, *[lift(i) for i in entry.inputs[1:]]), rest)

        formula = latex or rf"\mathrm{{{name}}}".replace("_", r"\_")
        needs = frozenset(constants)
        no_rules = (None,) * len(constants)
        rule = Rule(raw, from_float(raw), traced, needs, (rf"{formula}^{{\top}}", f"{name}ᵀ"))
        op = Op(
            name=name, family="linear", inputs=operands, attrs=attrs, forward=run, rules=(rule, *no_rules),
            symbol=symbol or name, samples=tuple(samples), reference=reference, moves=moves,
            selects=selects or not module.startswith("autograd_geo."),
        )  # fmt: skip
        rule = Rule(raw_again, from_float(raw_again), traced_again, needs, (formula, name))
        backward_op = Op(
            name=f"{name}.T", family="linear", inputs=("g", *constants), attrs={"shape": None, **attrs},
            forward=back, rules=(rule, *no_rules), symbol=f"{symbol or name}ᵀ", transposes=op, selects=True,
        )  # fmt: skip
        function = _function_of(op, forward, module)
        function.runs = (forward, transpose)  # type: ignore[attr-defined]
        register(op, function, method)
        register(backward_op, _function_of(backward_op, back, module), method=False)
        return function

    return declare


__all__ = ["custom", "linear"]
