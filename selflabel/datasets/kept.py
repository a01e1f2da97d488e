"""Samples that were read, kept in memory that several processes may share."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Arrays:
    """A sample as it is kept: labels in one byte a pixel."""

    image: Float32[Tensor, "c h w"]
    seeds: UInt8[Tensor, "h w"]
    mask: UInt8[Tensor, "h w"] | None


NOTHING = ((), torch.empty(0), torch.empty(0, dtype=torch.uint8))


@dataclass(eq=False)
class KeptArrays:
    """Samples by their number.

    Sent to a process, all images are moved into one block of shared memory and all labels into another, which the
    processes then have together: a block for each sample would take a file descriptor each. Raises `MemoryError` if
    shared memory is too small.
    """

    found: dict[int, Arrays] = field(default_factory=dict)
    packed: tuple[tuple[int, ...], Tensor, Tensor] = NOTHING
    """The numbers of those in shared memory, and its blocks of images and labels."""

    def __len__(self) -> int:
        return len(self.found)

    @property
    def bytes(self) -> int:
        """Bytes of all samples."""
        parts = [part for one in self.found.values() for part in (one.image, *_labels(one))]
        return sum(part.numel() * part.element_size() for part in parts)

    def __getstate__(self) -> dict[str, Any]:
        shapes = {
            number: (tuple(one.image.shape), one.mask is not None) for number, one in self.found.items()
        }
        if shapes and len(self.packed[0]) < len(shapes):
            images = _shared([one.image for one in self.found.values()])
            labels = _shared([part for one in self.found.values() for part in _labels(one)])
            self.packed = tuple(shapes), images, labels
            self.found = dict(_unpacked(images, labels, shapes))
        return {"shapes": shapes, "packed": self.packed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.packed = state["packed"]
        _, images, labels = self.packed
        self.found = dict(_unpacked(images, labels, state["shapes"]))


Shapes = dict[int, tuple[tuple[int, ...], bool]]
"""The shape of the image, and whether there is a mask, by number, in the order of the block."""


def _labels(one: Arrays) -> list[Tensor]:
    return [one.seeds] if one.mask is None else [one.seeds, one.mask]


def _shared(parts: list[Tensor]) -> Tensor:
    """The numbers of all tensors in one block of shared memory."""
    block = torch.cat([part.flatten() for part in parts])
    try:
        block.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise MemoryError(
            f"expected {block.numel() * block.element_size() / 1e6:.0f} MB of shared memory for the images that "
            f"workers have together: {error}: give 0 workers, or a container more of it (docker run --shm-size)"
        ) from error
    return block


def _unpacked(images: Tensor, labels: Tensor, shapes: Shapes) -> Iterator[tuple[int, Arrays]]:
    image_at = label_at = 0
    for number, (shape, has_mask) in shapes.items():
        pixels = prod(shape[1:])
        image = images[image_at : image_at + prod(shape)].view(shape)
        seeds = labels[label_at : label_at + pixels].view(shape[1:])
        mask = labels[label_at + pixels : label_at + 2 * pixels].view(shape[1:]) if has_mask else None
        yield number, Arrays(image, seeds, mask)
        image_at, label_at = image_at + prod(shape), label_at + pixels * (1 + has_mask)
