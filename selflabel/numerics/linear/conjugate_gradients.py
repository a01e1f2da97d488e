"""Deflated conjugate gradients for the systems of random walkers, on any device."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn.functional import pad

from selflabel.kernels.memory import Array
from selflabel.numerics.linear.direct import factorize
from selflabel.numerics.linear.system import System

STRONG = 0.03
"""Share of its ends' degrees (geometric mean) from which on an edge holds an aggregate together."""


@dataclass(frozen=True)
class ConjugateGradients:
    """Deflated conjugate gradients, for all classes and images at once, on any device.

    The preconditioner is the diagonal, plus a coarse system with one unknown per aggregate: the pixels of a
    box of `block` pixels a side that strong edges connect. It is factorized once, on the CPU, and takes care
    of what the diagonal is slow at: large regions, and regions behind weak edges, which seeds barely reach.
    Every class of every image stops by itself when its preconditioned residual norm is below `rtol` times the
    largest of the image's right sides. A step is `stride` iterations, each two passes over the pairs in
    float64. Starts from the given labels.

    Method A-DEF2 of Tang, Nabben, Vuik and Erlangga, J. Sci. Comput. 39, 2009, Table 2. This differs from it:

    1. Each class of each image has its own α and β; both are zero once it has stopped.
    2. What is yielded has one more coarse correction, which does not enter the iteration.
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
        b = system.right

        def precondition(r: Tensor) -> Tensor:
            """``z = Pᵀ M⁻¹ r + Q r`` with M the diagonal and ``Pᵀ = I - Q A``."""
            scaled = r / system.diagonal
            return scaled + coarse.correct(r - system.apply(scaled))

        # numbers: the steps of the generalized two-level method there
        x = start.double() * system.free
        x += coarse.correct(b - system.apply(x))  # 2: V_start = Q b + Pᵀ x
        r = b - system.apply(x)  # 2
        z = precondition(r)  # 3
        p = z.clone()  # 3
        rz = _dot(r, z)
        target = self.rtol**2 * _dot(b, precondition(b)).amax(1, keepdim=True)
        while True:
            for _ in range(self.stride):
                active = rz > target
                w = system.apply(p)  # 5
                alpha = torch.where(active, rz / _dot(p, w), 0)  # 6
                x.addcmul_(alpha, p)  # 7
                r.addcmul_(alpha, w, value=-1)  # 8
                z = precondition(r)  # 9
                rz_next = torch.where(active, _dot(r, z), rz)
                beta = torch.where(active, rz_next / rz, 0)  # 10
                p.mul_(beta).add_(z)  # 11
                rz = rz_next
            done = (rz <= target).flatten(1).all(1)
            yield x + coarse.correct(b - system.apply(x)), done
            if done.all():
                return


def _dot(a: Float[Tensor, "b k *s"], b: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *ones"]:
    """The scalar product of each class of each image."""
    return (a * b).flatten(2).sum(2).view(*a.shape[:2], *[1] * (a.ndim - 2))


class _Coarse:
    """The coarse systems ``E = Zᵀ A Z``, factorized: Z ``[n aggregates]`` is one at the pixels of each aggregate."""

    def __init__(self, system: System, block: int) -> None:
        size = system.free.shape[2:]
        boxes = np.ravel_multi_index(
            tuple(axis // block for axis in np.indices(size)), tuple(-(-n // block) for n in size)
        ).ravel()
        edges = system.affinity.edges()
        first, second = edges.first.cpu().numpy(), edges.second.cpu().numpy()
        ground = system.right.sum(1)  # what ties each pixel to predictions and seeds, which sum to one
        self.members: list[Tensor] = []
        """The aggregate of each pixel, by image; pixels that are not free belong to one more."""
        self.factors: list[Any] = []
        for number in range(len(system.free)):
            free = system.free[number].flatten().cpu().numpy()
            weight = system.scale * edges.weight[number].double().cpu().numpy()
            degree = system.diagonal[number].flatten().cpu().numpy()
            inner = free[first] & free[second]
            strong = inner & (boxes[first] == boxes[second])
            strong &= weight > STRONG * np.sqrt(degree[first] * degree[second])
            count, member = _aggregates(first[strong], second[strong], free)
            crossing = np.flatnonzero(inner & (member[first] != member[second]))
            ends = member[first[crossing]], member[second[crossing]]
            links = coo_array((weight[crossing], ends), shape=(count, count)).tocsr()
            links = links + links.T
            hold = np.bincount(member, ground[number].flatten().cpu().numpy(), count + 1)[:count]
            matrix = (diags_array(hold + links.sum(1)) - links).tocsc() if count else None
            self.factors.append(factorize(matrix) if count else None)
            self.members.append(torch.from_numpy(member).to(system.free.device))

    def correct(self, residual: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
        """``Q r = Z E⁻¹ Zᵀ r``."""
        result = torch.zeros_like(residual)
        for values, member, factors, out in zip(residual, self.members, self.factors, result, strict=True):
            if factors is None:
                continue
            count = factors.shape[0]
            sums = values.new_zeros(len(values), count + 1).index_add_(1, member, values.flatten(1))
            solved = factors.solve(np.ascontiguousarray(sums[:, :count].T.cpu().numpy()))
            padded = pad(torch.from_numpy(solved.T.copy()).to(values.device), (0, 1))
            out.copy_(padded[:, member].view_as(values))
        return result


def _aggregates(first: Array, second: Array, free: Array) -> tuple[int, Array]:
    """How many sets of free pixels these edges connect, and the number of each pixel's; the others have the last."""
    graph = csr_array((np.ones(len(first)), (first, second)), shape=(len(free),) * 2)
    count, member = connected_components(graph, directed=False)
    used, member = np.unique(np.where(free, member, count), return_inverse=True)
    return len(used) - (not free.all()), member
