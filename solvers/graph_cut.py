"""Hard labels by minimum cuts: exact for two classes, expansion or swap moves for more."""

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.builders import AffinityBuilder, Grid
from selflabel.affinity.protocol import Affinity, Edges
from selflabel.driver import Step
from selflabel.energy import Energy
from selflabel.kinds import check_fields
from selflabel.labels import UNLABELED
from selflabel.numerics.cuts.maximum_flow import Array
from selflabel.numerics.cuts.minimum_cut import minimum_cut
from selflabel.numerics.cuts.moves import MoveSearch, explore
from selflabel.numerics.hard_labels import (
    as_array,
    check_hard_energy,
    checked_edges,
    graph_marginals,
    hard_costs,
    potts_graph,
    stacked_labels,
    temperature,
)
from selflabel.problem import Problem
from selflabel.terms import BILINEAR, STANDARD, Regularizer


class Moves(enum.Enum):
    """What one minimum cut may change, for more than two classes."""

    EXPANSION = "expansion"
    """Any pixels to one class; the final energy is at most twice the optimum."""
    SWAP = "swap"
    """Any pixels of two classes to either of the two; no guarantee, and more cuts."""


@dataclass(frozen=True)
class GraphCut:
    """Minimizes ``η Σ_{i∉Ω} H(y_i, σ_i) + λ Σ_ij w_ij [y_i ≠ y_j]`` over hard labels by minimum cuts.

    *Exact* for images with two allowed classes. For more, expansion moves (default) end in a labeling that
    no move improves: with unaries ``≥ 0``, its energy is at most twice the optimum (Boykov, Veksler, Zabih,
    PAMI 2001, Theorem 6.1), and `Step.bound` is the lower bound that follows (for the standard coupling with
    the bi-linear relaxation, whose soft labels are not better than hard ones). A step is one sweep of moves.

    *Energies*: couplings that are finite at hard labels (not the reverse one), relaxations that are the
    Potts model there (bi-linear, quadratic, normalized quadratic), sparse affinities with any weight per
    pair, no entropy; else `ValueError`. The result is never above
    the start for the standard coupling with the bi-linear relaxation; other energies may be lower at soft
    labels than at any hard ones.

    *Cost*: first, pixels get their final label where some optimum has it: seeds, and pixels that win their
    class against the best of all the others (Kovtun, DAGM 2003), one cut a class. The other pixels take one cut
    a class and sweep, without those that cannot gain. Where expansions end depends on the start and on the order
    of the classes; they start from a fusion of five sweeps (`moves.explore`), which lowers energies by some
    tenths of a percent where pairs are strong, for up to twice the time. The cuts run on one CPU core, image by image,
    in PyMaxflow (GPL) or, where that is not installed, in OR-Tools (Apache 2.0), which takes four times as long for
    the same labels (`numerics.cuts.maximum_flow`). Both hold the interpreter's lock: threads do not help (label
    folders with several processes), and Ctrl-C comes through after the current cut, in seconds for megapixels. CUDA
    labels are copied to the CPU and back. *Memory*: 500 bytes a pixel, and 50 more for each class; a cut that needs
    more than there is raises `MemoryError`.

    Use `RandomWalker` for soft labels, `MeanField` for dense affinities, `GradientDescent` for other terms.
    """

    name: ClassVar[str] = "graph-cut"
    default_energy: ClassVar[Energy] = Energy(STANDARD, BILINEAR, coupling_weight=1.0, pairwise_weight=8.0)
    default_affinity: ClassVar[AffinityBuilder] = Grid()
    needs_edges: ClassVar[bool] = True
    regularizers: ClassVar[tuple[type[Regularizer], ...]] = ()

    moves: Moves = Moves.EXPANSION
    explore: bool = True
    """Fuse the start of the expansions from five labelings: lower energies, up to twice the time."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.moves is not Moves.EXPANSION and not self.explore:
            raise ValueError(
                "graph-cut: explore is for expansions, swaps start from the prediction: leave it out, or use moves "
                "'expansion'"
            )

    def check(self, energy: Energy, affinity: Affinity) -> None:
        """Raise `ValueError` for couplings that are infinite at hard labels, relaxations not Potts there, and entropy.

        `ImportError` without an engine for minimum cuts (PyMaxflow or OR-Tools).
        """
        check_hard_energy(self.name, energy)

    def iterate(self, problem: Problem, labels: Float[Tensor, "b k *s"]) -> Iterator[Step]:
        """Yield after every sweep."""
        costs, edges = hard_costs(problem), checked_edges(problem, self.name)
        linear = problem.energy.coupling == STANDARD and problem.energy.relaxation == BILINEAR
        ceiling = problem.value(labels).tolist() if linear else [np.inf] * len(labels)
        images = [
            _Image(self, problem, costs, edges, labels, number, ceiling[number])
            for number in range(len(labels))
        ]
        while True:
            for image in images:
                if not image.converged:
                    image.sweep()
            yield _step(images, labels, bounded=linear)
            if all(image.converged for image in images):
                return

    def marginals(self, problem: Problem, labels: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
        """How probable each class is where `labels` are a solution: one-hot at the seeds, else from energies.

        With ``u_k`` the unaries of a pixel, y its label, a the class of least unary but y, and T the temperature

            P(k) ∝ exp(-(m + u_k - u_a) / T) for k ≠ y,    P(y) ∝ 1

        The margin m is the energy per pixel that it takes to change the region around the pixel that is easiest to
        change, from its labels to their seconds a (`margin_levels`); within the bounds that a few cuts give it is
        ``u_a - u_y``. So a pixel is as sure as the evidence around it, not as its neighbors agree: given their labels
        alone (``exp(-(u_k + Σ_j w_ij [y_j ≠ k]) / T)``) nearly all pixels seem sure, right or wrong. Min-marginals
        (Kohli & Torr, CVIU 2008) take one cut a pixel and class.

        T is the coupling weight η: without pairs P is the prediction itself (standard and collision coupling), and
        to multiply the energy changes nothing. Where η is 0, T is λ. Cost: up to that of the labels.
        """
        costs, edges = hard_costs(problem), checked_edges(problem, self.name)
        unit, numbers = temperature(problem.energy), range(len(labels))
        found = [
            graph_marginals(*potts_graph(problem, costs, edges, number), labels[number], unit)
            for number in numbers
        ]
        return torch.stack(found).to(labels).view(labels.shape)


def _step(images: list["_Image"], labels: Tensor, *, bounded: bool) -> Step:
    """`bounded`: no soft labels are better than the best hard ones, so a bound of these is a bound of all."""

    def tensor(values: list[Any], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=labels.device)

    return Step(
        stacked_labels([image.full_index() for image in images], labels),
        energy=tensor([image.energy for image in images], torch.float64),
        bound=tensor([image.bound for image in images], torch.float64) if bounded else None,
        converged=tensor([image.converged for image in images], torch.bool),
    )


class _Image:
    """The labeling of one image, and the problem on its open pixels: those whose label is not final yet.

    Edges to settled pixels are folded into the unaries and into `constant`. Classes are numbered among those allowed.
    """

    def __init__(
        self,
        solver: GraphCut,
        problem: Problem,
        costs: Tensor,
        edges: Edges,
        start: Tensor,
        number: int,
        ceiling: float,
    ) -> None:
        self.graph, self.classes, seeds = potts_graph(problem, costs, edges, number)
        self.constant, seeded = 0.0, seeds != UNLABELED
        self.index, self.pixels = seeds.astype(np.int64), np.arange(len(seeds))
        self._settle(seeded, np.where(seeded, np.searchsorted(self.classes, seeds), 0))
        self._settle_winners()
        self.solver, self.ceiling, self.converged = solver, ceiling, False
        self.start = as_array(start[number].flatten(1))[self.classes][:, self.pixels]
        self.search = MoveSearch(self.graph, self._first(), self.graph.order[::-1])

    def _settle(self, settled: Array, labels: Array) -> None:
        """Give some open pixels their final labels and fold their edges into the unaries of the others."""
        self.index[self.pixels[settled]] = self.classes[labels[settled]]
        self.graph, constant = self.graph.fold(settled, labels)
        self.constant += constant
        self.pixels = self.pixels[~settled]

    def _settle_winners(self) -> None:
        """Settle the pixels that win their class against the best of all the others (Kovtun, DAGM 2003).

        Giving them that class worsens no labeling, so optima and moves stay the same. Two classes leave no pixel open.
        """
        every = np.ones(len(self.pixels), bool)
        if len(self.classes) == 1:
            self._settle(every, np.zeros(len(every), np.int64))
            return
        for label in self.graph.order:
            graph = self.graph
            cost = graph.unary[label] - np.delete(graph.unary, label, axis=0).min(0)
            wins = minimum_cut(cost, graph.first, graph.second, graph.weight, graph.degree)
            if len(self.classes) == 2:
                self._settle(every, np.where(wins, label, 1 - label))
                return
            if wins.sum() > 0.002 * len(wins):  # fewer are not worth a copy of the graph
                self._settle(wins, np.full(len(wins), label))

    def _first(self) -> Array:
        """Labels to start from, the best of: the cheapest of each pixel, the given ones, those explored."""
        found = [self.graph.cheapest, self.start.argmax(0)]
        if self.solver.moves is Moves.EXPANSION and self.solver.explore and len(self.pixels):
            found.append(explore(self.graph))
        return min(found, key=self.graph.value)

    def full_index(self) -> Array:
        """The class of every pixel."""
        index = self.index.copy()
        index[self.pixels] = self.classes[self.search.labels]
        return index

    @property
    def energy(self) -> float:
        return self.constant + self.search.value

    @property
    def bound(self) -> float:
        """Settled pixels are optimal; on the others ``E - Σ min_k u_k`` is at most twice its optimum."""
        least = float(self.graph.unary.min(0).sum())
        guaranteed = self.converged and self.solver.moves is Moves.EXPANSION
        return self.constant + least + ((self.search.value - least) / 2 if guaranteed else 0.0)

    def sweep(self) -> None:
        """Try every move once. Converged if none lowers the energy."""
        expansions = self.solver.moves is Moves.EXPANSION
        self.converged = not (self.search.expansions() if expansions else self.search.swaps())
        if self.converged and self.energy > self.ceiling:  # rare: the soft start is better
            self.ceiling = np.inf
            labels = self.graph.round(self.start)
            if self.graph.value(labels) < self.search.value:
                self.search.restart(labels)
                self.converged = False
