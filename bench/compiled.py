"""Speed of compiled functions: an expression, two networks, an array formula, two waves, first calls, a long tape."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from .eager import batch, initial, wavelet
from .harness import OURS, Contestant, Row, Work, at_least, at_most, main, ours_at_most
from .peers import PACKAGES, jax_eager, pytorch

BY_HAND, JAX, SCAN, TORCH, PRODUCTS = (
    "hand-written kernel", "JAX jit", "JAX jit, lax.scan", "PyTorch eager", "its matrix products",
)  # fmt: skip
Results = tuple[Any, Sequence[Any]]  # a value and derivatives

# --- the compilers --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Compiler:
    """What the rows use of a compiler, or of PyTorch, which is timed as it is.

    `differentiate(fn, n)` is a function of n arguments that gives the value of `fn` and the derivatives with respect
    to each; `training(loss, values, rule)` gives a step, a function of `loss`'s arguments besides the parameters,
    and a function that says what the parameters are now. `loop(body, state, xs)` calls `state = body(state, x)` for
    each x. `xp` and `nn` are functions of NumPy's names and of PyTorch's.
    """

    xp: Any
    nn: Any
    constant: Callable[[Any], Any]
    differentiate: Callable[[Callable[..., Any], int], Callable[..., Results]]
    training: Callable[[Callable[..., Any], Sequence[Any], str], tuple[Callable[..., Any], Callable[[], Sequence[Any]]]]
    loop: Callable[[Callable[[Any, Any], Any], Any, Sequence[float]], Any]


def _plain_loop(body: Callable[[Any, Any], Any], state: Any, xs: Sequence[float]) -> Any:
    for x in xs:
        state = body(state, x)
    return state


def _training(library: Any, compiled: Any, loss: Any, values: Any, rule: str) -> Any:
    """A step in a library with PyTorch's names for optimisers."""
    parameters = [library.nn.Parameter(library.tensor(v)) for v in values]
    optimizer = getattr(library.optim, rule)(parameters, lr=0.01)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        value = loss(parameters, x, y)
        value.backward()
        optimizer.step()
        return value.detach()

    return compiled(step), lambda: [p.detach() for p in parameters]


def ours() -> Compiler:
    import autograd_geo as ag

    def differentiate(fn: Callable[..., Any], n: int) -> Callable[..., Results]:
        return ag.compile(ag.value_and_grad(fn, tuple(range(n))))

    return Compiler(ag, ag, ag.tensor, differentiate, partial(_training, ag, ag.compile), _plain_loop)


def torch_eager() -> Compiler:
    library = pytorch()
    torch = library.xp

    def differentiate(fn: Callable[..., Any], n: int) -> Callable[..., Results]:
        def run(*values: Any) -> Results:
            leaves = [torch.as_tensor(v, dtype=torch.float64).detach().requires_grad_() for v in values]
            value = fn(*leaves)
            value.backward()
            return value.detach(), [v.grad for v in leaves]

        return run

    return Compiler(
        torch, torch.nn.functional, torch.tensor, differentiate, partial(_training, torch, lambda f: f), _plain_loop
    )


