"""Index numbers come back bit for bit from every form that keeps them; the others are refused by name."""

import io
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image
from support.encoders import encoded, packed, png, tiff, tiff_of_tags

from selflabel.files.images import decode_image
from selflabel.files.label_files import LabelFormat, decode_index
from selflabel.files.palette import voc_palette

pytestmark = pytest.mark.quick

DRAWN = np.random.default_rng(61353)
COLORS = DRAWN.integers(0, 256, (256, 3)).astype(np.uint8)


def drawn(top: int, shape: tuple[int, int] = (9, 13)) -> np.ndarray:
    """Numbers 0..top that leave room for the unlabeled one, each of the ends at least once."""
    values = DRAWN.integers(0, top + 1, shape).astype(np.uint8)
    values[0, :2] = 0, top
    return values


def read(data: bytes, suffix: str) -> list[list[int]]:
    index: list[list[int]] = decode_index(data, suffix, LabelFormat(unlabeled=-1)).tolist()
    return index


def palette_image(values: np.ndarray, count: int = 256) -> Image.Image:
    image = Image.fromarray(values)
    image.putpalette(COLORS[:count].tobytes())
    return image


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", ["gray", "gray-transparent", "palette", "palette-transparent"])
def test_png_of_every_depth(bits: int, kind: str) -> None:
    values = drawn(min(2**bits - 1, 254))
    table = (b"PLTE", COLORS[: 2**bits].tobytes())
    extra = {
        "gray": (),
        "gray-transparent": ((b"tRNS", b"\0\1"),),
        "palette": (table,),
        "palette-transparent": (table, (b"tRNS", b"\0\x80")),
    }[kind]
    data = png(values, bits, 3 if kind.startswith("palette") else 0, extra)
    assert read(data, ".png") == values.tolist()


