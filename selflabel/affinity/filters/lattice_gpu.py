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
from selflabel.affinity.filters.protocol import NOT_FINITE, check_values
from selflabel.kernels.gpu import lattice as kernels
from selflabel.kernels.gpu import simplices, vertices
from selflabel.kernels.gpu.launch import padded

PIECE = 64
"""Entries that are summed one after the other, at most."""


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
        table = self._blurred(values, None)
        kernels.slice_rows(table, self._vertex, self.weight, None, result)
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
        table = self._blurred(values, scale)
        kernels.slice_rows(table, self._vertex, self.weight, scale, to, factor)

    def _blurred(self, values: Tensor, scale: Tensor | None) -> Tensor:
        entries, width = self.entries, padded(values.shape[1])
        rows = values.new_empty(self.batch, self.pixels, width)
        kernels.rows(values.contiguous(), scale, rows)
        x = values.new_empty(len(entries.rows), width)
        kernels.splat(rows.view(-1, width), entries, x)
        for neighbors in self.neighbors:
            before, x = x, values.new_empty(neighbors.shape[1], width)
            kernels.blur(before, neighbors, self.taps, x)
        return x

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
