"""Soft labels in closed form: the random walker, with or without a prediction as prior."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selflabel.affinity.builders import AffinityBuilder, Contrast
from selflabel.affinity.protocol import Affinity, SparseAffinity
from selflabel.affinity.stencil import Stencil
from selflabel.driver import Step
from selflabel.energy import Energy
from selflabel.kernels.backend import Backend, Routine, backend
from selflabel.kinds import check_count, check_fields
from selflabel.numerics.linear.conjugate_gradients import ConjugateGradients
from selflabel.numerics.linear.direct import Elimination
from selflabel.numerics.linear.multigrid import Multigrid, fits
from selflabel.numerics.linear.regions import average_unseeded
from selflabel.numerics.linear.system import Box, LinearSolver, RandomWalk
from selflabel.numerics.linear.windows import KnownLabels, Windows, around, at, solve_windows, whole
from selflabel.problem import Problem
from selflabel.terms import QUADRATIC, QUADRATIC_POTTS, Regularizer

__all__ = ["ConjugateGradients", "Elimination", "LinearSolver", "Multigrid", "RandomWalker", "Windows"]

ELIMINATED = ((4, 16_000_000), (12, 4_000_000))
"""(pairs per pixel, pixels): the largest images that `Elimination` takes, about 20 GB."""

FACTORIZED = ((12, 2_000_000),)
"""The same without Numba."""

FEW_PIXELS = 8000
"""Free pixels that `Elimination` takes with any pairs."""


@dataclass(frozen=True)
class RandomWalker:
    """Minimizes ``η Σ_{i∉Ω} ‖y_i - σ_i‖² + λ Σ_ij w_ij ½ ‖y_i - y_j‖²`` in closed form.

    The energy is convex and quadratic: for each class ``(2η I + λ L) y^k = 2η σ^k`` on the free pixels, with
    the seeds as boundary values and ``L = D - W``. The solution lies on the simplex by the maximum principle,
    and its energy is its own lower bound.

    ``η = 0`` is the random walker of Grady (PAMI 2006, Sec. III), ``η > 0`` the one with priors (Grady, CVPR
    2005). For ``η = 0`` a region that no seed reaches through positive weights gets its mean prediction: of
    all minimizers the nearest to the prediction, and the limit for ``η → 0``.

    *Energies*: quadratic coupling (any, if its weight is zero), quadratic relaxation, no entropy, sparse
    affinities; `ValueError` for the rest.

    *Method*: `method` solves the system for all pixels. If it is None, 2-D images of more than `large_pixels` are
    first solved in overlapping `windows` (`numerics.linear.windows`; CPU, with Numba, up to 24 neighbors a pixel),
    to 2e-7 on photographs and 1e-5 at worst. Smaller images, and pixels too far from seeds for windows, take
    `Elimination` on the CPU: up to 16 megapixels of unknown labels (4 with more than 8 neighbors, 2 without Numba),
    and 8000 pixels with any neighbors. Larger ones take `ConjugateGradients`. On a GPU, nearest neighbors take
    `Multigrid` where predictions weigh something, and what the CPU takes where they do not (with Numba); others
    `ConjugateGradients`.

    *Cost*: time is linear in pixels if one in 300 is a seed, or predictions weigh a hundredth; else that of the
    method. Memory: at most 1600 + 115 K bytes a pixel (tests/benchmarks/growth.py), a third of it where windows
    suffice.

    Use `GraphCut` for hard labels, `GradientDescent` for other couplings and relaxations.
    """

    name: ClassVar[str] = "random-walker"
    default_energy: ClassVar[Energy] = Energy(QUADRATIC, QUADRATIC_POTTS, 0.1, 1.0)
    default_affinity: ClassVar[AffinityBuilder] = Contrast()
    needs_edges: ClassVar[bool] = True
    regularizers: ClassVar[tuple[type[Regularizer], ...]] = ()

    method: LinearSolver | None = None
    large_pixels: int = 1_000_000
    windows: Windows = Windows()

    def __post_init__(self) -> None:
        check_fields(self)
        check_count(self.large_pixels, "large_pixels", 0)
        plain = (self.large_pixels, self.windows) == (RandomWalker.large_pixels, RandomWalker.windows)
        if self.method is not None and not plain:
            raise ValueError(
                f"random-walker: large_pixels and windows would change nothing, as {type(self.method).__name__} solves "
                f"for all pixels: leave them out, or the method"
            )

    def check(self, energy: Energy, affinity: Affinity) -> None:
        """Raise `ValueError` for other couplings and relaxations than the quadratic ones, and for entropy."""
        if energy.coupling_weight and energy.coupling != QUADRATIC:
            raise ValueError(
                f"random-walker: expected the coupling 'quadratic', got {energy.coupling.name!r}: use that, "
                f"coupling_weight 0, or the gradient-descent solver"
            )
        if energy.relaxation != QUADRATIC_POTTS:
            raise ValueError(
                f"random-walker: expected the relaxation 'quadratic', got {energy.relaxation.name!r}: use that, "
                f"or the gradient-descent or graph-cut solver"
            )
        if energy.entropy_weight:
            raise ValueError(
                f"random-walker: expected entropy_weight 0, got {energy.entropy_weight}: use that, or the "
                f"gradient-descent solver"
            )

    def iterate(self, problem: Problem, labels: Float[Tensor, "b k *s"]) -> Iterator[Step]:
        """Yield the solution, or steps towards it."""
        energy, affinity = problem.energy, problem.affinity
        assert isinstance(affinity, SparseAffinity), "checked"
        walk = RandomWalk(affinity, energy.pairwise_weight, energy.coupling_weight, problem.probs)
        known, box = KnownLabels(labels, problem.free), whole(tuple(labels.shape[2:]))
        if self.method is None and isinstance(affinity, Stencil) and self._is_large(affinity, labels):
            known = solve_windows(walk, known, self.windows)
            box = around(known.free, affinity.reach)
            walk = walk.crop(slice(None), box)
        if known.free.any():
            yield from self._finish(problem, walk, known, box)
        else:
            value = problem.value(known.labels)
            yield Step(known.labels, value, bound=value, converged=torch.ones_like(value, dtype=torch.bool))

    def _is_large(self, affinity: Stencil, labels: Tensor) -> bool:
        """Is the image one for windows?"""
        pixels, most = labels[0, 0].numel(), ELIMINATED[-1][0]
        return (
            labels.device.type == "cpu"
            and labels.ndim == 4
            and _is_compiled()
            and pixels > self.large_pixels
            and _pairs(affinity) <= most * pixels
        )

    def _finish(self, problem: Problem, walk: RandomWalk, known: KnownLabels, box: Box) -> Iterator[Step]:
        """Solve for the free pixels. All of them lie in the box; the walk is that of its pixels."""
        labels, free = known.labels[at(box)], known.free[at(box)]
        fixed = labels * ~free
        if walk.coupling == 0:
            walk, reached = average_unseeded(replace(walk, probs=walk.probs.double()), free)
            fixed, free = torch.where(free & ~reached, walk.probs, fixed), reached
        method, system = self.method, walk.system(fixed, free)
        if method is None:
            method = method_by_size(walk.affinity, free, system.ties)
        for values, done in method.solve(system, labels):
            solution = (values + fixed).clamp_(min=0)
            solution = solution.div_(solution.sum(1, keepdim=True)).to(labels.dtype)
            solution = known.put(box, solution)
            value = problem.value(solution) if done.all() else None
            yield Step(solution, value, bound=value, converged=done)


def method_by_size(
    affinity: SparseAffinity,
    free: Bool[Tensor, "b 1 *s"],
    ties: float = 0.0,
    largest: tuple[tuple[int, int], ...] | None = None,
) -> LinearSolver:
    """`Elimination` on the CPU for images up to the `largest`: (pairs per pixel, free pixels). None: as measured.

    Larger ones take `ConjugateGradients`. On other devices `Multigrid` those that it is for; without ties nearest
    neighbors go to the CPU and back, if they are compiled for it: faster than what conjugate gradients do on both.
    """
    if free.device.type != "cpu":
        if fits(affinity) and ties > 0:
            return Multigrid()
        if not fits(affinity) or not _is_compiled():
            return ConjugateGradients()
    if largest is None:
        largest = ELIMINATED if _is_compiled() else FACTORIZED
    pixels, unknown = free[0, 0].numel(), int(free.flatten(1).count_nonzero(1).max())
    per_pixel = _pairs(affinity) / pixels
    most = max((most for pairs, most in largest if per_pixel <= pairs), default=0)
    is_small = unknown <= FEW_PIXELS or (free.ndim == 4 and unknown <= most)
    return Elimination() if is_small else ConjugateGradients()


def _is_compiled() -> bool:
    return backend(Routine.ELIMINATION, torch.device("cpu"), torch.float64) is Backend.CPU


def _pairs(affinity: SparseAffinity) -> int:
    return sum(pairs.weight[0].numel() for pairs in affinity.pairs())
