"""`detect_anomaly` names the op, the line, the inputs and the index of the first NaN or infinity."""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import autograd_geo as ag
from autograd_geo.op import apply, registry
from autograd_geo.tape import GRADIENTS, mode

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def variable(value: Any) -> ag.Tensor:
    return ag.tensor(value, requires_grad=True)


def found(call: Callable[[], Any]) -> ag.AnomalyError:
    """The anomaly that a program runs into."""
    with pytest.raises(ag.AnomalyError) as error, ag.detect_anomaly():
        call()
    assert mode() == GRADIENTS
    return error.value


def line_with(text: str) -> str:
    """`test_anomaly.py:12: y = a / b` of the one line of this file with a comment."""
    lines = inspect.getsource(inspect.getmodule(line_with)).splitlines()  # type: ignore[arg-type]
    (k,) = [k for k, line in enumerate(lines, 1) if line.endswith(f"# {text}")]
    return f"test_anomaly.py:{k}: "


# --- forward ------------------------------------------------------------------------------------------------------


def hidden_by_where() -> None:
    x, y = variable([1.0, 0.0, 2.0]), variable([1.0, 0.0, 3.0])
    ratio = x / y  # zero over zero
    ag.where(ratio.numpy() > 0, ratio, 0.0).sum().backward()


def after_a_write() -> None:
    x = variable([4.0, 1.0])
    r = ag.sqrt(x)
    r[0] = 0.0
    s = r * r
    s /= variable([0.0, 1.0])  # in place
    s.sum().backward()


def in_a_loop() -> None:
    x = variable([0.5, 2.0])
    for _ in range(12):
        x = x * x * x  # grows
    x.sum().backward()


def of_a_product() -> None:
    a = np.full((2, 3), 1e200)
    a[0] = 1.0
    weights = ag.tensor(a)
    weights @ weights.T  # product


def of_constants() -> None:
    ag.log(ag.tensor([1.0, 0.0, 0.0]))  # constant


def under_no_grad() -> None:
    with ag.no_grad():
        variable(0.0) ** -1.0  # unrecorded


def of_infinities() -> None:
    mask = ag.tensor([0.0, -np.inf])
    variable([1.0, 2.0]) + mask - mask  # minus


def in_a_reduction() -> None:
    variable([1e308, 1e308]).sum()  # reduced


FORWARD = {
    hidden_by_where: ("divide made nan of finite numbers at index (1,): divide(0, 0)", "zero over zero", "'ratio'"),
    after_a_write: ("divide made nan of finite numbers at index (0,): divide(0, 0)", "in place", ""),
    in_a_loop: ("multiply made inf of finite numbers at index (1,): multiply(", "grows", ""),
    of_a_product: ("matmul made inf of finite numbers at index (1, 1)", "product", "shape (2, 3), from 1 to 1e+200;"),
    of_constants: ("log made -inf of finite numbers at index (1,), the first of 2", "constant", "log(0)"),
    under_no_grad: ("power made inf of finite numbers: power(0, -1)", "unrecorded", ""),
    of_infinities: ("subtract made nan of infinities at index (1,): subtract(-inf, -inf)", "minus", ""),
    in_a_reduction: ("sum made inf of finite numbers", "reduced", "of shape (2,), from 1e+308 to 1e+308"),
}  # fmt: skip


@pytest.mark.parametrize("program", FORWARD, ids=lambda p: p.__name__)
def test_the_first_operation_that_makes_one(program: Callable[[], None]) -> None:
    what, line, more = FORWARD[program]
    message = str(found(program))
    assert message.startswith(what)
    assert line_with(line) in message
    assert more in message


def test_the_finding_has_entry_line_and_index() -> None:
    error = found(hidden_by_where)
    assert isinstance(error, FloatingPointError)
    assert error.finding.index == (1,)
    assert error.finding.line is not None and error.finding.line[0] == __file__
    assert error.finding.entry.op is registry["divide"]


