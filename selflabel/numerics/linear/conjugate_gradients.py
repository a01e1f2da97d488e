"""Deflated conjugate gradients for the systems of random walkers, on any device."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from selflabel.numerics.linear.direct import factorize
from selflabel.numerics.linear.system import System

STRONG = 0.03
"""Edges of at least this share of their ends' degrees (geometric mean) hold an aggregate together."""


@dataclass(frozen=True)
class ConjugateGradients:
    """Deflated conjugate gradients, for all classes and images at once, on any device.

    The preconditioner is the diagonal, plus a coarse system with one unknown per aggregate: the pixels of a
    box of `block` pixels a side that strong edges connect. It is factorized once, on the CPU, and takes care
    of what the diagonal is slow at: large regions, and regions behind weak edges, which seeds barely reach
    (method A-DEF2 of Tang et al., J. Sci. Comput. 39, 2009, Table 2). Every class of every image has step
    lengths of its own, and stops by itself when its preconditioned residual norm is below `rtol` times the
    largest of the image's right sides. A step is `stride` iterations, each two passes over the pairs in
    float64. Starts from the given labels.
    """

    rtol: float = 1e-8
    stride: int = 20
    block: int = 6

    def __post_init__(self) -> None:
        if not 0 < self.rtol < 1:
            raise ValueError(f"expected rtol between 0 and 1, got {self.rtol}")
        for name in ("stride", "block"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1, got {getattr(self, name)}")

    def solve(
        self, system: System, start: Float[Tensor, "b k *s"]
    ) -> Iterator[tuple[Float[Tensor, "b k *s"], Bool[Tensor, " b"]]]:
        """Yield every `stride` iterations."""
        system = system.grounded()
        coarse = _Coarse(system, self.block)

        def dot(a: Tensor, b: Tensor) -> Tensor:
            return (a * b).flatten(2).sum(2).view(*a.shape[:2], *[1] * (a.ndim - 2))

        def precondition(residual: Tensor) -> Tensor:
            scaled = residual / system.diagonal
            return scaled + coarse.correct(residual - system.apply(scaled))

        solution = start.double() * system.free
        solution += coarse.correct(system.right - system.apply(solution))
        residual = system.right - system.apply(solution)
        scaled = precondition(residual)
        direction = scaled.clone()
        norm = dot(residual, scaled)
        target = self.rtol**2 * dot(system.right, precondition(system.right)).amax(1, keepdim=True)
        while True:
            for _ in range(self.stride):
                active = norm > target
                product = system.apply(direction)
                length = torch.where(active, norm / dot(direction, product), 0)
                solution.addcmul_(length, direction)
                residual.addcmul_(length, product, value=-1)
                scaled = precondition(residual)
                following = torch.where(active, dot(residual, scaled), norm)
                direction.mul_(torch.where(active, following / norm, 0)).add_(scaled)
                norm = following
            done = (norm <= target).flatten(1).all(1)
            yield solution + coarse.correct(system.right - system.apply(solution)), done
            if done.all():
                return


class _Coarse:
    """The system summed over aggregates: ``Pᵀ A P``, P one at the pixels of each; factorized per image."""

    def __init__(self, system: System, block: int) -> None:
        size = system.free.shape[2:]
        boxes = np.ravel_multi_index(
            tuple(axis // block for axis in np.indices(size)), tuple(-(-n // block) for n in size)
        ).ravel()
        edges = system.affinity.edges()
        first, second = edges.first.cpu().numpy(), edges.second.cpu().numpy()
        ground = system.right.sum(1)  # what holds each pixel from outside: predictions and seeds sum to one
        self.members, self.factors = [], []
        for number in range(len(system.free)):
            free = system.free[number].flatten().cpu().numpy()
            weight = system.scale * edges.weight[number].double().cpu().numpy()
            degree = system.diagonal[number].flatten().cpu().numpy()
            inner = free[first] & free[second]
            strong = inner & (boxes[first] == boxes[second])
            strong &= weight > STRONG * np.sqrt(degree[first] * degree[second])
            graph = csr_array(
                (np.ones(strong.sum()), (first[strong], second[strong])), shape=(len(free),) * 2
            )
            count, member = connected_components(graph, directed=False)
            used, member = np.unique(np.where(free, member, count), return_inverse=True)
            count = len(used) - (not free.all())  # the last one is what is not free
            crossing = np.flatnonzero(inner & (member[first] != member[second]))
            ends = member[first[crossing]], member[second[crossing]]
            links = coo_array((weight[crossing], ends), shape=(count, count)).tocsr()
            links = links + links.T
            hold = np.bincount(member, ground[number].flatten().cpu().numpy(), count + 1)[:count]
            matrix = (diags_array(hold + links.sum(1)) - links).tocsc() if count else None
            self.factors.append(factorize(matrix) if count else None)
            self.members.append(torch.from_numpy(member).to(system.free.device))

    def correct(self, residual: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
        """``P (Pᵀ A P)⁻¹ Pᵀ r``."""
        result = torch.zeros_like(residual)
        for values, member, factors, out in zip(residual, self.members, self.factors, result, strict=True):
            if factors is None:
                continue
            count = factors.shape[0]
            sums = values.new_zeros(len(values), count + 1).index_add_(1, member, values.flatten(1))
            solved = factors.solve(np.ascontiguousarray(sums[:, :count].T.cpu().numpy()))
            padded = torch.nn.functional.pad(torch.from_numpy(solved.T.copy()).to(values.device), (0, 1))
            out.copy_(padded[:, member].view_as(values))
        return result
