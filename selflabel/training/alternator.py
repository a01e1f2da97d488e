"""The alternating direction method for one's own training loop."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from selflabel.datasets.samples import Batch
from selflabel.inputs import widened
from selflabel.kinds import check_fields
from selflabel.training.distributed import current_process, gather, share_buffers, unwrapped
from selflabel.training.evaluate import evaluating
from selflabel.training.monitor import Monitor
from selflabel.training.self_labeling import SelfLabeling
from selflabel.training.step import LabelSource, StepReport, advance, predicted
from selflabel.training.store import LabelStore, Stored, packed, starts


@dataclass(frozen=True, eq=False)
class Alternator:
    """Alternate a solver and a network on the self-labeling loss (Zhang & Boykov 2025, eq. 8; see `SelfLabeling`).

        objective = SelfLabeling(energy, solver)
        alternator = Alternator(network, objective, optimizer)
        for batch in batches:
            report = alternator.step(batch)

    A step is this loop's body, with everything measured and checked:

        logits = network(batch.images)
        problem = Problem.from_logits(energy, logits, batch.seeds, affinity(batch.images))
        labels = solve(problem, solver, start=starter(problem, batch), max_steps=max_steps).labels
        loss = partial_cross_entropy(logits, batch.seeds) + weight * energy.coupling_weight * self_labeling_loss(
            logits, labels, batch.seeds, energy.coupling)
        optimizer.zero_grad(); loss.backward(); optimizer.step()

    with the names of the objective's fields. New labels are made

    - online, as above: for every batch, from the prediction that the network then improves;
    - an epoch at a time: `relabel` all images, then `fit` batches to these labels (ScribbleSup's schedule).

    network_steps: steps of the network for each solve. store: keeps the labels of every image, and solves start from
    them; images must then always come in the same geometry: labels are not moved with random flips.

    Train on the seeds first (`pretrain`): from an untrained network, labels collapse to one class. Under `torchrun`
    give it a DistributedDataParallel network and this process's slice of each batch.
    """

    network: nn.Module
    objective: SelfLabeling
    optimizer: torch.optim.Optimizer
    network_steps: int = 1
    store: LabelStore | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.network_steps < 1:
            raise ValueError(f"expected network_steps >= 1, got {self.network_steps}")

    def step(
        self,
        batch: Batch,
        *,
        ramp: float = 1.0,
        start: Float[Tensor, "b k *s"] | None = None,
        measure: bool = False,
    ) -> StepReport:
        """Solve for the labels of a batch, then train on them.

        ramp: the warm-up's factor on the weight. start: labels to solve from, instead of stored ones or the
        starter's. measure: also evaluate the direct loss (4), for `StepReport.measured`.
        """
        return self._advance(batch, LabelSource(start, self.store), ramp, measure)

    def fit(self, batch: Batch, *, ramp: float = 1.0, measure: bool = False) -> StepReport:
        """Train on the stored labels of a batch. Raises `ValueError` without a store, or for images not in it."""
        return self._advance(batch, LabelSource(store=self._store(), fit_stored=True), ramp, measure)

    def pretrain(self, batch: Batch) -> StepReport:
        """Train on the seeds of a batch alone."""
        return advance(self.network, self.objective.seeds, self.optimizer, batch, process=current_process())

    def relabel(self, batches: Iterable[Batch]) -> None:
        """Solve for the labels of all images and store them; the network in evaluation mode."""
        relabel(self.network, self.objective, batches, self._store())

    def _store(self) -> LabelStore:
        if self.store is None:
            raise ValueError(
                "expected a store to keep labels in, got none: Alternator(..., store=MemoryStore())"
            )
        return self.store

    def _advance(self, batch: Batch, labels: LabelSource, ramp: float, measure: bool) -> StepReport:
        return advance(
            self.network,
            self.objective,
            self.optimizer,
            batch,
            labels=labels,
            ramp=ramp,
            network_steps=self.network_steps,
            monitor=Monitor(self.objective) if measure else None,
            process=current_process(),
        )


@torch.no_grad()
def relabel(
    network: nn.Module,
    objective: SelfLabeling,
    batches: Iterable[Batch],
    store: LabelStore,
    *,
    warm: bool = True,
) -> None:
    """Solve for the labels of all images and store them, the network in evaluation mode.

    warm: solves start from stored labels where there are some. Each of several processes solves for images of its own
    and stores the labels of all. Raises `TrainingError` if a prediction is nan or inf.
    """
    process, network, mine = current_process(), unwrapped(network), dict[str, Stored]()
    share_buffers(network, process)
    with evaluating(network):
        for batch in batches:
            logits = predicted(network, batch)
            default = partial(objective.default_start, logits, batch)
            start = starts(store, batch.stems, widened(logits), default) if warm else None
            mine |= packed(batch.stems, objective.label(logits, batch, start))
    for stem, stored in gather(mine, process).items():
        store.put(stem, stored)
