"""How far hard labels are from others: the reward at which each node would change."""

import numpy as np

from selflabel.numerics.cuts.maximum_flow import Array
from selflabel.numerics.cuts.minimum_cut import fix, minimum_cut
from selflabel.numerics.cuts.moves import PottsGraph

REWARDS = np.array([0.5, 1.5, 4.0])
"""Margins in units of the temperature at which `change_probabilities` cuts: 0.62, 0.82, 0.98 of two classes."""

LEAST_MARGIN = 0.05
"""In the same units: a label stays the most probable class, also if probabilities are stored in eight bits."""


def change_probabilities(graph: PottsGraph, unary: Array, labels: Array, temperature: float) -> Array:
    """How probable each label is ``[k n]`` where `labels` are a solution (`GraphCut.marginals` has the formula).

    `unary` are those of the nodes over the temperature, without what is folded into the graph's; it is overwritten.
    """
    every = np.arange(len(labels))
    least = unary[labels, every]
    unary[labels, every] = np.inf
    rivals = unary.argmin(0)
    second = unary[rivals, every]
    levels = margin_levels(graph, labels, rivals, REWARDS * temperature)
    low, high = np.append(LEAST_MARGIN, REWARDS), np.append(REWARDS, np.inf)
    margin = np.clip(second - least, low[levels], high[levels])
    weights = np.exp(np.subtract(second - margin, unary, out=unary), out=unary)
    weights[labels, every] = 1
    weights /= weights.sum(0)
    result: Array = weights
    return result


def margin_levels(graph: PottsGraph, labels: Array, rivals: Array, rewards: Array) -> Array:
    """The number of the least reward at which each node changes from its label to its rival ``[n]``; else their count.

    With a reward t for every node that changes, while nodes of other labels keep theirs, the best change is
    ``x(t) = argmin E(y with x) - t Σ_i x_i``: a minimum cut, as two nodes of one label cost less if both change. The
    nodes that change grow with t (Gallo, Grigoriadis & Tarjan, 1989). A node changes at its *margin*: the energy per
    node that it takes to change the part of its region that is easiest to change, the node with it.

    Of two classes, margins are ``|u|`` of ``min_u ½ Σ (u_i - g_i)² + Σ w_ij |u_i - u_j|``, g the differences of the
    unaries, and the optimal labels are its signs (Hochbaum, JACM 2001; Darbon & Sigelle, JMIV 2006): the differences,
    smoothed along with the labels.

    `rewards` ascend, all > 0; a rival is another label than the node's. Cost: a cut of all nodes for the largest
    reward, then ``log2`` of their number of cuts of those that have changed.
    """
    result = np.full(graph.size, len(rewards))
    # nodes, the energy of their change with all others decided, and the levels between which theirs are
    open_ = [(np.arange(graph.size), _change(graph, labels, rivals), 0, len(rewards))]
    while open_:
        nodes, (cost, first, second, capacity), low, high = open_.pop()
        if low == high or not len(nodes):
            result[nodes] = low
            continue
        # the largest reward first: most nodes change at none
        middle = high - 1 if high == len(rewards) else (low + high) // 2
        changed = minimum_cut(cost - rewards[middle], first, second, capacity)
        none, kept = np.zeros(len(nodes), bool), ~changed
        part = fix(cost, first, second, capacity, changed, none)
        open_.append((nodes[changed], part, low, middle))
        if middle < len(rewards) - 1:
            part = fix(cost, first, second, capacity, kept, changed)
            open_.append((nodes[kept], part, middle + 1, high))
    return result


def _change(graph: PottsGraph, labels: Array, rivals: Array) -> tuple[Array, Array, Array, Array]:
    """Cost of the change of each node alone, and nodes and capacity of the pairs of one label.

    A pair of one label costs 0 if both stay, w if one changes, ``w [r ≠ r']`` if both do, r their rivals: a capacity of
    ``w (1 - [r ≠ r'] / 2)``, and ``w [r ≠ r'] / 2`` for each that changes. One of two labels costs w, or 0 where the
    node that changes takes the label of the other.
    """
    first, second, weight = graph.first, graph.second, graph.weight
    cost = graph.at(rivals) - graph.at(labels)
    same = labels[first] == labels[second]
    border = np.flatnonzero(~same)
    for here, there in ((first[border], second[border]), (second[border], first[border])):
        joins = rivals[here] == labels[there]
        cost -= np.bincount(here[joins], weight[border[joins]], graph.size)
    inner = np.flatnonzero(same)
    first, second, weight = first[inner], second[inner], weight[inner]
    differ = np.flatnonzero(rivals[first] != rivals[second])
    half = weight[differ] / 2
    cost += np.bincount(first[differ], half, graph.size) + np.bincount(second[differ], half, graph.size)
    capacity = weight.copy()
    capacity[differ] = half
    return cost, first, second, capacity
