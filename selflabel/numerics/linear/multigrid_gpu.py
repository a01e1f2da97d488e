"""Conjugate gradients with multigrid in kernels for a GPU: seven launches a large grid and five more an iteration."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.stencil import Stencil
from selflabel.kernels.gpu import conjugate_gradients as gradients
from selflabel.kernels.gpu import cycle, grids, multigrid
from selflabel.kernels.gpu.conjugate_gradients import Vectors
from selflabel.kernels.gpu.launch import Launch, blocks
from selflabel.kernels.gpu.multigrid import GridArrays, Shape
from selflabel.numerics.linear.grids import WalkGrid, finest
from selflabel.numerics.linear.hierarchy import COARSEST, FACTORS, inverse_of, rounding
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
    """A grid, interpolation to it from the next coarser one, and values on it ``[b k n]``, which cycles write."""

    shape: Shape
    grid: GridArrays
    shares: Tensor
    right: Tensor
    values: Tensor
    spare: Tensor

    @classmethod
    def of(cls, shape: Shape, arrays: Sequence[Tensor]) -> "Level":
        """From memory for arrays of these `sizes_of`."""
        batch, classes = shape.batch, shape.classes
        weights, hold, inverse, shares, *values = (
            array.view(batch, -1, prod(shape.size)) for array in arrays
        )
        right, solved, spare = (each.view(batch, classes, -1) for each in values)
        return cls(shape, GridArrays(weights, hold[:, 0], inverse[:, 0]), shares, right, solved, spare)


def sizes_of(shape: Shape) -> list[int]:
    """Numbers of the arrays of a level: weights, hold, inverse, shares and values."""
    axes = 3 if shape.directions == 27 else 2
    rows = [shape.directions // 2, 1, 1, 2**axes, *[shape.classes] * 3]
    return [shape.batch * count * prod(shape.size) for count in rows]


class GPUIterations:
    """What `multigrid.TorchIterations` does, but for rounding. Memory: 14 times the labels."""

    def __init__(self, system: System, start: Float[Tensor, "b k *s"]) -> None:
        affinity, free = system.affinity, system.free
        assert isinstance(affinity, Stencil), "checked by `fits`"
        self._shape, self._size = Shape.of(tuple(start.shape)), start.shape
        self._ties, self._rounding = system.ties, rounding(system)
        single = finest(affinity, system.scale, system.ties, free, torch.float32)
        double = finest(affinity, system.scale, system.ties, free, torch.float64)
        self._hierarchy = Levels.build(single, self._shape)
        top = self._hierarchy.levels[0]
        self._grid = GridArrays(double.weights.flatten(2), double.hold.flatten(1), top.grid.inverse)
        x = start.double().mul_(free).flatten(2).contiguous()
        spare, product = torch.empty_like(x), torch.empty_like(x)
        self._numbers = gradients.numbers(self._shape, x.device)
        self._numbers.beta.fill_(1)
        begun = Vectors(x, x, top.right, x, spare, product)
        gradients.multiplying(top.values.zero_(), begun, self._grid, self._numbers, self._shape)()
        r = (system.right.flatten(2) - product).contiguous()  # right sides may have classes last
        top.right.copy_(r)
        vectors = begun._replace(r=r, p=torch.zeros_like(x))
        # in turn: the next p takes the place of the last one
        calls, solved = self._cycle(0)
        self._next = calls + self._turn(solved, vectors)
        self._after = calls + self._turn(solved, vectors._replace(p=vectors.spare, spare=vectors.p))
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
        turning = gradients.turning(solved, vectors, self._grid, self._numbers, self._shape)
        return [*turning, gradients.moving(vectors, self._numbers, self._shape)]

    def _cycle(self, number: int) -> tuple[Calls, Tensor]:
        """`Hierarchy.cycle` of the right side of a level, and where its result will be.

        That of the first level leaves the parts of its sums. Small levels are left to one launch.
        """
        if number == self._hierarchy.first_small:
            return [self._hierarchy.cycling()], self._hierarchy.levels[number].spare
        level, coarser = self._hierarchy.levels[number : number + 2]
        shape, grid, right = level.shape, level.grid, level.right
        new, old = level.values, level.spare
        calls: Calls = [multigrid.sweeping(old, right, grid, new, shape, FACTORS[1], FACTORS[0])]
        for factor in FACTORS[2:]:
            new, old = old, new
            calls.append(multigrid.sweeping(old, right, grid, new, shape, factor))
        below, solved = self._cycle(number + 1)
        calls += multigrid.restricting(new, right, grid, level.shares, coarser.right, shape), *below
        calls.append(multigrid.prolonging(new, solved, level.shares, shape))
        for left, factor in zip(range(len(FACTORS))[::-1], FACTORS[::-1], strict=True):
            new, old = old, new
            sums = self._numbers.sums if number == 0 and left == 0 else None
            calls.append(multigrid.sweeping(old, right, grid, new, shape, factor, sums=sums))
        return calls, new


@dataclass(frozen=True, eq=False)
class Levels:
    """All grids; those but the finest lie in one array, where `places` says."""

    levels: tuple[Level, ...]
    inverse: Tensor
    """Of the matrix of the coarsest."""
    arena: Tensor
    places: tuple[cycle.GridPlace, ...]
    """Of all levels but the first."""

    @classmethod
    def build(cls, grid: WalkGrid, shape: Shape) -> "Levels":
        """From the finest."""
        shapes = [shape]
        while prod(shapes[-1].size) > COARSEST:
            shapes.append(shapes[-1].coarse)
        arena, places, views = _arena(shapes[1:], grid.weights)
        weights, hold = grid.weights.flatten(), grid.hold.flatten()
        rest = [weights.new_empty(size) for size in sizes_of(shape)[2:]]
        levels = [Level.of(shape, [weights, hold, *rest])]
        levels += [Level.of(*each) for each in zip(shapes[1:], views, strict=True)]
        free = grid.free.to(torch.uint8).view(shape.batch, *grid.size)
        for level, coarser in pairwise(levels):
            grids.invert(level.grid, free, level.shape)
            grids.interpolate(level.grid.weights, free, level.shares, level.shape)
            grids.coarsen(level.grid, free, level.shares, coarser.grid, level.shape)
            free = free[(slice(None), *(slice(None, None, 2) for _ in grid.size))].contiguous()
        coarsest = levels[-1]
        grids.invert(coarsest.grid, free, coarsest.shape)
        inverse = inverse_of(grids.matrix(coarsest.grid, coarsest.shape), coarsest.grid.inverse)
        return cls(tuple(levels), inverse.float().contiguous(), arena, places)

    @property
    def first_small(self) -> int:
        """The first level that is left to a single launch; the coarsest in any case, and the finest never."""
        for number, level in enumerate(self.levels[1:-1], 1):
            if prod(level.shape.size) <= cycle.MOST_PIXELS and level.shape.directions == 9:
                return number
        return len(self.levels) - 1

    def cycling(self) -> Launch:
        """A cycle of the small levels, from the right side of the first to its spare array."""
        places, classes = self.places[self.first_small - 1 :], self.levels[0].shape.classes
        return cycle.cycling(self.arena, places, self.inverse, FACTORS, classes)


def _arena(
    shapes: list[Shape], like: Tensor
) -> tuple[Tensor, tuple[cycle.GridPlace, ...], list[list[Tensor]]]:
    """Memory for the arrays of levels, each at a multiple of 16 bytes."""
    sizes = [sizes_of(shape) for shape in shapes]
    ends = list(accumulate((blocks(size, 4) * 4 for level in sizes for size in level), initial=0))
    arena, first = like.new_empty(ends[-1]), iter(ends)
    begins = [[next(first) for _ in level] for level in sizes]
    heights = [shape.size[0] * shape.size[1] for shape in shapes]
    widths = [shape.size[2] for shape in shapes]
    places = tuple(
        cycle.GridPlace(height, width, *begin)
        for height, width, begin in zip(heights, widths, begins, strict=True)
    )
    views = [
        [arena[begin : begin + size] for begin, size in zip(*each, strict=True)]
        for each in zip(begins, sizes, strict=True)
    ]
    return arena, places, views
