"""The permutohedral lattice in Triton: the vertices, weights and sums of `TorchLattice`, all columns of a row at once.

The tables between the blurs are those of `TorchLattice`, and some vertices more, which add nothing.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from selflabel.affinity.filters.permutohedral import blur_taps, diagonal_factors, gain, key_strides
from selflabel.affinity.filters.protocol import NOT_FINITE, Addition, Call, check_values
from selflabel.kernels.gpu import lattice as kernels
from selflabel.kernels.gpu import simplices, vertices
from selflabel.kernels.gpu.launch import padded

PIECE = 64
"""Entries that are summed one after the other, at most."""

SECTOR = 8
"""Columns of 32 bytes, which is what memory is read in: parts of tables have whole ones."""


@dataclass(frozen=True, eq=False)
class TritonLattice:
    """The lattice on a GPU. Images share one table of vertices. The same bytes in every run: all sums are in order."""

    batch: int
    pixels: int
    entries: simplices.Entries
    weight: Float[Tensor, "b n corners"]
    neighbors: tuple[Int[Tensor, "taps _"], ...]
    """The blurs in turn: for each row the row before them at each tap, -1 if there is none."""
    taps: Float[Tensor, " taps"]

    @classmethod
    @torch.no_grad()
    def build(cls, features: Float[Tensor, "b n d"], variance: float, radius: int) -> "TritonLattice":
        """From float32 features of the right shape.

        Raises `ValueError` if they are not finite, a vertex has no 64-bit key, or the corners of all pixels have no
        32-bit numbers. Waits for the device about d times.
        """
        batch, n, d = features.shape
        if batch * n * (d + 1) >= 2**31:
            raise ValueError(
                f"expected pixels x (dimensions + 1) below 2^31 on a GPU, got {batch} x {n} pixels in {d} "
                f"dimensions: filter fewer images at a time"
            )
        features = features.contiguous()
        constants = _constants(variance, radius, d, features.device)
        low, high = torch.aminmax(features, dim=1)
        scale, shear = math.sqrt(variance), (math.sqrt(1 + d) - 1) / d
        t, ends, numbers = simplices.positions(features, (low + high) / 2, scale, shear, 2 * radius)
        found = ends.tolist()
        if not all(map(math.isfinite, found)):
            raise ValueError(NOT_FINITE)
        _, _, image = key_strides([int(x) for x in found[:d]], [int(x) for x in found[d:]], radius, batch)
        kind = torch.int32 if batch * image < 2**30 else torch.int64  # sorted and searched faster
        root = math.sqrt(gain(variance, d, blur_taps(variance, radius)))
        keys, weight = simplices.simplices(t, numbers, constants.factors, root, kind)
        entries = simplices.entries(keys, weight, PIECE)
        steps = tuple(numbers[d : 2 * d + 1].unbind())
        return cls(batch, n, entries, weight, _blurs(entries.table, steps, radius), constants.taps)

    @property
    def vertices(self) -> int:
        """The number of vertices around pixels, in all images."""
        return len(self.entries.table)

    @torch.no_grad()
    def apply(self, values: Float[Tensor, "b k n"]) -> Float[Tensor, "b k n"]:
        """``K values``. Cost O(k n d). Raises `ValueError` for another shape or type than at build."""
        check_values(values, self.batch, self.pixels, torch.float32)
        result = torch.empty_like(values, memory_format=torch.contiguous_format)
        self._filter(Addition(values, None, 1.0, result, replaces=True))
        return result

    @torch.no_grad()
    def add_scaled(
        self,
        values: Float[Tensor, "b k n"],
        scale: Float[Tensor, "_ 1 n"] | None,
        factor: float,
        to: Float[Tensor, "b k n"],
    ) -> None:
        """``to += factor · diag(scale) K diag(scale) values``, with no further pass over the pixels."""
        check_values(values, self.batch, self.pixels, torch.float32)
        self._filter(Addition(values, scale, factor, to))

    def scratch(self, classes: int) -> int:
        """Numbers of memory, in float32, in which so many classes are filtered at once: two tables."""
        return sum(self._halves) * padded(classes)

    def prepared(self, addition: Addition, scratch: Tensor) -> list[Call]:
        """The calls that do this, in order; as many classes at once as the scratch memory has room for.

        Raises `ValueError` if that is less than for one, and as `apply`.
        """
        check_values(addition.values, self.batch, self.pixels, torch.float32)
        if len(scratch) < self.scratch(1):
            raise ValueError(f"expected scratch memory of {self.scratch(1)} numbers, got {len(scratch)}")
        return self._calls(addition, scratch)

    def _filter(self, addition: Addition) -> None:
        values = addition.values
        scratch = values.new_empty(self.scratch(values.shape[1]))
        for call in self._calls(addition._replace(values=values.contiguous()), scratch):
            call()

    def _calls(self, addition: Addition, scratch: Tensor) -> list[Call]:
        values, scale, factor, to, replaces = addition
        calls, classes = list[Call](), values.shape[1]
        room = max(len(scratch) // sum(self._halves) // SECTOR * SECTOR, padded(1))
        for first in range(0, classes, room):
            part = kernels.Columns(first, min(room, classes - first))
            tables = self._tables(scratch, padded(part.number))
            pixels, blurred = tables[0], tables[-1]
            calls.append(kernels.rows(values, scale, pixels.view(self.batch, self.pixels, -1), part))
            calls += kernels.splat(pixels, self.entries, tables[1])
            for before, after, neighbors in zip(tables[1:], tables[2:], self.neighbors, strict=False):
                calls.append(kernels.blur(before, neighbors, self.taps, after))
            calls.append(
                kernels.slice_rows(
                    blurred, self._vertex, self.weight, scale, factor, to, part, adds=not replaces
                )
            )
        return calls

    def _tables(self, scratch: Tensor, width: int) -> list[Tensor]:
        """Those of the `_counts`, by turns in the second and the first half of the scratch memory."""
        first, second = (rows * width for rows in self._halves)
        halves = scratch[first:][:second].view(-1, width), scratch[:first].view(-1, width)
        return [halves[number % 2][:count] for number, count in enumerate(self._counts)]

    @cached_property
    def _halves(self) -> tuple[int, int]:
        """Rows of the two halves of the scratch memory."""
        return max(self._counts[1::2]), max(self._counts[::2])

    @property
    def _counts(self) -> tuple[int, ...]:
        """Rows of the tables: pixels, pieces of vertices, and vertices after each blur."""
        return self.batch * self.pixels, len(self.entries.rows), *(each.shape[1] for each in self.neighbors)

    @property
    def _vertex(self) -> Tensor:
        return self.entries.vertex.view(self.weight.shape)

    def degree(self) -> Float[Tensor, "b n"]:
        """``K 1``, computed once."""
        return self._degree

    @cached_property
    def _degree(self) -> Tensor:
        return self.apply(self.weight.new_ones(self.batch, 1, self.pixels))[:, 0]


def _blurs(table: Tensor, steps: tuple[Tensor, ...], radius: int) -> tuple[Tensor, ...]:
    """As `lattice_torch.blurs`: half-way from each end, and join.

    Only the last table from the front is pruned, the largest: to the vertices that meet one from the back.
    """
    last = len(steps)
    half = last // 2
    tables, neighbors = {0: table, last: table}, {}
    for number in range(max(half, last - 1 - half)):
        forth, back = number, last - 1 - number
        spreads = {}
        if back > half:
            spreads[back] = vertices.Spread.of(tables[back + 1], steps[back], radius)
        if forth < half - 1:
            spreads[forth] = vertices.Spread.of(tables[forth], steps[forth], radius)
        if spreads:
            counts = torch.stack([spread.count for spread in spreads.values()]).tolist()
            for (step, spread), count in zip(spreads.items(), counts, strict=True):
                made, neighbors[step] = spread.written(count, forth=step < half)
                tables[step + 1 if step < half else step] = made
    meeting = tables[half + 1], steps[half]
    spread = vertices.Spread.of(tables[half - 1], steps[half - 1], radius, meeting)
    tables[half], neighbors[half - 1] = spread.written(int(spread.count), forth=True)
    neighbors[half] = vertices.nearest(tables[half], tables[half + 1], steps[half], radius)
    return tuple(neighbors[step] for step in range(last))


@dataclass(frozen=True, eq=False)
class _Constants:
    taps: Tensor
    factors: Tensor


@lru_cache(maxsize=16)
def _constants(variance: float, radius: int, d: int, device: torch.device) -> _Constants:
    """On the device, kept: to copy them there is to wait."""
    taps, corners = blur_taps(variance, radius), d + 1
    own = diagonal_factors(taps, d)
    factors = torch.zeros(corners, 1 << (corners - 1).bit_length())
    for i in range(corners):
        for j in range(corners):
            factors[i, j] = own[abs(i - j)] / (1 if i == j else 2)
    return _Constants(torch.tensor(taps[:0:-1] + taps).to(device), factors.to(device))
