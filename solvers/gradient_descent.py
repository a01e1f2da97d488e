"""Gradient descent on logits: soft labels, for any sparse energy."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.coarse import coarse_labels, coarsen, fine_labels
from selflabel.driver import Step
from selflabel.labels import floored, floored_logits, per_image
from selflabel.problem import Energy, Problem
from selflabel.terms import COLLISION, COLLISION_DIVERGENCE, Slope

LOGIT_FLOOR = -15.0
"""Logits stay this close to their maximum (probabilities above 3e-7), so that no class is out of reach."""


QUIET_STEPS = 3
"""So many steps in a row must gain next to nothing before an image has converged: descents rest on plateaus."""

GROWTH = 2.0
"""By how much the step length may grow at a step."""


@dataclass(frozen=True)
class GradientDescent:
    """Minimize any energy over ``y = softmax(l)`` by descent on the logits l (Zhang & Boykov 2025, App. A).

    With ``g = ∂E/∂y``, the gradient by the logits is ``y (g - y·g)``. The default preconditions it by
    ``1 / (h y)``, h the stiffness of each pixel (`selflabel.terms.Slope`): a natural-gradient step, which
    neither slows down where labels saturate nor overshoots where the relaxation is steep. Directions are
    conjugated (Hestenes-Stiefel, restarted when not downhill), the step length follows the secant along the
    direction and shrinks when the energy would rise, so the energy never rises (but
    for the floor that every probability gets at the start, 3e-7). It starts on blocks of
    2x2 pixels (`coarse_levels` times halved; sparse grids and windows only) and goes on from there if that
    is better than the given start.

    - `rate`: None, or the fixed rate of plain gradient descent as published (see `PAPER`).
    - `rtol`: an image has converged when three steps in a row lower its energy by less than this fraction.
    - `coarse_levels`, `coarse_steps`: how often the image is halved, and the steps made on each such level.

    A local minimum, the global one for convex energies (quadratic coupling and relaxation). Takes every
    coupling and relaxation on sparse affinities; bi-linear and quadratic on dense ones. Cost: one pass over the
    pairs a step (one filtering if dense); memory: seven times the labels. For hard labels use `GraphCut`.
    """

    rate: float | None = None
    rtol: float = 2e-4
    coarse_levels: int = 1
    coarse_steps: int = 12

    name: ClassVar[str] = "gradient-descent"
    default_energy: ClassVar[Energy] = Energy(
        COLLISION, COLLISION_DIVERGENCE, coupling_weight=0.3, pairwise_weight=6.0
    )
    needs_edges: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.rate is not None and not self.rate > 0:
            raise ValueError(f"expected rate > 0, or None for the adaptive rule, got {self.rate}")
        if not self.rtol >= 0 or self.coarse_levels < 0 or self.coarse_steps < 1:
            raise ValueError(
                f"expected rtol >= 0, coarse_levels >= 0 and coarse_steps >= 1, got {self.rtol}, "
                f"{self.coarse_levels} and {self.coarse_steps}"
            )

    def iterate(self, problem: Problem, labels: Float[Tensor, "b k *s"]) -> Iterator[Step]:
        """One gradient evaluation a step."""
        if self.rate is not None:
            yield from _plain(problem, labels, self.rate)
        else:
            yield from _conjugate(problem, self._coarse_start(problem, labels), self.rtol)

    def _coarse_start(self, problem: Problem, labels: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
        coarse = coarsen(problem) if self.coarse_levels else None
        if coarse is None:
            return labels
        solver = replace(self, coarse_levels=self.coarse_levels - 1)
        rough = coarse.feasible(coarse_labels(labels))
        for step in islice(solver.iterate(coarse, rough), self.coarse_steps):
            rough = step.labels
            if step.converged is not None and bool(step.converged.all()):
                break
        size = tuple(labels.shape[2:])
        # next to a seed a block says nothing of its other pixels: they keep their own start
        start = torch.where(fine_labels(coarse.free, size), fine_labels(rough, size), labels)
        start = problem.feasible(start)
        better = problem.value(start) < problem.value(labels)
        return _select(better, start, labels)


PAPER = GradientDescent(rate=0.075, rtol=0.0, coarse_levels=0)
"""As published: plain descent at rate 0.075 from the network's logits; run it for 200 steps."""


