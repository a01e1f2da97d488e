"""Published recipes, written anew from the papers: what the jobs of `gpu.py` are compared with."""

import torch
from gated_crf import published
from torch import Tensor

__all__ = ["descend_by_autograd", "published"]

RATE, STEPS = 0.075, 200
"""Of plain descent on logits (Zhang & Boykov 2025, App. A)."""

LEAST = 1e-13
"""Probabilities below count as this."""


def descend_by_autograd(
    probs: Tensor, image: Tensor, sigma: float, coupling_weight: float, pairwise_weight: float
) -> tuple[Tensor, Tensor]:
    """200 steps of plain descent on logits, differentiated by autograd; logits and energy of each image at the end.

    Collision coupling and collision divergence on the grid of four neighbors (Zhang & Boykov 2025, eq. 8).
    """
    colors = 255 * image
    pairs = (
        ((..., slice(None, -1)), (..., slice(1, None))),
        ((..., slice(None, -1), slice(None)), (..., slice(1, None), slice(None))),
    )
    weights = [((colors[a] - colors[b]).square().sum(1) / (-2 * sigma**2)).exp() for a, b in pairs]

    def energy(logits: Tensor) -> Tensor:
        labels = logits.softmax(1)
        coupling = -(labels * probs).sum(1).clamp_min(LEAST).log()
        value = coupling_weight * coupling.flatten(1).sum(1)
        norms = labels.square().sum(1)
        for (a, b), weight in zip(pairs, weights, strict=True):
            dot = (labels[a] * labels[b]).sum(1).clamp_min(LEAST)
            cost = 0.5 * (norms[a] * norms[b]).log() - dot.log()
            value = value + pairwise_weight * (weight * cost).flatten(1).sum(1)
        return value

    logits = probs.clamp_min(LEAST).log()
    for _ in range(STEPS):
        logits.requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(energy(logits).sum(), logits)
        logits = logits.detach() - RATE * slope
    with torch.no_grad():
        return logits, energy(logits)
