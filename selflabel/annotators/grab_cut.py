"""GrabCut of any number of classes: mixtures and a graph cut in turns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from selflabel.affinity.builders import AffinityBuilder, Grid
from selflabel.affinity.image import Image, ImageLike, as_image
from selflabel.affinity.protocol import Affinity
from selflabel.annotators.mixture import MixtureAnnotator, Mixtures, mixture_features
from selflabel.annotators.protocol import check_within, seeds_by_image, spread
from selflabel.driver import solve
from selflabel.energy import Energy
from selflabel.kinds import check_arguments, check_fields
from selflabel.labels import UNLABELED, one_hot
from selflabel.problem import Problem
from selflabel.solvers import GraphCut


@dataclass(frozen=True)
class Box:
    """A box around an object of class `label`, 0 being the background: pixels ``x0 <= x < x1``, ``y0 <= y < y1``."""

    x0: int
    y0: int
    x1: int
    y1: int
    label: int = 1

    def __post_init__(self) -> None:
        """Raise `ValueError` for boxes without a pixel, and for classes that are the background or unlabeled."""
        check_fields(self)
        if not (0 <= self.x0 < self.x1 and 0 <= self.y0 < self.y1):
            raise ValueError(f"expected a box with 0 <= x0 < x1 and 0 <= y0 < y1, got {self}")
        if not 1 <= self.label < UNLABELED:
            raise ValueError(
                f"expected label of a box as a class of 1 to {UNLABELED - 1}, got {self.label}: 0 is the background"
            )


def box_seeds(boxes: Sequence[Box], size: tuple[int, int]) -> Integer[Tensor, "h w"]:
    """Background seeds (0) outside all boxes, no label (255) inside. Raises `ValueError` for boxes beyond the image."""
    check_arguments(box_seeds, {"boxes": boxes, "size": size})
    seeds = torch.zeros(size, dtype=torch.int64)
    for box in boxes:
        if box.x1 > size[1] or box.y1 > size[0]:
            raise ValueError(f"expected boxes within the image of {size[1]} x {size[0]} pixels, got {box}")
        seeds[box.y0 : box.y1, box.x0 : box.x1] = UNLABELED
    return seeds


@dataclass(frozen=True)
class GrabCutRound:
    """A round of GrabCut: its labels ``[*s]``, the energy after the cut, the mixtures' scores ``[k n]``."""

    labels: Integer[Tensor, "*s"]
    energy: float
    scores: Float[Tensor, "k n"]


