"""Every term of the energy, written once: couplings, relaxations of the Potts model, and the Potts sum.

A term is a function of labels (and an affinity). It does not know whether it is given pseudo-labels, which a
solver changes, or predictions, which a network changes: solvers and losses share this file.

All relaxations depend on two distributions p and q through three numbers, ``p·q``, ``‖p‖²`` and ``‖q‖²``. So a
relaxation is a scalar function with two derivatives, and the gradient of a Potts sum is the reweighted affinity
applied to the labels: no graph is recorded, and each pair is visited once.
"""

import copyreg
from collections.abc import Callable
from dataclasses import dataclass
from math import exp
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.protocol import Affinity, SparseAffinity
from selflabel.affinity.stencil import Stencil
from selflabel.labels import LOG_FLOOR

Map = Float[Tensor, "b 1 *s"]
Labels = Float[Tensor, "b k *s"]

FLOOR = exp(LOG_FLOOR)
LOG_QUADRATIC_SLACK = 1e-6
"""Fraction by which log-quadratic shortens squared distances: ``-ln 1e-6 ≈ 13.8`` at two vertices, not infinity."""


# --- couplings ------------------------------------------------------------------------------------------------


def _by_name(record: Any) -> str | tuple[Any, ...]:
    """`__reduce__` of couplings and relaxations: constants of this module are copied and pickled by their names.

    So a copy is the constant itself, as with members of an enumeration. Others are pickled by their fields, which then
    must be functions of a module.
    """
    names = (name for name, value in globals().items() if value is record)
    return next(names, None) or (copyreg.__newobj__, (type(record),), vars(record))  # type: ignore[attr-defined]


def _shown(record: Any) -> str:
    """`__repr__` of couplings and relaxations: their names, not the addresses of their functions."""
    return f"{type(record).__name__}({record.name!r})"


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

    __reduce__ = _by_name
    __repr__ = _shown


def _log(probs: Tensor) -> Tensor:
    return probs.clamp_min(FLOOR).log()


def _dot(p: Tensor, q: Tensor) -> Tensor:
    return (p * q).sum(1, keepdim=True)


def _distance(p: Tensor, q: Tensor) -> Tensor:
    return (p - q).square().sum(1, keepdim=True)


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
        return product.value(_dot(y, product.target(probs)))

    def gradient(y: Labels, probs: Labels) -> Labels:
        target = product.target(probs)
        return product.derivative(_dot(y, target)) * target

    def curvature(y: Labels, probs: Labels) -> Map:
        return product.curvature(_dot(y, product.target(probs)))

    return Coupling(name, value, gradient, curvature, at_vertices, from_log_probs, product)


STANDARD = _of_product(  # -Σ_k y^k ln σ^k
    "standard",
    Product(
        target=_log,
        value=lambda dot: -dot,
        derivative=lambda dot: torch.full_like(dot, -1.0),
        curvature=lambda dot: torch.zeros_like(dot),
    ),
    at_vertices=lambda probs: -_log(probs),
    from_log_probs=lambda y, log_probs: -_dot(y, log_probs),
)
REVERSE = Coupling(  # -Σ_k σ^k ln y^k
    "reverse",
    value=lambda y, probs: -_dot(probs, _log(y)),
    gradient=lambda y, probs: -probs / y.clamp_min(FLOOR),
    curvature=lambda y, probs: (probs / y.clamp_min(FLOOR)).amax(1, keepdim=True),
    at_vertices=None,
    from_log_probs=lambda y, log_probs: -_dot(log_probs.exp(), _log(y)),
)
COLLISION = _of_product(  # -ln Σ_k σ^k y^k
    "collision",
    Product(
        target=lambda probs: probs,
        value=lambda dot: -_log(dot),
        derivative=lambda dot: -1 / dot.clamp_min(FLOOR),
        curvature=lambda dot: 1 / dot.clamp_min(FLOOR),
    ),
    at_vertices=lambda probs: -_log(probs),
    from_log_probs=lambda y, log_probs: -(y.log() + log_probs).logsumexp(1, keepdim=True),
)
QUADRATIC = Coupling(  # ‖y - σ‖²
    "quadratic",
    value=_distance,
    gradient=lambda y, probs: 2 * (y - probs),
    curvature=lambda y, probs: torch.full_like(y[:, :1], 2.0),
    at_vertices=_distances_to_vertices,
    from_log_probs=lambda y, log_probs: _distance(y, log_probs.exp()),
)
COUPLINGS = (STANDARD, REVERSE, COLLISION, QUADRATIC)


