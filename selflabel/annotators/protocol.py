"""The protocol of annotators, and what they share."""

import math
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from selflabel.affinity.image import ImageLike
from selflabel.labels import check_index_type, check_seeds


@runtime_checkable
class Annotator(Protocol):
    """A model of the appearance of each class: a frozen dataclass of settings, trained anew on each image's seeds."""

    name: ClassVar[str]
    """As on the command line: "forest"."""

    def check(self) -> None:
        """Raise `ImportError`, with the command that installs it, if a package that it needs is missing."""

    def predict(
        self, image: ImageLike, seeds: Integer[Tensor, "b *s"], num_classes: int
    ) -> Float[Tensor, "b k *s"]:
        """Probabilities; a class without a seed in an image gets zero there. `as_image` gives its units and Lab.

        Raises `ValueError` for an image without seeds, or with seeds out of range.
        """


MOST_RANDOM_STATE = 2**32 - 1
"""What numpy takes."""
MOST_BLUR_PIXELS = 1000


def check_within(name: str, value: object, least: int, most: int | float = math.inf) -> None:
    """Raise `ValueError` for a setting that is no number, or not in least..most."""
    if not (isinstance(value, int | float) and math.isfinite(value) and least <= value <= most):
        bounds = f">= {least:g}" if most == math.inf else f"in {least:g}..{most:g}"
        raise ValueError(f"expected {name} {bounds}, got {value}")


def seeds_by_image(
    image: ImageLike, seeds: Integer[Tensor, "b *s"], num_classes: int
) -> list[Integer[Tensor, "*s"]]:
    """The seeds of each image. Raises `ValueError` as `Annotator.predict` says."""
    check_index_type(seeds)
    if image.shape[0] != seeds.shape[0] or image.shape[2:] != seeds.shape[1:]:
        raise ValueError(
            f"expected seeds of shape {(image.shape[0], *image.shape[2:])} as the images', got {tuple(seeds.shape)}"
        )
    check_seeds(seeds, num_classes)
    each = list(seeds)
    for number, one in enumerate(each):
        if not bool((one < num_classes).any()):
            raise ValueError(
                f"expected at least one seed in every image, got none in image {number} of the batch"
            )
    return each


def spread(
    probs: Float[Tensor, "present *s"], present: Integer[Tensor, " present"], num_classes: int
) -> Float[Tensor, "k *s"]:
    """Probabilities of all classes from those of the classes present: zero for the others."""
    full = torch.zeros(num_classes, *probs.shape[1:], dtype=torch.float32, device=probs.device)
    full[present.long()] = probs.to(torch.float32)
    return full
