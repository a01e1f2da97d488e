"""Filters of a batch that take some of its images at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.filters.protocol import Addition, Call, LatticeFilter
from selflabel.affinity.filters.weighted import ScaledFilter


@dataclass(frozen=True, eq=False)
class SplitFilter:
    """Lattices of so many images each, one after the other: those of a batch, or one for any number of images.

    Kernels of place alone do not depend on the image. Of large images each has a lattice of its own, as tables for all
    of them would take more memory, and no less time.
    """

    filters: tuple[LatticeFilter, ...]
    images: int
    """Of a filter, at most."""
    batch: int | None
    """Images of all filters; None for any number."""

    @torch.no_grad()
    def apply(self, values: Float[Tensor, "b k n"]) -> Float[Tensor, "b k n"]:
        """``K values``. Raises `ValueError` for another shape or type than at build."""
        self._check(values)
        parts = enumerate(torch.split(values, self.images))
        return torch.cat([self._filter(number).apply(part) for number, part in parts])

    @torch.no_grad()
    def add_scaled(
        self,
        values: Float[Tensor, "b k n"],
        scale: Float[Tensor, "_ 1 n"] | None,
        factor: float,
        to: Float[Tensor, "b k n"],
    ) -> None:
        """``to += factor · diag(scale) K diag(scale) values``."""
        for scaled, own, result in self._parts(Addition(values, scale, factor, to)):
            scaled.add(own, result)

    def scratch(self, classes: int) -> int:
        """As `PreparingFilter`: all use the same memory."""
        return max(ScaledFilter(each, 1.0, None).scratch(classes) for each in self.filters)

    def prepared(self, addition: Addition, scratch: Tensor) -> list[Call]:
        """As `PreparingFilter`."""
        calls = list[Call]()
        for scaled, values, to in self._parts(addition):
            calls += scaled.prepared(values, to, scratch, replaces=addition.replaces)
        return calls

    def _check(self, values: Tensor) -> None:
        """The filters check the rest."""
        if self.batch not in (None, len(values)):
            raise ValueError(f"expected values of {self.batch} images, as at build, got {len(values)}")

    def _filter(self, number: int) -> LatticeFilter:
        return self.filters[number % len(self.filters)]

    def _parts(self, addition: Addition) -> Iterator[tuple[ScaledFilter, Tensor, Tensor]]:
        values, scale, factor, to, _ = addition
        self._check(values)
        parts = zip(torch.split(values, self.images), torch.split(to, self.images), strict=True)
        for number, (own, result) in enumerate(parts):
            first = number * self.images
            scales = scale if scale is None or len(scale) == 1 else scale[first : first + self.images]
            yield ScaledFilter(self._filter(number), factor, scales), own, result

    def degree(self) -> Float[Tensor, "_ n"]:
        """``K 1``, computed once; of one filter for any number of images, that of each."""
        return torch.cat([each.degree() for each in self.filters])

    @property
    def vertices(self) -> int:
        """The number of vertices around pixels, in the images of all filters."""
        return sum(each.vertices for each in self.filters)
