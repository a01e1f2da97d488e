"""A filter along one axis of images in Triton, as products with bands of weights on the tensor cores.

Their operands are split into parts of eleven bits (tf32), whose products but the least are added: as exact as float32.
"""

import triton.language as tl
from torch import Tensor

from selflabel.kernels.gpu.launch import Kernel, blocks

SIDE = 64
"""Pixels of a program along the axis, and lines beside it."""

WINDOW = 32
"""Pixels along the axis that are read at a time."""


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
    lines,
    image,
    plane,
    scale_step,
    LAST: tl.constexpr,
    BEFORE: tl.constexpr,
    AFTER: tl.constexpr,
    ADDED: tl.constexpr,
    SIDE: tl.constexpr,
    WINDOW: tl.constexpr,
):
    along = tl.program_id(1) * SIDE + tl.arange(0, SIDE)
    beside = tl.program_id(2) * SIDE + tl.arange(0, SIDE)
    if LAST:  # lines are those of all images, one after the other
        line = tl.program_id(0).to(tl.int64) * SIDE + tl.arange(0, SIDE)
        start, inside = line * length, line < lines
    else:
        start = tl.program_id(0).to(tl.int64) * length * rest + tl.zeros([SIDE], tl.int64)
        start, inside = start + beside, beside < rest
    stride = 1 if LAST else rest  # known to be 1 to the compiler
    own = start % plane + start // image * scale_step
    total = tl.zeros([SIDE, SIDE], tl.float32)
    for first in range(0, SIDE + 2 * radius, WINDOW):
        # from the window's pixels to the program's: the weight of pixel j for pixel i is that at j - i
        window = first + tl.arange(0, WINDOW)
        place = tl.program_id(1) * SIDE - radius + window
        there = (place >= 0) & (place < length)
        tap = window[:, None] - tl.arange(0, SIDE)[None, :]
        band = tl.load(weights + tap, mask=(tap >= 0) & (tap <= 2 * radius), other=0.0)
        at, known = start[None, :] + (place * stride)[:, None], there[:, None] & inside[None, :]
        value = tl.load(x + at, mask=known, other=0.0)
        if BEFORE:
            value *= tl.load(scale + own[None, :] + (place * stride)[:, None], mask=known, other=0.0)
        total = tl.dot(tl.trans(band), value, total, input_precision="tf32x3")
    step = (along * stride)[:, None]
    at, known = start[None, :] + step, (along < length)[:, None] & inside[None, :]
    if AFTER:
        total *= tl.load(scale + own[None, :] + step, mask=known, other=0.0)
    if ADDED:
        total = tl.load(to + at, mask=known, other=0.0) + factor * total
    tl.store(to + at, total, mask=known)


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
    lines, last = x.numel() // (length * rest), rest == 1
    grid = (blocks(lines, SIDE) if last else lines), blocks(length, SIDE), blocks(rest, SIDE)
    _filter(
        grid,
        x,
        weights,
        x if scale is None else scale,
        1.0 if factor is None else float(factor),
        to,
        len(weights) // 2,
        length,
        rest,
        lines,
        classes * pixels,
        pixels,
        0 if scale is None or len(scale) == 1 else pixels,
        last,
        before is not None,
        after is not None,
        factor is not None,
        SIDE,
        WINDOW,
    )
