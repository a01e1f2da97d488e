"""Good files of every kind are read; those that mean several things, or would fill the memory, are refused by name."""

import io
import random
import struct
import tracemalloc
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from support.encoders import encoded, packed, png, tiff, tiff_of_tags

from selflabel.files.images import decode_image, decoded_size, stored_size, to_unit
from selflabel.files.label_files import decode_index
from selflabel.files.opening import FileError, about
from selflabel.files.rasters import MOST_BYTES, MOST_PIXELS

pytestmark = pytest.mark.quick

RANDOM = np.random.default_rng(2917)
RGB = RANDOM.integers(0, 256, (24, 30, 3), dtype=np.uint8)
GRAY = RGB[..., 0]


def pages(*written: tuple[np.ndarray, Mapping[str, object]]) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for array, options in written:
            writer.write(array, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


SMALL = (GRAY[::2, ::2], {"subfiletype": 1})
MASK = (GRAY > 3, {"subfiletype": 4})
BIG = GRAY.astype(np.uint16) * 250


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(pages((GRAY, {}), SMALL, SMALL), GRAY / 255, id="overviews"),
        pytest.param(pages(SMALL, (GRAY, {})), GRAY / 255, id="thumbnail first"),
        pytest.param(pages((RGB, {"photometric": "rgb"}), MASK, SMALL), RGB / 255, id="mask and overview"),
        pytest.param(pages((GRAY, {"subifds": 1}), SMALL), GRAY / 255, id="pyramid in SubIFDs"),
        pytest.param(pages((GRAY, {"subfiletype": 2})), GRAY / 255, id="one page of a document"),
        pytest.param(tiff(GRAY, ome=True), GRAY / 255, id="ome"),
        pytest.param(tiff(GRAY[None, None], ome=True), GRAY / 255, id="ome with axes of one"),
        pytest.param(tiff(RGB, imagej=True), RGB / 255, id="imagej"),
        pytest.param(b"P5 30 24 65535\n" + BIG.astype(">u2").tobytes(), BIG / 65535, id="16-bit pgm"),
        pytest.param(b"P5 30 24 1023\n" + GRAY.astype(">u2").tobytes(), GRAY / 1023, id="10-bit pgm"),
        pytest.param(b"P5 30 24 100\n" + (GRAY // 3).tobytes(), GRAY // 3 / 100, id="pgm of maxval 100"),
        pytest.param(png(GRAY >> 6, 2), (GRAY >> 6) / 3, id="2-bit png"),
        pytest.param(
            tiff_of_tags(packed(GRAY >> 4, 4), {256: 30, 257: 24, 258: 4, 259: 1, 262: 1}),
            (GRAY >> 4) / 15,
            id="4-bit tiff",
        ),
        pytest.param(
            tiff_of_tags(packed(BIG >> 4, 12), {256: 30, 257: 24, 258: 12, 259: 1, 262: 1}),
            (BIG >> 4) / 4095,
            id="12 bits",
        ),
        pytest.param(tiff(GRAY, photometric="miniswhite"), 1 - GRAY / 255, id="white is zero"),
        pytest.param(tiff(BIG, photometric="miniswhite"), 1 - BIG / 65535, id="white is zero, 16 bits"),
        pytest.param(encoded(Image.fromarray(GRAY).convert("LA"), "TIFF"), GRAY / 255, id="gray and alpha"),
        pytest.param(
            tiff(
                np.dstack([GRAY, GRAY]),
                photometric="minisblack",
                planarconfig="contig",
                extrasamples=["unassalpha"],
            ),
            GRAY / 255,
            id="gray and alpha by tifffile",
        ),
        pytest.param(
            tiff(np.dstack([RGB, GRAY]), photometric="rgb", extrasamples=["assocalpha"]),
            RGB / 255,
            id="alpha",
        ),
        pytest.param(
            encoded(Image.fromarray(RGB).convert("RGBA"), "TIFF", compression="tiff_lzw"),
            RGB / 255,
            id="lzw alpha",
        ),
        pytest.param(tiff(RGB, photometric="minisblack", planarconfig="contig"), RGB / 255, id="three bands"),
        pytest.param(encoded(Image.fromarray(RGB), "WEBP", lossless=True), RGB / 255, id="webp"),
        pytest.param(encoded(Image.fromarray(GRAY), "GIF"), GRAY / 255, id="gif"),
        pytest.param(
            tiff((GRAY / 255 * (1 + 5e-6)).astype(np.float32)), GRAY / 255, id="floats cut by rounding"
        ),
    ],
)
def test_good_files_are_read(data: bytes, expected: np.ndarray) -> None:
    image = decode_image(data)
    np.testing.assert_allclose(image if expected.ndim == 3 else image[..., 0], expected, atol=1e-5)
    assert decoded_size(data) == stored_size(data) == expected.shape[:2]


def test_a_photograph_with_previews_is_its_first_picture() -> None:
    smooth = Image.fromarray(GRAY[:4, :4]).resize((64, 48), Image.Resampling.BICUBIC).convert("RGB")
    data = encoded(smooth, "MPO", save_all=True, append_images=[smooth.resize((16, 12))], quality=95)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "MPO"
    image = decode_image(data, ".jpg")
    assert image.shape == (48, 64, 1)  # a gray picture
    assert np.abs(image * 255 - np.asarray(smooth)).max() < 12
    cmyk = encoded(smooth.convert("CMYK"), "JPEG", quality=95)
    assert np.abs(decode_image(cmyk, ".jpg") * 255 - np.asarray(smooth)).max() < 16


def frames(form: str) -> bytes:
    images = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    return encoded(images[0], form, save_all=True, append_images=images[1:])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(frames("GIF"), "one image, got 2 frames", id="gif"),
        pytest.param(frames("WEBP"), "one image, got 2 frames", id="webp"),
        pytest.param(frames("PNG"), "one image, got 2 frames", id="apng"),
        pytest.param(pages((GRAY, {}), (GRAY, {})), "one image, got 2 pages", id="pages"),
        pytest.param(tiff(np.stack([GRAY] * 3), imagej=True), "one image, got 3 pages", id="imagej"),
        pytest.param(
            tiff(np.stack([GRAY] * 3), imagej=True, truncate=True), "got a stack", id="imagej, one page"
        ),
        pytest.param(
            tiff(np.stack([GRAY] * 3), truncate=True, photometric="minisblack"), "got a stack", id="one page"
        ),
        pytest.param(
            tiff(np.stack([GRAY] * 2), volumetric=True, photometric="minisblack"), "got a stack", id="volume"
        ),
        pytest.param(
            tiff(np.dstack([RGB, GRAY]), photometric="rgb", extrasamples=["unspecified"]),
            "got 4 channels, none of them said to be alpha",
            id="near infrared",
        ),
        pytest.param(
            tiff(np.dstack([GRAY, GRAY]), photometric="minisblack", planarconfig="contig"),
            "got 2 channels, none of them said to be alpha",
            id="two bands",
        ),
        pytest.param(
            tiff(np.stack([GRAY, GRAY]), photometric="minisblack", planarconfig="separate"),
            "got 2 channels",
            id="two planes",
        ),
        pytest.param(
            tiff(np.dstack([RGB, GRAY, GRAY]), photometric="rgb", extrasamples=["unspecified", "unassalpha"]),
            "1 to 4 channels, got 5",
            id="five bands",
        ),
        pytest.param(
            tiff_of_tags(bytes(900), {256: 30, 257: 24, 258: 10, 259: 1, 262: 1}),
            "TIFF of 10 bits",
            id="10 bits",
        ),
        pytest.param(
            tiff_of_tags(bytes(900), {256: 30, 257: 24, 258: 8, 259: 34712, 262: 1}),
            r"got TIFF \(JPEG2000\)",
            id="jpeg 2000",
        ),
        pytest.param(
            tiff_of_tags(bytes(900), {256: 30, 257: 24, 258: 16, 259: 7, 262: 1}),
            r"TIFF \(JPEG\) of 16 bits",
            id="16-bit jpeg",
        ),
        pytest.param(
            tiff_of_tags(bytes(9), {256: 3, 257: 3, 258: 8, 259: 12345, 262: 1}),
            r"got TIFF \(12345\)",
            id="unknown",
        ),
    ],
)
def test_what_is_not_one_gray_or_rgb_image_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_image(data)


