"""Looking inside compiled functions: what `explain`, `source` and `graph` say of them."""

from __future__ import annotations

import linecache
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autograd_geo as ag
from autograd_geo import nn, optim
from autograd_geo.compiler.explain import RecordingInfo, recorded
from autograd_geo.compiler.function import MOST_RECORDINGS
from autograd_geo.compiler.regions import MOST_NODES, Reason

HOSTILE = "<script>alert(1)</script>\n\x1b[31m\\N</td>"


def explained(fn: Any, *args: Any) -> RecordingInfo:
    """The one recording of a function for these arguments."""
    fast = ag.compile(fn)
    fast(*args)
    (recording,) = fast.explain(measure=False).recordings
    return recording


def wave(c: Any, steps: int = 1000) -> Any:
    before, now, total = np.zeros(50), ag.zeros(50), 0.0
    now[10] = 1.0
    for _ in range(steps):
        before, now = now, 2 * now - before + c * (np.roll(now, 1) - 2 * now + np.roll(now, -1))
        total = total + now[35] ** 2
    return total


@pytest.fixture(scope="module")
def fast_wave() -> Any:
    fast = ag.compile(ag.value_and_grad(wave))
    fast(np.full(50, 0.2))
    return fast


@ag.custom(x=lambda g, x: g * np.cos(x), samples=(ag.sample((3,)),))
def called_sine(x: Any, /) -> Any:
    return np.sin(x)


# --- what it counts -----------------------------------------------------------------------------------------------


def test_an_expression_is_one_step_with_the_users_names_and_lines() -> None:
    def fn(x: Any) -> Any:
        y = x * 2.0 + 1.0
        return (y**2).sum()

    recording = explained(fn, np.ones(1000))
    (step,) = recording.steps
    assert (step.kind, step.shape, step.calls, step.ends) == ("loops", (1000,), 1, (Reason.RESULT,))
    assert [o.op for o in step.operations] == ["multiply", "add", "power", "sum"]
    assert [o.name for o in step.operations] == [None, "y", None, None]
    first = fn.__code__.co_firstlineno
    assert [o.where for o in step.operations] == [f"test_explain.py:{first + k}" for k in (1, 1, 2, 2)]
    assert step.operations[0].code == "y = x * 2.0 + 1.0"
    assert recording.arguments == "x: float64 (1000,)"
    assert step.kernel is not None and step.kernel.source.startswith("def kernel(a, o):")
    assert (step.seconds, recording.seconds) == (None, None)


INDEX = np.random.default_rng(0).integers(0, 1000, 200)


@pytest.mark.parametrize(
    ("fn", "read", "written"),
    [
        (lambda x: (x * 2.0 + 1.0).sum(), 8000 + 2 * 8, 8),  # two literals
        (lambda x: x * x, 8000, 8000),
        (lambda x: np.roll(x, 1) + np.roll(x, -1) + x, 8000, 8000),
        (lambda x: x[5:15] * 3.0, 10 * 8 + 8, 80),
        (lambda x: x[0:10] + x[5:15], 15 * 8, 80),  # five of them are read twice
        (lambda x: x[::2] + x[1::2], 8000, 4000),
        (lambda x: x[7] * 1.5, 8 + 8, 8),
        (lambda x: np.concatenate([x[:3], x[10:12]]) + 0.5, 5 * 8 + 8, 40),
        (lambda x: x[INDEX] * x[INDEX], len(set(INDEX)) * 8 + 200 * 8, 1600),  # and the table
        (lambda x: x.astype(np.float32) * np.float32(2), 8000 + 4, 4000),
        (lambda x: x.reshape(10, 100).max(axis=1), 8000, 80),
    ],
)  # fmt: skip
def test_bytes(fn: Any, read: int, written: int) -> None:
    recording = explained(fn, np.linspace(-1, 1, 1000))
    loops = [step for step in recording.steps if step.kind == "loops"]
    assert (sum(s.read for s in loops), sum(s.written for s in loops)) == (read, written)


