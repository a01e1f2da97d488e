"""Mean field by kernels on a GPU: one filtering a step, and two passes over the labels beside it."""

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.dense import DenseAffinity
from selflabel.affinity.filters.weighted import apply_sum
from selflabel.kernels.gpu import mean_field as kernels
from selflabel.kernels.gpu.mean_field import Labels, Terms
from selflabel.labels import LOG_FLOOR
from selflabel.problem import Problem


def supports(problem: Problem) -> bool:
    """True for a prediction in float32 and a dense affinity."""
    affinity = problem.affinity
    if problem.costs is not None or not isinstance(affinity, DenseAffinity):
        return False
    return problem.probs.dtype == affinity.dtype == torch.float32


class FusedMeanField:
    """Mean field on a problem that `supports` accepts: guarded steps, `MeanField`, of all images at once.

    `start_energies`, `energies`, `done`: of each image, on the device, for which the host never waits. Memory: labels
    and their filtering, now and on trial, beside the prediction.
    """

    def __init__(self, problem: Problem, labels: Float[Tensor, "b k *s"], rtol: float) -> None:
        """From these labels. An image has converged if a step gains less than `rtol` of its energy."""
        affinity, energy = problem.affinity, problem.energy
        assert isinstance(affinity, DenseAffinity), "checked by `supports`"
        self._shape, self._rtol, self._filters = labels.shape, rtol, affinity.filters
        every = torch.ones(labels.shape[:2], device=labels.device)
        self._terms = Terms(
            problem.probs.flatten(2).contiguous(),
            problem.seeds.flatten(1).contiguous(),
            every if problem.classes is None else problem.classes.to(every),
            energy.coupling_weight,
            energy.pairwise_weight,
            energy.entropy_weight,
            LOG_FLOOR,
        )
        value = labels.flatten(2).clone(memory_format=torch.contiguous_format)
        self._trial = Labels(value, apply_sum(self._filters, value))
        self._current = Labels(*map(torch.empty_like, self._trial))
        self.start_energies = self.energies = kernels.energy(*self._trial, self._terms)
        self.done = torch.zeros_like(self.energies, dtype=torch.bool)
        self._accepted = ~self.done
        self._rates = torch.ones_like(every[:, 0])

    def step(self) -> None:
        """One step of the images that are not done; where their energy would rise, the next step is half as long."""
        kernels.update(self._current, self._trial, self._accepted, self._rates, self._terms)
        self._current, self._trial = self._trial, self._current
        self._trial.filtered.zero_()
        for scaled in self._filters:
            scaled.add(*self._trial)
        energies, before = kernels.energy(*self._trial, self._terms), self.energies
        slack = 1e-7 * before.abs()  # rounding of float32 labels
        accepted = (energies <= before + slack) & ~self.done
        resting = accepted & (before - energies <= self._rtol * before.abs())
        self.done = self.done | resting | (self._rates < 1e-3)
        self._rates = torch.where(accepted, (2 * self._rates).clamp_max(1.0), self._rates / 2)
        self.energies = torch.where(accepted, energies, before)
        self._accepted = accepted

    def labels(self) -> Float[Tensor, "b k *s"]:
        """The labels as they are now."""
        chosen = torch.where(self._accepted[:, None, None], self._trial.value, self._current.value)
        return chosen.view(self._shape)
