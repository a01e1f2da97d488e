"""What a sweep of mean field does to a range of pixels.

Rows of unaries, labels and of the vertices' tables have a *lane* for every class, in an order in which classes that
compete for the same pixels are neighbors (``order[lane]`` is the class), padded to whole vectors. So each pixel gets by
with a *span* of lanes: from the first to before the last. Of its unaries and labels no others are kept: these begin at
its *start*, counted in vectors. Labels and costs have two *sides*, of which one is valid: the other one has those
before the last change.
"""

import numpy as np

from selflabel.kernels.cpu.compile import kernel
from selflabel.kernels.cpu.elementary import log_
from selflabel.kernels.cpu.rows import add_row, sum_rows
from selflabel.kernels.cpu.vectors import LANES, exp2, full, greater, largest, load, number, store, total

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
def read_labels(labels, spans, starts, sides, order, pixels, to, first, last):
    """Back to ``[k n]``; 0 outside of the spans."""
    half, block = labels.size // 2, np.empty((BLOCK, -(-order.size // LANES) * LANES), np.float32)
    for start in range(first, last, BLOCK):
        here = pixels[start : min(start + BLOCK, last)]
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
def prepare(
    probs, given, order, pixels, allowed, weight, floor, place, weights, corners, free, spans, unary, table, first, last
):  # fmt: skip
    """Unaries ``weight ln max(probs, floor)`` of a range of `pixels` by lane, all of them; splats the `given` labels.

    Both come as ``[k n]``; labels that are the same as `probs` need not be given. Returns the sum of the costs
    ``Σ y·ln y - y·unary`` of free pixels.
    """
    width, result = table.shape[1], 0.0
    labels, logs = np.empty((BLOCK, width), np.float32), np.empty((BLOCK, width), np.float32)
    here = np.empty(BLOCK, np.int32)
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
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
def _slice(unary, spans, starts, pixels, place, weight, corners, blurred, logits):
    """Rows ``unary + sliced`` of a block."""
    width = logits.shape[1]
    for i in range(pixels.size):
        p = np.int64(pixels[i])
        begin, stop = np.int64(number(spans, 2 * p)), np.int64(number(spans, 2 * p + 1))
        shift = np.int64(number(starts, p)) * LANES - begin
        for at in range(begin, stop, LANES):
            store(logits, i * width + at, load(unary, shift + at))
        sum_rows(
            blurred, begin, 1, place, weight, p * len(corners), corners, np.float32(1),
            logits, i * width + begin, stop - begin,
        )  # fmt: skip


