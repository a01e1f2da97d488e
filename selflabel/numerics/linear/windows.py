"""Random walkers of large images, window by window: most walkers end near where they start.

A window is solved as if it were the image, with one class more: that of walkers who reach pixels outside it that are
not known yet. Where they are fewer than `LEAK`, no labels outside, whatever they be, change those inside by more than
that. Such a pixel is known from then on, as seeds are, and the windows that follow end at it. Windows overlap by more
than most walkers go, and each takes all of its pixels that are still free. What is free after all of them, and after
larger ones, is far from seeds: that is left to a method for the image as a whole.

Walkers that end at known pixels are wrong by what these are wrong by, so that errors add up along a chain of windows:
to no more than their number times `LEAK`; and as most walkers never get far, to little more than `LEAK`. Time and
memory grow as pixels.
"""

from dataclasses import dataclass
from itertools import product
from math import prod

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from selflabel.affinity.stencil import Stencil
from selflabel.numerics.linear.direct import Elimination
from selflabel.numerics.linear.system import System

LEAK = 1e-7
"""What is known may be wrong by so much: as much as a number in float32 is."""

SIZES = ((512, 64), (768, 192))
"""Pixels a side that each window is for, and by how much it is wider on all sides; first small ones, then large ones.

The first are enough for seeds on 2 % of the pixels, or predictions that weigh a tenth.
"""

SHARE = 2
"""Windows have at most such a part of the free pixels: larger ones cost as much as the whole."""

PATIENCE = 8
"""At most such a part of the windows may fail in vain."""

Region = tuple[slice, ...]
"""A box of pixels: from where to where along each axis."""


@dataclass(frozen=True, eq=False)
class Partial:
    """Labels that are known but on the free pixels."""

    labels: Float[Tensor, "b k *s"]
    free: Bool[Tensor, "b 1 *s"]

    def put(self, box: Region, labels: Float[Tensor, "b k *t"]) -> Float[Tensor, "b k *s"]:
        """The labels, with others in a box."""
        if labels.shape == self.labels.shape:
            return labels
        result = self.labels.clone()
        result[at(box)] = labels
        return result


@dataclass(frozen=True, eq=False)
class Walks:
    """``(2η I + λ L) y = 2η σ`` on the free pixels, with η the `coupling`, λ the `scale` and σ the `probs`."""

    affinity: Stencil
    scale: float
    coupling: float
    probs: Float[Tensor, "b k *s"]
    sizes: tuple[tuple[int, int], ...] = SIZES

    def settle(self, given: Partial) -> Partial:
        """What windows tell of y."""
        result = Partial(given.labels.clone(), given.free.clone())
        for image, (side, halo) in product(range(len(self.probs)), self.sizes):
            most = prod(min(side + 2 * halo, n) for n in self.affinity.size)
            if SHARE * most <= int(result.free[image].count_nonzero()):
                self._sweep(image, side, halo, result)
        return result

    def _sweep(self, image: int, side: int, halo: int, result: Partial) -> None:
        """All windows of a size. One fails if most of what is free in its core stays so."""
        cores = _cores(self.affinity.size, side)
        balance = len(cores) // PATIENCE
        for core in cores:
            free = result.free[at(core, image)]
            before = int(free.count_nonzero())
            if before and balance >= 0:
                self._solve(image, _grown(core, halo, self.affinity.size), result)
                balance += 1 if 2 * int(free.count_nonzero()) <= before else -1

    def _solve(self, image: int, window: Region, result: Partial) -> None:
        """One window, to the result."""
        box = _grown(window, self.affinity.reach, self.affinity.size)
        here = at(box, image)
        labels, free = result.labels[here], result.free[here]
        inside = torch.zeros_like(free)
        inside[at(_within(window, box))] = True
        own, outside = free & inside, free & ~inside
        fixed = torch.cat([labels * ~free, outside.to(labels.dtype)], 1)
        probs = pad(self.probs[here], (0, 0) * len(box) + (0, 1))
        affinity = self.affinity.window((here[0], *box))
        system = System.of(affinity, self.scale, self.coupling, probs, fixed, own)
        values, _ = next(Elimination().solve(system, fixed))
        mass = values[:, :-1].sum(1, keepdim=True)
        # a region that no seed reaches has no mass: nobody leaves it
        found = own & (values[:, -1:] <= LEAK) & (mass > 0)
        labels.copy_(torch.where(found, values[:, :-1] / mass, labels))
        free &= ~found


def whole(size: tuple[int, ...]) -> Region:
    """The box of all pixels."""
    return tuple(slice(0, n) for n in size)


def at(box: Region, image: int | None = None) -> tuple[slice, ...]:
    """As an index of ``[b k *s]``, for one image or all of them."""
    return (slice(image, None if image is None else image + 1), slice(None), *box)


def around(free: Bool[Tensor, "b 1 *s"], margin: int) -> Region:
    """The smallest box with all free pixels and so much more on each side; that of all pixels if none is free."""
    if not free.any():
        return whole(tuple(free.shape[2:]))
    ends = []
    for axis in range(2, free.ndim):
        found = free.movedim(axis, 0).flatten(1).any(1).nonzero()
        ends.append(slice(int(found[0]), int(found[-1]) + 1))
    return _grown(tuple(ends), margin, tuple(free.shape[2:]))


def _cores(size: tuple[int, ...], side: int) -> list[Region]:
    """Boxes of at most so many pixels a side that make up the image, in reading order."""
    counts = [-(-n // side) for n in size]
    cuts = [
        [slice(i * n // count, (i + 1) * n // count) for i in range(count)]
        for n, count in zip(size, counts, strict=True)
    ]
    return list(product(*cuts))


def _grown(box: Region, margin: int, size: tuple[int, ...]) -> Region:
    """Within the image."""
    return tuple(
        slice(max(s.start - margin, 0), min(s.stop + margin, n)) for s, n in zip(box, size, strict=True)
    )


def _within(box: Region, other: Region) -> Region:
    """A box counted from where another starts."""
    return tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, other, strict=True))
