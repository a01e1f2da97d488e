"""Gaussian filtering without approximation: of any features, or of the pixel grid by separable filters."""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.filters.protocol import Filter, check_features, check_values
from selflabel.kernels.backend import Backend, Routine, backend

TILE_ON_CPU = (256, 1024)
"""Rows and columns of K that exist at a time, to fit the second-level cache."""

TILE_ON_GPU = (4096, 16384)
"""The same, enough to fill a GPU."""

LEAST_EXPONENT = -40.0
"""Exponents are clamped here (4e-18): smaller products with labels would be denormal numbers, which are slow."""

BLOCK_PIXELS = 128
"""Pixels of an axis that one matrix product filters, unless the bandwidth is wider."""


@dataclass(frozen=True)
class Exact:
    """Exact filtering, quadratic in the pixels, on any device. It has no settings."""

    def build(self, features: Float[Tensor, "b n d"]) -> Filter:
        """The `ExactFilter` of features that are already divided by their bandwidths, or the same by kernels.

        Raises `ValueError` if features have no ``[b n d]`` shape, are empty or not finite.
        """
        check_features(features)
        if backend(Routine.EXACT, features.device, features.dtype) is Backend.GPU:
            from selflabel.affinity.filters.exact_gpu import MOST_DIMENSIONS, TritonExact

            if features.shape[2] <= MOST_DIMENSIONS:
                return TritonExact.build(features)
        return ExactFilter.build(features)

    def build_grid(
        self, size: tuple[int, ...], sigmas: tuple[float, ...], dtype: torch.dtype, device: torch.device
    ) -> Filter:
        """The filter of place alone, `separable`; `sigmas` in pixels."""
        return separable(size, sigmas, dtype, device)


@dataclass(frozen=True)
class ExactFilter:
    """``K_ij = exp(-½ ‖f_i - f_j‖²)`` within each image, diagonal kept, tile by tile: K is never stored.

    The features are centered, and with ``q = [f, 1, -½ ‖f‖²]``, ``k = [f, -½ ‖f‖², 1]`` the exponent is the product
    ``q k'``. Its rounding, about ``1e-7 max ‖f‖²``, is the error of single elements; sums over pixels are accurate to
    1e-7 of their norm in float32. On CUDA this needs full float32 products (PyTorch's default: TF32 is off).
    """

    queries: Float[Tensor, "b n e"]
    keys: Float[Tensor, "b e n"]

    @classmethod
    def build(cls, features: Float[Tensor, "b n d"]) -> "ExactFilter":
        """From checked features, already divided by their bandwidths; values must be of the same type."""
        with torch.no_grad():
            f = features.detach() - features.detach().mean(1, keepdim=True)
            half = -0.5 * f.square().sum(2, keepdim=True)
            one = torch.ones_like(half)
            queries = torch.cat([f, one, half], 2)
            keys = torch.cat([f, half, one], 2).transpose(1, 2).contiguous()
        return cls(queries, keys)

    @torch.no_grad()
    def apply(self, values: Float[Tensor, "b k n"]) -> Float[Tensor, "b k n"]:
        """``K values``. Cost O(n² (d + k)): two matrix products and one exponential for each pair of pixels.

        Raises `ValueError` for another shape or type than at build.
        """
        b, n, _ = self.queries.shape
        check_values(values, b, n, self.queries.dtype)
        with torch.autocast(values.device.type, enabled=False):  # half precision would ruin the exponents
            return self._apply(values)

    def _apply(self, values: Float[Tensor, "b k n"]) -> Float[Tensor, "b k n"]:
        b, n, _ = self.queries.shape
        rows, columns = TILE_ON_GPU if values.is_cuda else TILE_ON_CPU
        result = values.new_zeros(b, n, values.shape[1])
        for image, x in enumerate(values.transpose(1, 2).contiguous()):
            for i in range(0, n, rows):
                query, total = self.queries[image, i : i + rows], result[image, i : i + rows]
                for j in range(0, n, columns):
                    kernel = (
                        torch.mm(query, self.keys[image, :, j : j + columns])
                        .clamp_min_(LEAST_EXPONENT)
                        .exp_()
                    )
                    total.addmm_(kernel, x[j : j + columns])
        return result.transpose(1, 2).contiguous()

    def degree(self) -> Float[Tensor, "b n"]:
        """``K 1``, computed once."""
        return self._degree

    @cached_property
    def _degree(self) -> Tensor:
        b, n, _ = self.queries.shape
        return self.apply(self.queries.new_ones(b, 1, n))[:, 0]


