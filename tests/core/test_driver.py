"""The driver: what it does once for every solver, and what it leaves alone."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import torch
from support.problems import make_case, random_labels
from support.toys import ToySolver
from torch import Tensor

import selflabel
from selflabel.affinity import Affinity
from selflabel.driver import Result, Solution, SolveError, Solver, Step, solve
from selflabel.energy import Energy
from selflabel.labels import UNLABELED, one_hot
from selflabel.problem import Problem
from selflabel.solvers import GradientDescent, GraphCut, MeanField
from selflabel.terms import BILINEAR, COLLISION_DIVERGENCE, QUADRATIC

ENERGY = Energy(QUADRATIC, BILINEAR)


@dataclass
class Counting:
    """An affinity, dense to the eye, that counts how often it is asked."""

    inner: Affinity
    calls: list[str] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inner.shape

    def apply(self, labels: Tensor) -> Tensor:
        self.calls.append("apply")
        return self.inner.apply(labels)

    def degree(self) -> Tensor:
        return self.inner.degree()

    def as_matrix(self) -> Tensor:
        return self.inner.as_matrix()


@dataclass(frozen=True)
class Fade(ToySolver):
    """Half-way to the middle in each step, for as many steps as each image is given (None: for ever)."""

    steps: tuple[int | None, ...] = (None, None)
    energies: bool = False
    flags: bool = True

    name: ClassVar[str] = "fade"
    default_energy: ClassVar[Energy] = ENERGY

    def iterate(self, problem: Problem, labels: Tensor) -> Iterator[Step]:
        count = 0
        while True:
            count += 1
            going = torch.tensor([n is None or count <= n for n in self.steps])
            last = torch.tensor([n is not None and count >= n for n in self.steps])
            here = going.view(-1, *[1] * (labels.ndim - 1))
            labels = torch.where(here, (labels + 1 / labels.shape[1]) / 2, labels)
            labels = problem.feasible(labels)
            energy = problem.value(labels) if self.energies else None
            yield Step(labels, energy, converged=last if self.flags else None)
            if bool(last.all()):
                return


@dataclass(frozen=True)
class Yields(ToySolver):
    """The given steps, and no more."""

    given: tuple[Step, ...]

    name: ClassVar[str] = "yields"
    default_energy: ClassVar[Energy] = ENERGY

    def iterate(self, problem: Problem, labels: Tensor) -> Iterator[Step]:
        yield from self.given


def counted() -> tuple[Problem, Counting]:
    case = make_case(ENERGY, "exact")
    affinity = Counting(case.affinity)
    case.affinity.degree()
    return Problem(ENERGY, case.probs, case.seeds, affinity), affinity


def test_the_trace_costs_nothing_when_it_is_not_asked_for() -> None:
    """One energy at the start and one at the end; with a trace one a step."""
    problem, affinity = counted()
    solve(problem, Fade(), max_steps=7)
    assert len(affinity.calls) == 2
    problem, affinity = counted()
    solution = solve(problem, Fade(), max_steps=7, trace=True)
    assert len(affinity.calls) <= 1 + 7 + 1
    assert solution.trace is not None
    assert solution.trace.shape == (8, 2)


def test_energies_that_a_solver_hands_over_are_not_computed_again() -> None:
    problem, affinity = counted()
    solve(problem, Fade(energies=True), max_steps=7, trace=True)
    assert len(affinity.calls) == 1 + 7
    told = torch.tensor([3.5, 4.5], dtype=torch.float64)
    step = Step(problem.probs, energy=told, bound=told - 1)
    solution = solve(problem, Yields((step,)), trace=True)
    assert torch.equal(solution.energy, told)
    assert solution.trace is not None
    assert torch.equal(solution.trace[1], told)
    assert solution.bound is not None
    assert torch.equal(solution.bound, told - 1)


@pytest.mark.parametrize("kind", ["grid4", "exact-3d"])
def test_the_trace_is_the_energy_after_each_step(kind: str) -> None:
    problem = make_case(ENERGY, kind).problem
    seen: list[tuple[int, Tensor]] = []
    solution = solve(
        problem, Fade(), max_steps=5, trace=True, callback=lambda n, step: seen.append((n, step.labels))
    )
    assert [n for n, _ in seen] == [1, 2, 3, 4, 5]
    assert solution.trace is not None
    start = problem.feasible(problem.probs)
    expected = torch.stack([problem.value(start), *(problem.value(labels) for _, labels in seen)])
    torch.testing.assert_close(solution.trace, expected)
    torch.testing.assert_close(solution.energy, expected[-1])
    torch.testing.assert_close(solution.start_energy, expected[0])
    assert torch.equal(solution.labels, seen[-1][1])
    assert solve(problem, Fade(), max_steps=5).trace is None


def test_results_and_steps_are_of_each_image() -> None:
    problem = make_case(ENERGY, "grid4", batch=3).problem
    solution = solve(problem, Fade((2, None, 4)), max_steps=6)
    assert solution.results == (Result.CONVERGED, Result.MAX_STEPS, Result.CONVERGED)
    assert solution.steps.tolist() == [2, 6, 4]
    solution = solve(problem, Fade((2, 3, 4)), max_steps=6)
    assert solution.results == (Result.CONVERGED,) * 3
    assert solution.steps.tolist() == [2, 3, 4]


def test_steps_are_shown_in_a_line() -> None:
    labels = torch.full((2, 3, 5, 6), 1 / 3)
    assert repr(Step(labels)) == "Step(labels: 2 x 3 x 5 x 6)"
    assert repr(Step(labels, torch.tensor([2.0, 3.0]))) == "Step(labels: 2 x 3 x 5 x 6, energy: 2, 3)"


def test_returning_says_converged() -> None:
    problem = make_case(ENERGY, "grid4").problem
    solution = solve(problem, Yields((Step(problem.probs), Step(problem.probs))), max_steps=9)
    assert solution.results == (Result.CONVERGED,) * 2
    assert solution.steps.tolist() == [2, 2]
    solution = solve(problem, Yields(()), trace=True)
    assert solution.results == (Result.CONVERGED,) * 2
    assert solution.steps.tolist() == [0, 0]
    torch.testing.assert_close(solution.energy, solution.start_energy)
    assert torch.equal(solution.labels, problem.feasible(problem.probs))
    assert solution.trace is not None
    assert solution.trace.shape == (1, 2)


def test_the_limit_counts_steps() -> None:
    problem = make_case(ENERGY, "grid4").problem
    for limit in (1, 3):
        solution = solve(problem, Fade(flags=False), max_steps=limit)
        assert solution.results == (Result.MAX_STEPS,) * 2
        assert solution.steps.tolist() == [limit] * 2
    with pytest.raises(ValueError, match="expected max_steps as a whole number >= 1, got 0"):
        solve(problem, Fade(), max_steps=0)


def test_inputs_are_untouched_and_nothing_is_recorded() -> None:
    case = make_case(ENERGY, "grid4")
    probs = case.probs.clone().requires_grad_()
    start = random_labels(case.probs).requires_grad_()
    problem = Problem(ENERGY, probs, case.seeds, case.affinity)
    before = [x.detach().clone() for x in (probs, start, case.seeds)]
    solution = solve(problem, Fade(), start=start, max_steps=3)
    assert not solution.labels.requires_grad
    assert not solution.energy.requires_grad
    for was, now in zip(before, (probs, start, case.seeds), strict=True):
        assert torch.equal(was, now)
    assert torch.is_grad_enabled()


def test_the_start_is_made_feasible() -> None:
    case = make_case(ENERGY, "grid4", seeded=0.0)
    seeds = case.seeds.clone()
    seeds[:, 0, 0] = 2
    classes = torch.tensor([[True, False, True]] * 2)
    problem = replace(case, seeds=seeds, classes=classes).problem
    start = random_labels(case.probs)
    solution = solve(problem, Yields(()), start=start)
    kept = start * torch.tensor([1.0, 0, 1]).view(1, 3, 1, 1)
    expected = kept / kept.sum(1, keepdim=True)
    expected[:, :, 0, 0] = torch.tensor([0.0, 0, 1])
    torch.testing.assert_close(solution.labels, expected)
    torch.testing.assert_close(solution.start_energy, problem.value(expected))


def test_seeds_and_masks_are_put_back_after_each_step() -> None:
    case = make_case(ENERGY, "grid4")
    problem = case.problem
    uniform = torch.full_like(case.probs, 1 / 3)
    seen: list[torch.Tensor] = []
    solution = solve(problem, Yields((Step(uniform),)), callback=lambda _, step: seen.append(step.labels))
    seeded = (case.seeds != UNLABELED)[:, None].expand_as(uniform)
    for labels in (solution.labels, *seen):
        assert torch.equal(labels[seeded], one_hot(case.seeds, 3)[seeded])
    assert len(seen) == 1
    classes = torch.tensor([[True, True, False]] * 2)
    masked = replace(case, seeds=torch.full_like(case.seeds, UNLABELED), classes=classes).problem
    assert float(solve(masked, Yields((Step(uniform),))).labels[:, 2].max()) == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_labels_that_are_not_finite(bad: float) -> None:
    case = make_case(ENERGY, "grid4", batch=3)
    labels = case.probs.clone()
    labels[1][:, (case.seeds[1] == UNLABELED)] = bad
    solver = Yields((Step(labels, converged=torch.tensor([True, False, True])),))
    with pytest.raises(SolveError, match=r"yields: images \[1\] of the batch: nan or inf in the labels"):
        solve(case.problem, solver)
    solution = solve(case.problem, solver, throw=False)
    assert solution.results == (Result.CONVERGED, Result.NONFINITE, Result.CONVERGED)
    good = torch.tensor([True, False, True])
    assert bool(solution.energy[good].isfinite().all())
    torch.testing.assert_close(solution.labels[good], case.problem.feasible(case.probs)[good])


def test_problems_and_starts_are_checked() -> None:
    case = make_case(ENERGY, "grid4")
    with pytest.raises(ValueError, match=r"expected start of shape \(2, 3, 5, 6\), got \(1, 3, 5, 6\)"):
        solve(case.problem, Fade(), start=case.probs[:1])
    with pytest.raises(ValueError, match="sum to one"):
        solve(replace(case, probs=case.probs * 2).problem, Fade())
    with pytest.raises(ValueError, match=r"seeds in 0\.\.2"):
        solve(replace(case, seeds=torch.full_like(case.seeds, 3)).problem, Fade())


def test_the_loop_is_lazy() -> None:
    """A solver is asked for no more steps than are wanted."""
    asked: list[int] = []

    class Eager(Fade):
        def iterate(self, problem: Problem, labels: Tensor) -> Iterator[Step]:
            for count in range(100):
                asked.append(count)
                yield Step(labels, converged=torch.tensor([True, count == 2]))

    solve(make_case(ENERGY, "grid4").problem, Eager())
    assert asked == [0, 1, 2]


def test_public_names() -> None:
    for name in selflabel.__all__:
        assert getattr(selflabel, name) is not None
    assert selflabel.solve is solve
    assert {"label", "solve", "losses", "solvers", "training"} <= set(dir(selflabel))
    assert vars(selflabel)["__getattr__"]("losses").__name__ == "selflabel.losses"
    assert selflabel.Solution is Solution
    assert isinstance(GradientDescent(), Solver)
    assert not isinstance(object(), Solver)
    with pytest.raises(AttributeError, match="no attribute 'solver'"):
        importlib.import_module("selflabel").solver  # noqa: B018


def test_results_carry_advice() -> None:
    assert "raise max_steps" in Result.MAX_STEPS.value
    assert "check the affinity" in Result.NONFINITE.value


@pytest.mark.usefixtures("unchecked")
def test_what_is_solved_by_what_is_checked() -> None:
    problem = make_case(Energy(), "grid4").problem
    with pytest.raises(ValueError, match="the class GraphCut"):
        solve(problem, GraphCut)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected a Problem, got a GraphCut"):
        solve(GraphCut(), problem)  # type: ignore[arg-type]


def test_a_start_is_made_of_labels() -> None:
    problem = make_case(Energy(), "grid4").problem
    for start in (torch.randn_like(problem.probs), torch.full_like(problem.probs, torch.nan)):
        with pytest.raises(ValueError, match="labels to start from"):
            solve(problem, GraphCut(), start=start)
    solution = solve(problem, GraphCut(), start=problem.probs.double())
    assert solution.labels.dtype == problem.probs.dtype


def test_the_solver_says_first_what_does_not_fit() -> None:
    case = make_case(Energy(relaxation=COLLISION_DIVERGENCE), "lattice")
    with pytest.raises(ValueError, match="graph-cut"):
        solve(case.problem, GraphCut())


def test_mixed_precision_outside_changes_nothing() -> None:
    problem = make_case(Energy(entropy_weight=1.0), "exact").problem
    expected = solve(problem, MeanField(), max_steps=5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = solve(make_case(Energy(entropy_weight=1.0), "exact").problem, MeanField(), max_steps=5)
    torch.testing.assert_close(found.labels, expected.labels)


BROKEN_STEPS: dict[str, Callable[[Tensor], Any]] = {
    "expected `iterate` to yield a Step, got a Tensor": lambda labels: labels,
    r"expected labels of shape \(2, 3, 5, 6\) .* got \(2, 3, 6, 5\)": lambda labels: Step(labels.mT),
    r"got \(1, 3, 5, 6\)": lambda labels: Step(labels[:1]),
    r"got \(2, 5, 6\) and torch.int64": lambda labels: Step(labels.argmax(1)),
    r"and torch.float64": lambda labels: Step(labels.double()),
    r"images \[1\] of the batch: expected labels >= 0 that sum to one .* off by 0.5": lambda labels: Step(
        labels * torch.tensor([1, 1.5])[:, None, None, None]
    ),
    r"images \[0, 1\].* off by 0.25": lambda labels: Step(
        labels.new_tensor([-0.25, 0.5, 0.75])[None, :, None, None].expand_as(labels)
    ),
    r"the energy of a step in the shape \(2,\), one number an image, got \(\)": lambda labels: Step(
        labels, energy=torch.tensor(1.0)
    ),
    r"the bound .* got \(1,\)": lambda labels: Step(labels, bound=torch.ones(1)),
    r"the converged .* got \(3,\)": lambda labels: Step(labels, converged=torch.ones(3, dtype=torch.bool)),
    r"the start_energy .* got \(2, 1\)": lambda labels: Step(labels, start_energy=torch.ones(2, 1)),
    r"the steps .* got \(\)": lambda labels: Step(labels, steps=torch.tensor(3)),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("message", BROKEN_STEPS)
@pytest.mark.parametrize("watched", [False, True])
def test_what_a_solver_gives_wrongly_is_refused_with_its_name(message: str, watched: bool) -> None:
    class Wrong(Fade):
        def iterate(self, problem: Problem, labels: Tensor) -> Iterator[Step]:
            yield BROKEN_STEPS[message](labels)

    problem = make_case(ENERGY, "grid4", seeded=0.0).problem
    with pytest.raises(SolveError, match=f"^fade: .*{message}"):
        solve(problem, Wrong(), throw=False, trace=watched, callback=(lambda *_: None) if watched else None)


def test_sums_as_rough_as_those_of_the_prediction_are_taken() -> None:
    case = make_case(ENERGY, "grid4")
    solution = solve(replace(case, probs=case.probs * (1 + 9e-4)).problem, Fade((0, 0)))
    assert solution.results == (Result.CONVERGED,) * 2


def test_the_device_is_not_waited_for_where_no_look_is_due() -> None:
    """Images that are done wait for the next look and count no more steps; with a trace each step is looked at."""
    asked: list[int] = []

    class Cheap(Fade):
        def iterate(self, problem: Problem, labels: Tensor) -> Iterator[Step]:
            for count in range(1, 100):
                asked.append(count)
                converged = torch.tensor([True, count >= 2])
                yield Step(labels, converged=converged, is_look_due=count % 4 == 0)

    problem = make_case(ENERGY, "grid4").problem
    solution = solve(problem, Cheap())
    assert asked == [1, 2, 3, 4]
    assert solution.steps.tolist() == [1, 2]
    assert solve(problem, Cheap(), max_steps=3).results == (Result.CONVERGED,) * 2
    asked.clear()
    solve(problem, Cheap(), trace=True)
    assert asked == [1, 2]
