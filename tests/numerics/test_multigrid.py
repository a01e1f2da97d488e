"""Multigrid against dense algebra and elimination."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from support.walks import dense_solution, random_problem
from torch import Tensor

from selflabel.affinity import GridAffinity, WindowAffinity
from selflabel.affinity.builders import Contrast
from selflabel.affinity.stencil import Stencil
from selflabel.driver import solve
from selflabel.energy import Energy
from selflabel.labels import UNLABELED
from selflabel.numerics.linear import hierarchy, multigrid
from selflabel.numerics.linear.conjugate_gradients import ConjugateGradients
from selflabel.numerics.linear.direct import Elimination
from selflabel.numerics.linear.grids import WalkGrid, coarsen, every_second, finest, interpolation
from selflabel.numerics.linear.hierarchy import Hierarchy, factors
from selflabel.numerics.linear.multigrid import Multigrid, TorchIterations
from selflabel.numerics.linear.system import RandomWalk, System
from selflabel.problem import Problem
from selflabel.solvers.random_walker import RandomWalker, method_by_size
from selflabel.terms import QUADRATIC, QUADRATIC_POTTS

SIZES = pytest.mark.parametrize("size", [(12, 15), (11, 10), (1, 9), (5, 6, 7), (4, 1, 6)])


def system_of(problem: Problem) -> System:
    assert isinstance(problem.affinity, Stencil)
    energy = problem.energy
    walk = RandomWalk(problem.affinity, energy.pairwise_weight, energy.coupling_weight, problem.probs)
    return walk.system(problem.seed_labels, problem.free)


def varied(problem: Problem, decades: float) -> Problem:
    """The problem with weights over so many orders of magnitude, at most 1."""
    assert isinstance(problem.affinity, Stencil)
    draw = torch.Generator().manual_seed(90_173)
    weights = tuple(
        10 ** (-decades * torch.rand(weight.shape, generator=draw)) for weight in problem.affinity.weights
    )
    return replace(problem, affinity=Stencil(problem.affinity.size, problem.affinity.offsets, weights))


def drawn(size: tuple[int, ...], eta: float = 0.1, decades: float = 6.0, seeded: float = 0.2) -> Problem:
    problem = random_problem(np.random.default_rng(6_133), size, 3, 2, eta=eta, seeded=seeded)
    return varied(problem, decades)


def grid_of(problem: Problem) -> WalkGrid:
    assert isinstance(problem.affinity, Stencil)
    energy = problem.energy
    return finest(
        problem.affinity, energy.pairwise_weight, 2 * energy.coupling_weight, problem.free, torch.float64
    )


def columns(count: int, size: tuple[int, ...]) -> Tensor:
    return torch.eye(count, dtype=torch.float64).view(1, count, *size).expand(2, -1, *size)


@SIZES
def test_the_finest_grid_is_the_system(size: tuple[int, ...]) -> None:
    problem = drawn(size)
    system, grid = system_of(problem), grid_of(problem)
    values = torch.randn(problem.probs.shape, dtype=torch.float64) * problem.free
    torch.testing.assert_close(grid.apply(values) * problem.free, system.apply(values))
    torch.testing.assert_close(
        torch.where(problem.free, 1 / grid.inverse, 1.0), system.diagonal, rtol=1e-12, atol=0
    )
    count = grid.hold[0].numel()
    matrix = grid.apply(columns(count, size) * problem.free).flatten(2)
    free = problem.free.flatten(1).double()
    expected = matrix * free[:, None] * free[..., None] + torch.diag_embed(1 - free)
    torch.testing.assert_close(grid.matrix(), expected)


@SIZES
def test_restricting_is_the_transpose_of_prolonging(size: tuple[int, ...]) -> None:
    between = interpolation(grid_of(drawn(size)))
    coarse = torch.randn(2, 3, *((n + 1) // 2 for n in size), dtype=torch.float64)
    fine = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(
        (between.prolong(coarse) * fine).sum(), (coarse * between.restrict(fine)).sum()
    )


@SIZES
def test_constants_are_interpolated_exactly(size: tuple[int, ...]) -> None:
    problem = drawn(size)
    between = interpolation(grid_of(problem))
    assert float(between.shares.min()) >= 0
    ones = between.prolong(torch.ones(2, 1, *((n + 1) // 2 for n in size), dtype=torch.float64))
    torch.testing.assert_close(ones, problem.free.double())


def test_pixels_take_the_labels_of_their_side() -> None:
    """Behind a weak edge, those of the next coarse pixel do not count."""
    affinity = GridAffinity.from_features(torch.zeros(1, 1, 5, 5), neighbors=8)
    weights = [weight.clone() for weight in affinity.weights]
    for offset, weight in zip(affinity.offsets, weights, strict=True):
        if offset[1]:
            weight[..., 2] = 1e-6  # between the columns 2 and 3
    weak = Stencil((5, 5), affinity.offsets, tuple(weights))
    free = torch.ones(1, 1, 5, 5, dtype=torch.bool)
    between = interpolation(finest(weak, 1.0, 0.2, free, torch.float64))
    fine = between.prolong(torch.arange(3.0, dtype=torch.float64).expand(1, 1, 3, 3))[0, 0]
    torch.testing.assert_close(fine[:, 1], torch.full((5,), 0.5, dtype=torch.float64))
    torch.testing.assert_close(fine[:, 3], torch.full((5,), 2.0, dtype=torch.float64), rtol=0, atol=1e-5)


@SIZES
def test_coarse_weights_are_those_of_the_product(size: tuple[int, ...]) -> None:
    """``Pᵀ A P`` from dense matrices, for the weights alone; what holds pixels is the sum of what holds the fine."""
    problem = drawn(size, decades=2.0, seeded=0.0)
    grid = grid_of(problem)
    between = interpolation(grid)
    coarse = coarsen(grid, between)
    half = tuple((n + 1) // 2 for n in size)
    count = int(np.prod(half))
    ways = between.prolong(columns(count, half)).flatten(2).mT
    apart = WalkGrid(grid.weights, torch.zeros_like(grid.hold), grid.free)
    dense = ways.mT @ apart.matrix() @ ways
    found = -WalkGrid(coarse.weights, torch.zeros_like(coarse.hold), coarse.free).apply(columns(count, half))
    off = 1 - torch.eye(count, dtype=torch.float64)
    torch.testing.assert_close(found.flatten(2) * off, (-dense * off).clamp_min(0), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(coarse.hold, between.restrict(grid.hold))
    assert torch.equal(coarse.free, grid.free[every_second((0,) * len(size))])


def test_what_seeds_hold_is_kept() -> None:
    """Ones have the same energy on both grids where seeds lie between coarse pixels."""
    problem = drawn((8, 8), decades=0.0, seeded=0.0)
    seeds = torch.full_like(problem.seeds, UNLABELED)
    seeds[:, 3, 5], seeds[:, 6, 7] = 0, 1
    grid = grid_of(replace(problem, seeds=seeds))
    coarse = coarsen(grid, interpolation(grid))
    ones = torch.ones(2, 1, 4, 4, dtype=torch.float64)
    fine = grid.free.double()
    energies = [(x * g.apply(x)).flatten(1).sum(1) for x, g in ((fine, grid), (ones, coarse))]
    torch.testing.assert_close(*energies)


@SIZES
@pytest.mark.parametrize("decades", [0.0, 6.0])
def test_the_cycle_is_nearly_the_inverse(
    size: tuple[int, ...], decades: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Symmetric, positive, and with ``A`` of eigenvalues near one."""
    monkeypatch.setattr(hierarchy, "COARSEST", 6)
    problem = drawn(size, decades=decades)
    grid = grid_of(problem)
    built = Hierarchy.build(grid)
    assert len(built.grids) > 1
    count = grid.hold[0].numel()
    cycle = built.cycle(columns(count, size).contiguous()).flatten(2)
    torch.testing.assert_close(cycle, cycle.mT)
    for one, matrix, free in zip(cycle, grid.matrix(), problem.free.flatten(1), strict=True):
        some = one[free][:, free] @ matrix[free][:, free]
        eigenvalues = torch.linalg.eigvals(some).real
        assert float(eigenvalues.min()) > 0.4
        assert float(eigenvalues.max()) < 1.2


