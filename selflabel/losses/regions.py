"""Losses of whole classes: classes absent from an image, and distances of colors to the mean of their class."""

from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selflabel.inputs import check_tensor, widened
from selflabel.losses.base import check_logits, differentiable, full_precision, mean_per_pixel
from selflabel.terms import FLOOR, total


def non_exist_loss(logits: Float[Tensor, "b k *s"], present: Bool[Tensor, "b k"]) -> Float[Tensor, ""]:
    """``1/N Σ_{k absent} Σ_i σ_i^k``, N all pixels of the batch (Tang et al., CVPR 2018, Sec. 5.2.1).

    `present` says which classes each image has. Raises `ValueError` for another shape.
    """
    check_logits(logits)
    check_present(logits, present)
    absent = ~present.view(*present.shape, *[1] * (logits.ndim - 2))
    with full_precision(logits):
        return mean_per_pixel(total(widened(logits).softmax(1) * absent), logits)


def check_present(logits: Float[Tensor, "b k *s"], present: Bool[Tensor, "b k"]) -> None:
    """Raise `ValueError` unless `present` says of each image and class whether it is there."""
    check_tensor(present, "present")
    if present.dtype != torch.bool or tuple(present.shape) != tuple(logits.shape[:2]):
        raise ValueError(
            f"expected `present` as booleans {tuple(logits.shape[:2])} (images, classes), got {present.dtype} "
            f"{tuple(present.shape)}: see selflabel.labels.classes_present"
        )


def kmeans_loss(logits: Float[Tensor, "b k *s"], features: Float[Tensor, "b c *s"]) -> Float[Tensor, ""]:
    """``1/N Σ_k Σ_i σ_i^k ‖f_i - μ_k‖²`` with ``μ_k = Σ_i σ_i^k f_i / Σ_i σ_i^k`` (Tang et al., CVPR 2018, Sec. 5.1).

    In squared units of the features, which may have any number of channels; mean over all pixels of the batch. The
    gradient by σ_i^k is ``‖f_i - μ_k‖²``, as μ_k is where the sum is least. Raises `ValueError` unless features and
    logits have the same pixels.
    """
    check_logits(logits)
    check_tensor(features, "features")
    if (len(features), *features.shape[2:]) != (len(logits), *logits.shape[2:]):
        raise ValueError(
            f"expected features over the pixels of the logits {tuple(logits.shape)}, got {tuple(features.shape)}"
        )
    with full_precision(logits):
        labels = widened(logits).softmax(1)
        values = features.detach().to(labels.dtype)
        return mean_per_pixel(differentiable(labels, partial(_scatter, features=values)), logits)


def _scatter(labels: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """The sum per image, and the squared distances, which are its gradient."""
    least = FLOOR * features[0, 0].numel()  # the mass of an empty class, whose distances have no weight
    # distances do not change when all features move, but sums of numbers far from zero lose the digits of the means
    features = features - features.flatten(2).mean(2)[(...,) + (None,) * (features.ndim - 2)]
    masses = labels.flatten(2).sum(2, keepdim=True).clamp_min(least)
    means = torch.einsum("bkn,bcn->bkc", labels.flatten(2), features.flatten(2)) / masses
    distances = torch.zeros_like(labels)
    for channel, mean in zip(features.unbind(1), means.unbind(2), strict=True):
        distances += (channel[:, None] - mean[(...,) + (None,) * (labels.ndim - 2)]).square()
    return total(labels * distances), distances
