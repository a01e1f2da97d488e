"""The linear systems of random walkers, and how they are solved: by elimination or by conjugate gradients."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu
from torch import Tensor

from selflabel.affinity.protocol import SparseAffinity
from selflabel.kernels import available as compiled

Array = NDArray[Any]

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


@dataclass(frozen=True)
class Direct:
    """Elimination pixel by pixel on the CPU, once an image for all classes.

    With Numba (the extra `fast`), in the order of nested dissection where pairs reach at most four pixels along each
    axis: exact to double precision, however much the weights vary, and in 0.7 GB a megapixel. Without, and for other
    pairs, sparse LU (SuperLU, minimum-degree order) of the grounded system. Time and memory grow as n^1.5 and n log n
    pixels in 2-D, as n² and n^1.33 in 3-D, where `ConjugateGradients` is the choice beyond small volumes.
    """

    def solve(
        self, system: System, start: Float[Tensor, "b k *s"]
    ) -> Iterator[tuple[Float[Tensor, "b k *s"], Bool[Tensor, " b"]]]:
        """Yield once; the start does not matter."""
        solution = _eliminated(system) if compiled() else None
        if solution is None:
            solution = _factorized(system.grounded())
        yield solution, torch.ones(len(solution), dtype=torch.bool, device=solution.device)


def _eliminated(system: System) -> Float[Tensor, "b k *s"] | None:
    """By nested dissection; None where pairs reach too far for it."""
    from selflabel.kernels.compile import in_parallel, shares
    from selflabel.kernels.dissection import grid
    from selflabel.kernels.elimination import absorb
    from selflabel.kernels.layout import by_pixel, empty_by_pixel, rows

    edges = system.affinity.edges()
    first, second = edges.first.cpu().numpy(), edges.second.cpu().numpy()
    pixels = grid(tuple(system.right.shape[2:]), first, second)
    if pixels is None:
        return None
    weight = (system.scale * edges.weight.double()).cpu().numpy()
    free = system.free.flatten(1).cpu().numpy()
    right = by_pixel(system.right.cpu())
    solution = empty_by_pixel(right).zero_()
    within, across = shares(len(free))
    in_parallel(
        [
            partial(absorb, pixels, first, second, *image, within)
            for image in zip(weight, free, rows(right), rows(solution), strict=True)
        ],
        across,
    )
    return solution.to(system.right.device)


def _factorized(system: System) -> Float[Tensor, "b k *s"]:
    """By SuperLU."""
    solution = torch.zeros_like(system.right)
    edges = system.affinity.edges()
    first, second = edges.first.cpu().numpy(), edges.second.cpu().numpy()
    for number in range(len(solution)):
        free = system.free[number].flatten().cpu().numpy()
        pixels = np.flatnonzero(free)
        right = system.right[number].flatten(1).cpu().numpy()[:, pixels]
        needed = np.flatnonzero(right.any(1))  # the others are 0
        if not len(needed):
            continue
        inner = np.flatnonzero(free[first] & free[second])
        place = np.cumsum(free) - 1
        weight = -system.scale * edges.weight[number].double().cpu().numpy()[inner]
        rows, columns = place[first[inner]], place[second[inner]]
        diagonal = system.diagonal[number].flatten().cpu().numpy()[pixels]
        here = np.arange(len(pixels))
        matrix = coo_array(
            (
                np.concatenate([weight, weight, diagonal]),
                (np.concatenate([rows, columns, here]), np.concatenate([columns, rows, here])),
            ),
            shape=(len(pixels), len(pixels)),
        ).tocsc()
        full = np.zeros((solution.shape[1], len(free)))
        full[np.ix_(needed, pixels)] = _factorize(matrix).solve(np.ascontiguousarray(right[needed].T)).T
        solution[number] = torch.from_numpy(full).view(solution.shape[1:]).to(solution.device)
    return solution


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


STRONG = 0.03
"""Edges of at least this share of their ends' degrees (geometric mean) hold an aggregate together."""


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
            self.factors.append(_factorize(matrix) if count else None)
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


def _factorize(matrix: Any) -> Any:
    return splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
