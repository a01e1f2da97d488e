"""GradientDescent against autograd, the closed form, and the published preset; the coarse start."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from support.problems import explicit_energy, make_case, random_labels
from torch import Tensor

from selflabel.driver import Result, solve
from selflabel.energy import Energy
from selflabel.labels import UNLABELED, with_seeds
from selflabel.numerics.descent.coarse import coarse_labels, coarse_to_fine, coarsen, fine_labels
from selflabel.problem import Problem
from selflabel.solvers import GradientDescent, RandomWalker
from selflabel.solvers.gradient_descent import PAPER
from selflabel.terms import (
    BILINEAR,
    COLLISION,
    COLLISION_DIVERGENCE,
    COUPLINGS,
    LOG_QUADRATIC,
    NORMALIZED_QUADRATIC,
    QUADRATIC,
    QUADRATIC_POTTS,
    RELAXATIONS,
    REVERSE,
    STANDARD,
)

EVERY = [Energy(c, r, coupling_weight=0.3, pairwise_weight=2.5) for c, r in product(COUPLINGS, RELAXATIONS)]
BLACK, WHITE = (
    [
        energy
        for energy in EVERY
        if (COUPLINGS.index(energy.coupling) + RELAXATIONS.index(energy.relaxation)) % 2 == color
    ]
    for color in (0, 1)
)
"""As fields of a chessboard: each coupling with half of the relaxations, each relaxation with half of the couplings."""


def name_of(each: object) -> object:
    return f"{each.coupling.name}-{each.relaxation.name}" if isinstance(each, Energy) else each


def jaccard(a: Tensor, b: Tensor) -> float:
    return float(torch.minimum(a, b).sum() / torch.maximum(a, b).sum())


def assert_never_rises(trace: Tensor | None) -> None:
    assert trace is not None
    assert float((trace[1:] - trace[:-1]).max()) <= 1e-6 * float(trace.abs().max())


@pytest.mark.parametrize(
    ("kind", "energy"), [*product(["grid8"], BLACK), *product(["window-3d"], WHITE)], ids=name_of
)
def test_the_energy_never_rises(energy: Energy, kind: str) -> None:
    problem = make_case(energy, kind).problem
    for start in (None, random_labels(problem.probs)):
        solution = solve(problem, GradientDescent(), start=start, trace=True)
        assert_never_rises(solution.trace)
        assert solution.results == (Result.CONVERGED,) * 2
        assert bool((solution.energy < solution.start_energy).all())


@pytest.mark.parametrize("relaxation", [BILINEAR, QUADRATIC_POTTS], ids=lambda r: r.name)
@pytest.mark.parametrize("kind", ["exact", "lattice-3d"])
def test_dense_energies_never_rise(relaxation: object, kind: str) -> None:
    energy = replace(EVERY[0], relaxation=relaxation, coupling=COLLISION)  # type: ignore[arg-type]
    solution = solve(make_case(energy, kind).problem, GradientDescent(), trace=True)
    assert_never_rises(solution.trace)
    assert solution.results == (Result.CONVERGED,) * 2


@pytest.mark.parametrize("energy", BLACK, ids=name_of)
def test_default_is_better_than_the_paper_and_near_the_end(energy: Energy) -> None:
    """Below the published preset after its 200 steps; and near to where no tolerance stops it.

    One image in four may stop on a plateau above another local minimum: tiny noisy ones have many.
    """
    problem = make_case(energy, "grid4", size=(12, 13), batch=4).problem
    default = solve(problem, GradientDescent())
    paper = solve(problem, PAPER, max_steps=200)
    assert bool((default.energy <= paper.energy * (1 + 1e-4)).all())
    end = solve(problem, GradientDescent(rtol=0.0), max_steps=300)
    assert float((default.energy <= 1.01 * end.energy).double().mean()) >= 0.75


@pytest.mark.parametrize(
    "energy",
    [
        Energy(COLLISION, COLLISION_DIVERGENCE, 0.3, 6.0),
        Energy(REVERSE, NORMALIZED_QUADRATIC, 0.8, 1.3, 0.2),
        Energy(STANDARD, LOG_QUADRATIC, 0.5, 2.0),
        Energy(QUADRATIC, BILINEAR, 0.9, 1.1),
    ],
    ids=lambda e: f"{e.coupling.name}-{e.relaxation.name}",
)
@pytest.mark.parametrize("kind", ["grid8", "grid6"])
def test_paper_is_plain_descent_by_autograd(energy: Energy, kind: str) -> None:
    case = make_case(energy, kind).to(torch.float64)
    seen: list[Tensor] = []
    solve(case.problem, PAPER, max_steps=20, callback=lambda _, step: seen.append(step.labels))
    logits = case.probs.log()
    for labels in seen:
        logits.requires_grad_()
        soft = with_seeds(logits.softmax(1), case.seeds)
        # seeds have no entropy and no coupling: a floor keeps logarithms of their zeros out of the sums
        value = explicit_energy(case.problem, soft.clamp_min(1e-30))
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        logits = (logits - 0.075 * gradient).detach()
        torch.testing.assert_close(labels, with_seeds(logits.softmax(1), case.seeds), rtol=1e-7, atol=1e-8)


def test_paper_is_as_published() -> None:
    assert PAPER.rate == 0.075
    assert GradientDescent.default_energy == Energy(COLLISION, COLLISION_DIVERGENCE, 0.3, 6.0)
    problem = make_case(GradientDescent.default_energy, "grid4").problem
    solution = solve(problem, PAPER, max_steps=30)
    assert solution.results == (Result.MAX_STEPS,) * 2  # it has no stopping test
    assert bool((solution.energy < solution.start_energy).all())


@pytest.mark.parametrize("weights", [(0.1, 1.0), (1.0, 4.0)])
@pytest.mark.parametrize(
    ("kind", "size"), [("grid8", (30, 34)), ("window", (20, 20)), ("grid26", (8, 16, 17))]
)
def test_quadratic_energy_reaches_the_closed_form(
    kind: str, size: tuple[int, ...], weights: tuple[float, float]
) -> None:
    case = make_case(Energy(QUADRATIC, QUADRATIC_POTTS, *weights), kind, size=size, seeded=0.05).to(
        torch.float64
    )
    closed = solve(case.problem, RandomWalker())
    descent = solve(case.problem, GradientDescent(rtol=1e-7), max_steps=200)
    for mine, exact in zip(descent.labels, closed.labels, strict=True):
        assert jaccard(mine, exact) >= 0.999
    assert bool((descent.energy >= closed.energy * (1 - 1e-6)).all())
    torch.testing.assert_close(descent.energy, closed.energy, rtol=2e-5, atol=0)
    default = solve(case.problem, GradientDescent())
    assert int(default.steps.max()) <= 50
    torch.testing.assert_close(default.energy, closed.energy, rtol=5e-3, atol=0)


def test_images_of_a_batch_stop_by_themselves() -> None:
    case = make_case(GradientDescent.default_energy, "grid8", size=(20, 18), batch=3)
    together = solve(case.problem, GradientDescent())
    for number in range(3):
        alone = solve(case.alone(number).problem, GradientDescent())
        assert torch.equal(alone.steps, together.steps[number : number + 1])
        torch.testing.assert_close(together.labels[number : number + 1], alone.labels, rtol=0, atol=1e-5)
    assert len(set(together.steps.tolist())) > 1


def test_a_tighter_tolerance_ends_lower() -> None:
    problem = make_case(GradientDescent.default_energy, "grid4", size=(14, 14)).problem
    loose, tight = (solve(problem, GradientDescent(rtol=rtol)) for rtol in (1e-2, 1e-6))
    assert bool((tight.energy < loose.energy).all())
    assert bool((tight.steps > loose.steps).all())


def test_a_stationary_start_ends_at_once() -> None:
    case = make_case(Energy(QUADRATIC, QUADRATIC_POTTS, 1.0, 0.0), "grid4", seeded=0.0)
    uniform = torch.full_like(case.probs, 1 / 3)
    solution = solve(replace(case, probs=uniform).problem, GradientDescent())
    assert solution.results == (Result.CONVERGED,) * 2
    torch.testing.assert_close(solution.labels, uniform)


# --- the coarse start ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "size"), [("grid8", (17, 20)), ("window", (16, 16)), ("grid26", (16, 17, 18))]
)
def test_coarse_problem(kind: str, size: tuple[int, ...]) -> None:
    energy = Energy(COLLISION, QUADRATIC_POTTS, 0.7, 1.2, 0.3)
    case = make_case(energy, kind, size=size, seeded=0.02)
    coarse = coarsen(case.problem)
    assert coarse is not None
    assert tuple(coarse.probs.shape[2:]) == tuple((n + 1) // 2 for n in size)
    coarse.check()
    blocks = 2 ** len(size)
    assert coarse.energy == replace(energy, coupling_weight=0.7 * blocks, entropy_weight=0.3 * blocks)
    for place in ((0,) * len(size), (3,) * len(size), tuple((n + 1) // 2 - 1 for n in size)):
        number = int(np.ravel_multi_index(place, tuple(coarse.probs.shape[2:])))
        box = [slice(2 * p, 2 * p + 2) for p in place]
        inside = case.seeds.numpy()[(slice(None), *box)].reshape(2, -1).min(1)
        assert torch.equal(coarse.seeds.flatten(1)[:, number], torch.from_numpy(inside))
        mean = torch.from_numpy(case.probs.numpy()[(slice(None), slice(None), *box)]).flatten(2).mean(2)
        torch.testing.assert_close(coarse.probs.flatten(2)[..., number], mean)
    assert coarse.seeds.dtype == case.seeds.dtype


def test_coarse_energy_of_constant_blocks_is_the_energy() -> None:
    """Where predictions are constant on blocks too, and nothing is seeded."""
    energy = Energy(COLLISION, QUADRATIC_POTTS, 0.7, 1.2, 0.3)
    case = make_case(energy, "grid8", size=(16, 18), seeded=0.0).to(torch.float64)
    blocky = fine_labels(coarse_labels(case.probs), (16, 18))
    problem = replace(case, probs=blocky).problem
    coarse = coarsen(problem)
    assert coarse is not None
    labels = random_labels(coarse.probs)
    torch.testing.assert_close(coarse.value(labels), problem.value(fine_labels(labels, (16, 18))))


def test_seeds_that_disagree_in_a_block_give_the_smaller_class() -> None:
    case = make_case(Energy(), "grid4", size=(16, 16), seeded=0.0)
    seeds = case.seeds.to(torch.uint8)  # whole numbers of any kind that can hold 255
    seeds[0, 0, 0], seeds[0, 1, 1], seeds[0, 2, 2] = 2, 1, 0
    coarse = coarsen(replace(case, seeds=seeds).problem)
    assert coarse is not None
    assert coarse.seeds.dtype == torch.int64
    assert coarse.seeds[0, :3, :3].tolist() == [[1, 255, 255], [255, 0, 255], [255, 255, 255]]
    assert bool((coarse.seeds[1] == UNLABELED).all())


def test_small_images_and_dense_affinities_are_not_halved() -> None:
    assert coarsen(make_case(Energy(), "grid4", size=(15, 40)).problem) is None
    assert coarsen(make_case(Energy(), "grid4", size=(16, 16)).problem) is not None
    assert coarsen(make_case(Energy(), "exact", size=(16, 16)).problem) is None


def test_fine_labels_undo_coarse_ones() -> None:
    blocks = random_labels(torch.zeros(2, 3, 3, 4, 2))
    fine = fine_labels(blocks, (5, 8, 3))
    assert fine.shape == (2, 3, 5, 8, 3)
    torch.testing.assert_close(coarse_labels(fine), blocks)


@pytest.mark.parametrize("levels", [1, 2])
def test_coarse_start_is_better(levels: int) -> None:
    case = make_case(GradientDescent.default_energy, "grid8", size=(40, 36), seeded=0.02)
    problem, start = case.problem, case.problem.feasible(case.probs)
    solver = GradientDescent(coarse_levels=levels)
    coarse = coarse_to_fine(problem, start, problem.value(start), levels, solver._few_steps)
    assert bool((problem.value(coarse) < problem.value(start)).all())
    with_start, without = (solve(problem, s) for s in (solver, GradientDescent(coarse_levels=0)))
    assert bool((with_start.energy <= 1.02 * without.energy).all())


def test_a_start_that_is_better_than_the_coarse_one_is_kept() -> None:
    problem = make_case(GradientDescent.default_energy, "grid8", size=(18, 18)).problem
    end = solve(problem, GradientDescent(coarse_levels=0, rtol=1e-6)).labels
    few, some = (GradientDescent(coarse_steps=steps)._few_steps for steps in (1, 8))
    assert torch.equal(coarse_to_fine(problem, end, problem.value(end), 1, few), end)
    mixed = torch.cat([end[:1], random_labels(problem.probs)[1:]])
    start = coarse_to_fine(problem, mixed, problem.value(mixed), 1, some)
    assert bool((problem.value(start) <= problem.value(mixed)).all())
    assert not torch.equal(start[1], mixed[1])


def test_each_level_starts_from_the_labels_and_from_the_coarser_level() -> None:
    """Only once if the coarser level finds nothing better."""
    problem = make_case(GradientDescent.default_energy, "grid8", size=(32, 34)).problem
    labels, sizes = problem.feasible(random_labels(problem.probs)), []

    def to_prediction(coarse: Problem, start: Tensor) -> Tensor:
        sizes.append(tuple(start.shape[2:]))
        return coarse.feasible(coarse.probs)

    def nowhere(coarse: Problem, start: Tensor) -> Tensor:
        sizes.append(tuple(start.shape[2:]))
        return start

    better = coarse_to_fine(problem, labels, problem.value(labels), 3, to_prediction)
    assert bool((problem.value(better) < problem.value(labels)).all())
    assert sizes == [(8, 9), (16, 17), (16, 17)]
    sizes.clear()
    flat = fine_labels(fine_labels(coarse_labels(coarse_labels(labels)), (16, 17)), (32, 34))
    coarse_to_fine(problem, flat, problem.value(flat), 2, nowhere)
    assert sizes == [(8, 9), (16, 17)]


# --- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, -0.1, float("nan")])
def test_rates_are_positive(rate: float) -> None:
    with pytest.raises(ValueError, match="expected rate > 0, or None for the adaptive rule"):
        GradientDescent(rate=rate)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0.1, "rtol": 1e-3}, "rtol 0.001 would change nothing, as a fixed rate"),
        ({"rate": 0.1, "coarse_levels": 2}, "coarse_levels 2 would change nothing"),
        ({"rate": 0.1, "coarse_steps": 2}, "coarse_steps 2 would change nothing"),
        ({"coarse_levels": 0, "coarse_steps": 2}, "as there are no coarse levels: set coarse_levels"),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GradientDescent(**options)  # type: ignore[arg-type]
    assert GradientDescent(rate=0.1, rtol=0.0, coarse_levels=0).rate == 0.1


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"rtol": -1e-9, "coarse_levels": 3}, "-1e-09, 3 and"),
        ({"coarse_levels": -1}, "-1 and"),
        ({"coarse_steps": 0}, "and 0"),
    ],
)
def test_options_are_checked(options: dict[str, float], shown: str) -> None:
    with pytest.raises(ValueError, match=f"expected rtol >= 0.*{shown}"):
        GradientDescent(**options)  # type: ignore[arg-type]


def test_dense_affinities_with_other_relaxations_are_named() -> None:
    problem = make_case(Energy(relaxation=BILINEAR), "exact").problem
    wrong = replace(problem, energy=Energy(relaxation=COLLISION_DIVERGENCE))
    with pytest.raises(ValueError, match="'collision-divergence': use 'bilinear' or 'quadratic', or a grid"):
        solve(wrong, GradientDescent())
