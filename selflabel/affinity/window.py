"""All neighbors within a radius, weighted by a mixture of kernels, with gates: the affinity of the gated CRF."""

from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.gaussian import GaussianKernel
from selflabel.affinity.image import ImageLike, as_image
from selflabel.affinity.stencil import (
    Offset,
    Stencil,
    boxes,
    check_feature_map,
    check_positive,
    check_spacing,
)

GATED_CRF_KERNELS = (GaussianKernel(1.0, 6.0, 15.0),)
"""The kernel of the gated CRF as published, for a radius of 5."""


def mixture(
    kernels: tuple[GaussianKernel, ...], distance: Tensor | float, squared: Float[Tensor, "*any"]
) -> Float[Tensor, "*any"]:
    """``Σ_p K_p`` from squared distances in place and in features; the former broadcast to the latter."""
    weight: Tensor | None = None
    for kernel in kernels:
        one = (
            torch.zeros_like(squared)
            if kernel.sigma_rgb is None
            else squared * (-1 / (2 * kernel.sigma_rgb**2))
        )
        if kernel.sigma_xy is not None:
            one -= distance / (2 * kernel.sigma_xy**2)
        one = one.exp_().mul_(kernel.weight)
        weight = one if weight is None else weight.add_(one)
    assert weight is not None, "checked: there is at least one"
    return weight


def window_offsets(radius: int, axes: int) -> tuple[Offset, ...]:
    """Half of the offsets of the (2·radius + 1)^axes window, without its center."""
    return tuple(o for o in product(range(-radius, radius + 1), repeat=axes) if o > (0,) * axes)


class WindowAffinity(Stencil):
    """``w_ij = ½ (m_i^dst m_j^src + m_j^dst m_i^src) Σ_p K_p(i, j)`` in a window (Obukhov et al. 2019, eq. 3 and 4).

    The gates m are 1 where not given, and then ``w = Σ_p K_p``. A pair counts once; the published sum counts
    both orders, which is twice this one, for any gates. Memory: half as many numbers a pixel as the window has pixels.
    """

    @classmethod
    def from_image(
        cls,
        image: ImageLike,
        radius: int = 5,
        kernels: tuple[GaussianKernel, ...] = GATED_CRF_KERNELS,
        *,
        source: Float[Tensor, "b 1 *s"] | None = None,
        destination: Float[Tensor, "b 1 *s"] | None = None,
        spacing: tuple[float, ...] | None = None,
    ) -> "WindowAffinity":
        """From an image ``[b c *s]``, uint8 in 0..255 or floats in [0, 1]. Published: radius 5, sigma_xy 6."""
        return cls.from_features(
            as_image(image).colors, radius, kernels, source=source, destination=destination, spacing=spacing
        )

    @classmethod
    def from_features(
        cls,
        features: Float[Tensor, "b c *s"],
        radius: int = 5,
        kernels: tuple[GaussianKernel, ...] = GATED_CRF_KERNELS,
        *,
        source: Float[Tensor, "b 1 *s"] | None = None,
        destination: Float[Tensor, "b 1 *s"] | None = None,
        spacing: tuple[float, ...] | None = None,
    ) -> "WindowAffinity":
        """From any feature map."""
        size = tuple(features.shape[2:])
        check_window(features, radius, kernels, source, destination)
        spacing = check_spacing(spacing, size)
        ones = features.new_ones(features.shape[0], 1, *size)
        source, destination = ones if source is None else source, ones if destination is None else destination
        every = window_offsets(radius, len(size))
        inside = tuple(o for o in every if all(abs(x) < n for x, n in zip(o, size, strict=True)))
        offsets = inside or every[:1]  # of one pixel: a single offset without pairs
        weights = []
        for offset in offsets:
            first, second = boxes(offset, size)
            squared = (features[first] - features[second]).square().sum(1, keepdim=True)
            distance = sum((o * s) ** 2 for o, s in zip(offset, spacing, strict=True))
            weight = mixture(kernels, distance, squared)
            gates = destination[first] * source[second] + destination[second] * source[first]
            weights.append(weight * gates / 2)
        return cls(size, offsets, tuple(weights))


def check_window(
    features: Tensor,
    radius: int,
    kernels: tuple[GaussianKernel, ...],
    source: Tensor | None,
    destination: Tensor | None,
) -> None:
    """Raise `ValueError` unless features, radius, kernels and gates make a window."""
    check_feature_map(features)
    check_positive("radius", radius)
    if not kernels:
        raise ValueError("expected at least one kernel, got none")
    wanted = (features.shape[0], 1, *features.shape[2:])
    for name, gate in (("source", source), ("destination", destination)):
        if gate is not None and gate.shape != wanted:
            raise ValueError(f"expected a {name} gate of shape {wanted}, got {tuple(gate.shape)}")
