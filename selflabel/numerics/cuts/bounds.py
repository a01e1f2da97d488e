"""Bound optimization: hard labels that lower a Potts energy and a concave term, by moves on bounds of their sum."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from selflabel.numerics.cuts.maximum_flow import Array
from selflabel.numerics.cuts.moves import GAIN, MoveSearch, PottsGraph

SHIFTS = (0.0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)
"""Diagonals that are added to W, in units of the degrees: with 1, every W of no negative numbers is semidefinite."""


@dataclass(frozen=True, eq=False)
class RatioBound:
    """The linear bound at labels ``[n]`` of ``Σ_k 1 - S_k'WS_k / (d'S_k)`` with ``d = W 1``, the normalized cut.

    For a W that is positive semidefinite, each term is concave in S_k and homogeneous of degree one, so that the bound
    is the gradient at the labels times S: tight there, and nowhere below (Tang, Ben Ayed, Boykov, ECCV 2014; Tang et
    al., ECCV 2016). The bound of a class without a node is 0, as W has no negative numbers.

    `gradient` ``[k n]``, zero for empty classes; `degree` d ``[n]``; `volume` d'S_k ``[k]``; `weight` of the term.
    """

    gradient: Array
    degree: Array
    volume: Array
    weight: float

    def unary(self, labels: Array, shift: float) -> Array:
        """The bound as unaries ``[k n]``, of ``W + shift diag(d)`` in place of W.

        For hard labels the shift changes the term by a constant, at most: `shift` for each class with a node.
        """
        there = self.volume > 0
        share = np.divide(
            self.degree, self.volume[:, None], where=there[:, None], out=np.zeros_like(self.gradient)
        )
        bound = self.gradient + shift * share
        nodes = np.arange(len(labels))
        bound[labels, nodes] -= 2 * shift * share[labels, nodes]
        bound[~there] = 0
        return self.weight * bound

    def of(self, classes: Array, nodes: Array | slice = slice(None)) -> "RatioBound":
        """The bound for some classes, and on some nodes where the labels of all others are fixed."""
        part = self.gradient[classes][:, nodes]
        return RatioBound(part, self.degree[nodes], self.volume[classes], self.weight)


def with_bounds(graph: PottsGraph, bounds: Sequence[Array]) -> PottsGraph:
    """The graph with the unaries of bounds added to its own."""
    return replace(graph, unary=sum(bounds, graph.unary))


class BoundSearch:
    """The labels of one graph ``[n]``, improved by expansions on bounds; the caller says what each proposal is worth.

    `propose` gives labels that lower a bound, `judge` takes them if their energy is lower. Else the bound was none, as
    W is not semidefinite: the next one has a larger shift.
    """

    def __init__(self, graph: PottsGraph, labels: Array, energy: float, bounds: Sequence[RatioBound]) -> None:
        """`energy` and `bounds` are those of the labels."""
        self.graph = graph
        self.level, self.converged = 0, False
        self.labels, self.energy, self.bounds = labels, energy, tuple(bounds)
        self.proposal = labels

    def begin(self, soft: Array, unaries: Sequence[Array]) -> None:
        """Propose labels for a start from soft ones ``[k n]``, whose bounds are the unaries ``[k n]``.

        One sweep from the best of: the labels, the cheapest ones, those rounded. If that is a bound, the last have no
        more energy than the soft ones.
        """
        graph = with_bounds(self.graph, unaries)
        self._sweep(graph, min((self.labels, graph.cheapest, graph.round(soft)), key=graph.value))

    def begin_without_bounds(self) -> None:
        """Propose labels for a start: a sweep from the cheapest ones, with the graph's own unaries."""
        self._sweep(self.graph, self.graph.cheapest)

    def take(self, energy: float, bounds: Sequence[RatioBound]) -> bool:
        """Take the proposal, of this energy and these bounds, if it has less energy."""
        if energy >= self.energy - GAIN * (abs(self.energy) + 1):
            return False
        self.labels, self.energy, self.bounds = self.proposal, energy, tuple(bounds)
        return True

    def propose(self) -> None:
        """Propose labels: a sweep of expansions. Converged if none lowers the bound."""
        shift = SHIFTS[self.level]
        unaries = [bound.unary(self.labels, shift) for bound in self.bounds]
        self.converged = not self._sweep(with_bounds(self.graph, unaries), self.labels)

    def judge(self, energy: float, bounds: Sequence[RatioBound]) -> None:
        """`take` the proposal, or else raise the shift. Converged if there is no larger one."""
        if self.converged or self.take(energy, bounds):
            return
        self.converged = self.level + 1 == len(SHIFTS)
        self.level = min(self.level + 1, len(SHIFTS) - 1)

    def _sweep(self, graph: PottsGraph, labels: Array) -> bool:
        """Propose what a sweep of expansions makes of labels. Has it changed any?"""
        search = MoveSearch(graph, labels)
        has_changed = search.expansions()
        self.proposal = search.labels
        return has_changed