def test_bytes_of_products_and_scatters() -> None:
    product = explained(lambda a, b: a @ b, np.ones((40, 30)), np.ones((30, 20)))
    (step,) = [step for step in product.steps if step.kind == "product"]
    assert (step.read, step.written) == ((40 * 30 + 30 * 20) * 8, 40 * 20 * 8)
    scatter = explained(ag.grad(lambda x: (x[INDEX] ** 2).sum()), np.ones(1000))
    (step,) = [step for step in scatter.steps if step.kind == "scatter"]
    assert (step.read, step.written) == (200 * 8 + 200 * 8, 8000)  # what is added, the table of where


def tangle(x: Any, v: Any) -> Any:
    """Different ops on single numbers, then one on an array."""
    rng = np.random.default_rng(0)
    values = [x, 0.5 * x]
    for kind, place in zip(rng.integers(0, 4, 1000), rng.integers(0, 2, 1000), strict=True):
        y = values[place]
        values[1 - place] = (
            ag.sin(y) if kind == 0 else ag.tanh(y) if kind == 1 else y * 0.7 if kind == 2 else y + values[1 - place]
        )
    return values[0] * v


def test_a_table_is_one_step_that_says_which_ops_it_has() -> None:
    fast = ag.compile(tangle)
    fast(0.3, np.ones(1000))
    explanation = fast.explain()
    (recording,) = explanation.recordings
    table, loops = recording.steps
    assert (table.kind, loops.kind) == ("table", "loops")
    ops = Counter(o.op for o in table.operations)
    assert ops.keys() == {"sin", "tanh", "multiply", "add"}
    assert 500 < ops.total() < 1000  # what no result needs is left out
    assert {o.where for o in table.operations} <= {
        f"test_explain.py:{tangle.__code__.co_firstlineno + k}" for k in range(20)
    }
    (length,) = table.shape
    assert ops.total() / 4 < length <= ops.total()  # some do several ops
    assert table.seconds is not None and 0 < table.seconds < recording.seconds * 2
    (program,) = [r.program for r in recorded(fast)]
    data = program.steps[0].what.data
    assert table.read == 8 + data.size + data.slots.nbytes
    assert table.written == 8 + data.slots.nbytes
    (crossing,) = [b for b in recording.boundaries if b.reader == loops.number]
    assert (crossing.step, crossing.bytes, crossing.reason) == (table.number, 8, Reason.TABLE)
    assert "a table of so many instructions" in str(explanation)
    source = fast.source(table.kernel.number)
    counts = [int(n.replace(",", "")) for n in re.findall(r"^# ([\d,]+) times$", source, re.MULTILINE)]
    assert source.count("def kernel(a, o):") == len(counts)
    assert sum(counts) == length
    assert counts == sorted(counts, reverse=True)
    assert f"{length:,} instructions of {len(counts)} kinds" in source
    assert "numbers on the way" in source
    picture = fast.graph().dot
    assert picture.count("sin ×") == 1  # one card for all
    assert "2 kernels" in str(explanation)


def test_the_same_table_again_is_the_same_kernel() -> None:
    def fn(x: Any, v: Any) -> Any:
        for _ in range(3):
            x = tangle(x, v).sum()
        return tangle(x * 0.5, v)

    fast = ag.compile(fn)
    fast(0.3, np.ones(10))
    explanation = fast.explain()
    (recording,) = explanation.recordings
    tables = [step for step in recording.steps if step.kind == "table"]
    assert [step.calls for step in tables] == [3, 3, 3, 1]
    assert len({step.kernel.number for step in tables if step.kernel is not None}) == 2
    assert sum(map(len, recording.groups)) == len(recording.steps)
    fast.graph()


