"""The compiled line search against those in torch, and against finite differences in double precision."""

import copy
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from support.problems import make_case, random_labels
from torch import Tensor

from selflabel.affinity.stencil import Stencil
from selflabel.driver import solve
from selflabel.energy import Energy
from selflabel.labels import UNLABELED
from selflabel.numerics.descent import compiled_search
from selflabel.numerics.descent.compiled_search import CompiledSearch
from selflabel.numerics.descent.coordinates import ROOT_LEFT, ROOT_REACH, SQUARE_ROOTS
from selflabel.numerics.descent.line_search import LineSearch, TorchSearch, Trial
from selflabel.numerics.descent.row_search import GRAIN, RowSearch, supports
from selflabel.problem import Problem
from selflabel.solvers import GradientDescent
from selflabel.terms import (
    COLLISION,
    COLLISION_DIVERGENCE,
    QUADRATIC,
    QUADRATIC_POTTS,
    RELAXATIONS,
    REVERSE,
    STANDARD,
    Coupling,
    Relaxation,
)

OF_PRODUCTS = (STANDARD, COLLISION)
DEFAULT = Energy(COLLISION, COLLISION_DIVERGENCE, 0.3, 6.0)
STEPS = ((0.0, 0.0), (0.3, 0.2), (0.5, 0.0), (0.2, 0.4), (0.1, 0.0))
"""Rates, and beta of the direction that follows."""


def assert_same(found: Trial, expected: Trial) -> None:
    for name in ("energy", "slope_start", "slope_end", "gradient_norm", "gradient_overlap"):
        one, other = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(
            one, other, rtol=5e-4, atol=2e-4 * float(expected.gradient_norm.abs().max())
        )


def assert_sums(found: Trial, expected: Trial) -> None:
    """Sums of the same numbers in double precision; logarithms are other approximations."""
    scale = float(expected.gradient_norm.abs().max()) + float(expected.energy.abs().max())
    torch.testing.assert_close(found.energy, expected.energy, rtol=1e-7, atol=1e-7 * scale)
    for name in ("slope_start", "slope_end", "gradient_norm", "gradient_overlap"):
        one, other = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13 * scale)


