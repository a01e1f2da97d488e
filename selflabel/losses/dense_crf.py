"""Losses of all pairs of pixels: dense CRF, normalized cut, and both together.

Cost: one filtering for value and gradient, none backward; no graph is recorded inside the filter. A cut also filters
one channel, the degree of the affinity, once per affinity.
"""

from functools import partial

from jaxtyping import Float, Integer
from torch import Tensor

from selflabel.affinity.protocol import Affinity, SparseAffinity
from selflabel.inputs import widened
from selflabel.kinds import check_least
from selflabel.labels import with_seeds
from selflabel.losses.base import check_affinity, checked_seeds, differentiable, full_precision
from selflabel.losses.potts import potts_loss
from selflabel.terms import BILINEAR, normalized_cut_and_grad


def dense_crf_loss(logits: Float[Tensor, "b k *s"], affinity: Affinity) -> Float[Tensor, ""]:
    """``1/N Σ_k S_k' W (1 - S_k)`` with ``S = softmax(logits)`` (Tang et al., ECCV 2018, eq. 4).

    The published loss divided by N, the pixels of the batch. Every pair of pixels counts twice, in both orders,
    also if W is sparse: `potts_loss` of a grid or window is half of this. With the plain kernel the loss is of the
    size of the degree, thousands for wide bandwidths, and needs a small weight; a symmetrically normalized affinity
    keeps it below one.

    The gradient by ``S_k`` is ``-2 W S_k`` (eq. 11). The true one, ``d - 2 W S_k``, is the same after the softmax.
    """
    orders = 2 if isinstance(affinity, SparseAffinity) else 1
    return orders * potts_loss(logits, affinity, BILINEAR)


def normalized_cut_loss(
    logits: Float[Tensor, "b k *s"], affinity: Affinity, seeds: Integer[Tensor, "b *s"]
) -> Float[Tensor, ""]:
    """``Σ_k S_k' W (1 - S_k) / (d' S_k)`` with ``d = W 1``, mean over the images (Tang et al., CVPR 2018, eq. 6).

    S is softmax(logits), on the seeds their labels: seeds get no gradient and pull on the other pixels. The loss is in
    [0, k], a ratio of sums over pixels, *not* divided by their number: its gradient has the size of a mean's already.
    It does not depend on the scale of W. Gradient: eq. 8.
    """
    check_affinity(logits, affinity)
    seeds = checked_seeds(logits, seeds)
    with full_precision(logits):
        labels = with_seeds(widened(logits).softmax(1), seeds)
        value = differentiable(labels, partial(_with_gradient, affinity=affinity))
        return value.mean().to(labels.dtype)


def _with_gradient(labels: Tensor, affinity: Affinity) -> tuple[Tensor, Tensor]:
    value, grad = normalized_cut_and_grad(labels, affinity)
    return value, grad.value


def kernel_cut_loss(
    logits: Float[Tensor, "b k *s"],
    affinity: Affinity,
    seeds: Integer[Tensor, "b *s"],
    gamma: float = 1.0,
) -> Float[Tensor, ""]:
    """`dense_crf_loss` + gamma · `normalized_cut_loss` (Tang et al., ECCV 2018, eq. 6).

    The published loss divided by the pixels of an image, with γ = gamma times that number. Both parts have the same
    W; for different ones add the two losses. Cost: two filterings.
    """
    check_least(gamma, "gamma")
    return dense_crf_loss(logits, affinity) + gamma * normalized_cut_loss(logits, affinity, seeds)
