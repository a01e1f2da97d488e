"""Images and label files of many kinds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.encoders import encoded, tiff

from selflabel.files import UNLABELED
from selflabel.files.images import decode_image, decoded_size, image_size, read_image, stored_size, to_unit
from selflabel.files.label_files import LabelFormat, decode_index, read_index, write_index
from selflabel.files.palette import colorize, overlay, voc_palette
from selflabel.labels import UNLABELED as CORE_UNLABELED

RGB = np.random.default_rng(90731).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GRAY = RGB[..., 0]


@pytest.mark.parametrize(
    ("data", "suffix", "expected"),
    [
        pytest.param(encoded(Image.fromarray(GRAY)), ".png", GRAY[..., None] / 255, id="gray"),
        pytest.param(encoded(Image.fromarray(RGB)), ".png", RGB / 255, id="rgb"),
        pytest.param(encoded(Image.fromarray(RGB), "BMP"), ".bmp", RGB / 255, id="bmp"),
        pytest.param(encoded(Image.fromarray(np.dstack([RGB, GRAY]))), ".png", RGB / 255, id="alpha"),
        pytest.param(encoded(Image.fromarray(GRAY).convert("LA")), ".png", GRAY[..., None] / 255, id="la"),
        pytest.param(encoded(Image.fromarray(GRAY > 99)), ".png", (GRAY > 99)[..., None] * 1.0, id="1-bit"),
        pytest.param(
            encoded(Image.fromarray(GRAY.astype(np.uint16) * 250)),
            ".png",
            GRAY[..., None] * 250.0 / 65535,
            id="16-bit",
        ),
        pytest.param(tiff(GRAY), ".tif", GRAY[..., None] / 255, id="tiff-gray"),
        pytest.param(tiff(RGB, photometric="rgb"), ".tiff", RGB / 255, id="tiff-rgb"),
        pytest.param(
            tiff(np.moveaxis(RGB, -1, 0).copy(), photometric="rgb", planarconfig="separate"),
            ".tif",
            RGB / 255,
            id="tiff-planar",
        ),
        pytest.param(
            tiff(RGB.astype(np.uint16) * 200, photometric="rgb"),
            ".TIF",
            RGB * 200.0 / 65535,
            id="tiff-16-bit-rgb",
        ),
        pytest.param(
            tiff((RGB / 255).astype(np.float32), photometric="rgb"), ".tif", RGB / 255, id="tiff-float"
        ),
        pytest.param(tiff(GRAY / 255), ".tif", GRAY[..., None] / 255, id="tiff-double"),
        pytest.param(
            encoded(Image.fromarray(GRAY), "TIFF", compression="tiff_lzw"),
            ".tif",
            GRAY[..., None] / 255,
            id="lzw",
        ),
        pytest.param(
            encoded(Image.fromarray(RGB), "TIFF", compression="tiff_lzw"), ".tif", RGB / 255, id="lzw-rgb"
        ),
    ],
)
def test_every_kind_of_image_gives_the_same_numbers(
    data: bytes, suffix: str, expected: np.ndarray, tmp_path: Path
) -> None:
    image = decode_image(data, suffix)
    (tmp_path / f"image{suffix}").write_bytes(data)
    assert image_size(tmp_path / f"image{suffix}") == image.shape[:2]
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, expected, atol=1e-7)


def test_a_palette_image_becomes_rgb() -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], dtype=np.uint8))
    image.putpalette(bytes([10, 20, 30, 40, 50, 60, 70, 80, 90]))
    np.testing.assert_allclose(
        decode_image(encoded(image), ".png")[0] * 255, [[10, 20, 30], [40, 50, 60]], atol=1e-4
    )
    np.testing.assert_allclose(
        decode_image(encoded(image, "TIFF"), ".tif")[0] * 255, [[10, 20, 30], [40, 50, 60]], atol=1e-4
    )


def test_jpeg_is_turned_as_its_orientation_says(tmp_path: Path) -> None:
    stored = Image.fromarray(
        np.repeat(np.repeat(np.array([[0, 255]], np.uint8), 16, 0), 16, 1)
    )  # dark, light
    tag = Image.Exif()
    tag[0x0112] = 6  # to be turned by 90 degrees clockwise
    image = decode_image(encoded(stored, "JPEG", exif=tag), ".jpg")
    assert image.shape == (32, 16, 1)
    (tmp_path / "a.jpg").write_bytes(encoded(stored, "JPEG", exif=tag))
    assert image_size(tmp_path / "a.jpg") == (32, 16)
    assert image[:8].max() < 0.1
    assert image[-8:].min() > 0.9


def test_read_image_reads_a_file(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), to_unit(RGB))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((3, 4), 1.5, np.float32), "must lie in"),
        (np.full((3, 4), -0.1), "must lie in"),
        (np.full((3, 4), np.nan), "12 pixel values that are nan"),
        (np.ones((3, 4), np.int32), r"int32, whose range is not known: image\.astype\(numpy\.uint8\)"),
        (np.ones((3, 8, 9), np.uint8), r"got shape \(3, 8, 9\): the channels come last, image\.transpose"),
        (np.ones((3, 4, 5), np.uint8), "1 to 4 channels"),
        (np.ones((2, 3, 4, 3), np.uint8), "stacks are not images"),
        (np.ones((0, 4), np.uint8), "no pixels"),
    ],
)
def test_images_without_a_known_range_or_shape_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_unit(array)


def test_stacks_are_refused() -> None:
    with pytest.raises(ValueError, match="3 pages"):
        decode_image(tiff(np.zeros((3, 5, 7), np.uint8), photometric="minisblack"), ".tif")
    frames = [Image.fromarray(GRAY), Image.fromarray(255 - GRAY)]
    with pytest.raises(ValueError, match="2 frames"):
        decode_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), ".gif")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
@pytest.mark.parametrize("data", [b"", b"hello", encoded(Image.fromarray(GRAY))[:60]])
def test_damaged_files_are_os_errors(data: bytes, suffix: str) -> None:
    with pytest.raises(OSError, match=r"."):
        decode_image(data, suffix)
    with pytest.raises(OSError, match=r"."):
        decode_index(data, suffix)


def test_index_files_of_every_kind(tmp_path: Path) -> None:
    index = np.array([[0, 3, 255], [7, 254, 255]], dtype=np.uint8)
    write_index(tmp_path / "a.png", index)
    np.testing.assert_array_equal(read_index(tmp_path / "a.png"), index)
    for data, suffix in [
        (encoded(Image.fromarray(index)), ".png"),
        (encoded(Image.fromarray(index.astype(np.uint16))), ".png"),
        (tiff(index), ".tif"),
        (tiff(index.astype(np.int16)), ".tif"),
    ]:
        np.testing.assert_array_equal(decode_index(data, suffix), index)
    two = encoded(Image.fromarray(np.array([[True, False]])))
    np.testing.assert_array_equal(decode_index(two, ".png"), [[1, 0]])


def test_label_files_have_one_frame() -> None:
    frames = [Image.fromarray(np.full((3, 4), value, np.uint8)).convert("P") for value in (0, 1)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="expected one image, got 2 frames"):
        decode_index(data, ".gif")


def test_written_labels_are_palette_files_that_do_not_look_black(tmp_path: Path) -> None:
    index = np.array([[0, 1, 2, 255]], dtype=np.uint8)
    write_index(tmp_path / "a.png", index)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        shown = np.array(image.convert("RGB"))
    np.testing.assert_array_equal(shown, [[[0, 0, 0], [128, 0, 0], [0, 128, 0], [224, 224, 192]]])
    first = (tmp_path / "a.png").read_bytes()
    write_index(tmp_path / "a.png", index)
    assert (tmp_path / "a.png").read_bytes() == first


def test_unlabeled_value_and_offset_are_as_told() -> None:
    data = encoded(Image.fromarray(np.array([[0, 1, 4]], np.uint8)))
    np.testing.assert_array_equal(decode_index(data, ".png", LabelFormat(4)), [[0, 1, 255]])
    np.testing.assert_array_equal(decode_index(data, ".png", LabelFormat(0, 1)), [[255, 0, 3]])
    np.testing.assert_array_equal(decode_index(data, ".png"), [[0, 1, 4]])


@pytest.mark.parametrize("form", [LabelFormat(4, 1), LabelFormat(255, 5)])
def test_values_that_are_no_class_are_refused(form: LabelFormat) -> None:
    with pytest.raises(ValueError, match="value 0 is no class"):
        form.decode(np.array([[0, 6]]))
    with pytest.raises(ValueError, match="value 300 is no class"):
        LabelFormat().decode(np.array([[300, 6]]))


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.fromarray(RGB)),
        encoded(Image.fromarray(RGB).convert("RGBA")),
    ],
)
def test_color_seeds_are_refused_with_advice(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"palette or gray PNG.*without converting to RGB"):
        decode_index(data, ".png")


@pytest.mark.parametrize("array", [RGB, np.full((4, 5), 0.5, np.float32)])
def test_tiff_labels_must_be_a_map_of_integers(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="one class index a pixel"):
        decode_index(tiff(array), ".tif")


def test_lzw_tiff_labels_are_read() -> None:
    data = encoded(Image.fromarray(GRAY), "TIFF", compression="tiff_lzw")
    np.testing.assert_array_equal(decode_index(data, ".tif"), GRAY)


def test_palette_is_that_of_pascal_voc() -> None:
    palette = voc_palette()
    named = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
    }
    for index, color in named.items():
        assert tuple(palette[index]) == color
    assert tuple(palette[255]) == (224, 224, 192)
    assert len({tuple(color) for color in palette.tolist()}) == 256


def test_overlay_mixes_labels_with_the_image_and_leaves_unlabeled_pixels() -> None:
    image = np.full((1, 2, 1), 0.4, np.float32)
    index = np.array([[1, 255]], np.uint8)
    shown = overlay(image, index, opacity=0.25)
    np.testing.assert_array_equal(shown, [[[108, 76, 76], [102, 102, 102]]])  # 0.25 (128, 0, 0) + 0.75 · 102
    np.testing.assert_array_equal(colorize(index)[0, 0], (128, 0, 0))


def test_unlabeled_is_the_same_number_everywhere() -> None:
    assert UNLABELED == CORE_UNLABELED


@pytest.mark.parametrize("read", [stored_size, decoded_size, decode_image])
def test_what_is_no_image_is_said_without_objects_in_memory(read: Callable[[bytes], object]) -> None:
    for data in (b"", b"<html>", b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(OSError, match="empty or not an image") as raised:
            read(data)
        assert "0x" not in str(raised.value)
