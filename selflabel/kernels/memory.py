"""Working memory of kernels: arrays of any content, reused where that saves page faults."""

import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]

KEPT_BYTES = 256 << 20
"""Bytes of free working memory that are kept for the next use."""


class FreeBlocks:
    """Blocks of bytes that nobody uses, at most `limit` bytes in all. Threads may share it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._blocks: dict[int, Array] = {}

    @property
    def nbytes(self) -> int:
        return sum(block.nbytes for block in list(self._blocks.values()))

    def take(self, size: int) -> Array:
        """A block of `size` bytes or more: a kept one of at most four times as many, else a new one."""
        for number, block in list(self._blocks.items()):
            fits = size <= block.nbytes <= 4 * size
            if fits and self._blocks.pop(number, None) is not None:  # no other thread took it
                return block
        return np.empty(size, np.uint8)

    def give(self, block: Array) -> None:
        """Keep a block, if there is room for it."""
        if self.nbytes + block.nbytes <= self.limit:
            self._blocks[id(block)] = block


FREE = FreeBlocks(KEPT_BYTES)


@contextmanager
def scratch(shape: tuple[int, ...], dtype: Any) -> Iterator[Array]:
    """An array of any content; its memory is kept for the next one.

    New memory costs a page fault every 4 kB, and threads wait for each other's: longer than a blur of its content.
    """
    block, array = _taken(shape, dtype)
    try:
        yield array
    finally:
        FREE.give(block)


def working_array(owner: object, shape: tuple[int, ...], dtype: Any) -> Array:
    """As `scratch`, for as long as the owner lives. It must not let views of the array outlive it."""
    block, array = _taken(shape, dtype)
    weakref.finalize(owner, FREE.give, block).atexit = False
    return array


def _taken(shape: tuple[int, ...], dtype: Any) -> tuple[Array, Array]:
    """A block, and the array at its start."""
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    block = FREE.take(size)
    return block, block[:size].view(kind).reshape(shape)


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor of any content. Numpy asks for huge pages, which take far fewer faults than torch's."""
    return torch.from_numpy(np.empty(shape, torch.empty(0, dtype=dtype).numpy().dtype))
