"""The tables of the permutohedral lattice between two blurs in Triton.

A table is sorted, so that a vertex is found in it by halving. The tables that a blur passes are made without sorting:
the place of a vertex in a union of shifted tables is the sum of its places in each, counting only the vertices that no
later shift gives again.
"""

from dataclasses import dataclass

import torch
import triton.language as tl
from torch import Tensor

from selflabel.kernels.gpu.launch import BLOCK, Kernel, blocks, helper


@helper
def _at(shift, size, row):
    return row.to(tl.int64) + (tl.full([], 0, tl.int64) + size) * shift


@helper
def _lower_bound(table, size, wanted, active, rounds):
    low = tl.zeros_like(wanted).to(tl.int32)
    high = low + size
    for _ in range(rounds):
        middle = (low + high) // 2
        wide = active & (low < high)
        right = wide & (tl.load(table + middle, mask=wide, other=0) < wanted)
        low = tl.where(right, middle + 1, low)
        high = tl.where(right, high, middle)
    known = active & (low < size)
    return low, known & (tl.load(table + low, mask=known, other=0) == wanted)


@helper
def _step(table, step):
    return tl.load(step).to(table.dtype.element_ty)


@Kernel
def _search(table, size, step, rounds, found, RADIUS: tl.constexpr, BLOCK: tl.constexpr):
    row, shift = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1)
    inside = row < size
    wanted = tl.load(table + row, mask=inside, other=0) + (shift - 2 * RADIUS) * _step(table, step)
    place, there = _lower_bound(table, size, wanted, inside, rounds)
    tl.store(found + _at(shift, size, row), 2 * place + there.to(tl.int32), mask=inside)


@Kernel
def _distinct(found, size, flags, sums, RADIUS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < size
    tl.store(sums + row, 0, mask=row == 0)
    gap = tl.zeros([BLOCK], tl.int32) + (2 * RADIUS + 1)
    for back in tl.static_range(2 * RADIUS):
        there = tl.load(found + _at(4 * RADIUS - back, size, row), mask=inside, other=0) % 2 == 1
        gap = tl.where(there, 2 * RADIUS - back, gap)
    for shift in tl.static_range(2 * RADIUS + 1):
        tl.store(flags + _at(shift, size, row), (gap > shift).to(tl.int32), mask=inside)


@Kernel
def _meeting(
    flags, table, size, step, other, other_size, other_step, rounds, RADIUS: tl.constexpr, BLOCK: tl.constexpr
):
    row, shift = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1)
    inside = row < size
    at = _at(shift, size, row)
    new = tl.load(flags + at, mask=inside, other=0) > 0
    key = tl.load(table + row, mask=new, other=0) + (shift - RADIUS) * _step(table, step)
    stride, alone = _step(table, other_step), new
    for tap in tl.static_range(2 * RADIUS + 1):
        wanted = key + (tap - RADIUS) * stride
        _, there = _lower_bound(other, other_size, wanted, alone, rounds)
        alone = alone & (there == 0)
    tl.store(flags + at, 0, mask=alone)


