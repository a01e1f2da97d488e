"""Every pixel with every other: the dense affinity of the dense CRF."""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import prod
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.filters.exact import SeparableFilter
from selflabel.affinity.filters.lattice import CoarseLattice, Lattice
from selflabel.affinity.filters.protocol import Filter, filter_values
from selflabel.affinity.filters.weighted import FilterSum, ScaledFilter
from selflabel.affinity.image import ImageLike, as_image
from selflabel.affinity.stencil import check_feature_map, check_positive, check_spacing
from selflabel.kernels.backend import Backend, Routine
from selflabel.kernels.backend import backend as kernels_of


@dataclass(frozen=True)
class GaussianKernel:
    """``weight · exp(-½ d² / sigma_xy² - ½ ‖f_i - f_j‖² / sigma_rgb²)``; `sigma_rgb` None leaves its part out.

    `sigma_xy` in pixels (in units of the spacing, if one is given), `sigma_rgb` in 0..255 units for images and
    in the features' own otherwise. Published (sigma_rgb, sigma_xy): (15, 100) for losses, (12, 60) with
    ResNet-101; with a second kernel of place alone for post-processing (`POST_PROCESSING`).
    """

    weight: float = 1.0
    sigma_xy: float = 100.0
    sigma_rgb: float | None = 15.0


POST_PROCESSING = (GaussianKernel(3.0, 30.0, 5.0), GaussianKernel(5.0, 2.0, None))
"""Appearance and smoothness as in Mayer et al., Sec. 4.2."""


NARROWEST = 1.0
"""Bandwidths of place, in pixels, below which the lattice has no pixels to average over."""


@runtime_checkable
class FilterBuilder(Protocol):
    """`Lattice`, `CoarseLattice` or `ExactFilter`: what makes a filter from features over their bandwidths."""

    def build(self, features: Float[Tensor, "b n d"]) -> Filter:
        """The filter with ``K_ij = exp(-½ ‖f_i - f_j‖²)``."""


def _place_filter(
    size: tuple[int, ...],
    sigmas: tuple[float, ...],
    builder: FilterBuilder,
    dtype: torch.dtype,
    device: torch.device,
) -> Filter:
    """Of a kernel of place alone: separable and exact, but for the compiled lattice, which is several times faster."""
    on_lattice = builder is Lattice or builder is CoarseLattice
    if on_lattice and kernels_of(Routine.LATTICE, device, dtype) is Backend.CPU and min(sigmas) >= NARROWEST:
        return _place_lattice(size, sigmas, builder is CoarseLattice, dtype)
    return SeparableFilter.build(size, sigmas, dtype=dtype, device=device)


@lru_cache(maxsize=4)
def _place_lattice(
    size: tuple[int, ...], sigmas: tuple[float, ...], coarse: bool, dtype: torch.dtype
) -> Filter:
    """The same for all images of a size, so the last few are kept."""
    lattice = (CoarseLattice if coarse else Lattice).build(_places(size, sigmas, dtype, torch.device("cpu")))
    return replace(lattice, batch=None)  # type: ignore[type-var]


def _places(
    size: tuple[int, ...], sigmas: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "1 n d"]:
    """Where each pixel is, in bandwidths."""
    axes = [torch.arange(n, device=device) / sigma for n, sigma in zip(size, sigmas, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(1, -1, len(size)).to(dtype)


@dataclass(frozen=True, eq=False)
class DenseAffinity:
    """``W = Σ_m w_m K_m``, Gaussian kernels of place and color between all pixels, diagonal kept.

    With the diagonal kept, W is positive semidefinite (mean field needs that to descend), and the Potts sum of
    a dense affinity counts both orders of a pair. ``symmetric=True`` replaces each K by ``D^-½ K D^-½``,
    ``D = K 1`` (Krähenbühl & Koltun 2013). Build it with `from_image` or `from_features`.
    """

    shape: tuple[int, ...]
    filters: tuple[ScaledFilter, ...]
    dtype: torch.dtype

    @classmethod
    def from_image(
        cls,
        image: ImageLike,
        kernels: tuple[GaussianKernel, ...] = (GaussianKernel(),),
        *,
        backend: FilterBuilder = Lattice,
        symmetric: bool = False,
        spacing: tuple[float, ...] | None = None,
    ) -> "DenseAffinity":
        """From an image ``[b c *s]``, uint8 in 0..255 or floats in [0, 1]; arguments as for `from_features`."""
        return cls.from_features(
            as_image(image).colors, kernels, backend=backend, symmetric=symmetric, spacing=spacing
        )

    @classmethod
    def from_features(
        cls,
        features: Float[Tensor, "b c *s"],
        kernels: tuple[GaussianKernel, ...] = (GaussianKernel(),),
        *,
        backend: FilterBuilder = Lattice,
        symmetric: bool = False,
        spacing: tuple[float, ...] | None = None,
    ) -> "DenseAffinity":
        """From any feature map.

        `backend`: `Lattice` (linear in the pixels, within 3 % of exact), `CoarseLattice` (faster, for symmetric
        normalization) or `ExactFilter` (quadratic). Kernels of place alone are separable and exact, but for compiled
        lattices (within 3 %, if not coarse). Raises `ValueError`
        without kernels or for bandwidths that are not positive.
        """
        size = tuple(features.shape[2:])
        check_feature_map(features)
        spacing = check_spacing(spacing, size)
        if not kernels:
            raise ValueError("expected at least one kernel, got none")
        flat = features.detach().flatten(2).transpose(1, 2)
        filters = []
        for kernel in kernels:
            check_positive("weight of every kernel", kernel.weight)
            check_positive("sigma_xy", kernel.sigma_xy)
            built: Filter
            sigmas = tuple(kernel.sigma_xy / step for step in spacing)  # in pixels
            if kernel.sigma_rgb is None:
                built = _place_filter(size, sigmas, backend, features.dtype, features.device)
            else:
                check_positive("sigma_rgb", kernel.sigma_rgb)
                place = _places(size, sigmas, features.dtype, features.device).expand(len(flat), -1, -1)
                built = backend.build(torch.cat([place, flat / kernel.sigma_rgb], dim=2))
            scale = built.degree()[:, None].clamp_min(1e-12).rsqrt() if symmetric else None
            filters.append(ScaledFilter(built, kernel.weight, scale))
        return cls((len(flat), *size), tuple(filters), features.dtype)

    def apply(self, labels: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
        """``W x``: one filtering a kernel, differentiable by x at the cost of one more."""
        result = filter_values(FilterSum(self.filters), labels.flatten(2).to(self.dtype))
        return result.view(labels.shape).to(labels.dtype)

    def degree(self) -> Float[Tensor, "b 1 *s"]:
        """``W 1``, computed once."""
        return self._degree

    @cached_property
    def _degree(self) -> Float[Tensor, "b 1 *s"]:
        scaled = self.filters[0]
        some = scaled.filter.degree() if scaled.scale is None else scaled.scale
        return self.apply(some.new_ones(self.shape[0], 1, *self.shape[1:]))

    def as_matrix(self) -> Float[Tensor, "b n n"]:
        """Dense W as the backend applies it, for tests."""
        n = prod(self.shape[1:])
        device = self.degree().device
        units = torch.eye(n, dtype=self.dtype, device=device).view(1, n, *self.shape[1:])
        return self.apply(units.expand(self.shape[0], -1, *[-1] * (units.ndim - 2))).flatten(2)
