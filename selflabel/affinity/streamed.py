"""The window affinity without its memory: weights are made where they are used, and forgotten."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.affinity.gaussian import GaussianKernel
from selflabel.affinity.stencil import Box, Offset, check_spacing
from selflabel.affinity.window import GATED_CRF_KERNELS, check_neighborhood, check_window, mixture
from selflabel.kernels.backend import Backend, Routine, backend

BLOCK_PIXELS = {"cpu": 8192}
"""Pixels of a block, by device: on a CPU as many as fit its cache."""

BLOCK_PIXELS_ELSEWHERE = 1 << 17
"""The same on other devices."""


@dataclass(frozen=True, eq=False)
class StreamedWindow:
    """`WindowAffinity.from_features`, with the same arguments, for one use: no weights are stored.

    `WindowAffinity` keeps half a window of weights for every pixel, which a solver reads hundreds of times. A
    loss needs them once for each image, where making them costs less than keeping them.
    """

    features: Float[Tensor, "b c *s"]
    radius: int = 5
    kernels: tuple[GaussianKernel, ...] = GATED_CRF_KERNELS
    source: Float[Tensor, "b 1 *s"] | None = None
    destination: Float[Tensor, "b 1 *s"] | None = None
    spacing: tuple[float, ...] | None = None
    are_finite: bool = False
    """Features that are known to be finite, as those of an image: on a GPU the host would wait to see it."""

    def __post_init__(self) -> None:
        check = check_neighborhood if self.are_finite else check_window
        check(self.features, self.radius, self.kernels, self.source, self.destination)
        check_spacing(self.spacing, tuple(self.features.shape[2:]))

    @property
    def is_gated(self) -> bool:
        """Without gates all weights are symmetric."""
        return self.source is not None or self.destination is not None

    @property
    def has_kernels(self) -> bool:
        """Are there kernels for this device and dtype? `streamed_gpu.supports` says if they take these features."""
        return backend(Routine.GATED, self.features.device, self.features.dtype) is Backend.GPU

    def parts(self) -> Iterator[tuple[slice, "WindowPart"]]:
        """Groups of images that are filtered together: a block of pixels at most, but one image at least."""
        batch, size = self.features.shape[0], tuple(self.features.shape[2:])
        layout = Layout(size, tuple(min(self.radius, n - 1) for n in size))
        pixels = BLOCK_PIXELS.get(self.features.device.type, BLOCK_PIXELS_ELSEWHERE)
        images = max(1, pixels // layout.length)
        for start in range(0, batch, images):
            part = slice(start, min(start + images, batch))
            yield (
                part,
                WindowPart(
                    layout,
                    pixels=max(1, pixels // images),
                    features=layout.flat(self.features[part], layout.reach),
                    kernels=self.kernels,
                    spacing=check_spacing(self.spacing, size),
                    gates=self._gates(part, layout),
                ),
            )

    def _gates(self, part: slice, layout: "Layout") -> tuple[Tensor, Tensor] | None:
        """Source and destination; None if neither is given, as all weights are symmetric then."""
        if not self.is_gated:
            return None
        ones = torch.ones_like(self.features[part, :1])
        source, destination = (
            layout.flat(ones if gate is None else gate[part].to(ones.dtype), layout.reach)[:, 0]
            for gate in (self.source, self.destination)
        )
        return source, destination


@dataclass(frozen=True)
class Layout:
    """Images as lines of numbers, in which the neighbor at an offset is a fixed number of places away.

    Every axis but the first is padded with zeros as far as the window reaches: neighbors out of the image are zeros
    on either side, and no pair needs a test.
    """

    size: tuple[int, ...]
    reaches: tuple[int, ...]  # how far the window reaches on each axis

    @property
    def padded(self) -> tuple[int, ...]:
        return (self.size[0], *(n + r for n, r in zip(self.size[1:], self.reaches[1:], strict=True)))

    @property
    def strides(self) -> tuple[int, ...]:
        return tuple(prod(self.padded[axis + 1 :]) for axis in range(len(self.size)))

    @property
    def length(self) -> int:
        return prod(self.padded)

    @property
    def reach(self) -> int:
        """The number of places from a pixel to the last one of its window."""
        return self.shift(self.reaches)

    def shift(self, offset: Offset) -> int:
        return sum(o * stride for o, stride in zip(offset, self.strides, strict=True))

    def rows(self) -> Iterator[tuple[Offset, int]]:
        """Half of the window by rows: the first offset of each, and the number of offsets along the last axis."""
        last = self.reaches[-1]
        for lead in product(*(range(-r, r + 1) for r in self.reaches[:-1])):
            if not any(lead):
                yield (*lead, 1), last
            elif lead > (0,) * len(lead):
                yield (*lead, -last), 2 * last + 1

    def flat(self, values: Float[Tensor, "b k *s"], tail: int = 0) -> Float[Tensor, "b k n"]:
        """A copy as lines, with `tail` zeros at the end."""
        lines = values.new_zeros(*values.shape[:2], self.length + tail)
        self.image(lines[..., : self.length]).copy_(values)
        return lines

    def image(self, lines: Float[Tensor, "b k n"]) -> Float[Tensor, "b k *s"]:
        """The images in the lines: a view."""
        inside: Box = (..., *(slice(n) for n in self.size))
        return lines.view(*lines.shape[:-1], *self.padded)[inside]


@dataclass(frozen=True, eq=False)
class WindowPart:
    """The window of a few images, in the lines of their `layout`."""

    layout: Layout
    pixels: int
    features: Float[Tensor, "b c m"]
    kernels: tuple[GaussianKernel, ...]
    spacing: tuple[float, ...]
    gates: tuple[Tensor, Tensor] | None

    def blocks(self) -> Iterator[slice]:
        """The pixels block by block, so that intermediate arrays stay in the cache."""
        for start in range(0, self.layout.length, self.pixels):
            yield slice(start, min(start + self.pixels, self.layout.length))

    def apply(self, labels: Float[Tensor, "b k n"], *, skew: bool = False) -> Float[Tensor, "b k n"]:
        """``W x`` for labels that are zero outside of the images; entries of the result outside are undefined.

        With `skew` the antisymmetric ``½ (m_i^dst m_j^src - m_j^dst m_i^src) K_ij`` takes the place of W.
        """
        result, end = torch.zeros_like(labels), self.layout.length
        for block in self.blocks():
            for first, count in self.layout.rows():
                shift = self.layout.shift(first)
                if count == 0 or block.start + shift >= end:
                    continue
                weights = self._weights(block, first, count, skew)
                for number in range(count):
                    here = slice(block.start, min(block.stop, end - shift - number))
                    if here.start >= here.stop:
                        break
                    there = slice(here.start + shift + number, here.stop + shift + number)
                    weight = weights[:, number, None, : here.stop - here.start]
                    result[..., here].addcmul_(weight, labels[..., there])
                    result[..., there].addcmul_(weight, labels[..., here], value=-1 if skew else 1)
        return result

    def _weights(self, block: slice, first: Offset, count: int, skew: bool) -> Float[Tensor, "b m n"]:
        """Weights between the pixels of a block and their neighbors in one row of the window."""
        start, length = block.start + self.layout.shift(first), block.stop - block.start
        # a window of views that overlap: nothing is copied
        there = self.features[..., start : start + length + count - 1].unfold(-1, length, 1)
        here = self.features[..., None, block]
        squared = (there[:, 0] - here[:, 0]).square_()
        for channel in range(1, here.shape[1]):  # one by one: memory does not grow with the channels
            squared += (there[:, channel] - here[:, channel]).square_()
        columns = torch.arange(first[-1], first[-1] + count, device=squared.device, dtype=squared.dtype)
        across = sum((o * s) ** 2 for o, s in zip(first[:-1], self.spacing[:-1], strict=True))
        distance = (columns * self.spacing[-1]).square_() + across
        weights = mixture(self.kernels, distance[:, None], squared)
        if self.gates is None:
            return weights
        source, destination = self.gates
        source_there, destination_there = (
            gate[..., start : start + length + count - 1].unfold(-1, length, 1) for gate in self.gates
        )
        gates = destination[:, None, block] * source_there
        gates.addcmul_(destination_there, source[:, None, block], value=-1 if skew else 1)
        return weights.mul_(gates).mul_(0.5)