@pytest.mark.parametrize("largest", [1, 2, 3, 10, 100, 254, 255, 256, 1000, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_pgm_of_every_maxval(largest: int, plain: bool) -> None:
    values = drawn(min(largest, 254))
    head = (
        f"{'P2' if plain else 'P5'}\n# a comment\n{values.shape[1]} {values.shape[0]}\n{largest}\n".encode()
    )
    if plain:
        data = head + " ".join(map(str, values.ravel())).encode()
    else:
        data = head + (values if largest < 256 else values.astype(">u2")).tobytes()
    assert read(data, ".pgm") == values.tolist()


def test_masks_of_one_bit() -> None:
    mask = drawn(1)
    image = Image.fromarray(mask.astype(bool))
    for form, suffix in (("PNG", ".png"), ("BMP", ".bmp"), ("TIFF", ".tif")):
        assert read(encoded(image, form), suffix) == mask.tolist()
    for compression in ("group3", "group4", "tiff_ccitt", "tiff_lzw", "packbits", "tiff_adobe_deflate"):
        assert read(encoded(image, "TIFF", compression=compression), ".tif") == mask.tolist(), compression
    assert read(tiff(mask.astype(bool)), ".tif") == mask.tolist()


@pytest.mark.parametrize("count", [2, 16, 256])
def test_palettes_of_every_format(count: int) -> None:
    values = drawn(min(count - 1, 254))
    image = palette_image(values, count)
    for form, suffix in (("PNG", ".png"), ("BMP", ".bmp"), ("TIFF", ".tif")):
        assert read(encoded(image, form), suffix) == values.tolist(), form
    assert read(encoded(image, "TIFF", compression="tiff_lzw"), ".tif") == values.tolist()
    assert (
        read(tiff(values, photometric="palette", colormap=COLORS.T.astype(np.uint16) * 257), ".tif")
        == values.tolist()
    )
    if count == 256:
        assert read(encoded(image, "GIF", optimize=False), ".gif") == values.tolist()


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("photometric", [0, 1, 3])
def test_tiff_of_few_bits(bits: int, photometric: int) -> None:
    values = drawn(2**bits - 1)
    tags: dict[int, int | tuple[int, ...]] = {256: 13, 257: 9, 258: bits, 259: 1, 262: photometric}
    if photometric == 3:
        tags[320] = tuple(int(c) * 257 for c in COLORS[: 2**bits].T.ravel())
    stored = 2**bits - 1 - values if photometric == 0 else values  # pictures' writers turn numbers around
    assert read(tiff_of_tags(packed(stored, bits), tags), ".tif") == values.tolist()


TYPES = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_of_every_type(dtype: str, byteorder: str, compression: str | None) -> None:
    values = drawn(100)
    for layout in ({}, {"bigtiff": True}, {"tile": (16, 16)}, {"rowsperstrip": 2}, {"predictor": True}):
        if "predictor" in layout and (compression is None or dtype[0] == "f" or dtype[1] == "8"):
            continue
        data = tiff(
            values.astype(byteorder + dtype),
            byteorder=byteorder,
            compression=compression,
            photometric="minisblack",
            **layout,
        )
        assert read(data, ".tif") == values.tolist(), layout


@pytest.mark.parametrize(
    "compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", "tiff_deflate", "lzma", "zstd"]
)
def test_tiff_of_every_compression_that_pillow_writes(compression: str) -> None:
    for top in (1, 254):
        values = drawn(top, (200, 330))
        for image in (
            Image.fromarray(values),
            Image.fromarray(values.astype(np.uint16)),
            Image.fromarray(values.astype(np.int32)),
        ):
            assert read(encoded(image, "TIFF", compression=compression), ".tif") == values.tolist(), (
                image.mode
            )
    floats = Image.fromarray(values.astype(np.float32))
    assert read(encoded(floats, "TIFF", compression=compression), ".tif") == values.tolist()


def test_lzw_with_a_predictor() -> None:
    values = drawn(254, (200, 330))
    for array in (values, values.astype(np.uint16)):
        data = encoded(Image.fromarray(array), "TIFF", compression="tiff_lzw", tiffinfo={317: 2})
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            assert file.pages.first.predictor == 2
        assert read(data, ".tif") == values.tolist()


def test_where_zero_is_white_numbers_are_those_the_writer_was_given() -> None:
    values = drawn(200)
    by_tifffile = tiff(values, photometric="miniswhite")
    by_pillow = encoded(Image.fromarray(values), "TIFF", tiffinfo={262: 0})
    packed_by_pillow = encoded(Image.fromarray(values), "TIFF", tiffinfo={262: 0}, compression="tiff_lzw")
    for data in (by_tifffile, by_pillow, packed_by_pillow):
        assert read(data, ".tif") == values.tolist()
    # as pictures they are what a viewer shows: tifffile's file is a negative
    for data, shown in ((by_tifffile, 255 - values), (by_pillow, values), (packed_by_pillow, values)):
        np.testing.assert_allclose(decode_image(data, ".tif")[..., 0] * 255, shown, atol=1e-4)


def test_one_plane_with_axes_of_one() -> None:
    values = drawn(254)
    assert read(tiff(values[None]), ".tif") == values.tolist()
    assert (
        read(tiff(values[None], photometric="minisblack", metadata={"axes": "ZYX"}), ".tif")
        == values.tolist()
    )
    assert read(tiff(values[None, None], ome=True), ".tif") == values.tolist()
    assert read(tiff(values, imagej=True), ".tif") == values.tolist()


def test_reversed_bits_and_sixteen_bit_palettes() -> None:
    mask = drawn(1)
    reverse = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
    data = tiff_of_tags(packed(mask, 1).translate(reverse), {256: 13, 257: 9, 258: 1, 259: 1, 262: 1, 266: 2})
    assert read(data, ".tif") == mask.tolist()
    values = drawn(254).astype(np.uint16)
    table = np.zeros((3, 65536), np.uint16)
    assert read(tiff(values, photometric="palette", colormap=table), ".tif") == values.tolist()


def test_gray_with_opaque_alpha_is_gray() -> None:
    values = drawn(254)
    data = encoded(Image.merge("LA", [Image.fromarray(values), Image.new("L", values.shape[::-1], 255)]))
    assert read(data, ".png") == values.tolist()
    data = encoded(Image.merge("LA", [Image.fromarray(values), Image.new("L", values.shape[::-1], 254)]))
    with pytest.raises(ValueError, match="got 2 channels"):
        read(data, ".png")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            encoded(Image.fromarray(drawn(3)), "JPEG", quality=100),
            "JPEG changes numbers: save label files as PNG",
        ),
        (encoded(Image.fromarray(drawn(3)), "JPEG2000"), "JPEG2000 changes numbers"),
        (encoded(Image.fromarray(drawn(3)), "WEBP", lossless=False), "WebP with losses changes numbers"),
        (
            encoded(palette_image(drawn(3)).convert("RGB"), "WEBP", lossless=True),
            "one class index a pixel.*got 3 channels",
        ),
        (encoded(Image.fromarray(drawn(3)), "TIFF", compression="jpeg"), r"TIFF \(JPEG\) changes numbers"),
        (encoded(palette_image(drawn(3)).convert("RGB")), "one class index a pixel.*got 3 channels"),
        (
            encoded(Image.fromarray(drawn(3)).convert("CMYK"), "TIFF"),
            "TIFF of CMYK changes numbers",
        ),
        (tiff(drawn(3) + np.float32(0.5)), "whole numbers; got fractions"),
        (tiff(np.full((2, 2), np.nan)), "whole numbers; got fractions"),
        (tiff(np.full((2, 2), 1e30)), "whole numbers; got fractions"),
        (tiff(np.full((2, 2), 1j)), "expected gray, RGB, .*got TIFF of 128 bits"),
        (tiff(np.full((2, 2), 70000, np.uint32)), "value 70000 is no class"),
        (
            encoded(Image.fromarray(np.full((2, 2), -1, np.int32)), "TIFF", compression="tiff_lzw"),
            "value -1 is no class",
        ),
        (tiff(np.full((2, 2), -1, np.int8)), "value -1 is no class"),
    ],
    ids=range(14),
)
def test_what_keeps_no_numbers_is_refused_by_name(data: bytes, message: str) -> None:
    for suffix in (".png", ".tif"):  # the bytes decide, not the name
        with pytest.raises(ValueError, match=message):
            decode_index(data, suffix)


