"""Sums over classes and over images, which all terms are made of."""

from math import exp

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.labels import LOG_FLOOR

Map = Float[Tensor, "b 1 *s"]
Labels = Float[Tensor, "b k *s"]

FLOOR = exp(LOG_FLOOR)

SUM_BLOCK = 8192
"""Numbers that are added up by one thread."""


def total(values: Float[Tensor, "b *rest"]) -> Float[Tensor, " b"]:
    """Sum over all but the batch, in float64. On the CPU in blocks: in the same order for any number of threads."""
    flat = values.flatten(1)
    blocks, rest = divmod(flat.shape[1], SUM_BLOCK)
    if flat.device.type != "cpu" or not blocks:
        return flat.sum(1, dtype=torch.float64)
    whole = flat[:, : blocks * SUM_BLOCK].reshape(-1, blocks, SUM_BLOCK).sum(2, dtype=torch.float64).sum(1)
    return whole + flat[:, -rest:].sum(1, dtype=torch.float64) if rest else whole


def log(probs: Tensor) -> Tensor:
    """The logarithm, of `FLOOR` at least."""
    return probs.clamp_min(FLOOR).log()


def dot_product(p: Tensor, q: Tensor) -> Tensor:
    """``p·q`` over the classes."""
    return (p * q).sum(1, keepdim=True)


def squared_distance(p: Tensor, q: Tensor) -> Tensor:
    """``‖p - q‖²`` over the classes."""
    return (p - q).square().sum(1, keepdim=True)


def entropy(labels: Labels) -> Map:
    """Shannon entropy ``-Σ_k y^k ln y^k`` per pixel."""
    return -dot_product(labels, log(labels))


def entropy_gradient(labels: Labels) -> Labels:
    """Gradient of `entropy`, up to the constant that the simplex cancels: ``-ln y``."""
    return -log(labels)
