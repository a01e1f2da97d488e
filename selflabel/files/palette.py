"""Colors of label files."""

import numpy as np
from jaxtyping import Float32, UInt8

from selflabel.files import UNLABELED

FAINT = 0.25
"""Range of brightness, of 0..1, below which a picture is stretched to be seen."""
SAMPLED = 512
"""Rows and columns, at most, from which the range of brightness is taken."""


def voc_palette() -> UInt8[np.ndarray, "256 3"]:
    """The palette of PASCAL VOC: 256 RGB colors, entry 0 black, entry 255 a light cream.

    Bits 3j, 3j+1 and 3j+2 of the index become bit 7-j of red, green and blue (`VOClabelcolormap` of the VOC
    development kit). Neighboring indices differ strongly, and small ones do not look black in a viewer.
    """
    index = np.arange(256, dtype=np.int64)
    colors = np.zeros((256, 3), dtype=np.int64)
    for j in range(8):
        for channel in range(3):
            colors[:, channel] |= ((index >> (3 * j + channel)) & 1) << (7 - j)
    return colors.astype(np.uint8)


def colorize(index: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The palette color of every pixel."""
    colors: UInt8[np.ndarray, "h w 3"] = voc_palette()[index]
    return colors


def visible(image: Float32[np.ndarray, "h w c"]) -> Float32[np.ndarray, "h w c"]:
    """An image in [0, 1] as people can see it: one of a small range of brightness is stretched to 0..1.

    A thousandth of the values at either end may be cut. Pictures of 10 or 12 bits in files of 16, and other dim ones,
    look black without; images of an ordinary range stay as they are.
    """
    steps = [max(1, -(-n // SAMPLED)) for n in image.shape[:2]]
    low, high = (float(x) for x in np.percentile(image[:: steps[0], :: steps[1]], (0.1, 99.9)))
    if not 0 < high - low < FAINT:
        return image
    return ((image - np.float32(low)) / np.float32(high - low)).clip(0, 1)


def overlay(
    image: Float32[np.ndarray, "h w c"],
    index: UInt8[np.ndarray, "h w"],
    unlabeled: int = UNLABELED,
    opacity: float = 0.5,
) -> UInt8[np.ndarray, "h w 3"]:
    """The image in [0, 1] under the label colors; unlabeled pixels show the image alone.

    opacity: the share of the label color.
    """
    gray = np.broadcast_to(image[..., :3], (*image.shape[:2], 3)) * np.float32(255)
    mixed = (1 - opacity) * gray + opacity * colorize(index)
    shown = np.where((index == unlabeled)[..., None], gray, mixed)
    return np.rint(shown).astype(np.uint8)


def mixed(
    labels: Float32[np.ndarray, "k h w"], classes: UInt8[np.ndarray, " k"]
) -> UInt8[np.ndarray, "h w 3"]:
    """``Σ_k y^k color_k``: soft labels as the mixture of the palette's colors of their classes."""
    colors = voc_palette()[classes].astype(np.float32)
    mixture = np.rint(np.tensordot(labels, colors, axes=(0, 0)))
    shown: UInt8[np.ndarray, "h w 3"] = mixture.clip(0, 255).astype(np.uint8)
    return shown
