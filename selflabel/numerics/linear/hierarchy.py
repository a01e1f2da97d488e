"""Grids from the pixels to the coarsest, and the V-cycle through them that preconditions conjugate gradients."""

from dataclasses import dataclass
from math import cos, pi, prod

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.numerics.linear.grids import Interpolation, WalkGrid, coarsen, interpolation
from selflabel.numerics.linear.system import System

COARSEST = 64
"""Pixels of the coarsest grid, at most; its matrix is inverted."""

SWEEPS = 3
"""Smoothing sweeps before and after the coarser grids."""

SMOOTHED = (0.25, 2.0)
"""Eigenvalues of ``D⁻¹ A`` that sweeps work on; none is above 2."""

ROUNDED = 64
"""Roundings of ``A y`` that residuals may be off by."""


def factors(sweeps: int, low: float, high: float) -> tuple[float, ...]:
    """Those of a Chebyshev polynomial for eigenvalues in this range: ``y += factor D⁻¹ (b - A y)`` for each."""
    middle, half = (high + low) / 2, (high - low) / 2
    return tuple(1 / (middle + half * cos(pi * (2 * i + 1) / (2 * sweeps))) for i in range(sweeps))


FACTORS = factors(SWEEPS, *SMOOTHED)


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """Grids from the pixels to the coarsest."""

    grids: tuple[WalkGrid, ...]
    between: tuple[Interpolation, ...]
    """From each grid but the last to the next one."""
    inverse: Float[Tensor, "b n n"]
    """Of the coarsest matrix."""

    @classmethod
    def build(cls, grid: WalkGrid) -> "Hierarchy":
        """All grids that are coarser than this one."""
        grids, between = [grid], list[Interpolation]()
        while prod(grids[-1].size) > COARSEST:
            between.append(interpolation(grids[-1]))
            grids.append(coarsen(grids[-1], between[-1]))
        return cls(tuple(grids), tuple(between), inverted(grids[-1]))

    def cycle(self, right: Float[Tensor, "b k *s"], level: int = 0) -> Float[Tensor, "b k *s"]:
        """A V-cycle from zero: nearly ``A⁻¹`` times the right side, and symmetric as that is."""
        if level == len(self.between):
            solved: Tensor = torch.matmul(right.flatten(2), self.inverse.mT)
            return solved.view(right.shape)
        grid, between = self.grids[level], self.between[level]
        values = FACTORS[0] * grid.inverse * right
        for factor in FACTORS[1:]:
            values += factor * grid.inverse * (right - grid.apply(values))
        coarse = between.restrict(right - grid.apply(values))
        values += between.prolong(self.cycle(coarse, level + 1))
        for factor in FACTORS[::-1]:
            values += factor * grid.inverse * (right - grid.apply(values))
        return values


def inverted(grid: WalkGrid) -> Float[Tensor, "b n n"]:
    """The inverse of the matrix of a coarsest grid, 0 for pixels without equations; in the precision of the grid."""
    return inverse_of(grid.matrix(), grid.inverse.flatten(1)).to(grid.hold.dtype)


def inverse_of(matrix: Float[Tensor, "b n n"], diagonal: Float[Tensor, "b n"]) -> Float[Tensor, "b n n"]:
    """That of a matrix in float64, 0 for pixels without equations, where the `diagonal`'s inverse is 0."""
    one = (diagonal > 0).double()[:, None]
    inverse: Tensor = torch.linalg.inv_ex(matrix).inverse  # nobody waits for whether it is singular
    return inverse * one * one.mT


def rounding(system: System) -> Float[Tensor, " b"]:
    """What residuals of each image may be off by."""
    return ROUNDED * torch.finfo(torch.float64).eps * system.diagonal.flatten(1).amax(1)