@SIZES
@pytest.mark.parametrize("eta", [1e-3, 0.1, 3.0])
def test_no_error_is_above_its_bound(size: tuple[int, ...], eta: float) -> None:
    problem = drawn(size, eta=eta)
    exact = torch.from_numpy(dense_solution(problem)) * problem.free
    run = TorchIterations(system_of(problem), problem.probs)
    for _ in range(8):
        run.step()
        errors = (run.values() - exact).flatten(1).abs().amax(1)
        assert (errors <= run.errors() + 1e-12).all()
    assert eta < 0.1 or float(run.errors().max()) < 1e-3


def test_factors_of_chebyshev() -> None:
    """The product of ``1 - factor x`` is as small as it can be on the range: equal at both ends and between."""
    ends = torch.tensor([0.25, 2.0], dtype=torch.float64)
    x = torch.linspace(0.25, 2.0, 1001, dtype=torch.float64)

    def left(at: Tensor) -> Tensor:
        return torch.stack([1 - factor * at for factor in factors(3, 0.25, 2.0)]).prod(0).abs()

    torch.testing.assert_close(left(ends)[0], left(ends)[1])
    assert float(left(x).max()) <= float(left(ends)[0]) * (1 + 1e-9)


@pytest.mark.parametrize("pack", ["bsds/{}/12003", "acdc/{}/patient001_frame01_slice_2"])
@pytest.mark.parametrize("kind", ["contrast", "grid"])
def test_photographs(pack: str, kind: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As elimination to 1e-6, in few iterations."""
    path = data / pack.format("images")
    path = next(p for p in (path.with_suffix(".jpg"), path.with_suffix(".png")) if p.exists())
    colors = np.array(Picture.open(path).convert("RGB"))[40:150, 40:170]
    scribbles = np.array(Picture.open((data / pack.format("scribbles")).with_suffix(".png")))[40:150, 40:170]
    classes = np.unique(scribbles[scribbles != 255])
    seeds = np.full(scribbles.shape, UNLABELED, np.int64)
    for number, value in enumerate(classes):
        seeds[scribbles == value] = number
    image = torch.from_numpy(colors).movedim(-1, 0)[None]
    affinity = Contrast()(image) if kind == "contrast" else GridAffinity.from_image(image, 9.0)
    energy = RandomWalker.default_energy
    problem = Problem.from_seeds(energy, torch.from_numpy(seeds)[None], len(classes), affinity)
    monkeypatch.setattr(multigrid, "MOST", 9)
    monkeypatch.setattr(ConjugateGradients, "solve", lambda *_: iter(()))
    found, exact = (solve(problem, RandomWalker(method)).labels for method in (Multigrid(), Elimination()))
    assert float((found - exact).abs().max()) < 1e-6


@pytest.mark.parametrize("case", ["no coupling", "window", "slow", "huge"])
def test_what_it_is_not_for_takes_conjugate_gradients(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = drawn((9, 10), decades=3.0)
    energy = problem.energy
    if case == "no coupling":
        problem = replace(problem, energy=replace(energy, coupling_weight=0.0))
    elif case == "window":
        problem = replace(problem, affinity=WindowAffinity.from_features(torch.rand(2, 1, 9, 10), 2))
    elif case == "slow":
        monkeypatch.setattr(multigrid, "MOST", 5)
        problem = replace(problem, energy=replace(energy, coupling_weight=1e-4))
    else:
        problem = replace(problem, energy=replace(energy, pairwise_weight=1e30))
    asked = list[System]()
    original = ConjugateGradients.solve

    def watched(self: ConjugateGradients, system: System, start: Tensor) -> object:
        assert bool(start.isfinite().all())
        asked.append(system)
        return original(self, system, start)

    monkeypatch.setattr(ConjugateGradients, "solve", watched)
    found = solve(problem, RandomWalker(Multigrid())).labels
    assert len(asked) == 1
    np.testing.assert_allclose(found, solve(problem, RandomWalker(Elimination())).labels, atol=1e-5)


def test_other_devices_take_it_for_nearest_neighbors() -> None:
    free = torch.ones(1, 1, 6, 6, dtype=torch.bool, device="meta")
    features = torch.zeros(1, 1, 6, 6)
    assert method_by_size(GridAffinity.from_features(features, neighbors=8), free, 0.2) == Multigrid()
    assert method_by_size(WindowAffinity.from_features(features, 2), free, 0.2) == ConjugateGradients()


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=pytest.mark.needs_numba), False])
def test_other_devices_leave_walks_without_ties_to_compiled_elimination(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An array of a device that can be counted in: its device alone is another."""

    class Elsewhere(Tensor):
        device = torch.device("cuda")

    monkeypatch.setattr("selflabel.kernels.backend.has_numba", lambda: compiled)
    free = torch.ones(1, 1, 6, 6, dtype=torch.bool).as_subclass(Elsewhere)
    near, far = (
        GridAffinity.from_features(torch.zeros(1, 1, 6, 6)),
        WindowAffinity.from_features(torch.zeros(1, 1, 6, 6), 2),
    )
    assert method_by_size(near, free) == (Elimination() if compiled else ConjugateGradients())
    assert method_by_size(far, free) == ConjugateGradients()


def test_the_error_is_checked() -> None:
    with pytest.raises(ValueError, match="an error between 0 and 1, got 0"):
        Multigrid(error=0.0)


def test_energies_without_pairs() -> None:
    problem = replace(drawn((5, 6)), energy=Energy(QUADRATIC, QUADRATIC_POTTS, 0.1, 0.0))
    labels = solve(problem, RandomWalker(Multigrid())).labels
    torch.testing.assert_close(labels, problem.feasible(problem.probs))
