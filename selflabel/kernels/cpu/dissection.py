"""Nested dissection of a grid of pixels: the order to eliminate them in (George, SIAM J. Numer. Anal. 10, 1973).

A slab across its longest side, too thick for any pair to reach over, cuts a box of pixels in two. Both parts are
eliminated first, each on its own, then the slab; the parts are cut likewise. The pixels of a box leave pairs within its
`rim`: the pixels around the box that its pairs reach. They belong to slabs that come later. A plan is a tree of boxes
with a short list of pixels for each.
"""

from typing import NamedTuple

import numpy as np

from selflabel.kernels.cpu.compile import Array, kernel

LEAF = 20
"""Pixels of the largest box that is not cut: lists have a cost, too."""

FARTHEST = 4
"""Pixels: the thickest slab, and the longest reach of a pair along an axis. The work grows with its cube."""

# Columns of the table of boxes. The first six: start and stop along each axis.
PARENT, PART, DEPTH = 6, 7, 8
"""The parent (-1 for the root), which of its two parts the box is (0, 1), the number of cuts above it."""
PARTS = 9
"""The box's own two parts, -1 for none."""
START, RIM, END = 11, 12, 13
"""Its list: own pixels from START to RIM, the rim from there to END."""
ROW, WIDTH, RIM_ROW, RIM_WIDTH = 14, 15, 16, 17
"""Filled in by the elimination: place of the first row in memory and length of a row, of own pixels and of the rim."""
COLUMNS = 18


class PixelGrid(NamedTuple):
    """The pixels of an image, and how far its pairs reach."""

    size: Array  # [3]
    at: Array  # [pixels, 3] coordinates
    far: Array  # [z, y, x]: does some pair reach that far along all three axes?


class EliminationPlan(NamedTuple):
    """The boxes of a tree, parents before their parts, and their lists, in the order of elimination."""

    box: Array  # [boxes, COLUMNS]
    pixel: Array  # [sum of lengths]
    place: Array  # [sum of lengths]: of rim pixels, their place in the parent's list, in increasing order


def grid(size: tuple[int, ...], first: Array, second: Array) -> PixelGrid | None:
    """The grid of an image of two or three axes; None if some pair reaches farther than `FARTHEST`."""
    axes = np.array((1, 1, 1, *size)[-3:])
    at = _coordinates(axes)
    far = _reached(first, second, at)
    return PixelGrid(axes, at, far) if far.size else None


@kernel
def _coordinates(size):
    at = np.empty((size[0] * size[1] * size[2], 3), np.int32)
    p = 0
    for z in range(size[0]):
        for y in range(size[1]):
            for x in range(size[2]):
                at[p, 0], at[p, 1], at[p, 2] = z, y, x
                p += 1
    return at


@kernel
def _reached(first, second, at):
    """`PixelGrid.far`; empty if some pair reaches too far."""
    far = np.zeros((FARTHEST + 1, FARTHEST + 1, FARTHEST + 1), np.bool_)
    for e in range(len(first)):
        p, q = first[e], second[e]
        z, y, x = abs(at[p, 0] - at[q, 0]), abs(at[p, 1] - at[q, 1]), abs(at[p, 2] - at[q, 2])
        if max(z, y, x) > FARTHEST:
            return far[:0]
        far[z, y, x] = True
    for z in range(FARTHEST, -1, -1):  # a pair that reaches farther reaches this far
        for y in range(FARTHEST, -1, -1):
            for x in range(FARTHEST, -1, -1):
                far[z, y, x] = far[z : z + 2, y : y + 2, x : x + 2].any()
    return far


