"""Counter-based random numbers: a draw gives the same numbers wherever it is made, and by however many ranks.

Word i of a stream is a function of (seed, stream, i) alone: with NumPy's Philox4x64-10 (J. K. Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011) keyed by [seed, stream], it is lane i % 4 of the block
whose counter is i // 4 + 1. Everything else is arithmetic on words, element by element, so that a kernel or
another rank can compute any part of a draw by itself. Where products and sums round separately, draws are the
same to the last bit, except normals, which depend on how the machine rounds `log`, `cos` and `sin`.

With `device="cuda"` numbers are made on the GPU and are a tensor there, so `device=x.device` draws beside x. In a
function compiled for the GPU they are made there in any case.

Generators count streams from 0; code that numbers its own (shuffles, by epoch) takes numbers from 2**62 on
and so shares no words with draws from the same seed.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .tape import TRACING, mode, tracer

if TYPE_CHECKING:
    from .tensor import Tensor

__all__ = [
    "Generator",
    "bernoulli",
    "default",
    "integers",
    "normal",
    "permutation",
    "seed",
    "uniform",
    "words",
]

Shape: TypeAlias = SupportsIndex | Sequence[SupportsIndex]


def words(seed: int, stream: int, count: int) -> NDArray[np.uint64]:
    """The first `count` 64-bit words of a stream, (count,); `seed` and `stream` lie in 0 .. 2**64 - 1."""
    # As an array: NumPy passes a list with a number above 2**63 through float64, which loses its low bits.
    key = np.array([seed, stream], dtype=np.uint64)
    return np.random.Philox(key=key).random_raw(count)


_F = TypeVar("_F", bound=Callable[..., Any])


def _drawn(method: _F) -> _F:
    """A method that draws: in a compiled function its numbers are drawn anew in each call.

    It raises TypeError for what requires a gradient, which a draw would drop.
    """
    signature = inspect.signature(method)

    @functools.wraps(method)
    def draw(self: Generator, *args: Any, **kwargs: Any) -> Any:
        if any(getattr(x, "requires_grad", False) for x in (*args, *kwargs.values())):
            raise TypeError(
                f"{method.__name__}: no gradient flows through a draw to its parameters. Draw standard numbers and "
                "compute with them, as in mean + std * normal(shape), or detach the parameters"
            )
        if mode() & TRACING:
            given = signature.bind(self, *args, **kwargs)
            given.apply_defaults()
            return tracer().draw(self, method.__name__, given.args[1:], given.kwargs)
        return method(self, *args, **kwargs)

    return cast(_F, draw)


class Generator:
    """Random draws from a seed; the k-th draw uses stream `stream + k`, whatever the sizes drawn before it.

    Raises ValueError for a seed or stream that is no integer in 0 .. 2**64 - 1. Threads may share one; no two
    of their draws get the same stream.
    """

    def __init__(self, seed: int, stream: int = 0) -> None:
        self._lock = threading.Lock()
        if mode() & TRACING:
            tracer().make_generator(self)
        self.reset(seed, stream)

    def reset(self, seed: int, stream: int = 0) -> None:
        """Start again from `seed`, with `stream` for the next draw."""
        self.rewind((_word_sized(seed, "seed"), _word_sized(stream, "stream")))

    @property
    def seed(self) -> int:
        if mode() & TRACING:
            tracer().read_generator(self, "{0}._seed", self._seed)
        return self._seed

    def mark(self) -> tuple[int, int]:
        """The seed and the stream of the next draw, for `rewind`."""
        if mode() & TRACING:
            tracer().read_generator(self, "({0}._seed, {0}._stream)", tracer().found_generator(self))
        with self._lock:
            return self._seed, self._stream

    def rewind(self, mark: tuple[int, int]) -> None:
        """Go back to where `mark()` was called: the draws since then will come again."""
        if mode() & TRACING:
            tracer().move_generator(self)
        with self._lock:
            self._seed, self._stream = mark

    def state_dict(self) -> dict[str, int]:
        """The seed and the stream of the next draw, by name, for a checkpoint."""
        seed, stream = self.mark()
        return {"seed": seed, "stream": stream}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict()`. Raises KeyError or ValueError, with nothing changed, for anything else."""
        if state.keys() != {"seed", "stream"}:
            raise KeyError(f"a generator's state has seed and stream, not {sorted(state)}")
        self.reset(state["seed"], state["stream"])

    def __repr__(self) -> str:
        return f"Generator(seed={self.seed})"

    @_drawn
    def uniform(
        self, shape: Shape, low: float = 0.0, high: float = 1.0, dtype: DTypeLike = np.float64, *, device: str = "cpu"
    ) -> NDArray[Any] | Any:
        """Numbers of `shape`, uniform in [low, high) up to rounding.

        Each takes the top 53 bits of its word, for float32 the top 24.
        """
        dtype, shape = _float_dtype(dtype), _sizes(shape)
        low, high = float(low), float(high)  # a NumPy scalar would promote float32
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise ValueError(f"uniform needs finite low <= high, not low={low}, high={high}")
        if device != "cpu":
            return self._on(device, "uniform", shape, dtype, low, high - low)
        fractions = _fractions(self._words(shape), 53 if dtype == np.float64 else 24).astype(dtype)
        return (low + (high - low) * fractions).reshape(shape)

    @_drawn
    def normal(
        self, shape: Shape, mean: float = 0.0, std: float = 1.0, dtype: DTypeLike = np.float64, *, device: str = "cpu"
    ) -> NDArray[Any] | Any:
        """Normal numbers of `shape`; float32 ones are the float64 ones, rounded.

        Words 2j and 2j + 1 give elements 2j and 2j + 1, by the method of G. E. P. Box and M. E. Muller,
        "A note on the generation of random normal deviates", Ann. Math. Statist. 29 (1958) 610-611.
        """
        dtype, shape = _float_dtype(dtype), _sizes(shape)
        mean, std = float(mean), float(std)
        if not (math.isfinite(mean) and math.isfinite(std) and std >= 0):
            raise ValueError(f"normal needs a finite mean and std >= 0, not mean={mean}, std={std}")
        if device != "cpu":
            return self._on(device, "normal", shape, dtype, mean, std)
        size = math.prod(shape)
        first, second = _fractions(self._words((size + size % 2,)), 53).reshape(-1, 2).T
        radius = np.sqrt(-2.0 * np.log(1.0 - first))  # 1 - first lies in (0, 1]
        angle = 2.0 * math.pi * second
        pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        return (mean + std * pairs.ravel()[:size]).astype(dtype).reshape(shape)

    @_drawn
    def permutation(self, n: SupportsIndex) -> NDArray[np.int64]:
        """The integers 0 .. n - 1 in random order, (n,): the order that sorts n words, ties kept in place."""
        drawn = self._words(_sizes(n))
        order = np.argsort(drawn)
        if np.any(np.diff(drawn[order]) == 0):  # about never, and a stable sort takes five times as long
            order = np.argsort(drawn, kind="stable")
        return order.astype(np.int64, copy=False)

    @_drawn
    def integers(self, high: int, shape: Shape, *, device: str = "cpu") -> NDArray[np.int64] | Any:
        """Integers of `shape` in 0 .. high - 1: words modulo `high` <= 2**63, so biased by high / 2**64."""
        high, shape = operator.index(high), _sizes(shape)
        if not 1 <= high <= 2**63:
            raise ValueError(f"integers needs 1 <= high <= 2**63, not high={high}")
        if device != "cpu":
            return self._on(device, "integers", shape, np.dtype(np.int64), high)
        return (self._words(shape) % np.uint64(high)).astype(np.int64).reshape(shape)

    @_drawn
    def bernoulli(self, p: float, shape: Shape, *, device: str = "cpu") -> NDArray[np.bool_] | Any:
        """Booleans of `shape`, each true with probability `p`: where a uniform number is below `p`."""
        p = float(p)
        if not 0 <= p <= 1:
            raise ValueError(f"bernoulli needs a probability in 0 .. 1, not p={p}")
        if device != "cpu":
            return self._on(device, "bernoulli", _sizes(shape), np.dtype(bool), p)
        return np.asarray(self.uniform(shape) < p)

    def _words(self, shape: tuple[int, ...]) -> NDArray[np.uint64]:
        return words(*self._next(), math.prod(shape))

    def _on(self, device: str, draw: str, shape: tuple[int, ...], dtype: np.dtype[Any], *numbers: float) -> Tensor:
        """The draw on the GPU."""
        from .device import checked

        checked(device)
        from .cuda.random import drawn
        from .tensor import wrap

        return wrap(drawn(draw, self._next, shape, dtype, numbers))

    def _next(self) -> tuple[int, int]:
        """Seed and stream of a draw."""
        with self._lock:
            seed, stream = self._seed, self._stream
            self._stream += 1
        return seed, stream


def _word_sized(value: int, name: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if not 0 <= number < 2**64:
        raise ValueError(f"{name} must be an integer in 0 .. 2**64 - 1, not {value!r}")
    return number


def _sizes(shape: Shape) -> tuple[int, ...]:
    sizes = tuple(map(operator.index, shape if isinstance(shape, Sequence) else (shape,)))
    if any(size < 0 for size in sizes):
        raise ValueError(f"sizes cannot be negative: {shape}")
    return sizes


def _float_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    if (found := np.dtype(dtype)) not in (np.float64, np.float32):
        raise ValueError(f"random numbers come as float64 or float32, not {found}")
    return found


def _fractions(words: NDArray[np.uint64], bits: int) -> NDArray[np.float64]:
    """The top `bits` bits of each word as a multiple of 2**-bits in [0, 1)."""
    return (words >> np.uint64(64 - bits)).astype(np.float64) * 2.0**-bits


_default = Generator(0)


def default() -> Generator:
    """The generator behind this module's functions: it starts from seed 0, so unseeded programs repeat."""
    return _default


seed = _default.reset
uniform = _default.uniform
normal = _default.normal
permutation = _default.permutation
integers = _default.integers
bernoulli = _default.bernoulli
