"""A filter along one axis of images in Triton, scaled before and after."""

import triton.language as tl
from torch import Tensor

from selflabel.kernels.gpu.launch import Kernel, blocks

FLAT = 1024
"""Pixels of a program along the last axis, whatever the lines they are on."""

SIDE = 32
"""Pixels of a program along another axis, and beside it."""


@Kernel
def _filter(
    x,
    weights,
    scale,
    factor,
    to,
    radius,
    length,
    rest,
    count,
    image,
    pixels,
    scale_step,
    LAST: tl.constexpr,
    BEFORE: tl.constexpr,
    AFTER: tl.constexpr,
    ADDED: tl.constexpr,
    SIDE: tl.constexpr,
):
    if LAST:
        at = tl.program_id(0).to(tl.int64) * SIDE + tl.arange(0, SIDE)
        place, inside = (at % length).to(tl.int32), at < count
    else:
        along = tl.program_id(1) * SIDE + tl.arange(0, SIDE)
        across = tl.program_id(2) * SIDE + tl.arange(0, SIDE)
        place = along[:, None] + tl.zeros([SIDE, SIDE], tl.int32)
        start = tl.program_id(0).to(tl.int64) * length * rest
        at = start + along[:, None] * rest + across[None, :]
        inside = (along < length)[:, None] & (across < rest)[None, :]
    own_scale = at % pixels + at // image * scale_step
    total = tl.zeros_like(place).to(tl.float32)
    for tap in range(2 * radius + 1):
        shift = tap - radius
        there = inside & (place + shift >= 0) & (place + shift < length)
        value = tl.load(x + at + shift * rest, mask=there, other=0.0)
        if BEFORE:
            value *= tl.load(scale + own_scale + shift * rest, mask=there, other=0.0)
        total += tl.load(weights + tap) * value
    if AFTER:
        total *= tl.load(scale + own_scale, mask=inside, other=0.0)
    if ADDED:
        total = tl.load(to + at, mask=inside, other=0.0) + factor * total
    tl.store(to + at, total, mask=inside)


def filter_axis(
    x: Tensor,
    weights: Tensor,
    axes: tuple[int, int],
    to: Tensor,
    *,
    before: Tensor | None = None,
    after: Tensor | None = None,
    factor: float | None = None,
) -> None:
    """``to[..., i, ...] = after · Σ_q weights[q + radius] · (before · x)[..., i + q, ...]`` along an axis of images.

    x, to: ``[b k n]``, different arrays. axes: the pixels along the axis, and those of all axes after it together.
    before, after: ``[b n]`` or ``[1 n]``, the same if both are given. With a factor, added to `to` so many times.
    Beyond the images all is zero.
    """
    _, classes, pixels = x.shape
    length, rest = axes
    scale = before if after is None else after
    lines = x.numel() // (length * rest)
    grid = (blocks(x.numel(), FLAT),) if rest == 1 else (lines, blocks(length, SIDE), blocks(rest, SIDE))
    _filter(
        grid,
        x,
        weights,
        x if scale is None else scale,
        1.0 if factor is None else factor,
        to,
        len(weights) // 2,
        length,
        rest,
        x.numel(),
        classes * pixels,
        pixels,
        0 if scale is None or len(scale) == 1 else pixels,
        rest == 1,
        before is not None,
        after is not None,
        factor is not None,
        FLAT if rest == 1 else SIDE,
    )
