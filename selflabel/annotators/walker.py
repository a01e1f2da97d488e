"""Random walks to the seeds: a prediction from place and contrast."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from selflabel.affinity import GridAffinity
from selflabel.affinity.image import ImageLike, as_image
from selflabel.annotators.protocol import MOST_BLUR_PIXELS, check_within, seeds_by_image, spread
from selflabel.driver import solve
from selflabel.energy import Energy
from selflabel.kinds import check_fields
from selflabel.labels import UNLABELED
from selflabel.problem import Problem
from selflabel.solvers import RandomWalker
from selflabel.terms import QUADRATIC, QUADRATIC_POTTS

WALK = Energy(QUADRATIC, QUADRATIC_POTTS, coupling_weight=0.0, pairwise_weight=1.0)


@dataclass(frozen=True)
class WalkerAnnotator:
    """The probability that a random walk from the pixel reaches each class's seeds first (Grady 2006).

    Walks on the 8 (26) nearest neighbors, steps weighted by the contrast of slightly blurred Lab color relative
    to the image's (`GridAffinity.from_contrast`); `strength` and `blur` (pixels) are its settings. Cost: one
    sparse factorization, about 0.9 s for 0.17 megapixels on one core.
    """

    strength: float = 7.0
    blur: float = 0.7

    name: ClassVar[str] = "walker"

    def __post_init__(self) -> None:
        """Raise `ValueError` for values out of range."""
        check_within("blur", self.blur, 0, MOST_BLUR_PIXELS)
        check_fields(self)
        if not (math.isfinite(self.strength) and self.strength > 0):
            raise ValueError(f"expected strength > 0, got {self.strength}")

    def check(self) -> None:
        """Needs no other package."""

    def predict(
        self, image: ImageLike, seeds: Integer[Tensor, "b *s"], num_classes: int
    ) -> Float[Tensor, "b k *s"]:
        """Probabilities; a class without a seed in an image gets zero there."""
        each = seeds_by_image(image, seeds, num_classes)
        features = as_image(image).lab(self.blur)
        return torch.stack(
            [self._predict(features[n : n + 1], one, num_classes) for n, one in enumerate(each)]
        )

    def _predict(
        self, features: Float[Tensor, "1 c *s"], seeds: Integer[Tensor, "*s"], num_classes: int
    ) -> Float[Tensor, "k *s"]:
        affinity = GridAffinity.from_contrast(features, self.strength, 3**seeds.ndim - 1, by_distance=True)
        present, inverse = torch.unique(seeds[seeds < num_classes], return_inverse=True)
        compact = torch.full_like(seeds, UNLABELED, dtype=torch.long)
        compact[seeds < num_classes] = inverse
        problem = Problem.from_seeds(WALK, compact[None], len(present), affinity)
        return spread(solve(problem, RandomWalker()).labels[0], present, num_classes)
