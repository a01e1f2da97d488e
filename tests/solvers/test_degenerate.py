"""Every solver on every degenerate problem: right, or refused with an error that says why. None hangs."""

import faulthandler
import signal
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import prod
from types import FrameType

import pytest
import torch
from support.contract import assert_distributions
from support.degenerate import BUILDERS, DEGENERATE, Degenerate, Given, plain
from torch import Tensor

from selflabel.affinity.stencil import Stencil
from selflabel.driver import Result, Solution, Solver, solve
from selflabel.labels import one_hot
from selflabel.numerics.linear.multigrid import Multigrid
from selflabel.problem import Problem
from selflabel.solvers import SOLVERS, RandomWalker
from selflabel.terms import QUADRATIC_POTTS, NormalizedCut

LIMIT = 60
"""Seconds after which a problem counts as hanging."""

CASES = [
    pytest.param(solver, kind, name, id=f"{solver}-{kind}-{name}")
    for name, solver, kind in product(DEGENERATE, SOLVERS, BUILDERS)
    if not (kind == "lattice" and (SOLVERS[solver].needs_edges or DEGENERATE[name].sparse))
]
pytestmark = pytest.mark.usefixtures("unchecked", "deadline")


@pytest.fixture
def deadline() -> Iterator[None]:
    """Fails a test that hangs; ends the process if compiled code does not let it."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"no answer in {LIMIT} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    faulthandler.dump_traceback_later(2 * LIMIT, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(("solver", "kind", "name"), CASES)
def test_right_or_refused(solver: str, kind: str, name: str) -> None:
    case: Degenerate = DEGENERATE[name]
    energy = SOLVERS[solver].default_energy
    if kind == "lattice" and not energy.relaxation.is_quadratic:
        energy = replace(energy, relaxation=QUADRATIC_POTTS)
    if case.refused is not None:
        with pytest.raises((ValueError, TypeError), match=case.refused):
            answer(case, plain(energy, kind), SOLVERS[solver]())
    else:
        check(*answer(case, plain(energy, kind), SOLVERS[solver]()))


@pytest.mark.parametrize("kind", ["grid", "window"])
@pytest.mark.parametrize("name", [name for name, case in DEGENERATE.items() if case.refused is None])
def test_multigrid_is_right(kind: str, name: str) -> None:
    """The random walker as on a GPU."""
    given = plain(RandomWalker.default_energy, kind)
    check(*answer(DEGENERATE[name], given, RandomWalker(Multigrid())))


def answer(case: Degenerate, given: Given, solver: Solver) -> tuple[Problem, Solution]:
    """The changed problem, and its solution."""
    changed = case.change(given)
    problem = changed.problem
    return problem, solve(problem, solver, start=changed.start)


def check(problem: Problem, solution: Solution) -> None:
    """What holds for every answer."""
    labels, free = solution.labels, problem.free
    assert_distributions(labels, problem.probs)
    assert not labels.requires_grad
    assert float((labels.double().sum(1) - 1).abs().max()) <= 1e-6
    seeds = one_hot(problem.seeds, labels.shape[1], labels.dtype)
    assert torch.equal(torch.where(free, 0.0, labels), torch.where(free, 0.0, seeds))
    if problem.classes is not None:
        assert float(labels.flatten(2).amax(2)[~problem.classes].max()) == 0
    assert Result.NONFINITE not in solution.results
    exact, size = exact_energy(problem, labels), least_energy_scale(problem)
    tolerance = 1e-6 * (exact.abs() + size)
    assert bool(((solution.energy - exact).abs() <= tolerance).all()), (solution.energy, exact)
    rise = 1e-6 * (solution.start_energy.abs() + size)
    assert bool((solution.energy <= solution.start_energy + rise).all())
    if solution.bound is not None:
        lost = 1e-15 * weight_of_pairs(problem)  # by sums in double precision
        assert bool((solution.bound <= solution.energy + tolerance + lost).all())


def weight_of_pairs(problem: Problem) -> Tensor:
    """``λ Σ w_ij`` of each image."""
    return problem.energy.pairwise_weight * problem.affinity.degree().detach().double().flatten(1).sum(1) / 2


def exact_energy(problem: Problem, labels: Tensor) -> Tensor:
    """The energy of these labels, in double precision; filters keep theirs."""
    affinity = problem.affinity
    if isinstance(affinity, Stencil):
        affinity = affinity.to(torch.float64)
    exact = Problem(problem.energy, problem.probs.detach().double(), problem.seeds, affinity, problem.classes)
    return exact.value(labels.double())


def least_energy_scale(problem: Problem) -> Tensor:
    """What counts as zero: a unit of the unaries a pixel, of a normalized cut one of its ratios
    (float32); of a dense affinity, its degree, too (float32 filters).
    """
    energy, shape = problem.energy, problem.affinity.shape
    unary = max(energy.coupling_weight, energy.entropy_weight, 1e-30) * prod(shape[1:])
    result = torch.full((shape[0],), float(unary), dtype=torch.float64)
    for regularizer, affinity in problem.regularizers:
        assert isinstance(regularizer, NormalizedCut)
        result += regularizer.weight * regularizer.scale(affinity)
    if not isinstance(problem.affinity, Stencil):
        result += 2 * weight_of_pairs(problem)
    return result
