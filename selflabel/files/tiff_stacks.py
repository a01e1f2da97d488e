"""Stacks of bands in TIFF files: as many as there are classes, in one page or a page each."""

import io

import numpy as np
from jaxtyping import Shaped
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffPage

from selflabel.files.rasters import check_size
from selflabel.files.tiffs import (
    OF_BYTES,
    WHOLE_BITS,
    images_behind,
    is_companion,
    laid_out,
    laid_out_unpacked,
    orientation_of,
    page_at,
)


def tiff_stack_shape(data: bytes) -> tuple[tuple[int, int, int], np.dtype]:
    """Shape [k h w] and type of `tiff_stack`; no pixel is read. Raises as it does."""
    with TiffFile(io.BytesIO(data)) as file:
        pages = _stacked_pages(file)
        planes, _, height, width, channels = pages[0].shaped
        assert pages[0].dtype is not None
        return (len(pages) * planes * channels, height, width), pages[0].dtype


def tiff_stack(data: bytes) -> Shaped[np.ndarray, "k h w"]:
    """The bands of a TIFF file, in one page or a page each: numbers of 8 bits and more, packed by a method of bytes.

    Raises `ValueError` for pages that differ, for pages of several bands each, turned ones, and for other numbers and
    compressions; on damaged data whatever tifffile and pillow raise.
    """
    with TiffFile(io.BytesIO(data)) as file:
        bands = [
            laid_out(page)
            if page.compression == COMPRESSION.NONE and page.predictor == 1
            else laid_out_unpacked(data, page)
            for page in _stacked_pages(file)
        ]
        return np.moveaxis(np.concatenate(bands, axis=2), 2, 0)


def _stacked_pages(file: TiffFile) -> list[TiffPage]:
    """The pages of a stack of bands, checked."""
    pages = [page_at(file, number) for number in range(len(file.pages))]
    pages = [page for page in pages if not is_companion(page)]
    if not pages:
        raise OSError("a TIFF file without pages")
    first = pages[0]
    planes, depth, height, width, channels = first.shaped
    check_size(height, width)
    if depth > 1 or (len(pages) == 1 and images_behind(file, first) > 1):
        raise ValueError("expected bands in one page, or a page each, got a volume")
    if len(pages) > 1 and planes * channels > 1:
        raise ValueError(
            f"expected one page, or pages of one band, got {len(pages)} of {planes * channels} bands"
        )
    for page in pages:
        if (page.shaped, page.dtype) != (first.shaped, first.dtype):
            raise ValueError(f"expected pages of one shape and type, got {first.shaped} and {page.shaped}")
        known = page.photometric in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB)
        packed = page.compression == COMPRESSION.NONE or page.compression in OF_BYTES
        whole = page.dtype is not None and page.dtype.kind in "biuf" and page.bitspersample in WHOLE_BITS
        if not (known and packed and whole):
            raise ValueError(
                f"expected bands of numbers without compression or with deflate or LZW, got "
                f"{_named(page.photometric)} of {page.bitspersample} bits, {_named(page.compression)}"
            )
        if orientation_of(page) > 1:
            raise ValueError(
                f"expected upright bands, got Orientation {orientation_of(page)}: save them upright"
            )
    return pages


def _named(code: object) -> object:
    return getattr(code, "name", code)
