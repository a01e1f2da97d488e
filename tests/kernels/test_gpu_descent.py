"""The line search by kernels in Triton against that in torch."""

from dataclasses import replace

import pytest
import torch
from support.problems import make_case, random_labels

from selflabel.affinity.stencil import Stencil
from selflabel.driver import solve
from selflabel.kernels.backend import Backend, Routine
from selflabel.numerics.descent.coordinates import SQUARE_ROOTS
from selflabel.numerics.descent.gpu_search import GPUSearch, supports
from selflabel.numerics.descent.line_search import LineSearch, TorchSearch, Trial
from selflabel.problem import Energy, Problem
from selflabel.solvers import GradientDescent
from selflabel.terms import (
    COLLISION,
    COLLISION_DIVERGENCE,
    QUADRATIC,
    RELAXATIONS,
    REVERSE,
    STANDARD,
    Coupling,
    Relaxation,
)

pytestmark = pytest.mark.needs_triton

DEFAULT = Energy(COLLISION, COLLISION_DIVERGENCE, 0.3, 6.0)
STEPS = ((0.0, 0.0), (0.3, 0.2), (0.5, 0.0), (0.2, 0.4), (0.1, 0.0))
"""Rates, and beta of the direction that follows."""


def assert_same(found: Trial, expected: Trial) -> None:
    for name in ("energy", "slope_start", "slope_end", "gradient_norm", "gradient_overlap"):
        one, other = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(
            one, other, rtol=5e-4, atol=2e-4 * float(expected.gradient_norm.abs().max())
        )


def moved(problem: Problem, device: torch.device) -> Problem:
    affinity = problem.affinity
    assert isinstance(affinity, Stencil)
    there = Stencil(affinity.size, affinity.offsets, tuple(weight.to(device) for weight in affinity.weights))
    classes = None if problem.classes is None else problem.classes.to(device)
    return Problem(problem.energy, problem.probs.to(device), problem.seeds.to(device), there, classes)


def walk_both(problem: Problem, device: torch.device) -> tuple[LineSearch, LineSearch]:
    """The same steps in both searches; the first image refuses the fourth and keeps its direction."""
    problem = moved(problem, device)
    labels = problem.feasible(random_labels(problem.probs.cpu()).to(device))
    assert supports(problem)
    searches = GPUSearch(problem, labels), TorchSearch(problem, labels, SQUARE_ROOTS)
    no = torch.zeros(len(labels), dtype=torch.bool, device=device)
    one = torch.ones(len(labels), dtype=torch.float64, device=device)
    for number, (rate, beta) in enumerate(STEPS[:-1]):
        assert_same(*(search.evaluate(rate * one, no) for search in searches))
        accepted = ~no
        accepted[0] = number < len(STEPS) - 2
        for search in searches:
            search.accept(accepted)
            search.turn(accepted, beta * one, STEPS[number + 1][0] * one)
        torch.testing.assert_close(searches[0].labels(), searches[1].labels(), rtol=0, atol=2e-4)
    assert_same(*(search.evaluate(STEPS[-1][0] * one, no) for search in searches))
    return searches


@pytest.mark.parametrize("coupling", [STANDARD, COLLISION], ids=lambda c: c.name)
@pytest.mark.parametrize("relaxation", RELAXATIONS, ids=lambda r: r.name)
def test_every_energy_of_products(
    coupling: Coupling, relaxation: Relaxation, kernel_device: torch.device
) -> None:
    energy = Energy(coupling, relaxation, 0.4, 2.5)
    walk_both(make_case(energy, "grid8", size=(5, 6), classes=3, seeded=0.1).problem, kernel_device)


@pytest.mark.parametrize(
    ("kind", "size", "classes"),
    [
        ("grid4", (9, 37), 2),
        ("grid4", (1, 30), 5),
        ("grid8", (30, 1), 5),
        ("grid8", (2, 2), 3),
        ("grid8", (9, 33), 21),
        ("grid4", (5, 9), 1),
        ("grid4", (5, 18), 150),
        ("window", (7, 9), 7),
        ("gated", (5, 7), 9),
        ("window", (2, 1), 6),
        ("grid6", (3, 4, 5), 3),
        ("grid26", (3, 4, 5), 13),
    ],
)
def test_every_size(kind: str, size: tuple[int, ...], classes: int, kernel_device: torch.device) -> None:
    walk_both(
        make_case(DEFAULT, kind, size=size, classes=classes, batch=1, seeded=0.1).problem, kernel_device
    )


