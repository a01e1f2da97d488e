"""Hard labels by minimum cuts: exact for two classes, expansion or swap moves for more."""

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse import coo_array
from torch import Tensor

from selflabel.affinity.protocol import Edges, SparseAffinity
from selflabel.driver import Step
from selflabel.labels import UNLABELED, one_hot
from selflabel.problem import Energy, Problem
from selflabel.terms import BILINEAR, STANDARD

try:
    import maxflow
except ImportError:  # pragma: no cover - a test takes it away
    maxflow = None

Array = NDArray[Any]

GAIN = 1e-12
"""Moves that gain less than this share of the energy are rounding, not progress."""


class Moves(enum.Enum):
    """What one minimum cut may change when there are more than two classes."""

    EXPANSION = "expansion"
    """Any pixels to one class; the energy ends within twice the optimum."""
    SWAP = "swap"
    """Any pixels of two classes to the other of the two; no guarantee, and more cuts."""


@dataclass(frozen=True)
class GraphCut:
    """Minimizes ``η Σ_{i∉Ω} H(y_i, σ_i) + λ Σ_ij w_ij [y_i ≠ y_j]`` over hard labels by minimum cuts.

    *Exact* for images with two allowed classes. For more, expansion moves (default) end in a labeling that
    no move improves: with unaries ``≥ 0``, its energy is at most twice the optimum (Boykov, Veksler, Zabih,
    PAMI 2001, Theorem 6.1), and `Step.bound` is the lower bound that follows. A step is one sweep of moves.

    *Energies*: couplings that are finite at hard labels (not the reverse one), relaxations that are the
    Potts model there (bi-linear, quadratic, normalized quadratic), sparse affinities with any weight per
    pair; else `ValueError`. `entropy_weight` has no effect: hard labels have none. The result is never above
    the start for the standard coupling with the bi-linear relaxation; other energies may be lower at soft
    labels than at any hard ones.

    *Cost*: before the moves, pixels are fixed whose label is the same in some optimum: seeds, and those that
    win their class against the best of all the others (Kovtun, DAGM 2003), one cut a class. What is left
    takes one cut a class and sweep, without pixels that cannot gain. The cuts (Boykov and Kolmogorov, PAMI
    2004; PyMaxflow, GPL) run on one CPU core, image by image: PyMaxflow holds the interpreter's lock, so
    threads do not help; label folders with several processes. CUDA labels are copied there and back.

    Use `RandomWalker` for soft labels, `MeanField` for dense affinities, `GradientDescent` for other terms.
    """

    name: ClassVar[str] = "graph-cut"
    default_energy: ClassVar[Energy] = Energy(STANDARD, BILINEAR, coupling_weight=1.0, pairwise_weight=8.0)
    needs_edges: ClassVar[bool] = True

    moves: Moves = Moves.EXPANSION

    def iterate(self, problem: Problem, labels: Float[Tensor, "b k *s"]) -> Iterator[Step]:
        """Yield after every sweep. Raises `ValueError` for energies and affinities that do not fit."""
        if maxflow is None:
            raise ImportError("graph-cut needs PyMaxflow (GPL): pip install PyMaxflow, or use another solver")
        costs, edges = _costs(problem), _edges(problem)
        linear = problem.energy.coupling is STANDARD and problem.energy.relaxation is BILINEAR
        ceiling = problem.value(labels).tolist() if linear else [np.inf] * len(labels)
        images = [
            _Image(problem, costs, edges, labels, number, ceiling[number]) for number in range(len(labels))
        ]
        while True:
            for image in images:
                if not image.converged:
                    image.sweep(self.moves)
            yield _step(images, labels)
            if all(image.converged for image in images):
                return


def _costs(problem: Problem) -> Float[Tensor, "b k *s"]:
    """Cost of each hard label, or the `ValueError` that says what does not fit."""
    energy = problem.energy
    if energy.coupling.at_vertices is None:
        raise ValueError(
            f"graph-cut: expected a coupling that is finite at hard labels, got {energy.coupling.name!r}: "
            f"use 'standard', 'collision' or 'quadratic', or the gradient-descent solver"
        )
    if not energy.relaxation.is_potts:
        raise ValueError(
            f"graph-cut: expected a relaxation that is the Potts model at hard labels, got "
            f"{energy.relaxation.name!r}: use 'bilinear', 'quadratic' or 'normalized-quadratic', or the "
            f"gradient-descent solver"
        )
    return energy.coupling.at_vertices(problem.probs)


