"""The tape: what it records, in which order, how long it lives, whose line it was; and ops that users declare."""

from __future__ import annotations

import asyncio
import gc
import inspect
import linecache
import pickle
import re
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from collector import alive

import autograd_geo as ag
from autograd_geo.backward import Local, events
from autograd_geo.op import functions, registry
from autograd_geo.tape import Entry, history, line_of, value_of


def variable(value: Any, **options: Any) -> ag.Tensor:
    return ag.tensor(value, requires_grad=True, **options)


def entry(t: ag.Tensor) -> Entry:
    """The entry of a recorded tensor."""
    assert t._entry is not None
    return t._entry


def ops_of(t: ag.Tensor) -> list[str]:
    return ["leaf" if e.op is None else e.op.name for e in history(entry(t))]


@pytest.fixture(autouse=True)
def own_ops() -> Iterator[None]:
    """Ops declared in a test are gone after it."""
    saved = dict(registry), dict(functions)
    yield
    for table, before in zip((registry, functions), saved, strict=True):
        for name in set(table) - set(before):
            del table[name]  # type: ignore[attr-defined]


def line_here() -> int:
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None
    return frame.f_back.f_lineno


# --- order ----------------------------------------------------------------------------------------------------


def test_a_tape_is_in_recording_order() -> None:
    x, y = variable(2.0), variable([1.0, 3.0])
    product = x * y
    late = y + 1.0
    out = (late + product).sum()
    assert ops_of(out) == ["leaf", "leaf", "multiply", "add", "add", "sum"]
    numbers = [e.number for e in history(entry(out))]
    assert numbers == sorted(set(numbers))
    for e in history(entry(out)):
        assert all(i.number < e.number for i in e.inputs if isinstance(i, Entry))


def test_the_order_is_the_same_in_every_run() -> None:
    def program() -> list[str]:
        x = variable(0.5)
        parts = [ag.sin(x), ag.cos(x), x * x, ag.exp(x)]
        total = parts[3] + parts[0] * parts[2] - parts[1]
        return ops_of(total) + [e.op.name for kind, e, *_ in events(entry(total), 1.0) if kind is Local]

    first = program()
    assert first[:5] == ["leaf", "sin", "cos", "multiply", "exp"]
    assert all(program() == first for _ in range(5))


def test_an_entry_holds_op_inputs_attributes_and_literals() -> None:
    x = variable(np.ones((2, 3)))
    scaled = entry(x * 2)
    total = entry(x.sum(axis=0, keepdims=True))
    assert (scaled.op, scaled.inputs[0], float(scaled.inputs[1])) == (registry["multiply"], entry(x), 2.0)  # type: ignore[arg-type]
    assert (total.attrs, total.shape, total.dtype) == ({"axis": 0, "keepdims": True}, (1, 3), np.float64)


def test_constants_are_not_recorded() -> None:
    a, b = ag.tensor(2.0), ag.tensor([1.0, 2.0])
    assert not (a * b + 1.0).requires_grad
    assert (a * b)._entry is None
    assert not (variable([1.0]) > 0).requires_grad, "comparisons carry no gradient"
    assert not ag.argmax(variable([1.0, 2.0])).requires_grad


# --- how long a tape lives -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["dropped", "backward", "retained", "failed"])
def test_a_tape_is_freed_with_its_output(how: str, no_collector: None) -> None:
    x = variable(np.linspace(0.0, 1.0, 200))
    before = alive()
    hidden = ag.exp(x) * ag.sin(x)
    kept = weakref.ref(hidden._value)
    out = (hidden * hidden).sum()
    assert alive() > before
    if how in ("backward", "retained"):
        out.backward(retain_graph=how == "retained")
    elif how == "failed":
        with pytest.raises(ValueError, match="shape"):
            out.backward(np.ones(3))
    del hidden
    assert (kept() is None) == (how == "backward"), "until its tape is consumed or dropped, a derivative needs it"
    del out
    assert kept() is None
    assert alive() == before


@pytest.mark.parametrize("step", ["forget", "backward", "retain", "create", "grad", "hessian", "setitem"])
def test_a_loop_does_not_grow(step: str, no_collector: None) -> None:
    w = variable(np.ones(5))

    def loss(w: Any) -> Any:
        return (ag.tanh(w * 2.0) ** 2).sum()

    def once() -> None:
        w.grad = None
        if step == "grad":
            ag.grad(loss)(np.ones(5))
        elif step == "hessian":
            ag.hessian(loss)(np.ones(5))
        elif step == "setitem":
            y = w * 1.0
            y[1:] = y[:-1] * 2.0
            y.sum().backward()
        elif step != "forget":
            loss(w).backward(retain_graph=step == "retain", create_graph=step == "create")
        else:
            loss(w)
        w.grad = None

    once()
    before, objects = alive(), len(gc.get_objects())
    for _ in range(50):
        once()
    assert alive() == before
    assert len(gc.get_objects()) <= objects + 5


def test_a_training_loop_that_keeps_its_last_loss_does_not_grow(no_collector: None) -> None:
    w = variable(np.ones(100))
    sizes = []
    loss: Any = None
    for _ in range(30):
        loss = ((w * w) * w).sum()
        loss.backward()
        with ag.no_grad():
            w -= 0.01 * w.grad
        w.grad = None
        sizes.append(alive())
    assert loss.item() < 100.0
    assert len(set(sizes[3:])) == 1


