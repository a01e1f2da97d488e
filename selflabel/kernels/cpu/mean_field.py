"""A sweep of mean field over a range of pixels.

Rows of unaries, labels and of the vertices' tables have a *lane* for every class, in an order in which classes that
compete for the same pixels are neighbors, padded to whole vectors. Each pixel stores a *span* of lanes only, from its
*start*, counted in vectors. Labels and costs are double-buffered: one *side* is current, the other holds the values
before the last update.
"""

from typing import NamedTuple

import numpy as np

from selflabel.kernels.cpu.compile import Array, kernel
from selflabel.kernels.cpu.elementary import log_
from selflabel.kernels.cpu.rows import add_row, sum_rows
from selflabel.kernels.cpu.vectors import LANES, exp2, full, greater, largest, load, number, store, total

LEAST = np.float32(-1e30)
"""The unary of lanes without an allowed class."""

BLOCK_PIXELS = 32
"""Pixels of a stage, whose rows stay in the nearest cache for the next stage."""

LEAST_MASS = np.float32(1e-30)
"""Below any sum of exponentials."""

LOG2_E = np.float32(1.4426950408889634)


class LabelRows(NamedTuple):
    """What is kept of an image: rows are its pixels in some order, lanes its classes."""

    order: Array
    """``[k]``, the class of each lane."""
    pixels: Array
    """``[n]``, the number of each row's pixel in the image."""
    allowed: Array
    """``[width]``, 1 in lanes of allowed classes, else 0."""
    free: Array
    """``[n]``, true without a seed."""
    spans: Array
    """``[n 2]``, the first lane that is stored and the one after the last."""
    starts: Array
    """``[n]``, the vector in `unary` and in a side of `labels` at which the stored lanes begin."""
    sides: Array
    """``[n]``, the current side of labels and cost."""
    moved: Array
    """``[n]``, true if the last sweep that visited the pixel moved its labels by more than `settled`."""
    unary: Array
    labels: Array
    """Two sides, one after the other."""
    cost: Array
    """``[n 2]``, ``Σ y·ln y - y·unary`` of the pixel on each side."""


class Constants(NamedTuple):
    """Numbers of a solve, in single precision."""

    coupling: np.float32
    """Unaries are ``coupling · ln max(probs, least_prob)``."""
    least_prob: np.float32
    least_log: np.float32
    """Labels are at least ``exp(least_log)`` times the largest one of their pixel."""
    settled: np.float32
    """Euclidean distance between labels before and after a sweep."""
    negligible: np.float32
    """Nats: classes whose label can never exceed ``exp(-negligible)`` are left out."""


@kernel
def _by_lane(labels, order, pixels, to):
    """Labels ``[k n]`` of some pixels, by pixel and lane; 0 in lanes without a class."""
    to[:, order.size :] = 0
    for lane in range(order.size):
        row = labels[order[lane]]
        for i in range(len(to)):
            to[i, lane] = row[pixels[i]]


@kernel
def read_labels(rows, to, first, last):
    """Write the current labels as ``[k n]``; 0 outside of the spans."""
    labels, spans, starts, sides = rows.labels, rows.spans, rows.starts, rows.sides
    order, pixels = rows.order, rows.pixels
    half, block = labels.size // 2, np.empty((BLOCK_PIXELS, -(-order.size // LANES) * LANES), np.float32)
    for start in range(first, last, BLOCK_PIXELS):
        here = pixels[start : min(start + BLOCK_PIXELS, last)]
        block[:] = 0
        for i in range(here.size):
            p = start + i
            at = np.int64(starts[p]) * LANES + sides[p] * half
            for lane in range(spans[p, 0], spans[p, 1]):
                block[i, lane] = labels[at + lane - spans[p, 0]]
        for lane in range(order.size):
            row = to[order[lane]]
            for i in range(here.size):
                row[here[i]] = block[i, lane]


