"""The Potts sum of labels over the pairs of an affinity."""

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.protocol import Affinity, SparseAffinity
from selflabel.affinity.stencil import Stencil
from selflabel.terms.gradient import Gradient
from selflabel.terms.relaxations import RELAXATIONS, Relaxation
from selflabel.terms.sums import Labels, dot_product, total
from selflabel.terms.total_variation import Variation, total_variation, total_variation_and_grad


def check_relaxation(relaxation: Relaxation | Variation, affinity: Affinity) -> None:
    """Raise `ValueError` for a dense affinity and a relaxation that is not quadratic in the labels.

    The isotropic variation also needs a grid of the nearest neighbors along the axes.
    """
    if not isinstance(affinity, SparseAffinity) and not relaxation.is_quadratic:
        raise ValueError(
            f"expected a relaxation that is quadratic in the labels for a dense affinity, got "
            f"{relaxation.name!r}: use 'bilinear' or 'quadratic', or a grid or window affinity"
        )
    if isinstance(relaxation, Variation):
        relaxation.check(affinity)


def potts(labels: Labels, affinity: Affinity, relaxation: Relaxation | Variation) -> Float[Tensor, " b"]:
    """``Σ w_ij P(y_i, y_j)``, a sum per image.

    Every pair counts once with a sparse affinity, twice (both orders) with a dense one, as published for each.
    A dense affinity takes quadratic relaxations only (`ValueError` otherwise). Cost: one pass over the pairs,
    or one filtering. The total variation takes the place of the Potts sum (`Variation`).
    """
    if isinstance(relaxation, Variation):
        return total_variation(labels, affinity, relaxation)
    if not isinstance(affinity, SparseAffinity):
        return _dense_potts(labels, affinity, relaxation)[0]
    if isinstance(affinity, Stencil) and relaxation in RELAXATIONS and affinity.has_kernels(labels):
        from selflabel.kernels.gpu import formulas, stencil

        pairs = stencil.StencilPairs(*affinity.flat)
        return stencil.potts(labels.contiguous(), pairs, formulas.RELAXATIONS[relaxation.name])
    return _sparse_potts(labels, affinity, relaxation, grad=None)


def potts_and_grad(
    labels: Labels, affinity: Affinity, relaxation: Relaxation | Variation
) -> tuple[Float[Tensor, " b"], Gradient]:
    """`potts` and its gradient by the labels, in the same pass; of a total variation a subgradient."""
    if isinstance(relaxation, Variation):
        return total_variation_and_grad(labels, affinity, relaxation)
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
    norms = labels[:, :1] if relaxation.norm_derivative is None else dot_product(labels, labels)
    by_norms = torch.zeros_like(norms)
    value = labels.new_zeros(labels.shape[0], dtype=torch.float64)
    for pairs in affinity.pairs():
        p, q = pairs.first(labels), pairs.second(labels)
        dot, pp, qq = dot_product(p, q), pairs.first(norms), pairs.second(norms)
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
