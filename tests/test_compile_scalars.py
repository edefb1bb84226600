"""Long tapes of different scalar ops, compiled: the same numbers as eager code, from a bounded number of kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

import autograd_geo as ag
from autograd_geo import optim
from autograd_geo.compiler.nodes import TABLE
from autograd_geo.compiler.scalars import MOST_DIFFERENT
from autograd_geo.op import Op, apply, registry

POINTWISE = [op for op in registry.values() if op.family == "pointwise" and op.name != "variable"]


def within(op: Op, name: str, x: Any) -> Any:
    """A number in the domain of an operand, made of any other."""
    if name == "condition":
        return x > 0
    low, high = np.clip(op.domain.get(name, (-2.0, 2.0)), -2.0, 2.0)
    return 0.5 * (low + high) + 0.4 * (high - low) * ag.sin(x)


def chain(length: int, seed: int, ops: list[Op] = POINTWISE) -> Callable[[Any, Any], Any]:
    """Ops in random order, each on what others gave; what comes of it is their sum."""
    rng = np.random.default_rng(seed)
    plan = [(ops[rng.integers(len(ops))], rng.integers(0, 4, 4).tolist(), rng.uniform(0.5, 1.5)) for _ in range(length)]

    def run(x: Any, y: Any) -> Any:
        values = [x, y, x + y, x - y]
        total = 0.0
        for op, places, number in plan:
            args = [within(op, name, values[p]) for name, p in zip(op.inputs, places, strict=False)]
            z = apply(op, args, dict(op.attrs))
            values[places[-1]] = ag.tanh(z * number if z.dtype.kind == "f" else ag.where(z, x, number))
            total = total + values[places[-1]] / length
        return total

    return run


def program_of(compiled: Any) -> Any:
    (recorded,) = compiled.recorded
    return recorded.program


def steps_of(compiled: Any) -> list[Any]:
    return list(program_of(compiled).steps)


def tables_of(compiled: Any) -> list[Any]:
    return [s.what.data for s in steps_of(compiled) if getattr(s.what, "kind", "") == TABLE]


def kernels_of(compiled: Any) -> set[str]:
    found = {s.kernel.source for s in steps_of(compiled) if s.kernel is not None}
    return found.union(*[{k.source for k in t.kernels} for t in tables_of(compiled)])


def flat(tree: Any) -> list[Any]:
    return [x for t in tree for x in flat(t)] if isinstance(tree, tuple | list) else [tree.numpy()]


def check(fn: Any, *calls: tuple[Any, ...], rtol: float = 1e-9, tables: int = 1) -> Any:
    """Compiled as eager, for one recording and other arguments later."""
    compiled = ag.compile(fn)
    for args in calls:
        for found, expected in zip(flat(compiled(*args)), flat(fn(*args)), strict=True):
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
            np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol)
    assert compiled.recordings == 1
    assert len(tables_of(compiled)) == tables
    return compiled


def test_chains_of_all_ops_share_kernels() -> None:
    for length, seed in ((1000, 0), (2000, 1)):
        fn = ag.value_and_grad(chain(length, seed), (0, 1))
        compiled = check(fn, (0.3, -0.4), (0.31, -0.42))
        assert len(kernels_of(compiled)) < 200


def test_many_ops_are_few_instructions() -> None:
    ops = [registry[name] for name in ("sin", "multiply", "tanh", "exp")]
    compiled = check(ag.value_and_grad(chain(10_000, 2, ops), (0, 1)), (0.3, -0.4), (-0.1, 0.2))
    assert len(kernels_of(compiled)) < 70


def test_float32() -> None:
    smooth = [op for op in POINTWISE if not op.surrogate]
    fn = ag.value_and_grad(chain(300, 3, smooth), (0, 1))
    arguments = [tuple(np.array(v, np.float32) for v in vs) for vs in ((0.3, -0.4), (0.2, -0.3))]
    check(fn, *arguments, rtol=1e-3)


def test_both_dtypes_with_the_same_numbers() -> None:
    rng = np.random.default_rng(18)
    plan = [(bool(a), [0.5, 2.0, 3, -0.0, 0.0][b], int(c)) for a, b, c in rng.integers((0, 0, 0), (2, 5, 3), (400, 3))]

    def fn(x: Any, y: Any) -> Any:
        values = [x, y]
        for which, number, kind in plan:
            z = values[which]
            z = (
                z * number + 1.0
                if kind == 0
                else ag.where(z < number, z - number, z)
                if kind == 1
                else ag.atan2(z, number)
            )
            values[which] = ag.tanh(z)
        return values[0] * 2.0, values[1] * 2.0

    check(fn, *[(np.array(a), np.array(b, np.float32)) for a, b in ((0.3, -0.4), (-0.2, 0.1))], rtol=1e-5)


def test_second_order() -> None:
    ops = [registry[name] for name in ("sin", "multiply", "tanh", "exp", "divide", "log", "power")]
    slope = ag.grad(chain(150, 4, ops))
    check(ag.value_and_grad(lambda x, y: slope(x, y) * y, (0, 1)), (0.3, -0.4), (0.2, 0.1), rtol=1e-8)


def test_arrays_before_between_and_after() -> None:
    first, second = chain(300, 5), chain(300, 6)

    def fn(u: Any, x: Any) -> Any:
        a = first((u * u).sum(), u[1])
        v = ag.stack([a, x, u[0]]) * u + ag.tanh(u * a)
        b = second(v[2], (v * v).mean())
        return (ag.exp(u * b) * v).sum() + a * b

    compiled = check(
        ag.value_and_grad(fn, (0, 1)), (np.array([0.1, 0.2, 0.3]), 0.5), (np.array([0.2, -0.1, 0.3]), 0.4), tables=4
    )
    assert len(steps_of(compiled)) < 60


@pytest.mark.parametrize("shape", [(1,), (1, 1)])
def test_arrays_of_one_element(shape: tuple[int, ...]) -> None:
    run = chain(300, 7)
    fn = ag.value_and_grad(lambda x, y: run(x, y).sum(), (0, 1))
    check(fn, *[(np.full(shape, a), np.full(shape, b)) for a, b in ((0.3, -0.4), (0.1, 0.2))])


def test_powers_integers_and_tensors_from_outside() -> None:
    rng = np.random.default_rng(8)
    exponents = [-2, -1, 2, 3, 4, 0.5, 1.0, 1.7]
    plan = [(exponents[rng.integers(8)], int(rng.integers(1, 4)), bool(rng.integers(2))) for _ in range(400)]
    three, n = ag.tensor(0.3), np.array(3)

    def fn(x: Any) -> Any:
        total = x
        for exponent, whole, side in plan:
            y = (1.0 + ag.sin(total) ** 2) ** exponent + whole
            total = total / 3 + (y * three if side else n - y) / (n + ag.exp(y / 20)) ** whole
        return total, ag.floor(total * 1000) > n

    check(ag.value_and_grad(lambda x: fn(x)[0]), (0.3,), (0.2,), rtol=1e-8)
    check(fn, (0.3,), (0.2,), rtol=1e-8)
    compiled = ag.compile(fn)
    for value in (0.5, 0.6):  # a tensor from outside is read anew
        three.hold(value)
        np.testing.assert_allclose(flat(compiled(0.3))[0], flat(fn(0.3))[0], rtol=1e-8)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 0.0, -0.0, 1e308, 5e-324])
def test_special_values(value: float) -> None:
    rng = np.random.default_rng(9)
    names = "sin cos tanh exp log sqrt reciprocal abs sign floor expm1 log1p atan maximum minimum add multiply".split()
    plan = [[registry[n] for n in rng.choice(names, 4)] for _ in range(400)]

    def fn(x: Any) -> Any:
        found = []
        for ops in plan:
            z = x
            for op in ops:
                z = apply(op, [z, x][: len(op.inputs)], {})
            found.append(z)
        return found

    compiled = ag.compile(fn)
    with np.errstate(all="ignore"):
        compiled(0.7)
        for found, expected in zip(flat(compiled(value)), flat(fn(value)), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-11, equal_nan=True)
            assert np.signbit(found) == np.signbit(expected) or np.isnan(expected)
    assert compiled.recordings == 1
    assert len(tables_of(compiled)) == 1


def test_leaves_made_and_changed_inside() -> None:
    run = chain(200, 10)

    def fn(x: Any) -> Any:
        w = ag.tensor(x, requires_grad=True)
        for _ in range(3):
            w.grad = None
            loss = run(w, x)
            loss.backward()
            with ag.no_grad():
                w -= 0.1 * w.grad
        return w.detach(), w.grad

    check(fn, (0.3,), (0.25,))


@pytest.mark.parametrize("base", [np.array(0.3), np.array([0.3]), np.array(0.3, np.float32)])
def test_numbers_that_are_part_of_a_formula_and_others(base: Any) -> None:
    """Times 1 is no op, and some powers are products: other numbers share an instruction, wherever they come first."""
    rng = np.random.default_rng(11)
    factors, exponents = [1.0, 1, 2.0, 0.7, True], [2, 2.0, 0.5, -1, 3, 1.3, 0.0]
    plan = [(factors[rng.integers(5)], exponents[rng.integers(7)], float(rng.uniform(0.5, 1.5))) for _ in range(300)]

    def fn(x: Any) -> Any:
        for factor, exponent, number in plan:
            y = factor * (1.5 + ag.sin(x)) ** exponent * 1.0
            x = ag.tanh(y * number + (1.0 + y * y) ** number)
        return x.sum()

    later = base - base.dtype.type(0.1)
    compiled = check(ag.value_and_grad(fn), (base,), (later,), rtol=1e-9 if base.itemsize == 8 else 1e-3)
    assert len(kernels_of(compiled)) < 60


def test_results_are_on_the_tape() -> None:
    run = chain(300, 12)
    compiled = ag.compile(run)
    for values in ((0.3, -0.4), (0.2, 0.1)):
        leaves = [ag.tensor(v, requires_grad=True) for v in values]
        compiled(*leaves).backward()
        expected = ag.grad(run, (0, 1))(*values)
        np.testing.assert_allclose([leaf.grad.item() for leaf in leaves], [g.item() for g in expected], rtol=1e-9)


def test_a_branch_on_what_a_table_computes() -> None:
    first, second = chain(200, 13), chain(200, 14)
    threshold = 0.5 * (first(0.3, -0.4) + first(0.9, -0.4)).item()

    def fn(x: Any, y: Any) -> Any:
        z = first(x, y)
        return second(z, y) if z > threshold else z * y

    compiled = ag.compile(fn)
    for x in (0.3, 0.9, 0.31, 0.89, 0.3):
        np.testing.assert_allclose(compiled(x, -0.4).item(), fn(x, -0.4).item(), rtol=1e-9)
    assert compiled.recordings == 2


# --- training many numbers ------------------------------------------------------------------------------------------

NAMES = "sin cos tanh exp sigmoid softplus atan square add multiply subtract hypot".split()


class Training:
    """A step of an optimiser on numbers, each used by another op."""

    def __init__(self, values: Any, make: Callable[[Any], Any], with_loss: bool, most: float = np.inf) -> None:
        rng = np.random.default_rng(15)
        self.plan = [registry[NAMES[k]] for k in rng.integers(len(NAMES), size=len(values))]
        self.weights = [ag.tensor(v, requires_grad=True) for v in values]
        self.optimizer = make(self.weights)
        self.with_loss, self.most = with_loss, most

    def step(self, x: Any) -> Any:
        self.optimizer.zero_grad()
        z = x
        for op, w in zip(self.plan, self.weights, strict=True):
            z = ag.tanh(apply(op, [z * w, w][: len(op.inputs)], {}) + x)
        loss = ((z - 0.25) ** 2).sum()
        if self.most < np.inf and loss > self.most:
            return loss.detach()
        loss.backward()
        self.optimizer.step()
        return loss.detach() if self.with_loss else None

    @property
    def state(self) -> list[Any]:
        """All that a step changes."""
        grads = [w.grad.numpy() for w in self.weights if w.grad is not None]
        return [w.numpy() for w in self.weights] + grads + flat_state(self.optimizer.state_dict())


def flat_state(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return [x for v in tree.values() for x in flat_state(v)]
    return [x for v in tree for x in flat_state(v)] if isinstance(tree, list | tuple) else [tree]


@pytest.mark.parametrize(
    ("make", "kept", "counts"),
    [(lambda w: optim.SGD(w, lr=0.05, momentum=0.5), 1, 0), (lambda w: optim.Adam(w, lr=0.01), 2, 1)],
)
@pytest.mark.parametrize("with_loss", [True, False])
@pytest.mark.parametrize(("shape", "dtype"), [((), np.float64), ((1,), np.float32)])
def test_optimisers(make: Any, kept: int, counts: int, with_loss: bool, shape: Any, dtype: Any) -> None:
    values = [np.full(shape, v, dtype) for v in np.random.default_rng(16).uniform(0.5, 1.5, 120)]
    eager, training = (Training(values, make, with_loss) for _ in range(2))
    compiled = ag.compile(training.step)
    tolerance = 1e-9 if dtype is np.float64 else 2e-4
    for x in np.linspace(-0.5, 0.7, 5).astype(dtype):
        expected, found = eager.step(x), compiled(x)
        if with_loss:
            np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=tolerance)
        for a, b in zip(training.state, eager.state, strict=True):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    assert compiled.recordings == 1
    assert tables_of(compiled)
    program = program_of(compiled)
    assert len(program.cells) == (2 + kept) * len(values) + counts  # equal counts of steps are one
    assert bool(program.copied) == with_loss  # a loss is there before anything changes
    if not with_loss:
        assert program.direct.keys() <= {r for t in tables_of(compiled) for r in t.results}


def test_a_step_that_is_left_out_changes_nothing() -> None:
    values = np.random.default_rng(17).uniform(0.5, 1.5, 120)
    eager, training = (Training(values, lambda w: optim.Adam(w, lr=0.01), True, 0.1) for _ in range(2))
    compiled = ag.compile(training.step)
    taken = set()
    for x in (0.5, -0.5, 0.4, -0.4, 0.5, -0.5):
        expected = eager.step(x)
        taken.add(expected.item() > 0.1)
        np.testing.assert_allclose(compiled(x).item(), expected.item(), rtol=1e-9)
        for a, b in zip(training.state, eager.state, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    assert (compiled.recordings, len(taken)) == (2, 2)


def test_what_repeats_stays_straight_line_code() -> None:
    def fn(r: Any) -> Any:
        x = 0.5
        for _ in range(MOST_DIFFERENT):
            x = r * x * (1.0 - x)
        return x

    compiled = check(ag.value_and_grad(fn), (2.5,), (2.6,), tables=0)
    assert len(kernels_of(compiled)) < 30