# --- relaxations of the Potts model ---------------------------------------------------------------------------

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

    __reduce__ = _by_name
    __repr__ = _shown

    def pair(self, p: Labels, q: Labels) -> Map:
        """``P(p, q)`` pixel by pixel: for reading and for tests."""
        return self.value(_dot(p, q), _dot(p, p), _dot(q, q))


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
    value=lambda dot, pp, qq: -_log(dot),
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
    value=lambda dot, pp, qq: 0.5 * (pp * qq).log() - _log(dot),
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


# --- sums over an image ---------------------------------------------------------------------------------------


SUM_BLOCK = 8192
"""Numbers that are added up by one thread."""


def total(values: Float[Tensor, "b *rest"]) -> Float[Tensor, " b"]:
    """Sum over all but the batch, in float64. On the CPU in blocks: in the same order for any number of threads."""
    flat = values.flatten(1)
    blocks, rest = divmod(flat.shape[1], SUM_BLOCK)
    if flat.device.type != "cpu" or not blocks:
        return flat.sum(1, dtype=torch.float64)
    whole = flat[:, : blocks * SUM_BLOCK].reshape(-1, blocks, SUM_BLOCK).sum(2, dtype=torch.float64).sum(1)
    return whole + flat[:, -rest:].sum(1, dtype=torch.float64) if rest else whole


def entropy(labels: Labels) -> Map:
    """Shannon entropy ``-Σ_k y^k ln y^k`` per pixel."""
    return -_dot(labels, _log(labels))


def entropy_gradient(labels: Labels) -> Labels:
    """Gradient of `entropy`, up to the constant that the simplex cancels: ``-ln y``."""
    return -_log(labels)


@dataclass(frozen=True, eq=False)
class Gradient:
    """The gradient of an energy by the labels, ``value [b k *s]``, and a bound of how fast it changes.

    `curvature`, one number a pixel: the curvature of the energy in the labels of a pixel, in units of that of the
    entropy. A step over it is safe. For the Potts sum it is the degree of the reweighted affinity.
    """

    value: Labels
    curvature: Map


def check_relaxation(relaxation: Relaxation, affinity: Affinity) -> None:
    """Raise `ValueError` for a dense affinity and a relaxation that is not quadratic in the labels."""
    if not isinstance(affinity, SparseAffinity) and not relaxation.is_quadratic:
        raise ValueError(
            f"expected a relaxation that is quadratic in the labels for a dense affinity, got "
            f"{relaxation.name!r}: use 'bilinear' or 'quadratic', or a grid or window affinity"
        )


def potts(labels: Labels, affinity: Affinity, relaxation: Relaxation) -> Float[Tensor, " b"]:
    """``Σ w_ij P(y_i, y_j)``, a sum per image.

    Every pair counts once with a sparse affinity, twice (both orders) with a dense one, as published for each.
    A dense affinity takes quadratic relaxations only (`ValueError` otherwise). Cost: one pass over the pairs,
    or one filtering.
    """
    if not isinstance(affinity, SparseAffinity):
        return _dense_potts(labels, affinity, relaxation)[0]
    if isinstance(affinity, Stencil) and relaxation in RELAXATIONS and affinity.has_kernels(labels):
        from selflabel.kernels.gpu import formulas, stencil

        pairs = stencil.StencilPairs(*affinity.flat)
        return stencil.potts(labels.contiguous(), pairs, formulas.RELAXATIONS[relaxation.name])
    return _sparse_potts(labels, affinity, relaxation, grad=None)


def potts_and_grad(
    labels: Labels, affinity: Affinity, relaxation: Relaxation
) -> tuple[Float[Tensor, " b"], Gradient]:
    """`potts` and its gradient by the labels, in the same pass."""
    if not isinstance(affinity, SparseAffinity):
        return _dense_potts(labels, affinity, relaxation)
    if isinstance(affinity, Stencil) and relaxation in RELAXATIONS and affinity.has_kernels(labels):
        from selflabel.kernels.gpu import formulas, stencil

        pairs, number = stencil.StencilPairs(*affinity.flat), formulas.RELAXATIONS[relaxation.name]
        value, *grads = stencil.potts_and_gradient(labels.contiguous(), pairs, number)
        return value, Gradient(*grads)
    grad = Gradient(torch.zeros_like(labels), torch.zeros_like(labels[:, :1]))
    return _sparse_potts(labels, affinity, relaxation, grad), grad


