"""The order of samples: a pure function of a seed, so that a run resumes anywhere without a replay."""

from collections.abc import Iterator
from itertools import count

import numpy as np


def batch_indices(
    length: int, batch: int, seed: int, start: int = 0
) -> Iterator[tuple[tuple[int, ...], int]]:
    """Endless batches of a data set: the `batch` indices, and a seed for what is drawn at random for them.

    Batch number t (the first is `start`) holds the places ``t batch .. (t + 1) batch - 1`` of one permutation
    of ``0 .. length-1`` after another, each epoch its own: every sample comes once an epoch, every batch is
    full, and a batch may reach over the end of an epoch. Batch t depends on seed and t only. Seeds drawn are
    odd, below 2^32. Cost: one permutation an epoch.

    Raises `ValueError` for lengths or batches below one, and for a negative seed or start.
    """
    for name, value, least in (
        ("length", length, 1),
        ("batch", batch, 1),
        ("seed", seed, 0),
        ("start", start, 0),
    ):
        if value < least:
            raise ValueError(f"expected {name} >= {least}, got {value}")
    return _batches(length, batch, seed, start)


def _batches(length: int, batch: int, seed: int, start: int) -> Iterator[tuple[tuple[int, ...], int]]:
    epoch, order = -1, np.empty(0, np.int64)
    for number in count(start):
        indices = []
        for place in range(number * batch, (number + 1) * batch):
            if place // length != epoch:
                epoch = place // length
                order = np.random.default_rng((seed, 0, epoch)).permutation(length)
            indices.append(int(order[place % length]))
        drawn = int(np.random.SeedSequence((seed, 1, number)).generate_state(1)[0]) | 1
        yield tuple(indices), drawn
