"""Steps on roots of labels, compiled: two passes over the pixels a step, for sparse energies of products.

Labels stay class by class, as torch has them, and an image is one row of pixels: a neighbor is a fixed number of
pixels away, and where that leads across the border, the weight is zero. So all loops run along pixels, in vectors,
for any number of classes, axes and offsets.

The formulas are those of `selflabel.terms`: one kernel takes the products of some thousand pairs, torch evaluates
the relaxation and its derivatives there (of numbers, not of distributions), another kernel makes gradients of them.
"""

import math
from functools import partial
from itertools import compress

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selflabel.affinity.stencil import Stencil, boxes
from selflabel.coordinates import LEAST_STIFFNESS, ROOT_FLOOR
from selflabel.kernels.compile import Array, in_parallel, kernel, num_threads, parts
from selflabel.paths import PerImage, Trial
from selflabel.problem import Problem
from selflabel.terms import Product

GRAIN = 32_000
"""Pairs at a time, unless the halo is larger: torch computes with so many on one thread; another has its own."""

BLOCK = 512
"""Pixels at a time: their gradients stay in the nearest cache from one loop to the next."""

LEAST_ROOT = np.float32(ROOT_FLOOR)
LEAST = np.float32(LEAST_STIFFNESS)
ONE, TWO = np.float32(1), np.float32(2)


# --- kernels --------------------------------------------------------------------------------------------------
# Labels have a margin of `halo` pixels at both ends, so that all neighbors of a range of pixels are there: it is
# ``first + halo <= position < last + halo`` in them. The pairs of a range are those whose first pixel is in it or
# in the halo before it.


@kernel
def _add_product(to, a, b):
    for i in range(to.size):
        to[i] += a[i] * b[i]


@kernel
def _add_scaled(to, scale, x):
    for i in range(to.size):
        to[i] += scale * x[i]


@kernel
def _products(labels, target, offsets, halo, dots, others, norms, fixed, first, last):
    """``y_i·y_j`` and ``‖y_j‖²`` of the pairs of a range of pixels, ``‖y_i‖²`` there and beyond, and ``y_i·t_i``."""
    count = last - first + halo
    dots[:], norms[:], fixed[:] = 0, 0, 0
    for start in range(0, count + halo, BLOCK):
        stop = min(start + BLOCK, count + halo)
        norm = norms[start:stop]
        for k in range(len(labels)):
            label = labels[k, first + start : first + stop]
            _add_product(norm, label, label)
            if start < count:
                short = min(stop, count)
                for m in range(offsets.size):
                    moved = first + offsets[m]
                    other = labels[k, moved + start : moved + short]
                    _add_product(dots[m, start:short], label[: other.size], other)
            inner = max(start, halo)
            if inner < min(stop, count):
                own = fixed[inner - halo : min(stop, count) - halo]
                at = first + inner - halo
                _add_product(own, target[k, at : at + own.size], label[inner - start :][: own.size])
    for m in range(offsets.size):
        others[m] = norms[offsets[m] : offsets[m] + count]


@kernel
def _gradient(label, target, pull, offsets, position, own, drive, here, gradient):
    """``Σ_j a_ij y_j + own_i y_i + drive_i t_i`` of one class in a block of pixels."""
    size = gradient.size
    itself = label[position : position + size]
    for i in range(size):
        gradient[i] = own[i] * itself[i] + drive[i] * target[i]
    for m in range(offsets.size):
        after, before = position + offsets[m], position - offsets[m]
        _add_product(gradient, pull[m, here : here + size], label[after : after + size])
        back = here - offsets[m]
        _add_product(gradient, pull[m, back : back + size], label[before : before + size])


