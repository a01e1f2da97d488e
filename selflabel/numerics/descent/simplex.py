"""Projection onto the probability simplex."""

import torch
from jaxtyping import Float
from torch import Tensor


def project(values: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
    """The nearest distributions: ``max(v - θ, 0)``, which sum to one. Overwrites the values; -inf forbids a class.

    Relative to the largest value, θ is from -1 to 0. Newton's method for the sum, which is convex and falls in θ,
    rises from -1 to the root, and is there exactly after as many steps as classes at most (as Michelot, J. Optim.
    Theory Appl. 50, 1986): some four passes.
    """
    values.sub_(values.amax(1, keepdim=True)).clamp_min_(-1)
    theta = torch.full_like(values[:, :1], -1.0)
    for _ in range(values.shape[1]):
        above = values > theta
        moved = (values * above).sum(1, keepdim=True).sub_(1).div_(above.sum(1, keepdim=True))
        moved = torch.maximum(moved, theta)
        if torch.equal(moved, theta):
            break
        theta = moved
    return values.sub_(theta).clamp_min_(0)
