"""Multigrid by kernels in Triton, against torch."""

from dataclasses import replace
from math import prod

import numpy as np
import pytest
import torch
from support.walks import random_problem
from torch import Tensor

from selflabel.affinity.stencil import Stencil
from selflabel.kernels.backend import Backend
from selflabel.kernels.gpu import cycle, grids
from selflabel.kernels.gpu import multigrid as kernels
from selflabel.kernels.gpu.multigrid import GridArrays, Shape
from selflabel.numerics.linear import hierarchy, multigrid, multigrid_gpu
from selflabel.numerics.linear.grids import WalkGrid, coarsen, finest, interpolation
from selflabel.numerics.linear.multigrid import TorchIterations
from selflabel.numerics.linear.multigrid_gpu import GPUIterations
from selflabel.numerics.linear.system import RandomWalk, System
from selflabel.problem import Problem

pytestmark = pytest.mark.needs_triton

on_a_device = pytest.mark.cuda  # half a minute each in the interpreter

BATCH = {2: 2, 3: 1}
"""Images by axes: the interpreter takes seconds for the neighbors in a volume."""


def drawn(
    size: tuple[int, ...], classes: int, device: torch.device, seeded: float = 0.2, batch: int = 2
) -> Problem:
    """Weights over six orders of magnitude."""
    problem = random_problem(np.random.default_rng(1_873), size, classes, batch, eta=0.1, seeded=seeded)
    assert isinstance(problem.affinity, Stencil)
    draw = torch.Generator().manual_seed(33_091)
    weights = tuple(
        (10 ** (-6 * torch.rand(weight.shape, generator=draw))).to(device)
        for weight in problem.affinity.weights
    )
    affinity = Stencil(problem.affinity.size, problem.affinity.offsets, weights)
    return Problem(problem.energy, problem.probs.to(device), problem.seeds.to(device), affinity)


def grid_of(problem: Problem, dtype: torch.dtype = torch.float32) -> WalkGrid:
    assert isinstance(problem.affinity, Stencil)
    return finest(problem.affinity, 1.7, 0.2, problem.free, dtype)


def arrays_of(grid: WalkGrid) -> tuple[GridArrays, Tensor]:
    """For kernels, and what is free."""
    own = GridArrays(grid.weights.flatten(2), grid.hold.flatten(1), grid.inverse.flatten(1))
    return own, grid.free.to(torch.uint8)[:, 0].contiguous()


def close(found: Tensor, expected: Tensor, atol: float = 1e-6) -> None:
    torch.testing.assert_close(found.view(expected.shape), expected, rtol=1e-4, atol=atol)


@pytest.mark.parametrize(
    ("size", "batch"),
    [
        pytest.param((5, 34), 1, marks=on_a_device),
        pytest.param((6, 5), 2, marks=on_a_device),
        ((1, 7), 1),
        ((3, 3, 2), 1),
    ],
)
def test_coarser_grids(size: tuple[int, ...], batch: int, kernel_device: torch.device) -> None:
    """Their shares, weights, hold and diagonal."""
    problem = drawn(size, 2, kernel_device, batch=batch)
    grid = grid_of(problem)
    shape = Shape.of(tuple(problem.probs.shape))
    for _ in range(2 if len(size) == 2 and kernel_device.type == "cuda" else 1):
        own, free = arrays_of(grid)
        between = interpolation(grid)
        coarser = coarsen(grid, between)
        made = GridArrays(own.weights, own.hold, torch.full_like(own.hold, torch.nan))
        grids.invert(made, free, shape)
        close(made.inverse, grid.inverse)
        shares = torch.full_like(between.shares, torch.nan).flatten(2)
        grids.interpolate(own.weights, free, shares, shape)
        close(shares, between.shares)
        if len(size) == 3 and kernel_device.type == "cpu":  # a minute in the interpreter
            return
        found, _ = arrays_of(replace(coarser, weights=torch.full_like(coarser.weights, torch.nan)))
        grids.coarsen(own, free, shares, found, shape)
        close(found.weights, coarser.weights)
        close(found.hold, coarser.hold)
        grid, shape = coarser, shape.coarse


@pytest.mark.parametrize("size", [(3, 4), (2, 3, 2)])
def test_the_matrix_of_a_grid(size: tuple[int, ...], kernel_device: torch.device) -> None:
    problem = drawn(size, 1, kernel_device)
    grid = grid_of(problem)
    assert bool((grid.inverse == 0).any())
    found = grids.matrix(arrays_of(grid)[0], Shape.of(tuple(problem.probs.shape)))
    torch.testing.assert_close(found, grid.matrix(), rtol=1e-12, atol=0)


