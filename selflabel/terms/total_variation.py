"""Total variation of labels on a grid: the convex relaxation of the Potts model that keeps the length of boundaries."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.protocol import Affinity, SparseAffinity
from selflabel.affinity.stencil import Offset, Stencil
from selflabel.terms.gradient import Gradient
from selflabel.terms.named import by_name, shown
from selflabel.terms.sums import FLOOR, Labels, total


@dataclass(frozen=True, repr=False)
class Variation:
    """Half of the total variation of all classes, in the place of a relaxation (`Energy.relaxation`).

    - anisotropic: ``Σ_ij w_ij ½ Σ_k |y_i^k - y_j^k|`` over the pairs of a sparse affinity. At hard labels it is the
      Potts sum; of two classes its minimum over soft labels is the minimum cut.
    - isotropic: ``½ Σ_i Σ_k sqrt(Σ_d w_id² (y_i+d^k - y_i^k)²)`` with the next pixel on each axis d, which favors no
      direction. It needs a grid of 4 neighbors (6 in volumes). At hard labels a pixel with two boundaries costs √2.

    With ``w_id = g_i`` it is ``½ Σ_k Σ_i g_i |∇y^k|_i`` (Mayer et al., eq. 3; the affinity `EdgeStop`), whose weight λ
    is twice theirs: they count both classes of a boundary. Convex, and not smooth where labels agree.
    """

    name: str
    is_isotropic: bool

    is_tight: ClassVar[bool] = False
    is_quadratic: ClassVar[bool] = False

    __reduce__ = by_name
    __repr__ = shown

    @property
    def is_potts(self) -> bool:
        """``[p ≠ q]`` for each pair of hard labels."""
        return not self.is_isotropic

    def check(self, affinity: Affinity) -> None:
        """Raise `ValueError` for an affinity that lists no pairs, or has not the neighbors that are needed."""
        if not isinstance(affinity, SparseAffinity):
            raise ValueError(
                f"expected a grid or window affinity for {self.name}, got {type(affinity).__name__}: it has no pairs"
            )
        if not self.is_isotropic:
            return
        if not isinstance(affinity, Stencil) or sorted(affinity.offsets) != sorted(_axes(affinity)):
            raise ValueError(
                f"expected the nearest neighbors along the axes, 4 or 6, for {self.name}, got {affinity!r}: use a grid "
                f"of 4 neighbors (6 in volumes), or 'total-variation' for any pairs"
            )


TOTAL_VARIATION = Variation("total-variation", is_isotropic=False)
ISOTROPIC_VARIATION = Variation("isotropic-total-variation", is_isotropic=True)
VARIATIONS = (TOTAL_VARIATION, ISOTROPIC_VARIATION)


def _axes(affinity: Stencil) -> list[Offset]:
    """The offset of one pixel on each axis."""
    axes = range(len(affinity.size))
    return [tuple(int(axis == other) for other in axes) for axis in axes]


def total_variation(labels: Labels, affinity: Affinity, variation: Variation) -> Float[Tensor, " b"]:
    """The sum of `Variation`, per image. Cost: one pass over the pairs."""
    return _variation(labels, affinity, variation, None)


def total_variation_and_grad(
    labels: Labels, affinity: Affinity, variation: Variation
) -> tuple[Float[Tensor, " b"], Gradient]:
    """`total_variation` and a subgradient by the labels: zero where labels agree."""
    grad = Gradient(torch.zeros_like(labels), torch.zeros_like(labels[:, :1]))
    return _variation(labels, affinity, variation, grad), grad


def _variation(
    labels: Labels, affinity: Affinity, variation: Variation, grad: Gradient | None
) -> Float[Tensor, " b"]:
    """The value; adds to `grad` in place."""
    variation.check(affinity)
    assert isinstance(affinity, SparseAffinity), "checked"
    length = _lengths(labels, affinity) if variation.is_isotropic else None
    value = labels.new_zeros(len(labels), dtype=torch.float64)
    if length is not None:
        value += total(length) / 2
    for pairs in affinity.pairs():
        step = pairs.second(labels) - pairs.first(labels)
        if length is None:
            value += total(pairs.weight * step.abs().sum(1, keepdim=True)) / 2
        if grad is None:
            continue
        if length is None:
            slope = pairs.weight * step.sign() / 2
        else:  # 0 where the length is
            slope = pairs.weight.square() * step / (2 * pairs.first(length).clamp_min(FLOOR))
        pairs.add(grad.value, -slope, slope)
        pairs.add(grad.curvature, pairs.weight, pairs.weight)
    return value


def _lengths(labels: Labels, affinity: SparseAffinity) -> Labels:
    """``sqrt(Σ_d w_id² (y_i+d^k - y_i^k)²)`` of each class and pixel."""
    squares = torch.zeros_like(labels)
    for pairs in affinity.pairs():
        pairs.first(squares).add_((pairs.weight * (pairs.second(labels) - pairs.first(labels))).square())
    return squares.sqrt()
