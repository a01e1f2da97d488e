"""Weighted sums of filters, each scaled on both sides: what a dense affinity applies."""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.filters.protocol import (
    AddingFilter,
    Addition,
    Call,
    Filter,
    PreparingFilter,
    ScalingFilter,
)


@dataclass(frozen=True, eq=False)
class ScaledFilter:
    """``weight · diag(scale) K diag(scale)``; the scale is 1 (None), or ``(K 1)^-½`` for symmetric normalization."""

    filter: Filter
    weight: float
    scale: Float[Tensor, "_ 1 n"] | None

    def add(self, values: Float[Tensor, "b k n"], to: Float[Tensor, "b k n"]) -> None:
        """Add the filtered values to `to`."""
        if isinstance(self.filter, AddingFilter):
            self.filter.add(values, self.scale, self.weight, to)
        elif isinstance(self.filter, ScalingFilter):
            self.filter.add_scaled(values, self.scale, self.weight, to)
        elif self.scale is None:
            to.add_(self.filter.apply(values), alpha=self.weight)
        else:
            to.addcmul_(self.scale, self.filter.apply(self.scale * values), value=self.weight)

    def scratch(self, classes: int) -> int:
        """Numbers of memory with which `prepared` filters so many classes at once."""
        return self.filter.scratch(classes) if isinstance(self.filter, PreparingFilter) else 0

    def prepared(
        self,
        values: Float[Tensor, "b k n"],
        to: Float[Tensor, "b k n"],
        scratch: Tensor,
        *,
        replaces: bool = False,
    ) -> list[Call]:
        """What `add` does at each time, of contiguous values, or what ``to`` is then; may take the scratch memory."""
        if isinstance(self.filter, PreparingFilter):
            addition = Addition(values, self.scale, self.weight, to, replaces)
            return self.filter.prepared(addition, scratch)
        added = partial(self.add, values, to)
        return [to.zero_, added] if replaces else [added]


def apply_sum(filters: tuple[ScaledFilter, ...], values: Float[Tensor, "b k n"]) -> Float[Tensor, "b k n"]:
    """The sum of all filters, applied. In memory pixel by pixel if the values are and a filter is compiled."""
    if not any(isinstance(scaled.filter, AddingFilter) for scaled in filters):
        result = torch.zeros_like(values, memory_format=torch.contiguous_format)
        for scaled in filters:
            scaled.add(values, result)
        return result
    from selflabel.kernels.cpu.layout import summed

    return summed(values, [scaled.add for scaled in filters])
