"""Relaxations of the Potts model.

All depend on two distributions p and q through three numbers, ``p·q``, ``‖p‖²`` and ``‖q‖²``. So a relaxation is a
scalar function with two derivatives, and the gradient of a Potts sum is the reweighted affinity applied to the labels:
no graph is recorded, and each pair is visited once.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from selflabel.terms.named import by_name, shown
from selflabel.terms.sums import FLOOR, Labels, Map, dot_product, log

LOG_QUADRATIC_SLACK = 1e-6
"""Fraction by which log-quadratic shortens squared distances: ``-ln 1e-6 ≈ 13.8`` at two vertices, not infinity."""

Scalar = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, repr=False)
class Relaxation:
    """A Potts relaxation ``P(p, q)``, as a function of ``dot = p·q``, ``pp = ‖p‖²`` and ``qq = ‖q‖²``.

    `derivative` is ``∂P/∂dot`` and `norm_derivative` is ``∂P/∂pp``; ``∂P/∂qq`` follows from symmetry. With
    ``norm_derivative=None`` P does not depend on the norms, which then are not computed.

    - `is_potts`: ``P = [p ≠ q]`` at hard labels (the others are infinite, or large, where these differ);
    - `is_tight`: the minimum over soft labels is the minimum over hard labels;
    - `is_quadratic`: quadratic in the labels, so that a dense affinity needs a single filtering.
    """

    name: str
    value: Scalar
    derivative: Scalar
    norm_derivative: Scalar | None = None
    is_potts: bool = False
    is_tight: bool = False
    is_quadratic: bool = False

    __reduce__ = by_name
    __repr__ = shown

    def pair(self, p: Labels, q: Labels) -> Map:
        """``P(p, q)`` pixel by pixel: for reading and for tests."""
        return self.value(dot_product(p, q), dot_product(p, p), dot_product(q, q))


def _log_quadratic_argument(dot: Tensor, pp: Tensor, qq: Tensor) -> Tensor:
    return 1 - (1 - LOG_QUADRATIC_SLACK) * ((pp + qq) / 2 - dot)


BILINEAR = Relaxation(
    "bilinear",
    value=lambda dot, pp, qq: 1 - dot,
    derivative=lambda dot, pp, qq: torch.full_like(dot, -1.0),
    is_potts=True,
    is_tight=True,
    is_quadratic=True,
)
QUADRATIC_POTTS = Relaxation(
    "quadratic",
    value=lambda dot, pp, qq: (pp + qq) / 2 - dot,
    derivative=lambda dot, pp, qq: torch.full_like(dot, -1.0),
    norm_derivative=lambda dot, pp, qq: torch.full_like(dot, 0.5),
    is_potts=True,
    is_quadratic=True,
)
NORMALIZED_QUADRATIC = Relaxation(
    "normalized-quadratic",
    value=lambda dot, pp, qq: 1 - dot * (pp * qq).rsqrt(),
    derivative=lambda dot, pp, qq: -(pp * qq).rsqrt(),
    norm_derivative=lambda dot, pp, qq: 0.5 * dot * (pp * qq).rsqrt() / pp,
    is_potts=True,
)
COLLISION_CROSS_ENTROPY = Relaxation(
    "collision-cross-entropy",
    value=lambda dot, pp, qq: -log(dot),
    derivative=lambda dot, pp, qq: -1 / dot.clamp_min(FLOOR),
)
LOG_QUADRATIC = Relaxation(
    "log-quadratic",
    value=lambda dot, pp, qq: -_log_quadratic_argument(dot, pp, qq).log(),
    derivative=lambda dot, pp, qq: -(1 - LOG_QUADRATIC_SLACK) / _log_quadratic_argument(dot, pp, qq),
    norm_derivative=lambda dot, pp, qq: (
        0.5 * (1 - LOG_QUADRATIC_SLACK) / _log_quadratic_argument(dot, pp, qq)
    ),
)
COLLISION_DIVERGENCE = Relaxation(
    "collision-divergence",
    value=lambda dot, pp, qq: 0.5 * (pp * qq).log() - log(dot),
    derivative=lambda dot, pp, qq: -1 / dot.clamp_min(FLOOR),
    norm_derivative=lambda dot, pp, qq: 0.5 / pp,
)
RELAXATIONS = (
    BILINEAR,
    QUADRATIC_POTTS,
    NORMALIZED_QUADRATIC,
    COLLISION_CROSS_ENTROPY,
    LOG_QUADRATIC,
    COLLISION_DIVERGENCE,
)
