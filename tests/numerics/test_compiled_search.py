"""Compiled steps on roots of labels against those in torch, and against finite differences in double precision."""

from dataclasses import replace
from itertools import islice, product

import numpy as np
import pytest
import torch
from support.problems import make_case, random_labels
from torch import Tensor

from selflabel.affinity.stencil import Stencil
from selflabel.driver import solve
from selflabel.kernels.cpu.compile import kernel
from selflabel.kernels.cpu.descent import pairs_of
from selflabel.kernels.cpu.formulas import of_numbers
from selflabel.labels import UNLABELED
from selflabel.numerics.descent.compiled_search import CompiledSearch, supports
from selflabel.numerics.descent.coordinates import ROOT_LEFT, ROOT_REACH, SQUARE_ROOTS
from selflabel.numerics.descent.line_search import LineSearch, TorchSearch, Trial
from selflabel.problem import Energy, Problem
from selflabel.solvers import GradientDescent
from selflabel.solvers.gradient_descent import _conjugate
from selflabel.terms import (
    COLLISION,
    COLLISION_CROSS_ENTROPY,
    COLLISION_DIVERGENCE,
    QUADRATIC,
    QUADRATIC_POTTS,
    RELAXATIONS,
    REVERSE,
    STANDARD,
    Coupling,
    Relaxation,
)

THREADS = pytest.mark.parametrize("threads", [1, 2, 3])
OF_PRODUCTS = (STANDARD, COLLISION)
DEFAULT = Energy(COLLISION, COLLISION_DIVERGENCE, 0.3, 6.0)
STEPS = ((0.0, 0.0), (0.3, 0.2), (0.5, 0.0), (0.2, 0.4))
"""Rates, and the conjugacy of the direction that follows."""


def assert_same(found: Trial, expected: Trial) -> None:
    for name in ("energy", "before", "along", "steepest", "mixed"):
        one, other = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(one, other, rtol=5e-4, atol=2e-4 * float(expected.steepest.abs().max()))


def walk_both(problem: Problem, labels: Tensor) -> tuple[LineSearch, LineSearch]:
    """The same steps on both paths, the last one rejected by the first image."""
    assert supports(problem)
    paths = CompiledSearch(problem, labels), TorchSearch(problem, labels, SQUARE_ROOTS)
    batch = labels.shape[0]
    no, one = torch.zeros(batch, dtype=torch.bool), torch.ones(batch, dtype=torch.float64)
    for number, (rate, conjugacy) in enumerate(STEPS):
        assert_same(*(path.attempt(rate * one, no) for path in paths))
        accepted = ~no
        accepted[0] = number < len(STEPS) - 1
        for path in paths:
            path.follow(accepted, accepted, conjugacy * one)
        torch.testing.assert_close(paths[0].labels(), paths[1].labels(), rtol=0, atol=2e-4)
    assert_same(*(path.attempt(0.1 * one, no) for path in paths))
    return paths


@pytest.mark.parametrize("coupling", OF_PRODUCTS, ids=lambda c: c.name)
@pytest.mark.parametrize("relaxation", RELAXATIONS, ids=lambda r: r.name)
def test_every_energy_of_products(coupling: Coupling, relaxation: Relaxation) -> None:
    energy = Energy(coupling, relaxation, 0.4, 2.5)
    case = make_case(energy, "grid8", size=(23, 30), classes=4, seeded=0.1)
    walk_both(case.problem, case.problem.feasible(random_labels(case.probs)))


@THREADS
@pytest.mark.parametrize(
    ("kind", "size", "classes"),
    [
        ("grid4", (41, 37), 2),
        ("grid4", (1, 30), 5),
        ("grid8", (30, 1), 5),
        ("grid8", (2, 2), 3),
        ("grid8", (67, 131), 33),
        ("window", (25, 19), 7),
        ("gated", (9, 26), 9),
        ("window", (2, 1), 6),
        ("grid6", (4, 9, 7), 3),
        ("grid26", (7, 5, 9), 13),
    ],
)
def test_every_size(several: int, kind: str, size: tuple[int, ...], classes: int) -> None:
    case = make_case(DEFAULT, kind, size=size, classes=classes, batch=3, seeded=0.1)
    walk_both(case.problem, case.problem.feasible(random_labels(case.probs)))


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
    path, _ = walk_both(problem, problem.feasible(random_labels(case.probs)))
    assert bool((path.labels()[0, 2] == 0).all())
    assert bool((path.labels()[1, 3] == 0).all())
    seeded = (seeds != UNLABELED)[:, None].expand_as(path.labels())
    assert torch.equal(path.labels()[seeded], problem.seed_labels[seeded])
    torch.testing.assert_close(path.labels().sum(1), torch.ones(2, 13, 11))


