"""The vertices of the permutohedral lattice in Triton: simplices of pixels, and the tables between two blurs.

A table is sorted, so that a vertex is found in it by halving. The tables that a blur passes are made without sorting:
the place of a vertex in a union of shifted tables is the sum of its places in each, counting only the vertices that no
later shift gives again.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from selflabel.kernels.gpu.launch import blocks, kernel_of, on_device

BLOCK = 256
"""Pixels or vertices of a program."""

FARTHEST = tl.constexpr(1e15)
"""Beyond this a cell has no number."""

SIMPLICES = 128
"""Pixels of a program that sorts the coordinates of each."""

ENDS = 1024
"""Pixels of a program that finds the range of their cells."""


@kernel_of("pixels", "every")
def _positions(
    features, middle, t, low, high, pixels, every, scale, shear, D: tl.constexpr, BLOCK: tl.constexpr
):
    program = tl.program_id(0)
    # beyond the last pixel the last one again, which changes no range
    pixel = tl.minimum(program * BLOCK + tl.arange(0, BLOCK), every - 1)
    first, image = pixel.to(tl.int64) * D, (pixel // pixels) * D
    total = tl.zeros([BLOCK], tl.float32)
    for j in tl.static_range(D):
        total += tl.load(features + first + j) - tl.load(middle + image + j)
    for j in tl.static_range(D):
        own = tl.load(features + first + j) - tl.load(middle + image + j)
        place = scale * (own + shear * total) + (j + 0.5) / D
        cell = tl.floor(place)
        tl.store(t + first + j, place)
        # nan becomes a range without end, which is refused
        tl.store(low + program * D + j, tl.min(tl.where(cell == cell, cell, float("-inf")), 0))
        tl.store(high + program * D + j, tl.max(cell, 0))


@kernel_of("programs", "reach")
def _numbering(low, high, programs, reach, ends, numbers, D: tl.constexpr, BLOCK: tl.constexpr):
    product, backward = tl.full([], 1, tl.int64), tl.full([], 0, tl.int64)
    for back in tl.static_range(D):
        j = D - 1 - back
        least, most = tl.full([BLOCK], float("inf"), tl.float32), tl.full([BLOCK], float("-inf"), tl.float32)
        for start in range(0, programs, BLOCK):
            at = start + tl.arange(0, BLOCK)
            least = tl.minimum(least, tl.load(low + at * D + j, mask=at < programs, other=float("inf")))
            most = tl.maximum(most, tl.load(high + at * D + j, mask=at < programs, other=float("-inf")))
        lowest, highest = tl.min(least, 0), tl.max(most, 0)
        tl.store(ends + j, lowest)
        tl.store(ends + D + j, highest)
        # a range without end is refused later
        lowest, highest = tl.maximum(lowest, -FARTHEST), tl.minimum(highest, FARTHEST)
        tl.store(numbers + j, lowest.to(tl.int64) - reach)
        tl.store(numbers + D + j, product)
        backward -= product
        product *= highest.to(tl.int64) - lowest.to(tl.int64) + 2 * reach + 2
    tl.store(numbers + 2 * D, backward)
    tl.store(numbers + 2 * D + 1, product)


@kernel_of("pixels", "every")
def _simplices(
    t,
    numbers,
    factors,
    root_gain,
    keys,
    weights,
    pixels,
    every,
    D: tl.constexpr,
    CORNERS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside, corner = pixel < every, tl.arange(0, CORNERS)
    first = pixel.to(tl.int64) * D
    base = (pixel // pixels).to(tl.int64) * tl.load(numbers + 2 * D + 1)
    key = tl.zeros([BLOCK, CORNERS], tl.int64)
    falling, before = tl.zeros([BLOCK, CORNERS], tl.float32), tl.zeros([BLOCK, CORNERS], tl.float32)
    for j in tl.static_range(D):
        place = tl.load(t + first + j, mask=inside, other=0.0)
        cell = tl.floor(place)
        part, stride = place - cell, tl.load(numbers + D + j)
        base += (cell.to(tl.int64) - tl.load(numbers + j)) * stride
        rank = tl.zeros([BLOCK], tl.int32)
        for i in tl.static_range(D):
            other = tl.load(t + first + i, mask=inside, other=0.0)
            other -= tl.floor(other)
            if i < j:
                rank += (other >= part).to(tl.int32)
            if i > j:
                rank += (other > part).to(tl.int32)
        key += tl.where(corner[None, :] > rank[:, None], stride, 0)
        falling += tl.where(corner[None, :] == rank[:, None], part[:, None], 0.0)
        before += tl.where(corner[None, :] == rank[:, None] + 1, part[:, None], 0.0)
    weight = tl.where(corner[None, :] == 0, 1.0, before) - falling
    weight = tl.where(corner[None, :] <= D, weight, 0.0)
    product = tl.zeros([BLOCK, CORNERS], tl.float32)
    for j in tl.static_range(D + 1):
        own = tl.sum(tl.where(corner[None, :] == j, weight, 0.0), 1)
        product += own[:, None] * tl.load(factors + j * CORNERS + corner)[None, :]
    ratio = tl.sum(weight * product, 1)
    weight *= (root_gain / tl.sqrt(tl.sqrt(ratio)))[:, None]
    at = pixel.to(tl.int64)[:, None] * (D + 1) + corner[None, :]
    there = inside[:, None] & (corner <= D)[None, :]
    tl.store(keys + at, (key + base[:, None]).to(keys.dtype.element_ty), mask=there)
    tl.store(weights + at, weight, mask=there)


@kernel_of("count")
def _changes(ordered, to, count, BLOCK: tl.constexpr):
    entry = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = entry < count
    own = tl.load(ordered + entry, mask=inside, other=0)
    before = tl.load(ordered + entry - 1, mask=inside & (entry > 0), other=0)
    tl.store(to + entry, ((own != before) | (entry == 0)).to(tl.int32), mask=inside)


@kernel_of("count")
def _begins(number, begin, count, BLOCK: tl.constexpr):
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = entry < count
    own = tl.load(number + entry, mask=inside, other=0)
    before = tl.load(number + entry - 1, mask=inside & (entry > 0), other=0)
    tl.store(begin + own - 1, entry, mask=inside & (own != before))


@kernel_of("count", "piece")
def _pieces(number, begin, to, count, piece, BLOCK: tl.constexpr):
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = entry < count
    own = tl.load(number + entry, mask=inside, other=1)
    since = entry - tl.load(begin + own - 1, mask=inside, other=0)
    tl.store(to + entry, (since % piece == 0).to(tl.int32), mask=inside)


@kernel_of("count")
def _entries(
    ordered,
    place,
    number,
    piece,
    weights,
    vertex,
    pixel,
    weight,
    table,
    first_piece,
    ends,
    count,
    CORNERS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = entry < count
    at = tl.load(place + entry, mask=inside, other=0)
    own = tl.load(number + entry, mask=inside, other=1)
    own_piece = tl.load(piece + entry, mask=inside, other=1)
    before = tl.load(number + entry - 1, mask=inside & (entry > 0), other=0)
    piece_before = tl.load(piece + entry - 1, mask=inside & (entry > 0), other=0)
    tl.store(vertex + at, own - 1, mask=inside)
    tl.store(pixel + entry, (at // CORNERS).to(tl.int32), mask=inside)
    tl.store(weight + entry, tl.load(weights + at, mask=inside, other=0.0), mask=inside)
    key = tl.load(ordered + entry, mask=inside, other=0).to(tl.int64)
    first = inside & (own != before)
    tl.store(table + own - 1, key, mask=first)
    tl.store(first_piece + own - 1, own_piece - 1, mask=first)
    tl.store(ends + own_piece - 1, entry, mask=inside & (own_piece != piece_before))
    last = inside & (entry == count - 1)
    tl.store(first_piece + own, own_piece, mask=last)
    tl.store(ends + own_piece, entry + 1, mask=last)


@kernel_of()
def _at(shift, size, row):
    return row.to(tl.int64) + (tl.zeros_like(row).to(tl.int64) + size) * shift


@kernel_of()
def _lower_bound(table, size, wanted, rounds):
    low = tl.zeros_like(wanted).to(tl.int32)
    high = low + size
    for _ in range(rounds):
        middle = (low + high) // 2
        wide = low < high
        right = wide & (tl.load(table + middle, mask=wide, other=0) < wanted)
        low = tl.where(right, middle + 1, low)
        high = tl.where(right, high, middle)
    there = tl.load(table + low, mask=low < size, other=0) == wanted
    return low, there & (low < size)


@kernel_of("size", "rounds")
def _search(table, size, step, rounds, found, RADIUS: tl.constexpr, BLOCK: tl.constexpr):
    row, shift = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1)
    inside = row < size
    wanted = tl.load(table + row, mask=inside, other=0) + (shift - 2 * RADIUS) * tl.load(step)
    place, there = _lower_bound(table, size, wanted, rounds)
    tl.store(found + _at(shift, size, row), 2 * place + there.to(tl.int32), mask=inside)


@kernel_of("size")
def _distinct(found, size, flags, RADIUS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < size
    gap = tl.zeros([BLOCK], tl.int32) + (2 * RADIUS + 1)
    for back in tl.static_range(2 * RADIUS):
        there = tl.load(found + _at(4 * RADIUS - back, size, row), mask=inside, other=0) % 2 == 1
        gap = tl.where(there, 2 * RADIUS - back, gap)
    for shift in tl.static_range(2 * RADIUS + 1):
        tl.store(flags + _at(shift, size, row), (gap > shift).to(tl.int32), mask=inside)


@kernel_of("size", "other_size", "rounds")
def _meeting(
    flags, table, size, step, other, other_size, other_step, rounds, RADIUS: tl.constexpr, BLOCK: tl.constexpr
):
    row, shift = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1)
    inside = row < size
    at = _at(shift, size, row)
    new = tl.load(flags + at, mask=inside, other=0)
    key = tl.load(table + row, mask=inside, other=0) + (shift - RADIUS) * tl.load(step)
    stride, met = tl.load(other_step), tl.zeros([BLOCK], tl.int32)
    for tap in tl.static_range(2 * RADIUS + 1):
        _, there = _lower_bound(other, other_size, key + (tap - RADIUS) * stride, rounds)
        met |= there.to(tl.int32)
    tl.store(flags + at, new & met, mask=inside)


@kernel_of("size")
def _merge(
    table,
    size,
    step,
    found,
    sums,
    to,
    neighbors,
    FORTH: tl.constexpr,
    RADIUS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, shift = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1)
    inside = row < size
    taps = 2 * RADIUS + 1
    place = tl.zeros([BLOCK], tl.int32)
    for tap in tl.static_range(2 * RADIUS + 1):
        lower = tl.load(found + _at(shift - tap + 2 * RADIUS, size, row), mask=inside, other=0) // 2
        start = _at(tap, size, tl.zeros_like(row))
        place += tl.load(sums + start + lower, mask=inside, other=0) - tl.load(
            sums + start, mask=inside, other=0
        )
    at = _at(shift, size, row)
    flag = tl.load(sums + at + 1, mask=inside, other=0) - tl.load(sums + at, mask=inside, other=0)
    new = inside & (flag > 0)
    key = tl.load(table + row, mask=inside, other=0) + (shift - RADIUS) * tl.load(step)
    tl.store(to + place, key, mask=new)
    if FORTH:
        for tap in tl.static_range(2 * RADIUS + 1):
            hit = tl.load(found + _at(shift + tap, size, row), mask=new, other=0)
            tl.store(
                neighbors + place.to(tl.int64) * taps + tap, tl.where(hit % 2 == 1, hit // 2, -1), mask=new
            )
    else:
        tl.store(neighbors + row.to(tl.int64) * taps + shift, place, mask=inside)


@kernel_of("size", "count", "rounds")
def _nearest(source, size, target, count, step, rounds, neighbors, RADIUS: tl.constexpr, BLOCK: tl.constexpr):
    row, tap = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1)
    inside = row < count
    wanted = tl.load(target + row, mask=inside, other=0) + (tap - RADIUS) * tl.load(step)
    place, there = _lower_bound(source, size, wanted, rounds)
    tl.store(neighbors + row.to(tl.int64) * (2 * RADIUS + 1) + tap, tl.where(there, place, -1), mask=inside)


def positions(
    features: Tensor, middle: Tensor, scale: float, shear: float, reach: int
) -> tuple[Tensor, Tensor, Tensor]:
    """``t = A f`` of features ``[b n d]`` less their middle ``[b d]``; the range of its cells; the numbering of keys.

    The range is ``[2 d]``, the least and the largest floors. The numbering: the least coordinates of vertices (`reach`
    below the range), the strides of the coordinates, that of ``-(1, ..., 1)``, and that of images.
    """
    batch, pixels, d = features.shape
    every = batch * pixels
    programs = blocks(every, ENDS)
    t = torch.empty_like(features)
    low, high = (features.new_empty(programs, d) for _ in range(2))
    ends, numbers = features.new_empty(2 * d), features.new_empty(2 * d + 2, dtype=torch.int64)
    with on_device(features):
        _positions[(programs,)](features, middle, t, low, high, pixels, every, scale, shear, D=d, BLOCK=ENDS)
        _numbering[(1,)](low, high, programs, reach, ends, numbers, D=d, BLOCK=ENDS)
    return t, ends, numbers


def simplices(
    t: Tensor, numbers: Tensor, factors: Tensor, root_gain: float, kind: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Keys and weights ``[b n corners]`` of the vertices around each pixel, as `kernels.cpu.lattice.simplices`.

    `factors`: the matrix of the quadratic form of the weights, ``[corners, width]``, its width a power of two.
    """
    batch, pixels, d = t.shape
    keys, weights = t.new_empty(batch, pixels, d + 1, dtype=kind), t.new_empty(batch, pixels, d + 1)
    with on_device(t):
        _simplices[(blocks(batch * pixels, SIMPLICES),)](
            t,
            numbers,
            factors,
            root_gain,
            keys,
            weights,
            pixels,
            batch * pixels,
            D=d,
            CORNERS=factors.shape[1],
            BLOCK=SIMPLICES,
        )
    return keys, weights


