"""Gaussian elimination on the CPU: exact solutions, by nested dissection or by sparse LU."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.sparse import coo_array
from scipy.sparse.linalg import splu
from torch import Tensor

from selflabel.kernels.backend import Backend, Routine, backend
from selflabel.numerics.linear.system import System


@dataclass(frozen=True)
class Elimination:
    """Gaussian elimination on the CPU, once an image for all classes.

    With Numba (the extra `fast`), in the order of nested dissection where pairs reach at most four pixels along each
    axis: exact to double precision, however much the weights vary, and in 0.7 GB a megapixel. Without, and for other
    pairs, sparse LU (SuperLU, minimum-degree order) of the grounded system. Time and memory grow as n^1.5 and n log n
    pixels in 2-D, as n² and n^1.33 in 3-D, where `ConjugateGradients` is the choice beyond small volumes.
    """

    def solve(
        self, system: System, start: Float[Tensor, "b k *s"]
    ) -> Iterator[tuple[Float[Tensor, "b k *s"], Bool[Tensor, " b"]]]:
        """Yield once; the start has no effect."""
        kernels = backend(Routine.ELIMINATION, torch.device("cpu"), system.right.dtype)
        solution = _eliminated(system) if kernels is Backend.CPU else None
        if solution is None:
            solution = factorized(system.grounded())
        yield solution, torch.ones(len(solution), dtype=torch.bool, device=solution.device)


def _eliminated(system: System) -> Float[Tensor, "b k *s"] | None:
    """The solution by nested dissection; None if pairs reach too far for it."""
    from selflabel.kernels.cpu.dissection import grid
    from selflabel.kernels.cpu.elimination import absorb
    from selflabel.kernels.cpu.layout import channels_last, empty_channels_last, rows
    from selflabel.kernels.threads import run_parallel, split_threads

    edges = system.affinity.edges()
    first, second = edges.first.cpu().numpy(), edges.second.cpu().numpy()
    pixels = grid(tuple(system.right.shape[2:]), first, second)
    if pixels is None:
        return None
    weight = (system.scale * edges.weight.double()).cpu().numpy()
    free = system.free.flatten(1).cpu().numpy()
    right = channels_last(system.right.cpu())
    solution = empty_channels_last(right).zero_()
    within, across = split_threads(len(free))
    run_parallel(
        [
            partial(absorb, pixels, first, second, *image, within)
            for image in zip(weight, free, rows(right), rows(solution), strict=True)
        ],
        across,
    )
    return solution.to(system.right.device)


def factorized(system: System) -> Float[Tensor, "b k *s"]:
    """The solution by SuperLU."""
    solution = torch.zeros_like(system.right)
    edges = system.affinity.edges()
    first, second = edges.first.cpu().numpy(), edges.second.cpu().numpy()
    for number in range(len(solution)):
        free = system.free[number].flatten().cpu().numpy()
        pixels = np.flatnonzero(free)
        right = system.right[number].flatten(1).cpu().numpy()[:, pixels]
        needed = np.flatnonzero(right.any(1))  # other classes are 0
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
        full[np.ix_(needed, pixels)] = factorize(matrix).solve(np.ascontiguousarray(right[needed].T)).T
        solution[number] = torch.from_numpy(full).view(solution.shape[1:]).to(solution.device)
    return solution


def factorize(matrix: Any) -> Any:
    """The factors of a sparse symmetric positive definite matrix; their `solve` takes right sides ``[n k]``."""
    return splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