def _sparse_potts(
    labels: Labels, affinity: SparseAffinity, relaxation: Relaxation, grad: Gradient | None
) -> Float[Tensor, " b"]:
    """The value; adds to `grad` in place."""
    norms = labels[:, :1] if relaxation.norm_derivative is None else _dot(labels, labels)
    by_norms = torch.zeros_like(norms)
    value = labels.new_zeros(labels.shape[0], dtype=torch.float64)
    for pairs in affinity.pairs():
        p, q = pairs.first(labels), pairs.second(labels)
        dot, pp, qq = _dot(p, q), pairs.first(norms), pairs.second(norms)
        value += total(pairs.weight * relaxation.value(dot, pp, qq))
        if grad is None:
            continue
        by_dot = pairs.weight * relaxation.derivative(dot, pp, qq)
        pairs.add_products(grad.value, by_dot, q, p)
        pairs.add(grad.curvature, -by_dot, -by_dot)
        if relaxation.norm_derivative is not None:
            at_first = pairs.weight * relaxation.norm_derivative(dot, pp, qq)
            at_second = pairs.weight * relaxation.norm_derivative(dot, qq, pp)
            pairs.add(by_norms, at_first, at_second)
    if grad is not None and relaxation.norm_derivative is not None:
        grad.value.addcmul_(by_norms, labels, value=2)  # ‖p‖² has the gradient 2 p
    return value


def _dense_potts(
    labels: Labels, affinity: Affinity, relaxation: Relaxation
) -> tuple[Float[Tensor, " b"], Gradient]:
    """``Σ_ij W_ij (c_i - y_i·y_j)``, both orders of every pair; c is 1 (bi-linear) or ``‖y_i‖²`` (quadratic)."""
    check_relaxation(relaxation, affinity)
    filtered = affinity.apply(labels)
    degree = filtered.sum(1, keepdim=True)  # W 1 = Σ_k W y^k, as labels sum to one
    if relaxation.norm_derivative is None:
        value = total(degree) - total(labels * filtered)
        return value, Gradient(filtered.mul_(-2), 2 * degree)
    difference = (degree * labels).sub_(filtered)
    return total(labels * difference), Gradient(difference.mul_(2), 2 * degree)


# --- normalized cut -------------------------------------------------------------------------------------------


def normalized_cut(labels: Labels, affinity: Affinity) -> Float[Tensor, " b"]:
    """``Σ_k S_k' W (1 - S_k) / (d' S_k)`` with ``d = W 1``, per image: from 0 to k (Tang et al., CVPR 2018, eq. 6).

    A ratio of sums, so it does not grow with the image, nor with the weights. A class whose share of d is below
    `FLOOR` counts 1, its limit. Cost: one filtering.
    """
    return normalized_cut_and_grad(labels, affinity)[0]


def normalized_cut_and_grad(
    labels: Labels, affinity: Affinity
) -> tuple[Float[Tensor, " b"], Float[Tensor, "b k *s"]]:
    """`normalized_cut` and ``(S_k'WS_k) d / (d'S_k)² - 2 W S_k / (d'S_k)`` (eq. 8), with the same filtering."""
    filtered, degree = affinity.apply(labels), affinity.degree()
    volume = (degree * labels).flatten(2).sum(2, dtype=torch.float64)
    inside = (labels * filtered).flatten(2).sum(2, dtype=torch.float64)
    # without the floors, a class that no pixel may have (0 in float32) would be 0 / 0
    volume = volume.clamp_min(FLOOR * total(degree).clamp_min(1e-20)[:, None])
    share = inside / volume
    share_map, volume_map = (
        x.to(labels.dtype)[(...,) + (None,) * (labels.ndim - 2)] for x in (share, volume)
    )
    return (1 - share).sum(1), ((share_map * degree - 2 * filtered) / volume_map).to(labels.dtype)
