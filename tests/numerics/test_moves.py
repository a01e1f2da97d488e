"""Moves on small graphs against every labeling that they may reach."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from selflabel.numerics.cuts.maximum_flow import Array
from selflabel.numerics.cuts.minimum_cut import minimum_cut
from selflabel.numerics.cuts.moves import MoveSearch, PottsGraph, explore


def random_graph(rng: np.random.Generator, nodes: int, classes: int) -> PottsGraph:
    """Complete graphs without every third pair; unaries of both signs."""
    pairs = np.array(list(itertools.combinations(range(nodes), 2)))
    pairs = pairs[rng.random(len(pairs)) < 0.7]
    unary, weight = rng.normal(0, 1, (classes, nodes)), rng.uniform(0.05, 0.8, len(pairs))
    return PottsGraph(unary, pairs[:, 0], pairs[:, 1], weight)


def plain_value(graph: PottsGraph, labels: Array) -> float:
    total = sum(graph.unary[label, node] for node, label in enumerate(labels))
    for first, second, weight in zip(graph.first, graph.second, graph.weight, strict=True):
        total += weight * (labels[first] != labels[second])
    return float(total)


def choices(zero: Array, one: Array) -> list[Array]:
    return [np.where(x, one, zero) for x in itertools.product([False, True], repeat=len(zero))]


def test_minimum_cut_is_the_best_of_all() -> None:
    rng = np.random.default_rng(3301)
    for _ in range(100):
        graph = random_graph(rng, 7, 2)
        cost = graph.unary[1] - graph.unary[0]
        x = minimum_cut(cost, graph.first, graph.second, graph.weight).astype(int)
        best = min(plain_value(graph, np.array(y)) for y in itertools.product([0, 1], repeat=7))
        assert plain_value(graph, x) == pytest.approx(best, abs=1e-9)


def test_expansions_and_swaps_are_the_best_of_all() -> None:
    rng = np.random.default_rng(7207)
    for _ in range(60):
        graph, labels = random_graph(rng, 7, 4), rng.integers(0, 4, 7)
        cut = graph.cut(labels)
        for label in range(4):
            best = min(plain_value(graph, y) for y in choices(labels, np.full(7, label)))
            found = plain_value(graph, graph.expand(labels, label, cut))
            assert found == pytest.approx(best, abs=1e-9)
        for one, other in itertools.combinations(range(4), 2):
            inside = (labels == one) | (labels == other)
            zeros, ones = np.where(inside, one, labels), np.where(inside, other, labels)
            best = min(plain_value(graph, y) for y in choices(zeros, ones))
            assert plain_value(graph, graph.swap(labels, one, other)) == pytest.approx(best, abs=1e-9)


@pytest.mark.quick
def test_fusion_is_no_worse_than_either_and_often_the_best() -> None:
    rng = np.random.default_rng(1999)
    best_found = 0
    for _ in range(200):
        graph, labels, proposal = random_graph(rng, 7, 4), rng.integers(0, 4, 7), rng.integers(0, 4, 7)
        fused = graph.fuse(labels, proposal)
        assert ((fused == labels) | (fused == proposal)).all()
        value = plain_value(graph, fused)
        assert value <= min(plain_value(graph, labels), plain_value(graph, proposal)) + 1e-9
        best_found += value <= min(plain_value(graph, y) for y in choices(labels, proposal)) + 1e-9
    assert best_found > 120


def test_values_folding_and_moves_keep_the_energy() -> None:
    rng = np.random.default_rng(405)
    for _ in range(50):
        graph, labels, settled = random_graph(rng, 9, 3), rng.integers(0, 3, 9), rng.random(9) < 0.5
        open_, constant = graph.fold(settled, labels)
        assert graph.value(labels) == pytest.approx(plain_value(graph, labels))
        assert open_.value(labels[~settled]) + constant == pytest.approx(plain_value(graph, labels))
        search = MoveSearch(graph, labels)
        values = [search.value]
        while search.expansions() or search.swaps():
            values.append(search.value)
        assert all(after < before for before, after in itertools.pairwise(values))
        assert search.value == pytest.approx(plain_value(graph, search.labels))


def test_exploring_is_no_worse_than_its_sweeps_and_better_in_the_mean() -> None:
    rng = np.random.default_rng(6173)
    gains = []
    for _ in range(40):
        graph = random_graph(rng, 40, 5)
        graph = replace(graph, weight=graph.weight / 8)
        single = MoveSearch(graph, graph.cheapest, graph.order)
        single.expansions()
        explored = graph.value(explore(graph))
        assert explored <= single.value + 1e-9
        gains.append(single.value - explored)
    assert np.mean(gains) > 0