def test_the_same_words_as_diagnose() -> None:
    def program() -> ag.Tensor:
        x = variable([2.0, 0.0])
        return (ag.log(x) * 3.0).sum()

    finding = found(program).finding
    first = ag.diagnose(program()).first
    assert first is not None
    assert (finding.kind, finding.what, finding.advice, finding.index) == (
        first.kind, first.what, first.advice, first.index,
    )  # fmt: skip


POINTS = [-np.inf, -1e300, -1.0, -1e-310, -0.0, 0.0, 1e-310, 0.5, 1.0, 3.0, 710.0, 1e300, np.inf, np.nan]
ELEMENTWISE = [n for n, op in registry.items() if op.family == "pointwise" and not op.attrs and n != "variable"]


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("recorded", [False, True])
def test_every_elementwise_op_at_awkward_points(name: str, recorded: bool) -> None:
    """An error exactly where a finite element becomes infinite or NaN, or one without NaN becomes NaN."""
    op = registry[name]
    rng = np.random.default_rng(len(name))
    for _ in range(40):
        operands = [rng.choice(POINTS, 3) for _ in op.inputs]
        with np.errstate(all="ignore"):
            z = np.asarray(op.evaluate(operands, {}))
        finite, known = np.isfinite(operands).all(axis=0), ~np.isnan(operands).any(axis=0)
        made = finite & ~np.isfinite(z) if z.dtype.kind == "f" else np.zeros(3, bool)
        turned = known & np.isnan(z) if z.dtype.kind == "f" else np.zeros(3, bool)
        expected = made if made.any() else turned
        tensors = [variable(x) if recorded else ag.tensor(x) for x in operands]
        if not expected.any():
            with ag.detect_anomaly():
                apply(op, tensors, {})
            continue
        error = found(lambda: apply(op, tensors, {}))  # noqa: B023
        assert error.finding.index == (int(np.argmax(expected)),)
        assert str(error).startswith(f"{name} made ")


def test_what_was_not_finite_before_is_no_anomaly() -> None:
    """Missing data, masks by minus infinity, limits that are no limits."""
    data = np.array([1.0, np.nan, 3.0])
    with ag.detect_anomaly():
        x = variable(np.ones(3))
        valid = ~np.isnan(data)
        misfit = ag.where(valid, x - np.where(valid, data, 0.0), 0.0)
        scores = ag.where(valid, x, -np.inf)
        weights = ag.softmax(scores)
        out = (misfit**2).sum() + (ag.clip(x, -np.inf, 5.0) * weights).sum()
        assert np.isnan((x * data).numpy()[1])
        out.backward()
    assert x.grad is not None and np.all(np.isfinite(x.grad.numpy()))


# --- backward -----------------------------------------------------------------------------------------------------


def root() -> None:
    r = ag.sqrt(variable([4.0, 0.0]))  # root
    (r * 3.0).sum().backward()


def quotient() -> None:
    x = variable([1.0, 1.0])
    q = 1.0 / (x * np.array([1.0, 1e-200]))  # quotient
    q.sum().backward()


def paths() -> None:
    x = variable([1e-300, 1e-10])
    meeting = x * 1.0
    (meeting * 1e308 + meeting * 1e308).sum().backward()


def broadcast() -> None:
    bias = variable(1e-10)
    out = (bias * np.full(3, 1e308)) * 1.0  # broadcast
    out.sum().backward()


def written() -> None:
    x = variable([4.0, 0.0, 1.0])
    y = x * 1.0
    y[0] = ag.sqrt(x)[1]  # written
    y *= 2.0
    y.sum().backward()


def by_a_transform() -> None:
    ag.grad(lambda x: ag.sqrt(x).sum())(np.array([1.0, 0.0]))  # transform


def by_a_vjp() -> None:
    _, pull = ag.vjp(lambda x, y: (ag.sqrt(x), y * y), np.array([1.0, 0.0]), 2.0)  # pulled
    pull((np.ones(2), 1.0))


