"""Work on threads: as many as torch has, but threads of our own."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import pairwise
from typing import Any

import torch

LARGE_PIXELS = 1 << 16
"""Pixels from which on an image is worth several threads."""


TABLE_PIXELS = 1 << 16
"""Pixels whose values are summed in one table, at least: a table costs time, but those of an image fill at once."""

MOST_TABLES = 16
"""Tables of an image, at most."""


def num_threads() -> int:
    """Torch's number of threads."""
    return torch.get_num_threads()


def split_threads(images: int) -> tuple[int, int]:
    """Threads within an image, and images at a time: a thread for each image, if there are enough images."""
    threads = num_threads()
    return (1, threads) if images >= threads else (threads, 1)


def split_range(count: int, number: int) -> list[tuple[int, int]]:
    """``range(count)`` cut into `number` ranges of about the same length, some of them empty if count is less."""
    ends = [count * i // number for i in range(number + 1)]
    return list(pairwise(ends))


def split_for_sums(count: int) -> list[tuple[int, int]]:
    """The ranges of ``range(count)`` that are summed apart.

    They depend on `count` alone: sums, added up in this order, are the same bytes for any number of threads.
    """
    return split_range(count, max(1, min(MOST_TABLES, count // TABLE_PIXELS)))


def parallel_for(count: int, threads: int, run: Callable[[int, int], Any]) -> list[Any]:
    """The results of ``run(first, last)`` on the parts of ``range(count)``, a part a thread."""
    return run_parallel([partial(run, *part) for part in split_range(count, threads)], threads)


def run_parallel(tasks: Sequence[Callable[[], Any]], threads: int) -> list[Any]:
    """The results of the tasks, run on `threads` threads."""
    if threads == 1 or len(tasks) == 1:
        return [task() for task in tasks]
    return list(_pool(os.getpid(), threads).map(lambda task: task(), tasks))


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads that wait for work, of this process: a fork does not inherit those of its parent."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"selflabel-{process}")
