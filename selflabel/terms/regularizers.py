"""Further terms of an energy, beside the Potts sum that every energy has: each with a weight and its own affinity."""

from dataclasses import dataclass
from math import inf, prod
from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.protocol import Affinity
from selflabel.affinity.weights import LARGEST_WEIGHT
from selflabel.kinds import check_fields, check_kind, check_number
from selflabel.terms.gradient import Gradient
from selflabel.terms.normalized_cut import normalized_cut, normalized_cut_and_grad
from selflabel.terms.potts import check_relaxation, potts, potts_and_grad
from selflabel.terms.relaxations import BILINEAR, Relaxation
from selflabel.terms.sums import Labels
from selflabel.terms.total_variation import Variation


@runtime_checkable
class Regularizer(Protocol):
    """A term ``weight · R(y)`` of the labels of an image; a frozen dataclass. Solvers and losses share its R."""

    name: ClassVar[str]
    """As messages name it: "normalized-cut"."""

    @property
    def weight(self) -> float:
        """The factor of R in the energy, which `value` and `value_and_grad` leave out."""

    @property
    def is_smooth(self) -> bool:
        """Has R a gradient everywhere, as gradient descent needs?"""

    def check(self, affinity: Affinity) -> None:
        """Raise `ValueError` for an affinity that R is not defined on."""

    def value(self, labels: Labels, affinity: Affinity) -> Float[Tensor, " b"]:
        """R of each image, in float64."""

    def value_and_grad(self, labels: Labels, affinity: Affinity) -> tuple[Float[Tensor, " b"], Gradient]:
        """R, and its gradient by the labels with the curvature, at about the cost of R."""


def _check_weight(value: float, name: str) -> None:
    check_number(value, name)
    if not 0 <= value < inf or value > LARGEST_WEIGHT:
        raise ValueError(
            f"expected {name} from 0 to {LARGEST_WEIGHT:g}, got {value:g}: sums would not be finite"
        )


@dataclass(frozen=True)
class PottsSum:
    """``weight Σ w_ij P(y_i, y_j)`` over an affinity of its own (`terms.potts`): such as far pairs beside near ones."""

    relaxation: Relaxation | Variation = BILINEAR
    weight: float = 1.0

    name: ClassVar[str] = "potts"

    def __post_init__(self) -> None:
        check_kind(
            self.relaxation,
            Relaxation | Variation,
            "a relaxation",
            "a constant of selflabel.terms, such as BILINEAR",
        )
        _check_weight(self.weight, "the weight of the Potts sum")
        check_fields(self)

    @property
    def is_smooth(self) -> bool:
        """All relaxations are, but the total variation."""
        return isinstance(self.relaxation, Relaxation)

    def check(self, affinity: Affinity) -> None:
        """Raise `ValueError` for a dense affinity with a relaxation that is not quadratic in the labels."""
        check_relaxation(self.relaxation, affinity)

    def value(self, labels: Labels, affinity: Affinity) -> Float[Tensor, " b"]:
        """`terms.potts`."""
        return potts(labels, affinity, self.relaxation)

    def value_and_grad(self, labels: Labels, affinity: Affinity) -> tuple[Float[Tensor, " b"], Gradient]:
        """`terms.potts_and_grad`."""
        return potts_and_grad(labels, affinity, self.relaxation)


@dataclass(frozen=True)
class NormalizedCut:
    """``weight Σ_k S_k' W (1 - S_k) / (d' S_k)`` (`terms.normalized_cut`): from 0 to ``weight · k``, seeds included.

    It does not grow with the image, as the other terms do: weights are of the order of the number of pixels. With
    `per_pixel` it is that many times as large, and one weight fits images of all sizes.
    """

    weight: float = 1.0
    per_pixel: bool = False

    name: ClassVar[str] = "normalized-cut"
    is_smooth: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_weight(self.weight, "the weight of the normalized cut")
        check_fields(self)

    def scale(self, affinity: Affinity) -> int:
        """The factor of the sum of ratios in R: the number of pixels, or 1."""
        return prod(affinity.shape[1:]) if self.per_pixel else 1

    def check(self, affinity: Affinity) -> None:
        """Any affinity will do."""

    def value(self, labels: Labels, affinity: Affinity) -> Float[Tensor, " b"]:
        """`terms.normalized_cut`."""
        return self.scale(affinity) * normalized_cut(labels, affinity)

    def value_and_grad(self, labels: Labels, affinity: Affinity) -> tuple[Float[Tensor, " b"], Gradient]:
        """`terms.normalized_cut_and_grad`."""
        value, grad = normalized_cut_and_grad(labels, affinity)
        scale = self.scale(affinity)
        return scale * value, Gradient(scale * grad.value, scale * grad.curvature)
