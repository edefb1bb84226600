"""Every registered op, tested from its declaration: value, gradient, second order, forward mode, dtypes."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from exact import bounds
from mpmath import mp
from op_calls import calls, differentiable, reference, scalar_of

import autograd_geo as ag
from autograd_geo.op import Op, Sample, apply, functions, registry
from autograd_geo.tensor import Tensor

BUILT_IN = {n: op for n, op in registry.items() if functions[n].__module__.startswith("autograd_geo.")}
OPS = [pytest.param(op, id=name) for name, op in BUILT_IN.items()]
SMOOTH = [pytest.param(op, id=name) for name, op in BUILT_IN.items() if not op.surrogate]


@pytest.mark.parametrize("op", OPS)
def test_value(op: Op) -> None:
    """The value is that of an independent implementation: the declared reference, or NumPy's function."""
    for args, attrs in calls(op):
        found = apply(op, args, attrs)
        assert isinstance(found, Tensor)
        if op.name.endswith(".T"):
            continue  # the dot-product test below says what a transpose is
        expected = reference(op, args, attrs)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-13, atol=1e-15, err_msg=str((args, attrs)))
        assert found.shape == np.shape(expected)


@pytest.mark.parametrize("op", SMOOTH)
def test_gradient_first_and_second_order(op: Op) -> None:
    for args, attrs in calls(op):
        active = differentiable(op, len(args))
        if active:
            ag.check_grad(scalar_of(op, args, attrs, active), *[args[k] for k in active], order=2, rtol=1e-5, atol=2e-6)


AWKWARD = [-np.inf, -2.0, -1.0, -0.1, 0.0, 0.1, 0.149, 0.3, 1.0, 2.0, np.inf, np.nan]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("op", [p for p in SMOOTH if p.values[0].family == "pointwise"])
def test_gradient_at_awkward_points(op: Op) -> None:
    """Between the derivatives from either side, or not finite; of all inputs together too, where equal ones share."""
    values = (AWKWARD, [-np.inf, -1.0, 0.0, 0.1, 1.0, np.inf, np.nan], [-1.0, 0.0, 0.1, 1.0])[len(op.inputs) - 1]
    choices = [[False, True] if x == "condition" else values for x in op.inputs]
    args = [np.array(x) for x in zip(*product(*choices), strict=True)]
    active = differentiable(op, len(args))
    leaves = {k: ag.tensor(args[k], requires_grad=True) for k in active}
    attrs = {k: v + 0.75 for k, v in op.attrs.items()}
    z = apply(op, [leaves.get(k, a) for k, a in enumerate(args)], attrs)
    if not z.requires_grad:
        return
    with np.errstate(all="ignore"):
        z.backward(np.ones(z.shape))
    slopes = {(k,): x.grad.numpy() for k, x in leaves.items() if x.grad is not None}
    if len(active) > 1 and op.name != "power":  # which has no limit at the origin
        slopes[tuple(active)] = np.sum(list(slopes.values()), axis=0)
    for moved, g in slopes.items():
        low, high = bounds(op.name, moved, args, attrs, z.numpy(), 1e-12, 1e-15)
        wrong = np.isfinite(g) & ~((low <= g) & (g <= high))
        points = [tuple(a[i] for a in args) for i in np.nonzero(wrong)[0]]
        assert not points, f"along {moved} at {points}: {g[wrong]}, not in {low[wrong]} .. {high[wrong]}"


@pytest.mark.parametrize("op", [p for p in SMOOTH if p.values[0].family == "custom"])
def test_gradient_where_elements_tie(op: Op) -> None:
    """Where all elements are equal, and all move together, a choice among them makes no kink."""
    for args, attrs in calls(op):
        if active := differentiable(op, len(args)):
            equal = [np.full(np.shape(a), 0.5) if k in active else a for k, a in enumerate(args)]
            out, pull = ag.vjp(scalar_of(op, equal, attrs, active), *[equal[k] for k in active])
            found = sum(g.numpy().sum() for g in pull(np.ones(out.shape)))
            ends = [np.sum(op.forward(*[a + h if k in active else a for k, a in enumerate(equal)], **attrs))
                    for h in (-1e-6, 1e-6)]  # fmt: skip
            assert found == pytest.approx((ends[1] - ends[0]) / 2e-6, abs=1e-6)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_gradient_of_logsumexp_of_infinities() -> None:
    """Infinite elements share it; where all are -inf there is nothing to share."""
    slope = ag.grad(lambda x: ag.logsumexp(x, axis=1).sum())
    for row, wanted in (
        ([np.inf, 1.0, np.inf], [0.5, 0, 0.5]),
        ([-np.inf, -np.inf, -np.inf], [0, 0, 0]),
        ([-np.inf, 0.0, 0.0], [0, 0.5, 0.5]),
    ):
        np.testing.assert_allclose(slope(np.array([row])).numpy(), [wanted], rtol=1e-15)


def test_a_surrogate_is_as_declared() -> None:
    """A straight line of slope 1 / (2 width) through [-width, width]."""
    slope = ag.grad(lambda x: ag.binary_step(x, width=2.0).sum())(np.array([-3.0, -2.0, 0.0, 1.0, 2.5]))
    np.testing.assert_array_equal(slope.numpy(), [0, 0.25, 0.25, 0.25, 0])


@pytest.mark.parametrize("op", SMOOTH)
def test_forward_mode_is_the_transpose_of_reverse(op: Op) -> None:
    for args, attrs in calls(op):
        active = differentiable(op, len(args))
        if active:
            ag.check_dot(scalar_of(op, args, attrs, active), *[args[k] for k in active], rtol=1e-12)


