"""Steps of square roots of labels, and their energies and gradients: a step reads and writes each array once.

Two launches a step: `move` turns the direction and goes ahead along it, `measure` evaluates the trial. An image has two
points, the current one and that of the last trial; `sides` says which is which, so that a trial is accepted without a
copy. Images that are done cost nothing. Sums are made in a fixed order: the same bytes on every run.
"""

from typing import NamedTuple

import triton.language as tl
from torch import Tensor

from selflabel.kernels.gpu.compile import Tiles, device_of, kernel
from selflabel.kernels.gpu.formulas import coupling
from selflabel.kernels.gpu.stencil import StencilPairs, add_pairs, place

LEAST_ROOT = tl.constexpr(1e-12)
"""Divisor in place of the root of an excluded class, which is zero."""


class Points(NamedTuple):
    """What steps change. Contiguous, float32."""

    roots: Tensor
    """``[2 b k n]``: of both points."""
    gradient: Tensor
    """``[2 b k n]``: by the roots."""
    curvature: Tensor
    """``[2 b n]``: of the energy by the labels (`selflabel.terms.Gradient`)."""
    direction: Tensor
    """``[b k n]``."""
    sides: Tensor
    """``[b]`` int32: the current point of each image."""
    done: Tensor
    """``[b]`` int32: images that are left alone."""


class Given(NamedTuple):
    """What no step changes. Contiguous, float32."""

    target: Tensor
    """``[b k n]``: t of the coupling (`selflabel.terms.Product`)."""
    free: Tensor
    """``[b n]``: 1, and 0 at seeds."""
    allowed: Tensor
    """``[b k]``: 1, and 0 for excluded classes."""


class Limits(NamedTuple):
    """Of roots, of their steps, and of the curvature."""

    floor: float
    """The least root of a free pixel."""
    left: float
    """Least share of each root that a step leaves."""
    reach: float
    """Most that a step adds to a root."""
    curvature: float
    """The least."""


@kernel
def _natural(root, gradient, curvature):
    """``u c / (c⁺ + 2 u h)`` with ``c = g - y·g``, both sides times 2 u: the gradient by the roots is ``2 u c``."""
    u = tl.maximum(root, LEAST_ROOT)
    return u * gradient / (tl.maximum(gradient, 0.0) + 4 * u * u * curvature)


@kernel
def _move(
    roots,
    gradient,
    curvature,
    direction,
    sides,
    done,
    free,
    allowed,
    rates,
    turns,
    betas,
    turn_rates,
    pixels,
    classes,
    floor,
    left,
    reach,
    CLASSES: tl.constexpr,
    PIXELS: tl.constexpr,
):
    image, images = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    if tl.load(done + image) == 0:
        side = tl.load(sides + image)
        at, trial = image + side * images, image + (1 - side) * images
        i, k = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS), tl.arange(0, CLASSES)[:, None]
        inside, here = (k < classes) & (i < pixels)[None, :], k * pixels + i[None, :]
        of_image = classes * pixels
        root = tl.load(roots + at * of_image + here, mask=inside, other=0.0)
        ahead = tl.load(direction + image * of_image + here, mask=inside, other=0.0)
        if tl.load(turns + image) != 0:
            slope = tl.load(gradient + at * of_image + here, mask=inside, other=0.0)
            bend = tl.load(curvature + at * pixels + i, mask=i < pixels, other=1.0)
            beta, rate = tl.load(betas + image).to(tl.float32), tl.load(turn_rates + image).to(tl.float32)
            ahead = beta * ahead - _natural(root, slope, bend[None, :])
            ahead = tl.minimum(tl.maximum(ahead, (left - 1) / rate * root), reach / rate)
            tl.store(direction + image * of_image + here, ahead, mask=inside)
        is_free = tl.load(free + image * pixels + i, mask=i < pixels, other=0.0)
        is_allowed = tl.load(allowed + image * classes + k, mask=k < classes, other=0.0)
        moved = root + tl.load(rates + image).to(tl.float32) * ahead
        moved = is_allowed * tl.maximum(moved, floor * is_free[None, :])
        moved /= tl.sqrt(tl.where(i < pixels, tl.sum(moved * moved, 0), 1.0))[None, :]
        tl.store(roots + trial * of_image + here, moved, mask=inside)


