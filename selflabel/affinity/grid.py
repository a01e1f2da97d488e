"""Nearest neighbors on the pixel grid, weighted by contrast."""

from itertools import product
from math import hypot

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.image import ImageLike, as_image
from selflabel.affinity.stencil import (
    Offset,
    Stencil,
    boxes,
    check_positive,
    check_spacing,
    checked_features,
    twice_squared,
)
from selflabel.kinds import check_count, check_kind

CONTRAST_FLOOR = 1e-6
"""Added to weights of contrast, so that no pixel is cut off."""


def grid_offsets(neighbors: int, axes: int) -> tuple[Offset, ...]:
    """Half of the neighbor offsets: 4 or 8 neighbors for two axes, 6 or 26 for three."""
    half = [o for o in product((-1, 0, 1), repeat=axes) if o > (0,) * axes]
    counts = {2 * axes: [o for o in half if sum(map(abs, o)) == 1], 3**axes - 1: half}
    check_count(neighbors, "neighbors")
    if neighbors not in counts:
        raise ValueError(
            f"expected {' or '.join(map(str, counts))} neighbors for {axes} axes, got {neighbors}"
        )
    return tuple(counts[neighbors])


class GridAffinity(Stencil):
    """``w_ij = exp(-‖f_i - f_j‖² / 2σ²) [/ ‖i - j‖]`` between grid neighbors (Zhang & Boykov 2025, Sec. 2).

    f are colors in 0..255 units, or any features in their own; each pair counts once.
    """

    @classmethod
    def from_image(
        cls,
        image: ImageLike,
        sigma: float = 9.0,
        neighbors: int | None = None,
        *,
        by_distance: bool = False,
        spacing: tuple[float, ...] | None = None,
    ) -> "GridAffinity":
        """From an image ``[b c *s]``, uint8 in 0..255 or floats in [0, 1]; sigma in 0..255 units.

        Published: sigma 9 on PASCAL VOC, 3 on Cityscapes and ADE20k. `neighbors`: 4 or 8 (6 or 26 in 3-D), the
        smaller one by default. `by_distance` divides by the distance of the two pixels, in units of `spacing`
        (one number an axis; default 1).
        """
        return cls.from_features(
            as_image(image).colors, sigma, neighbors, by_distance=by_distance, spacing=spacing
        )

    @classmethod
    def from_features(
        cls,
        features: Float[Tensor, "b c *s"],
        sigma: float = 1.0,
        neighbors: int | None = None,
        *,
        by_distance: bool = False,
        spacing: tuple[float, ...] | None = None,
    ) -> "GridAffinity":
        """From any feature map, sigma in its units. Cost: one pass over the pairs."""
        check_positive("sigma", sigma)
        offsets, squared = _squared_differences(features, neighbors)
        weights = [torch.exp(square / -twice_squared(sigma, square.dtype)) for square in squared]
        return cls._from_weights(features, offsets, weights, by_distance, spacing)

    @classmethod
    def from_contrast(
        cls,
        features: Float[Tensor, "b c *s"],
        strength: float = 7.0,
        neighbors: int | None = None,
        *,
        by_distance: bool = False,
        spacing: tuple[float, ...] | None = None,
    ) -> "GridAffinity":
        """``w_ij = (exp(-strength ‖f_i - f_j‖ / r) + 1e-6) [/ ‖i - j‖]``, r the image's rms difference.

        Relative to the contrast of the image, so one strength serves images of low and high contrast; and linear in
        the difference, which keeps weak boundaries. The floor keeps every pixel connected, as the random walker needs.
        An image without contrast has weights 1.
        """
        check_positive("strength", strength)
        offsets, squared = _squared_differences(features, neighbors)
        count = max(sum(square[0].numel() for square in squared), 1)
        mean_square = torch.stack([square.flatten(1).sum(1) for square in squared]).sum(0) / count
        scale = mean_square.sqrt().clamp_min(torch.finfo(mean_square.dtype).tiny)
        scale = scale.view(-1, *[1] * (features.ndim - 1))
        weights = [torch.exp(-strength * square.sqrt() / scale) + CONTRAST_FLOOR for square in squared]
        return cls._from_weights(features, offsets, weights, by_distance, spacing)

    @classmethod
    def from_gradient(cls, features: Float[Tensor, "b c *s"], strength: float = 0.01) -> "GridAffinity":
        """``w = exp(-strength |∇f|_i)`` from pixel i to the next one on each axis (Mayer et al., below eq. 3).

        ``|∇f|_i`` is the length of all differences of pixel i to the next ones: the edge-stop function of the total
        variation, one weight for both axes. 4 neighbors, 6 in 3-D.
        """
        check_positive("strength", strength)
        offsets, squared = _squared_differences(features, None)
        sums = squared[0].new_zeros(len(features), 1, *features.shape[2:])
        size = tuple(features.shape[2:])
        for offset, square in zip(offsets, squared, strict=True):
            sums[boxes(offset, size)[0]] += square
        stop = torch.exp(-strength * sums.sqrt())
        return cls(size, offsets, tuple(stop[boxes(offset, size)[0]] for offset in offsets))

    @classmethod
    def _from_weights(
        cls,
        features: Tensor,
        offsets: tuple[Offset, ...],
        weights: list[Tensor],
        by_distance: bool,
        spacing: tuple[float, ...] | None,
    ) -> "GridAffinity":
        check_kind(by_distance, bool, "by_distance as True or False", "one of both")
        size = tuple(features.shape[2:])
        spacing = check_spacing(spacing, size)
        if by_distance:
            lengths = [hypot(*(o * s for o, s in zip(offset, spacing, strict=True))) for offset in offsets]
            weights = [weight / length for weight, length in zip(weights, lengths, strict=True)]
        return cls(size, offsets, tuple(weights))


def _squared_differences(
    features: Float[Tensor, "b c *s"], neighbors: int | None
) -> tuple[tuple[Offset, ...], list[Tensor]]:
    features = checked_features(features)
    size = tuple(features.shape[2:])
    offsets = grid_offsets(2 * len(size) if neighbors is None else neighbors, len(size))
    pairs = [boxes(offset, size) for offset in offsets]
    return offsets, [(features[a] - features[b]).square().sum(1, keepdim=True) for a, b in pairs]
