"""The permutohedral lattice, compiled: the vertices, weights and sums of `TorchLattice`, arranged differently.

Every image has a table of its own, the vertices of pixels are found by hashing, those of the blur by merging sorted
keys, and pixels are splatted one after the other, into one table for each of the `split_for_sums`.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.filters.permutohedral import blur_taps, diagonal_factors, gain, key_strides
from selflabel.affinity.filters.protocol import check_values
from selflabel.kernels.cpu import lattice as loops
from selflabel.kernels.cpu.compile import Array
from selflabel.kernels.cpu.hashing import numbered
from selflabel.kernels.cpu.layout import channels_last, rows, summed
from selflabel.kernels.cpu.rows import Incidence, padded
from selflabel.kernels.memory import scratch
from selflabel.kernels.threads import (
    parallel_for,
    run_parallel,
    split_for_sums,
    split_range,
    split_threads,
)


@dataclass(frozen=True, eq=False)
class ImageLattice:
    """The lattice of one image, ``P B P'``.

    Tables have a row for every vertex, then one of zeros: the number of that row stands for a neighbor that is missing.
    """

    incidence: Incidence
    """``P``, n pixels by rows: vertices and weights."""
    vertices: int
    """The number of vertices around pixels."""
    neighbors: tuple[Array, ...]
    """The blurs in turn: for each row the row before them at each tap."""
    taps: tuple[float, ...]

    @classmethod
    def build(cls, features: Array, variance: float, radius: int, threads: int) -> "ImageLattice":
        """Raises `ValueError` where keys would overflow."""
        (n, d), dtype = features.shape, features.dtype.type
        taps = blur_taps(variance, radius)
        factors = np.array(diagonal_factors(taps, d), dtype)
        middle = sum(loops.ends(features)) / 2
        t = np.empty_like(features)
        cells = np.tile(np.array([np.inf, -np.inf])[:, None], (threads, 1, d))
        scale, shear = dtype(math.sqrt(variance)), dtype((math.sqrt(1 + d) - 1) / d)
        tasks = [
            partial(loops.positions, features, middle, scale, shear, t, own, *part)
            for own, part in zip(cells, split_range(n, threads), strict=True)
        ]
        run_parallel(tasks, threads)
        low, high = ([int(x) for x in ends] for ends in (cells[:, 0].min(0), cells[:, 1].max(0)))
        strides, least, _ = key_strides(low, high, radius, 1)
        vertex, weight = np.empty((n, d + 1), np.int32), np.empty((n, d + 1), dtype)
        with scratch((n, d + 1), np.int64) as keys:
            root = dtype(math.sqrt(gain(variance, d, taps)))
            given = t, np.array([least, strides]), factors, root, keys, weight
            parallel_for(n, threads, partial(loops.simplices, *given))
            table = _numbered(keys, vertex, threads)
        neighbors = _blurs(table, [*strides, -sum(strides)], radius, threads)
        return cls(Incidence.of(vertex, weight), len(table), neighbors, tuple(taps[:0:-1] + taps))

    def add(self, x: Array, scale: Array, factor: float, to: Array, threads: int) -> None:
        """``to += factor · diag(scale) K diag(scale) x``, pixels by rows."""
        shape, parts = (self.rows, padded(x.shape[1])), split_for_sums(len(x))
        with scratch((len(parts), *shape), x.dtype) as tables, scratch(shape, x.dtype) as blurred:
            pieces = zip(tables, parts, strict=True)
            tasks = [partial(loops.splat, x, scale, self.incidence, own, *part) for own, part in pieces]
            run_parallel(tasks, threads)
            parallel_for(self.rows, threads, partial(loops.add, tables[1:], tables[0]))
            self.blur(tables[0], factor, blurred, threads)
            parallel_for(len(x), threads, partial(loops.add_sliced, blurred, scale, self.incidence, to))

    @property
    def rows(self) -> int:
        """Rows of a table."""
        return self.vertices + 1

    def blur(self, table: Array, factor: float, to: Array, threads: int) -> None:
        """Blur along all lattice vectors, times the factor; the last row becomes zero again."""
        most, dtype = max(map(len, self.neighbors)) + 1, table.dtype.type
        shape = (most, table.shape[1])
        with scratch(shape, table.dtype) as one, scratch(shape, table.dtype) as other:
            for number, index in enumerate(self.neighbors):
                final = number == len(self.neighbors) - 1
                following = to if final else (one, other)[number % 2]
                taps = tuple(dtype(factor * tap if final else tap) for tap in self.taps)
                parallel_for(len(index), threads, partial(loops.blur, table, index, taps, following))
                following[len(index)] = 0
                table = following


def _numbered(keys: Array, vertex: Array, threads: int) -> Array:
    """The distinct keys, sorted; writes the place of each key among them to `vertex`."""
    ranges = split_range(len(keys), threads)
    found = run_parallel([partial(numbered, keys, vertex, *part) for part in ranges], threads)
    table = np.unique(np.concatenate(found))
    places = [np.searchsorted(table, own).astype(np.int32) for own in found]
    run_parallel(
        [partial(loops.renumber, vertex, own, *part) for own, part in zip(places, ranges, strict=True)],
        threads,
    )
    return table


def _blurs(table: Array, steps: list[int], radius: int, threads: int) -> tuple[Array, ...]:
    """As `lattice_torch.blurs`: half-way from each end, join, and drop the vertices that did not meet."""
    last = len(steps)
    half = last // 2
    vertices = {0: table, last: table}

    def forth() -> None:
        for step in range(half):
            vertices[step + 1] = loops.spread(vertices[step], steps[step], radius)

    def back() -> None:
        for step in range(last - 1, half, -1):
            vertices[step] = loops.spread(vertices[step + 1], steps[step], radius)

    result: dict[int, Array] = {}

    def join(step: int) -> None:
        given = vertices[step], vertices[step + 1], steps[step], radius
        result[step], used, reached = loops.neighbors_of(*given)
        if step > 0:
            vertices[step] = vertices[step][used]
        vertices[step + 1] = vertices[step + 1][reached]

    def down() -> None:
        for step in range(half - 1, -1, -1):
            join(step)

    def up() -> None:
        for step in range(half + 1, last):
            join(step)

    run_parallel([forth, back], threads)
    join(half)
    run_parallel([down, up], threads)
    return tuple(result[step] for step in range(last))


@dataclass(frozen=True, eq=False)
class CompiledLattice:
    """`TorchLattice` on the CPU: the same filter, to rounding, and an `AddingFilter`.

    Images of a batch are filtered side by side, and give the same bytes as alone, with any number of threads.
    """

    images: tuple[ImageLattice, ...]
    batch: int | None
    """Images that are filtered at a time; None: any number, all with the first lattice."""
    pixels: int
    dtype: torch.dtype

    @classmethod
    def build(cls, features: Float[Tensor, "b n d"], variance: float, radius: int) -> "CompiledLattice":
        """From checked features; raises `ValueError` if a vertex has no 64-bit key."""
        threads, across = split_threads(len(features))
        arrays = features.contiguous().numpy()
        tasks = [partial(ImageLattice.build, image, variance, radius, threads) for image in arrays]
        batch, pixels, _ = features.shape
        return cls(tuple(run_parallel(tasks, across)), batch, pixels, features.dtype)

    def for_any_batch(self) -> "CompiledLattice":
        """The same filter for any number of images, all with the first lattice."""
        return replace(self, batch=None)

    @property
    def vertices(self) -> int:
        """The number of vertices around pixels, in all images."""
        return sum(image.vertices for image in self.images)

    @torch.no_grad()
    def apply(self, values: Float[Tensor, "b k n"]) -> Float[Tensor, "b k n"]:
        """``K values``; in memory pixel by pixel if the values are."""
        return summed(values, [lambda source, to: self.add(source, None, 1.0, to)])

    @torch.no_grad()
    def add(
        self,
        values: Float[Tensor, "b k n"],
        scale: Float[Tensor, "_ 1 n"] | None,
        factor: float,
        to: Float[Tensor, "b k n"],
    ) -> None:
        """``to += factor · diag(scale) K diag(scale) values``; `to` lies pixel by pixel in memory."""
        check_values(values, self.batch, self.pixels, self.dtype)
        threads, across = split_threads(len(values))
        x, out = rows(channels_last(values)), rows(to)
        scales = torch.ones(1, 1, 1, dtype=self.dtype) if scale is None else scale
        tasks = [
            partial(self.of(i).add, x[i], scales[i % len(scales), 0].numpy(), factor, out[i], threads)
            for i in range(len(x))
        ]
        run_parallel(tasks, across)

    def of(self, number: int) -> "ImageLattice":
        """The lattice of an image."""
        return self.images[number % len(self.images)]

    def degree(self) -> Float[Tensor, "b n"]:
        """``K 1``, computed once."""
        return self._degree

    @cached_property
    def _degree(self) -> Tensor:
        return self.apply(torch.ones(len(self.images), 1, self.pixels, dtype=self.dtype))[:, 0]
