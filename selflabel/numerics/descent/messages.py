"""Mean field as published: all pixels at once, any compatibility of classes, and no look at the energy."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.filters.protocol import Filter
from selflabel.affinity.filters.weighted import ScaledFilter, apply_sum


@dataclass(frozen=True, eq=False)
class Messages:
    """What pixels tell each other: ``μ A K B Q``, with a filter K between diagonal matrices A and B.

    ``compatibility[k, l]`` is the cost of class k at a pixel whose neighbors all have class l, for kernels that sum to
    one. before, after: B and A, None for the identity.
    """

    filter: Filter
    compatibility: Float[Tensor, "k k"]
    before: Float[Tensor, " n"] | None = None
    after: Float[Tensor, " n"] | None = None

    def __call__(self, labels: Float[Tensor, "b n k"]) -> Float[Tensor, "b n k"]:
        """The costs of all classes. One filtering."""
        given = labels if self.before is None else labels * self.before[:, None]
        filtered = self.filter.apply(given.mT).mT
        if self.after is not None:
            filtered = filtered * self.after[:, None]
        return filtered @ self.compatibility.mT


@dataclass(frozen=True, eq=False)
class Pairwise:
    """The pairwise part of a dense CRF: `potts`, ``Σ_m w_m A_m K_m A_m``, and other messages."""

    potts: tuple[ScaledFilter, ...] = ()
    others: tuple[Messages, ...] = ()

    def costs(self, labels: Float[Tensor, "b n k"]) -> Float[Tensor, "b n k"]:
        """The costs of all classes: ``-w A K A Q`` of the Potts model. One filtering a kernel."""
        costs = -apply_sum(self.potts, labels.mT).mT if self.potts else torch.zeros_like(labels)
        for message in self.others:
            costs += message(labels)
        return costs


def updated(
    unary: Float[Tensor, "b n k"], pairwise: Pairwise, labels: Float[Tensor, "b n k"]
) -> Float[Tensor, "b n k"]:
    """``softmax(-U - Σ_m μ_m A_m K_m B_m Q)``: one parallel update (Krähenbühl & Koltun 2011, algorithm 1)."""
    return pairwise.costs(labels).add_(unary).neg_().softmax(2)


def free_energy(
    unary: Float[Tensor, "b n k"], pairwise: Pairwise, labels: Float[Tensor, "b n k"]
) -> Float[Tensor, " b"]:
    """``Σ Q ln Q + Σ U Q + Σ_m Σ Q μ_m A_m K_m B_m Q``, in float64, with 0 ln 0 = 0.

    For symmetric kernels the KL divergence of Q from the Gibbs distribution with twice the pairwise energy of the
    updates, up to a constant.
    """
    costs = pairwise.costs(labels).add_(unary)
    return (torch.xlogy(labels, labels) + costs * labels).sum((1, 2), dtype=torch.float64)
