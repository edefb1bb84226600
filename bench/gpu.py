"""Speed on a GPU: products, fused chains, rows, a network, a wave; beside cuBLAS, a copy, PyTorch and JAX.

Without a GPU there is nothing to measure; in Numba's simulator (NUMBA_ENABLE_CUDASIM=1) the rows run on a few numbers,
to see that they are right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from .eager import initial, wavelet
from .harness import OURS, Contestant, Row, Work, at_least, main

CUBLAS, COPY, TORCH, FUSED, JAX = "cuBLAS (torch.mm)", "copy on the device", "PyTorch eager", "torch.compile", "JAX jit"


def _device() -> Any:
    """Our package, where it has a device. Raises ImportError where it has none."""
    import autograd_geo as ag

    if not ag.cuda.is_available():
        raise ImportError("no GPU")
    return ag


def _simulated() -> bool:
    import autograd_geo as ag

    return ag.cuda.is_available() and ag.cuda.device_name() == "Numba's simulator"


TINY = _simulated()


def size(full: int, tiny: int) -> int:
    """The size of a row's work: tiny where the device is simulated."""
    return tiny if TINY else full


def _torch() -> Any:
    torch = import_module("torch")
    if not torch.cuda.is_available():
        raise ImportError("PyTorch has no GPU")
    torch.backends.cuda.matmul.allow_tf32 = False
    return torch


def _jax() -> Any:
    jax = import_module("jax")
    if jax.default_backend() != "gpu":
        raise ImportError("JAX has no GPU")
    jax.config.update("jax_default_matmul_precision", "highest")
    return jax


class _Library:
    """What the rows use of a library on the device."""

    def __init__(self, name: str) -> None:
        self.name = name
        if name == OURS:
            ag = _device()
            self.xp: Any = ag
            self.put: Callable[[Any], Any] = partial(ag.tensor, device="cuda")
            self.wait: Callable[[Any], Any] = lambda _: ag.cuda.synchronize()
            self.log_softmax: Any = ag.log_softmax
        elif name == JAX:
            jax = _jax()
            self.xp, self.put, self.wait = jax.numpy, jax.device_put, jax.block_until_ready
            self.log_softmax = jax.nn.log_softmax
        else:
            torch = _torch()
            self.xp, self.put = torch, partial(torch.tensor, device="cuda")
            self.wait = lambda _: torch.cuda.synchronize()
            self.log_softmax = torch.log_softmax

    def compiled(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """The function as the library compiles it."""
        if self.name == OURS:
            return self.xp.compile(fn)  # type: ignore[no-any-return]
        if self.name == JAX:
            return _jax().jit(fn)  # type: ignore[no-any-return]
        return self.xp.compile(fn) if self.name == FUSED else fn

    def value_and_grad(self, fn: Callable[..., Any], count: int) -> Callable[..., Any]:
        """The value of `fn` and the derivatives with respect to its first `count` arguments."""
        if self.name == OURS:
            return self.compiled(self.xp.value_and_grad(fn, tuple(range(count))))
        if self.name == JAX:
            return self.compiled(_jax().value_and_grad(fn, tuple(range(count))))
        inner = self.compiled(fn)

        def run(*values: Any) -> Any:
            leaves = [v.detach().requires_grad_() for v in values[:count]]
            value = inner(*leaves, *values[count:])
            value.backward()
            return value.detach(), [v.grad for v in leaves]

        return run


def _work(library: _Library, fn: Callable[..., Any], values: Sequence[Any]) -> Work:
    given = [library.put(v) for v in values]

    def flat(found: Any) -> list[Any]:
        return [x for f in found for x in flat(f)] if isinstance(found, tuple | list) else [_on_host(found)]

    return Work(lambda: library.wait(fn(*given)), lambda: flat(fn(*given)))


def _on_host(x: Any) -> Any:
    return np.asarray(x.cpu() if hasattr(x, "cpu") else x.numpy() if hasattr(x, "numpy") else x)


def copied(count: int, name: str) -> Work:
    """A copy on the device of so many float32: as much is read, and as much written."""
    from autograd_geo.cuda.driver import driver
    from autograd_geo.cuda.pool import pool

    _device()
    source, target = pool().take(4 * count), pool().take(4 * count)

    def run() -> None:
        driver().copy(target.address, source.address, 4 * count)
        driver().synchronize()

    return Work(run)


def product(m: int, n: int, k: int, precision: str, name: str) -> Work:
    """(m, k) by (k, n) of float32 in one of our precisions; in cuBLAS, what comes next to it: three products of TF32
    are beside float32, and for bfloat16 operands are rounded before.
    """
    library = _Library(TORCH if name == CUBLAS else name)
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(s, dtype=np.float32) for s in ((m, k), (k, n))]
    multiply = library.compiled(lambda a, b: a @ b)
    if name == OURS:

        def run(*given: Any) -> Any:
            with library.xp.cuda.matmul_precision(precision):
                return multiply(*given)

        return _work(library, run, values)
    if name == CUBLAS:
        library.xp.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        if precision == "bf16":
            a, b = (library.put(v).bfloat16() for v in values)
            return Work(lambda: library.wait(a @ b), lambda: [_on_host((a @ b).float())])
    return _work(library, multiply, values)


