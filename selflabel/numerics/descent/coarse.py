"""The same problem on blocks of pixels: where a solver may look first, at a fraction of the cost."""

from dataclasses import replace

import torch.nn.functional as F
from jaxtyping import Float, Integer, Shaped
from torch import Tensor

from selflabel.affinity.stencil import Box, Stencil
from selflabel.problem import Problem

SMALLEST = 8
"""No axis is halved that would get shorter than this."""


def coarsen(problem: Problem) -> Problem | None:
    """The problem for labels that are constant on blocks of 2 pixels an axis; None if it cannot be halved.

    Weights between blocks add up (`Stencil.coarsen`), predictions are averaged, and a block with a seed is a
    seed (of its smallest class if they disagree), so energies of the two are close, not equal.
    """
    size = tuple(problem.probs.shape[2:])
    if not isinstance(problem.affinity, Stencil) or min(size) < 2 * SMALLEST:
        return None
    pixels, energy = 2 ** len(size), problem.energy
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
    )


def coarse_seeds(seeds: Integer[Tensor, "b *s"]) -> Integer[Tensor, "b *coarse"]:
    """The smallest value of each block: `UNLABELED` is the largest, so it is a seed wherever there is one."""
    pool = F.max_pool2d if seeds.ndim == 3 else F.max_pool3d
    return -pool(-seeds[:, None].float(), 2, ceil_mode=True)[:, 0].to(seeds.dtype)


def coarse_labels(labels: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *coarse"]:
    """The mean over each block."""
    pool = F.avg_pool2d if labels.ndim == 4 else F.avg_pool3d
    return pool(labels, 2, ceil_mode=True, count_include_pad=False)


def fine_labels(labels: Shaped[Tensor, "b k *coarse"], size: tuple[int, ...]) -> Shaped[Tensor, "b k *s"]:
    """Each block's labels at all of its pixels."""
    for axis in range(2, labels.ndim):
        labels = labels.repeat_interleave(2, axis)
    inside: Box = (..., *(slice(n) for n in size))
    return labels[inside]
