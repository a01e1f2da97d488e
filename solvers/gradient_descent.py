"""Gradient descent: soft labels, for any sparse energy."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from math import inf
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.builders import AffinityBuilder, Grid
from selflabel.affinity.protocol import Affinity
from selflabel.driver import LazyStep, Step
from selflabel.energy import Energy
from selflabel.kernels.backend import Backend, Routine, backend
from selflabel.kinds import check_fields
from selflabel.labels import per_image
from selflabel.numerics.descent.coarse import coarse_to_fine
from selflabel.numerics.descent.coordinates import (
    LEAST_CURVATURE,
    LOGITS,
    SQUARE_ROOTS,
    Coordinates,
    centered_gradient,
)
from selflabel.numerics.descent.line_search import (
    MOST_GROWTH,
    LineSearch,
    TorchSearch,
    hestenes_stiefel,
    inner,
    secant_factor,
)
from selflabel.numerics.descent.row_search import RowSearch, supports
from selflabel.problem import Problem
from selflabel.terms import (
    COLLISION,
    COLLISION_CROSS_ENTROPY,
    COLLISION_DIVERGENCE,
    QUADRATIC,
    QUADRATIC_POTTS,
    REVERSE,
    Gradient,
    Regularizer,
    Relaxation,
    Variation,
    check_relaxation,
)

QUIET_STEPS = 3
"""Steps in a row that gain less than the tolerance before an image has converged: descents rest on plateaus."""

LEAST_RATE = 1e-4
"""Rate below which an image whose step was refused is finished."""

ENERGY_SLACK = 1e-7
"""Fraction of the energy by which an accepted step may raise it: the rounding of float32 labels."""

STEPS_BETWEEN_LOOKS = 8
"""Steps on a GPU after which the host waits to see whether all images have converged; finished ones cost nothing."""

LABEL_TOLERANCE = 0.01
"""Factor of the tolerance for convex quadratics: near the minimum the excess energy is the square of the error."""


@dataclass(frozen=True)
class GradientDescent:
    """Minimize any energy by descent on a smooth parametrization of soft labels (Zhang & Boykov 2025, App. A).

    The published rule (`PAPER`) is plain descent on logits, ``l ← l - rate · y (g - y·g)`` with
    ``y = softmax(l)`` and ``g = ∂E/∂y``. The default follows conjugate natural gradients (Hestenes-Stiefel,
    `line_search.hestenes_stiefel`), ``(g - y·g) / h`` with the curvature h of each pixel (`selflabel.terms.Gradient`).
    The rate follows the secant along the direction and shrinks when the energy would rise. The descent moves

    - square roots, ``y = u² / ‖u‖²``, which reach and leave certainty in few steps; each has its own limit
      (`coordinates.ROOT_REACH`), so that a few that overshoot do not shorten the steps of all;
    - logits, where the energy has logarithms of small probabilities (reverse coupling, collision cross-entropy);
    - the labels themselves, by linear conjugate gradients with exact steps, where the energy is a convex quadratic
      (quadratic coupling and relaxation, as the random walker's).

    The energy never rises, but for the floor that every probability gets at the start, 1e-6. On grids and windows the
    descent begins on blocks of 2x2 pixels and goes on from there if that is better than the given start.

    - `rate`: None, or the fixed rate of plain gradient descent as published (see `PAPER`).
    - `rtol`: an image has converged when three steps in a row lower its energy by less than this fraction.
    - `coarse_levels`, `coarse_steps`: halvings of the image at most, and steps on each level. Relaxations with
      ``P(p, p) > 0`` at soft labels (bi-linear, collision cross-entropy) have many local minima and use all levels;
      the others gain nothing from more than one.

    Finds a local minimum, the global one of convex energies (quadratic coupling and relaxation). Takes every
    coupling and relaxation on sparse affinities; bi-linear and quadratic on dense ones. Cost: one pass over the
    pairs a step (one filtering if dense); memory: 100 + 95 K bytes a pixel. With Numba, steps on square roots with
    standard or collision coupling on grids and windows are compiled (float32, CPU): a third of the time, 100 + 60 K
    bytes, and the same labels bit for bit, unless an energy that decides about a step is a tie to nine digits. On a
    GPU with Triton these are kernels, too: an eighth of the time, 24 K bytes, and no wait but one in eight steps; sums
    there are in another order, so where an energy has many minima (bi-linear), it may find another one of them.
    For hard labels use `GraphCut`.
    """

    rate: float | None = None
    rtol: float = 2e-4
    coarse_levels: int = 3
    coarse_steps: int = 8

    name: ClassVar[str] = "gradient-descent"
    default_energy: ClassVar[Energy] = Energy(
        COLLISION, COLLISION_DIVERGENCE, coupling_weight=0.3, pairwise_weight=6.0
    )
    default_affinity: ClassVar[AffinityBuilder] = Grid()
    needs_edges: ClassVar[bool] = False
    regularizers: ClassVar[tuple[type[Regularizer], ...]] = (Regularizer,)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.rate is not None and not 0 < self.rate < inf:
            raise ValueError(f"expected rate > 0, or None for the adaptive rule, got {self.rate}")
        if not 0 <= self.rtol < inf or self.coarse_levels < 0 or self.coarse_steps < 1:
            raise ValueError(
                f"expected rtol >= 0, coarse_levels >= 0 and coarse_steps >= 1, got {self.rtol}, "
                f"{self.coarse_levels} and {self.coarse_steps}"
            )
        self._check_effect()

    def _check_effect(self) -> None:
        """Raise `ValueError` for options that would change nothing. Those that switch a part off are fine."""
        default = GradientDescent
        if self.rate is not None:
            without = "a fixed rate runs to the limit of steps, on the image as it is: raise max_steps"
            values = {
                "rtol": self.rtol,
                "coarse_levels": self.coarse_levels,
                "coarse_steps": self.coarse_steps,
            }
        elif not self.coarse_levels:
            without, values = (
                "there are no coarse levels: set coarse_levels",
                {"coarse_steps": self.coarse_steps},
            )
        else:
            return
        for name, value in values.items():
            if value not in (0, getattr(default, name)):
                raise ValueError(
                    f"gradient-descent: {name} {value} would change nothing, as {without}, or leave it out"
                )

    def check(self, energy: Energy, affinity: Affinity) -> None:
        """Raise `ValueError` for a dense affinity with a relaxation that is not quadratic in the labels, and for kinks.

        These are of total variations, in the place of the relaxation or in a regularizer.
        """
        if isinstance(energy.relaxation, Variation) or not all(
            each.is_smooth for each in energy.regularizers
        ):
            raise ValueError(
                "gradient-descent: expected terms with gradients everywhere, got a total variation, which has kinks "
                "where labels agree: use 'quadratic', or the total-variation solver"
            )
        check_relaxation(energy.relaxation, affinity)

    def iterate(self, problem: Problem, labels: Float[Tensor, "b k *s"]) -> Iterator[Step]:
        """One gradient evaluation a step."""
        if self.rate is not None:
            yield from _plain(problem, labels, self.rate)
            return
        energy = problem.value(labels)
        levels = self.coarse_levels if _hardens(problem.energy) else min(self.coarse_levels, 1)
        softening = _coordinates(problem.energy).softening
        start = coarse_to_fine(problem, labels, energy, levels, self._few_steps, softening)
        yield from self._descend(problem, start, energy)

    def _descend(
        self, problem: Problem, labels: Float[Tensor, "b k *s"], start_energy: Float[Tensor, " b"]
    ) -> Iterator[Step]:
        if _is_convex_quadratic(problem.energy):
            return _linear(problem, labels, self.rtol, start_energy)
        if _runs_on_gpu(problem):
            return _on_gpu(problem, labels, self.rtol, start_energy)
        return _conjugate(_line_search(problem, labels), self.rtol, start_energy)

    def _few_steps(self, problem: Problem, labels: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
        step, unknown = Step(labels), labels.new_zeros(len(labels), dtype=torch.float64)
        for step in islice(self._descend(problem, labels, unknown), self.coarse_steps):
            if step.is_look_due and step.converged is not None and bool(step.converged.all()):
                break
        return step.labels


PAPER = GradientDescent(rate=0.075, rtol=0.0, coarse_levels=0)
"""As published: plain descent at rate 0.075 from the network's logits; run it for 200 steps."""


def _hardens(energy: Energy) -> bool:
    """``P(p, p) > 0`` for soft p, as for every relaxation that depends on ``p·q`` alone."""
    return isinstance(energy.relaxation, Relaxation) and energy.relaxation.norm_derivative is None


def _coordinates(energy: Energy) -> Coordinates:
    logarithmic = energy.coupling == REVERSE or energy.relaxation == COLLISION_CROSS_ENTROPY
    return LOGITS if logarithmic else SQUARE_ROOTS


def _is_convex_quadratic(energy: Energy) -> bool:
    return (
        energy.coupling == QUADRATIC
        and energy.relaxation == QUADRATIC_POTTS
        and not energy.entropy_weight
        and not energy.regularizers
    )


def _plain(problem: Problem, labels: Float[Tensor, "b k *s"], rate: float) -> Iterator[Step]:
    logits = LOGITS.of(labels)
    while True:
        _, grad = problem.value_and_grad(labels)
        logits = logits - rate * labels * centered_gradient(labels, grad)
        labels = problem.feasible(logits.softmax(1))
        yield Step(labels)


def _line_search(problem: Problem, labels: Float[Tensor, "b k *s"]) -> LineSearch:
    coordinates = _coordinates(problem.energy)
    if coordinates is not SQUARE_ROOTS or not supports(problem):
        return TorchSearch(problem, labels, coordinates)
    if backend(Routine.DESCENT, labels.device, labels.dtype) is Backend.CPU:
        from selflabel.numerics.descent.compiled_search import CompiledSearch

        return CompiledSearch(problem, labels)
    return RowSearch(problem, labels)


def _conjugate(search: LineSearch, rtol: float, start_energy: Float[Tensor, " b"]) -> Iterator[Step]:
    """Preconditioned nonlinear conjugate gradients; every scalar is one an image, so images do not mix."""
    zero, one = torch.zeros_like(start_energy), torch.ones_like(start_energy)
    every = torch.ones_like(zero, dtype=torch.bool)
    start = search.evaluate(zero, ~every)
    search.accept(every)
    search.turn(every, zero, one)
    rate, quiet, energy, done = one, zero, start.energy, start.gradient_norm == 0
    while True:
        trial = search.evaluate(rate, done)
        slack = ENERGY_SLACK * energy.abs()
        accepted = (trial.energy <= energy + slack) & ~done
        search.accept(accepted)
        rate = rate * secant_factor(trial, accepted)
        gain = energy - trial.energy
        quiet = torch.where(accepted, (quiet + 1) * (gain <= rtol * energy.abs()), quiet)
        stuck = ~accepted & (rate < LEAST_RATE)
        energy = torch.where(accepted, trial.energy, energy)
        done = done | (quiet >= QUIET_STEPS) | stuck
        yield LazyStep(search.labels, energy, converged=done, start_energy=start_energy)
        limited_away = ~accepted & (trial.slope_start >= 0)  # what was left of the direction is not downhill
        beta = torch.where(accepted, hestenes_stiefel(trial), 0.0)
        search.turn(accepted | limited_away, beta, rate)


def _runs_on_gpu(problem: Problem) -> bool:
    """Are there kernels on this device that take all decisions themselves?"""
    kernels = backend(Routine.DESCENT, problem.probs.device, problem.probs.dtype)
    if kernels is not Backend.GPU or _coordinates(problem.energy) is not SQUARE_ROOTS:
        return False
    from selflabel.numerics.descent.gpu_search import supports

    return supports(problem)


def _on_gpu(
    problem: Problem, labels: Float[Tensor, "b k *s"], rtol: float, start_energy: Float[Tensor, " b"]
) -> Iterator[Step]:
    """`_conjugate`, whose scalars stay on the device."""
    from selflabel.numerics.descent.gpu_search import GPUSearch, StepRules

    search = GPUSearch(problem, labels, StepRules(rtol, QUIET_STEPS, LEAST_RATE, MOST_GROWTH, ENERGY_SLACK))
    search.begin()
    for number in count(1):
        search.step()
        is_look_due = number % STEPS_BETWEEN_LOOKS == 0
        yield LazyStep(
            search.labels, search.energies, None, search.done, start_energy, search.steps, is_look_due
        )


def _linear(
    problem: Problem, labels: Float[Tensor, "b k *s"], rtol: float, start_energy: Float[Tensor, " b"]
) -> Iterator[Step]:
    """Preconditioned conjugate gradients in the labels: Nocedal & Wright (2006), algorithm 5.3, steps 5.39a to 5.39f.

    r is the gradient, which is linear in the labels, so that A p is its change over a step p. The preconditioner M is
    the curvature. Labels keep their sums over the classes, not their signs: the yielded ones are clipped, which by the
    maximum principle changes nothing in the end.
    """
    energy, grad = problem.value_and_grad(labels)
    m = grad.curvature.clamp_min(LEAST_CURVATURE)
    r = _tangent(problem, grad)
    y = r / m
    p = -y
    ry = inner(r, y)
    quiet = torch.zeros_like(energy)
    done = ry == 0
    while True:
        _, grad = problem.value_and_grad(labels + p)
        a_p = _tangent(problem, grad).sub_(r)
        p_a_p = inner(p, a_p)
        done = done | (p_a_p <= 0)
        alpha = torch.where(done, 0.0, ry / p_a_p)  # 5.39a
        labels = torch.addcmul(labels, per_image(alpha, labels), p)  # 5.39b
        r.addcmul_(per_image(alpha, labels), a_p)  # 5.39c
        gain = alpha * ry / 2
        energy = energy - gain
        quiet = (quiet + 1) * (gain <= LABEL_TOLERANCE * rtol * energy.abs())
        done = done | (quiet >= QUIET_STEPS)

        y = r / m  # 5.39d
        next_ry = inner(r, y)
        beta = torch.where(ry > 0, next_ry / ry, 0.0)  # 5.39e
        p.mul_(per_image(beta, labels)).sub_(y)  # 5.39f
        ry = next_ry
        clipped = labels.clamp_min(0)
        clipped.div_(clipped.sum(1, keepdim=True))
        yield Step(clipped, converged=done, start_energy=start_energy)


def _tangent(problem: Problem, grad: Gradient) -> Tensor:
    """The gradient by the labels, along the simplex of the allowed classes. Overwrites `grad`."""
    if problem.classes is None:
        return grad.value.sub_(grad.value.mean(1, keepdim=True))
    allowed = problem.classes.view(*problem.classes.shape, *[1] * (grad.value.ndim - 2))
    gradient = grad.value.mul_(allowed)
    return gradient.sub_(gradient.sum(1, keepdim=True) / allowed.sum(1, keepdim=True)).mul_(allowed)
