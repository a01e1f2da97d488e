"""The direct loss (4) and the joint loss (8) of any network, whatever it is trained with."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from selflabel.datasets.samples import Batch
from selflabel.inputs import widened
from selflabel.kinds import check_fields
from selflabel.losses.base import mean_per_pixel
from selflabel.losses.cross_entropy import entropy_loss
from selflabel.losses.modules import build
from selflabel.losses.potts import potts_loss
from selflabel.training.objectives import Logits, Terms, WeightedMean, pixels
from selflabel.training.pseudo_labels import PseudoLabels
from selflabel.training.self_labeling import SelfLabeling, unary_values

NAMES = ("joint", "direct", "direct_entropy", "direct_pairwise")
"""The columns of the history that a monitor fills."""


@dataclass(frozen=True)
class Monitor:
    """One measure for runs of different methods, on their training batches.

    With the energy and the weights of `objective`, the direct loss is (Zhang & Boykov 2025, eq. 4)

        pCE(σ) + weight / N · [(η - τ) Σ_{i∉Ω} S(σ_i) + λ Σ_ij w_ij P(σ_i, σ_j)]

    with Shannon's entropy S: (8) at y = σ for the standard coupling. The joint loss (8) is taken at the pseudo-labels
    of the training step if they have the same energy and affinity; else at labels that the objective's solver makes
    for this measurement, or, without `solve`, not at all. The warm-up plays no part.

    Cost: an affinity (unless the pseudo-labels bring theirs), one pass over its pairs, and the solve.
    """

    objective: SelfLabeling
    solve: bool = True

    def __post_init__(self) -> None:
        check_fields(self)

    @torch.no_grad()
    def measure(self, logits: Logits, batch: Batch, pseudo_labels: PseudoLabels | None = None) -> Terms:
        """Terms that `sums` adds up once `combine` has their values over all processes."""
        logits, objective, mass = logits.detach(), self.objective, pixels(logits)
        if pseudo_labels is not None and (pseudo_labels.energy, pseudo_labels.builder) != (
            objective.energy,
            objective.affinity,
        ):
            pseudo_labels = None
        if pseudo_labels is None and self.solve:
            pseudo_labels = objective.label(logits, batch, None)
        affinity = None if pseudo_labels is None else pseudo_labels.affinity
        affinity = build(objective.affinity, batch.images) if affinity is None else affinity
        energy = objective.energy
        decisive = (energy.coupling_weight - energy.entropy_weight) * entropy_loss(logits, batch.seeds)
        pairwise = energy.pairwise_weight * potts_loss(logits, affinity, energy.relaxation)
        is_posed = bool(energy.regularizers) or pseudo_labels is not None
        problem = objective.problem(logits, batch, affinity) if is_posed else None
        if problem is not None and energy.regularizers:
            labels = widened(logits).softmax(1)
            parts = [term.weight * term.value(labels, its) for term, its in problem.regularizers]
            pairwise = pairwise + mean_per_pixel(torch.stack(parts).sum(0), logits)
        terms = {
            "seeds": objective.seeds.terms(logits, batch, None, 1.0)["seeds"],
            "direct_entropy": WeightedMean(objective.weight * decisive, mass),
            "direct_pairwise": WeightedMean(objective.weight * pairwise, mass),
        }
        if problem is not None and pseudo_labels is not None:
            coupling, entropy = unary_values(problem, pseudo_labels.labels)
            value = mean_per_pixel(coupling + entropy + pseudo_labels.pairwise, logits)
            terms["labels"] = WeightedMean(objective.weight * value, mass)
        return terms


def sums(values: Mapping[str, float]) -> dict[str, float]:
    """The columns `NAMES` from the values of `Monitor.measure`."""
    direct = {name: values[name] for name in ("direct_entropy", "direct_pairwise")}
    found = {"direct": values["seeds"] + sum(direct.values()), **direct}
    return {"joint": values["seeds"] + values["labels"], **found} if "labels" in values else found
