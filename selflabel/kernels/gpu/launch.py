"""What launches of kernels on tables share: how kernels are made, the device, and blocks of columns."""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import triton
from torch import Tensor

TILE = 1024
"""Numbers of a block of rows and columns that a program works on."""

BLOCK = 256
"""Pixels, entries or vertices of a program that has no columns."""

WIDEST = 32
"""Columns of a block, at most."""


def kernel_of(*sizes: str) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: the function for Triton, compiled once for all values of the arguments `sizes`.

    Without it there would be versions for 1 and for multiples of 16. Functions are unwrapped, as tests wrap them in
    type checks.
    """

    def made(function: Callable[..., Any]) -> Any:
        return triton.jit(inspect.unwrap(function), do_not_specialize=list(sizes))

    return made


def on_device(array: Tensor) -> AbstractContextManager[Any]:
    """Launches inside of it go to the device of the array."""
    context: AbstractContextManager[Any] = torch.cuda.device_of(array)
    return context


def blocks(count: int, block: int) -> int:
    """Blocks that hold so many."""
    return -(-count // block)


def padded(columns: int) -> int:
    """Columns of a table for so many: rows of whole vectors of four, and wide ones of whole 32-byte sectors."""
    return 4 if columns <= 4 else blocks(columns, 8) * 8


def tile(width: int) -> tuple[int, int]:
    """Rows and columns of a block of a table of this width."""
    columns = min(WIDEST, int(triton.next_power_of_2(width)))
    return TILE // columns, columns
