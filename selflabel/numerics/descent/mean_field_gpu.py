"""Mean field by kernels on a GPU: one filtering a step, and two passes over the labels beside it."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selflabel.affinity.dense import DenseAffinity
from selflabel.affinity.filters.weighted import apply_sum
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
    Memory: labels and their filtering, now and on trial, and unaries beside the prediction.
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
        self._is_first = True
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
        self._trial = Labels(value, apply_sum(self._filters, value))
        self._current = Labels(*map(torch.empty_like, self._trial))
        self.start_energies = kernels.energies(self._trial, self._terms).sum(1)
        self._state = State.at_start(self.start_energies, swept=self._moved is not None)

    @property
    def energies(self) -> Float[Tensor, " b"]:
        """Of the labels as they are now, in float64."""
        return self._state.energies

    @property
    def done(self) -> Bool[Tensor, " b"]:
        """The images that have converged."""
        return self._state.done

    def step(self) -> None:
        """One step of the images that are not done. One that would raise the energy is undone: the next one visits all
        pixels, or is half as long."""
        given = self._current, self._trial, self._state, self._terms, self._moved
        kernels.update(*given, is_first=self._is_first)
        self._is_first = False
        self._current, self._trial = self._trial, self._current
        self._trial.filtered.zero_()
        for scaled in self._filters:
            scaled.add(*self._trial)
        energies = kernels.energies(self._trial, self._terms)
        self._state = kernels.decided(energies, self._state, self._rtol, self._terms.rules)

    def labels(self) -> Float[Tensor, "b k *s"]:
        """The labels as they are now."""
        accepted = self._state.accepted.bool()[:, None, None]
        return torch.where(accepted, self._trial.value, self._current.value).view(self._shape)