@kernel
def prepare(rows, incidence, constants, probs, given, table, first, last):
    """Write the unaries of a range of pixels, all lanes, and splat the `given` labels onto the table.

    `probs` and `given` are ``[k n]``; `given` is empty for the probabilities themselves. Returns the sum of the costs
    ``Σ y·ln y - y·unary`` of free pixels.
    """
    order, pixels, allowed, free, unary = rows.order, rows.pixels, rows.allowed, rows.free, rows.unary
    weight, floor = constants.coupling, constants.least_prob
    width, result = table.shape[1], 0.0
    labels, logs = np.empty((BLOCK_PIXELS, width), np.float32), np.empty((BLOCK_PIXELS, width), np.float32)
    here = np.empty(BLOCK_PIXELS, np.int32)
    for start in range(first, last, BLOCK_PIXELS):
        stop = min(start + BLOCK_PIXELS, last)
        own, tile = labels[: stop - start], logs[: stop - start]
        fixed = unary[start * width : stop * width].reshape(-1, width)
        _by_lane(probs, order, pixels[start:stop], own)
        tile[:] = own
        log_(tile.reshape(-1), floor)
        for i in range(len(tile)):
            for lane in range(width):
                fixed[i, lane] = weight * tile[i, lane] if allowed[lane] > 0 else LEAST
        if len(given):
            _by_lane(given, order, pixels[start:stop], own)
            tile[:] = own
            log_(tile.reshape(-1), floor)
        for i in range(len(tile)):
            pixel = np.float32(0)
            for lane in range(width):
                pixel += own[i, lane] * (tile[i, lane] - fixed[i, lane])
            result += pixel if free[start + i] else np.float32(0)
            here[i] = start + i
        _splat(own, rows, incidence, here[: len(own)], table)
    return result


@kernel
def _splat(x, rows, incidence, pixels, table):
    """Add the rows of a block, times the weights, to rows of the table."""
    spans, width, corners = rows.spans, x.shape[1], len(incidence.corners)
    for i in range(pixels.size):
        p = np.int64(pixels[i])
        begin, stop = np.int64(number(spans, 2 * p)), np.int64(number(spans, 2 * p + 1))
        add_row(x, i * width + begin, stop - begin, 1, incidence, p * corners, table, begin)


@kernel
def _slice(rows, incidence, pixels, blurred, logits):
    """Write the rows ``unary + sliced`` of a block."""
    unary, spans, starts, width = rows.unary, rows.spans, rows.starts, logits.shape[1]
    corners = len(incidence.corners)
    for i in range(pixels.size):
        p = np.int64(pixels[i])
        begin, stop = np.int64(number(spans, 2 * p)), np.int64(number(spans, 2 * p + 1))
        shift = np.int64(number(starts, p)) * LANES - begin
        for at in range(begin, stop, LANES):
            store(logits, i * width + at, load(unary, shift + at))
        to = i * width + begin
        sum_rows(blurred, begin, 1, incidence, p * corners, np.float32(1), logits, to, stop - begin)


@kernel
def _narrow(rows, pixels, negligible, logits):
    """Cut spans of all lanes down to the classes whose labels can ever exceed ``exp(-negligible)``.

    Logits lie between their unary and the unary plus the sum of what was sliced, which is the same for all labels.
    """
    unary, spans, width = rows.unary, rows.spans, logits.shape[1]
    for i in range(pixels.size):
        p = np.int64(pixels[i])
        sliced, top = full(np.float32(0)), full(LEAST)
        for at in range(0, width, LANES):
            fixed = load(unary, p * width + at)
            sliced = sliced + (load(logits, i * width + at) - fixed)
            top = greater(top, fixed)
        least = largest(top) - total(sliced) - negligible
        first, stop = width, 0
        for at in range(0, width, LANES):
            if largest(load(unary, p * width + at)) >= least:
                first, stop = min(first, at), at + LANES
        if first < stop:
            spans[p, 0], spans[p, 1] = first, stop


