"""The driver, `solve`: the only loop, and all that solvers have in common.

The file is not called after the function: importing it would put a module where `selflabel.solve` is expected.
"""

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import inf
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from selflabel.affinity.builders import AffinityBuilder
from selflabel.affinity.protocol import Affinity, SparseAffinity
from selflabel.energy import Energy
from selflabel.inputs import check_tensor, check_untransformed, extent, widened_distributions
from selflabel.kernels.tracing import opaque
from selflabel.kinds import check_count, check_kind
from selflabel.labels import channels_first
from selflabel.problem import Problem
from selflabel.terms import NormalizedCut, Regularizer


@dataclass(frozen=True, eq=False)
class Step:
    """Better labels of a solver, and what the solver knows about them without computing it for this purpose.

    The solver may write its next labels into the same memory.

    - `energy`: ``problem.value(labels)``;
    - `bound`: a lower bound of the energy;
    - `converged`: the images that are finished, whose labels change no more;
    - `start_energy`: the energy of the labels that the solver started from, in its first step;
    - `steps`: how many steps each image has taken, of a solver that counts them itself;
    - `is_look_due`: False where finished images cost so little that the host need not wait for the device to know
      whether all are.
    """

    labels: Float[Tensor, "b k *s"]
    energy: Float[Tensor, " b"] | None = None
    bound: Float[Tensor, " b"] | None = None
    converged: Bool[Tensor, " b"] | None = None
    start_energy: Float[Tensor, " b"] | None = None
    steps: Int64[Tensor, " b"] | None = None
    is_look_due: bool = True

    def __repr__(self) -> str:
        energy = "" if self.energy is None else f", energy: {_listed(self.energy)}"
        return f"{type(self).__name__}(labels: {extent(tuple(self.labels.shape))}{energy})"


Part = Callable[[], Tensor] | Tensor | None


class LazyStep(Step):
    """A step of which functions compute what is read: labels each time, numbers once. Read it before the next step.

    If the solver counts its steps, nothing is read of one that no look is due for, unless each is recorded.
    """

    def __init__(
        self,
        labels: Part,
        energy: Part = None,
        bound: Float[Tensor, " b"] | None = None,
        converged: Part = None,
        start_energy: Float[Tensor, " b"] | None = None,
        steps: Part = None,
        is_look_due: bool = True,
    ) -> None:
        parts = {"labels": labels, "energy": energy, "converged": converged, "steps": steps}
        given = {"bound": bound, "start_energy": start_energy, "is_look_due": is_look_due, "parts": parts}
        for name, value in given.items():
            object.__setattr__(self, name, value)

    def __getattribute__(self, name: str) -> Any:
        if name not in ("labels", "energy", "converged", "steps"):
            return object.__getattribute__(self, name)
        part: Part = self.parts[name]
        if not callable(part):
            return part
        found = part()
        if name != "labels":
            self.parts[name] = found
        return found

    @property
    def can_be_skipped(self) -> bool:
        """True if a later step says all that this one does."""
        return not self.is_look_due and self.parts["steps"] is not None and self.bound is None


@runtime_checkable
class Solver(Protocol):
    """A frozen dataclass of hyper-parameters: what fits it, and one generator. No problem, no state, no loop limit."""

    name: ClassVar[str]
    """As on the command line: "graph-cut"."""
    default_energy: ClassVar[Energy]
    """What it minimizes when nothing else is asked for."""
    default_affinity: ClassVar[AffinityBuilder]
    """The affinity of an image that it is used with when nothing else is asked for."""
    needs_edges: ClassVar[bool]
    """True if the affinity must list its pairs; `check_fit` refuses a dense one then."""
    regularizers: ClassVar[tuple[type[Regularizer], ...]]
    """The kinds of further terms that it minimizes; `check_fit` refuses an energy with others."""

    def check(self, energy: Energy, affinity: Affinity) -> None:
        """Raise `ValueError` if the solver cannot minimize this energy: which part does not fit, and what would."""

    def iterate(self, problem: Problem, labels: Float[Tensor, "b k *s"]) -> Iterator[Step]:
        """Yield better and better labels; returning says that all images have converged.

        Code before the first `yield` is set-up; each `yield` is a step; a closed form yields once, converged.
        """