def _edges(problem: Problem) -> Edges:
    affinity = problem.affinity
    if not isinstance(affinity, SparseAffinity):
        raise ValueError(
            f"graph-cut: expected an affinity that lists its pairs, got {type(affinity).__name__}: use a "
            f"grid or window affinity, or the mean-field solver"
        )
    return affinity.edges()


def _numpy(values: Tensor) -> Array:
    return values.detach().cpu().numpy()


def _step(images: list["_Image"], labels: Tensor) -> Step:
    def tensor(values: list[Any], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=labels.device)

    index = torch.from_numpy(np.array([image.full_index() for image in images], dtype=np.int64))
    index = index.view(labels.shape[0], *labels.shape[2:]).to(labels.device)
    return Step(
        one_hot(index, labels.shape[1], labels.dtype),
        energy=tensor([image.energy for image in images], torch.float64),
        bound=tensor([image.bound for image in images], torch.float64),
        converged=tensor([image.converged for image in images], torch.bool),
    )


# --- one cut ------------------------------------------------------------------------------------------------


def minimum_cut(
    cost: Array, first: Array, second: Array, capacity: Array, reach: Array | None = None
) -> Array:
    """The x in {0, 1}^n that minimizes ``Σ cost_i x_i + Σ capacity_ij [x_i ≠ x_j]``; ties go to 0.

    Nodes whose cost outweighs all their edges are decided beforehand, as long as that shrinks the graph: less
    to build, and the flow through them is never searched for.
    """
    result = np.zeros(len(cost), dtype=bool)
    nodes = np.arange(len(cost))
    while len(nodes):
        reach = _sums(first, second, capacity, capacity, len(cost)) if reach is None else reach
        ones = cost < -reach
        open_ = ~(ones | (cost >= reach))
        result[nodes[ones]] = True
        if open_.sum() > 0.8 * len(nodes):
            result[nodes] |= _maximum_flow(cost, first, second, capacity)
            break
        cost, first, second, capacity = _fix(cost, first, second, capacity, open_, ones)
        nodes, reach = nodes[open_], None
    return result


def _fix(
    cost: Array, first: Array, second: Array, capacity: Array, open_: Array, ones: Array
) -> tuple[Array, Array, Array, Array]:
    """The problem on the open nodes, with the edges to the others folded into the costs."""
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
    number = np.cumsum(open_, dtype=np.int32) - 1
    return cost[open_], number[first[inner]], number[second[inner]], capacity[inner]


def _maximum_flow(cost: Array, first: Array, second: Array, capacity: Array) -> Array:
    graph = maxflow.GraphFloat(len(cost), len(first))
    nodes = graph.add_grid_nodes(len(cost))
    graph.add_grid_tedges(nodes, np.maximum(cost, 0), np.maximum(-cost, 0))
    if len(first):
        graph.add_edges(first, second, capacity, capacity)
    graph.maxflow()
    return np.asarray(graph.get_grid_segments(nodes))


def _sums(first: Array, second: Array, at_first: Array, at_second: Array, size: int) -> Array:
    """Sum over the edges of each node."""
    return np.bincount(first, at_first, size) + np.bincount(second, at_second, size)


# --- one image ----------------------------------------------------------------------------------------------


