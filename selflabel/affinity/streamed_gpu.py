"""The streamed window on a GPU: all images at once, in kernels (`selflabel.kernels.gpu.gated`)."""

from functools import lru_cache

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from selflabel.affinity.gaussian import GaussianKernel
from selflabel.affinity.stencil import check_spacing, twice_squared
from selflabel.affinity.streamed import StreamedWindow
from selflabel.affinity.window import of_first_axis
from selflabel.kernels.gpu import gated

LARGEST = 1 << 31
"""Labels of an image must be fewer: places are counted in 32 bits."""


def supports(window: StreamedWindow, classes: int) -> bool:
    """Features that fit into registers, and images whose labels can be counted. Devices are `backend`'s matter."""
    channels = window.features.shape[1]
    return (
        channels <= gated.MOST_CHANNELS
        and classes <= gated.MOST_CLASSES
        and window.features[0, 0].numel() * max(classes, channels) < LARGEST
    )


def apply(
    window: StreamedWindow, labels: Float[Tensor, "b k *s"], *, skew: bool = False
) -> Float[Tensor, "b k *s"]:
    """As `WindowPart.apply`, of all images."""
    return gated.filtered(labels.contiguous(), _arrays(window), skew=skew)


def potts_energy(
    window: StreamedWindow, probs: Float[Tensor, "b k *s"], gradient: Tensor | None
) -> Float64[Tensor, ""]:
    """``σ'W(1 - σ)`` of all images, twice the bilinear Potts sum; `gradient`, if given, becomes that by the logits."""
    return gated.potts_energy(probs.contiguous(), _arrays(window), gradient)


def _arrays(window: StreamedWindow) -> gated.WindowArrays:
    size = tuple(window.features.shape[2:])
    gates = None
    if window.is_gated:
        ones = torch.ones_like(window.features[:, :1])
        source, destination = (
            (ones if gate is None else gate.to(ones.dtype)).contiguous()
            for gate in (window.source, window.destination)
        )
        gates = source, destination
    return gated.WindowArrays(
        window.features.contiguous(),
        gates,
        _table(window.kernels, window.features.device),
        tuple(min(window.radius, n - 1) for n in size),
        tuple(map(float, check_spacing(window.spacing, size))),
    )


@lru_cache(maxsize=16)
def _table(kernels: tuple[GaussianKernel, ...], device: torch.device) -> Float[Tensor, "p 3"]:
    """Kept: to bring a few numbers to a GPU, the host waits for it."""
    rows = []
    for kernel in kernels:
        place, color = (of_first_axis(sigma) for sigma in (kernel.sigma_xy, kernel.sigma_rgb))
        rows.append(
            (
                kernel.weight,
                *(
                    0.0 if sigma is None else -1 / twice_squared(sigma, torch.float32)
                    for sigma in (place, color)
                ),
            )
        )
    return torch.tensor(rows, dtype=torch.float32, device=device)
