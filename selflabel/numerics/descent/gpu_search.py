"""Conjugate gradients on square roots of labels in kernels for a GPU: three launches a step, and no wait."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from selflabel.affinity.stencil import Stencil
from selflabel.kernels.gpu import descent, formulas
from selflabel.kernels.gpu.launch import blocks
from selflabel.kernels.gpu.stencil import StencilPairs
from selflabel.kernels.gpu.tiles import Tiles
from selflabel.numerics.descent.coordinates import LEAST_CURVATURE, ROOT_FLOOR, ROOT_LEFT, ROOT_REACH
from selflabel.numerics.descent.line_search import PerImage
from selflabel.problem import Problem
from selflabel.terms import COLLISION, RELAXATIONS, STANDARD, Coupling

LARGEST = 1 << 31
"""Labels and weights of an image must be fewer: places are counted in 32 bits."""

StepRules = descent.StepRules

LIMITS = descent.Limits(ROOT_FLOOR, ROOT_LEFT, ROOT_REACH, LEAST_CURVATURE)

COUPLINGS: dict[Coupling, int] = {STANDARD: formulas.STANDARD.value, COLLISION: formulas.COLLISION.value}
"""Numbers of the formulas of couplings, by value."""


def supports(problem: Problem) -> bool:
    """Grids and windows in float32, energies with scalar formulas, no entropy, costs or further terms.

    Devices are `backend`'s.
    """
    energy, affinity, probs = problem.energy, problem.affinity, problem.probs
    return (
        isinstance(affinity, Stencil)
        and probs[0, 0].numel() * max(len(affinity.offsets), probs.shape[1]) < LARGEST
        and energy.relaxation in RELAXATIONS
        and energy.coupling in COUPLINGS
        and not energy.entropy_weight
        and not energy.regularizers
        and energy.pairwise_weight > 0  # weights that count for nothing may be anything, nan too
        and problem.costs is None
        and probs.dtype == affinity.weights[0].dtype == torch.float32
    )


class GPUSearch:
    """Conjugate gradients on square roots of labels (`coordinates.SQUARE_ROOTS`) for problems that are supported.

    `begin`, then `step` after `step`: what `TorchSearch` does with the rules of `solvers.gradient_descent`, but for
    rounding. Nothing waits for the device: decisions are made there, for each image by itself. Memory: six times the
    labels, prediction included.
    """

    def __init__(self, problem: Problem, labels: Float[Tensor, "b k *s"], rules: descent.StepRules) -> None:
        energy, affinity, product = problem.energy, problem.affinity, problem.energy.coupling.product
        assert isinstance(affinity, Stencil), "checked by `supports`"
        assert product is not None, "checked by `supports`"
        self._shape, self._rules = tuple(labels.shape), rules
        tiles = Tiles.of(self._shape)
        energy_formulas = descent.Formulas(
            COUPLINGS[energy.coupling],
            formulas.RELAXATIONS[energy.relaxation.name],
            float(energy.coupling_weight),  # the types of numbers are those of the first launch
            float(energy.pairwise_weight),
        )
        batch, roots = len(labels), labels.flatten(2).contiguous().sqrt()
        zeros = torch.zeros_like(roots)
        self._points = descent.Points(
            roots=torch.stack([roots, zeros]),
            gradient=zeros.new_zeros(2, *zeros.shape),
            curvature=zeros.new_ones(2, batch, zeros.shape[2]),
            direction=zeros,
        )
        # kernels are compiled for arrays that begin at multiples of 16 bytes
        padded = blocks(batch, 4) * 4
        whole = zeros.new_zeros(4, padded, dtype=torch.int32)[:, :batch]
        numbers = zeros.new_zeros(4, padded, dtype=torch.float64)[:, :batch]
        self._progress = descent.SearchState(*whole.unbind(), *numbers.unbind())
        allowed = problem.probs.new_ones(labels.shape[:2]) if problem.classes is None else problem.classes
        self._given = descent.Given(
            product.target(problem.probs).flatten(2).contiguous(),
            problem.free.flatten(1).float(),
            allowed.float().contiguous(),
        )
        self._sums = zeros.new_zeros(batch, 5, tiles.count, dtype=torch.float64)
        arrays = self._points, self._given
        self._move = descent.moving(*arrays, LIMITS, self._progress)
        self._measure = descent.measuring(
            *arrays, StencilPairs(*affinity.flat), energy_formulas, tiles, LIMITS, self._progress, self._sums
        )
        self._decide = descent.deciding(self._progress, self._sums, rules)

    def labels(self) -> Float[Tensor, "b k *s"]:
        """A copy at the current point: one pass over the labels."""
        sides = self._progress.sides.view(-1, 1, 1) != 0
        return torch.where(sides, self._points.roots[1], self._points.roots[0]).square_().view(self._shape)

    def energies(self) -> PerImage:
        """A copy, at the current point."""
        return self._progress.energies.clone()

    def done(self) -> Bool[Tensor, " b"]:
        """The images whose labels change no more; steps cost nothing there."""
        return self._progress.done != 0

    def steps(self) -> Int64[Tensor, " b"]:
        """How many each image has taken."""
        return self._progress.steps.long()

    def begin(self) -> None:
        """Evaluate the energy and turn downhill."""
        self._try()
        descent.deciding(self._progress, self._sums, self._rules, is_first=True)()

    def step(self) -> None:
        """A trial of each image that is not done, accepted or refused."""
        self._try()
        self._decide()

    def _try(self) -> None:
        self._move()
        self._measure()
