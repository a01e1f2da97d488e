"""Margins of hard labels against every choice, and against the total variation problem that they solve."""

import itertools

import numpy as np
import pytest

from selflabel.numerics.cuts.margins import margin_levels
from selflabel.numerics.cuts.maximum_flow import Array
from selflabel.numerics.cuts.moves import PottsGraph

NUMBERS = np.arange(9).reshape(3, 3)
FIRST = np.concatenate([NUMBERS[:, :-1].ravel(), NUMBERS[:-1].ravel()])
SECOND = np.concatenate([NUMBERS[:, 1:].ravel(), NUMBERS[1:].ravel()])
REWARDS = np.array([0.3, 0.8, 1.1, 2.0, 3.5])


def grid(rng: np.random.Generator, classes: int, strength: float) -> PottsGraph:
    return PottsGraph(rng.normal(0, 1.2, (classes, 9)), FIRST, SECOND, strength * rng.random(len(FIRST)) ** 2)


def values(graph: PottsGraph, labels: Array) -> Array:
    """Of many labelings ``[m 9]``."""
    cut = labels[:, graph.first] != labels[:, graph.second]
    return np.asarray(graph.unary[labels, np.arange(9)].sum(1) + cut @ graph.weight)


def best(graph: PottsGraph) -> Array:
    every = np.array(list(itertools.product(range(len(graph.unary)), repeat=9)))
    found = values(graph, every)
    assert found.min() == pytest.approx(graph.value(every[found.argmin()]), abs=1e-12)
    return np.asarray(every[found.argmin()])


def rivals_of(graph: PottsGraph, labels: Array) -> Array:
    others = graph.unary.copy()
    others[labels, np.arange(9)] = np.inf
    return np.asarray(others.argmin(0))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0])
def test_nodes_change_at_the_least_reward_of_all_choices(classes: int, strength: float) -> None:
    rng = np.random.default_rng(8_161)
    changes = np.array(list(itertools.product([0, 1], repeat=9)))
    for _ in range(12):
        graph = grid(rng, classes, strength)
        labels = best(graph)
        rivals = rivals_of(graph, labels)
        energies = np.zeros(len(changes))
        for label in range(classes):  # nodes of other labels keep theirs
            moved = np.where((changes == 1) & (labels == label), rivals, labels)
            energies += values(graph, moved) - graph.value(labels)
        expected = np.full(9, len(REWARDS))
        for number, reward in reversed(list(enumerate(REWARDS))):
            rewarded = energies - reward * changes.sum(1)
            fewest = np.logical_and.reduce(changes[rewarded <= rewarded.min() + 1e-12])
            assert (expected[fewest] == number + 1).all() or number == len(REWARDS) - 1  # they grow with it
            expected[fewest] = number
        assert np.array_equal(margin_levels(graph, labels, rivals, REWARDS), expected)


def total_variation(graphs: list[PottsGraph], steps: int = 20_000) -> Array:
    """``argmin_u ½ ‖u - g‖² + Σ w |u_i - u_j|`` by projected gradients on its dual (Chambolle, 2004), of each graph."""
    given = np.stack([graph.unary[0] - graph.unary[1] for graph in graphs])
    weight = np.stack([graph.weight for graph in graphs])
    edges = np.eye(9)[FIRST] - np.eye(9)[SECOND]
    flow = np.zeros_like(weight)
    for _ in range(steps):
        flow = np.clip(flow + 0.1 * ((given - flow @ edges) @ edges.T), -weight, weight)
    return np.asarray(given - flow @ edges)


def test_margins_of_two_classes_are_a_total_variation_problem() -> None:
    rng = np.random.default_rng(2_207)
    rewards = np.linspace(0.05, 4, 80)
    graphs = [grid(rng, 2, strength) for strength in (0.0, 1.0, 4.0) for _ in range(4)]
    for graph, u in zip(graphs, total_variation(graphs), strict=True):
        labels = (u > 0).astype(np.int64)
        assert graph.value(labels) == pytest.approx(graph.value(best(graph)), abs=1e-6)
        levels = margin_levels(graph, labels, 1 - labels, rewards)
        low, high = np.append(0.0, rewards)[levels], np.append(rewards, np.inf)[levels]
        assert (low - 1e-3 <= np.abs(u)).all()
        assert (np.abs(u) <= high + 1e-3).all()


def test_a_graph_without_nodes_has_no_margins() -> None:
    none = np.zeros(0, np.int64)
    empty = PottsGraph(np.zeros((2, 0)), none, none, np.zeros(0))
    assert margin_levels(empty, none, none, REWARDS).shape == (0,)
