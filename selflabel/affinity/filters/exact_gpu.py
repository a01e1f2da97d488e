"""The exact Gaussian filter in Triton, on tensor cores."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.filters.protocol import check_values
from selflabel.kernels.gpu.exact import filter_exactly

MOST_DIMENSIONS = 8
"""Kernels are compiled for each number of dimensions; more are left to products of matrices in torch."""


@dataclass(frozen=True, eq=False)
class TritonExact:
    """`ExactFilter`, from differences of features: single elements are exact to rounding, too."""

    features: Float[Tensor, "b d n"]
    """Centered, and scaled for powers of two."""

    @classmethod
    @torch.no_grad()
    def build(cls, features: Float[Tensor, "b n d"]) -> "TritonExact":
        """From checked float32 features, already divided by their bandwidths."""
        centered = features - features.mean(1, keepdim=True)  # differences keep their digits
        return cls((centered.mT * math.sqrt(0.5 * math.log2(math.e))).contiguous())

    @torch.no_grad()
    def apply(self, values: Float[Tensor, "b k n"]) -> Float[Tensor, "b k n"]:
        """``K values``. Cost O(n² (d + k)). Raises `ValueError` for another shape or type than at build."""
        self._check(values)
        result = torch.empty_like(values, memory_format=torch.contiguous_format)
        filter_exactly(self.features, values.contiguous(), None, result)
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
        self._check(values)
        scale = None if scale is None else scale.contiguous()
        filter_exactly(self.features, values.contiguous(), scale, to, factor)

    def _check(self, values: Tensor) -> None:
        check_values(values, self.features.shape[0], self.features.shape[2], torch.float32)

    def degree(self) -> Float[Tensor, "b n"]:
        """``K 1``, computed once."""
        return self._degree

    @cached_property
    def _degree(self) -> Tensor:
        batch, _, pixels = self.features.shape
        return self.apply(self.features.new_ones(batch, 1, pixels))[:, 0]
