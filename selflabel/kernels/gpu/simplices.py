"""Simplices of the permutohedral lattice in Triton: vertices around each pixel, and pixels around each vertex."""

from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from selflabel.kernels.gpu.launch import BLOCK, Kernel, blocks

FARTHEST = tl.constexpr(1e15)
"""Beyond this a cell has no number."""

SIMPLICES = 128
"""Pixels of a program that sorts the coordinates of each."""

ENDS = 1024
"""Pixels of a program that finds the range of their cells."""


@Kernel
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


@Kernel
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


@Kernel
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


@Kernel
def _changes(ordered, to, count, BLOCK: tl.constexpr):
    entry = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = entry < count
    own = tl.load(ordered + entry, mask=inside, other=0)
    before = tl.load(ordered + entry - 1, mask=inside & (entry > 0), other=0)
    tl.store(to + entry, ((own != before) | (entry == 0)).to(tl.int32), mask=inside)


@Kernel
def _begins(number, begin, count, BLOCK: tl.constexpr):
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = entry < count
    own = tl.load(number + entry, mask=inside, other=0)
    before = tl.load(number + entry - 1, mask=inside & (entry > 0), other=0)
    tl.store(begin + own - 1, entry, mask=inside & (own != before))


@Kernel
def _pieces(number, begin, to, count, piece, BLOCK: tl.constexpr):
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = entry < count
    own = tl.load(number + entry, mask=inside, other=1)
    since = entry - tl.load(begin + own - 1, mask=inside, other=0)
    tl.store(to + entry, (since % piece == 0).to(tl.int32), mask=inside)


@Kernel
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
    rows,
    rest_vertex,
    count,
    vertices,
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
    key = tl.load(ordered + entry, mask=inside, other=0)
    first = inside & (own != before)
    tl.store(table + own - 1, key, mask=first)
    tl.store(first_piece + own - 1, own_piece - 1, mask=first)
    begins, rest = inside & (own_piece != piece_before), own_piece - own - 1
    tl.store(ends + own_piece - 1, entry, mask=begins)
    tl.store(rows + own_piece - 1, tl.where(first, own - 1, vertices + rest), mask=begins)
    tl.store(rest_vertex + rest, own - 1, mask=begins & (own == before))
    last = inside & (entry == count - 1)
    tl.store(first_piece + own, own_piece, mask=last)
    tl.store(ends + own_piece, entry + 1, mask=last)


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
    _positions((programs,), features, middle, t, low, high, pixels, every, scale, shear, d, ENDS)
    _numbering((1,), low, high, programs, reach, ends, numbers, d, ENDS)
    return t, ends, numbers


def simplices(
    t: Tensor, numbers: Tensor, factors: Tensor, root_gain: float, kind: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Keys and weights ``[b n corners]`` of the vertices around each pixel, as `kernels.cpu.lattice.simplices`.

    `factors`: the matrix of the quadratic form of the weights, ``[corners, width]``, its width a power of two.
    """
    batch, pixels, d = t.shape
    keys, weights = t.new_empty(batch, pixels, d + 1, dtype=kind), t.new_empty(batch, pixels, d + 1)
    _simplices(
        (blocks(batch * pixels, SIMPLICES),),
        t,
        numbers,
        factors,
        root_gain,
        keys,
        weights,
        pixels,
        batch * pixels,
        d,
        factors.shape[1],
        SIMPLICES,
    )
    return keys, weights


class Entries(NamedTuple):
    """P by columns, and its vertices: the pixels and weights of every vertex, by vertex and then by pixel.

    The entries of a vertex are cut into pieces of at most so many, so that no sum is long. The sums of first pieces go
    to the rows of their vertices, those of the rest to rows after all vertices, from where they are added.
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
    rows: Tensor
    """``[pieces]``, where the sum of each piece goes."""
    rest_vertex: Tensor
    """``[pieces - m]``, the vertex of each piece that is not its first."""


def entries(keys: Tensor, weights: Tensor, piece: int) -> Entries:
    """From keys and weights ``[b n corners]``. Waits once for the device, for the number of vertices."""
    count, corners = keys.numel(), keys.shape[2]
    ordered, place = keys.view(-1).sort(stable=True)
    begin, flags = (place.new_empty(count, dtype=torch.int32) for _ in range(2))
    grid = (blocks(count, BLOCK),)
    _changes(grid, ordered, flags, count, BLOCK)
    number = flags.cumsum(0, dtype=torch.int32)
    _begins(grid, number, begin, count, BLOCK)
    _pieces(grid, number, begin, flags, count, piece, BLOCK)
    own_piece = flags.cumsum(0, dtype=torch.int32)
    vertices, pieces = torch.stack([number[-1], own_piece[-1]]).tolist()
    found = Entries(
        table=keys.new_empty(vertices),
        vertex=torch.empty_like(flags),
        pixel=torch.empty_like(flags),
        weight=weights.new_empty(count),
        pieces=flags.new_empty(pieces + 1),
        first_piece=flags.new_empty(vertices + 1),
        rows=flags.new_empty(pieces),
        rest_vertex=flags.new_empty(pieces - vertices),
    )
    _entries(
        grid,
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
        found.rows,
        found.rest_vertex,
        count,
        vertices,
        corners,
        BLOCK,
    )
    return found
