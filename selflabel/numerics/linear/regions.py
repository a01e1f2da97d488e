"""Regions of pixels that no seed reaches through positive weights."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from selflabel.kernels.memory import Array
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
    whole: tuple[int, Array] | None = None
    for number in range(len(probs)):
        linked = walk.scale * edges.weight[number].cpu().numpy() > 0
        if linked.all():  # as in most images
            whole = _regions(first, second, pixels) if whole is None else whole
            count, region = whole
        else:
            count, region = _regions(first[linked], second[linked], pixels)
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


def _regions(first: Array, second: Array, pixels: int) -> tuple[int, Array]:
    """How many regions pairs connect, and the number of each pixel's."""
    graph = csr_array((np.ones(len(first), np.int8), (first, second)), shape=(pixels, pixels))
    count, region = connected_components(graph, directed=False)
    return count, region