# --- consumed by backward ----------------------------------------------------------------------------------------


def test_a_second_backward_names_op_and_line() -> None:
    x = variable([1.0, 2.0])
    out = (x * x).sum()
    line = line_here() - 1
    out.backward()
    with pytest.raises(RuntimeError) as error:
        out.backward()
    message = str(error.value)
    assert re.search(r"\b(sum|multiply)\b", message)
    assert f"test_tape.py:{line}: out = (x * x).sum()" in message
    assert "retain_graph=True" in message
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), [2.0, 4.0], err_msg="the failed pass wrote nothing")


@pytest.mark.parametrize("size", [3, 1000])
def test_outputs_that_share_a_consumed_part_say_so(size: int) -> None:
    x = variable(np.ones(size))
    shared = ag.exp(x)
    first, second = shared.sum(), (shared * shared).sum()
    first.backward()
    with pytest.raises(RuntimeError, match="consumed by an earlier backward pass, at exp 'shared'"):
        second.backward()
    with pytest.raises(RuntimeError, match="consumed"):
        (shared * 2.0).sum().backward()


@pytest.mark.parametrize("value", [3.0, [1.0, 2.0], np.ones(1000)])
def test_retain_graph_keeps_the_tape_for_another_pass(value: Any) -> None:
    x = variable(value)
    out = (x * x * x).sum()
    for times in (1, 2, 3):
        out.backward(retain_graph=times < 3)
        assert x.grad is not None
        np.testing.assert_allclose(x.grad.numpy(), times * 3 * np.square(value), rtol=1e-15)
    with pytest.raises(RuntimeError, match="consumed"):
        out.backward()


def test_backward_lets_go_of_big_values_while_the_output_lives() -> None:
    x = variable(np.ones(1000))
    hidden = ag.exp(x)
    kept = weakref.ref(hidden._value)
    out = (hidden * hidden).sum()
    del hidden
    assert kept() is not None
    out.backward()
    assert kept() is None
    assert out.item() == pytest.approx(1000 * np.e**2)


def test_a_small_tape_can_still_be_drawn_after_backward() -> None:
    x, y, z = variable(-2.0), variable(5.0), variable(-4.0)
    f = ((x + y) * z) ** 2
    f.backward()
    assert ops_of(f) == ["leaf", "leaf", "leaf", "add", "multiply", "power"]
    assert [value_of(e) for e in history(entry(f))] == [-2.0, 5.0, -4.0, 3.0, -12.0, 144.0]
    a = variable(np.arange(6.0).reshape(2, 3))
    g = (ag.exp(a - 1.0) * 2.0).sum()
    g.backward()
    assert ops_of(g) == ["leaf", "subtract", "exp", "multiply", "sum"]
    for e, expected in zip(history(entry(g))[1:3], (a.numpy() - 1.0, np.exp(a.numpy() - 1.0)), strict=True):
        np.testing.assert_allclose(value_of(e), expected, rtol=1e-15)


def test_a_big_value_that_went_with_its_tape_says_so() -> None:
    x = variable(np.ones(1000))
    hidden = x + 1.0
    hidden.sum().backward()
    assert hidden.numpy()[0] == 2.0, "the tensor itself still has it"
    with pytest.raises(RuntimeError, match=r"(?s)add 'hidden'.*retain_graph=True"):
        value_of(entry(hidden))


# --- values dropped and computed again ----------------------------------------------------------------------------


def test_only_values_that_a_derivative_needs_are_kept() -> None:
    x, y = variable(np.full(1000, 2.0)), variable(np.full(1000, 3.0))
    total, product, root = x + y, x * y, ag.exp(y)
    assert entry(total).value is None
    assert entry(product).value is None
    assert entry(root).value is not None, "exp is its own derivative"
    np.testing.assert_array_equal(value_of(entry(total)), np.full(1000, 5.0))
    np.testing.assert_array_equal(value_of(entry(product)), np.full(1000, 6.0))
    _ = total * 2.0
    assert entry(total).value is None, "times a number needs nothing"
    _ = total * product
    assert entry(total).value is not None


def test_a_chain_of_sums_keeps_no_values() -> None:
    x = variable(np.ones(100_000))
    y = x
    tracemalloc.start()
    try:
        for _ in range(50):
            y = y + 1.0
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 3 * x.numpy().nbytes
    y.sum().backward()
    assert x.grad is not None and x.grad.numpy()[0] == 1.0


@pytest.mark.parametrize(
    "reduce",
    [ag.max, ag.min, ag.prod, ag.std, ag.var, ag.norm, ag.logsumexp, ag.sum, ag.mean, lambda h: h @ h, lambda h: h[1]],
    ids=["max", "min", "prod", "std", "var", "norm", "logsumexp", "sum", "mean", "matmul", "getitem"],
)
def test_what_a_derivative_needs_is_kept_whatever_the_output(reduce: Callable[..., Any]) -> None:
    """The result is one number, held as a Python float; its input is an array that nothing else keeps."""
    values = np.array([1.0, 2.0, 4.0])
    ag.check_grad(lambda x: reduce(x * 2.0), values)
    x = variable(values)
    out = reduce(x * 2.0)
    out.backward()
    assert x.grad is not None and np.any(x.grad.numpy())


