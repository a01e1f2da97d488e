"""Mean field: soft labels for the dense CRF."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import inf
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selflabel.affinity.builders import AffinityBuilder, Dense
from selflabel.affinity.protocol import Affinity
from selflabel.driver import LazyStep, Step
from selflabel.energy import Energy
from selflabel.kernels.backend import Backend, Routine, backend
from selflabel.kinds import check_fields
from selflabel.labels import LOG_FLOOR, floored, floored_logits, per_image
from selflabel.numerics.descent.mean_field_torch import RISE, SHORTEST_RATE, Sweeps, TorchMeanField, is_swept
from selflabel.problem import Problem
from selflabel.terms import BILINEAR, STANDARD, Regularizer, entropy, total


@dataclass(frozen=True)
class MeanField:
    """Minimize ``η Σ -y·ln σ + λ Σ_ij W_ij (1 - y_i·y_j) - τ Σ S(y)`` by the convex-concave procedure.

    The pairwise term is concave for positive semidefinite W, so it lies below its tangent, and minimizing the
    rest plus the tangent in closed form lowers the energy (Krähenbühl & Koltun 2013, Sec. 3; Tang et al., ECCV 2018,
    App. A):

        y ← softmax((η ln σ + 2 λ W y) / τ)        (λ W y with a sparse affinity, whose pairs count once)

    A grid is not positive semidefinite, and an approximate filter not quite: where the energy would rise, the step in
    the logits is halved instead. So the energy never rises. With τ = 1, the default, this is the usual dense CRF, in
    parallel updates; ten steps are usual.

    - `rtol`: an image has converged when a step lowers its energy by less than this fraction.

    With lattices a step visits the pixels that the last one has moved; every fourth one, and while the energy falls
    fast each, visits all.

    A local minimum. Cost: one filtering a step, and one for the energy of the start. Memory: 400 + 90 K bytes a pixel
    on compiled lattices (tests/benchmarks/growth.py). For any other coupling or relaxation use `GradientDescent`.
    """

    rtol: float = 1e-5

    name: ClassVar[str] = "mean-field"
    default_energy: ClassVar[Energy] = Energy(
        STANDARD, BILINEAR, coupling_weight=1.0, pairwise_weight=1.0, entropy_weight=1.0
    )
    default_affinity: ClassVar[AffinityBuilder] = Dense()
    needs_edges: ClassVar[bool] = False
    regularizers: ClassVar[tuple[type[Regularizer], ...]] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 <= self.rtol < inf:
            raise ValueError(f"expected rtol >= 0, got {self.rtol}")

    def check(self, energy: Energy, affinity: Affinity) -> None:
        """Raise `ValueError` for another coupling or relaxation, and without entropy."""
        if energy.coupling != STANDARD or energy.relaxation != BILINEAR:
            raise ValueError(
                f"mean field minimizes the 'standard' coupling with the 'bilinear' relaxation, got "
                f"{energy.coupling.name!r} and {energy.relaxation.name!r}: use gradient descent for these"
            )
        if not energy.entropy_weight > 0:
            raise ValueError(
                "mean field needs entropy_weight > 0 (usually 1), got 0: use graph cut or gradient descent"
            )

    def iterate(self, problem: Problem, labels: Float[Tensor, "b k *s"]) -> Iterator[Step]:
        """One filtering a step."""
        kernels = _kernels(problem)
        if kernels is Backend.GPU:
            from selflabel.numerics.descent.mean_field_gpu import FusedMeanField

            fused = FusedMeanField(problem, labels, self.rtol)
            while True:
                fused.step()
                yield LazyStep(
                    fused.labels, fused.energies, converged=fused.done, start_energy=fused.start_energies
                )
        if kernels is Backend.CPU:
            from selflabel.numerics.descent.mean_field import CompiledMeanField

            yield from self._swept_steps(problem, CompiledMeanField(problem, labels, self.rtol))
        elif is_swept(problem):
            yield from self._swept_steps(problem, TorchMeanField(problem, labels, self.rtol))
        else:
            done = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
            yield from self._guarded_steps(problem, labels, done, None)

    def _swept_steps(self, problem: Problem, field: Sweeps) -> Iterator[Step]:
        """Sweeps; images whose energy would rise go on by guarded steps, and the others do not notice."""
        start, guarded = field.start_energies, list[_Guarded]()
        while True:
            risen = field.sweep()
            if bool(risen.any()):
                steps = self._guarded_steps(problem, field.labels(), ~risen, start)
                guarded.append(_Guarded(risen, steps))
            energies, done = field.energies, field.done
            if guarded and not bool(field.swept.any()):
                break
            yield _joined(field.labels, energies, done, guarded, start)
        found = field.labels()
        del field  # its tables
        while True:
            yield _joined(lambda: found, energies, done, guarded, start)

    def _guarded_steps(
        self,
        problem: Problem,
        labels: Float[Tensor, "b k *s"],
        done: Bool[Tensor, " b"],
        start: Float[Tensor, " b"] | None,
    ) -> Iterator[Step]:
        """Steps of images that are not done, halved until the energy does not rise. `start`: its energy, if known."""
        energy, temperature = problem.energy, problem.energy.entropy_weight
        linear = replace(problem, energy=replace(energy, entropy_weight=0.0))

        def evaluate(at: Tensor) -> tuple[Tensor, Tensor]:
            """The energy, and the logits that minimize it with the pairwise term replaced by its tangent."""
            value, grad = linear.value_and_grad(at)
            return value - temperature * total(entropy(at) * problem.free), grad.value / -temperature

        logits = floored_logits(labels, LOG_FLOOR)
        value, target = evaluate(labels)
        start = value if start is None else start
        rate = torch.ones_like(value)
        while True:
            trial_logits = floored(torch.lerp(logits, target, per_image(rate, logits)), LOG_FLOOR)
            trial = problem.feasible(trial_logits.softmax(1))
            trial_value, trial_target = evaluate(trial)
            accepted = (trial_value <= value + RISE * value.abs()) & ~done
            resting = accepted & (value - trial_value <= self.rtol * value.abs())
            done = done | resting | (rate < SHORTEST_RATE)
            rate = torch.where(accepted, (2 * rate).clamp_max(1.0), rate / 2)
            where = accepted.view(-1, *[1] * (labels.ndim - 1))
            logits = torch.where(where, trial_logits, logits)
            target = torch.where(where, trial_target, target)
            labels = torch.where(where, trial, labels)
            value = torch.where(accepted, trial_value, value)
            yield Step(labels, value, converged=done, start_energy=start)


@dataclass(frozen=True, eq=False)
class _Guarded:
    """Some images of a batch, and steps of theirs alone."""

    images: Bool[Tensor, " b"]
    steps: Iterator[Step]


def _joined(
    labels: Callable[[], Float[Tensor, "b k *s"]],
    energies: Float[Tensor, " b"],
    done: Bool[Tensor, " b"],
    guarded: list[_Guarded],
    start: Float[Tensor, " b"],
) -> Step:
    """The step of all images, in which each of the guarded ones takes one of its own."""
    if not guarded:
        return LazyStep(labels, energies, converged=done, start_energy=start)
    found = labels()
    for each in guarded:
        step = next(each.steps)
        assert step.energy is not None, "guarded steps say it"
        assert step.converged is not None, "and this"
        found = torch.where(each.images.view(-1, *[1] * (found.ndim - 1)), step.labels, found)
        energies = torch.where(each.images, step.energy, energies)
        done = torch.where(each.images, step.converged, done)
    return Step(found, energies, converged=done, start_energy=start)


def _kernels(problem: Problem) -> Backend:
    """Whose kernels take the problem."""
    found = backend(Routine.MEAN_FIELD, problem.probs.device, problem.probs.dtype)
    if found is Backend.CPU:
        from selflabel.numerics.descent.mean_field import supports

        return found if supports(problem) else Backend.TORCH
    if found is Backend.GPU:
        from selflabel.numerics.descent import mean_field_gpu

        return found if mean_field_gpu.supports(problem) else Backend.TORCH
    return found
