"""Steps on roots of labels, compiled: two passes over the pixels a step (`selflabel.slopes`)."""

import math
from functools import partial
from itertools import compress

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selflabel.affinity.stencil import Stencil, boxes
from selflabel.kernels.compile import Array, in_parallel, num_threads, parts
from selflabel.paths import PerImage, Trial
from selflabel.problem import Problem
from selflabel.slopes import BLOCK, LEAST_ROOT, couplings_of, move, pairs_of, products, slopes

GRAIN = 32_000
"""Pairs at a time, unless the halo is larger: they stay in the second nearest cache from one kernel to the next."""

TINY = 1e-20
"""Weights and predictions below count as zero."""


def fits(problem: Problem) -> bool:
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
    """One image of a problem, its labels and what a step changes: arrays ``[k n]``, labels with a margin."""

    def __init__(self, problem: Problem, number: int, labels: Float[Tensor, "k *s"]) -> None:
        energy = problem.energy
        product = energy.coupling.product
        assert isinstance(problem.affinity, Stencil)
        assert product is not None
        self.pairs, self.couplings = pairs_of(energy.relaxation), couplings_of(energy.coupling)
        self.weight = np.float32(energy.coupling_weight)
        self.offsets, self.weights = _flat_weights(problem.affinity, number, energy.pairwise_weight)
        self.target = _normal(product.target(problem.probs[number])).flatten(1).contiguous().numpy()
        self.free = problem.free[number].flatten().float().numpy()
        self.floor = LEAST_ROOT * self.free
        classes, self.pixels = self.target.shape
        allowed = np.ones(classes, np.bool_) if problem.classes is None else problem.classes[number].numpy()
        self.allowed = allowed.astype(np.float32)
        self.halo = self.weights.shape[1] - self.pixels
        self.labels, self.trial = np.empty((2, classes, self.pixels + 2 * self.halo), np.float32)
        for margin in (self._margins(self.labels), self._margins(self.trial)):
            for values in margin:
                values[:] = 0
                values[0] = 1  # labels of no pixel; their products are finite
        self.inside(self.labels)[:] = labels.flatten(1).numpy()
        self.direction, self.gradient = np.zeros((2, classes, self.pixels), np.float32)
        self.trial_gradient, self.natural = np.empty((2, classes, self.pixels), np.float32)
        self.turns, self.conjugacy = False, 0.0

    def _margins(self, labels: Array) -> tuple[Array, Array]:
        return labels[:, : self.halo], labels[:, self.halo + self.pixels :]

    def inside(self, labels: Array) -> Array:
        """Without the margin."""
        return labels[:, self.halo : self.halo + self.pixels]

    def ranges(self, threads: int) -> list[tuple[int, int]]:
        """Parts that fit a cache, as many for each thread."""
        size = max(GRAIN // len(self.offsets) - self.halo, 2 * self.halo, BLOCK)
        return parts(self.pixels, threads * -(-self.pixels // (threads * size)))

    def move(self, rate: float, first: int, last: int) -> None:
        """The trial's labels of a range of pixels."""
        turn = self.natural, self.turns, np.float32(self.conjugacy)
        step = self.direction, np.float32(rate), self.floor, self.allowed
        move(self.labels, *turn, *step, self.halo, self.trial, first, last)

    def measure(self, first: int, last: int) -> tuple[float, float, float, float]:
        """The numbers of a `Trial`, summed over a range of pixels; writes their gradients."""
        count, offsets, halo = last - first + self.halo, self.offsets, self.halo
        dots, fixed = np.empty((len(offsets), count), np.float32), np.empty(last - first, np.float32)
        norms, own, stiffness = (np.empty(count + halo, np.float32) for _ in range(3))
        products(self.trial, self.target, offsets, halo, dots, norms, fixed, first, last)
        value = self.pairs(self.weights, dots, norms, offsets, halo, own, stiffness, first)
        value += self.couplings(self.weight, self.free[first:last], fixed, stiffness[halo:count])
        past, found = (self.direction, self.gradient), (self.trial_gradient, self.natural)
        given = self.target, self.free, offsets, halo, dots, own, fixed, stiffness
        return value, *slopes(self.trial, *given, *past, *found, first, last)

    def follow(self, conjugacy: float) -> None:
        """The trial becomes where it stands; the direction turns when it is moved along next."""
        self.labels, self.trial = self.trial, self.labels
        self.gradient, self.trial_gradient = self.trial_gradient, self.gradient
        self.turns, self.conjugacy = True, conjugacy


class RootPath:
    """Roots of labels (`selflabel.coordinates.ROOTS`) for problems that fit (`fits`).

    Takes the steps that `TorchPath` takes, but for rounding. Memory: six times the labels.
    """

    def __init__(self, problem: Problem, labels: Float[Tensor, "b k *s"]) -> None:
        self._shape = tuple(labels.shape)
        self._images = [_Image(problem, number, own) for number, own in enumerate(labels)]

    @property
    def labels(self) -> Float[Tensor, "b k *s"]:
        """A view of a single image, a copy of several."""
        found = [torch.from_numpy(image.inside(image.labels)) for image in self._images]
        stacked = found[0][None] if len(found) == 1 else torch.stack(found)
        return stacked.view(self._shape)

    def attempt(self, rate: PerImage, done: Bool[Tensor, " b"]) -> Trial:
        """Two passes over the pixels of the images that are not done."""
        threads, waiting, rates = num_threads(), (~done).tolist(), rate.tolist()
        images = list(compress(enumerate(self._images), waiting))
        moves = [
            partial(image.move, rates[number], *part)
            for number, image in images
            for part in parts(image.pixels, threads)
        ]
        in_parallel(moves, threads)
        tasks = [
            (number, partial(image.measure, *part))
            for number, image in images
            for part in image.ranges(threads)
        ]
        found = in_parallel([task for _, task in tasks], threads)
        for image in compress(self._images, waiting):
            image.turns = False
        sums = torch.zeros(len(waiting), 4, dtype=torch.float64)
        for (number, _), part in zip(tasks, found, strict=True):
            sums[number] += torch.tensor(part, dtype=torch.float64)
        return Trial(*sums.unbind(1))

    def follow(self, accepted: Bool[Tensor, " b"], conjugacy: PerImage) -> None:
        """No pass over the pixels: that is left to the next attempt."""
        for image, yes, factor in zip(self._images, accepted.tolist(), conjugacy.tolist(), strict=True):
            if yes:
                image.follow(factor)
