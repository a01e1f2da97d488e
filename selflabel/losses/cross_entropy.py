"""Losses of single pixels: the partial cross entropy of the seeds, and the entropy of the prediction."""

import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor
from torch.nn import functional as F

from selflabel.inputs import check_tensor, widened
from selflabel.kinds import check_count, checked
from selflabel.labels import UNLABELED, check_index_type, one_hot, unlabeled
from selflabel.losses.base import check_logits, checked_seeds, full_precision, mean_per_pixel
from selflabel.terms import entropy, total


def partial_cross_entropy(
    logits: Float[Tensor, "b k *s"],
    seeds: Integer[Tensor, "b *s"],
    class_weights: Float[Tensor, " k"] | None = None,
    *,
    ignore_index: int = UNLABELED,
    by_image: bool = False,
) -> Float[Tensor, ""]:
    """``-Σ_{i∈Ω} v_i ln σ_i^{ȳ_i} / Σ_{i∈Ω} v_i`` over the seeds Ω (Tang et al., CVPR 2018, Sec. 4.1).

    ``v_i`` is the weight of the pixel's class, 1 by default: the mean over the *labeled* pixels of the batch. With
    `by_image` it is the mean over the images with labels of some weight, of each one's mean: scribbles count as much as
    full masks. Without labeled pixels it is zero, and still attached to the logits. Pixels of `ignore_index` do not
    count. Raises `ValueError` for seeds or weights that do not fit the classes.
    """
    seeds = checked_seeds(logits, seeds, ignore_index)
    weights = None if class_weights is None else _checked_weights(class_weights, widened(logits))
    return cross_entropy_of_checked(logits, seeds, weights, by_image=checked(by_image, bool, "by_image"))


def cross_entropy_of_checked(
    logits: Float[Tensor, "b k *s"],
    seeds: Int64[Tensor, "b *s"],
    weights: Float[Tensor, " k"] | None = None,
    *,
    by_image: bool = False,
) -> Float[Tensor, ""]:
    """`partial_cross_entropy` of seeds and weights that are known to fit: nothing waits for a GPU."""
    with full_precision(logits):
        logits = widened(logits)
        weights = logits.new_ones(logits.shape[1]) if weights is None else weights.to(logits)
        # unlabeled pixels have weight 0; to select the others, a GPU would have to wait for their number
        masses = F.pad(weights, (0, UNLABELED + 1 - len(weights)))[seeds]
        least = torch.finfo(logits.dtype).tiny
        if not by_image:
            losses = F.cross_entropy(logits, seeds, weights, ignore_index=UNLABELED, reduction="sum")
            return losses / masses.sum().clamp_min(least)
        each = F.cross_entropy(logits, seeds, weights, ignore_index=UNLABELED, reduction="none")
        mass = masses.flatten(1).sum(1)
        means = each.flatten(1).sum(1) / mass.clamp_min(least)
        return means.sum() / (mass > 0).sum().clamp_min(1)


def _checked_weights(class_weights: Tensor, logits: Tensor) -> Tensor:
    check_tensor(class_weights, "class_weights")
    if tuple(class_weights.shape) != (logits.shape[1],):
        raise ValueError(
            f"expected one weight for each of {logits.shape[1]} classes, got {tuple(class_weights.shape)}"
        )
    if not bool((class_weights.isfinite() & (class_weights >= 0)).all()):
        raise ValueError(f"expected finite class weights >= 0, got {class_weights.tolist()}")
    return class_weights.to(logits)


def class_frequencies(seeds: Integer[Tensor, "b *s"], num_classes: int) -> Float[Tensor, " k"]:
    """The share of each class among the labeled pixels of the batch; all zero if there are none."""
    check_index_type(seeds)
    check_count(num_classes, "num_classes")
    counts = one_hot(seeds, num_classes).transpose(0, 1).flatten(1).sum(1, dtype=torch.float64)
    return (counts / counts.sum().clamp_min(1)).float()


def click_weights(frequencies: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """``1 / ln(1.1 + p)`` for classes with the shares p of the clicks (Obukhov et al. 2019, Sec. 6.4).

    From 10.5 for a class without clicks to 1.35 for the only class. Raises `ValueError` for shares outside [0, 1].
    """
    check_tensor(frequencies, "frequencies")
    if not bool(((frequencies >= 0) & (frequencies <= 1)).all()):
        raise ValueError(
            f"expected frequencies in [0, 1], got {frequencies.tolist()}: divide counts by their sum"
        )
    return 1 / torch.log(1.1 + frequencies)


def entropy_loss(
    logits: Float[Tensor, "b k *s"], seeds: Integer[Tensor, "b *s"] | None = None
) -> Float[Tensor, ""]:
    """``1/N Σ_{i∉Ω} -Σ_k σ_i^k ln σ_i^k``, N all pixels (Zhang & Boykov 2025, second term of eq. 4).

    Without seeds Ω is empty.
    """
    check_logits(logits)
    with full_precision(logits):
        values = entropy(widened(logits).softmax(1))
        if seeds is not None:
            values = values * unlabeled(checked_seeds(logits, seeds))
        return mean_per_pixel(total(values), logits)
