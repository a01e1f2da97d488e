"""FrankWolfe against mean field, the random walker, explicit matrices and searches by hand."""

from dataclasses import replace

import pytest
import torch
from support.problems import DENSE, KINDS, make_case
from torch import Tensor

from selflabel.affinity import DenseAffinity
from selflabel.driver import Result, solve
from selflabel.energy import Energy
from selflabel.labels import one_hot
from selflabel.numerics.descent.messages import Pairwise, updated
from selflabel.problem import Problem
from selflabel.solvers import FrankWolfe, GradientDescent, MeanField, RandomWalker
from selflabel.solvers.frank_wolfe import MEAN_FIELD, Entropic, Euclidean
from selflabel.terms import (
    BILINEAR,
    COLLISION,
    COLLISION_DIVERGENCE,
    QUADRATIC,
    QUADRATIC_POTTS,
    STANDARD,
)

ENERGY = Energy(STANDARD, BILINEAR, coupling_weight=0.8, pairwise_weight=1.7)
CONVEX = Energy(QUADRATIC, QUADRATIC_POTTS, coupling_weight=0.3, pairwise_weight=1.1)


def iterates(problem: Problem, solver: FrankWolfe, count: int) -> list[Tensor]:
    seen: list[Tensor] = []
    solve(problem, solver, max_steps=count, callback=lambda _, step: seen.append(step.labels))
    return seen