@pytest.mark.parametrize("coupling", OF_PRODUCTS, ids=lambda c: c.name)
@pytest.mark.parametrize("weights", [(0.0, 1.0), (1.0, 0.0)])
def test_a_part_of_the_energy_alone(coupling: Coupling, weights: tuple[float, float]) -> None:
    """The standard coupling alone has no stiffness."""
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
    path, other = walk_both(problem, problem.feasible(random_labels(probs)))
    assert bool(path.labels().isfinite().all())
    assert bool(other.labels().isfinite().all())


@pytest.mark.quick
@pytest.mark.parametrize("kind", ["grid8", "grid26"])
def test_gradients_are_differences(kind: str) -> None:
    """The slope along the direction, from energies in double precision a little before and after."""
    case = make_case(DEFAULT, kind, classes=5, batch=1)
    exact, path = (
        case.to(torch.float64).problem,
        CompiledSearch(case.problem, case.problem.feasible(case.probs)),
    )
    no, one = torch.zeros(1, dtype=torch.bool), torch.ones(1, dtype=torch.float64)
    path.attempt(0 * one, no)
    path.follow(~no, ~no, 0 * one)
    roots = path.labels().double().sqrt()
    trial = path.attempt(0.01 * one, no)
    moved = torch.from_numpy(path._images[0].direction).double().view(roots.shape)

    def energy(rate: float) -> Tensor:
        ahead = (roots + rate * moved).square()
        return exact.value(ahead / ahead.sum(1, keepdim=True))

    torch.testing.assert_close(trial.energy, energy(0.01), rtol=1e-5, atol=0)
    slope = (energy(0.01 + 1e-5) - energy(0.01 - 1e-5)) / 2e-5
    # the trial's roots are scaled to norm one, and the slope is that at these
    before = (roots + 0.01 * moved).square().sum(1).sqrt()
    assert float((before - 1).abs().max()) < 0.02
    torch.testing.assert_close(trial.along, slope, rtol=0.02, atol=0)


def test_steps_are_limited_for_each_class_and_pixel() -> None:
    """However long the step of the image is: roots lose a share at most, and gain so much at most."""
    case = make_case(DEFAULT, "grid8", size=(20, 21), classes=4, batch=1, seeded=0.1)
    path = CompiledSearch(case.problem, case.problem.feasible(random_labels(case.probs)))
    no, one = torch.zeros(1, dtype=torch.bool), torch.ones(1, dtype=torch.float64)
    path.attempt(0 * one, no)
    path.follow(~no, ~no, 0 * one)
    roots = path.labels().sqrt().flatten(2)[0]
    path.attempt(50 * one, no)
    step = 50 * torch.from_numpy(path._images[0].direction)
    least, most = -(1 - ROOT_LEFT) * roots, torch.tensor(ROOT_REACH)
    assert bool((step >= least - 1e-6).all())
    assert bool((step <= most + 1e-6).all())
    free = (case.seeds == UNLABELED).flatten()
    assert bool((step <= least + 1e-6)[:, free].any())
    assert bool((step >= most - 1e-6)[:, free].any())


def test_a_direction_that_is_given_up_turns_down_from_where_it_stands() -> None:
    """The trial was refused, so its gradient does not count."""
    case = make_case(DEFAULT, "grid8", size=(20, 21), classes=4, batch=2)
    labels = case.problem.feasible(random_labels(case.probs))
    one, no = torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.bool)
    found = []
    for path in (CompiledSearch(case.problem, labels), TorchSearch(case.problem, labels, SQUARE_ROOTS)):
        path.attempt(0 * one, no)
        path.follow(~no, ~no, 0 * one)
        expected = path.attempt(0.1 * one, no)
        path.attempt(3 * one, no)
        path.follow(no, ~no, 0 * one)
        again = path.attempt(0.1 * one, no)
        assert_same(again, expected)
        assert bool((again.before < 0).all())
        found.append(again)
    assert_same(*found)


class AtAnAngle:
    """Knows the first trials by heart: the second one is refused, and was not downhill."""

    def __init__(self) -> None:
        self.followed: list[tuple[bool, bool, float]] = []

    def labels(self) -> Tensor:
        return torch.ones(1, 1, 1, 1)

    def attempt(self, rate: Tensor, done: Tensor) -> Trial:
        numbers = {0: (5, 0, 0, 2, 0), 1: (4, -2, 1, 2, 1), 2: (6, 0.5, 1, 1, 0), 3: (3, -1, 0, 1, 0)}
        return Trial(*torch.tensor(numbers[len(self.followed)], dtype=torch.float64).unsqueeze(1))

    def follow(self, accepted: Tensor, turning: Tensor, conjugacy: Tensor) -> None:
        self.followed.append((bool(accepted), bool(turning), float(conjugacy)))