def layer(m: int, n: int, k: int, name: str) -> Work:
    """relu(x @ w + b) for x (m, k) and w (k, n) in float32; cuBLAS computes the product alone."""
    if name == CUBLAS:
        return Work(product(m, n, k, "float32", name).run)
    library = _Library(name)
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(s, dtype=np.float32) for s in ((m, k), (k, n), (n,))]

    def activated(x: Any, w: Any, b: Any) -> Any:
        y = x @ w + b
        return y * (y > 0)

    return _work(library, library.compiled(activated), values)


def chain(count: int, name: str) -> Work:
    """tanh(x + 4y)**2 + x: its sum, and the gradient with respect to both."""
    if name == COPY:
        return copied(2 * count, name)  # two arrays are read and two written
    library = _Library(name)
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(count, dtype=np.float32) for _ in range(2)]
    fn = library.value_and_grad(lambda x, y: (library.xp.tanh(x + 4 * y) ** 2 + x).sum(), 2)
    return _work(library, fn, values)


def rows_of(kind: str, rows: int, columns: int, name: str) -> Work:
    """softmax, layer norm, or the gradient of cross-entropy, along the last axis."""
    if name == COPY:
        return copied(rows * columns, name)
    library = _Library(name)
    x = np.random.default_rng(0).standard_normal((rows, columns), dtype=np.float32)
    if kind == "softmax":
        return _work(library, library.compiled(lambda x: library.xp.exp(library.log_softmax(x, -1))), [x])
    if kind == "norm":

        def norm(x: Any) -> Any:
            centred = x - x.mean(-1)[:, None]
            return centred / library.xp.sqrt((centred * centred).mean(-1)[:, None] + 1e-5)

        return _work(library, library.compiled(norm), [x])
    labels = np.eye(columns, dtype=np.float32)[np.arange(rows) % columns]
    fn = library.value_and_grad(lambda x, y: -(y * library.log_softmax(x, -1)).sum() / rows, 1)
    return _work(library, fn, [x, labels])


def network(sizes: Sequence[int], batch: int, name: str) -> Work:
    """Loss and gradient of a ReLU network with softmax and cross-entropy, and a step of SGD: new parameters."""
    library = _Library(name)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, sizes[0]), dtype=np.float32)
    y = np.eye(sizes[-1], dtype=np.float32)[rng.integers(0, sizes[-1], batch)]
    values = initial(tuple(sizes), "float32")
    count = len(values)

    def loss(*given: Any) -> Any:
        parameters, (x, y) = given[:count], given[count:]
        for w, b in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
            x = x @ w.T + b
            x = x * (x > 0)
        return -(y * library.log_softmax(x @ parameters[-2].T + parameters[-1], -1)).sum() / batch

    differentiated = library.value_and_grad(loss, count)

    def step(*given: Any) -> Any:
        value, slopes = differentiated(*given)
        return value, [p - 0.01 * g for p, g in zip(given, slopes, strict=False)]

    return _work(library, step, [*values, x, y])


