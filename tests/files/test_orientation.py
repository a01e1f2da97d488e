"""A file has one answer: turned as its tags say, whatever the compression, and whatever is installed."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image
from support.encoders import encoded, tiff

from selflabel.files.images import decode_image, decoded_size
from selflabel.files.label_files import decode_index
from selflabel.files.rasters import upright

pytestmark = pytest.mark.quick

STORED = np.random.default_rng(3917).integers(0, 255, (20, 33), dtype=np.uint8)
METHODS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What `ImageOps.exif_transpose` of pillow does."""
COMPRESSIONS = ("raw", "packbits", "tiff_adobe_deflate", "tiff_deflate", "tiff_lzw", "lzma", "zstd")


def turned(orientation: int) -> np.ndarray:
    method = METHODS.get(orientation)
    return STORED if method is None else np.asarray(Image.fromarray(STORED).transpose(method))


def check(data: bytes, expected: np.ndarray, error: float = 1e-4) -> None:
    """Image, labels and header say the same."""
    np.testing.assert_allclose(decode_image(data)[..., 0] * 255, expected, atol=error)
    assert decoded_size(data) == expected.shape
    if error < 1:
        np.testing.assert_array_equal(decode_index(data), expected)


@pytest.mark.parametrize("orientation", [0, *range(1, 10)])
def test_arrays_turn_as_pillow_turns_pictures(orientation: int) -> None:
    np.testing.assert_array_equal(upright(STORED, orientation), turned(orientation))
    both = upright(np.dstack([STORED, 255 - STORED]), orientation)
    np.testing.assert_array_equal(both[..., 1], 255 - turned(orientation))


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_is_turned_whatever_its_compression(compression: str, orientation: int) -> None:
    data = encoded(Image.fromarray(STORED), "TIFF", compression=compression, tiffinfo={274: orientation})
    check(data, turned(orientation))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_of_other_decoders_is_turned_alike(orientation: int) -> None:
    expected = turned(orientation)
    tag = [(274, "H", 1, orientation, True)]
    check(tiff(STORED, extratags=tag), expected)
    check(tiff(STORED, extratags=tag, bigtiff=True, tile=(16, 16), byteorder=">"), expected)
    mask = Image.fromarray(STORED > 99)
    for compression in ("raw", "group4"):  # libtiff decodes the picture here
        data = encoded(mask, "TIFF", compression=compression, tiffinfo={274: orientation})
        np.testing.assert_array_equal(decode_index(data), expected > 99)
    palette = Image.fromarray(STORED)
    palette.putpalette(bytes(range(256)) * 3)
    data = encoded(palette, "TIFF", compression="tiff_lzw", tiffinfo={274: orientation})
    np.testing.assert_array_equal(decode_index(data), expected)
    jpeg = encoded(
        Image.fromarray(STORED).resize((330, 200), 0),
        "TIFF",
        compression="jpeg",
        quality=100,
        tiffinfo={274: orientation},
    )
    assert (
        decode_image(jpeg).shape[:2] == decoded_size(jpeg) == upright(np.zeros((200, 330)), orientation).shape
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_exif_turns_images_and_labels_alike(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {"quality": 100} if form == "JPEG" else {}
    check(
        encoded(Image.fromarray(STORED), form, exif=exif, **options),
        turned(orientation),
        6 if form == "JPEG" else 1,
    )
    if form == "PNG":
        data = encoded(Image.fromarray(STORED // 2), form, exif=exif)
        np.testing.assert_array_equal(decode_index(data), turned(orientation) // 2)


def test_no_decoder_is_asked_that_may_be_installed_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, key: int) -> object:
        raise AssertionError(f"decoder {key} is asked")

    monkeypatch.setattr(type(tifffile.TIFF.DECOMPRESSORS), "__getitem__", refuse)
    monkeypatch.setattr(type(tifffile.TIFF.UNPREDICTORS), "__getitem__", refuse)
    for compression in COMPRESSIONS:
        for predictor in (1, 2):
            info = {274: 3} | ({317: predictor} if compression not in ("raw", "packbits") else {})
            data = encoded(Image.fromarray(STORED), "TIFF", compression=compression, tiffinfo=info)
            check(data, turned(3))
    with pytest.raises(AssertionError, match=r"decoder \d is asked"):  # as tifffile by itself does
        tifffile.imread(io.BytesIO(tiff(STORED, compression="zlib")))


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_second_orientation_in_xmp_does_not_turn_again(orientation: int) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    for compression in ("raw", "tiff_lzw", "group4"):
        image = Image.fromarray(STORED > 99 if compression == "group4" else STORED)
        info = {700: xmp} | ({274: 6} if orientation == 6 else {})
        data = encoded(image, "TIFF", compression=compression, tiffinfo=info)
        expected = turned(orientation)
        found = decode_image(data)[..., 0]
        np.testing.assert_allclose(
            found, expected > 99 if compression == "group4" else expected / 255, atol=1e-6
        )
