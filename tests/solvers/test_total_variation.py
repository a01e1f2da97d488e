"""Total variation: against graph cut, linear programs and its own bound."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from support.problems import make_case
from torch import Tensor

from selflabel import Energy, Problem, solve
from selflabel.affinity.protocol import SparseAffinity
from selflabel.driver import check_fit
from selflabel.labels import one_hot
from selflabel.solvers import GradientDescent, GraphCut, TotalVariation
from selflabel.terms import (
    BILINEAR,
    COLLISION,
    ISOTROPIC_VARIATION,
    QUADRATIC_POTTS,
    STANDARD,
    TOTAL_VARIATION,
    Variation,
)

EXACT = TotalVariation(rtol=1e-6)


def energy(variation: Variation = TOTAL_VARIATION, weight: float = 0.9) -> Energy:
    return Energy(STANDARD, variation, coupling_weight=1.0, pairwise_weight=weight)


def rounded(problem: Problem, labels: Tensor) -> Tensor:
    return problem.feasible(one_hot(labels.argmax(1), labels.shape[1], labels.dtype))


@pytest.mark.quick
@pytest.mark.parametrize("kind", ["grid4", "grid8", "window", "window-3d"])
def test_two_classes_reach_the_minimum_cut(kind: str) -> None:
    """Relaxed and rounded (Chan, Esedoglu & Nikolova 2006)."""
    problem = make_case(energy(), kind, classes=2).to(torch.float64).problem
    cut = solve(replace(problem, energy=replace(problem.energy, relaxation=BILINEAR)), GraphCut())
    solution = solve(problem, EXACT, max_steps=2000)
    torch.testing.assert_close(solution.energy, cut.energy, rtol=2e-6, atol=0)
    torch.testing.assert_close(
        problem.value(rounded(problem, solution.labels)), cut.energy, rtol=1e-9, atol=0
    )
    assert solution.bound is not None
    assert bool((solution.bound <= cut.energy * (1 + 1e-9)).all())


def explicit_minimum(problem: Problem) -> float:
    """The linear program over labels and lengths ``t_e^k >= |y_i^k - y_j^k|`` (HiGHS)."""
    costs = -problem.probs[0].clamp_min(1e-13).log().flatten(1).numpy()
    free = problem.free.flatten().numpy()
    assert isinstance(problem.affinity, SparseAffinity)
    edges = problem.affinity.edges()
    classes, pixels = costs.shape
    pairs = len(edges.first)
    difference = np.zeros((pairs, pixels))
    difference[range(pairs), edges.first], difference[range(pairs), edges.second] = -1, 1
    step = np.kron(np.eye(classes), difference)
    length = -np.eye(classes * pairs)
    upper = np.block([[step, length], [-step, length]])
    sums = np.hstack([np.kron(np.ones(classes), np.eye(pixels)), np.zeros((pixels, classes * pairs))])
    weights = np.tile(problem.energy.pairwise_weight * edges.weight[0].numpy() / 2, classes)
    seeds = problem.seed_labels.flatten().tolist()
    fixed = [(0, 1) if free[i % pixels] else (x, x) for i, x in enumerate(seeds)]
    result = linprog(
        np.concatenate([(costs * free).ravel(), weights]),
        upper,
        np.zeros(len(upper)),
        sums,
        np.ones(pixels),
        fixed + [(0, None)] * (classes * pairs),
    )
    assert result.success
    return float(result.fun)


@pytest.mark.quick
def test_three_classes_reach_the_minimum_of_the_linear_program() -> None:
    problem = make_case(energy(), "grid4", size=(5, 6), batch=1, drawn=5).to(torch.float64).problem
    solution = solve(problem, EXACT, max_steps=2000)
    assert solution.bound is not None
    minimum = explicit_minimum(problem)
    assert float(solution.energy) == pytest.approx(minimum, rel=2e-6)
    assert float(solution.bound) <= minimum * (1 + 1e-9)


@pytest.mark.parametrize("variation", [TOTAL_VARIATION, ISOTROPIC_VARIATION], ids=lambda v: v.name)
def test_the_bound_meets_the_energy(variation: Variation) -> None:
    """So both are the minimum; any labels cost more."""
    problem = make_case(energy(variation), "grid4").to(torch.float64).problem
    solution = solve(problem, TotalVariation(rtol=1e-4), max_steps=2000)
    assert solution.bound is not None
    torch.testing.assert_close(solution.bound, solution.energy, rtol=1.1e-4, atol=0)
    for other in (problem.probs, rounded(problem, problem.probs), rounded(problem, solution.labels)):
        assert bool((problem.value(problem.feasible(other)) >= solution.bound * (1 - 1e-9)).all())


def test_isotropic_lengths_of_slanted_boundaries_are_shorter() -> None:
    """A diagonal step costs √2 rather than 2 where the pixel before it has both."""
    index = torch.ones(8, 8, dtype=torch.int64).tril().flip(1)[None]
    case = make_case(energy(), "grid4", size=(8, 8), classes=2, batch=1)
    labels = one_hot(index, 2)
    flat = replace(case, image=torch.full_like(case.image, 0.5), energy=energy(weight=1.0))
    unaries = float(replace(flat, energy=energy(weight=0.0)).problem.value(labels))
    lengths = {
        variation: float(replace(flat, energy=energy(variation, 1.0)).problem.value(labels)) - unaries
        for variation in (TOTAL_VARIATION, ISOTROPIC_VARIATION)
    }
    assert lengths[TOTAL_VARIATION] == pytest.approx(14)
    assert lengths[ISOTROPIC_VARIATION] == pytest.approx(7 * 2**0.5)


def test_costs_of_any_size_are_those_of_the_problem() -> None:
    """Beyond 30, where logarithms of probabilities end."""
    base = make_case(energy(weight=50.0), "grid4", classes=2).to(torch.float64).problem
    costs = (
        torch.rand(base.probs.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 200
    )
    problem = Problem.from_costs(base.energy, costs, base.seeds, base.affinity)
    cut = solve(replace(problem, energy=replace(problem.energy, relaxation=BILINEAR)), GraphCut())
    solution = solve(problem, EXACT, max_steps=2000)
    torch.testing.assert_close(solution.energy, cut.energy, rtol=2e-6, atol=0)


@pytest.mark.quick
def test_energies_that_it_does_not_take() -> None:
    affinity = make_case(energy(), "grid4").problem.affinity
    for other, message in (
        (Energy(COLLISION, TOTAL_VARIATION), "expected the coupling 'standard'"),
        (Energy(STANDARD, QUADRATIC_POTTS), "expected the relaxation 'total-variation' or 'isotropic"),
        (Energy(STANDARD, TOTAL_VARIATION, entropy_weight=1.0), "expected entropy_weight 0"),
    ):
        with pytest.raises(ValueError, match=f"total-variation: {message}"):
            check_fit(TotalVariation(), other, affinity)
    with pytest.raises(ValueError, match="expected the nearest neighbors along the axes"):
        check_fit(
            TotalVariation(), energy(ISOTROPIC_VARIATION), make_case(energy(), "grid8").problem.affinity
        )
    with pytest.raises(ValueError, match="expected terms with gradients everywhere"):
        check_fit(GradientDescent(), energy(), affinity)


@pytest.mark.quick
def test_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match="expected rtol >= 0, got -1"):
        TotalVariation(rtol=-1.0)
    with pytest.raises(ValueError, match="expected sweep as a whole number >= 1, got 0"):
        TotalVariation(sweep=0)
