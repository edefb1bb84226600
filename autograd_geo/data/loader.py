"""Choosing rows: samples, splits and shuffled mini-batches, all reproducible from a seed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..random import Generator
from ..value import unmasked

_ORDERS = 2**63  # the stream of epoch 0


def sample_rows(n: int, fraction: float, seed: int) -> NDArray[np.int64]:
    """Numbers of round(n * fraction) rows out of `n`, each at most once, in random order.

    They are the rows of pandas' `DataFrame.sample(frac=fraction, random_state=seed)`. Raises ValueError for a
    fraction outside (0, 1], one that takes no row, and a seed outside 0 .. 2**32 - 1.
    """
    if not 0 < fraction <= 1 or round(n * fraction) < 1:
        raise ValueError(f"fraction must lie in (0, 1] and take at least one row, not {fraction} of {n}")
    return _legacy(seed).choice(n, round(n * fraction), replace=False)


def train_test_split(*arrays: ArrayLike, test_size: float = 0.2, seed: int) -> list[NDArray[Any]]:
    """Split rows at random: [train, test] of each array in turn, ceil(n * test_size) rows for testing.

    They are the rows of scikit-learn's `train_test_split(*arrays, test_size=test_size, random_state=seed)`.
    Raises ValueError for arrays of unequal lengths, a test_size outside (0, 1), a part without rows, and a
    seed outside 0 .. 2**32 - 1, TypeError for masked arrays.
    """
    held, n = _rows(arrays)
    if not 0 < test_size < 1:
        raise ValueError(f"test_size is a fraction between 0 and 1, not {test_size}")
    tested = math.ceil(n * test_size)
    if tested == n:
        raise ValueError(f"test_size={test_size} of {n} rows leaves none to train on")
    order = _legacy(seed).permutation(n)
    return [array[rows] for array in held for rows in (order[tested:], order[:tested])]


class DataLoader:
    """Mini-batches of rows: `for x, y in DataLoader(inputs, targets, batch_size=5): ...`.

    Each pass over the loader is an epoch: every row once, in an order that depends on (seed, epoch) alone, or
    as they stand if not `shuffle`. A batch is a tuple with rows of each array, copied, (batch_size, ...), or
    the rows alone where there is one array; the last is smaller where rows do not fill it, or left out if
    `drop_last`. Set `epoch` to go on from where an earlier run stopped.

    Raises ValueError for arrays without rows or of unequal lengths, a batch size that is no positive integer,
    a seed that `Generator` refuses, and where `drop_last` would leave no batch, TypeError for masked arrays.
    """

    def __init__(
        self,
        *arrays: ArrayLike,
        batch_size: int = 1,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        self._arrays, self._n = _rows(arrays)
        if not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise ValueError(f"batch_size must be a positive integer, not {batch_size!r}")
        if drop_last and batch_size > self._n:
            raise ValueError(f"drop_last leaves no batch of {batch_size} out of {self._n} rows")
        self.batch_size = int(batch_size)
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = Generator(seed).seed
        #: Number of the epoch that the next pass will be, counted from 0.
        self.epoch = 0

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return self._n // self.batch_size if self.drop_last else math.ceil(self._n / self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        return self._batches(self.order())

    def order(self) -> NDArray[np.int64]:
        """The numbers of the rows in the order of the next epoch, which becomes the one after it."""
        order = np.arange(self._n)
        if self.shuffle:
            order = Generator(self.seed, _ORDERS + self.epoch).permutation(self._n)
        self.epoch += 1
        return order

    def _batches(self, order: NDArray[np.int64]) -> Iterator[Any]:
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            rows = order[start : start + self.batch_size]
            batch = [array[rows] for array in self._arrays]
            yield batch[0] if len(batch) == 1 else tuple(batch)


def _rows(arrays: tuple[ArrayLike, ...]) -> tuple[list[NDArray[Any]], int]:
    """The arrays and their common number of rows, at least one."""
    held = [unmasked(array, f"array {n}") for n, array in enumerate(arrays)]
    lengths = [len(array) if array.ndim else 0 for array in held]
    if len(set(lengths)) != 1 or not lengths[0]:
        raise ValueError(f"arrays need equally many rows, at least one, not {lengths}")
    return held, lengths[0]


def _legacy(seed: int) -> np.random.RandomState:
    """The generator of scikit-learn and pandas, with its ValueError for a seed that it does not take."""
    return np.random.RandomState(seed)
