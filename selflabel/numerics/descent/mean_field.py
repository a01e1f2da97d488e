"""Mean field on compiled lattices: one pass over the pixels an update, and only over those that still move."""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import compress

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selflabel.affinity.dense import DenseAffinity
from selflabel.affinity.filters.joint import JointFilter
from selflabel.affinity.filters.lattice_cpu import CompiledLattice
from selflabel.affinity.filters.weighted import ScaledFilter
from selflabel.kernels.cpu import lattice, mean_field
from selflabel.kernels.cpu.compile import Array
from selflabel.kernels.cpu.rows import Incidence
from selflabel.kernels.cpu.vectors import LANES
from selflabel.kernels.memory import empty, scratch, working_array
from selflabel.kernels.threads import parallel_for, run_parallel, split_for_sums, split_threads
from selflabel.labels import LOG_FLOOR, channels_first
from selflabel.numerics.descent.mean_field_torch import (
    FAR,
    REVISIT_SWEEPS,
    RISE,
    SETTLED_DISTANCE,
    is_swept,
)
from selflabel.problem import Problem
from selflabel.terms import FLOOR

NEGLIGIBLE_NATS = 13.8
"""Classes whose label can never exceed ``exp(-13.8)``, 1e-6, are left out after the first sweep."""

COMPETITION_NATS = 20.0
"""Classes compete for a pixel if their unaries are within this distance of the largest one."""

TILE_PIXELS = 16
"""A side of the squares whose pixels are visited together."""

SAMPLE_PIXELS = 8192
"""The pixels from which the order of the classes is found."""


def supports(problem: Problem) -> bool:
    """True for a problem that `is_swept` whose lattices are all compiled."""
    affinity = problem.affinity
    return (
        is_swept(problem)
        and isinstance(affinity, DenseAffinity)
        and all(isinstance(scaled.filter, CompiledLattice) for scaled in affinity.filters)
    )


class CompiledMeanField:
    """Mean field on the images of a problem that `supports` accepts, side by side.

    `start_energies` and `energies` of the labels at the start and now, in float64; `done`: images that have converged,
    which are swept no more. `swept`: those that still are.
    """

    def __init__(self, problem: Problem, labels: Float[Tensor, "b k *s"], rtol: float) -> None:
        """From these labels. An image has converged if a sweep of all pixels gains less than `rtol` of its energy."""
        affinity, energy = problem.affinity, problem.energy
        assert isinstance(affinity, DenseAffinity), "checked by `supports`"
        self.shape, self.rtol, self.temperature = tuple(labels.shape), rtol, energy.entropy_weight
        self.done = torch.zeros(len(labels), dtype=torch.bool)
        self.swept = ~self.done
        threads, self.across = split_threads(len(labels))
        weights = energy.coupling_weight / self.temperature, 2 * energy.pairwise_weight / self.temperature
        probs = channels_first(problem.probs).flatten(2).numpy()
        # the usual start, whose logarithms are those of the unaries
        is_prediction = torch.equal(labels, problem.probs)
        starts = [None] * len(probs) if is_prediction else channels_first(labels).flatten(2).numpy()
        every = torch.ones(labels.shape[:2], dtype=torch.bool)
        allowed = (every if problem.classes is None else problem.classes).numpy()
        given = zip(probs, starts, problem.free[:, 0].numpy(), allowed, strict=True)
        tasks = [
            partial(MeanFieldSweeps, affinity.filters, number, *each, *weights, threads)
            for number, each in enumerate(given)
        ]
        self.images: list[MeanFieldSweeps] = run_parallel(tasks, self.across)
        self.energies = torch.zeros(len(labels), dtype=torch.float64)
        _, self.energies = self._of_each(lambda image: (True, image.energy()))
        self.start_energies = self.energies

    def sweep(self) -> Bool[Tensor, " b"]:
        """One step of the images that are `swept`; returns those whose energy it would raise.

        For these it is undone, and they are swept no more.
        """
        # sweep and energy of an image at once, while its tables are in a cache
        everywhere, trial = self._of_each(lambda image: (image.sweep(), image.energy()))
        risen = self.swept & (trial > self.energies + RISE * self.energies.abs())
        for image in compress(self.images, risen):
            image.undo()
        accepted = self.swept & ~risen
        gain = self.energies - trial
        resting = accepted & (gain <= self.rtol * self.energies.abs())
        # pixels that were left out may still move; and far from the end, those that have settled move again
        for image in compress(self.images, resting | (accepted & (gain > FAR * self.energies.abs()))):
            image.revisit()
        self.done = self.done | (resting & everywhere)
        self.energies = torch.where(accepted, trial, self.energies)
        self.swept = accepted & ~self.done
        return risen

    def labels(self) -> Float[Tensor, "b k *s"]:
        """The labels as they are now."""
        result = empty(self.shape, torch.float32)
        targets = zip(self.images, result.flatten(2).numpy(), strict=True)
        run_parallel([partial(image.read, own) for image, own in targets], self.across)
        return result

    def _of_each(
        self, move: Callable[["MeanFieldSweeps"], tuple[bool, float]]
    ) -> tuple[Bool[Tensor, " b"], Float[Tensor, " b"]]:
        """`move` of the images that are `swept`: did it visit all pixels, and the energy after it."""
        found = run_parallel(
            [partial(move, image) for image in compress(self.images, self.swept)], self.across
        )
        everywhere, energies = torch.ones_like(self.done), self.energies.clone()
        everywhere[self.swept] = torch.tensor([where for where, _ in found], dtype=torch.bool)
        energies[self.swept] = self.temperature * torch.tensor([own for _, own in found], dtype=torch.float64)
        return everywhere, energies


