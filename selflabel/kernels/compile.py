"""How kernels are compiled, and how they share the threads of torch."""

import inspect
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import torch
from numba.extending import intrinsic
from numpy.typing import NDArray

Array = NDArray[Any]

KEPT = 256 << 20
"""So many bytes of memory to work in are kept at most."""

LARGE = 1 << 16
"""Images of so many pixels are worth all threads."""

_kept: dict[int, Array] = {}


def kernel(function: Callable[..., Any]) -> Any:
    """Compile without the interpreter's lock, once for all processes (Numba keeps the machine code on disk).

    Sums may be reordered and products fused, but nan and infinities are respected. Reciprocals are exact: with the flag
    `arcp`, LLVM takes the processor's estimate for ``1 / sqrt(x)``, which differs from make to make.
    """
    # numpy's divisions: a loop that may raise is not vectorized. Run-time type checks of the tests wrap functions.
    compile_ = numba.njit(
        nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"}, error_model="numpy"
    )
    return compile_(inspect.unwrap(function))


def emits(function: Callable[..., Any]) -> Any:
    """A function of kernels whose machine code this one writes (Numba's `intrinsic`)."""
    return intrinsic(inspect.unwrap(function))


def parts(count: int, number: int) -> list[tuple[int, int]]:
    """`range(count)` cut into so many ranges of about the same length, some of them empty if there are too many."""
    ends = [count * i // number for i in range(number + 1)]
    return list(pairwise(ends))


def in_parallel(tasks: Sequence[Callable[[], Any]], threads: int) -> list[Any]:
    """The results of the tasks, run on so many threads."""
    if threads == 1 or len(tasks) == 1:
        return [task() for task in tasks]
    return list(_pool(os.getpid(), threads).map(lambda task: task(), tasks))


def over(count: int, threads: int, run: Callable[[int, int], Any]) -> list[Any]:
    """``run(first, last)`` over all of ``range(count)``, a part a thread."""
    return in_parallel([partial(run, *part) for part in parts(count, threads)], threads)


def num_threads() -> int:
    """As many as torch has been given."""
    return torch.get_num_threads()


def shares(images: int) -> tuple[int, int]:
    """Threads within an image, and images at a time: a thread each, if there are enough of them."""
    threads = num_threads()
    return (1, threads) if images >= threads else (threads, 1)


@contextmanager
def scratch(shape: tuple[int, ...], dtype: Any) -> Iterator[Array]:
    """An array to work in, of any content.

    Its memory is kept for the next one: memory that is new costs a fault a page when it is first touched, and those
    of two threads wait for each other; it takes longer than to blur what is in it.
    """
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    block = _kept_block(size)
    try:
        yield block[:size].view(kind).reshape(shape)
    finally:
        if sum(other.nbytes for other in list(_kept.values())) + block.nbytes <= KEPT:
            _kept[id(block)] = block


def _kept_block(size: int) -> Array:
    """At least so many bytes, and at most four times as many."""
    for number, block in list(_kept.items()):
        if (
            size <= block.nbytes <= 4 * size and _kept.pop(number, None) is not None
        ):  # no other thread took it
            return block
    return np.empty(size, np.uint8)


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads that wait for work; a forked process has none of its parent's and needs its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"selflabel-{process}")
