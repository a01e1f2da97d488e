"""Loops of the permutohedral lattice: simplices of pixels, merged keys of vertices, splat, blur and slice."""

import math

import numpy as np

from selflabel.kernels.cpu.compile import kernel
from selflabel.kernels.cpu.rows import add_row, sum_rows, sum_taps


@kernel
def ends(features):
    """The least and the largest value of each feature."""
    low, high = features[0].copy(), features[0].copy()
    for p in range(len(features)):
        for j in range(low.size):
            low[j] = min(low[j], features[p, j])
            high[j] = max(high[j], features[p, j])
    return low, high


@kernel
def positions(features, middle, scale, shear, t, cells, first, last):
    """``t = A f``, and the least and the largest of its floors, ``cells[0]`` and ``cells[1]``."""
    low, high, d = cells[0], cells[1], features.shape[1]
    for p in range(first, last):
        total = features.dtype.type(0)
        for j in range(d):
            total += features[p, j] - middle[j]
        for j in range(d):
            t[p, j] = scale * ((features[p, j] - middle[j]) + shear * total) + features.dtype.type(
                (j + 0.5) / d
            )
            cell = np.floor(t[p, j])
            low[j] = min(low[j], cell)
            high[j] = max(high[j], cell)


@kernel
def simplices(t, numbering, factors, root_gain, keys, weights, first, last):
    """Keys and weights of the vertices around each pixel: Kuhn's simplex, barycentric weights times evenness.

    `numbering`: the least coordinates of vertices, and the strides of their keys.
    """
    low, strides, d = numbering[0], numbering[1], t.shape[1]
    part, step = np.empty(d, t.dtype), np.empty(d, np.int64)
    place = np.empty(d + 1, t.dtype)
    for p in range(first, last):
        key = np.int64(0)
        for j in range(d):
            cell = np.floor(t[p, j])
            key += (np.int64(cell) - low[j]) * strides[j]
            fraction = t[p, j] - cell
            at = j
            while at > 0 and part[at - 1] < fraction:
                part[at], step[at] = part[at - 1], step[at - 1]
                at -= 1
            part[at], step[at] = fraction, strides[j]
        place[0] = 1 - part[0]
        for j in range(d):
            place[j + 1] = part[j] - (part[j + 1] if j + 1 < d else t.dtype.type(0))
        ratio = t.dtype.type(0)
        for apart in range(d + 1):
            product = t.dtype.type(0)
            for j in range(d + 1 - apart):
                product += place[j] * place[j + apart]
            ratio += factors[apart] * product
        even = root_gain / math.sqrt(math.sqrt(ratio))
        for j in range(d + 1):
            weights[p, j] = place[j] * even
            keys[p, j] = key
            key += step[j] if j < d else 0


@kernel
def spread(table, step, radius):
    """The sorted vertices up to `radius` steps from those of the sorted table: a merge of shifted copies."""
    heads = np.zeros(2 * radius + 1, np.int64)
    merged = np.empty((2 * radius + 1) * table.size, np.int64)
    count = 0
    while True:
        least = np.int64(2**63 - 1)
        for q in range(heads.size):
            if heads[q] < table.size:
                least = min(least, table[heads[q]] + (q - radius) * step)
        if least == np.int64(2**63 - 1):
            break
        merged[count] = least
        count += 1
        for q in range(heads.size):
            if heads[q] < table.size and table[heads[q]] + (q - radius) * step == least:
                heads[q] += 1
    return merged[:count].copy()


@kernel
def neighbors_of(source, target, step, radius):
    """The numbers in `source` of the vertices up to `radius` steps before and after each one of `target`, by rows.

    Both are sorted, so the neighbors at each number of steps are too, and are found by a merge. Leaves out vertices
    without a neighbor in the other table; returns masks of those that are kept in `source` and in `target`. A neighbor
    that is not there gets the number after the last.
    """
    heads = np.zeros(2 * radius + 1, np.int64)
    index = np.empty((target.size, heads.size), np.int32)
    used, reached = np.zeros(source.size, np.bool_), np.zeros(target.size, np.bool_)
    rows = 0
    for v in range(target.size):
        for q in range(heads.size):
            key = target[v] + (q - radius) * step
            head = heads[q]
            while head < source.size and source[head] < key:
                head += 1
            heads[q] = head
            index[rows, q] = -1
            if head < source.size and source[head] == key:
                index[rows, q] = head
                used[head] = reached[v] = True
        rows += reached[v]
    kept = np.empty(source.size + 1, np.int32)
    count = 0
    for v in range(source.size):
        kept[v] = count
        count += used[v]
    kept[source.size] = count
    for row in range(rows):
        for q in range(heads.size):
            index[row, q] = kept[index[row, q]]  # the last one, if it is -1
    return index[:rows].copy(), used, reached


@kernel
def renumber(vertex, numbers, first, last):
    """Replace the numbers of vertices by ``numbers`` of them, for a range of pixels."""
    for p in range(first, last):
        for c in range(vertex.shape[1]):
            vertex[p, c] = numbers[vertex[p, c]]


@kernel
def splat(x, scale, incidence, table, first, last):
    """``table = P' diag(scale) x`` of a range of pixels."""
    table[:] = 0
    width, corners = table.shape[1], len(incidence.corners)
    row = np.zeros(width, table.dtype)
    for p in range(first, last):
        own = scale[p % scale.size]
        for j in range(x.shape[1]):
            row[j] = own * x[p, j]
        add_row(row, 0, width, width, incidence, p * corners, table, 0)


@kernel
def blur(x, neighbors, taps, to, first, last):
    """``to[row] = Σ_t taps[t] x[neighbors[row, t]]`` for a range of rows."""
    width = to.shape[1]
    for row in range(first, last):
        sum_taps(x, neighbors, row * neighbors.shape[1], taps, to, row * width, width)


@kernel
def add_sliced(table, scale, incidence, to, first, last):
    """``to += diag(scale) P table`` for a range of pixels."""
    width, corners = table.shape[1], len(incidence.corners)
    row = np.zeros(width, table.dtype)
    for p in range(first, last):
        row[:] = 0
        own = scale[p % scale.size]
        sum_rows(table, 0, width, incidence, p * corners, own, row, 0, width)
        for j in range(to.shape[1]):
            to[p, j] += row[j]


@kernel
def add(tables, to, first, last):
    """``to += Σ_t tables[t]`` for a range of rows, the tables in their order."""
    for row in range(first, last):
        for t in range(len(tables)):
            for j in range(to.shape[1]):
                to[row, j] += tables[t, row, j]
