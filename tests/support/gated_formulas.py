"""The gated CRF of the paper as loops in plain numpy, and cases to try it on."""

from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selflabel.affinity import GaussianKernel

Array = NDArray[np.float64]
KERNELS = (GaussianKernel(0.7, 1.5, 60.0), GaussianKernel(0.4, 2.5, None), GaussianKernel(1.3, None, 90.0))
SIZES = [(5, 7), (3, 4, 5)]
SPACINGS: dict[int, tuple[float, ...]] = {2: (1.0, 0.8), 3: (2.0, 1.0, 0.7)}


def case(size: tuple[int, ...], classes: int = 3, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Logits and images in float64."""
    generator = torch.Generator().manual_seed(63_017)
    logits = torch.randn(batch, classes, *size, generator=generator, dtype=torch.float64) * 2
    return logits, torch.rand(batch, 2, *size, generator=generator, dtype=torch.float64)


def gates_of(size: tuple[int, ...], batch: int = 2) -> tuple[Tensor, Tensor]:
    """Source and destination gates that differ."""
    generator = torch.Generator().manual_seed(8_431)
    return (
        torch.rand(batch, 1, *size, generator=generator) > 0.3,
        torch.rand(batch, 1, *size, generator=generator) > 0.4,
    )


def asymmetric(classes: int = 3) -> Tensor:
    return torch.rand(classes, classes, generator=torch.Generator().manual_seed(2_203), dtype=torch.float64)


def published(
    logits: Array,
    images: Array,
    radius: int,
    kernels: tuple[GaussianKernel, ...],
    source: Array,
    destination: Array,
    compatibility: Array,
    spacing: tuple[float, ...],
) -> float:
    """Equations 1 to 5 and the mean over the destinations; gates [b *s], a loop for each of their sums."""
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    prediction = exponentials / exponentials.sum(1, keepdims=True)
    energy = 0.0
    for image in range(len(logits)):
        for a, b in product(list(np.ndindex(*logits.shape[2:])), repeat=2):
            if a == b or max(abs(x - y) for x, y in zip(a, b, strict=True)) > radius:
                continue
            affinity = 0.0
            for kernel in kernels:
                exponent = 0.0
                if kernel.sigma_xy is not None:
                    step = [(x - y) * unit for x, y, unit in zip(a, b, spacing, strict=True)]
                    exponent += np.square(np.array(step) / kernel.sigma_xy).sum()
                if kernel.sigma_rgb is not None:
                    color = 255 * (images[image][(slice(None), *a)] - images[image][(slice(None), *b)])
                    exponent += np.square(color / kernel.sigma_rgb).sum()
                affinity += kernel.weight * np.exp(-0.5 * exponent)
            gate = destination[image][a] * source[image][b]
            for i, j in product(range(logits.shape[1]), repeat=2):
                pair = prediction[image, i][a] * prediction[image, j][b]
                energy += compatibility[i, j] * gate * affinity * pair
    return float(energy / destination.sum())


def expected(
    logits: Tensor,
    images: Tensor,
    radius: int = 2,
    kernels: tuple[GaussianKernel, ...] = KERNELS,
    source: Tensor | None = None,
    destination: Tensor | None = None,
    compatibility: Tensor | None = None,
    spacing: tuple[float, ...] | None = None,
) -> float:
    ones = np.ones((logits.shape[0], *logits.shape[2:]))
    return published(
        logits.detach().double().numpy(),
        images.double().numpy(),
        radius,
        kernels,
        ones if source is None else source[:, 0].double().numpy(),
        ones if destination is None else destination[:, 0].double().numpy(),
        1 - np.eye(logits.shape[1]) if compatibility is None else compatibility.double().numpy(),
        spacing or (1.0,) * (logits.ndim - 2),
    )
