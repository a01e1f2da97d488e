"""What dense filters share: their protocols, the checks of their inputs, and their gradient."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.inputs import check_untransformed
from selflabel.kernels.tracing import opaque


@runtime_checkable
class Filter(Protocol):
    """A symmetric linear map K on the pixels of each image."""

    def apply(self, values: Float[Tensor, "b k n"]) -> Float[Tensor, "b k n"]:
        """``K values``, without a gradient."""

    def degree(self) -> Float[Tensor, "b n"]:
        """``K 1``, computed once."""


@runtime_checkable
class AddingFilter(Filter, Protocol):
    """A filter that scales and accumulates while it filters, with no further pass over the pixels.

    The compiled ones do, on values that lie pixel by pixel in memory.
    """

    def add(
        self,
        values: Float[Tensor, "b k n"],
        scale: Float[Tensor, "_ 1 n"] | None,
        factor: float,
        to: Float[Tensor, "b k n"],
    ) -> None:
        """``to += factor · diag(scale) K diag(scale) values``."""


@runtime_checkable
class ScalingFilter(Filter, Protocol):
    """The same, on values that lie class by class in memory: those on a GPU do."""

    def add_scaled(
        self,
        values: Float[Tensor, "b k n"],
        scale: Float[Tensor, "_ 1 n"] | None,
        factor: float,
        to: Float[Tensor, "b k n"],
    ) -> None:
        """``to += factor · diag(scale) K diag(scale) values``."""


Call = Callable[[], object]
"""Work that is prepared, to be done again and again."""


class Addition(NamedTuple):
    """``to += factor · diag(scale) K diag(scale) values``, with the values of the time when it is done."""

    values: Float[Tensor, "b k n"]
    scale: Float[Tensor, "_ 1 n"] | None
    factor: float
    to: Float[Tensor, "b k n"]
    replaces: bool = False
    """``to = …`` instead."""


@runtime_checkable
class PreparingFilter(ScalingFilter, Protocol):
    """The same, of which all that is asked for each time can be prepared once, on contiguous values."""

    def scratch(self, classes: int) -> int:
        """Numbers of memory, in float32, in which so many classes are filtered at once."""

    def prepared(self, addition: Addition, scratch: Tensor) -> list[Call]:
        """The calls that do this, in order; as many classes at once as the scratch memory has room for."""


@runtime_checkable
class LatticeFilter(Filter, Protocol):
    """A permutohedral lattice: in torch or by kernels, the same sums to rounding."""

    @property
    def vertices(self) -> int:
        """The number of vertices around pixels, in all images."""


@runtime_checkable
class FilterBuilder(Protocol):
    """A frozen record of settings that builds filters ``K_ij = exp(-½ ‖f_i - f_j‖²)``: `Lattice` or `Exact`."""

    def build(self, features: Float[Tensor, "b n d"]) -> Filter:
        """The filter of any features f, already divided by their bandwidths."""

    def build_grid(
        self, size: tuple[int, ...], sigmas: tuple[float, ...], dtype: torch.dtype, device: torch.device
    ) -> Filter:
        """The filter of place alone, for any number of images of this size; `sigmas` in pixels, one an axis."""


def grid_features(
    size: tuple[int, ...], sigmas: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "1 n d"]:
    """The place of each pixel, in bandwidths."""
    axes = [torch.arange(n, device=device) / sigma for n, sigma in zip(size, sigmas, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(1, -1, len(size)).to(dtype)


class _FilterValues(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, symmetric_map: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
        ctx.symmetric_map = symmetric_map
        return symmetric_map(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, filter_values(ctx.symmetric_map, grads[0])


@opaque
def filter_values(
    symmetric_map: Callable[[Tensor], Tensor], values: Float[Tensor, "b k n"]
) -> Float[Tensor, "b k n"]:
    """``W values`` with a gradient to the values: W times the incoming gradient, as W is symmetric.

    Backward costs one more filtering; nothing inside the filter is recorded. Raises `RuntimeError` inside of
    `torch.func`'s transforms.
    """
    check_untransformed(values)
    result: Tensor = _FilterValues.apply(symmetric_map, values)  # type: ignore[no-untyped-call]
    return result


NOT_FINITE = "expected finite features, got nan or inf"


def check_features(features: Tensor) -> None:
    """Raise `ValueError` unless features are finite, float32 or float64, ``[b n d]`` with b, n, d >= 1.

    Raises `RuntimeError` inside of `torch.func`'s transforms, where every new tensor is wrapped.
    """
    check_features_shape(features)
    if not bool(features.isfinite().all()):
        raise ValueError(NOT_FINITE)


def check_features_shape(features: Tensor) -> None:
    """The same without a look at the values, for which the host would wait for the device."""
    check_untransformed(features)
    if features.ndim != 3 or 0 in features.shape:
        raise ValueError(f"expected features of shape [b n d], none of them 0, got {list(features.shape)}")
    if features.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"expected float32 or float64 features, got {features.dtype}")


def check_values(values: Tensor, batch: int | None, pixels: int, dtype: torch.dtype) -> None:
    """Raise `ValueError` unless values are ``[batch k pixels]`` of the given type; batch None: any number of images."""
    fits = values.ndim == 3 and values.shape[2] == pixels and batch in (None, values.shape[0])
    if not fits or values.shape[1] == 0:
        wanted = f"[{'b' if batch is None else batch} k {pixels}]"
        raise ValueError(f"expected values of shape {wanted}, k >= 1, got {list(values.shape)}")
    if values.dtype != dtype:
        raise ValueError(f"expected {dtype} values, as at build, got {values.dtype}")