def test_values_are_computed_again_through_a_deep_chain() -> None:
    x = variable(np.zeros(3))
    y = x
    for _ in range(20_000):
        y = y + 1.0
    np.testing.assert_array_equal(value_of(entry(y)), np.full(3, 20_000.0))


def test_values_are_computed_again_through_diamonds() -> None:
    x = variable(np.ones(3))
    y = x
    for _ in range(60):
        y = y + y
    np.testing.assert_array_equal(value_of(entry(y)), np.full(3, 2.0**60))


@pytest.mark.parametrize(
    "program",
    [
        lambda x: ag.repeat(x, 2),
        lambda x: ag.repeat(x, np.arange(x.size) % 3),
        lambda x: ag.pad(x, 3),
        lambda x: ag.pad(x, 3, mode="edge"),
        lambda x: ag.pad(x, 3, mode="reflect"),
        lambda x: ag.tile(x, 2),
        lambda x: ag.roll(x, 2),
        lambda x: ag.diff(x),
        lambda x: ag.cumsum(x),
        lambda x: ag.take(x, np.arange(x.size)),
        lambda x: ag.prod(x),
        lambda x: ag.logsumexp(x),
        lambda x: ag.concatenate([x, x]),
        lambda x: ag.broadcast_to(x, (2, x.size)),
        lambda x: ag.trace(ag.expand_dims(x, 0)),
    ],
)
def test_a_backward_pass_takes_linear_memory(program: Callable[[Any], Any]) -> None:
    x = variable(np.ones(3000))
    out = program(x)
    seed = np.ones(out.shape)
    program(x).backward(seed)  # whatever loads or compiles on first use
    tracemalloc.start()
    try:
        out.backward(seed)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 * x.numpy().nbytes


@pytest.mark.parametrize("join", [ag.concatenate, ag.stack])
def test_joining_many_takes_linear_work(join: Callable[[Any], Any]) -> None:
    """Twice the parts cost about twice the steps, forward and backward."""

    def steps(count: int) -> int:
        parts = [variable([1.0]) for _ in range(count)]
        made = 0

        def count_calls(*_: Any) -> Any:
            nonlocal made
            made += 1
            return count_calls

        join(parts).sum().backward()
        out = join(parts).sum()
        sys.settrace(count_calls)
        try:
            out.backward()
        finally:
            sys.settrace(None)
        assert all(p.grad is not None and p.grad.numpy()[0] == 2.0 for p in parts)
        return made

    assert steps(400) < 2.5 * steps(200)


# --- fan-out ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (lambda a: a + a, 2.0),
        (lambda a: a - a, 0.0),
        (lambda a: a * a, 6.0),
        (lambda a: a / a, 0.0),
        (lambda a: a * a * a, 27.0),
        (lambda a: (a + a) * (a + a), 24.0),
        (lambda a: ag.maximum(a, a), 1.0),
        (lambda a: ag.where(a > 0, a, a), 1.0),
        (lambda a: ag.stack([a, a, a]).sum(), 3.0),
        (lambda a: ag.concatenate([a.reshape(1), a.reshape(1)]).sum(), 2.0),
        (lambda a: a.reshape(1) @ a.reshape(1), 6.0),
        (lambda a: ag.einsum("i,i,i->", *[a.reshape(1)] * 3), 27.0),
        (lambda a: ag.hypot(a, a), 2.0**0.5),
    ],
)
@pytest.mark.parametrize("kind", [float, np.float64, np.array])
def test_an_input_used_twice_counts_twice(program: Callable[..., Any], expected: float, kind: Any) -> None:
    a = variable(kind(3.0))
    program(a).backward()
    assert a.grad is not None
    assert a.grad.item() == pytest.approx(expected, rel=1e-15, abs=0)
    row = variable([3.0])
    program(row[0]).backward()
    assert row.grad is not None
    assert row.grad.numpy()[0] == pytest.approx(expected, rel=1e-15, abs=0)


# --- gradients at leaves ------------------------------------------------------------------------------------------


def test_gradients_accumulate_at_leaves_only() -> None:
    x = variable([1.0, 2.0])
    assert x.grad is None
    for times in (1, 2, 3):
        hidden = x * 3.0
        hidden.sum().backward()
        assert hidden.grad is None
        assert x.grad is not None
        np.testing.assert_array_equal(x.grad.numpy(), [3.0 * times] * 2)
    x.grad = None
    (x * 1.0).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [1.0, 1.0])


def test_a_gradient_is_a_tensor_of_its_own() -> None:
    """Gradients of several leaves may come from one array; writing into one changes no other."""
    x, y = variable([1.0, 2.0]), variable([3.0, 4.0])
    seed = np.array([5.0, 6.0])
    (x + y).backward(seed)
    assert isinstance(x.grad, ag.Tensor) and isinstance(y.grad, ag.Tensor)
    seed[:] = 0.0
    x.grad[0] = 100.0
    x.grad *= 2.0
    np.testing.assert_array_equal(y.grad.numpy(), [5.0, 6.0])
    np.testing.assert_array_equal(x.grad.numpy(), [200.0, 12.0])
    seed_tensor = ag.tensor([1.0, 1.0])
    x.grad = None
    (x * 1.0).backward(seed_tensor)
    seed_tensor += 7.0
    np.testing.assert_array_equal(x.grad.numpy(), [1.0, 1.0])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [(np.ones(3), ValueError), (np.ones((2, 1)), ValueError), ("text", TypeError), (1.0, ValueError)],
)
def test_a_gradient_that_does_not_fit_is_refused(wrong: Any, error: type[Exception]) -> None:
    x = variable([1.0, 2.0])
    with pytest.raises(error):
        x.grad = wrong
    assert x.grad is None