def retained() -> None:
    out = ag.sqrt(variable([4.0, 0.0])).sum()  # retained
    out.backward(retain_graph=True)


BACKWARD = {
    root: ("the derivative of sqrt by x made inf of a finite gradient at index (1,): 3 times", "root", "at x = 0"),
    quotient: ("the derivative of divide by y made -inf of a finite gradient at index (1,)", "quotient", "y = 1e-200"),
    paths: ("where paths of the gradient meet at 'meeting', finite numbers add up to inf at index (0,)", None, ""),
    broadcast: ("the derivative of multiply by x made inf of a finite gradient", "broadcast", "from 1e-10 to 1e-10; "),
    written: ("the derivative of sqrt by x made inf of a finite gradient at index (1,)", "written", "at x = 0"),
    by_a_transform: ("the derivative of sqrt by x made inf of a finite gradient at index (1,)", "transform", "x = 0"),
    by_a_vjp: ("the derivative of sqrt by x made inf of a finite gradient at index (1,): 1 times", "pulled", ""),
    retained: ("the derivative of sqrt by x made inf of a finite gradient at index (1,): 1 times", "retained", ""),
}  # fmt: skip


@pytest.mark.parametrize("program", BACKWARD, ids=lambda p: p.__name__)
def test_the_first_derivative_that_makes_one(program: Callable[[], None]) -> None:
    what, line, more = BACKWARD[program]
    message = str(found(program))
    assert message.startswith(what)
    assert line is None or line_with(line) in message
    assert more in message


def once_more() -> None:
    x = variable([1.0, 0.0])
    y = x**1.5  # first order is finite
    y.sum().backward(create_graph=True)
    assert x.grad is not None
    x.grad.sum().backward()


def nested() -> None:
    def f(x: Any) -> Any:
        y = x**1.5  # differentiated twice
        return y.sum()

    ag.grad(lambda x: ag.grad(f)(x).sum())(np.array([1.0, 0.0]))


def curvature() -> None:
    ag.hessian(lambda x: (x**1.5).sum())(np.array([1.0, 0.0]))  # curvature


def third() -> None:
    slope = ag.grad(ag.grad(lambda x: x**2.5))  # third order
    ag.grad(slope)(0.0)


@pytest.mark.parametrize(
    ("program", "line"),
    [(once_more, "first order is finite"), (nested, "differentiated twice"), (curvature, "curvature"),
     (third, "third order")],
    ids=lambda x: x.__name__ if callable(x) else "",
)  # fmt: skip
def test_higher_orders_name_the_forward_line(program: Callable[[], None], line: str) -> None:
    """The line is where the function is computed whose derivative it is, not where it was differentiated."""
    message = str(found(program))
    assert re.match(r"the derivative of (power|multiply) by \w made (inf|nan) of a finite gradient", message)
    assert line_with(line) in message
    assert "'derivative of" in message


def test_a_failed_pass_changes_no_gradient() -> None:
    x, y = variable([4.0, 0.0]), variable([1.0, 1.0])
    (x * y).sum().backward()
    held = x.grad, y.grad
    found(lambda: (ag.sqrt(x) * y).sum().backward())
    assert (x.grad, y.grad) == held or (x.grad is held[0] and y.grad is held[1])


# --- compiled, trained --------------------------------------------------------------------------------------------


def forward_slope() -> None:
    x = np.array([1.0, 0.0, 4.0])
    ag.jvp(lambda x: (ag.sqrt(x) * 2.0).sum(), (x,), (np.ones(3),))  # forward_slope


def forward_nan() -> None:
    ag.jvp(lambda x: ag.sqrt(x), (0.0,), (0.0,))  # forward_nan


def forward_sum() -> None:
    def total(x: Any, y: Any) -> Any:
        return x * 0.75 + y * 0.75  # forward_sum

    ag.jvp(total, (np.ones(2), np.ones(2)), (np.array([1.0, 1.5e308]), np.array([1.0, 1.5e308])))