class _Image:
    """The labeling of one image, and the problem on its open pixels: all but those whose label is settled.

    Open pixels have unaries ``[k n]``, labels ``[n]`` and edges; edges to settled pixels are folded into the
    unaries, and what that leaves over is in `constant`. Classes are numbered among those allowed.
    """

    def __init__(
        self, problem: Problem, costs: Tensor, edges: Edges, start: Tensor, number: int, ceiling: float
    ) -> None:
        energy, mask = problem.energy, problem.classes
        self.classes = np.arange(costs.shape[1]) if mask is None else np.flatnonzero(_numpy(mask[number]))
        seeds = _numpy(problem.seeds[number]).ravel()
        seeded = seeds != UNLABELED
        self.index, self.pixels = seeds.astype(np.int64), np.arange(len(seeds))
        self.unary = energy.coupling_weight * _numpy(costs[number].flatten(1).double())[self.classes]
        self.unary[:, seeded] = 0
        weight = energy.pairwise_weight * _numpy(edges.weight[number]).astype(np.float64)
        kept = np.flatnonzero(weight > 0)
        self.first, self.second = (_numpy(x)[kept].astype(np.int32) for x in (edges.first, edges.second))
        self.weight, self.constant = weight[kept], 0.0
        self.settle(seeded, np.searchsorted(self.classes, seeds))
        self._reduce()
        self.start, self.ceiling = _numpy(start[number].flatten(1)), ceiling
        self.guaranteed = self.converged = False
        self._begin()

    def settle(self, settled: Array, labels: Array) -> None:
        """Give some open pixels their final labels and fold their edges into the unaries of the others."""
        open_ = ~settled
        self.index[self.pixels[settled]] = self.classes[labels[settled]]
        self.constant += float(self.unary[labels[settled], np.flatnonzero(settled)].sum())
        open_first, open_second = open_[self.first], open_[self.second]
        unary = np.ascontiguousarray(self.unary[:, open_])
        number = np.cumsum(open_, dtype=np.int32) - 1
        for here, there, border in (
            (self.first, self.second, open_first & settled[self.second]),
            (self.second, self.first, open_second & settled[self.first]),
        ):
            edges = np.flatnonzero(border)
            weight, label = self.weight[edges], labels[there[edges]]
            self.constant += float(weight.sum())  # w [x_i ≠ l] = w - w [x_i = l]
            np.subtract.at(unary.reshape(-1), label * unary.shape[1] + number[here[edges]], weight)
        closed = np.flatnonzero(~(open_first | open_second))
        cut = closed[labels[self.first[closed]] != labels[self.second[closed]]]
        self.constant += float(self.weight[cut].sum())
        inner = np.flatnonzero(open_first & open_second)
        self.first, self.second = number[self.first[inner]], number[self.second[inner]]
        self.weight, self.unary, self.pixels = self.weight[inner], unary, self.pixels[open_]
        self.degree = _sums(self.first, self.second, self.weight, self.weight, len(self.pixels))

    def _reduce(self) -> None:
        """Settle the pixels that win their class against the best of all the others (Kovtun, DAGM 2003).

        Giving them that class worsens *no* labeling, so optima and moves remain what they are. For two
        classes nothing is left.
        """
        if len(self.classes) == 1:
            self.settle(np.ones(len(self.pixels), bool), np.zeros(len(self.pixels), np.int64))
        for label in self._by_popularity() if len(self.classes) > 1 else ():
            others = np.delete(self.unary, label, axis=0).min(0)
            wins = minimum_cut(self.unary[label] - others, self.first, self.second, self.weight, self.degree)
            if len(self.classes) == 2:
                self.settle(np.ones(len(self.pixels), bool), np.where(wins, label, 1 - label))
                return
            if wins.sum() > 0.002 * len(wins):  # a few are not worth a copy of the rest
                self.settle(wins, np.full(len(self.pixels), label))

    def _by_popularity(self) -> list[int]:
        """The classes, most often best one first: whatever order they are numbered in."""
        counts = np.bincount(self.unary.argmin(0), minlength=len(self.classes))
        return [int(label) for label in np.lexsort((self.unary.sum(1), -counts))]

    def _begin(self) -> None:
        """Start from the best class of each pixel, or from the given labels if they are better."""
        size = len(self.pixels)
        self.labels = self.unary.argmin(0)
        self.least = float(self.unary[self.labels, np.arange(size)].sum())
        self.order = self._by_popularity()
        self.version, self.changed = 0, np.zeros(len(self.classes), np.int64)  # of all labels; of each class
        self.tried: dict[tuple[int, int], int] = {}  # the version that each move was last tried on
        self.value = self._value(self.labels)
        given = self._start().argmax(0)
        if self._value(given) < self.value:
            self.labels, self.value = given, self._value(given)

    def _start(self) -> Array:
        return self.start[self.classes][:, self.pixels].astype(np.float64)

    def _value(self, labels: Array) -> float:
        cut = labels[self.first] != labels[self.second]
        return float(self.unary[labels, np.arange(len(labels))].sum() + self.weight[cut].sum())

    def full_index(self) -> Array:
        """The class of every pixel."""
        index = self.index.copy()
        index[self.pixels] = self.classes[self.labels]
        return index

    @property
    def energy(self) -> float:
        return self.constant + self.value

    @property
    def bound(self) -> float:
        """Settled pixels are optimal; on the others ``E - Σ min_k u_k`` is at most twice its optimum."""
        slack = (self.value - self.least) / 2 if self.guaranteed and self.converged else 0.0
        return self.constant + self.least + slack

    def sweep(self, moves: Moves) -> None:
        """Try every move once; converged if none lowers the energy."""
        before, self.guaranteed = self.version, moves is Moves.EXPANSION
        if moves is Moves.EXPANSION:
            for label in self.order:
                self._expand(label)
        else:
            for one, other in combinations(self.order, 2):
                self._swap(one, other)
        self.converged = self.version == before
        if self.converged and self.energy > self.ceiling:  # rare: the soft start was better
            self.ceiling = np.inf
            labels = self._round()
            value = self._value(labels)
            if value < self.value:
                self._accept(labels, value)
                self.converged = False

    def _expand(self, label: int) -> None:
        if self.tried.get((label, label)) == self.version:
            return
        current = self.unary[self.labels, np.arange(len(self.pixels))]
        # changing alone or with others gains at most all the weights around
        active = (self.labels != label) & (self.unary[label] - current < self.degree)
        self._move(active, self.labels, np.where(active, label, self.labels))
        self.tried[label, label] = self.version

    def _swap(self, one: int, other: int) -> None:
        if max(self.changed[one], self.changed[other]) <= self.tried.get((one, other), -1):
            return
        active = (self.labels == one) | (self.labels == other)
        self._move(active, np.where(active, one, self.labels), np.where(active, other, self.labels))
        self.tried[one, other] = self.version

    def _move(self, active: Array, zero: Array, one: Array) -> None:
        """The best choice of `zero` or `one` at every active pixel; the others keep their label in both."""
        nodes = np.flatnonzero(active)
        if not len(nodes):
            return
        edges = np.flatnonzero(active[self.first] | active[self.second])
        first, second, weight = self.first[edges], self.second[edges], self.weight[edges]
        zero_first, zero_second, one_first, one_second = (
            x[ends] for x in (zero, one) for ends in (first, second)
        )
        # θ(x, x') = θ(0,0) + p x + q x' + c |x - x'|, with c >= 0 as Potts is a metric
        both_zero = weight * (zero_first != zero_second)
        first_one = weight * (one_first != zero_second)
        second_one = weight * (zero_first != one_second)
        capacity = (first_one + second_one - both_zero - weight * (one_first != one_second)) / 2
        pairwise = _sums(
            first, second, first_one - both_zero - capacity, second_one - both_zero - capacity, active.size
        )
        cost = pairwise[nodes] + self.unary[one[nodes], nodes] - self.unary[zero[nodes], nodes]
        inner = np.flatnonzero(capacity > 0)
        number = np.cumsum(active, dtype=np.int32) - 1
        first, second, capacity = number[first[inner]], number[second[inner]], capacity[inner]
        now = (self.labels == one)[nodes]
        then = minimum_cut(cost, first, second, capacity)

        def value(x: Array) -> float:
            return float(cost[x].sum() + capacity[x[first] != x[second]].sum())

        gain = value(now) - value(then)
        if gain > GAIN * (abs(self.value) + 1):
            labels = self.labels.copy()
            labels[nodes] = np.where(then, one[nodes], zero[nodes])
            self._accept(labels, self._value(labels))

    def _accept(self, labels: Array, value: float) -> None:
        moved = labels != self.labels
        self.version += 1
        self.changed[self.labels[moved]] = self.changed[labels[moved]] = self.version
        self.labels, self.value = labels, value

    def _round(self) -> Array:
        """Hard labels of no higher energy than the soft start's: conditional expectations, pixel by pixel.

        The energy is linear in each pixel's labels, so the best vertex is never worse. Pixels that are no
        neighbors are rounded together: those ahead of all their neighbors in a fixed shuffled order.
        """
        soft, size = self._start().T.copy(), len(self.pixels)
        weights = coo_array((self.weight, (self.first, self.second)), shape=(size, size)).tocsr()
        weights = (weights + weights.T).tocsr()
        rank = np.argsort(np.arange(size) * 2654435761 % 2**32)
        first, second, open_ = self.first, self.second, np.ones(size, bool)
        while open_.any():
            ready = open_.copy()
            ready[np.where(rank[first] < rank[second], second, first)] = False
            pixels = np.flatnonzero(ready)
            best = (self.unary.T[pixels] - weights[pixels] @ soft).argmin(1)
            soft[pixels] = np.eye(soft.shape[1])[best]
            open_ &= ~ready
            inner = open_[first] & open_[second]
            first, second = first[inner], second[inner]
        return np.asarray(soft.argmax(1))
