"""Separable filters of the pixel grid in Triton: all taps of an axis in one pass, scaled and added on the way."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.filters.protocol import check_values
from selflabel.kernels.gpu.separable import filter_axis

MOST_RADIUS = 32
"""Pixels to each side. Kernels that reach further are left to products of matrices in torch."""


@dataclass(frozen=True, eq=False)
class TritonSeparable:
    """`SeparableFilter`, to rounding."""

    size: tuple[int, ...]
    taps: tuple[Float[Tensor, " _"], ...]
    """One an axis, from -radius to radius."""

    @torch.no_grad()
    def apply(self, values: Float[Tensor, "b k n"]) -> Float[Tensor, "b k n"]:
        """``K values`` of any number of images. Cost O(k n radius) an axis. Raises as `SeparableFilter` does."""
        result = torch.empty_like(values, memory_format=torch.contiguous_format)
        self._filter(values, None, None, result)
        return result

    @torch.no_grad()
    def add_scaled(
        self,
        values: Float[Tensor, "b k n"],
        scale: Float[Tensor, "_ 1 n"] | None,
        factor: float,
        to: Float[Tensor, "b k n"],
    ) -> None:
        """``to += factor · diag(scale) K diag(scale) values``, with no further pass over the pixels."""
        self._filter(values, scale, factor, to)

    def _filter(self, values: Tensor, scale: Tensor | None, factor: float | None, to: Tensor) -> None:
        size = self.size
        check_values(values, None, math.prod(size), torch.float32)
        x, last = values.contiguous(), len(size) - 1
        scale = None if scale is None else scale.contiguous()
        for axis, taps in enumerate(self.taps):
            axes = size[axis], math.prod(size[axis + 1 :])
            before = scale if axis == 0 else None
            if axis == last:
                filter_axis(x, taps, axes, to, before=before, after=scale, factor=factor)
            else:
                filtered = torch.empty_like(x)
                filter_axis(x, taps, axes, filtered, before=before)
                x = filtered

    def degree(self) -> Float[Tensor, "1 n"]:
        """``K 1``, the same for every image, computed once."""
        return self._degree

    @cached_property
    def _degree(self) -> Tensor:
        return self.apply(self.taps[0].new_ones(1, 1, math.prod(self.size)))[:, 0]
