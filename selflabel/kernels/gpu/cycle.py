"""The coarse grids of a multigrid cycle in one launch: a program takes a class of an image through all of them.

Each of them alone would not fill a GPU, and takes seven launches.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from selflabel.kernels.gpu.launch import Kernel, Launch, helper, power_of_two
from selflabel.kernels.gpu.multigrid import prolonged, restricted, swept

MOST_PIXELS = 4096
"""Of the largest grid: a program goes over it in a few rounds."""

BLOCK = 1024
"""Pixels of a round."""


class GridPlace(NamedTuple):
    """A grid, and where its arrays begin in memory (`multigrid_gpu.Level`); kernels know the fields by number."""

    height: int
    """Rows; in a volume, of which the coarsest grid alone is taken, those of all its slices."""
    width: int
    weights: int
    hold: int
    inverse: int
    shares: int
    right: int
    values: int
    spare: int


FIELDS = tl.constexpr(len(GridPlace._fields))
WEIGHTS = tl.constexpr(GridPlace._fields.index("weights"))
HOLD = tl.constexpr(GridPlace._fields.index("hold"))
INVERSE = tl.constexpr(GridPlace._fields.index("inverse"))
SHARES = tl.constexpr(GridPlace._fields.index("shares"))
RIGHT = tl.constexpr(GridPlace._fields.index("right"))
VALUES = tl.constexpr(GridPlace._fields.index("values"))


@helper
def _size(grid):
    return tl.load(grid).to(tl.int32), tl.load(grid + 1).to(tl.int32)


@helper
def _values(arena, grid, field, row):
    """Of a class of an image: the field is that of the right side, or `_after` some sweeps."""
    height, width = _size(grid)
    return arena + tl.load(grid + field) + row * height * width


@helper
def _after(sweep):
    """The field with what a sweep has written: by turns the values and their spare."""
    return VALUES + sweep % 2


@helper
def _begin_grid(arena, grid, image, row, factor, BLOCK: tl.constexpr):
    """Sweep 0, from zero. Ends with a barrier, as the functions below: all threads see what it has written."""
    height, width = _size(grid)
    pixels = height * width
    inverse = arena + tl.load(grid + INVERSE) + image * pixels
    right, values = _values(arena, grid, RIGHT, row), _values(arena, grid, VALUES, row)
    for first in range(0, pixels, BLOCK):
        i = first + tl.arange(0, BLOCK)
        scale = factor * tl.load(inverse + i, mask=i < pixels, other=0.0)
        tl.store(values + i, scale * tl.load(right + i, mask=i < pixels, other=0.0), mask=i < pixels)
    tl.debug_barrier()


@helper
def _sweep_grid(arena, grid, image, row, factors, begin, end, BLOCK: tl.constexpr):
    """Sweeps with these numbers, each from what the last one has written."""
    height, width = _size(grid)
    pixels = height * width
    weights = arena + tl.load(grid + WEIGHTS) + image * 4 * pixels
    hold = arena + tl.load(grid + HOLD) + image * pixels
    inverse = arena + tl.load(grid + INVERSE) + image * pixels
    right = _values(arena, grid, RIGHT, row)
    for sweep in range(begin, end):
        factor = tl.load(factors + sweep)
        values = _values(arena, grid, _after(sweep - 1), row)
        result = _values(arena, grid, _after(sweep), row)
        for first in range(0, pixels, BLOCK):
            i = first + tl.arange(0, BLOCK)
            y, x, valid = i // width, i % width, i < pixels
            at, inside = i[None, :], valid[None, :]
            new, _ = swept(
                values, right, weights, hold, inverse, 0.0, factor, at, inside, i * 0, y, x, valid, 1, height, width,
                False, 9,
            )  # fmt: skip
            tl.store(result + at, new, mask=inside)
        tl.debug_barrier()


@helper
def _restrict_grid(arena, grid, image, values, right, coarse, BLOCK: tl.constexpr):
    """Residuals of the values become the right side of the coarser grid."""
    height, width = _size(grid)
    pixels, wide = height * width, (width + 1) // 2
    weights = arena + tl.load(grid + WEIGHTS) + image * 4 * pixels
    hold = arena + tl.load(grid + HOLD) + image * pixels
    shares = arena + tl.load(grid + SHARES) + image * 4 * pixels
    count = ((height + 1) // 2) * wide
    for first in range(0, count, BLOCK):
        i = first + tl.arange(0, BLOCK)
        total = restricted(
            values, right, weights, hold, shares, tl.zeros((1, 1), tl.int32), 1, i * 0, i // wide, i % wide,
            i < count, tl.zeros((1, BLOCK), tl.float32), 1, height, width, 9,
        )  # fmt: skip
        tl.store(coarse + i[None, :], total, mask=(i < count)[None, :])
    tl.debug_barrier()


@helper
def _prolong_grid(arena, grid, image, values, coarse, BLOCK: tl.constexpr):
    """Those of the coarser grid are added to the values."""
    height, width = _size(grid)
    pixels = height * width
    shares = arena + tl.load(grid + SHARES) + image * 4 * pixels
    for first in range(0, pixels, BLOCK):
        i = first + tl.arange(0, BLOCK)
        at, valid = i[None, :], i < pixels
        total = prolonged(
            values, coarse, shares, tl.zeros((1, 1), tl.int32), at, valid[None, :], i * 0, i // width, i % width,
            valid, 1, height, width, 9,
        )  # fmt: skip
        tl.store(values + at, total, mask=valid[None, :])
    tl.debug_barrier()


@partial(Kernel, warps=16)
def _cycle(
    arena, places, inverse, factors, count, classes, coarsest, sweeps,
    COARSEST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(1).to(tl.int64)
    row, down, up = image * classes + tl.program_id(0), sweeps - 1, 2 * sweeps - 1
    for level in range(count):
        grid = places + level * FIELDS
        _begin_grid(arena, grid, image, row, tl.load(factors), BLOCK)
        _sweep_grid(arena, grid, image, row, factors, 1, sweeps, BLOCK)
        right, values = _values(arena, grid, RIGHT, row), _values(arena, grid, _after(down), row)
        _restrict_grid(arena, grid, image, values, right, _values(arena, grid + FIELDS, RIGHT, row), BLOCK)
    grid, i = places + count * FIELDS, tl.arange(0, COARSEST)
    b = tl.load(_values(arena, grid, RIGHT, row) + i, mask=i < coarsest, other=0.0)
    matrix = inverse + image * coarsest * coarsest + i[:, None] * coarsest + i[None, :]
    both = (i < coarsest)[:, None] & (i < coarsest)[None, :]
    solved = tl.sum(tl.load(matrix, mask=both, other=0.0) * b[None, :], 1)
    tl.store(_values(arena, grid, _after(up), row) + i, solved, mask=i < coarsest)
    tl.debug_barrier()
    for back in range(count):
        grid = places + (count - 1 - back) * FIELDS
        coarse = _values(arena, grid + FIELDS, _after(up), row)
        _prolong_grid(arena, grid, image, _values(arena, grid, _after(down), row), coarse, BLOCK)
        _sweep_grid(arena, grid, image, row, factors, sweeps, 2 * sweeps, BLOCK)


def cycling(
    arena: Tensor, places: Sequence[GridPlace], inverse: Tensor, factors: Sequence[float], classes: int
) -> Launch:
    """A cycle from the right side of the first grid to its spare array. The last one is the coarsest, of any axes.

    `inverse` ``[b n n]``: that of its matrix. `factors`: of the sweeps down, and in turn up.
    """
    batch, size, _ = inverse.shape
    tables = _on_device(tuple(places), tuple(factors), arena.device)
    return Launch(
        _cycle, (classes, batch), arena, tables[0], inverse, tables[1], len(places) - 1, classes, size, len(factors),
        power_of_two(size), BLOCK,
    )  # fmt: skip


@lru_cache(maxsize=16)
def _on_device(
    places: tuple[GridPlace, ...], factors: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Kept: to copy them there is to wait."""
    there_and_back = torch.tensor([*factors, *factors[::-1]], dtype=torch.float32, device=device)
    return torch.tensor(places, dtype=torch.int64, device=device), there_and_back
