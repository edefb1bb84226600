"""The awkward cases. What is right comes from mathematics, or from what NumPy does to the values."""

from __future__ import annotations

import asyncio
import contextlib
import math
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Body = Callable[[Any], Any]
INF, NAN = np.inf, np.nan


@dataclass(frozen=True, slots=True)
class Between:
    """Any numbers from low to high: a subgradient, or a share of one."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class OneOf:
    answers: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """What `body` does with an engine, and the right answer: None where only a refusal is right.

    With `refusable`, a refusal is as right as the answer. `promise` groups cases.
    """

    promise: int
    name: str
    body: Body
    answer: Any = None
    refusable: bool = False


def agrees(found: Any, answer: Any) -> bool:
    """Whether a result is the answer, to the accuracy of single precision."""
    if isinstance(answer, OneOf):
        return any(agrees(found, a) for a in answer.answers)
    if isinstance(answer, Between):
        return bool(np.all((np.asarray(found) >= answer.low) & (np.asarray(found) <= answer.high)))
    if isinstance(answer, list) and isinstance(found, list | tuple):
        return len(found) == len(answer) and all(agrees(f, a) for f, a in zip(found, answer, strict=True))
    found, answer = np.asarray(found), np.asarray(answer)
    if found.shape != answer.shape:
        return False
    if answer.dtype.kind in "Ub":
        return bool(np.all(found == answer))
    return found.dtype.kind in "fiu" and bool(np.allclose(found, answer, rtol=2e-6, atol=0.0, equal_nan=True))


CASES: list[Case] = []


def case(promise: int, name: str, answer: Any = None, *, refusable: bool = False) -> Callable[[Body], Body]:
    def register(body: Body) -> Body:
        CASES.append(Case(promise, name, body, answer, refusable))
        return body

    return register


def number(x: float) -> np.ndarray[Any, Any]:
    return np.array(x, np.float64)


# --- 1. what changes between forward and backward -------------------------------------------------------------


def changed(name: str, answer: list[float], make: Callable[[], Any], use: Callable[[Any, Any, Any], Any]) -> None:
    """A NumPy array that was used is changed in place before backward."""

    @case(1, f"{name} changed before backward", answer, refusable=True)
    def body(e: Any) -> Any:
        array = make()

        def fn(t: Any) -> Any:
            z = use(e, t, array)
            array[...] = 1
            return e.sum(z)

        return e.pull(fn, np.array([3.0, 4.0, 5.0]))


@case(1, "a leaf's NumPy buffer changed before backward", [6.0, 8.0], refusable=True)
def _leaf_buffer(e: Any) -> Any:
    x = np.array([3.0, 4.0])

    def fn(t: Any) -> Any:
        z = e.sum(t * t)
        x[:] = 100.0
        return z

    return e.pull(fn, x)


_weights = np.array([1.0, 10.0, 100.0])
changed("a NumPy constant", [5.0, 6.0, 7.0], lambda: np.array([5.0, 6.0, 7.0]), lambda e, t, a: t * e.constant(a))
changed("a NumPy index", [1.0, 0.0, 110.0], lambda: np.array([0, 2, 2]), lambda e, t, a: t[a] * e.constant(_weights))
changed("a NumPy mask", [1.0, 0.0, 1.0], lambda: np.array([True, False, True]), lambda e, t, a: t[a])
changed("the condition of where", [1.0, 0.0, 1.0], lambda: np.array([True, False, True]),
        lambda e, t, a: e.where(e.constant(a), t, e.constant(np.zeros(3))))  # fmt: skip


@case(1, "a gradient given to backward changed afterwards", [1.0, 2.0], refusable=True)
def _seed_buffer(e: Any) -> Any:
    seed = np.array([1.0, 2.0])
    return e.pull(lambda t: t + 0.0, np.array([3.0, 4.0]), seed=seed, then=lambda g: seed.fill(100.0))


@case(1, "the gradient of x in x + y written into, then that of y read", [1.0, 1.0], refusable=True)
def _gradient_buffer(e: Any) -> Any:
    def write(gx: Any, gy: Any) -> None:
        e.array(gx)[...] = 100.0

    x = np.array([3.0, 4.0])
    return e.pull(lambda s, t: s + t, x, x.copy(), seed=np.ones(2), then=write)[1]


@case(1, "the NumPy array of an output changed before backward", [1.0, 1.0], refusable=True)
def _output_buffer(e: Any) -> Any:
    def fn(t: Any) -> Any:
        z = e.exp(t)
        e.array(z)[...] = 100.0
        return e.sum(z)

    return e.pull(fn, np.zeros(2))


@case(1, "v = y[:2]; v *= 10", [10.0, 10.0, 1.0], refusable=True)
def _view(e: Any) -> Any:
    def fn(t: Any) -> Any:
        y = t * 1.0
        v = y[:2]
        v *= 10.0
        return e.sum(y)

    return e.pull(fn, np.ones(3))


@case(1, "y[:2] = 0", [0.0, 0.0, 1.0], refusable=True)
def _write(e: Any) -> Any:
    def fn(t: Any) -> Any:
        y = t * 1.0
        y[:2] = 0.0
        return e.sum(y)

    return e.pull(fn, np.ones(3))


@case(1, "a NumPy array written into y[:1], then changed", [7.0, 4.0, 4.0], refusable=True)
def _written(e: Any) -> Any:
    part = np.array([7.0])

    def fn(t: Any) -> Any:
        y = t * 1.0
        y[:1] = e.constant(part)
        z = y * t
        part[:] = 100.0
        return e.sum(z)

    return e.pull(fn, np.full(3, 2.0))


@case(1, "y *= 2 after y * y", [2.0, 2.0], refusable=True)
def _in_place(e: Any) -> Any:
    def fn(t: Any) -> Any:
        y = e.exp(t)
        z = y * y
        y *= 2.0
        return e.sum(z)

    return e.pull(fn, np.zeros(2))


@case(1, "a constant tensor *= 2 after its use", [5.0, 7.0], refusable=True)
def _constant_in_place(e: Any) -> Any:
    c = e.constant(np.array([5.0, 7.0]))

    def fn(t: Any) -> Any:
        nonlocal c
        z = t * c
        c *= 2.0
        return e.sum(z)

    return e.pull(fn, np.ones(2))


# --- 2. what has no meaning, and what has though it is odd ----------------------------------------------------


def squares(e: Any) -> Callable[[Any], Any]:
    return lambda t: e.sum(t * t)


def refused(name: str, body: Body) -> None:
    case(2, name)(body)


refused("an integer leaf", lambda e: e.pull(squares(e), np.array([1, 2])))
refused("a boolean leaf", lambda e: e.pull(squares(e), np.array([True, False])))
refused("an array of objects", lambda e: e.pull(squares(e), np.array([1.0, 2.0], object)))
refused("an array of strings", lambda e: e.pull(squares(e), np.array(["1", "2"])))
refused("an array of dates", lambda e: e.pull(squares(e), np.array(["2026-01-01"], "M8[D]")))
refused("backward of an array without a gradient", lambda e: e.pull(lambda t: t * t, np.ones(2)))
refused("a gradient of the wrong shape", lambda e: e.pull(lambda t: t * t, np.ones(2), seed=np.ones(3)))
refused("a gradient that would broadcast", lambda e: e.pull(lambda t: t * t, np.ones((2, 2)), seed=np.ones(2)))
refused("a complex gradient of a real output", lambda e: e.pull(lambda t: t * t, np.ones(2), seed=np.ones(2) * 1j))
refused("an index out of range", lambda e: e.pull(lambda t: e.sum(t[np.array([0, 3])]), np.ones(3)))
refused("shapes that do not broadcast", lambda e: e.pull(lambda t: e.sum(t + e.constant(np.ones(2))), np.ones(3)))
refused("the largest of no elements", lambda e: e.pull(lambda t: e.max(t), np.ones(0)))


@case(2, "backward with nothing recorded")
def _nothing(e: Any) -> Any:
    constant = e.constant(np.ones(()))
    e.leaf(number(1.0))
    return e.backward(constant * 2.0, None)


@case(2, "a masked array with a fill of 1e20", [2.0, 0.0, 6.0], refusable=True)
def _masked(e: Any) -> Any:
    return e.pull(squares(e), np.ma.masked_array([1.0, 1e20, 3.0], [False, True, False]))


@case(2, "x * math.sin(x) of a recorded x", np.sin(1.0) + np.cos(1.0), refusable=True)
def _math(e: Any) -> Any:
    return e.pull(lambda t: t * math.sin(t), number(1.0))


case(2, "backward twice", OneOf((12.0, 24.0)), refusable=True)(
    lambda e: e.pull(lambda t: t * t * t, number(2.0), times=2)
)


class Subclass(np.ndarray):  # type: ignore[type-arg]
    pass


def memory_map() -> Any:
    path = Path(tempfile.mkdtemp()) / "array"
    np.array([1.0, 2.0, 3.0]).tofile(path)
    return np.memmap(path, np.float64, "r+")


def read_only() -> Any:
    x = np.array([1.0, 2.0, 3.0])
    x.flags.writeable = False
    return x


def odd(name: str, make: Callable[[], Any]) -> None:
    answer = 2 * np.asarray(make()).astype(np.float64)
    case(2, name, answer)(lambda e: e.pull(squares(e), make()))


odd("a big-endian array", lambda: np.array([1.0, 2.0, 3.0], ">f8"))
odd("negative strides", lambda: np.array([1.0, 2.0, 3.0])[::-1])
odd("strides of zero", lambda: np.broadcast_to(np.float64(2.0), (3,)))
odd("a read-only array", read_only)
odd("Fortran order", lambda: np.asfortranarray(np.arange(6.0).reshape(2, 3)))
odd("an array that is not aligned", lambda: np.frombuffer(b"\0" + np.arange(3.0).tobytes(), np.float64, 3, 1))
odd("an array without elements", lambda: np.ones((0, 3)))
odd("a sub-class of ndarray", lambda: np.array([1.0, 2.0, 3.0]).view(Subclass))
odd("a memory-mapped file", memory_map)
case(2, "an array without dimensions", number(6.0))(lambda e: e.pull(lambda t: t * t, number(3.0)))


# --- 3. derivatives at awkward points ---------------------------------------------------------------------------


def at(name: str, answer: Any, fn: Callable[[Any, Any], Any], *values: Any) -> None:
    """The gradient of the sum of fn(engine, *leaves)."""
    arrays = [np.array(v, np.float64) if not isinstance(v, np.ndarray) else v for v in values]

    def body(e: Any) -> Any:
        def total(*ts: Any) -> Any:
            z = fn(e, *ts)
            return e.sum(z) if getattr(z, "shape", ()) else z

        return e.grad(total, *[a.copy() for a in arrays])

    case(3, name, answer)(body)


@case(3, "maximum(x, y) where x = y: the gradients' sum", 1.0)
def _tie(e: Any) -> Any:
    gx, gy = e.grad(lambda x, y: e.maximum(x, y), number(2.0), number(2.0))
    return gx + gy


@case(3, "max of [1, 3, 3]: gradient of the 1, sum of the others", [0.0, 1.0])
def _ties(e: Any) -> Any:
    g = e.grad(lambda t: e.max(t), np.array([1.0, 3.0, 3.0]))
    return [g[0], g[1] + g[2]]


@case(3, "min of [1, 1, 3]: sum of the gradients of the 1s, that of the 3", [1.0, 0.0])
def _lower_ties(e: Any) -> Any:
    g = e.grad(lambda t: e.min(t), np.array([1.0, 1.0, 3.0]))
    return [g[0] + g[1], g[2]]


@case(3, "sort of [2, 1, 2], weighted 1, 10, 100", [1.0, 110.0])
def _sorted_ties(e: Any) -> Any:
    weights = e.constant(np.array([1.0, 10.0, 100.0]))
    g = e.grad(lambda t: e.sum(e.sort(t) * weights), np.array([2.0, 1.0, 2.0]))
    return [g[1], g[0] + g[2]]


def constant(e: Any, x: float) -> Any:
    return e.constant(number(x))


def first(parts: Any) -> Any:
    return np.asarray(parts[0])


def base_of_power(e: Any, x: float, y: float) -> Any:
    return first(e.grad(lambda s, t: s**t, number(x), number(y)))


def curvature(name: str, answer: Any, fn: Callable[[Any, Any], Any], x: float) -> None:
    """The second derivative of a function of one number."""

    @case(3, f"{name}: the second derivative", answer)
    def body(e: Any) -> Any:
        derivative = e.derivative
        return e.array(derivative(derivative(lambda t: fn(e, t)))(constant(e, x)))


at("maximum(x, x)", 1.0, lambda e, t: e.maximum(t, t), 2.0)
at("minimum(x, x)", 1.0, lambda e, t: e.minimum(t, t), 2.0)
at("abs at 0", Between(-1, 1), lambda e, t: e.abs(t), 0.0)
at("relu at 0", Between(0, 1), lambda e, t: e.relu(t), 0.0)
at("x**0 at 0", 0.0, lambda e, t: t**0.0, 0.0)
at("x**1 at 0", 1.0, lambda e, t: t**1.0, 0.0)
at("x**2 at 0", 0.0, lambda e, t: t**2.0, 0.0)
at("x**2 at -2", -4.0, lambda e, t: t**2.0, -2.0)
case(3, "x**y at (-2, 2), with respect to x", -4.0)(lambda e: base_of_power(e, -2.0, 2.0))
case(3, "x**y at (0, 0), with respect to x", 0.0)(lambda e: base_of_power(e, 0.0, 0.0))
case(3, "x**y at (-1, 1e300), with respect to x", -1e300)(lambda e: base_of_power(e, -1.0, 1e300))
at("0**y at y = 2", 0.0, lambda e, t: constant(e, 0.0) ** t, 2.0)
at("sqrt at 0", INF, lambda e, t: e.sqrt(t), 0.0)
at("log at 0", INF, lambda e, t: e.log(t), 0.0)
at("1 / x at 0", -INF, lambda e, t: 1.0 / t, 0.0)
at("norm of zeros", Between(-1, 1), lambda e, t: e.norm(t), [0.0, 0.0])
at("std of a constant", Between(-1, 1), lambda e, t: e.std(t), [2.0, 2.0])
at("var of a constant", [0.0, 0.0], lambda e, t: e.var(t), [2.0, 2.0])
at("var of 1e8 + (0, 1, 2)", [-2 / 3, 0.0, 2 / 3], lambda e, t: e.var(t), [1e8, 1e8 + 1, 1e8 + 2])
at("prod with a zero", [0.0, 6.0, 0.0], lambda e, t: e.prod(t), [2.0, 0.0, 3.0])
at("prod with two zeros", [0.0, 0.0, 0.0], lambda e, t: e.prod(t), [0.0, 5.0, 0.0])
at("logsumexp of all -inf", Between(0, 1), lambda e, t: e.logsumexp(t), [-INF, -INF])
at("logsumexp with +inf", [0.0, 1.0], lambda e, t: e.logsumexp(t), [0.0, INF])
at("hypot(0, 0)", Between(-1, 1), lambda e, s, t: e.hypot(s, t), 0.0, 0.0)
at("arctan2(0, 0): finite", Between(-1e308, 1e308), lambda e, s, t: e.arctan2(s, t), 0.0, 0.0)
at("logaddexp(-inf, -inf)", Between(0, 1), lambda e, s, t: e.logaddexp(s, t), -INF, -INF)
curvature("logaddexp(x, 1) at 1", 0.25, lambda e, t: e.logaddexp(t, constant(e, 1.0)), 1.0)
curvature("softplus at 0", 0.25, lambda e, t: e.softplus(t), 0.0)


@case(3, "x**y at (2, 0): the mixed second derivative", 0.5)
def _mixed_of_power(e: Any) -> Any:
    derivative = e.derivative
    return e.array(derivative(lambda y: derivative(lambda x: x**y)(constant(e, 2.0)))(constant(e, 0.0)))


at("sinc at 0", 0.0, lambda e, t: e.sinc(t), 0.0)
at("sinc at 1e-9", -(np.pi**2) / 3 * 1e-9, lambda e, t: e.sinc(t), 1e-9)


def chosen(e: Any, condition: Any, z: Any) -> Any:
    return e.where(condition, z, e.constant(np.zeros(2)))


at("where(x > 0, sqrt(x), 0) at 0", [0.0, 0.25], lambda e, t: chosen(e, t > 0.0, e.sqrt(t)), [0.0, 4.0])
at("where(x > 0, 1 / x, 0) at 0", [0.0, -0.25], lambda e, t: chosen(e, t > 0.0, 1.0 / t), [0.0, 2.0])
at("where(x > 0, x * log(x), 0) at 0", [0.0, 1 + np.log(2.0)], lambda e, t: chosen(e, t > 0.0, t * e.log(t)),
   [0.0, 2.0])  # fmt: skip
at("where(x > 0, log(x), 0) at -1", [0.0, 0.5], lambda e, t: chosen(e, t > 0.0, e.log(t)), [-1.0, 2.0])
at("clip(log(x), -1, 1) at 0", 0.0, lambda e, t: e.clip(e.log(t), -1.0, 1.0), 0.0)
at("maximum(log(x), -1) at 0", 0.0, lambda e, t: e.maximum(e.log(t), constant(e, -1.0)), 0.0)
at("relu(log(x)) at 0", 0.0, lambda e, t: e.relu(e.log(t)), 0.0)
at("max(log(x)) with a 0", [0.0, 0.5], lambda e, t: e.max(e.log(t)), [0.0, 2.0])
at("log(x)[1:] with a 0", [0.0, 0.5], lambda e, t: e.log(t)[1:], [0.0, 2.0])
at("log(x)[mask] with a 0", [0.0, 0.5], lambda e, t: e.log(t)[np.array([False, True])], [0.0, 2.0])
at("exp(log(x)) at 0: 1, or NaN", OneOf((1.0, NAN)), lambda e, t: e.exp(e.log(t)), 0.0)
at("sigmoid at -1000, 1000", [0.0, 0.0], lambda e, t: e.sigmoid(t), [-1000.0, 1000.0])
at("softplus at -1000, 1000", [0.0, 1.0], lambda e, t: e.softplus(t), [-1000.0, 1000.0])
at("tanh at -1000, 1000", [0.0, 0.0], lambda e, t: e.tanh(t), [-1000.0, 1000.0])
at("softmax of -1000, 0, 1000", [0.0, 0.0, 0.0], lambda e, t: e.softmax(t)[2], [-1000.0, 0.0, 1000.0])
at("log_softmax of -1000, 0, 1000", [1.0, 0.0, -1.0], lambda e, t: e.log_softmax(t)[0], [-1000.0, 0.0, 1000.0])
at("logsumexp of 1000, 1000", [0.5, 0.5], lambda e, t: e.logsumexp(t), [1000.0, 1000.0])
at("logaddexp(1000, -1000)", [1.0, 0.0], lambda e, s, t: e.logaddexp(s, t), 1000.0, -1000.0)
at("norm of 3e300, 4e300", [0.6, 0.8], lambda e, t: e.norm(t), [3e300, 4e300])
at("norm of 3e-300, 4e-300", [0.6, 0.8], lambda e, t: e.norm(t), [3e-300, 4e-300])
at("hypot(3e300, 4e300)", [0.6, 0.8], lambda e, s, t: e.hypot(s, t), 3e300, 4e300)
at("x / y at (1e300, 1e300)", [1e-300, -1e-300], lambda e, s, t: s / t, 1e300, 1e300)
at("arctan2(1e300, 1e300)", [5e-301, -5e-301], lambda e, s, t: e.arctan2(s, t), 1e300, 1e300)
at("arcsinh at 1e300", 1e-300, lambda e, t: e.arcsinh(t), 1e300)
at("norm of 3e30, 4e30 in float32", [0.6, 0.8], lambda e, t: e.norm(t), np.array([3e30, 4e30], np.float32))
at("softplus at 100 in float32", 1.0, lambda e, t: e.softplus(t), np.array(100.0, np.float32))


def visible(name: str, fn: Callable[[Any, Any], Any], *values: float) -> None:
    """A NaN that goes in can be seen in what comes out."""
    case(3, f"{name} shows the NaN", True)(
        lambda e: bool(np.isnan(e.value(lambda t: fn(e, t), np.array(values) if len(values) > 1 else number(*values)))
                       .any())
    )  # fmt: skip


visible("relu(NaN)", lambda e, t: e.relu(t), NAN)
visible("max([1, NaN])", lambda e, t: e.max(t), 1.0, NAN)
visible("min([NaN, 1])", lambda e, t: e.min(t), NAN, 1.0)
visible("maximum(NaN, 1)", lambda e, t: e.maximum(t, constant(e, 1.0)), NAN)
visible("clip(NaN, 0, 1)", lambda e, t: e.clip(t, 0.0, 1.0), NAN)
visible("sort([NaN, 1])", lambda e, t: e.sort(t), NAN, 1.0)


# --- 4. dtypes ----------------------------------------------------------------------------------------------------


def dtypes(name: str, answer: list[str], fn: Callable[[Any, Any], Any]) -> None:
    @case(4, name, answer)
    def body(e: Any) -> Any:
        x = np.array([0.5, 1.5], np.float32)
        value = e.value(lambda t: fn(e, t), x)
        return [str(np.asarray(p).dtype) for p in (value, e.grad(lambda t: e.sum(fn(e, t)), x))]


dtypes("sin(x) * 2.0 + 1 of a float32", ["float32", "float32"], lambda e, t: e.sin(t) * 2.0 + 1)
dtypes("mean of a float32", ["float32", "float32"], lambda e, t: e.mean(t))
dtypes("std of a float32", ["float32", "float32"], lambda e, t: e.std(t))
dtypes("norm of a float32", ["float32", "float32"], lambda e, t: e.norm(t))
dtypes("logsumexp of a float32", ["float32", "float32"], lambda e, t: e.logsumexp(t))
dtypes("float32 times float64", ["float64", "float32"], lambda e, t: t * e.constant(np.ones(2)))


# --- 5. long and branching ----------------------------------------------------------------------------------------


@case(5, "a chain of 100,000 products", number(1.00001**100_000))
def _chain(e: Any) -> Any:
    def fn(t: Any) -> Any:
        for _ in range(100_000):
            t = t * 1.00001
        return t

    return e.pull(fn, number(1.0))


@case(5, "2^60 paths through stacked diamonds", number(2.0**60))
def _diamonds(e: Any) -> Any:
    def fn(t: Any) -> Any:
        for _ in range(60):
            t = t + t
        return t

    return e.pull(fn, number(1.0))


# --- 6. threads, exceptions, nesting ------------------------------------------------------------------------------


@case(6, "nested derivatives in two threads, interleaved", [6.0, 60.0])
def _threads(e: Any) -> Any:
    derivative, turn = e.derivative, threading.Barrier(2, timeout=20)

    def of(scale: float) -> float:
        def outer(x: Any) -> Any:
            turn.wait()

            def inner(y: Any) -> Any:
                turn.wait()
                z = x * y * y * scale
                turn.wait()
                return z

            slope = derivative(inner)(x)
            turn.wait()
            return x * slope

        return float(e.array(derivative(outer)(e.constant(number(1.0)))))

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(of, (1.0, 10.0)))


@case(6, "d/dx x * (d/dy (x + y)): perturbations apart", 1.0)
def _perturbations(e: Any) -> Any:
    derivative = e.derivative
    found = derivative(lambda x: x * derivative(lambda y: x + y)(e.constant(number(1.0))))(e.constant(number(1.0)))
    return e.array(found)


@case(6, "recording while another thread is in no_grad", number(4.0))
def _no_grad_elsewhere(e: Any) -> Any:
    no_grad, inside, done = e.no_grad, threading.Event(), threading.Event()

    def other() -> None:
        with no_grad():
            inside.set()
            done.wait(20)

    thread = threading.Thread(target=other)
    thread.start()
    try:
        inside.wait(20)
        return e.pull(lambda t: t * t, number(2.0))
    finally:
        done.set()
        thread.join()


@case(6, "recording while another asyncio task is in no_grad", number(4.0))
def _no_grad_in_a_task(e: Any) -> Any:
    no_grad = e.no_grad

    async def both() -> Any:
        inside, done = asyncio.Event(), asyncio.Event()

        async def other() -> None:
            with no_grad():
                inside.set()
                await done.wait()

        task = asyncio.create_task(other())
        await inside.wait()
        try:
            return e.pull(lambda t: t * t, number(2.0))
        finally:
            done.set()
            await task

    return asyncio.run(both())


@case(6, "recording after an exception in no_grad", number(4.0))
def _no_grad_raises(e: Any) -> Any:
    try:
        with e.no_grad():
            raise ZeroDivisionError
    except ZeroDivisionError:
        return e.pull(lambda t: t * t, number(2.0))


@case(6, "a second derivative after an exception in a nested one", 12.0)
def _nested_raises(e: Any) -> Any:
    derivative = e.derivative

    def failing(x: Any) -> Any:
        raise ZeroDivisionError

    with contextlib.suppress(ZeroDivisionError):
        derivative(lambda x: derivative(failing)(x))(e.constant(number(2.0)))
    return e.array(derivative(derivative(lambda x: x * x * x))(e.constant(number(2.0))))


# --- 10. memory ---------------------------------------------------------------------------------------------------


@case(10, "a result of two pebibytes")
def _memory(e: Any) -> Any:
    side = np.ones(1 << 24)
    return e.pull(lambda t: e.sum(t[:, None] * t[None, :]), side).shape