@kernel
def _natural(label, mean, stiffness, free, direction, old, gradient, natural):
    """From the gradient by the labels: that by the roots u, ``2 u (g - y·g)``, and ``u (g - y·g)`` over the damped
    stiffness. Returns their products, as in `Trial`."""
    along, steepest, mixed = np.float32(0), np.float32(0), np.float32(0)
    for i in range(label.size):
        root = math.sqrt(label[i])
        centered = (gradient[i] - mean[i]) * free[i]
        slope = root * centered
        uphill = centered if centered > 0 else np.float32(0)
        kept = root if root > LEAST_ROOT else LEAST_ROOT  # excluded classes have none
        steep = slope / (uphill + TWO * kept * stiffness[i])
        slope *= TWO
        along += direction[i] * slope
        steepest += steep * slope
        mixed += steep * old[i]
        gradient[i], natural[i] = slope, steep
    return along, steepest, mixed


@kernel
def _slopes(
    labels,
    target,
    free,
    offsets,
    halo,
    pull,
    at_first,
    at_second,
    drive,
    hold,
    direction,
    old,
    gradient,
    natural,
    first,
    last,
):
    """Gradients of a range of pixels, from the derivatives of their pairs and of their couplings."""
    along, steepest, mixed = 0.0, 0.0, 0.0
    all_own, all_stiffness, all_means = np.empty((3, BLOCK), np.float32)
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        size, here = stop - start, start - first + halo
        own, stiffness, mean = all_own[:size], all_stiffness[:size], all_means[:size]
        own[:], mean[:] = 0, 0
        stiffness[:] = hold[start - first : stop - first]
        for m in range(offsets.size):
            back = here - offsets[m]
            _add_scaled(own, TWO, at_first[m, here : here + size])
            _add_scaled(own, TWO, at_second[m, back : back + size])
            _add_scaled(stiffness, -ONE, pull[m, here : here + size])
            _add_scaled(stiffness, -ONE, pull[m, back : back + size])
        for i in range(size):
            stiffness[i] = max(stiffness[i], LEAST)
        position, drives = start + halo, drive[start - first : stop - first]
        for k in range(len(labels)):
            slope = gradient[k, start:stop]
            _gradient(labels[k], target[k, start:stop], pull, offsets, position, own, drives, here, slope)
            _add_product(mean, labels[k, position : position + size], slope)
        for k in range(len(labels)):
            a, b, c = _natural(
                labels[k, position : position + size],
                mean,
                stiffness,
                free[start:stop],
                direction[k, start:stop],
                old[k, start:stop],
                gradient[k, start:stop],
                natural[k, start:stop],
            )
            along, steepest, mixed = along + a, steepest + b, mixed + c
    return along, steepest, mixed


@kernel
def _turn(direction, natural, conjugacy):
    for i in range(direction.size):
        direction[i] = conjugacy * direction[i] - natural[i]


@kernel
def _root_step(label, direction, rate, floor, allowed, to, mass):
    """Roots a step ahead, not below their floor; adds up their squares."""
    for i in range(to.size):
        root = math.sqrt(label[i]) + rate * direction[i]
        root = allowed * (root if root > floor[i] else floor[i])
        to[i] = root * root
        mass[i] += to[i]


@kernel
def _move(labels, natural, turns, conjugacy, direction, rate, floor, allowed, halo, to, first, last):
    """Labels a step along the direction, which is made of the last one and the natural gradient if it `turns`."""
    all_mass = np.empty(BLOCK, np.float32)
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        mass = all_mass[: stop - start]
        mass[:] = 0
        for k in range(len(labels)):
            ahead = direction[k, start:stop]
            if turns:
                _turn(ahead, natural[k, start:stop], conjugacy)
            label, moved = labels[k, start + halo : stop + halo], to[k, start + halo : stop + halo]
            _root_step(label, ahead, rate, floor[start:stop], allowed[k], moved, mass)
        for i in range(mass.size):
            mass[i] = ONE / mass[i]
        for k in range(len(labels)):
            moved = to[k, start + halo : stop + halo]
            for i in range(mass.size):
                moved[i] *= mass[i]


# --- the path -------------------------------------------------------------------------------------------------


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


def _flat_weights(affinity: Stencil, number: int, scale: float) -> tuple[Array, Float[Tensor, "m n"]]:
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
    return offsets, weights


