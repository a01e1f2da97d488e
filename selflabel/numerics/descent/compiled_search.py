"""Line search on square roots of labels, compiled: a step is one pass over the pixels."""

from collections.abc import Sequence
from functools import cache, partial
from itertools import compress
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selflabel.affinity.stencil import Stencil
from selflabel.kernels.cpu import descent, formulas
from selflabel.kernels.cpu.compile import Array
from selflabel.kernels.memory import working_array
from selflabel.kernels.threads import num_threads, run_parallel, split_range, split_threads
from selflabel.numerics.descent.coordinates import LEAST_CURVATURE, ROOT_FLOOR, ROOT_LEFT, ROOT_REACH
from selflabel.numerics.descent.line_search import PerImage, Trial
from selflabel.numerics.descent.row_search import GRAIN, flat_free, flat_target, flat_weights
from selflabel.problem import Problem
from selflabel.terms import (
    BILINEAR,
    COLLISION,
    COLLISION_CROSS_ENTROPY,
    COLLISION_DIVERGENCE,
    LOG_QUADRATIC,
    NORMALIZED_QUADRATIC,
    QUADRATIC_POTTS,
    STANDARD,
    Coupling,
    Relaxation,
)

LEAST_PIXELS = 512
"""Least pixels of a block, beside its halos."""

FEW_BLOCKS = 8
"""Blocks of an image that fits a cache, for as many threads."""

RELAXATIONS: dict[Relaxation, formulas.PairFormulas] = {
    BILINEAR: formulas.BILINEAR,
    QUADRATIC_POTTS: formulas.QUADRATIC_POTTS,
    NORMALIZED_QUADRATIC: formulas.NORMALIZED_QUADRATIC,
    COLLISION_CROSS_ENTROPY: formulas.COLLISION_CROSS_ENTROPY,
    LOG_QUADRATIC: formulas.LOG_QUADRATIC,
    COLLISION_DIVERGENCE: formulas.COLLISION_DIVERGENCE,
}
"""The relaxations that have scalar formulas. By value: one of the same name with other functions has none."""

COUPLINGS: dict[Coupling, formulas.ProductFormulas] = {
    STANDARD: formulas.STANDARD,
    COLLISION: formulas.COLLISION,
}
"""The couplings that have scalar formulas, by value."""


@cache
def pairs_of(relaxation: Relaxation) -> Any:
    """The kernel `descent.add_pairs` for a relaxation."""
    return formulas.specialized(descent.add_pairs, RELAXATIONS[relaxation])


@cache
def couplings_of(coupling: Coupling) -> Any:
    """The kernel `descent.add_couplings` for a coupling."""
    return formulas.specialized(descent.add_couplings, COUPLINGS[coupling])


