"""Line search of gradient descent: current labels, a search direction, and the energy and slopes at a trial point.

`TorchSearch` takes every energy and device. On the CPU, `row_search.supports` says for which problems
`compiled_search.CompiledSearch`, and without Numba `row_search.RowSearch`, take the same steps faster.
Letters: d is the direction, g the gradient by the coordinates at the trial point, n the natural gradient there
(`coordinates`), and g' the gradient at the current point.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from selflabel.labels import per_image
from selflabel.numerics.descent.coordinates import Coordinates
from selflabel.problem import Problem
from selflabel.terms import total

PerImage = Float64[Tensor, " b"]

MOST_GROWTH = 2.0
"""Largest factor of the rate from one step to the next."""


@dataclass(frozen=True, eq=False)
class Trial:
    """What is found at the end of a step, one number an image."""

    energy: PerImage
    slope_start: PerImage
    """``d·g'``."""
    slope_end: PerImage
    """``d·g``."""
    gradient_norm: PerImage
    """``n·g``, the squared norm of the gradient in the natural metric."""
    gradient_overlap: PerImage
    """``n·g'``."""


@runtime_checkable
class LineSearch(Protocol):
    """Labels ``[b k *s]`` of the current point, and a direction, zero at first. Images do not mix."""

    def labels(self) -> Float[Tensor, "b k *s"]:
        """The labels at the current point."""

    def evaluate(self, rate: PerImage, done: Bool[Tensor, " b"]) -> Trial:
        """Evaluate the trial point, `rate` times the direction ahead. Entries of finished images are undefined."""

    def accept(self, images: Bool[Tensor, " b"]) -> None:
        """Make the trial points of these images, evaluated last, their current points."""

    def turn(self, images: Bool[Tensor, " b"], beta: PerImage, rate: PerImage) -> None:
        """Give these images the direction ``d ← -n + beta · d``, n at their current points.

        Limited so that `rate` times it is not too far (`Coordinates.limited`): pass the rate of the next evaluation. A
        search may leave the work to that.
        """


class TorchSearch:
    """Line search in any coordinates, for any energy and device. Memory: nine times the labels."""

    def __init__(self, problem: Problem, labels: Float[Tensor, "b k *s"], coordinates: Coordinates) -> None:
        self._problem, self._coordinates = problem, coordinates
        self._labels = labels
        self._point = coordinates.of(labels)
        self._direction = torch.zeros_like(labels)
        self._gradient = self._natural = self._direction

    def labels(self) -> Float[Tensor, "b k *s"]:
        """Costs nothing."""
        return self._labels

    def evaluate(self, rate: PerImage, done: Bool[Tensor, " b"]) -> Trial:
        """Cost: one gradient of the energy."""
        step = per_image(rate, self._point)
        self._trial_point = self._coordinates.bounded(torch.addcmul(self._point, step, self._direction))
        self._trial = self._problem.feasible(self._coordinates.labels(self._trial_point))
        energy, grad = self._problem.value_and_grad(self._trial)
        gradient, natural = self._coordinates.gradients(self._trial_point, self._trial, grad)
        self._trial_gradient, self._trial_natural = gradient, natural
        start, end = inner(self._direction, self._gradient), inner(self._direction, gradient)
        return Trial(energy, start, end, inner(natural, gradient), inner(natural, self._gradient))

    def accept(self, images: Bool[Tensor, " b"]) -> None:
        """Costs nothing when all images accept or none does."""
        self._point = select(images, self._trial_point, self._point)
        self._labels = select(images, self._trial, self._labels)
        self._gradient = select(images, self._trial_gradient, self._gradient)
        self._natural = select(images, self._trial_natural, self._natural)

    def turn(self, images: Bool[Tensor, " b"], beta: PerImage, rate: PerImage) -> None:
        """Cost: three passes over the labels, none if no image turns."""
        if not bool(images.any()):
            return
        turned = per_image(beta, self._direction) * self._direction
        turned = self._coordinates.limited(
            turned.sub_(self._natural), self._point, per_image(rate, self._point)
        )
        self._direction = select(images, turned, self._direction)


def hestenes_stiefel(trial: Trial) -> PerImage:
    """``β = n·(g - g') / d·(g - g')``, not below 0: Nocedal & Wright (2006), eq. 5.46, with n in place of g.

    0, a restart, where the slope does not rise along d, or where ``-n + β d`` would not go down.
    """
    change = trial.slope_end - trial.slope_start
    beta = ((trial.gradient_norm - trial.gradient_overlap) / change).clamp_min(0)
    beta = torch.where(change > 0, beta, 0.0)
    is_downhill = beta * trial.slope_end < trial.gradient_norm
    return torch.where(is_downhill, beta, 0.0)


def secant_factor(trial: Trial, accepted: Bool[Tensor, " b"]) -> PerImage:
    """Factor of the rate: ``-d·g' / d·(g - g')``, where a linear slope along d would vanish (secant method).

    `MOST_GROWTH` where the slope does not rise. Between 0.3 and that for accepted steps, 0.1 and 0.5 for refused ones.
    """
    change = trial.slope_end - trial.slope_start
    factor = torch.where(change > 0, -trial.slope_start / change, MOST_GROWTH)
    return torch.where(accepted, factor.clamp(0.3, MOST_GROWTH), factor.clamp(0.1, 0.5))


def inner(a: Tensor, b: Tensor) -> PerImage:
    """The inner product of each image, the same for any number of threads."""
    if a.device.type == "cpu":
        return total(a * b)
    result: Tensor = torch.linalg.vecdot(a.flatten(1), b.flatten(1)).double()
    return result


def select(which: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """`torch.where` by image, without a pass over the labels when all agree."""
    if bool(which.all()):
        return yes
    if not bool(which.any()):
        return no
    return torch.where(which.view(-1, *[1] * (yes.ndim - 1)), yes, no)