def wave(points: int, steps: int, name: str) -> Work:
    """The wave equation in two dimensions, recorded along a row: the misfit, and the gradient of the velocity."""
    library = _Library(name)
    pulse = np.asarray(wavelet(steps), np.float32).tolist()
    roll = library.xp.roll

    def misfit(v: Any, source: Any) -> Any:
        c, u0, u1, loss = v * v, source * 0, source * 0, 0.0
        for s in pulse:
            laplacian = roll(u1, 1, 0) + roll(u1, -1, 0) + roll(u1, 1, 1) + roll(u1, -1, 1) - 4 * u1
            u0, u1 = u1, 2 * u1 - u0 + c * laplacian + source * s
            loss = loss + (u1[points // 10] ** 2).sum()
        return loss

    source = np.zeros((points, points), np.float32)
    source[points // 2, points // 5] = 1.0
    v = np.full((points, points), 0.5, np.float32)
    return _work(library, library.value_and_grad(misfit, 1), [v, source])


def _contestants(prepare: Callable[..., Work], *names: str) -> list[Contestant]:
    return [Contestant(name, partial(prepare, name=name)) for name in names]


def _products(name: str, m: int, n: int, k: int, target: float, precision: str = "float32") -> Row:
    sizes = [size(s, 19) for s in (m, n, k)]
    title = f"{precision} product, {sizes[0]} x {sizes[2]} by {sizes[2]} x {sizes[1]}"
    contestants = _contestants(partial(product, *sizes, precision), OURS, CUBLAS, *[JAX] * (precision == "float32"))
    rtol = {"tf32": 1e-2, "bf16": 5e-2}.get(precision, 1e-4)
    return Row(name, title, contestants, [at_least(target, CUBLAS)], rtol=rtol)


_COUNT, _ROWS, _COLUMNS = size(100_000_000, 20), size(16384, 3), size(4096, 70)
_POINTS, _STEPS = size(2000, 5), size(1000, 3)
_SIZES = [784, 1024, 1024, 10] if not TINY else [4, 5, 3]
ROWS = [
    _products("matmul_8192", 8192, 8192, 8192, 0.85),
    _products("matmul_4096", 4096, 4096, 4096, 0.85),
    *[_products(f"matmul_{n}", n, n, n, 0.7) for n in (512, 1024, 2048)],
    _products("tall", 1_000_000, 64, 64, 0.7),
    _products("inner", 256, 256, 1_000_000, 0.7),
    _products("tf32x3_4096", 4096, 4096, 4096, 1, "tf32x3"),
    _products("tf32_4096", 4096, 4096, 4096, 0.5, "tf32"),
    _products("bf16_8192", 8192, 8192, 8192, 0.5, "bf16"),
    Row("layer", f"relu(x @ w + b), {size(4096, 19)} float32 in each direction",
        _contestants(partial(layer, *[size(4096, 19)] * 3), OURS, CUBLAS, FUSED, JAX), [at_least(0.85, CUBLAS)],
        rtol=1e-4),
    Row("chain", f"tanh(x+4y)**2 + x, {_COUNT:,} float32, sum and gradient",
        _contestants(partial(chain, _COUNT), OURS, COPY, FUSED, JAX), [at_least(0.85, COPY), at_least(1, FUSED)],
        rtol=1e-4),
    *[
        Row(kind, f"{title}, {_ROWS} x {_COLUMNS} float32",
            _contestants(partial(rows_of, kind, _ROWS, _COLUMNS), OURS, COPY, FUSED, TORCH, JAX),
            [at_least(0.8, COPY)], rtol=1e-4)
        for kind, title in (("softmax", "softmax"), ("norm", "layer norm"), ("entropy", "cross-entropy and gradient"))
    ],
    Row("network", f"{'-'.join(map(str, _SIZES))}, batch {size(1024, 6)}, one step",
        _contestants(partial(network, _SIZES, size(1024, 6)), OURS, TORCH, JAX),
        [at_least(1, TORCH), at_least(1, JAX)], rtol=1e-4),
    Row("wave", f"2-D wave, {_POINTS} x {_POINTS}, {_STEPS} steps, loss and gradient",
        _contestants(partial(wave, _POINTS, _STEPS), OURS, TORCH), [at_least(3, TORCH)], rtol=1e-3),
]  # fmt: skip

if __name__ == "__main__":
    raise SystemExit(main(__doc__ or "", ROWS, ("numpy", "torch", "jax", "numba", "numba-cuda")))
