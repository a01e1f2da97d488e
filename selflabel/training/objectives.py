"""Objectives of the network: seeds alone, full masks, or seeds and direct losses on the prediction."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, prod
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from selflabel.datasets.samples import Batch
from selflabel.kinds import check_fields, check_least
from selflabel.labels import UNLABELED, unlabeled
from selflabel.losses.cross_entropy import cross_entropy_of_checked, partial_cross_entropy
from selflabel.losses.gated_crf import GatedCRFLoss
from selflabel.losses.modules import Loss
from selflabel.training.pseudo_labels import PseudoLabels

Logits = Float[Tensor, "b k *s"]


@dataclass(frozen=True, eq=False)
class WeightedMean:
    """One summand of a loss: a mean times its weight, and the mass (pixels, or labeled pixels) under the mean.

    Several processes weigh their means by their masses: the sum is the mean of the whole batch.
    """

    value: Float[Tensor, ""]
    mass: Float64[Tensor, ""]


Terms = Mapping[str, WeightedMean]
"""The summands of a loss by name, in order."""


@runtime_checkable
class Objective(Protocol):
    """A loss for the network to lower, with the pseudo-labels that it needs: a frozen dataclass without state."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its terms."""

    def label(self, logits: Logits, batch: Batch, start: Logits | None) -> PseudoLabels | None:
        """Pseudo-labels for the network to fit, None if it needs none; a solve begins at `start`."""

    def terms(self, logits: Logits, batch: Batch, pseudo_labels: PseudoLabels | None, ramp: float) -> Terms:
        """The summands of the loss; `ramp` in [0, 1] is the factor of the warm-up."""


def pixels(logits: Logits) -> Float64[Tensor, ""]:
    """The mass of a mean over all pixels of the batch."""
    # filled in by the device: a copy of a number to a GPU would be waited for
    return torch.full(
        (), float(len(logits) * prod(logits.shape[2:])), dtype=torch.float64, device=logits.device
    )


@dataclass(frozen=True)
class SeedsOnly:
    """The partial cross entropy of the seeds alone (pCE); also the first term of the others.

    class_weights: one per class, for `partial_cross_entropy`; see `selflabel.losses.click_weights`. by_image: all
    images with seeds count alike, instead of all seeds. Beside full masks, scribbles would hardly count else.
    """

    class_weights: tuple[float, ...] | None = None
    by_image: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        _check_class_weights(self.class_weights)

    @property
    def names(self) -> tuple[str, ...]:
        """One term."""
        return ("seeds",)

    def label(self, logits: Logits, batch: Batch, start: Logits | None) -> PseudoLabels | None:
        """None: the network fits the seeds."""
        return None

    def terms(self, logits: Logits, batch: Batch, pseudo_labels: PseudoLabels | None, ramp: float) -> Terms:
        """A mean over the labeled pixels, or over the images that have some, without the warm-up."""
        return {"seeds": self._term(logits, batch.seeds, batch)}

    def _term(self, logits: Logits, index: Int64[Tensor, "b *s"], batch: Batch) -> WeightedMean:
        """The cross entropy of seeds or masks of a batch."""
        weights = None if self.class_weights is None else logits.new_tensor(self.class_weights).float()
        if weights is None and batch.num_classes == logits.shape[1]:
            value = cross_entropy_of_checked(logits, index, by_image=self.by_image)
        else:
            value = partial_cross_entropy(logits, index, weights, by_image=self.by_image)
        mass = labeled = index != UNLABELED
        if weights is not None:
            mass = torch.where(labeled, weights[index.masked_fill(~labeled, 0)], 0.0)
        if self.by_image:
            mass = mass.flatten(1).sum(1) > 0
        return WeightedMean(value, mass.sum().double())


def _check_class_weights(weights: tuple[float, ...] | None) -> None:
    for number, weight in enumerate(weights or ()):
        check_least(weight, f"class_weights[{number}]")


@dataclass(frozen=True)
class FullMasks:
    """The cross entropy of the full masks but for pixels of 255. Raises `ValueError` for a batch without masks."""

    class_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        _check_class_weights(self.class_weights)

    @property
    def names(self) -> tuple[str, ...]:
        """One term."""
        return ("masks",)

    def label(self, logits: Logits, batch: Batch, start: Logits | None) -> PseudoLabels | None:
        """None: the network fits the masks."""
        return None

    def terms(self, logits: Logits, batch: Batch, pseudo_labels: PseudoLabels | None, ramp: float) -> Terms:
        """A mean over the pixels whose class is known."""
        if batch.masks is None:
            raise ValueError(
                f"expected full masks to train with, got none for {', '.join(batch.stems[:4])}: give the data "
                f"set its folder of masks, or train with seeds"
            )
        return {"masks": SeedsOnly(self.class_weights)._term(logits, batch.masks, batch)}


@dataclass(frozen=True, eq=False)
class WeightedLoss:
    """A loss on the prediction, with its weight and the name of its column in the history."""

    name: str
    weight: float
    loss: Loss

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 <= self.weight < inf:
            raise ValueError(f"expected a finite weight >= 0 of {self.name!r}, got {self.weight}")

    def mass(self, logits: Logits, batch: Batch) -> Float64[Tensor, ""]:
        """The number of pixels under the mean of the loss: all, or the unlabeled ones."""
        if isinstance(self.loss, GatedCRFLoss) and self.loss.unlabeled_only:
            return unlabeled(batch.seeds).sum().double()
        return pixels(logits)


@dataclass(frozen=True, eq=False)
class Regularized:
    """Gradient descent on the network: ``pCE + Σ_r weight_r · loss_r(σ)`` (Zhang & Boykov 2025, eq. 4).

    Every loss is a mean over the pixels of the batch: weights are relative to the mean of the seeds.
    """

    parts: tuple[WeightedLoss, ...]
    seeds: SeedsOnly = SeedsOnly()

    def __post_init__(self) -> None:
        check_fields(self)
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"expected a name of its own for each part, 'seeds' apart, got {self.names[1:]}")

    @property
    def names(self) -> tuple[str, ...]:
        """The seeds, and each part by its name."""
        return ("seeds", *(part.name for part in self.parts))

    def label(self, logits: Logits, batch: Batch, start: Logits | None) -> PseudoLabels | None:
        """None: the losses are on the prediction."""
        return None

    def terms(self, logits: Logits, batch: Batch, pseudo_labels: PseudoLabels | None, ramp: float) -> Terms:
        """The warm-up scales all parts but the seeds."""
        terms = dict(self.seeds.terms(logits, batch, None, ramp))
        for part in self.parts:
            value = ramp * part.weight * part.loss(logits, batch.images, batch.seeds)
            terms[part.name] = WeightedMean(value, part.mass(logits, batch))
        return terms
