"""The ways that gradient descent tries: labels, a direction to move them in, and what is found there.

`LineSearch` says what the method of conjugate gradients needs to know of a step: five numbers an image. `TorchSearch`
computes them for every energy and device; `compiled_search` has another one, compiled, for those that fit.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from selflabel.labels import per_image
from selflabel.numerics.descent.coordinates import Coordinates
from selflabel.problem import Problem

PerImage = Float64[Tensor, " b"]


@dataclass(frozen=True, eq=False)
class Trial:
    """The energy at the end of a step, and products of the new gradient g and natural gradient n with the old ones."""

    energy: PerImage
    before: PerImage
    """``d·g'`` with the direction d of the step and the gradient g' at its start."""
    along: PerImage
    """``d·g``."""
    steepest: PerImage
    """``n·g``."""
    mixed: PerImage
    """``n·g'``."""


@runtime_checkable
class LineSearch(Protocol):
    """Labels ``[b k *s]``, and a direction of the same shape, zero at first."""

    def labels(self) -> Float[Tensor, "b k *s"]:
        """Where it stands."""

    def attempt(self, rate: PerImage, done: Bool[Tensor, " b"]) -> Trial:
        """Look `rate` times the direction ahead. For images that are `done` it need not look, and may say anything.

        Where the direction is a new one, it is limited first, so that this is not too far (`Coordinates.limited`).
        """

    def follow(self, accepted: Bool[Tensor, " b"], turning: Bool[Tensor, " b"], conjugacy: PerImage) -> None:
        """Move the accepted images there; ``-n + conjugacy · d`` is the next direction of those that turn.

        Here n is the natural gradient where the image now is. The others stay.
        """


class TorchSearch:
    """Any coordinates, energy and device. Memory: nine times the labels."""

    def __init__(self, problem: Problem, labels: Float[Tensor, "b k *s"], coordinates: Coordinates) -> None:
        self._problem, self._coordinates = problem, coordinates
        self._labels = labels
        self._point = coordinates.of(labels)
        self._direction = torch.zeros_like(labels)
        self._gradient = self._natural = self._direction
        self._conjugacy = torch.zeros(len(labels), dtype=torch.float64, device=labels.device)
        self._turning = self._conjugacy > 0

    def labels(self) -> Float[Tensor, "b k *s"]:
        """Costs nothing."""
        return self._labels

    def attempt(self, rate: PerImage, done: Bool[Tensor, " b"]) -> Trial:
        """One gradient of the energy."""
        step = per_image(rate, self._point)
        self._turn(step)
        self._trial_point = self._coordinates.bounded(torch.addcmul(self._point, step, self._direction))
        self._trial = self._problem.feasible(self._coordinates.labels(self._trial_point))
        energy, grad = self._problem.value_and_grad(self._trial)
        gradient, natural = self._coordinates.gradients(self._trial_point, self._trial, grad)
        self._trial_gradient, self._trial_natural = gradient, natural
        before, along = inner(self._direction, self._gradient), inner(self._direction, gradient)
        return Trial(energy, before, along, inner(natural, gradient), inner(natural, self._gradient))

    def follow(self, accepted: Bool[Tensor, " b"], turning: Bool[Tensor, " b"], conjugacy: PerImage) -> None:
        """In as few passes as torch has."""
        self._point = select(accepted, self._trial_point, self._point)
        self._labels = select(accepted, self._trial, self._labels)
        self._gradient = select(accepted, self._trial_gradient, self._gradient)
        self._natural = select(accepted, self._trial_natural, self._natural)
        self._turning, self._conjugacy = turning, conjugacy

    def _turn(self, step: Tensor) -> None:
        if not bool(self._turning.any()):
            return
        turned = per_image(self._conjugacy, self._direction) * self._direction
        turned = self._coordinates.limited(turned.sub_(self._natural), self._point, step)
        self._direction = select(self._turning, turned, self._direction)
        self._turning = torch.zeros_like(self._turning)


def inner(a: Tensor, b: Tensor) -> PerImage:
    """The inner product of each image."""
    result: Tensor = torch.linalg.vecdot(a.flatten(1), b.flatten(1)).double()
    return result


def select(which: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """`torch.where` by image, without a pass over the labels when all agree."""
    if bool(which.all()):
        return yes
    if not bool(which.any()):
        return no
    return torch.where(which.view(-1, *[1] * (yes.ndim - 1)), yes, no)
