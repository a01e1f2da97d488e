"""What a sweep of mean field does to a range of pixels.

Rows of labels, unaries and of the vertices' tables have a *lane* for every class, in an order in which classes that
compete for the same pixels are neighbors (``order[lane]`` is the class), padded to whole vectors. So each pixel gets by
with a *span* of lanes: from the first to before the last.
"""

import numpy as np

from selflabel.kernels.compile import kernel
from selflabel.kernels.elementary import log_
from selflabel.kernels.rows import add_row, sum_rows
from selflabel.kernels.vectors import LANES, exp2, full, greater, largest, load, number, store, total

LEAST = np.float32(-1e30)
"""The unary of lanes without a class, or of one that is not allowed."""

BLOCK = 32
"""Pixels at a time: what a stage writes is in the nearest cache for the next one."""

TINY = np.float32(1e-30)
"""Below any sum of exponentials."""

LOG2_E = np.float32(1.4426950408889634)


@kernel
def _by_lane(labels, order, pixels, to):
    """Labels ``[k n]`` of some pixels, by pixel and lane; 0 in lanes without a class."""
    to[:, order.size :] = 0
    for lane in range(order.size):
        row = labels[order[lane]]
        for i in range(len(to)):
            to[i, lane] = row[pixels[i]]


@kernel
def by_class(labels, order, pixels, to, first, last):
    """Back to ``[k n]``."""
    for start in range(first, last, BLOCK):
        here = pixels[start : min(start + BLOCK, last)]
        for lane in range(order.size):
            row = to[order[lane]]
            for i in range(here.size):
                row[here[i]] = labels[start + i, lane]


@kernel
def prepare(
    probs, given, order, pixels, allowed, weight, floor, place, weights, corners, free, unary, labels, spans, cost,
    table, first, last,
):  # fmt: skip
    """Unaries ``weight ln max(probs, floor)`` and labels of a range of `pixels` by lane; splats the labels.

    Both come as ``[k n]``; labels that are the same as `probs` need not be given. Returns the sum of the costs
    ``Σ y·ln y - y·unary`` of free pixels.
    """
    width, result = labels.shape[1], 0.0
    logs, here = np.empty((BLOCK, width), np.float32), np.empty(BLOCK, np.int32)
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        tile, fixed, own = logs[: stop - start], unary[start:stop], labels[start:stop]
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
            cost[start + i] = pixel
            result += pixel if free[start + i] else np.float32(0)
            here[i] = start + i
        _splat(own, spans, here[: len(own)], place, weights, corners, table)
    return result


@kernel
def _splat(x, spans, pixels, place, weight, corners, table):
    """Adds rows of a block, times the weights, to rows of the table."""
    width = x.shape[1]
    for i in range(pixels.size):
        p = np.int64(pixels[i])
        begin, stop = np.int64(number(spans, 2 * p)), np.int64(number(spans, 2 * p + 1))
        add_row(x, i * width + begin, stop - begin, 1, place, weight, p * len(corners), corners, table, begin)


@kernel
def _slice(unary, spans, pixels, place, weight, corners, blurred, logits):
    """Rows ``unary + sliced`` of a block."""
    width = unary.shape[1]
    for i in range(pixels.size):
        p = np.int64(pixels[i])
        begin, stop = np.int64(number(spans, 2 * p)), np.int64(number(spans, 2 * p + 1))
        for at in range(begin, stop, LANES):
            store(logits, i * width + at, load(unary, p * width + at))
        sum_rows(
            blurred, begin, 1, place, weight, p * len(corners), corners, np.float32(1),
            logits, i * width + begin, stop - begin,
        )  # fmt: skip


