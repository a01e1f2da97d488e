"""The linear systems of random walkers, and how they are solved: by elimination or by conjugate gradients."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selflabel.affinity.protocol import SparseAffinity

GROUND = 1e-12
"""Share of its degree by which `System.grounded` holds each pixel at its prediction: it shows in large regions that
seeds reach through weights of less than 1e-9 only."""


@dataclass(frozen=True)
class System:
    """``(diagonal - λ W) y = right`` on the free pixels of a batch, W among them only; y is 0 elsewhere.

    In float64; `diagonal` ``[b 1 *s]`` is 1 and `right` ``[b k *s]`` is 0 off the free pixels. Row by row, the
    diagonal is the sum of λ W and of `right` over the classes: y sums to one.
    """

    affinity: SparseAffinity
    scale: float
    free: Tensor
    diagonal: Tensor
    right: Tensor
    prior: Tensor | None = None
    """The prediction, if nothing holds the pixels at it."""

    @classmethod
    def of(
        cls,
        affinity: SparseAffinity,
        scale: float,
        coupling: float,
        probs: Float[Tensor, "b k *s"],
        fixed: Float[Tensor, "b k *s"],
        free: Bool[Tensor, "b 1 *s"],
    ) -> "System":
        """``(2η I + λ L) y = 2η σ`` on the free pixels, with η the coupling and λ the scale; y is `fixed` elsewhere.

        `fixed` is 0 on the free pixels.
        """
        fixed = fixed.double()
        degree = scale * affinity.apply(torch.ones_like(fixed[:, :1]))  # in float64, unlike `degree()`
        right = affinity.apply(fixed).mul_(scale).add_(probs, alpha=2 * coupling).mul_(free)
        diagonal = torch.where(free, degree + 2 * coupling, 1.0)
        return cls(affinity, scale, free, diagonal, right, None if coupling else probs.double())

    def apply(self, values: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
        """The matrix times values that are 0 off the free pixels."""
        product = self.affinity.apply(values).mul_(-self.scale).mul_(self.free)
        return product.addcmul_(self.diagonal, values)

    def grounded(self) -> "System":
        """A system that is not singular in double precision, and with a `prior` not quite the same.

        Regions that seeds reach only through weights that rounding loses are held at it: for methods that subtract.
        """
        if self.prior is None:
            return self
        hold = GROUND * self.diagonal * self.free
        return replace(
            self, diagonal=self.diagonal + hold, right=self.right.addcmul(hold, self.prior), prior=None
        )


@runtime_checkable
class LinearSolver(Protocol):
    """How the linear system is solved."""

    def solve(
        self, system: System, start: Float[Tensor, "b k *s"]
    ) -> Iterator[tuple[Float[Tensor, "b k *s"], Bool[Tensor, " b"]]]:
        """Yield better and better solutions, all 0 off the free pixels, and which images are done."""
