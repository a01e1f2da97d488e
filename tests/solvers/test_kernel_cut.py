"""Kernel cut against every labeling of small images, spectral relaxation with seeds, and graph cut."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from scipy.linalg import eigh
from support.problems import APPEARANCE, make_case, random_labels
from torch import Tensor

from selflabel.affinity import DenseAffinity, Exact, GaussianKernel, GridAffinity, WindowAffinity
from selflabel.driver import Result, solve
from selflabel.energy import Energy
from selflabel.labels import UNLABELED, one_hot
from selflabel.numerics.cuts.bounds import RatioBound
from selflabel.problem import Problem
from selflabel.solvers import GraphCut, KernelCut
from selflabel.terms import COLLISION, QUADRATIC, REVERSE, NormalizedCut, PottsSum, normalized_cut

ENERGY = Energy(pairwise_weight=0.6, regularizers=(NormalizedCut(15.0),))


def exact(image: Tensor) -> DenseAffinity:
    return DenseAffinity.from_image(image, (GaussianKernel(1.0, 3.0, 40.0),), filtering=Exact())


def dense_problem(
    energy: Energy = ENERGY, *, drawn: int = 83_417, size: tuple[int, int] = (9, 10)
) -> Problem:
    """Potts on a grid, the normalized cut on a dense affinity, which is semidefinite."""
    case = make_case(energy, "grid4", size=size, drawn=drawn)
    return replace(case.problem, affinities=(exact(case.image),) * len(energy.regularizers))


def explicit_cut(index: np.ndarray, matrix: np.ndarray, classes: int) -> float:
    """``Σ_k S_k' W (1 - S_k) / (d' S_k)``, 1 for a class without a pixel."""
    total = 0.0
    for k in range(classes):
        inside = (index == k).astype(float)
        total += inside @ matrix @ (1 - inside) / (matrix.sum(0) @ inside) if inside.any() else 1.0
    return total


@pytest.mark.parametrize("drawn", range(7101, 7106))
def test_every_step_lowers_the_energy(drawn: int) -> None:
    """With a semidefinite matrix no step fails: strictly, until the last."""
    problem = dense_problem(drawn=drawn)
    for start in (None, random_labels(problem.probs)):
        found = solve(problem, KernelCut(), start=start, trace=True)
        assert found.results == (Result.CONVERGED,) * 2
        assert found.trace is not None
        for number, steps in enumerate(found.steps.tolist()):
            falls = found.trace[: int(steps) + 1, number].diff()
            assert bool((falls[:-1] < 0).all())
            assert abs(float(falls[-1])) == 0 or steps == 1
        torch.testing.assert_close(found.energy, problem.value(found.labels), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["grid4", "gated", "lattice"])
def test_no_step_raises_the_energy_of_other_matrices(kind: str) -> None:
    """Those whose diagonal is 0 are far from semidefinite: the shift makes up for that."""
    case = make_case(ENERGY, "grid4", size=(9, 10))
    problem = replace(case.problem, affinities=(replace(case, kind=kind).affinity,))
    found = solve(problem, KernelCut(), trace=True)
    assert found.trace is not None
    assert bool((found.trace[1:].diff(dim=0) <= 0).all())
    assert bool((found.trace[-1] < found.trace[1]).any())
    assert found.results == (Result.CONVERGED,) * 2


def ratio_gradient(matrix: np.ndarray, inside: np.ndarray, degree: np.ndarray) -> np.ndarray:
    """Of ``-S'WS / (d'S)`` for each row S of `inside`."""
    filtered, volume = inside @ matrix, (inside @ degree)[:, None]
    return np.asarray((filtered * inside).sum(1, keepdims=True) / volume**2 * degree - 2 * filtered / volume)


def test_the_bound_is_tight_and_nowhere_below() -> None:
    """The gradient of the cut by ``W + shift D``, where that is semidefinite; also where a class is empty."""
    rng = np.random.default_rng(5531)
    points = rng.normal(size=(12, 2))
    gaussian = np.exp(-((points[:, None] - points[None]) ** 2).sum(2))
    nodes = np.arange(12)
    for matrix, shift, classes in (
        (gaussian, 0.0, 3),
        (gaussian, 0.25, 2),
        (gaussian - np.diag(np.diag(gaussian)), 1.0, 3),
    ):
        labels = rng.integers(0, classes, 12)
        degree, inside = matrix.sum(0), np.eye(3)[labels].T[:classes]
        volume = inside @ degree
        empty = np.zeros((3 - classes, 12))
        given = np.concatenate([ratio_gradient(matrix, inside, degree), empty])
        bound = RatioBound(given, degree, np.append(volume, np.zeros(3 - classes)), 2.0)
        unary = bound.unary(labels, shift)
        expected = np.concatenate([ratio_gradient(matrix + shift * np.diag(degree), inside, degree), empty])
        np.testing.assert_allclose(unary, 2 * expected, atol=1e-12)
        constant = 2 * explicit_cut(labels, matrix, 3) - unary[labels, nodes].sum()
        for _ in range(300):
            other = rng.integers(0, rng.integers(1, 4), 12)
            assert unary[other, nodes].sum() + constant >= 2 * explicit_cut(other, matrix, 3) - 1e-9


@pytest.mark.parametrize("drawn", range(8201, 8207))
def test_energies_are_near_those_of_the_best_labelings(drawn: int) -> None:
    """Of all labelings of twelve free pixels: within a twentieth of the way from the worst to the best."""
    energy = replace(ENERGY, regularizers=(NormalizedCut(10.0),))
    case = make_case(energy, "grid4", size=(4, 4), classes=2, batch=1, drawn=drawn)
    seeds = torch.full_like(case.seeds, UNLABELED)
    seeds[0, 0] = case.probs.argmax(1)[0, 0]
    seeds[0, 0, :2] = torch.tensor([0, 1])
    problem = replace(replace(case, seeds=seeds).problem, affinities=(exact(case.image),))
    free = (seeds == UNLABELED).flatten()
    every = seeds.flatten().repeat(2**12, 1)
    every[:, free] = torch.tensor(list(product(range(2), repeat=12)))
    ones = torch.stack([1 - every, every], 1).double()  # [labelings 2 n]
    grid, dense = case.affinity.as_matrix()[0].double(), problem.affinities[0].as_matrix()[0].double()
    inside, volume = ((ones @ dense) * ones).sum(2), ones @ dense.sum(0)
    energies = (
        ((ones * -problem.probs[0].flatten(1).log())[:, :, free]).sum((1, 2))
        + 0.6 * (grid.sum() - ((ones @ grid) * ones).sum((1, 2))) / 2
        + 10 * (1 - inside / volume).sum(1)
    )
    found = solve(problem, KernelCut())
    assert float(found.energy) >= float(energies.min()) - 1e-4
    assert float(found.energy) <= float(energies.min() + 0.05 * (energies.max() - energies.min()))


def spectral(matrix: np.ndarray, seeds: np.ndarray, classes: int) -> np.ndarray:
    """Labels by eigenvectors of ``(D - W) x = μ D x``: the nearest mean of seeds among their rows, of length 1."""
    degree = matrix.sum(0)
    _, vectors = eigh(np.diag(degree) - matrix, np.diag(degree), subset_by_index=[0, classes - 1])
    rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    means = np.stack([rows[seeds == k].mean(0) for k in range(classes)])
    index = ((rows[:, None] - means) ** 2).sum(2).argmin(1)
    return np.where(seeds == UNLABELED, index, seeds)


@pytest.mark.parametrize("drawn", range(9301, 9305))
def test_normalized_cuts_are_not_above_those_of_spectral_relaxation(drawn: int) -> None:
    """With seeds alone: from the rounded eigenvectors it goes down, from the seeds within a tenth."""
    rng = np.random.default_rng(drawn)
    truth = np.zeros((8, 8), np.int64)
    truth[:, 3 + drawn % 3 :] = 1
    truth[5:, :4] = 2
    colors = rng.random((3, 3))
    image = torch.from_numpy((colors[truth] + rng.normal(0, 0.1, (8, 8, 3))).clip(0, 1)).float()
    image = image.movedim(-1, 0)[None]
    seeds = np.full((8, 8), UNLABELED)
    for k in range(3):
        rows, columns = np.nonzero(truth == k)
        chosen = rng.permutation(len(rows))[:2]
        seeds[rows[chosen], columns[chosen]] = k
    energy = Energy(coupling_weight=0.0, pairwise_weight=0.0, regularizers=(NormalizedCut(100.0),))
    grid, dense = GridAffinity.from_image(image), exact(image)
    problem = replace(Problem.from_seeds(energy, torch.from_numpy(seeds)[None], 3, grid), affinities=(dense,))
    matrix = dense.as_matrix()[0].double().numpy()
    index = spectral(matrix, seeds.ravel(), 3)
    reference = 100 * explicit_cut(index, matrix, 3)
    start = one_hot(torch.from_numpy(index).view(1, 8, 8), 3, torch.float32)
    assert float(solve(problem, KernelCut(), start=start).energy) <= reference + 1e-3
    assert float(solve(problem, KernelCut()).energy) <= 1.1 * reference


def test_without_a_normalized_cut_it_is_graph_cut() -> None:
    case = make_case(Energy(pairwise_weight=1.2), "grid8", classes=2, size=(9, 10))
    assert torch.equal(solve(case.problem, KernelCut()).labels, solve(case.problem, GraphCut()).labels)
    zero = replace(case.energy, regularizers=(NormalizedCut(0.0),))
    problem = replace(case, energy=zero).problem
    assert torch.equal(solve(problem, KernelCut()).labels, solve(case.problem, GraphCut()).labels)


def test_weights_per_pixel_are_that_many_times_as_large() -> None:
    one, other = (
        dense_problem(),
        dense_problem(replace(ENERGY, regularizers=(NormalizedCut(15 / 90, per_pixel=True),))),
    )
    labels = random_labels(one.probs)
    torch.testing.assert_close(one.value(labels), other.value(labels))
    first, second = one.value_and_grad(labels)[1], other.value_and_grad(labels)[1]
    torch.testing.assert_close(first.value, second.value)
    torch.testing.assert_close(first.curvature, second.curvature)
    assert torch.equal(solve(one, KernelCut()).labels, solve(other, KernelCut()).labels)


def test_several_normalized_cuts() -> None:
    energy = replace(ENERGY, regularizers=(NormalizedCut(10.0), NormalizedCut(6.0)))
    case = make_case(energy, "grid4", size=(9, 10))
    window = WindowAffinity.from_image(case.image, 2, (APPEARANCE,))
    problem = replace(case.problem, affinities=(exact(case.image), window))
    found = solve(problem, KernelCut(), trace=True)
    assert found.trace is not None
    assert bool((found.trace[1:].diff(dim=0) <= 0).all())
    torch.testing.assert_close(found.energy, problem.value(found.labels), rtol=1e-5, atol=1e-5)


def test_probabilities_keep_the_labels_and_seeds() -> None:
    problem = dense_problem()
    found = solve(problem, KernelCut(), marginals=True)
    marginals = found.marginals
    assert marginals is not None
    torch.testing.assert_close(marginals.sum(1), torch.ones(2, 9, 10))
    assert torch.equal(marginals.argmax(1), found.labels.argmax(1))
    seeded = problem.seeds != UNLABELED
    assert float(marginals.amax(1)[seeded].min()) == 1
    assert float(marginals.amax(1)[~seeded].min()) < 1


def test_energies_that_do_not_fit_are_refused() -> None:
    case = make_case(ENERGY, "grid4")
    for energy, message in (
        (replace(ENERGY, entropy_weight=1.0), "kernel-cut: expected entropy_weight 0"),
        (replace(ENERGY, coupling=REVERSE), "kernel-cut: expected a coupling that is finite"),
        (
            replace(ENERGY, regularizers=(PottsSum(),)),
            "kernel-cut: expected an energy without the regularizer",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            solve(replace(case, energy=energy).problem, KernelCut())
    with pytest.raises(ValueError, match="lists its pairs"):
        solve(replace(case, kind="exact").problem, KernelCut())


@pytest.mark.usefixtures("unchecked")
def test_per_pixel_is_true_or_false() -> None:
    with pytest.raises(ValueError, match="per_pixel"):
        NormalizedCut(1.0, per_pixel=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("coupling", [COLLISION, QUADRATIC], ids=lambda coupling: coupling.name)
def test_other_couplings(coupling) -> None:  # type: ignore[no-untyped-def]
    problem = dense_problem(replace(ENERGY, coupling=coupling))
    found = solve(problem, KernelCut(), trace=True)
    assert found.trace is not None
    assert bool((found.trace[1:].diff(dim=0) <= 0).all())
    torch.testing.assert_close(found.energy, problem.value(found.labels), rtol=1e-5, atol=1e-5)
    cut = normalized_cut(found.labels, problem.affinities[0])
    assert bool((cut <= 3).all())
