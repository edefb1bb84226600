"""Speed of the eager path: one expression, a long chain, two networks, a wave, the import."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from .harness import OURS, Contestant, Row, Target, Work, at_least, at_most, main
from .peers import LIBRARIES, PACKAGES, Library
from .source_lines import WITHOUT, scalar_op, small_array_op


def _contestants(prepare: Callable[[str], Work], *names: str) -> list[Contestant]:
    return [Contestant(name, partial(prepare, name)) for name in names]


# --- scalars --------------------------------------------------------------------------------------------------


def expression(name: str) -> Work:
    """((x + y) * z)**2 and its gradient, on Python floats."""
    library = LIBRARIES[name]()
    leaf = library.leaf

    if leaf is None:
        gradient = library.gradient(lambda x, y, z: ((x + y) * z) ** 2)
        transformed = partial(gradient, -2.0, 5.0, -4.0)
        return Work(transformed, transformed)

    def run() -> Sequence[Any]:
        x, y, z = leaf(-2.0), leaf(5.0), leaf(-4.0)
        f = ((x + y) * z) ** 2
        f.backward()
        return x.grad, y.grad, z.grad

    return Work(run, run)


def chain(name: str, length: int) -> Work:
    """x times a number, `length` times over."""

    def product(length: int, x: Any) -> Any:
        for _ in range(length):
            x = x * 1.0000001
        return x

    gradient = LIBRARIES[name]().gradient
    return Work(partial(gradient(partial(product, length)), 1.0), partial(gradient(partial(product, 100)), 1.0), length)


# --- networks -------------------------------------------------------------------------------------------------


def initial(sizes: Sequence[int], dtype: Any) -> list[np.ndarray[Any, Any]]:
    """Weights (outputs, inputs) and bias of each layer, one after the other."""
    rng = np.random.default_rng(0)
    pairs = [(m, n) for n, m in pairwise(sizes)]
    return [(rng.uniform(-1, 1, shape) / math.sqrt(m[1])).astype(dtype) for m in pairs for shape in (m, m[:1])]


def _training(library: Library, sizes: Sequence[int], dtype: Any, loss: str, optimizer: str, x: Any, y: Any) -> Work:
    """One training step of a ReLU network, in a library with PyTorch's names for networks."""
    nn, assign = library.nn, library.assign
    assert assign is not None
    layers = []
    for n, m in pairwise(sizes):
        layers += [nn.Linear(n, m, dtype=getattr(library.xp, dtype, dtype)), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    parameters = list(model.parameters())
    for p, value in zip(parameters, initial(sizes, dtype), strict=True):
        assign(p, value)
    x, y = library.constant(x), library.constant(y)
    loss_of, steps = getattr(nn, loss)(), getattr(library.optim, optimizer)(parameters, lr=0.01)

    def step() -> None:
        steps.zero_grad()
        loss_of(model(x), y).backward()
        steps.step()

    def check() -> Sequence[Any]:
        for _ in range(3):
            step()
        return [p.grad for p in parameters] + [p.detach() for p in parameters]

    return Work(step, check)


def classifier(name: str) -> Work:
    """784-256-128-10, a batch of 128, float32, cross-entropy, SGD."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((128, 784), dtype=np.float32), rng.integers(0, 10, 128)
    return _training(LIBRARIES[name](), (784, 256, 128, 10), "float32", "CrossEntropyLoss", "SGD", x, y)


def batch() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    x = np.linspace(-1, 1, 5)[:, None]
    return x, np.tanh(-1.5 * x)


def lecture_network(name: str) -> Work:
    """1-3-1, a batch of 5, float64, mean squared error, Adam."""
    library = LIBRARIES[name]()
    if library.nn is None:
        return _lecture_by_hand(library)
    return _training(library, (1, 3, 1), "float64", "MSELoss", "Adam", *batch())


def _lecture_by_hand(library: Library) -> Work:
    """The same for a library without networks and optimisers."""
    xp, (x, y) = library.xp, batch()
    values = [library.constant(v) for v in initial((1, 3, 1), "float64")]
    first, second = ([np.zeros(v.shape) for v in values] for _ in range(2))
    gradients: Sequence[Any] = ()
    count = 0

    def loss(w: Any, b: Any, v: Any, c: Any) -> Any:
        return xp.mean((xp.maximum(x @ w.T + b, 0) @ v.T + c - y) ** 2)

    gradient = library.gradient(loss)

    def step() -> None:
        nonlocal gradients, count
        count += 1
        gradients = gradient(*values)
        for k, g in enumerate(gradients):
            first[k] = 0.9 * first[k] + 0.1 * g
            second[k] = 0.999 * second[k] + 0.001 * g * g
            root = xp.sqrt(second[k] / (1 - 0.999**count)) + 1e-8
            values[k] = values[k] - 0.01 / (1 - 0.9**count) * first[k] / root

    def check() -> Sequence[Any]:
        for _ in range(3):
            step()
        return [*gradients, *values]

    return Work(step, check)


# --- a wave ---------------------------------------------------------------------------------------------------


def wavelet(steps: int) -> list[float]:
    """A Ricker wavelet, limited so that there are no denormal numbers."""
    phase = (math.pi * 0.02 * (np.arange(steps) - 60.0)) ** 2
    samples: list[float] = ((1 - 2 * phase) * np.exp(-np.minimum(phase, 100.0))).tolist()
    return samples


def wave(name: str, points: int = 500, steps: int = 1000) -> Work:
    """The acoustic wave equation in one dimension: a Python loop over time, a gradient through all of it."""
    library = LIBRARIES[name]()
    roll, source = library.xp.roll, library.constant(np.eye(points)[100])
    still = library.constant(np.zeros(points))

    def misfit(c: Any) -> Any:
        u0 = u1 = still
        loss = 0.0
        for s in wavelet(steps):
            u0, u1 = u1, 2 * u1 - u0 + c * (roll(u1, 1) - 2 * u1 + roll(u1, -1)) + source * s
            loss = loss + u1[400] ** 2
        return loss

    run = partial(library.gradient(misfit), 0.25 + 0.05 * np.sin(np.arange(points) / 40.0))
    return Work(run, run)


# --- the import -----------------------------------------------------------------------------------------------


def imported(module: str) -> Work:
    """A fresh process that imports one module, compiled to bytecode before."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return Work(partial(subprocess.run, [sys.executable, "-c", f"import {module}"], check=True, env=environment))


ROWS = [
    Row(
        "expression", "((x+y)z)**2 on floats, forward and backward",
        _contestants(expression, OURS, "micrograd", "PyTorch", "HIPS autograd", "MyGrad", "JAX, not compiled"),
        [at_least(1, "micrograd"), at_least(10, "PyTorch")],
    ),
    Row(
        "chain", "1,000,000 multiplications in a chain (peers: 100,000), each",
        [*_contestants(partial(chain, length=1_000_000), OURS),
         *_contestants(partial(chain, length=100_000), "micrograd", "PyTorch", "HIPS autograd", "MyGrad")],
        [at_most(3e-6)], memory=True,
    ),
    Row(
        "classifier", "784-256-128-10, batch 128, float32, SGD step", _contestants(classifier, OURS, "PyTorch"),
        [at_least(1, "PyTorch")], rtol=1e-4,
    ),
    Row(
        "wave", "1-D wave, 500 points, 1,000 steps, loss and gradient",
        _contestants(wave, OURS, "PyTorch", "HIPS autograd", "JAX, not compiled"), [at_least(2, "PyTorch")],
    ),
    Row(
        "lecture", "1-3-1, batch 5, Adam step",
        _contestants(lecture_network, OURS, "PyTorch", "HIPS autograd", "JAX, not compiled"), [at_least(3, "PyTorch")],
    ),
    Row(
        "import", "import in a fresh process",
        [Contestant(OURS, partial(imported, OURS)), Contestant("NumPy alone", partial(imported, "numpy"))],
        [Target(OURS, "at most 100 ms beyond NumPy", lambda m: m[OURS] - m["NumPy alone"] <= 0.1)],
    ),
    Row("scalar_line", "x * y on floats, recorded", _contestants(scalar_op, OURS, WITHOUT)),
    Row("array_line", "x * y on 500 float64, recorded", _contestants(small_array_op, OURS, WITHOUT)),
]  # fmt: skip

if __name__ == "__main__":
    raise SystemExit(main(__doc__ or "", ROWS, PACKAGES))
