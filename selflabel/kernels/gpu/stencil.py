"""Sums over the pairs of a stencil: a pixel visits its neighbors on both sides, so that no two write to one place."""

from typing import NamedTuple

import triton.language as tl
from torch import Tensor

from selflabel.kernels.gpu.compile import kernel
from selflabel.kernels.gpu.formulas import relaxation


class StencilPairs(NamedTuple):
    """The pairs of a stencil with m offsets; contiguous."""

    weights: Tensor
    """``[b m n]`` float32, by the first pixel of a pair; zero for pairs across the border."""
    offsets: Tensor
    """``[m 3]`` int32: from the first pixel to the second one, on three axes (the first one is 0 for images)."""


@kernel
def place(depth, height, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Coordinates of the pixels of a tile (`compile.Tiles`), and which of them are in the image."""
    across, down = (width + COLUMNS - 1) // COLUMNS, (height + ROWS - 1) // ROWS
    number = tl.program_id(0)
    inner = tl.arange(0, ROWS * COLUMNS)
    x = (number % across) * COLUMNS + inner % COLUMNS
    y = (number // across % down) * ROWS + inner // COLUMNS
    z = number // (across * down) + tl.zeros_like(inner)
    return z, y, x, (y < height) & (x < width)


@kernel
def add_pairs(
    points,
    weights,
    offsets,
    count,
    labels,
    norm,
    z,
    y,
    x,
    valid,
    depth,
    height,
    width,
    classes,
    ROOTS: tl.constexpr,
    RELAXATION: tl.constexpr,
):
    """Of the pixels of a tile: value of the pairs whose first pixel they are, and derivatives of all of their pairs.

    Returns the value ``[p]``, the gradient by the labels ``[k p]`` but for the norm's part, the derivative by the norm
    and the curvature ``[p]``. Points are labels, or their square roots.
    """
    pixels = depth * height * width
    here = (z * height + y) * width + x
    k = tl.arange(0, labels.shape[0])[:, None]
    gradient, value = tl.zeros_like(labels), tl.zeros_like(norm)
    by_norms, curvature = tl.zeros_like(norm), tl.zeros_like(norm)
    for m in range(count):
        dz, dy, dx = tl.load(offsets + 3 * m), tl.load(offsets + 3 * m + 1), tl.load(offsets + 3 * m + 2)
        shift = (dz * height + dy) * width + dx
        for back in tl.static_range(2):
            sign = 1 - 2 * back
            z_there, y_there, x_there = z + sign * dz, y + sign * dy, x + sign * dx
            inside = valid & (z_there >= 0) & (z_there < depth) & (y_there >= 0) & (y_there < height)
            inside = inside & (x_there >= 0) & (x_there < width)
            there = here + sign * shift
            weight = tl.load(weights + m * pixels + (there if back else here), mask=inside, other=0.0)
            neighbor = tl.load(
                points + k * pixels + there[None, :], mask=(k < classes) & inside[None, :], other=0.0
            )
            if ROOTS:
                neighbor = neighbor * neighbor
            dot = tl.where(inside, tl.sum(labels * neighbor, 0), 1.0)
            other = tl.where(inside, tl.sum(neighbor * neighbor, 0), 1.0)
            cost, by_dot, by_norm = relaxation(dot, norm, other, RELAXATION)
            if back == 0:
                value += weight * cost
            by_dot *= weight
            gradient += by_dot[None, :] * neighbor
            curvature -= by_dot
            by_norms += weight * by_norm
    return value, gradient, by_norms, curvature
