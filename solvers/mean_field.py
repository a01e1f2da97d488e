"""Mean field: soft labels for the dense CRF."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selflabel.affinity.dense import DenseAffinity
from selflabel.affinity.protocol import Affinity
from selflabel.driver import LazyStep, Step
from selflabel.kernels.backend import Backend, Routine, backend
from selflabel.labels import LOG_FLOOR, channels_first, floored, floored_logits, per_image
from selflabel.problem import Energy, Problem
from selflabel.terms import BILINEAR, STANDARD, entropy, total

FAR = 0.01
"""As long as a step lowers the energy by more than this fraction, all pixels are visited."""


@dataclass(frozen=True, eq=False)
class _Stand:
    """How far mean field has come: labels, images that have converged, and the energy of its start, if known."""

    labels: Float[Tensor, "b k *s"]
    done: Bool[Tensor, " b"]
    start_energy: Float[Tensor, " b"] | None

    @classmethod
    def at(cls, labels: Float[Tensor, "b k *s"]) -> "_Stand":
        """At the start."""
        return cls(labels, torch.zeros(len(labels), dtype=torch.bool, device=labels.device), None)


@dataclass(frozen=True)
class MeanField:
    """Minimize ``η Σ -y·ln σ + λ Σ_ij W_ij (1 - y_i·y_j) - τ Σ S(y)`` by the convex-concave procedure.

    The pairwise term is concave for positive semidefinite W, so it lies below its tangent, and minimizing the
    rest plus the tangent in closed form lowers the energy (Krähenbühl & Koltun 2013, Sec. 3; Tang et al., ECCV 2018,
    App. A):

        y ← softmax((η ln σ + 2 λ W y) / τ)        (λ W y with a sparse affinity, whose pairs count once)

    A grid is not positive semidefinite, and neither, quite, is a filter that approximates: where the energy
    would rise, the step in the logits is halved instead. The energy never rises. With τ = 1, the default, this
    is the dense CRF as everyone runs it, in parallel updates; ten steps are usual.

    - `rtol`: an image has converged when a step lowers its energy by less than this fraction.

    A local minimum. Cost: one filtering a step (with its energy), so one more in all than the updates alone. Memory:
    400 + 90 K bytes a pixel on compiled lattices (tests/benchmarks/growth.py).
    For any other coupling or relaxation use `GradientDescent`.
    """

    rtol: float = 1e-5

    name: ClassVar[str] = "mean-field"
    default_energy: ClassVar[Energy] = Energy(
        STANDARD, BILINEAR, coupling_weight=1.0, pairwise_weight=1.0, entropy_weight=1.0
    )
    needs_edges: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.rtol >= 0:
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
        kernels = backend(Routine.MEAN_FIELD, labels.device, labels.dtype)
        if kernels is Backend.CPU and isinstance(problem.affinity, DenseAffinity):
            stand = yield from self._sweeps(problem, problem.affinity, labels)
        else:
            stand = _Stand.at(labels)
        yield from self._guarded_steps(problem, stand)

    def _guarded_steps(self, problem: Problem, stand: "_Stand") -> Iterator[Step]:
        """Steps that are halved until the energy does not rise."""
        labels, done = stand.labels, stand.done
        energy, temperature = problem.energy, problem.energy.entropy_weight
        linear = replace(problem, energy=replace(energy, entropy_weight=0.0))

        def evaluate(at: Tensor) -> tuple[Tensor, Tensor]:
            """The energy, and the logits that minimize it with the pairwise term replaced by its tangent."""
            value, grad = linear.value_and_grad(at)
            return value - temperature * total(entropy(at) * problem.free), grad.value / -temperature

        logits = floored_logits(labels, LOG_FLOOR)
        value, target = evaluate(labels)
        start = value if stand.start_energy is None else stand.start_energy
        rate = torch.ones_like(value)
        while True:
            trial_logits = floored(torch.lerp(logits, target, per_image(rate, logits)), LOG_FLOOR)
            trial = problem.feasible(trial_logits.softmax(1))
            trial_value, trial_target = evaluate(trial)
            slack = 1e-7 * value.abs()  # rounding of float32 labels
            accepted = (trial_value <= value + slack) & ~done
            done = done | (accepted & (value - trial_value <= self.rtol * value.abs())) | (rate < 1e-3)
            rate = torch.where(accepted, (2 * rate).clamp_max(1.0), rate / 2)
            where = accepted.view(-1, *[1] * (labels.ndim - 1))
            logits = torch.where(where, trial_logits, logits)
            target = torch.where(where, trial_target, target)
            labels = torch.where(where, trial, labels)
            value = torch.where(accepted, trial_value, value)
            yield Step(labels, value, converged=done, start_energy=start)

    def _sweeps(
        self, problem: Problem, affinity: DenseAffinity, labels: Float[Tensor, "b k *s"]
    ) -> Generator[Step, None, "_Stand"]:
        """The same with compiled lattices, as long as no energy rises; only at the pixels that still move.

        Returns where it stands, then.
        """
        from selflabel.kernels.memory import empty
        from selflabel.kernels.threads import run_parallel, split_threads
        from selflabel.numerics.descent.mean_field import MeanFieldSweeps, supports

        done = torch.zeros(len(labels), dtype=torch.bool)
        energy, temperature = problem.energy, problem.energy.entropy_weight
        if not supports(affinity, labels, energy.coupling_weight / temperature):
            return _Stand.at(labels)
        starts = channels_first(labels).flatten(2).numpy()
        probs = starts if labels is problem.probs else channels_first(problem.probs).flatten(2).numpy()
        every = torch.ones(labels.shape[:2], dtype=torch.bool)
        allowed = (every if problem.classes is None else problem.classes).numpy()
        weights = energy.coupling_weight / temperature, 2 * energy.pairwise_weight / temperature
        threads, across = split_threads(len(labels))
        given = zip(starts, probs, problem.free[:, 0].numpy(), allowed, strict=True)
        images = run_parallel(
            [
                partial(MeanFieldSweeps, affinity.filters, number, *each, *weights, threads)
                for number, each in enumerate(given)
            ],
            across,
        )

        def read() -> Tensor:
            result = empty(tuple(labels.shape), labels.dtype)
            to = result.flatten(2).numpy()
            run_parallel([partial(image.read, own) for image, own in zip(images, to, strict=True)], across)
            return result

        def of_each(move: Callable[[MeanFieldSweeps], tuple[bool, float]]) -> tuple[Tensor, Tensor]:
            """Whether it was everywhere, and the energies, which are known of images that are done."""
            tasks = [partial(move, image) for image in compress(images, ~done)]
            found = run_parallel(tasks, across)
            everywhere, energies = torch.ones_like(done), value.clone()
            everywhere[~done] = torch.tensor([where for where, _ in found])
            energies[~done] = temperature * torch.tensor([own for _, own in found], dtype=torch.float64)
            return everywhere, energies

        value = torch.zeros(len(labels), dtype=torch.float64)
        _, value = of_each(lambda image: (True, image.energy()))
        start = value
        while True:
            # of an image both at once, while its tables are in a cache
            everywhere, trial = of_each(lambda image: (image.sweep(), image.energy()))
            risen = trial > value + 1e-7 * value.abs()  # rounding of float32 labels
            for image in compress(images, risen):
                image.undo()
            if bool(risen.any()):
                return _Stand(read(), done, start)
            gain = value - trial
            resting = gain <= self.rtol * value.abs()
            # those that were left out may still move; and far from the end, those that have settled move again
            for image in compress(images, resting | (gain > FAR * value.abs())):
                image.revisit()
            done = done | (resting & everywhere)
            value = trial
            yield LazyStep(read, value, converged=done, start_energy=start)
