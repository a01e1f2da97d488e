"""Conjugate gradients in Triton, for all classes of all images at once, in float64.

Values lie class by class, ``[b k n]``. Sums have a fixed order, and no program writes what another reads.
"""

from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from selflabel.kernels.gpu.launch import Kernel, Launch, blocks
from selflabel.kernels.gpu.multigrid import NUMBERS, GridArrays, Shape, towards
from selflabel.kernels.gpu.stencil import place

SUMMED = 1024
"""Numbers that are added up at once."""


class Vectors(NamedTuple):
    """Of conjugate gradients, ``[b k n]``; in float64 but for `single`."""

    x: Tensor
    r: Tensor
    single: Tensor
    """r in float32."""
    p: Tensor
    spare: Tensor
    """The next p."""
    product: Tensor
    """``A p``."""


class Numbers(NamedTuple):
    """Of each class of each image, ``[b k]``, and parts of sums and maxima; float64."""

    rz: Tensor
    alpha: Tensor
    beta: Tensor
    sums: Tensor
    """``[b k tiles]``."""
    peaks: Tensor
    """``[b ...]``: the largest residuals of parts of an image."""


@Kernel
def _multiply(
    solved, old, new, product, weights, hold, inverse, beta, sums, depth, height, width, classes,
    DIRECTIONS: tl.constexpr, CLASSES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    image, pixels = tl.program_id(2).to(tl.int64), depth * height * width
    z, y, x, valid = place(depth, height, width, ROWS, COLUMNS)
    i, k = (z * height + y) * width + x, tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)[:, None]
    inside, at = (k < classes) & valid[None, :], k * pixels + i[None, :]
    first = image * classes * pixels
    solved += first
    old += first
    weights += image * (DIRECTIONS // 2) * pixels
    bent = tl.load(beta + image * classes + k, mask=k < classes, other=0.0)
    own = tl.load(solved + at, mask=inside, other=0.0) + bent * tl.load(old + at, mask=inside, other=0.0)
    flow = tl.zeros_like(own)
    for t in tl.static_range(DIRECTIONS):
        if t != DIRECTIONS // 2:
            far, listed, exists = towards(t, z, y, x, valid, depth, height, width, DIRECTIONS)
            weight = tl.load(weights + listed, mask=exists, other=0.0)
            both = inside & exists[None, :]
            value = tl.load(solved + at + far, mask=both, other=0.0)
            value += bent * tl.load(old + at + far, mask=both, other=0.0)
            flow += weight[None, :] * (own - value)
    flow += tl.load(hold + image * pixels + i, mask=valid, other=0.0)[None, :] * own
    is_free = tl.load(inverse + image * pixels + i, mask=valid, other=0.0) > 0
    flow = tl.where(is_free[None, :], flow, 0.0)
    tl.store(new + first + at, own, mask=inside)
    tl.store(product + first + at, flow, mask=inside)
    k = tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)
    row = image * classes + k
    tl.store(sums + row * tl.num_programs(0) + tl.program_id(0), tl.sum(own * flow, 1), mask=k < classes)


@Kernel
def _move(
    x, r, single, p, product, alpha, peaks, pixels, classes, CLASSES: tl.constexpr, PIXELS: tl.constexpr
):
    image = tl.program_id(2).to(tl.int64)
    i = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    k = tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)[:, None]
    inside = (k < classes) & (i < pixels)[None, :]
    at = image * classes * pixels + k * pixels + i[None, :]
    far = tl.load(alpha + image * classes + k, mask=k < classes, other=0.0)
    moved = tl.load(x + at, mask=inside, other=0.0) + far * tl.load(p + at, mask=inside, other=0.0)
    left = tl.load(r + at, mask=inside, other=0.0) - far * tl.load(product + at, mask=inside, other=0.0)
    tl.store(x + at, moved, mask=inside)
    tl.store(r + at, left, mask=inside)
    tl.store(single + at, left.to(tl.float32), mask=inside)
    size = tl.where(left == left, tl.abs(left), float("inf"))  # a maximum may leave nan out
    place = (image * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(0) + tl.program_id(0)
    tl.store(peaks + place, tl.max(tl.max(size, 1), 0))


@Kernel
def _divide(sums, rz, ratio, count, TURNS: tl.constexpr, BLOCK: tl.constexpr):
    row, part = tl.program_id(0), tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, count, BLOCK):
        total += tl.load(sums + row * count + start + part, mask=start + part < count, other=0.0)
    found, before = tl.sum(total, 0), tl.load(rz + row)
    if TURNS:  # beta: r·z over what it was
        tl.store(rz + row, found)
        tl.store(ratio + row, tl.where(before > 0, found / tl.where(before > 0, before, 1.0), 0.0))
    else:  # alpha: r·z over p·A p
        tl.store(ratio + row, tl.where(found > 0, before / tl.where(found > 0, found, 1.0), 0.0))


def multiplying(solved: Tensor, vectors: Vectors, grid: GridArrays, numbers: Numbers, shape: Shape) -> Launch:
    """``spare = solved + beta p``, its product, and the parts of the sums of the two. Cost: a pass."""
    return Launch(
        _multiply, shape.programs, solved, vectors.p, vectors.spare, vectors.product, *grid, numbers.beta,
        numbers.sums, *shape.size, shape.classes, shape.directions, *shape.tile,
    )  # fmt: skip


def turning(
    solved: Tensor, vectors: Vectors, grid: GridArrays, numbers: Numbers, shape: Shape
) -> tuple[Launch, Launch, Launch]:
    """``beta``, the next p in `spare`, its product and ``alpha``; `sums` are those of ``r · solved`` before."""
    rows = shape.batch * shape.classes
    beta = Launch(_divide, (rows,), numbers.sums, numbers.rz, numbers.beta, shape.tiles, True, SUMMED)
    alpha = Launch(_divide, (rows,), numbers.sums, numbers.rz, numbers.alpha, shape.tiles, False, SUMMED)
    return beta, multiplying(solved, vectors, grid, numbers, shape), alpha


def moving(vectors: Vectors, numbers: Numbers, shape: Shape) -> Launch:
    """``x += alpha p`` and ``r -= alpha A p`` with p in `spare`."""
    pixels = shape.size[0] * shape.size[1] * shape.size[2]
    classes = shape.tile[0]
    return Launch(
        _move, move_programs(shape), vectors.x, vectors.r, vectors.single, vectors.spare, vectors.product,
        numbers.alpha, numbers.peaks, pixels, shape.classes, classes, NUMBERS // classes,
    )  # fmt: skip


def move_programs(shape: Shape) -> tuple[int, int, int]:
    """Of `moving`: one peak each."""
    pixels, classes = shape.size[0] * shape.size[1] * shape.size[2], shape.tile[0]
    return blocks(pixels, NUMBERS // classes), blocks(shape.classes, classes), shape.batch


def numbers(shape: Shape, device: torch.device) -> Numbers:
    """Zeros, each array on its own: arrays then begin where kernels expect it."""
    rz, alpha, beta = (
        torch.zeros(shape.batch, shape.classes, dtype=torch.float64, device=device) for _ in range(3)
    )
    sums = torch.zeros(shape.batch, shape.classes, shape.tiles, dtype=torch.float64, device=device)
    parts, kinds, _ = move_programs(shape)
    peaks = torch.zeros(shape.batch, kinds * parts, dtype=torch.float64, device=device)
    return Numbers(rz, alpha, beta, sums, peaks)