def jax_jit() -> Compiler:
    library, jax = jax_eager(), import_module("jax")
    xp = library.xp

    def differentiate(fn: Callable[..., Any], n: int) -> Callable[..., Results]:
        compiled = jax.jit(jax.value_and_grad(fn, tuple(range(n))))

        def run(*values: Any) -> Results:
            value, gradients = compiled(*values)
            value.block_until_ready()
            return value, gradients

        return run

    def training(loss: Callable[..., Any], values: Sequence[Any], rule: str) -> Any:
        def adam(state: Any, *data: Any) -> Any:
            parameters, first, second, t = state
            value, gradients = jax.value_and_grad(loss)(parameters, *data)
            t = t + 1
            first = [0.9 * m + 0.1 * g for m, g in zip(first, gradients, strict=True)]
            second = [0.999 * v + 0.001 * g * g for v, g in zip(second, gradients, strict=True)]
            steps = [0.01 * (m / (1 - 0.9**t)) / (xp.sqrt(v / (1 - 0.999**t)) + 1e-8)
                     for m, v in zip(first, second, strict=True)]  # fmt: skip
            return value, ([p - s for p, s in zip(parameters, steps, strict=True)], first, second, t)

        def sgd(state: Any, *data: Any) -> Any:
            value, gradients = jax.value_and_grad(loss)(state[0], *data)
            return value, ([p - 0.01 * g for p, g in zip(state[0], gradients, strict=True)],)

        parameters = [xp.asarray(v) for v in values]
        first, second = ([xp.zeros_like(p) for p in parameters] for _ in range(2))
        state: Any = (parameters,) if rule == "SGD" else (parameters, first, second, 0.0)
        compiled = jax.jit(sgd if rule == "SGD" else adam, donate_argnums=0)

        def step(*data: Any) -> Any:
            nonlocal state
            value, state = compiled(state, *data)
            return value.block_until_ready()

        def scanned(x: Any, y: Any, size: int) -> Callable[[Any], None]:
            """What runs an epoch in an order of rows as one loop."""
            loop = jax.jit(lambda state, xs: jax.lax.scan(lambda s, d: adam(s, *d)[::-1], state, xs), donate_argnums=0)

            def epoch(rows: Any) -> None:
                nonlocal state
                state, losses = loop(state, (x[rows].reshape(-1, size, 1), y[rows].reshape(-1, size, 1)))
                losses.block_until_ready()

            return epoch

        step.scanned = scanned  # type: ignore[attr-defined]
        return step, lambda: state[0]

    def loop(body: Callable[[Any, Any], Any], state: Any, xs: Sequence[float]) -> Any:
        return jax.lax.scan(lambda state, x: (body(state, x), None), state, xp.asarray(xs))[0]

    return Compiler(xp, jax.nn, xp.asarray, differentiate, training, loop)


COMPILERS: dict[str, Callable[[], Compiler]] = {OURS: ours, TORCH: torch_eager, JAX: jax_jit, SCAN: jax_jit}


def _by_hand() -> Any:
    return import_module("bench.by_hand")  # not above: a first call includes the import of Numba


def _differentiated(fn: Callable[..., Any], values: Sequence[Any], by_hand: Callable[[], Any], name: str) -> Work:
    """The value and the derivatives of `fn(compiler, *values)`; `by_hand()` makes the kernel that does the same."""
    if name == BY_HAND:
        run = partial(by_hand(), *values)
    else:
        compiler = COMPILERS[name]()
        given = [compiler.constant(v) if isinstance(v, np.ndarray) else v for v in values]
        run = partial(compiler.differentiate(partial(fn, compiler), len(values)), *given)

    def check() -> Sequence[Any]:
        run()  # records and compiles
        value, gradients = run()
        return [value, *gradients]

    return Work(run, check)


# --- formulas -------------------------------------------------------------------------------------------------


def expression(name: str) -> Work:
    """((x + y) * z)**2 and its gradient, called with Python floats."""
    return _differentiated(
        lambda _, x, y, z: ((x + y) * z) ** 2, (-2.0, 5.0, -4.0), lambda: _by_hand().expression, name
    )


def tanh_sum(name: str, size: int = 4_000_000) -> Work:
    """The sum of tanh(x + 4y)**2 + x and its gradient."""

    def fn(compiler: Compiler, x: Any, y: Any) -> Any:
        return (compiler.xp.tanh(x + 4 * y) ** 2 + x).sum()

    values = np.random.default_rng(0).standard_normal((2, size))
    return _differentiated(fn, list(values), lambda: _by_hand().tanh_sum, name)


# --- networks -------------------------------------------------------------------------------------------------


def _network(compiler: Compiler, parameters: Sequence[Any], x: Any) -> Any:
    """A ReLU network of linear layers, each with weights (outputs, inputs) and a bias."""
    for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
        x = compiler.nn.relu(x @ weight.T + bias)
    return x @ parameters[-2].T + parameters[-1]


def _trained(step: Callable[..., Any], parameters: Callable[[], Sequence[Any]], data: Sequence[Any]) -> Work:
    """A training step; what is compared is the loss and the parameters after three."""

    def check() -> Sequence[Any]:
        losses = [step(*data) for _ in range(3)]
        return [losses[-1], *parameters()]

    return Work(partial(step, *data), check)


