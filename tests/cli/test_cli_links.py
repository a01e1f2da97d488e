"""Links in a loop, links to nothing and pipes among the files: each is named, and the others go on."""

import os
from pathlib import Path
from shutil import copy

import pytest
from support.folders import make_folders
from support.runs import call, make_data, train


def spoil(folder: Path) -> None:
    """A link in a loop, a link to nothing, a pipe."""
    (folder / "x.png").symlink_to(folder / "x.png")
    (folder / "y.png").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "z.png")


def named(output: str) -> bool:
    wanted = ("x.png cannot be read", "y.png cannot be read", "z.png: expected a file, got a named pipe")
    return all(text in output for text in wanted)


@pytest.mark.parametrize("folder", ["images", "seeds"])
def test_label_names_them_every_time(tmp_path: Path, folder: str) -> None:
    images, seeds, _ = make_folders(tmp_path, 1)
    spoil(tmp_path / folder)
    other = seeds if folder == "images" else images
    for stem in "xyz":
        copy(other / "a0.png", other / f"{stem}.png")
    for done in ("labeled", "done before"):
        result = call("label", images, "--seeds", seeds, "--out", tmp_path / "out", "--workers", 1)
        assert result.exit_code == 1
        assert isinstance(result.exception, SystemExit)
        assert named(result.output), (done, result.output)


def test_train_names_all_of_them(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    spoil(data / "images")
    for stem in "xyz":
        copy(data / "scribbles" / "t0.png", data / "scribbles" / f"{stem}.png")
    (data / "train.txt").write_text("t0\nx\ny\nz\n")
    result = train(data, tmp_path / "run")
    assert result.exit_code == 2
    assert named(result.output), result.output
    assert "3 of 4 images cannot be used" in result.output


def test_score_names_them(tmp_path: Path) -> None:
    _, seeds, truth = make_folders(tmp_path, 1)
    spoil(truth)
    for stem in "xyz":
        copy(seeds / "a0.png", seeds / f"{stem}.png")
    result = call("score", seeds, truth)
    assert result.exit_code == 1
    assert named(result.output), result.output
