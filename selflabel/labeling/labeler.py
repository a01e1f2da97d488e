"""From one image, its seeds and perhaps a prediction to labels: annotator, affinity, energy, solver."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from selflabel.affinity.builders import AffinityBuilder
from selflabel.affinity.image import Image
from selflabel.annotators import Annotator
from selflabel.driver import Result, Solver, solve
from selflabel.labels import UNLABELED
from selflabel.problem import Energy, Problem


@dataclass(frozen=True)
class ImageLabels:
    """labels: soft labels of one image. Energies are sums over the image (`Energy`); bound: None if none is
    known.
    """

    labels: Float[Tensor, "k h w"]
    start_energy: float
    energy: float
    bound: float | None
    steps: int
    result: Result


@dataclass(frozen=True)
class Labeler:
    """How an image is labeled.

    The prediction σ is the given one, or the annotator's from the seeds, or uniform without an annotator; the
    affinity is built from the image; then `solver` minimizes `energy`.
    """

    solver: Solver
    energy: Energy
    affinity: AffinityBuilder
    annotator: Annotator | None
    max_steps: int = 200

    def check(self) -> None:
        """Raise `ValueError` if solver, energy and affinity do not fit together, whatever the image.

        Takes a step on a square of 4 x 4 pixels, half of it light, with a seed of each of two classes and no
        annotator. Whatever else goes wrong there is left to `label`.
        """
        image = torch.full((3, 4, 4), 0.25)
        image[:, :, 2:] = 0.75
        seeds = torch.full((4, 4), UNLABELED)
        seeds[1, 0], seeds[2, 3] = 0, 1
        try:
            replace(self, annotator=None, max_steps=1).label(image, seeds, 2)
        except ValueError:
            raise
        except Exception:  # of this square, perhaps: each image will tell
            return

    def label(
        self,
        image: Float[Tensor, "c h w"],
        seeds: Integer[Tensor, "h w"],
        num_classes: int,
        probs: Float[Tensor, "k h w"] | None = None,
    ) -> ImageLabels:
        """Label one image in [0, 1] with classes 0 .. num_classes-1.

        Raises what the parts raise: `ValueError` for values that do not fit, `SolveError` for nan.
        """
        problem = self._problem(Image(image[None]), seeds[None], num_classes, probs)
        with torch.no_grad():
            solution = solve(problem, self.solver, max_steps=self.max_steps)
        return ImageLabels(
            labels=solution.labels[0],
            start_energy=float(solution.start_energy[0]),
            energy=float(solution.energy[0]),
            bound=None if solution.bound is None else float(solution.bound[0]),
            steps=int(solution.steps[0]),
            result=solution.results[0],
        )

    def _problem(
        self,
        image: Image,
        seeds: Integer[Tensor, "1 h w"],
        num_classes: int,
        probs: Float[Tensor, "k h w"] | None,
    ) -> Problem:
        """What the solver is given; of the image, and of what it keeps, nothing is left then."""
        affinity = self.affinity(image)
        if probs is not None:
            return Problem(self.energy, probs[None], seeds, affinity)
        if self.annotator is not None:
            predicted = self.annotator.predict(image, seeds, num_classes)
            return Problem(self.energy, predicted, seeds, affinity)
        return Problem.from_seeds(self.energy, seeds, num_classes, affinity)
