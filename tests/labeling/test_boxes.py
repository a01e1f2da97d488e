"""Boxes instead of scribbles."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from support.runs import call

from selflabel.annotators import GrabCutAnnotator, ProductAnnotator
from selflabel.annotators.grab_cut import Box
from selflabel.files.box_files import RelativeBox, decode_boxes
from selflabel.files.label_files import read_index
from selflabel.labeling.boxes import in_pixels, predicted_in_boxes
from selflabel.labeling.plan import make_plan

COLORS = {0: (40, 90, 60), 1: (200, 60, 50), 3: (60, 80, 210)}
DISKS = {1: (14, 14, 7), 3: (44, 30, 9)}
"""Column, row and radius of the object of each class."""


def scene(folder: Path, stem: str, classes: Sequence[int]) -> np.ndarray:
    """Write an image of 48 x 60 pixels with its boxes, and return its true labels."""
    rows, columns = np.mgrid[:48, :60]
    truth = np.zeros((48, 60), dtype=np.uint8)
    lines = []
    for k in classes:
        x, y, radius = DISKS[k]
        truth[np.hypot(columns - x, rows - y) <= radius] = k
        side = 2 * radius + 3
        lines.append(f"{k - 1} {(x + 0.5) / 60} {(y + 0.5) / 48} {side / 60} {side / 48}")
    noise = np.random.default_rng(len(classes)).normal(0, 8, (48, 60, 3))
    colors = np.array([COLORS.get(k, (0, 0, 0)) for k in range(4)])[truth]
    for name in ("images", "boxes"):
        (folder / name).mkdir(exist_ok=True)
    Picture.fromarray((colors + noise).clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{stem}.png")
    (folder / "boxes" / f"{stem}.txt").write_text("\n".join(lines))
    return truth


def label(folder: Path, out: Path, *more: object) -> str:
    arguments = ("--boxes", folder / "boxes", "--out", out, "--workers", 1, *more)
    result = call("label", folder / "images", *arguments)
    return f"{result.exit_code} {result.output}"


def test_objects_in_boxes_are_found(tmp_path: Path) -> None:
    """Two objects of classes 0 and 2 of the files; one; none."""
    truths = {
        stem: scene(tmp_path, stem, classes) for stem, classes in {"a": (1, 3), "b": (3,), "c": ()}.items()
    }
    said = label(tmp_path, tmp_path / "out", "--set", "annotator.mixture.places=false")
    assert said.startswith("0"), said
    for stem, truth in truths.items():
        found = read_index(tmp_path / "out" / "labels" / f"{stem}.png")
        assert set(np.unique(found)) == set(np.unique(truth))
        wrong_in_boxes = sum((2 * DISKS[k][2] + 3) ** 2 - (truth == k).sum() for k in np.unique(truth) if k)
        assert (found != truth).sum() <= wrong_in_boxes / 2  # all of the boxes


def test_what_is_done_is_done_again_when_a_box_changes(tmp_path: Path) -> None:
    for stem in "ab":
        scene(tmp_path, stem, (1,))
    label(tmp_path, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "labels").iterdir()}
    scene(tmp_path, "b", (1, 3))
    assert label(tmp_path, tmp_path / "out").startswith("0")
    after = {path.stem: path.stat().st_mtime_ns == before[path] for path in before}
    assert after == {"a": True, "b": False}


def test_boxes_that_stay_empty_are_counted(tmp_path: Path) -> None:
    """A box of one pixel of the background's color is smoothed away."""
    scene(tmp_path, "a", (1,))
    with (tmp_path / "boxes" / "a.txt").open("a") as file:
        file.write("\n2 0.75 0.75 0.02 0.02")
    said = label(tmp_path, tmp_path / "out", "--set", "annotator.mixture.places=false")
    assert said.startswith("0"), said
    assert "1 box has no pixel of its class (a)" in " ".join(said.split())
    scene(tmp_path, "a", (1,))
    assert "no pixel" not in label(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2", "got 4 numbers"),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2", "a polygon"),
        ("cat 0.5 0.5 0.2 0.2", "got 'cat 0.5"),
        ("0 0.5 0.5 0 0.2", "shares of the image"),
        ("-1 0.5 0.5 0.2 0.2", "shares of the image"),
        ("0 0.5 nan 0.2 0.2", "shares of the image"),
        ("0 0.95 0.5 0.2 0.2", "line 1: the box leaves the image"),
        ("0 0.5 0.05 0.2 0.2", "line 1: the box leaves the image"),
        ("0 30 24 10 12", "pixels"),
        ("3 0.5 0.5 0.2 0.2", "there are 4 classes"),
        ("0 0.5 0.5 1 1", "leave some background"),
    ],
)
def test_a_wrong_box_fails_its_image_alone(line: str, message: str, tmp_path: Path) -> None:
    scene(tmp_path, "a", (1,))
    scene(tmp_path, "b", (1,))
    (tmp_path / "boxes" / "b.txt").write_text(line)
    said = label(tmp_path, tmp_path / "out", "--num-classes", 4)
    assert said.startswith("1 ")
    assert message in " ".join(said.split())
    assert [path.stem for path in (tmp_path / "out" / "labels").iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seeds", "images"), "leave out --seeds"),
        (("--all-classes",), "leave out --all-classes"),
        (("--annotator", "product"), "need --annotator grab-cut, got product"),
        (("--unlabeled", 0), "--unlabeled is not for --boxes"),
    ],
)
def test_options_that_do_not_go_with_boxes(options: tuple[object, ...], message: str, tmp_path: Path) -> None:
    scene(tmp_path, "a", (1,))
    said = label(tmp_path, tmp_path / "out", *options)
    assert said.startswith("2 ")
    assert message in " ".join(said.split())


def test_a_plan_has_boxes_alone(tmp_path: Path) -> None:
    scene(tmp_path, "a", (1,))
    with pytest.raises(ValueError, match="expected boxes alone, got seeds or predictions"):
        make_plan(tmp_path / "images", tmp_path / "images", boxes=tmp_path / "boxes")


def test_boxes_of_files_become_pixels() -> None:
    boxes = decode_boxes(b"0 0.5 0.5 0.5 0.5\r\n\r\n2 0.995 0.5 0.02 0.001 0.87\n")
    assert boxes[1] == RelativeBox(2, 0.995, 0.5, 0.02, 0.001)
    assert in_pixels(boxes, (40, 80), None) == (Box(20, 10, 60, 30, 1), Box(79, 20, 80, 21, 3))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_boxes_in_the_encodings_of_windows(encoding: str) -> None:
    line = "2 0.5 0.25 0.125 0.5"
    assert decode_boxes(line.encode(encoding)) == decode_boxes(line.encode())


def test_boxes_that_are_no_text() -> None:
    with pytest.raises(ValueError, match=r"lines of YOLO.*got no text"):
        decode_boxes(b"\xd8\xff\xe0 0.5")


@pytest.mark.parametrize("annotator", [None, ProductAnnotator()])
def test_other_annotators_take_no_boxes(annotator: ProductAnnotator | None) -> None:
    with pytest.raises(ValueError, match=r"grab-cut, which alone takes boxes, got (none|product)"):
        predicted_in_boxes(annotator, torch.rand(3, 8, 8), (Box(1, 1, 4, 4),), (0, 1))
    assert predicted_in_boxes(GrabCutAnnotator(), torch.rand(3, 8, 8), (Box(1, 1, 6, 6),), (0, 1)).shape == (
        2,
        8,
        8,
    )
