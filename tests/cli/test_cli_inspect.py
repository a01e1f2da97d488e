"""`selflabel inspect`: every picture from files, and what is said of those that cannot be drawn."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.folders import make_folders
from typer.testing import CliRunner, Result

from selflabel.cli import app
from selflabel.files.label_files import write_index

pytest.importorskip("matplotlib")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """One with the classes 0 and 2 seeded; its seeds are in the folder `seeds` beside its own."""
    return make_folders(tmp_path, 1)[0] / "a0.png"


SEEDED = ("gradient", "soft-labels", "neighborhoods")


@pytest.mark.parametrize(
    "command",
    [
        ("gradient", "--loss", "dense-crf", "--loss", "potts+entropy=0.1", "--by", "logits", "--only", "2"),
        ("gradient", "--set", "gamma=30", "--sigma-xy", "5"),
        ("kernel", "--at", "3,4", "--at", "0,0", "--sigma", "30"),
        ("kernel", "--affinity", "window", "--radius", "2", "--set", "affinity.sigma=30"),
        ("soft-labels", "--annotator", "none", "--max-steps", "3"),
        ("soft-labels", "--relaxation", "quadratic", "--set", "affinity.sigma=20"),
        ("neighborhoods", "--dense-weight", "2", "--set", "nearest.sigma=20", "--set", "dense.sigma=20"),
    ],
    ids=" ".join,
)
def test_a_picture_of_an_image(image: Path, command: tuple[str, ...]) -> None:
    out = image.parent / "picture.png"
    seeds = ("--seeds", image.parent.parent / "seeds") if command[0] in SEEDED else ()
    result = call(command[0], image, *seeds, "--out", out, *command[1:])
    assert result.exit_code == 0, result.output
    assert f"the picture is {out}" in result.output
    assert np.array(Image.open(out)).std() > 1


@pytest.mark.parametrize(("terms", "suffix"), [("relaxations", "svg"), ("couplings", "pdf")])
def test_contours_need_no_image(tmp_path: Path, terms: str, suffix: str) -> None:
    out = tmp_path / f"contours.{suffix}"
    result = call("contours", terms, "--out", out)
    assert result.exit_code == 0, result.output
    assert out.stat().st_size > 5000


def test_the_same_command_gives_the_same_bytes(image: Path) -> None:
    outs = [image.parent / f"{name}.svg" for name in ("a", "b")]
    for out in outs:
        assert call("kernel", image, "--affinity", "grid", "--out", out).exit_code == 0
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_a_prediction_takes_the_place_of_seeds(image: Path) -> None:
    probs = np.random.default_rng(7_151).dirichlet((1, 1, 1), (12, 16)).transpose(2, 0, 1)
    np.save(image.parent / "a0.npy", probs)
    out = image.parent / "picture.png"
    result = call("gradient", image, "--probs", image.parent / "a0.npy", "--out", out, "--loss", "entropy")
    assert result.exit_code == 0, result.output
    bad = call("gradient", image, "--probs", image.parent / "a0.npy", "--out", out, "--annotator", "forest")
    assert "--annotator forest needs --seeds" in bad.output


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("gradient", "--loss", "dense-crf", "--only", "1"), "expected --only classes of 0, 2, got '1'"),
        (("gradient", "--loss", "crf"), "there is no loss 'crf'"),
        (("gradient", "--loss", "potts", "--set", "gamma=1"), "has no option 'gamma'"),
        (
            ("gradient", "--loss", "entropy", "--loss", "kmeans", "--sigma", "3"),
            "with entropy has no --sigma",
        ),
        (("gradient", "--by", "labels"), "there is no gradient 'labels'"),
        (
            ("kernel", "--at", "3"),
            "expected --at ROW,COLUMN as whole numbers from 0, such as 120,80, got '3'",
        ),
        (("kernel", "--at", "3,16"), "expected pixels in an image of 12 x 16, got 3,16"),
        (("kernel", "--set", "sigma=3"), "expected --set affinity.KEY=VALUE, got 'sigma=3'"),
        (("kernel", "--set", "affinity.width=3"), "has no option 'width'"),
        (("neighborhoods", "--relaxation", "collision-divergence"), "quadratic in the labels"),
        (("soft-labels", "--all-classes"), "--all-classes needs --probs"),
    ],
)
def test_what_cannot_be_drawn(image: Path, command: tuple[str, ...], message: str) -> None:
    out = image.parent / "picture.png"
    seeds = ("--seeds", image.parent.parent / "seeds") if command[0] in SEEDED else ()
    result = call(command[0], image, *seeds, "--out", out, *command[1:])
    assert result.exit_code == 2
    assert message in result.output
    assert not out.exists()


def test_where_a_picture_cannot_be_written(image: Path, tmp_path: Path) -> None:
    named = call("kernel", image, "--out", tmp_path / "picture.jpg")
    assert "expected --out as a file named *.png, *.pdf, *.svg, got" in named.output
    lost = call("kernel", image, "--out", tmp_path / "none" / "picture.png")
    assert "there is no folder" in lost.output
    (tmp_path / "folder.png").mkdir()
    folder = call("kernel", image, "--out", tmp_path / "folder.png")
    assert "folder.png is a folder: expected a file to write" in folder.output


def test_an_image_is_one_file(image: Path, tmp_path: Path) -> None:
    out = tmp_path / "picture.png"
    assert "is a folder: expected one image in it" in call("kernel", image.parent, "--out", out).output
    assert "b.png: no such file" in call("kernel", image.parent / "b.png", "--out", out).output
    (image.parent / "b.png").write_bytes(image.read_bytes()[:200])
    assert "b.png" in call("kernel", image.parent / "b.png", "--out", out).output
    seeds = tmp_path / "seeds"
    result = call("soft-labels", image.parent / "b.png", "--seeds", seeds, "--out", out)
    assert "no seeds" in result.output


def test_one_class_is_no_picture(image: Path) -> None:
    seeds = np.full((12, 16), 255, np.uint8)
    seeds[3, 4] = 2
    write_index(image.parent / "seeds.png", seeds)
    result = call(
        "soft-labels", image, "--seeds", image.parent / "seeds.png", "--out", image.parent / "b.pdf"
    )
    assert result.exit_code == 2
    assert "a0.png: expected two classes or more, got class 2 alone: seed another one" in result.output


def test_without_matplotlib_nothing_is_read(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    result = call("kernel", image, "--out", image.parent / "picture.png")
    assert result.exit_code == 2
    assert "the figure needs matplotlib: pip install 'selflabel[plots]'" in result.output
