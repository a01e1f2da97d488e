"""The order of samples: a pure function of a seed, so that a run resumes anywhere without a replay."""

from collections.abc import Iterator
from itertools import count

import numpy as np


def batch_indices(
    length: int, batch: int, seed: int, start: int = 0
) -> Iterator[tuple[tuple[int, ...], int]]:
    """Endless batches of a data set: the indices of each, and a seed for its augmentation.

    The epochs' permutations of ``0 .. length-1`` form one sequence; batch t, from `start` on, is its places
    ``t batch .. (t + 1) batch - 1``. So every sample comes once an epoch, every batch is full, and a batch may
    reach into the next epoch. Batch t depends on `seed` and t only. Its own seed is odd, below ``2³²``. Cost: one
    permutation an epoch.

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