def test_leaves_created_inside_a_tape_get_their_gradient() -> None:
    w = variable(2.0)
    y = w * 3.0
    late = variable(4.0)
    (y * late + late).backward()
    assert (w.grad.item(), late.grad.item()) == (12.0, 7.0)  # type: ignore[union-attr]


# --- whether to record --------------------------------------------------------------------------------------------


def records() -> bool:
    return (variable(1.0) * 2.0).requires_grad


def test_no_grad_and_enable_grad_nest() -> None:
    assert records()
    with ag.no_grad():
        assert not records()
        with ag.enable_grad():
            assert records()
            with ag.set_grad_enabled(False):
                assert not records()
            assert records()
        assert not records()
    assert records()


def test_one_context_manager_may_be_entered_again() -> None:
    off = ag.no_grad()
    with off:
        with off, ag.enable_grad():
            assert records()
        assert not records()
    assert records()


def test_decorators_hold_for_the_call_only() -> None:
    @ag.no_grad()
    def off(depth: int = 0) -> list[bool]:
        """Doc."""
        return [records(), *(off(depth - 1) if depth else [])]

    @ag.enable_grad()
    def on() -> bool:
        return records()

    assert off(3) == [False] * 4
    assert (off.__name__, off.__doc__) == ("off", "Doc.")
    assert records()
    with ag.no_grad():
        assert on()
        assert not records()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_recording_is_restored_after_an_exception(error: type[BaseException]) -> None:
    with pytest.raises(error), ag.no_grad(), ag.enable_grad(), ag.no_grad():
        raise error
    assert records()

    @ag.no_grad()
    def fails() -> None:
        raise error

    with pytest.raises(error):
        fails()
    assert records()


def test_recording_is_restored_after_a_failed_transform() -> None:
    def fails(x: Any) -> Any:
        raise ZeroDivisionError

    for transform in (ag.grad(fails), ag.value_and_grad(fails), ag.jacobian(fails), lambda x: ag.vjp(fails, x)):
        with ag.no_grad():
            with pytest.raises(ZeroDivisionError):
                transform(1.0)
            assert not records()
    assert records()


def test_each_thread_records_for_itself() -> None:
    """Both threads are inside their block at the same time, and leave in the other order."""
    inside, checked = threading.Barrier(2, timeout=10), threading.Barrier(2, timeout=10)

    def run(mode: bool) -> list[bool]:
        found = []
        with ag.set_grad_enabled(mode):
            inside.wait()
            found.append(records())
            with ag.set_grad_enabled(not mode):
                checked.wait()
                found.append(records())
            inside.wait()
            found.append(records())
        checked.wait()
        return [*found, records()]

    with ThreadPoolExecutor(2) as pool, ag.no_grad():
        off, on = pool.submit(run, False), pool.submit(run, True)
        assert off.result() == [False, True, False, True]
        assert on.result() == [True, False, True, True]
        assert not records()


def test_each_asyncio_task_records_for_itself() -> None:
    async def run(mode: bool, mine: asyncio.Event, other: asyncio.Event) -> list[bool]:
        found = []
        with ag.set_grad_enabled(mode):
            mine.set()
            await other.wait()  # the other task is inside its own block now
            found.append(records())
            await asyncio.sleep(0)
            found.append(records())
        await asyncio.sleep(0)
        return [*found, records()]

    async def both() -> list[list[bool]]:
        a, b = asyncio.Event(), asyncio.Event()
        return list(await asyncio.gather(run(False, a, b), run(True, b, a)))

    assert asyncio.run(both()) == [[False, False, True], [True, True, True]]


def test_a_decorated_coroutine_does_not_record() -> None:
    @ag.no_grad()
    async def off() -> bool:
        await asyncio.sleep(0)
        return records()

    assert asyncio.run(off()) is False


def test_a_decorated_generator_does_not_record() -> None:
    @ag.no_grad()
    def off() -> Iterator[bool]:
        yield records()

    assert next(iter(off())) is False


def test_a_decorated_generator_leaves_its_caller_alone() -> None:
    """Each step runs without recording, what runs between the steps is the caller's; send, throw, return work."""

    @ag.no_grad()
    def off() -> Any:
        got = yield records()
        try:
            yield got, records()
        except KeyError:
            yield "caught", records()
        return "returned"

    steps = off()
    assert (next(steps), records()) == (False, True)
    assert (steps.send(7), records()) == ((7, False), True)
    assert (steps.throw(KeyError()), records()) == (("caught", False), True)
    with pytest.raises(StopIteration, match="returned"):
        next(steps)
    assert records()


def test_a_decorated_asynchronous_generator_does_not_record() -> None:
    @ag.no_grad()
    async def off() -> Any:
        yield records()

    async def run() -> list[bool]:
        return [found async for found in off()]

    assert asyncio.run(run()) == [False]