def forward_product() -> None:
    def product(x: Any) -> Any:
        return x @ np.array([1e10, 1.0])  # forward_product

    ag.jvp(product, (np.ones((2, 2)),), (np.array([[1.0, 2.0], [1e300, 0.0]]),))


def forward_recorded() -> None:
    def scaled(w: Any) -> Any:
        return ag.jvp(lambda x: ag.sqrt(x) * w, (np.array([1.0, 0.0]),), (np.ones(2),))[1].sum()  # forward_recorded

    ag.grad(scaled)(2.0)


TANGENTS: dict[Callable[[], None], tuple[str, tuple[int, ...]]] = {
    forward_slope: (r"the derivative of sqrt by x made inf of a finite tangent at index \(1,\): 1 times 0.5/z", (1,)),
    forward_nan: (r"of sqrt by x made nan of a finite tangent: 0 times .*the tangent that arrives is 0", ()),
    forward_sum: (r"tangents of the operands of add, finite numbers, add up to inf at index \(1,\)", (1,)),
    forward_product: (r"the derivative of matmul by x made inf of a finite tangent at index \(1,\)", (1,)),
    forward_recorded: (r"the derivative of sqrt by x made inf of a finite tangent at index \(1,\)", (1,)),
}


@pytest.mark.parametrize("program", TANGENTS, ids=lambda p: p.__name__)
def test_the_first_tangent_that_is_not_finite(program: Callable[[], None]) -> None:
    message, index = TANGENTS[program]
    error = found(program)
    assert re.search(message, str(error), re.DOTALL), str(error)
    assert line_with(program.__name__) in str(error)
    assert error.finding.index == index


def test_a_tangent_that_does_not_get_through_is_no_anomaly() -> None:
    at = np.array([0.0, 4.0])
    with ag.detect_anomaly():
        _, slope = ag.jvp(lambda x: ag.where(x > 0, ag.sqrt(x), 0.0), (at,), (np.ones(2),))
        _, known = ag.jvp(lambda x: x * 2.0, (at,), (np.array([np.inf, 1.0]),))  # it was not finite before
    np.testing.assert_array_equal(slope.numpy(), [0.0, 0.25])
    np.testing.assert_array_equal(known.numpy(), [np.inf, 2.0])


def test_compiled_functions_run_uncompiled_inside() -> None:
    @ag.compile
    def loss(x: Any, scale: float) -> Any:
        return ag.log(x * scale).sum()  # compiled

    assert loss(np.array([1.0, 2.0]), 1.0).item() == pytest.approx(np.log(2.0))
    message = str(found(lambda: loss(np.array([1.0, 0.0]), 1.0)))
    assert message.startswith("log made -inf of finite numbers at index (1,): log(0)")
    assert line_with("compiled") in message
    recordings = loss.recordings
    with ag.detect_anomaly():
        assert loss(np.array([1.0, 2.0]), 2.0).item() == pytest.approx(np.log(8.0))
    assert loss.recordings == recordings


def test_a_compiled_training_step() -> None:
    w = variable([1.0, 0.0])

    @ag.compile
    def step() -> Any:
        w.grad = None
        out = ag.sqrt(w).sum()  # stepped
        out.backward()
        return out

    message = str(found(step))
    assert "derivative of sqrt by x made inf" in message and line_with("stepped") in message
    assert w.grad is None


def test_a_result_compiled_before() -> None:
    """The derivative of a compiled function is one step of the pass; its own steps are not seen any more."""
    root = ag.compile(lambda x: ag.sqrt(x).sum())
    x = variable([1.0, 0.0])
    out = root(x)
    message = str(found(out.backward))
    assert re.match(r"the derivative of .* made inf of a finite gradient at index \(1,\)", message)


