"""Mean field by kernels on a GPU: one filtering a step, and two passes over the labels beside it."""

from itertools import chain, cycle

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selflabel.affinity.dense import DenseAffinity
from selflabel.affinity.filters.lattice_gpu import SECTOR
from selflabel.affinity.filters.protocol import Call
from selflabel.affinity.filters.weighted import ScaledFilter
from selflabel.kernels.gpu import mean_field as kernels
from selflabel.kernels.gpu.mean_field import Labels, State, SweepRules, Terms
from selflabel.labels import LOG_FLOOR
from selflabel.numerics.descent.mean_field_torch import (
    FAR,
    REVISIT_SWEEPS,
    RISE,
    SETTLED_DISTANCE,
    SHORTEST_RATE,
    is_swept,
)
from selflabel.problem import Problem
from selflabel.terms import FLOOR

SCRATCH = 10.5
"""Times the labels that lattices may take in memory: with more classes than fit they go over their vertices several
times. The solver keeps five times the labels beside."""


def supports(problem: Problem) -> bool:
    """True for a prediction in float32 and a dense affinity."""
    affinity = problem.affinity
    if problem.costs is not None or not isinstance(affinity, DenseAffinity):
        return False
    return problem.probs.dtype == affinity.dtype == torch.float32


class FusedMeanField:
    """Mean field on a problem that `supports` accepts, of all images at once.

    On lattices steps follow the rules of `mean_field_torch.Sweeps`; an image whose energy a sweep would raise goes on
    by the guarded steps of `MeanField`, as all do with other filters. All numbers stay on the device, for which the
    host never waits. `start_energies`: of the labels at the start.
    Memory: labels and their filtering, now and on trial, and unaries beside the prediction; `SCRATCH`.
    """

    def __init__(self, problem: Problem, labels: Float[Tensor, "b k *s"], rtol: float) -> None:
        """From these labels. An image has converged if a step of all pixels gains less than `rtol` of its energy."""
        affinity, energy = problem.affinity, problem.energy
        assert isinstance(affinity, DenseAffinity), "checked by `supports`"
        self._shape, self._rtol, self._filters = labels.shape, float(rtol), affinity.filters
        every = torch.ones(labels.shape[:2], device=labels.device)
        self._moved = None
        if is_swept(problem):
            self._moved = torch.ones_like(problem.seeds.flatten(1), dtype=torch.uint8)
        self._terms = Terms(
            problem.probs.flatten(2).clamp_min(FLOOR).log_().mul_(energy.coupling_weight),
            problem.seeds.flatten(1).contiguous(),
            every if problem.classes is None else problem.classes.to(every),
            float(energy.pairwise_weight),
            float(energy.entropy_weight),
            LOG_FLOOR,
            SweepRules(REVISIT_SWEEPS, FAR, SETTLED_DISTANCE, RISE, SHORTEST_RATE),
        )
        value = labels.flatten(2).clone(memory_format=torch.contiguous_format)
        own = Labels(value, torch.empty_like(value))
        other = Labels(*map(torch.empty_like, own))
        self._parts, scratch = kernels.parts_of(value), _scratch(self._filters, value)
        filtering, others = self._filtering(own, scratch), self._filtering(other, scratch)
        for call in filtering:
            call()
        self.start_energies = self._parts.sum(1)
        before = State.at_start(self.start_energies.clone(), swept=self._moved is not None)
        after = State(*map(torch.empty_like, before))
        # labels and states change roles in each step
        there, here = (
            (other, own, before, self._terms, self._moved),
            (own, other, after, self._terms, self._moved),
        )
        forth = [*others, self._deciding(before, after)]
        back = [*filtering, self._deciding(after, before)]
        first: list[Call] = [kernels.updating(*there, is_first=True), *forth]
        rest: list[list[Call]] = [[kernels.updating(*here), *back], [kernels.updating(*there), *forth]]
        self._steps = chain([first], cycle(rest))
        self._roles, self._next_roles = (own, other, before), (other, own, after)

    def _deciding(self, before: State, after: State) -> Call:
        return kernels.deciding(self._parts, before, after, self._rtol, self._terms.rules)

    def _filtering(self, labels: Labels, scratch: Tensor) -> list[Call]:
        """W of the labels, and the parts of their energy."""
        calls = list[Call]()
        for number, scaled in enumerate(self._filters):
            calls += scaled.prepared(*labels, scratch, replaces=number == 0)
        return [*calls, kernels.measuring(labels, self._terms, self._parts)]

    def energies(self) -> Float[Tensor, " b"]:
        """A copy of those of the labels as they are now, in float64."""
        return self._roles[2].energies.clone()

    def done(self) -> Bool[Tensor, " b"]:
        """The images that have converged, a copy."""
        return self._roles[2].done.clone()

    def step(self) -> None:
        """One step of the images that are not done. One that would raise the energy is undone: the next one visits all
        pixels, or is half as long."""
        for call in next(self._steps):
            call()
        self._roles, self._next_roles = self._next_roles, self._roles

    def labels(self) -> Float[Tensor, "b k *s"]:
        """The labels as they are now, a copy."""
        trial, current, state = self._roles
        accepted = state.accepted.bool()[:, None, None]
        return torch.where(accepted, trial.value, current.value).view(self._shape)


def _scratch(filters: tuple[ScaledFilter, ...], labels: Float[Tensor, "b k n"]) -> Tensor:
    """Memory for all filters, one after the other: for as many classes at once as may be, and for one at least."""

    def needed(classes: int) -> int:
        return max(scaled.scratch(classes) for scaled in filters)

    classes = labels.shape[1]
    wanted = (classes, *range((classes - 1) // SECTOR * SECTOR, 0, -SECTOR))
    fitting = (number for number in wanted if needed(number) <= SCRATCH * labels.numel())
    return labels.new_empty(needed(next(fitting, 1)))