def test_refused_directions_are_given_up_only_if_they_do_not_go_down() -> None:
    path = AtAnAngle()
    steps = _conjugate(path, 0.0, torch.zeros(1, dtype=torch.float64))
    energies = [float(step.energy) for step in islice(steps, 3) if step.energy is not None]
    assert energies == [4, 4, 3]
    assert path.followed[1:] == [(True, True, pytest.approx(1 / 3)), (False, True, 0), (True, True, 1)]


@THREADS
@pytest.mark.parametrize("grain", [1, 3000, 10**9])
def test_ranges_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch, several: int, grain: int) -> None:
    case = make_case(DEFAULT, "grid8", size=(90, 61), classes=3, batch=1)
    monkeypatch.setattr("selflabel.numerics.descent.compiled_search.GRAIN", grain)
    walk_both(case.problem, case.problem.feasible(random_labels(case.probs)))


def test_images_that_are_done_stay() -> None:
    case = make_case(DEFAULT, "grid8", size=(20, 21), batch=2)
    path = CompiledSearch(case.problem, case.problem.feasible(case.probs))
    one, done = torch.ones(2, dtype=torch.float64), torch.tensor([False, True])
    path.attempt(0 * one, ~done & done)
    path.follow(done | ~done, done | ~done, 0 * one)
    before, untouched = path.labels().clone(), path._images[1].trial.copy()
    path.attempt(0.3 * one, done)
    np.testing.assert_array_equal(path._images[1].trial, untouched)
    path.follow(~done, ~done, 0 * one)
    assert torch.equal(path.labels()[1], before[1])
    assert not torch.equal(path.labels()[0], before[0])


def test_what_fits() -> None:
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


@pytest.mark.parametrize("kind", ["grid8", "window"])
def test_solutions_are_as_good(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Ends differ, as many steps amplify the rounding; the first steps do not."""
    case = make_case(DEFAULT, kind, size=(40, 44), classes=6, batch=2, seeded=0.03)
    found = solve(case.problem, GradientDescent(coarse_levels=0), trace=True)
    with monkeypatch.context() as patch:
        patch.setattr("selflabel.kernels.backend.has_numba", lambda: False)
        expected = solve(case.problem, GradientDescent(coarse_levels=0), trace=True)
    assert found.trace is not None
    assert expected.trace is not None
    torch.testing.assert_close(found.trace[:5], expected.trace[:5], rtol=1e-4, atol=0)
    torch.testing.assert_close(found.energy, expected.energy, rtol=0.01, atol=0)
    torch.testing.assert_close(found.energy, case.problem.value(found.labels), rtol=1e-5, atol=0)
    assert found.labels.is_contiguous()


# --- formulas -----------------------------------------------------------------------------------------------

FORMULAS = [
    (f"{r.name}-{name}", getattr(r, name))
    for r, name in product(RELAXATIONS, ("value", "derivative", "norm_derivative"))
    if getattr(r, name) is not None
]


@pytest.mark.parametrize(("name", "formula"), FORMULAS, ids=lambda x: x if isinstance(x, str) else "")
def test_formulas_are_the_same(rng: np.random.Generator, name: str, formula: object) -> None:
    norms = rng.uniform(0.05, 1, (2, 50)).astype(np.float32)
    dots = (rng.uniform(1e-3, 1, 50) * np.sqrt(norms.prod(0))).astype(np.float32)
    numbers = of_numbers(formula)  # type: ignore[arg-type]
    found = [numbers(*given) for given in zip(dots, *norms, strict=True)]
    expected = formula(*(torch.from_numpy(x) for x in (dots, *norms)))  # type: ignore[operator]
    np.testing.assert_allclose(found, expected.numpy(), rtol=2e-6, atol=1e-6)
    assert all(str(s.return_type) == "float32" for s in numbers.nopython_signatures)


def test_machine_code_goes_by_the_formulas() -> None:
    """Or a formula that is changed would be that of yesterday."""
    names = {pairs_of(r).py_func.__qualname__ for r in RELAXATIONS}
    assert len(names) == len(RELAXATIONS)
    assert pairs_of(replace(COLLISION_DIVERGENCE, name="other")).py_func.__qualname__ in names
    steeper = replace(COLLISION_DIVERGENCE, derivative=lambda dot, pp, qq: -2 / dot)
    assert pairs_of(steeper).py_func.__qualname__ not in names


def test_formulas_have_floors() -> None:
    zero, one = np.float32(0), np.float32(1)
    assert of_numbers(COLLISION_CROSS_ENTROPY.value)(zero, one, one) == pytest.approx(30, rel=1e-6)
    assert COLLISION.product is not None
    assert of_numbers(COLLISION.product.derivative)(zero) == pytest.approx(-float(np.exp(30)), rel=1e-6)


def test_divisions_by_zero_are_infinite() -> None:
    @kernel
    def inverse(x):
        return np.float32(1) / x

    assert inverse(np.float32(0)) == np.inf
