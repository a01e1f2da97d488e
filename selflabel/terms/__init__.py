"""Every term of the energy, written once: couplings, relaxations of the Potts model, sums over pairs, normalized cut.

A term is a function of labels (and an affinity). It does not know whether it is given pseudo-labels, which a
solver changes, or predictions, which a network changes: solvers and losses share this room.
"""

from selflabel.terms.couplings import (
    COLLISION,
    COUPLINGS,
    QUADRATIC,
    REVERSE,
    STANDARD,
    Coupling,
    Product,
)
from selflabel.terms.gradient import Gradient
from selflabel.terms.normalized_cut import normalized_cut, normalized_cut_and_grad
from selflabel.terms.potts import check_relaxation, potts, potts_and_grad
from selflabel.terms.regularizers import NormalizedCut, PottsSum, Regularizer
from selflabel.terms.relaxations import (
    BILINEAR,
    COLLISION_CROSS_ENTROPY,
    COLLISION_DIVERGENCE,
    LOG_QUADRATIC,
    LOG_QUADRATIC_SLACK,
    NORMALIZED_QUADRATIC,
    QUADRATIC_POTTS,
    RELAXATIONS,
    Relaxation,
)
from selflabel.terms.sums import FLOOR, SUM_BLOCK, Labels, Map, entropy, entropy_gradient, total
from selflabel.terms.total_variation import (
    ISOTROPIC_VARIATION,
    TOTAL_VARIATION,
    VARIATIONS,
    Variation,
    total_variation,
    total_variation_and_grad,
)

__all__ = [
    "BILINEAR",
    "COLLISION",
    "COLLISION_CROSS_ENTROPY",
    "COLLISION_DIVERGENCE",
    "COUPLINGS",
    "FLOOR",
    "ISOTROPIC_VARIATION",
    "LOG_QUADRATIC",
    "LOG_QUADRATIC_SLACK",
    "NORMALIZED_QUADRATIC",
    "QUADRATIC",
    "QUADRATIC_POTTS",
    "RELAXATIONS",
    "REVERSE",
    "STANDARD",
    "SUM_BLOCK",
    "TOTAL_VARIATION",
    "VARIATIONS",
    "Coupling",
    "Gradient",
    "Labels",
    "Map",
    "NormalizedCut",
    "PottsSum",
    "Product",
    "Regularizer",
    "Relaxation",
    "Variation",
    "check_relaxation",
    "entropy",
    "entropy_gradient",
    "normalized_cut",
    "normalized_cut_and_grad",
    "potts",
    "potts_and_grad",
    "total",
    "total_variation",
    "total_variation_and_grad",
]
