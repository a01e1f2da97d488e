"""Minimum cuts of undirected graphs with terminal costs."""

import numpy as np

from selflabel.kernels.memory import require_memory
from selflabel.numerics.cuts.maximum_flow import Array, maximum_flow


def minimum_cut(
    cost: Array, first: Array, second: Array, capacity: Array, degree: Array | None = None
) -> Array:
    """The ``x`` in ``{0, 1}^n`` that minimizes ``Σ cost_i x_i + Σ capacity_ij [x_i ≠ x_j]``; ties go to 0.

    `first`, `second` and `capacity` are ``[edges]``, `degree` ``[n]`` is the sum of capacities around each node, if
    known. Nodes whose cost outweighs their degree are decided beforehand, as long as that shrinks the graph: less to
    build and to search. The rest is a maximum flow, by the engine that is installed (`maximum_flow`), on one core.
    Nodes that its precision leaves open are decided by a flow among them, at the finer scale of their own costs.

    Raises `MemoryError` if that takes more memory than there is, `ImportError` if no engine is installed.
    """
    engine = maximum_flow()
    result = np.zeros(len(cost), dtype=bool)
    nodes = np.arange(len(cost))
    while len(nodes):
        degree = sums(first, second, capacity, len(cost)) if degree is None else degree
        ones = cost < -degree
        open_ = ~(ones | (cost >= degree))
        if open_.sum() > 0.8 * len(nodes):
            require_memory(
                engine.nbytes(len(nodes), len(first)),
                f"a minimum cut of {len(nodes)} pixels and {len(first)} pairs",
                FEWER,
            )
            source_side, sink_side = engine.sides(cost, first, second, capacity)
            ones |= sink_side
            open_ = ~(ones | source_side)
            if open_.all():  # any side is as good
                break
        result[nodes[ones]] = True
        if not open_.any():
            break
        cost, first, second, capacity = fix(cost, first, second, capacity, open_, ones)
        nodes, degree = nodes[open_], None
    return result


FEWER = (
    "label smaller images or crops, with fewer neighbors (a grid affinity), in fewer processes (workers), or with "
    "another solver (mean-field)"
)
"""What to do if graph cut runs out of memory."""


def fix(
    cost: Array, first: Array, second: Array, capacity: Array, open_: Array, ones: Array
) -> tuple[Array, Array, Array, Array]:
    """The problem on the open nodes: edges to decided nodes, 1 at `ones` and else 0, are folded into the costs."""
    open_first, open_second = open_[first], open_[second]
    cost = cost.copy()
    for here, there, border in (
        (first, second, open_first & ~open_second),
        (second, first, open_second & ~open_first),
    ):
        edges = np.flatnonzero(border)
        signed = np.where(ones[there[edges]], -capacity[edges], capacity[edges])
        cost += np.bincount(here[edges], signed, len(cost))
    inner = np.flatnonzero(open_first & open_second)
    number = np.cumsum(open_) - 1
    return cost[open_], number[first[inner]], number[second[inner]], capacity[inner]


def sums(first: Array, second: Array, values: Array, size: int) -> Array:
    """The sum of `values` over the edges of each node ``[size]``, float64."""
    return np.bincount(first, values, size) + np.bincount(second, values, size)
