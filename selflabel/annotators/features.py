"""Features of pixels for appearance models: color, blurred color, edges, texture, place."""

import numpy as np
from numpy.typing import NDArray

from selflabel.affinity.image import ImageLike, as_image

SCALES = (1.0, 2.0, 4.0, 8.0)
TEXTURE_SCALES = (3.0, 7.0)


def pixel_features(image: ImageLike) -> list[NDArray[np.float32]]:
    """Features ``[n f]`` of each image: 31 for color, 21 for grey, in two dimensions.

    Lab; Lab blurred at 1, 2, 4 and 8 pixels; at each of these scales the gradient magnitude and the eigenvalues
    of the Hessian of the lightness; its standard deviation within 3 and 7 pixels; the pixel's coordinates.
    """
    return [_features(np.moveaxis(one, 0, -1)) for one in as_image(image).lab().cpu().numpy()]


def _features(colors: NDArray[np.float32]) -> NDArray[np.float32]:
    from scipy.ndimage import gaussian_filter  # its import takes a tenth of a second

    *size, channels = colors.shape
    lightness = colors[..., 0]
    maps = [colors[..., channel] for channel in range(channels)]
    for scale in SCALES:
        blurred = [gaussian_filter(colors[..., channel], scale) for channel in range(channels)]
        maps += blurred + _edges(blurred[0])
    for scale in TEXTURE_SCALES:
        mean = gaussian_filter(lightness, scale)
        maps.append(np.sqrt(np.maximum(gaussian_filter(lightness**2, scale) - mean**2, 0)))
    maps += list(np.indices(size))
    return np.stack([one.ravel() for one in maps], axis=1).astype(np.float32)


def _edges(lightness: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Gradient magnitude and eigenvalues of the Hessian; derivatives along an axis of one pixel are 0."""
    axes = [axis for axis, n in enumerate(lightness.shape) if n > 1]
    if not axes:
        return [np.zeros_like(lightness)] * (1 + lightness.ndim)
    gradient = {axis: np.gradient(lightness, axis=axis) for axis in axes}
    magnitude = np.sqrt(np.sum([g**2 for g in gradient.values()], axis=0))
    hessian = np.zeros((*lightness.shape, lightness.ndim, lightness.ndim), dtype=np.float32)
    for a in axes:
        for b in axes:
            hessian[..., a, b] = np.gradient(gradient[max(a, b)], axis=min(a, b))
    eigenvalues = _eigenvalues(hessian)
    return [magnitude, *(eigenvalues[..., number] for number in range(lightness.ndim))]


def _eigenvalues(matrices: NDArray[np.float32]) -> NDArray[np.float32]:
    """Eigenvalues ``[... n]`` of symmetric matrices ``[... n n]``; in closed form for n = 2, ten times as fast."""
    if matrices.shape[-1] != 2:
        return np.linalg.eigvalsh(matrices)
    half_trace = (matrices[..., 0, 0] + matrices[..., 1, 1]) / 2
    root = np.hypot((matrices[..., 0, 0] - matrices[..., 1, 1]) / 2, matrices[..., 0, 1])
    return np.stack([half_trace - root, half_trace + root], axis=-1)