@kernel
def _narrow(logits, unary, pixels, negligible, spans):
    """The spans of the classes whose labels can ever exceed ``exp(-negligible)``, where all lanes are in the span.

    Logits lie between their unary and that plus the sum of what was sliced, which is the same for all labels.
    """
    width = logits.shape[1]
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
def _hold(given, order, pixels, free, start, spans, logits):
    """Where labels are not free, those that were given as logits, and the span of those that are not zero."""
    for i in range(pixels.size):
        if free[start + i]:
            continue
        logits[i] = 0
        first, stop = logits.shape[1], LANES
        for lane in range(order.size):
            logits[i, lane] = given[order[lane], pixels[i]]
            if logits[i, lane] != 0:
                first = min(first, lane // LANES * LANES)
                stop = (lane // LANES + 1) * LANES
        spans[start + i, 0], spans[start + i, 1] = min(first, stop - LANES), stop


@kernel
def _pack(unary, spans, starts, pixels, end):
    """Moves the unaries in the spans of a block, of which all were kept, to the `end` of those before.

    Returns the new end; counts vectors.
    """
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
def _softmax(logits, unary, spans, starts, pixels, allowed, floor, exps, masses, weighted):
    """Rows of exponentials of the logits below their largest, at least ``exp(floor)``; their sums.

    And ``Σ exps·(logits - unary)``, with those logits. Classes that are not allowed get none.
    """
    width = logits.shape[1]
    for i in range(pixels.size):
        p = np.int64(pixels[i])
        begin, stop = np.int64(number(spans, 2 * p)), np.int64(number(spans, 2 * p + 1))
        shift = np.int64(number(starts, p)) * LANES - begin
        most = full(LEAST)
        for at in range(begin, stop, LANES):
            most = greater(most, load(logits, i * width + at))
        top, least, scale = full(largest(most)), full(floor), full(LOG2_E)
        mass, part = full(np.float32(0)), full(np.float32(0))
        for at in range(begin, stop, LANES):
            below = load(logits, i * width + at) - top
            value = exp2(greater(below, least) * scale) * load(allowed, at)
            store(exps, i * width + at, value)
            mass = mass + value
            part = part + value * (below - load(unary, shift + at))
        masses[i], weighted[i] = total(mass), total(part)


@kernel
def _settle(exps, masses, spans, starts, pixels, labels):
    """Exponentials over their sums, which are the labels: puts them on their first side."""
    width = exps.shape[1]
    for i in range(pixels.size):
        p = np.int64(pixels[i])
        begin, stop = np.int64(number(spans, 2 * p)), np.int64(number(spans, 2 * p + 1))
        shift, factor = np.int64(number(starts, p)) * LANES - begin, full(np.float32(1) / masses[i])
        for at in range(begin, stop, LANES):
            new = load(exps, i * width + at) * factor
            store(labels, shift + at, new)
            store(exps, i * width + at, new)


@kernel
def _exchange(exps, masses, spans, starts, sides, pixels, labels, moved, settled):
    """Puts the exponentials, over their sums, on the other side of the labels, which is valid then.

    Leaves in `exps` by how much they have changed, in `moved` whether by more than `settled`.
    """
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
        moved[i] = total(distance) > settled * settled


@kernel
def _costs(weighted, masses):
    """Puts ``Σ y·ln y - y·unary`` in place of the weighted sums of `_softmax`; uses the masses up."""
    for i in range(masses.size):
        weighted[i] /= masses[i]
    log_(masses, TINY)
    for i in range(masses.size):
        weighted[i] -= masses[i]


@kernel
def begin(
    given, order, pixels, free, allowed, place, weight, corners, blurred, floor, negligible,
    unary, labels, spans, starts, cost, onto, first, last,
):  # fmt: skip
    """The first sweep, over all `pixels` of a range: ``softmax(unary + sliced)`` where they are free, else as `given`.

    Narrows the spans to the classes whose labels can ever exceed ``exp(-negligible)``, leaves unaries and labels of
    these only, and splats the labels. Returns the sum of the costs.
    """
    width = blurred.shape[1]
    logits, exps = np.empty((BLOCK, width), np.float32), np.empty((BLOCK, width), np.float32)
    masses, weighted = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    numbers, result, end = np.empty(BLOCK, np.int32), 0.0, np.int64(first) * (width // LANES)
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        here = numbers[: stop - start]
        for i in range(here.size):
            here[i] = start + i
        _slice(unary, spans, starts, here, place, weight, corners, blurred, logits)
        _narrow(logits, unary, here, negligible, spans)
        _hold(given, order, pixels[start:stop], free, start, spans, logits)
        end = _pack(unary, spans, starts, here, end)
        _softmax(logits, unary, spans, starts, here, allowed, floor, exps, masses, weighted)
        for i in range(here.size):
            if not free[start + i]:
                exps[i], masses[i], weighted[i] = logits[i], 1, 0
        _settle(exps, masses, spans, starts, here, labels)
        _splat(exps, spans, here, place, weight, corners, onto)
        _costs(weighted[: here.size], masses[: here.size])
        for i in range(here.size):
            cost[start + i, 0] = weighted[i]
            result += weighted[i]
    return result


@kernel
def sweep(
    labels, unary, allowed, place, weight, corners, blurred, floor, settled, spans, starts, sides,
    pixels, cost, moved, onto, first, last,
):  # fmt: skip
    """At some pixels: slices `blurred`, puts ``softmax(unary + sliced)`` in place of the labels, splats the change.

    `moved` gets whether a label has changed by more than `settled`. Returns by how much the costs have changed. In
    stages, for as many pixels as the nearest cache holds: those of a stage do not wait for each other.
    """
    width = blurred.shape[1]
    logits, exps = np.empty((BLOCK, width), np.float32), np.empty((BLOCK, width), np.float32)
    masses, weighted = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    change = 0.0
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        here = pixels[start:stop]
        _slice(unary, spans, starts, here, place, weight, corners, blurred, logits)
        _softmax(logits, unary, spans, starts, here, allowed, floor, exps, masses, weighted)
        _exchange(exps, masses, spans, starts, sides, here, labels, moved[start:stop], settled)
        _splat(exps, spans, here, place, weight, corners, onto)
        _costs(weighted[: here.size], masses[: here.size])
        for i in range(here.size):
            p = here[i]
            side = sides[p]
            cost[p, side] = weighted[i]
            change += weighted[i] - cost[p, 1 - side]
    return change


@kernel
def join(vertex, weight, scale, pixels, before, width, to_place, to_weight, first, last):
    for i in range(first, last):
        p = pixels[i]
        for c in range(vertex.shape[1]):
            to_place[i, c] = (vertex[p, c] + before) * width
            to_weight[i, c] = weight[p, c] * scale[p % scale.size]


@kernel
def products(table, blurred, first, last):
    """``Σ_k t_k·b_k``, and ``(Σ_k t_k)·(Σ_k b_k)``, over some rows of both; rows are added up in double precision."""
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


@kernel
def add(x, to, first, last):
    for row in range(first, last):
        for j in range(x.shape[1]):
            to[row, j] += x[row, j]
