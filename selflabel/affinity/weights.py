"""What weights of pairs must be: not negative, not nan, and not too large to be added up."""

import torch
from jaxtyping import Bool
from torch import Tensor

from selflabel.affinity.protocol import SparseAffinity
from selflabel.affinity.stencil import Stencil

LARGEST_WEIGHT = 1e100
"""The largest weight of a term or a pair: products of two, and their sums over an image, are finite in float64."""


def weight_range(weights: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The least and the largest weight of these blocks, in float64, nan if any is; 0 without pairs."""
    some = [block for block in weights if block.numel()]
    if not some:
        nothing = torch.zeros((), dtype=torch.float64)
        return nothing, nothing
    if len(some) == 1:
        least, largest = some[0].aminmax()
        return least.double(), largest.double()  # `LARGEST_WEIGHT` in float32 is inf
    extremes = torch.stack([torch.stack(block.aminmax()).double() for block in some])
    return extremes[:, 0].amin(), extremes[:, 1].amax()


def are_weights(affinity: SparseAffinity) -> Bool[Tensor, ""]:
    """Does `check_weights` pass? On the device of the weights, without a wait."""
    least, largest = weight_range(blocks(affinity))
    return (least >= 0) & (largest <= LARGEST_WEIGHT)


def blocks(affinity: SparseAffinity) -> list[Tensor]:
    """Arrays ``[b ...]`` that have every weight of a pair once, and zeros: as few as there are."""
    if isinstance(affinity, Stencil):
        return list(affinity.blocks)
    return [pairs.weight for pairs in affinity.pairs()]


def check_weights(affinity: SparseAffinity) -> None:
    """Raise `ValueError` for weights that are nan, negative or too large: there is no minimum, or no way to find it."""
    weights = [pairs.weight for pairs in affinity.pairs()]  # without zeros: the message says the least
    least, largest = torch.stack(weight_range(weights)).tolist()
    if not (least >= 0 and largest <= LARGEST_WEIGHT):
        raise ValueError(
            f"expected weights of pairs from 0 to {LARGEST_WEIGHT:g}, got some from {least:g} to {largest:g}: check "
            f"the features, bandwidths and kernel weights of the {type(affinity).__name__}; for must-link use a "
            f"weight above the sum of all costs"
        )