@kernel
def _store_sums(sums, start, end, norm, overlap, energy):
    """Five numbers of a program: energy and inner products of a tile, in float64."""
    to = sums + 5 * (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0))
    tl.store(to, tl.sum(energy.to(tl.float64), 0))
    tl.store(to + 1, tl.sum(tl.sum(start, 0).to(tl.float64), 0))
    tl.store(to + 2, tl.sum(tl.sum(end, 0).to(tl.float64), 0))
    tl.store(to + 3, tl.sum(tl.sum(norm, 0).to(tl.float64), 0))
    tl.store(to + 4, tl.sum(tl.sum(overlap, 0).to(tl.float64), 0))


@kernel
def _measure(
    roots,
    gradient,
    curvature,
    direction,
    sides,
    done,
    target,
    free,
    weights,
    offsets,
    sums,
    count,
    depth,
    height,
    width,
    classes,
    coupling_weight,
    least,
    COUPLING: tl.constexpr,
    RELAXATION: tl.constexpr,
    CLASSES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    image, images = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    if tl.load(done + image) == 0:
        pixels = depth * height * width
        of_image, side = classes * pixels, tl.load(sides + image)
        at, trial = image + side * images, image + (1 - side) * images
        z, y, x, valid = place(depth, height, width, ROWS, COLUMNS)
        i, k = (z * height + y) * width + x, tl.arange(0, CLASSES)[:, None]
        inside, here = (k < classes) & valid[None, :], k * pixels + i[None, :]
        points = roots + trial * of_image
        root = tl.load(points + here, mask=inside, other=0.0)
        labels = root * root
        own = tl.where(valid, tl.sum(labels * labels, 0), 1.0)
        energy, slope, by_norm, bend = add_pairs(
            points, weights + image * count * pixels, offsets, count, labels, own,
            z, y, x, valid, depth, height, width, classes, True, RELAXATION,
        )  # fmt: skip
        goal = tl.load(target + image * of_image + here, mask=inside, other=0.0)
        is_free = tl.load(free + image * pixels + i, mask=valid, other=0.0)
        cost, by_dot, by_curve = coupling(tl.where(valid, tl.sum(labels * goal, 0), 1.0), COUPLING)
        energy += coupling_weight * is_free * cost
        bend = tl.maximum(bend + coupling_weight * by_curve, least)
        slope += 2 * by_norm[None, :] * labels + (coupling_weight * by_dot)[None, :] * goal
        slope = 2 * is_free[None, :] * root * (slope - tl.sum(slope * labels, 0)[None, :])
        tl.store(gradient + trial * of_image + here, slope, mask=inside)
        tl.store(curvature + trial * pixels + i, bend, mask=valid)
        natural = _natural(root, slope, bend[None, :])
        old = tl.load(gradient + at * of_image + here, mask=inside, other=0.0)
        along = tl.load(direction + image * of_image + here, mask=inside, other=0.0)
        _store_sums(sums, along * old, along * slope, natural * slope, natural * old, energy)


def move(
    points: Points,
    given: Given,
    limits: Limits,
    rates: Tensor,
    turns: Tensor,
    betas: Tensor,
    turn_rates: Tensor,
) -> None:
    """Roots of the trial: `rates` times the direction ahead, of norm one again. Numbers an image are in float64.

    Directions of images whose `turns` is not 0 become ``-n + beta d`` first, limited for a step of the turn's rate.
    """
    batch, classes, pixels = points.direction.shape
    tiles = Tiles.of((1, classes, 1, pixels))
    size = tiles.rows * tiles.columns
    with device_of(points.roots):
        _move[(-(-pixels // size), batch)](
            *points, given.free, given.allowed, rates, turns, betas, turn_rates, pixels, classes, *limits[:3],
            CLASSES=tiles.classes, PIXELS=size,
        )  # fmt: skip


def measure(
    points: Points,
    given: Given,
    pairs: StencilPairs,
    tiles: Tiles,
    coupling_weight: float,
    limits: Limits,
    numbers: tuple[int, int],
    sums: Tensor,
) -> None:
    """Gradient and curvature at the trial; `sums` ``[b tiles 5]`` in float64: energy, d·g', d·g, n·g, n·g'.

    `numbers` of the formulas of coupling and relaxation. Letters as in `numerics.descent.line_search`.
    """
    batch, classes, _ = points.direction.shape
    with device_of(points.roots):
        _measure[(tiles.count, batch)](
            *points, given.target, given.free, *pairs, sums, len(pairs.offsets), *tiles.size, classes,
            coupling_weight, limits.curvature, COUPLING=numbers[0], RELAXATION=numbers[1],
            CLASSES=tiles.classes, ROWS=tiles.rows, COLUMNS=tiles.columns,
        )  # fmt: skip