@kernel
def _narrow(logits, unary, pixels, negligible, spans):
    """The spans of the classes whose labels can ever exceed ``exp(-negligible)``.

    Logits lie between their unary and that plus the sum of what was sliced, which is the same for all labels.
    """
    width = unary.shape[1]
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
def _softmax(logits, unary, spans, pixels, allowed, floor, exps, masses, weighted):
    """Rows of exponentials of the logits below their largest, at least ``exp(floor)``; their sums.

    And ``Σ exps·(logits - unary)``, with those logits. Classes that are not allowed get none.
    """
    width = unary.shape[1]
    for i in range(pixels.size):
        p = np.int64(pixels[i])
        begin, stop = np.int64(number(spans, 2 * p)), np.int64(number(spans, 2 * p + 1))
        most = full(LEAST)
        for at in range(begin, stop, LANES):
            most = greater(most, load(logits, i * width + at))
        shift, least, scale = full(largest(most)), full(floor), full(LOG2_E)
        mass, part = full(np.float32(0)), full(np.float32(0))
        for at in range(begin, stop, LANES):
            below = load(logits, i * width + at) - shift
            value = exp2(greater(below, least) * scale) * load(allowed, at)
            store(exps, i * width + at, value)
            mass = mass + value
            part = part + value * (below - load(unary, p * width + at))
        masses[i], weighted[i] = total(mass), total(part)


@kernel
def _exchange(exps, masses, spans, pixels, labels, before, moved, settled):
    """Puts the exponentials, over their sums, in place of the labels; leaves in `exps` by how much these have changed.

    `before` gets what they were, `moved` whether they have changed by more than `settled`.
    """
    width, stride = labels.shape[1], before.shape[1]
    for i in range(pixels.size):
        p = np.int64(pixels[i])
        begin, stop = np.int64(number(spans, 2 * p)), np.int64(number(spans, 2 * p + 1))
        factor, distance = full(np.float32(1) / masses[i]), full(np.float32(0))
        for at in range(begin, stop, LANES):
            new, old = load(exps, i * width + at) * factor, load(labels, p * width + at)
            store(labels, p * width + at, new)
            store(before, i * stride + at, old)
            change = new - old
            store(exps, i * width + at, change)
            distance = distance + change * change
        moved[i] = total(distance) > settled * settled


@kernel
def sweep(
    labels, unary, allowed, place, weight, corners, blurred, floor, settled, negligible, spans, narrowed,
    pixels, before, cost, moved, onto, first, last,
):  # fmt: skip
    """At some pixels: slices `blurred`, puts ``softmax(unary + sliced)`` in place of the labels, splats the change.

    `before` gets labels and cost as they were, `moved` whether a label has changed by more than `settled`, and
    `narrowed` (unless empty) the spans of the classes whose labels can ever exceed ``exp(-negligible)``. Returns by how
    much the costs have changed. In stages, for as many pixels as the nearest cache holds: those of a stage do not wait
    for each other.
    """
    width = labels.shape[1]
    logits, exps = np.empty((BLOCK, width), np.float32), np.empty((BLOCK, width), np.float32)
    masses, weighted = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    change = 0.0
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        here, kept = pixels[start:stop], before[start:stop]
        _slice(unary, spans, here, place, weight, corners, blurred, logits)
        if len(narrowed):
            _narrow(logits, unary, here, negligible, narrowed)
        _softmax(logits, unary, spans, here, allowed, floor, exps, masses, weighted)
        _exchange(exps, masses, spans, here, labels, kept, moved[start:stop], settled)
        _splat(exps, spans, here, place, weight, corners, onto)
        for i in range(here.size):
            weighted[i] /= masses[i]
        log_(masses[: here.size], TINY)
        for i in range(here.size):
            kept[i, width] = cost[here[i]]
            cost[here[i]] = weighted[i] - masses[i]
            change += cost[here[i]] - kept[i, width]
    return change


@kernel
def restore(labels, cost, spans, pixels, before):
    """Undoes a sweep."""
    for i in range(pixels.size):
        p = pixels[i]
        for lane in range(spans[p, 0], spans[p, 1]):
            labels[p, lane] = before[i, lane]
        cost[p] = before[i, labels.shape[1]]
