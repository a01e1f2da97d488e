"""Reading images: whatever pillow or tifffile reads becomes float32 [h w c] in [0, 1]."""

import io
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import Float32, Shaped
from PIL import Image, ImageOps, UnidentifiedImageError

from selflabel.files.opening import about, read_file

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
TIFF_SUFFIXES = (".tif", ".tiff")

ORIENTATION = 0x0112
"""EXIF tag; at values from 5 on, rows and columns change places."""

_DIRECT = ("L", "RGB", "I;16", "I;16L", "I;16B", "F", "1")
"""Modes of pillow whose array is the image itself."""
_GRAY_ALPHA = ("LA", "La")


def read_image(path: Path) -> Float32[np.ndarray, "h w c"]:
    """The image in a file, in [0, 1], with one channel (gray) or three (RGB).

    Raises `FileError`, for all that `decode_image` refuses, too.
    """
    data = read_file(path)
    with about(path):
        return decode_image(data, path.suffix)


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of `read_image`; only TIFF files are decoded for it.

    Raises `FileError` as `read_image` does.
    """
    if path.suffix.lower() in TIFF_SUFFIXES:
        found = read_image(path).shape
        return found[0], found[1]
    with about(path), open_pillow(read_file(path)) as file:
        width, height = file.size
        turned = file.getexif().get(ORIENTATION, 1) >= 5
    return (width, height) if turned else (height, width)


def decode_image(data: bytes, suffix: str) -> Float32[np.ndarray, "h w c"]:
    """The image in the bytes of a file, in [0, 1], with one channel (gray) or three (RGB).

    * 8 bit: divided by 255. 16 bit: divided by 65535, whatever range the image uses. 1 bit: 0, 1.
    * Floating point must lie in [0, 1] already: no range is guessed.
    * Palettes become RGB, CMYK and the like too. An alpha channel is dropped, not blended.
    * The EXIF orientation is applied: seeds are drawn on what a viewer shows.
    * RGB of 16 bit is read as 8 bit from PNG files (by pillow), as 16 bit from TIFF files.

    Raises `ValueError` for floats outside [0, 1] or not finite, integers of 32 bit and more (their range is
    not known), stacks of pages, other channel counts, no pixels; `OSError` for damaged files.
    """
    if suffix.lower() in TIFF_SUFFIXES:
        return to_unit(_decode_tiff(data))
    return to_unit(_decode_pillow(data))


def to_unit(array: Shaped[np.ndarray, "..."]) -> Float32[np.ndarray, "h w c"]:
    """An array [h w] or [h w c] of any depth as float32 [h w c] in [0, 1]; the rules of `decode_image`.

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
        raise ValueError(f"expected 1 to 4 channels, got shape {array.shape}")
    if array.size == 0:
        raise ValueError(f"the image has no pixels: shape {array.shape}")
    if array.dtype == np.bool_:
        return array.astype(np.float32)
    if array.dtype in (np.uint8, np.uint16):
        return array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"expected 8 or 16 bit or floats in [0, 1], got {array.dtype}, whose range is not known"
        )
    if not np.isfinite(array).all():
        raise ValueError(
            f"the image has {np.count_nonzero(~np.isfinite(array))} pixel values that are nan or inf: replace them"
        )
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"floating-point images must lie in [0, 1], got {low:g} to {high:g}: scale the image first"
        )
    return array.astype(np.float32)


def open_pillow(data: bytes) -> Image.Image:
    """The bytes of a file as an image of pillow.

    Raises `OSError` if it knows no such format, `ValueError` for several frames.
    """
    try:
        file = Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise OSError("empty or not an image") from error
    frames = getattr(file, "n_frames", 1)
    if frames > 1:
        raise ValueError(f"expected one image, got {frames} frames")
    return file


def _decode_pillow(data: bytes) -> Shaped[np.ndarray, "..."]:
    with open_pillow(data) as file:
        file.load()
        upright = ImageOps.exif_transpose(file)
        if upright.mode in _DIRECT:
            return np.array(upright)
        if upright.mode in _GRAY_ALPHA:
            return np.array(upright)[..., 0]
        if upright.mode == "I":
            return np.array(upright)  # 32 bit: `to_unit` says why not
        return np.array(upright.convert("RGB"))


def _decode_tiff(data: bytes) -> Shaped[np.ndarray, "..."]:
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            if len(file.pages) > 1:
                raise ValueError(f"expected one image, got {len(file.pages)} pages")
            page = file.pages.first
            if page.photometric not in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB):
                return _decode_pillow(data)  # palettes, CMYK, white-is-zero
            array = page.asarray()
            if array.ndim == 3 and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
                array = np.moveaxis(array, 0, -1)
            return np.asarray(array)
    except tifffile.TiffFileError as error:
        raise OSError(f"not a TIFF file, or a damaged one: {error}") from error
    except ValueError as error:
        if "imagecodecs" in str(error):  # a compression that pillow knows and tifffile alone does not
            return _decode_pillow(data)
        raise
