"""Mean field on compiled lattices: one pass over the pixels an update, and only over those that still move."""

import math
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.dense import DenseAffinity
from selflabel.affinity.filters.joint import JointFilter
from selflabel.affinity.filters.lattice_cpu import CompiledLattice
from selflabel.affinity.filters.weighted import ScaledFilter
from selflabel.kernels.cpu import mean_field
from selflabel.kernels.cpu.compile import Array
from selflabel.kernels.cpu.vectors import LANES
from selflabel.kernels.memory import scratch
from selflabel.kernels.threads import num_threads, parallel_for, run_parallel, split_range
from selflabel.labels import LOG_FLOOR
from selflabel.terms import FLOOR

SETTLED = np.float32(1e-3)
"""Labels that a sweep has changed by less are left alone by the next."""

REVISIT = 4
"""Every so many sweeps all pixels are visited."""

NEGLIGIBLE = np.float32(13.8)
"""Classes whose label can never exceed ``exp(-13.8)``, 1e-6, are left out after the first sweep."""

REACH = 20.0
"""Classes compete for a pixel if their unaries are that near to its largest one."""

MOST_COUPLING = 1e20
"""Of the unaries; beyond it they come near what marks lanes without a class."""

TILE = 16
"""Pixels a side of what is visited together."""

SAMPLE = 8192
"""Pixels that are looked at to see which classes compete."""


