"""What the dense filters share: the checks of their inputs, and their gradient."""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class SymmetricMap(Protocol):
    """A symmetric linear map W on the pixels of each image."""

    def apply(self, values: Float[Tensor, "b k n"]) -> Float[Tensor, "b k n"]:
        """W values, without a gradient."""


@runtime_checkable
class Filter(SymmetricMap, Protocol):
    """A symmetric map that knows its row sums."""

    def degree(self) -> Float[Tensor, "b n"]:
        """W 1."""


@runtime_checkable
class AddingFilter(Filter, Protocol):
    """A filter that adds to what is there, scaled on both sides, with no pass over the pixels for either.

    So do the compiled ones, on values that lie pixel by pixel in memory.
    """

    def add(
        self,
        values: Float[Tensor, "b k n"],
        scale: Float[Tensor, "_ 1 n"] | None,
        factor: float,
        to: Float[Tensor, "b k n"],
    ) -> None:
        """``to += factor · diag(scale) W diag(scale) values``."""


class _FilterValues(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, linear: SymmetricMap, values: Tensor) -> Tensor:
        ctx.linear = linear
        return linear.apply(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, filter_values(ctx.linear, grads[0])  # W is symmetric


def filter_values(linear: SymmetricMap, values: Float[Tensor, "b k n"]) -> Float[Tensor, "b k n"]:
    """W values, with a gradient to the values: W times the incoming one, as W is symmetric.

    Backward costs one more filtering; nothing inside the filter is recorded.
    """
    result: Tensor = _FilterValues.apply(linear, values)  # type: ignore[no-untyped-call]
    return result


def check_features(features: Tensor) -> None:
    """Raise ValueError unless features are finite, float32 or float64, [b n d] with b, n, d >= 1."""
    if features.ndim != 3 or 0 in features.shape:
        raise ValueError(f"expected features of shape [b n d], none of them 0, got {list(features.shape)}")
    if features.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"expected float32 or float64 features, got {features.dtype}")
    if not bool(features.isfinite().all()):
        raise ValueError("expected finite features, got nan or inf")


def check_values(values: Tensor, batch: int | None, pixels: int, dtype: torch.dtype) -> None:
    """Raise ValueError unless values are [batch k pixels] of the given type; batch None: any."""
    fits = values.ndim == 3 and values.shape[2] == pixels and batch in (None, values.shape[0])
    if not fits or values.shape[1] == 0:
        wanted = f"[{'b' if batch is None else batch} k {pixels}]"
        raise ValueError(f"expected values of shape {wanted}, k >= 1, got {list(values.shape)}")
    if values.dtype != dtype:
        raise ValueError(f"expected {dtype} values, as at build, got {values.dtype}")
