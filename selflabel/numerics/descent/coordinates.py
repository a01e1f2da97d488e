"""Coordinates of gradient descent, logits or square roots: steps along them leave labels distributions.

Both come with a natural gradient n: the gradient over the curvature h (`selflabel.terms.Gradient`), damped where a step
would take a coordinate down to its floor. This is the affine scaling of Coleman & Li (SIAM J. Optim. 6, 1996): with
``c⁺ = max(c, 0)`` of ``c = g - y·g`` in the divisor, no floor has to be handled as a constraint. `LOGITS` resolve
probabilities of any order of magnitude; `SQUARE_ROOTS` reach zero in a few steps and leave it as easily.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from selflabel.labels import floored, floored_logits
from selflabel.terms import Gradient, Labels

LOGIT_FLOOR = -15.0
"""Least logit relative to the largest (probability 3e-7): no class is out of reach."""

ROOT_FLOOR = 1e-3
"""Least square root (probability 1e-6), for the same reason."""

ROOT_LEFT = 0.4
"""Least share of each root that a step leaves."""

ROOT_REACH = 0.25
"""Most that a step adds to a root.

All pixels of an image share a rate. The curvature at the floor says nothing about that further up: without limits, some
pixels in a thousand would overshoot and shorten the steps of all.
"""

LEAST_CURVATURE = 1e-3
"""Least curvature: pixels without pairs and with a linear coupling have none, and their steps must end."""


@dataclass(frozen=True)
class Coordinates:
    """Labels as free numbers u, one a pixel and class.

    - `of(labels)` and `labels(u)`: there and back (up to the floor).
    - `bounded(u)`: u after a step, with its scale and floor restored.
    - `gradients(u, labels, grad)`: the gradient by u, and the natural one. Overwrites `grad`.
    - `limited(direction, u, rate)`: the direction, clipped so that `rate` times it is not too far from u. In place.
    - `softening`: probability added to every class of labels from a coarser level: from exactly zero, steps on
      logits recover slowly.
    """

    of: Callable[[Labels], Labels]
    labels: Callable[[Labels], Labels]
    bounded: Callable[[Labels], Labels]
    gradients: Callable[[Labels, Labels, Gradient], tuple[Labels, Labels]]
    limited: Callable[[Labels, Labels, Tensor], Labels]
    softening: float


def _by_logits(logits: Tensor, labels: Tensor, grad: Gradient) -> tuple[Tensor, Tensor]:
    """``∂y_k/∂u_j = y_k (δ_kj - y_j)`` gives ``y c``; natural: ``c / (h + c⁺ / 2)``."""
    centered = centered_gradient(labels, grad)
    damped = torch.add(grad.curvature, centered.clamp_min(0), alpha=0.5).clamp_min_(LEAST_CURVATURE)
    return labels * centered, centered.div_(damped)


def _unit(roots: Tensor) -> Tensor:
    """Floored, then scaled to ``‖u‖ = 1``, in place. (`vector_norm` would take as long as three gradients.)"""
    roots.clamp_min_(ROOT_FLOOR)
    return roots.mul_(roots.square().sum(1, keepdim=True).rsqrt_())


def _by_roots(roots: Tensor, labels: Tensor, grad: Gradient) -> tuple[Tensor, Tensor]:
    """``∂y_k/∂u_j = 2 u_k (δ_kj - u_k u_j)`` at ``‖u‖ = 1`` gives ``2 u c``; natural: ``u c / (c⁺ + 2 u h)``."""
    centered = centered_gradient(labels, grad)
    scaled = (labels / roots).mul_(centered)  # labels / roots, not roots: zero for excluded classes
    damped = torch.addcmul(centered.clamp_min_(0), roots, grad.curvature.clamp_min(LEAST_CURVATURE), value=2)
    return 2 * scaled, scaled / damped


def _limited_roots(direction: Tensor, roots: Tensor, rate: Tensor) -> Tensor:
    return torch.clamp(direction, (ROOT_LEFT - 1) / rate * roots, ROOT_REACH / rate, out=direction)


def centered_gradient(labels: Labels, grad: Gradient) -> Labels:
    """``g - y·g``: the gradient by the labels without its part across the simplex. Overwrites `grad`."""
    return grad.value.sub_((labels * grad.value).sum(1, keepdim=True))


LOGITS = Coordinates(  # y = softmax(u)
    of=lambda labels: floored_logits(labels, LOGIT_FLOOR),
    labels=lambda logits: logits.softmax(1),
    bounded=lambda logits: floored(logits, LOGIT_FLOOR),
    gradients=_by_logits,
    limited=lambda direction, logits, rate: direction,
    softening=1e-3,
)
SQUARE_ROOTS = Coordinates(  # y = u² / ‖u‖²
    of=lambda labels: _unit(labels.sqrt()),
    labels=lambda roots: roots.square(),
    bounded=_unit,
    gradients=_by_roots,
    limited=_limited_roots,
    softening=0.0,
)
