"""The losses as modules that all take logits, images and seeds, so that training treats them alike."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from selflabel.affinity.builders import AffinityBuilder, Dense, Grid
from selflabel.affinity.image import Image
from selflabel.affinity.protocol import Affinity
from selflabel.inputs import check_tensor, widened
from selflabel.kernels.tracing import opaque
from selflabel.kinds import check_arguments, check_least
from selflabel.labels import UNLABELED, classes_present
from selflabel.losses.base import check_logits, checked_seeds, full_precision
from selflabel.losses.cross_entropy import (
    class_frequencies,
    click_weights,
    entropy_loss,
    partial_cross_entropy,
)
from selflabel.losses.dense_crf import dense_crf_loss, kernel_cut_loss, normalized_cut_loss
from selflabel.losses.potts import potts_loss
from selflabel.losses.regions import kmeans_loss, non_exist_loss
from selflabel.losses.self_labeling import self_labeling_loss
from selflabel.terms import BILINEAR, STANDARD, Coupling, Relaxation, Variation

Logits = Float[Tensor, "b k *s"]
Images = Float[Tensor, "b c *s"]
Seeds = Integer[Tensor, "b *s"]
Scalar = Float[Tensor, ""]

GRID, DENSE = Grid(), Dense()


@runtime_checkable
class Loss(Protocol):
    """A number to lower, from logits ``[b k *s]``, images ``[b c *s]`` in [0, 1] and seeds ``[b *s]``."""

    def __call__(self, logits: Logits, images: Images, seeds: Seeds) -> Scalar:
        """A scalar, differentiable by the logits."""


class PartialCrossEntropy(nn.Module):
    """`partial_cross_entropy` with fixed class weights, or with `click_weights` of the batch's own seeds."""

    def __init__(
        self,
        class_weights: Float[Tensor, " k"] | Sequence[float] | None = None,
        *,
        by_frequency: bool = False,
        ignore_index: int = UNLABELED,
        by_image: bool = False,
    ) -> None:
        super().__init__()
        given = {
            "class_weights": class_weights,
            "by_frequency": by_frequency,
            "ignore_index": ignore_index,
            "by_image": by_image,
        }
        check_arguments(PartialCrossEntropy.__init__, given)
        if class_weights is not None and not isinstance(class_weights, Tensor):
            class_weights = torch.tensor(class_weights, dtype=torch.float32)
        if class_weights is not None and by_frequency:
            raise ValueError("expected class_weights or by_frequency, got both: leave one out")
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.by_frequency, self.ignore_index, self.by_image = by_frequency, ignore_index, by_image

    def forward(self, logits: Logits, images: Images, seeds: Seeds) -> Scalar:
        """The images do not matter."""
        weights = self.class_weights
        if self.by_frequency:
            known = checked_seeds(logits, seeds, self.ignore_index)
            weights = click_weights(class_frequencies(known, logits.shape[1]))
        return partial_cross_entropy(
            logits, seeds, weights, ignore_index=self.ignore_index, by_image=self.by_image
        )


class EntropyLoss(nn.Module):
    """`entropy_loss` of the pixels that are not seeds."""

    def forward(self, logits: Logits, images: Images, seeds: Seeds) -> Scalar:
        """The images do not matter."""
        return entropy_loss(logits, seeds)


class PottsLoss(nn.Module):
    """`potts_loss` with the affinity of each image."""

    def __init__(
        self, affinity: AffinityBuilder = GRID, relaxation: Relaxation | Variation = BILINEAR
    ) -> None:
        super().__init__()
        check_arguments(PottsLoss.__init__, {"affinity": affinity, "relaxation": relaxation})
        self.affinity, self.relaxation = affinity, relaxation

    def forward(self, logits: Logits, images: Images, seeds: Seeds | None = None) -> Scalar:
        """The seeds do not matter."""
        check_logits(logits)
        return potts_loss(logits, build(self.affinity, images), self.relaxation)


class DenseCRFLoss(nn.Module):
    """`dense_crf_loss` with the affinity of each image."""

    def __init__(self, affinity: AffinityBuilder = DENSE) -> None:
        super().__init__()
        check_arguments(DenseCRFLoss.__init__, {"affinity": affinity})
        self.affinity = affinity

    def forward(self, logits: Logits, images: Images, seeds: Seeds | None = None) -> Scalar:
        """The seeds do not matter."""
        check_logits(logits)
        return dense_crf_loss(logits, build(self.affinity, images))


class NormalizedCutLoss(nn.Module):
    """`normalized_cut_loss` with the affinity of each image."""

    def __init__(self, affinity: AffinityBuilder = DENSE) -> None:
        super().__init__()
        check_arguments(NormalizedCutLoss.__init__, {"affinity": affinity})
        self.affinity = affinity

    def forward(self, logits: Logits, images: Images, seeds: Seeds) -> Scalar:
        """Seeds are clamped to their labels."""
        check_logits(logits)
        return normalized_cut_loss(logits, build(self.affinity, images), seeds)


class KernelCutLoss(nn.Module):
    """`kernel_cut_loss` with the affinity of each image."""

    def __init__(self, affinity: AffinityBuilder = DENSE, gamma: float = 1.0) -> None:
        super().__init__()
        check_arguments(KernelCutLoss.__init__, {"affinity": affinity, "gamma": gamma})
        check_least(gamma, "gamma")
        self.affinity, self.gamma = affinity, gamma

    def forward(self, logits: Logits, images: Images, seeds: Seeds) -> Scalar:
        """Seeds are clamped to their labels in the normalized cut."""
        check_logits(logits)
        return kernel_cut_loss(logits, build(self.affinity, images), seeds, self.gamma)


class NonExistLoss(nn.Module):
    """`non_exist_loss`, the classes of an image being those of its seeds; any class if it has no seeds."""

    def forward(self, logits: Logits, images: Images, seeds: Seeds) -> Scalar:
        """The images do not matter."""
        present = classes_present(checked_seeds(logits, seeds), logits.shape[1])
        return non_exist_loss(logits, present | ~present.any(1, keepdim=True))


class KMeansLoss(nn.Module):
    """`kmeans_loss` of the colors, in 0..255 units."""

    def forward(self, logits: Logits, images: Images, seeds: Seeds | None = None) -> Scalar:
        """The seeds do not matter."""
        check_logits(logits)
        return kmeans_loss(logits, Image(_precise(images)).colors)


class SelfLabelingLoss(nn.Module):
    """`self_labeling_loss` with one coupling; takes pseudo-labels in place of images."""

    def __init__(self, coupling: Coupling = STANDARD) -> None:
        super().__init__()
        check_arguments(SelfLabelingLoss.__init__, {"coupling": coupling})
        self.coupling = coupling

    def forward(self, logits: Logits, labels: Logits, seeds: Seeds) -> Scalar:
        """No gradient to the labels."""
        return self_labeling_loss(logits, labels, seeds, self.coupling)


@opaque
def build(affinity: AffinityBuilder, images: Images) -> Affinity:
    """The affinity of the images, in full precision and without a gradient to them."""
    check_tensor(images, "images")
    with torch.no_grad(), full_precision(images):
        return affinity(_precise(images))


def _precise(images: Tensor) -> Tensor:
    check_tensor(images, "images")
    return widened(images.detach()) if images.is_floating_point() else images
