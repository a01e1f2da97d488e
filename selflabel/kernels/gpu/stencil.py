"""Sums over the pairs of a stencil: a pixel visits its neighbors on both sides, so that no two write to one place."""

from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from selflabel.kernels.gpu.formulas import PRODUCT, relaxation
from selflabel.kernels.gpu.launch import Kernel, helper
from selflabel.kernels.gpu.tiles import Tiles


class StencilPairs(NamedTuple):
    """The pairs of a stencil with m offsets; contiguous."""

    weights: Tensor
    """``[b m n]`` float32, by the first pixel of a pair; zero for pairs across the border."""
    offsets: Tensor
    """``[m 3]`` int32: from the first pixel to the second one, on three axes (the first one is 0 for images)."""


@helper
def place(depth, height, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Coordinates of the pixels of a tile (`compile.Tiles`), and which of them are in the image."""
    across, down = (width + COLUMNS - 1) // COLUMNS, (height + ROWS - 1) // ROWS
    number = tl.program_id(0)
    inner = tl.arange(0, ROWS * COLUMNS)
    x = (number % across) * COLUMNS + inner % COLUMNS
    y = (number // across % down) * ROWS + inner // COLUMNS
    z = number // (across * down) + tl.zeros_like(inner)
    return z, y, x, (y < height) & (x < width)


@helper
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


@Kernel
def _potts(
    labels, weights, offsets, gradient, curvature, energies, count, depth, height, width, classes,
    RELAXATION: tl.constexpr, ENERGY: tl.constexpr, GRADIENT: tl.constexpr, CURVATURE: tl.constexpr,
    CLASSES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    image, pixels = tl.program_id(1).to(tl.int64), depth * height * width
    z, y, x, valid = place(depth, height, width, ROWS, COLUMNS)
    i, k = (z * height + y) * width + x, tl.arange(0, CLASSES)[:, None]
    inside, here = (k < classes) & valid[None, :], k * pixels + i[None, :]
    labels += image * classes * pixels
    own = tl.load(labels + here, mask=inside, other=0.0)
    norm = tl.where(valid, tl.sum(own * own, 0), 1.0)
    energy, slope, by_norm, bend = add_pairs(
        labels, weights + image * count * pixels, offsets, count, own, norm,
        z, y, x, valid, depth, height, width, classes, False, RELAXATION,
    )  # fmt: skip
    if ENERGY:
        tl.store(energies + image * tl.num_programs(0) + tl.program_id(0), tl.sum(energy.to(tl.float64), 0))
    if GRADIENT:
        slope += 2 * by_norm[None, :] * own
        tl.store(gradient + image * classes * pixels + here, slope, mask=inside)
    if CURVATURE:
        tl.store(curvature + image * pixels + i, bend, mask=valid)


def _launch(
    labels: Tensor,
    pairs: StencilPairs,
    number: int,
    gradient: Tensor | None,
    curvature: Tensor | None,
    energies: Tensor | None,
) -> None:
    tiles = Tiles.of(tuple(labels.shape))
    arrays = (labels if array is None else array for array in (gradient, curvature, energies))
    wanted = energies is not None, gradient is not None, curvature is not None
    _potts(
        (tiles.count, len(labels)), labels, *pairs, *arrays, len(pairs.offsets), *tiles.size, labels.shape[1],
        number, *wanted, tiles.classes, tiles.rows, tiles.columns,
    )  # fmt: skip


def apply(values: Tensor, pairs: StencilPairs) -> Tensor:
    """``W x`` for ``x [b k *s]``. Cost: one pass over the values, and their neighbors from the cache."""
    result = torch.empty_like(values)
    _launch(values, pairs, PRODUCT.value, result, None, None)
    return result


def potts(labels: Tensor, pairs: StencilPairs, number: int) -> Tensor:
    """``Σ w_ij P(y_i, y_j)`` of each image ``[b]`` in float64; `number` of the relaxation (`formulas.RELAXATIONS`)."""
    energies = _energies(labels)
    _launch(labels, pairs, number, None, None, energies)
    return energies.sum(1)


def potts_and_gradient(labels: Tensor, pairs: StencilPairs, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """`potts`, its gradient by the labels and the curvature ``[b 1 *s]``, in the same pass."""
    energies, gradient, curvature = (
        _energies(labels),
        torch.empty_like(labels),
        torch.empty_like(labels[:, :1]),
    )
    _launch(labels, pairs, number, gradient, curvature, energies)
    return energies.sum(1), gradient, curvature


def _energies(labels: Tensor) -> Tensor:
    """For one number a tile."""
    count = Tiles.of(tuple(labels.shape)).count
    return torch.empty(len(labels), count, dtype=torch.float64, device=labels.device)
