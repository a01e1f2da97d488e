"""Problems of the random walker and their solution from the explicit matrix."""

import numpy as np
import torch
from numpy.typing import NDArray

from selflabel.affinity import GridAffinity
from selflabel.labels import UNLABELED
from selflabel.problem import Energy, Problem
from selflabel.terms import QUADRATIC, QUADRATIC_POTTS


def random_problem(
    rng: np.random.Generator,
    size: tuple[int, ...],
    classes: int,
    batch: int,
    *,
    eta: float,
    seeded: float = 0.2,
) -> Problem:
    """Random predictions, features and seeds; `eta` is the weight of the coupling."""
    probs = torch.from_numpy(rng.dirichlet(np.full(classes, 0.7), (batch, *size))).float().movedim(-1, 1)
    seeds = np.where(rng.random((batch, *size)) < seeded, rng.integers(0, classes, (batch, *size)), UNLABELED)
    if seeded:
        seeds.reshape(batch, -1)[:, 0] = 0
    features = torch.from_numpy(rng.random((batch, 2, *size))).float()
    affinity = GridAffinity.from_features(features, 0.5, 8 if len(size) == 2 else 6)
    energy = Energy(QUADRATIC, QUADRATIC_POTTS, coupling_weight=eta, pairwise_weight=1.7)
    return Problem(energy, probs, torch.from_numpy(seeds), affinity)


def dense_solution(problem: Problem) -> NDArray[np.float64]:
    """The stationary point of the energy, class by class, from the explicit matrix."""
    eta, scale = problem.energy.coupling_weight, problem.energy.pairwise_weight
    probs, result = problem.probs.double().flatten(2).numpy(), []
    for b, matrix in enumerate(problem.affinity.as_matrix().double().numpy()):
        seeds = problem.seeds[b].flatten().numpy()
        free = seeds == UNLABELED
        labels = (seeds == np.arange(probs.shape[1])[:, None]).astype(float)
        laplacian = np.diag(matrix.sum(1)) - matrix
        system = 2 * eta * np.eye(free.sum()) + scale * laplacian[np.ix_(free, free)]
        right = 2 * eta * probs[b][:, free] - scale * labels[:, ~free] @ laplacian[np.ix_(~free, free)]
        labels[:, free] = np.linalg.solve(system, right.T).T
        result.append(labels)
    return np.stack(result).reshape(problem.probs.shape)
