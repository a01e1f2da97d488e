"""Label files: one class index a pixel, 255 where there is no label."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Integer, Shaped, UInt8
from PIL import Image

from selflabel.files import UNLABELED
from selflabel.files.atomic import write_atomic
from selflabel.files.images import read_raster
from selflabel.files.opening import about, read_file
from selflabel.files.palette import voc_palette
from selflabel.files.pictures import LOSSLESS_WEBP
from selflabel.files.rasters import Raster
from selflabel.files.spelling import PYTHON, Spelling
from selflabel.kinds import check_fields

LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm", ".ppm", ".pnm", ".webp")

_LARGEST_WHOLE = 2**24
"""Up to here float32 has all whole numbers."""
_HOW = (
    "label files hold one class index a pixel (a palette or gray PNG), not colors: save them without converting to "
    "RGB, e.g. PIL.Image.fromarray(index), or list the colors of the classes"
)


@dataclass(frozen=True)
class LabelFormat:
    """The meaning of the numbers in a label file; nothing is guessed from the file.

    unlabeled: the value of pixels without a label; -1 where every pixel has one.
    offset: the value of class 0. napari and ilastik write 0 for unlabeled, classes from 1: `LabelFormat(0, 1)`.
    values: the value of each class, such as (0, 255) for masks; other values than these and `unlabeled` are errors.
    Where 255 is one of them it is a class, and no value means unlabeled unless another is named.
    colors: for colored files, red, green, blue and the class of each color (255: unlabeled).
    spelling: how errors name these arguments.

    Raises `ValueError` for more than one of `offset`, `values` and `colors`, values twice, more than 255 of them, and a
    value of a class that also means unlabeled.
    """

    unlabeled: int = UNLABELED
    offset: int = 0
    values: tuple[int, ...] = ()
    colors: tuple[tuple[int, int, int, int], ...] = ()
    spelling: Spelling = field(default=PYTHON, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_fields(self)
        if bool(self.offset) + bool(self.values) + bool(self.colors) > 1:
            raise ValueError("expected an offset, values or colors of the classes, got more than one of them")
        if len(set(self.values)) < len(self.values) or len(self.values) > UNLABELED:
            raise ValueError(f"expected up to {UNLABELED} different values, one a class, got {self.values}")
        if self.unlabeled in self.values and self.unlabeled != UNLABELED:
            raise ValueError(f"the value {self.unlabeled} cannot be a class and mean unlabeled")

    @property
    def explicit(self) -> bool:
        """True if each value or color of a class is named."""
        return bool(self.values or self.colors)

    def decode(self, values: Integer[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
        """Class indices of file values, 255 where there is no label.

        Raises `ValueError` if a value stands for a class below 0 or above 254, or for none of `values`.
        """
        if values.dtype in (np.uint8, np.uint16):
            present = np.flatnonzero(np.bincount(values.ravel()))
            table = np.zeros(int(present[-1]) + 1 if present.size else 1, dtype=np.uint8)
            table[present] = [self._class_of(value) for value in present.tolist()]
            index: UInt8[np.ndarray, "h w"] = table[values]
            return index
        present, places = np.unique(values, return_inverse=True)
        classes = np.array([self._class_of(value) for value in present.tolist()], dtype=np.uint8)
        return classes[places.reshape(values.shape)]

    def decode_colors(self, colors: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w"]:
        """Class indices of RGB or RGBA, 255 where there is no label: fully transparent pixels have none.

        Raises `ValueError` for colors that are not listed, and for pixels that are transparent in part.
        """
        packed = colors[..., :3].astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
        clear = np.zeros(packed.shape, dtype=bool)
        if colors.shape[2] == 4:
            clear = colors[..., 3] == 0
            if not (clear | (colors[..., 3] == UNLABELED)).all():
                raise ValueError(
                    "expected pixels of full color or none, got some that are transparent in part"
                )
        known = {(red << 16) | (green << 8) | blue: index for red, green, blue, index in self.colors}
        present, places = np.unique(packed, return_inverse=True)
        unknown = {value for value in present.tolist() if value not in known}
        wrong = np.isin(packed, list(unknown)) & ~clear
        if wrong.any():
            value, count = int(packed[wrong][0]), len({*packed[wrong].tolist()})
            color = (value >> 16, value >> 8 & 255, value & 255)
            raise ValueError(
                f"the color {color} is no class{f', nor are {count - 1} others' * (count > 1)}: list them with their "
                f"classes (255 for unlabeled), or save the file without JPEG, smooth edges and resizing"
            )
        classes = np.array([known.get(value, UNLABELED) for value in present.tolist()], dtype=np.uint8)
        return np.where(clear, np.uint8(UNLABELED), classes[places.reshape(packed.shape)])

    def _class_of(self, value: int) -> int:
        if value in self.values:
            return self.values.index(value)
        if value == self.unlabeled:
            return UNLABELED
        if self.values:
            raise ValueError(
                f"value {value} is no class: the classes have the values {', '.join(map(str, self.values))}, and "
                f"{self.unlabeled} means unlabeled"
            )
        index = value - self.offset
        if not 0 <= index < UNLABELED:
            raise ValueError(
                f"value {value} is no class: with offset {self.offset} classes are {self.offset} to "
                f"{self.offset + UNLABELED - 1}, and {self.unlabeled} means unlabeled; if classes have other values, "
                f"name these ({self.spelling.name('values')})"
            )
        return index


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

    Palette, gray and 1-bit images of all formats that keep numbers, integer TIFF, TIFF of whole floats, and gray
    pictures in WebP; where `form` lists colors, the colors of whatever image.

    Raises `ValueError` for colors (with what to do about it), formats that change numbers (JPEG), fractions, and
    for values that are no class; else as `decode_image` does.
    """
    raster = read_raster(data, suffix)
    if not raster.exact:
        raise ValueError(f"{raster.form} changes numbers: save label files as PNG (palette or gray) or TIFF")
    if form.colors:
        return form.decode_colors(_colors(raster))
    return form.decode(_numbers(raster, form.spelling.name("colors")))


