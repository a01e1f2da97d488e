"""The Potts loss: neighbors should agree."""

from functools import partial

from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.protocol import Affinity
from selflabel.inputs import widened
from selflabel.kinds import check_kind
from selflabel.losses.base import check_affinity, differentiable, full_precision, mean_per_pixel
from selflabel.terms import BILINEAR, Relaxation, Variation, potts, potts_and_grad


def potts_loss(
    logits: Float[Tensor, "b k *s"], affinity: Affinity, relaxation: Relaxation | Variation = BILINEAR
) -> Float[Tensor, ""]:
    """``1/N Σ_ij w_ij P(σ_i, σ_j)``, N all pixels of the batch (Zhang & Boykov 2025, third term of eq. 4).

    Counted as in `selflabel.terms.potts`: every pair once with a sparse affinity (grid, window), twice with a
    dense one, which takes the quadratic relaxations only (`ValueError` otherwise). The total variation
    (`terms.VARIATIONS`), which has kinks, has a subgradient.

    Cost: one pass over the pairs, or one filtering, for value and gradient; none backward.
    """
    check_affinity(logits, affinity)
    check_kind(
        relaxation, Relaxation | Variation, "relaxation", "a constant of selflabel.terms, such as BILINEAR"
    )
    with full_precision(logits):
        labels = widened(logits).softmax(1)
        if labels.requires_grad:
            value = differentiable(labels, partial(_with_gradient, affinity=affinity, relaxation=relaxation))
        else:
            value = potts(labels, affinity, relaxation)
        return mean_per_pixel(value, logits)


def _with_gradient(
    labels: Tensor, affinity: Affinity, relaxation: Relaxation | Variation
) -> tuple[Tensor, Tensor]:
    value, grad = potts_and_grad(labels, affinity, relaxation)
    return value, grad.value