def test_a_loop_of_a_thousand_steps_is_one_screen(fast_wave: Any) -> None:
    explanation = fast_wave.explain()
    (recording,) = explanation.recordings
    (program,) = [r.program for r in recorded(fast_wave)]
    calls = Counter(step.kernel.source for step in program.steps)
    assert len(recording.steps) == len(program.steps) > 2000
    assert {k.source for k in explanation.kernels} == calls.keys()
    assert all(step.calls == calls[step.kernel.source] for step in recording.steps if step.kernel)
    assert sum(map(len, recording.groups)) == len(recording.steps)
    forward = max((g for g in recording.groups if "roll" in {o.op for o in g[0].operations}), key=len)
    assert len(forward) > 990
    assert (forward[0].read, forward[0].written) == (3 * 400 + 8, 2 * 400)  # now, before, c, the literal 2; two results
    text = str(explanation)
    assert len(text.splitlines()) < 50
    assert max(map(len, text.splitlines())) < 140
    assert re.search(rf"\n +{forward[0].label} +{len(forward)} +50 ", text)
    assert "before, now = now, 2 * now" in text


def test_steps_and_the_whole_are_measured(fast_wave: Any) -> None:
    (recording,) = fast_wave.explain().recordings
    times = [step.seconds for step in recording.steps]
    assert all(t is not None and t >= 0 for t in times) and sum(times) > 0
    assert recording.seconds > 0
    large = ag.compile(lambda x: np.sqrt(x))
    large(np.ones(100_000))
    (step,) = large.explain().recordings[0].steps
    assert step.bandwidth == pytest.approx(1_600_000 / step.seconds)
    assert explained(lambda x: np.sqrt(x), np.ones(10)).steps[0].bandwidth is None


# --- why values go through memory ---------------------------------------------------------------------------------


def waiting(x: Any) -> Any:
    y = ag.exp(x)
    return y + np.roll(y, 1)


def later(x: Any) -> Any:
    y = ag.exp(x)
    z = np.roll(y, 1) * 2.0
    return y * 3.0 + np.roll(z, 1)


def long_sum(x: Any) -> Any:
    for k in range(3 * MOST_NODES):
        x = x * 0.5 + float(k)
    return x


@pytest.mark.parametrize(
    ("fn", "reasons"),
    [
        (lambda x: x * 2.0 + 1.0, set()),
        (lambda x: (x * 2.0 + 1.0).sum(), set()),
        (lambda x: x.reshape(10, 10) / x.reshape(10, 10).max(axis=0), {Reason.REDUCE}),
        (lambda x: np.roll(x * 2.0, 1) + 1.0, {Reason.MOVE}),
        (lambda x: (x * 2.0).reshape(50, 2).sum(axis=0), {Reason.SHAPE}),
        (lambda x: (x.reshape(10, 10) * 2.0) @ np.ones((10, 50)), {Reason.PRODUCT}),
        (ag.grad(lambda x: (x[INDEX % 100] ** 2).sum()), {Reason.SCATTER}),
        (lambda x: called_sine(x * 2.0) + 1.0, {Reason.CALL}),
        (waiting, {Reason.MOVE, Reason.WAITS}),
        (later, {Reason.MOVE, Reason.LATER}),
        (long_sum, {Reason.FULL}),
    ],
)  # fmt: skip
def test_reasons(fn: Any, reasons: set[Reason]) -> None:
    recording = explained(fn, np.linspace(0.1, 0.2, 100))
    assert {b.reason for b in recording.boundaries if b.reader is not None} == reasons
    results = [b for b in recording.boundaries if b.reader is None]
    assert [b.reason for b in results] == [Reason.RESULT]
    for step in recording.steps:
        assert set(step.ends) == {b.reason for b in recording.boundaries if b.step == step.number}


def test_what_a_reader_waits_for_is_named() -> None:
    recording = explained(waiting, np.ones(100))
    (boundary,) = [b for b in recording.boundaries if b.reason is Reason.WAITS]
    assert (boundary.value.name, boundary.waits_for.op) == ("y", "roll")  # type: ignore[union-attr]
    assert (boundary.step, boundary.reader, boundary.bytes) == (0, 1, 800)


