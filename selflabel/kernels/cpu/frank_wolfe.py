"""Frank-Wolfe steps with Euclidean smoothing, on labels that lie pixel by pixel in memory: ``[n k]``, K classes.

One pass over the pixels finds the end of a step and all sums that need no filtering, another one the sum that does.
"""

import numpy as np

from selflabel.kernels.cpu.compile import kernel


@kernel
def aim(unary, filtered, labels, square, free, forbidden, pull, rho, least_weight, end, first, last):
    """Write the end of a step at the pixels from `first` to `last`: the projection of ``(κ W y - u) / (q + ρ)``.

    Returns sums over them, with ``d = end - y``: the gap, ``∇E·d``, ``Σ q ‖d‖²``, ``y·d`` and ``‖d‖²``. `square`: q of
    each pixel, empty if it is zero; `forbidden`: of each class, empty if none is. At seeds the end is the labels.
    """
    classes = labels.shape[1]
    gap, slope, square_sum, overlap, length = 0.0, 0.0, 0.0, 0.0, 0.0
    costs = np.empty(classes, labels.dtype)
    near, excess = np.empty(classes, np.int64), np.empty(classes, labels.dtype)
    for i in range(first, last):
        if not free[i]:
            for k in range(classes):
                end[i, k] = labels[i, k]
            continue
        cost, norm = 0.0, 0.0
        for k in range(classes):
            costs[k] = unary[i, k] - pull * filtered[i, k]
            end[i, k] = 0
            label = np.float64(labels[i, k])
            cost += label * costs[k]
            norm += label * label
        for k in range(len(forbidden)):
            if forbidden[k]:
                costs[k] = np.inf
        q = square[i] if len(square) else labels.dtype.type(0)
        least = _least(costs)
        weight = max(q + rho, least_weight)
        count = _near_least(costs, least, weight, near, excess)
        theta = threshold(excess, count)
        there, common, length_there = 0.0, 0.0, 0.0
        for j in range(count):
            k, mass = near[j], max(excess[j] - theta, 0)
            end[i, k] = mass
            there += np.float64(mass) * costs[k]
            common += np.float64(mass) * labels[i, k]
            length_there += np.float64(mass) * mass
        own = length_there - 2 * common + norm
        if len(square):
            for k in range(classes):
                costs[k] += q * labels[i, k]
            least = _least(costs)
        gap += cost + q * norm - least
        slope += there - cost + q * (common - norm)
        square_sum += q * own
        overlap += common - norm
        length += own
    return gap, slope, square_sum, overlap, length


@kernel
def _least(costs):
    least = costs[0]
    for k in range(1, len(costs)):
        least = costs[k] if costs[k] < least else least
    return least


@kernel
def _near_least(costs, least, weight, near, excess):
    """The classes that may be in the projection, within `weight` of the least cost, and ``(least - cost) / weight``."""
    count, most = 0, least + weight
    for k in range(len(costs)):
        # the first part is cheaper, the second one exact
        if costs[k] <= most and least - costs[k] > -weight:
            near[count], excess[count] = k, (least - costs[k]) / weight
            count += 1
    return count


@kernel
def threshold(excess, count):
    """θ with ``Σ max(v - θ, 0) = 1`` for the first `count` values, as in `numerics.descent.smoothing`."""
    theta = excess.dtype.type(-1)
    for _ in range(count):
        mass, above = 0.0, 0
        for j in range(count):
            if excess[j] > theta:
                mass += excess[j]
                above += 1
        moved = excess.dtype.type((mass - 1) / above)
        if not moved > theta:
            break
        theta = moved
    return theta


@kernel
def bend(labels, end, filtered, filtered_end, first, last):
    """``Σ d·W d`` over the pixels from `first` to `last`, from W of both ends."""
    result = 0.0
    for i in range(first, last):
        row = 0.0
        for k in range(labels.shape[1]):
            row += (end[i, k] - labels[i, k]) * (filtered_end[i, k] - filtered[i, k])
        result += row
    return result
