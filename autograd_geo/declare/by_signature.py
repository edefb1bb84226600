"""`multilinear`: an op that is linear in each operand, by its einsum signature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from ..contract import Transposed, choose, constants, contraction, explicit, transposed
from ..eager import eager_function
from ..op import Function, Op, Rule, Rules, Sample, TensorFunction, apply, register, registry
from ..tape import Entry
from ..tensor import Tensor
from ..value import Number, Value, strong
from .rules import check_names, from_float, give_signature, lift, module_of_caller


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
    check_names(name, inputs, ())

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
            operands = (g, *[lift(entry.inputs[j]) for j in plan.others], *extra)
            return apply(registry["einsum"], operands, {"subscripts": plan.signature})

        others = [x for j, x in enumerate(inputs) if j != k]
        needs = frozenset(inputs if variadic else others)
        return Rule(raw, from_float(raw), traced, needs, (r" \, ".join(others) or "1", "·".join(others) or "1"))

    op = Op(
        name=name, family="multilinear", inputs=inputs, attrs={} if signatures else {"subscripts": ""},
        forward=forward or evaluate, variadic=variadic,
        rules=Rules(rule) if variadic else tuple(rule(k) for k in range(len(inputs))),
        symbol=symbol or name, samples=tuple(samples), reference=reference, signatures=signatures,
        selects=variadic,  # a repeated subscript takes a diagonal
    )  # fmt: skip
    module = module_of_caller()
    if variadic:
        function = eager_function(op, f"*{inputs[0]}, subscripts", {}, list)
    else:
        passed = ", ".join(f"_v_{x}" for x in inputs)
        function = eager_function(op, ", ".join(inputs), {"_forward": op.forward}, lambda: [f"_z = _forward({passed})"])
        give_signature(function, inputs, {})
    function.__doc__, function.__module__ = doc, module
    return register(op, function, method)


def _strong(source: Entry | Number) -> Any:
    return strong(source.value) if type(source) is Entry else source


__all__ = ["multilinear"]
