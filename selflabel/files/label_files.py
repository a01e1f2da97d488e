"""Label files: one class index a pixel, 255 where there is no label."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import tifffile
from jaxtyping import Integer, Shaped, UInt8
from PIL import Image

from selflabel.files import UNLABELED
from selflabel.files.atomic import write_atomic
from selflabel.files.images import TIFF_SUFFIXES, open_pillow
from selflabel.files.opening import about, read_file
from selflabel.files.palette import voc_palette

LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm")

_INDEX_MODES = ("P", "L", "1", "I;16", "I;16L", "I;16B", "I")
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


def decode_index(data: bytes, suffix: str, form: LabelFormat = VOC_FORMAT) -> UInt8[np.ndarray, "h w"]:
    """The labels in the bytes of a file: palette, gray or 1-bit image, or integer TIFF.

    Raises `ValueError` for colors (with what to do about it), for values that are no class, and for shapes
    other than [h w]; `OSError` for damaged files.
    """
    values = _tiff_values(data) if suffix.lower() in TIFF_SUFFIXES else _pillow_values(data)
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"{_HOW}; got shape {values.shape} of {values.dtype}")
    return form.decode(values)


def write_index(path: Path, index: UInt8[np.ndarray, "h w"]) -> None:
    """Write labels as an 8-bit palette PNG with the palette of PASCAL VOC, complete or not at all."""
    image = Image.fromarray(index)
    image.putpalette(voc_palette().tobytes())  # turns mode L into mode P
    write_png(path, image)


def write_png(path: Path, image: Image.Image) -> None:
    """Write a PNG, complete or not at all; the same pixels give the same bytes."""

    def write(file: BinaryIO) -> None:
        image.save(file, format="PNG", compress_level=4)  # a third of the time of 6, some percent larger

    write_atomic(path, write)


def _pillow_values(data: bytes) -> Shaped[np.ndarray, "..."]:
    with open_pillow(data) as image:
        if image.mode not in _INDEX_MODES:
            raise ValueError(f"{_HOW}; got mode {image.mode}")
        return np.array(image)


def _tiff_values(data: bytes) -> Shaped[np.ndarray, "..."]:
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            return np.asarray(file.asarray())
    except tifffile.TiffFileError as error:
        raise OSError(f"not a TIFF file, or a damaged one: {error}") from error
    except ValueError as error:
        if "imagecodecs" in str(error):
            return _pillow_values(data)
        raise