@dataclass(frozen=True)
class GrabCutAnnotator:
    """GrabCut of any number of classes (Rother, Kolmogorov & Blake 2004): a Gaussian mixture for each class with seeds.

    In turns, mixtures are fitted to the pixels of each class and labels are cut by them, until no label changes or
    `rounds` are over, on

        ``E(y, θ) = -power Σ_i ln p(f_i | θ_{y_i}) + pairwise_weight Σ_ij w_ij [y_i ≠ y_j]``

    which no turn raises: a class takes new mixtures only if its pixels are likelier, and the graph cut starts from the
    last labels. The first mixtures are those of `mixture` from the seeds. The prediction is ``p ∝ p(f | θ)^power`` of
    the last round, so that graph cut with the coupling weight 1, `pairwise_weight` and `affinity` gives its labels.
    `power` is below 1 as neighbors are alike: a pixel counts for part of an independent one.
    More rounds lower the energy, and raised the error on photographs (docs/benchmarks.md). Cost: seconds an image.
    """

    mixture: MixtureAnnotator = MixtureAnnotator()
    affinity: AffinityBuilder = Grid(sigma=9.0, neighbors=8, by_distance=True)
    pairwise_weight: float = 2.0
    power: float = 0.3
    rounds: int = 2

    name: ClassVar[str] = "grab-cut"

    def __post_init__(self) -> None:
        """Raise `ValueError` for values out of range."""
        check_fields(self)
        check_within("pairwise_weight", self.pairwise_weight, 0)
        check_within("power", self.power, 0)
        check_within("rounds", self.rounds, 1)

    def check(self) -> None:
        """Needs no other package."""

    def predict(
        self, image: ImageLike, seeds: Integer[Tensor, "b *s"], num_classes: int
    ) -> Float[Tensor, "b k *s"]:
        """Probabilities; a class without a seed in an image gets zero there."""
        image, found = as_image(image), []
        for number, one in enumerate(seeds_by_image(image, seeds, num_classes)):
            alone = image if len(seeds) == 1 else Image(image.pixels[number : number + 1])
            present = torch.unique(one[one < num_classes]).long()
            *_, last = self.turns(alone, one, present)
            found.append(self._posterior(last, one, present, num_classes))
        return torch.stack(found)

    def predict_in_boxes(
        self, image: ImageLike, boxes: Sequence[Box], num_classes: int
    ) -> Float[Tensor, "1 k *s"]:
        """Probabilities of one image ``[1 c h w]`` from boxes: seeds are `box_seeds`, to be given to the solver, too.

        A class has no probability outside its boxes; where boxes overlap, both have. The first mixture of a class is
        that of the pixels in its boxes, where boxes overlap that of the smallest one. Raises `ValueError` without
        boxes, for boxes that cover or leave the image or that smaller ones cover, and for classes that there are not.
        """
        image = as_image(image)
        size = (image.shape[2], image.shape[3])
        seeds = box_seeds(boxes, size)
        if not boxes or not bool((seeds == 0).any()):
            raise ValueError(
                f"expected boxes that leave some background, got {len(boxes)}: {list(boxes)[:3]}"
            )
        classes = {box.label for box in boxes}
        if max(classes) >= num_classes:
            raise ValueError(f"expected classes below {num_classes} in boxes, got {max(classes)}")
        inside = seeds.clone()
        present = torch.tensor([0, *sorted(classes)])
        allowed = (present == 0).view(-1, 1, 1).repeat(1, *size)
        for box in sorted(
            boxes, key=lambda box: -(box.x1 - box.x0) * (box.y1 - box.y0)
        ):  # the smaller one wins
            inside[box.y0 : box.y1, box.x0 : box.x1] = box.label
            allowed[present == box.label, box.y0 : box.y1, box.x0 : box.x1] = True
        covered = sorted(classes - set(torch.unique(inside).tolist()))
        if covered:
            raise ValueError(
                f"expected boxes of class {covered[0]} with a pixel that no smaller box covers, got none: there is "
                f"nothing to learn its colors from; leave them out"
            )
        *_, last = self.turns(image, seeds, present, inside, allowed)
        return self._posterior(last, seeds, present, num_classes, allowed)[None]

    def turns(
        self,
        image: ImageLike,
        seeds: Integer[Tensor, "*s"],
        present: Integer[Tensor, " present"],
        first: Integer[Tensor, "*s"] | None = None,
        allowed: Bool[Tensor, "present *s"] | None = None,
    ) -> Iterator[GrabCutRound]:
        """The rounds of one image ``[1 c *s]``. `first`: the labels of the first mixtures, if not the seeds.

        allowed: where each class may be, all pixels have one; anywhere if not given.
        """
        features = mixture_features(image, self.mixture)[0]
        numbers = torch.full((UNLABELED + 1,), UNLABELED)
        numbers[present] = torch.arange(len(present))
        own = numbers[seeds.cpu().long()][None]
        affinity = self.affinity(image)
        index = (own if first is None else numbers[first.cpu().long()][None]).numpy().ravel()
        mixtures = Mixtures.fitted(features, index, len(present), self.mixture)
        labels: Tensor | None = None
        for _ in range(self.rounds):
            if labels is not None:
                mixtures = mixtures.refitted(features, labels.numpy().ravel(), self.mixture)
            scores = torch.from_numpy(mixtures.scores(features))
            after, energy = self._cut(scores, own, affinity, labels, allowed)
            yield GrabCutRound(present[after[0].cpu()], energy, scores)
            if labels is not None and torch.equal(after, labels):
                return
            labels = after

    def _cut(
        self, scores: Tensor, seeds: Tensor, affinity: Affinity, labels: Tensor | None, allowed: Tensor | None
    ) -> tuple[Integer[Tensor, "1 *s"], float]:
        """The labels of a graph cut from the last ones, and E; seeds count as pixels of their class."""
        costs = (-self.power * scores).view(1, -1, *seeds.shape[1:])
        if allowed is not None:  # more than all pairs of a pixel could save
            saved = self.pairwise_weight * float(affinity.degree().max())
            costs = costs.masked_fill(~allowed.to(costs.device), float(costs.max()) + saved + 1)
        energy = Energy(pairwise_weight=self.pairwise_weight)
        problem = Problem.from_costs(energy, costs, seeds, affinity)
        start = None if labels is None else one_hot(labels, costs.shape[1], costs.dtype)
        found = solve(problem, GraphCut(), start=start)
        at_seeds = one_hot(seeds, costs.shape[1], costs.dtype) * costs
        return found.labels.argmax(1), float(found.energy) + float(at_seeds.sum())

    def _posterior(
        self,
        last: GrabCutRound,
        seeds: Integer[Tensor, "*s"],
        present: Integer[Tensor, " present"],
        num_classes: int,
        allowed: Bool[Tensor, "present *s"] | None = None,
    ) -> Float[Tensor, "k *s"]:
        logits = (self.power * last.scores).view(-1, *seeds.shape)
        probs = (logits if allowed is None else logits.masked_fill(~allowed, -inf)).softmax(0)
        return spread(probs.to(seeds.device), present.to(seeds.device), num_classes)