def lecture_network(name: str) -> Work:
    """1-3-1, a batch of 5, float64, mean squared error, one step of Adam."""
    values, data = initial((1, 3, 1), "float64"), batch()
    if name == BY_HAND:
        kernel, t = _by_hand().lecture_step, 0
        flat, first, second = np.concatenate([v.ravel() for v in values]), np.zeros(10), np.zeros(10)

        def step(x: Any, y: Any) -> Any:
            nonlocal t
            t += 1
            return kernel(flat, first, second, float(t), x, y)

        ends = np.cumsum([v.size for v in values])[:-1]
        return _trained(
            step, lambda: [p.reshape(v.shape) for p, v in zip(np.split(flat, ends), values, strict=True)], data
        )
    compiler = COMPILERS[name]()

    def loss(parameters: Sequence[Any], x: Any, y: Any) -> Any:
        return ((_network(compiler, parameters, x) - y) ** 2).mean()

    return _trained(*compiler.training(loss, values, "Adam"), [compiler.constant(v) for v in data])


def lecture_fit(name: str, steps: int = 2000) -> Work:
    """The same inside a training loop over shuffled batches; time is per step, of the last of three epochs."""
    values, order = initial((1, 3, 1), "float64"), _orders(5 * steps, 3)
    x = np.random.default_rng(2).uniform(-1, 1, (5 * steps, 1))
    y = np.sin(3 * x)

    def adam() -> tuple[Callable[[Any], Any], Callable[[], Sequence[Any]]]:
        """What runs an epoch in an order of rows, and the parameters after it."""
        if name == BY_HAND:
            kernel, t = _by_hand().lecture_epoch, 0
            flat, first, second = np.concatenate([v.ravel() for v in values]), np.zeros(10), np.zeros(10)

            def epoch(rows: Any) -> None:
                nonlocal t
                kernel(flat, first, second, t, x, y, rows, 5)
                t += steps

            ends = np.cumsum([v.size for v in values])[:-1]
            return epoch, lambda: [p.reshape(v.shape) for p, v in zip(np.split(flat, ends), values, strict=True)]
        compiler = COMPILERS[name]()

        def loss(parameters: Sequence[Any], x: Any, y: Any) -> Any:
            return ((_network(compiler, parameters, x) - y) ** 2).mean()

        step, parameters = compiler.training(loss, values, "Adam")
        if name == SCAN:
            return step.scanned(x, y, 5), parameters  # type: ignore[attr-defined]

        def one_by_one(rows: Any) -> None:
            for five in rows.reshape(-1, 5):
                step(compiler.constant(x[five]), compiler.constant(y[five]))

        return one_by_one, parameters

    def run() -> tuple[float, Sequence[Any]]:
        if name == OURS:
            return _fitted(values, x, y)
        epoch, parameters = adam()
        for rows in order:
            start = time.perf_counter()
            epoch(rows)
            seconds = time.perf_counter() - start
        return seconds, parameters()

    return Work(lambda: run()[0], lambda: run()[1], steps, own_clock=True)


def _orders(rows: int, epochs: int) -> list[Any]:
    from autograd_geo.data import DataLoader

    loader = DataLoader(np.arange(rows), batch_size=5)
    return [loader.order() for _ in range(epochs)]


def _fitted(values: Sequence[Any], x: Any, y: Any) -> tuple[float, Sequence[Any]]:
    import autograd_geo as ag

    model = ag.nn.Sequential(ag.nn.Linear(1, 3), ag.nn.ReLU(), ag.nn.Linear(3, 1))
    for p, v in zip(model.parameters(), values, strict=True):
        p.assign(v)
    ends: list[float] = []
    ag.optim.fit(
        model, ag.optim.Adam(model.parameters(), lr=0.01), ag.nn.mse_loss, (x, y), epochs=3, batch_size=5,
        callback=lambda history: ends.append(time.perf_counter()), compile=True,
    )  # fmt: skip
    return ends[-1] - ends[-2], [p.numpy() for p in model.parameters()]


