"""Elimination, pixel by pixel, of the equations that say where random walkers on a grid end.

A walker at pixel p goes on to its neighbor q in proportion to w_pq and ends in class k in proportion to b_pk. The
probability y_pk that it ends in k solves ``d_p y_pk = Σ_q w_pq y_qk + b_pk`` with ``d_p = Σ_q w_pq + Σ_k b_pk``.
Eliminating pixel p sends the walkers that pass through it on to its neighbors,

    w_ij += w_pi w_pj / d_p,    b_ik += w_pi b_pk / d_p.

Then y_p follows from the later pixels and the classes. This is Gaussian elimination of a symmetric matrix whose pivots
d_p are sums of the remaining weights, not small differences of large numbers. Nothing is ever subtracted: all results
keep their relative precision, however much the weights vary (Grassmann, Taksar & Heyman, Oper. Res. 33, 1985;
O'Cinneide, Numer. Math. 65, 1993).

Pixels go box by box (`dissection`), in dense rows. The row of pixel p holds ``u_pj = w_pj / √d_p`` for j along the list
of the box, then ``u_pk = b_pk / √d_p``; ``1 / √d_p`` on the diagonal; below it anything. A box leaves the rows of its
rim, ``Σ_p u_pi u_pj``, which are added to the parent's (Duff & Reid, ACM Trans. Math. Softw. 9, 1983). Time grows as
n^1.5 in 2-D and n² in 3-D, memory as n log n and n^1.33.
"""

from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import numpy as np

from selflabel.kernels.cpu.compile import Array, kernel
from selflabel.kernels.cpu.dissection import (
    DEPTH,
    END,
    PARENT,
    PART,
    PARTS,
    RIM,
    RIM_ROW,
    RIM_WIDTH,
    ROW,
    START,
    WIDTH,
    EliminationPlan,
    PixelGrid,
    is_cut,
    plan,
)
from selflabel.kernels.cpu.products import HEIGHTS, add_product
from selflabel.kernels.memory import scratch
from selflabel.kernels.threads import LARGE_PIXELS, run_parallel

VECTOR = 8
"""Numbers in a vector. Rows are summed in whole vectors: behind each row there is room for the rest of the last one."""

BLOCK = 16
"""Rows that are finished before their products are added to later rows."""

HEIGHT = HEIGHTS[0]
"""Rows of products that are computed at a time."""

DEEP = 64
"""Rows that are added to a rim at a time: they stay in the cache."""


class Graph(NamedTuple):
    """The pairs of free pixels by pixel (compressed rows), and where walkers end."""

    start: Array  # [pixels + 1]
    other: Array  # [pairs, both ways]
    weight: Array  # [pairs, both ways]
    right: Array  # [pixels, classes]


def absorb(
    grid: PixelGrid,
    first: Array,
    second: Array,
    weight: Array,
    free: Array,
    right: Array,
    to: Array,
    threads: int,
    large_pixels: int = LARGE_PIXELS,
) -> None:
    """Write y ``[pixels, classes]`` to the free pixels of `to`; all numbers are float64.

    The pairs `first`, `second` ``[pairs]`` have the weights w; `free` is ``[pixels]``, and `right` is b ``[pixels,
    classes]``. Free pixels without a path to any class get zeros. Images of `large_pixels` or more are shared among
    the threads; the result is the same for any number of them.
    """
    start, other, both = _compress(first, second, weight, free)
    graph = Graph(start, other, both, right)
    # twice as many subtrees as threads balance the load, and the tree above them is little work
    depth = (2 * threads - 1).bit_length() if threads > 1 and len(free) >= large_pixels else 0
    whole = np.stack([np.zeros(3, np.int64), grid.size], 1).ravel()
    top = plan(whole, np.empty(0, np.int32), free, grid, depth)
    # rows of the table, which is filled in below; a loop over all boxes would keep other images' threads waiting
    cuts = [top.box[number] for number in np.flatnonzero(top.box[:, DEPTH] == depth)] if depth else []
    parts = run_parallel(
        [
            partial(plan, bounds[:PARENT], top.pixel[bounds[RIM] : bounds[END]], free, grid, 0)
            for bounds in cuts
        ],
        threads,
    )
    with ExitStack() as stack:

        def memory(tree: EliminationPlan, cut_at: int) -> tuple[Array, Array]:
            sizes = _lay_out(tree, cut_at, right.shape[1])
            rows, rims = (stack.enter_context(scratch((size,), np.float64)) for size in sizes)
            return rows, rims

        rows, rims = memory(top, depth)
        below = [memory(part, 0) for part in parts]
        run_parallel(
            [
                partial(_eliminate, part, 0, graph, *own, rims[bounds[RIM_ROW] :])
                for bounds, part, own in zip(cuts, parts, below, strict=True)
            ],
            threads,
        )
        _eliminate(top, depth, graph, rows, rims, rims)
        _substitute(top, depth, rows, to)
        run_parallel(
            [
                partial(_substitute, part, 0, own_rows, to)
                for part, (own_rows, _) in zip(parts, below, strict=True)
            ],
            threads,
        )


