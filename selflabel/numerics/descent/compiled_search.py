"""Steps on roots of labels, compiled: one pass over the pixels a step (`selflabel.kernels.cpu.descent`)."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selflabel.affinity.stencil import Stencil, boxes
from selflabel.kernels.cpu.compile import Array
from selflabel.kernels.cpu.descent import LEAST_ROOT, couplings_of, move, pairs_of, products, slopes
from selflabel.kernels.threads import num_threads, run_parallel, split_range, split_threads
from selflabel.numerics.descent.line_search import PerImage, Trial
from selflabel.problem import Problem

GRAIN = 96_000
"""Labels at a time, unless the halo is larger: they stay in a near cache from one kernel to the next."""

LEAST_PART = 512
"""Pixels that are worth a thread."""

TINY = 1e-20
"""Weights and predictions below count as zero."""


def supports(problem: Problem) -> bool:
    """Whether the energy is one of products over pairs at fixed offsets, on the CPU in float32.

    Not with windows of so many offsets that their weights, which are copied, would be larger than what is saved.
    """
    energy, affinity, probs = problem.energy, problem.affinity, problem.probs
    return (
        isinstance(affinity, Stencil)
        and len(affinity.offsets) <= 2 * probs.shape[1]
        and energy.coupling.product is not None
        and not energy.entropy_weight
        and probs.device.type == "cpu"
        and probs.dtype == affinity.weights[0].dtype == torch.float32
    )


def _flat_weights(affinity: Stencil, number: int, scale: float) -> tuple[Array, Array]:
    """How many pixels further the second one of each pair is, and weights by the first one's position.

    Positions count from `halo` before the first pixel; where nothing is that far away, weights are zero.
    """
    strides = [math.prod(affinity.size[axis + 1 :]) for axis in range(len(affinity.size))]
    steps = [sum(o * s for o, s in zip(offset, strides, strict=True)) for offset in affinity.offsets]
    offsets = np.abs(np.array(steps))
    halo, count = int(offsets.max()), math.prod(affinity.size)
    weights = torch.zeros(len(steps), halo + count)
    for weight, row, step, offset in zip(affinity.weights, weights, steps, affinity.offsets, strict=True):
        first, second = boxes(offset, affinity.size)
        row[halo:].view(affinity.size)[first if step > 0 else second] = scale * weight[number, 0]
    return offsets, _normal(weights).numpy()


def _normal(numbers: Tensor) -> Tensor:
    """Without those whose products may be denormal: the processor is slow with these, and they change no sum."""
    return torch.nn.functional.hardshrink(numbers, TINY)


class _Image:
    """One image of a problem, its roots and what a step changes: arrays ``[k n]``, roots with a margin."""

    def __init__(self, problem: Problem, number: int, labels: Float[Tensor, "k *s"]) -> None:
        energy = problem.energy
        product = energy.coupling.product
        assert isinstance(problem.affinity, Stencil)
        assert product is not None
        self.pairs, self.couplings = pairs_of(energy.relaxation), couplings_of(energy.coupling)
        self.weight = np.float32(energy.coupling_weight)
        self.offsets, self.weights = _flat_weights(problem.affinity, number, energy.pairwise_weight)
        self.target = _normal(product.target(problem.probs[number])).flatten(1).contiguous().numpy()
        free = problem.free[number].flatten().float().numpy()
        self.free, self.twice, self.floor = free, 2 * free, LEAST_ROOT * free
        classes, self.pixels = self.target.shape
        allowed = np.ones(classes, np.bool_) if problem.classes is None else problem.classes[number].numpy()
        self.allowed = allowed.astype(np.float32)
        self.halo = self.weights.shape[1] - self.pixels
        self.roots, self.trial = np.empty((2, classes, self.pixels + 2 * self.halo), np.float32)
        for margin in (self._margins(self.roots), self._margins(self.trial)):
            for values in margin:
                values[:] = 0
                values[0] = 1  # labels of no pixel; their products are finite
        np.sqrt(labels.flatten(1).numpy(), out=self._inside(self.roots))
        self.direction, self.gradient = np.zeros((2, classes, self.pixels), np.float32)
        self.trial_gradient = np.empty((classes, self.pixels), np.float32)
        self.curvature, self.trial_curvature = np.empty((2, self.pixels), np.float32)
        self.turns, self.conjugacy = False, 0.0

    def _margins(self, roots: Array) -> tuple[Array, Array]:
        return roots[:, : self.halo], roots[:, self.halo + self.pixels :]

    def _inside(self, roots: Array) -> Array:
        """Without the margin."""
        return roots[:, self.halo : self.halo + self.pixels]

    def write_labels(self, to: Tensor) -> None:
        """To ``[k *s]``."""
        torch.square(torch.from_numpy(self._inside(self.roots)), out=to.view(len(self.roots), -1))

    def ranges(self, threads: int) -> list[tuple[int, int]]:
        """Parts of the pixels for so many threads: none so short that seams would meet."""
        return split_range(self.pixels, max(min(threads, self.pixels // (4 * self.halo + LEAST_PART)), 1))

    def seams(self, parts_: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """The pixels that measures on both sides of an end of a part look at."""
        ends = sorted({last for _, last in parts_} - {self.pixels})
        return [(max(end - self.halo, 0), min(end + self.halo, self.pixels)) for end in ends]

    def step(self, rate: float, first: int, last: int, moved: int, until: int) -> Array:
        """The numbers of a `Trial` of a part of the pixels, a range at a time: what is moved is measured in the cache.

        The pixels before `moved` and from `until` on are where the trial has them.
        """
        size = max(GRAIN // len(self.target), 2 * self.halo, LEAST_PART)
        sums = np.zeros(5)
        for start, stop in split_range(last - first, max((last - first) // size, 1)):
            ahead = min(first + stop + self.halo, until)
            if moved < ahead:
                self.move(rate, moved, ahead)
                moved = ahead
            sums += self.measure(first + start, first + stop)
        return sums

    def move(self, rate: float, first: int, last: int) -> None:
        """The trial's roots of a range of pixels."""
        turn = self.gradient, self.curvature, self.turns, np.float32(self.conjugacy)
        step = self.direction, np.float32(rate), self.floor, self.allowed
        move(self.roots, *turn, *step, self.halo, self.trial, first, last)

    def measure(self, first: int, last: int) -> tuple[float, ...]:
        """The numbers of a `Trial`, summed over a range of pixels; writes their gradients."""
        count, offsets, halo = last - first + self.halo, self.offsets, self.halo
        dots, fixed = np.empty((len(offsets), count), np.float32), np.empty(last - first, np.float32)
        norms, own, curvature = (np.empty(count + halo, np.float32) for _ in range(3))
        products(self.trial, self.target, offsets, halo, dots, norms, fixed, first, last)
        value = self.pairs(self.weights, dots, norms, offsets, halo, own, curvature, first)
        value += self.couplings(self.weight, self.free[first:last], fixed, curvature[halo:count])
        self.trial_curvature[first:last] = curvature[halo:count]
        past = self.direction, self.gradient
        given = self.target, self.twice, offsets, halo, dots, own, fixed, self.trial_curvature
        return value, *slopes(self.trial, *given, *past, self.trial_gradient, first, last)

    def follow(self, accepted: bool, turns: bool, conjugacy: float) -> None:
        """The trial becomes where it stands if accepted; the direction turns when it is moved along next."""
        if accepted:
            self.roots, self.trial = self.trial, self.roots
            self.gradient, self.trial_gradient = self.trial_gradient, self.gradient
            self.curvature, self.trial_curvature = self.trial_curvature, self.curvature
        self.turns, self.conjugacy = turns, conjugacy