# --- names and lines ------------------------------------------------------------------------------------------------


def test_names_come_from_assignments() -> None:
    x = ag.tensor(2.0, requires_grad=True)
    product = x * x
    left, (right, deep) = x + 1.0, (x + 2.0, x + 3.0)
    model = SimpleNamespace()
    model.weight = x * 4.0
    annotated: Any = x * 5.0
    first = second = x * 6.0
    called = ag.exp(x)
    if (walrus := x * 7.0).item() > 0:
        pass
    given = ag.tensor([1.0], requires_grad=True, name="given name")
    raised = x
    raised = raised + 1.0
    raised += 1.0
    named = {
        "product": product, "left": left, "right": right, "deep": deep, "weight": model.weight, "annotated": annotated,
        "first": second, "called": called, "walrus": walrus, "given name": given, "x": x, "raised": raised,
    }  # fmt: skip
    assert {name: t.name for name, t in named.items()} == {name: name for name in named}
    assert first.name == "first"


def test_a_value_inside_an_expression_has_no_name() -> None:
    x = ag.tensor(2.0, requires_grad=True)
    out = ag.exp(x * 3.0)
    assert [e.label for e in history(entry(out))] == ["x", None, "out"]
    listed = [x * 2.0, x + 1.0]
    assert [t.name for t in listed] == [None, None]


def test_a_name_is_one_that_the_user_wrote() -> None:
    """Tools that rewrite code, such as pytest in an assertion, store values under names of their own."""
    x = ag.tensor(2.0, requires_grad=True)
    assert (x * 2.0).name is None


def test_a_given_name_wins() -> None:
    x = variable(2.0, name="porosity")
    y = x * 2.0
    y.name = "doubled"
    assert (x.name, y.name) == ("porosity", "doubled")
    assert "porosity" in repr(entry(x))


@pytest.mark.parametrize(
    "code",
    [
        "y = x * 2.0",
        "y = f(x)",
        "y = -x",
        "y = x[0]",
        "y = x.sum()",
        "global y; y = x + x",
        "y = np.sin(x)",
    ],
)
def test_names_without_source(code: str) -> None:
    scope: dict[str, Any] = {"x": variable([1.0]), "f": ag.tanh, "np": np}
    exec(code, scope)
    assert scope["y"].name == "y"
    assert line_of(entry(scope["y"])) == ("<string>", 1)
    exec(f"def run(x):\n    {code}\n    return y", scope)
    found = scope["run"](scope["x"])
    assert found.name == "y"
    assert line_of(entry(found)) == ("<string>", 2)


def test_lines_are_the_users() -> None:
    x = ag.tensor([1.0, 2.0], requires_grad=True)
    first = line_here() - 1

    def helper(t: Any) -> Any:
        return t * 2.0

    made = [helper(x)]
    lines = [first + 4]
    made.append(-x)
    lines.append(line_here() - 1)
    made.append(2.0 * x)
    lines.append(line_here() - 1)
    made.append(np.array([1.0, 2.0]) * x)
    lines.append(line_here() - 1)
    made.append(np.concatenate([x, x]))
    lines.append(line_here() - 1)
    made.append(ag.clip(x, 0.0, 1.0))
    lines.append(line_here() - 1)
    made.append(x.reshape(2, 1))
    lines.append(line_here() - 1)
    made.append(x @ x)
    lines.append(line_here() - 1)
    made.append(next(iter(x)))
    lines.append(line_here() - 1)
    made.extend(map(ag.sin, [x]))
    lines.append(line_here() - 1)
    state = x * 1.0
    state[0] = 5.0
    lines.append(line_here() - 1)
    made.append(state)
    state = x * 1.0
    state += 1.0
    lines.append(line_here() - 1)
    made.append(state)
    assert [line_of(entry(t)) for t in made] == [(__file__, n) for n in lines]
    assert line_of(entry(x)) == (__file__, first)


def test_recording_reads_no_source() -> None:
    """Code object and offset are kept; the file is opened when somebody asks."""
    name = "<made up by a test>"
    code = compile("y = x * 2.0", name, "exec")
    scope = {"x": variable(1.0)}
    exec(code, scope)
    assert name not in linecache.cache
    linecache.cache[name] = (11, None, ["y = x * 2.0\n"], name)
    try:
        with pytest.raises(RuntimeError, match=r"<made up by a test>:1: y = x \* 2\.0"):
            scope["y"].backward()
            scope["y"].backward()
    finally:
        del linecache.cache[name]


