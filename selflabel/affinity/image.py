"""From images to colors in the published units."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def colors(image: Tensor) -> Float[Tensor, "b c *s"]:
    """The image in 0..255 units, as floats.

    Takes ``uint8`` in 0..255 or floating point in [0, 1]; anything else is a `ValueError`: bandwidths are given
    in 0..255 units, and a wrong scale would change every result silently.
    """
    if image.dtype == torch.uint8:
        return image.to(torch.float32)
    if not image.is_floating_point():
        raise ValueError(f"expected an image of uint8 in 0..255 or floats in [0, 1], got {image.dtype}")
    low, high = torch.stack(image.aminmax()).tolist() if image.numel() else (0.0, 1.0)
    if not (low >= 0 and high <= 1):  # false for nan, too
        raise ValueError(
            f"expected a floating-point image in [0, 1], got values from {low:g} to {high:g}: divide it by its "
            f"range, or pass other features by `from_features`"
        )
    return image * 255


def lab(image: Tensor, blur: float = 0.0) -> Float[Tensor, "b c *s"]:
    """The image in CIE Lab (L in 0..100; other than three channels: as lightness), blurred by `blur` pixels.

    Distances in Lab are closer to what the eye calls different than those in RGB. Computed on the CPU by
    scikit-image; returned in float32 on the image's device. Images as for `colors`.
    """
    from scipy.ndimage import gaussian_filter  # a fifth of a second, and most affinities do without
    from skimage.color import rgb2lab

    rgb = (colors(image) / 255).movedim(1, -1).cpu().numpy()
    values = rgb2lab(rgb) if rgb.shape[-1] == 3 else rgb * 100
    if blur:
        sigmas = (0.0, *[blur] * (values.ndim - 2), 0.0)
        values = gaussian_filter(values, sigmas)
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).movedim(-1, 1).to(image.device)
