"""Random walkers where weights vary by many orders of magnitude: the same exact labels in every path."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage import data, transform
from support.walks import exact_solution

from selflabel.affinity import GridAffinity
from selflabel.affinity.stencil import Stencil
from selflabel.driver import Result, solve
from selflabel.energy import Energy
from selflabel.labels import UNLABELED
from selflabel.numerics.linear.conjugate_gradients import ConjugateGradients
from selflabel.numerics.linear.direct import Elimination
from selflabel.numerics.linear.system import LinearSolver
from selflabel.problem import Problem
from selflabel.solvers.random_walker import RandomWalker
from selflabel.terms import QUADRATIC, QUADRATIC_POTTS

METHODS = pytest.mark.parametrize(
    "method", [Elimination(), ConjugateGradients(), None], ids=["direct", "cg", "by-size"]
)
pytestmark = pytest.mark.usefixtures("either_path")


@METHODS
@pytest.mark.parametrize("size", [(9, 8), (5, 6, 7)])
@pytest.mark.parametrize("edge", [4.0, 5.9, 8.3, 12.0])
def test_objects_behind_strong_edges_have_the_labels_around_them(
    size: tuple[int, ...], edge: float, method: LinearSolver | None
) -> None:
    """Weights of 1 within an object without seeds, down to 1e-31 around it: singular in double precision."""
    ground, objects = torch.zeros(2, 1, *size, dtype=torch.float64), torch.zeros(2, 1, *size)
    ground[..., size[-1] // 2 :] = 30.0  # two halves, with seeds of a class each
    objects[..., 2:4, 1:3] = 1.0
    objects[1, ..., 3, 2] = 0.0  # not a box
    affinity = GridAffinity.from_features(ground + edge * objects, 0.5**0.5)
    seeds = torch.full((2, *size), UNLABELED)
    seeds[..., 0, 0], seeds[..., 0, -1] = 1, 0
    energy = Energy(QUADRATIC, QUADRATIC_POTTS, coupling_weight=0.0)
    problem = Problem(energy, torch.full((2, 2, *size), 0.5), seeds, affinity)
    solution = solve(problem, RandomWalker(method))
    assert solution.results == (Result.CONVERGED,) * 2
    np.testing.assert_allclose(solution.labels[:, 1], ground[:, 0] == 0, atol=1e-6)


@pytest.mark.parametrize("drawn", [0, 1])
@pytest.mark.parametrize("method", [Elimination(), ConjugateGradients()], ids=["direct", "cg"])
@pytest.mark.parametrize("name", ["mixed", "steps", "wide", "graded"])
def test_weights_of_all_sizes_are_exact_or_do_not_converge(
    name: str, method: LinearSolver, drawn: int
) -> None:
    """The reference is elimination in fractions."""
    rng, size = np.random.default_rng(drawn), (4, 5)
    draw: dict[str, Callable[[tuple[int, ...]], NDArray[np.float64]]] = {
        "mixed": lambda shape: rng.choice([1.0, 1e-9, 1e-20, 0.0], shape, p=[0.6, 0.2, 0.15, 0.05]),
        "steps": lambda shape: rng.choice([1.0, 1e-15], shape),
        "wide": lambda shape: 10.0 ** rng.uniform(-30, 30, shape),
        "graded": lambda shape: 10.0**-4.0 * np.indices(shape).sum(0),
    }
    base = GridAffinity.from_features(torch.zeros(1, 1, *size), neighbors=8)
    weights = tuple(torch.from_numpy(draw[name](tuple(weight.shape))) for weight in base.weights)
    seeds = torch.full((1, *size), UNLABELED)
    seeds[0, 0, 0], seeds[0, 2, 3], seeds[0, -1, -1] = 0, 1, 2
    for eta in (0.0, 0.1):
        energy = Energy(QUADRATIC, QUADRATIC_POTTS, eta, 1.0)
        problem = Problem.from_seeds(energy, seeds, 3, Stencil(size, base.offsets, weights))
        solution = solve(problem, RandomWalker(method), max_steps=3)
        if solution.results == (Result.CONVERGED,):
            np.testing.assert_allclose(solution.labels[0], exact_solution(problem), atol=1e-6)
        else:
            assert isinstance(method, ConjugateGradients)
            assert name == "wide"


def test_conjugate_gradients_are_exact_between_weights_of_many_magnitudes() -> None:
    """Contrast in 0..255 units, as published: weights of a photograph from 1 to 1e-45."""
    image = transform.resize(data.astronaut(), (40, 60), anti_aliasing=True)  # type: ignore[no-untyped-call]
    affinity = GridAffinity.from_image(torch.from_numpy(image).float().movedim(-1, 0)[None], 9.0)
    assert float(affinity.edges().weight.amin()) < 1e-30
    seeds = torch.full((1, 40, 60), UNLABELED)
    seeds[0, 5::20, 5::20] = torch.tensor([[0, 1, 2], [2, 0, 1]])
    energy = Energy(QUADRATIC, QUADRATIC_POTTS, coupling_weight=0.0)
    problem = Problem.from_seeds(energy, seeds, 3, affinity)
    direct, cg = (solve(problem, RandomWalker(m)) for m in (Elimination(), ConjugateGradients()))
    assert cg.results == (Result.CONVERGED,)
    assert (direct.labels - cg.labels).abs().max() < 2e-5
