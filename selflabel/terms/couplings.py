"""Couplings: cross-entropies that tie labels to a prediction."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from selflabel.terms.named import by_name, shown
from selflabel.terms.sums import FLOOR, Labels, Map, dot_product, log, squared_distance


@dataclass(frozen=True)
class Product:
    """A coupling as a function of one number a pixel: ``dot = y·t`` with the target ``t(σ)``.

    `value`, its `derivative` and the `curvature` of `Coupling` are functions of `dot`.
    """

    target: Callable[[Labels], Labels]
    value: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    curvature: Callable[[Tensor], Tensor]


@dataclass(frozen=True, repr=False)
class Coupling:
    """A cross-entropy ``H(y, σ)`` that ties labels y to a prediction σ, per pixel (Zhang & Boykov 2025, Table 2).

    `value` and `gradient` (with respect to y) take labels and prediction ``[b k *s]``. `curvature` bounds the
    curvature relative to that of the entropy, for step sizes. `at_vertices(σ)` is the cost of each hard label, or
    None if that is infinite. `from_log_probs(y, ln σ)` is the value in log-space, without a floor for σ: a
    network that is certain and wrong gets a gradient, where that of `value` is zero. `product`: the same coupling
    as a function of a product, for those that have this form.
    """

    name: str
    value: Callable[[Labels, Labels], Map]
    gradient: Callable[[Labels, Labels], Labels]
    curvature: Callable[[Labels, Labels], Map]
    at_vertices: Callable[[Labels], Labels] | None
    from_log_probs: Callable[[Labels, Labels], Map]
    product: Product | None = None

    __reduce__ = by_name
    __repr__ = shown


def _distances_to_vertices(probs: Tensor) -> Tensor:
    return 1 - 2 * probs + probs.square().sum(1, keepdim=True)


def _of_product(
    name: str,
    product: Product,
    at_vertices: Callable[[Labels], Labels],
    from_log_probs: Callable[[Labels, Labels], Map],
) -> Coupling:
    """By the chain rule: the gradient is ``derivative(y·t) t``."""

    def value(y: Labels, probs: Labels) -> Map:
        return product.value(dot_product(y, product.target(probs)))

    def gradient(y: Labels, probs: Labels) -> Labels:
        target = product.target(probs)
        return product.derivative(dot_product(y, target)) * target

    def curvature(y: Labels, probs: Labels) -> Map:
        return product.curvature(dot_product(y, product.target(probs)))

    return Coupling(name, value, gradient, curvature, at_vertices, from_log_probs, product)


STANDARD = _of_product(  # -Σ_k y^k ln σ^k
    "standard",
    Product(
        target=log,
        value=lambda dot: -dot,
        derivative=lambda dot: torch.full_like(dot, -1.0),
        curvature=lambda dot: torch.zeros_like(dot),
    ),
    at_vertices=lambda probs: -log(probs),
    from_log_probs=lambda y, log_probs: -dot_product(y, log_probs),
)
REVERSE = Coupling(  # -Σ_k σ^k ln y^k
    "reverse",
    value=lambda y, probs: -dot_product(probs, log(y)),
    gradient=lambda y, probs: -probs / y.clamp_min(FLOOR),
    curvature=lambda y, probs: (probs / y.clamp_min(FLOOR)).amax(1, keepdim=True),
    at_vertices=None,
    from_log_probs=lambda y, log_probs: -dot_product(log_probs.exp(), log(y)),
)
COLLISION = _of_product(  # -ln Σ_k σ^k y^k
    "collision",
    Product(
        target=lambda probs: probs,
        value=lambda dot: -log(dot),
        derivative=lambda dot: -1 / dot.clamp_min(FLOOR),
        curvature=lambda dot: 1 / dot.clamp_min(FLOOR),
    ),
    at_vertices=lambda probs: -log(probs),
    from_log_probs=lambda y, log_probs: -(y.log() + log_probs).logsumexp(1, keepdim=True),
)
QUADRATIC = Coupling(  # ‖y - σ‖²
    "quadratic",
    value=squared_distance,
    gradient=lambda y, probs: 2 * (y - probs),
    curvature=lambda y, probs: torch.full_like(y[:, :1], 2.0),
    at_vertices=_distances_to_vertices,
    from_log_probs=lambda y, log_probs: squared_distance(y, log_probs.exp()),
)
COUPLINGS = (STANDARD, REVERSE, COLLISION, QUADRATIC)