@Kernel
def _merge(
    table,
    size,
    step,
    found,
    sums,
    to,
    neighbors,
    count,
    FORTH: tl.constexpr,
    RADIUS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, shift = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1)
    inside = row < size
    at = _at(shift, size, row)
    flag = tl.load(sums + at + 1, mask=inside, other=0) - tl.load(sums + at, mask=inside, other=0)
    new = inside & (flag > 0)
    needed = new if FORTH else inside
    place = tl.zeros([BLOCK], tl.int32)
    for tap in tl.static_range(2 * RADIUS + 1):
        lower = tl.load(found + _at(shift - tap + 2 * RADIUS, size, row), mask=needed, other=0) // 2
        start = sums + (tl.full([], 0, tl.int64) + size) * tap
        place += tl.load(start + lower, mask=needed, other=0) - tl.load(start)
    key = tl.load(table + row, mask=new, other=0) + (shift - RADIUS) * _step(table, step)
    tl.store(to + place, key, mask=new)
    if FORTH:
        for tap in tl.static_range(2 * RADIUS + 1):
            hit = tl.load(found + _at(shift + tap, size, row), mask=new, other=0)
            tl.store(neighbors + _at(tap, count, place), tl.where(hit % 2 == 1, hit // 2, -1), mask=new)
    else:
        tl.store(neighbors + at, place, mask=inside)


@Kernel
def _nearest(source, size, target, count, step, rounds, neighbors, RADIUS: tl.constexpr, BLOCK: tl.constexpr):
    row, tap = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1)
    inside = row < count
    wanted = tl.load(target + row, mask=inside, other=0) + (tap - RADIUS) * _step(source, step)
    place, there = _lower_bound(source, size, wanted, inside, rounds)
    tl.store(neighbors + _at(tap, count, row), tl.where(there, place, -1), mask=inside)


@dataclass(frozen=True, eq=False)
class Spread:
    """The vertices up to `radius` steps from those of a sorted table, not yet written: their number is not yet known.

    `found`: for each shift by -2 radius, ..., 2 radius steps and each vertex its place in the table, doubled, and one
    more if it is there. `sums`: how many vertices are new up to each shift by -radius, ..., radius and each vertex.
    """

    table: Tensor
    step: Tensor
    radius: int
    found: Tensor
    sums: Tensor

    @classmethod
    def of(
        cls, table: Tensor, step: Tensor, radius: int, meeting: tuple[Tensor, Tensor] | None = None
    ) -> "Spread":
        """`step`: the stride of the lattice vector. `meeting`: only vertices at most `radius` steps of its stride from
        one of its table."""
        size, taps = len(table), 2 * radius + 1
        grid = blocks(size, BLOCK)
        found = table.new_empty(4 * radius + 1, size, dtype=torch.int32)
        flags = table.new_empty(taps * size, dtype=torch.int32)
        _search((grid, 4 * radius + 1), table, size, step, size.bit_length(), found, radius, BLOCK)
        sums = flags.new_empty(taps * size + 1)
        _distinct((grid,), found, size, flags, sums, radius, BLOCK)
        if meeting is not None:
            other, stride = meeting
            rounds = len(other).bit_length()
            _meeting((grid, taps), flags, table, size, step, other, len(other), stride, rounds, radius, BLOCK)
        torch.cumsum(flags, 0, dtype=torch.int32, out=sums[1:])
        return cls(table, step, radius, found, sums)

    @property
    def count(self) -> Tensor:
        """How many vertices there are, on the device."""
        return self.sums[-1]

    def written(self, count: int, forth: bool) -> tuple[Tensor, Tensor]:
        """The sorted table of all vertices, and the neighbors of a blur ``[taps rows]``, -1 for those not there.

        The blur goes from the old table to the new one (`forth`), or from the new one to the old one.
        """
        size, taps = len(self.table), 2 * self.radius + 1
        to = self.table.new_empty(count)
        neighbors = self.found.new_empty(taps, count if forth else size)
        _merge(
            (blocks(size, BLOCK), taps),
            self.table,
            size,
            self.step,
            self.found,
            self.sums,
            to,
            neighbors,
            count,
            forth,
            self.radius,
            BLOCK,
        )
        return to, neighbors


def nearest(source: Tensor, target: Tensor, step: Tensor, radius: int) -> Tensor:
    """The places in `source` of the vertices -radius, ..., radius steps from those of `target`: ``[taps rows]``."""
    taps = 2 * radius + 1
    neighbors = source.new_empty(taps, len(target), dtype=torch.int32)
    _nearest(
        (blocks(len(target), BLOCK), taps),
        source,
        len(source),
        target,
        len(target),
        step,
        len(source).bit_length(),
        neighbors,
        radius,
        BLOCK,
    )
    return neighbors
