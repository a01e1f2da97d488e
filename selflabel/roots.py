"""Steps on roots of labels, compiled: two passes over the pixels a step, for sparse energies of products.

Labels stay class by class, as torch has them, and an image is one row of pixels: a neighbor is a fixed number of
pixels away, and where that leads across the border, the weight is zero. So all loops run along pixels, in vectors,
for any number of classes, axes and offsets.

The formulas are those of `selflabel.terms`: some thousand pixels at a time, one kernel takes the products of their
pairs, another evaluates the relaxation and its derivatives, a third makes gradients of them.
"""

import math
from functools import cache, partial
from itertools import compress
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selflabel.affinity.stencil import Stencil, boxes
from selflabel.coordinates import LEAST_STIFFNESS, ROOT_FLOOR
from selflabel.formulas import of_numbers, specialized
from selflabel.kernels.compile import Array, in_parallel, kernel, num_threads, parts
from selflabel.paths import PerImage, Trial
from selflabel.problem import Problem
from selflabel.terms import Coupling, Product, Relaxation

GRAIN = 32_000
"""Pairs at a time, unless the halo is larger: torch computes with so many on one thread; another has its own."""

BLOCK = 512
"""Pixels at a time: their gradients stay in the nearest cache from one loop to the next."""

LEAST_ROOT = np.float32(ROOT_FLOOR)
LEAST = np.float32(LEAST_STIFFNESS)
TINY = 1e-20
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
def _products(labels, target, offsets, halo, dots, norms, fixed, first, last):
    """``y_i·y_j`` of the pairs of a range of pixels, ``‖y_i‖²`` there and in the halos, and ``y_i·t_i``."""
    count = last - first + halo
    dots[:], norms[:], fixed[:] = 0, 0, 0
    for start in range(0, count + halo, BLOCK):
        stop = min(start + BLOCK, count + halo)
        short, inner = min(stop, count), max(start, halo)
        for k in range(len(labels)):
            label = labels[k, first : first + count + halo]
            _add_product(norms[start:stop], label[start:stop], label[start:stop])
            if start < short:
                for m in range(offsets.size):
                    other = label[start + offsets[m] : short + offsets[m]]
                    _add_product(dots[m, start:short], label[start:short], other)
            if inner < short:
                own = target[k, first + inner - halo : first + short - halo]
                _add_product(fixed[inner - halo : short - halo], own, label[inner:short])


def value(dot, pp, qq):
    """Of a relaxation; `slope` and `norm_slope` as well: see `_pairs_of`."""


slope = norm_slope = value


def _pairs(weights, dots, norms, offsets, halo, own, stiffness, first):
    """Replaces products by ``∂/∂dot``, adds up ``2 ∂/∂‖y_i‖²`` and ``-∂/∂dot`` by pixel; returns the values' sum.

    Values of those pairs alone whose first pixel is not in the halo: others belong to another range, or to none.
    """
    total, count = 0.0, dots.shape[1]
    own[:], stiffness[:] = 0, 0
    for m in range(offsets.size):
        dot, weight = dots[m], weights[m, first : first + count]
        pp, qq = norms[:count], norms[offsets[m] : offsets[m] + count]
        part = np.float32(0)
        for i in range(halo, count):
            part += weight[i] * value(dot[i], pp[i], qq[i])
        total += part
        to = own[:count]
        for i in range(count):
            to[i] += TWO * weight[i] * norm_slope(dot[i], pp[i], qq[i])
        to = own[offsets[m] : offsets[m] + count]
        for i in range(count):
            to[i] += TWO * weight[i] * norm_slope(dot[i], qq[i], pp[i])
        for i in range(count):
            dot[i] = weight[i] * slope(dot[i], pp[i], qq[i])
        _add_scaled(stiffness[:count], -ONE, dot)
        _add_scaled(stiffness[offsets[m] : offsets[m] + count], -ONE, dot)
    return total


def value_of_product(dot):
    """Of a coupling; `slope_of_product` and `stiffness_of_product` as well: see `_couplings_of`."""


slope_of_product = stiffness_of_product = value_of_product


def _couplings(weight, free, fixed, stiffness):
    """Replaces products by ``∂/∂dot``, adds to the stiffness; returns the values' sum."""
    total = np.float32(0)
    for i in range(fixed.size):
        total += weight * free[i] * value_of_product(fixed[i])
    for i in range(fixed.size):
        stiffness[i] += weight * stiffness_of_product(fixed[i])
    for i in range(fixed.size):
        stiffness[i] = stiffness[i] if stiffness[i] > LEAST else LEAST
        fixed[i] = weight * slope_of_product(fixed[i])
    return total


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


# Three loops and not one: LLVM vectorizes none in which it had to tell so many arrays apart.


