"""Clusters: pixels so strongly tied to each other, compared with all that is around them, that their labels agree.

An object behind strong edges is joined to the seeds by weights that vanish beside those within it, from about 1e-16 on:
rounding takes them away, its matrix is singular, and methods that subtract find nothing, or the start. But labels
within it differ by the current that enters it times its resistance at most. Where that is below `SPREAD`, the cluster
becomes one node, whose equation holds its weak weights alone. Elimination without subtraction
(`kernels.cpu.elimination`) needs no clusters.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, dijkstra
from torch import Tensor

from selflabel.affinity.protocol import Edges
from selflabel.kernels.memory import Array
from selflabel.numerics.linear.system import System

SPREAD = 1e-9
"""Largest difference between the labels of a cluster."""

LEVEL = 1e-3
"""Ratio of a threshold to the last one: clusters are sought among the edges above each."""


@dataclass(frozen=True, eq=False)
class Equations:
    """The equations of one image on nodes: its free pixels, or clusters of them.

    ``Σ_j w_ij (y_i - y_j) + hold_i y_i = right_i`` with ``hold = Σ_k right_k``; each edge is listed once.
    """

    pixels: Array  # [p] the free pixels
    node: Array  # [p] of each pixel
    first: Array  # [e]
    second: Array  # [e]
    weight: Array  # [e]
    right: Array  # [n k]

    @property
    def is_contracted(self) -> bool:
        """Does some node stand for more than a pixel?"""
        return len(self.right) < len(self.pixels)

    @property
    def hold(self) -> Array:
        """``[n]``: the weight of what ties each node to seeds and predictions."""
        total: Array = self.right.sum(1)
        return total

    def residual(self, values: Array) -> Array:
        """``right - A y`` of values ``[n k]``, from differences, as `System.apply_to_differences`."""
        flow = self.weight[:, None] * (values[self.first] - values[self.second])
        result: Array = self.right - self.hold[:, None] * values - self._incidence @ flow
        return result

    @cached_property
    def _incidence(self) -> Any:
        """``[n e]``: 1 at the first node of each edge and -1 at the second."""
        count = len(self.first)
        signs, edges = np.repeat([1.0, -1.0], count), np.tile(np.arange(count), 2)
        nodes = np.concatenate([self.first, self.second])
        return csr_array((signs, (nodes, edges)), shape=(len(self.right), count))


def may_have_clusters(system: System) -> bool:
    """Do weights vary so much that `equations` may find clusters? Cost: a pass over the weights."""
    ties = system.right.sum(1)
    extremes = [ties[ties > 0].amin()] if bool((ties > 0).any()) else []
    weights = [pairs.weight for pairs in system.affinity.pairs() if pairs.weight.numel()]
    extremes += [system.scale * weight[weight > 0].amin() for weight in weights if bool((weight > 0).any())]
    top = max((system.scale * float(weight.amax()) for weight in weights), default=0.0)
    return min(map(float, extremes), default=top) < SPREAD * top


def equations(system: System, number: int) -> Equations:
    """The equations of one image, with its clusters as nodes."""
    edges = system.affinity.edges()
    free = system.free[number].flatten().cpu().numpy()
    pixels, place = np.flatnonzero(free), np.cumsum(free) - 1
    first, second = edges.first.cpu().numpy(), edges.second.cpu().numpy()
    weight = system.scale * edges.weight[number].double().cpu().numpy()
    inner = np.flatnonzero(free[first] & free[second] & (weight != 0))
    first, second, weight = place[first[inner]], place[second[inner]], weight[inner]
    right = np.ascontiguousarray(system.right[number].flatten(1).cpu().numpy()[:, pixels].T)
    node = find_clusters(first, second, weight, right.sum(1))
    if node is None:
        return Equations(pixels, np.arange(len(pixels)), first, second, weight, right)
    first, second, count = node[first], node[second], int(node.max()) + 1
    crossing = np.flatnonzero(first != second)
    ends = np.minimum(first, second)[crossing], np.maximum(first, second)[crossing]
    joined = coo_array((weight[crossing], ends), shape=(count, count)).tocsr().tocoo()  # adds up equal pairs
    sums = np.stack([np.bincount(node, column, count) for column in right.T], 1)
    rows, columns = (x.astype(np.int64) for x in joined.coords)
    return Equations(pixels, node, rows, columns, joined.data, sums)


def find_clusters(first: Array, second: Array, weight: Array, hold: Array) -> Array | None:
    """The cluster of each node ``[n]``, numbered from 0; None if each is one of its own.

    The largest sets that edges above some threshold connect, whose labels differ by less than `SPREAD`. Cost: for each
    threshold, a pass over the edges; none where weights and `hold` vary by less than `SPREAD`.
    """
    ties = hold[hold > 0]
    if not len(weight) or not np.isfinite(weight).all():
        return None
    top, least = weight.max(), min(weight.min(), ties.min(initial=np.inf))
    if least >= SPREAD * top:
        return None
    nodes = len(hold)
    cluster = np.arange(nodes)
    level = top
    while level > least:
        level *= LEVEL
        strong = np.flatnonzero(weight >= level)
        ends = first[strong], second[strong]
        count, member = connected_components(
            csr_array((weight[strong], ends), (nodes, nodes)), directed=False
        )
        leaving = np.flatnonzero(member[first] != member[second])
        around = np.bincount(member, hold, count)
        for end in (first, second):
            around += np.bincount(member[end[leaving]], weight[leaving], count)
        large = (np.bincount(member, minlength=count) > 1) & (around <= SPREAD * top)
        if large.any():
            resistance = _resistances(member, count, large, *ends, weight[strong])
            found = large & (around * resistance <= SPREAD)
            inside = found[member]
            cluster[inside] = _first_nodes(member, count)[member[inside]]
    names, result = np.unique(cluster, return_inverse=True)
    return result if len(names) < nodes else None


def _resistances(
    member: Array, count: int, large: Array, first: Array, second: Array, weight: Array
) -> Array:
    """A bound of the resistance between any two nodes of each large component: twice the longest path to one."""
    roots = _first_nodes(member, count)
    here = large[member[first]]
    with np.errstate(divide="ignore", over="ignore"):
        lengths = 1 / weight[here]
    graph = csr_array((lengths, (first[here], second[here])), shape=(len(member),) * 2)
    distance = dijkstra(graph, directed=False, indices=roots[large], min_only=True)
    longest = np.zeros(count)
    np.maximum.at(longest, member, np.where(large[member], distance, 0))
    return 2 * longest


def _first_nodes(member: Array, count: int) -> Array:
    """The first node of each component."""
    result = np.empty(count, np.int64)
    result[member[::-1]] = np.arange(len(member))[::-1]
    return result


@dataclass(frozen=True, eq=False)
class GraphAffinity:
    """Any pairs of n nodes of one image, as a `SparseAffinity`; nodes are a single spatial axis."""

    nodes: int
    first: Integer[Tensor, " e"]
    second: Integer[Tensor, " e"]
    weight: Float[Tensor, "1 1 e"]

    @property
    def shape(self) -> tuple[int, ...]:
        """``(1, n)``."""
        return (1, self.nodes)

    def pairs(self) -> Iterator["GraphPairs"]:
        """One block."""
        yield GraphPairs(self.first, self.second, self.weight)

    def edges(self) -> Edges:
        """The pairs."""
        return Edges(self.first, self.second, self.weight[:, 0])

    def apply(self, labels: Float[Tensor, "b k n"]) -> Float[Tensor, "b k n"]:
        """``W x``."""
        result = torch.zeros_like(labels)
        for pairs in self.pairs():
            pairs.add_products(result, pairs.weight, pairs.second(labels), pairs.first(labels))
        return result

    def degree(self) -> Float[Tensor, "b 1 n"]:
        """``W 1``."""
        return self.apply(self.weight.new_ones(1, 1, self.nodes))

    def as_matrix(self) -> Float[Tensor, "b n n"]:
        """Dense W, for tests."""
        return self.apply(torch.eye(self.nodes, dtype=self.weight.dtype)[None])


@dataclass(frozen=True, eq=False)
class GraphPairs:
    """All pairs of a `GraphAffinity`."""

    first_nodes: Tensor
    second_nodes: Tensor
    weight: Tensor

    def first(self, values: Tensor) -> Tensor:
        """A copy."""
        return values[..., self.first_nodes]

    def second(self, values: Tensor) -> Tensor:
        """A copy."""
        return values[..., self.second_nodes]

    def add(self, to: Tensor, at_first: Tensor, at_second: Tensor) -> None:
        """In place."""
        to.index_add_(-1, self.first_nodes, at_first).index_add_(-1, self.second_nodes, at_second)

    def add_products(self, to: Tensor, scale: Tensor, at_first: Tensor, at_second: Tensor) -> None:
        """In place."""
        self.add(to, scale * at_first, scale * at_second)


def as_system(given: Equations, device: torch.device) -> System:
    """The equations as a `System` of one image, whose only axis are the nodes."""

    def tensor(values: Array) -> Tensor:
        return torch.from_numpy(values).to(device)

    nodes = len(given.right)
    weight, right = tensor(given.weight)[None, None], tensor(given.right.T.copy())[None]
    affinity = GraphAffinity(nodes, tensor(given.first), tensor(given.second), weight)
    diagonal = affinity.degree() + right.sum(1, keepdim=True)
    return System(affinity, 1.0, torch.ones_like(diagonal, dtype=torch.bool), diagonal, right)
