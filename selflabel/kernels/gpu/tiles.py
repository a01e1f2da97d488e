"""The tiles of pixels that programs work on."""

from dataclasses import dataclass

from selflabel.kernels.gpu.launch import blocks, power_of_two

TILE_NUMBERS = 4096
"""Labels (pixels times classes) of a program: 32 registers in each thread of four warps."""

MOST_PIXELS, LEAST_PIXELS = 256, 16
"""Pixels of a program."""

ROW_PIXELS = 32
"""Pixels of a row of a tile: a warp reads 128 bytes at a time."""


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
        padded = max(2, power_of_two(classes))
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
        return depth * blocks(height, self.rows) * blocks(width, self.columns)