def test_coarse_and_turned_offsets(kernel_device: torch.device) -> None:
    """Offsets of coarse stencils come in another order; and each may be written the other way around."""
    case = make_case(DEFAULT, "window", size=(12, 14), classes=3)
    assert isinstance(case.affinity, Stencil)
    coarse = case.affinity.coarsen()
    probs, seeds = case.probs[..., ::2, ::2].contiguous(), case.seeds[..., ::2, ::2]
    turned = Stencil(
        coarse.size, tuple(tuple(-o for o in offset) for offset in coarse.offsets), coarse.weights
    )
    for affinity in (coarse, turned):
        walk_both(Problem(DEFAULT, probs, seeds, affinity), kernel_device)


def test_excluded_classes_stay_excluded(kernel_device: torch.device) -> None:
    case = make_case(DEFAULT, "grid4", size=(6, 7), classes=4)
    classes = torch.tensor([[True, False, True, True]]).expand(len(case.probs), -1)
    problem = replace(case.problem, classes=classes, seeds=torch.full_like(case.seeds, 255))
    search, _ = walk_both(problem, kernel_device)
    labels = search.labels()
    assert labels[:, 1].abs().max() == 0
    torch.testing.assert_close(labels.sum(1), torch.ones_like(labels[:, 0]))


def test_finished_images_stay_as_they_are(kernel_device: torch.device) -> None:
    problem = moved(make_case(DEFAULT, "grid4", size=(6, 7), classes=3, batch=2).problem, kernel_device)
    search = GPUSearch(problem, problem.probs)
    no = torch.zeros(2, dtype=torch.bool, device=kernel_device)
    one = torch.ones(2, dtype=torch.float64, device=kernel_device)
    search.evaluate(0 * one, no)
    search.accept(~no)
    search.turn(~no, 0 * one, one)
    last = torch.tensor([True, False], device=kernel_device)
    before = search.labels()
    search.evaluate(0.5 * one, last)
    search.accept(~last)
    after = search.labels()
    assert torch.equal(after[0], before[0])
    assert not torch.equal(after[1], before[1])


def test_unsupported_problems() -> None:
    case = make_case(DEFAULT, "grid4", size=(6, 7), classes=3)
    assert supports(case.problem)
    for energy in (
        Energy(REVERSE, COLLISION_DIVERGENCE),
        Energy(QUADRATIC, COLLISION_DIVERGENCE),
        Energy(COLLISION, COLLISION_DIVERGENCE, entropy_weight=0.1),
        Energy(COLLISION, replace(COLLISION_DIVERGENCE, value=lambda dot, pp, qq: 1 - dot)),
    ):
        assert not supports(replace(case.problem, energy=energy))


@pytest.fixture
def kernels_for_solvers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Solvers take the kernels for float32 on any device."""

    def chosen(routine: Routine, device: torch.device, dtype: torch.dtype) -> Backend:
        return Backend.GPU if dtype == torch.float32 else Backend.TORCH

    monkeypatch.setattr("selflabel.solvers.gradient_descent.backend", chosen)


@pytest.mark.usefixtures("kernels_for_solvers")
@pytest.mark.slow
def test_solves_as_torch_does_and_twice_the_same(kernel_device: torch.device) -> None:
    problem = make_case(DEFAULT, "grid4", size=(16, 17), classes=2, batch=1, seeded=0.05).problem
    there, solver = moved(problem, kernel_device), GradientDescent()
    first, second = (solve(there, solver) for _ in range(2))
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(first.energy, second.energy)
    precise = replace(problem, probs=problem.probs.double(), affinity=_double(problem.affinity))
    expected = solve(precise, solver)
    torch.testing.assert_close(first.energy.cpu(), expected.energy, rtol=1e-3, atol=0)
    torch.testing.assert_close(first.energy, there.value(first.labels), rtol=1e-5, atol=1e-5)


def _double(affinity: object) -> Stencil:
    assert isinstance(affinity, Stencil)
    return affinity.to(torch.float64)