class MeanFieldSweeps:
    """Mean field on one image: sweeps of ``y ← softmax(unary + factor · W y)``, where ``unary = coupling · ln probs``.

    Each lowers ``Σ y·ln y - y·unary`` over the free pixels ``+ factor / 2 · Σ_ij W_ij (1 - y_i·y_j)`` if W is positive
    semidefinite. A sweep slices, takes the softmax and splats in one pass over the pixels; between sweeps tables of
    the vertices are kept, not images. A sweep visits the pixels whose labels the last one has moved further than
    `SETTLED_DISTANCE`, and every `REVISIT_SWEEPS` sweeps all that are free: to leave some where they are lowers the
    energy as well (the pairwise term still lies below its tangent). After the first sweep, classes that cannot get
    `negligible` mass at a pixel are left out there.
    """

    def __init__(
        self,
        filters: tuple[ScaledFilter, ...],
        image: int,
        probs: Array,
        start: Array | None,
        free: Array,
        allowed: Array,
        coupling: float,
        factor: float,
        threads: int,
        negligible: float = NEGLIGIBLE_NATS,
    ) -> None:
        """`probs` and `start` are ``[k n]`` (None: the probabilities); `free` has the shape of the image.

        Rows of arrays are pixels in the order of `tiles`, their lanes classes in that of `competitors`. The answer
        does not depend on the number of threads.
        """
        classes, pixels = probs.shape
        width = -(-classes // LANES) * LANES
        tiled, order = tiles(free.shape), competitors(probs, allowed, coupling)
        self.threads, self.factor, self.start = threads, factor, probs if start is None else start
        self.joint = JointFilter.of(filters, image, width, tiled, threads)
        numbers = coupling, FLOOR, LOG_FLOOR, SETTLED_DISTANCE, negligible
        self.constants = mean_field.Constants(*map(np.float32, numbers))
        is_free = free.reshape(-1)[tiled]
        self.free = np.flatnonzero(is_free).astype(np.int32)
        self.rows = mean_field.LabelRows(
            order=order,
            pixels=tiled,
            allowed=np.pad(allowed[order].astype(np.float32), (0, width - classes)),
            free=is_free,
            spans=np.tile(np.array([0, width], np.int16), (pixels, 1)),
            starts=np.arange(pixels, dtype=np.int32) * (width // LANES),
            sides=np.zeros(pixels, np.uint8),
            moved=np.zeros(pixels, np.bool_),
            unary=working_array(self, (pixels * width,), np.float32),
            labels=working_array(self, (2 * pixels * width,), np.float32),
            cost=np.empty((pixels, 2), np.float32),
        )
        self.table, self.blurred = (
            working_array(self, (self.joint.rows, width), np.float32) for _ in range(2)
        )
        self.table[:] = 0
        given = probs, probs[:0] if start is None else start
        self.own = self._onto_table(partial(mean_field.prepare, *self._records, *given), pixels)
        self.pixels = self.moved = self.free
        self.age, self.sweeps = 0, 0

    @property
    def _records(self) -> tuple[mean_field.LabelRows, Incidence, mean_field.Constants]:
        return self.rows, self.joint.incidence, self.constants

    def _onto_table(self, run: Callable[[Array, int, int], float], count: int) -> float:
        """``run(table, first, last)`` over `range(count)`, in a table of zeros each of the `split_for_sums`.

        All are added to `self.table` then. Added to it one by one, small changes would be lost in sums of thousands of
        labels in single precision.
        """
        pieces = split_for_sums(count)
        with scratch((len(pieces), *self.table.shape), np.float32) as tables:
            tasks = [
                partial(_from_zero, run, table, *part) for table, part in zip(tables, pieces, strict=True)
            ]
            result = sum(run_parallel(tasks, self.threads))
            parallel_for(len(self.table), self.threads, partial(lattice.add, tables, self.table))
        return float(result)

    def energy(self) -> float:
        """The energy of the labels; also blurs their table for the next sweep."""
        alike, degree = self.joint.blur(self.table, self.factor, self.blurred, self.threads)
        return self.own + self.factor / 2 * (degree - alike)

    def sweep(self) -> bool:
        """Update the labels, after `energy` of the old ones; True if at all free pixels."""
        everywhere = self.age % REVISIT_SWEEPS == 0
        self.age, self.sweeps = self.age + 1, self.sweeps + 1
        if self.sweeps == 1:
            self._sweep_first()
            return True
        pixels = self.pixels = self.free if everywhere else self.moved
        run = partial(mean_field.sweep, *self._records, pixels, self.blurred)
        self.own += self._onto_table(run, len(pixels))
        self.moved = pixels[self.rows.moved[pixels]]
        return everywhere

    def _sweep_first(self) -> None:
        self.table[:] = 0
        run = partial(mean_field.first_sweep, *self._records, self.start, self.blurred)
        self.own = self._onto_table(run, len(self.rows.pixels))

    def revisit(self) -> None:
        """Let the next sweep visit all pixels."""
        self.age = 0

    def read(self, to: Array) -> None:
        """Write the labels ``[k n]`` as they are now."""
        if self.sweeps == 0:
            to[:] = self.start
            return
        run = partial(mean_field.read_labels, self.rows, to)
        parallel_for(len(self.rows.pixels), self.threads, run)

    def undo(self) -> None:
        """Restore the labels from before the last sweep; only one sweep can be undone, and none can follow."""
        self.sweeps -= 1
        self.rows.sides[self.pixels] ^= 1


def _from_zero(run: Callable[[Array, int, int], float], table: Array, first: int, last: int) -> float:
    table[:] = 0
    return run(table, first, last)


def competitors(probs: Array, allowed: Array, coupling: float) -> Array:
    """An order of the classes in which classes that compete for the same pixels are near each other.

    That of the second eigenvector (Fiedler) of their graph; an edge weighs the number of pixels both compete for.
    """
    order = np.arange(len(probs))
    if len(order) <= LANES:
        return order
    sample = probs[:, :: -(-probs.shape[1] // SAMPLE_PIXELS)]
    unary = coupling * np.log(np.maximum(sample, FLOOR))
    unary[allowed == 0] = -np.inf
    near = (unary >= unary.max(0) - COMPETITION_NATS).astype(np.float64)
    together = near @ near.T + 1.0
    root = np.sqrt(together.sum(1))
    _, vectors = np.linalg.eigh(together / np.outer(root, root))
    return order[np.argsort(vectors[:, -2] / root, kind="stable")]


@lru_cache(maxsize=4)
def tiles(size: tuple[int, ...]) -> Array:
    """The numbers of an image's pixels, tile by tile: pixels of a tile share vertices."""
    rows = np.arange(math.prod(size), dtype=np.int32).reshape(-1, size[-1])
    whole = size[-1] // TILE_PIXELS * TILE_PIXELS
    found = []
    for start in range(0, len(rows), TILE_PIXELS):
        strip = rows[start : start + TILE_PIXELS]
        tiled = strip[:, :whole].reshape(len(strip), -1, TILE_PIXELS).swapaxes(0, 1)
        found += [tiled.ravel(), strip[:, whole:].ravel()]
    return np.concatenate(found)