def test_fit_stops_at_the_cause() -> None:
    class Model(ag.nn.Module):
        def __init__(self) -> None:
            self.scale = ag.Parameter(np.zeros(1))

        def forward(self, x: Any) -> Any:
            return ag.log(self.scale) * x  # trained

    model = Model()
    data = np.ones((4, 1)), np.ones((4, 1))
    train = lambda: ag.optim.fit(  # noqa: E731
        model, ag.optim.SGD(model.parameters(), lr=0.1), ag.nn.MSELoss(), data, epochs=5000, batch_size=4
    )
    message = str(found(train))
    assert message.startswith("log made -inf") and line_with("trained") in message


def test_inside_a_compiled_function_it_is_refused() -> None:
    @ag.compile
    def program(x: Any) -> Any:
        with ag.detect_anomaly():
            return ag.log(x)

    with pytest.raises(RuntimeError, match="around the call of a compiled function"):
        program(np.ones(2))


# --- where it holds -----------------------------------------------------------------------------------------------


def network(x: Any, w: Any) -> Any:
    h = ag.tanh(x @ w) / (1.0 + ag.exp(-x.sum()))
    h[0] *= 2.0
    return (h * h).mean() + ag.logsumexp(w)


def test_numbers_are_the_same_bits() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(4, 3)), rng.normal(size=(3, 2))
    expected = [t.numpy() for t in ag.grad(network, (0, 1))(x, w)]
    with ag.detect_anomaly():
        gradients = ag.grad(network, (0, 1))(x, w)
        a, b = variable(x), variable(w)
        network(a, b).backward()
        again = [t.grad for t in (a, b)]
        hessian = ag.hessian(lambda w: network(x, w))(w)
    for one, two, three in zip(gradients, again, expected, strict=True):
        assert two is not None
        np.testing.assert_array_equal(one.numpy(), three)
        np.testing.assert_array_equal(two.numpy(), three)
    np.testing.assert_array_equal(hessian.numpy(), ag.hessian(lambda w: network(x, w))(w).numpy())


@pytest.mark.parametrize("inner", [ag.no_grad, ag.enable_grad, ag.detect_anomaly], ids=lambda c: c.__name__)
def test_it_nests_with_others(inner: Any) -> None:
    with ag.detect_anomaly():
        with inner(), pytest.raises(ag.AnomalyError):
            ag.log(ag.tensor(0.0))
        with pytest.raises(ag.AnomalyError):
            ag.log(ag.tensor(0.0))
    with inner(), pytest.raises(ag.AnomalyError), ag.detect_anomaly():
        ag.log(ag.tensor(0.0))
    assert ag.log(ag.tensor(0.0)).item() == -np.inf
    assert mode() == GRADIENTS


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_it_ends_with_any_exception(error: type[BaseException]) -> None:
    with pytest.raises(error), ag.detect_anomaly():
        raise error
    assert mode() == GRADIENTS
    assert ag.log(ag.tensor(0.0)).item() == -np.inf


def test_each_thread_looks_for_itself() -> None:
    inside, done = threading.Event(), threading.Event()
    results: list[Any] = []

    def other() -> None:
        inside.wait(10)
        results.append(ag.log(ag.tensor(0.0)).item())
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with ag.detect_anomaly():
        inside.set()
        done.wait(10)
        with pytest.raises(ag.AnomalyError):
            ag.log(ag.tensor(0.0))
    thread.join()
    assert results == [-np.inf]


def test_each_task_looks_for_itself() -> None:
    async def careful(started: asyncio.Event, go: asyncio.Event) -> str:
        with ag.detect_anomaly():
            started.set()
            await go.wait()
            try:
                ag.log(ag.tensor(0.0))
            except ag.AnomalyError:
                return "stopped"
        return "went on"

    async def careless(started: asyncio.Event, go: asyncio.Event) -> str:
        await started.wait()
        value = ag.log(ag.tensor(0.0)).item()
        go.set()
        return str(value)

    async def both() -> list[str]:
        started, go = asyncio.Event(), asyncio.Event()
        return await asyncio.gather(careful(started, go), careless(started, go))

    assert asyncio.run(both()) == ["stopped", "-inf"]
