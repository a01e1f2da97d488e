"""A gray picture is the same image however it is stored: in one channel, in three equal ones, by a palette."""

import io

import numpy as np
import pytest
from PIL import Image
from support.encoders import encoded, tiff

from selflabel.files.images import decode_image, to_unit

pytestmark = pytest.mark.quick

GRAY = np.random.default_rng(61_553).integers(0, 256, (9, 14), dtype=np.uint8)
RGB = np.repeat(GRAY[..., None], 3, axis=2)
EXPECTED = GRAY[..., None].astype(np.float32) / np.float32(255)
OPAQUE = np.full_like(GRAY, 255)


def shuffled_palette() -> Image.Image:
    """The picture by a palette of grays in another order than theirs."""
    order = np.random.default_rng(7_301).permutation(256).astype(np.uint8)
    picture = Image.fromarray(np.argsort(order).astype(np.uint8)[GRAY]).convert("P")
    picture.putpalette(np.repeat(order[:, None], 3, axis=1).tobytes())
    return picture


STORED = {
    "L": encoded(Image.fromarray(GRAY)),
    "LA": encoded(Image.merge("LA", [Image.fromarray(GRAY), Image.fromarray(OPAQUE)])),
    "16 bit": encoded(Image.fromarray(GRAY.astype(np.uint16) * 257)),
    "RGB": encoded(Image.fromarray(RGB)),
    "RGBA": encoded(Image.fromarray(np.dstack([RGB, OPAQUE]))),
    "palette": encoded(shuffled_palette()),
    "BMP": encoded(Image.fromarray(GRAY), "BMP"),
    "BMP, RGB": encoded(Image.fromarray(RGB), "BMP"),
    "GIF": encoded(Image.fromarray(GRAY), "GIF"),
    "PGM": encoded(Image.fromarray(GRAY), "PPM"),
    "PPM": encoded(Image.fromarray(RGB), "PPM"),
    "WebP": encoded(Image.fromarray(GRAY), "WEBP", lossless=True),
    "TIFF": tiff(GRAY),
    "TIFF, 0 is white": tiff(255 - GRAY, photometric="miniswhite"),
    "TIFF, 16 bit": tiff(GRAY.astype(np.uint16) * 257),
    "TIFF, RGB of 16 bit": tiff(RGB.astype(np.uint16) * 257, photometric="rgb"),
    "TIFF, planes": tiff(np.moveaxis(RGB, -1, 0).copy(), photometric="rgb", planarconfig="separate"),
    "TIFF, RGB of floats": tiff(np.repeat(EXPECTED, 3, axis=2), photometric="rgb"),
}


@pytest.mark.parametrize("data", STORED.values(), ids=STORED)
def test_the_same_however_it_is_stored(data: bytes) -> None:
    np.testing.assert_array_equal(decode_image(data), EXPECTED, strict=True)


@pytest.mark.parametrize("quality", [60, 95])
def test_a_jpeg_of_equal_channels_is_the_gray_one(quality: int) -> None:
    gray, colors = (encoded(Image.fromarray(one), "JPEG", quality=quality) for one in (GRAY, RGB))
    assert Image.open(io.BytesIO(colors)).mode == "RGB"
    assert decode_image(colors).shape == (9, 14, 1)
    np.testing.assert_array_equal(decode_image(colors), decode_image(gray), strict=True)


@pytest.mark.parametrize("array", [GRAY, GRAY[..., None], RGB, np.dstack([RGB, OPAQUE]), RGB / 255])
def test_arrays_are_alike(array: np.ndarray) -> None:
    np.testing.assert_array_equal(to_unit(array), EXPECTED, strict=True)


@pytest.mark.parametrize("at", [(0, 0), (4, 7), (8, 13)])
@pytest.mark.parametrize("channel", range(3))
def test_one_pixel_of_color_keeps_three_channels(at: tuple[int, int], channel: int) -> None:
    colors = RGB.copy()
    colors[*at, channel] ^= 1
    for found in (decode_image(encoded(Image.fromarray(colors))), to_unit(colors)):
        np.testing.assert_array_equal(found, colors.astype(np.float32) / np.float32(255), strict=True)
