"""Gaussian elimination on the CPU: exact solutions, by nested dissection or by sparse LU."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selflabel.kernels.backend import Backend, Routine, backend
from selflabel.kernels.memory import Array
from selflabel.numerics.linear.clusters import Equations, equations
from selflabel.numerics.linear.factors import factorize
from selflabel.numerics.linear.system import System

AT_REST = 1e-8
"""Error of factors, or change of labels by a refinement, from which on they are exact."""

REFINEMENTS = 20
"""Most refinements; most images take none."""


@dataclass(frozen=True)
class Elimination:
    """Gaussian elimination on the CPU, once an image for all classes.

    With Numba (the extra `fast`), in the order of nested dissection where pairs reach at most four pixels along each
    axis: exact to double precision, however much the weights vary, and in 0.7 GB a megapixel. Without, and for other
    pairs, sparse LU (SuperLU, minimum-degree order; `factors`), with clusters as single unknowns (`clusters`), refined
    until labels change no more: as exact, but ten times slower, and more where weights vary by many orders of
    magnitude from pixel to pixel. Time and memory grow as n^1.5 and n log n pixels in 2-D, as n² and n^1.33 in 3-D,
    where `ConjugateGradients` is the choice beyond small volumes.
    """

    def solve(
        self, system: System, start: Float[Tensor, "b k *s"]
    ) -> Iterator[tuple[Float[Tensor, "b k *s"], Bool[Tensor, " b"]]]:
        """Yield once, or without end if an image fails; the start has no effect."""
        kernels = backend(Routine.ELIMINATION, torch.device("cpu"), system.right.dtype)
        solution = _eliminated(system) if kernels is Backend.CPU else None
        done = torch.ones(len(system.right), dtype=torch.bool, device=system.right.device)
        if solution is None:
            solution, done = factorized(system)
        yield solution, done
        while not done.all():  # to return would say that it has converged
            yield solution, done


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


def factorized(system: System) -> tuple[Float[Tensor, "b k *s"], Bool[Tensor, " b"]]:
    """The solution by SuperLU, and the images of which it is exact."""
    solution = torch.zeros_like(system.right)
    done = torch.ones(len(solution), dtype=torch.bool, device=solution.device)
    for number, own in enumerate(solution):
        given = equations(system, number)
        if not len(given.pixels):
            continue
        needed = np.flatnonzero(given.right.any(0))  # other classes are 0
        values, exact = _refined(replace(given, right=given.right[:, needed]))
        full = np.zeros((len(own), own[0].numel()))
        full[np.ix_(needed, given.pixels)] = values[given.node].T
        own.copy_(torch.from_numpy(full).view(own.shape))
        done[number] = exact
    return solution, done


def _refined(given: Equations) -> tuple[Array, bool]:
    """The solution ``[n k]`` by iterative refinement, and whether it has come to rest.

    Higham, Accuracy and Stability of Numerical Algorithms, 2002, Sec. 12.1. Residuals are exact, factors need not be.
    """
    values = np.zeros_like(given.right)
    if not (np.isfinite(given.weight).all() and np.isfinite(given.right).all()):
        return np.full_like(values, np.nan), True  # the driver reports the image
    factors, error = factorize(given)
    if error <= AT_REST:
        return factors.solve(given.right), True
    for _ in range(REFINEMENTS):
        change = factors.solve(given.residual(values))
        values += change
        if np.abs(change).max(initial=0) <= AT_REST:
            return values, True
    return values, False
