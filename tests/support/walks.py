"""Problems of the random walker and their solution from the explicit matrix."""

from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray

from selflabel.affinity import GridAffinity
from selflabel.energy import Energy
from selflabel.labels import UNLABELED
from selflabel.problem import Problem
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


def exact_solution(problem: Problem) -> NDArray[np.float64]:
    """The same for the first image, in fractions; pixels that no walker leaves keep their prediction."""
    eta, scale = (Fraction(w) for w in (problem.energy.coupling_weight, problem.energy.pairwise_weight))
    seeds, edges = problem.seeds[0].flatten().tolist(), problem.affinity.edges()  # type: ignore[attr-defined]
    probs = problem.probs[0].double().flatten(1).T.tolist()
    place = {p: i for i, p in enumerate(p for p, seed in enumerate(seeds) if seed == UNLABELED)}
    rows = [[Fraction(0)] * (len(place) + len(probs[0])) for _ in place]
    for p, i in place.items():
        rows[i][i] = 2 * eta
        rows[i][len(place) :] = [2 * eta * Fraction(prob) for prob in probs[p]]
    pairs = list(zip(edges.first.tolist(), edges.second.tolist(), edges.weight[0].tolist(), strict=True))
    for here, there, weight in pairs + [(q, p, weight) for p, q, weight in pairs]:
        if here in place:
            flow = scale * Fraction(weight)
            rows[place[here]][place[here]] += flow
            column = place[there] if there in place else len(place) + seeds[there]
            rows[place[here]][column] += -flow if there in place else flow
    for p, i in place.items():
        if rows[i][i] == 0:
            rows[i] = [Fraction(int(i == j)) for j in place.values()] + [Fraction(prob) for prob in probs[p]]
    for i, row in enumerate(rows):  # Gauss and Jordan
        rows[i] = row = [x / row[i] for x in row]
        for j, other in enumerate(rows):
            if j != i and other[i]:
                rows[j] = [x - other[i] * y for x, y in zip(other, row, strict=True)]
    labels = np.eye(256)[seeds].T[: len(probs[0])]
    labels[:, list(place)] = np.array([row[len(place) :] for row in rows], dtype=np.float64).T
    return labels.reshape(tuple(problem.probs.shape[1:]))
