"""What one command writes the next one reads, with nothing to be said and nothing lost."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.folders import make_folders
from support.runs import call, make_data, train

from selflabel.files.label_files import read_index
from selflabel.files.probabilities import read_probabilities

SIZE = (12, 16)


def label(*arguments: object) -> None:
    result = call("label", *arguments, "--workers", 1)
    assert result.exit_code == 0, result.output


def records(out: Path) -> dict[str, list[int]]:
    """The classes that could win, by stem."""
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    return {line["stem"]: line["classes"] for line in lines if "stem" in line}


@pytest.mark.parametrize("precision", ["uint8", "float16"])
@pytest.mark.parametrize("solver", ["random-walker", "graph-cut"])
def test_soft_labels_are_predictions_of_the_same_classes(tmp_path: Path, precision: str, solver: str) -> None:
    images, seeds, _ = make_folders(tmp_path, 2)
    first, second = tmp_path / "first", tmp_path / "second"
    label(images, "--seeds", seeds, "--out", first, "--soft", precision, "--solver", solver)
    more = ("--solver", "graph-cut", "--pairwise-weight", 0)
    for key in ((), ("--probs-key", "labels")):
        label(images, "--probs", first / "soft", "--out", second, *more, *key, "--overwrite")
        assert records(second) == {"a0": [0, 2], "a1": [0, 2]}
        for stem in ("a0", "a1"):
            soft = read_probabilities(first / "soft" / f"{stem}.npz", SIZE)
            assert soft.classes is not None
            expected = soft.classes[soft.probs.argmax(0)]
            np.testing.assert_array_equal(read_index(second / "labels" / f"{stem}.png"), expected)


def test_classes_without_seeds_and_void_stay(tmp_path: Path) -> None:
    images, seeds, _ = make_folders(tmp_path, 1)
    probs = tmp_path / "probs"
    probs.mkdir()
    rows = np.random.default_rng(8_161).dirichlet(np.ones(5) / 5, SIZE).transpose(2, 0, 1)
    np.savez(probs / "a0.npz", labels=rows, classes=np.array([7, 2, 0, 254, 3]))
    options = ("--all-classes", "--min-confidence", 0.8, "--soft", "float16", "--solver", "random-walker")
    first, second = tmp_path / "first", tmp_path / "second"
    label(images, "--seeds", seeds, "--probs", probs, "--out", first, *options)
    assert records(first) == {"a0": [0, 2, 3, 7, 254]}
    index = read_index(first / "labels" / "a0.png")
    assert 0 < (index == 255).mean() < 1
    label(images, "--seeds", first / "labels", "--probs", first / "soft", "--out", second, "--all-classes")
    assert records(second) == {"a0": [0, 2, 3, 7, 254]}
    again = read_index(second / "labels" / "a0.png")
    np.testing.assert_array_equal(again[index != 255], index[index != 255])


def test_predict_label_score_train(tmp_path: Path) -> None:
    """With names of classes, of every format of predictions."""
    data, run = make_data(tmp_path / "data"), tmp_path / "run"
    assert train(data, run, "--method", "pce").exit_code == 0
    labels: list[np.ndarray] = []
    for form in ("npz", "npy"):
        for precision in ("float32", "float16", "uint8"):
            probs, out = tmp_path / f"{form} {precision}", tmp_path / f"out {form} {precision}"
            options = ("--format", form, "--precision", precision, "--allow-code")
            assert call("predict", run, data / "images", "--out", probs, *options).exit_code == 0
            label(data / "images", "--probs", probs, "--out", out, "--stems", data / "train.txt")
            labels.append(read_index(out / "labels" / "t0.png"))
    for other in labels:
        assert (other == labels[0]).mean() > 0.98
    classes = ("--classes", data / "classes.txt")
    scored = call("score", out / "labels", data / "masks", *classes, "--stems", data / "train.txt")
    assert scored.exit_code == 0, scored.output
    assert "class 1" in scored.stdout
    for stem in ("v0", "v1"):
        Image.fromarray(np.zeros((16, 14), np.uint8)).save(out / "labels" / f"{stem}.png")
    again = train(data, tmp_path / "again", "--method", "full", "--masks", out / "labels")
    assert again.exit_code == 0, again.output


def test_the_folder_of_a_run_is_no_folder_of_predictions(tmp_path: Path) -> None:
    images, seeds, _ = make_folders(tmp_path, 1)
    out = tmp_path / "out"
    label(images, "--seeds", seeds, "--out", out, "--soft", "uint8")
    result = call("label", images, "--probs", out, "--out", tmp_path / "other")
    assert result.exit_code == 2
    assert "folders are not searched: confidence, labels, soft)" in result.output