class _ImageSearch:
    """One image: its current point, that of the last trial, and the direction."""

    def __init__(self, problem: Problem, number: int, labels: Float[Tensor, "k *s"], grain: int) -> None:
        energy = problem.energy
        self.add_pairs, self.add_couplings = pairs_of(energy.relaxation), couplings_of(energy.coupling)
        self.image, self.weights = _image_data(problem, number)
        self.bounds, self.coupling_weight = _bounds(problem, number), np.float32(energy.coupling_weight)
        classes, self.pixels = self.image.target.shape
        self.halo = self.weights.shape[1] - self.pixels
        self.blocks = self._blocks(grain // classes)
        self.point, self.trial = (self._new_point(classes) for _ in range(2))
        np.sqrt(labels.flatten(1).numpy(), out=self._inside(self.point.roots))
        self.point.gradient[:] = 0
        self.direction = working_array(self, (classes, self.pixels), np.float32)
        self.direction[:] = 0
        self.turning = NO_TURN

    def _new_point(self, classes: int) -> descent.Point:
        """Memory for a point; the margins hold labels, whose products are finite."""
        roots = working_array(self, (classes, self.pixels + 2 * self.halo), np.float32)
        for margin in (roots[:, : self.halo], roots[:, self.halo + self.pixels :]):
            margin[:] = 0
            margin[0] = 1
        gradient = working_array(self, (classes, self.pixels), np.float32)
        return descent.Point(roots, gradient, np.empty(self.pixels, np.float32))

    def _inside(self, roots: Array) -> Array:
        """Without the margins."""
        return roots[:, self.halo : self.halo + self.pixels]

    def write_labels(self, to: Tensor) -> None:
        """To ``[k *s]``."""
        roots = self._inside(self.point.roots)
        torch.square(torch.from_numpy(roots), out=to.view(len(roots), -1))

    def _blocks(self, cached: int) -> list[tuple[int, int]]:
        """The pixels in blocks. Neither they nor the sums depend on the number of threads.

        `cached` pixels at a time stay in a cache from the move to the measure; a few more blocks, if there is room for
        their halos, are for threads. None is so short that seams would meet.
        """
        least = 4 * self.halo + LEAST_PIXELS
        some = min(FEW_BLOCKS, self.pixels // (4 * least))
        return split_range(self.pixels, max(self.pixels // max(cached, least), some, 1))

    def ranges(self, threads: int) -> list[tuple[int, int]]:
        """The blocks cut into at most this many ranges: first and last of each."""
        return split_range(len(self.blocks), min(threads, len(self.blocks)))

    def seams(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """The pixels on both sides of each border between ranges whose trial both of them read."""
        ends = [self.blocks[last - 1][1] for _, last in ranges[:-1]]
        return [(max(end - self.halo, 0), min(end + self.halo, self.pixels)) for end in ends]

    def step(self, rate: float, first: int, last: int, moved: int, until: int) -> list[tuple[float, ...]]:
        """Move and measure a range of blocks; returns the numbers of `Trial` for each.

        Pixels before `moved` and from `until` on are seams, moved already.
        """
        found = []
        for start, stop in self.blocks[first:last]:
            ahead = min(stop + self.halo, until)
            if moved < ahead:
                self.move(rate, moved, ahead)
                moved = ahead
            found.append(self.measure(start, stop))
        return found

    def move(self, rate: float, first: int, last: int) -> None:
        """Roots of the trial in a range of pixels; the direction turns first where that is due."""
        step = self.direction, self.turning, np.float32(rate), self.bounds
        descent.move(self.point, *step, self.trial.roots, first, last)

    def measure(self, first: int, last: int) -> tuple[float, ...]:
        """The numbers of `Trial` of a range of pixels; writes gradient and curvature of the trial."""
        image, trial, halo, count = self.image, self.trial, self.halo, last - first
        offsets, free = image.offsets, image.free[first:last]
        dots, target_dots = np.empty((len(offsets), halo + count), np.float32), np.empty(count, np.float32)
        norms, by_norms, curvatures = (np.empty(halo + count + halo, np.float32) for _ in range(3))
        descent.products(trial.roots, image.target, offsets, dots, norms, target_dots, first, last)
        energy = self.add_pairs(self.weights, offsets, dots, norms, by_norms, curvatures, first)
        inside = curvatures[halo : halo + count]
        energy += self.add_couplings(self.coupling_weight, free, target_dots, inside, LEAST)
        trial.curvature[first:last] = inside
        derivatives = descent.Derivatives(dots, by_norms, target_dots)
        old, along = self.point.gradient, self.direction
        return energy, *descent.gradients(image, old, along, trial, derivatives, first, last)

    def accept(self) -> None:
        self.point, self.trial = self.trial, self.point

    def turn(self, beta: float, rate: float) -> None:
        self.turning = descent.Turn(True, np.float32(beta), np.float32(rate))


LEAST = np.float32(LEAST_CURVATURE)
NO_TURN = descent.Turn(False, *np.zeros(2, np.float32))


def _image_data(problem: Problem, number: int) -> tuple[descent.ImageData, Array]:
    """With the weights of the pairs (`flat_weights`)."""
    assert isinstance(problem.affinity, Stencil), "checked by `supports`"
    offsets, weights = flat_weights(problem.affinity, number, problem.energy.pairwise_weight)
    target, free = flat_target(problem, number).numpy(), flat_free(problem, number).numpy()
    return descent.ImageData(target, free, np.array(offsets)), weights.numpy()


def _bounds(problem: Problem, number: int) -> descent.Bounds:
    allowed = np.ones(problem.probs.shape[1], np.float32)
    if problem.classes is not None:
        allowed = problem.classes[number].float().numpy()
    floor = np.float32(ROOT_FLOOR) * flat_free(problem, number).numpy()
    return descent.Bounds(floor, allowed, np.float32(ROOT_LEFT), np.float32(ROOT_REACH))


class CompiledSearch:
    """Line search on square roots of labels (`coordinates.SQUARE_ROOTS`) for problems that `row_search.supports`.

    Takes the steps of `RowSearch`, and of `TorchSearch` but for rounding. Memory: six times the labels, prediction
    included. `grain`: labels at a time; it changes the order of sums only.
    """

    def __init__(self, problem: Problem, labels: Float[Tensor, "b k *s"], grain: int = GRAIN) -> None:
        self._shape = tuple(labels.shape)
        self._images = [_ImageSearch(problem, number, own, grain) for number, own in enumerate(labels)]

    def labels(self) -> Float[Tensor, "b k *s"]:
        """A copy: one pass over the labels."""
        labels = torch.empty(self._shape)
        for image, own in zip(self._images, labels, strict=True):
            image.write_labels(own)
        return labels

    def evaluate(self, rate: PerImage, done: Bool[Tensor, " b"]) -> Trial:
        """One pass over the pixels of the images that are not done; directions that turn do so in the same pass."""
        threads, rates = num_threads(), rate.tolist()
        waiting = [number for number, end in enumerate(done.tolist()) if not end]
        within, _ = split_threads(len(waiting))
        seams, tasks, numbers = [], [], []
        for number in waiting:
            image = self._images[number]
            ranges = image.ranges(within)
            between = image.seams(ranges)
            seams += [partial(image.move, rates[number], *seam) for seam in between]
            starts, stops = [0, *(last for _, last in between)], [first for first, _ in between]
            steps = zip(ranges, starts, [*stops, image.pixels], strict=True)
            tasks += [partial(image.step, rates[number], *part, *ends) for part, *ends in steps]
            numbers += [number] * len(ranges)
        for seam in seams:  # too short to wake a thread for
            seam()
        sums = np.zeros((len(self._images), 5))
        for number, parts in zip(numbers, run_parallel(tasks, threads), strict=True):
            for part in parts:  # one by one: the order of blocks is that for any number of threads
                sums[number] += part
            self._images[number].turning = NO_TURN
        return Trial(*torch.from_numpy(sums).unbind(1))

    def accept(self, images: Bool[Tensor, " b"]) -> None:
        """No pass over the pixels: points are exchanged."""
        for image in compress(self._images, images.tolist()):
            image.accept()

    def turn(self, images: Bool[Tensor, " b"], beta: PerImage, rate: PerImage) -> None:
        """No pass over the pixels: the next `evaluate` turns each direction just before it moves along it."""
        turns = zip(self._images, beta.tolist(), rate.tolist(), strict=True)
        for image, *how in compress(turns, images.tolist()):
            image.turn(*how)
