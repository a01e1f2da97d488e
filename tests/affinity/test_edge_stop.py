"""Edge-stop weights: against the formula, pixel by pixel."""

from math import exp, sqrt

import pytest
import torch

from selflabel import Energy, Problem, solve
from selflabel.affinity import EdgeStop, GridAffinity
from selflabel.solvers import TotalVariation
from selflabel.terms import ISOTROPIC_VARIATION, STANDARD

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("size", [(4, 5), (3, 4, 2)])
def test_weights_are_those_of_the_formula(size: tuple[int, ...]) -> None:
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(2))
    affinity = EdgeStop(0.02)(image)
    assert isinstance(affinity, GridAffinity)
    colors, edges = 255 * image[0].double(), affinity.edges()
    places = torch.stack(torch.meshgrid(*map(torch.arange, size), indexing="ij"), -1).flatten(0, -2).tolist()
    seen = set()
    for first, second, weight in zip(
        edges.first.tolist(), edges.second.tolist(), edges.weight[0].tolist(), strict=True
    ):
        here, length = places[first], 0.0
        for axis, n in enumerate(size):
            ahead = [x + (axis == other) for other, x in enumerate(here)]
            if ahead[axis] < n:
                length += float((colors[(..., *ahead)] - colors[(..., *here)]).square().sum())
        assert weight == pytest.approx(exp(-0.02 * sqrt(length)), rel=1e-4)
        seen.add((first, second))
    assert len(seen) == sum((n - 1) * len(places) // n for n in size)


def test_total_variation_takes_it() -> None:
    image = torch.rand(1, 3, 6, 7, generator=torch.Generator().manual_seed(4))
    energy = Energy(STANDARD, ISOTROPIC_VARIATION, coupling_weight=1.0, pairwise_weight=20.0)
    probs = torch.rand(1, 2, 6, 7, generator=torch.Generator().manual_seed(5))
    probs = probs / probs.sum(1, keepdim=True)
    seeds = torch.full((1, 6, 7), 255)
    solution = solve(Problem(energy, probs, seeds, EdgeStop()(image)), TotalVariation())
    assert solution.bound is not None
    assert float(solution.energy - solution.bound) <= 1.1e-3 * float(solution.energy)
    assert float(solution.energy) < float(solution.start_energy)


def test_strengths_out_of_range() -> None:
    with pytest.raises(ValueError, match="expected a finite strength > 0, got 0"):
        EdgeStop(0.0)
    with pytest.raises(ValueError, match="expected a finite strength > 0, got -1"):
        GridAffinity.from_gradient(torch.zeros(1, 1, 2, 2), -1.0)
