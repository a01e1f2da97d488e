"""Odd files whose meaning is clear are read; the others are refused by name, with what to do."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.encoders import encoded, png, tiff, tiff_of_tags

from selflabel.files.folders import listing
from selflabel.files.images import decode_image, decoded_size, read_image
from selflabel.files.label_files import LabelFormat, decode_index
from selflabel.files.lists import read_names
from selflabel.files.palette import voc_palette
from selflabel.files.probabilities import decode_probabilities

pytestmark = pytest.mark.quick

INDEX = np.random.default_rng(60_917).integers(0, 3, (7, 13)).astype(np.uint8)
COLORS = LabelFormat(colors=((0, 0, 0, 0), (128, 0, 0, 1), (0, 128, 0, 2)))
"""The first of VOC's palette."""
WITHOUT_1 = np.where(INDEX == 1, 255, INDEX)
PROBS = np.random.default_rng(60_918).dirichlet(np.ones(3), (7, 13)).transpose(2, 0, 1).astype(np.float32)


# --- transparency ---


def in_palette(form: str) -> bytes:
    image = Image.fromarray(INDEX, "P")
    image.putpalette(voc_palette().tobytes())
    return encoded(image, form, transparency=1)


def in_rgb() -> bytes:
    return encoded(Image.fromarray(voc_palette()[INDEX]), transparency=tuple(map(int, voc_palette()[1])))


@pytest.mark.parametrize("data", [in_palette("PNG"), in_palette("GIF"), in_rgb()], ids=["png", "gif", "rgb"])
def test_transparent_colors_mean_unlabeled_however_they_are_stored(data: bytes) -> None:
    """As the alpha channel of an RGBA file: tools that make files smaller turn one into the other."""
    np.testing.assert_array_equal(decode_index(data, form=COLORS), WITHOUT_1)


def test_transparent_numbers_keep_their_class() -> None:
    """Masks of which a viewer does not show class 1."""
    np.testing.assert_array_equal(decode_index(in_palette("PNG")), INDEX)
    gray = png(INDEX, 8, 0, ((b"tRNS", b"\0\1"),))
    np.testing.assert_array_equal(decode_index(gray), INDEX)
    np.testing.assert_array_equal(decode_image(gray)[..., 0], INDEX.astype(np.float32) / np.float32(255))


def test_colors_that_are_transparent_in_part_are_refused() -> None:
    half = png(INDEX, 2, 3, ((b"PLTE", voc_palette()[:4].tobytes()), (b"tRNS", bytes([255, 128]))))
    with pytest.raises(
        ValueError, match="pixels of full color or none, got some that are transparent in part"
    ):
        decode_index(half, form=COLORS)


# --- numbers beyond the header ---


@pytest.mark.parametrize(
    ("data", "highest", "found"),
    [
        (b"P5\n3 1\n3\n\0\1\x09", 3, 9),
        (b"P5\n2 1\n1000\n\0\1\x04\x00", 1000, 1024),
        (b"P6\n1 1\n7\n\0\1\xff", 7, 255),
    ],
)
def test_numbers_above_the_maxval_are_refused(data: bytes, highest: int, found: int) -> None:
    """A viewer shows them as the maxval: another class."""
    message = f"expected numbers up to {highest}, the maxval of the file, got {found}"
    for decode in (decode_index, decode_image):
        with pytest.raises(ValueError, match=message):
            decode(data)


# --- orientation ---


