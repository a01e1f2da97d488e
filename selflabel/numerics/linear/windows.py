"""Random walkers of large images, in overlapping windows: most walkers end near where they start.

A window is solved as if it were the image, with one more class: walkers who leave it for a pixel that is not known
yet. Where their share is below `LEAK`, no labels outside could change those inside by more than that. Such a pixel is
known from then on, as seeds are, and walkers of later windows end at it. Windows overlap by more than most walkers go;
each takes all of its pixels that are still free. Pixels that stay free after all windows, and after larger ones, are
far from seeds: a method for the whole image has to solve for them.

Errors of known pixels carry over: along a chain of m windows at most m `LEAK`, in practice little more than `LEAK`,
as most walkers never get far. Time and memory are linear in pixels.
"""

from dataclasses import dataclass, replace
from itertools import product
from math import prod

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from selflabel.affinity.stencil import Stencil
from selflabel.kinds import check_count, check_fields
from selflabel.numerics.linear.direct import Elimination
from selflabel.numerics.linear.system import Box, RandomWalk

LEAK = 1e-7
"""Largest error of a label that counts as known: that of a number in float32."""


@dataclass(frozen=True, eq=False)
class KnownLabels:
    """Labels, and where they are not known yet."""

    labels: Float[Tensor, "b k *s"]
    free: Bool[Tensor, "b 1 *s"]
    """Pixels whose labels are unknown."""

    def put(self, box: Box, labels: Float[Tensor, "b k *t"]) -> Float[Tensor, "b k *s"]:
        """The labels, with those of a box replaced."""
        if labels.shape == self.labels.shape:
            return labels
        result = self.labels.clone()
        result[at(box)] = labels
        return result


@dataclass(frozen=True)
class Windows:
    """Sizes of the windows, and when they are given up."""

    sizes: tuple[tuple[int, int], ...] = ((512, 64), (768, 192))
    """Pixels: the side of a window's core and the margin around it; smaller ones first.

    The first are enough for seeds on 2 % of the pixels, or predictions that weigh a tenth.
    """
    share: int = 2
    """Use a size only if a window holds at most 1/share of the free pixels: larger ones cost as much as the whole."""
    patience: int = 8
    """Give a size up when 1/patience of its windows left most of their pixels unknown."""

    def __post_init__(self) -> None:
        check_fields(self)
        for side, margin in self.sizes:
            check_count(side, "the side of windows")
            check_count(margin, "the margin of windows", least=0)
        check_count(self.share, "share", 0)
        check_count(self.patience, "patience")


def solve_windows(walk: RandomWalk, known: KnownLabels, windows: Windows) -> KnownLabels:
    """What windows tell of ``y``: `known`, with fewer free pixels. The walk's affinity is a `Stencil`."""
    known = KnownLabels(known.labels.clone(), known.free.clone())
    size = tuple(known.free.shape[2:])
    for image, (side, margin) in product(range(len(known.free)), windows.sizes):
        largest = prod(min(side + 2 * margin, n) for n in size)
        if windows.share * largest > int(known.free[image].count_nonzero()):
            continue
        cores = _cores(size, side)
        balance = len(cores) // windows.patience
        for core in cores:
            free = known.free[at(core, image)]
            before = int(free.count_nonzero())
            if before and balance >= 0:
                _solve_window(walk, image, _grown(core, margin, size), known)
                balance += 1 if 2 * int(free.count_nonzero()) <= before else -1
    return known


def _solve_window(walk: RandomWalk, image: int, window: Box, known: KnownLabels) -> None:
    """Enter what one window tells into `known`."""
    assert isinstance(walk.affinity, Stencil)
    box = _grown(window, walk.affinity.reach, walk.affinity.size)
    here = at(box, image)
    labels, free = known.labels[here], known.free[here]
    inside = torch.zeros_like(free)
    inside[at(_within(window, box))] = True
    own, outside = free & inside, free & ~inside
    fixed = torch.cat([labels * ~free, outside.to(labels.dtype)], 1)
    part = walk.crop(here[0], box)
    part = replace(part, probs=pad(part.probs, (0, 0) * len(box) + (0, 1)))
    values, _ = next(Elimination().solve(part.system(fixed, own), fixed))
    mass = values[:, :-1].sum(1, keepdim=True)
    # a region that no seed reaches has no mass: no walker leaves it
    found = own & (values[:, -1:] <= LEAK) & (mass > 0)
    labels.copy_(torch.where(found, values[:, :-1] / mass, labels))
    free &= ~found


def whole(size: tuple[int, ...]) -> Box:
    """The box of all pixels."""
    return tuple(slice(0, n) for n in size)


def at(box: Box, image: int | None = None) -> tuple[slice, ...]:
    """The box as an index of ``[b k *s]``, of one image or all."""
    return (slice(image, None if image is None else image + 1), slice(None), *box)


def around(free: Bool[Tensor, "b 1 *s"], margin: int) -> Box:
    """The smallest box with all free pixels, `margin` pixels wider on each side; the whole if none is free."""
    if not free.any():
        return whole(tuple(free.shape[2:]))
    ends = []
    for axis in range(2, free.ndim):
        found = free.movedim(axis, 0).flatten(1).any(1).nonzero()
        ends.append(slice(int(found[0]), int(found[-1]) + 1))
    return _grown(tuple(ends), margin, tuple(free.shape[2:]))


def _cores(size: tuple[int, ...], side: int) -> list[Box]:
    """Boxes of at most `side` pixels a side that tile the image, in reading order."""
    counts = [-(-n // side) for n in size]
    cuts = [
        [slice(i * n // count, (i + 1) * n // count) for i in range(count)]
        for n, count in zip(size, counts, strict=True)
    ]
    return list(product(*cuts))


def _grown(box: Box, margin: int, size: tuple[int, ...]) -> Box:
    """The box, wider by `margin` on each side, within the image."""
    return tuple(
        slice(max(s.start - margin, 0), min(s.stop + margin, n)) for s, n in zip(box, size, strict=True)
    )


def _within(box: Box, other: Box) -> Box:
    """A box counted from where another starts."""
    return tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, other, strict=True))
