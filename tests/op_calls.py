"""Calls of every registered op, from its declaration, and what their values should be."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from scipy import special

from autograd_geo.op import Op, apply, registry

SHAPES = {
    1: [((),), ((3,),), ((2, 3),), ((0,),)],
    2: [((), ()), ((3,), (3,)), ((2, 1), (3,)), ((), (2, 2)), ((2, 3), (1, 3)), ((0,), (1,))],
    3: [((), (), ()), ((3,), (3,), (3,)), ((2, 1), (3,), ()), ((2, 3), (1, 3), (2, 1))],
}


def point(op: Op, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
    if name == "condition":
        return rng.uniform(size=shape) > 0.5
    low, high = op.domain.get(name, (-2.0, 2.0))
    return rng.uniform(low, high, shape)


def calls(op: Op) -> list[tuple[list[Any], dict[str, Any]]]:
    """Arguments to try an op with: from its domain if pointwise, else from its samples."""
    rng = np.random.default_rng(len(op.name))
    if op.family == "pointwise":
        return [
            ([point(op, x, s, rng) for x, s in zip(op.inputs, shapes, strict=True)], dict(op.attrs))
            for shapes in SHAPES[len(op.inputs)]
        ]
    forward = registry[op.name.removesuffix(".T")]
    assert forward.samples, f"{op.name} declares no samples"
    found = []
    for sample in forward.samples:
        args = [rng.normal(size=a) if isinstance(a, tuple) else a for a in sample.args]
        attrs = {k: v for k, v in forward.attrs.items() if v is not inspect.Parameter.empty} | sample.attrs
        if op.name.endswith(".T"):
            z = forward.evaluate(args, attrs)
            attrs = {"shape": np.shape(args[0]), **attrs}
            args = [rng.normal(size=np.shape(z)), *args[1:]]
        found.append((args, attrs))
    return found


def differentiable(op: Op, count: int) -> list[int]:
    return [k for k in range(count) if op.rules[k] is not None]


def scalar_of(op: Op, args: list[Any], attrs: dict[str, Any], active: list[int]) -> Any:
    def fn(*xs: Any) -> Any:
        given = list(args)
        for k, x in zip(active, xs, strict=True):
            given[k] = x
        return apply(op, given, attrs)

    return fn


def named(op: Op, args: list[Any], attrs: dict[str, Any]) -> dict[str, Any]:
    return attrs | ({op.inputs[0]: args} if op.variadic else dict(zip(op.inputs, args, strict=True)))


def reference(op: Op, args: list[Any], attrs: dict[str, Any]) -> Any:
    """The value by an independent implementation: the declared reference, or NumPy's function."""
    if op.reference:
        return eval(op.reference, {"np": np, "special": special, **named(op, args, attrs)})
    if op.name == "setitem":
        expected = args[0].copy()
        expected[attrs["index"]] = args[1]
        return expected
    return getattr(np, op.name)(*args, **attrs)


def lattice(dtype: Any) -> np.ndarray[Any, Any]:
    info = np.finfo(dtype)
    sizes = np.array([0, info.smallest_subnormal, 0.5, 1, 2, info.max / 2, np.inf], dtype)
    return np.concatenate([sizes, -sizes, np.array([np.nan], dtype)])