# --- declarations that are wrong ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declaration", "partials", "expected"),
    [
        ("bad(x) = tahn(x)", {}, "unknown function 'tahn'; did you mean 'tanh?'"),
        ("bad(x) = x * y", {}, "unknown name 'y'"),
        ("bad(x) = x * x", {"x": "2 * w"}, "unknown name 'w'"),
        ("bad(x) = x * x", {"y": "2 * x"}, "no input is called y"),
        ("bad(x) = exp(x, x)", {}, "exp takes 1 argument, here it has 2"),
        ("bad(x) = x.real", {}, "not part of the expression language"),
        ("bad(x) = x[0]", {}, "not part of the expression language"),
        ("bad(x) = __import__('os')", {}, "unknown function '__import__'"),
        ("bad(x) = (lambda: x)()", {}, "not part of the expression language"),
        ("bad(x) = [x for x in x]", {}, "not part of the expression language"),
        ("bad(x) = x if x > 0 else 0", {}, "not part of the expression language"),
        ("bad(x) = 'text'", {}, "not part of the expression language"),
        ("bad(x) = exp(x=x)", {}, "not part of the expression language"),
        ("bad(x) = x +", {}, "invalid syntax"),
        ("bad x = x", {}, "write it as 'name"),
        ("bad(x, *, slope) = x * slope", {}, "parameters after '\\*' need one"),
        ("bad(x=1) = x", {}, "inputs have no default"),
        ("bad(x, x) = x", {}, "duplicate argument"),
        ("bad(x, *, slope=wrong) = x", {}, "bad"),
    ],
)
def test_a_wrong_declaration_says_what_is_wrong(declaration: str, partials: dict[str, str], expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as error:
        ag.pointwise(declaration, **partials)
    assert declaration in str(error.value)
    assert "bad" not in registry and "bad" not in functions


#: Names that mean something in geophysics, and some that an implementation may be tempted to take for itself.
TEMPTING = [
    *(
        "a",
        "b",
        "c",
        "d",
        "e",
        "f",
        "g",
        "i",
        "k",
        "l",
        "m",
        "n",
        "o",
        "p",
        "q",
        "r",
        "s",
        "t",
        "u",
        "v",
        "w",
        "z",
        "dt",
    ),
    *("dx", "xs", "_x", "shape", "shapes", "entry", "frame", "code", "lasti", "out", "op", "np", "where", "exp"),
]


@pytest.mark.parametrize("name", TEMPTING)
def test_any_input_name_is_right_or_refused(name: str) -> None:
    """z is depth, g gravity, k permeability, t time, e a void ratio: none may silently mean something else."""
    try:
        op = ag.pointwise(f"test_named({name}, rho) = {name} * rho", rho=name, **{name: "rho"})
    except ValueError as error:
        assert name in str(error)
        return
    for a, b in ((2.0, 3.0), (np.array([2.0]), 3.0), (np.array([2.0]), np.array([3.0])), (2.0, np.array([3.0]))):
        x, y = variable(a), variable(b)
        out = op(x, y)
        assert out.item() == 6.0
        out.backward()
        assert (x.grad.item(), y.grad.item()) == (3.0, 2.0)  # type: ignore[union-attr]
        y.grad = None
        for literal in (a, ag.tensor(a)):
            out = op(literal, y)
            assert out.item() == 6.0
            out.backward()
            assert y.grad.item() == 2.0  # type: ignore[union-attr]
            y.grad = None


@pytest.mark.parametrize("name", TEMPTING)
def test_any_parameter_name_is_right_or_refused(name: str) -> None:
    try:
        op = ag.pointwise(f"test_named(x, *, {name}=3.0) = {name} * x * x", x=f"2 * {name} * x")
    except ValueError as error:
        assert name in str(error)
        return
    for value in (2.0, np.array([2.0])):
        x = variable(value)
        out = op(x)
        out.backward()
        assert (out.item(), x.grad.item()) == (12.0, 12.0)  # type: ignore[union-attr]
        x.grad = None
        op(x, **{name: 5.0}).backward()
        assert x.grad.item() == 20.0


@pytest.mark.parametrize("pair", [("x", "xv"), ("x", "xe"), ("x", "xl"), ("x", "x_v"), ("x", "x_e"), ("x", "x_l")])
def test_inputs_of_similar_names_stay_apart(pair: tuple[str, str]) -> None:
    a, b = pair
    op = ag.pointwise(f"test_pair({a}, {b}) = {a} * {b} + {b}", **{a: b, b: f"{a} + 1"})
    for second in (5.0, ag.tensor(5.0), np.array(5.0)):
        x = variable(2.0)
        out = op(x, second)
        out.backward()
        assert (out.item(), x.grad.item()) == (15.0, 5.0)  # type: ignore[union-attr]


def scaled_by_k(x: Any, /, k: float = 2.0) -> Any:
    return x * k


def scaled_by_z(x: Any, /, z: float = 2.0) -> Any:
    return x * z


def scaled_by_shape(x: Any, /, shape: float = 2.0) -> Any:
    return x * shape


def scaled_by_g(x: Any, /, g: float = 2.0) -> Any:
    return x * g


RULES: dict[str, tuple[Any, Any]] = {
    "k": (scaled_by_k, lambda g, k: g * k),
    "z": (scaled_by_z, lambda g, z: g * z),
    "shape": (scaled_by_shape, lambda g, shape: g * shape),
    "g": (scaled_by_g, lambda g: g * 2.0),
}


@pytest.mark.parametrize("family", ["custom", "linear"])
@pytest.mark.parametrize("name", RULES)
def test_any_attribute_name_of_a_written_op_is_right_or_refused(family: str, name: str) -> None:
    forward, rule = RULES[name]
    try:
        op = (ag.custom(x=rule) if family == "custom" else ag.linear(rule))(forward)
    except ValueError:
        return
    x = variable(np.array([3.0, 4.0]))
    op(x).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [2.0, 2.0])  # type: ignore[union-attr]


def squared_depth(z: Any, /) -> Any:
    return z * z


def doubled_gravity(g: Any, /) -> Any:
    return g * 2.0