def test_palettes_have_all_colors_that_are_used() -> None:
    data = tiff(GRAY, photometric="palette", colormap=np.zeros((3, 256), np.uint16))
    assert decode_image(data).shape == (24, 30, 1)
    short = png(np.full((2, 2), 3), 2, 3, ((b"PLTE", bytes(6)),))
    with pytest.raises(ValueError, match="the palette has 2 colors, a pixel is number 3"):
        decode_image(short)


def test_floats_far_from_the_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        to_unit(np.full((2, 2), 1.001, np.float32))


# --- bombs ---


def png_of_size(width: int, height: int) -> bytes:
    data = bytearray(png(np.zeros((2, 2), np.int64), 8))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def bmp_of_size(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


BOMBS = {
    "tiff": tiff_of_tags(b"", {256: 40000, 257: 50000, 258: 8, 259: 1, 262: 1}),
    "tiff, huge": tiff_of_tags(b"", {256: 2**31, 257: 2**31, 258: 8, 259: 8, 262: 1}),
    "tiff, channels": tiff_of_tags(b"", {256: 4000, 257: 5000, 258: 8, 259: 1, 262: 1, 277: 60000}),
    "tiff, just beyond": tiff_of_tags(b"", {256: 2**14, 257: 2**13 + 1, 258: 8, 259: 1, 262: 1}),
    "tiff, doubles": tiff_of_tags(
        b"", {256: 2**13 + 1, 257: 2**13, 258: 64, 259: 1, 262: 2, 277: 4, 284: 1, 339: 3, 338: 2}
    ),
    "png": png_of_size(60000, 60000),
    "png, just beyond": png_of_size(2**14, 2**13 + 1),
    "bmp": bmp_of_size(60000, 60000),
    "pgm": b"P5 99999 99999 255\n",
    "gif": b"GIF89a"
    + struct.pack("<HH", 65535, 65535)
    + b"\0\0\0,\0\0\0\0"
    + struct.pack("<HH", 65535, 65535)
    + b"\0\2\0;",
}


@pytest.mark.parametrize("name", BOMBS)
def test_files_that_would_fill_the_memory_are_refused_by_their_header(name: str) -> None:
    tracemalloc.start()
    for decode in (decode_image, decode_index, decoded_size, stored_size):
        with pytest.raises(
            ValueError,
            match=rf"at most {MOST_PIXELS} pixels.*tiles|at most {MOST_BYTES} bytes.*tiles|4 channels, got 60000",
        ):
            decode(BOMBS[name])
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_large_pictures_are_read_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", GRAY.size - 1)
    wide = np.repeat(RGB, 2, axis=1)[:, :59]  # 177 bytes a row
    for array in (GRAY, RGB[:, :20], wide[:8, :59]):
        data = encoded(Image.fromarray(array), "TIFF", compression="tiff_lzw")
        np.testing.assert_array_equal(decode_image(data), to_unit(array))
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(GRAY))), to_unit(GRAY))