class MeanFieldSweeps:
    """Mean field on one image: sweeps of ``y ← softmax(unary + factor · W y)``, each one lowers

        ``Σ y·ln y - y·unary`` over the free pixels ``+ factor / 2 · Σ_ij W_ij (1 - y_i·y_j)``

    if W is positive semidefinite. A sweep slices, takes the softmax and splats in one pass over the pixels; what is
    kept from one to the next are tables of the vertices, not images. It visits those pixels whose labels the last
    one has changed by more than `SETTLED`, and every `REVISIT` sweeps all that are free: to leave some where they
    are lowers the energy as well (the pairwise term still lies below its tangent). After the first sweep, classes
    that cannot get `NEGLIGIBLE` mass at a pixel are left out there.
    """

    def __init__(
        self,
        filters: tuple[ScaledFilter, ...],
        image: int,
        labels: Array,
        probs: Array,
        free: Array,
        allowed: Array,
        coupling: float,
        factor: float,
        threads: int,
    ) -> None:
        """`labels` and `probs` ``[k n]``, unaries are ``coupling · ln probs``; `free` has the shape of the image.

        Rows of what is kept are pixels in the order of `tiles`, their lanes classes in that of `competitors`. The
        answer depends on how many threads torch has, not on how many of them work on this image.
        """
        classes, pixels = labels.shape
        width = -(-classes // LANES) * LANES
        self.threads, self.factor, self.given, self.tiled = threads, factor, labels, tiles(free.shape)
        self.order = competitors(probs, allowed, coupling)
        self.joint = JointFilter.of(filters, image, width, self.tiled, threads)
        self.is_free = free.reshape(-1)[self.tiled]
        self.free = np.flatnonzero(self.is_free).astype(np.int32)
        self.allowed = np.zeros(width, np.float32)
        self.allowed[:classes] = allowed[self.order]
        self.spans = np.tile(np.array([0, width], np.int16), (pixels, 1))
        self.starts = np.arange(pixels, dtype=np.int32) * (width // LANES)
        self.unary = np.empty(pixels * width, np.float32)
        self.table = np.zeros((self.joint.rows, width), np.float32)
        self.blurred = np.empty_like(self.table)
        is_start = labels.ctypes.data == probs.ctypes.data and labels.strides == probs.strides
        given = (
            *(probs, probs[:0] if is_start else labels, self.order, self.tiled),
            *(self.allowed, np.float32(coupling), np.float32(FLOOR), *self.joint.entries),
            *(self.is_free, self.spans, self.unary),
        )
        self.own = self._onto_table(partial(mean_field.prepare, *given), pixels)
        self.labels, self.cost = np.empty(2 * pixels * width, np.float32), np.empty((pixels, 2), np.float32)
        self.sides = np.zeros(pixels, np.uint8)
        self.pixels = self.moved = self.free
        self.age, self.sweeps = 0, 0

    def _onto_table(self, run: Callable[[Array, int, int], float], count: int) -> float:
        """``run(table, first, last)`` over `range(count)`, a table a thread; adds them to that of the labels.

        Not at once: sums of thousands of labels in single precision would swallow small changes of each.
        """
        pieces = split_range(count, num_threads())
        with scratch((len(pieces), *self.table.shape), np.float32) as tables:
            tables[:] = 0
            tasks = [partial(run, table, *part) for table, part in zip(tables, pieces, strict=True)]
            result = sum(run_parallel(tasks, self.threads))
            for table in tables:
                parallel_for(len(table), self.threads, partial(mean_field.add, table, self.table))
        return float(result)

    def energy(self) -> float:
        """Of the labels, and the tangent for the next sweep: one blur."""
        alike, degree = self.joint.blur(self.table, self.factor, self.blurred, self.threads)
        return self.own + self.factor / 2 * (degree - alike)

    def sweep(self) -> bool:
        """Moves the labels, and says whether at all free pixels. The energy of these has been asked for."""
        everywhere = self.age % REVISIT == 0
        self.age, self.sweeps = self.age + 1, self.sweeps + 1
        if self.sweeps == 1:
            self._begin()
            return True
        pixels = self.pixels = self.free if everywhere else self.moved
        moved = np.empty(len(pixels), np.bool_)
        given = (
            *(self.labels, self.unary, self.allowed, *self.joint.entries, self.blurred),
            *(np.float32(LOG_FLOOR), SETTLED, self.spans, self.starts, self.sides, pixels, self.cost, moved),
        )
        self.own += self._onto_table(partial(mean_field.sweep, *given), len(pixels))
        self.moved = pixels[moved]
        return everywhere

    def _begin(self) -> None:
        given = (
            *(self.given, self.order, self.tiled, self.is_free, self.allowed, *self.joint.entries),
            *(self.blurred, np.float32(LOG_FLOOR), NEGLIGIBLE),
            *(self.unary, self.labels, self.spans, self.starts, self.cost),
        )
        self.table[:] = 0
        self.own = self._onto_table(partial(mean_field.begin, *given), len(self.tiled))

    def revisit(self) -> None:
        """Let the next sweep visit all pixels."""
        self.age = 0

    def read(self, to: Array) -> None:
        """The labels ``[k n]`` as they are now."""
        if self.sweeps == 0:
            to[:] = self.given
            return
        given = self.labels, self.spans, self.starts, self.sides, self.order, self.tiled, to
        parallel_for(len(self.tiled), self.threads, partial(mean_field.read_labels, *given))

    def undo(self) -> None:
        """The labels before the last sweep. There can be no other one after it."""
        self.sweeps -= 1
        self.sides[self.pixels] ^= 1


def supports(affinity: DenseAffinity, labels: Float[Tensor, "b k *s"], coupling: float) -> bool:
    """Whether all of the affinity's filters are compiled, labels float32 as they are, and unaries far above `LEAST`."""
    compiled = all(isinstance(scaled.filter, CompiledLattice) for scaled in affinity.filters)
    return compiled and labels.dtype == affinity.dtype == torch.float32 and coupling < MOST_COUPLING


def competitors(probs: Array, allowed: Array, coupling: float) -> Array:
    """An order of the classes in which those that compete for the same pixels are near each other.

    By the second eigenvector of their graph (Fiedler), an edge's weight being the pixels that both compete for.
    """
    order = np.arange(len(probs))
    if len(order) <= LANES:
        return order
    sample = probs[:, :: -(-probs.shape[1] // SAMPLE)]
    unary = coupling * np.log(np.maximum(sample, FLOOR))
    unary[allowed == 0] = -np.inf
    near = (unary >= unary.max(0) - REACH).astype(np.float64)
    together = near @ near.T + 1.0
    root = np.sqrt(together.sum(1))
    _, vectors = np.linalg.eigh(together / np.outer(root, root))
    return order[np.argsort(vectors[:, -2] / root, kind="stable")]


@lru_cache(maxsize=4)
def tiles(size: tuple[int, ...]) -> Array:
    """The pixels of an image, tile by tile: those of a tile meet in the same vertices."""
    rows = np.arange(math.prod(size), dtype=np.int32).reshape(-1, size[-1])
    whole = size[-1] // TILE * TILE
    found = []
    for start in range(0, len(rows), TILE):
        strip = rows[start : start + TILE]
        tiled = strip[:, :whole].reshape(len(strip), -1, TILE).swapaxes(0, 1)
        found += [tiled.ravel(), strip[:, whole:].ravel()]
    return np.concatenate(found)