@kernel
def _compress(first, second, weight, free):
    """The first three fields of `Graph`."""
    start = np.zeros(len(free) + 1, np.int64)
    for e in range(len(first)):
        if free[first[e]] and free[second[e]]:
            start[first[e] + 1] += 1
            start[second[e] + 1] += 1
    for p in range(len(free)):
        start[p + 1] += start[p]
    filled = start[:-1].copy()
    other, both = np.empty(start[-1], np.int32), np.empty(start[-1], weight.dtype)
    for e in range(len(first)):
        p, q = first[e], second[e]
        if free[p] and free[q]:
            other[filled[p]], other[filled[q]] = q, p
            both[filled[p]] = both[filled[q]] = weight[e]
            filled[p] += 1
            filled[q] += 1
    return start, other, both


@kernel
def _lay_out(tree, cut_at, classes):
    """Place all rows in memory; returns the numbers that rows of boxes and rows of rims take.

    Rows of a rim are needed until the parent is done: boxes with the same number of cuts above them share memory.
    """
    box = tree.box
    largest, total = np.zeros((box[:, DEPTH].max() + 1, 2), np.int64), 0
    for bounds in box:
        bounds[WIDTH] = _width(bounds[END] - bounds[START] + classes)
        bounds[RIM_WIDTH] = _width(bounds[END] - bounds[RIM] + classes)
        bounds[ROW] = total
        total += (bounds[RIM] - bounds[START]) * bounds[WIDTH]
        if not is_cut(bounds, cut_at):
            numbers = (bounds[END] - bounds[RIM]) * bounds[RIM_WIDTH]
            largest[bounds[DEPTH], bounds[PART]] = max(largest[bounds[DEPTH], bounds[PART]], numbers)
    end = largest.sum()
    place = end - np.cumsum(largest).reshape(largest.shape)
    for bounds in box:
        bounds[RIM_ROW] = place[bounds[DEPTH], bounds[PART]]
        if is_cut(bounds, cut_at):  # the rims of all subtrees are needed at once
            bounds[RIM_ROW] = end
            end += (bounds[END] - bounds[RIM]) * bounds[RIM_WIDTH]
    return total, end


@kernel
def _width(columns):
    return _whole(columns + VECTOR - 1)


@kernel
def _whole(columns):
    return (columns + VECTOR - 1) // VECTOR * VECTOR


@kernel
def _eliminate(tree, cut_at, graph, rows, rims, last):
    """Eliminate all boxes of a tree; the rows of its root's rim go to `last`."""
    position = np.full(len(graph.start) - 1, -1, np.int32)
    for node in range(len(tree.box) - 1, -1, -1):  # parts before their parents
        bounds = tree.box[node]
        if is_cut(bounds, cut_at):
            continue
        at, to_at = bounds[ROW], bounds[RIM_ROW] if node else 0
        to = rims if node else last
        rows[at : at + (bounds[RIM] - bounds[START]) * bounds[WIDTH]] = 0
        to[to_at : to_at + (bounds[END] - bounds[RIM]) * bounds[RIM_WIDTH]] = 0
        _add_pairs(tree, bounds, graph, position, rows)
        for part in bounds[PARTS : PARTS + 2]:
            if part >= 0:
                _add_part(tree, tree.box[part], bounds, rims, rows, to, to_at, graph.right.shape[1])
        _finish_rows(bounds, rows, graph.right.shape[1])
        _add_to_rim(bounds, rows, to, to_at, graph.right.shape[1])


@kernel
def _add_pairs(tree, bounds, graph, position, rows):
    """Add the pairs of the box's own pixels with later ones, and the classes, to its rows."""
    start, stop = bounds[START], bounds[END]
    length, classes = stop - start, graph.right.shape[1]
    for i in range(length):
        position[tree.pixel[start + i]] = i
    row = bounds[ROW]
    for i in range(bounds[RIM] - start):
        p = tree.pixel[start + i]
        for e in range(graph.start[p], graph.start[p + 1]):
            j = position[graph.other[e]]
            if j > i:
                rows[row + j] += graph.weight[e]
        for k in range(classes):
            rows[row + length + k] = graph.right[p, k]
        row += bounds[WIDTH]
    for i in range(length):
        position[tree.pixel[start + i]] = -1


