"""Weighted sums of filters, each scaled on both sides: what a dense affinity applies."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.filters.protocol import AddingFilter, Filter


@dataclass(frozen=True, eq=False)
class ScaledFilter:
    """``weight · diag(scale) K diag(scale)``; the scale is 1, or ``(K 1)^-½`` for symmetric normalization."""

    filter: Filter
    weight: float
    scale: Float[Tensor, "_ 1 n"] | None

    def add(self, values: Float[Tensor, "b k n"], to: Float[Tensor, "b k n"]) -> None:
        """``to += W values``."""
        if isinstance(self.filter, AddingFilter):
            self.filter.add(values, self.scale, self.weight, to)
        elif self.scale is None:
            to.add_(self.filter.apply(values), alpha=self.weight)
        else:
            to.addcmul_(self.scale, self.filter.apply(self.scale * values), value=self.weight)


@dataclass(frozen=True, eq=False)
class FilterSum:
    """The sum of some filters."""

    filters: tuple[ScaledFilter, ...]

    def apply(self, values: Float[Tensor, "b k n"]) -> Float[Tensor, "b k n"]:
        """In memory pixel by pixel if the values are."""
        if not any(isinstance(scaled.filter, AddingFilter) for scaled in self.filters):
            result = torch.zeros_like(values)
            for scaled in self.filters:
                scaled.add(values, result)
            return result
        from selflabel.kernels.cpu.layout import summed

        return summed(values, [scaled.add for scaled in self.filters])
