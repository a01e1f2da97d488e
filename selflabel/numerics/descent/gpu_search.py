"""Line search on square roots of labels in kernels for a GPU: two launches a step, and no wait."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selflabel.affinity.stencil import Stencil, boxes
from selflabel.kernels.gpu import descent, formulas
from selflabel.kernels.gpu.compile import Tiles
from selflabel.kernels.gpu.stencil import StencilPairs
from selflabel.numerics.descent.coordinates import LEAST_CURVATURE, ROOT_FLOOR, ROOT_LEFT, ROOT_REACH
from selflabel.numerics.descent.line_search import PerImage, Trial
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

LARGEST = 1 << 31
"""Labels and weights of an image must be fewer: places are counted in 32 bits."""

LIMITS = descent.Limits(ROOT_FLOOR, ROOT_LEFT, ROOT_REACH, LEAST_CURVATURE)

RELAXATIONS: dict[Relaxation, int] = {
    BILINEAR: formulas.BILINEAR.value,
    QUADRATIC_POTTS: formulas.QUADRATIC_POTTS.value,
    NORMALIZED_QUADRATIC: formulas.NORMALIZED_QUADRATIC.value,
    COLLISION_CROSS_ENTROPY: formulas.COLLISION_CROSS_ENTROPY.value,
    LOG_QUADRATIC: formulas.LOG_QUADRATIC.value,
    COLLISION_DIVERGENCE: formulas.COLLISION_DIVERGENCE.value,
}
"""Numbers of the formulas of relaxations. By value: one of the same name with other functions has none."""

COUPLINGS: dict[Coupling, int] = {STANDARD: formulas.STANDARD.value, COLLISION: formulas.COLLISION.value}
"""Numbers of the formulas of couplings, by value."""


def supports(problem: Problem) -> bool:
    """Grids and windows in float32, energies with scalar formulas, no entropy. Devices are `backend`'s matter."""
    energy, affinity, probs = problem.energy, problem.affinity, problem.probs
    return (
        isinstance(affinity, Stencil)
        and probs[0, 0].numel() * max(len(affinity.offsets), probs.shape[1]) < LARGEST
        and energy.relaxation in RELAXATIONS
        and energy.coupling in COUPLINGS
        and not energy.entropy_weight
        and probs.dtype == affinity.weights[0].dtype == torch.float32
    )


def pairs_of(affinity: Stencil, scale: float) -> StencilPairs:
    """The pairs of a stencil, their weights times a factor. Cost: one pass over them; the host waits once."""
    batch, count, size = affinity.shape[0], len(affinity.offsets), affinity.size
    weights = affinity.weights[0].new_zeros(batch, count, *size)
    for number, (offset, weight) in enumerate(zip(affinity.offsets, affinity.weights, strict=True)):
        weights[:, number][boxes(offset, size)[0]] = scale * weight[:, 0]
    offsets = [(0,) * (3 - len(size)) + offset for offset in affinity.offsets]
    return StencilPairs(weights.flatten(2), torch.tensor(offsets, dtype=torch.int32, device=weights.device))


class GPUSearch:
    """Line search on square roots of labels (`coordinates.SQUARE_ROOTS`) for problems that are supported.

    Takes the steps of `TorchSearch`, but for rounding. Memory: six times the labels, prediction included.
    """

    steps_between_looks: ClassVar[int] = 8

    def __init__(self, problem: Problem, labels: Float[Tensor, "b k *s"]) -> None:
        energy, affinity, product = problem.energy, problem.affinity, problem.energy.coupling.product
        assert isinstance(affinity, Stencil), "checked by `supports`"
        assert product is not None, "checked by `supports`"
        self._shape, self._weight = tuple(labels.shape), energy.coupling_weight
        self._tiles = Tiles.of(self._shape)
        self._numbers = COUPLINGS[energy.coupling], RELAXATIONS[energy.relaxation]
        self._pairs = pairs_of(affinity, energy.pairwise_weight)
        roots = labels.flatten(2).sqrt()
        zeros = torch.zeros_like(roots)
        whole = torch.zeros(len(labels), dtype=torch.int32, device=labels.device)
        self._points = descent.Points(
            roots=torch.stack([roots, zeros]),
            gradient=zeros.new_zeros(2, *zeros.shape),
            curvature=zeros.new_ones(2, len(labels), zeros.shape[2]),
            direction=zeros,
            sides=whole,
            done=whole,
        )
        allowed = problem.probs.new_ones(labels.shape[:2]) if problem.classes is None else problem.classes
        self._given = descent.Given(
            product.target(problem.probs).flatten(2).contiguous(),
            problem.free.flatten(1).float(),
            allowed.float().contiguous(),
        )
        self._sums = zeros.new_zeros(len(labels), self._tiles.count, 5, dtype=torch.float64)
        self._turn = whole, self._sums[:, 0, 0], self._sums[:, 0, 0]

    def labels(self) -> Float[Tensor, "b k *s"]:
        """A copy: one pass over the labels."""
        every = torch.arange(len(self._given.free), device=self._given.free.device)
        return self._points.roots[self._points.sides.long(), every].square_().view(self._shape)

    def evaluate(self, rate: PerImage, done: Bool[Tensor, " b"]) -> Trial:
        """One pass over the pixels of the images that are not done; directions that turn do so in the same pass."""
        points = self._points._replace(done=done.int())
        descent.move(points, self._given, LIMITS, rate.contiguous(), *self._turn)
        descent.measure(
            points, self._given, self._pairs, self._tiles, self._weight, LIMITS, self._numbers, self._sums
        )
        self._turn = torch.zeros_like(self._turn[0]), *self._turn[1:]
        return Trial(*self._sums.sum(1).unbind(1))

    def accept(self, images: Bool[Tensor, " b"]) -> None:
        """No pass over the pixels: points are exchanged."""
        self._points = self._points._replace(sides=self._points.sides ^ images.int())

    def turn(self, images: Bool[Tensor, " b"], beta: PerImage, rate: PerImage) -> None:
        """No pass over the pixels: the next `evaluate` turns each direction just before it moves along it."""
        self._turn = images.int(), beta.contiguous(), rate.contiguous()
