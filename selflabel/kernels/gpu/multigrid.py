"""Multigrid in Triton: sweeps, restriction and prolongation between grids, and conjugate gradients around them.

A program works on some classes of a tile of pixels. Values lie class by class, ``[b k n]``, weights by the first pixel
of a pair, for the second half of all directions (`numerics.linear.grids`). No program writes what another reads.
"""

from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from selflabel.kernels.gpu.launch import Kernel, Launch, blocks, helper, power_of_two
from selflabel.kernels.gpu.stencil import place

CLASSES = 8
"""Classes of a program, at most: more would not fill a multiple."""

NUMBERS = 512
"""Values of a program: with twice as many, products in float64 need more registers than there are."""

COLUMNS = 32
"""Pixels of a row of a tile: 128 bytes of float32."""

SUMMED = 1024
"""Numbers that are added up at once."""


class GridArrays(NamedTuple):
    """The equations of a grid, contiguous; in float32, but for conjugate gradients in float64."""

    weights: Tensor
    """``[b m n]``."""
    hold: Tensor
    """``[b n]``."""
    inverse: Tensor
    """``[b n]`` float32: that of the diagonal, 0 where y is."""


class Shape(NamedTuple):
    """Of values on a grid."""

    batch: int
    classes: int
    size: tuple[int, int, int]
    """Depth (1 for images), height and width."""
    directions: int
    """9, in volumes 27."""

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> "Shape":
        """Of values ``[b k *s]``."""
        batch, classes, *size = shape
        depth, height, width = [1] * (3 - len(size)) + size
        return cls(batch, classes, (depth, height, width), 3 ** len(size))

    @property
    def coarse(self) -> "Shape":
        """On the next coarser grid."""
        depth, height, width = ((n + 1) // 2 for n in self.size)
        return self._replace(size=(depth, height, width))

    @property
    def tile(self) -> tuple[int, int, int]:
        """Classes, rows and columns of a program."""
        classes = min(CLASSES, power_of_two(self.classes))
        return classes, NUMBERS // classes // COLUMNS, COLUMNS

    @property
    def tiles(self) -> int:
        """Of an image."""
        _, rows, columns = self.tile
        depth, height, width = self.size
        return depth * blocks(height, rows) * blocks(width, columns)

    @property
    def programs(self) -> tuple[int, int, int]:
        """Tiles, blocks of classes and images."""
        return self.tiles, blocks(self.classes, self.tile[0]), self.batch


@helper
def towards(t: tl.constexpr, z, y, x, valid, depth, height, width, DIRECTIONS: tl.constexpr):
    """In direction t: how far the neighbors are in memory, where their weights are, and which exist."""
    dy, dx = t // 3 % 3 - 1, t % 3 - 1
    dz = t // 9 - 1 if DIRECTIONS == 27 else 0
    exists = valid & (z + dz >= 0) & (z + dz < depth) & (y + dy >= 0) & (y + dy < height)
    exists = exists & (x + dx >= 0) & (x + dx < width)
    far = (dz * height + dy) * width + dx
    pixels = depth * height * width
    here = (z * height + y) * width + x
    middle = DIRECTIONS // 2
    listed = (t - middle - 1) * pixels + here if t > middle else (middle - 1 - t) * pixels + here + far
    return far, listed, exists


@helper
def outflow(
    values, inverse, start, weights, own, at, inside, z, y, x, valid, depth, height, width,
    STARTS: tl.constexpr, DIRECTIONS: tl.constexpr,
):  # fmt: skip
    """``Σ_j w_ij (y_i - y_j)``. With STARTS y is ``start · inverse · values``, the first sweep from zero."""
    here = (z * height + y) * width + x
    total = tl.zeros_like(own)
    for t in tl.static_range(DIRECTIONS):
        if t != DIRECTIONS // 2:
            far, listed, exists = towards(t, z, y, x, valid, depth, height, width, DIRECTIONS)
            weight = tl.load(weights + listed, mask=exists, other=0.0)
            value = tl.load(values + at + far, mask=inside & exists[None, :], other=0.0)
            if STARTS:
                value *= start * tl.load(inverse + here + far, mask=exists, other=0.0)[None, :]
            total += weight[None, :] * (own - value)
    return total


@Kernel
def _sweep(
    values, right, weights, hold, inverse, result, sums, start, factor, depth, height, width, classes,
    STARTS: tl.constexpr, SUMS: tl.constexpr, DIRECTIONS: tl.constexpr,
    CLASSES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    image, pixels = tl.program_id(2).to(tl.int64), depth * height * width
    z, y, x, valid = place(depth, height, width, ROWS, COLUMNS)
    i, k = (z * height + y) * width + x, tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)[:, None]
    inside, at = (k < classes) & valid[None, :], k * pixels + i[None, :]
    first = image * classes * pixels
    inverse += image * pixels
    scale = tl.load(inverse + i, mask=valid, other=0.0)[None, :]
    b = tl.load(right + first + at, mask=inside, other=0.0)
    own = start * scale * b if STARTS else tl.load(values + first + at, mask=inside, other=0.0)
    flow = outflow(
        values + first, inverse, start, weights + image * (DIRECTIONS // 2) * pixels, own, at, inside,
        z, y, x, valid, depth, height, width, STARTS, DIRECTIONS,
    )  # fmt: skip
    held = tl.load(hold + image * pixels + i, mask=valid, other=0.0)[None, :] * own
    new = own + factor * scale * (b - held - flow)
    tl.store(result + first + at, new, mask=inside)
    if SUMS:
        total = tl.sum(new.to(tl.float64) * b.to(tl.float64), 1)
        k = tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)
        row = image * classes + k
        tl.store(sums + row * tl.num_programs(0) + tl.program_id(0), total, mask=k < classes)


@Kernel
def _restrict(
    values, right, weights, hold, shares, result, depth, height, width, classes,
    DIRECTIONS: tl.constexpr, CLASSES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    image, pixels = tl.program_id(2).to(tl.int64), depth * height * width
    deep, high, wide = (depth + 1) // 2, (height + 1) // 2, (width + 1) // 2
    cz, cy, cx, there = place(deep, high, wide, ROWS, COLUMNS)
    k = tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)[:, None]
    first, parents = image * classes * pixels, 8 if DIRECTIONS == 27 else 4
    values += first
    right += first
    weights += image * (DIRECTIONS // 2) * pixels
    total = tl.zeros((CLASSES, ROWS * COLUMNS), tl.float32)
    for s in range(DIRECTIONS):
        dy, dx = s // 3 % 3 - 1, s % 3 - 1
        dz = s // 9 - 1 if DIRECTIONS == 27 else 0
        z, y, x = 2 * cz + dz, 2 * cy + dy, 2 * cx + dx
        valid = there & (z >= 0) & (z < depth) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        i = (z * height + y) * width + x
        side = (dz < 0) * 4 + (dy < 0) * 2 + (dx < 0) * 1
        share = tl.load(shares + (image * parents + side) * pixels + i, mask=valid, other=0.0)
        inside, at = (k < classes) & valid[None, :], k * pixels + i[None, :]
        b = tl.load(right + at, mask=inside, other=0.0)
        own = tl.load(values + at, mask=inside, other=0.0)
        flow = outflow(
            values,
            hold,
            0.0,
            weights,
            own,
            at,
            inside,
            z,
            y,
            x,
            valid,
            depth,
            height,
            width,
            False,
            DIRECTIONS,
        )
        held = tl.load(hold + image * pixels + i, mask=valid, other=0.0)[None, :] * own
        total += share[None, :] * (b - held - flow)
    coarse = deep * high * wide
    at = k * coarse + ((cz * high + cy) * wide + cx)[None, :]
    tl.store(result + image * classes * coarse + at, total, mask=(k < classes) & there[None, :])


@Kernel
def _prolong(
    values, coarse, shares, depth, height, width, classes,
    DIRECTIONS: tl.constexpr, CLASSES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    image, pixels = tl.program_id(2).to(tl.int64), depth * height * width
    deep, high, wide = (depth + 1) // 2, (height + 1) // 2, (width + 1) // 2
    z, y, x, valid = place(depth, height, width, ROWS, COLUMNS)
    i, k = (z * height + y) * width + x, tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)[:, None]
    inside, at = (k < classes) & valid[None, :], k * pixels + i[None, :]
    values += image * classes * pixels
    coarse += image * classes * deep * high * wide
    parents: tl.constexpr = 8 if DIRECTIONS == 27 else 4
    total = tl.load(values + at, mask=inside, other=0.0)
    for side in tl.static_range(parents):
        cz, cy, cx = z // 2 + side // 4, y // 2 + side // 2 % 2, x // 2 + side % 2
        exists = valid & (cz < deep) & (cy < high) & (cx < wide)
        share = tl.load(shares + (image * parents + side) * pixels + i, mask=exists, other=0.0)
        there = k * (deep * high * wide) + ((cz * high + cy) * wide + cx)[None, :]
        total += share[None, :] * tl.load(coarse + there, mask=inside & exists[None, :], other=0.0)
    tl.store(values + at, total, mask=inside)


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


def sweeping(
    values: Tensor, right: Tensor, grid: GridArrays, result: Tensor, shape: Shape, factor: float,
    start: float | None = None, sums: Tensor | None = None,
) -> Launch:  # fmt: skip
    """``result = y + factor D⁻¹ (b - A y)``, where y is `values`, or ``start D⁻¹ b`` if there is a start.

    `sums` ``[b k tiles]`` takes the parts of ``result · b``. Cost: a pass.
    """
    return Launch(
        _sweep, shape.programs, right if start is not None else values, right, *grid, result,
        result if sums is None else sums, 0.0 if start is None else start, factor, *shape.size, shape.classes,
        start is not None, sums is not None, shape.directions, *shape.tile,
    )  # fmt: skip


def restricting(
    values: Tensor, right: Tensor, grid: GridArrays, shares: Tensor, result: Tensor, shape: Shape
) -> Launch:
    """``result = Pᵀ (b - A y)`` on the coarser grid. Cost: two passes, from the cache for the most part."""
    return Launch(
        _restrict, shape.coarse.programs, values, right, grid.weights, grid.hold, shares, result, *shape.size,
        shape.classes, shape.directions, *shape.tile,
    )  # fmt: skip


def prolonging(values: Tensor, coarse: Tensor, shares: Tensor, shape: Shape) -> Launch:
    """``y += P coarse``, in place."""
    return Launch(
        _prolong, shape.programs, values, coarse, shares, *shape.size, shape.classes, shape.directions, *shape.tile
    )  # fmt: skip


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
