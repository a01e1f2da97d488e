"""Energies that are quadratic in the labels, along segments: one filtering of one end says everything between the ends.

``E(y) = u·y + ½ Σ_i q_i ‖y_i‖² - ½ κ y'Wy - τ S(y) + constant``: κ is the weight λ of the pairs, twice that for a dense
affinity, whose pairs count twice; q is ``κ d`` with the quadratic relaxation (d the degree) plus ``2 η`` with the
quadratic coupling. W is linear, so W of a mixture of labels is the mixture of their W.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selflabel.affinity.dense import DenseAffinity
from selflabel.affinity.filters.protocol import AddingFilter
from selflabel.affinity.protocol import Affinity, SparseAffinity
from selflabel.energy import Energy
from selflabel.labels import per_image
from selflabel.numerics.descent.line_search import PerImage
from selflabel.problem import Problem
from selflabel.terms import QUADRATIC, QUADRATIC_POTTS, STANDARD, entropy, total

Field = Float[Tensor, "b k *s"]

LEAST_WEIGHT = 1e-30
"""Of smoothing, in place of none at all: only exact ties stay undecided."""


def check_quadratic(energy: Energy, name: str) -> None:
    """Raise `ValueError` unless coupling and relaxation are quadratic in the labels. name: the solver's."""
    if energy.coupling_weight and energy.coupling not in (STANDARD, QUADRATIC):
        raise ValueError(
            f"{name}: expected the coupling 'standard' or 'quadratic', got {energy.coupling.name!r}: use one of these, "
            f"or the gradient-descent solver"
        )
    if not energy.relaxation.is_quadratic:
        raise ValueError(
            f"{name}: expected the relaxation 'bilinear' or 'quadratic', got {energy.relaxation.name!r}: use one of "
            f"these, or the gradient-descent solver"
        )


def filtering(affinity: Affinity) -> Callable[[Field], Field]:
    """The fastest order in memory of labels that are filtered again and again: a copy of these in that order."""
    by_pixel = isinstance(affinity, DenseAffinity) and any(
        isinstance(scaled.filter, AddingFilter) for scaled in affinity.filters
    )
    return _by_pixel if by_pixel else Tensor.contiguous


def _by_pixel(labels: Field) -> Field:
    from selflabel.kernels.cpu.layout import channels_last  # there are compiled filters

    return channels_last(labels)


def softmax(logits: Field) -> Field:
    """Over the classes. Keeps the order in memory, which `torch.softmax` does of the last axis only."""
    if logits.is_contiguous():
        return logits.softmax(1)
    return logits.movedim(1, -1).softmax(-1).movedim(-1, 1)


def inner(a: Field, b: Field) -> PerImage:
    """The inner product of each image, in float64: on the CPU the same for any number of threads."""
    product = a * b
    return total(product if product.is_contiguous() else product.movedim(1, -1))


@dataclass(frozen=True, eq=False)
class QuadraticEnergy:
    """The numbers of the energy above, of each image; u and the entropy are of free pixels alone."""

    unary: Field
    square: Float[Tensor, "b 1 *s"] | None
    """q, or None if it is zero."""
    pull: float
    """κ."""
    mean_pull: PerImage
    """``κ d``, in the mean over an image's pixels."""
    constant: PerImage
    temperature: float
    """τ."""
    is_convex: bool
    free: Bool[Tensor, "b 1 *s"]
    forbidden: Bool[Tensor, "b k *ones"] | None
    """Classes that an image must not have, or None."""

    @classmethod
    def of(cls, problem: Problem, filtered: Field) -> "QuadraticEnergy":
        """From W of some labels: they sum to one, so W of theirs sums to the degree. `check_quadratic` has passed."""
        energy, free = problem.energy, problem.free
        orders = 1 if isinstance(problem.affinity, SparseAffinity) else 2
        pull = orders * energy.pairwise_weight
        degree = filtered.sum(1, keepdim=True)
        pulls = pull * total(degree)
        is_convex = energy.relaxation == QUADRATIC_POTTS
        square = pull * degree if is_convex and pull else None
        constant = torch.zeros_like(pulls) if is_convex else pulls / 2
        unary = torch.zeros_like(filtered)
        if energy.coupling_weight:
            linear = -2 * problem.probs if energy.coupling == QUADRATIC else problem.vertex_costs
            assert linear is not None, "the coupling is standard"
            unary.copy_(filtering(problem.affinity)(linear)).mul_(energy.coupling_weight)
        if energy.coupling_weight and energy.coupling == QUADRATIC:
            own = 2 * energy.coupling_weight * free.to(unary.dtype)
            square = own if square is None else square + own
            constant = constant + total(own / 2 * problem.probs.square())
        forbidden = None
        if problem.classes is not None and not bool(problem.classes.all()):
            forbidden = ~problem.classes.view(*problem.classes.shape, *[1] * (unary.ndim - 2))
        return cls(
            unary.mul_(free),
            square,
            pull,
            pulls / degree[0].numel(),
            constant,
            energy.entropy_weight,
            is_convex,
            free,
            forbidden,
        )

    def point(self, labels: Field, filtered: Field) -> "LabelPoint":
        """These labels, with W of them."""
        half = torch.add(self.unary, filtered, alpha=-self.pull / 2)
        if self.square is not None:
            half.addcmul_(self.square, labels, value=0.5)
        value = inner(half, labels) + self.constant
        scattered = self.entropy(labels)
        if self.temperature:
            value = value - self.temperature * scattered
        return LabelPoint(self, labels, filtered, value, scattered)

    def allowed(self, costs: Field) -> Field:
        """The costs, infinite for classes that are forbidden."""
        return costs if self.forbidden is None else costs.masked_fill(self.forbidden, torch.inf)

    def below_least(self, costs: Field) -> Field:
        """The least cost of an allowed class at each pixel, minus the costs: from 0 down, new in memory."""
        costs = self.allowed(costs)
        return costs.amin(1, keepdim=True) - costs

    def entropy(self, labels: Field) -> PerImage:
        """``S(y)``; zeros where the energy has none."""
        if not self.temperature:
            return labels.new_zeros(len(labels), dtype=torch.float64)
        return total(entropy(labels) * self.free)


