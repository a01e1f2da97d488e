"""Steps that are read when a look is due: what the driver knows of solvers that count them."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch
from support.problems import make_case
from support.toys import ToySolver
from torch import Tensor

from selflabel.driver import LazyStep, Step, solve
from selflabel.energy import Energy
from selflabel.problem import Problem


@dataclass(frozen=True)
class Numbering(ToySolver):
    """Counts its steps itself, and asks for a look at each fourth; ends by itself after so many."""

    last: int = 100
    bound: float | None = None
    asked: list[int] = field(default_factory=list)
    read: set[int] = field(default_factory=set)

    def iterate(self, problem: Problem, labels: Tensor) -> Iterator[Step]:
        taken, most = torch.zeros(len(labels), dtype=torch.int64), torch.tensor([2, 8])

        def finished() -> Tensor:
            self.read.add(self.asked[-1])
            return taken >= torch.tensor([2, 6])

        for count in range(1, self.last + 1):
            self.asked.append(count)
            taken.add_(1).clamp_(max=most)
            yield LazyStep(
                labels,
                converged=finished,
                steps=taken.clone,
                is_look_due=count % 4 == 0,
                energy=problem.value(labels),
                bound=None if self.bound is None else torch.full((len(labels),), self.bound),
            )


@pytest.mark.parametrize(
    ("last", "limit", "asked", "read", "steps", "results"),
    [
        (100, 50, 8, {4, 8}, [2, 8], ["CONVERGED", "CONVERGED"]),  # seen at the second look
        (100, 3, 3, {3}, [2, 3], ["CONVERGED", "MAX_STEPS"]),
        (3, 50, 3, set(), [2, 3], ["CONVERGED", "CONVERGED"]),  # to return says that all have converged
        (5, 50, 5, {4}, [2, 5], ["CONVERGED", "CONVERGED"]),
    ],
)
def test_steps_of_a_solver_that_counts_them(
    last: int, limit: int, asked: int, read: set[int], steps: list[int], results: list[str]
) -> None:
    problem = make_case(Energy(), "grid4").problem
    solver = Numbering(last=last)
    solution = solve(problem, solver, max_steps=limit)
    assert solver.asked == list(range(1, asked + 1))
    assert solver.read == read
    assert solution.steps.tolist() == steps
    assert [result.name for result in solution.results] == results
    told: list[list[int]] = []

    def watch(number: int, step: Step) -> None:
        assert step.steps is not None
        told.append(step.steps.tolist())

    watched = solve(problem, Numbering(last=last), max_steps=limit, callback=watch)
    assert told == [[min(number, 2), number] for number in range(1, len(told) + 1)]
    assert told[-1] == watched.steps.tolist()


def test_a_bound_is_read_though_no_look_is_due() -> None:
    solution = solve(make_case(Energy(), "grid4").problem, Numbering(last=1, bound=-3.0))
    assert solution.bound is not None
    assert solution.bound.tolist() == [-3.0, -3.0]
