"""Rows of an affinity: the weights between one pixel and all others."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.protocol import Affinity
from selflabel.inputs import extent


def rows(affinity: Affinity, pixels: Sequence[tuple[int, ...]]) -> Float[Tensor, "b p *s"]:
    """``w_ij`` of each chosen pixel i with all pixels j of its image: rows of `Affinity.as_matrix`.

    pixels: places as (row, column), the same in all images. A dense affinity gives them as its filter applies them.
    Cost: one application to p channels. Raises `ValueError` for pixels outside the image.
    """
    batch, *size = affinity.shape
    for pixel in pixels:
        if len(pixel) != len(size) or not all(0 <= place < n for place, n in zip(pixel, size, strict=True)):
            place = ",".join(map(str, pixel))
            raise ValueError(
                f"expected pixels in an image of {extent(tuple(size))}, got {place}: rows count from 0"
            )
    units = torch.zeros(len(pixels), *size, device=affinity.degree().device)
    for unit, pixel in zip(units, pixels, strict=True):
        unit[pixel] = 1
    return affinity.apply(units.expand(batch, *units.shape).contiguous())
