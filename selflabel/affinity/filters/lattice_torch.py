"""The permutohedral lattice in torch: sparse matrices by rows, on any device."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag


@dataclass(frozen=True)
class Gather:
    """A sparse matrix by rows: row r sums weight[e] * x[index[e]] over e in offsets[r] .. offsets[r + 1]."""

    index: Int[Tensor, " e"]
    offsets: Int[Tensor, " rows"]  # where each row begins
    weight: Float[Tensor, " e"]

    def apply(self, x: Float[Tensor, "columns k"]) -> Float[Tensor, "rows k"]:
        """The product with x. The order of the sums is fixed, on the GPU too."""
        return embedding_bag(self.index, x, self.offsets, mode="sum", per_sample_weights=self.weight)


def spread(table: Int[Tensor, " m"], stride: int, radius: int) -> Int[Tensor, " m2"]:
    """The vertices up to `radius` steps from those of the table along one lattice vector, sorted."""
    steps = torch.arange(-radius, radius + 1, device=table.device, dtype=table.dtype) * stride
    result: Tensor = torch.unique((table[:, None] + steps).flatten())
    return result


def blur(
    source: Int[Tensor, " m"], target: Int[Tensor, " m2"], stride: int, weights: Float[Tensor, " width"]
) -> tuple[Gather, Tensor, Tensor]:
    """The blur along one lattice vector from the vertices of `source` to those of `target` (both sorted).

    Vertices that nothing reaches, or that reach nothing, are left out. Returns the matrix and the two masks.
    """
    radius = weights.numel() // 2
    steps = torch.arange(-radius, radius + 1, device=source.device, dtype=source.dtype) * stride
    wanted = target[:, None] + steps
    at = torch.searchsorted(source, wanted, out_int32=True).clamp_(max=source.numel() - 1)
    there = source[at] == wanted
    entry = there.flatten().nonzero()[:, 0]
    at = at.flatten()[entry]

    used = torch.zeros_like(source, dtype=torch.bool)
    used[at] = True
    number = used.cumsum(0, dtype=torch.int32) - 1
    count = there.sum(1, dtype=torch.int32)
    reached = count > 0
    count = count[reached]
    offsets = count.cumsum(0, dtype=torch.int32) - count
    return Gather(number[at], offsets, weights[entry % weights.numel()]), used, reached


def blurs(
    table: Int[Tensor, " m"], strides: list[int], weights: Float[Tensor, " width"]
) -> tuple[Gather, ...]:
    """The blurs along all lattice vectors in turn, from the table to the table.

    In between they visit all vertices that lie on a path from the table to the table, and no others: those
    that are reached from both ends. Walk half-way from each end, join, and drop what did not meet.
    """
    radius, last = weights.numel() // 2, len(strides)
    half = last // 2
    vertices = {0: table, last: table}
    for step in range(half):
        vertices[step + 1] = spread(vertices[step], strides[step], radius)
    for step in range(last - 1, half, -1):
        vertices[step] = spread(vertices[step + 1], strides[step], radius)

    result: dict[int, Gather] = {}
    for step in [half, *range(half - 1, -1, -1), *range(half + 1, last)]:
        result[step], used, reached = blur(vertices[step], vertices[step + 1], strides[step], weights)
        if step > 0:
            vertices[step] = vertices[step][used]
        vertices[step + 1] = vertices[step + 1][reached]
    return tuple(result[step] for step in range(last))
