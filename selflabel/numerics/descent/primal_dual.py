"""Primal-dual steps for labels with linear unaries and a total variation, which has no gradient."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor

from selflabel.affinity.protocol import SparseAffinity
from selflabel.numerics.descent.line_search import PerImage
from selflabel.numerics.descent.simplex import project
from selflabel.problem import Problem
from selflabel.terms import Labels, Map, Variation, total

BALANCE = 0.5
"""Size of the steps of the dual, in units of its bound, by that of the labels, in units of one."""

RELAXATION = 1.8
"""Factor of each step, below 2: over-relaxation, which saves a third of them (Condat, JOTA 158, 2013)."""

TINY = 1e-30
"""In place of a limit of zero as a divisor."""

LARGEST_RATE = 1e6
"""Of labels, in units of the weights: pixels without neighbors go to their cheapest class at once."""


@runtime_checkable
class PrimalDual(Protocol):
    """``min_y max_q u·y + Σ_e w_e q_e·(y_j - y_i)`` over distributions y and duals ``|q| ≤ λ / 2``.

    With the coupling's costs ``u = η c``. |q| is taken pair by pair and class by class (anisotropic) or over the axes
    of a pixel (isotropic, `Variation`). Steps of Chambolle & Pock (2011, algorithm 1), preconditioned as Pock &
    Chambolle (ICCV 2011, lemma 2): a pixel's rate is one over its degree, a dual's one over its weight, or over the
    largest one of the axes that share a ball. Any dual gives a lower bound, the energy of each pixel's cheapest class
    where costs are ``u + K'q``.
    """

    @property
    def labels(self) -> Labels:
        """Those of the last step: distributions, seeds and allowed classes kept."""

    def step(self) -> None:
        """Labels down the slope, then duals up it at the labels extrapolated; both go on by `RELAXATION`."""

    def bound(self) -> PerImage:
        """A lower bound of the energy: ``Σ_i min_k (u + K'q)_i^k``, at a seed that of its class."""


@dataclass(frozen=True, eq=False)
class SaddlePoint:
    """The numbers of the problem above, and the rates of its steps."""

    unaries: Labels
    """Zero at seeds."""
    limit: float
    """λ / 2."""
    rate: Map
    """Of labels."""
    dual_rate: float
    """What a difference of labels adds to a dual: its rate times its weight."""
    is_isotropic: bool

    @classmethod
    def of(cls, problem: Problem, labels: Labels) -> "SaddlePoint":
        """In the type of the labels."""
        energy, variation, costs = problem.energy, problem.energy.relaxation, problem.vertex_costs
        assert isinstance(variation, Variation), "checked by the solver"
        assert costs is not None, "checked by the solver"
        limit = float(energy.pairwise_weight) / 2
        scale = max(BALANCE * limit, TINY)
        rate = (scale * problem.affinity.degree().to(labels.dtype)).clamp_min(1 / LARGEST_RATE).reciprocal()
        unaries = (energy.coupling_weight * costs * problem.free).to(labels.dtype)
        return cls(unaries, limit, rate, scale / 2, variation.is_isotropic)


class TorchPrimalDual:
    """On any sparse affinity. Memory: eight, and two a pair, times the labels."""

    def __init__(self, problem: Problem, labels: Labels) -> None:
        assert isinstance(problem.affinity, SparseAffinity), "checked by the solver"
        self._problem, self._pairs = problem, list(problem.affinity.pairs())
        self._saddle = SaddlePoint.of(problem, labels)
        self._forbidden = _forbidden(problem, labels)
        self.labels, self._point = labels, labels.clone()
        self._weights = [pairs.weight.to(labels.dtype) for pairs in self._pairs]
        self._duals = [torch.zeros_like(pairs.first(labels)) for pairs in self._pairs]
        self._dual_rates = self._rates_of_duals(self._saddle.rate)
        self._pull = torch.zeros_like(labels)

    def step(self) -> None:
        """As `PrimalDual.step`."""
        saddle = self._saddle
        target = torch.addcmul(self._point, saddle.rate, self._pull + saddle.unaries, value=-1)
        self.labels = self._problem.feasible(project(target.masked_fill_(self._forbidden, -torch.inf)))
        ahead = 2 * self.labels - self._point
        self._point.lerp_(self.labels, RELAXATION)
        moved = [
            torch.addcmul(dual, rate, pairs.second(ahead) - pairs.first(ahead))
            for pairs, dual, rate in zip(self._pairs, self._duals, self._dual_rates, strict=True)
        ]
        for dual, best in zip(self._duals, self._limited(moved), strict=True):
            dual.lerp_(best, RELAXATION)
        self._pull = self._pulled(self._duals)

    def bound(self) -> PerImage:
        """As `PrimalDual.bound`."""
        duals = self._limited([dual.clone() for dual in self._duals])
        costs = (self._pulled(duals) + self._saddle.unaries).double()
        least = costs.masked_fill(self._forbidden, torch.inf).amin(1, keepdim=True)
        seeded = (costs * self._problem.seed_labels).sum(1, keepdim=True)
        return total(torch.where(self._problem.free, least, seeded))

    def _rates_of_duals(self, like: Map) -> list[Tensor]:
        rate = self._saddle.dual_rate
        if not self._saddle.is_isotropic:
            return [torch.full_like(weight, rate) for weight in self._weights]
        largest = torch.full_like(like, TINY)
        for pairs, weight in zip(self._pairs, self._weights, strict=True):
            to = pairs.first(largest)
            torch.maximum(to, weight, out=to)
        each = zip(self._pairs, self._weights, strict=True)
        return [rate * weight / pairs.first(largest) for pairs, weight in each]

    def _limited(self, duals: list[Tensor]) -> list[Tensor]:
        """The nearest duals in the ball of the radius λ / 2: of the pair, or of the pairs of the pixel. Overwrites."""
        limit = self._saddle.limit
        if not self._saddle.is_isotropic:
            return [dual.clamp_(-limit, limit) for dual in duals]
        squares = torch.zeros_like(self.labels)
        for pairs, dual in zip(self._pairs, duals, strict=True):
            pairs.first(squares).addcmul_(dual, dual)
        factor = limit / squares.sqrt_().clamp_min_(max(limit, TINY))
        return [dual.mul_(pairs.first(factor)) for pairs, dual in zip(self._pairs, duals, strict=True)]

    def _pulled(self, duals: list[Tensor]) -> Labels:
        """``K'q``: each pair pulls its second pixel by ``w q`` and its first one by ``-w q``."""
        result = torch.zeros_like(self.labels)
        for pairs, weight, dual in zip(self._pairs, self._weights, duals, strict=True):
            pairs.add_products(result, weight, -dual, dual)
        return result


def _forbidden(problem: Problem, labels: Labels) -> Bool[Tensor, "b k *s"]:
    """Classes that a pixel must not have."""
    if problem.classes is None:
        return torch.zeros_like(labels, dtype=torch.bool)
    allowed = problem.classes.view(*problem.classes.shape, *[1] * (labels.ndim - 2))
    return ~allowed.expand_as(labels)
