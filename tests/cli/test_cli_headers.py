"""What every command says of a file as a whole: its size before its pixels, the range of its numbers."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.folders import make_folders
from support.runs import call, make_data, train


def cut(path: Path) -> None:
    """A file whose header alone is whole."""
    path.write_bytes(path.read_bytes()[:45])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data")


def test_sizes_are_compared_before_pixels_are_read(root: Path, tmp_path: Path) -> None:
    """Damaged pixels of a file of another size are never decoded: what is said is the size."""
    small = np.zeros((5, 14), np.uint8)
    for name in ("scribbles", "masks"):
        path = root / name / "v1.png"
        whole = path.read_bytes()
        Image.fromarray(small).save(path)
        cut(path)
        (root / "train.txt").write_text("t0\nt1\nv1\n")
        refused = train(root, tmp_path / "run", *(("--method", "full") if name == "masks" else ()))
        assert refused.exit_code == 2
        assert f"{path} has 5 x 14 pixels, its image 16 x 14" in refused.output
        path.write_bytes(whole)
    pred = root / "scribbles"
    Image.fromarray(small).save(pred / "v1.png")
    cut(pred / "v1.png")
    scored = call("score", pred, root / "masks", "--values", "0,1")
    assert scored.exit_code == 1
    assert "v1: labels of 5 x 14 pixels for a truth of 16 x 14" in scored.output


def test_damaged_pixels_of_the_right_size_are_named(root: Path) -> None:
    cut(root / "masks" / "v1.png")
    scored = call("score", root / "scribbles", root / "masks")
    assert scored.exit_code == 1
    assert f"v1: {root / 'masks' / 'v1.png'} cannot be read" in scored.output


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_ten_to_fourteen_bits_in_sixteen_are_told(root: Path, tmp_path: Path, bits: int) -> None:
    for stem in ("t1", "v1"):
        path = root / "images" / f"{stem}.png"
        gray = np.array(Image.open(path)).astype(np.float64)
        Image.fromarray((gray / gray.max() * (2**bits - 1)).astype(np.uint16)).save(path)
    run, out, probs = (tmp_path / name for name in ("run", "out", "probs"))
    trained = train(root, run)
    assert trained.exit_code == 0, trained.output
    if bits < 16:
        assert "1 image uses at most a quarter of the range (t1): numbers are divided by" in trained.output
        assert "1 image uses at most a quarter of the range (v1)" in trained.output
    else:
        assert "at most a quarter" not in trained.output
    labeling = ("label", root / "images", "--seeds", root / "scribbles", "--out", out, "--workers", 1)
    for given in (labeling, ("predict", run, root / "images", "--out", probs, "--allow-code")):
        result = call(*given)
        assert result.exit_code == 0, result.output
        assert ("2 images use at most a quarter of the range (t1, v1)" in result.output) == (bits < 16)


def test_the_range_is_told_again_of_what_is_done(tmp_path: Path) -> None:
    images, seeds, _ = make_folders(tmp_path, 2)
    Image.fromarray(np.array(Image.open(images / "a1.png")) // 5).save(images / "a1.png")
    for _ in range(2):
        result = call("label", images, "--seeds", seeds, "--out", tmp_path / "out", "--workers", 1)
        assert result.exit_code == 0, result.output
        assert "1 image uses at most a quarter of the range (a1)" in result.output