def classifier(name: str) -> Work:
    """784-256-128-10, a batch of 128, float32, cross-entropy against one-hot targets, one step of SGD."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((128, 784), dtype=np.float32), np.eye(10, dtype=np.float32)[rng.integers(0, 10, 128)]
    values = initial((784, 256, 128, 10), "float32")
    if name == PRODUCTS:
        return Work(partial(_products, x, values[::2]))
    compiler = COMPILERS[name]()

    def loss(parameters: Sequence[Any], x: Any, y: Any) -> Any:
        return -(y * compiler.nn.log_softmax(_network(compiler, parameters, x), -1)).sum() / 128

    return _trained(*compiler.training(loss, values, "SGD"), [compiler.constant(v) for v in (x, y)])


def _products(x: Any, weights: Sequence[Any]) -> None:
    """The matrix products of one step, and nothing else: of each layer, and of its two derivatives."""
    layers = []
    for w in weights:
        layers.append((x, w))
        x = x @ w.T
    for k, (x_in, w) in reversed(list(enumerate(layers))):
        _ = x.T @ x_in
        x = x @ w if k else x


# --- waves ----------------------------------------------------------------------------------------------------


def line_wave(name: str, points: int = 500, steps: int = 1000) -> Work:
    """The wave of `eager.wave`: one dimension, a Python loop over time, a gradient through all of it."""
    pulse = wavelet(steps)

    def misfit(compiler: Compiler, c: Any) -> Any:
        roll, source = compiler.xp.roll, compiler.constant(np.eye(points)[100])

        def body(state: Any, s: Any) -> Any:
            u0, u1, loss = state
            u2 = 2 * u1 - u0 + c * (roll(u1, 1) - 2 * u1 + roll(u1, -1)) + source * s
            return u1, u2, loss + u2[400] ** 2

        still = compiler.constant(np.zeros(points))
        return compiler.loop(body, (still, still, 0.0), pulse)[-1]

    def kernel() -> Any:
        memory = np.empty((steps + 2, points + 2)), np.empty((3, points + 2))
        return lambda c: _by_hand().line_wave(c, np.array(pulse), 100, 400, *memory)

    return _differentiated(misfit, [0.25 + 0.05 * np.sin(np.arange(points) / 40.0)], kernel, name)


def plane_wave(name: str, points: int = 300, steps: int = 500) -> Work:
    """The wave in two dimensions, recorded along a row of receivers; the gradient is that of the velocity map."""
    pulse = wavelet(steps)
    at, receivers = (points // 2, points // 5), points // 10

    def misfit(compiler: Compiler, v: Any) -> Any:
        roll = compiler.xp.roll
        point = np.zeros((points, points))
        point[at] = 1.0
        c, source, still = v * v, compiler.constant(point), compiler.constant(np.zeros((points, points)))

        def body(state: Any, s: Any) -> Any:
            u0, u1, loss = state
            laplacian = roll(u1, 1, 0) + roll(u1, -1, 0) + roll(u1, 1, 1) + roll(u1, -1, 1) - 4 * u1
            u2 = 2 * u1 - u0 + c * laplacian + source * s
            return u1, u2, loss + (u2[receivers] ** 2).sum()

        return compiler.loop(body, (still, still, 0.0), pulse)[-1]

    def kernel() -> Any:
        memory = np.empty((steps + 2, points + 2, points + 2)), np.empty((3, points + 2, points + 2))
        return lambda v: _by_hand().plane_wave(v, np.array(pulse), at, receivers, *memory)

    i, j = np.mgrid[:points, :points] / 40.0
    return _differentiated(misfit, [0.5 + 0.05 * np.sin(i) * np.cos(j)], kernel, name)


# --- first calls ----------------------------------------------------------------------------------------------


def first_call(name: str, kept: bool) -> Work:
    """The first call of the 1-D wave in a fresh process; `kept`: with a cache that another process has filled."""
    COMPILERS[name]()  # is it installed?
    environment = dict(os.environ)
    folder = tempfile.TemporaryDirectory()

    def run() -> float:
        with tempfile.TemporaryDirectory() as fresh:
            environment["AUTOGRAD_GEO_CACHE_DIR"] = folder.name if kept else fresh
            code = f"from bench.compiled import first_seconds; print(first_seconds({name!r}, {kept}))"
            done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
        return float(done.stdout)

    if kept:
        run()
    return Work(run, own_clock=True)


def first_seconds(name: str, beyond_recording: bool) -> float:
    """Seconds of the first call in this process; or what they are beyond those of running it once uncompiled."""
    run = line_wave(name).run
    start = time.perf_counter()
    run()
    first = time.perf_counter()
    if not beyond_recording:
        return first - start
    function = run.func.__wrapped__  # type: ignore[attr-defined]
    function(*run.args)  # type: ignore[attr-defined]
    return (first - start) - (time.perf_counter() - first)


# --- a tape ---------------------------------------------------------------------------------------------------


def scalar_tape(name: str, length: int = 1_000) -> Work:
    """A chain of scalar ops in no order that repeats; time is per op of the chain, forward and backward."""
    rng = np.random.default_rng(0)
    kinds, numbers = rng.integers(0, 6, length), rng.uniform(0.5, 1.5, length)

    def chain(compiler: Compiler, p: Any) -> Any:
        functions = compiler.xp.sin, compiler.xp.cos, compiler.xp.tanh
        x = p
        for kind, number in zip(kinds.tolist(), numbers.tolist(), strict=True):
            if kind < 3:
                x = functions[kind](x)
            elif kind == 4:
                x = x + number
            else:
                x = x * (number if kind == 3 else p)
        return x

    def kernel() -> Any:
        values = np.empty(length + 1)
        return lambda p: _by_hand().scalar_tape(p, kinds, numbers, values)

    work = _differentiated(chain, [0.7], kernel, name)
    return Work(work.run, work.check, length)


def _contestants(prepare: Callable[..., Work], *names: str) -> list[Contestant]:
    return [Contestant(name, partial(prepare, name=name)) for name in names]


ROWS = [
    Row(
        "expression", "((x+y)z)**2 on floats, value and gradient",
        _contestants(expression, OURS, JAX, TORCH, BY_HAND), [at_least(5, JAX)],
    ),
    Row(
        "lecture", "1-3-1, batch 5, Adam step",
        _contestants(lecture_network, OURS, JAX, TORCH, BY_HAND), [at_least(8, JAX)],
    ),
    Row(
        "fit", "1-3-1, batch 5, Adam, inside a training loop over 2,000 batches, each",
        _contestants(lecture_fit, OURS, SCAN, TORCH, BY_HAND),
        [at_least(50, SCAN), at_least(1000, TORCH), ours_at_most(2, BY_HAND)],
    ),
    Row(
        "classifier", "784-256-128-10, batch 128, float32, SGD step",
        _contestants(classifier, OURS, JAX, TORCH, PRODUCTS), [at_least(1, JAX), ours_at_most(1.2, PRODUCTS)],
        rtol=1e-4,
    ),
    Row(
        "tanh", "tanh(x+4y)**2 + x, 4,000,000 float64, sum and gradient",
        _contestants(tanh_sum, OURS, JAX, TORCH, BY_HAND), [at_least(1.5, JAX)],
    ),
    Row(
        "wave", "1-D wave, 500 points, 1,000 steps, loss and gradient",
        _contestants(line_wave, OURS, SCAN, TORCH, BY_HAND),
        [at_most(1e-3), at_least(6, SCAN), ours_at_most(1, BY_HAND)],
    ),
    Row(
        "plane_wave", "2-D wave, 300x300, 500 steps, loss and gradient",
        _contestants(plane_wave, OURS, SCAN, BY_HAND), [at_least(2, SCAN), ours_at_most(1.5, BY_HAND)],
    ),
    Row(
        "cold", "1-D wave, first call in a fresh process, nothing kept",
        _contestants(partial(first_call, kept=False), OURS, SCAN), [at_most(5)],
    ),
    Row(
        "warm", "the same with kernels kept on disk, beyond running it uncompiled",
        _contestants(partial(first_call, kept=True), OURS), [at_most(0.5)],
    ),
    Row(
        "tape", "1,000 different scalar ops, value and gradient, each",
        _contestants(scalar_tape, OURS, TORCH, BY_HAND), [at_most(12e-9)],
    ),
]  # fmt: skip

if __name__ == "__main__":
    raise SystemExit(main(__doc__ or "", ROWS, (*PACKAGES, "numba")))