def test_an_orientation_in_xmp_alone_turns_nothing() -> None:
    """In every format, whatever version of pillow is installed: viewers go by EXIF."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'
    image = Image.fromarray(INDEX)
    files = [
        encoded(image, "WEBP", lossless=True, xmp=xmp),
        encoded(image, "JPEG", xmp=xmp),
        encoded(image, "TIFF", tiffinfo={700: xmp}),
        png(INDEX, 8, 0, ((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),)),
    ]
    for data in files:
        assert decode_image(data).shape[:2] == decoded_size(data) == INDEX.shape


# --- arrays ---


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, array)
    return buffer.getvalue()


def bands(array: np.ndarray) -> bytes:
    return tiff(array, photometric="minisblack")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".tif"])
@pytest.mark.parametrize("write", [npy, npz, bands])
def test_the_bytes_of_predictions_decide_their_format(
    write: Callable[[np.ndarray], bytes], suffix: str
) -> None:
    found = decode_probabilities(write(PROBS), suffix, (7, 13))
    np.testing.assert_allclose(found.probs, PROBS, rtol=1e-6)


def test_a_file_of_torch_is_told_apart() -> None:
    buffer = io.BytesIO()
    torch.save(torch.tensor(PROBS), buffer)
    with pytest.raises(ValueError, match=r"got one of torch, a pickle, which is not opened: np\.save"):
        decode_probabilities(buffer.getvalue(), ".npz", (7, 13))


# --- names of classes ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{\n"road": 0,\n"sky": 1\n}', "line 1: .*got JSON or YAML"),
        ('["road", "sky"]', "line 1: .*got JSON or YAML"),
        ("names:\n- road\n- sky", "line 2: .*got JSON or YAML"),
        ("id,name\n0,road\n1,sky", "line 1: expected a number before 'id,name', as all other names have"),
        ("0 road\n1 sky\nvoid", "line 3: expected a number before 'void', as all other names have"),
    ],
)
def test_lists_of_names_in_other_forms_are_refused(tmp_path: Path, content: str, message: str) -> None:
    """Their headlines and brackets would count as classes."""
    path = tmp_path / "classes.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"classes\.txt, {message}"):
        read_names(path)


def test_a_number_that_is_part_of_a_name(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("road\n4 wheels\nsky\n")
    assert read_names(path) == ("road", "4 wheels", "sky")


# --- what is no file ---


def test_links_to_nothing_and_pipes_are_named_as_images_that_fail(tmp_path: Path) -> None:
    """They are no files that play no part: the image behind a link may be on a disk that is not there."""
    (tmp_path / "a.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "b.png")
    os.mkfifo(tmp_path / "c.png")
    (tmp_path / "d.png").mkdir()
    found = listing(tmp_path, (".png",))
    assert list(found.files) == ["a", "b", "c"]
    assert found.left_out("image") == ("1 folder is not searched",)
    for path in found.files.values():
        with pytest.raises(
            ValueError, match=rf"{path.name}.* (cannot be read|expected a file, got a named pipe)"
        ):
            read_image(path)


# --- TIFF files that programs read in different ways ---


def tags(**more: int) -> dict[int, int | tuple[int, ...]]:
    """The tags of 7 x 13 gray numbers of 8 bits; more: by their number as "t262"."""
    return {256: 13, 257: 7, 258: 8, 259: 1, 262: 1, **{int(name[1:]): n for name, n in more.items()}}


def test_a_file_that_does_not_say_what_zero_is_is_refused() -> None:
    without = tags()
    del without[262]
    for decode in (decode_index, decode_image):
        with pytest.raises(ValueError, match="expected the tag PhotometricInterpretation, got none"):
            decode(tiff_of_tags(INDEX.tobytes(), without))


@pytest.mark.parametrize("predictor", [2, 3])
def test_a_predictor_of_packbits_is_refused(predictor: int) -> None:
    """libtiff, which wrote this file, knows none; tifffile would apply it."""
    data = encoded(Image.fromarray(INDEX), "TIFF", compression="packbits", tiffinfo={317: predictor})
    with pytest.raises(
        ValueError, match=f"expected PackBits without a Predictor, .*got Predictor {predictor}"
    ):
        decode_index(data)
    plain = encoded(Image.fromarray(INDEX), "TIFF", compression="packbits")
    np.testing.assert_array_equal(decode_index(plain), INDEX)


def test_a_palette_without_colors_is_no_image() -> None:
    data = tiff_of_tags(INDEX.tobytes(), tags(t262=3))
    np.testing.assert_array_equal(decode_index(data), INDEX)
    with pytest.raises(ValueError, match="the palette has 0 colors, a pixel is number 2"):
        decode_image(data)