def all_images(batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Masks of no image and of every image, and a one for each."""
    no = torch.zeros(batch, dtype=torch.bool)
    return no, ~no, torch.ones(batch, dtype=torch.float64)


def begin(search: LineSearch, rate: float) -> None:
    """Turn downhill from where the search starts, for a step of this rate."""
    no, every, one = all_images(len(search.labels()))
    search.evaluate(0 * one, no)
    search.accept(every)
    search.turn(every, 0 * one, rate * one)


def walk_both(problem: Problem, labels: Tensor, grain: int = GRAIN) -> tuple[LineSearch, LineSearch]:
    """The same steps in all searches; the first image refuses the fourth and keeps its direction.

    `RowSearch` has the same bytes as the compiled one.
    """
    assert supports(problem)
    searches = CompiledSearch(problem, labels, grain), TorchSearch(problem, labels, SQUARE_ROOTS)
    rows = RowSearch(problem, labels)
    no, every, one = all_images(len(labels))
    for number, (rate, beta) in enumerate(STEPS[:-1]):
        found = [search.evaluate(rate * one, no) for search in (*searches, rows)]
        assert_same(*found[:2])
        assert_sums(found[2], found[0])
        accepted = every.clone()
        accepted[0] = number < len(STEPS) - 2
        for search in (*searches, rows):
            search.accept(accepted)
            search.turn(accepted, beta * one, STEPS[number + 1][0] * one)
        assert torch.equal(rows.labels(), searches[0].labels())
        torch.testing.assert_close(searches[0].labels(), searches[1].labels(), rtol=0, atol=2e-4)
    found = [search.evaluate(STEPS[-1][0] * one, no) for search in (*searches, rows)]
    assert_same(*found[:2])
    assert_sums(found[2], found[0])
    return searches


@pytest.mark.parametrize("coupling", OF_PRODUCTS, ids=lambda c: c.name)
@pytest.mark.parametrize("relaxation", RELAXATIONS, ids=lambda r: r.name)
def test_every_energy_of_products(coupling: Coupling, relaxation: Relaxation) -> None:
    energy = Energy(coupling, relaxation, 0.4, 2.5)
    case = make_case(energy, "grid8", size=(23, 30), classes=4, seeded=0.1)
    walk_both(case.problem, case.problem.feasible(random_labels(case.probs)))


@pytest.fixture
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small images have several blocks, too."""
    monkeypatch.setattr(compiled_search, "LEAST_PIXELS", 8)


@pytest.mark.usefixtures("short_blocks", "several")
@pytest.mark.parametrize("threads", [4])
@pytest.mark.parametrize(
    ("kind", "size", "classes"),
    [
        ("grid4", (21, 17), 2),
        ("grid4", (1, 30), 5),
        ("grid8", (30, 1), 5),
        ("grid8", (2, 2), 3),
        ("grid8", (47, 21), 33),
        ("window", (25, 19), 7),
        ("gated", (9, 26), 9),
        ("window", (2, 1), 6),
        ("grid6", (4, 9, 7), 3),
        ("grid26", (7, 5, 9), 13),
    ],
)
def test_every_size(kind: str, size: tuple[int, ...], classes: int) -> None:
    """Two threads an image: of the larger ones each has its blocks."""
    case = make_case(DEFAULT, kind, size=size, classes=classes, batch=2, seeded=0.1)
    walk_both(case.problem, case.problem.feasible(random_labels(case.probs)), 400 * classes)


def test_coarse_and_turned_offsets() -> None:
    """Offsets of coarse stencils come in another order; and each may be written the other way around."""
    case = make_case(DEFAULT, "window", size=(30, 26), classes=8)
    assert isinstance(case.affinity, Stencil)
    coarse = case.affinity.coarsen()
    probs, seeds = case.probs[..., ::2, ::2].contiguous(), case.seeds[..., ::2, ::2]
    problem = Problem(DEFAULT, probs, seeds, coarse)
    turned = Stencil(
        coarse.size, tuple(tuple(-o for o in offset) for offset in coarse.offsets), coarse.weights
    )
    for affinity in (coarse, turned):
        walk_both(replace(problem, affinity=affinity), problem.feasible(random_labels(probs)))


def test_excluded_classes_stay_empty() -> None:
    case = make_case(DEFAULT, "grid8", size=(13, 11), classes=4, batch=2)
    allowed = torch.tensor([[True, True, False, True], [True, True, True, False]])
    seeds = torch.where(case.seeds >= 2, UNLABELED, case.seeds)
    problem = replace(case, seeds=seeds, classes=allowed).problem
    search, _ = walk_both(problem, problem.feasible(random_labels(case.probs)))
    assert bool((search.labels()[0, 2] == 0).all())
    assert bool((search.labels()[1, 3] == 0).all())
    seeded = (seeds != UNLABELED)[:, None].expand_as(search.labels())
    assert torch.equal(search.labels()[seeded], problem.seed_labels[seeded])
    torch.testing.assert_close(search.labels().sum(1), torch.ones(2, 13, 11))


@pytest.mark.parametrize("coupling", OF_PRODUCTS, ids=lambda c: c.name)
@pytest.mark.parametrize("weights", [(0.0, 1.0), (1.0, 0.0)])
def test_a_part_of_the_energy_alone(coupling: Coupling, weights: tuple[float, float]) -> None:
    """The standard coupling alone has no curvature."""
    case = make_case(Energy(coupling, COLLISION_DIVERGENCE, *weights), "grid4", size=(12, 15))
    walk_both(case.problem, case.problem.feasible(random_labels(case.probs)))


def test_isolated_pixels_and_hard_predictions() -> None:
    """Weights and predictions of zero, and too small for normal numbers."""
    case = make_case(DEFAULT, "grid8", size=(14, 12), classes=3)
    weights = tuple(torch.where(w < 0.4, 0.0, w) for w in case.problem.affinity.weights)  # type: ignore[attr-defined]
    weights[0][:, :, 3:] = 1e-40
    affinity = Stencil((14, 12), case.problem.affinity.offsets, weights)  # type: ignore[attr-defined]
    probs = torch.nn.functional.one_hot(case.probs.argmax(1), 3).movedim(-1, 1) * (1 - 1e-7)
    probs = torch.where(probs == 0, 1e-39, probs).float()
    problem = Problem(DEFAULT, probs, case.seeds, affinity)
    search, other = walk_both(problem, problem.feasible(random_labels(probs)))
    assert bool(search.labels().isfinite().all())
    assert bool(other.labels().isfinite().all())


@pytest.mark.quick
@pytest.mark.parametrize("kind", ["grid8", "grid26"])
def test_gradients_are_differences(kind: str) -> None:
    """The slope along the direction, from energies in double precision a little before and after."""
    case = make_case(DEFAULT, kind, classes=5, batch=1)
    exact = case.to(torch.float64).problem
    search = CompiledSearch(case.problem, case.problem.feasible(case.probs))
    no, _, one = all_images(1)
    begin(search, 0.01)
    roots = search.labels().double().sqrt()
    trial = search.evaluate(0.01 * one, no)
    moved = torch.from_numpy(search._images[0].direction).double().view(roots.shape)

    def energy(rate: float) -> Tensor:
        ahead = (roots + rate * moved).square()
        return exact.value(ahead / ahead.sum(1, keepdim=True))

    torch.testing.assert_close(trial.energy, energy(0.01), rtol=1e-5, atol=0)
    slope = (energy(0.01 + 1e-5) - energy(0.01 - 1e-5)) / 2e-5
    # the trial's roots are scaled to norm one, and the slope is that at these
    before = (roots + 0.01 * moved).square().sum(1).sqrt()
    assert float((before - 1).abs().max()) < 0.02
    torch.testing.assert_close(trial.slope_end, slope, rtol=0.02, atol=0)


def test_steps_are_limited_for_each_class_and_pixel() -> None:
    """However large the rate: a root keeps `ROOT_LEFT` of itself and gains `ROOT_REACH` at most."""
    case = make_case(DEFAULT, "grid8", size=(20, 21), classes=4, batch=1, seeded=0.1)
    search = CompiledSearch(case.problem, case.problem.feasible(random_labels(case.probs)))
    no, _, one = all_images(1)
    begin(search, 50)
    roots = search.labels().sqrt().flatten(2)[0]
    search.evaluate(50 * one, no)
    step = 50 * torch.from_numpy(search._images[0].direction)
    least, most = -(1 - ROOT_LEFT) * roots, torch.tensor(ROOT_REACH)
    assert bool((step >= least - 1e-6).all())
    assert bool((step <= most + 1e-6).all())
    free = (case.seeds == UNLABELED).flatten()
    assert bool((step <= least + 1e-6)[:, free].any())
    assert bool((step >= most - 1e-6)[:, free].any())


def both_searches(problem: Problem, labels: Tensor) -> tuple[LineSearch, LineSearch]:
    return CompiledSearch(problem, labels), TorchSearch(problem, labels, SQUARE_ROOTS)


def test_a_direction_that_is_given_up_turns_down_from_the_current_point() -> None:
    """The trial was refused, so its gradient does not count."""
    case = make_case(DEFAULT, "grid8", size=(20, 21), classes=4, batch=2)
    no, every, one = all_images(2)
    found = []
    for search in both_searches(case.problem, case.problem.feasible(random_labels(case.probs))):
        begin(search, 0.1)
        expected = search.evaluate(0.1 * one, no)
        search.evaluate(3 * one, no)
        search.turn(every, 0 * one, 0.1 * one)
        again = search.evaluate(0.1 * one, no)
        assert_same(again, expected)
        assert bool((again.slope_start < 0).all())
        found.append(again)
    assert_same(*found)


def test_a_new_direction_is_limited_by_its_own_rate() -> None:
    """Not by that of the evaluations after it: a step that is refused is made shorter along the same direction."""
    case = make_case(DEFAULT, "grid8", size=(20, 21), classes=4, batch=2)
    no, _, one = all_images(2)
    found = []
    for search in both_searches(case.problem, case.problem.feasible(random_labels(case.probs))):
        begin(search, 50)
        found.append(search.evaluate(0.1 * one, no))
        assert_same(found[-1], search.evaluate(0.1 * one, no))
        begin(search, 0.1)
        assert bool((search.evaluate(0.1 * one, no).slope_start < 2 * found[-1].slope_start).all())
    assert_same(*found)


@pytest.mark.usefixtures("short_blocks")
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("grain", "blocks"), [(1, 10), (700, 4), (10**9, 2)])
def test_ranges_of_any_size_give_the_same(several: int, grain: int, blocks: int) -> None:
    case = make_case(DEFAULT, "grid8", size=(47, 21), classes=3, batch=1)
    search, _ = walk_both(case.problem, case.problem.feasible(random_labels(case.probs)), grain)
    assert isinstance(search, CompiledSearch)
    assert len(search._images[0].blocks) == blocks


