"""TIFF files: tifffile finds the image and lays its samples out; libtiff, in pillow, decompresses.

What is installed besides (imagecodecs) changes no answer: no decoder of its is asked.
"""

import io
import struct
from typing import Final

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, UnidentifiedImageError
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffPage

from selflabel.files.pictures import large_allowed
from selflabel.files.rasters import MOST_CHANNELS, Raster, check_size, upright, upright_size

MAGIC: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""The first bytes of TIFF and BigTIFF files in both byte orders."""

_ORIENTATION, _SUBFILE, _OLD_SUBFILE, _SOFTWARE = 274, 254, 255, 305
_COMPRESSION, _PHOTOMETRIC, _PREDICTOR, _FILL_ORDER = 259, 262, 317, 266
_OFFSETS, _COUNTS = (273, 324), (279, 325)
_REDUCED, _MASK = 1, 4
"""Bits of NewSubfileType: a smaller copy of another page, a transparency mask of it."""
_OLD_REDUCED = 2
_ALPHAS = (1, 2)
"""Values of ExtraSamples: associated and unassociated alpha. 0 is unspecified."""

OF_BYTES = (
    COMPRESSION.LZW,
    COMPRESSION.ADOBE_DEFLATE,
    COMPRESSION.DEFLATE,
    COMPRESSION.PACKBITS,
    COMPRESSION.LZMA,
    COMPRESSION.ZSTD,
)
"""Compressions of any bytes; the others are of pictures."""
_EXACT_PICTURES = (COMPRESSION.CCITTRLE, COMPRESSION.CCITT_T4, COMPRESSION.CCITT_T6)
_LAID_OUT = (PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB, PHOTOMETRIC.PALETTE)
WHOLE_BITS = (1, 8, 16, 32, 64)
"""Bits a sample that tifffile unpacks by itself."""
_DIFFERENCES, _FLOAT_PREDICTOR = 2, 3
"""Values of Predictor: what was compressed are differences of neighbors in a row."""
_REVERSED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def is_tiff(data: bytes) -> bool:
    """Whether the bytes begin as a TIFF file does."""
    return data[:4] in MAGIC


def tiff_size(data: bytes, *, turned: bool = True) -> tuple[int, int]:
    """Height and width, `turned` as the file says or as stored; no pixel is read. Raises as `tiff_raster` does."""
    with TiffFile(io.BytesIO(data)) as file:
        page = _image_page(file)
        return upright_size(page.imagelength, page.imagewidth, orientation_of(page) if turned else 1)


def tiff_channels(data: bytes) -> int:
    """Channels of the image without alpha, 3 for palettes, CMYK and the like. Raises as `tiff_raster` does."""
    with TiffFile(io.BytesIO(data)) as file:
        page = _image_page(file)
        if page.photometric not in _LAID_OUT or page.photometric == PHOTOMETRIC.PALETTE:
            return 3
        planes, _, _, _, channels = page.shaped
        return planes * channels - int(_has_alpha(page))


def tiff_raster(data: bytes) -> Raster:
    """The numbers in the bytes of a TIFF file: strips or tiles, planes or not, either byte order, BigTIFF too.

    Smaller copies (overviews, thumbnails) and masks of the image do not count as pages. A channel is alpha only if
    ExtraSamples says so. Where 0 is white, numbers are those that the writer was given: pictures' writers turn
    them around, tifffile does not.

    Raises `ValueError` for too many pixels or channels, several pages, volumes and compressions that libtiff does
    not know, before pixels are read; on damaged data whatever tifffile and pillow raise.
    """
    with TiffFile(io.BytesIO(data)) as file:
        page = _image_page(file)
        _check_meaning(page)
        bits = page.bitspersample
        plain = (
            page.photometric in _LAID_OUT
            and page.dtype is not None
            and page.dtype.kind in "biuf"
            and bits in WHOLE_BITS
        )
        packed = page.compression in OF_BYTES
        form = (
            "TIFF"
            if page.compression == 1
            else f"TIFF ({getattr(page.compression, 'name', page.compression)})"
        )
        exact = page.compression == COMPRESSION.NONE or packed or page.compression in _EXACT_PICTURES
        if plain and page.compression == COMPRESSION.NONE and page.predictor == 1:
            numbers = laid_out(page)
        elif plain and (packed or page.compression == COMPRESSION.NONE):
            numbers = laid_out_unpacked(data, page)
        else:
            return _by_pillow(data, page, form, exact)
        return _raster(numbers, page, form)


def _image_page(file: TiffFile) -> TiffPage:
    """The page of the image, its size checked."""
    found: list[TiffPage] = []
    for number in range(len(file.pages)):
        page = page_at(file, number)
        if number == 0 or not is_companion(page):
            found = [page] if found and is_companion(found[0]) else [*found, page]
        if len(found) > 1:
            raise ValueError(f"expected one image, got {len(file.pages)} pages: save the one that is meant")
    if not found:
        raise OSError("a TIFF file without pages")
    page = found[0]
    planes, depth, height, width, channels = page.shaped
    if depth > 1 or images_behind(file, page) > 1:
        raise ValueError("expected one image, got a stack: save the plane that is meant")
    if planes * channels > MOST_CHANNELS:
        raise ValueError(
            f"expected 1 to {MOST_CHANNELS} channels, got {planes * channels}: save those that matter"
        )
    check_size(height, width, planes * channels * (1 if page.dtype is None else page.dtype.itemsize))
    return page


def _check_meaning(page: TiffPage) -> None:
    """Raise `ValueError` for a page that programs read in different ways."""
    if _PHOTOMETRIC not in page.tags:
        raise ValueError(
            "expected the tag PhotometricInterpretation, got none, and 0 may be black or white: save it again, or as "
            "PNG"
        )
    if page.compression == COMPRESSION.PACKBITS and page.predictor != 1:
        raise ValueError(
            f"expected PackBits without a Predictor, which some programs apply to it and some do not, got Predictor "
            f"{int(page.predictor)}: save it without compression, or as PNG"
        )


def page_at(file: TiffFile, number: int) -> TiffPage:
    """A page with all its tags."""
    page = file.pages.get(number)
    assert isinstance(page, TiffPage)
    return page


def is_companion(page: TiffPage) -> bool:
    """Whether a page is a smaller copy or a mask of another one."""
    old = page.tags.get(_OLD_SUBFILE)
    return bool(
        int(page.subfiletype) & (_REDUCED | _MASK)
        or (old is not None and old.value == _OLD_REDUCED)
        or page.photometric == PHOTOMETRIC.MASK
    )


def images_behind(file: TiffFile, page: TiffPage) -> int:
    """How many images stand behind the one page, as ImageJ and tifffile write large stacks."""
    if file.is_imagej and file.imagej_metadata is not None:
        return int(file.imagej_metadata.get("images", 1))
    if page.is_shaped and file.shaped_metadata:
        shape = file.shaped_metadata[0].get("shape", page.shape)
        return int(np.prod(shape, dtype=object)) // max(1, int(np.prod(page.shape, dtype=object)))
    return 1


def orientation_of(page: TiffPage) -> int:
    """The Orientation tag, 1 where there is none: upright."""
    tag = page.tags.get(_ORIENTATION)
    return tag.value if tag is not None and isinstance(tag.value, int) else 1


def laid_out(page: TiffPage) -> Shaped[np.ndarray, "h w c"]:
    """The samples of a page whose segments are not compressed."""
    planes, _, height, width, channels = page.shaped
    samples = np.asarray(page.asarray()).reshape(planes, height, width, channels)
    if samples.dtype.kind in "iu":  # one name a type: int64 has two
        samples = samples.astype(samples.dtype.newbyteorder("=")).view(
            f"{samples.dtype.kind}{samples.dtype.itemsize}"
        )
    return np.moveaxis(samples, 0, 2).reshape(height, width, planes * channels)


def laid_out_unpacked(data: bytes, page: TiffPage) -> Shaped[np.ndarray, "h w c"]:
    """The samples of a page: libtiff unpacks its segments, tifffile lays them out."""
    buffer = io.BytesIO(data)
    buffer.seek(0, io.SEEK_END)
    offsets, counts = [], []
    for number, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
        if count:  # a segment of no bytes is empty: tifffile makes it zeros
            unpacked = _unpacked(data[offset : offset + count], page, number)
            offset, count = buffer.tell(), len(unpacked)
            buffer.write(unpacked)
        offsets.append(offset)
        counts.append(count)
    buffer.seek(0)
    with TiffFile(buffer) as file:
        new = page_at(file, page.index)
        for codes, values in ((_OFFSETS, offsets), (_COUNTS, counts)):
            for code in codes:
                if code in new.tags:
                    new.tags[code].overwrite(values, dtype="Q" if file.is_bigtiff else "I")
        for code, value in ((_COMPRESSION, 1), (_FILL_ORDER, 1), (_PREDICTOR, 1)):
            if code in new.tags:
                new.tags[code].overwrite(value)
    buffer.seek(0)
    with TiffFile(buffer) as file:
        return laid_out(page_at(file, page.index))


def _unpacked(segment: bytes, page: TiffPage, number: int) -> bytes:
    """The bytes of a strip or tile."""
    _planes, _, height, width, channels = page.shaped
    if page.is_tiled:
        rows, columns = page.tilelength, page.tilewidth
    else:
        strip = min(page.rowsperstrip or height, height)
        in_plane = number % -(-height // strip)
        rows, columns = min(strip, height - in_plane * strip), width
    length = -(-columns * channels * page.bitspersample // 8)
    if page.fillorder == 2:
        segment = segment.translate(_REVERSED)
    if page.compression == COMPRESSION.NONE:
        return segment  # where nothing is compressed, a Predictor means nothing
    found = _through_libtiff(segment, int(page.compression), rows, length)
    if page.predictor in (_DIFFERENCES, _FLOAT_PREDICTOR):
        undo = _summed if page.predictor == _DIFFERENCES else _floats
        return undo(np.frombuffer(found, np.uint8).reshape(rows, length), channels, page)
    return found


def _through_libtiff(segment: bytes, compression: int, rows: int, length: int) -> bytes:
    """Compressed bytes of `rows` times `length` bytes, as a gray TIFF file of one strip that pillow opens."""
    wide = 1 if length % 4 else 4  # bytes a pixel: pillow has a limit of pixels
    entries = (
        (256, length // wide),
        (257, rows),
        (258, 8 * wide),
        (_COMPRESSION, compression),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, rows),
        (279, len(segment)),
        (339, 1 if wide == 1 else 2),
    )
    padded = segment + bytes(len(segment) % 2)
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", code, 4, 1, n) for code, n in entries
    )
    head = b"II*\0" + struct.pack("<I", 8 + len(padded))
    file = io.BytesIO(head + padded + directory + bytes(4))
    with large_allowed(), Image.open(file, formats=("TIFF",)) as image:
        numbers = np.asarray(image)
        return numbers.astype(numbers.dtype.newbyteorder("<")).tobytes()


def _summed(rows: UInt8[np.ndarray, "r n"], channels: int, page: TiffPage) -> bytes:
    """Undo the horizontal predictor (TIFF 6.0, section 14): differences of samples of one channel, modulo 2^bits."""
    assert page.dtype is not None
    kind = np.dtype(f"{page.parent.byteorder}u{page.dtype.itemsize}")
    samples = rows.view(kind).reshape(len(rows), -1, channels)
    return samples.cumsum(axis=1, dtype=kind.newbyteorder("=")).astype(kind).tobytes()


def _floats(rows: UInt8[np.ndarray, "r n"], channels: int, page: TiffPage) -> bytes:
    """Undo the floating-point predictor (TIFF Technical Note 3): differences of bytes, most significant ones first."""
    assert page.dtype is not None
    size = page.dtype.itemsize
    count = rows.shape[1] // (size * channels)
    summed = rows.reshape(len(rows), -1, channels).cumsum(axis=1, dtype=np.uint8).reshape(len(rows), size, -1)
    values = np.ascontiguousarray(summed.swapaxes(1, 2)).view(page.dtype.newbyteorder(">"))
    assert values.size == len(rows) * count * channels
    return values.astype(page.dtype.newbyteorder(page.parent.byteorder)).tobytes()


def _raster(numbers: Shaped[np.ndarray, "h w c"], page: TiffPage, form: str) -> Raster:
    """Laid out samples with what the page says of them."""
    assert page.dtype is not None
    top = 2**page.bitspersample - 1 if page.dtype.kind in "ub" and page.bitspersample <= 16 else None
    palette = None
    if page.photometric == PHOTOMETRIC.PALETTE:
        no_colors = np.zeros((3, 0), np.uint16)
        colors = (no_colors if page.colormap is None else page.colormap).T  # of 16 bit; some writers mean 8
        palette = (colors >> 8 if colors.max(initial=0) > 255 else colors).astype(np.uint8)
    if numbers.dtype == np.bool_:
        numbers = numbers.astype(np.uint8)
    if numbers.shape[2] == 1:
        numbers = numbers[..., 0]
    inverted = False
    if page.photometric == PHOTOMETRIC.MINISWHITE and top is not None:
        inverted = _keeps_numbers(page)
        numbers = numbers if inverted else top - numbers
    return Raster(
        upright(numbers, orientation_of(page)),
        top,
        form,
        alpha=_has_alpha(page),
        palette=palette,
        white_is_zero=inverted,
    )


def _has_alpha(page: TiffPage) -> bool:
    """Whether the last channel is said to be alpha."""
    extra = page.extrasamples
    return bool(extra) and int(extra[-1]) in _ALPHAS


def _by_pillow(data: bytes, page: TiffPage, form: str, exact: bool) -> Raster:
    """The numbers of a page of a picture's compression, of CMYK and the like, or of 2, 4 or 12 bits."""
    if page.bitspersample > 8 and not exact:  # JPEG of 12 and 16 bits
        raise ValueError(_unknown(page, form))
    buffer = io.BytesIO(data)
    if _ORIENTATION in page.tags:  # some versions of pillow turn by it, some do not: `upright` does
        with TiffFile(buffer) as file:
            page_at(file, page.index).tags[_ORIENTATION].overwrite(1)
        buffer.seek(0)
    try:
        with large_allowed():
            picture = Image.open(buffer, formats=("TIFF",))
            picture.seek(page.index)
    except (UnidentifiedImageError, SyntaxError, KeyError) as error:
        raise ValueError(_unknown(page, form)) from error
    picture.info.pop("xmp", None)  # has an orientation of its own, in other programs' words
    turn, alpha, keeps = orientation_of(page), picture.mode in ("LA", "RGBA", "PA"), _keeps_numbers(page)
    with picture, large_allowed():
        picture.load()
        if picture.mode == "P":
            colors = np.array(picture.getpalette("RGB") or [], dtype=np.uint8).reshape(-1, 3)
            return Raster(upright(np.array(picture), turn), 255, form, palette=colors, exact=exact)
        numbers, top = np.array(picture), 255
        if picture.mode == "1":
            numbers, top = numbers.astype(np.uint8), 1
        elif picture.mode == "L" and page.bitspersample < 8:
            top = 2**page.bitspersample - 1
            numbers //= np.uint8(255 // top)  # pillow has multiplied
        elif picture.mode.startswith("I;16"):
            top = 2**page.bitspersample - 1
        elif picture.mode not in ("L", "LA", "RGB", "RGBA", "RGBX", "F", "I"):
            numbers = np.array(_in_rgb(picture, page, form))
            form, exact = f"{form} of {picture.mode}", False
    inverted = page.photometric == PHOTOMETRIC.MINISWHITE and keeps and numbers.ndim == 2
    return Raster(
        upright(top - numbers if inverted else numbers, turn),
        None if picture.mode in ("F", "I") else top,
        form,
        alpha=alpha,
        white_is_zero=inverted,
        exact=exact,
    )


def _in_rgb(picture: Image.Image, page: TiffPage, form: str) -> Image.Image:
    try:
        return picture.convert("RGB")
    except ValueError as error:
        raise ValueError(_unknown(page, form)) from error


def _keeps_numbers(page: TiffPage) -> bool:
    """Whether the writer stores the numbers that it is given even where 0 is white; others turn them around."""
    software = page.tags.get(_SOFTWARE)
    return software is not None and str(software.value).startswith("tifffile")


def _unknown(page: TiffPage, form: str) -> str:
    photometric = getattr(page.photometric, "name", page.photometric)
    return (
        f"expected gray, RGB, CMYK or a palette that pillow or tifffile read, got {form} of {page.bitspersample} bits, "
        f"{photometric}: save it without compression, or as PNG"
    )