# --- what a user can act on ---------------------------------------------------------------------------------------


def test_what_is_called_back_comes_first_with_its_line() -> None:
    @ag.compile
    def fn(x: Any) -> Any:
        z = called_sine(x * 2.0)
        return z + 1.0

    fn(np.ones(4))
    explanation = fn.explain()
    (step,) = explanation.recordings[0].called_back
    assert (step.kind, step.kernel, step.label, step.calls) == ("call", None, "called_sine", 1)
    assert step.operations[0].name == "z"
    assert (step.read, step.written) == (32, 32)
    text = str(explanation)
    assert text.index("called back in Python") < text.index("\nkernels\n")
    assert f"test_explain.py:{fn.__wrapped__.__code__.co_firstlineno + 2}" in text
    assert "ag.pointwise" in step.called_back
    half = explained(lambda x: x * 2.0, np.ones(3, np.float16))
    assert "float16" in half.steps[0].called_back


def test_recordings_for_values_that_python_read_say_which_and_where() -> None:
    @ag.compile
    def fn(x: Any) -> Any:
        positive = x.sum() > 0
        if positive:
            return x * 2.0
        return x - 1.0

    for sign in (1.0, -1.0, 1.0):
        fn(np.full(3, sign))
    fn(np.ones(4, np.float32))
    explanation = fn.explain(measure=False)
    assert [r.arguments for r in explanation.recordings] == ["x: float64 (3,)"] * 2 + ["x: float32 (4,)"]
    line = fn.__wrapped__.__code__.co_firstlineno + 3
    for recording, value in zip(explanation.recordings, (True, False, True), strict=True):
        (condition,) = recording.holds
        assert condition == f"greater 'positive' is {value}, read at test_explain.py:{line}: if positive:"
        assert condition in str(explanation)
    assert "fn was recorded 3 times" in explanation.status
    assert "recording 2, for x: float32 (4,)" in str(explanation)


def test_what_arguments_a_recording_is_for() -> None:
    net = nn.Linear(2, 3)
    recording = explained(
        lambda net, data, rate, count, kind: net(data["x"]).detach() * rate * count,
        net, {"x": np.ones((4, 2)), "y": [ag.ones(3)]}, 0.5, 3, "plain",
    )  # fmt: skip
    assert recording.arguments == (
        "net: Linear, data: {x: float64 (4, 2), y: [float64 (3,)]}, rate: float, count: 3, kind: 'plain'"
    )
    with ag.no_grad():
        assert explained(lambda x: x * 2.0, 1.0).arguments == "x: float, under no_grad"


def test_what_is_not_compiled_says_so() -> None:
    @ag.compile
    def fn(x: Any) -> Any:
        return x * 2.0

    assert "not compiled yet" in str(fn.explain())
    for look in (fn.source, fn.graph):
        with pytest.raises(RuntimeError, match="not compiled yet"):
            look()

    @ag.compile
    def failing(x: Any) -> Any:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        failing(1.0)
    assert "not compiled yet" in str(failing.explain())

    for n in range(MOST_RECORDINGS):
        fn(np.ones(n))
    assert f"recorded {MOST_RECORDINGS} times" in fn.explain(measure=False).status
    assert "runs uncompiled" in str(fn.explain(measure=False))
    assert len(str(fn.explain()).splitlines()) < 100  # tables of the latest recordings only


