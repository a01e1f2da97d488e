"""How kernels are made, and the tiles of pixels that their programs work on."""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

TILE_NUMBERS = 4096
"""Labels (pixels times classes) of a program: 32 registers in each thread of four warps."""

MOST_PIXELS, LEAST_PIXELS = 256, 16
"""Pixels of a program."""

ROW_PIXELS = 32
"""Pixels of a row of a tile: a warp reads 128 bytes at a time."""


def kernel(function: Callable[..., Any]) -> Any:
    """A function for Triton, compiled at its first launch with new types or constants; nothing at installation."""
    return triton.jit(inspect.unwrap(function))  # unwrapped: tests wrap functions in type checks


def device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """A context in which kernels are launched on the tensor's device."""
    context: AbstractContextManager[Any] = torch.cuda.device_of(tensor)
    return context


@dataclass(frozen=True)
class Tiles:
    """Images of ``depth x height x width`` pixels (depth 1 for two axes) cut into tiles of rows, one a program."""

    size: tuple[int, int, int]
    classes: int
    """Rounded up to a power of two: what a kernel is compiled for."""
    rows: int
    columns: int

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> "Tiles":
        """For labels ``[b k *s]``."""
        _, classes, *size = shape
        depth, height, width = [1] * (3 - len(size)) + size
        padded = max(2, triton.next_power_of_2(classes))
        pixels = min(MOST_PIXELS, max(LEAST_PIXELS, TILE_NUMBERS // padded))
        columns = min(ROW_PIXELS, pixels)
        return cls((depth, height, width), padded, pixels // columns, columns)

    @property
    def pixels(self) -> int:
        """Of an image."""
        depth, height, width = self.size
        return depth * height * width

    @property
    def count(self) -> int:
        """The tiles of an image."""
        depth, height, width = self.size
        return depth * -(-height // self.rows) * -(-width // self.columns)
