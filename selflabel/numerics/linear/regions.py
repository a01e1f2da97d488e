"""Regions of pixels that no seed reaches through positive weights."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from selflabel.numerics.linear.system import RandomWalk


def average_unseeded(
    walk: RandomWalk, free: Bool[Tensor, "b 1 *s"]
) -> tuple[RandomWalk, Bool[Tensor, "b 1 *s"]]:
    """The walk with its prediction averaged over each region that no seed reaches, and the free pixels elsewhere.

    Without a coupling, any constant minimizes the energy there; the mean is the nearest to the prediction.
    """
    probs, reached = walk.probs.clone(), free.clone()
    edges, pixels = walk.affinity.edges(), free[0].numel()
    first, second = edges.first.cpu().numpy(), edges.second.cpu().numpy()
    for number in range(len(probs)):
        linked = np.flatnonzero(walk.scale * edges.weight[number].cpu().numpy() > 0)
        ones = np.ones(len(linked), np.int8)
        graph = csr_array((ones, (first[linked], second[linked])), shape=(pixels, pixels))
        count, region = connected_components(graph, directed=False)
        is_free = free[number].flatten().cpu().numpy()
        seeded = np.zeros(count, bool)
        seeded[region[~is_free]] = True
        lost = ~seeded[region]
        if not lost.any():
            continue
        size = np.maximum(np.bincount(region[lost], minlength=count), 1)
        values = probs[number].flatten(1)
        here = torch.from_numpy(lost).to(probs.device)
        members = torch.from_numpy(region[lost]).to(probs.device)
        sums = values.new_zeros(len(values), count).index_add_(1, members, values[:, here])
        values[:, here] = (sums / torch.from_numpy(size).to(probs))[:, members]
        reached[number].view(-1)[here] = False
    return replace(walk, probs=probs), reached