def test_images_that_are_done_stay() -> None:
    case = make_case(DEFAULT, "grid8", size=(20, 21), batch=2)
    search = CompiledSearch(case.problem, case.problem.feasible(case.probs))
    _, _, one = all_images(2)
    done = torch.tensor([False, True])
    begin(search, 0.3)
    before, untouched = search.labels().clone(), search._images[1].trial.roots.copy()
    search.evaluate(0.3 * one, done)
    np.testing.assert_array_equal(search._images[1].trial.roots, untouched)
    search.accept(~done)
    assert torch.equal(search.labels()[1], before[1])
    assert not torch.equal(search.labels()[0], before[0])


def test_what_is_supported() -> None:
    case = make_case(DEFAULT, "grid4")
    assert supports(case.problem)
    assert not supports(case.to(torch.float64).problem)
    assert not supports(replace(case, image=case.image.double()).problem)
    assert not supports(replace(case, energy=replace(DEFAULT, coupling=REVERSE)).problem)
    assert not supports(replace(case, energy=replace(DEFAULT, coupling=QUADRATIC)).problem)
    assert not supports(replace(case, energy=replace(DEFAULT, entropy_weight=0.1)).problem)
    assert not supports(make_case(replace(DEFAULT, relaxation=QUADRATIC_POTTS), "exact").problem)
    assert not supports(make_case(DEFAULT, "window", classes=3).problem)  # twelve offsets
    assert supports(make_case(DEFAULT, "window", classes=6).problem)


