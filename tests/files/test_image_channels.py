"""The channels that a header promises are those of the decoded image."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from selflabel.files.images import image_channels, read_image
from selflabel.files.opening import FileError

pytestmark = pytest.mark.quick

RANDOM = np.random.default_rng(5_113)
GRAY = RANDOM.integers(0, 256, (6, 7)).astype(np.uint8)
COLOR = RANDOM.integers(0, 256, (6, 7, 3)).astype(np.uint8)
ALPHA = RANDOM.integers(0, 256, (6, 7, 4)).astype(np.uint8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_pictures(tmp_path: Path, mode: str) -> None:
    image = (
        Image.fromarray(GRAY.astype(np.uint16)) if mode == "I;16" else Image.fromarray(COLOR).convert(mode)
    )
    image.save(tmp_path / "a.png")
    assert image_channels(tmp_path / "a.png") == read_image(tmp_path / "a.png").shape[2]


@pytest.mark.parametrize("suffix", ["jpg", "bmp", "gif", "pgm", "webp"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_formats(tmp_path: Path, suffix: str, mode: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(COLOR).convert(mode).save(path, format="PPM" if suffix == "pgm" else None)
    assert read_image(path).shape[2] == (1 if mode == "L" else 3)
    three = mode == "RGB" or suffix in ("gif", "webp")  # the header does not tell that they are equal
    assert image_channels(path) == (3 if three else 1)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    ("array", "options"),
    [
        (GRAY, {}),
        (GRAY, {"photometric": "miniswhite"}),
        (GRAY.astype(np.float32) / 255, {}),
        (COLOR, {"photometric": "rgb"}),
        (COLOR.transpose(2, 0, 1), {"photometric": "rgb", "planarconfig": "separate"}),
        (ALPHA, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        (
            ALPHA[..., :2],
            {"photometric": "minisblack", "extrasamples": ["assocalpha"], "planarconfig": "contig"},
        ),
        (GRAY, {"photometric": "palette", "colormap": np.arange(768, dtype=np.uint16).reshape(3, 256)}),
    ],
)
def test_tiff(tmp_path: Path, array: np.ndarray, options: dict[str, object], compression: str | None) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, compression=compression, **options)  # type: ignore[arg-type]
    assert image_channels(path) == read_image(path).shape[2]


def test_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(FileError, match=r"a\.png"):
        image_channels(tmp_path / "a.png")
