"""What an image file stores, before it is taken for an image or for labels: one reader for both."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Shaped, UInt8

MOST_PIXELS: Final = 2**27
"""Pixels of an image, height times width: 134 million, such as 11585 x 11585."""
MOST_BYTES: Final = 2**31
"""Bytes of the numbers of an image: 2 GiB, enough for that many pixels in RGB of 32 bits."""
MOST_CHANNELS: Final = 4
"""Gray or RGB, and alpha."""


@dataclass(frozen=True, eq=False)
class Raster:
    """The numbers in an image file, as a viewer shows them: turned as the file's Orientation says.

    numbers: [h w], or [h w c] with at least two channels; never rescaled: 2 bits are 0..3.
    top: the number of full brightness, 2^bits - 1 or a PGM's maxval; None for floats and where no range is known.
    alpha: the last channel is an alpha channel. palette: RGB of each number. white_is_zero: 0 is the brightest.
    opacity: [h w], 255 for opaque, where a palette or one color is transparent; numbers keep their meaning, colors of
    transparent pixels have none.
    form: what the file is, for messages. exact: the form keeps numbers as they were written (JPEG does not).
    """

    numbers: Shaped[np.ndarray, "..."]
    top: int | None
    form: str
    alpha: bool = False
    palette: UInt8[np.ndarray, "n 3"] | None = None
    opacity: UInt8[np.ndarray, "h w"] | None = None
    white_is_zero: bool = False
    exact: bool = True


def check_size(height: int, width: int, bytes_a_pixel: int = 1) -> None:
    """Raise `ValueError` for no pixels, for more than `MOST_PIXELS`, and for more than `MOST_BYTES` in all.

    Asked with what a header says, before pixels are read.
    """
    if height < 1 or width < 1:
        raise ValueError(f"the image has no pixels: {height} x {width}")
    if height * width > MOST_PIXELS:
        raise ValueError(
            f"expected at most {MOST_PIXELS} pixels ({MOST_PIXELS / 1e6:.0f} million), got {height} x {width}: "
            f"cut it into tiles, or check whether the file is damaged"
        )
    if height * width * bytes_a_pixel > MOST_BYTES:
        raise ValueError(
            f"expected at most {MOST_BYTES} bytes of pixels, got {height} x {width} of {bytes_a_pixel}: cut it into "
            f"tiles, or save 8 or 16 bit"
        )


def upright(array: Shaped[np.ndarray, "..."], orientation: int) -> Shaped[np.ndarray, "..."]:
    """An array [h w ...] as stored, turned as an Orientation says (TIFF 6.0, page 36; EXIF has the same).

    Numbers other than 2 to 8 turn nothing.
    """
    if orientation == 2:
        return array[:, ::-1]
    if orientation == 3:
        return array[::-1, ::-1]
    if orientation == 4:
        return array[::-1]
    if orientation == 5:
        return array.swapaxes(0, 1)
    if orientation == 6:
        return np.rot90(array, -1)
    if orientation == 7:
        return array[::-1, ::-1].swapaxes(0, 1)
    if orientation == 8:
        return np.rot90(array)
    return array


def upright_size(height: int, width: int, orientation: int) -> tuple[int, int]:
    """Height and width of `upright`."""
    return (width, height) if 5 <= orientation <= 8 else (height, width)
