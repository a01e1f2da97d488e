"""Reading images: whatever pillow or tifffile reads becomes float32 [h w c] in [0, 1]."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32, Shaped
from PIL import UnidentifiedImageError

from selflabel.files.opening import about, read_file
from selflabel.files.pictures import picture_channels, picture_raster, picture_size
from selflabel.files.rasters import Raster
from selflabel.files.tiffs import is_tiff, tiff_channels, tiff_raster, tiff_size

IMAGE_SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".tif",
    ".tiff",
    ".bmp",
    ".webp",
    ".gif",
    ".ppm",
    ".pgm",
    ".pnm",
    ".jp2",
)


ROUNDING = 1e-5
"""How far floating-point images may leave [0, 1], as resized ones do; they are cut."""


DIM = 0.25
"""Brightness that no pixel of a dim image exceeds: 10, 12 and 14 bits that are stored as 16 are such images."""


def read_image(path: Path) -> Float32[np.ndarray, "h w c"]:
    """The image in a file, in [0, 1], with one channel (gray) or three (RGB), as `decode_image` tells them.

    Raises `FileError`, for all that `decode_image` refuses, too.
    """
    data = read_file(path)
    with about(path):
        return decode_image(data, path.suffix)


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of `read_image`, from the header of the file.

    Raises `FileError` as `read_image` does.
    """
    data = read_file(path)
    with about(path):
        return decoded_size(data)


def image_channels(path: Path) -> int:
    """Channels that a file stores, from its header: 1 (gray) or 3; other numbers `read_image` refuses.

    Three may be of a gray picture, which `read_image` gives one: the pixels tell. Raises `FileError` as it does.
    """
    data = read_file(path)
    with about(path):
        return stored_channels(data)


def stored_channels(data: bytes) -> int:
    """`image_channels` of the bytes of a file. Raises as `decode_image` does."""
    return tiff_channels(data) if is_tiff(data) else picture_channels(data)


def decoded_size(data: bytes) -> tuple[int, int]:
    """Height and width of `decode_image`, from the header. Raises as it does."""
    return tiff_size(data) if is_tiff(data) else picture_size(data)


def stored_size(data: bytes) -> tuple[int, int]:
    """Height and width as stored, whatever the Orientation: no pixel is read for it. Raises as `decode_image` does."""
    return tiff_size(data, turned=False) if is_tiff(data) else picture_size(data, turned=False)


def decode_image(data: bytes, suffix: str = "") -> Float32[np.ndarray, "h w c"]:
    """The image in the bytes of a file, in [0, 1], with one channel (gray) or three (RGB).

    * Gray and RGB are divided by the number of full brightness: 255 at 8 bit, 65535 at 16, a PGM's maxval.
    * Floating point must lie in [0, 1] already: no range is guessed.
    * Palettes become RGB, CMYK and the like too. Color profiles and gammas are not applied.
    * Alpha is dropped, not blended. In TIFF files a channel is alpha only if ExtraSamples says so.
    * A picture whose three channels are equal everywhere is gray: it is the same however it is stored.
    * The Orientation of EXIF and TIFF is applied: seeds are drawn on what a viewer shows.
    * RGB of 16 bit is read as 8 bit from PNG files (by pillow), as 16 bit from TIFF files.
    * The bytes decide the format; `suffix` is for the message where they are of none.

    Raises `ValueError` for floats outside [0, 1] or not finite, integers of 32 bit and more (their range is
    not known), stacks of pages, other channel counts, no pixels, more than `MOST_PIXELS` (before pixels are read);
    `OSError` for files that are no images; on damaged data whatever pillow and tifffile raise (`about` makes it a
    `FileError`).
    """
    raster = read_raster(data, suffix)
    numbers = raster.numbers
    if raster.palette is not None:
        if numbers.size and int(numbers.max()) >= len(raster.palette):
            raise ValueError(
                f"the palette has {len(raster.palette)} colors, a pixel is number {numbers.max()}"
            )
        return to_unit(raster.palette[numbers])
    if raster.alpha:
        numbers = numbers[..., :-1]
    if numbers.ndim == 3 and numbers.shape[2] not in (1, 3):
        raise ValueError(
            f"expected gray or RGB, with or without alpha, got {numbers.shape[2]} channels, none of them said to be "
            f"alpha (ExtraSamples): save one or three of them"
        )
    if raster.top is None:
        return to_unit(numbers)
    numbers = _colors(numbers)
    if raster.white_is_zero:  # before the division, which would round another way
        numbers = raster.top - numbers
    return numbers.astype(np.float32) / np.float32(raster.top)


def read_raster(data: bytes, suffix: str = "") -> Raster:
    """The numbers in the bytes of an image file, whatever they mean. Raises as `decode_image` does."""
    if is_tiff(data):
        return tiff_raster(data)
    try:
        return picture_raster(data)
    except UnidentifiedImageError as error:
        named = f", though its name ends in {suffix}" if suffix else ""
        raise OSError(f"{error}{named}") from error


def to_unit(array: Shaped[np.ndarray, "..."]) -> Float32[np.ndarray, "h w c"]:
    """An array [h w] or [h w c] of any depth as float32 [h w c] in [0, 1], c = 1 or 3; the rules of `decode_image`.

    Raises `ValueError` as `decode_image` does.
    """
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3:
        raise ValueError(
            f"expected an image [h w] or [h w c], got shape {array.shape}: stacks are not images"
        )
    if array.shape[2] in (2, 4):
        array = array[..., :-1]
    if array.shape[2] not in (1, 3):
        first = ": the channels come last, image.transpose(1, 2, 0)" if array.shape[0] <= 4 else ""
        raise ValueError(f"expected 1 to 4 channels, got shape {array.shape}{first}")
    if array.size == 0:
        raise ValueError(f"the image has no pixels: shape {array.shape}")
    array = _colors(array)
    if array.dtype == np.bool_:
        return array.astype(np.float32)
    if array.dtype in (np.uint8, np.uint16):
        return array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"expected 8 or 16 bit or floats in [0, 1], got {array.dtype}, whose range is not known: "
            f"image.astype(numpy.uint8) if it is 0..255"
        )
    if not np.isfinite(array).all():
        raise ValueError(
            f"the image has {np.count_nonzero(~np.isfinite(array))} pixel values that are nan or inf: replace them"
        )
    low, high = float(array.min()), float(array.max())
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise ValueError(
            f"floating-point images must lie in [0, 1], got {low:g} to {high:g}: scale the image first"
        )
    return array.astype(np.float32).clip(0, 1)


def _colors(array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "h w c"]:
    """The channels of [h w] or [h w 3]: three that are equal everywhere become one, which is gray.

    Three would count each difference of gray levels three times.
    """
    if array.ndim == 2:
        return array[..., None]
    gray = array.shape[2] == 3 and all((row == row[:, :1]).all() for row in array)  # ends at the first color
    return array[..., :1] if gray else array