@dataclass(frozen=True)
class SeparableFilter:
    """``K_ij = exp(-½ Σ_a (i_a - j_a)² / sigma_a²)`` over the pixel grid, diagonal kept: one band matrix an axis.

    Exact up to the cut at `truncate` sigma. Values outside of the grid count as zero.
    """

    size: tuple[int, ...]
    bands: tuple[Float[Tensor, "_ _"], ...]  # one an axis, from a window of pixels to a block of them

    @classmethod
    def build(
        cls,
        size: tuple[int, ...],
        sigma: float | tuple[float, ...],
        *,
        truncate: float = 6.0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> "SeparableFilter":
        """size: pixels on each spatial axis. sigma: in pixels, one number or one an axis. truncate: in sigma; beyond 6
        lie 2e-9 of the kernel's mass.

        Raises `ValueError` unless all sizes and bandwidths are positive, and there is one bandwidth for each size.
        """
        sigmas = sigma if isinstance(sigma, tuple) else (sigma,) * len(size)
        if not size or min(size) < 1 or len(sigmas) != len(size) or not min(*sigmas, truncate) > 0:
            raise ValueError(
                f"expected positive size, sigma for each axis, truncate: {size}, {sigma}, {truncate}"
            )
        return cls(
            size, tuple(_band(n, s, truncate).to(device, dtype) for n, s in zip(size, sigmas, strict=True))
        )

    @torch.no_grad()
    def apply(self, values: Float[Tensor, "b k n"]) -> Float[Tensor, "b k n"]:
        """``K values`` of any number of images. Cost O(k n radius) an axis.

        Raises `ValueError` for another number of pixels or type than at build.
        """
        check_values(values, None, math.prod(self.size), self.bands[0].dtype)
        x = values.reshape(-1, math.prod(self.size))
        with torch.autocast(values.device.type, enabled=False):
            for axis, band in enumerate(self.bands):
                x = _filter_middle(x.reshape(-1, self.size[axis], math.prod(self.size[axis + 1 :])), band)
        return x.view(values.shape)

    def degree(self) -> Float[Tensor, "1 n"]:
        """``K 1``, the same for every image, computed once."""
        return self._degree

    @cached_property
    def _degree(self) -> Tensor:
        return self.apply(self.bands[0].new_ones(1, 1, math.prod(self.size)))[:, 0]


def _band(size: int, sigma: float, truncate: float) -> Tensor:
    """Weights from the pixels -radius, ..., block + radius - 1 to the pixels 0, ..., block - 1."""
    radius = min(math.ceil(truncate * sigma), size - 1)
    block = min(max(BLOCK_PIXELS, radius), size)
    distance = torch.arange(-radius, block + radius, dtype=torch.float64)[:, None] - torch.arange(block)
    return torch.where(distance.abs() <= radius, torch.exp(-0.5 * (distance / sigma).square()), 0.0)


def _filter_middle(
    x: Float[Tensor, "m n rest"], band: Float[Tensor, "window block"]
) -> Float[Tensor, "m n rest"]:
    """The band matrix along the middle axis, block by block."""
    size, (window, block) = x.shape[1], band.shape
    radius = (window - block) // 2
    result = torch.empty_like(x)
    for start in range(0, size, block):
        stop = min(start + block, size)
        low, high = max(start - radius, 0), min(stop + radius, size)
        weights = band[low - start + radius : high - start + radius, : stop - start]
        if x.shape[2] == 1:  # one product instead of one a line
            result[:, start:stop, 0] = x[:, low:high, 0] @ weights
        else:
            result[:, start:stop] = weights.t() @ x[:, low:high]
    return result


def separable(
    size: tuple[int, ...], sigmas: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> Filter:
    """The filter of place alone, exact: a `SeparableFilter`, or the same by kernels if there are some."""
    if backend(Routine.SEPARABLE, device, dtype) is Backend.GPU:
        return _separable_on_gpu(size, sigmas, device)
    return SeparableFilter.build(size, sigmas, dtype=dtype, device=device)


@lru_cache(maxsize=4)
def _separable_on_gpu(size: tuple[int, ...], sigmas: tuple[float, ...], device: torch.device) -> Filter:
    """The same for all images of a size, so the last few are kept: to copy weights to a device is to wait."""
    from selflabel.affinity.filters.separable_gpu import MOST_RADIUS, TritonSeparable

    found = SeparableFilter.build(size, sigmas, device=device)
    radii = [(len(band) - band.shape[1]) // 2 for band in found.bands]
    if max(radii) > MOST_RADIUS:
        return found
    # the first pixel of a block weighs the first ones of its window
    taps = [band[: 2 * radius + 1, 0].contiguous() for band, radius in zip(found.bands, radii, strict=True)]
    return TritonSeparable(size, tuple(taps))
