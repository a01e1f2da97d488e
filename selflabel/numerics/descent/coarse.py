"""Coarse to fine: a start found on blocks of pixels, at a fraction of the cost."""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer, Shaped
from torch import Tensor

from selflabel.affinity.stencil import Box, Stencil
from selflabel.numerics.descent.line_search import select
from selflabel.problem import Problem

SMALLEST = 8
"""Pixels: the least length of an axis after it is halved."""


def coarse_to_fine(
    problem: Problem,
    labels: Float[Tensor, "b k *s"],
    energy: Float[Tensor, " b"],
    levels: int,
    descend: Callable[[Problem, Tensor], Tensor],
    softening: float = 0.0,
) -> Float[Tensor, "b k *s"]:
    """The labels, which have this energy, or of each image those that a coarser problem leads to, if they have less.

    The image is halved `levels` times at most. On each level ``descend(problem, labels)`` starts from the labels and
    from what the next coarser level finds, as neither leads to the better minimum always; the better end goes up.
    `softening` is a probability added to every class there (`Coordinates.softening`).
    """
    coarse = coarsen(problem) if levels else None
    if coarse is None:
        return labels
    is_prediction = torch.equal(labels, problem.probs)  # a third of the time of averaging once more
    given = coarse.feasible(coarse.probs if is_prediction else coarse_labels(labels))
    starts = [given]
    if levels > 1:
        other = coarse_to_fine(coarse, given, coarse.value(given), levels - 1, descend, softening)
        starts = [given] if torch.equal(other, given) else [other, given]
    rough, *others = [descend(coarse, start) for start in starts]
    for other in others:
        rough = select(coarse.value(other) < coarse.value(rough), other, rough)
    if softening:
        rough = (rough + softening) / (1 + softening * rough.shape[1])
    size = tuple(labels.shape[2:])
    start = fine_labels(rough, size)
    if not bool(coarse.free.all()):
        # the class of a seed need not be that of the other pixels of its block: they keep their labels
        start = torch.where(fine_labels(coarse.free, size), start, labels)
    start = problem.feasible(start)
    return select(problem.value(start) < energy, start, labels)


def coarsen(problem: Problem) -> Problem | None:
    """The problem for labels that are constant on blocks of 2 pixels an axis; None if it cannot be halved.

    Dense affinities cannot, nor energies with regularizers, nor axes shorter than ``2 SMALLEST``. Weights between two
    blocks are summed (`Stencil.coarsen`), predictions and costs averaged, and a block with a seed is a seed, of its
    smallest class. So its energy is about that of the problem.
    """
    size = tuple(problem.probs.shape[2:])
    pixels, energy = 2 ** len(size), problem.energy
    if not isinstance(problem.affinity, Stencil) or energy.regularizers or min(size) < 2 * SMALLEST:
        return None
    return Problem(
        replace(
            energy,
            coupling_weight=pixels * energy.coupling_weight,
            entropy_weight=pixels * energy.entropy_weight,
        ),
        coarse_labels(problem.probs),
        coarse_seeds(problem.seeds),
        problem.affinity.coarsen(),
        problem.classes,
        None if problem.costs is None else coarse_labels(problem.costs),
    )


def coarse_seeds(seeds: Integer[Tensor, "b *s"]) -> Integer[Tensor, "b *coarse"]:
    """The least value of each block: that of a seed, if there is one, as `UNLABELED` is the largest."""
    pool = F.max_pool2d if seeds.ndim == 3 else F.max_pool3d
    return -pool(-seeds[:, None].float(), 2, ceil_mode=True)[:, 0].to(seeds.dtype)


def coarse_labels(labels: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *coarse"]:
    """The mean over each block."""
    pool = F.avg_pool2d if labels.ndim == 4 else F.avg_pool3d
    return pool(labels, 2, ceil_mode=True, count_include_pad=False)


def fine_labels(labels: Shaped[Tensor, "b k *coarse"], size: tuple[int, ...]) -> Shaped[Tensor, "b k *s"]:
    """The labels of each block, at all of its pixels."""
    for axis in range(2, labels.ndim):
        labels = labels.repeat_interleave(2, axis)
    inside: Box = (..., *(slice(n) for n in size))
    return labels[inside]
