"""Image files that pillow reads: all but TIFF."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageFile, UnidentifiedImageError

from selflabel.files.rasters import MOST_PIXELS, Raster, check_size, upright, upright_size

FORMATS: Final = ("PNG", "JPEG", "BMP", "DIB", "GIF", "PPM", "WEBP", "JPEG2000")
"""Formats of pillow that are read; others run programs (EPS), or are no images of pixels. MPO is found as JPEG."""
SEVERAL_VIEWS: Final = ("MPO",)
"""Formats whose further frames are views of the same photograph, previews and depth: the first is the photograph."""
INEXACT: Final = ("JPEG", "MPO", "JPEG2000")
"""Formats that change numbers, or may: a file does not say."""

LOSSLESS_WEBP: Final = "lossless WebP"
"""The form of a `Raster` of such a file."""
ORIENTATION: Final = 0x0112
"""The EXIF tag."""

_PLAIN = ("L", "RGB", "LA", "RGBA")
"""Modes of 8 bit a channel whose array is the image itself."""
_GRAY = ("1", "L", "LA", "I", "F")
_BITS_AT, _BMP_BITS_AT = 24, 28
"""Where the header of a PNG file has its bit depth, and that of a BMP file the bits of a pixel."""


def picture_size(data: bytes, *, turned: bool = True) -> tuple[int, int]:
    """Height and width, `turned` as the file says or as stored. Raises as `picture_raster` does.

    Where a PNG is turned may stand behind its pixels: they are read for it.
    """
    with large_allowed(), _opened(data) as picture:
        return upright_size(picture.height, picture.width, _orientation(picture) if turned else 1)


def picture_channels(data: bytes) -> int:
    """1 for gray, 3 for colors and palettes, without alpha. Raises as `picture_raster` does."""
    with large_allowed(), _opened(data) as picture:
        return 1 if picture.mode in _GRAY or picture.mode.startswith("I;16") else 3


def picture_raster(data: bytes) -> Raster:
    """The numbers in the bytes of a file.

    Gray of 16 bit is read as it is; RGB of 16 bit as 8 bit. CMYK and the like become RGB.

    Raises pillow's `UnidentifiedImageError`, an `OSError`, for no such file, `ValueError` for too many pixels and for
    several frames; on damaged data whatever pillow raises.
    """
    with large_allowed(), _opened(data) as picture:
        form = picture.format or "image"
        exact = form not in INEXACT
        if form == "WEBP":
            exact = _is_lossless_webp(data)
            form = LOSSLESS_WEBP if exact else "WebP with losses"
        turn = _orientation(picture)
        palette, numbers, top = None, np.array([]), None
        if picture.mode == "P":
            picture.load()
            palette = np.array(picture.getpalette("RGB") or [], dtype=np.uint8).reshape(-1, 3)
            numbers, top = np.array(picture), 255
        else:
            if _is_rescaled(picture, data):
                form, exact = f"{form} of {picture.mode} in other than 8 bits", False
            numbers, top = _numbers(picture, data)
        opacity = _opacity(picture)
        return Raster(
            upright(numbers, turn),
            top,
            form,
            alpha=numbers.ndim == 3 and numbers.shape[2] in (2, 4),
            palette=palette,
            opacity=None if opacity is None else upright(opacity, turn),
            exact=exact,
        )


def _opacity(picture: Image.Image) -> UInt8[np.ndarray, "h w"] | None:
    """255 for opaque pixels, where a palette or one color is transparent (tRNS of PNG, GIF); else None."""
    if "transparency" not in picture.info or picture.mode not in ("P", "L", "RGB"):
        return None
    return np.array(picture.convert("RGBA").getchannel("A"))


@contextmanager
def large_allowed() -> Iterator[None]:
    """Let pillow open and load pictures without its warnings: large ones are `check_size`'s, damaged ones raise.

    Raises `ValueError` for more pixels than pillow ever reads.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Image.DecompressionBombError as error:
        raise ValueError(f"expected at most {MOST_PIXELS} pixels: {error}; cut it into tiles") from error


