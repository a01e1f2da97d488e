"""The permutohedral lattice in Triton: splat, blur and slice of tables whose rows are vertices, its columns classes.

A row is `padded`: its columns are read in vectors, by neighboring threads. All sums have a fixed order.
"""

from functools import partial
from typing import NamedTuple

import triton.language as tl
from torch import Tensor

from selflabel.kernels.gpu.launch import Kernel, Launch, blocks, tile
from selflabel.kernels.gpu.simplices import Entries

VECTOR = 4
"""Columns that are read at once: the width of a table is given in these."""


@Kernel
def _rows(
    values,
    scale,
    to,
    pixels,
    first,
    columns,
    classes,
    vectors,
    own_scale,
    SCALED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    width = vectors * 4  # known to be a multiple
    image = tl.program_id(2)
    pixel = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = pixel < pixels
    at = (image.to(tl.int64) * classes + first + column[None, :]) * pixels + pixel[:, None]
    x = tl.load(values + at, mask=inside[:, None] & (column < columns)[None, :], other=0.0)
    if SCALED:
        x *= tl.load(scale + image * own_scale + pixel, mask=inside, other=0.0)[:, None]
    row = image.to(tl.int64) * pixels + pixel
    tl.store(to + row[:, None] * width + column[None, :], x, mask=inside[:, None] & (column < width)[None, :])


@partial(Kernel, warps=1)  # a program takes as long as its longest piece
def _splat(x, index, weight, pieces, rows, to, count, vectors, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    width = vectors * 4  # known to be a multiple
    piece = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside, wanted = piece < count, column < width
    first = tl.load(pieces + piece, mask=inside, other=0)
    length = tl.load(pieces + piece + 1, mask=inside, other=0) - first
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for step in range(tl.max(length, 0)):
        there = step < length
        entry = tl.load(index + first + step, mask=there, other=0)
        own = tl.load(weight + first + step, mask=there, other=0.0)
        at = entry.to(tl.int64)[:, None] * width + column[None, :]
        total += own[:, None] * tl.load(x + at, mask=there[:, None] & wanted[None, :], other=0.0)
    row = tl.load(rows + piece, mask=inside, other=0)
    at = row.to(tl.int64)[:, None] * width + column[None, :]
    tl.store(to + at, total, mask=inside[:, None] & wanted[None, :])


@Kernel
def _add_rest(
    table, rest_vertex, first_piece, vertices, count, vectors, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    width = vectors * 4  # known to be a multiple
    piece = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside, wanted = piece < count, column < width
    vertex = tl.load(rest_vertex + piece, mask=inside, other=0)
    first = tl.load(first_piece + vertex, mask=inside, other=0)
    # the first of the rest adds them all
    inside = inside & (piece == first - vertex)
    length = tl.load(first_piece + vertex + 1, mask=inside, other=0) - first - 1
    here = inside[:, None] & wanted[None, :]
    to = vertex.to(tl.int64)[:, None] * width + column[None, :]
    total = tl.load(table + to, mask=here, other=0.0)
    for step in range(tl.max(tl.where(inside, length, 0), 0)):
        at = (vertices + piece + step).to(tl.int64)[:, None] * width + column[None, :]
        there = here & (step < length)[:, None]
        total += tl.load(table + at, mask=there, other=0.0)
    tl.store(table + to, total, mask=here)


@Kernel
def _blur(
    x, neighbors, taps, to, count, vectors, TAPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    width = vectors * 4  # known to be a multiple
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside, wanted = row < count, column < width
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for tap in tl.static_range(TAPS):
        neighbor = tl.load(neighbors + (tl.full([], 0, tl.int64) + count) * tap + row, mask=inside, other=-1)
        at = neighbor.to(tl.int64)[:, None] * width + column[None, :]
        there = (neighbor >= 0)[:, None] & wanted[None, :]
        total += tl.load(taps + tap) * tl.load(x + at, mask=there, other=0.0)
    tl.store(
        to + row.to(tl.int64)[:, None] * width + column[None, :],
        total,
        mask=inside[:, None] & wanted[None, :],
    )


@Kernel
def _slice(
    x,
    vertex,
    weight,
    scale,
    factor,
    to,
    pixels,
    first,
    columns,
    classes,
    vectors,
    own_scale,
    CORNERS: tl.constexpr,
    SCALED: tl.constexpr,
    ADDS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    width = vectors * 4  # known to be a multiple
    image = tl.program_id(2)
    pixel = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside, stored = pixel < pixels, column < width  # whole vectors
    entry = (image.to(tl.int64) * pixels + pixel) * CORNERS
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for corner in tl.static_range(CORNERS):
        row = tl.load(vertex + entry + corner, mask=inside, other=0).to(tl.int64)
        own = tl.load(weight + entry + corner, mask=inside, other=0.0)
        at = row[:, None] * width + column[None, :]
        total += own[:, None] * tl.load(x + at, mask=inside[:, None] & stored[None, :], other=0.0)
    if SCALED:
        total *= tl.load(scale + image * own_scale + pixel, mask=inside, other=0.0)[:, None]
    at = (image.to(tl.int64) * classes + first + column[None, :]) * pixels + pixel[:, None]
    there = inside[:, None] & (column < columns)[None, :]
    total *= factor
    if ADDS:
        total += tl.load(to + at, mask=there, other=0.0)
    tl.store(to + at, total, mask=there)


class Columns(NamedTuple):
    """Some columns of values ``[b k n]``: classes from `first` on."""

    first: int
    number: int


def rows(values: Tensor, scale: Tensor | None, to: Tensor, part: Columns) -> Launch:
    """``to[b n width] = scale · values [b k n]`` of some columns, pixels by rows, zeros in the columns after the last.

    `values` are contiguous; `scale` is ``[b n]`` or ``[1 n]``.
    """
    batch, classes, pixels = values.shape
    width = to.shape[-1]
    height, across = tile(width)
    return Launch(
        _rows, (blocks(pixels, height), blocks(width, across), batch), values, values if scale is None else scale,
        to, pixels, *part, classes, width // VECTOR, _step(scale), scale is not None, height, across,
    )  # fmt: skip


def _step(scale: Tensor | None) -> int:
    """From the scales of an image to those of the next."""
    return 0 if scale is None or len(scale) == 1 else scale.shape[-1]


def splat(x: Tensor, entries: Entries, to: Tensor) -> list[Launch]:
    """``to[v] = Σ weight · x[pixel]`` over the entries of vertex v, in order; further rows of `to` are scratch."""
    count, vertices, width = len(entries.rows), len(entries.table), to.shape[1]
    height, across = tile(width, 4)
    columns = blocks(width, across)
    sums = Launch(
        _splat, (blocks(count, height), columns), x, entries.pixel, entries.weight, entries.pieces, entries.rows, to,
        count, width // VECTOR, height, across,
    )  # fmt: skip
    rest = count - vertices
    if not rest:
        return [sums]
    added = Launch(
        _add_rest, (blocks(rest, height), columns), to, entries.rest_vertex, entries.first_piece, vertices, rest,
        width // VECTOR, height, across,
    )  # fmt: skip
    return [sums, added]


def blur(x: Tensor, neighbors: Tensor, taps: Tensor, to: Tensor) -> Launch:
    """``to[r] = Σ_t taps[t] · x[neighbors[t, r]]``; a neighbor that is not there has the number -1."""
    count, width = to.shape
    height, across = tile(width)
    return Launch(
        _blur, (blocks(count, height), blocks(width, across)), x, neighbors, taps, to, count, width // VECTOR,
        len(taps), height, across,
    )  # fmt: skip


def slice_rows(
    x: Tensor, vertex: Tensor, weight: Tensor, scale: Tensor | None, factor: float, to: Tensor, part: Columns, *,
    adds: bool,
) -> Launch:  # fmt: skip
    """``to[b k n] = factor · scale · Σ_c weight[b n c] · x[vertex[b n c]]`` in some columns, or ``+=`` (`adds`)."""
    batch, classes, pixels = to.shape
    width = x.shape[1]
    height, across = tile(width)
    return Launch(
        _slice, (blocks(pixels, height), blocks(part.number, across), batch), x, vertex, weight,
        weight if scale is None else scale, float(factor), to, pixels, *part, classes, width // VECTOR, _step(scale),
        vertex.shape[-1], scale is not None, adds, height, across,
    )  # fmt: skip
