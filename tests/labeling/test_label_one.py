"""`selflabel.label`: one image from Python, as the command line labels it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.folders import LABELER, SETTINGS, make_folders, picture
from typer.testing import CliRunner

import selflabel
from selflabel.cli import app
from selflabel.files.images import read_image
from selflabel.files.label_files import LabelFormat, read_index
from selflabel.labeling.presets import default_labeler
from selflabel.solvers import SOLVERS, RandomWalker

IMAGE, SEEDS, TRUTH = picture(5_172)


def written(root: Path, *options: object) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Index, soft labels and classes as the command writes them for one image."""
    images, seeds, _ = make_folders(root, 1)
    given = map(str, (images, "--seeds", seeds, "--out", root / "out", "--soft", "float16", *options))
    result = CliRunner().invoke(app, ["label", *given])
    assert result.exit_code == 0, result.output
    with np.load(root / "out" / "soft" / "a0.npz") as file:
        return read_index(root / "out" / "labels" / "a0.png"), file["labels"], file["classes"].tolist()


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_labels_are_those_of_the_command_line(tmp_path: Path, solver: str) -> None:
    index, soft, classes = written(tmp_path, "--solver", solver)
    image, seeds = read_image(tmp_path / "images" / "a0.png"), read_index(tmp_path / "seeds" / "a0.png")
    found = selflabel.label(image, seeds, SOLVERS[solver]())
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_array_equal(found.labels.astype(np.float16), soft)
    assert found.classes.tolist() == classes
    assert found.energy <= found.start_energy


def test_a_prediction_stands_in_for_the_annotator(tmp_path: Path) -> None:
    probs = np.random.default_rng(7_811).dirichlet(np.ones(4), TRUTH.shape).transpose(2, 0, 1)
    np.save(tmp_path / "a0.npy", probs)
    options = ("--probs", tmp_path / "a0.npy", "--all-classes", "--min-confidence", 0.7)
    index, soft, classes = written(tmp_path, "--solver", "random-walker", *options)
    assert classes == [0, 1, 2, 3]
    assert (index == 255).any()
    image, seeds = read_image(tmp_path / "images" / "a0.png"), read_index(tmp_path / "seeds" / "a0.png")
    for given in (probs, torch.from_numpy(probs)):
        found = selflabel.label(
            image, seeds, RandomWalker(), probs=given, all_classes=True, min_confidence=0.7
        )
        np.testing.assert_array_equal(found.index, index)
        np.testing.assert_array_equal(found.labels.astype(np.float16), soft)


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_defaults_for_predictions_keep_thin_objects(solver: str) -> None:
    """Two pixels wide and with no edge in the image; the settings for scribbles take them away."""
    truth = np.zeros((48, 64), np.uint8)
    truth[:, 40:], truth[10:40, 20:22] = 1, 2
    image = np.full((48, 64), 90, np.uint8)
    image[:, 40:] = 150
    probs = np.where(np.arange(3)[:, None, None] == truth, 0.7, 0.15).astype(np.float32)
    found = selflabel.label(image, solver=SOLVERS[solver](), probs=probs)
    assert (found.index[truth != 2] == truth[truth != 2]).all()
    assert (found.index[truth == 2] == 2).mean() > 0.9
    for_scribbles = replace(default_labeler(SOLVERS[solver]()), annotator=None)
    assert not (selflabel.label(image, solver=for_scribbles, probs=probs).index == 2).any()


def test_images_of_numpy_and_torch_are_the_same() -> None:
    expected = selflabel.label(IMAGE, SEEDS, LABELER).labels
    alpha = np.concatenate([IMAGE, IMAGE[..., :1]], axis=2)
    channels = torch.from_numpy(IMAGE).movedim(-1, 0)
    seeds = torch.from_numpy(SEEDS.astype(np.int64))
    kinds = (IMAGE.astype(np.uint16) * 257, alpha, channels, (channels / 255).requires_grad_())
    for image in kinds:
        np.testing.assert_allclose(selflabel.label(image, seeds, LABELER).labels, expected, atol=1e-6)
    gray = IMAGE[..., 0].copy()
    one = selflabel.label(gray, SEEDS, LABELER).labels
    equal = np.repeat(gray[..., None], 3, axis=2)
    one_channel = (gray[..., None], torch.from_numpy(gray), torch.from_numpy(gray)[None])
    for image in (*one_channel, equal, torch.from_numpy(equal).movedim(-1, 0)):
        np.testing.assert_array_equal(selflabel.label(image, SEEDS, LABELER).labels, one)


def test_graph_cut_labels_and_inputs_stay_as_they_are() -> None:
    image, seeds = IMAGE.copy(), SEEDS.copy()
    found = selflabel.label(image, seeds)
    assert isinstance(found, selflabel.Labeled)
    assert (found.index == TRUTH).mean() > 0.97
    assert found.index.dtype == np.uint8
    assert found.confidence.shape == TRUTH.shape
    assert (found.confidence[SEEDS != 255] == 1).all()
    assert found.confidence[SEEDS == 255].max() < 1
    assert found.result is selflabel.Result.CONVERGED
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(seeds, SEEDS)


def test_labels_are_shown_in_a_line() -> None:
    shown = repr(selflabel.label(IMAGE, SEEDS, RandomWalker()))
    assert shown.startswith("Labeled(12 x 16, classes: 0, 2, CONVERGED, steps: ")
    assert len(shown.splitlines()) == 1
    assert "array" not in shown


