"""What solvers of hard labels share: the energies that they take, and the graph that a problem makes of each image."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.protocol import Edges, SparseAffinity
from selflabel.energy import Energy
from selflabel.labels import UNLABELED, one_hot
from selflabel.numerics.cuts.margins import change_probabilities
from selflabel.numerics.cuts.maximum_flow import Array, maximum_flow
from selflabel.numerics.cuts.moves import PottsGraph
from selflabel.problem import Problem


def check_hard_energy(solver: str, energy: Energy) -> None:
    """Raise `ValueError` for couplings that are infinite at hard labels, relaxations not Potts there, and entropy.

    `solver`: its name, for the messages. `ImportError` without an engine for minimum cuts (PyMaxflow or OR-Tools).
    """
    maximum_flow()
    if energy.entropy_weight:
        raise ValueError(
            f"{solver}: expected entropy_weight 0, as hard labels have no entropy, got {energy.entropy_weight}: "
            f"use that, or the mean-field or gradient-descent solver"
        )
    if energy.coupling.at_vertices is None:
        raise ValueError(
            f"{solver}: expected a coupling that is finite at hard labels, got {energy.coupling.name!r}: "
            f"use 'standard', 'collision' or 'quadratic', or the gradient-descent solver"
        )
    if not energy.relaxation.is_potts:
        raise ValueError(
            f"{solver}: expected a relaxation that is the Potts model at hard labels, got "
            f"{energy.relaxation.name!r}: use 'bilinear', 'quadratic' or 'normalized-quadratic', or the "
            f"gradient-descent solver"
        )


def hard_costs(problem: Problem) -> Float[Tensor, "b k *s"]:
    """Cost of each hard label."""
    costs = problem.vertex_costs
    assert costs is not None, "checked"
    return costs


def checked_edges(problem: Problem, solver: str) -> Edges:
    """The pairs of the affinity. Raises `ValueError` for pixels that do not exist: native code trusts its indices."""
    assert isinstance(problem.affinity, SparseAffinity), "checked"
    edges, pixels = problem.affinity.edges(), problem.seeds[0].numel()
    ends = torch.stack([edges.first, edges.second])
    if ends.numel() and not 0 <= int(ends.min()) <= int(ends.max()) < pixels:
        raise ValueError(
            f"{solver}: expected pairs of the pixels 0 to {pixels - 1} from the edges of the "
            f"{type(problem.affinity).__name__}, got numbers from {int(ends.min())} to {int(ends.max())}"
        )
    return edges


def potts_graph(
    problem: Problem, costs: Tensor, edges: Edges, number: int
) -> tuple[PottsGraph, Array, Array]:
    """Coupling and pairs of one image, the classes that its labels number ``[k]``, its seeds ``[n]``: they are free.

    Further terms of the energy are left out.
    """
    energy, mask = problem.energy, problem.classes
    classes = np.arange(costs.shape[1]) if mask is None else np.flatnonzero(as_array(mask[number]))
    seeds = as_array(problem.seeds[number]).ravel()
    unary = energy.coupling_weight * as_array(costs[number].flatten(1).double())[classes]
    unary[:, seeds != UNLABELED] = 0
    weight = energy.pairwise_weight * as_array(edges.weight[number]).astype(np.float64)
    first, second = as_array(edges.first), as_array(edges.second)
    kept = np.flatnonzero((weight > 0) & (first != second))  # a pixel never differs from itself
    first, second = first[kept], second[kept]
    return PottsGraph(unary, first, second, weight[kept]), classes, seeds


def temperature(energy: Energy) -> float:
    """The unit of probabilities: η, so that without pairs they are the prediction's; λ where η is 0."""
    return energy.coupling_weight or energy.pairwise_weight or 1.0


def graph_marginals(
    graph: PottsGraph, classes: Array, seeds: Array, labels: Tensor, temperature: float
) -> Tensor:
    """How probable each class is in an image ``[k n]``: `change_probabilities` of free pixels, `labels` at seeds."""
    given = as_array(labels.flatten(1))
    index = np.searchsorted(classes, given.argmax(0))
    result, free = given.copy(), np.flatnonzero(seeds == UNLABELED)
    if len(classes) > 1 and len(free):
        open_, _ = graph.fold(seeds != UNLABELED, index)
        result[np.ix_(classes, free)] = change_probabilities(
            open_, graph.unary[:, free] / temperature, index[free], temperature
        )
    return torch.from_numpy(result)


def stacked_labels(indices: list[Array], like: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
    """One-hot labels of a batch from the classes of the pixels of each image ``[n]``."""
    whole = torch.from_numpy(np.stack(indices)).view(like.shape[0], *like.shape[2:])
    return one_hot(whole.to(like.device), like.shape[1], like.dtype)


def as_array(values: Tensor) -> Array:
    """The values on the CPU."""
    return values.detach().cpu().numpy()