@kernel
def _add_part(tree, part, bounds, rims, rows, to, to_at, classes):
    """Add the rows of a part's rim to the rows of the box and of its rim."""
    own, length = bounds[RIM] - bounds[START], bounds[END] - bounds[START]
    place = tree.place[part[RIM] : part[END]]
    for i in range(len(place)):
        left = rims[part[RIM_ROW] + i * part[RIM_WIDTH] :]
        if place[i] < own:
            _add_row(left, place, i, rows, bounds[ROW] + place[i] * bounds[WIDTH], length, classes)
        else:
            row = to_at + (place[i] - own) * bounds[RIM_WIDTH]
            _add_row(left, place, i, to, row - own, length, classes)


@kernel
def _add_row(left, place, i, to, row, length, classes):
    """``to[row + place[j]] += left[j]`` right of the diagonal, and for the classes."""
    for j in range(i + 1, len(place)):
        to[row + place[j]] += left[j]
    for k in range(classes):
        to[row + length + k] += left[len(place) + k]


@kernel
def _finish_rows(bounds, rows, classes):
    """Turn w_pj into u_pj, pixel by pixel."""
    own, width = bounds[RIM] - bounds[START], bounds[WIDTH]
    columns = bounds[END] - bounds[START] + classes
    for start in range(0, own, BLOCK):
        stop = min(start + BLOCK, own)
        above = bounds[ROW] + start * width
        for p in range(start, stop):
            row = bounds[ROW] + p * width
            _add_products(rows, row + p, width, rows, above + p, width, 1, columns - p, p - start)
            here = rows[row + p + 1 : row + columns]
            total = here.sum()
            scale = 1 / np.sqrt(total) if total > 0 else 0.0
            rows[row + p] = scale
            for j in range(len(here)):
                here[j] *= scale
        for i in range(stop, own, HEIGHT):
            to, height = bounds[ROW] + i * width + i, min(HEIGHT, own - i)
            _add_products(rows, to, width, rows, above + i, width, height, columns - i, stop - start)


@kernel
def _add_to_rim(bounds, rows, to, to_at, classes):
    """Add ``Σ_p u_pi u_pj`` to each pair i, j of the rim."""
    own, length, width = bounds[RIM] - bounds[START], bounds[END] - bounds[RIM], bounds[RIM_WIDTH]
    for start in range(0, own, DEEP):
        above = bounds[ROW] + start * bounds[WIDTH] + own
        for i in range(0, length, HEIGHT):
            here, height, deep = to_at + i * width + i, min(HEIGHT, length - i), min(DEEP, own - start)
            _add_products(to, here, width, rows, above + i, bounds[WIDTH], height, length + classes - i, deep)


@kernel
def _add_products(to, to_at, to_width, rows, at, width, height, columns, deep):
    """``to[i, j] += Σ_q u_qi u_qj`` for `height` i, `columns` j and `deep` q, counted from these places."""
    add_product(to, to_at, to_width, rows, at, 1, width, rows, at, width, height, _whole(columns), deep)


@kernel
def _substitute(tree, cut_at, rows, labels):
    """``y_pk = (Σ_j u_pj y_jk + u_pk) / √d_p``, from the last pixel to the first."""
    classes = labels.shape[1]
    row = _whole(classes)
    y = np.zeros((tree.box[:, END] - tree.box[:, START]).max() * row)
    for bounds in tree.box:
        if is_cut(bounds, cut_at):
            continue
        pixels = tree.pixel[bounds[START] : bounds[END]]
        own, width = bounds[RIM] - bounds[START], bounds[WIDTH]
        for i in range(own, len(pixels)):
            for k in range(classes):
                y[i * row + k] = labels[pixels[i], k]
        for stop in range(own, 0, -HEIGHT):
            start = max(stop - HEIGHT, 0)
            for p in range(start, stop):
                at = bounds[ROW] + p * width + len(pixels)
                for k in range(classes):
                    y[p * row + k] = rows[at + k]
            later, at = len(pixels) - stop, bounds[ROW] + start * width + stop
            add_product(y, start * row, row, rows, at, width, 1, y, stop * row, row, stop - start, row, later)
            for p in range(stop - 1, start - 1, -1):
                at, later = bounds[ROW] + p * width + p, stop - p - 1
                add_product(y, p * row, row, rows, at + 1, width, 1, y, (p + 1) * row, row, 1, row, later)
                for k in range(row):
                    y[p * row + k] *= rows[at]
        for i in range(own):
            for k in range(classes):
                labels[pixels[i], k] = y[i * row + k]