@kernel
def _hold(rows, given, here, logits):
    """At seeds, write the given labels in place of the logits, and the span of those that are not zero."""
    order, pixels, free, spans = rows.order, rows.pixels, rows.free, rows.spans
    for i in range(here.size):
        p = here[i]
        if free[p]:
            continue
        logits[i] = 0
        first, stop = logits.shape[1], LANES
        for lane in range(order.size):
            logits[i, lane] = given[order[lane], pixels[p]]
            if logits[i, lane] != 0:
                first = min(first, lane // LANES * LANES)
                stop = (lane // LANES + 1) * LANES
        spans[p, 0], spans[p, 1] = min(first, stop - LANES), stop


@kernel
def _pack(rows, pixels, end):
    """Compact a block's unaries: keep each pixel's span, written from vector `end` on. Returns the new end."""
    unary, spans, starts = rows.unary, rows.spans, rows.starts
    for i in range(pixels.size):
        p = np.int64(pixels[i])
        begin, stop = np.int64(spans[p, 0]), np.int64(spans[p, 1])
        source, to = np.int64(starts[p]) * LANES, end * LANES - begin
        for at in range(begin, stop, LANES):
            store(unary, to + at, load(unary, source + at))
        starts[p] = end
        end += (stop - begin) // LANES
    return end


@kernel
def _softmax(rows, pixels, least_log, logits, exps, masses, weighted):
    """Exponentials of the logits below their largest, at least ``exp(least_log)``, and their sums, the masses.

    And ``Σ exps·(logits - unary)`` of these logits. Classes that are not allowed get none.
    """
    unary, spans, starts, allowed, width = rows.unary, rows.spans, rows.starts, rows.allowed, logits.shape[1]
    for i in range(pixels.size):
        p = np.int64(pixels[i])
        begin, stop = np.int64(number(spans, 2 * p)), np.int64(number(spans, 2 * p + 1))
        shift = np.int64(number(starts, p)) * LANES - begin
        most = full(LEAST)
        for at in range(begin, stop, LANES):
            most = greater(most, load(logits, i * width + at))
        top, least, scale = full(largest(most)), full(least_log), full(LOG2_E)
        mass, part = full(np.float32(0)), full(np.float32(0))
        for at in range(begin, stop, LANES):
            below = load(logits, i * width + at) - top
            value = exp2(greater(below, least) * scale) * load(allowed, at)
            store(exps, i * width + at, value)
            mass = mass + value
            part = part + value * (below - load(unary, shift + at))
        masses[i], weighted[i] = total(mass), total(part)


@kernel
def _settle(rows, pixels, exps, masses):
    """Write the labels, exponentials over their masses, to the first side and back to `exps`."""
    labels, spans, starts, width = rows.labels, rows.spans, rows.starts, exps.shape[1]
    for i in range(pixels.size):
        p = np.int64(pixels[i])
        begin, stop = np.int64(number(spans, 2 * p)), np.int64(number(spans, 2 * p + 1))
        shift, factor = np.int64(number(starts, p)) * LANES - begin, full(np.float32(1) / masses[i])
        for at in range(begin, stop, LANES):
            new = load(exps, i * width + at) * factor
            store(labels, shift + at, new)
            store(exps, i * width + at, new)


@kernel
def _exchange(rows, pixels, settled, exps, masses):
    """Write the new labels to the other side, which becomes the current one, and their change to `exps`."""
    labels, spans, starts, sides, moved = rows.labels, rows.spans, rows.starts, rows.sides, rows.moved
    width, half = exps.shape[1], labels.size // 2
    for i in range(pixels.size):
        p = np.int64(pixels[i])
        begin, stop = np.int64(number(spans, 2 * p)), np.int64(number(spans, 2 * p + 1))
        shift, side = np.int64(number(starts, p)) * LANES - begin, np.int64(sides[p])
        here, there = shift + side * half, shift + (1 - side) * half
        factor, distance = full(np.float32(1) / masses[i]), full(np.float32(0))
        for at in range(begin, stop, LANES):
            new = load(exps, i * width + at) * factor
            change = new - load(labels, here + at)
            store(labels, there + at, new)
            store(exps, i * width + at, change)
            distance = distance + change * change
        sides[p] = 1 - side
        moved[p] = total(distance) > settled * settled


@kernel
def _costs(weighted, masses):
    """Turn the weighted sums of `_softmax` into ``Σ y·ln y - y·unary``; overwrites the masses."""
    for i in range(masses.size):
        weighted[i] /= masses[i]
    log_(masses, LEAST_MASS)
    for i in range(masses.size):
        weighted[i] -= masses[i]


@kernel
def first_sweep(rows, incidence, constants, given, blurred, onto, first, last):
    """The sweep over all pixels of a range: ``softmax(unary + sliced)`` where they are free, else the given labels.

    Narrows the spans to the classes that are not negligible, keeps unaries and labels of these only, and splats the
    labels. Returns the sum of the costs.
    """
    free, cost, width = rows.free, rows.cost, blurred.shape[1]
    logits, exps = np.empty((BLOCK_PIXELS, width), np.float32), np.empty((BLOCK_PIXELS, width), np.float32)
    masses, weighted = np.empty(BLOCK_PIXELS, np.float32), np.empty(BLOCK_PIXELS, np.float32)
    numbers, result, end = np.empty(BLOCK_PIXELS, np.int32), 0.0, np.int64(first) * (width // LANES)
    for start in range(first, last, BLOCK_PIXELS):
        here = numbers[: min(start + BLOCK_PIXELS, last) - start]
        for i in range(here.size):
            here[i] = start + i
        _slice(rows, incidence, here, blurred, logits)
        _narrow(rows, here, constants.negligible, logits)
        _hold(rows, given, here, logits)
        end = _pack(rows, here, end)
        _softmax(rows, here, constants.least_log, logits, exps, masses, weighted)
        for i in range(here.size):
            if not free[start + i]:
                exps[i], masses[i], weighted[i] = logits[i], 1, 0
        _settle(rows, here, exps, masses)
        _splat(exps, rows, incidence, here, onto)
        _costs(weighted[: here.size], masses[: here.size])
        for i in range(here.size):
            cost[start + i, 0] = weighted[i]
            result += weighted[i]
    return result


@kernel
def sweep(rows, incidence, constants, pixels, blurred, onto, first, last):
    """Slice, take ``softmax(unary + sliced)`` for the labels, and splat the change, at some of the given pixels.

    In stages of `BLOCK_PIXELS`, so that pixels of a stage do not wait for each other. Returns the change of the costs.
    """
    sides, cost, width = rows.sides, rows.cost, blurred.shape[1]
    logits, exps = np.empty((BLOCK_PIXELS, width), np.float32), np.empty((BLOCK_PIXELS, width), np.float32)
    masses, weighted = np.empty(BLOCK_PIXELS, np.float32), np.empty(BLOCK_PIXELS, np.float32)
    change = 0.0
    for start in range(first, last, BLOCK_PIXELS):
        here = pixels[start : min(start + BLOCK_PIXELS, last)]
        _slice(rows, incidence, here, blurred, logits)
        _softmax(rows, here, constants.least_log, logits, exps, masses, weighted)
        _exchange(rows, here, constants.settled, exps, masses)
        _splat(exps, rows, incidence, here, onto)
        _costs(weighted[: here.size], masses[: here.size])
        for i in range(here.size):
            p = here[i]
            side = sides[p]
            cost[p, side] = weighted[i]
            change += weighted[i] - cost[p, 1 - side]
    return change


@kernel
def join(own, scale, pixels, before, width, to, first, last):
    """Rows of one lattice's incidence in those `to` of all: places in tables of this `width`, weights times the scale.

    `before`: rows of the tables before those of this lattice.
    """
    vertex, weight, place, scaled = own.place, own.weight, to.place, to.weight
    for i in range(first, last):
        p = pixels[i]
        for c in range(vertex.shape[1]):
            place[i, c] = (vertex[p, c] + before) * width
            scaled[i, c] = weight[p, c] * scale[p % scale.size]


@kernel
def products(table, blurred, first, last):
    """``Σ_k t_k·b_k`` and ``(Σ_k t_k)·(Σ_k b_k)`` of two tables, summed over a range of rows in double precision."""
    alike, degree = 0.0, 0.0
    for row in range(first, last):
        product, a, b = np.float32(0), np.float32(0), np.float32(0)
        for j in range(table.shape[1]):
            product += table[row, j] * blurred[row, j]
            a += table[row, j]
            b += blurred[row, j]
        alike += product
        degree += a * b
    return alike, degree
