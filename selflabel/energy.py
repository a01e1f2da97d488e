"""The energy: which terms, and their weights. No image is bound to it."""

from dataclasses import dataclass
from math import inf

from selflabel.affinity.weights import LARGEST_WEIGHT
from selflabel.kinds import check_fields, check_kind
from selflabel.terms import BILINEAR, STANDARD, Coupling, Regularizer, Relaxation, Variation


@dataclass(frozen=True)
class Energy:
    """``E(y; σ) = η Σ_{i∉Ω} H(y_i, σ_i) + λ Σ_ij w_ij P(y_i, y_j) - τ Σ_{i∉Ω} S(y_i) + Σ_r ω_r R_r(y)``.

    Ω are the seeds, η is `coupling_weight`, λ `pairwise_weight` and τ `entropy_weight` (S is Shannon entropy;
    mean field minimizes with τ = 1). A sum over the pixels of an image, not a mean. Pairs count once with a
    sparse affinity and twice with a dense one (`selflabel.terms.potts`). Zhang & Boykov 2025, eq. 8, which has no R.

    `regularizers` are further terms with their weights ω (`terms.Regularizer`), such as ``NormalizedCut(500)``. Each
    has an affinity of its own (`Problem.affinities`). A solver refuses those that it cannot minimize.
    """

    coupling: Coupling = STANDARD
    relaxation: Relaxation | Variation = BILINEAR
    coupling_weight: float = 1.0
    pairwise_weight: float = 1.0
    entropy_weight: float = 0.0
    regularizers: tuple[Regularizer, ...] = ()

    def __post_init__(self) -> None:
        check_kind(self.coupling, Coupling, "a coupling", "a constant of selflabel.terms, such as COLLISION")
        check_kind(
            self.relaxation,
            Relaxation | Variation,
            "a relaxation",
            "a constant of selflabel.terms, such as BILINEAR",
        )
        check_kind(self.regularizers, tuple, "a tuple of regularizers", "of one term, (NormalizedCut(),)")
        for regularizer in self.regularizers:
            check_kind(
                regularizer, Regularizer, "a regularizer", "a term with its weight, as NormalizedCut(500)"
            )
        check_fields(self)
        for name in ("coupling_weight", "pairwise_weight", "entropy_weight"):
            value = getattr(self, name)
            if not 0 <= value < inf:
                raise ValueError(f"expected a finite {name} >= 0, got {value}")
            if float(value) > LARGEST_WEIGHT:
                raise ValueError(
                    f"expected a {name} up to {LARGEST_WEIGHT:g}, got {value:g}: sums would not be finite"
                )

    def check_affinities(self, count: int) -> None:
        """Raise `ValueError` unless there are as many affinities as regularizers, or none."""
        if count not in (0, len(self.regularizers)):
            raise ValueError(
                f"expected an affinity for each of the {len(self.regularizers)} regularizers of the energy, got "
                f"{count}: or none, for `affinity` in all of them"
            )
