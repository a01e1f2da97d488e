"""Kernel cut: hard labels that lower a Potts energy and a normalized cut, by bounds and graph cut moves."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.builders import AffinityBuilder, Dense, Grid
from selflabel.affinity.protocol import Affinity, Edges
from selflabel.driver import Step
from selflabel.energy import Energy
from selflabel.labels import UNLABELED, one_hot
from selflabel.numerics.cuts.bounds import BoundSearch, RatioBound, with_bounds
from selflabel.numerics.cuts.maximum_flow import Array
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
from selflabel.terms import BILINEAR, STANDARD, NormalizedCut, Regularizer, normalized_cut_and_grad


@dataclass(frozen=True)
class KernelCut:
    """Minimizes ``η Σ_{i∉Ω} H(y_i, σ_i) + λ Σ_ij w_ij [y_i ≠ y_j] + ω NC(y)`` over hard labels by bound optimization.

    NC is the `NormalizedCut`, on an affinity W of its own, usually dense (`Problem.affinities`); the Potts sum is on a
    sparse one. NC is concave where W is positive semidefinite, so that its gradient at the labels gives unaries that
    bound it from above and are tight at these labels. Each step computes them by one filtering, and lowers the bound by
    a sweep of expansion moves: the energy falls in every step, to labels that no move improves on the bound (Tang,
    Marin, Ben Ayed & Boykov, *Normalized Cut meets MRF*, ECCV 2016). Seeds and allowed classes are kept.

    For other W (sparse ones, whose diagonal is 0; lattices, by little) a step may fail to lower the energy. Then it is
    not taken, and the next ones are for ``W + δ diag(W 1)``, δ from 1/16 on: a constant more for hard labels, and
    semidefinite from δ = 1 on at the latest. Such a W may have soft labels of less energy than all hard ones: from
    these the energy rises. With a semidefinite W and the default coupling and relaxation there are none.

    *Energies* as for `GraphCut`, with any number of normalized cuts. *Cost* of a step: a filtering of all classes and,
    image by image on one CPU core, a cut for each class; some ten steps. Memory as `GraphCut`, and 24 bytes a pixel and
    class. Where the steps end depends on the start, which is the best of the given labels, a sweep from them, and the
    labels of graph cut without the normalized cut.
    """

    name: ClassVar[str] = "kernel-cut"
    default_energy: ClassVar[Energy] = Energy(
        STANDARD,
        BILINEAR,
        coupling_weight=1.0,
        pairwise_weight=8.0,
        regularizers=(NormalizedCut(0.3, per_pixel=True),),
    )
    default_affinity: ClassVar[AffinityBuilder] = Grid()
    default_affinities: ClassVar[tuple[AffinityBuilder, ...]] = (Dense(sigma=15.0, sigma_xy=40.0),)
    """Those of its normalized cuts."""
    needs_edges: ClassVar[bool] = True
    regularizers: ClassVar[tuple[type[Regularizer], ...]] = (NormalizedCut,)

    def check(self, energy: Energy, affinity: Affinity) -> None:
        """Raise `ValueError` for couplings that are infinite at hard labels, relaxations not Potts there, and entropy.

        `ImportError` without an engine for minimum cuts (PyMaxflow or OR-Tools).
        """
        check_hard_energy(self.name, energy)

    def iterate(self, problem: Problem, labels: Float[Tensor, "b k *s"]) -> Iterator[Step]:
        """Yield after every sweep of moves."""
        costs, edges = hard_costs(problem), checked_edges(problem, self.name)
        start_energy = problem.value(labels)
        images = [_CutImage(problem, costs, edges, number) for number in range(len(labels))]
        hard = one_hot(labels.argmax(1), labels.shape[1], labels.dtype)
        at_start = _normalized_cuts(problem, labels)
        at_hard = at_start if torch.equal(hard, labels) else _normalized_cuts(problem, hard)
        for image, one, first, rounded in zip(images, labels, at_start, at_hard, strict=True):
            image.begin(as_array(one.flatten(1)), first, rounded)
        _take(problem, images, labels)
        for image in images:
            image.search.begin_without_bounds()
        _take(problem, images, labels)
        while True:
            yield _cut_step(images, labels, start_energy)
            for image in images:
                image.search.propose()
            if not all(image.search.converged for image in images):
                cuts = _normalized_cuts(problem, _proposals(images, labels))
                for image, cut in zip(images, cuts, strict=True):
                    image.judge(cut)
            if all(image.search.converged for image in images):
                yield _cut_step(images, labels, start_energy)
                return

    def marginals(self, problem: Problem, labels: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
        """How probable each class is where `labels` are a solution: `GraphCut.marginals` of the bound at the labels."""
        costs, edges = hard_costs(problem), checked_edges(problem, self.name)
        unit, found = temperature(problem.energy), []
        for number, cut in enumerate(_normalized_cuts(problem, labels)):
            graph, classes, seeds = potts_graph(problem, costs, edges, number)
            index = np.searchsorted(classes, as_array(labels[number].flatten(1)).argmax(0))
            unaries = [bound.of(classes).unary(index, 0.0) for bound in cut.bounds]
            graph = with_bounds(graph, unaries)
            found.append(graph_marginals(graph, classes, seeds, labels[number], unit))
        return torch.stack(found).to(labels).view(labels.shape)


class _Cuts(NamedTuple):
    """The normalized cuts of the labels of an image: their weighted sum, and a bound of each."""

    value: float
    bounds: list[RatioBound]


def _normalized_cuts(problem: Problem, labels: Tensor) -> list[_Cuts]:
    """Those of each image. Cost: a filtering for each normalized cut."""
    values = labels.new_zeros(len(labels), dtype=torch.float64)
    bounds: list[list[RatioBound]] = [[] for _ in labels]
    for regularizer, affinity in problem.regularizers:
        assert isinstance(regularizer, NormalizedCut), "checked"
        weight = regularizer.weight * regularizer.scale(affinity)
        if weight == 0:
            continue
        value, grad = normalized_cut_and_grad(labels.double(), affinity)  # 1 - share is a small difference
        values += weight * value
        degree = affinity.degree()
        volume = as_array((degree * labels).flatten(2).sum(2, dtype=torch.float64))
        gradients, degrees = as_array(grad.value.flatten(2)), as_array(degree.flatten(1))
        for number, found in enumerate(bounds):
            found.append(RatioBound(gradients[number], degrees[number], volume[number], weight))
    return [_Cuts(value, found) for value, found in zip(values.tolist(), bounds, strict=True)]


class _CutImage:
    """The search on the pixels of one image that are no seeds, with the classes that it may have."""

    search: BoundSearch

    def __init__(self, problem: Problem, costs: Tensor, edges: Edges, number: int) -> None:
        whole, self.classes, seeds = potts_graph(problem, costs, edges, number)
        seeded = seeds != UNLABELED
        self.index, self.free = seeds.astype(np.int64), np.flatnonzero(~seeded)
        places = np.where(seeded, np.searchsorted(self.classes, seeds), 0)
        self.graph, self.constant = whole.fold(seeded, places)

    def begin(self, soft: Array, at_start: _Cuts, at_hard: _Cuts) -> None:
        """Start from soft labels ``[k n]``: their normalized cuts, and those of the largest ones."""
        soft = soft[self.classes][:, self.free]
        index = soft.argmax(0)
        energy = self.constant + self.graph.value(index) + at_hard.value
        self.search = BoundSearch(self.graph, index, energy, self._bounds(at_hard))
        unaries = [bound.unary(index, 0.0) for bound in self._bounds(at_start)]
        self.search.begin(soft, unaries)

    def _bounds(self, cuts: _Cuts) -> list[RatioBound]:
        return [bound.of(self.classes, self.free) for bound in cuts.bounds]

    def _energy(self, cuts: _Cuts) -> float:
        """Of the proposal."""
        return self.constant + self.graph.value(self.search.proposal) + cuts.value

    def take(self, cuts: _Cuts) -> None:
        """`BoundSearch.take`, of the proposal that has these normalized cuts."""
        self.search.take(self._energy(cuts), self._bounds(cuts))

    def judge(self, cuts: _Cuts) -> None:
        """`BoundSearch.judge` likewise."""
        self.search.judge(self._energy(cuts), self._bounds(cuts))

    def full(self, labels: Array) -> Array:
        """The class of every pixel, from the numbers of those that are free."""
        index = self.index.copy()
        index[self.free] = self.classes[labels]
        return index


def _proposals(images: list[_CutImage], like: Tensor) -> Tensor:
    return stacked_labels([image.full(image.search.proposal) for image in images], like)


def _take(problem: Problem, images: list[_CutImage], like: Tensor) -> None:
    """Take the proposals of less energy."""
    for image, cuts in zip(images, _normalized_cuts(problem, _proposals(images, like)), strict=True):
        image.take(cuts)


def _cut_step(images: list[_CutImage], like: Tensor, start_energy: Tensor) -> Step:
    searches = [image.search for image in images]
    energy = torch.tensor([search.energy for search in searches], dtype=torch.float64, device=like.device)
    return Step(
        stacked_labels([image.full(image.search.labels) for image in images], like),
        energy=energy,
        converged=torch.tensor([search.converged for search in searches], device=like.device),
        start_energy=start_energy,
    )