@runtime_checkable
class HardSolver(Solver, Protocol):
    """A solver of hard labels, which says apart how probable they are."""

    def marginals(self, problem: Problem, labels: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
        """How probable each class is, distributions as of a soft solver: `labels` are the most probable ones."""


class Result(enum.Enum):
    """How the solve of one image ended; the value is the message, with advice."""

    CONVERGED = "the solver stopped by itself"
    MAX_STEPS = "the step limit was reached first: raise max_steps or loosen the tolerance"
    NONFINITE = "nan or inf in the labels or their energy: check the affinity, its features and huge weights"


SUM_TOLERANCE = 2e-3
"""How far sums of labels over the classes may be from one: twice what predictions may be off."""


LARGEST_OFF = 2e-7
"""Distance from one of the sums of labels, by rounding, from which on they are normalized."""


class SolveError(RuntimeError):
    """A solve failed for some image; the message says which solver, which image, and why."""


@dataclass(frozen=True, eq=False)
class Solution:
    """What `solve` returns, for every solver alike."""

    labels: Float[Tensor, "b k *s"]
    """On the simplex, seeds at their class."""
    energy: Float[Tensor, " b"]
    """``problem.value(labels)``, float64."""
    start_energy: Float[Tensor, " b"]
    """The energy of the labels that the solver started from."""
    bound: Float[Tensor, " b"] | None
    """A lower bound of the energy, from solvers that have one."""
    results: tuple[Result, ...]
    """One an image: a bad image does not fail the batch."""
    steps: Int64[Tensor, " b"]
    """How many steps each image took."""
    trace: Float[Tensor, "t b"] | None
    """The energy at the start and after each step, if asked for."""
    marginals: Float[Tensor, "b k *s"] | None = None
    """How probable each class is, if asked for: soft labels themselves, or what a solver of hard labels says of its."""

    def __repr__(self) -> str:
        batch, classes, *size = self.labels.shape
        results = ", ".join(f"{self.results.count(r)} {r.name}" for r in Result if r in self.results)
        energies = f"{_listed(self.start_energy)} -> {_listed(self.energy)}"
        return (
            f"Solution(images: {batch} of {extent(tuple(size))}, classes: {classes}, {results}, "
            f"steps: {_listed(self.steps)}, energy: {energies})"
        )


def _listed(values: Tensor) -> str:
    shown = ", ".join(f"{value:.6g}" for value in values[:3].tolist())
    return f"{shown}, …" if len(values) > 3 else shown


def check_solver(solver: object) -> None:
    """Raise `ValueError` for the name or the class of a solver in place of one."""
    check_kind(solver, Solver, "a solver such as GraphCut()", "selflabel.solvers.SOLVERS[name]() by its name")


def check_fit(solver: Solver, energy: Energy, affinity: Affinity) -> None:
    """Raise `ValueError` if the solver cannot minimize this energy on this affinity. No pixel is read."""
    for regularizer in energy.regularizers:
        if not isinstance(regularizer, solver.regularizers):
            others = (
                "kernel-cut or gradient-descent"
                if isinstance(regularizer, NormalizedCut)
                else "gradient-descent"
            )
            raise ValueError(
                f"{solver.name}: expected an energy without the regularizer {regularizer.name!r}, which this solver "
                f"does not minimize: leave it out, or use the {others} solver"
            )
    if solver.needs_edges and not isinstance(affinity, SparseAffinity):
        raise ValueError(
            f"{solver.name}: expected an affinity that lists its pairs, got {type(affinity).__name__}: use a "
            f"grid or window affinity, or the mean-field solver"
        )
    solver.check(energy, affinity)


@opaque
def solve(
    problem: Problem,
    solver: Solver,
    *,
    start: Float[Tensor, "b k *s"] | None = None,
    max_steps: int = 200,
    throw: bool = True,
    trace: bool = False,
    marginals: bool = False,
    callback: Callable[[int, Step], None] | None = None,
) -> Solution:
    """Minimize ``problem.energy`` over the labels with `solver`, from `start` (default: the prediction).

    With `trace` the energy of every step is recorded, with `marginals` how probable each class is (of hard labels, too:
    `HardSolver`); without, they cost nothing. `callback` is called with the number of each step and the `Step`. No
    gradients are recorded, inputs are not written to, and seeds keep their classes.

    Raises `ValueError` if values or shapes do not fit, or if the solver cannot minimize this energy (the message
    says which part does not fit and what would); `SolveError` if labels become nan or inf, unless `throw` is
    off: then that image has `Result.NONFINITE`.
    """
    check_count(max_steps, "max_steps")
    check_kind(problem, Problem, "a Problem", "the order is solve(problem, solver)")
    check_solver(solver)
    for name, switch in (("throw", throw), ("trace", trace), ("marginals", marginals)):
        check_kind(switch, bool, f"{name} as True or False", "one of both")
    if callback is not None:
        check_kind(callback, Callable, "callback as a function", "or None")
    check_untransformed(problem.probs)
    if start is not None:
        check_tensor(start, "start")
    if start is not None and start.shape != problem.probs.shape:
        raise ValueError(f"expected start of shape {tuple(problem.probs.shape)}, got {tuple(start.shape)}")
    # in mixed precision the filters' sums would be rounded to eight bits
    with torch.no_grad(), torch.autocast(problem.probs.device.type, enabled=False):
        check_fit(solver, problem.energy, problem.affinity)
        start = None if start is None else widened_distributions(start).to(problem.probs)
        problem.check(start)
        labels = problem.feasible(problem.probs if start is None else start)
        solution = _run(problem, solver, labels, max_steps, throw, trace, callback)
        if not marginals:
            return solution
        found = (
            solver.marginals(problem, solution.labels) if isinstance(solver, HardSolver) else solution.labels
        )
        return replace(solution, marginals=found)


def _a_step(step: object, solver: Solver) -> Step | None:
    """The step, or None. Raise `SolveError` for anything else."""
    if step is None or isinstance(step, Step):
        return step
    raise SolveError(
        f"{solver.name}: expected `iterate` to yield a Step, got a {type(step).__name__}: yield Step(labels)"
    )


def _check_numbers(step: Step, solver: Solver, like: Tensor) -> None:
    """Raise `SolveError` unless the step has one number an image."""
    for name in ("energy", "bound", "converged", "start_energy", "steps"):
        value = getattr(step, name)
        if value is not None and tuple(value.shape) != (len(like),):
            raise SolveError(
                f"{solver.name}: expected the {name} of a step in the shape {(len(like),)}, one number an image, got "
                f"{tuple(value.shape)}"
            )


def _read(step: Step, solver: Solver, like: Tensor) -> Tensor:
    """The labels of a step. Raise `SolveError` for another shape or type than the prediction's."""
    labels = step.labels
    if (labels.shape, labels.dtype) != (like.shape, like.dtype):
        raise SolveError(
            f"{solver.name}: expected labels of shape {tuple(like.shape)} and {like.dtype} as the prediction, got "
            f"{tuple(labels.shape)} and {labels.dtype}: check what its `iterate` yields"
        )
    return labels


def _normalized(labels: Float[Tensor, "b k *s"], solver: Solver) -> Float[Tensor, "b k *s"]:
    """The labels; those of an image with sums that are off by rounding, divided by these. The host waits once.

    Raises `SolveError` unless labels are distributions; nan and inf pass, as a `Result` of their image.
    """
    sums = labels.sum(1, keepdim=True)
    off = (sums - 1).abs_().flatten(1).amax(1)
    sums_off, all_off = torch.stack([off, torch.maximum(off, -labels.amin(1).flatten(1).amin(1))]).tolist()
    wrong = {number: size for number, size in enumerate(all_off) if SUM_TOLERANCE < size < inf}
    if wrong:
        raise SolveError(
            f"{solver.name}: images {list(wrong)} of the batch: expected labels >= 0 that sum to one over the "
            f"classes, got some off by {max(wrong.values()):g}: check what its `iterate` yields"
        )
    if not any(size > LARGEST_OFF for size in sums_off):
        return labels
    return torch.where((off > LARGEST_OFF).view(-1, *[1] * (labels.ndim - 1)), labels / sums, labels)


def _run(
    problem: Problem,
    solver: Solver,
    labels: Float[Tensor, "b k *s"],
    max_steps: int,
    throw: bool,
    trace: bool,
    callback: Callable[[int, Step], None] | None,
) -> Solution:
    batch = labels.shape[0]
    done = torch.zeros(batch, dtype=torch.bool, device=labels.device)
    steps = torch.zeros(batch, dtype=torch.int64, device=labels.device)
    step = Step(labels)
    iterator = solver.iterate(problem, labels)
    following = _a_step(next(iterator, None), solver)
    given = None if following is None else following.start_energy
    start_energy = problem.value(labels) if given is None else given
    energies, bound = [start_energy], None
    is_watched = trace or callback is not None
    for count in range(1, max_steps + 1):
        if count > 1:
            following = _a_step(next(iterator, None), solver)
        if following is None:
            done = torch.ones_like(done)
            break
        step = following
        if isinstance(step, LazyStep) and step.can_be_skipped and not is_watched and count < max_steps:
            continue
        _check_numbers(step, solver, labels)
        if step.steps is None:
            steps += ~done
        bound = step.bound if step.bound is not None else bound
        if trace:
            energies.append(
                problem.value(_read(step, solver, labels)) if step.energy is None else step.energy
            )
        if callback is not None:
            copy = problem.feasible(_read(step, solver, labels)).clone()
            callback(
                count, Step(copy, step.energy, step.bound, step.converged, step.start_energy, step.steps)
            )
        if step.converged is not None:
            done = done | step.converged
            if (step.is_look_due or is_watched) and bool(done.all()):
                break
    steps = steps if step.steps is None else step.steps
    labels = channels_first(problem.feasible(_normalized(_read(step, solver, labels), solver)))
    energy = problem.value(labels) if step.energy is None else problem.certain(step.energy, labels)
    finite = torch.isfinite(labels.flatten(1).sum(1) + energy)
    results = tuple(
        Result.NONFINITE if not ok else Result.CONVERGED if end else Result.MAX_STEPS
        for ok, end in torch.stack([finite, done], 1).tolist()
    )
    if throw and Result.NONFINITE in results:
        bad = [i for i, result in enumerate(results) if result is Result.NONFINITE]
        raise SolveError(f"{solver.name}: images {bad} of the batch: {Result.NONFINITE.value}")
    return Solution(
        labels, energy, start_energy, bound, results, steps, torch.stack(energies) if trace else None
    )