@pytest.mark.parametrize(
    ("forward", "rules"),
    [(squared_depth, {"z": lambda g, z: g * 2.0 * z}), (doubled_gravity, {"g": lambda g: g * 2.0})],
)
def test_any_operand_name_of_a_custom_op_is_right_or_refused(forward: Any, rules: Any) -> None:
    try:
        op = ag.custom(**rules)(forward)
    except ValueError:
        return
    ag.check_grad(op, np.array([3.0, 4.0]))


@pytest.mark.parametrize(
    "name", ["add", "exp", "matmul", "getitem", "clip", "reshape", "norm", "take", "stack", "where"]
)
def test_a_built_in_name_is_refused(name: str) -> None:
    before, function = registry.get(name), functions[name]
    with pytest.raises(ValueError, match=f"{name!r} is built in"):
        ag.pointwise(f"{name}(x) = x", x="1")
    assert registry.get(name) is before and functions[name] is function


def test_a_custom_op_with_a_wrong_rule_says_so() -> None:
    with pytest.raises(ValueError, match="no operand is called y"):

        @ag.custom(y=lambda g: g)
        def test_stray(x: Any, /) -> Any:
            return x

    with pytest.raises(ValueError, match="not 'w'"):

        @ag.custom(x=lambda g, w: g * w)
        def test_asks(x: Any, /) -> Any:
            return x

        test_asks(variable(1.0))

    with pytest.raises(ValueError, match="before a '/'"):

        @ag.custom()
        def test_operands(x: Any) -> Any:
            return x


@pytest.mark.parametrize("wrong", [np.ones(4), np.ones((2, 3, 3)), np.ones((3, 2)), np.float64(1.0), np.ones(2)])
def test_a_rule_that_returns_the_wrong_shape_is_named(wrong: Any) -> None:
    @ag.custom(x=lambda g: wrong)
    def test_misshapen(x: Any, /) -> Any:
        return x * 1.0

    x = variable(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"rule of op 'test_misshapen'.*\(2, 3\)"):
        test_misshapen(x).sum().backward()
    assert x.grad is None


# --- ops that users declare are full citizens -------------------------------------------------------------------------


def softsign() -> Any:
    return ag.pointwise("test_softsign(x, *, scale=1.0) = x / (scale + abs(x))", x="scale / (scale + abs(x))**2")


def ratio() -> Any:
    return ag.pointwise("test_ratio(a, b) = a / (a + b)", a="b / (a + b)**2", b="-z / (a + b)")


def smoothed() -> Any:
    """A three-point mean with reflecting ends: its transpose is not itself."""

    def transpose(g: Any) -> Any:
        inner = np.concatenate([g[:1] * 2.0 + g[1:2], g[:-2] + g[1:-1] + g[2:], g[-2:-1] + g[-1:] * 2.0])
        return inner / 3.0

    @ag.linear(transpose)
    def test_smooth(x: Any, /) -> Any:
        """A mean of three neighbours."""
        wide = np.concatenate([x[:1], x, x[-1:]])
        return (wide[:-2] + wide[1:-1] + wide[2:]) / 3.0

    return test_smooth


def bilinear() -> Any:
    return ag.multilinear("test_bilinear(x, a, y)", "i,ij,j->")


def cube() -> Any:
    @ag.custom(x=lambda g, x, power: g * power * x ** (power - 1))
    def test_cube(x: Any, /, power: int = 3) -> Any:
        """x to an integer power."""
        return x**power

    return test_cube


def joined() -> Any:
    @ag.custom(
        parts=lambda g, k, shapes: g[sum(s[0] for s in shapes[:k]) : sum(s[0] for s in shapes[: k + 1])] * (k + 1.0)
    )
    def test_joined(*parts: Any) -> Any:
        """Parts, weighted by their number, end to end."""
        return np.concatenate([(k + 1.0) * p for k, p in enumerate(parts)])

    return test_joined


A, B = np.array([0.5, -1.5, 2.0]), np.array([1.0, 2.0, 0.3])
M = np.array([[1.0, 2.0, 0.5], [0.1, -1.0, 2.0], [0.0, 1.0, 1.0]])
DECLARED = [
    pytest.param(softsign, (A,), A / (1 + abs(A)), id="pointwise"),
    pytest.param(ratio, (B, np.array([[2.0], [0.5]])), B / (B + np.array([[2.0], [0.5]])), id="pointwise-broadcast"),
    pytest.param(smoothed, (A,), np.array([-0.5 / 3, 1 / 3, 2.5 / 3]), id="linear"),
    pytest.param(bilinear, (A, M, B), A @ M @ B, id="multilinear"),
    pytest.param(cube, (A,), A**3, id="custom"),
    pytest.param(joined, (A, B), np.concatenate([A, 2 * B]), id="custom-variadic"),
]