# --- what it must not do --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [ag.tanh, called_sine])  # updates in place, and those that wait for the end
def test_measuring_changes_nothing(target: Any) -> None:
    def trained(looked_at: bool) -> list[np.ndarray[Any, Any]]:
        ag.seed(3)
        net = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
        optimizer = optim.Adam(net.parameters(), lr=0.05)
        x = np.linspace(-1, 1, 6)[:, None]

        def state() -> list[np.ndarray[Any, Any]]:
            arrays = [p.numpy() for p in net.parameters()] + [p.grad.numpy() for p in net.parameters()]
            return [a.copy() for a in arrays] + [np.array(v) for s in optimizer.state for v in s.values()]

        @ag.compile
        def step(x: Any, y: Any) -> Any:
            optimizer.zero_grad()
            loss = nn.mse_loss(net(x), target(y)) + ag.random.uniform(())
            loss.backward()
            optimizer.step()
            return loss

        losses = []
        for _ in range(4):
            losses.append(step(x, x**2))
            if looked_at:
                before = state()
                step.explain()
                step.source()
                step.graph()
                for a, b in zip(before, state(), strict=True):
                    np.testing.assert_array_equal(a, b)
        return [*state(), *(loss.numpy() for loss in losses)]

    for a, b in zip(trained(True), trained(False), strict=True):
        np.testing.assert_array_equal(a, b)


def test_updates_are_in_place_or_copied_at_the_end() -> None:
    w = nn.Parameter(np.ones(1000))
    optimizer = optim.SGD([w], 0.1)

    def step(x: Any, kept: Any) -> None:
        optimizer.zero_grad()
        (w * kept(x)).sum().backward()
        optimizer.step()

    for kept, copied in ((ag.tanh, 0), (called_sine, 2 * 8000)):  # the parameter and its gradient
        fast = ag.compile(lambda x, kept=kept: step(x, kept))
        fast(np.ones(1000))
        explanation = fast.explain(measure=False)
        assert explanation.recordings[0].copied_bytes == copied
        assert ("copied into place at the end" in str(explanation)) == bool(copied)
        access = {o.access for k in explanation.kernels for o in k.operands if "input 'w'" in o.value}
        assert ("read and written" in access) == (not copied)


def test_an_input_that_is_gone_is_stood_in_for() -> None:
    w = nn.Parameter([1.0, 2.0, 3.0])

    @ag.compile
    def fn(x: Any) -> None:
        (w * x).sum().backward()

    fn(np.ones(3))
    fn(np.ones(3))  # adds to the gradient that is there
    w.grad = None
    assert all(r.seconds > 0 for r in fn.explain().recordings)
    assert w.grad is None


def test_names_and_lines_of_a_user_control_nothing(tmp_path: Path) -> None:
    code = f"def fn(w, x, text):\n    y = w * x  # {HOSTILE!r} </td><script>\n    return np.roll(y, 1) + 1.0\n"
    path = tmp_path / "a<b>&.py"
    path.write_text(code)
    scope: dict[str, Any] = {"np": np}
    exec(compile(code, str(path), "exec"), scope)
    linecache.checkcache(str(path))
    w = ag.tensor(np.ones(3), requires_grad=True, name=HOSTILE)
    fast = ag.compile(scope["fn"])
    with ag.no_grad():
        fast(w, np.ones(3), HOSTILE)
    explanation = fast.explain(measure=False)
    operand = explanation.kernels[0].operands[0].value
    assert "alert(1)" in operand and operand.isprintable()
    for text in (str(explanation), fast.source()):
        assert "alert(1)" in text
        assert all(c.isprintable() or c == "\n" for c in text)
    compile(fast.source(), "kernels", "exec")
    html = explanation._repr_html_()
    assert "<script" not in html and html.count("<td") == html.count("</td>")
    drawing = fast.graph()
    assert "alert(1)" in drawing.dot and "<script" not in drawing.dot


# --- source and graph ---------------------------------------------------------------------------------------------


