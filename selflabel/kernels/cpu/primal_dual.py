"""Primal-dual steps for total variation, on labels that lie pixel by pixel in memory: ``[n k]``, K classes.

Duals are ``[m n k]``, by the first pixel of a pair, with weights ``[m n]`` that are zero where there is no pair, and
offsets ``[m]`` in pixels from the first to the second one.
"""

import numpy as np

from selflabel.kernels.cpu.compile import exact_kernel, kernel
from selflabel.kernels.cpu.frank_wolfe import threshold


@kernel
def pulled_costs(unary, duals, weights, offsets, i, costs):
    """Write the costs of pixel i, ``u + K'q``."""
    classes = unary.shape[1]
    for k in range(classes):
        costs[k] = unary[i, k]
    for m in range(len(offsets)):
        weight, j = weights[m, i], i - offsets[m]
        if weight > 0:
            for k in range(classes):
                costs[k] -= weight * duals[m, i, k]
        if j >= 0 and weights[m, j] > 0:
            weight = weights[m, j]
            for k in range(classes):
                costs[k] += weight * duals[m, j, k]


@exact_kernel
def lower(
    unary, duals, weights, offsets, rate, free, forbidden, relaxation, point, labels, ahead, first, last
):
    """Labels of the pixels from `first` to `last` down the slope, projected; and the points ahead of them.

    `forbidden`: of each class, empty if none is. Seeds keep their labels. Exact: with large costs, sums in another
    order would lose the labels.
    """
    classes = unary.shape[1]
    costs, excess = np.empty(classes, unary.dtype), np.empty(classes, unary.dtype)
    for i in range(first, last):
        if free[i]:
            pulled_costs(unary, duals, weights, offsets, i, costs)
            most = unary.dtype.type(-np.inf)
            for k in range(classes):
                value = point[i, k] - rate[i] * costs[k]
                costs[k] = -np.inf if len(forbidden) and forbidden[k] else value
                most = max(most, costs[k])
            count = 0
            for k in range(classes):
                if costs[k] - most > -1:
                    excess[count] = costs[k] - most
                    count += 1
            theta = threshold(excess, count)
            for k in range(classes):
                labels[i, k] = max(costs[k] - most - theta, 0)
        for k in range(classes):
            ahead[i, k] = 2 * labels[i, k] - point[i, k]
            point[i, k] += relaxation * (labels[i, k] - point[i, k])


@kernel
def lift(ahead, weights, offsets, rate, limit, is_isotropic, relaxation, duals, first, last):
    """Duals of the pairs whose first pixels are from `first` to `last` up the slope, within their limit."""
    classes, pairs = ahead.shape[1], len(offsets)
    moved, squares = np.empty((pairs, classes), ahead.dtype), np.empty(classes, ahead.dtype)
    for i in range(first, last):
        largest = ahead.dtype.type(0)
        for m in range(pairs):
            largest = max(largest, weights[m, i])
        squares[:] = 0
        for m in range(pairs):
            weight, j = weights[m, i], i + offsets[m]
            if weight > 0:
                step = rate * weight / largest if is_isotropic else rate
                for k in range(classes):
                    moved[m, k] = duals[m, i, k] + step * (ahead[j, k] - ahead[i, k])
                    squares[k] += moved[m, k] * moved[m, k]
        for m in range(pairs):
            if weights[m, i] > 0:
                for k in range(classes):
                    best = _limited(moved[m, k], squares[k], limit, is_isotropic)
                    duals[m, i, k] += relaxation * (best - duals[m, i, k])


@kernel
def _limited(dual, square, limit, is_isotropic):
    if is_isotropic:
        return dual if square <= limit * limit else dual * limit / np.sqrt(square)
    return max(-limit, min(limit, dual))


@kernel
def limit_duals(duals, weights, limit, is_isotropic, result, first, last):
    """Write the duals of the pairs of some pixels, moved into their limit."""
    pairs, _, classes = duals.shape
    for i in range(first, last):
        for k in range(classes):
            square = duals.dtype.type(0)
            for m in range(pairs):
                if weights[m, i] > 0:
                    square += duals[m, i, k] * duals[m, i, k]
            for m in range(pairs):
                result[m, i, k] = _limited(duals[m, i, k], square, limit, is_isotropic)


@kernel
def least_costs(unary, duals, weights, offsets, labels, free, forbidden, first, last):
    """The sum over some pixels of the least cost ``u + K'q`` of an allowed class; at seeds of that of their labels."""
    classes, result = unary.shape[1], 0.0
    costs = np.empty(classes, unary.dtype)
    for i in range(first, last):
        pulled_costs(unary, duals, weights, offsets, i, costs)
        least = np.inf
        if free[i]:
            for k in range(classes):
                if not (len(forbidden) and forbidden[k]):
                    least = min(least, np.float64(costs[k]))
        else:
            least = 0.0
            for k in range(classes):
                least += np.float64(labels[i, k]) * costs[k]
        result += least
    return result