@pytest.mark.parametrize("kind", ["lattice", "exact", "exact-3d"])
def test_mean_field_in_parallel_updates_is_a_special_case(kind: str) -> None:
    """Step by step that of pydensecrf's interface, where no pixel is a seed."""
    case = make_case(ENERGY, kind, seeded=0.0)
    assert isinstance(case.affinity, DenseAffinity)
    unary = -ENERGY.coupling_weight * case.probs.log().flatten(2).mT
    potts = tuple(
        replace(one, weight=2 * ENERGY.pairwise_weight * one.weight) for one in case.affinity.filters
    )
    labels = case.probs.flatten(2).mT
    for step in iterates(case.problem, MEAN_FIELD, 5):
        labels = updated(unary, Pairwise(potts), labels)
        torch.testing.assert_close(step.flatten(2).mT, labels, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_mean_field_with_the_full_matrix(kind: str) -> None:
    case = make_case(ENERGY, kind).to(torch.float64)
    matrix, orders = case.affinity.as_matrix().double(), 2 if kind in DENSE else 1
    labels = case.problem.feasible(case.probs)
    for step in iterates(case.problem, MEAN_FIELD, 3):
        around = torch.einsum("bij,bkj->bki", matrix, labels.flatten(2)).view(labels.shape)
        logits = ENERGY.coupling_weight * case.probs.log() + orders * ENERGY.pairwise_weight * around
        labels = case.problem.feasible(logits.softmax(1))
        torch.testing.assert_close(step, labels, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["grid8", "exact"])
def test_with_the_entropy_in_the_energy_it_ends_where_mean_field_does(kind: str) -> None:
    case = make_case(replace(ENERGY, pairwise_weight=0.6, entropy_weight=0.6), kind).to(torch.float64)
    found = solve(case.problem, FrankWolfe(Entropic(share=0.0), rtol=1e-9))
    expected = solve(case.problem, MeanField(rtol=1e-10))
    torch.testing.assert_close(found.energy, expected.energy, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.labels, expected.labels, rtol=0, atol=1e-3)


def test_the_convex_quadratic_is_the_random_walk_and_the_bound_is_tight() -> None:
    case = make_case(CONVEX, "grid8").to(torch.float64)
    found = solve(case.problem, FrankWolfe(rtol=1e-12))
    exact = solve(case.problem, RandomWalker())
    torch.testing.assert_close(found.labels, exact.labels, rtol=0, atol=1e-4)
    assert found.bound is not None
    assert bool((found.bound <= exact.energy).all())
    assert bool((exact.energy <= found.energy * (1 + 1e-9)).all())
    assert bool((found.energy - found.bound <= 1e-4 * found.energy).all())


@pytest.mark.parametrize("kind", ["grid4", "window", "exact"])
@pytest.mark.parametrize("smoothing", [Euclidean(), Entropic(weight=0.02)])
def test_bounds_of_convex_energies_hold(kind: str, smoothing: Euclidean | Entropic) -> None:
    energy = Energy(STANDARD, QUADRATIC_POTTS, 0.8, 0.6)
    case = make_case(energy, kind).to(torch.float64)
    found = solve(case.problem, FrankWolfe(smoothing))
    least = solve(case.problem, GradientDescent(rtol=1e-7), max_steps=400).energy
    assert found.bound is not None
    assert bool((found.bound <= least + 1e-9 * least.abs()).all())
    assert bool((found.energy <= 1.01 * least).all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("energy", [ENERGY, CONVEX, Energy(QUADRATIC, BILINEAR, 0.7, 0.4)], ids=repr)
def test_energies_that_it_keeps_are_those_of_the_labels(kind: str, energy: Energy) -> None:
    case = make_case(energy, kind)
    solution = solve(case.problem, FrankWolfe(), trace=True)
    assert solution.trace is not None
    assert float(solution.trace.diff(dim=0).max()) <= 1e-6 * float(solution.trace.abs().max())
    torch.testing.assert_close(solution.energy, case.problem.value(solution.labels), rtol=1e-5, atol=1e-5)


def test_a_step_is_one_filtering(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one at the start: with the line search, and with a fixed step."""
    case, calls = make_case(ENERGY, "lattice"), list[int]()
    problem, apply = case.problem, DenseAffinity.apply

    def counted(affinity: DenseAffinity, labels: Tensor) -> Tensor:
        calls.append(1)
        return apply(affinity, labels)

    monkeypatch.setattr(DenseAffinity, "apply", counted)
    for solver in (FrankWolfe(rtol=0.0), MEAN_FIELD):
        calls.clear()
        labels = problem.feasible(problem.probs)
        steps = solver.iterate(problem, labels)
        for count in range(1, 6):
            next(steps)
            assert len(calls) == count + 1


@pytest.mark.parametrize("kind", ["grid8", "lattice", "exact-3d"])
def test_an_image_does_not_depend_on_the_others(kind: str) -> None:
    case = make_case(ENERGY, kind)
    together = solve(case.problem, FrankWolfe())
    for number in range(2):
        alone = solve(case.alone(number).problem, FrankWolfe())
        assert torch.equal(alone.labels[0], together.labels[number])
        assert float(alone.energy[0]) == float(together.energy[number])


@pytest.mark.parametrize("solver", [FrankWolfe(), FrankWolfe(Entropic())], ids=["euclidean", "entropic"])
@pytest.mark.parametrize("kind", ["grid8", "exact"])
def test_it_ends_below_mean_field_relaxed_and_rounded(solver: FrankWolfe, kind: str) -> None:
    """Of energies without the entropy, which mean field adds, after as many steps."""
    case = make_case(replace(ENERGY, pairwise_weight=0.9), kind, size=(24, 24), batch=4, spread=0.7)
    field = replace(case.problem, energy=replace(case.energy, entropy_weight=1.0))
    ours, theirs = (
        solve(each, by, max_steps=12).labels for each, by in ((case.problem, solver), (field, MeanField()))
    )
    assert bool((case.problem.value(ours) < case.problem.value(theirs)).all())
    rounded = [case.problem.value(one_hot(labels.argmax(1), 3)).sum() for labels in (ours, theirs)]
    assert rounded[0] < rounded[1]


def test_labels_become_hard_and_their_probabilities_are_those_given_the_others() -> None:
    case = make_case(ENERGY, "exact").to(torch.float64)
    found = solve(case.problem, FrankWolfe(), marginals=True)
    assert found.results == (Result.CONVERGED,) * 2
    assert float((found.labels - one_hot(found.labels.argmax(1), 3)).abs().max()) < 1e-6
    _, gradient = case.problem.value_and_grad(found.labels)
    expected = case.problem.feasible((-gradient.value).softmax(1))
    torch.testing.assert_close(found.marginals, expected)
    soft = replace(case.problem, energy=replace(ENERGY, entropy_weight=0.5))
    other = solve(soft, FrankWolfe(Entropic()), marginals=True)
    assert other.marginals is not None
    assert torch.equal(other.marginals, other.labels)


def test_what_does_not_fit_is_named() -> None:
    problem = make_case(ENERGY, "grid4").problem
    refused = (
        (replace(ENERGY, coupling=COLLISION), "coupling 'standard' or 'quadratic', got 'collision'.*descent"),
        (replace(ENERGY, relaxation=COLLISION_DIVERGENCE), "'bilinear' or 'quadratic', got 'collision-div"),
        (
            replace(ENERGY, entropy_weight=1.0),
            r"entropy_weight 0 with the Euclidean .*, got 1\.0: .*entropic",
        ),
    )
    for energy, message in refused:
        with pytest.raises(ValueError, match=message):
            solve(replace(problem, energy=energy), FrankWolfe())
    solve(replace(problem, energy=replace(ENERGY, coupling=COLLISION, coupling_weight=0.0)), FrankWolfe())


@pytest.mark.usefixtures("unchecked")
def test_options_that_are_none_are_refused() -> None:
    for decay, rtol in ((-0.1, 1e-5), (1.1, 1e-5), (0.5, -1.0), (float("nan"), 1e-5)):
        with pytest.raises(ValueError, match="expected decay from 0 to 1 and rtol >= 0, got"):
            FrankWolfe(decay=decay, rtol=rtol)
    for step in (0.0, 1.5, -1.0):
        with pytest.raises(ValueError, match=r"expected step above 0, up to 1, or None .* got"):
            FrankWolfe(step=step)
    with pytest.raises(
        ValueError, match=r"rtol 0\.1 would change nothing, as a fixed step runs to the limit"
    ):
        FrankWolfe(step=0.5, rtol=0.1)
    with pytest.raises(ValueError, match="expected a smoothing, got a str 'entropic'"):
        FrankWolfe("entropic")  # type: ignore[arg-type]
    for kind in (Euclidean, Entropic):
        for value in (-1.0, float("inf"), float("nan")):
            with pytest.raises(ValueError, match="expected a finite share >= 0 of the smoothing, got"):
                kind(share=value)
