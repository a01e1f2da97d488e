"""Conjugate gradients with multigrid in kernels for a GPU: seven launches a grid and six more an iteration, no wait."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.stencil import Stencil
from selflabel.kernels.gpu import grids, multigrid
from selflabel.kernels.gpu.multigrid import GridArrays, Shape, Vectors
from selflabel.numerics.linear.grids import WalkGrid, finest
from selflabel.numerics.linear.hierarchy import COARSEST, FACTORS, inverted, rounding
from selflabel.numerics.linear.system import System

Calls = list[Callable[[], object]]
"""One after the other."""

LARGEST = 1 << 31
"""Numbers of an image must be fewer: places are counted in 32 bits."""


def supports(system: System) -> bool:
    """Images that have a coarser grid, and no more numbers than places are counted for. Devices are `backend`'s."""
    _, classes, *size = system.right.shape
    return prod(size) > COARSEST and prod(size) * max(classes, 3 ** len(size) // 2) < LARGEST


@dataclass(frozen=True, eq=False)
class Level:
    """A grid with a coarser one below it, and the values on it ``[b k n]``, which cycles write."""

    shape: Shape
    grid: GridArrays
    shares: Tensor
    right: Tensor
    values: Tensor
    spare: Tensor


class GPUIterations:
    """What `multigrid.TorchIterations` does, but for rounding. Memory: 14 times the labels."""

    def __init__(self, system: System, start: Float[Tensor, "b k *s"]) -> None:
        affinity, free = system.affinity, system.free
        assert isinstance(affinity, Stencil), "checked by `fits`"
        self._shape, self._size = Shape.of(tuple(start.shape)), start.shape
        self._ties, self._rounding = system.ties, rounding(system)
        single = finest(affinity, system.scale, system.ties, free, torch.float32)
        double = finest(affinity, system.scale, system.ties, free, torch.float64)
        self._levels, self._coarsest = _levels(single, self._shape)
        top = self._levels[0]
        self._grid = GridArrays(double.weights.flatten(2), double.hold.flatten(1), top.grid.inverse)
        x = start.double().mul_(free).flatten(2).contiguous()
        spare, product = torch.empty_like(x), torch.empty_like(x)
        self._numbers = multigrid.numbers(self._shape, x.device)
        self._numbers.beta.fill_(1)
        begun = Vectors(x, x, top.right, x, spare, product)
        multigrid.multiplying(top.values.zero_(), begun, self._grid, self._numbers, self._shape)()
        r = (system.right.flatten(2) - product).contiguous()  # right sides may have classes last
        top.right.copy_(r)
        vectors = begun._replace(r=r, p=torch.zeros_like(x))
        # in turn: the next p takes the place of the last one
        cycle, solved = self._cycle(0)
        self._next = cycle + self._turn(solved, vectors)
        self._after = cycle + self._turn(solved, vectors._replace(p=vectors.spare, spare=vectors.p))
        self._x = x

    def step(self) -> None:
        """An iteration."""
        for call in self._next:
            call()
        self._next, self._after = self._after, self._next

    def errors(self) -> Float[Tensor, " b"]:
        """From the largest residual."""
        return (self._numbers.peaks.amax(1) + self._rounding) / self._ties

    def values(self) -> Float[Tensor, "b k *s"]:
        """The labels themselves."""
        return self._x.view(self._size)

    def _turn(self, solved: Tensor, vectors: Vectors) -> Calls:
        """What follows a cycle in an iteration of conjugate gradients, with the next p in `spare`."""
        turning = multigrid.turning(solved, vectors, self._grid, self._numbers, self._shape)
        return [*turning, multigrid.moving(vectors, self._numbers, self._shape)]

    def _cycle(self, number: int) -> tuple[Calls, Tensor]:
        """`Hierarchy.cycle` of the right side of a level, and where its result will be.

        That of the first level leaves the parts of its sums.
        """
        level = self._levels[number]
        shape, grid, right = level.shape, level.grid, level.right
        new, old = level.values, level.spare
        calls: Calls = []
        calls.append(multigrid.sweeping(old, right, grid, new, shape, FACTORS[1], FACTORS[0]))
        for factor in FACTORS[2:]:
            new, old = old, new
            calls.append(multigrid.sweeping(old, right, grid, new, shape, factor))
        if number + 1 < len(self._levels):
            coarse = self._levels[number + 1].right
            below, solved = self._cycle(number + 1)
        else:
            coarse = self._coarsest.new_empty(shape.batch, shape.classes, self._coarsest.shape[1])
            solved = torch.empty_like(coarse)
            below = [partial(torch.matmul, coarse, self._coarsest.mT, out=solved)]
        calls += multigrid.restricting(new, right, grid, level.shares, coarse, shape), *below
        calls.append(multigrid.prolonging(new, solved, level.shares, shape))
        for left, factor in zip(range(len(FACTORS))[::-1], FACTORS[::-1], strict=True):
            new, old = old, new
            sums = self._numbers.sums if number == 0 and left == 0 else None
            calls.append(multigrid.sweeping(old, right, grid, new, shape, factor, sums=sums))
        return calls, new


def _levels(grid: WalkGrid, shape: Shape) -> tuple[list[Level], Tensor]:
    """All grids but the coarsest, and the inverse of its matrix."""
    levels = list[Level]()
    batch, size, classes = len(grid.hold), grid.size, shape.classes
    weights, hold = grid.weights.flatten(2), grid.hold.flatten(1)
    free = grid.free.to(torch.uint8).view(batch, *size)
    while prod(size) > COARSEST:
        inverse = grids.invert(weights, hold, free, shape)
        shares = grids.interpolate(weights, free, shape)
        right, values, spare = (weights.new_empty(batch, classes, prod(size)) for _ in range(3))
        levels.append(Level(shape, GridArrays(weights, hold, inverse), shares, right, values, spare))
        weights, hold = grids.coarsen(weights, hold, free, shares, shape)
        free = free[(slice(None), *(slice(None, None, 2) for _ in size))].contiguous()
        size, shape = tuple(free.shape[1:]), shape.coarse
    full = WalkGrid(weights.view(batch, -1, *size), hold.view(batch, 1, *size), free[:, None] != 0)
    return levels, inverted(full)