@pytest.fixture
def few_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three classes are more than a program works on."""
    monkeypatch.setattr(kernels, "CLASSES", 2)
    monkeypatch.setattr(kernels, "NUMBERS", 256)


@pytest.mark.usefixtures("few_classes")
@pytest.mark.parametrize(
    ("size", "classes"),
    [
        ((5, 34), 1),
        ((3, 5), 3),
        pytest.param((3, 5), 21, marks=on_a_device),
        ((1, 7), 1),
        ((3, 3, 2), 2),
    ],
)
def test_sweeps_and_ways_between_grids(
    size: tuple[int, ...], classes: int, kernel_device: torch.device
) -> None:
    problem = drawn(size, classes, kernel_device, batch=BATCH[len(size)])
    grid, shape = grid_of(problem), Shape.of(tuple(problem.probs.shape))
    own, _ = arrays_of(grid)
    between = interpolation(grid)
    shares = between.shares.flatten(2)
    right, values = (torch.randn(problem.probs.shape, device=kernel_device) for _ in range(2))
    values *= problem.free
    result = torch.empty_like(right)
    sums = torch.zeros(len(right), classes, shape.tiles, dtype=torch.float64, device=kernel_device)

    def swept(y: Tensor, factor: float) -> Tensor:
        return y + factor * grid.inverse * (right - grid.apply(y))

    kernels.sweeping(values, right, own, result, shape, 0.7, sums=sums)()
    close(result, swept(values, 0.7), 1e-5)
    products = (swept(values, 0.7).double() * right.double()).flatten(2).sum(2)
    torch.testing.assert_close(sums.sum(2), products, rtol=1e-5, atol=1e-4)
    kernels.sweeping(values, right, own, result, shape, 0.7, 0.4)()
    close(result, swept(0.4 * grid.inverse * right, 0.7), 1e-5)
    coarse = torch.empty(len(right), classes, *((n + 1) // 2 for n in size), device=kernel_device)
    kernels.restricting(values, right, own, shares, coarse, shape)()
    close(coarse, between.restrict(right - grid.apply(values)), 1e-5)
    moved = values.clone()
    kernels.prolonging(moved, coarse, shares, shape)()
    close(moved, values + between.prolong(coarse), 1e-5)


def test_a_cycle_through_small_grids(kernel_device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all grids but the finest; in several rounds of pixels, and of the coarsest alone."""
    monkeypatch.setattr(hierarchy, "COARSEST", 6)
    monkeypatch.setattr(cycle, "BLOCK", 16)
    problem, classes = drawn((9, 10), 2, kernel_device), 2
    grids_of = hierarchy.Hierarchy.build(grid_of(problem))
    shape = Shape.of(tuple(problem.probs.shape))
    shapes = [shape.coarse, shape.coarse.coarse, shape.coarse.coarse.coarse]
    assert [each.size[1:] for each in shapes] == [grid.size for grid in grids_of.grids[1:]]
    arena, places, views = multigrid_gpu._arena(shapes, problem.probs)
    arena.fill_(torch.nan)
    levels = [multigrid_gpu.Level.of(*each) for each in zip(shapes, views, strict=True)]
    for level, grid in zip(levels, grids_of.grids[1:], strict=True):
        for array, expected in zip(level.grid, (grid.weights, grid.hold, grid.inverse), strict=True):
            array.copy_(expected.view(array.shape))
    for level, between in zip(levels[:-1], grids_of.between[1:], strict=True):
        level.shares.copy_(between.shares.flatten(2))
    for first in (0, 2):
        right = torch.randn(2, classes, *shapes[first].size[1:], device=kernel_device)
        right *= grids_of.grids[1 + first].inverse > 0
        levels[first].right.copy_(right.flatten(2))
        cycle.cycling(arena, places[first:], grids_of.inverse, hierarchy.FACTORS, classes)()
        close(levels[first].spare, grids_of.cycle(right, 1 + first), 1e-5)


def test_the_coarsest_grid_of_volumes(kernel_device: torch.device) -> None:
    """Of several images and classes, each in its place."""
    shape = Shape.of((2, 3, 2, 3, 2))
    arena, places, (view,) = multigrid_gpu._arena([shape], torch.empty(0, device=kernel_device))
    level = multigrid_gpu.Level.of(shape, view)
    right, inverse = torch.randn(2, 3, 12, device=kernel_device), torch.randn(2, 12, 12, device=kernel_device)
    level.right.copy_(right)
    cycle.cycling(arena, places, inverse, hierarchy.FACTORS, 3)()
    close(level.spare, right @ inverse.mT, 1e-5)


