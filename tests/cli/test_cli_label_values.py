"""What the values of label files mean, on the command line: named, or refused where they contradict the default."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.encoders import encoded, png, tiff
from support.runs import call, make_data, train

from selflabel.files.label_files import read_index
from selflabel.training import read_history

HEIGHT, WIDTH = 40, 60


def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three gray bands: the image, the true classes and seeds with a stroke a band."""
    truth = (
        np.repeat((np.arange(WIDTH) >= 24).astype(np.uint8) + (np.arange(WIDTH) >= 52), HEIGHT)
        .reshape(WIDTH, -1)
        .T
    )
    noise = np.random.default_rng(8221).normal(0, 6, truth.shape)
    gray = (np.array([60, 120, 190])[truth] + noise).clip(0, 255).astype(np.uint8)
    seeds = np.full((HEIGHT, WIDTH), 255, np.uint8)
    for k, column in enumerate((3, 28, 57)):
        seeds[10:30, column] = k
    return gray, truth.astype(np.uint8), seeds


GRAY, TRUTH, SEEDS = scene()
OBJECT = np.zeros((HEIGHT, WIDTH), np.uint8)
OBJECT[10:30, 15:45] = 1
LOWER = np.zeros_like(OBJECT)
LOWER[20:40, 15:45] = 1  # IoU with the object: 1/3


def folder(path: Path, content: np.ndarray | bytes, name: str = "a.png") -> Path:
    path.mkdir(parents=True, exist_ok=True)
    data = content if isinstance(content, bytes) else encoded(Image.fromarray(content))
    (path / name).write_bytes(data)
    return path


def label(tmp_path: Path, seeds: np.ndarray | bytes, *more: object, name: str = "a.png") -> tuple[int, str]:
    images = folder(tmp_path / "images", GRAY)
    seeds_folder = folder(tmp_path / "seeds", seeds, name)
    done = call("label", images, "--seeds", seeds_folder, "--out", tmp_path / "out", "--workers", 1, *more)
    return done.exit_code, done.output


def labels(tmp_path: Path) -> np.ndarray:
    return read_index(tmp_path / "out" / "labels" / "a.png")


NAPARI = np.where(SEEDS == 255, 0, SEEDS + 1).astype(np.uint8)
COLORS = np.array([[128, 0, 0], [0, 128, 0], [0, 0, 128], [0, 0, 0]], np.uint8)


@pytest.mark.parametrize(
    ("seeds", "name", "more"),
    [
        pytest.param(png(np.where(SEEDS == 255, 3, SEEDS), 2), "a.png", ("--unlabeled", 3), id="2 bits"),
        pytest.param(NAPARI, "a.png", ("--unlabeled", 0, "--seeds-offset", 1), id="napari"),
        pytest.param(
            np.where(SEEDS == 255, 4, SEEDS).astype(np.uint8), "a.png", ("--unlabeled", 4), id="wsl4mis"
        ),
        pytest.param(
            np.where(SEEDS == 255, 1, SEEDS * 100 + 5).astype(np.uint8),
            "a.png",
            ("--values", "5,105,205", "--unlabeled", 1),
            id="values",
        ),
        pytest.param(COLORS[np.minimum(SEEDS, 3)], "a.png", ("--colors", "colors.csv"), id="colors"),
        pytest.param(tiff(SEEDS.astype(np.float32)), "a.tif", (), id="whole floats"),
        pytest.param(tiff(SEEDS[None].astype(np.int32)), "a.tif", (), id="one plane"),
    ],
)
def test_seeds_of_every_convention_give_the_same_labels(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seeds: np.ndarray | bytes,
    name: str,
    more: tuple[object, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("colors.csv").write_text("r,g,b,class\n128,0,0,0\n0,128,0,1\n0,0,128,2\n0,0,0,255\n")
    code, output = label(tmp_path, seeds, *more, name=name)
    assert code == 0, output
    np.testing.assert_array_equal(labels(tmp_path), TRUTH)


def through_jpeg(seeds: np.ndarray) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded(Image.fromarray(seeds), "JPEG", quality=95))))


@pytest.mark.parametrize(
    ("seeds", "more", "message"),
    [
        pytest.param(NAPARI, (), "--unlabeled 0 --seeds-offset 1", id="napari"),
        pytest.param(NAPARI, ("--num-classes", 4), "--unlabeled 0 --seeds-offset 1", id="napari, classes"),
        pytest.param(np.where(SEEDS == 255, 4, SEEDS).astype(np.uint8), (), "--unlabeled 4", id="wsl4mis"),
        pytest.param(OBJECT * np.uint8(255), (), "--values 0,255", id="mask"),
        pytest.param(through_jpeg(SEEDS), (), "saved as JPEG or resized", id="jpeg"),
        pytest.param(encoded(Image.fromarray(SEEDS), "JPEG"), (), "JPEG changes numbers", id="named png"),
        pytest.param(COLORS[np.minimum(SEEDS, 3)], (), "--colors", id="colors"),
        pytest.param(
            COLORS[np.minimum(SEEDS, 3)], ("--values", "0,x"), "whole numbers with commas", id="no values"
        ),
        pytest.param(SEEDS, ("--values", "0,1", "--seeds-offset", 1), "more than one of them", id="two ways"),
        pytest.param(SEEDS, ("--values", "0,1"), "value 2 is no class", id="too few values"),
    ],
)
def test_seeds_of_another_convention_stop_the_image(
    tmp_path: Path, seeds: np.ndarray | bytes, more: tuple[object, ...], message: str
) -> None:
    code, output = label(tmp_path, seeds, *more)
    assert code in (1, 2)
    assert message in output
    assert not (tmp_path / "out" / "labels" / "a.png").exists()


