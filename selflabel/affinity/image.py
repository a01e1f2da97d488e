"""Images in units that are known: [0, 1], 0..255 as published bandwidths are, and CIE Lab."""

from dataclasses import dataclass, field
from functools import cached_property
from math import inf

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from torch import Tensor

from selflabel.inputs import as_tensor, extent, widened
from selflabel.kernels.tracing import opaque

ROUNDING = 1e-4
"""Resizing rounds: a value this far out of [0, 1] is taken for one inside."""


@dataclass(frozen=True, eq=False)
class Image:
    """A batch of images ``[b c *s]`` that keeps what was computed from it: each unit is computed once.

    pixels: ``uint8`` in 0..255 or floating point in [0, 1]; anything else is a `ValueError`: bandwidths are given in
    0..255 units, and a wrong scale would change every result silently. Half precision becomes float32.
    """

    pixels: Shaped[Tensor, "b c *s"]
    _labs: dict[float, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        pixels = self.pixels
        _check_axes(pixels)
        if pixels.dtype == torch.uint8:
            return
        if not pixels.is_floating_point():
            raise ValueError(
                f"expected an image of uint8 in 0..255 or floats in [0, 1], got {pixels.dtype}: image / 255, or "
                f"/ 65535 for 16 bit"
            )
        pixels = widened(pixels)
        object.__setattr__(self, "pixels", pixels)
        low, high = torch.stack(pixels.aminmax()).tolist() if pixels.numel() else (0.0, 1.0)
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # false for nan, too
            raise ValueError(
                f"expected a floating-point image in [0, 1], got values from {low:g} to {high:g}: "
                f"{_remedy(low, high)}, or pass other features by `from_features`"
            )

    def __repr__(self) -> str:
        batch, channels, *size = self.pixels.shape
        return f"Image({batch} of {extent(tuple(size))}, channels: {channels})"

    @property
    def shape(self) -> torch.Size:
        """That of the pixels."""
        return self.pixels.shape

    @cached_property
    def unit(self) -> Float[Tensor, "b c *s"]:
        """The image in [0, 1]."""
        return self.pixels.to(torch.float32) / 255 if self.pixels.dtype == torch.uint8 else self.pixels

    @cached_property
    def colors(self) -> Float[Tensor, "b c *s"]:
        """The image in 0..255 units, as floats."""
        return self.pixels.to(torch.float32) if self.pixels.dtype == torch.uint8 else self.pixels * 255

    @opaque
    def lab(self, blur: float = 0.0) -> Float[Tensor, "b c *s"]:
        """The image in CIE Lab (L in 0..100; other than three channels: as lightness), blurred by `blur` pixels.

        Distances in Lab are closer to what the eye calls different than those in RGB. Computed on the CPU by
        scikit-image; returned in float32 on the image's device.
        """
        if blur not in self._labs:
            values = self._sharp_lab if blur == 0 else _blurred(self._sharp_lab, blur)
            found = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).movedim(-1, 1)
            self._labs[blur] = found.to(self.pixels.device)
        return self._labs[blur]

    def with_lab(self, blur: float, values: Float[Tensor, "b c *s"]) -> "Image":
        """The same pixels with values of `lab` that were computed elsewhere."""
        known = Image(self.pixels)
        known._labs.update({**self._labs, blur: values})
        return known

    @cached_property
    def _sharp_lab(self) -> NDArray[np.floating]:
        """Lab ``[b *s c]`` in the precision of the image."""
        from skimage.color import rgb2lab  # a fifth of a second, and most affinities do without

        rgb = self.unit.movedim(1, -1).cpu().numpy()
        values: NDArray[np.floating] = rgb2lab(rgb) if rgb.shape[-1] == 3 else rgb * 100
        return values


ImageLike = Image | Shaped[Tensor, "b c *s"] | Shaped[np.ndarray, "b c *s"]
"""An `Image`, or a tensor or NumPy array that becomes one: uint8 in 0..255 or floats in [0, 1]."""


def as_image(image: ImageLike) -> Image:
    """The image itself, or a tensor or array as one. Raises `ValueError` as `Image` does."""
    return image if isinstance(image, Image) else Image(as_tensor(image, "an image"))


def _check_axes(pixels: Tensor) -> None:
    shape = tuple(pixels.shape)
    if len(shape) not in (4, 5):
        last = len(shape) == 3 and shape[-1] <= 4
        remedy = "image.permute(2, 0, 1)[None]" if last else "a single image needs a batch axis, image[None]"
        raise ValueError(f"expected images [b c h w] or [b c d h w], got shape {shape}: {remedy}")
    if len(shape) == 4 and shape[-1] in (3, 4) and shape[1] > 4:
        raise ValueError(
            f"expected images [b c h w], got shape {shape} with the channels last: image.permute(0, 3, 1, 2), or pass "
            f"{shape[1]} channels by `from_features`"
        )


def _remedy(low: float, high: float) -> str:
    if not (-inf < low and high < inf):  # true for nan, too
        return "check where nan or inf come from"
    if low >= -0.5 and high <= 1.5:
        return "resizing overshoots: image.clamp(0, 1)"
    if low < 0:
        return "standardized for a network? Undo it: image * std + mean"
    return "divide it by 255" if high <= 255 else "divide it by its range"


def _blurred(values: NDArray[np.floating], blur: float) -> NDArray[np.floating]:
    """``[b *s c]`` blurred over space alone."""
    from scipy.ndimage import gaussian_filter  # as slow to import as scikit-image

    blurred: NDArray[np.floating] = gaussian_filter(values, (0.0, *[blur] * (values.ndim - 2), 0.0))
    return blurred