def test_which_grids_are_small(kernel_device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never the finest, and none of a volume but the coarsest."""
    monkeypatch.setattr(multigrid_gpu, "COARSEST", 6)
    for most, size, expected in ((30, (5, 6), 1), (8, (5, 6), 2), (8, (5, 2), 1), (900, (3, 3, 2), 1)):
        monkeypatch.setattr(cycle, "MOST_PIXELS", most)
        shape = Shape.of((1, 1, *size))
        shapes = [shape]
        while prod(shapes[-1].size) > 6:
            shapes.append(shapes[-1].coarse)
        arena, places, views = multigrid_gpu._arena(shapes, torch.empty(0, device=kernel_device))
        levels = tuple(multigrid_gpu.Level.of(*each) for each in zip(shapes, views, strict=True))
        assert multigrid_gpu.Levels(levels, arena, arena, places).first_small == expected
        assert all(begin % 4 == 0 for place in places for begin in place[2:])


def system_of(problem: Problem) -> System:
    assert isinstance(problem.affinity, Stencil)
    walk = RandomWalk(problem.affinity, 1.7, 0.1, problem.probs)
    return walk.system(problem.seed_labels, problem.free)


@pytest.mark.usefixtures("few_classes")
def test_iterations(kernel_device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in torch: grids, values, and bounds of their errors. Two grids above the coarsest; classes last in memory."""
    for module in (hierarchy, multigrid_gpu):
        monkeypatch.setattr(module, "COARSEST", 6)
    problem = drawn((5, 6), 3, kernel_device, batch=1)
    system = system_of(problem)
    assert multigrid_gpu.supports(system)
    system = replace(system, right=system.right.contiguous(memory_format=torch.channels_last))
    start = problem.probs.contiguous(memory_format=torch.channels_last)
    runs = GPUIterations(system, start), TorchIterations(system, start)
    assert isinstance(system.affinity, Stencil)
    grid = finest(system.affinity, system.scale, system.ties, system.free, torch.float32)
    made = runs[0]._hierarchy
    assert [level.shape.size for level in made.levels] == [(1, 5, 6), (1, 3, 3), (1, 2, 2)]
    assert made.first_small == 1
    for level in made.levels[:-1]:
        between = interpolation(grid)
        close(level.shares, between.shares)
        for found, expected in zip(level.grid, (grid.weights, grid.hold, grid.inverse), strict=True):
            close(found, expected)
        grid = coarsen(grid, between)
    close(made.inverse, hierarchy.inverted(grid))
    for _ in range(2):
        for run in runs:
            run.step()
        found, expected = (run.values() for run in runs)
        errors, bounds = (run.errors() for run in runs)
        torch.testing.assert_close(errors, bounds, rtol=0.01, atol=1e-7)
        torch.testing.assert_close(found, expected, rtol=0, atol=0.01 * float(bounds.max()) + 1e-7)
    assert float(errors.max()) < 0.05


@on_a_device
def test_numbers_that_are_none_are_no_small_errors(kernel_device: torch.device) -> None:
    problem = drawn((9, 9), 1, kernel_device)
    system = system_of(problem)
    right = system.right.clone()
    right[1, 0, 3, 3] = float("nan")
    run = GPUIterations(replace(system, right=right), problem.probs)
    run.step()
    errors = run.errors()
    assert bool(errors[0].isfinite())
    assert not bool(errors[1].isfinite())


def test_kernels_run_where_they_can(kernel_device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for images without a coarser grid, and not without Triton."""

    class Stub(TorchIterations):
        """In place of the kernels."""

    system = system_of(drawn((9, 9), 2, kernel_device))
    small = system_of(drawn((5, 6), 2, kernel_device))
    monkeypatch.setattr(multigrid_gpu, "GPUIterations", Stub)
    for chosen, expected in ((Backend.GPU, Stub), (Backend.TORCH, TorchIterations)):
        monkeypatch.setattr("selflabel.numerics.linear.multigrid.backend", lambda *_, chosen=chosen: chosen)
        assert type(multigrid._begun(system, system.right)) is expected
        assert type(multigrid._begun(small, small.right)) is TorchIterations
