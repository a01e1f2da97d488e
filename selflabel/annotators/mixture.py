"""A Gaussian mixture for each class."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from selflabel.affinity.image import ImageLike, as_image
from selflabel.annotators.protocol import MOST_RANDOM_STATE, check_within, seeds_by_image, spread
from selflabel.kinds import check_fields


@dataclass(frozen=True)
class MixtureAnnotator:
    """Gaussian mixtures of color and place, one a class, as in GrabCut; equal priors.

    Features: Lab, blurred by a pixel, and coordinates scaled to 0..100 along the image's longest side. A class has at
    most `components` Gaussians, and one more than a tenth of its seeds; `regularization` is added to their variances.
    `random_state` starts the fit. Cost: about 0.1 s for 0.2 megapixels on one core.
    """

    components: int = 5
    regularization: float = 10.0
    random_state: int = 0

    name: ClassVar[str] = "mixture"

    def __post_init__(self) -> None:
        """Raise `ValueError` for values out of range."""
        check_within("components", self.components, 1)
        check_within("regularization", self.regularization, 0)
        check_within("random_state", self.random_state, 0, MOST_RANDOM_STATE)
        check_fields(self)

    def predict(
        self, image: ImageLike, seeds: Integer[Tensor, "b *s"], num_classes: int
    ) -> Float[Tensor, "b k *s"]:
        """Probabilities; a class without a seed in an image gets zero there."""
        each = seeds_by_image(image, seeds, num_classes)
        features = as_image(image).lab(blur=1.0).flatten(2).transpose(1, 2).cpu().numpy().astype(np.float64)
        size = image.shape[2:]
        places = np.stack([axis.ravel() for axis in np.indices(size)], axis=1) * (100 / max(size))
        return torch.stack(
            [
                self._predict(np.concatenate([colors, places], axis=1), one, num_classes)
                for colors, one in zip(features, each, strict=True)
            ]
        )

    def _predict(
        self, features: np.ndarray, seeds: Integer[Tensor, "*s"], num_classes: int
    ) -> Float[Tensor, "k *s"]:
        from scipy.special import softmax  # with scikit-learn half of a command's time to start
        from sklearn.mixture import GaussianMixture

        index = seeds.cpu().numpy().ravel()
        present = np.unique(index[index < num_classes])
        scores = np.empty((len(present), len(features)))
        for row, label in enumerate(present):
            samples = features[index == label]
            if len(samples) == 1:
                samples = np.repeat(samples, 2, axis=0)
            mixture = GaussianMixture(
                min(self.components, 1 + len(samples) // 10),
                reg_covar=self.regularization,
                random_state=self.random_state,
            )
            scores[row] = mixture.fit(samples).score_samples(features)
        probs = torch.from_numpy(softmax(scores, axis=0)).view(-1, *seeds.shape).to(seeds.device)
        return spread(probs, torch.from_numpy(present).to(seeds.device), num_classes)
