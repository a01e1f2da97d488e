"""Probabilities as bands of TIFF files."""

import io
from typing import Any

import numpy as np
import pytest
import tifffile

from selflabel.files.number_types import quantized
from selflabel.files.probabilities import decode_probabilities

pytestmark = pytest.mark.quick

SIZE = (5, 7)
PROBS = np.random.default_rng(2_909).dirichlet(np.ones(21), SIZE).transpose(2, 0, 1)


def tiff(array: np.ndarray, **more: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **more)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("array", "more"),
    [
        (PROBS.astype(np.float32), {"photometric": "minisblack"}),
        (PROBS.astype(np.float32), {"photometric": "minisblack", "compression": "zlib"}),
        (PROBS.astype(np.float32), {"photometric": "minisblack", "planarconfig": "separate"}),
        (PROBS.astype(np.float32), {"photometric": "minisblack", "imagej": True}),
        (
            PROBS.transpose(1, 2, 0).astype(np.float32),
            {"photometric": "minisblack", "planarconfig": "contig"},
        ),
        (np.rint(PROBS * 65535).astype(np.uint16), {"photometric": "minisblack"}),
        (
            np.rint(PROBS * 65535).astype(np.uint16),
            {"photometric": "minisblack", "bigtiff": True, "byteorder": ">"},
        ),
    ],
)
def test_bands_of_tiff_files(array: np.ndarray, more: dict[str, object]) -> None:
    found = decode_probabilities(tiff(array, **more), ".tif", SIZE)
    np.testing.assert_allclose(found.probs, PROBS, atol=1e-4)


def test_three_bands_of_tiff_files_are_no_colors() -> None:
    rows = PROBS[:3] / PROBS[:3].sum(0)
    for array in (quantized(rows), quantized(rows).transpose(1, 2, 0)):
        for more in ({"photometric": "rgb"}, {"photometric": "minisblack"}):
            given = {**more, "planarconfig": "separate" if array.shape[0] == 3 else "contig"}
            np.testing.assert_allclose(
                decode_probabilities(tiff(array, **given), ".TIFF", SIZE).probs, rows, atol=4e-3
            )
    cube = np.random.default_rng(733).dirichlet(np.ones(3), (3, 3)).transpose(2, 0, 1).astype(np.float32)
    found = decode_probabilities(tiff(cube, photometric="minisblack"), ".tif", (3, 3))
    np.testing.assert_allclose(found.probs, cube, atol=1e-6)


def two_pages(first: np.ndarray, second: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        for page in (first, second):
            file.write(page, photometric="minisblack" if page.ndim == 2 else "rgb", metadata=None)
    return buffer.getvalue()


ROWS = np.zeros(SIZE, np.uint8)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (two_pages(ROWS, ROWS[1:]), "expected pages of one shape and type"),
        (two_pages(np.zeros((*SIZE, 3), np.uint8), np.zeros((*SIZE, 3), np.uint8)), "got 2 of 3 bands"),
        (
            tiff(PROBS.astype(np.float32), photometric="minisblack", extratags=[(274, "H", 1, 6, True)]),
            "expected upright bands, got Orientation 6",
        ),
        (
            tiff(ROWS, photometric="miniswhite"),
            "expected bands of numbers without compression or with deflate",
        ),
        (
            tiff(
                np.zeros((4, 16, 16), np.float32),
                photometric="minisblack",
                volumetric=True,
                tile=(16, 16, 16),
            ),
            "volume",
        ),
        (tiff(PROBS.astype(np.float32), photometric="minisblack")[:400], None),
    ],
)
def test_tiff_files_that_will_not_do(data: bytes, message: str | None) -> None:
    with pytest.raises((ValueError, OSError), match=message):
        decode_probabilities(data, ".tif", SIZE)
