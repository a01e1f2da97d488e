"""How sure graph cut says that it is: against the prediction, every labeling, and the labels themselves."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.contract import assert_distributions
from support.problems import SPARSE, make_case
from torch import Tensor

from selflabel.driver import HardSolver, solve
from selflabel.energy import Energy
from selflabel.labels import UNLABELED, one_hot
from selflabel.problem import Problem
from selflabel.solvers import GraphCut, RandomWalker
from selflabel.terms import COLLISION, QUADRATIC, STANDARD, Coupling


def marginals(problem: Problem) -> Tensor:
    found = solve(problem, GraphCut(), marginals=True).marginals
    assert found is not None
    return found


@pytest.mark.parametrize("kind", SPARSE)
def test_they_are_distributions_and_the_labels_their_most_probable_classes(kind: str) -> None:
    case = make_case(Energy(), kind)
    for weight in (0.0, 0.7, 50.0):
        problem = replace(case, energy=Energy(pairwise_weight=weight)).problem
        solution = solve(problem, GraphCut(), marginals=True)
        assert solution.marginals is not None
        assert_distributions(solution.marginals, problem.probs)
        assert torch.equal(solution.marginals.argmax(1), solution.labels.argmax(1))
        seeded = (~problem.free).expand_as(solution.labels)
        assert torch.equal(solution.marginals[seeded], solution.labels[seeded])
        assert bool((solution.marginals.amax(1)[problem.free[:, 0]] < 1).any())
        assert solve(problem, GraphCut()).marginals is None


@pytest.mark.parametrize("coupling", [STANDARD, COLLISION], ids=lambda c: c.name)
def test_without_pairs_they_are_the_prediction(coupling: Coupling) -> None:
    for weight in (0.3, 1.0, 7.0):
        case = make_case(Energy(coupling, coupling_weight=weight, pairwise_weight=0.0), "grid4")
        problem = case.problem
        expected = problem.feasible(problem.probs)
        clear = (problem.probs.sort(1).values[:, -1:] / problem.probs.sort(1).values[:, -2:-1]) > 1.06
        assert float(clear.float().mean()) > 0.8
        keep = (clear | ~problem.free).expand_as(expected)
        torch.testing.assert_close(marginals(problem)[keep], expected[keep], rtol=1e-5, atol=1e-6)


def test_the_scale_of_the_energy_does_not_matter() -> None:
    for one in (Energy(pairwise_weight=1.5), Energy(coupling_weight=0.0), Energy(QUADRATIC)):
        found = [
            marginals(
                make_case(
                    replace(
                        one,
                        coupling_weight=scale * one.coupling_weight,
                        pairwise_weight=scale * one.pairwise_weight,
                    ),
                    "grid8",
                ).problem
            )
            for scale in (1.0, 64.0, 0.125)
        ]
        torch.testing.assert_close(found[1], found[0])
        torch.testing.assert_close(found[2], found[0])


def test_excluded_classes_and_single_ones() -> None:
    classes = torch.tensor([[True, False, True], [False, True, False]])
    case = make_case(Energy(), "grid4", seeded=0.0)
    found = marginals(replace(case, classes=classes).problem)
    assert not found[0, 1].any()
    assert bool((found[0, 0] > 0).all())
    assert torch.equal(found[1], one_hot(torch.ones(1, 5, 6, dtype=torch.long), 3)[0])


def gibbs(problem: Problem) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Of one image: true marginals ``[n k]`` of ``exp(-E / η)``, the optimum, and its conditional distributions."""
    k, n = problem.probs.shape[1], problem.seeds[0].numel()
    every = np.array(list(itertools.product(range(k), repeat=n)))
    unary = -problem.probs[0].double().log().flatten(1).numpy()
    matrix = problem.affinity.as_matrix()[0].double().numpy() * problem.energy.pairwise_weight
    first, second = np.triu(matrix).nonzero()
    energies = (
        unary[every, np.arange(n)].sum(1) + (every[:, first] != every[:, second]) @ matrix[first, second]
    )
    weights = np.exp(energies.min() - energies)
    true = np.stack([np.bincount(every[:, i], weights, k) for i in range(n)]) / weights.sum()
    optimum = every[energies.argmin()]
    agreeing = matrix @ np.eye(k)[optimum]
    conditional = np.exp(agreeing - unary.T)
    return true, optimum, conditional / conditional.sum(1, keepdims=True)


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_they_are_nearer_to_true_marginals_than_conditional_distributions_are(strength: float) -> None:
    rng = np.random.default_rng(5_077)
    errors, conditional_errors, excess = [], [], []
    for number in range(12):
        case = make_case(Energy(pairwise_weight=strength), "grid4", seeded=0.0).alone(number % 2)
        probs = torch.from_numpy(rng.dirichlet(np.full(3, 0.7), (1, 3, 3))).movedim(-1, 1).clamp_min(1e-6)
        corner = (slice(None), slice(None), slice(0, 3), slice(0, 3))
        seeds = torch.full((1, 3, 3), UNLABELED)
        image = torch.from_numpy(rng.random((1, 3, 3, 3))).float() * 0.2
        problem = replace(
            case, image=image[corner], probs=(probs / probs.sum(1, keepdim=True)), seeds=seeds
        ).problem
        true, optimum, conditional = gibbs(problem)
        index = solve(problem, GraphCut()).labels[0].argmax(0).flatten().numpy()
        if not np.array_equal(index, optimum):
            continue
        here = np.arange(9), index
        mine = marginals(problem)[0].flatten(1).T.numpy()[here]
        errors.append(np.abs(mine - true[here]).mean())
        conditional_errors.append(np.abs(conditional[here] - true[here]).mean())
        excess.append((conditional[here] - true[here]).mean())
    assert len(errors) > 8
    assert np.mean(errors) < np.mean(conditional_errors)
    assert np.mean(excess) > 0  # neighbors that agree make each other sure


def test_soft_solvers_are_as_sure_as_their_labels() -> None:
    assert isinstance(GraphCut(), HardSolver)
    assert not isinstance(RandomWalker(), HardSolver)
    solver = RandomWalker()
    solution = solve(make_case(solver.default_energy, "grid4").problem, solver, marginals=True)
    assert solution.marginals is solution.labels
