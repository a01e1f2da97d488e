"""Pseudo-labels of a batch, with what the joint loss needs of them."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.builders import AffinityBuilder
from selflabel.affinity.protocol import Affinity
from selflabel.energy import Energy


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """Pseudo-labels y, with the parts of their energy that do not depend on the network, as sums per image.

    energy, builder: of the minimized problem. affinity: made of the batch by the builder, for measurements on the
    same batch; None for labels from a store.
    """

    labels: Float[Tensor, "b k *s"]
    energy: Energy
    builder: AffinityBuilder
    pairwise: Float[Tensor, " b"]
    """``λ Σ w_ij P(y_i, y_j)``."""
    entropy: Float[Tensor, " b"]
    """``-τ Σ_{i∉Ω} S(y_i)``."""
    gain: Float[Tensor, " b"]
    """The fall of each image's energy in the solve, from its start; 0 for labels from a store."""
    affinity: Affinity | None = None