def test_hard_labels_below_a_confidence_are_left_out_too() -> None:
    probs = np.random.default_rng(7_811).dirichlet(np.ones(3), TRUTH.shape).transpose(2, 0, 1)
    every = selflabel.label(IMAGE, SEEDS, probs=probs)
    assert 0.5 < every.confidence.min() < 0.8 < np.quantile(every.confidence, 0.8)
    found = selflabel.label(IMAGE, SEEDS, probs=probs, min_confidence=0.8)
    unsure = every.confidence < 0.8
    assert 0.1 < unsure.mean() < 0.9
    np.testing.assert_array_equal(found.index, np.where(unsure, 255, every.index))
    np.testing.assert_array_equal(every.classes[every.labels.argmax(0)], every.index)


def test_what_does_not_fit_is_named() -> None:
    image, seeds = torch.from_numpy(IMAGE).movedim(-1, 0), torch.from_numpy(SEEDS)
    with pytest.raises(
        ValueError, match=r"torch image \[c h w\] of 1 to 4 channels, got shape \(12, 16, 3\)"
    ):
        selflabel.label(image.movedim(0, -1), seeds)
    with pytest.raises(ValueError, match=r"expected 8 or 16 bit or floats in \[0, 1\], got int64"):
        selflabel.label(image.long(), seeds)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got 4"):
        selflabel.label(image.double() + 4, seeds)
    for wrong in (seeds.bool(), seeds[None]):
        with pytest.raises(ValueError, match=r"seeds \[h w\] of integers, 255 where unlabeled, got shape"):
            selflabel.label(image, wrong)
    with pytest.raises(ValueError, match="value -1 is no class"):
        selflabel.label(image, seeds.long().where(seeds != 255, torch.tensor(-1)))
    with pytest.raises(ValueError, match="seeds of 11 x 16 pixels for an image of 12 x 16"):
        selflabel.label(image, seeds[1:])
    with pytest.raises(ValueError, match="class 2, but there are 2 classes"):
        selflabel.label(image, seeds, num_classes=2)
    with pytest.raises(ValueError, match=r"expected probabilities \[k h w\] for 12 x 16 pixels"):
        selflabel.label(image, seeds, probs=torch.ones(2, 16, 12) / 2)
    with pytest.raises(ValueError, match="only where probabilities are given"):
        selflabel.label(image, seeds, all_classes=True)
    with pytest.raises(ValueError, match="no pixel of the seeds is labeled"):
        selflabel.label(image, torch.full_like(seeds, 255))


def test_seeds_of_another_convention_are_read_as_told_and_refused_else() -> None:
    expected = selflabel.label(IMAGE, SEEDS, LABELER).index
    napari = np.where(SEEDS == 255, 0, SEEDS + 1).astype(np.uint8)
    with pytest.raises(ValueError, match=r"every pixel has a seed.*\(unlabeled=0, offset=1\)"):
        selflabel.label(IMAGE, napari, LABELER)
    found = selflabel.label(IMAGE, napari, LABELER, seeds_format=LabelFormat(0, 1))
    np.testing.assert_array_equal(found.index, expected)
    colors = np.array([[9, 9, 9], [0, 0, 0], [7, 0, 0]], np.uint8)[np.where(SEEDS == 255, 1, SEEDS)]
    form = LabelFormat(colors=((9, 9, 9, 0), (0, 0, 0, 255), (7, 0, 0, 2)))
    np.testing.assert_array_equal(selflabel.label(IMAGE, colors, LABELER, seeds_format=form).index, expected)
    with pytest.raises(
        ValueError, match=r"seeds in colors \[h w 3\] of 8 bit, got shape \(12, 16\) of uint8"
    ):
        selflabel.label(IMAGE, SEEDS, LABELER, seeds_format=form)


def test_settings_out_of_range_are_named() -> None:
    for number in (0, 256):
        with pytest.raises(ValueError, match=f"expected 1 to 255 classes, got {number}"):
            replace(SETTINGS, num_classes=number)
    for share in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"expected min_confidence in \[0, 1\], got"):
            replace(SETTINGS, min_confidence=share)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, torch.float32])
def test_seeds_that_are_whole_floats_are_what_they_are(kind: Any) -> None:
    """As in files: whole numbers of any type are classes, fractions are none."""
    expected = selflabel.label(IMAGE, SEEDS, LABELER).index
    given: Any = SEEDS.astype(kind) if isinstance(kind, type) else torch.from_numpy(SEEDS).to(kind)
    np.testing.assert_array_equal(selflabel.label(IMAGE, given, LABELER).index, expected)
    for wrong in (0.5, float("nan"), float("inf")):
        broken = SEEDS.astype(np.float32)
        broken[0, 0] = wrong
        with pytest.raises(ValueError, match="expected seeds as whole numbers, the classes, got fractions"):
            selflabel.label(IMAGE, broken, LABELER)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"num_classes": "21"},
            r"expected num_classes as a whole number or None, got '21': pass int\('21'\)",
        ),
        ({"min_confidence": "0.9"}, r"expected min_confidence as a number, got '0.9': pass float\('0.9'\)"),
        (
            {"seeds_format": (0, 1)},
            r"expected seeds_format as a LabelFormat, got a tuple: such as LabelFormat",
        ),
        ({"all_classes": "no"}, "expected all_classes as True or False, got 'no'"),
    ],
    ids=str,
)
def test_options_of_other_kinds_are_named(options: dict[str, Any], message: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=message):
        selflabel.label(IMAGE, SEEDS, LABELER, **options)
