"""Conjugate gradients preconditioned by multigrid, for walks that predictions end: on any device, few waits."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selflabel.affinity.protocol import SparseAffinity
from selflabel.affinity.stencil import Stencil
from selflabel.kernels.backend import Backend, Routine, backend
from selflabel.kinds import check_fields
from selflabel.numerics.linear.conjugate_gradients import ConjugateGradients
from selflabel.numerics.linear.grids import finest
from selflabel.numerics.linear.hierarchy import Hierarchy, rounding
from selflabel.numerics.linear.system import System

FIRST_LOOK, MOST = 4, 60
"""Iterations until the host first looks whether all images are finished, and in all.

Later it looks after each: to wait costs a tenth of an iteration.
"""


@dataclass(frozen=True)
class Multigrid:
    """Conjugate gradients on the grid of pixels, preconditioned by a V-cycle of multigrid, for all classes and images.

    For affinities between nearest neighbors (4 or 8, in volumes 6 or 26) and a coupling η above zero. Then no label is
    off by more than ``max_i |r_i| / 2η`` with r the residual, as ``A 1 >= 2η`` and the inverse of A is positive: an
    image is finished when this is at most `error`. Weights may vary by any factor. What has not come so far in 60
    iterations, and systems of other kinds, are left to `ConjugateGradients`.

    *Cost*: 4 to 7 iterations for ``2η = 0.2`` and weights up to one, 20 for a tenth of that. An iteration is two
    passes over the pairs in float64 and ten in float32.

    Source: grids of Dendy, J. Comput. Phys. 48, 1982 (`grids`); Chebyshev smoothing of Adams, Brezina, Hu and Tuminaro,
    J. Comput. Phys. 188, 2003; conjugate gradients of Saad, Iterative Methods, 2003, Algorithm 9.1.
    """

    error: float = 5e-7

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 < self.error < 1:
            raise ValueError(f"expected an error between 0 and 1, got {self.error}")

    def solve(
        self, system: System, start: Float[Tensor, "b k *s"]
    ) -> Iterator[tuple[Float[Tensor, "b k *s"], Bool[Tensor, " b"]]]:
        """Yield once, or as `ConjugateGradients` does."""
        if not fits(system.affinity) or system.ties <= 0:
            yield from ConjugateGradients().solve(system, start)
            return
        run = _begun(system, start)
        for count in range(1, MOST + 1):
            run.step()
            if count < FIRST_LOOK:
                continue
            largest = float(run.errors().max())
            if largest <= self.error:
                yield run.values(), torch.ones(len(start), dtype=torch.bool, device=start.device)
                return
            if not isfinite(largest):
                break
        values = run.values()
        yield from ConjugateGradients().solve(system, torch.where(values.isfinite(), values, 0.0))


def fits(affinity: SparseAffinity) -> bool:
    """Does the affinity join nearest neighbors on a grid?"""
    return isinstance(affinity, Stencil) and len(affinity.size) in (2, 3) and affinity.reach == 1


@runtime_checkable
class Iterations(Protocol):
    """Conjugate gradients under way."""

    def step(self) -> None:
        """One iteration; nothing waits for the device."""

    def errors(self) -> Float[Tensor, " b"]:
        """A bound of the errors of the labels of each image."""

    def values(self) -> Float[Tensor, "b k *s"]:
        """In float64, 0 off the free pixels."""


def _begun(system: System, start: Float[Tensor, "b k *s"]) -> Iterations:
    """By the kernels of the device, if there are some."""
    if backend(Routine.MULTIGRID, start.device, torch.float32) is Backend.GPU:
        from selflabel.numerics.linear import multigrid_gpu

        if multigrid_gpu.supports(system):
            return multigrid_gpu.GPUIterations(system, start)
    return TorchIterations(system, start)


class TorchIterations:
    """In torch; the cycle in float32."""

    def __init__(self, system: System, start: Float[Tensor, "b k *s"]) -> None:
        affinity, scale, ties = system.affinity, system.scale, system.ties
        assert isinstance(affinity, Stencil), "checked by `fits`"
        self._free, self._ties = system.free, ties
        self._grid = finest(affinity, scale, ties, system.free, torch.float64)
        self._hierarchy = Hierarchy.build(finest(affinity, scale, ties, system.free, torch.float32))
        self._x = start.double() * system.free
        self._r = system.right - self._product(self._x)
        self._p = torch.zeros_like(self._x)
        self._rz = _dot(self._r, self._p)
        self._rounding = rounding(system)

    def _product(self, values: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
        return self._grid.apply(values) * self._free

    def step(self) -> None:
        """The lines of Algorithm 9.1, from the last two on."""
        z = self._hierarchy.cycle(self._r.float())  # 6
        rz = _dot(self._r, z)
        beta = _ratio(rz, self._rz)  # 7
        self._p.mul_(beta).add_(z)  # 8
        self._rz = rz
        w = self._product(self._p)
        alpha = _ratio(rz, _dot(self._p, w))  # 3
        self._x.addcmul_(alpha, self._p)  # 4
        self._r.addcmul_(alpha, w, value=-1)  # 5

    def errors(self) -> Float[Tensor, " b"]:
        """From the largest residual."""
        return (self._r.flatten(1).abs().amax(1) + self._rounding) / self._ties

    def values(self) -> Float[Tensor, "b k *s"]:
        """The labels themselves."""
        return self._x


def _dot(a: Float[Tensor, "b k *s"], b: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *ones"]:
    """The scalar product of each class of each image."""
    return (a * b).flatten(2).sum(2).view(*a.shape[:2], *[1] * (a.ndim - 2))


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """0 where a class is solved for."""
    return torch.where(below > 0, above / below, 0.0)
