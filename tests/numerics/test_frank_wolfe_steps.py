"""The parts of Frank-Wolfe steps against searches by hand and the sorted projection."""

from dataclasses import replace

import pytest
import torch
from support.problems import make_case, random_labels
from torch import Tensor

from selflabel.energy import Energy
from selflabel.labels import UNLABELED, per_image
from selflabel.numerics.descent.quadratic import (
    LabelPoint,
    LabelSegment,
    QuadraticEnergy,
    TorchAim,
    filtering,
    inner,
)
from selflabel.numerics.descent.smoothing import Entropic, Euclidean, Smoothing
from selflabel.problem import Problem
from selflabel.terms import BILINEAR, QUADRATIC, QUADRATIC_POTTS, STANDARD

RELAXED = [Energy(STANDARD, BILINEAR, 0.8, 1.3), Energy(QUADRATIC, QUADRATIC_POTTS, 0.5, 0.7)]
BOTH = pytest.mark.parametrize("smoothing", [Euclidean(), Entropic()], ids=["euclidean", "entropic"])


def sorted_projection(values: Tensor) -> Tensor:
    """Onto the simplex over the axis 1 (Held, Wolfe & Crowder 1974)."""
    descending, _ = values.sort(1, descending=True)
    excess = descending.cumsum(1) - 1
    numbers = torch.arange(1, values.shape[1] + 1).view(1, -1, *[1] * (values.ndim - 2))
    count = (descending * numbers > excess).sum(1, keepdim=True)
    return (values - excess.gather(1, count - 1) / count).clamp_min(0)


def starts(problem: Problem) -> LabelPoint:
    labels = problem.feasible(random_labels(problem.probs))
    filtered = problem.affinity.apply(labels)
    return QuadraticEnergy.of(problem, filtered).point(labels, filtered)


def segment(problem: Problem, smoothing: Smoothing, rho: Tensor) -> LabelSegment:
    aim = smoothing.aim(starts(problem), rho, problem.seed_labels)
    return LabelSegment.of(aim, problem.affinity.apply(aim.end))


def regularized(problem: Problem, labels: Tensor, smoothing: Smoothing, rho: Tensor) -> Tensor:
    """The energy plus ``ρ r``, from the formulas."""
    if isinstance(smoothing, Euclidean):
        return problem.value(labels) + rho * labels.square().flatten(1).sum(1) / 2
    return problem.value(labels) + rho * torch.xlogy(labels, labels).flatten(1).sum(1)


def test_projections_are_those_by_sorting(generator: torch.Generator) -> None:
    case = make_case(RELAXED[0], "grid8", classes=7, size=(9, 8), seeded=0.0).to(torch.float64)
    point, seeds = starts(case.problem), case.problem.seed_labels
    for rho in (1e-3, 0.1, 1.0, 30.0):
        weight = torch.tensor([rho, 2 * rho], dtype=torch.float64)
        found = Euclidean().aim(point, weight, seeds).end
        expected = sorted_projection(-point.tangent / per_image(weight, point.tangent))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    vertices = Euclidean().aim(point, torch.zeros(2, dtype=torch.float64), seeds).end
    assert torch.equal(vertices, torch.zeros_like(vertices).scatter(1, point.tangent.argmin(1, True), 1))


@BOTH
def test_forbidden_classes_get_nothing(smoothing: Smoothing) -> None:
    allowed = torch.tensor([[True, False, True], [False, False, True]])
    case = make_case(RELAXED[0], "grid4", seeded=0.0).to(torch.float64)
    problem = replace(case, classes=allowed).problem
    found = smoothing.aim(starts(problem), torch.ones(2).double(), problem.seed_labels).end
    assert float(found.flatten(2).amax(2)[~allowed].max()) == 0
    torch.testing.assert_close(found.sum(1), torch.ones_like(found[:, 0]))
    assert torch.equal(found[1, 2], torch.ones_like(found[1, 2]))


