"""A Gaussian mixture for each class."""

import warnings
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from selflabel.affinity.image import ImageLike, as_image
from selflabel.annotators.protocol import MOST_RANDOM_STATE, check_within, seeds_by_image, spread
from selflabel.kinds import check_fields
from selflabel.labels import UNLABELED


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
    places: bool = True
    """Are coordinates features, too?"""

    name: ClassVar[str] = "mixture"

    def __post_init__(self) -> None:
        """Raise `ValueError` for values out of range."""
        check_within("components", self.components, 1)
        check_within("regularization", self.regularization, 0)
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
                for features, one in zip(mixture_features(image, self), each, strict=True)
            ]
        )

    def _predict(
        self, features: np.ndarray, seeds: Integer[Tensor, "*s"], num_classes: int
    ) -> Float[Tensor, "k *s"]:
        from scipy.special import softmax  # with scikit-learn half of a command's time to start

        index = seeds.cpu().numpy().ravel()
        present = np.unique(index[index < num_classes])
        numbers = np.full(UNLABELED + 1, UNLABELED)
        numbers[present] = np.arange(len(present))
        scores = Mixtures.fitted(features, numbers[index], len(present), self).scores(features)
        probs = torch.from_numpy(softmax(scores, axis=0)).view(-1, *seeds.shape).to(seeds.device)
        return spread(probs, torch.from_numpy(present).to(seeds.device), num_classes)


def mixture_features(image: ImageLike, settings: MixtureAnnotator) -> list[np.ndarray]:
    """Features ``[n f]`` of each image: Lab, blurred by a pixel, and coordinates in 0..100 along its longest side."""
    colors = as_image(image).lab(blur=1.0).flatten(2).transpose(1, 2).cpu().numpy().astype(np.float64)
    if not settings.places:
        return list(colors)
    size = image.shape[2:]
    places = np.stack([axis.ravel() for axis in np.indices(size)], axis=1) * (100 / max(size))
    return [np.concatenate([one, places], axis=1) for one in colors]


@runtime_checkable
class Density(Protocol):
    """What is used of scikit-learn's GaussianMixture, which is imported late."""

    n_components: int
    weights_: np.ndarray
    means_: np.ndarray
    precisions_: np.ndarray

    def score(self, samples: np.ndarray, /) -> float:
        """The mean logarithm of the density."""

    def score_samples(self, samples: np.ndarray, /) -> np.ndarray:
        """The logarithm of the density at each sample."""


@dataclass(frozen=True, eq=False)
class Mixtures:
    """A Gaussian mixture for each of some classes."""

    each: tuple[Density, ...]

    @classmethod
    def fitted(
        cls, features: np.ndarray, index: np.ndarray, classes: int, settings: MixtureAnnotator
    ) -> "Mixtures":
        """To the features ``[n f]`` of the pixels of each class by `index` ``[n]``."""
        return cls(tuple(_fitted(features[index == label], settings) for label in range(classes)))

    def refitted(self, features: np.ndarray, index: np.ndarray, settings: MixtureAnnotator) -> "Mixtures":
        """To other pixels; a class of which they are not likelier by that keeps its mixture.

        Expectation maximization goes on from the mixture, unless it has fewer components than it may have now. Of more
        than `MOST_SAMPLES` pixels of a class it sees as many, evenly spaced.
        """
        found = []
        for label, old in enumerate(self.each):
            samples = features[index == label]
            if not len(samples):
                found.append(old)
                continue
            seen = samples[:: -(-len(samples) // MOST_SAMPLES)]
            new = _fitted(seen, settings, old)
            found.append(new if new.score(samples) > old.score(samples) else old)
        return Mixtures(tuple(found))

    def scores(self, features: np.ndarray) -> np.ndarray:
        """The logarithms of the densities ``[k n]``."""
        return np.stack([mixture.score_samples(features) for mixture in self.each])


MOST_SAMPLES = 4000
"""Pixels of a class that a mixture is fitted to again; the first ones are of the seeds, which are few."""


MOST_ITERATIONS = 10
"""Of expectation maximization from a start: each raises the likelihood."""


def _fitted(samples: np.ndarray, settings: MixtureAnnotator, start: Density | None = None) -> Density:
    """A mixture of the samples, from a start if that has as many components."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    if len(samples) == 1:
        samples = np.repeat(samples, 2, axis=0)
    mixture = GaussianMixture(
        min(settings.components, 1 + len(samples) // 10),
        reg_covar=settings.regularization,
        random_state=settings.random_state,
    )
    if start is not None and start.n_components == mixture.n_components:
        mixture.set_params(
            weights_init=start.weights_ / start.weights_.sum(),
            means_init=start.means_,
            precisions_init=start.precisions_,
            max_iter=MOST_ITERATIONS,
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the next round goes on
        fitted: Density = mixture.fit(samples)
    return fitted
