"""Problems from costs of any size: exact for graph cut, the same energy for every solver."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.problems import make_case, random_labels
from torch import Tensor

from selflabel.affinity import GridAffinity
from selflabel.affinity.protocol import Affinity
from selflabel.driver import Result, Solver, solve
from selflabel.energy import Energy
from selflabel.labels import UNLABELED, one_hot
from selflabel.problem import Problem
from selflabel.solvers import FrankWolfe, GradientDescent, GraphCut, MeanField
from selflabel.terms import COLLISION, QUADRATIC

SOFT = pytest.mark.parametrize("solver", [GradientDescent(), MeanField(), FrankWolfe()], ids=lambda s: s.name)


def unseeded(costs: Tensor) -> Tensor:
    return torch.full((len(costs), *costs.shape[2:]), UNLABELED)


def flat(costs: Tensor) -> Affinity:
    """Weights of 1."""
    return GridAffinity.from_features(torch.zeros_like(costs[:, :1]))


def posed(costs: Tensor, energy: Energy) -> Problem:
    return Problem.from_costs(energy, costs, unseeded(costs), flat(costs))


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e6, 1e20])
def test_two_pixels_whose_costs_are_no_probabilities(scale: float) -> None:
    """(0, 100), (200, 0) with a pair of 50: the optimum (0, 1) costs 50, the labels (1, 1) cost 100."""
    costs = scale * torch.tensor([[0.0, 100.0], [200.0, 0.0]], dtype=torch.float64).T[None, :, None]
    problem = posed(costs, Energy(pairwise_weight=50.0 * scale))
    solution = solve(problem, GraphCut())
    assert solution.labels.argmax(1).flatten().tolist() == [0, 1]
    assert float(solution.energy) == pytest.approx(50 * scale)
    assert float(problem.value(solution.labels)) == pytest.approx(50 * scale)


def test_graph_cut_is_exact_for_costs_of_all_sizes_and_signs() -> None:
    rng = np.random.default_rng(11_903)
    every = np.array(list(itertools.product([0, 1], repeat=6)))
    for spread in (1.0, 50.0, 1e4, 1e9):
        costs = spread * rng.normal(0, 1, (8, 2, 2, 3)) * 10.0 ** rng.uniform(-3, 0, (8, 2, 2, 3))
        energy = Energy(coupling_weight=float(rng.uniform(0.2, 3)), pairwise_weight=0.4 * spread)
        problem = posed(torch.from_numpy(costs), energy)
        solution = solve(problem, GraphCut())
        matrix = np.triu(problem.affinity.as_matrix()[0].double().numpy())
        first, second = matrix.nonzero()
        for b in range(8):
            unary = energy.coupling_weight * costs[b].reshape(2, 6)
            values = unary[every, np.arange(6)].sum(1)
            values += energy.pairwise_weight * (every[:, first] != every[:, second]) @ matrix[first, second]
            assert float(solution.energy[b]) == pytest.approx(values.min(), rel=1e-9)


def test_costs_of_a_prediction_are_the_problem_of_the_prediction() -> None:
    case = make_case(Energy(pairwise_weight=1.3, entropy_weight=0.5, coupling_weight=0.7), "grid8")
    costs = -case.probs.log()
    here = Problem.from_costs(case.energy, costs, case.seeds, case.affinity)
    labels = random_labels(case.probs)
    torch.testing.assert_close(here.value(labels), case.problem.value(labels))
    (value, grad), (expected, wanted) = here.value_and_grad(labels), case.problem.value_and_grad(labels)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad.value, wanted.value)
    torch.testing.assert_close(grad.curvature, wanted.curvature)
    whole = replace(here, energy=replace(case.energy, coupling_weight=1.0))
    torch.testing.assert_close(whole.probs, here.probs)
    assert Problem.from_costs(Energy(), costs, case.seeds, case.affinity).probs == pytest.approx(
        case.probs, abs=1e-6
    )


@SOFT
@pytest.mark.parametrize("kind", ["grid4", "grid26", "lattice", "exact"])
def test_soft_solvers_find_with_costs_what_they_find_with_a_prediction(solver: Solver, kind: str) -> None:
    energy = Energy(pairwise_weight=0.5, entropy_weight=solver.default_energy.entropy_weight)
    case = make_case(energy, kind).to(torch.float64)
    costs = -case.probs.log()
    given = Problem.from_costs(energy, costs, case.seeds, case.affinity)
    found, expected = solve(given, solver), solve(case.problem, solver)
    torch.testing.assert_close(found.energy, expected.energy, rtol=2e-3, atol=1e-3)
    shifted = Problem.from_costs(energy, costs + 7, case.seeds, case.affinity)
    free = case.problem.free.flatten(1).sum(1).double()
    moved = solve(shifted, solver).energy - 7 * energy.coupling_weight * free
    torch.testing.assert_close(moved, found.energy, rtol=2e-3, atol=1e-3)


@SOFT
def test_soft_solvers_take_costs_beyond_those_of_probabilities(solver: Solver) -> None:
    rng = np.random.default_rng(3_313)
    drawn = rng.normal(0, 1, (2, 3, 20, 24)) * 10.0 ** rng.uniform(1, 3, (2, 1, 20, 24))
    costs = torch.from_numpy(drawn).float()
    entropy = solver.default_energy.entropy_weight
    problem = posed(costs, Energy(pairwise_weight=60.0, entropy_weight=entropy))
    solution = solve(problem, solver)
    assert solution.results == (Result.CONVERGED,) * 2
    torch.testing.assert_close(solution.energy, problem.value(solution.labels), rtol=1e-5, atol=1e-2)
    exact = solve(replace(problem, energy=Energy(pairwise_weight=60.0)), GraphCut())
    hard = one_hot(solution.labels.argmax(1), 3)
    reached = replace(problem, energy=Energy(pairwise_weight=60.0)).value(hard)
    assert bool((reached <= exact.energy + 0.02 * exact.energy.abs()).all())
    cut = replace(problem, costs=None)  # what the same solver makes of a prediction
    there = replace(problem, energy=Energy(pairwise_weight=60.0)).value(
        one_hot(solve(cut, solver).labels.argmax(1), 3)
    )
    assert bool((reached < there).all())


def test_classes_and_seeds_hold_with_costs() -> None:
    costs = torch.tensor([0.0, 500.0, 900.0]).view(1, 3, 1, 1).repeat(2, 1, 4, 4)
    classes = torch.tensor([[False, True, True], [True, True, True]])
    seeds = unseeded(costs)
    seeds[:, 0, 0] = 2
    problem = Problem.from_costs(Energy(), costs.numpy(), seeds.numpy(), flat(costs), classes)
    index = solve(problem, GraphCut()).labels.argmax(1)
    assert index[:, 0, 0].tolist() == [2, 2]
    index[:, 0, 0] = torch.tensor([1, 0])
    assert torch.equal(index[0], torch.ones(4, 4, dtype=torch.long))
    assert not index[1].any()
    whole = Problem.from_costs(Energy(), costs.long(), seeds, flat(costs))
    assert whole.probs.dtype == torch.float64


@pytest.mark.usefixtures("unchecked")
def test_costs_are_checked() -> None:
    costs = torch.zeros(1, 2, 3, 4)
    for value in (float("nan"), float("inf"), -float("inf"), 2e30):
        wrong = costs.clone()
        wrong[0, 1, 2, 3] = value
        with pytest.raises(ValueError, match=r"expected costs of 1e\+30 at most, got .*: for a class that"):
            posed(wrong, Energy())
    for coupling in (QUADRATIC, COLLISION):
        with pytest.raises(ValueError, match=f"coupling 'standard' with costs.* got {coupling.name!r}"):
            posed(costs, Energy(coupling))
    with pytest.raises(ValueError, match=r"costs of shape \(1, 2, 3, 4\), got \(1, 2, 4, 3\)"):
        replace(posed(costs, Energy()), costs=costs.mT)
    with pytest.raises(ValueError, match="expected at least one image, class and pixel"):
        Problem.from_costs(Energy(), costs[:, :0], unseeded(costs), flat(costs))


def test_a_prediction_cuts_costs_at_thirty() -> None:
    probs = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    found = Problem(Energy(), probs, unseeded(probs), flat(probs)).vertex_costs
    assert found is not None
    assert found.flatten().tolist() == pytest.approx([0, 30])
