"""Regularized Frank-Wolfe: labels for energies that are quadratic in them, at one filtering a step."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.builders import AffinityBuilder, Dense
from selflabel.affinity.protocol import Affinity, SparseAffinity
from selflabel.driver import Step
from selflabel.energy import Energy
from selflabel.kinds import check_fields, check_kind, check_number
from selflabel.numerics.descent.line_search import PerImage, select
from selflabel.numerics.descent.quadratic import (
    Field,
    LabelSegment,
    QuadraticEnergy,
    check_quadratic,
    filtering,
    softmax,
)
from selflabel.numerics.descent.smoothing import Entropic, Euclidean, Smoothing
from selflabel.problem import Problem
from selflabel.terms import BILINEAR, STANDARD, Regularizer

__all__ = ["MEAN_FIELD", "Entropic", "Euclidean", "FrankWolfe", "Smoothing"]

LEAST_SHARE = 1e-3
"""Of the smoothing's weight at the start: less than that is none."""

QUIET_STEPS = 3
"""Steps in a row that change the energy by less than the tolerance, with the last weight, before an image is done."""


@dataclass(frozen=True)
class FrankWolfe:
    """Minimize energies that are quadratic in the labels by regularized Frank-Wolfe steps, with exact line search.

    A step finds distributions s where the linearized energy plus a smoothing ρ r is least, and goes from y towards s
    as far as the energy plus ρ r falls (Lê-Huu & Alahari, NeurIPS 2021, Algorithm 1, where r is the regularizer):

        s = argmin_s ∇E(y)·s + ρ r(s),    y ← y + α (s - y),    α = argmin_[0, 1] (E + ρ r)(y + α (s - y))

    - `smoothing`: `Euclidean` (s is a projection onto the simplex) or `Entropic` (a softmax), with its weight ρ.
    - `decay`: factor of ρ from one step to the next. With a share of 1 the energy plus ρ r is convex, or nearly so; its
      minimum is followed to one of the energy as ρ falls. Below a thousandth of its start ρ is zero.
    - `step`: None for the exact line search, or a fixed α. `MEAN_FIELD` is mean field in parallel updates.
    - `rtol`: an image has converged when the Frank-Wolfe gap, ``max_s ∇E(y)·(y - s)``, is below this fraction of its
      energy, or when ρ falls no more and three steps in a row change the energy by less.

    The answer is the best of the labels on the way, so the energy never rises. With the bi-linear relaxation, whose
    minima are hard labels, they become hard as ρ falls; `marginals` says how sure they are. With the quadratic
    relaxation the energy is convex, a share of ρ is nothing, and the gap gives a lower bound. With a fixed step the
    labels are those of the last step, at the limit of steps.

    Finds a local minimum, the global one of the quadratic relaxation. Takes the standard and the quadratic coupling and
    costs, the bi-linear and the quadratic relaxation, and entropy (with `Entropic`), on any affinity. For other
    energies use `GradientDescent`.

    Cost: one filtering (dense) or pass over the pairs a step, and one at the start. As W is linear, W of the labels is
    kept, and W of s says the energy on all of the segment: an exact line search takes no more filterings than a fixed
    step, but passes over the labels. Memory: ten times the labels.
    """

    smoothing: Smoothing = Euclidean()
    decay: float = 0.7
    step: float | None = None
    rtol: float = 1e-5

    name: ClassVar[str] = "frank-wolfe"
    default_energy: ClassVar[Energy] = Energy(STANDARD, BILINEAR, coupling_weight=1.0, pairwise_weight=1.0)
    default_affinity: ClassVar[AffinityBuilder] = Dense()
    needs_edges: ClassVar[bool] = False
    regularizers: ClassVar[tuple[type[Regularizer], ...]] = ()

    def __post_init__(self) -> None:
        check_kind(self.smoothing, Smoothing, "a smoothing", "Euclidean() or Entropic()")
        for name in ("decay", "rtol"):
            check_number(getattr(self, name), name)
        if not 0 <= self.decay <= 1 or not 0 <= self.rtol < inf:
            raise ValueError(f"expected decay from 0 to 1 and rtol >= 0, got {self.decay} and {self.rtol}")
        if self.step is not None:
            check_number(self.step, "step")
            if not 0 < self.step <= 1:
                raise ValueError(
                    f"expected step above 0, up to 1, or None for the line search, got {self.step}"
                )
            if self.rtol not in (0, FrankWolfe.rtol):
                raise ValueError(
                    f"frank-wolfe: rtol {self.rtol} would change nothing, as a fixed step runs to the limit of steps: "
                    f"raise max_steps, or leave it out"
                )
        check_fields(self)

    def check(self, energy: Energy, affinity: Affinity) -> None:
        """Raise `ValueError` for energies that are not quadratic but for their entropy, or not for the smoothing."""
        check_quadratic(energy, self.name)
        self.smoothing.check(energy, self.name)

    def iterate(self, problem: Problem, labels: Float[Tensor, "b k *s"]) -> Iterator[Step]:
        """One filtering a step."""
        ordered = filtering(problem.affinity)
        seeds, labels = ordered(problem.seed_labels), ordered(labels / labels.sum(1, keepdim=True))
        filtered = _filtered(problem, labels)
        energy = QuadraticEnergy.of(problem, filtered)
        point = energy.point(labels, filtered)
        start = best = problem.certain(point.value, labels)
        found = labels
        done, quiet = torch.zeros_like(best, dtype=torch.bool), torch.zeros_like(best)
        bound = torch.full_like(best, -torch.inf) if energy.is_convex else None
        # sums over pairs are more precise than those of W y: of sparse energies the driver takes these
        is_dense = not isinstance(problem.affinity, SparseAffinity)
        for number in count():
            share = self.decay**number
            share = share if share >= LEAST_SHARE else 0.0
            rho = share * self.smoothing_weight(energy)
            aim = self.smoothing.aim(point, rho, seeds)
            if self.step is None:
                done = done | (aim.gap <= self.rtol * point.value.abs())
                if bound is not None:
                    bound = torch.maximum(bound, point.value - aim.gap)
            segment = LabelSegment.of(aim, _filtered(problem, aim.end))
            if self.step is not None:
                point = segment.at(torch.full_like(best, self.step))
                yield Step(point.labels)
                continue
            before = point.value
            point = segment.at(torch.where(done, 0.0, self.smoothing.rate(segment, rho)))
            value = problem.certain(point.value, point.labels)
            is_better = value < best
            found, best = select(is_better, point.labels, found), torch.where(is_better, value, best)
            still = (point.value - before).abs() <= self.rtol * point.value.abs()
            quiet = torch.where(still, quiet + 1, 0.0)
            if not share or self.decay == 1 or (energy.is_convex and not self.smoothing.weight):
                done = done | (quiet >= QUIET_STEPS)
            yield Step(found, best, bound, done, start) if is_dense else Step(found, None, bound, done)

    def smoothing_weight(self, energy: QuadraticEnergy) -> PerImage:
        """ρ of the first step."""
        share = 0.0 if energy.is_convex else self.smoothing.share
        return self.smoothing.weight + share * energy.mean_pull

    def marginals(self, problem: Problem, labels: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
        """Of each pixel given the labels of the others, ``softmax(-∂E/∂y_i)``; of an energy with entropy, the labels.

        So are those of mean field. Cost: one filtering.
        """
        if problem.energy.entropy_weight:
            return labels
        filtered = _filtered(problem, labels)
        point = QuadraticEnergy.of(problem, filtered).point(labels, filtered)
        return problem.feasible(softmax(point.energy.below_least(point.gradient)))


MEAN_FIELD = FrankWolfe(Entropic(weight=1.0, share=0.0), decay=1.0, step=1.0)
"""Mean field in parallel updates, ``y ← softmax(η ln σ + 2 λ W y)``, for the energy without its entropy, which may rise
(Lê-Huu & Alahari 2021, Sec. 4)."""


def _filtered(problem: Problem, labels: Field) -> Field:
    return problem.affinity.apply(labels) if problem.energy.pairwise_weight else torch.zeros_like(labels)