class _Image:
    """One image of a problem, its labels and what a step changes: arrays ``[k n]``, labels with a margin."""

    def __init__(self, problem: Problem, product: Product, number: int, labels: Float[Tensor, "k *s"]) -> None:
        self.energy, self.product = problem.energy, product
        assert isinstance(problem.affinity, Stencil)
        self.offsets, self.weights = _flat_weights(problem.affinity, number, problem.energy.pairwise_weight)
        self.target = product.target(problem.probs[number]).flatten(1).numpy()
        self.free = problem.free[number].flatten().float()
        self.floor = (LEAST_ROOT * self.free).numpy()
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
        _move(self.labels, *turn, *step, self.halo, self.trial, first, last)

    def measure(self, first: int, last: int) -> tuple[float, float, float, float]:
        """The numbers of a `Trial`, summed over a range of pixels; writes their gradients."""
        relaxation, product, size = self.energy.relaxation, self.product, last - first
        count, offsets, halo = size + self.halo, self.offsets, self.halo
        dots, others = np.empty((2, len(offsets), count), np.float32)
        norms, fixed = np.empty(count + halo, np.float32), np.empty(size, np.float32)
        _products(self.trial, self.target, offsets, halo, dots, others, norms, fixed, first, last)

        dot, pp, qq = (torch.from_numpy(x) for x in (dots, norms[:count], others))
        weight, free = self.weights[:, first : last + halo], self.free[first:last]
        own = slice(halo, None)  # pairs of the halo belong to other ranges, or to none
        potts = weight[:, own] * relaxation.value(dot[:, own], pp[own], qq[:, own])
        pull = weight * relaxation.slope(dot, pp, qq)
        if relaxation.norm_slope is None:
            at_first = at_second = torch.zeros_like(pull)
        else:
            at_first = weight * relaxation.norm_slope(dot, pp, qq)
            at_second = weight * relaxation.norm_slope(dot, qq, pp)
        coupling, similar = self.energy.coupling_weight, torch.from_numpy(fixed)
        value = float(potts.sum()) + coupling * float(free.dot(product.value(similar)))
        drive, hold = coupling * product.slope(similar), coupling * product.stiffness(similar)

        derivatives = [x.numpy() for x in (pull, at_first, at_second, drive, hold)]
        past = self.direction, self.gradient
        sums = _slopes(
            self.trial,
            self.target,
            self.free.numpy(),
            offsets,
            halo,
            *derivatives,
            *past,
            self.trial_gradient,
            self.natural,
            first,
            last,
        )
        return value, *sums

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
        product = problem.energy.coupling.product
        assert product is not None
        self._shape = tuple(labels.shape)
        self._images = [_Image(problem, product, number, own) for number, own in enumerate(labels)]

    @property
    def labels(self) -> Float[Tensor, "b k *s"]:
        """A view of a single image, a copy of several."""
        found = [torch.from_numpy(image.inside(image.labels)) for image in self._images]
        stacked = found[0][None] if len(found) == 1 else torch.stack(found)
        return stacked.unflatten(2, self._shape[2:])

    def attempt(self, rate: PerImage, done: Bool[Tensor, " b"]) -> Trial:
        """Two passes over the pixels of the images that are not done."""
        threads, waiting = num_threads(), (~done).tolist()
        tasks = [
            (number, image, part)
            for number, image in compress(enumerate(self._images), waiting)
            for part in image.ranges(threads)
        ]
        rates = rate.tolist()
        in_parallel([partial(image.move, rates[number], *part) for number, image, part in tasks], threads)
        found = in_parallel([partial(image.measure, *part) for _, image, part in tasks], threads)
        for image in compress(self._images, waiting):
            image.turns = False
        sums = torch.zeros(len(waiting), 4, dtype=torch.float64)
        for (number, _, _), part in zip(tasks, found, strict=True):
            sums[number] += torch.tensor(part, dtype=torch.float64)
        return Trial(*sums.unbind(1))

    def follow(self, accepted: Bool[Tensor, " b"], conjugacy: PerImage) -> None:
        """No pass over the pixels: that is left to the next attempt."""
        for image, yes, factor in zip(self._images, accepted.tolist(), conjugacy.tolist(), strict=True):
            if yes:
                image.follow(factor)
