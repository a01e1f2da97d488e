"""All neighbors within a radius, weighted by a mixture of kernels, with gates: the affinity of the gated CRF."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import isclose, prod

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.gaussian import GaussianKernel, Sigma, check_kernels, each, on_device
from selflabel.affinity.image import ImageLike, as_image
from selflabel.affinity.stencil import (
    Offset,
    Stencil,
    boxes,
    check_spacing,
    checked_features,
    twice_squared,
)
from selflabel.inputs import check_tensor, widened
from selflabel.kernels.memory import require_memory
from selflabel.kinds import check_count

GATED_CRF_KERNELS = (GaussianKernel(1.0, 6.0, 15.0),)
"""The kernel of the gated CRF as published, for a radius of 5."""


def mixture(
    kernels: tuple[GaussianKernel, ...], distance: Tensor | float, squared: Float[Tensor, "*any"]
) -> Float[Tensor, "*any"]:
    """``Σ_p K_p`` from squared distances in place and in features; the former broadcast to the latter.

    The kernels are `isotropic`: one bandwidth for all axes, and one for all channels.
    """
    weight: Tensor | None = None
    for kernel in kernels:
        color, place = kernel.sigma_rgb, kernel.sigma_xy
        assert not isinstance(color, Sequence), "one for all channels: `isotropic`"
        assert not isinstance(place, Sequence), "one for all axes: `isotropic`"
        one = (
            torch.zeros_like(squared)
            if color is None
            else squared * (-1 / twice_squared(color, squared.dtype))
        )
        if place is not None:
            one -= distance / twice_squared(place, squared.dtype)
        one = one.exp_().mul_(kernel.weight)
        weight = one if weight is None else weight.add_(one)
    assert weight is not None, "checked: there is at least one"
    return weight


def window_offsets(radius: int, size: tuple[int, ...]) -> tuple[Offset, ...]:
    """Half of the offsets of the (2·radius + 1)^axes window without its center: those that an image of this size has.

    An image of one pixel has a single offset, without pairs.
    """
    reach = [range(-min(radius, n - 1), min(radius, n - 1) + 1) for n in size]
    offsets = tuple(o for o in product(*reach) if o > (0,) * len(size))
    return offsets or ((0,) * (len(size) - 1) + (1,),)


def _check_memory(
    features: Float[Tensor, "b c *s"], radius: int, offsets: int, size: tuple[int, ...]
) -> None:
    """Raise `MemoryError` for windows whose weights do not fit into the memory of this machine."""
    if features.device.type == "cpu":
        pairs = features.shape[0] * offsets * prod(max(1.0, n - min(radius, n - 1) / 2) for n in size)
        require_memory(
            round(pairs) * features.element_size(),
            f"the weights of a window of radius {radius} on {size} pixels",
            "use a smaller radius, a grid affinity, or the mean-field solver, whose dense affinity "
            "has no window",
        )


def isotropic(
    features: Float[Tensor, "b c *s"],
    kernels: tuple[GaussianKernel, ...],
    spacing: tuple[float, ...] | None,
) -> tuple[Float[Tensor, "b c *s"], tuple[GaussianKernel, ...], tuple[float, ...]]:
    """The same kernels with one bandwidth for all axes and channels: what differs moves into features and spacing.

    Features, whose values are not checked, come out in float32 at least. Raises `ValueError` if the bandwidths of one
    kernel are no multiple of another's, as the kernels share features and spacing.
    """
    features = widened(features)
    spacing = check_spacing(spacing, tuple(features.shape[2:]))
    place = _common([kernel.sigma_xy for kernel in kernels], len(spacing), "sigma_xy", "axes")
    color = _common([kernel.sigma_rgb for kernel in kernels], features.shape[1], "sigma_rgb", "channels")
    if any(scale != 1 for scale in color):
        widths = on_device(color, features.dtype, features.device)
        features = features / widths.view(-1, *[1] * len(spacing))
    spacing = tuple(step / scale for step, scale in zip(spacing, place, strict=True))
    return features, tuple(map(_single, kernels)), spacing


def _single(kernel: GaussianKernel) -> GaussianKernel:
    """With the bandwidths of the first axis and channel."""
    place, color = of_first_axis(kernel.sigma_xy), of_first_axis(kernel.sigma_rgb)
    is_single = (place, color) == (kernel.sigma_xy, kernel.sigma_rgb)
    return kernel if is_single else replace(kernel, sigma_xy=place, sigma_rgb=color)


def _common(sigmas: list[Sigma], count: int, name: str, of: str) -> tuple[float, ...]:
    """The bandwidths of each axis or channel in units of the first one, the same for all kernels."""
    ratios = []
    for sigma in sigmas:
        if sigma is not None:
            all_ = each(sigma, count, name, of)
            ratios.append(tuple(one / all_[0] for one in all_))
    if any(not isclose(a, b) for ratio in ratios[1:] for a, b in zip(ratio, ratios[0], strict=True)):
        raise ValueError(
            f"expected {name} of all kernels in the same proportion in a window, got {sigmas}: use one kernel"
        )
    return ratios[0] if ratios else (1.0,) * count


def of_first_axis(sigma: Sigma) -> float | None:
    """The bandwidth of the first axis or channel: of `isotropic` kernels that of all."""
    return sigma[0] if isinstance(sigma, Sequence) else sigma


class WindowAffinity(Stencil):
    """``w_ij = ½ (m_i^dst m_j^src + m_j^dst m_i^src) Σ_p K_p(i, j)`` in a window (Obukhov et al. 2019, eq. 3 and 4).

    The gates m are 1 where not given, and then ``w = Σ_p K_p``. A pair counts once; the published sum counts
    both orders, which is twice this one, for any gates. Memory: half as many numbers a pixel as the window has pixels.
    """

    @classmethod
    def from_image(
        cls,
        image: ImageLike,
        radius: int = 5,
        kernels: tuple[GaussianKernel, ...] = GATED_CRF_KERNELS,
        *,
        source: Float[Tensor, "b 1 *s"] | None = None,
        destination: Float[Tensor, "b 1 *s"] | None = None,
        spacing: tuple[float, ...] | None = None,
    ) -> "WindowAffinity":
        """From an image ``[b c *s]``, uint8 in 0..255 or floats in [0, 1]. Published: radius 5, sigma_xy 6."""
        return cls.from_features(
            as_image(image).colors, radius, kernels, source=source, destination=destination, spacing=spacing
        )

    @classmethod
    def from_features(
        cls,
        features: Float[Tensor, "b c *s"],
        radius: int = 5,
        kernels: tuple[GaussianKernel, ...] = GATED_CRF_KERNELS,
        *,
        source: Float[Tensor, "b 1 *s"] | None = None,
        destination: Float[Tensor, "b 1 *s"] | None = None,
        spacing: tuple[float, ...] | None = None,
    ) -> "WindowAffinity":
        """From any feature map."""
        check_window(features, radius, kernels, source, destination)
        features, kernels, spacing = isotropic(features, kernels, spacing)
        size = tuple(features.shape[2:])
        ones = features.new_ones(features.shape[0], 1, *size)
        source, destination = ones if source is None else source, ones if destination is None else destination
        _check_memory(features, radius, prod(2 * min(radius, n - 1) + 1 for n in size) // 2, size)
        offsets = window_offsets(radius, size)
        weights = []
        for offset in offsets:
            first, second = boxes(offset, size)
            squared = (features[first] - features[second]).square().sum(1, keepdim=True)
            distance = sum((o * s) ** 2 for o, s in zip(offset, spacing, strict=True))
            weight = mixture(kernels, distance, squared)
            gates = destination[first] * source[second] + destination[second] * source[first]
            weights.append(weight * gates / 2)
        return cls(size, offsets, tuple(weights))


def check_window(
    features: Tensor,
    radius: int,
    kernels: tuple[GaussianKernel, ...],
    source: Tensor | None,
    destination: Tensor | None,
) -> None:
    """Raise `ValueError` unless features, radius, kernels and gates make a window."""
    checked_features(features)
    check_neighborhood(features, radius, kernels, source, destination)


def check_neighborhood(
    features: Tensor,
    radius: int,
    kernels: tuple[GaussianKernel, ...],
    source: Tensor | None,
    destination: Tensor | None,
) -> None:
    """As `check_window`, for features that are known to be finite: no pixel is read."""
    check_count(radius, "radius")
    check_kernels(kernels)
    wanted = (features.shape[0], 1, *features.shape[2:])
    for name, gate in (("source", source), ("destination", destination)):
        if gate is not None:
            check_tensor(gate, name)
        if gate is not None and gate.shape != wanted:
            raise ValueError(f"expected a {name} gate of shape {wanted}, got {tuple(gate.shape)}")
