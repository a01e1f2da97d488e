"""Formulas of couplings and relaxations (`selflabel.terms`) for kernels, chosen by number when a kernel is compiled."""

from math import exp

import triton.language as tl

from selflabel.kernels.gpu.launch import helper

FLOOR = tl.constexpr(exp(-30.0))
"""Least argument of a logarithm, as `terms.FLOOR`."""

LOG_QUADRATIC_SCALE = tl.constexpr(1 - 1e-6)
"""Of squared distances, as `terms.LOG_QUADRATIC_SLACK` says."""

BILINEAR = tl.constexpr(0)
QUADRATIC_POTTS = tl.constexpr(1)
NORMALIZED_QUADRATIC = tl.constexpr(2)
COLLISION_CROSS_ENTROPY = tl.constexpr(3)
LOG_QUADRATIC = tl.constexpr(4)
COLLISION_DIVERGENCE = tl.constexpr(5)
PRODUCT = tl.constexpr(6)
"""``p·q`` itself, whose gradient is ``W x``."""

RELAXATIONS = {
    "bilinear": 0,
    "quadratic": 1,
    "normalized-quadratic": 2,
    "collision-cross-entropy": 3,
    "log-quadratic": 4,
    "collision-divergence": 5,
}
"""The numbers of the relaxations of `terms` by their names."""

STANDARD = tl.constexpr(0)
COLLISION = tl.constexpr(1)


@helper
def relaxation(dot, own, other, RELAXATION: tl.constexpr):
    """``P``, ``∂P/∂dot`` and ``∂P/∂own`` from ``p·q``, ``own = ‖p‖²`` and ``other = ‖q‖²``."""
    by_norm = tl.zeros_like(dot)
    if RELAXATION == BILINEAR:
        value = 1 - dot
        by_dot = by_norm - 1
    elif RELAXATION == QUADRATIC_POTTS:
        value = 0.5 * (own + other) - dot
        by_dot = by_norm - 1
        by_norm += 0.5
    elif RELAXATION == NORMALIZED_QUADRATIC:
        by_dot = -1 / tl.sqrt(own * other)
        value = 1 + dot * by_dot
        by_norm = -0.5 * dot * by_dot / own
    elif RELAXATION == LOG_QUADRATIC:
        argument = 1 - LOG_QUADRATIC_SCALE * (0.5 * (own + other) - dot)
        value = -tl.log(argument)
        by_dot = -LOG_QUADRATIC_SCALE / argument
        by_norm = 0.5 * LOG_QUADRATIC_SCALE / argument
    elif RELAXATION == PRODUCT:
        value = dot
        by_dot = by_norm + 1
    else:  # the two of collisions
        floored = tl.maximum(dot, FLOOR)
        value = -tl.log(floored)
        by_dot = -1 / floored
        if RELAXATION == COLLISION_DIVERGENCE:
            value += 0.5 * tl.log(own * other)
            by_norm = 0.5 / own
    return value, by_dot, by_norm


@helper
def coupling(dot, COUPLING: tl.constexpr):
    """Value, derivative and curvature from ``y·t`` (`terms.Product`)."""
    if COUPLING == STANDARD:
        value = -dot
        derivative = tl.zeros_like(dot) - 1
        curvature = tl.zeros_like(dot)
    else:
        floored = tl.maximum(dot, FLOOR)
        value = -tl.log(floored)
        derivative = -1 / floored
        curvature = 1 / floored
    return value, derivative, curvature
