"""Deflated conjugate gradients for the systems of random walkers, on any device."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn.functional import pad

from selflabel.kernels.memory import Array
from selflabel.kinds import check_fields
from selflabel.numerics.linear.clusters import Equations, as_system, equations, may_have_clusters
from selflabel.numerics.linear.factors import Factors, factorize
from selflabel.numerics.linear.system import System

STRONG = 0.03
"""Share of its ends' degrees (geometric mean) from which on an edge holds an aggregate together."""

LARGEST_ERROR = 1e-7
"""Of labels, as far as the preconditioner can tell it: with more, an image of varied weights is not finished."""


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
        check_fields(self)
        if not 0 < self.rtol < 1:
            raise ValueError(f"expected rtol between 0 and 1, got {self.rtol}")
        for name in ("stride", "block"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1, got {getattr(self, name)}")

    def solve(
        self, system: System, start: Float[Tensor, "b k *s"]
    ) -> Iterator[tuple[Float[Tensor, "b k *s"], Bool[Tensor, " b"]]]:
        """Yield every `stride` iterations."""
        boxes = _boxes(tuple(system.free.shape[2:]), self.block)
        varied = may_have_clusters(system)
        given = [equations(system, n) for n in range(len(start))] if varied else []
        if not any(each.is_contracted for each in given):
            yield from self._iterate(system, start.double() * system.free, boxes, varied)
            return
        runs = [self._on_nodes(each, own, boxes) for each, own in zip(given, start, strict=True)]
        ends: list[Any] = [None] * len(runs)
        while True:
            ends = [next(run, end) for run, end in zip(runs, ends, strict=True)]
            done = torch.tensor([bool(end[1]) for end in ends], device=start.device)
            yield torch.stack([values for values, _ in ends]), done
            if done.all():
                return

    def _on_nodes(
        self, given: Equations, start: Float[Tensor, "k *s"], boxes: Array
    ) -> Iterator[tuple[Float[Tensor, "k *s"], Bool[Tensor, " 1"]]]:
        """The same for one image, on nodes that stand for its clusters."""
        pixels, node = (torch.from_numpy(x).to(start.device) for x in (given.pixels, given.node))
        chosen = given.pixels[np.unique(given.node, return_index=True)[1]]  # a pixel of each node
        full = torch.zeros_like(start, dtype=torch.float64)
        if not len(chosen):
            yield full, torch.ones(1, dtype=torch.bool)
            return
        on_nodes = start.double().flatten(1)[None, :, torch.from_numpy(chosen).to(start.device)]
        for values, done in self._iterate(as_system(given, start.device), on_nodes, boxes[chosen], True):
            full.view(len(start), -1)[:, pixels] = values[0][:, node]
            yield full.clone(), done

    def _iterate(
        self, system: System, x: Float[Tensor, "b k *s"], boxes: Array, varied: bool
    ) -> Iterator[tuple[Float[Tensor, "b k *s"], Bool[Tensor, " b"]]]:
        """From x. If weights are `varied`, products take differences, and the end is checked."""
        coarse = _Coarse(system, boxes)
        b, apply = system.right, system.apply_to_differences if varied else system.apply

        def precondition(r: Tensor) -> Tensor:
            """``z = Pᵀ M⁻¹ r + Q r`` with M the diagonal and ``Pᵀ = I - Q A``."""
            scaled = r / system.diagonal
            return scaled + coarse.correct(r - apply(scaled))

        # numbers: the steps of the generalized two-level method there
        x += coarse.correct(b - apply(x))  # 2: V_start = Q b + Pᵀ x
        r = b - apply(x)  # 2
        z = precondition(r)  # 3
        p = z.clone()  # 3
        rz = _dot(r, z)
        target = self.rtol**2 * _dot(b, precondition(b)).amax(1, keepdim=True).expand_as(rz)
        while True:
            for _ in range(self.stride):
                active = rz > target
                w = apply(p)  # 5
                alpha = torch.where(active, rz / _dot(p, w), 0)  # 6
                x.addcmul_(alpha, p)  # 7
                r.addcmul_(alpha, w, value=-1)  # 8
                z = precondition(r)  # 9
                rz_next = torch.where(active, _dot(r, z), rz)
                beta = torch.where(active, rz_next / rz, 0)  # 10
                p.mul_(beta).add_(z)  # 11
                rz = rz_next
            done = (rz <= target).flatten(1).all(1)
            if varied and done.all():
                r = b - apply(x)
                z = precondition(r)
                right = z.abs().flatten(2).amax(2).view_as(rz) <= LARGEST_ERROR
                if not right.all():
                    p, rz = z.clone(), _dot(r, z)
                    target = torch.where(right, target, 1e-4 * rz)
                    done &= right.flatten(1).all(1)
            yield x + coarse.correct(b - apply(x)), done
            if done.all():
                return


def _boxes(size: tuple[int, ...], block: int) -> Array:
    """The box of `block` pixels a side in which each pixel lies."""
    counts = tuple(-(-n // block) for n in size)
    boxes: Array = np.ravel_multi_index(tuple(axis // block for axis in np.indices(size)), counts)
    return boxes.ravel()


def _dot(a: Float[Tensor, "b k *s"], b: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *ones"]:
    """The scalar product of each class of each image."""
    return (a * b).flatten(2).sum(2).view(*a.shape[:2], *[1] * (a.ndim - 2))


class _Coarse:
    """The coarse systems ``E = Zᵀ A Z``, factorized: Z ``[n aggregates]`` is one at the pixels of each aggregate."""

    def __init__(self, system: System, boxes: Array) -> None:
        edges = system.affinity.edges()
        first, second = edges.first.cpu().numpy(), edges.second.cpu().numpy()
        ground = system.right.sum(1)  # what ties each pixel to predictions and seeds, which sum to one
        self.members: list[Tensor] = []
        """The aggregate of each pixel, by image; pixels that are not free belong to one more."""
        self.factors: list[tuple[Factors, int] | None] = []
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
            hold = np.bincount(member, ground[number].flatten().cpu().numpy(), count + 1)[:count]
            ends = member[first[crossing]], member[second[crossing]]
            aggregates = Equations(np.arange(count), np.arange(count), *ends, weight[crossing], hold[:, None])
            self.factors.append((factorize(aggregates)[0], count) if count else None)
            self.members.append(torch.from_numpy(member).to(system.free.device))

    def correct(self, residual: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
        """``Q r = Z E⁻¹ Zᵀ r``."""
        result = torch.zeros_like(residual)
        for values, member, own, out in zip(residual, self.members, self.factors, result, strict=True):
            if own is None:
                continue
            factors, count = own
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
