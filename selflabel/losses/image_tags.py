"""Losses for images of which only the classes are known: expansion and constrain-to-boundary of SEC.

Kolesnikov & Lampert, "Seed, expand and constrain", ECCV 2016. The third one, seeding, is `partial_cross_entropy` on
cues.
"""

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from selflabel.affinity.builders import AffinityBuilder, Dense
from selflabel.affinity.protocol import Affinity
from selflabel.inputs import widened
from selflabel.kernels.tracing import opaque
from selflabel.kinds import check_count, check_kind, check_number
from selflabel.labels import classes_present
from selflabel.losses.base import (
    check_affinity,
    check_logits,
    checked_seeds,
    full_precision,
    mean_per_pixel,
)
from selflabel.losses.modules import build
from selflabel.losses.regions import check_present
from selflabel.terms import FLOOR, total

PUBLISHED_PIXELS = 41 * 41
"""Pixels of the maps for which decays were published; other sizes get decays with the same shares of an image."""

PRESENT_DECAY, BACKGROUND_DECAY = 0.996, 0.999
"""Of the weights of an object's and the background's pixels, from the surest on: half of the weight lies on the surest
10 % and 31 % of the image."""

CRF = Dense(sigma=13.0, sigma_xy=40.0, smoothness=1.0, smoothness_xy=3.0, symmetric=True)
"""Appearance and smoothness."""


def expansion_loss(
    logits: Float[Tensor, "b k *s"],
    present: Bool[Tensor, "b k"],
    background: int | None = 0,
    present_decay: float = PRESENT_DECAY,
    background_decay: float = BACKGROUND_DECAY,
) -> Float[Tensor, ""]:
    """``-mean_{k in T} ln G_k - mean_{k not in T} ln(1 - max_i σ_i^k) - ln G_background``, mean over images (eq. 4).

    T are the classes present but the background. ``G_k = Σ_j d^(j-1) σ^k_(j) / Σ_j d^(j-1)``, global weighted rank
    pooling, is a mean of σ^k from its largest value on, with decays d for images of 41 x 41 pixels; d = 0 is the
    maximum, 1 the mean. A class that is there must cover a part of the image, one that is not must be nowhere. Without
    a background (None) its term is left out; where T is empty or full, that mean is 0. Images without any class, the
    background included, are those of which nothing is known: they do not count, and of them alone the loss is zero.
    Raises `ValueError` for `present` of another shape, a background that is no class, and decays outside [0, 1].

    Cost: a sort of the pixels of each class.
    """
    check_logits(logits)
    check_present(logits, present)
    _check_decay("present_decay", present_decay)
    _check_decay("background_decay", background_decay)
    if background is not None:
        check_count(background, "background", 0)
        if background >= logits.shape[1]:
            raise ValueError(
                f"expected background below {logits.shape[1]} classes, got {background}: or None"
            )
    with full_precision(logits):
        ranked = widened(logits).softmax(1).flatten(2).sort(2, descending=True).values
        objects = torch.ones_like(present)
        if background is not None:
            objects[:, background] = False
        there = _mean(-_log(_pooled(ranked, present_decay)), present & objects)
        absent = _mean(-_log(1 - ranked[:, :, 0]), ~present & objects)
        value = there + absent
        if background is not None:
            value = value - _log(_pooled(ranked[:, background], background_decay))
        known = present.any(1)
        return (value * known).sum() / known.sum().clamp_min(1)


def _check_decay(name: str, value: float) -> None:
    check_number(value, name)
    if not 0 <= value <= 1:
        raise ValueError(f"expected {name} in [0, 1], got {value}")


def _pooled(ranked: Float[Tensor, "*any n"], decay: float) -> Float[Tensor, "*any"]:
    """The mean of values in falling order with the weights 1, d, d², ... for each of `PUBLISHED_PIXELS`-ths."""
    n = ranked.shape[-1]
    step = decay ** (PUBLISHED_PIXELS / n)
    weights = step ** torch.arange(n, dtype=torch.float64, device=ranked.device)
    pooled: Tensor = ranked @ (weights / weights.sum()).to(ranked.dtype)
    return pooled


def _log(values: Tensor) -> Tensor:
    return values.clamp_min(FLOOR).log()


def _mean(values: Float[Tensor, "b k"], chosen: Bool[Tensor, "b k"]) -> Float[Tensor, " b"]:
    """Of the chosen ones of each image; 0 without any."""
    return (values * chosen).sum(1) / chosen.sum(1).clamp_min(1)


def constrain_to_boundary_loss(
    logits: Float[Tensor, "b k *s"], affinity: Affinity, iterations: int = 10
) -> Float[Tensor, ""]:
    """``1/N Σ_i Σ_k Q_i^k ln(Q_i^k / σ_i^k)``, N all pixels of the batch (eq. 7).

    Q is the mean field of a dense CRF with the prediction as its unary, after some parallel updates
    ``Q ← softmax(ln σ + W Q)`` from σ on, and held fixed: the gradient by the logits is ``(σ - Q) / N``, a step of
    self-labeling with the labels Q. `dense_crf_loss` in its place saves the updates (Tang et al., ECCV 2018, Sec. 4.4).

    Cost: a filtering an iteration; none backward. Raises `ValueError` for affinities that do not fit.
    """
    check_affinity(logits, affinity)
    check_count(iterations, "iterations")
    with full_precision(logits):
        log_probs = widened(logits).log_softmax(1)
        target = _mean_field(log_probs.detach(), affinity, iterations)
        divergence = (torch.xlogy(target, target) - target * log_probs).sum(1, keepdim=True)
        return mean_per_pixel(total(divergence), logits)


@opaque
def _mean_field(log_probs: Tensor, affinity: Affinity, iterations: int) -> Tensor:
    with torch.no_grad():
        labels = log_probs.exp()
        for _ in range(iterations):
            labels = (log_probs + affinity.apply(labels)).softmax(1)
        return labels


class ExpansionLoss(nn.Module):
    """`expansion_loss`, the classes of an image being those of its seeds; images without seeds do not count."""

    def __init__(
        self,
        background: int | None = 0,
        present_decay: float = PRESENT_DECAY,
        background_decay: float = BACKGROUND_DECAY,
    ) -> None:
        super().__init__()
        if background is not None:
            check_count(background, "background", 0)
        _check_decay("present_decay", present_decay)
        _check_decay("background_decay", background_decay)
        self.background, self.present_decay = background, present_decay
        self.background_decay = background_decay

    def forward(
        self,
        logits: Float[Tensor, "b k *s"],
        images: Float[Tensor, "b c *s"],
        seeds: Integer[Tensor, "b *s"],
    ) -> Float[Tensor, ""]:
        """The images do not matter."""
        present = classes_present(checked_seeds(logits, seeds), logits.shape[1])
        return expansion_loss(logits, present, self.background, self.present_decay, self.background_decay)


class ConstrainToBoundaryLoss(nn.Module):
    """`constrain_to_boundary_loss` with the affinity of each image."""

    def __init__(self, affinity: AffinityBuilder = CRF, iterations: int = 10) -> None:
        super().__init__()
        check_kind(affinity, AffinityBuilder, "a builder of affinities", "such as Dense()")
        check_count(iterations, "iterations")
        self.affinity, self.iterations = affinity, iterations

    def forward(
        self,
        logits: Float[Tensor, "b k *s"],
        images: Float[Tensor, "b c *s"],
        seeds: Integer[Tensor, "b *s"] | None = None,
    ) -> Float[Tensor, ""]:
        """The seeds do not matter."""
        check_logits(logits)
        return constrain_to_boundary_loss(logits, build(self.affinity, images), self.iterations)
