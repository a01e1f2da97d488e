"""Near neighbors and a few far ones, drawn at random: a sparse affinity that stands for a dense one."""

from itertools import product
from math import ceil, exp

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.grid import grid_offsets
from selflabel.affinity.image import ImageLike, as_image
from selflabel.affinity.stencil import (
    Offset,
    Stencil,
    boxes,
    check_positive,
    checked_features,
    twice_squared,
)
from selflabel.kinds import check_count, check_kind

FARTHEST = 3.0
"""In bandwidths: pairs beyond it are not drawn. They have a hundredth of the mass of the kernel in the plane."""


class SparseNonlocalAffinity(Stencil):
    """``w_ij = exp(-‖i - j‖² / 2σ_xy² - ‖f_i - f_j‖² / 2σ²)`` between a pixel and its neighbors on the grid, and
    ``w_ij = (G / m) exp(-‖f_i - f_j‖² / 2σ²)`` between it and m far ones, at offsets that are drawn at random.

    Offsets are drawn with probabilities of ``g(o) = exp(-‖o‖² / 2σ_xy²)``, whose sum G gives them the mass of all pairs
    that are not on the grid: in expectation the pairs are those of the dense affinity of the same kernel, each counted
    once and without a pixel itself. The number of pairs is linear in pixels, so that graph cut and every relaxation
    take it (as Veksler & Boykov, CVPR 2022; the drawing is ours). All pixels and images have the same offsets, which
    `random_state` decides: looking up far neighbors is slicing, too.

    ``symmetric=True``, the default, replaces ``W`` by ``D^-½ W D^-½`` with ``D_ii = 1 + Σ_j w_ij``: the degree, in
    which a pixel itself counts as in dense affinities. The neighbors of a pixel have a mass of about 1 then, and λ is
    on the scale of the other affinities; without it they have that of the kernel, thousands for wide ones.

    f are colors in 0..255 units, or any features in their own. Cost: one pass over the pairs; memory: one number for
    each.
    """

    @classmethod
    def from_image(
        cls,
        image: ImageLike,
        sigma: float = 15.0,
        sigma_xy: float = 40.0,
        samples: int = 16,
        neighbors: int | None = None,
        random_state: int = 0,
        symmetric: bool = True,
    ) -> "SparseNonlocalAffinity":
        """From an image ``[b c *s]``, uint8 in 0..255 or floats in [0, 1]; sigma in 0..255 units, sigma_xy in pixels.

        samples: far neighbors m in each of two opposite directions, those drawn twice counted twice. neighbors: 4 or 8
        on the grid (6 or 26 in 3-D), the smaller one by default.
        """
        colors = as_image(image).colors
        return cls.from_features(colors, sigma, sigma_xy, samples, neighbors, random_state, symmetric)

    @classmethod
    def from_features(
        cls,
        features: Float[Tensor, "b c *s"],
        sigma: float = 1.0,
        sigma_xy: float = 40.0,
        samples: int = 16,
        neighbors: int | None = None,
        random_state: int = 0,
        symmetric: bool = True,
    ) -> "SparseNonlocalAffinity":
        """From any feature map, sigma in its units."""
        check_positive("sigma", sigma)
        check_positive("sigma_xy", sigma_xy)
        check_count(samples, "samples")
        check_count(random_state, "random_state", 0)
        check_kind(symmetric, bool, "symmetric as True or False", "one of both")
        features = checked_features(features)
        size = tuple(features.shape[2:])
        near = grid_offsets(2 * len(size) if neighbors is None else neighbors, len(size))
        factors = {offset: _gaussian(offset, sigma_xy) for offset in near}
        factors |= _drawn(size, sigma_xy, samples, frozenset(near), random_state)
        weights = tuple(_weights(features, offset, sigma) * factor for offset, factor in factors.items())
        found = cls(size, tuple(factors), weights)
        return found._normalized() if symmetric else found

    def _normalized(self) -> "SparseNonlocalAffinity":
        """``D^-½ W D^-½``."""
        scale = (1 + self.degree()).rsqrt()
        weights = (pairs.weight * pairs.first(scale) * pairs.second(scale) for pairs in self.pairs())
        return type(self)(self.size, self.offsets, tuple(weights))


def _gaussian(offset: Offset, sigma_xy: float) -> float:
    return exp(-sum(o * o for o in offset) / (2 * sigma_xy**2))


def _weights(features: Float[Tensor, "b c *s"], offset: Offset, sigma: float) -> Float[Tensor, "b 1 *box"]:
    first, second = boxes(offset, tuple(features.shape[2:]))
    squared = (features[first] - features[second]).square().sum(1, keepdim=True)
    return torch.exp(squared / -twice_squared(sigma, squared.dtype))


def _drawn(
    size: tuple[int, ...], sigma_xy: float, samples: int, near: frozenset[Offset], random_state: int
) -> dict[Offset, float]:
    """Far offsets with their factors, ``G / m`` each time that one is drawn; none if all pairs are near."""
    reach = [min(ceil(FARTHEST * sigma_xy), n - 1) for n in size]
    far = [o for o in product(*(range(-r, r + 1) for r in reach)) if o > (0,) * len(size) and o not in near]
    if not far:
        return {}
    masses = np.array([_gaussian(offset, sigma_xy) for offset in far])
    total = float(masses.sum())
    if total == 0:  # a bandwidth of less than a pixel
        return {}
    numbers = np.random.default_rng(random_state).choice(len(far), samples, p=masses / total)
    drawn, counts = np.unique(numbers, return_counts=True)
    return {far[i]: total / samples * int(count) for i, count in zip(drawn, counts, strict=True)}