class CompiledSearch:
    """Roots of labels (`coordinates.SQUARE_ROOTS`) for problems that fit (`supports`).

    Takes the steps that `TorchSearch` takes, but for rounding. Memory: six times the labels, prediction included.
    """

    def __init__(self, problem: Problem, labels: Float[Tensor, "b k *s"]) -> None:
        self._shape = tuple(labels.shape)
        self._images = [_Image(problem, number, own) for number, own in enumerate(labels)]

    def labels(self) -> Float[Tensor, "b k *s"]:
        """A copy."""
        labels = torch.empty(self._shape)
        for image, own in zip(self._images, labels, strict=True):
            image.write_labels(own)
        return labels

    def attempt(self, rate: PerImage, done: Bool[Tensor, " b"]) -> Trial:
        """One pass over the pixels of the images that are not done."""
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
        for number, part in zip(numbers, run_parallel(tasks, threads), strict=True):
            sums[number] += part
            self._images[number].turns = False
        return Trial(*torch.from_numpy(sums).unbind(1))

    def follow(self, accepted: Bool[Tensor, " b"], turning: Bool[Tensor, " b"], conjugacy: PerImage) -> None:
        """No pass over the pixels: that is left to the next attempt."""
        given = accepted.tolist(), turning.tolist(), conjugacy.tolist()
        for image, *how in zip(self._images, *given, strict=True):
            image.follow(*how)
