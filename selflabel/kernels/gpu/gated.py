"""Windows whose weights are made where they are used: the gated CRF loss.

A program holds a tile of pixels with all classes in registers, and visits the window around them: neighbors and their
features come from the cache, weights are made once a pair and pixel, and nothing is unfolded.
"""

from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from selflabel.kernels.gpu.launch import Kernel, helper, power_of_two
from selflabel.kernels.gpu.stencil import place
from selflabel.kernels.gpu.tiles import Tiles

MOST_CHANNELS = 32
"""Features of a pixel, at most: they are held in registers."""

MOST_CLASSES = 256
"""Classes, at most."""


class WindowArrays(NamedTuple):
    """Images ``[b c *s]`` and the window around each pixel. Arrays are contiguous, in float32."""

    features: Tensor
    gates: tuple[Tensor, Tensor] | None
    """Source and destination ``[b 1 *s]``; None: 1 everywhere."""
    kernels: Tensor
    """``[p 3]``: weights w, and factors a and b of ``w exp(a d² + b ‖f_i - f_j‖²)``."""
    reaches: tuple[int, ...]
    """How far the window reaches on each axis."""
    spacing: tuple[float, ...]
    """Units of distance from a pixel to the next on each axis."""


@helper
def _mixture(kernels, distance, squared, KERNELS: tl.constexpr):
    """``Σ_p K_p`` from squared distances in place and in features."""
    weight = tl.zeros_like(squared)
    for p in tl.static_range(KERNELS):
        row = kernels + 3 * p
        weight += tl.load(row) * tl.exp(distance * tl.load(row + 1) + squared * tl.load(row + 2))
    return weight


@helper
def _finish(filtered, own, valid, energies):
    """Half the gradient of ``σ'W(1 - σ)`` by the logits, from ``W σ``; the energy of the tile is stored."""
    total = tl.sum(filtered, 0)
    # the sum of the other classes: as a difference it would lose the digits where one class has nearly all
    is_large = filtered > 0.5 * total[None, :]
    others = tl.sum(tl.where(is_large, 0.0, filtered), 0)
    product = own * tl.where(is_large, others[None, :], total[None, :] - filtered)
    energy = tl.sum(product, 0)
    inside = tl.where(valid, energy, 0.0).to(tl.float64)
    tl.store(energies + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0), tl.sum(inside, 0))
    return product - own * energy[None, :]


@Kernel
def _window(
    probs, features, source, destination, kernels, to, energies, depth, height, width, classes,
    channels, reach_z, reach_y, reach_x, spacing_z, spacing_y, spacing_x,
    KERNELS: tl.constexpr, CHANNELS: tl.constexpr, CLASSES: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, GATED: tl.constexpr, SKEW: tl.constexpr, POTTS: tl.constexpr, GRADIENT: tl.constexpr,
):  # fmt: skip
    pixels, image = depth * height * width, tl.program_id(1).to(tl.int64)
    z, y, x, valid = place(depth, height, width, ROWS, COLUMNS)
    here = (z * height + y) * width + x
    k, c = tl.arange(0, CLASSES)[:, None], tl.arange(0, CHANNELS)[:, None]
    probs += image * classes * pixels
    features += image * channels * pixels
    source += image * pixels
    destination += image * pixels
    own = tl.load(features + c * pixels + here[None, :], mask=(c < channels) & valid[None, :], other=0.0)
    if GATED:
        own_source = tl.load(source + here, mask=valid, other=0.0)
        own_destination = tl.load(destination + here, mask=valid, other=0.0)
    filtered = tl.zeros([CLASSES, ROWS * COLUMNS], tl.float32)
    for dz in range(-reach_z, reach_z + 1):
        for dy in range(-reach_y, reach_y + 1):
            in_rows = valid & (z + dz >= 0) & (z + dz < depth) & (y + dy >= 0) & (y + dy < height)
            across = (dz * spacing_z) * (dz * spacing_z) + (dy * spacing_y) * (dy * spacing_y)
            for dx in range(-reach_x, reach_x + 1):
                there = here + (dz * height + dy) * width + dx
                distance = across + (dx * spacing_x) * (dx * spacing_x)
                inside = in_rows & (x + dx >= 0) & (x + dx < width) & (there != here)
                other = tl.load(
                    features + c * pixels + there[None, :], mask=(c < channels) & inside[None, :], other=0.0
                )
                weight = _mixture(kernels, distance, tl.sum((other - own) * (other - own), 0), KERNELS)
                if GATED:
                    to_here = own_destination * tl.load(source + there, mask=inside, other=0.0)
                    to_there = own_source * tl.load(destination + there, mask=inside, other=0.0)
                    weight *= 0.5 * (to_here - to_there if SKEW else to_here + to_there)
                filtered += weight[None, :] * tl.load(
                    probs + k * pixels + there[None, :], mask=(k < classes) & inside[None, :], other=0.0
                )
    at, wanted = image * classes * pixels + k * pixels + here[None, :], (k < classes) & valid[None, :]
    if POTTS:
        labels = tl.load(probs + k * pixels + here[None, :], mask=wanted, other=0.0)
        filtered = 2 * _finish(filtered, labels, valid, energies)
    if GRADIENT:
        tl.store(to + at, filtered, mask=wanted)


def filtered(probs: Tensor, window: WindowArrays, *, skew: bool = False) -> Tensor:
    """``W x`` for ``x [b k *s]``; with `skew`, the antisymmetric ``½ (m_i^dst m_j^src - m_j^dst m_i^src) K_ij`` for W.

    Cost: a pass over the pairs, twice, and the labels once in and once out.
    """
    result = torch.empty_like(probs)
    _launch(probs, window, result, None, skew)
    return result


def potts_energy(probs: Tensor, window: WindowArrays, gradient: Tensor | None) -> Tensor:
    """``σ'W(1 - σ)`` of all images, in float64; `gradient` becomes that by the logits, of any float type."""
    count = Tiles.of(tuple(probs.shape)).count
    energies = torch.empty(len(probs), count, dtype=torch.float64, device=probs.device)
    _launch(probs, window, gradient, energies, skew=False)
    return energies.sum()


def _launch(
    probs: Tensor, window: WindowArrays, to: Tensor | None, energies: Tensor | None, skew: bool
) -> None:
    tiles, channels = Tiles.of(tuple(probs.shape)), window.features.shape[1]
    missing = 3 - len(window.reaches)
    source, destination = (probs, probs) if window.gates is None else window.gates
    _window(
        (tiles.count, len(probs)), probs, window.features, source, destination, window.kernels,
        probs if to is None else to, probs if energies is None else energies,
        *tiles.size, probs.shape[1], channels,
        *(0,) * missing, *window.reaches, *(1.0,) * missing, *window.spacing,
        len(window.kernels), max(2, power_of_two(channels)), tiles.classes, tiles.rows, tiles.columns,
        window.gates is not None, skew, energies is not None, to is not None,
    )  # fmt: skip