@BOTH
@pytest.mark.parametrize("energy", RELAXED, ids=["bilinear", "quadratic"])
@pytest.mark.parametrize("kind", ["grid4", "gated", "exact"])
def test_rates_are_those_of_a_search_by_hand(kind: str, energy: Energy, smoothing: Smoothing) -> None:
    """And the energy at the rate, from no other filtering, is that of the labels."""
    problem = make_case(energy, kind).to(torch.float64).problem
    rho = torch.tensor([0.3, 0.05], dtype=torch.float64)
    way = segment(problem, smoothing, rho)
    rate = smoothing.rate(way, rho)
    there = way.at(rate)
    least = regularized(problem, there.labels, smoothing, rho)
    for at in torch.linspace(0, 1, 31).tolist():
        value = regularized(problem, torch.lerp(way.aim.point.labels, way.aim.end, at), smoothing, rho)
        assert bool((least <= value + 1e-6 * value.abs()).all())
    torch.testing.assert_close(there.value, problem.value(there.labels), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(there.filtered, problem.affinity.apply(there.labels))


@BOTH
def test_for_gaussian_kernels_the_unit_step_is_the_line_search(smoothing: Smoothing) -> None:
    problem = make_case(RELAXED[0], "exact").to(torch.float64).problem
    for rho in (torch.full((2,), weight, dtype=torch.float64) for weight in (0.0, 0.05, 2.0)):
        assert torch.equal(smoothing.rate(segment(problem, smoothing, rho), rho), torch.ones_like(rho))


@pytest.mark.parametrize("entropy", [0.0, 0.4])
def test_the_gap_is_the_most_that_the_linearized_energy_can_fall(entropy: float) -> None:
    energy = replace(RELAXED[1], entropy_weight=entropy)
    point = starts(make_case(energy, "window").to(torch.float64).problem)
    free, gradient = point.energy.free, point.gradient * point.energy.free

    def linearized(labels: Tensor) -> Tensor:
        entropies = entropy * torch.xlogy(labels, labels) * free
        return (inner(gradient, labels) + entropies.flatten(1).sum(1)).double()

    least = point.labels
    if entropy:
        least = (-gradient / entropy).softmax(1)
    else:
        least = torch.zeros_like(least).scatter(1, gradient.argmin(1, True), 1)
    expected = linearized(point.labels) - linearized(torch.where(free, least, point.labels))
    torch.testing.assert_close(point.gap(), expected)


@pytest.mark.needs_numba
@pytest.mark.parametrize("energy", RELAXED, ids=["bilinear", "quadratic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_steps_are_those_of_torch(
    energy: Energy, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of labels pixel by pixel in memory, with a class that one image must not have."""
    allowed = torch.tensor([[True, False, True], [True, True, True]])
    case = make_case(energy, "lattice", size=(9, 11)).to(dtype)
    seeds = torch.where(case.seeds == 1, UNLABELED, case.seeds)
    problem = replace(case, seeds=seeds, classes=allowed).problem
    ordered = filtering(problem.affinity)
    labels = ordered(problem.feasible(random_labels(problem.probs)))
    filtered = problem.affinity.apply(labels)
    point = QuadraticEnergy.of(problem, filtered).point(labels, filtered)
    for rho in (torch.tensor([weight, 2 * weight], dtype=torch.float64) for weight in (0.0, 0.1, 3.0)):
        compiled = Euclidean().aim(point, rho, problem.seed_labels)
        assert not isinstance(compiled, TorchAim)
        with monkeypatch.context() as patch:
            patch.setattr("selflabel.kernels.backend.has_numba", lambda: False)
            plain = Euclidean().aim(point, rho, problem.seed_labels)
        assert isinstance(plain, TorchAim)
        torch.testing.assert_close(compiled.end, plain.end)
        for name in ("gap", "slope", "square", "overlap", "length"):
            torch.testing.assert_close(getattr(compiled, name), getattr(plain, name), rtol=1e-5, atol=1e-5)
        there = problem.affinity.apply(plain.end)
        torch.testing.assert_close(compiled.bend(there), plain.bend(there), rtol=1e-5, atol=1e-5)
