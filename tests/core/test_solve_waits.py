"""How often the host waits for a device: counted on the CPU, by the tensors that are read as Python numbers."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from support.problems import make_case
from support.waits import Waits

from selflabel import problem as problems
from selflabel.driver import solve
from selflabel.energy import Energy
from selflabel.labels import UNLABELED
from selflabel.problem import Problem
from selflabel.solvers import GradientDescent


def waits(call: Callable[[], object]) -> int:
    """The waits of a call."""
    with Waits() as found:
        call()
    return len(found.found)


def test_readings_are_counted() -> None:
    values = torch.ones(3)
    assert waits(lambda: bool(values[0] > 0)) == 1
    assert waits(lambda: values.tolist()) == 1
    assert waits(lambda: values + 1) == 0


@pytest.mark.usefixtures("unchecked")
def test_all_checks_are_one_wait() -> None:
    case = make_case(Energy(), "grid8")
    classes = torch.ones(case.probs.shape[:2], dtype=torch.bool)
    problem = replace(case, classes=classes).problem
    assert waits(lambda: problem.check(case.probs)) == 1
    assert waits(problem.check) == 1


@pytest.mark.usefixtures("unchecked")
def test_a_solve_waits_a_few_times_besides_its_steps() -> None:
    problem = make_case(GradientDescent.default_energy, "grid4").problem
    solver = GradientDescent(rate=0.1, rtol=2e-4, coarse_levels=3)
    few, more = (waits(lambda n=n: solve(problem, solver, max_steps=n)) for n in (2, 12))  # type: ignore[misc]
    assert more <= few <= 8


@pytest.mark.usefixtures("unchecked")
def test_logits_of_a_device_are_looked_at_when_they_are_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(Energy(), "grid4")
    given = case.seeds.fill_(UNLABELED), case.affinity
    monkeypatch.setattr(problems, "is_on_cpu", lambda values: False)
    made: list[Problem] = []
    assert waits(lambda: made.append(Problem.from_logits(Energy(), case.probs.log() + 1, *given))) == 0
    made[0].check()
    assert waits(lambda: made.append(Problem.from_logits(Energy(), case.probs, *given))) == 0
    with pytest.raises(ValueError, match="expected logits, got probabilities"):
        made[1].check()
    with pytest.raises(ValueError, match="expected logits, got probabilities"):
        replace(made[1], energy=Energy()).check()
