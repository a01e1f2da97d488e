"""The dense affinity of the dense CRF: every pixel with every other."""

from dataclasses import dataclass
from functools import cached_property, partial
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.filters.lattice import FINE
from selflabel.affinity.filters.protocol import Filter, FilterBuilder, filter_values, grid_features
from selflabel.affinity.filters.weighted import ScaledFilter, apply_sum
from selflabel.affinity.gaussian import GaussianKernel, check_kernels, each, on_device
from selflabel.affinity.image import ImageLike, as_image
from selflabel.affinity.stencil import check_size, check_spacing, checked_features
from selflabel.inputs import extent
from selflabel.kernels.tracing import opaque
from selflabel.kinds import check_kind

DENSE_CRF_KERNELS = (GaussianKernel(1.0, 100.0, 15.0),)
"""The published kernel of dense CRF losses; (1.0, 60.0, 12.0) with ResNet-101."""

POST_PROCESSING = (GaussianKernel(3.0, 30.0, 5.0), GaussianKernel(5.0, 2.0, None))
"""Appearance and smoothness as in Mayer et al., Sec. 5.4."""


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
        kernels: tuple[GaussianKernel, ...] = DENSE_CRF_KERNELS,
        *,
        filtering: FilterBuilder = FINE,
        symmetric: bool = False,
        spacing: tuple[float, ...] | None = None,
    ) -> "DenseAffinity":
        """From an image ``[b c *s]``, uint8 in 0..255 or floats in [0, 1]; arguments as for `from_features`."""
        return cls._from_finite(as_image(image).colors, kernels, filtering, symmetric, spacing)

    @classmethod
    @opaque
    def from_features(
        cls,
        features: Float[Tensor, "b c *s"],
        kernels: tuple[GaussianKernel, ...] = DENSE_CRF_KERNELS,
        *,
        filtering: FilterBuilder = FINE,
        symmetric: bool = False,
        spacing: tuple[float, ...] | None = None,
    ) -> "DenseAffinity":
        """From any feature map.

        `filtering`: a `Lattice` (`FINE` is linear in the pixels, within 4 % of exact on average), `COARSE` (faster, for
        symmetric normalization) or `Exact` (quadratic). Kernels of place alone are filtered by the same lattice, or
        separably by `Exact` (linear in the pixels). Raises `ValueError` without kernels, or for one without `sigma_xy`.
        """
        return cls._from_finite(checked_features(features), kernels, filtering, symmetric, spacing)

    @classmethod
    @opaque
    def _from_finite(
        cls,
        features: Float[Tensor, "b c *s"],
        kernels: tuple[GaussianKernel, ...],
        filtering: FilterBuilder,
        symmetric: bool,
        spacing: tuple[float, ...] | None,
    ) -> "DenseAffinity":
        """Of features whose values were checked, for which a GPU is waited for."""
        check_kind(filtering, FilterBuilder, "a filtering such as FINE", "COARSE, FINE or Exact()")
        size = tuple(features.shape[2:])
        check_size(size)
        spacing = check_spacing(spacing, size)
        check_kernels(kernels)
        check_kind(symmetric, bool, "symmetric as True or False", "one of both")
        flat = features.detach().flatten(2).transpose(1, 2)
        filters = []
        for kernel in kernels:
            if kernel.sigma_xy is None:
                raise ValueError(
                    "expected a sigma_xy for every kernel, got None: only windows take kernels of color alone"
                )
            built: Filter
            places = each(kernel.sigma_xy, len(size), "sigma_xy", "axes")
            sigmas = tuple(sigma / step for sigma, step in zip(places, spacing, strict=True))  # in pixels
            if kernel.sigma_rgb is None:
                built = filtering.build_grid(size, sigmas, features.dtype, features.device)
            else:
                place = grid_features(size, sigmas, features.dtype, features.device).expand(len(flat), -1, -1)
                widths = each(kernel.sigma_rgb, flat.shape[2], "sigma_rgb", "channels")
                colors = flat / on_device(widths, flat.dtype, flat.device)
                built = filtering.build(torch.cat([place, colors], dim=2))
            scale = built.degree()[:, None].clamp_min(1e-12).rsqrt() if symmetric else None
            filters.append(ScaledFilter(built, kernel.weight, scale))
        return cls((len(flat), *size), tuple(filters), features.dtype)

    def __repr__(self) -> str:
        batch, *size = self.shape
        return f"DenseAffinity(images: {batch} of {extent(tuple(size))}, kernels: {len(self.filters)})"

    def apply(self, labels: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
        """``W x``: one filtering a kernel, differentiable by x at the cost of one more."""
        result = filter_values(partial(apply_sum, self.filters), labels.flatten(2).to(self.dtype))
        return result.view(labels.shape).to(labels.dtype)

    def degree(self) -> Float[Tensor, "b 1 *s"]:
        """``W 1``, computed once."""
        return self._degree

    @cached_property
    def _degree(self) -> Float[Tensor, "b 1 *s"]:
        scaled = self.filters[0]
        like = scaled.filter.degree() if scaled.scale is None else scaled.scale
        return self.apply(like.new_ones(self.shape[0], 1, *self.shape[1:]))

    def as_matrix(self) -> Float[Tensor, "b n n"]:
        """Dense W as the filters apply it, for tests."""
        n = prod(self.shape[1:])
        device = self.degree().device
        units = torch.eye(n, dtype=self.dtype, device=device).view(1, n, *self.shape[1:])
        return self.apply(units.expand(self.shape[0], -1, *[-1] * (units.ndim - 2))).flatten(2)