def _colors(raster: Raster) -> UInt8[np.ndarray, "h w c"]:
    """The colors of an image file, RGB or RGBA. Raises `ValueError` where they are not of 8 bit."""
    colors = _stored_colors(raster)
    if raster.opacity is None or colors.shape[2] == 4:
        return colors
    return np.concatenate([colors, raster.opacity[..., None]], axis=2)


def _stored_colors(raster: Raster) -> UInt8[np.ndarray, "h w c"]:
    """`_colors` without what a palette or a color that is transparent says."""
    numbers: np.ndarray = raster.numbers
    if raster.palette is not None and numbers.ndim == 2 and int(numbers.max()) < len(raster.palette):
        colors: UInt8[np.ndarray, "h w c"] = raster.palette[numbers]
        return colors
    if numbers.dtype != np.uint8 or raster.top != UNLABELED or raster.palette is not None:
        raise ValueError(f"expected colors of 8 bit, got {numbers.dtype} ({raster.form})")
    channels = numbers[..., None] if numbers.ndim == 2 else numbers
    if channels.shape[2] > 2:
        return channels
    gray = channels[..., :1].repeat(3, axis=2)
    return np.concatenate([gray, channels[..., 1:]], axis=2)


def _numbers_of_gif(
    numbers: Integer[np.ndarray, "h w"], colors: UInt8[np.ndarray, "n 3"], option: str
) -> Integer[np.ndarray, "h w"]:
    """The numbers that were written to a GIF file, whose writers keep the colors that occur, in an order of their own.

    Of a gray palette they are the gray levels. Of other colors they are known only if the palette is whole or VOC's:
    else raises `ValueError`.
    """
    used = np.unique(numbers)
    shown = colors[used[used < len(colors)]]
    if len(shown) == len(used) and (shown == shown[:, :1]).all():
        levels: UInt8[np.ndarray, "h w"] = colors[numbers][..., 0]
        return levels
    if len(shown) == len(used) and len(colors) < UNLABELED + 1 and (shown != voc_palette()[used]).any():
        raise ValueError(
            f"GIF writers may give colors other numbers: list the colors of the classes ({option}), or save label "
            f"files as PNG (palette or gray) or TIFF"
        )
    return numbers


def _gray(numbers: Shaped[np.ndarray, "h w c"], raster: Raster) -> Shaped[np.ndarray, "..."]:
    """The gray channel of gray with opaque alpha, and of WebP, which has no gray images; else all channels."""
    if raster.alpha:
        if not (numbers[..., -1] == raster.top).all():
            return numbers
        numbers = numbers[..., :-1]
    gray = numbers[..., :1]
    if numbers.shape[2] == 1 or (raster.form == LOSSLESS_WEBP and (numbers == gray).all()):
        return gray[..., 0]
    return numbers


def _numbers(raster: Raster, option: str) -> Integer[np.ndarray, "h w"]:
    """The numbers of an image file as whole numbers. Raises `ValueError` where they are none.

    option: for colors, in the remedy.
    """
    if raster.form == "GIF" and raster.palette is not None:
        return _numbers_of_gif(raster.numbers, raster.palette, option)
    numbers: np.ndarray = raster.numbers
    if numbers.ndim == 3:
        numbers = _gray(numbers, raster)
    if numbers.ndim != 2:
        raise ValueError(f"{_HOW} ({option}); got {numbers.shape[2]} channels")
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