def test_source_is_the_kernels_below_what_they_are_for(fast_wave: Any) -> None:
    explanation = fast_wave.explain(measure=False)
    text = fast_wave.source()
    compile(text, "kernels", "exec")
    assert all(kernel.source in text for kernel in explanation.kernels)
    for kernel in (explanation.kernels[0], explanation.kernels[-1]):
        alone = fast_wave.source(kernel.number)
        assert alone in text and kernel.source in alone
        calls = sum(step.kernel is kernel for step in explanation.recordings[0].steps)
        assert alone.startswith(f"# kernel {kernel.number}, called {'once' if calls == 1 else f'{calls:,} times'};")
    line = wave.__code__.co_firstlineno + 4
    assert f"test_explain.py:{line}" in text
    with pytest.raises(IndexError, match=rf"has {len(explanation.kernels)} kernels.* no kernel 99"):
        fast_wave.source(99)


def test_graph_shows_every_value_in_the_colour_of_its_kernel() -> None:
    @ag.compile
    def fn(x: Any) -> Any:
        y = ag.exp(x) * 2.0
        return np.roll(y, 1) + called_sine(y)

    with pytest.raises(RuntimeError, match="not compiled"):
        fn.graph()
    fn(np.ones(5))
    drawing = fn.graph()
    for text in ("<b>y</b>", "<b>exp</b>", "<b>called_sine</b>", "label=<roll>", "float64 5", "kernel 0", "kernel 1"):
        assert text in drawing.dot, text
    assert "called_sine, called back in Python" in drawing.dot
    colors = dict(re.findall(r'bgcolor="(#\w+)" align="left">(kernel \d)', drawing.dot))
    assert len(colors) == 2
    for color in colors:
        assert drawing.dot.count(color) >= 2  # in the legend, and on what the kernel computes
    assert drawing.dot.count("penwidth") == 3  # y to the roll and to the call, whose result comes back
    assert "rankdir=TB" in fn.graph(rankdir="TB").dot
    with pytest.raises(ValueError, match="rankdir"):
        fn.graph(rankdir="up")
    with pytest.raises(IndexError, match="has 1 recordings"):
        fn.graph(1)


def test_graph_of_a_long_loop_draws_its_step_once(fast_wave: Any) -> None:
    drawing = fast_wave.graph()
    nodes = re.findall(r"^\s*\"?s\d+\.\d+\"? \[", drawing.dot, re.MULTILINE)
    assert len(nodes) < 300
    assert re.search(r"kernel \d ×99\d", drawing.dot)
    pytest.importorskip("pygraphviz")
    assert fast_wave.graph().svg().startswith("<svg")


def test_graph_of_many_different_values_draws_steps() -> None:
    @ag.compile
    def fn(x: Any) -> Any:
        for k in range(200):
            x = ag.tanh(x * float(k % 7 + 1) + x)
        return x

    fn(1.0)
    drawing = fn.graph()
    assert re.search(r"^\s*s0 \[", drawing.dot, re.MULTILINE)
    assert "tanh ×" in drawing.dot
    assert len(drawing.dot) < 50_000


def test_the_compiler_does_not_need_the_drawing() -> None:
    code = "import autograd_geo.compiler, sys; assert not [m for m in sys.modules if m.startswith('autograd_geo.viz')]"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_gather_counts_its_positions_and_what_they_take() -> None:
    fast = ag.compile(lambda x, i: ag.take(x, i, 0) * 2.0)
    x, i = np.arange(60.0).reshape(30, 2), np.array([0, 2, 2, 5])
    fast(x, i)
    (*_, step) = fast.explain(measure=False).recordings[0].steps
    assert (step.read, step.written) == (8 * 8 + 4 * 8 + 8, 8 * 8)  # elements, positions, the number 2
    assert "take" in str(fast.explain()) and "<svg" in fast.graph().svg()


def test_joins_and_running_sums_are_explained() -> None:
    fast = ag.compile(lambda x: ag.cumsum(x) + ag.stack([x * k for k in range(12)]).sum(0))
    fast(np.ones(5))
    report = fast.explain()
    assert "cumsum" in str(report) and "many arrays are joined" in str(report)
    assert "<svg" in fast.graph().svg()