@pytest.mark.parametrize("data", [b"", b"no image"])
def test_headers_of_what_is_no_image(data: bytes) -> None:
    for read in (stored_size, decoded_size):
        with pytest.raises(OSError, match=r"^empty or not an image$"):
            read(data)


def test_no_pixels() -> None:
    for data in (tiff_of_tags(b"", {256: 0, 257: 4, 258: 8, 259: 1, 262: 1}), png_of_size(0, 4)):
        with pytest.raises((ValueError, OSError)), about(Path("a")):
            decode_image(data)


# --- damage ---


def damaged(data: bytes, dice: random.Random) -> bytes:
    """Cut, or a few bytes changed, most of them at the beginning."""
    if dice.random() < 0.3:
        return data[: dice.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(dice.choice((1, 2, 8))):
        changed[min(int(dice.expovariate(1 / 60)), len(data) - 1)] = dice.randrange(256)
    return bytes(changed)


SOURCES = {
    "png": encoded(Image.fromarray(GRAY)),
    "png palette": encoded(Image.fromarray(RGB).quantize(9)),
    "png 16": encoded(Image.fromarray(BIG)),
    "apng": frames("PNG"),
    "jpeg": encoded(Image.fromarray(RGB), "JPEG"),
    "mpo": encoded(Image.fromarray(RGB), "MPO", save_all=True, append_images=[Image.fromarray(RGB)]),
    "gif": encoded(Image.fromarray(GRAY), "GIF"),
    "bmp": encoded(Image.fromarray(GRAY), "BMP"),
    "webp": encoded(Image.fromarray(RGB), "WEBP", lossless=True),
    "jp2": encoded(Image.fromarray(RGB), "JPEG2000"),
    "ppm": encoded(Image.fromarray(RGB), "PPM"),
    "pgm": b"P2 3 2 9\n1 2 3 4 5 6",
    "tiff": tiff(GRAY),
    "tiff zlib": tiff(GRAY, compression="zlib", predictor=True),
    "tiff lzw": encoded(Image.fromarray(GRAY), "TIFF", compression="tiff_lzw", tiffinfo={274: 6}),
    "tiff group4": encoded(Image.fromarray(GRAY > 9), "TIFF", compression="group4"),
    "tiff jpeg": encoded(Image.fromarray(RGB), "TIFF", compression="jpeg"),
    "tiff cmyk": encoded(Image.fromarray(RGB).convert("CMYK"), "TIFF"),
    "tiff tiles": tiff(RGB, photometric="rgb", tile=(16, 16), compression="zlib"),
    "ome": tiff(GRAY, ome=True),
    "imagej": tiff(GRAY, imagej=True),
}


@pytest.mark.parametrize("name", SOURCES)
def test_damaged_files_end_in_one_error_that_names_them(name: str) -> None:
    dice = random.Random(f"8311 {name}")
    path = Path("folder/a.png")
    messages: list[str] = []
    for _ in range(60):
        data = damaged(SOURCES[name], dice)
        for decode in (decode_image, decode_index):
            try:
                with about(path, "image"):
                    decode(data)
            except FileError as error:
                messages.append(str(error))
    assert messages
    assert all(message.startswith("image a.png") for message in messages)
