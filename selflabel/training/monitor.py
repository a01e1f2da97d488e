"""Both objectives on any network: the direct loss (4) and the joint loss (8), whatever it is trained with."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.protocol import Affinity
from selflabel.datasets.samples import Batch
from selflabel.losses.base import mean_per_pixel
from selflabel.losses.cross_entropy import entropy_loss
from selflabel.losses.modules import build
from selflabel.losses.potts import potts_loss
from selflabel.training.objectives import Logits, Terms, WeightedMean, pixels
from selflabel.training.pseudo_labels import Labeling
from selflabel.training.self_labeling import SelfLabeling, unary_values

NAMES = ("joint", "direct", "direct_entropy", "direct_pairwise")
"""The columns of the history that it fills."""


@dataclass(frozen=True)
class Monitor:
    """One measure for runs of different methods, on the batches they are trained with.

    With the energy and the weights of `objective`: the direct loss (Zhang & Boykov 2025, eq. 4)

        pCE(σ) + weight / N · [(η - τ) Σ_{i∉Ω} S(σ_i) + λ Σ_ij w_ij P(σ_i, σ_j)]

    with Shannon's entropy S, which is (8) at y = σ for the standard coupling; and the joint loss (8), at the labels
    that the network is being trained with if these are of the same energy and affinity. Else, with `solve`, at labels
    that the objective's solver makes for this measurement only; without, it is left out. The warm-up plays no part.

    Cost: an affinity (unless such labels bring theirs) and one pass over its pairs, and the solve.
    """

    objective: SelfLabeling
    solve: bool = True

    @torch.no_grad()
    def measure(self, logits: Logits, batch: Batch, labeling: Labeling | None = None) -> Terms:
        """Terms to be added up by `sums`, once they are of all processes."""
        logits, objective, mass = logits.detach(), self.objective, pixels(logits)
        if labeling is not None and (labeling.energy, labeling.builder) != (
            objective.energy,
            objective.affinity,
        ):
            labeling = None
        if labeling is None and self.solve:
            labeling = objective.label(logits, batch, None)
        affinity = None if labeling is None else labeling.affinity
        affinity = build(objective.affinity, batch.images) if affinity is None else affinity
        energy = objective.energy
        decisive = (energy.coupling_weight - energy.entropy_weight) * entropy_loss(logits, batch.seeds)
        pairwise = energy.pairwise_weight * potts_loss(logits, affinity, energy.relaxation)
        terms = {
            "seeds": objective.seeds.terms(logits, batch, None, 1.0)["seeds"],
            "direct_entropy": WeightedMean(objective.weight * decisive, mass),
            "direct_pairwise": WeightedMean(objective.weight * pairwise, mass),
        }
        if labeling is not None:
            value = mean_per_pixel(self._energies(logits, batch, labeling, affinity), logits)
            terms["labels"] = WeightedMean(objective.weight * value, mass)
        return terms

    def _energies(
        self, logits: Logits, batch: Batch, labeling: Labeling, affinity: Affinity
    ) -> Float[Tensor, " b"]:
        coupling, entropy = unary_values(self.objective.problem(logits, batch, affinity), labeling.labels)
        return coupling + entropy + labeling.pairwise


def sums(values: Mapping[str, float]) -> dict[str, float]:
    """The columns `NAMES` from the values of `Monitor.measure`."""
    direct = {name: values[name] for name in ("direct_entropy", "direct_pairwise")}
    found = {"direct": values["seeds"] + sum(direct.values()), **direct}
    return {"joint": values["seeds"] + values["labels"], **found} if "labels" in values else found
