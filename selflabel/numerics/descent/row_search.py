"""Line search on square roots of labels in torch, for where there is no Numba: the numbers of `compiled_search`.

Both take every operation in the same order, each rounded by itself; sums over an image are in double precision. So the
steps are the same, bit for bit. That matters: along some tens of steps on energies with many minima, a difference in
the last digit grows until labels differ.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import compress

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selflabel.affinity.stencil import Stencil, boxes
from selflabel.numerics.descent.coordinates import LEAST_CURVATURE, ROOT_FLOOR, ROOT_LEFT, ROOT_REACH
from selflabel.numerics.descent.line_search import PerImage, Trial
from selflabel.problem import Problem
from selflabel.terms import COLLISION, RELAXATIONS, STANDARD, Relaxation, total

COUPLINGS = (STANDARD, COLLISION)
"""Couplings that are supported, by value."""

GRAIN = 96_000
"""Labels (pixels times classes) at a time: they stay in a near cache from one operation to the next."""

TINY = 1e-20
"""Weights and predictions below this count as zero."""

LEAST_ROOT = 1e-12
"""Divisor in place of the root of an excluded class, which is zero."""


def supports(problem: Problem) -> bool:
    """Grids and windows in float32 on the CPU, energies of these functions, no entropy, costs or further terms.

    Windows of more than two offsets a class run in `TorchSearch`: copies of their weights cost more than is saved.
    """
    energy, affinity, probs = problem.energy, problem.affinity, problem.probs
    return (
        isinstance(affinity, Stencil)
        and len(affinity.offsets) <= 2 * probs.shape[1]
        and energy.relaxation in RELAXATIONS
        and energy.coupling in COUPLINGS
        and not energy.entropy_weight
        and not energy.regularizers
        and problem.costs is None
        and probs.device.type == "cpu"
        and probs.dtype == affinity.weights[0].dtype == torch.float32
    )


def flat_weights(affinity: Stencil, number: int, scale: float) -> tuple[list[int], Float[Tensor, "m halo_n"]]:
    """Offsets in pixels, from the first pixel of a pair to the second one, and weights by the first one's position.

    Positions count from `halo` pixels before the image on, the largest offset; weights of pairs across the border are
    zero.
    """
    strides = [math.prod(affinity.size[axis + 1 :]) for axis in range(len(affinity.size))]
    steps = [sum(o * s for o, s in zip(offset, strides, strict=True)) for offset in affinity.offsets]
    halo, count = max(map(abs, steps)), math.prod(affinity.size)
    weights = torch.zeros(len(steps), halo + count)
    for weight, row, step, offset in zip(affinity.weights, weights, steps, affinity.offsets, strict=True):
        first, second = boxes(offset, affinity.size)
        row[halo:].view(affinity.size)[first if step > 0 else second] = scale * weight[number, 0]
    return [abs(step) for step in steps], normal(weights)


def normal(numbers: Tensor) -> Tensor:
    """Zero in place of `TINY` numbers: their products may be denormal, with which the processor is slow."""
    return torch.nn.functional.hardshrink(numbers, TINY)


def flat_target(problem: Problem, number: int) -> Float[Tensor, "k n"]:
    """``t(σ)`` of the coupling (`selflabel.terms.Product`)."""
    product = problem.energy.coupling.product
    assert product is not None, "checked by `supports`"
    return normal(product.target(problem.probs[number])).flatten(1).contiguous()


def flat_free(problem: Problem, number: int) -> Float[Tensor, " n"]:
    """1, and 0 at seeds."""
    return problem.free[number].flatten().float()


@dataclass(frozen=True, eq=False)
class _RowPoint:
    roots: Float[Tensor, "k halo_n_halo"]
    """The margins hold labels, whose products are finite."""
    gradient: Float[Tensor, "k n"]
    """By the roots."""
    curvature: Float[Tensor, " n"]
    """Of the energy by the labels (`selflabel.terms.Gradient`)."""


@dataclass(frozen=True, eq=False)
class _RowDerivatives:
    """Derivatives of the energy."""

    by_dots: Float[Tensor, "m halo_n"]
    """By the ``y_i·y_j`` of the pairs, at their first pixels."""
    by_norms: Float[Tensor, " n"]
    """Twice the derivative by ``‖y_i‖²``."""
    by_targets: Float[Tensor, " n"]
    """By ``y_i·t_i``."""


class _RowImage:
    """One image: its current point, that of the last trial, and the direction. Letters as in `kernels.cpu.descent`."""

    def __init__(self, problem: Problem, number: int, labels: Float[Tensor, "k *s"]) -> None:
        assert isinstance(problem.affinity, Stencil), "checked by `supports`"
        energy = self._energy = problem.energy
        self._offsets, self._weights = flat_weights(problem.affinity, number, energy.pairwise_weight)
        self._target, self._free = flat_target(problem, number), flat_free(problem, number)
        self._allowed = None if problem.classes is None else problem.classes[number].float()[:, None]
        classes, self._pixels = self._target.shape
        self._halo = self._weights.shape[1] - self._pixels
        self._size = max(GRAIN // classes, 1)
        self.point, self._trial = self._new_point(), self._new_point()
        # not `torch.sqrt`, which is off by the last digit where it runs in MKL
        self._inside(self.point.roots).copy_(torch.from_numpy(np.sqrt(labels.flatten(1).numpy())))
        self._direction = torch.zeros_like(self._target)
        self.turning: tuple[float, float] | None = None
        """beta and rate of the next direction, ``-n + beta d``, if it is due."""

    def _new_point(self) -> _RowPoint:
        roots = torch.zeros(len(self._target), self._pixels + 2 * self._halo)
        roots[0] = 1
        return _RowPoint(roots, torch.zeros_like(self._target), torch.zeros_like(self._free))

    def _inside(self, padded: Tensor, first: int = 0, last: int | None = None, ahead: int = 0) -> Tensor:
        """A range of pixels, `ahead` pixels from there on, of what has margins."""
        start = self._halo + ahead
        return padded[..., start + first : start + (self._pixels if last is None else last)]

    def _blocks(self) -> list[tuple[int, int]]:
        """Ranges of pixels. No number depends on them, but for the order of sums in double precision."""
        starts = range(0, self._pixels, self._size)
        return [(start, min(start + self._size, self._pixels)) for start in starts]

    def labels(self) -> Float[Tensor, "k n"]:
        """A copy."""
        return self._inside(self.point.roots).square()

    def accept(self) -> None:
        """No pass over the pixels: points are exchanged."""
        self.point, self._trial = self._trial, self.point

    def turn(self, beta: float, rate: float) -> None:
        """Before it next moves along it."""
        self.turning = beta, rate

    def evaluate(self, rate: float) -> list[float]:
        """The numbers of `Trial`."""
        self._move(float(np.float32(rate)))
        dots, norms, target_dots = self._products()
        energy, derivatives = self._derivatives(dots, norms, target_dots)
        return [energy, *self._gradients(derivatives).tolist()]

    def _move(self, rate: float) -> None:
        """Roots of the trial, of norm one again; if the turn is due, the direction turns first, in place."""
        floor = ROOT_FLOOR * self._free
        for first, last in self._blocks():
            root, moved = (self._inside(p.roots, first, last) for p in (self.point, self._trial))
            direction = self._direction[:, first:last]
            if self.turning is not None:
                beta, turn_rate = map(np.float32, self.turning)
                least = (np.float32(ROOT_LEFT) - np.float32(1)) / turn_rate
                most = np.float32(ROOT_REACH) / turn_rate
                gradient, curvature = self.point.gradient[:, first:last], self.point.curvature[first:last]
                direction.mul_(float(beta)).sub_(_natural_gradient(root, gradient, curvature))
                torch.maximum(direction, float(least) * root, out=direction).clamp_max_(float(most))
            torch.maximum((direction * rate).add_(root), floor[first:last], out=moved)
            if self._allowed is not None:
                moved.mul_(self._allowed)
            moved.mul_(_summed(moved.square()).rsqrt_())
        self.turning = None

    def _products(self) -> tuple[Tensor, Tensor, Tensor]:
        """``y_i·y_j`` of the pairs ``[m n]``, ``‖y_i‖²`` with margins, and ``y_i·t_i`` of the trial."""
        roots = self._trial.roots
        dots = torch.empty(len(self._offsets), self._pixels)
        norms, target_dots = torch.ones(roots.shape[1]), torch.empty(self._pixels)
        for first, last in self._blocks():
            here = self._inside(roots, first, last)
            squares = here.square()
            self._inside(norms, first, last).copy_(_summed_in_pairs(squares.square()))
            for dot, offset in zip(dots, self._offsets, strict=True):
                product = here * self._inside(roots, first, last, offset)
                dot[first:last] = _summed_in_pairs(product.square_())
            target_dots[first:last] = _summed_in_pairs(squares.mul_(self._target[:, first:last]))
        return dots, norms, target_dots

    def _derivatives(self, dots: Tensor, norms: Tensor, target_dots: Tensor) -> tuple[float, _RowDerivatives]:
        """With the energy; writes the curvature of the trial."""
        relaxation, halo, pixels = self._energy.relaxation, self._halo, self._pixels
        assert isinstance(relaxation, Relaxation), "checked by `supports`"
        by_dots = torch.zeros_like(self._weights)
        by_norms, curvature = torch.zeros(pixels + halo), torch.zeros(pixels + halo)
        values, pp = torch.zeros(pixels), self._inside(norms)
        for dot, offset, padded, to in zip(dots, self._offsets, self._weights, by_dots, strict=True):
            weight, by_dot = padded[halo:], to[halo:]
            qq, beyond = self._inside(norms, ahead=offset), slice(offset, offset + pixels)
            values += weight * relaxation.value(dot, pp, qq)
            if relaxation.norm_derivative is not None:
                twice = 2 * weight
                by_norms[:pixels] += twice * relaxation.norm_derivative(dot, pp, qq)
                by_norms[beyond] += twice * relaxation.norm_derivative(dot, qq, pp)
            torch.mul(weight, relaxation.derivative(dot, pp, qq), out=by_dot)
            curvature[:pixels] -= by_dot
            curvature[beyond] -= by_dot
        product, coupling_weight = (
            self._energy.coupling.product,
            float(np.float32(self._energy.coupling_weight)),
        )
        assert product is not None, "checked by `supports`"
        energy = _sum(values) + _sum(coupling_weight * self._free * product.value(target_dots))
        own = curvature[:pixels].add_(coupling_weight * product.curvature(target_dots))
        torch.clamp_min(own, LEAST_CURVATURE, out=self._trial.curvature)
        return energy, _RowDerivatives(
            by_dots, by_norms[:pixels], coupling_weight * product.derivative(target_dots)
        )

    def _gradients(self, derivatives: _RowDerivatives) -> Float[Tensor, "4"]:
        """``d·g'``, ``d·g``, ``n·g`` and ``n·g'`` (`line_search.Trial`); writes the gradient of the trial."""
        sums, padded = torch.zeros(4, dtype=torch.float64), self._trial.roots
        for first, last in self._blocks():
            root, gradient = self._inside(padded, first, last), self._trial.gradient[:, first:last]
            around = padded[:, first : last + 2 * self._halo].square()
            squares = self._inside(around, 0, last - first)
            torch.mul(derivatives.by_norms[first:last], squares, out=gradient)
            gradient.add_(derivatives.by_targets[first:last] * self._target[:, first:last])
            for by_dot, offset in zip(derivatives.by_dots, self._offsets, strict=True):
                after, before = (self._inside(around, 0, last - first, o) for o in (offset, -offset))
                change = after * self._inside(by_dot, first, last)
                gradient.add_(change.add_(before * self._inside(by_dot, first, last, -offset)))
            mean = _summed(squares.mul_(gradient))
            gradient.sub_(mean).mul_((2 * self._free[first:last]) * root)
            natural = _natural_gradient(root, gradient, self._trial.curvature[first:last])
            old, direction = self.point.gradient[:, first:last], self._direction[:, first:last]
            pairs = (direction, old), (direction, gradient), (natural, gradient), (natural, old)
            sums += torch.tensor([_sum(a * b) for a, b in pairs], dtype=torch.float64)
        return sums


def _natural_gradient(root: Tensor, gradient: Tensor, curvature: Tensor) -> Tensor:
    """``u c / (c⁺ + 2 u h)`` with ``c = g - y·g`` (`coordinates`); the gradient by the roots is ``2 u c``."""
    u = root.clamp_min(LEAST_ROOT)
    damped = (4 * u).mul_(u).mul_(curvature).add_(gradient.clamp_min(0))
    return u.mul_(gradient).div_(damped)


def _summed(classes: Iterable[Float[Tensor, " n"]]) -> Float[Tensor, " n"]:
    """The sum over the classes, one by one. `torch.sum` goes another way for each vector of pixels."""
    first, *others = classes
    result: Tensor = first.clone()
    for other in others:
        result += other
    return result


def _summed_in_pairs(values: Float[Tensor, "k n"]) -> Float[Tensor, " n"]:
    """The sum over the classes, two by two."""
    paired = len(values) // 2 * 2
    return _summed([*(values[:paired:2] + values[1:paired:2]), *values[paired:]])


def _sum(values: Tensor) -> float:
    return float(total(values[None]))


class RowSearch:
    """Line search on square roots of labels (`coordinates.SQUARE_ROOTS`) for problems that it `supports`.

    Memory: six times the labels, prediction included. Cost: twice that of `compiled_search.CompiledSearch`.
    """

    def __init__(self, problem: Problem, labels: Float[Tensor, "b k *s"]) -> None:
        self._shape = labels.shape
        self._images = [_RowImage(problem, number, own) for number, own in enumerate(labels)]

    def labels(self) -> Float[Tensor, "b k *s"]:
        """A copy: one pass over the labels."""
        return torch.stack([image.labels() for image in self._images]).view(self._shape)

    def evaluate(self, rate: PerImage, done: Bool[Tensor, " b"]) -> Trial:
        """Some passes over the pixels of the images that are not done."""
        rates, ends = rate.tolist(), done.tolist()
        sums = [
            [0.0] * 5 if end else image.evaluate(own)
            for image, own, end in zip(self._images, rates, ends, strict=True)
        ]
        return Trial(*torch.tensor(sums, dtype=torch.float64).unbind(1))

    def accept(self, images: Bool[Tensor, " b"]) -> None:
        """No pass over the pixels."""
        for image in compress(self._images, images.tolist()):
            image.accept()

    def turn(self, images: Bool[Tensor, " b"], beta: PerImage, rate: PerImage) -> None:
        """No pass over the pixels: the next `evaluate` turns each direction just before it moves along it."""
        turns = zip(self._images, beta.tolist(), rate.tolist(), strict=True)
        for image, *how in compress(turns, images.tolist()):
            image.turn(*how)