@pytest.mark.parametrize(("declare", "args", "expected"), DECLARED)
def test_a_declared_op_has_everything(declare: Any, args: Any, expected: Any) -> None:
    op = declare()
    np.testing.assert_allclose(op(*args).numpy(), expected, rtol=1e-15)
    assert not op(*args).requires_grad
    assert registry[op.__name__] is op.op and functions[op.__name__] is op
    assert not hasattr(ag.Tensor, op.__name__)
    ag.check_grad(op, *args, order=2)
    ag.check_dot(op, *args)
    xs = [variable(a) for a in args]
    out = op(*xs)
    assert entry(out).op is op.op
    assert line_of(entry(out)) == (__file__, line_here() - 2)
    value, tangent = ag.jvp(op, args, [np.ones_like(a) for a in args])
    np.testing.assert_allclose(value.numpy(), expected, rtol=1e-15)
    step = 1e-6
    slope = (op(*[a + step for a in args]).numpy() - op(*[a - step for a in args]).numpy()) / (2 * step)
    np.testing.assert_allclose(tangent.numpy(), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("declare", "args", "expected"), DECLARED)
def test_a_declared_op_keeps_float32(declare: Any, args: Any, expected: Any) -> None:
    xs = [variable(np.float32(a)) for a in args]
    out = declare()(*xs)
    assert (out.dtype, out.shape) == (np.float32, np.shape(expected))
    out.backward(np.ones(out.shape, np.float32))
    assert [(x.grad.dtype, x.grad.shape) for x in xs] == [(np.float32, np.shape(a)) for a in args]  # type: ignore[union-attr]


def test_a_declared_op_takes_parameters_floats_and_tensors() -> None:
    op = softsign()
    x = variable(2.0)
    out = op(x, scale=3.0)
    out.backward()
    assert (out.item(), x.grad.item()) == (0.4, 3.0 / 25.0)  # type: ignore[union-attr]
    assert ag.grad(ag.grad(lambda t: op(t, scale=3.0)))(2.0).item() == pytest.approx(-6.0 / 125.0)
    with pytest.raises(TypeError, match="steepness"):
        op(x, steepness=1.0)


def test_an_op_may_be_declared_again() -> None:
    first = ag.pointwise("test_again(x) = 2 * x", x="2")
    second = ag.pointwise("test_again(x) = 3 * x", x="3")
    assert functions["test_again"] is second
    assert (ag.grad(first)(1.0).item(), ag.grad(second)(1.0).item()) == (2.0, 3.0)


def test_an_input_without_a_rule_carries_no_gradient() -> None:
    op = ag.pointwise("test_half(x, y) = x * y", x="y")
    x, y = variable(2.0), variable(3.0)
    op(x, y).backward()
    assert (x.grad.item(), y.grad) == (3.0, None)  # type: ignore[union-attr]

    @ag.custom()
    def test_rank(x: Any, /) -> Any:
        return np.argsort(x)

    assert not test_rank(variable([2.0, 1.0])).requires_grad


def test_a_custom_op_keeps_only_what_its_rule_asks_for() -> None:
    @ag.custom(x=lambda g, shape: g * np.ones(shape))
    def test_keeps_nothing(x: Any, /) -> Any:
        return x + 1.0

    x = variable(np.ones(1000))
    hidden = x * 2.0
    kept = weakref.ref(hidden._value)
    out = test_keeps_nothing(hidden)
    del hidden
    assert kept() is None
    out.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.full(1000, 2.0))  # type: ignore[union-attr]


@pytest.mark.parametrize(("declare", "args", "expected"), DECLARED)
def test_a_declared_op_is_a_function_like_others(declare: Any, args: Any, expected: Any) -> None:
    """It has its name, signature and documentation before it is first called, and after; errors name it."""
    op = declare()
    for _ in "ab":
        assert op.__name__ == op.__qualname__ == op.op.name
        assert op.__module__ == __name__
        parameters = list(inspect.signature(op).parameters)
        assert parameters[: len(op.op.inputs)] == list(op.op.inputs)
        assert set(op.op.attrs) <= set(parameters)
        assert op.op.name in repr(op)
        with pytest.raises(TypeError, match=op.op.name):
            op(*args, steepness=1.0)
        op(*args)


def test_built_in_functions_can_be_pickled() -> None:
    """They are found again by module and name, as functions are that go to another process."""
    for name in ("sin", "add", "sum", "matmul", "leaky_relu", "einsum", "concatenate", "grad"):
        function = getattr(ag, name)
        assert pickle.loads(pickle.dumps(function)) is function


def test_many_threads_may_call_an_op_first() -> None:
    for _ in range(5):
        op, start = softsign(), threading.Barrier(4, timeout=10)

        def call(op: Any = op, start: Any = start) -> float:
            x = variable(1.0)
            start.wait()
            op(x).backward()
            assert x.grad is not None
            return float(x.grad.item())

        with ThreadPoolExecutor(4) as pool:
            assert [f.result() for f in [pool.submit(call) for _ in range(4)]] == [0.25] * 4


def test_a_declared_op_explains_errors() -> None:
    x = variable(np.ones(3))
    with pytest.raises(ValueError, match=r"test_ratio: shapes \(3,\) and \(4,\) do not broadcast"):
        ratio()(x, np.ones(4))
    with pytest.raises(TypeError, match="test_ratio: argument 'b'"):
        ratio()(x, "text")

    class Strict(ValueError):
        """An error that cannot be made from a message alone."""

        def __init__(self, code: int, where: str) -> None:
            super().__init__(f"{code} at {where}")

    @ag.custom()
    def test_strict(x: Any, /) -> Any:
        raise Strict(7, "the well")

    with pytest.raises(ValueError, match="test_strict: 7 at the well"):
        test_strict(x)