@pytest.mark.parametrize("op", OPS)
def test_float32_stays_float32(op: Op) -> None:
    for args, attrs in calls(op):
        active = differentiable(op, len(args))
        args = [np.float32(a) if k in active else a for k, a in enumerate(args)]
        if not active or attrs.get("dtype"):
            continue
        leaves = {k: ag.tensor(args[k], requires_grad=True) for k in active}
        out = apply(op, [leaves.get(k, a) for k, a in enumerate(args)], attrs)
        assert out.dtype == np.float32
        out.backward(np.ones(out.shape, np.float32))
        for leaf in leaves.values():
            assert leaf.grad is not None
            assert leaf.grad.dtype == np.float32
            assert leaf.grad.shape == leaf.shape


@pytest.mark.parametrize("op", OPS)
def test_only_what_a_rule_needs_is_kept(op: Op) -> None:
    """What the tape keeps is enough: all other values are dropped, and recomputed when asked for."""
    from autograd_geo.tape import history, value_of

    for args, attrs in calls(op):
        active = differentiable(op, len(args))
        leaves = [ag.tensor(a, requires_grad=True) if k in active else a for k, a in enumerate(args)]
        inner = [functions["positive"](x) if k in active else x for k, x in enumerate(leaves)]
        out = apply(op, inner, attrs)
        if not out.requires_grad:
            continue
        for entry in history(out._entry):
            assert np.shape(value_of(entry)) == entry.shape
        np.testing.assert_array_equal(value_of(out._entry), out.numpy())


@pytest.mark.parametrize("op", OPS)
def test_shape_rule(op: Op) -> None:
    for args, attrs in calls(op):
        operands = [np.shape(a) if np.asarray(a).dtype.kind == "f" else a for a in args]
        assert op.shape(*operands, **attrs) == apply(op, args, attrs).shape


@pytest.mark.parametrize("op", OPS)
def test_says_what_it_is(op: Op) -> None:
    function = functions[op.name]
    assert op.name.endswith(".T") or function.__doc__
    for k in range(len(op.inputs)):
        rule = op.rules[k]
        assert rule is None or (rule.latex and rule.label)
        assert rule is None or rule.latex.count("{") == rule.latex.count("}")
    assert op.family != "pointwise" or op.body is not None


def test_samples_are_data() -> None:
    assert ag.sample((2,), axis=0) == Sample(((2,),), {"axis": 0})


@pytest.mark.parametrize("op", [p for p in OPS if p.values[0].family != "pointwise"])
def test_what_leaves_elements_out_says_so(op: Op) -> None:
    """An element whose derivative is 0 with random values is one that an op of the kind that selects has left out."""
    for args, attrs in () if op.selects else calls(op):
        if active := differentiable(op, len(args)):
            out, pull = ag.vjp(scalar_of(op, args, attrs, active), *[np.asarray(args[k]) for k in active])
            for gradient in pull(np.random.default_rng(0).uniform(1, 2, out.shape)):
                assert np.all(gradient.numpy()), f"{op.name} {attrs}: declare it with selects=True"


def test_partials_of_mixed_precision_are_those_of_the_result() -> None:
    x = ag.tensor(0.1, requires_grad=True)
    ag.minimum(x, np.array(0.1, np.float32)).backward()  # 0.1 in single precision is larger
    assert x.grad.item() == 1.0
    found = ag.grad(lambda x: ag.power(np.float32([3]), x).sum())(0.5).item()
    np.testing.assert_allclose(found, np.sqrt(3) * np.log(3), rtol=1e-15)


#: Smooth functions and points at which their declarations make a choice.
SMOOTH: dict[str, tuple[Any, list[tuple[float, ...]]]] = {
    "logaddexp": (lambda x, y: mp.log(mp.exp(x) + mp.exp(y)), [(0, 0), (1, 1), (-3, -3), (2, 1), (1, 2)]),
    "power": (lambda x, y: x**y, [(2, 0), (0.5, 0), (2, 1), (3, 2), (1, 0)]),
    "hypot": (lambda x, y: mp.sqrt(x * x + y * y), [(0, 1), (1, 0), (-2, -2)]),
    "atan2": (lambda y, x: mp.atan2(y, x), [(0, 1), (1, 0), (2, 2)]),
    "silu": (lambda x: x / (1 + mp.exp(-x)), [(0,), (1,), (-1,)]),
    "sigmoid": (lambda x: 1 / (1 + mp.exp(-x)), [(0,)]),
    "log_sigmoid": (lambda x: -mp.log(1 + mp.exp(-x)), [(0,)]),
    "softplus": (lambda x: mp.log(1 + mp.exp(x)), [(0,)]),
    "gelu": (lambda x: x * mp.ncdf(x), [(0,)]),
    "sinc": (lambda x: mp.sincpi(x), [(0.1,), (0.5,), (0.25,)]),
}


@pytest.mark.parametrize("name, point", [(name, p) for name, (_, points) in SMOOTH.items() for p in points])
def test_further_derivatives_at_ties_and_zeros(name: str, point: tuple[float, ...]) -> None:
    exact = SMOOTH[name][0]
    for order in (1, 2, 3):
        for along in product(range(len(point)), repeat=order):
            found: Any = functions[name]
            for k in along:
                found = ag.grad(found, k)
            with mp.workdps(40):
                wanted = mp.diff(exact, point, tuple(along.count(k) for k in range(len(point))))
            assert found(*map(float, point)).item() == pytest.approx(float(wanted), rel=1e-11, abs=1e-13), along
