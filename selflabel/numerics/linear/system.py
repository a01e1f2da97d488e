"""The random walk, its linear system, and the protocol of what solves it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selflabel.affinity.protocol import SparseAffinity
from selflabel.affinity.stencil import Stencil

Box = tuple[slice, ...]
"""A box of pixels: a slice along each axis."""


@dataclass(frozen=True)
class System:
    """A linear system ``(diagonal - λ W) y = right`` on the free pixels; y is 0 elsewhere.

    In float64. Off the free pixels `diagonal` is 1 and `right` is 0. On them, ``diagonal = λ W 1 + Σ_k right_k`` with
    W among free pixels only: the solution sums to one.
    """

    affinity: SparseAffinity
    """W, of all pixels."""
    scale: float
    """λ."""
    free: Bool[Tensor, "b 1 *s"]
    diagonal: Float[Tensor, "b 1 *s"]
    right: Float[Tensor, "b k *s"]
    ties: float = 0.0
    """``2η``: how much the prediction ties each free pixel; ``Σ_k right_k`` is as much at least."""

    def apply(self, values: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
        """The matrix times values that are 0 off the free pixels."""
        product = self.affinity.apply(values).mul_(-self.scale).mul_(self.free)
        return product.addcmul_(self.diagonal, values)

    def apply_to_differences(self, values: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
        """As `apply`, from the differences of neighbors: weak weights count beside strong ones that join equal labels.

        Takes half as long again.
        """
        result = self.right.sum(1, keepdim=True) * values
        free = self.free.to(values.dtype)
        for pairs in self.affinity.pairs():
            weight = self.scale * pairs.weight.to(values.dtype) * pairs.first(free) * pairs.second(free)
            flow = (pairs.first(values) - pairs.second(values)).mul_(weight)
            pairs.add(result, flow, -flow)
        return result


@dataclass(frozen=True, eq=False)
class RandomWalk:
    """``(2η I + λ L) y = 2η σ`` with ``L = D - W``, η the `coupling`, λ the `scale` and σ the `probs`."""

    affinity: SparseAffinity
    scale: float
    coupling: float
    probs: Float[Tensor, "b k *s"]

    def system(self, fixed: Float[Tensor, "b k *s"], free: Bool[Tensor, "b 1 *s"]) -> System:
        """The equations of the free pixels, where y is `fixed` elsewhere; `fixed` is 0 on the free pixels."""
        fixed = fixed.double()
        # in float64, unlike `degree()`
        degree = self.scale * self.affinity.apply(torch.ones_like(fixed[:, :1]))
        right = self.affinity.apply(fixed).mul_(self.scale)
        right = right.add_(self.probs, alpha=2 * self.coupling).mul_(free)
        diagonal = torch.where(free, degree + 2 * self.coupling, 1.0)
        return System(self.affinity, self.scale, free, diagonal, right, 2 * self.coupling)

    def crop(self, images: slice, box: Box) -> "RandomWalk":
        """The walk within a box of some images: pairs that leave the box are dropped."""
        assert isinstance(self.affinity, Stencil)
        affinity = self.affinity.window((images, *box))
        return replace(self, affinity=affinity, probs=self.probs[(images, slice(None), *box)])


@runtime_checkable
class LinearSolver(Protocol):
    """A frozen dataclass that solves a `System`."""

    def solve(
        self, system: System, start: Float[Tensor, "b k *s"]
    ) -> Iterator[tuple[Float[Tensor, "b k *s"], Bool[Tensor, " b"]]]:
        """Yield better and better solutions, 0 off the free pixels, and which images are finished."""
