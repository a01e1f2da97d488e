"""From tensors of one image to labels: annotator, affinity, energy, solver."""

from contextlib import suppress
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from selflabel.affinity.builders import AffinityBuilder
from selflabel.affinity.image import Image
from selflabel.affinity.protocol import Affinity
from selflabel.annotators import Annotator
from selflabel.driver import Solution, Solver, check_fit, solve
from selflabel.energy import Energy
from selflabel.files import UNLABELED
from selflabel.kernels.backend import has_numba
from selflabel.kinds import check_count, check_fields
from selflabel.problem import Problem


@dataclass(frozen=True)
class Labeler:
    """How an image is labeled: `solver` minimizes `energy` with the affinity that is built from the image.

    The prediction σ is the given one, else the annotator's from the seeds, else (no annotator) uniform. `combined` is
    the mean of the first two. `affinities` are those of the energy's further terms (`Energy.regularizers`), one each;
    without any, all are on `affinity`.
    """

    solver: Solver
    energy: Energy
    affinity: AffinityBuilder
    annotator: Annotator | None
    max_steps: int = 200
    affinities: tuple[AffinityBuilder, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        check_count(self.max_steps, "max_steps")
        self.energy.check_affinities(len(self.affinities))

    def check(self) -> None:
        """Raise `ValueError` if solver, energy and affinity do not fit together, whatever the image.

        `ImportError` without a package that the solver or the annotator needs. Builds the affinity of an image of 4 x 4
        pixels.
        """
        if self.annotator is not None:
            self.annotator.check()
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
        given = None if probs is None else probs[None]
        return self._solve(*self._inputs(Image(image[None]), seeds[None], num_classes, given))

    def label_predicted(
        self, image: Image, seeds: Integer[Tensor, "b h w"], probs: Float[Tensor, "b k h w"]
    ) -> Solution:
        """Label a batch of images from their predictions; each gets the bytes that it gets alone.

        On the device of the tensors. Raises what the parts raise.
        """
        return self._solve(self._built(image), seeds, probs)

    def predict(
        self, image: Image, seeds: Integer[Tensor, "b h w"], num_classes: int
    ) -> Float[Tensor, "b k h w"]:
        """The annotator's prediction from the seeds; uniform without one. Raises as annotators do."""
        if self.annotator is not None:
            return self.annotator.predict(image, seeds, num_classes)
        shape = (len(seeds), num_classes, *seeds.shape[1:])
        return torch.full(shape, 1 / num_classes, device=seeds.device)

    def combined(
        self,
        image: Float[Tensor, "c h w"],
        seeds: Integer[Tensor, "h w"],
        num_classes: int,
        probs: Float[Tensor, "k h w"],
    ) -> Float[Tensor, "k h w"]:
        """``½ p_annotator + ½ probs`` (Mayer et al., eq. 11), for `label`; `probs` without an annotator or a seed.

        The annotator has seen this image's seeds, a network those of all images: they err at different places.
        """
        if self.annotator is None or not bool((seeds < num_classes).any()):
            return probs
        local = self.annotator.predict(Image(image[None]), seeds[None], num_classes)[0]
        return (local + probs.to(local.dtype)) / 2

    def compile(self, *, predicted: bool, solved: bool = True) -> None:
        """Have kernels compiled, or read from disk, by labeling an image of 8 x 8 pixels; without Numba, nothing.

        For a process that will be forked: its forks have what it has compiled, and need not do it each, within the time
        of an image. predicted: images will have predictions. solved: this machine's processor solves, not a GPU.
        """
        if not has_numba() or (predicted and not solved):
            return
        image = torch.linspace(0.0, 1.0, 3 * 64).reshape(3, 8, 8)
        seeds = torch.full((8, 8), UNLABELED)
        seeds[0, :2], seeds[-1, :2] = 0, 1
        probs = torch.stack([image[0], 1 - image[0]]) if predicted else None
        with suppress(Exception), torch.no_grad():  # whatever it is, each image will tell
            if solved:
                self.label(image, seeds, 2, probs)
            else:
                self.predict(Image(image[None]), seeds[None], 2)

    def _inputs(
        self,
        image: Image,
        seeds: Integer[Tensor, "b h w"],
        num_classes: int,
        probs: Float[Tensor, "b k h w"] | None,
    ) -> tuple[tuple[Affinity, ...], Integer[Tensor, "b h w"], Float[Tensor, "b k h w"]]:
        """What `_solve` takes. It does not hold the image, whose colors and Lab are freed."""
        built = self._built(image)
        return built, seeds, self.predict(image, seeds, num_classes) if probs is None else probs

    def _built(self, image: Image) -> tuple[Affinity, ...]:
        """The affinity of the image, then those of the further terms."""
        return tuple(build(image) for build in (self.affinity, *self.affinities))

    def _solve(
        self, built: tuple[Affinity, ...], seeds: Integer[Tensor, "b h w"], probs: Float[Tensor, "b k h w"]
    ) -> Solution:
        with torch.no_grad():
            problem = Problem(self.energy, probs, seeds, built[0], affinities=built[1:])
            return solve(problem, self.solver, max_steps=self.max_steps, marginals=True)
