"""Forests, one an image, on features of its pixels."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from selflabel.affinity.image import ImageLike
from selflabel.annotators.features import pixel_features
from selflabel.annotators.protocol import MOST_RANDOM_STATE, check_within, seeds_by_image, spread
from selflabel.kinds import check_fields


@runtime_checkable
class Forest(Protocol):
    """What is asked of a forest of scikit-learn."""

    def fit(self, features: np.ndarray, index: np.ndarray) -> Any:
        """Learn classes ``[n]`` from features ``[n f]``; the forest, which has ``classes_`` then."""


def forest_probs(
    forest: Forest, features: np.ndarray, seeds: Integer[Tensor, "*s"], num_classes: int
) -> Float[Tensor, "k *s"]:
    """Probabilities of every pixel by a forest that learns from the seeds; zero for classes without seeds.

    features: ``[n f]``, a row a pixel.
    """
    rows, index = known_pixels(features, seeds, num_classes)
    fitted = forest.fit(rows, index)
    probs = torch.from_numpy(np.ascontiguousarray(fitted.predict_proba(features).T))
    probs = probs.view(-1, *seeds.shape).to(seeds.device)
    return spread(probs, torch.from_numpy(fitted.classes_).to(seeds.device), num_classes)


def known_pixels(
    features: np.ndarray, seeds: Integer[Tensor, "*s"], num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Features and classes of the pixels with seeds."""
    index = seeds.cpu().numpy().ravel()
    known = index < num_classes
    return features[known], index[known]


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

    def check(self) -> None:
        """Needs no other package."""

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

        forest = ExtraTreesClassifier(self.trees, min_samples_leaf=self.leaf, random_state=self.random_state)
        return forest_probs(forest, features, seeds, num_classes)