def score(
    tmp_path: Path, pred: np.ndarray | bytes, truth: np.ndarray | bytes, *more: object
) -> tuple[int, str, list[float]]:
    file = tmp_path / "scores.json"
    arguments = (folder(tmp_path / "pred", pred), folder(tmp_path / "truth", truth))
    done = call("score", *arguments, "--no-hd95", "--json", file, *more)
    found = [entry["iou"] for entry in json.loads(file.read_text())["classes"]] if file.exists() else []
    return done.exit_code, done.output, found


@pytest.mark.parametrize(
    ("pred", "truth", "more"),
    [
        pytest.param(LOWER, OBJECT, (), id="0 and 1"),
        pytest.param(LOWER, OBJECT * np.uint8(255), ("--values", "0,255"), id="a mask"),
        pytest.param(
            LOWER * np.uint8(255),
            OBJECT * np.uint8(255),
            ("--values", "0,255", "--pred-values", "0,255"),
            id="masks",
        ),
        pytest.param(LOWER * np.uint8(255), OBJECT, ("--pred-values", "0,255"), id="a mask of labels"),
        pytest.param(png(LOWER, 1), png(OBJECT, 1), (), id="1 bit"),
        pytest.param(png(LOWER, 4), png(OBJECT, 2), (), id="2 and 4 bits"),
        pytest.param(
            COLORS[LOWER],
            COLORS[OBJECT],
            ("--colors", "colors.csv", "--pred-colors", "colors.csv"),
            id="colors",
        ),
    ],
)
def test_masks_score_alike_in_every_convention(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pred: np.ndarray | bytes,
    truth: np.ndarray | bytes,
    more: tuple[object, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("colors.csv").write_text("128,0,0\n0,128,0\n")
    code, output, found = score(tmp_path, pred, truth, *more)
    assert code == 0, output
    assert found[1] == pytest.approx(1 / 3)
    assert len(found) == 2


@pytest.mark.parametrize(
    ("pred", "truth", "more", "message"),
    [
        pytest.param(LOWER, OBJECT * np.uint8(255), (), "--values 0,255", id="truth"),
        pytest.param(
            LOWER, OBJECT * np.uint8(255), ("--num-classes", 2), "--values 0,255", id="truth, classes"
        ),
        pytest.param(LOWER * np.uint8(255), OBJECT, (), "--pred-values 0,255", id="labels"),
        pytest.param(LOWER, COLORS[OBJECT], (), "--colors", id="colors"),
        pytest.param(LOWER, OBJECT * np.uint8(128), (), "(--values 0,128)", id="gray levels"),
        pytest.param(
            through_jpeg(np.where(SEEDS == 255, 200, SEEDS).astype(np.uint8)), TRUTH, (), "JPEG", id="noise"
        ),
    ],
)
def test_scores_that_mean_something_else_are_refused(
    tmp_path: Path,
    pred: np.ndarray | bytes,
    truth: np.ndarray | bytes,
    more: tuple[object, ...],
    message: str,
) -> None:
    code, output, _ = score(tmp_path, pred, truth, *more)
    assert code in (1, 2)
    assert message in output


def test_void_pixels_and_class_0_alone_are_good_truth(tmp_path: Path) -> None:
    void = TRUTH.copy()
    void[:4] = 255
    assert score(tmp_path / "void", TRUTH, void)[0] == 0
    # an image of class 0 and void among others
    zero = np.where(void == 255, 255, 0).astype(np.uint8)
    for name in ("pred", "truth"):
        folder(tmp_path / "two" / name, zero, "b.png")
    assert score(tmp_path / "two", TRUTH, void)[0] == 0
    # alone, it has to be said
    assert score(tmp_path / "one", zero, zero, "--values", "0,1")[0] == 0
    assert score(tmp_path / "four", zero, zero, "--num-classes", 4)[0] == 0


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for file in path.iterdir():
        Image.fromarray(change(read_index(file))).save(file)


def test_training_reads_seeds_and_masks_of_other_values(tmp_path: Path) -> None:
    usual = train(make_data(tmp_path / "usual"), tmp_path / "a", "--method", "pce")
    assert usual.exit_code == 0, usual.output
    root = make_data(tmp_path / "other")
    rewrite(root / "scribbles", lambda index: np.where(index == 255, 9, index * 90).astype(np.uint8))
    rewrite(root / "masks", lambda index: index * np.uint8(255))
    more = ("--method", "pce", "--values", "0,90", "--unlabeled", 9)
    refused = train(root, tmp_path / "b", *more)
    assert refused.exit_code != 0
    assert "--masks-values 0,255" in refused.output
    done = train(root, tmp_path / "c", *more, "--masks-values", "0,255")
    assert done.exit_code == 0, done.output
    scores = [
        [row.get("dice") for row in read_history(tmp_path / run / "history.jsonl")] for run in ("a", "c")
    ]
    assert scores[0] == scores[1]
    assert any(score is not None for score in scores[0])


def test_masks_as_scribbles_stop_training(tmp_path: Path) -> None:
    root = make_data(tmp_path / "data")
    rewrite(root / "masks", lambda index: index * np.uint8(255))
    done = train(root, tmp_path / "run", "--method", "pce", "--scribbles", "masks", "--masks-values", "0,255")
    assert done.exit_code != 0
    assert "--values 0,255" in done.output
