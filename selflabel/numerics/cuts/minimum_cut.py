"""Minimum cuts of undirected graphs with terminal costs: the only module that knows PyMaxflow."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import maxflow
except ImportError:  # pragma: no cover - a test takes it away
    maxflow = None

Array = NDArray[Any]


def require_maximum_flow() -> None:
    """Raise `ImportError` with advice if PyMaxflow is missing."""
    if maxflow is None:
        raise ImportError("graph-cut needs PyMaxflow (GPL): pip install PyMaxflow, or use another solver")


def minimum_cut(
    cost: Array, first: Array, second: Array, capacity: Array, degree: Array | None = None
) -> Array:
    """The ``x`` in ``{0, 1}^n`` that minimizes ``Σ cost_i x_i + Σ capacity_ij [x_i ≠ x_j]``; ties go to 0.

    `first`, `second` and `capacity` are ``[edges]``, `degree` ``[n]`` is the sum of capacities around each node, if
    known. Nodes whose cost outweighs their degree are decided beforehand, as long as that shrinks the graph: less to
    build and to search. The maximum flow is that of Boykov and Kolmogorov, PAMI 2004, in float64, on one core.
    """
    result = np.zeros(len(cost), dtype=bool)
    nodes = np.arange(len(cost))
    while len(nodes):
        degree = sums(first, second, capacity, len(cost)) if degree is None else degree
        ones = cost < -degree
        open_ = ~(ones | (cost >= degree))
        result[nodes[ones]] = True
        if open_.sum() > 0.8 * len(nodes):
            result[nodes] |= _maximum_flow(cost, first, second, capacity)
            break
        cost, first, second, capacity = _fix(cost, first, second, capacity, open_, ones)
        nodes, degree = nodes[open_], None
    return result


def _fix(
    cost: Array, first: Array, second: Array, capacity: Array, open_: Array, ones: Array
) -> tuple[Array, Array, Array, Array]:
    """The problem on the open nodes: edges to decided nodes are folded into the costs."""
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


def _maximum_flow(cost: Array, first: Array, second: Array, capacity: Array) -> Array:
    graph = maxflow.GraphFloat(len(cost), len(first))
    nodes = graph.add_grid_nodes(len(cost))
    graph.add_grid_tedges(nodes, np.maximum(cost, 0), np.maximum(-cost, 0))
    if len(first):
        graph.add_edges(first, second, capacity, capacity)
    graph.maxflow()
    return np.asarray(graph.get_grid_segments(nodes))


def sums(first: Array, second: Array, values: Array, size: int) -> Array:
    """The sum of `values` over the edges of each node ``[size]``, float64."""
    return np.bincount(first, values, size) + np.bincount(second, values, size)
