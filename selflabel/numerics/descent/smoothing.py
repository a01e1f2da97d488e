"""The smoothing of Frank-Wolfe steps: where the linearized energy plus some of it is least, and how far to go there.

A step minimizes ``L(s) + ρ r(s)`` over distributions s, where L is the energy with ``-½ κ y'Wy`` linearized. The energy
plus ``ρ r`` falls along the segment from the labels to s, and where it bends down along it but for ρ r and the other
parts that are not linearized, it falls to the end: its slope there is ``-κ d'Wd`` at most, with d the segment. So for
positive semidefinite W, as of Gaussian kernels, the unit step is the exact line search.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from selflabel.energy import Energy
from selflabel.kernels.backend import Backend, Routine, backend
from selflabel.kinds import check_fields, check_number
from selflabel.labels import per_image
from selflabel.numerics.descent.line_search import PerImage
from selflabel.numerics.descent.quadratic import (
    LEAST_WEIGHT,
    Aim,
    Field,
    LabelPoint,
    LabelSegment,
    TorchAim,
    inner,
    softmax,
)
from selflabel.numerics.descent.simplex import project
from selflabel.terms import FLOOR

ROOT_STEPS = 12
"""Of Newton's method, safeguarded by bisection, for the rate of a step with an entropy."""


@runtime_checkable
class Smoothing(Protocol):
    """A convex function r of labels, a frozen record with its weight ``ρ = weight + share · κ d``.

    ``κ d`` is the mean degree of an image's affinity times λ (twice that if it is dense, as its pairs count twice), so
    that a share fits all images, weights and kernels. With a share of 1 the bi-linear energy plus ``ρ r`` is convex
    where all pixels have the same degree.
    """

    @property
    def weight(self) -> float:
        """In units of the energy of a pixel."""

    @property
    def share(self) -> float:
        """Of the weight that makes the bi-linear energy convex. The quadratic relaxation is: there it adds nothing."""

    def check(self, energy: Energy, name: str) -> None:
        """Raise `ValueError` if there is no closed form of steps for this energy. name: the solver's."""

    def aim(self, point: LabelPoint, rho: PerImage, seeds: Field) -> Aim:
        """The step to the s above, without mass on forbidden classes, and of these labels at seeds."""

    def rate(self, segment: LabelSegment, rho: PerImage) -> PerImage:
        """Where along the segment, from 0 to 1, the energy plus ``ρ r`` is least."""


def _check_weights(smoothing: Smoothing) -> None:
    for name in ("weight", "share"):
        value = getattr(smoothing, name)
        check_number(value, name)
        if not 0 <= value < torch.inf:
            raise ValueError(f"expected a finite {name} >= 0 of the smoothing, got {value}")


@dataclass(frozen=True)
class Euclidean:
    """``r(s) = ½ ‖s‖²``: steps go to projections onto the simplex, ``(κ W y - u) / (q + ρ)``, and reach its vertices.

    The quadratic parts of the energy, q, are not linearized. Along segments all is quadratic, so the rate has a closed
    form.
    """

    weight: float = 0.0
    share: float = 1.0

    def __post_init__(self) -> None:
        _check_weights(self)
        check_fields(self)

    def check(self, energy: Energy, name: str) -> None:
        """Raise `ValueError` for an energy with entropy."""
        if energy.entropy_weight:
            raise ValueError(
                f"{name}: expected entropy_weight 0 with the Euclidean smoothing, got {energy.entropy_weight}: use "
                f"that, the entropic smoothing, or the mean-field solver"
            )

    def aim(self, point: LabelPoint, rho: PerImage, seeds: Field) -> Aim:
        """``argmin_s g·s + ½ Σ_i (q_i + ρ) ‖s_i‖²`` with ``g = u - κ W y``."""
        if _is_compiled(point):
            from selflabel.numerics.descent.compiled_aim import CompiledAim

            return CompiledAim(point, rho)
        square = point.energy.square
        weight = per_image(rho, point.labels)
        weight = (weight if square is None else weight + square).clamp_min(LEAST_WEIGHT)
        end = project(point.energy.below_least(point.tangent).div_(weight))
        return TorchAim(point, torch.where(point.energy.free, end, seeds))

    def rate(self, segment: LabelSegment, rho: PerImage) -> PerImage:
        """``-slope / curvature``, where the energy plus ``ρ r`` bends up."""
        slope = segment.aim.slope + rho * segment.aim.overlap
        curvature = segment.curvature + rho * segment.aim.length
        rate = torch.where(curvature > 0, -slope / curvature, 1.0).clamp(0, 1)
        return torch.where(slope < 0, rate, 0.0)


@dataclass(frozen=True)
class Entropic:
    """``r(s) = -S(s)``, negative entropy: steps go to ``softmax(-(u + q y - κ W y) / (τ + ρ))``.

    τ is the entropy of the energy itself, which is not linearized. With weight 1, share 0 and unit steps: mean field in
    parallel updates.
    """

    weight: float = 0.0
    share: float = 0.25

    def __post_init__(self) -> None:
        _check_weights(self)
        check_fields(self)

    def check(self, energy: Energy, name: str) -> None:
        """Takes every energy."""

    def aim(self, point: LabelPoint, rho: PerImage, seeds: Field) -> Aim:
        """``argmin_s ∇E·s - (τ + ρ) S(s)``, of which E leaves out its entropy."""
        weight = per_image(rho + point.energy.temperature, point.labels).clamp_min(LEAST_WEIGHT)
        end = softmax(point.energy.below_least(point.gradient).div_(weight))
        return TorchAim(point, torch.where(point.energy.free, end, seeds))

    def rate(self, segment: LabelSegment, rho: PerImage) -> PerImage:
        """1 where the energy without its entropy does not bend up; else a root, by passes over the labels."""
        one = torch.ones_like(segment.curvature)
        bends_up = segment.curvature > 0
        if not bool(bends_up.any()):
            return one
        return torch.where(bends_up, _root(segment, rho + segment.aim.point.energy.temperature), one)


def _is_compiled(point: LabelPoint) -> bool:
    """Are there kernels for labels in this order in memory?"""
    labels = point.labels
    found = backend(Routine.FRANK_WOLFE, labels.device, labels.dtype)
    return found is Backend.CPU and labels.movedim(1, -1).is_contiguous()


def _root(segment: LabelSegment, weight: PerImage) -> PerImage:
    """The rate at which ``slope + curvature · rate + weight · Σ d ln(y + rate · d)`` is zero, d the step.

    It rises, so that Newton's method from a bracket that bisection halves finds it. Cost: a pass a step.
    """
    low, high = torch.zeros_like(weight), torch.ones_like(weight)
    slope, labels = segment.aim.slope, segment.aim.point.labels
    step = segment.aim.end - labels
    rate = high
    for _ in range(ROOT_STEPS):
        at = torch.addcmul(labels, step, per_image(rate, step)).clamp_min_(FLOOR)
        value = slope + segment.curvature * rate + weight * inner(step, at.log())
        rise = segment.curvature + weight * inner(step / at, step)
        low, high = torch.where(value < 0, rate, low), torch.where(value < 0, high, rate)
        newton = rate - value / rise
        inside = (newton > low) & (newton < high)
        rate = torch.where(inside, newton, (low + high) / 2)
    return rate