@kernel
def _by_roots(label, mean, free, slope):
    """``2 u (g - y·g)``, the gradient by the roots, in place of that by the labels."""
    for i in range(slope.size):
        slope[i] = TWO * math.sqrt(label[i]) * (slope[i] - mean[i]) * free[i]


@kernel
def _natural(label, slope, stiffness, natural):
    """``u (g - y·g)`` over the damped stiffness ``2 u h + (g - y·g)⁺``."""
    for i in range(slope.size):
        root = math.sqrt(label[i])
        root = root if root > LEAST_ROOT else LEAST_ROOT  # excluded classes have none
        half = np.float32(0.5) * slope[i]
        uphill = half if half > 0 else np.float32(0)
        natural[i] = half / (uphill / root + TWO * root * stiffness[i])


@kernel
def _inner_products(slope, natural, direction, old):
    along, steepest, mixed = np.float32(0), np.float32(0), np.float32(0)
    for i in range(slope.size):
        along += direction[i] * slope[i]
        steepest += natural[i] * slope[i]
        mixed += natural[i] * old[i]
    return along, steepest, mixed


@kernel
def _slopes(
    labels, target, free, offsets, halo, pull, own, drive, stiffness, direction, old, gradient, natural, first, last
):
    """Gradients of a range of pixels, from the derivatives of their pairs and of their couplings."""
    along, steepest, mixed = 0.0, 0.0, 0.0
    means = np.empty(BLOCK, np.float32)
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        size, here = stop - start, start - first + halo
        mean = means[:size]
        mean[:] = 0
        position, drives = start + halo, drive[start - first : stop - first]
        stiff, itself = stiffness[here : here + size], own[here : here + size]
        for k in range(len(labels)):
            slope = gradient[k, start:stop]
            _gradient(labels[k], target[k, start:stop], pull, offsets, position, itself, drives, here, slope)
            _add_product(mean, labels[k, position : position + size], slope)
        for k in range(len(labels)):
            label, slope = labels[k, position : position + size], gradient[k, start:stop]
            steep = natural[k, start:stop]
            _by_roots(label, mean, free[start:stop], slope)
            _natural(label, slope, stiff, steep)
            a, b, c = _inner_products(slope, steep, direction[k, start:stop], old[k, start:stop])
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


@cache
def _pairs_of(relaxation: Relaxation) -> Any:
    def flat(dot: Any, pp: Any, qq: Any) -> float:
        return 0.0

    by_norm = flat if relaxation.norm_slope is None else relaxation.norm_slope
    formulas = {"value": relaxation.value, "slope": relaxation.slope, "norm_slope": by_norm}
    return specialized(_pairs, relaxation.name, **{name: of_numbers(f) for name, f in formulas.items()})


@cache
def _couplings_of(coupling: Coupling) -> Any:
    product = coupling.product
    assert product is not None
    return specialized(
        _couplings,
        coupling.name,
        value_of_product=of_numbers(product.value),
        slope_of_product=of_numbers(product.slope),
        stiffness_of_product=of_numbers(product.stiffness),
    )


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
    return torch.where(numbers.abs() < TINY, 0.0, numbers)


class _Image:
    """One image of a problem, its labels and what a step changes: arrays ``[k n]``, labels with a margin."""

    def __init__(self, problem: Problem, product: Product, number: int, labels: Float[Tensor, "k *s"]) -> None:
        energy = problem.energy
        assert isinstance(problem.affinity, Stencil)
        self.pairs, self.couplings = _pairs_of(energy.relaxation), _couplings_of(energy.coupling)
        self.weight = np.float32(energy.coupling_weight)
        self.offsets, self.weights = _flat_weights(problem.affinity, number, energy.pairwise_weight)
        self.target = _normal(product.target(problem.probs[number])).flatten(1).numpy()
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
        _move(self.labels, *turn, *step, self.halo, self.trial, first, last)

    def measure(self, first: int, last: int) -> tuple[float, float, float, float]:
        """The numbers of a `Trial`, summed over a range of pixels; writes their gradients."""
        count, offsets, halo = last - first + self.halo, self.offsets, self.halo
        dots, fixed = np.empty((len(offsets), count), np.float32), np.empty(last - first, np.float32)
        norms, own, stiffness = (np.empty(count + halo, np.float32) for _ in range(3))
        _products(self.trial, self.target, offsets, halo, dots, norms, fixed, first, last)
        value = self.pairs(self.weights, dots, norms, offsets, halo, own, stiffness, first)
        value += self.couplings(self.weight, self.free[first:last], fixed, stiffness[halo:count])
        past, found = (self.direction, self.gradient), (self.trial_gradient, self.natural)
        given = self.target, self.free, offsets, halo, dots, own, fixed, stiffness
        return value, *_slopes(self.trial, *given, *past, *found, first, last)

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
