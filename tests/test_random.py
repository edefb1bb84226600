"""The random stream: what its words are, that draws repeat, and that they have the right distribution."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from autograd_geo import random
from autograd_geo.random import Generator, words

WORD = st.integers(0, 2**64 - 1)


def philox_word(seed: int, stream: int, i: int) -> int:
    """Word i of a stream from the published definition of Philox4x64-10, in Python integers."""
    mask = 2**64 - 1
    counter, key = [i // 4 + 1, 0, 0, 0], [seed, stream]
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
        counter = [
            second >> 64 ^ counter[1] ^ key[0],
            second & mask,
            first >> 64 ^ counter[3] ^ key[1],
            first & mask,
        ]
        key = [key[0] + 0x9E3779B97F4A7C15 & mask, key[1] + 0xBB67AE8584CAA73B & mask]
    return counter[i % 4]


@settings(max_examples=30, deadline=None)
@given(WORD, WORD, st.integers(0, 40))
def test_word_depends_on_seed_stream_and_index_alone(seed: int, stream: int, i: int) -> None:
    assert int(words(seed, stream, i + 1)[i]) == philox_word(seed, stream, i)


def test_stream_stays_as_it_is() -> None:
    assert words(73073, 5, 5).tolist() == [
        0xFDE9C6CF45EA184A,
        0x911593A60B93CFEE,
        0x1835A63E96540D04,
        0x5AF568B078568837,
        0x334532092EDB8FD2,
    ]
    assert words(2**64 - 1, 2, 1)[0] == 8616273357809074041
    assert Generator(73073).uniform(3) == pytest.approx([0.71221313, 0.06487729, 0.43508071], abs=5e-9)
    assert Generator(73073).normal(3) == pytest.approx([1.44898641, 0.62570649, -0.73010159], abs=5e-9)
    assert Generator(73073).permutation(8).tolist() == [1, 6, 2, 3, 0, 5, 7, 4]
    assert Generator(73073).integers(100, 8).tolist() == [33, 73, 86, 80, 12, 1, 99, 16]
    assert (Generator(73073).bernoulli(0.5, 8) * 1).tolist() == [0, 1, 1, 0, 0, 0, 1, 0]


DRAWS: dict[str, Callable[[Generator, int], NDArray[Any]]] = {
    "uniform": lambda generator, n: generator.uniform(n),
    "normal": lambda generator, n: generator.normal(n),
    "integers": lambda generator, n: generator.integers(1000, n),
    "bernoulli": lambda generator, n: generator.bernoulli(0.5, n),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@given(seed=WORD, short=st.integers(0, 20), more=st.integers(0, 20))
@settings(max_examples=20, deadline=None)
def test_element_does_not_depend_on_the_size_of_the_draw(
    draw: Callable[[Generator, int], NDArray[Any]], seed: int, short: int, more: int
) -> None:
    long = draw(Generator(seed), short + more)
    assert np.array_equal(draw(Generator(seed), short), long[:short])


def test_draw_does_not_depend_on_the_sizes_drawn_before() -> None:
    one, other = Generator(3), Generator(3)
    one.normal(7)
    other.permutation(1000)
    assert np.array_equal(one.uniform(5), other.uniform(5))
    assert np.array_equal(Generator(3, stream=1).uniform(5), words(3, 1, 5) // 2**11 / 2**53)


def test_streams_and_seeds_differ() -> None:
    generator = Generator(0)
    draws = [generator.uniform(1000), generator.uniform(1000), Generator(1).uniform(1000)]
    correlation = np.corrcoef(draws) - np.eye(3)
    assert np.abs(correlation).max() < 0.15


def test_shapes_and_dtypes() -> None:
    generator = Generator(0)
    assert generator.uniform(()).shape == generator.normal(()).shape == ()
    assert isinstance(generator.bernoulli(0.5, ()), np.ndarray)
    assert generator.normal((2, 3)).shape == generator.integers(5, [2, 3]).shape == (2, 3)
    assert generator.normal(np.int64(3)).shape == (3,)
    assert generator.uniform((0, 4)).shape == generator.normal((0, 4)).shape == (0, 4)
    assert generator.permutation(0).shape == (0,)
    assert generator.uniform(3, np.float64(1), np.float64(2), np.float32).dtype == np.float32
    assert generator.normal(3, np.float64(1), np.float64(2), "float32").dtype == np.float32
    assert generator.integers(5, 3).dtype == generator.permutation(3).dtype == np.int64
    assert generator.bernoulli(0.5, 3).dtype == np.bool_


def test_float32_comes_from_the_same_words() -> None:
    exact, rounded = Generator(1).uniform(1000), Generator(1).uniform(1000, dtype=np.float32)
    assert np.array_equal(rounded, np.floor(exact * 2**24) / 2**24)
    assert np.array_equal(Generator(1).normal(9, dtype=np.float32), Generator(1).normal(9).astype(np.float32))


def test_uniform_distribution() -> None:
    sample = Generator(11).uniform(100_000)
    assert sample.min() >= 0 and sample.max() < 1
    assert stats.kstest(sample, "uniform").pvalue > 0.01
    shifted = Generator(11).uniform(100_000, -3, 5)
    assert shifted == pytest.approx(8 * sample - 3, abs=1e-14)


def test_normal_distribution() -> None:
    sample = Generator(12).normal(100_000)
    assert stats.kstest(sample, "norm").pvalue > 0.01
    assert abs(sample.mean()) < 4 / math.sqrt(sample.size)
    assert sample.var() == pytest.approx(1, abs=4 * math.sqrt(2 / sample.size))
    assert stats.skew(sample) == pytest.approx(0, abs=4 * math.sqrt(6 / sample.size))
    assert stats.kurtosis(sample) == pytest.approx(0, abs=4 * math.sqrt(24 / sample.size))
    assert abs(np.corrcoef(sample[::2], sample[1::2])[0, 1]) < 4 / math.sqrt(sample.size / 2)
    assert Generator(12).normal(9, 2.0, 3.0) == pytest.approx(2 + 3 * sample[:9], abs=1e-14)


def test_integers_and_bernoulli_distribution() -> None:
    counts = np.bincount(Generator(13).integers(7, 70_000), minlength=7)
    assert counts.size == 7 and stats.chisquare(counts).pvalue > 0.01
    assert Generator(13).integers(2**63, 100).min() >= 0
    hits = int(Generator(14).bernoulli(0.3, 100_000).sum())
    assert stats.binomtest(hits, 100_000, 0.3).pvalue > 0.01
    assert not Generator(14).bernoulli(0, 1000).any() and Generator(14).bernoulli(1, 1000).all()


@given(WORD, st.integers(0, 200))
@settings(max_examples=30, deadline=None)
def test_permutation_has_each_number_once(seed: int, n: int) -> None:
    assert np.array_equal(np.sort(Generator(seed).permutation(n)), np.arange(n))


def test_permutations_are_equally_likely() -> None:
    generator = Generator(15)
    orders = np.array([generator.permutation(4) for _ in range(4800)]) @ [64, 16, 4, 1]
    _, counts = np.unique(orders, return_counts=True)
    assert counts.size == 24 and stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "1", None])
def test_seed_out_of_range(seed: Any) -> None:
    with pytest.raises(ValueError, match=r"seed must be an integer in 0 \.\. 2\*\*64 - 1, not"):
        Generator(seed)
    with pytest.raises(ValueError, match="stream must be an integer"):
        Generator(0, seed)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda g: g.uniform(-1), "negative"),
        (lambda g: g.uniform(3, 2.0, 1.0), "low <= high"),
        (lambda g: g.uniform(3, 0.0, math.inf), "finite"),
        (lambda g: g.normal(3, 0.0, -1.0), "std >= 0"),
        (lambda g: g.normal(3, math.nan), "finite mean"),
        (lambda g: g.normal(3, dtype=int), "float64 or float32"),
        (lambda g: g.integers(0, 3), "high"),
        (lambda g: g.integers(2**63 + 1, 3), "high"),
        (lambda g: g.bernoulli(1.5, 3), "probability"),
        (lambda g: g.bernoulli(math.nan, 3), "probability"),
        (lambda g: g.permutation(-3), "negative"),
    ],
)
def test_draw_out_of_range(draw: Callable[[Generator], Any], message: str) -> None:
    generator = Generator(0)
    with pytest.raises(ValueError, match=message):
        draw(generator)
    assert np.array_equal(generator.uniform(3), Generator(0).uniform(3)), "a refused draw takes no stream"


def test_threads_never_share_a_stream() -> None:
    generator = Generator(16)
    with ThreadPoolExecutor(8) as pool:
        firsts = list(pool.map(lambda _: float(generator.uniform(1)[0]), range(2000)))
    reference = Generator(16)
    assert sorted(firsts) == sorted(float(reference.uniform(1)[0]) for _ in range(2000))


def test_default_generator() -> None:
    random.seed(21)
    here = [random.uniform(3), random.normal(3), random.permutation(3)]
    here += [random.integers(9, 3), random.bernoulli(0.5, 3)]
    assert random.default().seed == 21
    generator = Generator(21)
    there = [generator.uniform(3), generator.normal(3), generator.permutation(3)]
    there += [generator.integers(9, 3), generator.bernoulli(0.5, 3)]
    assert all(np.array_equal(a, b) for a, b in zip(here, there, strict=True))
    random.seed(21)
    assert np.array_equal(random.uniform(3), here[0])
    with pytest.raises(ValueError, match="seed must be"):
        random.seed(-1)