class Entries(NamedTuple):
    """P by columns, and its vertices: the pixels and weights of every vertex, by vertex and then by pixel.

    The entries of a vertex are cut into pieces of at most so many, so that no sum is long.
    """

    table: Tensor
    """``[m]``, the keys of the vertices, sorted."""
    vertex: Tensor
    """``[e]``, the vertex of each corner of each pixel."""
    pixel: Tensor
    """``[e]``, in the order of the vertices."""
    weight: Tensor
    """``[e]``, in the order of the vertices."""
    pieces: Tensor
    """``[pieces + 1]``, the entry at which each piece begins."""
    first_piece: Tensor
    """``[m + 1]``, the piece at which each vertex begins."""


def entries(keys: Tensor, weights: Tensor, piece: int) -> Entries:
    """From keys and weights ``[b n corners]``. Waits once for the device, for the number of vertices."""
    count, corners = keys.numel(), keys.shape[2]
    ordered, place = keys.view(-1).sort(stable=True)
    begin, flags = (place.new_empty(count, dtype=torch.int32) for _ in range(2))
    grid = (blocks(count, BLOCK),)
    with on_device(keys):
        _changes[grid](ordered, flags, count, BLOCK=BLOCK)
        number = flags.cumsum(0, dtype=torch.int32)
        _begins[grid](number, begin, count, BLOCK=BLOCK)
        _pieces[grid](number, begin, flags, count, piece, BLOCK=BLOCK)
        own_piece = flags.cumsum(0, dtype=torch.int32)
        vertices, pieces = torch.stack([number[-1], own_piece[-1]]).tolist()
        found = Entries(
            table=place.new_empty(vertices),
            vertex=torch.empty_like(flags),
            pixel=torch.empty_like(flags),
            weight=weights.new_empty(count),
            pieces=flags.new_empty(pieces + 1),
            first_piece=flags.new_empty(vertices + 1),
        )
        _entries[grid](
            ordered,
            place,
            number,
            own_piece,
            weights,
            found.vertex,
            found.pixel,
            found.weight,
            found.table,
            found.first_piece,
            found.pieces,
            count,
            CORNERS=corners,
            BLOCK=BLOCK,
        )
    return found


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
        with on_device(table):
            _search[(grid, 4 * radius + 1)](
                table, size, step, size.bit_length(), found, RADIUS=radius, BLOCK=BLOCK
            )
            _distinct[(grid,)](found, size, flags, RADIUS=radius, BLOCK=BLOCK)
            if meeting is not None:
                other, stride = meeting
                rounds = len(other).bit_length()
                _meeting[(grid, taps)](
                    flags, table, size, step, other, len(other), stride, rounds, RADIUS=radius, BLOCK=BLOCK
                )
        sums = flags.new_zeros(taps * size + 1)
        torch.cumsum(flags, 0, dtype=torch.int32, out=sums[1:])
        return cls(table, step, radius, found, sums)

    @property
    def count(self) -> Tensor:
        """How many vertices there are, on the device."""
        return self.sums[-1]

    def written(self, count: int, forth: bool) -> tuple[Tensor, Tensor]:
        """The sorted table of all vertices, and the neighbors of a blur ``[rows taps]``, -1 for those not there.

        The blur goes from the old table to the new one (`forth`), or from the new one to the old one.
        """
        size, taps = len(self.table), 2 * self.radius + 1
        to = self.table.new_empty(count)
        neighbors = self.found.new_empty(count if forth else size, taps)
        with on_device(to):
            _merge[(blocks(size, BLOCK), taps)](
                self.table,
                size,
                self.step,
                self.found,
                self.sums,
                to,
                neighbors,
                FORTH=forth,
                RADIUS=self.radius,
                BLOCK=BLOCK,
            )
        return to, neighbors


def nearest(source: Tensor, target: Tensor, step: Tensor, radius: int) -> Tensor:
    """The places in `source` of the vertices -radius, ..., radius steps from those of `target`: ``[rows taps]``."""
    taps = 2 * radius + 1
    neighbors = source.new_empty(len(target), taps, dtype=torch.int32)
    with on_device(source):
        _nearest[(blocks(len(target), BLOCK), taps)](
            source,
            len(source),
            target,
            len(target),
            step,
            len(source).bit_length(),
            neighbors,
            RADIUS=radius,
            BLOCK=BLOCK,
        )
    return neighbors
