"""Steps of square roots of labels, and their energies and gradients: a step reads and writes each array once.

Three launches a step, and no wait: `moving` turns the direction and goes ahead along it, `measuring` evaluates the
trial, and `deciding` accepts or refuses it and chooses the next rate, for each image by itself. An image has two
points, the current one and that of the last trial; `sides` says which is which, so that a trial is accepted without a
copy. Images that are done cost nothing. Sums are made in a fixed order: the same bytes on every run.
"""

from typing import NamedTuple

import triton.language as tl
from torch import Tensor

from selflabel.kernels.gpu.formulas import coupling
from selflabel.kernels.gpu.launch import Kernel, Launch, blocks, helper
from selflabel.kernels.gpu.stencil import StencilPairs, add_pairs, place
from selflabel.kernels.gpu.tiles import Tiles

SUMS = 1024
"""Sums of tiles that are added up at a time."""

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


class SearchState(NamedTuple):
    """What `deciding` changes: a number for each image ``[b]``, in int32 or float64."""

    sides: Tensor
    """int32: the current point."""
    done: Tensor
    """int32: 1 for images that are left alone."""
    steps: Tensor
    """int32: trials so far, but the first one and those since the image is done."""
    turns: Tensor
    """int32: 1 where the direction becomes ``-n + beta d``, limited for a step of the next rate."""
    betas: Tensor
    rates: Tensor
    """Of the next step."""
    energies: Tensor
    """At the current point."""
    quiet: Tensor
    """Steps in a row that gained little."""


class StepRules(NamedTuple):
    """How trials are decided about: `solvers.gradient_descent`."""

    rtol: float
    quiet_steps: float
    """Steps in a row that gain less than `rtol` of the energy before an image is done."""
    least_rate: float
    """Rate below which an image whose step was refused is done."""
    most_growth: float
    """Largest factor of the rate."""
    slack: float
    """Fraction of the energy by which an accepted step may raise it: rounding."""


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


class Formulas(NamedTuple):
    """The energy: numbers of coupling and relaxation (`kernels.gpu.formulas`), and their weights."""

    coupling: int
    relaxation: int
    coupling_weight: float
    pairwise_weight: float


@helper
def _natural(root, gradient, curvature):
    """``u c / (c⁺ + 2 u h)`` with ``c = g - y·g``, both sides times 2 u: the gradient by the roots is ``2 u c``."""
    u = tl.maximum(root, LEAST_ROOT)
    return u * gradient / (tl.maximum(gradient, 0.0) + 4 * u * u * curvature)


