"""Two files of one stem: that image is named as failed, the others go on, in every command."""

from pathlib import Path
from shutil import copy

import pytest
from support.folders import make_folders
from support.runs import call, make_data, train

SAME = "have the same stem: which one is meant? Move the other away"


@pytest.mark.parametrize(("folder", "second"), [("images", "a1.bmp"), ("seeds", "a1.ome.tif")])
def test_label_leaves_out_an_image_of_two_files(tmp_path: Path, folder: str, second: str) -> None:
    images, seeds, _ = make_folders(tmp_path, 3)
    copy(tmp_path / folder / "a1.png", tmp_path / folder / second)
    out = tmp_path / "out"
    given = ("label", images, "--seeds", seeds, "--out", out, "--workers", 1)
    for _ in range(2):
        result = call(*given)
        assert result.exit_code == 1
        assert f"a1: {min('a1.png', second)} and {max('a1.png', second)} {SAME}" in result.output
        assert sorted(path.name for path in (out / "labels").iterdir()) == ["a0.png", "a2.png"]
    (tmp_path / "list.txt").write_text("a0\na2\n")
    assert call(*given, "--stems", tmp_path / "list.txt").exit_code == 0
    (tmp_path / "list.txt").write_text("a0\na1\n")
    listed = call(*given, "--stems", tmp_path / "list.txt")
    assert listed.exit_code == 1
    assert SAME in listed.output
    (tmp_path / folder / second).unlink()
    assert call(*given).exit_code == 0


@pytest.mark.parametrize("folder", ["seeds", "truth"])
def test_score_leaves_out_an_image_of_two_files(tmp_path: Path, folder: str) -> None:
    _, seeds, truth = make_folders(tmp_path, 3)
    copy(tmp_path / folder / "a1.png", tmp_path / folder / "a1.gif.png")
    result = call("score", seeds, truth)
    assert result.exit_code == 1
    assert f"a1: a1.gif.png and a1.png {SAME}" in result.output
    assert "2 images, " in result.output
    (tmp_path / "list.txt").write_text("a0\na2\n")
    assert call("score", seeds, truth, "--stems", tmp_path / "list.txt").exit_code == 0


def test_train_needs_its_own_files_alone_and_predict_goes_on(tmp_path: Path) -> None:
    data, run = make_data(tmp_path / "data"), tmp_path / "run"
    copy(data / "images" / "t1.png", data / "images" / "t1.bmp")
    refused = train(data, run)
    assert refused.exit_code == 2
    assert f"images: t1.bmp and t1.png {SAME}" in refused.output
    (data / "train.txt").write_text("t0\nt2\nt3\n")
    trained = train(data, run)
    assert trained.exit_code == 0, trained.output
    assert "1 images are in none of the lists (t1)" in trained.output
    predicted = call("predict", run, data / "images", "--out", tmp_path / "probs", "--allow-code")
    assert predicted.exit_code == 1
    assert f"t1: t1.bmp and t1.png {SAME}" in predicted.output
    assert "5 predicted, 0 done before" in predicted.output
    assert sorted(path.stem for path in (tmp_path / "probs").glob("*.npz")) == ["t0", "t2", "t3", "v0", "v1"]
