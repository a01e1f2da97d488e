"""The normalized cut of labels by an affinity."""

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.protocol import Affinity
from selflabel.terms.gradient import Gradient
from selflabel.terms.sums import FLOOR, Labels, total


def normalized_cut(labels: Labels, affinity: Affinity) -> Float[Tensor, " b"]:
    """``Σ_k S_k' W (1 - S_k) / (d' S_k)`` with ``d = W 1``, per image: from 0 to k (Tang et al., CVPR 2018, eq. 6).

    A ratio of sums, so it does not grow with the image, nor with the weights. A class whose share of d is below
    `FLOOR` counts 1, its limit. Cost: one filtering.
    """
    return normalized_cut_and_grad(labels, affinity)[0]


def normalized_cut_and_grad(labels: Labels, affinity: Affinity) -> tuple[Float[Tensor, " b"], Gradient]:
    """`normalized_cut` and ``(S_k'WS_k) d / (d'S_k)² - 2 W S_k / (d'S_k)`` (eq. 8), with the same filtering.

    Its curvature is that of a Potts sum with the weights ``W / (d'S_k)`` of the classes, as probable as they are.
    """
    filtered, degree = affinity.apply(labels), affinity.degree()
    volume = (degree * labels).flatten(2).sum(2, dtype=torch.float64)
    inside = (labels * filtered).flatten(2).sum(2, dtype=torch.float64)
    # without the floors, a class that no pixel may have (0 in float32) would be 0 / 0
    volume = volume.clamp_min(FLOOR * total(degree).clamp_min(1e-20)[:, None])
    share = inside / volume
    share_map, volume_map = (
        x.to(labels.dtype)[(...,) + (None,) * (labels.ndim - 2)] for x in (share, volume)
    )
    gradient = ((share_map * degree - 2 * filtered) / volume_map).to(labels.dtype)
    curvature = 2 * degree.to(labels.dtype) * (labels / volume_map).sum(1, keepdim=True)
    return (1 - share).sum(1), Gradient(gradient, curvature)