@kernel
def plan(root, rim, free, grid, depth):
    """The plan for the free pixels of a box with this rim; boxes `depth` cuts below are left to plans of their own."""
    boxes, filled, waiting = (
        np.int64(0),
        np.int64(0),
        1,
    )  # without the types, functions are compiled for literals, too
    box = np.empty((1024, COLUMNS), np.int64)
    pixel, place = np.empty(1 << 16, np.int32), np.empty(1 << 16, np.int32)
    stack = np.empty((128, PARTS), np.int64)  # boxes to cut: far deeper than halving can go
    _copy(root, stack[0], PARENT)
    stack[0, PARENT], stack[0, PART], stack[0, DEPTH] = -1, 0, 0
    while waiting:
        waiting -= 1
        box, here = _longer(box, boxes, 1), boxes
        boxes += 1
        bounds = box[here]
        _copy(stack[waiting], bounds, PARTS)
        bounds[PARTS:START] = -1
        parent = bounds[PARENT]
        if parent >= 0:
            box[parent, PARTS + bounds[PART]] = here
        axis, start, stop = _slab(bounds, grid, depth)
        own = bounds[:PARENT].copy()
        if axis >= 0:
            own[2 * axis], own[2 * axis + 1] = start, stop
            for part in range(2):
                _copy(bounds, stack[waiting], PARENT)
                stack[waiting, 2 * axis + 1 - part] = stop if part else start
                stack[waiting, PARENT], stack[waiting, PART] = here, part
                stack[waiting, DEPTH] = bounds[DEPTH] + 1
                waiting += 1
        elif is_cut(bounds, depth):
            own[1] = own[0]  # no own pixels
        before = len(rim) if parent < 0 else box[parent, END] - box[parent, START]
        most = before + (own[1] - own[0]) * (own[3] - own[2]) * (own[5] - own[4])
        pixel, place = _longer(pixel, filled, most), _longer(place, filled, most)
        bounds[START] = filled
        filled = _list_free(own, free, grid.size, pixel, filled)
        bounds[RIM] = filled
        given, at = (rim, 0) if parent < 0 else (pixel, box[parent, START])
        filled = _list_rim(bounds, grid, given[at : at + before], pixel, place, filled)
        bounds[END] = filled
    return EliminationPlan(box[:boxes], pixel[:filled], place[:filled])


@kernel
def is_cut(bounds, depth):
    """Is the box left to a plan of its own?"""
    return depth > 0 and bounds[DEPTH] == depth


@kernel
def _longer(array, filled, more):
    """The array, or a longer copy, with room for `more` entries after `filled`."""
    if filled + more <= len(array):
        return array
    result = np.empty((max(filled + more, 2 * len(array)), *array.shape[1:]), array.dtype)
    _copy(array.reshape(-1), result.reshape(-1), filled * (array.size // len(array)))
    return result


@kernel
def _copy(values, to, count):
    """The first values. Numba compiles for seconds what an assignment of slices would say of wrong shapes."""
    for i in range(count):
        to[i] = values[i]


@kernel
def _slab(bounds, grid, depth):
    """The axis that the slab cuts, its start and its stop along it; axis -1 for boxes that stay whole."""
    axis, longest, count = 0, 0, 1
    for a in range(3):
        length = bounds[2 * a + 1] - bounds[2 * a]
        count *= length
        if length > longest:
            axis, longest = a, length
    far = grid.far
    along = far[:, 0, 0] if axis == 0 else far[0, :, 0] if axis == 1 else far[0, 0, :]
    thick = along.sum() - 1
    if count <= LEAF or longest < thick + 2 or is_cut(bounds, depth):
        return -1, 0, 0
    start = bounds[2 * axis] + (longest - thick) // 2
    return axis, start, start + thick


@kernel
def _list_free(own, free, size, pixel, filled):
    for z in range(own[0], own[1]):
        for y in range(own[2], own[3]):
            for x in range(own[4], own[5]):
                p = (z * size[1] + y) * size[2] + x
                if free[p]:
                    pixel[filled] = p
                    filled += 1
    return filled


@kernel
def _list_rim(bounds, grid, candidates, pixel, place, filled):
    """List the pixels that pairs of the box reach, from the candidates: the parent's list."""
    limit = grid.far.shape[0] - 1
    for i in range(len(candidates)):
        p = candidates[i]
        z = _outside(grid.at[p, 0], bounds[0], bounds[1])
        y = _outside(grid.at[p, 1], bounds[2], bounds[3])
        x = _outside(grid.at[p, 2], bounds[4], bounds[5])
        if max(z, y, x) <= limit and grid.far[z, y, x]:
            pixel[filled], place[filled] = p, i
            filled += 1
    return filled


@kernel
def _outside(coordinate, start, stop):
    """Pixels between the coordinate and ``range(start, stop)``."""
    return max(start - coordinate, 0, coordinate - stop + 1)
