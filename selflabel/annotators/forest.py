"""Extremely randomized trees on pixel features."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from selflabel.affinity.image import ImageLike
from selflabel.annotators.features import pixel_features
from selflabel.annotators.protocol import MOST_RANDOM_STATE, check_within, seeds_by_image, spread
from selflabel.kinds import check_fields


@dataclass(frozen=True)
class ForestAnnotator:
    """One forest an image, learned from its seeds (Mayer et al., Sec. 2.3.1: 50 trees).

    Extremely randomized trees (Geurts et al. 2006) on `pixel_features`: `trees` of them, with at least `leaf` pixels a
    leaf. The same `random_state` draws the same trees. Cost: about 0.5 s for 0.2 megapixels on one core.
    """

    trees: int = 50
    leaf: int = 2
    random_state: int = 0

    name: ClassVar[str] = "forest"

    def __post_init__(self) -> None:
        """Raise `ValueError` for values out of range."""
        check_within("trees", self.trees, 1)
        check_within("leaf", self.leaf, 1)
        check_within("random_state", self.random_state, 0, MOST_RANDOM_STATE)
        check_fields(self)

    def predict(
        self, image: ImageLike, seeds: Integer[Tensor, "b *s"], num_classes: int
    ) -> Float[Tensor, "b k *s"]:
        """Probabilities; a class without a seed in an image gets zero there."""
        each = seeds_by_image(image, seeds, num_classes)
        return torch.stack(
            [
                self._predict(features, one, num_classes)
                for features, one in zip(pixel_features(image), each, strict=True)
            ]
        )

    def _predict(
        self, features: np.ndarray, seeds: Integer[Tensor, "*s"], num_classes: int
    ) -> Float[Tensor, "k *s"]:
        from sklearn.ensemble import ExtraTreesClassifier  # half of a command's time to start

        index = seeds.cpu().numpy().ravel()
        known = index < num_classes
        forest = ExtraTreesClassifier(self.trees, min_samples_leaf=self.leaf, random_state=self.random_state)
        forest.fit(features[known], index[known])
        probs = torch.from_numpy(np.ascontiguousarray(forest.predict_proba(features).T))
        probs = probs.view(-1, *seeds.shape).to(seeds.device)
        return spread(probs, torch.from_numpy(forest.classes_).to(seeds.device), num_classes)
