"""Grids for multigrid in Triton: interpolation along the weights, and the equations of the next coarser grid.

The formulas are those of `numerics.linear.grids`. A program works on a block of pixels of one grid.
"""

import torch
import triton.language as tl
from torch import Tensor

from selflabel.kernels.gpu.launch import Kernel, blocks, helper, power_of_two
from selflabel.kernels.gpu.multigrid import GridArrays, Shape, towards

PIXELS = 256
"""Of a program."""


@helper
def coordinates(i, height, width):
    """Of pixels by number."""
    return i // (height * width), i // width % height, i % width


@Kernel
def _invert(
    weights, hold, free, inverse, depth, height, width, DIRECTIONS: tl.constexpr, PIXELS: tl.constexpr
):
    image, pixels = tl.program_id(1).to(tl.int64), depth * height * width
    i = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    valid = i < pixels
    z, y, x = coordinates(i, height, width)
    weights += image * (DIRECTIONS // 2) * pixels
    diagonal = tl.load(hold + image * pixels + i, mask=valid, other=0.0)
    for t in tl.static_range(DIRECTIONS):
        if t != DIRECTIONS // 2:
            _, listed, exists = towards(t, z, y, x, valid, depth, height, width, DIRECTIONS)
            diagonal += tl.load(weights + listed, mask=exists, other=0.0)
    has_one = (tl.load(free + image * pixels + i, mask=valid, other=0) != 0) & (diagonal > 0)
    found = tl.where(has_one, 1 / tl.where(has_one, diagonal, 1.0), 0.0)
    tl.store(inverse + image * pixels + i, found, mask=valid)


@Kernel
def _interpolate(
    weights, shares, depth, height, width, ODD: tl.constexpr, DIRECTIONS: tl.constexpr, PIXELS: tl.constexpr
):
    image, pixels = tl.program_id(1).to(tl.int64), depth * height * width
    i = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    z, y, x = coordinates(i, height, width)
    oz, oy, ox = z % 2, y % 2, x % 2
    odd = oz + oy + ox
    valid = (i < pixels) & ((odd == ODD) | ((odd == 0) & (ODD == 1)))
    parents: tl.constexpr = 8 if DIRECTIONS == 27 else 4
    weights += image * (DIRECTIONS // 2) * pixels
    shares += image * parents * pixels
    for side in range(parents):
        bz, by, bx = side // 4, side // 2 % 2, side % 2
        total = tl.zeros((PIXELS,), tl.float32)
        share = tl.zeros((PIXELS,), tl.float32)
        for t in tl.static_range(DIRECTIONS):
            if t != DIRECTIONS // 2:
                _, listed, exists = towards(t, z, y, x, valid, depth, height, width, DIRECTIONS)
                weight = tl.load(weights + listed, mask=exists, other=0.0)
                # a step along the odd axes alone
                sy, sx = (t // 3 % 3 - 1) * oy, (t % 3 - 1) * ox
                sz = (t // 9 - 1) * oz if DIRECTIONS == 27 else 0 * oz
                weight = tl.where((sz != 0) | (sy != 0) | (sx != 0), weight, 0.0)
                total += weight
                fits = ((sz == 0) | (sz == 2 * bz - 1)) & ((sy == 0) | (sy == 2 * by - 1))
                fits = fits & ((sx == 0) | (sx == 2 * bx - 1))
                # axes along which the pixel there is odd, too, and its coarse pixels on the same side
                lz, ly, lx = oz * (sz == 0), oy * (sy == 0), ox * (sx == 0)
                theirs = 4 * bz * lz + 2 * by * ly + bx * lx
                is_coarse = lz + ly + lx == 0
                there = theirs * pixels + i + (sz * height + sy) * width + sx
                known = tl.load(shares + there, mask=exists & fits & (is_coarse == 0), other=0.0)
                share += tl.where(fits, weight * tl.where(is_coarse, 1.0, known), 0.0)
        exists = (bz <= oz) & (by <= oy) & (bx <= ox)
        share = tl.where(exists & (total > 0), share / tl.where(total > 0, total, 1.0), 0.0)
        share = tl.where((odd == 0) & exists, 1.0, share)
        tl.store(shares + side * pixels + i, share, mask=valid)


@helper
def share_of(shares, free, z, y, x, cz, cy, cx, valid, height, width, pixels, DIRECTIONS: tl.constexpr):
    """Of a fine pixel from a coarse one; fixed pixels on the coarse grid are their own."""
    ez, ey, ex = 2 * cz - z, 2 * cy - y, 2 * cx - x
    near = valid & (ez >= -1) & (ez <= 1) & (ey >= -1) & (ey <= 1) & (ex >= -1) & (ex <= 1)
    i = (z * height + y) * width + x
    side = (ez > 0) * 4 + (ey > 0) * 2 + (ex > 0) * 1
    share = tl.load(shares + side * pixels + i, mask=near, other=0.0)
    is_free = tl.load(free + i, mask=near, other=1) != 0
    itself = near & (ez == 0) & (ey == 0) & (ex == 0) & (is_free == 0)
    return tl.where(itself, 1.0, share)


@helper
def left_out(free, z, y, x, valid, height, width):
    """1 for pixels that are neither free nor on the coarse grid, and beyond the border."""
    is_free = tl.load(free + (z * height + y) * width + x, mask=valid, other=0) != 0
    return (is_free == 0) & (((z % 2) + (y % 2) + (x % 2)) > 0)


@Kernel
def _weigh(
    weights, free, shares, result, depth, height, width, DIRECTIONS: tl.constexpr, PIXELS: tl.constexpr
):
    image, pixels = tl.program_id(2).to(tl.int64), depth * height * width
    deep, high, wide = (depth + 1) // 2, (height + 1) // 2, (width + 1) // 2
    coarse = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    cz, cy, cx = coordinates(coarse, high, wide)
    # the coarse pixel that the weight leads to
    number = tl.program_id(1)
    step = number + DIRECTIONS // 2 + 1
    oz, oy, ox = cz + (step // 9 - 1 if DIRECTIONS == 27 else 0), cy + step // 3 % 3 - 1, cx + step % 3 - 1
    there = (coarse < deep * high * wide) & (oz >= 0) & (oz < deep) & (oy >= 0) & (oy < high)
    there = there & (ox >= 0) & (ox < wide)
    weights += image * (DIRECTIONS // 2) * pixels
    shares += image * (8 if DIRECTIONS == 27 else 4) * pixels
    free += image * pixels
    total = tl.zeros((PIXELS,), tl.float32)
    for s in range(DIRECTIONS):
        z = 2 * cz + (s // 9 - 1 if DIRECTIONS == 27 else 0)
        y, x = 2 * cy + s // 3 % 3 - 1, 2 * cx + s % 3 - 1
        valid = there & (z >= 0) & (z < depth) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        valid = valid & (left_out(free, z, y, x, valid, height, width) == 0)
        mine = share_of(shares, free, z, y, x, cz, cy, cx, valid, height, width, pixels, DIRECTIONS)
        other = share_of(shares, free, z, y, x, oz, oy, ox, valid, height, width, pixels, DIRECTIONS)
        flow = tl.zeros((PIXELS,), tl.float32)
        for t in tl.static_range(DIRECTIONS):
            if t != DIRECTIONS // 2:
                _, listed, exists = towards(t, z, y, x, valid, depth, height, width, DIRECTIONS)
                tz = z + (t // 9 - 1 if DIRECTIONS == 27 else 0)
                ty, tx = y + t // 3 % 3 - 1, x + t % 3 - 1
                exists = exists & (left_out(free, tz, ty, tx, exists, height, width) == 0)
                weight = tl.load(weights + listed, mask=exists, other=0.0)
                theirs = share_of(
                    shares, free, tz, ty, tx, oz, oy, ox, exists, height, width, pixels, DIRECTIONS
                )
                flow += weight * (other - theirs)
        total -= mine * flow
    size = deep * high * wide
    at = (image * (DIRECTIONS // 2) + number) * size + coarse
    tl.store(result + at, tl.where(there, tl.maximum(total, 0.0), 0.0), mask=coarse < size)


@Kernel
def _hold(
    weights, hold, free, shares, result, depth, height, width, DIRECTIONS: tl.constexpr, PIXELS: tl.constexpr
):
    image, pixels = tl.program_id(1).to(tl.int64), depth * height * width
    deep, high, wide = (depth + 1) // 2, (height + 1) // 2, (width + 1) // 2
    coarse = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    cz, cy, cx = coordinates(coarse, high, wide)
    there = coarse < deep * high * wide
    weights += image * (DIRECTIONS // 2) * pixels
    shares += image * (8 if DIRECTIONS == 27 else 4) * pixels
    free += image * pixels
    total = tl.zeros((PIXELS,), tl.float32)
    for s in range(DIRECTIONS):
        dy, dx = s // 3 % 3 - 1, s % 3 - 1
        dz = s // 9 - 1 if DIRECTIONS == 27 else 0
        z, y, x = 2 * cz + dz, 2 * cy + dy, 2 * cx + dx
        valid = there & (z >= 0) & (z < depth) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        i = (z * height + y) * width + x
        held = tl.load(hold + image * pixels + i, mask=valid, other=0.0)
        for t in tl.static_range(DIRECTIONS):
            if t != DIRECTIONS // 2:
                _, listed, exists = towards(t, z, y, x, valid, depth, height, width, DIRECTIONS)
                tz = z + (t // 9 - 1 if DIRECTIONS == 27 else 0)
                ty, tx = y + t // 3 % 3 - 1, x + t % 3 - 1
                out = exists & left_out(free, tz, ty, tx, exists, height, width)
                held += tl.load(weights + listed, mask=out, other=0.0)
        side = (dz < 0) * 4 + (dy < 0) * 2 + (dx < 0) * 1
        total += held * tl.load(shares + side * pixels + i, mask=valid, other=0.0)
    tl.store(result + image * (deep * high * wide) + coarse, total, mask=there)


@Kernel
def _matrix(weights, hold, inverse, to, depth, height, width, DIRECTIONS: tl.constexpr, SIZE: tl.constexpr):
    row, image = tl.program_id(0) + tl.zeros((1,), tl.int32), tl.program_id(1).to(tl.int64)
    z, y, x = coordinates(row, height, width)
    pixels = depth * height * width
    column = tl.arange(0, SIZE)
    weights += image * (DIRECTIONS // 2) * pixels
    diagonal = tl.load(hold + image * pixels + row).to(tl.float64)
    dense = tl.zeros((SIZE,), tl.float64)
    for t in tl.static_range(DIRECTIONS):
        if t != DIRECTIONS // 2:
            far, listed, exists = towards(t, z, y, x, row >= 0, depth, height, width, DIRECTIONS)
            weight = tl.load(weights + listed, mask=exists, other=0.0).to(tl.float64)
            diagonal += weight
            dense -= tl.where(column == row + far, weight, 0.0)
    dense = tl.where(column == row, diagonal, dense)
    # without equations of their own pixels stay as they are
    mine = tl.load(inverse + image * pixels + row) > 0
    theirs = tl.load(inverse + image * pixels + column, mask=column < pixels, other=0.0) > 0
    dense = tl.where(mine & theirs, dense, (column == row).to(tl.float64))
    tl.store(to + (image * pixels + row) * pixels + column, dense, mask=column < pixels)


def invert(grid: GridArrays, free: Tensor, shape: Shape) -> None:
    """The inverse of the diagonal into `grid.inverse`; 0 where pixels are not free, or nothing ties them."""
    _invert(
        _programs(shape), grid.weights, grid.hold, free, grid.inverse, *shape.size, shape.directions, PIXELS
    )


def interpolate(weights: Tensor, free: Tensor, shares: Tensor, shape: Shape) -> None:
    """The shares ``[b c n]`` of fine pixels, 0 where they are not free."""
    axes = 3 if shape.directions == 27 else 2
    shares.zero_()
    for odd in range(1, axes + 1):
        _interpolate(_programs(shape), weights, shares, *shape.size, odd, shape.directions, PIXELS)
    shares.mul_(free.view(len(free), 1, -1))


def coarsen(grid: GridArrays, free: Tensor, shares: Tensor, coarser: GridArrays, shape: Shape) -> None:
    """Weights and hold of the coarser grid."""
    parts = blocks(coarser.hold.shape[1], PIXELS)
    sizes = *shape.size, shape.directions, PIXELS
    given = grid.weights, free, shares, coarser.weights
    _weigh((parts, shape.directions // 2, shape.batch), *given, *sizes)
    _hold((parts, shape.batch), grid.weights, grid.hold, free, shares, coarser.hold, *sizes)


def matrix(grid: GridArrays, shape: Shape) -> Tensor:
    """The matrix of a small grid in float64, with a unit diagonal for pixels without equations: ``[b n n]``."""
    count = grid.hold.shape[1]
    to = torch.empty(shape.batch, count, count, dtype=torch.float64, device=grid.hold.device)
    _matrix((count, shape.batch), *grid, to, *shape.size, shape.directions, power_of_two(count))
    return to


def _programs(shape: Shape) -> tuple[int, int]:
    return blocks(shape.size[0] * shape.size[1] * shape.size[2], PIXELS), shape.batch
