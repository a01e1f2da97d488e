"""The line search by kernels in Triton against that in torch."""

from dataclasses import replace
from itertools import cycle

import pytest
import torch
from support.problems import make_case, random_labels
from torch import Tensor

from selflabel.affinity.stencil import Stencil
from selflabel.driver import solve
from selflabel.energy import Energy
from selflabel.kernels.backend import Backend, Routine
from selflabel.kernels.gpu.descent import SearchState, deciding
from selflabel.numerics.descent.coordinates import SQUARE_ROOTS
from selflabel.numerics.descent.gpu_search import GPUSearch, StepRules, supports
from selflabel.numerics.descent.line_search import LineSearch, TorchSearch, Trial
from selflabel.problem import Problem
from selflabel.solvers import GradientDescent
from selflabel.solvers.gradient_descent import _conjugate
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


RULES = StepRules(2e-4, 3, 1e-4, 2.0, 1e-7)


class ByHand(GPUSearch):
    """A search whose rates and directions are given, as those of `TorchSearch` are."""

    def evaluate(self, rate: Tensor, done: Tensor) -> Trial:
        self._progress.rates.copy_(rate)
        self._progress.done.copy_(done)
        self._try()
        self._progress.turns.zero_()
        return Trial(*self._sums.sum(2).unbind(1))

    def accept(self, images: Tensor) -> None:
        self._progress.sides.copy_(self._progress.sides ^ images.int())

    def turn(self, images: Tensor, beta: Tensor, rate: Tensor) -> None:
        self._progress.turns.copy_(images)
        self._progress.betas.copy_(beta)


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


def walk_both(
    problem: Problem, device: torch.device, steps: int = len(STEPS)
) -> tuple[LineSearch, LineSearch]:
    """The same steps in both searches; the first image refuses the fourth and keeps its direction."""
    problem = moved(problem, device)
    labels = problem.feasible(random_labels(problem.probs.cpu()).to(device))
    assert supports(problem)
    searches = ByHand(problem, labels, RULES), TorchSearch(problem, labels, SQUARE_ROOTS)
    no = torch.zeros(len(labels), dtype=torch.bool, device=device)
    one = torch.ones(len(labels), dtype=torch.float64, device=device)
    for number, (rate, beta) in enumerate(STEPS[: steps - 1]):
        assert_same(*(search.evaluate(rate * one, no) for search in searches))
        accepted = ~no
        accepted[0] = number < len(STEPS) - 2
        for search in searches:
            search.accept(accepted)
            search.turn(accepted, beta * one, STEPS[number + 1][0] * one)
        torch.testing.assert_close(searches[0].labels(), searches[1].labels(), rtol=0, atol=2e-4)
    assert_same(*(search.evaluate(STEPS[steps - 1][0] * one, no) for search in searches))
    return searches


@pytest.mark.parametrize(
    ("coupling", "relaxation"),
    list(zip(cycle([STANDARD, COLLISION]), RELAXATIONS, strict=False)),
    ids=lambda each: each.name,
)
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
        ("grid8", (18, 1), 5),
        ("grid8", (2, 2), 3),
        ("grid8", (5, 33), 21),
        ("grid4", (5, 9), 1),
        ("grid4", (2, 18), 150),
        ("window", (7, 9), 7),
        ("gated", (5, 7), 9),
        ("window", (2, 1), 6),
        ("grid6", (2, 4, 5), 3),
        ("grid26", (2, 3, 4), 13),
    ],
)
def test_every_size(kind: str, size: tuple[int, ...], classes: int, kernel_device: torch.device) -> None:
    """Two steps, the second along a direction that turns."""
    case = make_case(DEFAULT, kind, size=size, classes=classes, batch=1, seeded=0.1)
    walk_both(case.problem, kernel_device, steps=3)


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


def test_predictions_with_channels_last(kernel_device: torch.device) -> None:
    case = make_case(DEFAULT, "grid4", size=(6, 7), classes=3)
    problem = moved(case.problem, kernel_device)
    search = ByHand(problem, problem.probs.contiguous(memory_format=torch.channels_last), RULES)
    assert torch.equal(search.labels(), ByHand(problem, problem.probs, RULES).labels())
    assert all(array.is_contiguous() for array in (*search._points, *search._given))


def test_finished_images_stay_as_they_are(kernel_device: torch.device) -> None:
    problem = moved(make_case(DEFAULT, "grid4", size=(6, 7), classes=3, batch=2).problem, kernel_device)
    search = ByHand(problem, problem.probs, RULES)
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
        Energy(COLLISION, COLLISION_DIVERGENCE, pairwise_weight=0.0),
        Energy(COLLISION, replace(COLLISION_DIVERGENCE, value=lambda dot, pp, qq: 1 - dot)),
    ):
        assert not supports(replace(case.problem, energy=energy))


