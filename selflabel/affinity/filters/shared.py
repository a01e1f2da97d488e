"""One filter for all images of a batch: kernels of place alone do not depend on the image."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.filters.protocol import LatticeFilter
from selflabel.affinity.filters.weighted import ScaledFilter


@dataclass(frozen=True, eq=False)
class SharedFilter:
    """The lattice of one image, for any number of images of its size, one after the other."""

    filter: LatticeFilter

    @torch.no_grad()
    def apply(self, values: Float[Tensor, "b k n"]) -> Float[Tensor, "b k n"]:
        """``K values``. Raises `ValueError` for another number of pixels or type than at build."""
        return torch.cat([self.filter.apply(image) for image in torch.split(values, 1)])

    @torch.no_grad()
    def add_scaled(
        self,
        values: Float[Tensor, "b k n"],
        scale: Float[Tensor, "_ 1 n"] | None,
        factor: float,
        to: Float[Tensor, "b k n"],
    ) -> None:
        """``to += factor · diag(scale) K diag(scale) values``."""
        for number, (image, own) in enumerate(zip(torch.split(values, 1), torch.split(to, 1), strict=True)):
            scales = None if scale is None else scale[number % len(scale), None]
            ScaledFilter(self.filter, factor, scales).add(image, own)

    def degree(self) -> Float[Tensor, "1 n"]:
        """``K 1``, the same for every image, computed once."""
        return self.filter.degree()

    @property
    def vertices(self) -> int:
        """The number of vertices around the pixels of an image."""
        return self.filter.vertices
