"""The Gaussian kernel of place and features: one record for windows and for all pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.stencil import check_positive
from selflabel.kinds import check_fields, checked

Sigma = float | Sequence[float] | None
"""A bandwidth for all axes (channels), one for each, or None: the part is left out."""


@dataclass(frozen=True)
class GaussianKernel:
    """``weight · exp(-½ Σ_a (i_a - j_a)² / sigma_xy_a² - ½ Σ_c (f_i^c - f_j^c)² / sigma_rgb_c²)``.

    `sigma_xy` in pixels (in units of the spacing, if one is given), `sigma_rgb` in 0..255 units for images and
    in the features' own otherwise. One number holds for all axes or channels; several are one an axis, in the order of
    the image's (y, x), or one a channel. A sigma of None leaves its part out: a kernel with `sigma_xy` alone is one of
    place. Raises `ValueError` unless the weight and the sigmas are positive and finite.
    """

    weight: float
    sigma_xy: Sigma = None
    sigma_rgb: Sigma = None

    def __post_init__(self) -> None:
        check_fields(self)
        check_positive("weight of every kernel", self.weight)
        for name in ("sigma_xy", "sigma_rgb"):
            sigma = getattr(self, name)
            if sigma is None:
                continue
            if sigma == ():
                raise ValueError(
                    f"expected a {name}, or one for each axis, got none: pass None to leave it out"
                )
            for one in sigma if isinstance(sigma, tuple) else (sigma,):
                check_positive(name, one)


def check_kernels(kernels: Any) -> None:
    """Raise `ValueError` unless these are Gaussian kernels, one or more."""
    checked(kernels, tuple[GaussianKernel, ...], "kernels")
    if not kernels:
        raise ValueError("expected at least one kernel, got none")


@lru_cache(maxsize=64)
def on_device(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Float[Tensor, " _"]:
    """Kept: to bring a few numbers to a GPU, the host waits for it."""
    with torch.inference_mode(False):  # what is made there could not take part in training
        return torch.tensor(numbers, dtype=dtype, device=device)


def each(sigma: float | Sequence[float], count: int, name: str, of: str) -> tuple[float, ...]:
    """One bandwidth for each of `count` axes or channels. Raises `ValueError` for another number of them."""
    if not isinstance(sigma, Sequence):
        return (sigma,) * count
    if len(sigma) != count:
        raise ValueError(
            f"expected one {name} or {count}, one for each of the {of}, got {len(sigma)}: {sigma}"
        )
    return tuple(sigma)