@pytest.mark.parametrize(
    ("kind", "relaxation"),
    [*product(["grid8"], RELAXATIONS), ("window", COLLISION_DIVERGENCE)],
    ids=lambda x: getattr(x, "name", x),
)
def test_solutions_are_the_same(monkeypatch: pytest.MonkeyPatch, kind: str, relaxation: Relaxation) -> None:
    """At convergence, with Numba and without: no step differs."""
    energy = replace(DEFAULT, relaxation=relaxation)
    case = make_case(energy, kind, size=(20, 22), classes=6, batch=2, seeded=0.03)
    found = solve(case.problem, GradientDescent(), trace=True)
    with monkeypatch.context() as patch:
        patch.setattr("selflabel.kernels.backend.has_numba", lambda: False)
        expected = solve(case.problem, GradientDescent(), trace=True)
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.steps, expected.steps)
    assert found.trace is not None
    assert expected.trace is not None
    torch.testing.assert_close(found.trace, expected.trace, rtol=1e-7, atol=0)
    torch.testing.assert_close(found.energy, case.problem.value(found.labels), rtol=1e-5, atol=0)
    assert found.labels.is_contiguous()


def test_relaxations_and_couplings_of_a_user_run_in_torch() -> None:
    """One with a known name and other functions, too."""
    case = make_case(DEFAULT, "grid8")
    assert COLLISION.product is not None
    relaxation = replace(COLLISION_DIVERGENCE, derivative=lambda dot, pp, qq: -2 / dot)
    coupling = replace(COLLISION, product=replace(COLLISION.product, value=torch.neg))
    for energy in (replace(DEFAULT, relaxation=relaxation), replace(DEFAULT, coupling=coupling)):
        assert not supports(replace(case, energy=energy).problem)
        solve(replace(case, energy=energy).problem, GradientDescent(), max_steps=3)
    assert supports(replace(case, energy=copy.deepcopy(DEFAULT)).problem)
