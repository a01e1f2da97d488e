"""Full matrices of affinities by plain loops over all pairs of pixels, from the formulas."""

from collections.abc import Callable
from itertools import product
from math import exp, hypot

import numpy as np
from numpy.typing import NDArray

from selflabel.affinity import Affinity, GaussianKernel
from selflabel.energy import Energy
from support.problems import make_case

Array = NDArray[np.float64]
Weight = Callable[[tuple[int, ...], Array, Array, int, int], float]

FLAT = make_case(Energy(), "grid4").image
SOLID = make_case(Energy(), "grid6").image
IMAGES = {2: FLAT, 3: SOLID}


def loop(features: Array, weight: Weight) -> Array:
    """W of one image ``[c *s]``, pair by pair; `weight` takes the offset, both features and both pixel numbers."""
    size = features.shape[1:]
    pixels = list(np.ndindex(*size))
    flat = features.reshape(len(features), -1).T
    matrix = np.zeros((len(pixels), len(pixels)))
    for i, j in product(range(len(pixels)), repeat=2):
        offset = tuple(b - a for a, b in zip(pixels[i], pixels[j], strict=True))
        matrix[i, j] = weight(offset, flat[i], flat[j], i, j)
    return matrix


def grid_weight(neighbors: int, sigma: float, by_distance: bool, spacing: tuple[float, ...]) -> Weight:
    def weight(offset: tuple[int, ...], a: Array, b: Array, i: int, j: int) -> float:
        most = 1 if neighbors in (4, 6) else len(offset)
        if i == j or max(map(abs, offset)) > 1 or sum(map(abs, offset)) > most:
            return 0.0
        length = hypot(*(o * s for o, s in zip(offset, spacing, strict=True))) if by_distance else 1.0
        return exp(-((a - b) ** 2).sum() / (2 * sigma**2)) / length

    return weight


def kernel(
    offset: tuple[int, ...], a: Array, b: Array, spacing: tuple[float, ...], one: GaussianKernel
) -> float:
    exponent = 0.0
    if one.sigma_xy is not None:
        moved = np.multiply(offset, spacing) / np.array(one.sigma_xy)
        exponent -= (moved**2).sum() / 2
    if one.sigma_rgb is not None:
        exponent -= (((a - b) / np.array(one.sigma_rgb)) ** 2).sum() / 2
    return float(one.weight * exp(exponent))


def assert_matrix(affinity: Affinity, expected: list[Array], tolerance: float = 1e-5) -> None:
    matrix = affinity.as_matrix()
    assert matrix.shape == (len(expected), *expected[0].shape)
    np.testing.assert_allclose(matrix.numpy(), np.stack(expected), rtol=tolerance, atol=tolerance)
