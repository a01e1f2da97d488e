"""Grids of pixels for multigrid: equations between nearest neighbors, and how a coarser grid is made of them.

A coarse grid keeps every second pixel along each axis. Between two of them, labels follow the weights: a pixel next to
a strong edge takes the label of its own side (Alcouffe, Brandt, Dendy and Painter, SIAM J. Sci. Stat. Comput. 2, 1981;
Dendy, J. Comput. Phys. 48, 1982). Nothing is subtracted, so weights of many magnitudes keep their relative precision.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import one_hot, pad

from selflabel.affinity.stencil import Box, Offset, Stencil, boxes

Parity = tuple[int, ...]
"""A zero or a one for each axis."""


def directions(axes: int) -> list[Offset]:
    """The steps to all pixels at most one away along each axis, in order; the middle one goes nowhere."""
    return list(product((-1, 0, 1), repeat=axes))


def parities(axes: int) -> list[Parity]:
    """Of pixels, or which of the two coarse pixels along each axis: that before (0) or that after (1)."""
    return list(product((0, 1), repeat=axes))


def halved(size: tuple[int, ...]) -> tuple[int, ...]:
    """The size of the next coarser grid."""
    return tuple((n + 1) // 2 for n in size)


def every_second(parity: Parity) -> Box:
    """The pixels with this parity."""
    return (..., *(slice(p, None, 2) for p in parity))


@dataclass(frozen=True, eq=False)
class WalkGrid:
    """``(A y)_i = hold_i y_i + Σ_j w_ij (y_i - y_j)`` on the free pixels, with y = 0 elsewhere."""

    weights: Float[Tensor, "b m *s"]
    """By the first pixel of a pair, for the second half of `directions`; zero across the border."""
    hold: Float[Tensor, "b 1 *s"]
    free: Bool[Tensor, "b 1 *s"]

    @property
    def size(self) -> tuple[int, ...]:
        """Of an image."""
        return tuple(self.hold.shape[2:])

    @property
    def offsets(self) -> list[Offset]:
        """The steps that weights are listed for."""
        axes = len(self.size)
        return directions(axes)[3**axes // 2 + 1 :]

    @cached_property
    def around(self) -> Float[Tensor, "b d *s"]:
        """The weights to the neighbors of each pixel, by direction."""
        result = self.weights.new_zeros(len(self.weights), 3 ** len(self.size), *self.size)
        middle = result.shape[1] // 2
        for number, offset in enumerate(self.offsets):
            first, second = boxes(offset, self.size)
            weight = self.weights[:, number][first]
            result[:, middle + 1 + number][first] = weight
            result[:, middle - 1 - number][second] = weight
        return result

    @cached_property
    def inverse(self) -> Float[Tensor, "b 1 *s"]:
        """That of the diagonal; 0 where pixels are not free, or nothing ties them."""
        diagonal = self.hold + self.around.sum(1, keepdim=True)
        return torch.where(self.free & (diagonal > 0), 1 / diagonal, 0.0)

    def apply(self, values: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
        """A times values that are 0 off the free pixels; of no meaning there."""
        result = self.hold * values
        for number, offset in enumerate(self.offsets):
            first, second = boxes(offset, self.size)
            flow = self.weights[:, number : number + 1][first] * (values[first] - values[second])
            result[first] += flow
            result[second] -= flow
        return result

    def matrix(self) -> Float[Tensor, "b n n"]:
        """A in double precision, with a unit diagonal for pixels without equations."""
        count = prod(self.size)
        each = torch.eye(count, dtype=torch.float64, device=self.hold.device).view(1, count, *self.size)
        double = WalkGrid(self.weights.double(), self.hold.double(), self.free)
        one = (self.inverse > 0).flatten(2).double()
        dense = double.apply(each.expand(len(self.hold), *each.shape[1:])).flatten(2) * one * one.mT
        return dense + torch.diag_embed(1 - one[:, 0])


def finest(
    affinity: Stencil, scale: float, ties: float, free: Bool[Tensor, "b 1 *s"], dtype: torch.dtype
) -> WalkGrid:
    """The grid of the pixels themselves: ``w_ij = scale`` times that of the affinity, and ``hold = ties``."""
    weights, _ = affinity.flat
    weights = weights.to(dtype).mul_(scale) if weights.dtype != dtype else weights * scale
    full = weights.view(len(weights), -1, *affinity.size)
    grid = WalkGrid(full, free.new_full(free.shape, ties, dtype=dtype), free)
    if list(affinity.offsets) == grid.offsets:
        return grid
    places = torch.tensor([grid.offsets.index(offset) for offset in affinity.offsets], device=free.device)
    empty = full.new_zeros(len(full), len(grid.offsets), *affinity.size)
    return WalkGrid(empty.index_copy_(1, places, full), grid.hold, free)


@dataclass(frozen=True, eq=False)
class Interpolation:
    """Values of fine pixels from those of coarse ones, and sums the other way."""

    shares: Float[Tensor, "b c *s"]
    """Of each fine pixel, those of the coarse pixels around it, by `parities`; zero where there are fewer."""

    @property
    def size(self) -> tuple[int, ...]:
        """Of the fine grid."""
        return tuple(self.shares.shape[2:])

    def prolong(self, coarse: Float[Tensor, "b k *t"]) -> Float[Tensor, "b k *s"]:
        """Values of fine pixels."""
        padded = pad(coarse, (0, 1) * len(self.size))  # the last pixel may have none after it
        result = coarse.new_zeros(*coarse.shape[:2], *self.size)
        for fine, shares, there in self._parts():
            result[fine].addcmul_(shares, padded[there])
        return result

    def restrict(self, values: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *t"]:
        """The transpose of `prolong`."""
        size = halved(self.size)
        result = values.new_zeros(*values.shape[:2], *(n + 1 for n in size))
        for fine, shares, there in self._parts():
            result[there].addcmul_(shares, values[fine])
        inside: Box = (..., *(slice(0, n) for n in size))
        return result[inside].contiguous()

    def _parts(self) -> Iterator[tuple[Box, Tensor, Box]]:
        """Fine pixels of one parity, their shares of one of the coarse pixels around, and where these lie."""
        for parity in parities(len(self.size)):
            fine = every_second(parity)
            counts = [(n - p + 1) // 2 for n, p in zip(self.size, parity, strict=True)]
            for number, side in enumerate(parities(len(self.size))):
                if all(s <= p for s, p in zip(side, parity, strict=True)):
                    there: Box = (..., *(slice(s, s + n) for s, n in zip(side, counts, strict=True)))
                    yield fine, self.shares[:, number : number + 1][fine], there


def interpolation(grid: WalkGrid) -> Interpolation:
    """Labels of fine pixels are means of those around them, which their weights tell.

    A pixel between two coarse ones takes the sums of its weights towards either; one between several takes the mean of
    its neighbors, which are interpolated before. Pixels that are not free have no shares.
    """
    axes, around = len(grid.size), grid.around
    shares = around.new_zeros(len(around), 2**axes, *grid.size)
    shares[:, 0][every_second((0,) * axes)] = 1
    done: dict[Parity, dict[Parity, Tensor]] = {(0,) * axes: {(0,) * axes: torch.ones_like(grid.hold)}}
    for odd in sorted(parities(axes), key=sum)[1:]:
        steps: dict[Offset, Tensor] = {}
        for number, direction in enumerate(directions(axes)):
            step = tuple(d * o for d, o in zip(direction, odd, strict=True))
            if any(step):
                steps[step] = steps.get(step, 0) + around[:, number : number + 1]
        total = torch.stack(list(steps.values())).sum(0)
        done[odd] = {}
        for number, side in enumerate(parities(axes)):
            if any(s > o for s, o in zip(side, odd, strict=True)):
                continue
            share = torch.zeros_like(total)
            for step, weight in steps.items():
                if all(d in (0, 2 * s - 1) for d, s in zip(step, side, strict=True)):
                    left = tuple(int(o and not d) for o, d in zip(odd, step, strict=True))
                    there = tuple(s * p for s, p in zip(side, left, strict=True))
                    share.addcmul_(weight, _moved(done[left][there], step))
            share = torch.where(total > 0, share / total, 0.0)
            done[odd][side] = share
            shares[:, number][every_second(odd)] = share[:, 0][every_second(odd)]
    return Interpolation(shares * grid.free)


def coarsen(grid: WalkGrid, between: Interpolation) -> WalkGrid:
    """The equations of the coarse pixels, ``Pᵀ A P`` with P the interpolation, as weights and hold.

    That matrix is sparse as a grid is, and read from its products with 3^axes vectors, each with ones at coarse pixels
    that share no neighbor. What holds pixels is summed onto the diagonal, and weights below zero are left out: all
    weights stay positive. Pixels that are not free and do not lie on the coarse grid hold their neighbors.
    """
    axes, size = len(grid.size), halved(grid.size)
    corner = every_second((0,) * axes)
    on_coarse = torch.zeros(grid.size, dtype=torch.bool, device=grid.hold.device)
    on_coarse[corner] = True
    out = (~grid.free & ~on_coarse).to(grid.hold.dtype)
    inner, hold = grid.weights.clone(), grid.hold.clone()
    for number, offset in enumerate(grid.offsets):
        first, second = boxes(offset, grid.size)
        weight = grid.weights[:, number : number + 1][first]
        hold[first] += weight * out[second]
        hold[second] += weight * out[first]
        inner[:, number : number + 1][first] = weight * (1 - out[first]) * (1 - out[second])
    shares = between.shares.clone()
    shares[:, :1] += (~grid.free & on_coarse).to(shares.dtype)  # they take part, with their labels of zero
    ways, apart = Interpolation(shares), WalkGrid(inner, torch.zeros_like(hold), grid.free)
    places = torch.meshgrid(*(torch.arange(n, device=hold.device) for n in size), indexing="ij")
    color = sum((place % 3) * 3**axis for axis, place in enumerate(places))
    assert isinstance(color, Tensor)
    unit = one_hot(color, 3**axes).movedim(-1, 0).to(hold.dtype).expand(len(hold), -1, *size)
    found = ways.restrict(apart.apply(ways.prolong(unit)))
    weights = hold.new_zeros(len(hold), len(grid.offsets), *size)
    for number, offset in enumerate(grid.offsets):
        first, second = boxes(offset, size)
        theirs = color[second].expand(len(hold), 1, *color[second].shape)
        weights[:, number : number + 1][first] = -found[first].gather(1, theirs)
    return WalkGrid(weights.clamp_(min=0), between.restrict(hold), grid.free[corner])


def _moved(values: Float[Tensor, "b 1 *s"], step: Offset) -> Float[Tensor, "b 1 *s"]:
    """At each pixel the value a step away; zero beyond the border."""
    size = tuple(values.shape[2:])
    here, there = boxes(step, size)
    result = torch.zeros_like(values)
    result[here] = values[there]
    return result
