"""Multigrid in Triton: sweeps, and restriction and prolongation between grids.

A program works on some classes of a tile of pixels. Values lie class by class, ``[b k n]``, weights by the first pixel
of a pair, for the second half of all directions (`numerics.linear.grids`). No program writes what another reads.
"""

from typing import NamedTuple

import triton.language as tl
from torch import Tensor

from selflabel.kernels.gpu.launch import Kernel, Launch, blocks, helper, power_of_two
from selflabel.kernels.gpu.stencil import place

CLASSES = 8
"""Classes of a program, at most: more would not fill a multiple."""

NUMBERS = 512
"""Values of a program: with twice as many, products in float64 need more registers than there are."""

COLUMNS = 32
"""Pixels of a row of a tile: 128 bytes of float32."""


class GridArrays(NamedTuple):
    """The equations of a grid, contiguous; in float32, but for conjugate gradients in float64."""

    weights: Tensor
    """``[b m n]``."""
    hold: Tensor
    """``[b n]``."""
    inverse: Tensor
    """``[b n]`` float32: that of the diagonal, 0 where y is."""


class Shape(NamedTuple):
    """Of values on a grid."""

    batch: int
    classes: int
    size: tuple[int, int, int]
    """Depth (1 for images), height and width."""
    directions: int
    """9, in volumes 27."""

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> "Shape":
        """Of values ``[b k *s]``."""
        batch, classes, *size = shape
        depth, height, width = [1] * (3 - len(size)) + size
        return cls(batch, classes, (depth, height, width), 3 ** len(size))

    @property
    def coarse(self) -> "Shape":
        """On the next coarser grid."""
        depth, height, width = ((n + 1) // 2 for n in self.size)
        return self._replace(size=(depth, height, width))

    @property
    def tile(self) -> tuple[int, int, int]:
        """Classes, rows and columns of a program."""
        classes = min(CLASSES, power_of_two(self.classes))
        return classes, NUMBERS // classes // COLUMNS, COLUMNS

    @property
    def tiles(self) -> int:
        """Of an image."""
        _, rows, columns = self.tile
        depth, height, width = self.size
        return depth * blocks(height, rows) * blocks(width, columns)

    @property
    def programs(self) -> tuple[int, int, int]:
        """Tiles, blocks of classes and images."""
        return self.tiles, blocks(self.classes, self.tile[0]), self.batch


@helper
def towards(t: tl.constexpr, z, y, x, valid, depth, height, width, DIRECTIONS: tl.constexpr):
    """In direction t: how far the neighbors are in memory, where their weights are, and which exist."""
    dy, dx = t // 3 % 3 - 1, t % 3 - 1
    dz = t // 9 - 1 if DIRECTIONS == 27 else 0
    exists = valid & (z + dz >= 0) & (z + dz < depth) & (y + dy >= 0) & (y + dy < height)
    exists = exists & (x + dx >= 0) & (x + dx < width)
    far = (dz * height + dy) * width + dx
    pixels = depth * height * width
    here = (z * height + y) * width + x
    middle = DIRECTIONS // 2
    listed = (t - middle - 1) * pixels + here if t > middle else (middle - 1 - t) * pixels + here + far
    return far, listed, exists


@helper
def outflow(
    values, inverse, start, weights, own, at, inside, z, y, x, valid, depth, height, width,
    STARTS: tl.constexpr, DIRECTIONS: tl.constexpr,
):  # fmt: skip
    """``Σ_j w_ij (y_i - y_j)``. With STARTS y is ``start · inverse · values``, the first sweep from zero."""
    here = (z * height + y) * width + x
    total = tl.zeros_like(own)
    for t in tl.static_range(DIRECTIONS):
        if t != DIRECTIONS // 2:
            far, listed, exists = towards(t, z, y, x, valid, depth, height, width, DIRECTIONS)
            weight = tl.load(weights + listed, mask=exists, other=0.0)
            value = tl.load(values + at + far, mask=inside & exists[None, :], other=0.0)
            if STARTS:
                value *= start * tl.load(inverse + here + far, mask=exists, other=0.0)[None, :]
            total += weight[None, :] * (own - value)
    return total


@helper
def swept(
    values, right, weights, hold, inverse, start, factor, at, inside, z, y, x, valid, depth, height, width,
    STARTS: tl.constexpr, DIRECTIONS: tl.constexpr,
):  # fmt: skip
    """``y + factor D⁻¹ (b - A y)``, and b, of an image's pixels in some classes; for STARTS see `outflow`."""
    here = (z * height + y) * width + x
    scale = tl.load(inverse + here, mask=valid, other=0.0)[None, :]
    b = tl.load(right + at, mask=inside, other=0.0)
    own = start * scale * b if STARTS else tl.load(values + at, mask=inside, other=0.0)
    flow = outflow(
        values,
        inverse,
        start,
        weights,
        own,
        at,
        inside,
        z,
        y,
        x,
        valid,
        depth,
        height,
        width,
        STARTS,
        DIRECTIONS,
    )
    held = tl.load(hold + here, mask=valid, other=0.0)[None, :] * own
    return own + factor * scale * (b - held - flow), b


@helper
def restricted(
    values, right, weights, hold, shares, k, classes, cz, cy, cx, there, total, depth, height, width,
    DIRECTIONS: tl.constexpr,
):  # fmt: skip
    """``total + Pᵀ (b - A y)`` of an image's coarse pixels in some classes."""
    pixels = depth * height * width
    for s in range(DIRECTIONS):
        dy, dx = s // 3 % 3 - 1, s % 3 - 1
        dz = s // 9 - 1 if DIRECTIONS == 27 else 0
        z, y, x = 2 * cz + dz, 2 * cy + dy, 2 * cx + dx
        valid = there & (z >= 0) & (z < depth) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        i = (z * height + y) * width + x
        side = (dz < 0) * 4 + (dy < 0) * 2 + (dx < 0) * 1
        share = tl.load(shares + side * pixels + i, mask=valid, other=0.0)
        inside, at = (k < classes) & valid[None, :], k * pixels + i[None, :]
        b = tl.load(right + at, mask=inside, other=0.0)
        own = tl.load(values + at, mask=inside, other=0.0)
        flow = outflow(
            values,
            hold,
            0.0,
            weights,
            own,
            at,
            inside,
            z,
            y,
            x,
            valid,
            depth,
            height,
            width,
            False,
            DIRECTIONS,
        )
        held = tl.load(hold + i, mask=valid, other=0.0)[None, :] * own
        total += share[None, :] * (b - held - flow)
    return total


@helper
def prolonged(
    values, coarse, shares, k, at, inside, z, y, x, valid, depth, height, width, DIRECTIONS: tl.constexpr
):
    """``y + P coarse`` of an image's pixels in some classes."""
    deep, high, wide = (depth + 1) // 2, (height + 1) // 2, (width + 1) // 2
    i, pixels = (z * height + y) * width + x, depth * height * width
    parents: tl.constexpr = 8 if DIRECTIONS == 27 else 4
    total = tl.load(values + at, mask=inside, other=0.0)
    for side in tl.static_range(parents):
        cz, cy, cx = z // 2 + side // 4, y // 2 + side // 2 % 2, x // 2 + side % 2
        exists = valid & (cz < deep) & (cy < high) & (cx < wide)
        share = tl.load(shares + side * pixels + i, mask=exists, other=0.0)
        there = k * (deep * high * wide) + ((cz * high + cy) * wide + cx)[None, :]
        total += share[None, :] * tl.load(coarse + there, mask=inside & exists[None, :], other=0.0)
    return total


@Kernel
def _sweep(
    values, right, weights, hold, inverse, result, sums, start, factor, depth, height, width, classes,
    STARTS: tl.constexpr, SUMS: tl.constexpr, DIRECTIONS: tl.constexpr,
    CLASSES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    image, pixels = tl.program_id(2).to(tl.int64), depth * height * width
    z, y, x, valid = place(depth, height, width, ROWS, COLUMNS)
    i, k = (z * height + y) * width + x, tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)[:, None]
    inside, at = (k < classes) & valid[None, :], k * pixels + i[None, :]
    first = image * classes * pixels
    new, b = swept(
        values + first, right + first, weights + image * (DIRECTIONS // 2) * pixels, hold + image * pixels,
        inverse + image * pixels, start, factor, at, inside, z, y, x, valid, depth, height, width, STARTS, DIRECTIONS,
    )  # fmt: skip
    tl.store(result + first + at, new, mask=inside)
    if SUMS:
        total = tl.sum(new.to(tl.float64) * b.to(tl.float64), 1)
        k = tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)
        row = image * classes + k
        tl.store(sums + row * tl.num_programs(0) + tl.program_id(0), total, mask=k < classes)


@Kernel
def _restrict(
    values, right, weights, hold, shares, result, depth, height, width, classes,
    DIRECTIONS: tl.constexpr, CLASSES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    image, pixels = tl.program_id(2).to(tl.int64), depth * height * width
    deep, high, wide = (depth + 1) // 2, (height + 1) // 2, (width + 1) // 2
    cz, cy, cx, there = place(deep, high, wide, ROWS, COLUMNS)
    k = tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)[:, None]
    first, parents = image * classes * pixels, 8 if DIRECTIONS == 27 else 4
    total = restricted(
        values + first, right + first, weights + image * (DIRECTIONS // 2) * pixels, hold + image * pixels,
        shares + image * parents * pixels, k, classes, cz, cy, cx, there,
        tl.zeros((CLASSES, ROWS * COLUMNS), tl.float32), depth, height, width, DIRECTIONS,
    )  # fmt: skip
    coarse = deep * high * wide
    at = k * coarse + ((cz * high + cy) * wide + cx)[None, :]
    tl.store(result + image * classes * coarse + at, total, mask=(k < classes) & there[None, :])


@Kernel
def _prolong(
    values, coarse, shares, depth, height, width, classes,
    DIRECTIONS: tl.constexpr, CLASSES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    image, pixels = tl.program_id(2).to(tl.int64), depth * height * width
    z, y, x, valid = place(depth, height, width, ROWS, COLUMNS)
    i, k = (z * height + y) * width + x, tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)[:, None]
    inside, at = (k < classes) & valid[None, :], k * pixels + i[None, :]
    parents = 8 if DIRECTIONS == 27 else 4
    coarser = ((depth + 1) // 2) * ((height + 1) // 2) * ((width + 1) // 2)
    values += image * classes * pixels
    total = prolonged(
        values, coarse + image * classes * coarser, shares + image * parents * pixels, k, at, inside, z, y, x, valid,
        depth, height, width, DIRECTIONS,
    )  # fmt: skip
    tl.store(values + at, total, mask=inside)


def sweeping(
    values: Tensor, right: Tensor, grid: GridArrays, result: Tensor, shape: Shape, factor: float,
    start: float | None = None, sums: Tensor | None = None,
) -> Launch:  # fmt: skip
    """``result = y + factor D⁻¹ (b - A y)``, where y is `values`, or ``start D⁻¹ b`` if there is a start.

    `sums` ``[b k tiles]`` takes the parts of ``result · b``. Cost: a pass.
    """
    return Launch(
        _sweep, shape.programs, right if start is not None else values, right, *grid, result,
        result if sums is None else sums, 0.0 if start is None else start, factor, *shape.size, shape.classes,
        start is not None, sums is not None, shape.directions, *shape.tile,
    )  # fmt: skip


def restricting(
    values: Tensor, right: Tensor, grid: GridArrays, shares: Tensor, result: Tensor, shape: Shape
) -> Launch:
    """``result = Pᵀ (b - A y)`` on the coarser grid. Cost: two passes, from the cache for the most part."""
    return Launch(
        _restrict, shape.coarse.programs, values, right, grid.weights, grid.hold, shares, result, *shape.size,
        shape.classes, shape.directions, *shape.tile,
    )  # fmt: skip


def prolonging(values: Tensor, coarse: Tensor, shares: Tensor, shape: Shape) -> Launch:
    """``y += P coarse``, in place."""
    return Launch(
        _prolong, shape.programs, values, coarse, shares, *shape.size, shape.classes, shape.directions, *shape.tile
    )  # fmt: skip