def _opened(data: bytes) -> Image.Image:
    with large_allowed():
        try:
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError as error:  # whose message shows an object in memory
            raise UnidentifiedImageError("empty or not an image") from error
    check_size(picture.height, picture.width)
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format not in SEVERAL_VIEWS:
        raise ValueError(f"expected one image, got {frames} frames: save the one that is meant")
    return picture


def _orientation(picture: Image.Image) -> int:
    for name in ("xmp", "XML:com.adobe.xmp"):  # pillow would take it from there, other programs do not
        picture.info.pop(name, None)
    found = picture.getexif().get(ORIENTATION, 1)
    return found if isinstance(found, int) else 1


def _numbers(picture: Image.Image, data: bytes) -> tuple[Shaped[np.ndarray, "..."], int | None]:
    """The stored numbers of a picture without palette, and the number of full brightness."""
    largest = _largest(picture)
    if largest is not None:
        _check_largest(picture, data, largest)
    picture.load()
    if picture.mode == "1":
        return np.array(picture).astype(np.uint8), 1
    if picture.format == "PNG" and picture.mode == "L" and data[_BITS_AT] < 8:
        top = 2 ** data[_BITS_AT] - 1  # pillow has multiplied by 255 / top
        return np.array(picture) // np.uint8(255 // top), top
    if picture.format == "PPM" and picture.mode in ("L", "I") and largest is not None:
        # pillow has rounded v * scale / largest: this is its inverse
        scale = 255 if picture.mode == "L" else 65535
        restored = np.rint(np.array(picture).astype(np.float64) * (largest / scale))
        return restored.astype(np.uint8 if largest < 256 else np.uint16), largest
    if picture.mode in _PLAIN:
        return np.array(picture), 255
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM")):
        return np.array(picture).astype(np.uint16), 65535
    if picture.mode in ("I", "F"):
        return np.array(picture), None
    return np.array(picture.convert("RGB")), 255


def _is_rescaled(picture: Image.Image, data: bytes) -> bool:
    """Whether pillow makes 8 bits of the channels of a picture that has others."""
    if picture.mode not in ("RGB", "RGBA", "LA"):
        return False
    if picture.format == "PNG":
        return data[_BITS_AT] != 8
    if picture.format == "BMP":
        return data[24 if data[14] == 12 else _BMP_BITS_AT] not in (24, 32)  # 12: the short header of OS/2
    return _largest(picture) not in (None, 255)


def _largest(picture: Image.Image) -> int | None:
    """The maxval of a PGM or PPM file where pillow rescales by it, else None; known only before the file is decoded."""
    if picture.format != "PPM" or not isinstance(picture, ImageFile.ImageFile) or not picture.tile:
        return None
    arguments = picture.tile[0][3]
    if isinstance(arguments, tuple) and len(arguments) == 2 and isinstance(arguments[1], int):
        return arguments[1]
    return None


def _check_largest(picture: Image.Image, data: bytes, largest: int) -> None:
    """Raise `ValueError` for numbers above the maxval of a binary PGM or PPM file, which pillow would cut to it."""
    assert isinstance(picture, ImageFile.ImageFile)
    codec, _, offset, _ = picture.tile[0]
    kind = np.dtype(np.uint8 if largest < 256 else ">u2")
    count = picture.width * picture.height * len(picture.getbands())
    if codec == "ppm" and len(data) >= offset + count * kind.itemsize:
        highest = int(np.frombuffer(data, kind, count, offset).max())
        if highest > largest:
            raise ValueError(
                f"expected numbers up to {largest}, the maxval of the file, got {highest}: save it again, with the "
                f"maxval of its numbers, or as PNG"
            )


def _is_lossless_webp(data: bytes) -> bool:
    """Whether the pixels are in a VP8L chunk of the RIFF file."""
    place = 12
    while place + 8 <= len(data):
        name, length = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if name in (b"VP8L", b"VP8 "):
            return name == b"VP8L"
        place += 8 + length + length % 2
    return False
