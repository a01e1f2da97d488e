"""Maximum flows: the engines of minimum cuts, and the only module that knows PyMaxflow and OR-Tools."""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from math import frexp
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SUM_BITS = 61
"""Bits of the sum of all capacities at the source or at the sink, as integers: flows must fit into 63 bits."""

CAPACITY_BITS = 52
"""Bits of one capacity as an integer: all that float64 has."""


class Sides(NamedTuple):
    """Who is on which side of every minimum cut, ``[n]`` booleans each.

    A node in neither may lie on either side: the cut costs the same, as precisely as the engine computes.
    """

    source: Array
    sink: Array


@runtime_checkable
class Engine(Protocol):
    """Finds the minimum cut of a graph with a source and a sink."""

    def is_installed(self) -> bool:
        """Is the package there?"""

    def nbytes(self, nodes: int, edges: int) -> int:
        """The memory that `sides` takes beside its arguments, in bytes."""

    def sides(self, cost: Array, first: Array, second: Array, capacity: Array) -> Sides:
        """The minimum of ``Σ cost_i x_i + Σ capacity_ij [x_i ≠ x_j]``: x is 1 on the side of the sink.

        ``cost [n]`` has any sign; `first`, `second` and ``capacity`` (> 0) are ``[edges]``.
        """


@dataclass(frozen=True)
class BoykovKolmogorov:
    """PyMaxflow (GPL): augmenting paths in two search trees (Boykov & Kolmogorov, PAMI 2004), in float64.

    It holds the interpreter's lock: threads wait, and Ctrl-C comes through after the cut.
    """

    def is_installed(self) -> bool:
        """Is PyMaxflow there?"""
        return _has("maxflow")

    def nbytes(self, nodes: int, edges: int) -> int:
        """Nodes of 48 bytes and two arcs an edge of 32; copies of the arguments."""
        return 80 * nodes + 96 * edges

    def sides(self, cost: Array, first: Array, second: Array, capacity: Array) -> Sides:
        """As `Engine.sides`; nodes that may lie on either side are put to the source."""
        import maxflow

        graph = maxflow.GraphFloat(len(cost), len(first))
        nodes = graph.add_grid_nodes(len(cost))
        graph.add_grid_tedges(nodes, np.maximum(cost, 0), np.maximum(-cost, 0))
        if len(first):
            graph.add_edges(first, second, capacity, capacity)
        graph.maxflow()
        sink = np.asarray(graph.get_grid_segments(nodes))
        return Sides(~sink, sink)


@dataclass(frozen=True)
class PushRelabel:
    """OR-Tools (Apache 2.0): `SimpleMaxFlow`, push-relabel (Goldberg & Tarjan, JACM 1988) on integers.

    Capacities are multiplied by a power of two and rounded, so that those at the source, or at the sink, sum up to 61
    bits, and none has more than 52: a cut of n nodes and e edges is off by at most ``(n + e) 2^-51`` of the largest, or
    ``(n + e) 2^-60`` of that sum. Capacities with few digits are not rounded at all. It holds the interpreter's lock,
    as PyMaxflow does, and takes about four times as long.
    """

    def is_installed(self) -> bool:
        """Is OR-Tools there?"""
        return _has("ortools")

    def nbytes(self, nodes: int, edges: int) -> int:
        """An arc from or to each node and two an edge."""
        return 160 * nodes + 160 * edges

    def sides(self, cost: Array, first: Array, second: Array, capacity: Array) -> Sides:
        """As `Engine.sides`."""
        from ortools.graph.python.max_flow import SimpleMaxFlow

        costs, capacities = _integers(cost, capacity)
        size, joined = len(cost), np.flatnonzero(capacities)
        positive, negative = np.flatnonzero(costs > 0), np.flatnonzero(costs < 0)
        source, sink = size, size + 1
        first, second, capacities = first[joined], second[joined], capacities[joined]
        tails = (np.full(len(positive), source), negative, first, second)
        heads = (positive, np.full(len(negative), sink), second, first)
        flow = SimpleMaxFlow()
        flow.add_arcs_with_capacity(
            np.concatenate(tails).astype(np.int32),
            np.concatenate(heads).astype(np.int32),
            np.concatenate([costs[positive], -costs[negative], capacities, capacities]),
        )
        # the terminals exist even where no arc leads to them, as one between them is always cut
        flow.add_arc_with_capacity(source, sink, 1)
        status = flow.solve(source, sink)
        assert status == SimpleMaxFlow.OPTIMAL, status
        return Sides(
            _members(flow.get_source_side_min_cut(), size), _members(flow.get_sink_side_min_cut(), size)
        )


ENGINES: tuple[Engine, ...] = (BoykovKolmogorov(), PushRelabel())
"""The first that is installed is taken: the fastest, of equal answers."""


def maximum_flow() -> Engine:
    """The engine to use. `ImportError` with advice if none is installed."""
    for engine in ENGINES:
        if engine.is_installed():
            return engine
    raise ImportError(
        "graph-cut needs PyMaxflow (GPL) or OR-Tools (Apache 2.0): pip install PyMaxflow (Python up to 3.13), or "
        "pip install ortools, or use another solver"
    )


@cache
def _has(package: str) -> bool:
    return find_spec(package) is not None


def _integers(cost: Array, capacity: Array) -> tuple[Array, Array]:
    """Costs and capacities times a power of two, rounded to int64.

    No cut need cost more than all positive costs, or than all negative ones. What is larger than twice that is never
    cut and may as well be twice that: so the precision is that of what decides.
    """
    most = 2 * min(float(np.maximum(cost, 0).sum()), float(np.maximum(-cost, 0).sum()))
    if most > 0:
        cost, capacity = np.clip(cost, -most, most), np.minimum(capacity, most)
    total = max(float(np.maximum(cost, 0).sum()), float(np.maximum(-cost, 0).sum()))
    largest = max(float(np.abs(cost).max(initial=0)), float(capacity.max(initial=0)))
    bits = min(SUM_BITS - frexp(total)[1], CAPACITY_BITS - frexp(largest)[1])
    return np.rint(np.ldexp(cost, bits)).astype(np.int64), np.rint(np.ldexp(capacity, bits)).astype(np.int64)


def _members(nodes: list[int], size: int) -> Array:
    """True for the nodes that are listed; the terminals, `size` and above, are left out."""
    result = np.zeros(size + 2, dtype=bool)
    result[nodes] = True
    return result[:size]
