"""Potts energies of hard labels on a graph, and the moves that lower them: expansion, swap and fusion."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from scipy.sparse import coo_array

from selflabel.numerics.cuts.maximum_flow import Array
from selflabel.numerics.cuts.minimum_cut import minimum_cut, sums

GAIN = 1e-12
"""Share of the energy that a move has to gain: less is rounding."""


@dataclass(frozen=True, eq=False)
class PottsGraph:
    """The energy ``E(y) = Σ_i unary[y_i, i] + Σ_e weight_e [y_first(e) ≠ y_second(e)]`` of labels ``y [n]``.

    `unary` is ``[k n]``, of any sign; `first`, `second` (integers) and `weight` (> 0) are ``[edges]``. All sums are
    float64.
    """

    unary: Array
    first: Array
    second: Array
    weight: Array

    @property
    def size(self) -> int:
        return int(self.unary.shape[1])

    @cached_property
    def degree(self) -> Array:
        """The sum of the weights around each node ``[n]``."""
        return sums(self.first, self.second, self.weight, self.size)

    @cached_property
    def cheapest(self) -> Array:
        """The label of least unary of each node ``[n]``."""
        return np.asarray(self.unary.argmin(0))

    @cached_property
    def order(self) -> list[int]:
        """The labels, the most frequent of `cheapest` first: the same for any numbering of them."""
        counts = np.bincount(self.cheapest, minlength=len(self.unary))
        return [int(label) for label in np.lexsort((self.unary.sum(1), -counts))]

    def at(self, labels: Array) -> Array:
        """The unaries of a labeling ``[n]``."""
        return self.unary[labels, np.arange(self.size)]

    def cut(self, labels: Array) -> Array:
        """Which edges join different labels ``[edges]``."""
        return np.asarray(labels[self.first] != labels[self.second])

    def value(self, labels: Array) -> float:
        """The energy of a labeling."""
        return float(self.at(labels).sum() + self.weight @ self.cut(labels))

    def fold(self, settled: Array, labels: Array) -> tuple["PottsGraph", float]:
        """The problem on the nodes that are not settled, and the energy that it lacks.

        `labels` ``[n]`` are those of all nodes. Edges to settled nodes are folded into the unaries.
        """
        open_ = ~settled
        constant = float(self.at(labels)[settled].sum())
        open_first, open_second = open_[self.first], open_[self.second]
        unary = np.ascontiguousarray(self.unary[:, open_])
        number = np.cumsum(open_) - 1
        for here, there, border in (
            (self.first, self.second, open_first & ~open_second),
            (self.second, self.first, open_second & ~open_first),
        ):
            edges = np.flatnonzero(border)
            weight, label = self.weight[edges], labels[there[edges]]
            constant += float(weight.sum())  # w [x_i ≠ l] = w - w [x_i = l]
            np.subtract.at(unary.reshape(-1), label * unary.shape[1] + number[here[edges]], weight)
        closed = np.flatnonzero(~(open_first | open_second))
        cut = closed[labels[self.first[closed]] != labels[self.second[closed]]]
        inner = np.flatnonzero(open_first & open_second)
        graph = PottsGraph(unary, number[self.first[inner]], number[self.second[inner]], self.weight[inner])
        return graph, constant + float(self.weight[cut].sum())

    def expand(self, labels: Array, label: int, cut: Array) -> Array:
        """The best labeling in which any nodes have changed to `label`; `cut` is ``self.cut(labels)``.

        An expansion move of Boykov, Veksler and Zabih, PAMI 2001, section 5, without their auxiliary nodes.
        """
        current = self.at(labels)
        # a change, alone or with others, gains at most the degree
        active = (labels != label) & (self.unary[label] - current < self.degree)
        state = np.where(labels == label, np.uint8(2), active.view(np.uint8))
        first, second = state[self.first], state[self.second]
        both = (first & second) == 1
        # An edge of two active nodes costs w [y ≠ y'] if both stay, w if one changes, 0 if both do: a capacity of
        # w (1 - [y ≠ y'] / 2), and w [y ≠ y'] / 2 less for each that changes. An edge of an active node and one that
        # keeps its label costs w [y ≠ y'] before and w [y' ≠ label] after.
        linear = self.weight * np.where(both, -0.5 * cut, ((first | second) < 2) * 1.0 - cut)
        cost = (self.unary[label] - current + sums(self.first, self.second, linear, self.size))[active]
        capacity = (self.weight * (1 - 0.5 * cut))[both]
        number = np.cumsum(active) - 1
        changed = minimum_cut(cost, number[self.first[both]], number[self.second[both]], capacity)
        result = labels.copy()
        result[np.flatnonzero(active)[changed]] = label
        return result

    def swap(self, labels: Array, one: int, other: int) -> Array:
        """The best labeling in which nodes of the two labels have either of them: a swap move (section 4 there)."""
        active = (labels == one) | (labels == other)
        return self._choose(np.where(active, one, labels), np.where(active, other, labels))

    def fuse(self, labels: Array, proposal: Array) -> Array:
        """A labeling that has the label of one of the two at each node, and no more energy than either.

        A fusion move of Lempitsky, Rother, Roth and Blake, PAMI 2010, section 2, by a cut instead of QPBO: edges
        whose term is not submodular cost more where they mix the two, an upper bound that is tight at both labelings.
        """
        both = [labels, proposal, self._choose(labels, proposal)]
        return min(both, key=self.value)

    def _choose(self, zero: Array, one: Array) -> Array:
        """The best choice of `zero` or `one` at each node, for that upper bound."""
        active = zero != one
        edges = np.flatnonzero(active[self.first] | active[self.second])
        first, second, weight = self.first[edges], self.second[edges], self.weight[edges]
        # θ(x, x') = θ(0,0) + p x + q x' + c |x - x'|; dropping a negative c raises the terms that mix
        both_zero = weight * (zero[first] != zero[second])
        first_one = weight * (one[first] != zero[second])
        second_one = weight * (zero[first] != one[second])
        capacity = (first_one + second_one - both_zero - weight * (one[first] != one[second])) / 2
        cost = self.at(one) - self.at(zero)
        cost += np.bincount(first, first_one - both_zero - capacity, self.size)
        cost += np.bincount(second, second_one - both_zero - capacity, self.size)
        inner = capacity > 0
        number = np.cumsum(active) - 1
        ones = minimum_cut(cost[active], number[first[inner]], number[second[inner]], capacity[inner])
        result = zero.copy()
        nodes = np.flatnonzero(active)[ones]
        result[nodes] = one[nodes]
        return result

    def round(self, soft: Array) -> Array:
        """Hard labels ``[n]`` of no more energy than soft ones ``[k n]``: conditional expectations, node by node.

        ``Σ unary y + Σ w (1 - y_i·y_j)`` is linear in each node's labels, so the best vertex is never worse. Nodes
        that come before all their neighbors in a fixed shuffled order are rounded together.
        """
        soft, size = soft.T.astype(np.float64), self.size
        weights = coo_array((self.weight, (self.first, self.second)), shape=(size, size)).tocsr()
        weights = (weights + weights.T).tocsr()
        rank = np.argsort(np.arange(size) * 2654435761 % 2**32)
        first, second, open_ = self.first, self.second, np.ones(size, bool)
        while open_.any():
            ready = open_.copy()
            ready[np.where(rank[first] < rank[second], second, first)] = False
            nodes = np.flatnonzero(ready)
            best = (self.unary.T[nodes] - weights[nodes] @ soft).argmin(1)
            soft[nodes] = np.eye(soft.shape[1])[best]
            open_ &= ~ready
            inner = open_[first] & open_[second]
            first, second = first[inner], second[inner]
        return np.asarray(soft.argmax(1))


class MoveSearch:
    """A labeling of a graph, improved by moves; remembers which moves were tried in vain.

    Boykov, Veksler and Zabih, PAMI 2001, Figure 2; its step numbers stand beside the lines. This differs from it: a
    move is left out if nothing that it depends on has changed since it was tried last.
    """

    def __init__(self, graph: PottsGraph, labels: Array, order: Sequence[int] | None = None) -> None:
        self.graph, self.order = graph, graph.order if order is None else order
        self.version = 0
        # by label: the last version that changed its nodes
        self.changed = np.zeros(len(graph.unary), np.int64)
        # by move: the last version that it was tried on
        self.tried: dict[tuple[int, int], int] = {}
        self.restart(labels)

    def restart(self, labels: Array) -> None:
        """Continue from other labels (1)."""
        self.version += 1
        self.changed[:] = self.version
        self._set(labels)

    def _set(self, labels: Array) -> None:
        self.labels = labels
        self.cut = self.graph.cut(labels)
        self.present = np.bincount(labels, minlength=len(self.graph.unary)) > 0
        self.value = float(self.graph.at(labels).sum() + self.graph.weight @ self.cut)

    def expansions(self) -> bool:
        """Try to expand every label; True if that lowered the energy."""
        before = self.version  # 2
        for label in self.order:  # 3
            if self.tried.get((label, label)) != self.version:
                self._offer(self.graph.expand(self.labels, label, self.cut))  # 3.1
                self.tried[label, label] = self.version
        return self.version != before  # 4

    def swaps(self) -> bool:
        """Try to swap every pair of labels; True if that lowered the energy."""
        before = self.version  # 2
        for pair in combinations(self.order, 2):  # 3
            there = self.present[list(pair)].any()  # of 255 labels few are
            if there and self.changed[list(pair)].max() > self.tried.get(pair, -1):
                self._offer(self.graph.swap(self.labels, *pair))  # 3.1
                self.tried[pair] = self.version
        return self.version != before  # 4

    def _offer(self, labels: Array) -> None:
        """Take the labels if they have less energy (3.2)."""
        moved = labels != self.labels
        if not moved.any():
            return
        old = self.labels, self.cut, self.present, self.value
        self._set(labels)
        if self.value >= old[-1] - GAIN * (abs(old[-1]) + 1):
            self.labels, self.cut, self.present, self.value = old
            return
        self.version += 1
        self.changed[old[0][moved]] = self.changed[labels[moved]] = self.version


def explore(graph: PottsGraph) -> Array:
    """A start for expansions: the fusion of five labelings, with no more energy than any of them.

    Where expansions end depends on the start and on the order of the labels, by several tenths of a percent for strong
    pairs. Each of the five is one sweep of expansions of the frequent labels, from one label for all nodes or from the
    cheapest ones. Rare labels first is best more often than not.
    """
    share = np.bincount(graph.cheapest, minlength=len(graph.unary)) / max(graph.size, 1)
    order = [label for label in graph.order if share[label] * len(share) >= 0.25]
    reverse = order[::-1]

    def everywhere(rank: int) -> Array:
        return np.full(graph.size, order[rank % len(order)])

    best = None
    for labels, sequence in (
        (everywhere(0), reverse),
        (graph.cheapest, order),
        (everywhere(0), order[1::2] + order[::2]),
        (everywhere(2), reverse),
        (everywhere(1), order[::2][::-1] + order[1::2][::-1]),
    ):
        search = MoveSearch(graph, labels, sequence)
        search.expansions()
        best = search.labels if best is None else graph.fuse(best, search.labels)
    return np.asarray(best)
