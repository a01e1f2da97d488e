"""What a solve changed of a prediction."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.runs import call

from selflabel.labeling.changes import FAR_PIXELS, changes


def by_loops(predicted: np.ndarray, index: np.ndarray) -> tuple[float, float]:
    """Pixel by pixel."""
    moved = far = 0
    for y, x in np.ndindex(index.shape):
        if predicted[y, x] != index[y, x]:
            moved += 1
            square = index[
                max(0, y - FAR_PIXELS) : y + FAR_PIXELS + 1, max(0, x - FAR_PIXELS) : x + FAR_PIXELS + 1
            ]
            far += predicted[y, x] not in square
    return moved / index.size, far / moved if moved else 0.0


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (30, 1), (31, 44), (5, 4)])
def test_changes_are_those_of_loops(size: tuple[int, int], rng: np.random.Generator) -> None:
    index = np.zeros(size, np.uint8)
    index[:, : size[1] // 3] = 1
    index[: size[0] // 3] = np.where(rng.random(size)[: size[0] // 3] < 0.1, 2, index[: size[0] // 3])
    predicted = np.where(rng.random(size) < 0.2, rng.integers(0, 4, size), index).astype(np.uint8)
    found = changes(predicted, index)
    assert (found.changed, found.far) == pytest.approx(by_loops(predicted, index))
    assert changes(index, index) == changes(predicted, predicted)


def test_moved_borders_are_near_and_vanished_objects_far() -> None:
    index = np.zeros((60, 60), np.uint8)
    index[:, 30:] = 1
    moved = index.copy()
    moved[:, 30:33] = 0
    assert changes(moved, index).far == 0
    vanished = index.copy()
    vanished[20:40, 5:15] = 2
    assert changes(vanished, index).far == 1
    for width in (2, 4):  # a pole among the borders of others
        striped = (np.arange(60) // 6 % 2 * np.ones((60, 1))).astype(np.uint8)
        pole = striped.copy()
        pole[10:50, 30 : 30 + width] = 3
        assert changes(pole, striped).far == 1


def predictions(root: Path, thin: bool) -> Path:
    """A prediction of stripes that a strong solve takes away, or of two halves; and an image without edges."""
    for folder in ("images", "probs"):
        (root / folder).mkdir()
    index = np.zeros((40, 60), int)
    if thin:
        index[10:12, 10:50] = 1
    else:
        index[:, 30:] = 1
    probs = np.where(np.stack([index == 0, index == 1]), 0.9, 0.1).astype(np.float32)
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(root / "images" / "a.png")
    np.savez(root / "probs" / "a.npz", labels=probs)
    return root


@pytest.mark.parametrize("thin", [True, False])
def test_the_manifest_and_the_summary_say_what_changed(thin: bool, tmp_path: Path) -> None:
    root = predictions(tmp_path, thin)
    arguments = (
        "--probs",
        root / "probs",
        "--solver",
        "graph-cut",
        "--pairwise-weight",
        9,
        "--out",
        root / "out",
    )
    result = call("label", root / "images", *arguments)
    assert result.exit_code == 0, result.output
    record = json.loads((root / "out" / "manifest.jsonl").read_text().splitlines()[1])
    assert record["changed"] == pytest.approx(80 / 2400 if thin else 0.0)
    assert record["changed_far"] == (1.0 if thin else 0.0)
    assert ("far from what is left of their class" in result.output) == thin
    assert ("changed by the solver" in result.output) is True


def test_labels_without_predictions_have_no_changes(tmp_path: Path) -> None:
    root = predictions(tmp_path, thin=False)
    (root / "seeds").mkdir()
    seeds = np.full((40, 60), 255, np.uint8)
    seeds[5, 5:20], seeds[30, 40:50] = 0, 1
    Image.fromarray(seeds).save(root / "seeds" / "a.png")
    result = call(
        "label", root / "images", "--seeds", root / "seeds", "--out", root / "out", "--annotator", "none"
    )
    assert result.exit_code == 0, result.output
    record = json.loads((root / "out" / "manifest.jsonl").read_text().splitlines()[1])
    assert record["changed"] is None
    assert "changed by the solver" not in result.output
