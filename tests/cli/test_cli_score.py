"""`selflabel score`: what it refuses and what it says beside the numbers."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from support.runs import call

from selflabel.files.label_files import write_index

TRUTH = np.zeros((12, 16), np.uint8)
TRUTH[3:9, 4:12] = 1


def folder(path: Path, **files: np.ndarray) -> Path:
    path.mkdir(parents=True)
    for stem, index in files.items():
        write_index(path / f"{stem}.png", index.astype(np.uint8))
    return path


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return folder(tmp_path / "truth", a=TRUTH, b=TRUTH)


def test_a_damaged_file_leaves_the_scores_of_the_others(truth: Path, tmp_path: Path) -> None:
    pred = folder(tmp_path / "pred", a=TRUTH, b=TRUTH)
    for bad in (pred / "b.png", truth / "a.png"):
        whole = bad.read_bytes()
        bad.write_bytes(whole[:60])
        result = call("score", pred, truth, "--no-hd95")
        assert result.exit_code == 1, result.output
        assert "1 images, 100.00 % of the pixels right" in result.output
        assert str(bad) in result.output
        bad.write_bytes(whole)


def test_where_nothing_can_be_scored_the_reasons_are_told(truth: Path, tmp_path: Path) -> None:
    pred = folder(tmp_path / "pred", a=TRUTH.T, b=TRUTH[1:], c=TRUTH)
    result = call("score", pred, truth)
    assert result.exit_code == 2
    assert (
        "none of 3 images could be scored: a: labels of 16 x 12 pixels for a truth of 12 x 16"
        in result.output
    )
    assert "b: labels of 11 x 16" in result.output
    assert "c: no true file of this stem" in result.output


@pytest.mark.parametrize("name", ["confidence", "overlays", "soft"])
def test_folders_that_hold_no_labels_are_told_apart(truth: Path, tmp_path: Path, name: str) -> None:
    folder(tmp_path / "out" / "labels", a=TRUTH)
    result = call("score", folder(tmp_path / "out" / name, a=TRUTH), truth)
    assert result.exit_code == 2
    assert f"{name} holds no labels ({name}): they are in {tmp_path / 'out' / 'labels'}" in result.output


def test_labels_that_are_all_unlabeled(truth: Path, tmp_path: Path) -> None:
    """As is a map of full confidence."""
    pred = folder(tmp_path / "pred", a=np.full_like(TRUTH, 255), b=np.full_like(TRUTH, 255))
    result = call("score", pred, truth)
    assert result.exit_code == 2
    assert "no pixel of the label files has a class, all mean unlabeled" in result.output
    other = call("score", truth, pred)
    assert other.exit_code == 2
    assert "no pixel of the true files has a class" in other.output


def test_classes_on_one_side_or_none_are_named(truth: Path, tmp_path: Path) -> None:
    labels = TRUTH.copy()
    labels[0, :4] = 3
    (tmp_path / "names.txt").write_text("ground\ndisk\nrim\nsky\n")
    pred = folder(tmp_path / "pred", a=labels, b=TRUTH)
    result = call("score", pred, truth, "--classes", tmp_path / "names.txt", "--no-hd95")
    assert result.exit_code == 0, result.output
    assert "classes of PRED that TRUTH never has count as wrong, with IoU 0: 3 sky" in result.output
    assert "classes that occur in neither folder take no part in the means: 2 rim" in result.output
    assert "never has" not in call("score", truth, truth).output


def test_what_does_not_count_is_told(truth: Path, tmp_path: Path) -> None:
    labels, void = TRUTH.copy(), TRUTH.copy()
    labels[:3], void[9:] = 255, 255
    pred = folder(tmp_path / "pred", a=labels, b=labels)
    result = call("score", pred, folder(tmp_path / "void", a=void, b=void), "--json", tmp_path / "s.json")
    assert "25.00 % of the pixels of TRUTH do not count" in result.output
    assert "33.33 % of the counted pixels have no label, which is wrong" in result.output
    found = json.loads((tmp_path / "s.json").read_text())
    assert (found["void"], found["unlabeled"]) == (0.25, pytest.approx(1 / 3))


def test_files_that_are_left_out_are_counted(truth: Path, tmp_path: Path) -> None:
    pred = folder(tmp_path / "pred", a=TRUTH, b=TRUTH)
    (pred / "notes.txt").write_text("x")
    (truth / "old").mkdir()
    result = call("score", pred, truth, "--no-hd95")
    assert result.exit_code == 0
    (line,) = [line for line in result.output.splitlines() if line.startswith("left out")]
    assert "1 file is no label file (.txt)" in line
    assert "1 folder is not searched" in line


def test_numbers_go_to_a_pipe_and_replace_no_link(truth: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    result = call("score", truth, truth, "--no-hd95", "--json", tmp_path / "pipe")
    assert result.exit_code == 0, result.output
    assert json.loads(os.read(reader, 1 << 16))["images"] == 2
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "kept.json").write_text("precious")
    (tmp_path / "link.json").symlink_to(tmp_path / "kept.json")
    refused = call("score", truth, truth, "--no-hd95", "--json", tmp_path / "link.json")
    assert refused.exit_code == 2
    assert "is a link" in refused.output
    assert (tmp_path / "kept.json").read_text() == "precious"
