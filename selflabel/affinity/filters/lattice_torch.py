"""The permutohedral lattice in torch: sparse matrices by rows, on any device."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from selflabel.affinity.filters.permutohedral import blur_taps, evenness, gain, key_strides, sum_in_order
from selflabel.affinity.filters.protocol import check_values


@dataclass(frozen=True)
class Gather:
    """A sparse matrix by rows: row r sums ``weight[e] · x[index[e]]`` for ``offsets[r] <= e < offsets[r + 1]``."""

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

    Leaves out vertices without a neighbor in the other table. Returns the matrix, and masks of the vertices that are
    kept in `source` and in `target`.
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

    In between they visit exactly the vertices on a path from the table to the table, which are those reached from both
    ends. Walk half-way from each end, join, and drop the vertices that did not meet.
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


@dataclass(frozen=True)
class TorchLattice:
    """The lattice as sparse matrices: splat, one blur a lattice vector, slice. Images share one table of vertices."""

    batch: int
    pixels: int
    splat: Gather
    blurs: tuple[Gather, ...]
    slice: Gather

    @classmethod
    @torch.no_grad()
    def build(cls, features: Float[Tensor, "b n d"], variance: float, radius: int) -> "TorchLattice":
        """From checked features; raises `ValueError` if a vertex has no 64-bit key."""
        b, n, d = features.shape
        taps = blur_taps(variance, radius)

        # t = A f with A = √v (I + c 11'), (1 + c d)² = 1 + d
        middle = (features.amin(1, keepdim=True) + features.amax(1, keepdim=True)) / 2
        f = (features - middle).permute(2, 0, 1).reshape(d, b * n)
        t = math.sqrt(variance) * (f + (math.sqrt(1 + d) - 1) / d * sum_in_order(f))
        # the middle goes to the middle of a simplex, where K_ii is near 1, which matters for flat images
        t += ((torch.arange(d, dtype=f.dtype, device=f.device) + 0.5) / d)[:, None]
        base = t.floor()

        # one wait for the device
        low, high = ([int(x) for x in ends] for ends in torch.stack(base.aminmax(dim=1)).tolist())
        strides, low, image = key_strides(low, high, radius, b)
        kind = torch.int32 if b * image < 2**30 else torch.int64  # sorts twice as fast
        key = torch.arange(b, device=f.device, dtype=kind).repeat_interleave(n) * image
        for j in range(d):
            key += (base[j].to(kind) - low[j]) * strides[j]

        # Kuhn: from the base add the unit vectors in the order of falling fractional parts
        part, order = (t - base).sort(0, descending=True)
        step = torch.tensor(strides, device=f.device, dtype=kind)[order]
        keys = torch.cat([key[None], key + step.cumsum(0, dtype=kind)])  # [d + 1, b n]
        barycentric = torch.cat([1 - part[:1], part[:-1] - part[1:], part[-1:]])
        scaled = (
            (barycentric * (math.sqrt(gain(variance, d, taps)) * evenness(barycentric, taps))).t().flatten()
        )

        ordered, place = keys.t().flatten().sort(stable=True)
        table, inverse, count = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)
        vertex = torch.empty_like(place, dtype=torch.int32).scatter_(0, place, inverse.int())
        splat = Gather((place // (d + 1)).int(), (count.cumsum(0) - count).int(), scaled[place])
        rows = torch.arange(0, b * n * (d + 1), d + 1, device=f.device, dtype=torch.int32)

        along = torch.tensor(taps[:0:-1] + taps, dtype=f.dtype, device=f.device)
        return cls(b, n, splat, blurs(table, [*strides, -sum(strides)], along), Gather(vertex, rows, scaled))

    @property
    def vertices(self) -> int:
        """The number of vertices around pixels, in all images."""
        return self.splat.offsets.numel()

    @torch.no_grad()
    def apply(self, values: Float[Tensor, "b k n"]) -> Float[Tensor, "b k n"]:
        """``K values``. Cost O(k n d). Raises `ValueError` for another shape or type than at build."""
        check_values(values, self.batch, self.pixels, self.slice.weight.dtype)
        k = values.shape[1]
        x = self.splat.apply(values.transpose(1, 2).contiguous().view(self.batch * self.pixels, k))
        for step in self.blurs:
            x = step.apply(x)
        result = torch.empty_like(values, memory_format=torch.contiguous_format)
        for image, own in zip(result, self.slice.apply(x).view(self.batch, self.pixels, k), strict=True):
            image.copy_(own.t())
        return result

    def degree(self) -> Float[Tensor, "b n"]:
        """``K 1``, computed once."""
        return self._degree

    @cached_property
    def _degree(self) -> Tensor:
        weight = self.slice.weight
        return self.apply(weight.new_ones(self.batch, 1, self.pixels))[:, 0]
