"""All lattices of an image side by side, as one: what mean field filters with."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from selflabel.affinity.filters.lattice_cpu import ImageLattice
from selflabel.affinity.filters.weighted import ScaledFilter
from selflabel.kernels.cpu import mean_field as loops
from selflabel.kernels.cpu.rows import counted
from selflabel.kernels.memory import Array
from selflabel.kernels.threads import num_threads, parallel_for, run_parallel, split_range

ONE = np.ones(1, np.float32)
"""The scale of pixels that have none."""


@dataclass(frozen=True, eq=False)
class JointFilter:
    """All lattices of an image side by side: ``W = Σ_m weight_m P_m B_m P_m'`` as one ``P B P'``.

    P by rows: where rows of a table of the vertices begin, and weights.
    """

    lattices: tuple[ImageLattice, ...]
    weights: tuple[float, ...]
    place: Array
    weight: Array

    @classmethod
    def of(
        cls, filters: tuple[ScaledFilter, ...], image: int, width: int, pixels: Array, threads: int
    ) -> "JointFilter":
        """With tables of this width, and rows of P for these pixels; scales of the pixels become part of P."""
        lattices = tuple(scaled.filter.of(image) for scaled in filters)  # type: ignore[attr-defined]
        corners = [lattice.vertex.shape[1] for lattice in lattices]
        numbers = width * sum(lattice.rows for lattice in lattices)
        shape = len(pixels), sum(corners)
        place = np.empty(shape, np.int32 if numbers < 2**31 else np.int64)
        weight = np.empty(shape, np.float32)
        column, before = 0, 0
        for scaled, lattice, count in zip(filters, lattices, corners, strict=True):
            scale = ONE if scaled.scale is None else scaled.scale[image % len(scaled.scale), 0].numpy()
            own = slice(column, column + count)
            given = lattice.vertex, lattice.weight, scale, pixels, before, width
            parallel_for(len(pixels), threads, partial(loops.join, *given, place[:, own], weight[:, own]))
            column, before = own.stop, before + lattice.rows
        return cls(lattices, tuple(scaled.weight for scaled in filters), place, weight)

    @property
    def entries(self) -> tuple[Array, Array, tuple[int, ...]]:
        """P as kernels take it."""
        return self.place, self.weight, counted(self.place)

    @property
    def rows(self) -> int:
        """Of a table for all lattices."""
        return sum(lattice.rows for lattice in self.lattices)

    def blur(self, table: Array, factor: float, to: Array, threads: int) -> tuple[float, float]:
        """``factor · B table``; and ``y·W y`` and ``1·W 1`` of the labels in the table."""
        first = 0
        for lattice, weight in zip(self.lattices, self.weights, strict=True):
            own = slice(first, first + lattice.rows)
            lattice.blur(table[own], factor * weight, to[own], threads)
            first += lattice.rows
        tasks = [partial(loops.products, table, to, *part) for part in split_range(len(table), num_threads())]
        alike, degree = np.sum(run_parallel(tasks, threads), axis=0)
        scale = 1 / factor if factor else 0.0
        return float(scale * alike), float(scale * degree)