@pytest.fixture
def kernels_for_solvers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Solvers take the kernels for float32 on any device."""

    def chosen(routine: Routine, device: torch.device, dtype: torch.dtype) -> Backend:
        return Backend.GPU if dtype == torch.float32 else Backend.TORCH

    monkeypatch.setattr("selflabel.solvers.gradient_descent.backend", chosen)


class Replayed:
    """A line search in torch whose trials are given, and what it is told."""

    def __init__(self, trials: Tensor) -> None:
        self.trials = iter(trials.unbind(2))
        self.accepted: list[Tensor] = []
        self.turned: list[tuple[Tensor, Tensor, Tensor]] = []

    def labels(self) -> Tensor:
        return torch.ones(1, 1, 1, 1)

    def evaluate(self, rate: Tensor, done: Tensor) -> Trial:
        return Trial(*next(self.trials).unbind(1))

    def accept(self, images: Tensor) -> None:
        self.accepted.append(images)

    def turn(self, images: Tensor, beta: Tensor, rate: Tensor) -> None:
        self.turned.append((images, beta, rate))


def test_decisions_are_those_of_the_solver(generator: torch.Generator, kernel_device: torch.device) -> None:
    """Images whose trials are drawn: energies that fall, rest and rise, slopes of any sign, and nan."""
    batch, steps = 36, 9
    trials = torch.randn(batch, 5, steps, generator=generator, dtype=torch.float64)
    trials[:, 0] = 100 - trials[:, 0].abs().cumsum(1) / torch.tensor([1.0, 100.0, 1e4]).repeat(12)[:, None]
    trials[:, 0] += (torch.rand(batch, steps, generator=generator) < 0.2) * 5
    trials[:, 3] = trials[:, 3].abs()
    trials[0, 3, 0], trials[1, :, 4] = 0, float("nan")
    search = Replayed(trials)
    expected = _conjugate(search, RULES.rtol, torch.zeros(batch, dtype=torch.float64))
    shares = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    whole = [torch.zeros(batch, dtype=torch.int32, device=kernel_device) for _ in range(4)]
    numbers = [torch.zeros(batch, dtype=torch.float64, device=kernel_device) for _ in range(4)]
    progress = SearchState(*whole, *numbers)
    told, counted = [], torch.zeros(batch, dtype=torch.int32)
    for number in range(steps):
        sides, going = progress.sides.clone(), progress.done.cpu() == 0
        sums = (trials[:, :, number, None] * shares).to(kernel_device).contiguous()
        deciding(progress, sums, RULES, is_first=number == 0)()
        told.append(
            [x.cpu().clone() for x in (progress.done, progress.turns, progress.betas, progress.rates)]
        )
        if number == 0:
            continue
        counted += going
        assert torch.equal(progress.steps.cpu(), counted)
        step = next(expected)
        assert step.energy is not None
        assert step.converged is not None
        torch.testing.assert_close(progress.energies.cpu(), step.energy, rtol=1e-12, atol=0)
        assert torch.equal(progress.done.cpu() != 0, step.converged)
        assert torch.equal((sides ^ progress.sides).cpu() != 0, search.accepted[-1])
    assert 5 < int(progress.done.sum()) < batch
    for (done, turns, *found), (images, *wanted) in zip(told, search.turned, strict=False):
        going = done == 0
        assert torch.equal(turns[going] != 0, images[going])
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one[going], other[going], rtol=1e-6, atol=0)


@pytest.mark.usefixtures("kernels_for_solvers")
@pytest.mark.slow
def test_solves_as_torch_does_and_twice_the_same(kernel_device: torch.device) -> None:
    problem = make_case(DEFAULT, "grid4", size=(9, 7), classes=2, batch=1, seeded=0.05).problem
    there, solver = moved(problem, kernel_device), GradientDescent(rtol=1e-2)
    one, other = (solve(there, solver, max_steps=2) for _ in range(2))
    assert torch.equal(one.labels, other.labels)
    assert torch.equal(one.energy, other.energy)
    first = solve(there, solver)
    precise = replace(problem, probs=problem.probs.double(), affinity=_double(problem.affinity))
    expected = solve(precise, solver)
    assert torch.equal(first.steps.cpu(), expected.steps)
    torch.testing.assert_close(first.energy.cpu(), expected.energy, rtol=1e-3, atol=0)
    torch.testing.assert_close(first.energy, there.value(first.labels), rtol=1e-5, atol=1e-5)


def _double(affinity: object) -> Stencil:
    assert isinstance(affinity, Stencil)
    return affinity.to(torch.float64)
