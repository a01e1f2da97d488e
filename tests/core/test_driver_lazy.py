"""Steps that are read when a look is due: what the driver knows of solvers that count them."""

from collections.abc import Iterator
from dataclasses import dataclass

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

    def iterate(self, problem: Problem, labels: Tensor) -> Iterator[Step]:
        taken, most = torch.zeros(len(labels), dtype=torch.int64), torch.tensor([2, 8])

        def finished() -> Tensor:
            return taken >= torch.tensor([2, 6])

        for count in range(1, self.last + 1):
            taken.add_(1).clamp_(max=most)
            yield LazyStep(
                labels,
                converged=finished,
                steps=taken.clone,
                is_look_due=count % 4 == 0,
                energy=problem.value(labels),
            )


@pytest.mark.parametrize(
    ("last", "limit", "steps", "results"),
    [
        (100, 50, [2, 8], ["CONVERGED", "CONVERGED"]),  # seen at the second look
        (100, 3, [2, 3], ["CONVERGED", "MAX_STEPS"]),
        (3, 50, [2, 3], ["CONVERGED", "CONVERGED"]),  # to return says that all have converged
        (5, 50, [2, 5], ["CONVERGED", "CONVERGED"]),
    ],
)
def test_steps_of_a_solver_that_counts_them(
    last: int, limit: int, steps: list[int], results: list[str]
) -> None:
    problem = make_case(Energy(), "grid4").problem
    solution = solve(problem, Numbering(last=last), max_steps=limit)
    assert solution.steps.tolist() == steps
    assert [result.name for result in solution.results] == results
    told: list[list[int]] = []

    def watch(number: int, step: Step) -> None:
        assert step.steps is not None
        told.append(step.steps.tolist())

    watched = solve(problem, Numbering(last=last), max_steps=limit, callback=watch)
    assert told == [[min(number, 2), number] for number in range(1, len(told) + 1)]
    assert told[-1] == watched.steps.tolist()
