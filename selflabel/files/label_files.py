"""Label files: one class index a pixel, 255 where there is no label."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from selflabel.files import UNLABELED
from selflabel.files.atomic import write_atomic
from selflabel.files.images import read_raster
from selflabel.files.opening import about, read_file
from selflabel.files.palette import voc_palette
from selflabel.files.rasters import Raster

LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm")

_LARGEST_WHOLE = 2**24
"""Up to here float32 has all whole numbers."""
_HOW = (
    "label files hold one class index a pixel (a palette or gray PNG), not colors: "
    "save them without converting to RGB, e.g. PIL.Image.fromarray(index)"
)


@dataclass(frozen=True)
class LabelFormat:
    """The meaning of the numbers in a label file; nothing is guessed from the file.

    unlabeled: the value of pixels without a label.
    offset: the value of class 0. napari and ilastik write 0 for unlabeled, classes from 1: `LabelFormat(0, 1)`.
    """

    unlabeled: int = UNLABELED
    offset: int = 0

    def decode(self, values: Integer[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
        """Class indices of file values, 255 where there is no label.

        Raises `ValueError` if a value stands for a class below 0 or above 254.
        """
        empty = values == self.unlabeled
        index = values.astype(np.int64) - self.offset
        wrong = ~empty & ((index < 0) | (index >= UNLABELED))
        if wrong.any():
            found = int(values[wrong][0])
            raise ValueError(
                f"value {found} is no class: with offset {self.offset} classes are {self.offset} to "
                f"{self.offset + UNLABELED - 1}, and {self.unlabeled} means unlabeled"
            )
        return np.where(empty, UNLABELED, index).astype(np.uint8)


VOC_FORMAT: Final = LabelFormat()


def read_index(path: Path, form: LabelFormat = VOC_FORMAT) -> UInt8[np.ndarray, "h w"]:
    """The labels in a file: index or palette PNG, or integer TIFF.

    Raises `FileError`, for all that `decode_index` refuses, too.
    """
    data = read_file(path)
    with about(path):
        return decode_index(data, path.suffix, form)


def decode_index(data: bytes, suffix: str = "", form: LabelFormat = VOC_FORMAT) -> UInt8[np.ndarray, "h w"]:
    """The labels in the bytes of a file: the numbers that it stores, of whatever depth, never rescaled or colored.

    Palette, gray and 1-bit images of all formats that keep numbers, integer TIFF, and TIFF of whole floats.

    Raises `ValueError` for colors (with what to do about it), formats that change numbers (JPEG), fractions, and
    for values that are no class; else as `decode_image` does.
    """
    return form.decode(_numbers(read_raster(data, suffix)))


def _numbers(raster: Raster) -> Integer[np.ndarray, "h w"]:
    """The numbers of an image file as whole numbers. Raises `ValueError` where they are none, or may have changed."""
    if not raster.exact:
        raise ValueError(f"{raster.form} changes numbers: save label files as PNG (palette or gray) or TIFF")
    numbers: np.ndarray = raster.numbers
    if numbers.ndim == 3 and numbers.shape[2] == 2 and raster.alpha and (numbers[..., 1] == raster.top).all():
        numbers = numbers[..., 0]
    if numbers.ndim != 2:
        raise ValueError(f"{_HOW}; got {numbers.shape[2]} channels")
    if np.issubdtype(numbers.dtype, np.floating):
        whole = np.rint(numbers)
        if not (whole == numbers).all() or float(np.abs(whole).max()) > _LARGEST_WHOLE:
            raise ValueError(
                f"label files hold one class index a pixel, whole numbers; got fractions ({numbers.dtype})"
            )
        numbers = whole.astype(np.int64)
    assert np.issubdtype(numbers.dtype, np.integer)
    return numbers


def write_index(path: Path, index: UInt8[np.ndarray, "h w"]) -> None:
    """Write labels as an 8-bit palette PNG with the palette of PASCAL VOC, complete or not at all."""
    data = encoded_index(index)
    write_atomic(path, lambda file: file.write(data))


def encoded_index(index: UInt8[np.ndarray, "h w"]) -> bytes:
    """The bytes that `write_index` writes."""
    image = Image.fromarray(index)
    image.putpalette(voc_palette().tobytes())  # turns mode L into mode P
    return encoded_png(image)


def encoded_png(image: Image.Image) -> bytes:
    """The bytes of a PNG; the same pixels give the same."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=4)  # a third of the time of 6, some percent larger
    return buffer.getvalue()
