"""Mean field on lattices by sweeps over the pixels that still move: their rules, and the sweeps in torch.

`mean_field` has the same sweeps compiled, to rounding: so Numba changes their speed alone.
"""

from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selflabel.affinity.dense import DenseAffinity
from selflabel.affinity.filters.protocol import LatticeFilter
from selflabel.labels import LOG_FLOOR, floored
from selflabel.problem import Problem
from selflabel.terms import entropy, total

FAR = 0.01
"""Fraction of the energy: while sweeps lower it by more, all pixels are visited."""

REVISIT_SWEEPS = 4
"""All pixels are visited every so often, at least."""

SETTLED_DISTANCE = 1e-3
"""Between a pixel's labels before and after a sweep (Euclidean): nearer ones are not visited by the next sweep."""

MOST_COUPLING = 1e20
"""The largest factor of unaries; beyond it they come near the number that marks lanes without a class."""

RISE = 1e-7
"""Fraction of the energy: by so much it may rise, from rounding of float32 labels."""

SHORTEST_RATE = 1e-3
"""Of guarded steps: an image that would need shorter ones is done."""


def is_swept(problem: Problem) -> bool:
    """True for a prediction in float32 and an affinity of lattices alone, unless unaries are huge."""
    affinity, energy = problem.affinity, problem.energy
    return (
        isinstance(affinity, DenseAffinity)
        and problem.costs is None
        and all(isinstance(scaled.filter, LatticeFilter) for scaled in affinity.filters)
        and problem.probs.dtype == affinity.dtype == torch.float32
        and energy.coupling_weight / energy.entropy_weight < MOST_COUPLING
    )


@runtime_checkable
class Sweeps(Protocol):
    """Mean field on the images of a problem that `is_swept`: `TorchMeanField`, or the same compiled."""

    start_energies: Float[Tensor, " b"]
    """Of the labels at the start, in float64."""
    energies: Float[Tensor, " b"]
    """Of the labels as they are now."""
    done: Bool[Tensor, " b"]
    """The images that have converged, which are swept no more."""
    swept: Bool[Tensor, " b"]
    """The images that still are."""

    def sweep(self) -> Bool[Tensor, " b"]:
        """One step of the images that are `swept`; returns those whose energy it would raise.

        For these it is undone, and they are swept no more.
        """

    def labels(self) -> Float[Tensor, "b k *s"]:
        """The labels as they are now."""


class TorchMeanField:
    """The `Sweeps` of `CompiledMeanField` in torch, of all images at once: one filtering a sweep."""

    def __init__(self, problem: Problem, labels: Float[Tensor, "b k *s"], rtol: float) -> None:
        """From these labels. An image has converged if a sweep of all pixels gains less than `rtol` of its energy."""
        self._problem, self._rtol, self._labels = problem, rtol, labels
        self._linear = replace(problem, energy=replace(problem.energy, entropy_weight=0.0))
        self._moved = problem.free
        self._age = torch.zeros(len(labels), dtype=torch.long, device=labels.device)
        self._is_first = True
        self.done = torch.zeros_like(self._age, dtype=torch.bool)
        self.swept = ~self.done
        self.energies, self._target = self._evaluated(labels)
        self.start_energies = self.energies

    def sweep(self) -> Bool[Tensor, " b"]:
        """As `Sweeps.sweep`."""
        everywhere = self._age % REVISIT_SWEEPS == 0
        visited = torch.where(self._by_pixel(everywhere), self._problem.free, self._moved)
        visited = visited & self._by_pixel(self.swept)
        labels = self._problem.feasible(floored(self._target, LOG_FLOOR).softmax(1))
        labels = torch.where(visited, labels, self._labels)
        energies, target = self._evaluated(labels)
        risen = self.swept & (energies > self.energies + RISE * self.energies.abs())
        accepted = self.swept & ~risen
        gain = self.energies - energies
        resting = accepted & (gain <= self._rtol * self.energies.abs())
        # pixels that were left out may still move; and far from the end, those that have settled move again
        again = resting | (gain > FAR * self.energies.abs())
        self._age = torch.where(again, 0, self._age + 1)
        if not self._is_first:
            distance = torch.linalg.vector_norm(labels - self._labels, dim=1, keepdim=True)
            self._moved = visited & (distance > SETTLED_DISTANCE)
        self._is_first = False
        self._labels = torch.where(self._by_pixel(accepted), labels, self._labels)
        self._target, self.energies = target, torch.where(accepted, energies, self.energies)
        self.done = self.done | (resting & everywhere)
        self.swept = accepted & ~self.done
        return risen

    def labels(self) -> Float[Tensor, "b k *s"]:
        """As `Sweeps.labels`."""
        return self._labels

    def _by_pixel(self, flags: Bool[Tensor, " b"]) -> Bool[Tensor, "b *ones"]:
        return flags.view(-1, *[1] * (self._labels.ndim - 1))

    def _evaluated(self, labels: Float[Tensor, "b k *s"]) -> tuple[Tensor, Tensor]:
        """The energy, and the logits that minimize it with the pairwise term replaced by its tangent."""
        temperature = self._problem.energy.entropy_weight
        value, grad = self._linear.value_and_grad(labels)
        return value - temperature * total(entropy(labels) * self._problem.free), grad.value / -temperature
