"""From tensors of one image to labels: annotator, affinity, energy, solver."""

from contextlib import suppress
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from selflabel.affinity.builders import AffinityBuilder
from selflabel.affinity.image import Image
from selflabel.annotators import Annotator
from selflabel.driver import Solution, Solver, check_fit, solve
from selflabel.problem import Energy, Problem


@dataclass(frozen=True)
class Labeler:
    """How an image is labeled: `solver` minimizes `energy` with the affinity that is built from the image.

    The prediction σ is the given one, else the annotator's from the seeds, else (no annotator) uniform.
    """

    solver: Solver
    energy: Energy
    affinity: AffinityBuilder
    annotator: Annotator | None
    max_steps: int = 200

    def check(self) -> None:
        """Raise `ValueError` if solver, energy and affinity do not fit together, whatever the image.

        `ImportError` without a package that the solver needs. Builds the affinity of an image of 4 x 4 pixels.
        """
        with suppress(MemoryError):  # a window beyond all images: each of them will tell
            check_fit(self.solver, self.energy, self.affinity(Image(torch.full((1, 3, 4, 4), 0.5))))

    def label(
        self,
        image: Float[Tensor, "c h w"],
        seeds: Integer[Tensor, "h w"],
        num_classes: int,
        probs: Float[Tensor, "k h w"] | None = None,
    ) -> Solution:
        """Label one image in [0, 1] with classes 0 .. num_classes-1: the solution of a batch of one, with marginals.

        Raises what the parts raise: `ValueError` for values that do not fit, `SolveError` for nan.
        """
        problem = self._problem(Image(image[None]), seeds[None], num_classes, probs)
        with torch.no_grad():
            return solve(problem, self.solver, max_steps=self.max_steps, marginals=True)

    def _problem(
        self,
        image: Image,
        seeds: Integer[Tensor, "1 h w"],
        num_classes: int,
        probs: Float[Tensor, "k h w"] | None,
    ) -> Problem:
        """The problem of the image. It does not hold the image, whose colors and Lab are freed."""
        affinity = self.affinity(image)
        if probs is not None:
            return Problem(self.energy, probs[None], seeds, affinity)
        if self.annotator is not None:
            predicted = self.annotator.predict(image, seeds, num_classes)
            return Problem(self.energy, predicted, seeds, affinity)
        return Problem.from_seeds(self.energy, seeds, num_classes, affinity)
