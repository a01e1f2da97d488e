"""Affinities between pixels at fixed offsets: the base of grid and window.

Each offset is kept once (its negative has the same pairs), with one weight a pair and none outside the image. An
offset pairs the pixels of a box with those of the same box moved by the offset, so looking up neighbors is slicing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from math import inf, isfinite, prod
from types import EllipsisType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from selflabel.affinity.protocol import Edges
from selflabel.inputs import check_tensor, extent, widened
from selflabel.kernels.backend import Backend, Routine, backend
from selflabel.kinds import check_number, checked

LARGEST_BANDWIDTH = 1e18
"""Its square is finite in float32; all weights are 1 long before."""

Offset = tuple[int, ...]
Box = tuple[EllipsisType | slice, ...]


def boxes(offset: Offset, size: tuple[int, ...]) -> tuple[Box, Box]:
    """Where the first and the second pixels of the pairs lie: indices into ``[... *s]``."""
    first = [slice(max(0, -o), max(0, min(n, n - o))) for o, n in zip(offset, size, strict=True)]
    second = [slice(max(0, o), max(0, min(n, n + o))) for o, n in zip(offset, size, strict=True)]
    return (..., *first), (..., *second)


@lru_cache(maxsize=64)
def _on_device(offsets: tuple[Offset, ...], device: torch.device) -> Int[Tensor, "m 3"]:
    """Kept: to copy them there is to wait."""
    return torch.tensor(offsets, dtype=torch.int32, device=device)


@dataclass(frozen=True, eq=False)
class OffsetPairs:
    """The pairs of one offset."""

    first_box: Box
    second_box: Box
    weight: Tensor

    def first(self, values: Tensor) -> Tensor:
        """A view."""
        return values[self.first_box]

    def second(self, values: Tensor) -> Tensor:
        """A view."""
        return values[self.second_box]

    def add(self, to: Tensor, at_first: Tensor, at_second: Tensor) -> None:
        """In place, through the views."""
        self.first(to).add_(at_first)
        self.second(to).add_(at_second)

    def add_products(self, to: Tensor, scale: Tensor, at_first: Tensor, at_second: Tensor) -> None:
        """In place, through the views."""
        self.first(to).addcmul_(scale, at_first)
        self.second(to).addcmul_(scale, at_second)


@dataclass(frozen=True, eq=False)
class Stencil:
    """Weights ``[b 1 *box]`` for each of a few offsets."""

    size: tuple[int, ...]
    offsets: tuple[Offset, ...]
    weights: tuple[Tensor, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """``(b, *s)``."""
        return (self.weights[0].shape[0], *self.size)

    def __repr__(self) -> str:
        batch = self.weights[0].shape[0]
        return f"{type(self).__name__}(images: {batch} of {extent(self.size)}, neighbors: {2 * len(self.offsets)})"

    @property
    def reach(self) -> int:
        """The largest distance along an axis between the pixels of a pair."""
        return max((abs(step) for offset in self.offsets for step in offset), default=0)

    def pairs(self) -> Iterator[OffsetPairs]:
        """One block an offset."""
        for offset, weight in zip(self.offsets, self.weights, strict=True):
            yield OffsetPairs(*boxes(offset, self.size), weight)

    @cached_property
    def flat(self) -> tuple[Float[Tensor, "b m n"], Int[Tensor, "m 3"]]:
        """Weights by the first pixel of a pair, zero for pairs across the border; and offsets on three axes.

        For kernels on a GPU. Cost: once a pass over the pairs.
        """
        weights = self.weights[0].new_zeros(self.shape[0], len(self.offsets), *self.size)
        for number, (offset, weight) in enumerate(zip(self.offsets, self.weights, strict=True)):
            weights[:, number][boxes(offset, self.size)[0]] = weight[:, 0]
        offsets = tuple((0,) * (3 - len(self.size)) + offset for offset in self.offsets)
        return weights.flatten(2), _on_device(offsets, weights.device)

    @property
    def blocks(self) -> tuple[Tensor, ...]:
        """Arrays that have every weight once, and zeros: one where there are kernels for it."""
        first = self.weights[0]
        has_kernels = backend(Routine.STENCIL, first.device, first.dtype) is Backend.GPU
        return (self.flat[0],) if has_kernels else self.weights

    def has_kernels(self, labels: Float[Tensor, "b k *s"]) -> bool:
        """Are there kernels for these labels, of which no graph is recorded? Places are counted in 32 bits.

        Weights are float32; labels float32 or float64.
        """
        weights = self.weights[0]
        return (
            backend(Routine.STENCIL, labels.device, weights.dtype) is Backend.GPU
            and labels.dtype in (weights.dtype, torch.float64)
            and (labels.shape[0], *labels.shape[2:]) == self.shape
            and prod(self.size) * max(labels.shape[1], len(self.offsets)) < 1 << 31
            and not (labels.requires_grad and torch.is_grad_enabled())
        )

    def apply(self, labels: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
        """``W x``: two multiply-adds a pair and class."""
        if self.has_kernels(labels):
            from selflabel.kernels.gpu import stencil

            return stencil.apply(labels.contiguous(), stencil.StencilPairs(*self.flat))
        wide = widened(labels)
        result = torch.zeros_like(wide)
        for pairs in self.pairs():
            weight = pairs.weight.to(wide.dtype)
            pairs.add_products(result, weight, pairs.second(wide), pairs.first(wide))
        return result.to(labels.dtype)

    def degree(self) -> Float[Tensor, "b 1 *s"]:
        """``W 1``: the sum of the weights around each pixel."""
        result = self.weights[0].new_zeros(self.shape[0], 1, *self.size)
        if self.has_kernels(result):
            return self.apply(torch.ones_like(result))
        for pairs in self.pairs():
            pairs.add(result, pairs.weight, pairs.weight)
        return result

    def edges(self) -> Edges:
        """Index lists, offset by offset, each in reading order."""
        numbers = torch.arange(prod(self.size), device=self.weights[0].device).view(self.size)
        blocks = list(self.pairs())
        return Edges(
            first=torch.cat([pairs.first(numbers).flatten() for pairs in blocks]),
            second=torch.cat([pairs.second(numbers).flatten() for pairs in blocks]),
            weight=torch.cat([pairs.weight.flatten(1) for pairs in blocks], dim=1),
        )

    def as_matrix(self) -> Float[Tensor, "b n n"]:
        """Dense W, for tests."""
        edges, n = self.edges(), prod(self.size)
        matrix = edges.weight.new_zeros(self.shape[0], n, n)
        matrix[:, edges.first, edges.second] = edges.weight
        return matrix + matrix.transpose(1, 2)

    def window(self, box: tuple[slice, ...]) -> "Stencil":
        """The affinity among the pixels of a box ``[b *s]``; its weights are views."""
        weights, (images, *axes) = [], box
        for offset, weight in zip(self.offsets, self.weights, strict=True):
            # pixels at one end of an axis have no such neighbor, and no weight
            cut = [slice(s.start, max(s.stop - abs(o), s.start)) for s, o in zip(axes, offset, strict=True)]
            weights.append(weight[(images, slice(None), *cut)])
        return Stencil(tuple(s.stop - s.start for s in axes), self.offsets, tuple(weights))

    def coarsen(self) -> "Stencil":
        """The affinity between blocks of 2 pixels an axis: weights between two blocks add up.

        For labels that are constant on each block it gives the same Potts sum (pairs within a block cost
        nothing). Cost: one pass over the pairs.
        """
        size, batch = tuple((n + 1) // 2 for n in self.size), self.shape[0]
        coarse: dict[Offset, Tensor] = {}
        for offset, weight in zip(self.offsets, self.weights, strict=True):
            at_first = weight.new_zeros(batch, 1, *(2 * n for n in size))
            at_first[boxes(offset, self.size)[0]] = weight
            for corner in product((0, 1), repeat=len(size)):
                moved = tuple((c + o) // 2 for c, o in zip(corner, offset, strict=True))
                if not any(moved):
                    continue
                # a coarse offset and its negative are the same pairs: keep the one that is first in order
                key = max(moved, tuple(-m for m in moved))
                first, second = boxes(key, size)
                at_corner: Box = (..., *(slice(c, None, 2) for c in corner))
                part = at_first[at_corner][first if key == moved else second]
                coarse[key] = coarse[key] + part if key in coarse else part.clone()
        return Stencil(size, tuple(coarse), tuple(coarse.values()))

    def to(self, dtype: torch.dtype) -> "Stencil":
        """The same affinity with weights of this type."""
        return Stencil(self.size, self.offsets, tuple(weight.to(dtype) for weight in self.weights))


def check_size(size: tuple[int, ...]) -> None:
    """Raise `ValueError` unless there are two or three spatial axes, none of them empty."""
    if len(size) not in (2, 3) or 0 in size:
        raise ValueError(f"expected two or three spatial axes with pixels, (h, w) or (d, h, w), got {size}")


def checked_features(features: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
    """The features in float32 at least. Raises `ValueError` unless finite floats, with two or three spatial axes."""
    check_tensor(features, "features")
    if not features.is_floating_point():
        raise ValueError(
            f"expected features in floating point, got {features.dtype}: pass images to `from_image`, or "
            f"call .float()"
        )
    check_size(tuple(features.shape[2:]))
    ends = torch.stack(features.detach().aminmax()).tolist() if features.numel() else []  # nan if any is
    if not all(map(isfinite, ends)):
        raise ValueError("expected finite features, got nan or inf")
    return widened(features)


def check_positive(name: str, value: float | int) -> None:
    """Raise `ValueError` unless the value is above zero and finite."""
    check_number(value, name)
    if not 0 < value < inf:
        raise ValueError(f"expected a finite {name} > 0, got {value}")


def twice_squared(sigma: float, dtype: torch.dtype) -> float:
    """``2σ²``, neither zero nor infinite in this type: equal features keep the weight 1 at any bandwidth."""
    return max(2 * min(sigma, LARGEST_BANDWIDTH) ** 2, torch.finfo(dtype).tiny)


def check_spacing(spacing: tuple[float, ...] | None, size: tuple[int, ...]) -> tuple[float, ...]:
    """The voxel spacing, one unit an axis by default; `ValueError` for another number of axes or if not positive."""
    if spacing is None:
        return (1.0,) * len(size)
    spacing = checked(spacing, tuple[float, ...], "spacing")
    if len(spacing) != len(size) or not all(0 < step < inf for step in spacing):  # false for nan, too
        raise ValueError(f"expected a finite, positive spacing for each of {len(size)} axes, got {spacing}")
    return spacing
