"""The same problem on blocks of pixels: where a solver may look first, at a fraction of the cost."""

from dataclasses import replace

import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from selflabel.affinity.stencil import Stencil
from selflabel.labels import UNLABELED
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
    energy = replace(problem.energy, coupling_weight=problem.energy.coupling_weight * 2 ** len(size))
    return Problem(
        replace(energy, entropy_weight=energy.entropy_weight * 2 ** len(size)),
        coarse_labels(problem.probs),
        -F.max_pool2d(-problem.seeds.float(), 2, ceil_mode=True).to(problem.seeds.dtype)
        if len(size) == 2
        else -F.max_pool3d(-problem.seeds.float(), 2, ceil_mode=True).to(problem.seeds.dtype),
        problem.affinity.coarsen(),
        problem.classes,
    )


def coarse_labels(labels: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *coarse"]:
    """The mean over each block."""
    pool = F.avg_pool2d if labels.ndim == 4 else F.avg_pool3d
    return pool(labels, 2, ceil_mode=True, count_include_pad=False)


def fine_labels(labels: Shaped[Tensor, "b k *coarse"], size: tuple[int, ...]) -> Shaped[Tensor, "b k *s"]:
    """Each block's labels at all of its pixels."""
    for axis in range(2, labels.ndim):
        labels = labels.repeat_interleave(2, axis)
    return labels[(..., *(slice(n) for n in size))]


assert UNLABELED == 255  # the largest value: the minimum over a block is a seed wherever there is one