def test_gif_is_read_by_its_gray_levels_and_refused_where_its_colors_may_have_moved() -> None:
    values = np.array([[0, 1, 5], [254, 5, 0]], np.uint8)
    assert read(encoded(Image.fromarray(values), "GIF"), ".gif") == values.tolist()  # stored as 0, 1, 2, 3
    assert read(encoded(palette_image(values), "GIF", optimize=False), ".gif") == values.tolist()
    moved = encoded(palette_image(values), "GIF")
    with pytest.raises(ValueError, match=r"GIF writers may give colors other numbers.*\(colors\)"):
        read(moved, ".gif")
    listed = tuple((*COLORS[k].tolist(), k) for k in (0, 1, 5, 254))
    assert decode_index(moved, form=LabelFormat(colors=listed)).tolist() == values.tolist()
    voc = Image.fromarray(values % 3)
    voc.putpalette(voc_palette().tobytes())
    assert read(encoded(voc, "GIF"), ".gif") == (values % 3).tolist()


def test_three_equal_channels_are_gray_where_there_is_no_other_gray() -> None:
    values = drawn(254)
    image = Image.fromarray(values).convert("RGB")
    assert read(encoded(image, "WEBP", lossless=True), ".webp") == values.tolist()
    for data in (encoded(image), encoded(image, "PPM"), encoded(image, "TIFF", compression="tiff_lzw")):
        with pytest.raises(ValueError, match="got 3 channels"):  # colors, perhaps, all of them gray
            read(data, ".png")


def test_colors_that_pillow_rescales_are_no_numbers() -> None:
    values = drawn(3)
    three, two = np.dstack([values] * 3), np.dstack([values, np.full_like(values, 255)])
    for data, form in (
        (png(three.astype(np.int64), 16, 2), "PNG of RGB in other than 8 bits"),
        (png(two.astype(np.int64), 16, 4), "PNG of RGBA in other than 8 bits"),
        (b"P6 13 9 3\n" + three.tobytes(), "PPM of RGB in other than 8 bits"),
    ):
        with pytest.raises(ValueError, match=f"{form} changes numbers"):
            read(data, ".png")
        with pytest.raises(ValueError, match=f"{form} changes numbers"):
            decode_index(data, form=LabelFormat(colors=((0, 0, 0, 0),)))
    np.testing.assert_allclose(
        decode_image(b"P6 13 9 3\n" + three.tobytes()), values[..., None] / 3, atol=1e-6
    )


def test_values_far_beyond_any_class_do_not_wrap() -> None:
    with pytest.raises(ValueError, match=f"value {2**63 + 5} is no class"):
        decode_index(tiff(np.full((2, 2), 2**63 + 5, np.uint64)), ".tif")
    assert decode_index(tiff(np.full((1, 1), 300, np.uint16)), ".tif", LabelFormat(65535, 298)).tolist() == [
        [2]
    ]


def test_a_label_file_of_many_strips_is_as_its_numbers() -> None:
    values = drawn(254, (601, 3))
    data = encoded(Image.fromarray(values), "TIFF", compression="tiff_lzw", strip_size=3)
    assert struct.unpack("<2s", data[:2])[0] == b"II"
    assert read(data, ".tif") == values.tolist()
