"""Factors of the equations of a graph: by SuperLU, or without subtraction where weights vary too much for that."""

from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any, Protocol, runtime_checkable

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.linalg import splu

from selflabel.kernels.memory import Array
from selflabel.numerics.linear.clusters import Equations

TRUSTED = 1e-3
"""Largest error of SuperLU that is let pass, to be refined."""


@runtime_checkable
class Factors(Protocol):
    """The inverse of a matrix."""

    def solve(self, right: Array) -> Array:
        """The solution ``[n k]`` for these right sides."""


def factorize(given: Equations) -> tuple[Factors, float]:
    """The factors of the matrix of the equations, and their largest error for labels ``y = 1``.

    By SuperLU if it is right to `TRUSTED` for these, whose right side is `Equations.hold`; else by `eliminate`, which
    is exact and some hundred times slower.
    """
    try:
        factors: Factors = _superlu(given)
    except RuntimeError:  # "Factor is exactly singular"
        return eliminate(given), 0.0
    error = float(np.abs(factors.solve(given.hold[:, None]) - 1).max(initial=0))
    return (factors, error) if error <= TRUSTED else (eliminate(given), 0.0)


def _superlu(given: Equations) -> Any:
    """The factors of a sparse symmetric positive definite matrix, in the order of minimum degree."""
    first, second, weight, count = given.first, given.second, given.weight, len(given.right)
    diagonal = given.hold + np.bincount(first, weight, count) + np.bincount(second, weight, count)
    numbers, here = np.concatenate([-weight, -weight, diagonal]), np.arange(count)
    rows, columns = np.concatenate([first, second, here]), np.concatenate([second, first, here])
    matrix = coo_array((numbers, (rows, columns)), shape=(count, count)).tocsc()
    return splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})


@dataclass(frozen=True, eq=False)
class Eliminated:
    """Nodes in the order of elimination: what is left of their equations then."""

    nodes: list[int]
    neighbors: list[Array]
    """Later nodes that each is joined to, and the shares of its walkers that go there."""
    shares: list[Array]
    ties: Array
    """``[n]``: the sum of the weights around each."""

    def solve(self, right: Array) -> Array:
        """The solution ``[n k]``."""
        values = right.astype(np.float64)
        for node, others, shares in zip(self.nodes, self.neighbors, self.shares, strict=True):
            values[others] += shares[:, None] * values[node]
        values = np.divide(
            values, self.ties[:, None], out=np.zeros_like(values), where=self.ties[:, None] > 0
        )
        steps = zip(self.nodes[::-1], self.neighbors[::-1], self.shares[::-1], strict=True)
        for node, others, shares in steps:
            values[node] += shares @ values[others]
        return values


def eliminate(given: Equations) -> Eliminated:
    """Elimination without subtraction, in Python, in the order of minimum degree.

    Eliminating node p sends the walkers that pass through it on: ``w_ij += w_pi w_pj / d_p``. All results keep their
    relative precision, for the reason given in `kernels.cpu.elimination`.
    """
    hold = given.hold.copy()
    around: list[dict[int, float]] = [{} for _ in hold]
    for i, j, w in zip(given.first.tolist(), given.second.tolist(), given.weight.tolist(), strict=True):
        around[i][j] = around[i].get(j, 0.0) + w
        around[j][i] = around[j].get(i, 0.0) + w
    ties, nodes = np.zeros(len(hold)), list[int]()
    neighbors, all_shares = list[Array](), list[Array]()
    waiting = [(len(others), node) for node, others in enumerate(around)]
    heapify(waiting)
    gone = np.zeros(len(hold), bool)
    while waiting:
        degree, node = heappop(waiting)
        if gone[node] or degree != len(around[node]):
            continue
        gone[node] = True
        others, weights = list(around[node]), np.array(list(around[node].values()))
        ties[node] = weights.sum() + hold[node]
        shares = weights / ties[node] if ties[node] > 0 else weights
        for place, (i, share) in enumerate(zip(others, shares.tolist(), strict=True)):
            mine = around[i]
            del mine[node]
            for j, w in zip(others[:place], weights[:place].tolist(), strict=True):
                mine[j] = around[j][i] = mine.get(j, 0.0) + share * w
            hold[i] += share * hold[node]
        for i in others:
            heappush(waiting, (len(around[i]), i))
        nodes.append(node)
        neighbors.append(np.array(others, np.int64))
        all_shares.append(shares)
    return Eliminated(nodes, neighbors, all_shares, ties)