@Kernel
def _move(
    roots,
    gradient,
    curvature,
    direction,
    sides,
    done,
    free,
    allowed,
    turns,
    betas,
    rates,
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
        rate = tl.load(rates + image).to(tl.float32)
        if tl.load(turns + image) != 0:
            slope = tl.load(gradient + at * of_image + here, mask=inside, other=0.0)
            bend = tl.load(curvature + at * pixels + i, mask=i < pixels, other=1.0)
            beta = tl.load(betas + image).to(tl.float32)
            ahead = beta * ahead - _natural(root, slope, bend[None, :])
            ahead = tl.minimum(tl.maximum(ahead, (left - 1) / rate * root), reach / rate)
            tl.store(direction + image * of_image + here, ahead, mask=inside)
        is_free = tl.load(free + image * pixels + i, mask=i < pixels, other=0.0)
        is_allowed = tl.load(allowed + image * classes + k, mask=k < classes, other=0.0)
        moved = root + rate * ahead
        moved = is_allowed * tl.maximum(moved, floor * is_free[None, :])
        moved /= tl.sqrt(tl.where(i < pixels, tl.sum(moved * moved, 0), 1.0))[None, :]
        tl.store(roots + trial * of_image + here, moved, mask=inside)


@helper
def _store_sums(sums, start, end, norm, overlap, energy):
    """Five numbers of a program: energy and inner products of a tile, in float64."""
    tiles = tl.num_programs(0)
    to = sums + 5 * tl.program_id(1) * tiles + tl.program_id(0)
    tl.store(to, tl.sum(energy.to(tl.float64), 0))
    tl.store(to + tiles, tl.sum(tl.sum(start, 0).to(tl.float64), 0))
    tl.store(to + 2 * tiles, tl.sum(tl.sum(end, 0).to(tl.float64), 0))
    tl.store(to + 3 * tiles, tl.sum(tl.sum(norm, 0).to(tl.float64), 0))
    tl.store(to + 4 * tiles, tl.sum(tl.sum(overlap, 0).to(tl.float64), 0))


@Kernel
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
    pairwise_weight,
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
        energy = pairwise_weight * energy + coupling_weight * is_free * cost
        bend = tl.maximum(pairwise_weight * bend + coupling_weight * by_curve, least)
        slope = pairwise_weight * (slope + 2 * by_norm[None, :] * labels)
        slope += (coupling_weight * by_dot)[None, :] * goal
        slope = 2 * is_free[None, :] * root * (slope - tl.sum(slope * labels, 0)[None, :])
        tl.store(gradient + trial * of_image + here, slope, mask=inside)
        tl.store(curvature + trial * pixels + i, bend, mask=valid)
        natural = _natural(root, slope, bend[None, :])
        old = tl.load(gradient + at * of_image + here, mask=inside, other=0.0)
        along = tl.load(direction + image * of_image + here, mask=inside, other=0.0)
        _store_sums(sums, along * old, along * slope, natural * slope, natural * old, energy)


@helper
def _sum(sums, tiles, BLOCK: tl.constexpr):
    """The sum of the numbers of all tiles, in a fixed order."""
    total = tl.zeros([BLOCK], tl.float64)
    for start in range(0, tiles, BLOCK):
        i = start + tl.arange(0, BLOCK)
        total += tl.load(sums + i, mask=i < tiles, other=0.0)
    return tl.sum(total, 0)


@Kernel
def _decide(
    sides, done, steps, turns, betas, rates, energies, quiet, sums, tiles,
    rtol, quiet_steps, least_rate, most_growth, slack, FIRST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0)
    of_image = sums + 5 * image * tiles
    energy, norm = _sum(of_image, tiles, BLOCK), _sum(of_image + 3 * tiles, tiles, BLOCK)
    if FIRST:
        tl.store(sides + image, 1 - tl.load(sides + image))
        tl.store(energies + image, energy)
        tl.store(done + image, (norm == 0).to(tl.int32))
        tl.store(turns + image, 1)
        tl.store(rates + image, 1.0)
    else:
        if tl.load(done + image) == 0:
            start, end = _sum(of_image + tiles, tiles, BLOCK), _sum(of_image + 2 * tiles, tiles, BLOCK)
            overlap = _sum(of_image + 4 * tiles, tiles, BLOCK)
            before, rate = tl.load(energies + image), tl.load(rates + image)
            accepted = energy <= before + slack * tl.abs(before)
            rises = end > start
            change = tl.where(rises, end - start, 1.0)
            factor = tl.where(rises, -start / change, most_growth)
            least, most = tl.where(accepted, 0.3, 0.1), tl.where(accepted, most_growth, 0.5)
            rate *= tl.minimum(tl.maximum(factor, least), most)
            is_little = before - energy <= rtol * tl.abs(before)
            still = tl.load(quiet + image)
            still = tl.where(accepted, tl.where(is_little, still + 1, 0.0), still)
            beta = tl.maximum((norm - overlap) / change, 0.0)  # Hestenes-Stiefel, or a restart
            is_kept = accepted & rises & (beta * end < norm)
            # or refused, and what was left of the direction is not downhill
            is_turning = accepted | (start >= 0)
            is_over = (still >= quiet_steps) | ((accepted == 0) & (rate < least_rate))
            tl.store(steps + image, tl.load(steps + image) + 1)
            tl.store(sides + image, tl.load(sides + image) ^ accepted.to(tl.int32))
            tl.store(energies + image, tl.where(accepted, energy, before))
            tl.store(done + image, is_over.to(tl.int32))
            tl.store(turns + image, is_turning.to(tl.int32))
            tl.store(betas + image, tl.where(is_kept, beta, 0.0))
            tl.store(rates + image, rate)
            tl.store(quiet + image, still)


def moving(points: Points, given: Given, limits: Limits, progress: SearchState) -> Launch:
    """Roots of the trial: a step of the rate along the direction, of norm one again; the direction turns first."""
    batch, classes, pixels = points.direction.shape
    tiles = Tiles.of((1, classes, 1, pixels))
    size = tiles.rows * tiles.columns
    return Launch(
        _move, (blocks(pixels, size), batch), *points, progress.sides, progress.done, given.free, given.allowed,
        progress.turns, progress.betas, progress.rates, pixels, classes, *limits[:3], tiles.classes, size,
    )  # fmt: skip


def measuring(
    points: Points, given: Given, pairs: StencilPairs, formulas: Formulas, tiles: Tiles, limits: Limits,
    progress: SearchState, sums: Tensor,
) -> Launch:  # fmt: skip
    """Gradient and curvature at the trial; `sums` ``[b 5 tiles]`` in float64: energy, d·g', d·g, n·g and n·g'.

    Letters as in `numerics.descent.line_search`.
    """
    batch, classes, _ = points.direction.shape
    return Launch(
        _measure, (tiles.count, batch), *points, progress.sides, progress.done, given.target, given.free, *pairs,
        sums, len(pairs.offsets), *tiles.size, classes, *formulas[2:], limits.curvature,
        formulas.coupling, formulas.relaxation, tiles.classes, tiles.rows, tiles.columns,
    )  # fmt: skip


def deciding(progress: SearchState, sums: Tensor, rules: StepRules, *, is_first: bool = False) -> Launch:
    """Accept or refuse the trials that `measuring` has summed up; the first one, at the start, is taken as it is."""
    rest = sums.shape[2], *map(float, rules), is_first, SUMS
    return Launch(_decide, (len(sums),), *progress, sums, *rest)