@dataclass(frozen=True, eq=False)
class LabelPoint:
    """Labels, W of them, their energy, and their entropy if the energy has one."""

    energy: QuadraticEnergy
    labels: Field
    filtered: Field
    value: PerImage
    scattered: PerImage

    @cached_property
    def tangent(self) -> Field:
        """``u - κ W y``: the gradient of the part that no smoothing handles exactly."""
        return torch.add(self.energy.unary, self.filtered, alpha=-self.energy.pull)

    @cached_property
    def gradient(self) -> Field:
        """``u + q y - κ W y``: that of all but the entropy."""
        square = self.energy.square
        return self.tangent if square is None else torch.addcmul(self.tangent, square, self.labels)

    def gap(self) -> PerImage:
        """The Frank-Wolfe gap ``max_s ∇E(y)·(y - s)``, the entropy not linearized: ``E(y) - gap`` bounds a convex E."""
        t, here = self.energy.temperature, (self.gradient * self.labels).sum(1, keepdim=True)
        costs = self.energy.allowed(self.gradient)
        if t:
            least = -t * (costs / -t).logsumexp(1, keepdim=True)
            here = here - t * entropy(self.labels)
        else:
            least = costs.amin(1, keepdim=True)
        return total((here - least).mul_(self.energy.free))


@runtime_checkable
class Aim(Protocol):
    """A step d from a point to other labels, its end, and the sums of an image that need no filtering.

    - `gap`: `LabelPoint.gap`;
    - `slope`: ``∇E·d``, E without its entropy;
    - `square`: ``Σ q_i ‖d_i‖²``, `overlap`: ``y·d``, `length`: ``‖d‖²``.
    """

    @property
    def point(self) -> LabelPoint: ...
    @property
    def end(self) -> Field: ...
    @property
    def gap(self) -> PerImage: ...
    @property
    def slope(self) -> PerImage: ...
    @property
    def square(self) -> PerImage: ...
    @property
    def overlap(self) -> PerImage: ...
    @property
    def length(self) -> PerImage: ...

    def bend(self, filtered: Field) -> PerImage:
        """``d·W d``, from W of the end."""


@dataclass(frozen=True, eq=False)
class TorchAim:
    """Each sum is a pass over the labels, made when it is asked for."""

    point: LabelPoint
    end: Field

    @cached_property
    def step(self) -> Field:
        """d."""
        return self.end - self.point.labels

    @cached_property
    def gap(self) -> PerImage:
        """As `Aim.gap`."""
        return self.point.gap()

    @cached_property
    def slope(self) -> PerImage:
        """As `Aim.slope`."""
        return inner(self.point.gradient, self.step)

    @cached_property
    def square(self) -> PerImage:
        """As `Aim.square`."""
        square = self.point.energy.square
        return torch.zeros_like(self.slope) if square is None else inner(square * self.step, self.step)

    @cached_property
    def overlap(self) -> PerImage:
        """As `Aim.overlap`."""
        return inner(self.point.labels, self.step)

    @cached_property
    def length(self) -> PerImage:
        """As `Aim.length`."""
        return inner(self.step, self.step)

    def bend(self, filtered: Field) -> PerImage:
        """As `Aim.bend`."""
        return inner(self.step, filtered - self.point.filtered)


@dataclass(frozen=True, eq=False)
class LabelSegment:
    """All of a step. The energy, without its entropy, is ``slope · rate + ½ curvature · rate²`` above the point's."""

    aim: Aim
    filtered: Field
    """W of the end."""
    curvature: PerImage

    @classmethod
    def of(cls, aim: Aim, filtered: Field) -> "LabelSegment":
        """From W of the end: needs no other filtering."""
        return cls(aim, filtered, aim.square - aim.point.energy.pull * aim.bend(filtered))

    def at(self, rate: PerImage) -> LabelPoint:
        """The point at this rate, from 0 to 1; at both exactly the ends."""
        start, labels, filtered = self.aim.point, self.aim.end, self.filtered
        if not bool((rate == 1).all()):
            labels = torch.lerp(start.labels, labels, per_image(rate, labels))
            filtered = torch.lerp(start.filtered, filtered, per_image(rate, labels))
        value = start.value + rate * (self.aim.slope + rate * self.curvature / 2)
        t, scattered = start.energy.temperature, start.energy.entropy(labels)
        if t:
            value = value - t * (scattered - start.scattered)
        return LabelPoint(start.energy, labels, filtered, value, scattered)
