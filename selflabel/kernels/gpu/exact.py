"""The exact Gaussian filter in Triton: the kernel is made tile by tile, and multiplied on the tensor cores.

Their operands are split into parts of eleven bits (tf32), whose products but the least are added: as exact as float32.
"""

import triton.language as tl
from torch import Tensor

from selflabel.kernels.gpu.launch import Kernel, blocks, power_of_two

ROWS = 128
"""Pixels of a program."""

KEYS = 64
"""Pixels whose kernel with these exists at a time."""

WIDEST = 64
"""Columns of a program, at most."""


@Kernel
def _filter(
    features,
    values,
    scale,
    factor,
    to,
    pixels,
    columns,
    own_scale,
    D: tl.constexpr,
    SCALED: tl.constexpr,
    ADDED: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    image = tl.program_id(2)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside, wanted = row < pixels, column < columns
    features += image.to(tl.int64) * pixels * D
    start = image.to(tl.int64) * columns * pixels
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(0, pixels, KEYS):
        key = first + tl.arange(0, KEYS)
        there = key < pixels
        distance = tl.zeros([ROWS, KEYS], tl.float32)
        for j in tl.static_range(D):
            own = tl.load(features + j * pixels + row, mask=inside, other=0.0)
            other = tl.load(features + j * pixels + key, mask=there, other=0.0)
            apart = own[:, None] - other[None, :]
            distance += apart * apart
        at = start + column[None, :].to(tl.int64) * pixels + key[:, None]
        x = tl.load(values + at, mask=there[:, None] & wanted[None, :], other=0.0)
        if SCALED:
            x *= tl.load(scale + image * own_scale + key, mask=there, other=0.0)[:, None]
        total = tl.dot(tl.exp2(-distance), x, total, input_precision="tf32x3")
    if SCALED:
        total *= tl.load(scale + image * own_scale + row, mask=inside, other=0.0)[:, None]
    at = start + column[None, :].to(tl.int64) * pixels + row[:, None]
    there = inside[:, None] & wanted[None, :]
    if ADDED:
        total = tl.load(to + at, mask=there, other=0.0) + factor * total
    tl.store(to + at, total, mask=there)


def filter_exactly(
    features: Tensor, values: Tensor, scale: Tensor | None, to: Tensor, factor: float | None = None
) -> None:
    """``to[b k n] = scale · K (scale · values)`` with ``K_ij = 2^-‖f_i - f_j‖²``, features ``[b d n]``.

    `scale` is ``[b n]`` or ``[1 n]``. With a factor, added to `to` so many times.
    """
    batch, columns, pixels = values.shape
    across = min(WIDEST, max(16, power_of_two(columns)))
    _filter(
        (blocks(pixels, ROWS), blocks(columns, across), batch),
        features,
        values,
        values if scale is None else scale,
        1.0 if factor is None else float(factor),
        to,
        pixels,
        columns,
        0 if scale is None or len(scale) == 1 else pixels,
        features.shape[1],
        scale is not None,
        factor is not None,
        ROWS,
        KEYS,
        across,
    )