def _plain(problem: Problem, labels: Float[Tensor, "b k *s"], rate: float) -> Iterator[Step]:
    logits = floored_logits(labels, LOGIT_FLOOR)
    while True:
        _, slope = problem.value_with_slope(labels)
        gradient, _ = _gradients(labels, slope)
        logits = logits - rate * gradient
        labels = problem.feasible(logits.softmax(1))
        yield Step(labels)


def _conjugate(problem: Problem, labels: Float[Tensor, "b k *s"], rtol: float) -> Iterator[Step]:
    """Preconditioned nonlinear conjugate gradients; every scalar is one an image, so images do not mix."""
    logits = floored_logits(labels, LOGIT_FLOOR)
    labels = problem.feasible(logits.softmax(1))
    energy, slope = problem.value_with_slope(labels)
    gradient, natural = _gradients(labels, slope)
    direction = -natural
    descent = _inner(direction, gradient)
    rate = torch.ones_like(energy)
    quiet = torch.zeros_like(energy)
    done = descent == 0
    while True:
        trial_logits = floored(torch.addcmul(logits, per_image(rate, logits), direction), LOGIT_FLOOR)
        trial = problem.feasible(trial_logits.softmax(1))
        trial_energy, slope = problem.value_with_slope(trial)
        trial_gradient, natural = _gradients(trial, slope)
        slack = 1e-7 * energy.abs()  # rounding of float32 labels
        accepted = (trial_energy <= energy + slack) & ~done

        # where the slope along the direction would vanish, if it went on as between the two ends
        curvature = _inner(direction, trial_gradient) - descent
        secant = torch.where(curvature > 0, -descent / curvature, GROWTH)
        rate = rate * torch.where(accepted, secant.clamp(0.3, GROWTH), secant.clamp(0.1, 0.5))
        quiet = torch.where(accepted, (quiet + 1) * (energy - trial_energy <= rtol * energy.abs()), quiet)
        stuck = ~accepted & (rate < 1e-4)

        steepest = _inner(natural, trial_gradient)
        change = steepest - _inner(natural, gradient)
        conjugacy = torch.where(curvature > 0, (change / curvature).clamp_min(0), 0.0)
        following_descent = conjugacy * (curvature + descent) - steepest
        conjugacy = torch.where(following_descent < 0, conjugacy, 0.0)
        following_descent = torch.where(following_descent < 0, following_descent, -steepest)
        following = torch.addcmul(natural.neg_(), per_image(conjugacy, direction), direction)

        logits, labels = _select(accepted, trial_logits, logits), _select(accepted, trial, labels)
        gradient = _select(accepted, trial_gradient, gradient)
        direction = _select(accepted, following, direction)
        descent = torch.where(accepted, following_descent, descent)
        energy = torch.where(accepted, trial_energy, energy)
        done = done | (quiet >= QUIET_STEPS) | stuck
        yield Step(labels, energy, converged=done)


def _gradients(labels: Tensor, slope: Slope) -> tuple[Tensor, Tensor]:
    """The gradient by the logits, and the natural one, scaled. Uses the slope up."""
    centered = slope.gradient.sub_((labels * slope.gradient).sum(1, keepdim=True))
    return labels * centered, centered.div_(slope.stiffness.clamp_min(1e-3))


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each image."""
    result: Tensor = torch.linalg.vecdot(a.flatten(1), b.flatten(1)).double()
    return result


def _select(which: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """`torch.where` by image, without a pass over the labels when all agree."""
    if bool(which.all()):
        return yes
    if not bool(which.any()):
        return no
    return torch.where(which.view(-1, *[1] * (yes.ndim - 1)), yes, no)
