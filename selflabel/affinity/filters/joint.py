"""All lattices of an image side by side, as one: what mean field filters with."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from selflabel.affinity.filters.lattice_cpu import CompiledLattice, ImageLattice
from selflabel.affinity.filters.weighted import ScaledFilter
from selflabel.kernels.cpu import mean_field as loops
from selflabel.kernels.cpu.rows import Incidence
from selflabel.kernels.memory import Array
from selflabel.kernels.threads import parallel_for, run_parallel, split_range

NO_SCALE = np.ones(1, np.float32)
"""Scale 1: filters without normalization."""

PRODUCT_ROWS = 4096
"""Rows of tables whose products are summed at a time, whatever the number of threads."""


@dataclass(frozen=True, eq=False)
class JointFilter:
    """All lattices of an image side by side: ``W = Σ_m weight_m P_m B_m P_m'`` as one ``P B P'``."""

    lattices: tuple[ImageLattice, ...]
    weights: tuple[float, ...]
    incidence: Incidence
    """P by rows, with places in a table for the vertices of all lattices."""

    @classmethod
    def of(
        cls, filters: tuple[ScaledFilter, ...], image: int, width: int, pixels: Array, threads: int
    ) -> "JointFilter":
        """With tables of this width, and rows of P for these pixels; scales of the pixels become part of P."""
        lattices, scales = [], []
        for scaled in filters:
            assert isinstance(scaled.filter, CompiledLattice), "checked by `supports`"
            lattices.append(scaled.filter.of(image))
            own = scaled.scale
            scales.append(NO_SCALE if own is None else own[image % len(own), 0].numpy())
        corners = [len(lattice.incidence.corners) for lattice in lattices]
        numbers = width * sum(lattice.rows for lattice in lattices)
        shape = len(pixels), sum(corners)
        place = np.empty(shape, np.int32 if numbers < 2**31 else np.int64)
        weight = np.empty(shape, np.float32)
        column, before = 0, 0
        for lattice, scale, count in zip(lattices, scales, corners, strict=True):
            columns = slice(column, column + count)
            to = Incidence.of(place[:, columns], weight[:, columns])
            given = lattice.incidence, scale, pixels, before, width, to
            parallel_for(len(pixels), threads, partial(loops.join, *given))
            column, before = columns.stop, before + lattice.rows
        weights = tuple(scaled.weight for scaled in filters)
        return cls(tuple(lattices), weights, Incidence.of(place, weight))

    @property
    def rows(self) -> int:
        """Rows of a table for all lattices."""
        return sum(lattice.rows for lattice in self.lattices)

    def blur(self, table: Array, factor: float, to: Array, threads: int) -> tuple[float, float]:
        """Write ``factor · B table``; returns ``y·W y`` and ``1·W 1`` of the labels y in the table."""
        first = 0
        for lattice, weight in zip(self.lattices, self.weights, strict=True):
            own = slice(first, first + lattice.rows)
            lattice.blur(table[own], factor * weight, to[own], threads)
            first += lattice.rows
        parts = split_range(len(table), -(-len(table) // PRODUCT_ROWS))
        tasks = [partial(loops.products, table, to, *part) for part in parts]
        alike, degree = np.sum(run_parallel(tasks, threads), axis=0)
        scale = 1 / factor if factor else 0.0
        return float(scale * alike), float(scale * degree)
