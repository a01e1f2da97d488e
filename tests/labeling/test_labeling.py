"""Labeling one image of files; plans and settings."""

import json
import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.folders import LABELER, SETTINGS, MeanColor, Smooth, contents, make_folders, picture

from selflabel.affinity import Affinity
from selflabel.affinity.builders import Grid
from selflabel.files.label_files import LabelFormat, read_index, write_index
from selflabel.files.probabilities import ProbabilityFormat, read_probabilities
from selflabel.labeling.image import LabelImage, label_image
from selflabel.labeling.lines import Record
from selflabel.labeling.outputs import OutputFolder
from selflabel.labeling.plan import Failure, Job, Shard, make_plan
from selflabel.labeling.presets import default_labeler
from selflabel.labeling.settings import LabelingSettings, Soft, describe, differences, fingerprint
from selflabel.solvers import SOLVERS

# --- the labeler ---


def as_tensors(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    image, seeds, _ = picture(seed)
    compact = np.select([seeds == 0, seeds == 2], [0, 1], 255)
    return torch.from_numpy(image).movedim(-1, 0) / 255, torch.from_numpy(compact)


def test_labeler_takes_its_prediction_from_probabilities_annotator_or_nothing() -> None:
    image, seeds = as_tensors(912)
    from_annotator = LABELER.label(image, seeds, 2)
    predicted = MeanColor().predict(image[None], seeds[None], 2)[0]
    torch.testing.assert_close(LABELER.label(image, seeds, 2, predicted).labels, from_annotator.labels)
    uniform = replace(LABELER, annotator=None).label(image, seeds, 2)
    torch.testing.assert_close(
        uniform.labels, LABELER.label(image, seeds, 2, torch.full((2, 12, 16), 0.5)).labels
    )
    assert from_annotator.steps == 3
    assert from_annotator.bound is not None
    assert from_annotator.bound.tolist() == [0]
    assert from_annotator.energy < from_annotator.start_energy


def test_labeler_stops_at_max_steps() -> None:
    image, seeds = as_tensors(913)
    assert replace(LABELER, max_steps=2).label(image, seeds, 2).results[0].name == "MAX_STEPS"
    assert replace(LABELER, solver=Smooth(rounds=9)).label(image, seeds, 2).steps == 9


# --- one image ---


def folder_of(tmp_path: Path, settings: LabelingSettings) -> OutputFolder:
    output = OutputFolder(tmp_path / "out", settings.soft, settings.overlay)
    output.prepare()
    return output


def label_one(tmp_path: Path, settings: LabelingSettings = SETTINGS, probs: Path | None = None) -> Record:
    images, seeds, _ = make_folders(tmp_path, 1)
    output = folder_of(tmp_path, settings)
    return label_image(Job("a0", images / "a0.png", seeds / "a0.png", probs), settings, output)


def test_an_image_gets_labels_confidence_soft_labels_and_overlay(tmp_path: Path) -> None:
    record = label_one(tmp_path, replace(SETTINGS, soft=Soft.UINT8, overlay=True))
    out = tmp_path / "out"
    truth = read_index(tmp_path / "truth" / "a0.png")
    index = read_index(out / "labels" / "a0.png")
    assert (index == truth).mean() > 0.97
    with Image.open(out / "confidence" / "a0.png") as file:
        assert file.mode == "L"
        confidence = np.array(file)
    soft = read_probabilities(out / "soft" / "a0.npz", (12, 16))
    assert soft.classes is not None
    assert soft.classes.tolist() == [0, 2]
    np.testing.assert_allclose(soft.probs.max(0), confidence / 255, atol=6e-3)
    np.testing.assert_array_equal(soft.classes[soft.probs.argmax(0)], index)
    with Image.open(out / "overlays" / "a0.png") as file:
        assert file.size == (16, 12)
    assert record.classes == (0, 2)
    assert (record.height, record.width) == (12, 16)
    assert record.seeded == pytest.approx(9 / 192)
    assert record.labeled == 1
    assert record.bound == 0
    assert record.result == "converged"
    exact = -np.where(soft.probs > 0, soft.probs * np.log(np.maximum(soft.probs, 1e-12)), 0).sum(0).mean()
    assert record.entropy == pytest.approx(exact, abs=0.02)


def test_seeds_stay_and_unsure_pixels_can_be_left_unlabeled(tmp_path: Path) -> None:
    record = label_one(tmp_path, replace(SETTINGS, min_confidence=0.9, soft=Soft.FLOAT16))
    index = read_index(tmp_path / "out" / "labels" / "a0.png")
    seeds = read_index(tmp_path / "seeds" / "a0.png")
    np.testing.assert_array_equal(index[seeds != 255], seeds[seeds != 255])
    with np.load(tmp_path / "out" / "soft" / "a0.npz") as file:
        sure = file["labels"].max(0)
        assert file["labels"].dtype == np.float16
    np.testing.assert_array_equal(index == 255, sure < 0.9)
    assert 0 < record.labeled < 1
    assert record.labeled == pytest.approx((index != 255).mean())


@pytest.mark.parametrize("all_classes", [False, True])
def test_only_classes_with_seeds_win_unless_all_may(tmp_path: Path, all_classes: bool) -> None:
    probs = np.full((4, 12, 16), 0.02, np.float32)
    probs[3] = 0.94
    np.save(tmp_path / "p.npy", probs)
    record = label_one(tmp_path, replace(SETTINGS, all_classes=all_classes), tmp_path / "p.npy")
    found = set(np.unique(read_index(tmp_path / "out" / "labels" / "a0.png")).tolist())
    assert found == ({0, 2, 3} if all_classes else {0, 2})
    assert record.classes == ((0, 1, 2, 3) if all_classes else (0, 2))


@pytest.mark.parametrize("all_classes", [False, True])
def test_predictions_are_matched_to_classes_in_any_order(tmp_path: Path, all_classes: bool) -> None:
    right = np.zeros((12, 16), bool)
    right[:, 8:] = True
    rows = np.stack(
        [right * 0.8 + 0.1, np.full((12, 16), 0.05), 0.85 - right * 0.8]
    )  # of the classes 2, 1, 0
    np.savez(tmp_path / "p.npz", labels=rows / rows.sum(0), classes=np.array([2, 1, 0]))
    settings = replace(SETTINGS, labeler=replace(LABELER, affinity=Grid(1.0)), all_classes=all_classes)
    record = label_one(tmp_path, settings, tmp_path / "p.npz")
    assert record.classes == ((0, 1, 2) if all_classes else (0, 2))
    np.testing.assert_array_equal(read_index(tmp_path / "out" / "labels" / "a0.png"), right * 2)


def test_without_seeds_a_prediction_is_enough(tmp_path: Path) -> None:
    images, seeds, _ = make_folders(tmp_path, 1)
    write_index(seeds / "a0.png", np.full((12, 16), 255, np.uint8))
    np.save(tmp_path / "p.npy", np.stack([np.full((12, 16), 0.3), np.full((12, 16), 0.7)]))
    output = folder_of(tmp_path, SETTINGS)
    record = label_image(Job("a0", images / "a0.png", seeds / "a0.png", tmp_path / "p.npy"), SETTINGS, output)
    assert record.classes == (0, 1)
    assert (read_index(tmp_path / "out" / "labels" / "a0.png") == 1).all()
    with pytest.raises(ValueError, match="no pixel of the seeds is labeled"):
        label_image(Job("a0", images / "a0.png", seeds / "a0.png"), SETTINGS, output)


def seeds_of(values: np.ndarray) -> bytes:
    import io

    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


GOOD_SEEDS = picture(1)[1]
GOOD_PROBS = np.full((3, 12, 16), 1 / 3)


@pytest.mark.parametrize(
    ("image", "seeds", "probs", "settings", "message"),
    [
        (b"\x89PNG\r\n", None, None, SETTINGS, "image a0.png cannot be read"),
        ("truncated", None, None, SETTINGS, "image a0.png cannot be read"),
        (None, b"", None, SETTINGS, "seeds a0.png cannot be read"),
        (None, seeds_of(GOOD_SEEDS[:-1]), None, SETTINGS, "seeds of 11 x 16 pixels for an image of 12 x 16"),
        (None, seeds_of(GOOD_SEEDS.T), None, SETTINGS, "EXIF orientation"),
        (
            None,
            seeds_of(GOOD_SEEDS),
            None,
            replace(SETTINGS, num_classes=2),
            "class 2, but there are 2 classes",
        ),
        (
            None,
            seeds_of(np.arange(192).reshape(12, 16)),
            None,
            SETTINGS,
            "192 different values: a photograph",
        ),
        (
            None,
            seeds_of(np.dstack([GOOD_SEEDS] * 3)),
            None,
            SETTINGS,
            "seeds a0.png: label files hold one class",
        ),
        (
            None,
            seeds_of(GOOD_SEEDS),
            None,
            replace(SETTINGS, seeds_format=LabelFormat(9, 1)),
            "value 0 is no class",
        ),
        (None, None, GOOD_PROBS[:2] * 1.5, SETTINGS, "seeds have class 2, the probabilities only 0 to 1"),
        (
            None,
            None,
            np.where(np.eye(12, 16), np.nan, GOOD_PROBS),
            SETTINGS,
            "probabilities a0.npy: 36 of 576",
        ),
        (None, None, GOOD_PROBS[:, 1:], SETTINGS, "probabilities a0.npy: expected"),
        (None, None, GOOD_PROBS * 0.5, SETTINGS, "sum to 1"),
        (None, None, None, replace(SETTINGS, all_classes=True), "only where probabilities are given"),
    ],
)
def test_bad_input_is_a_failure_with_its_reason(
    tmp_path: Path,
    image: bytes | str | None,
    seeds: bytes | None,
    probs: np.ndarray | None,
    settings: LabelingSettings,
    message: str,
) -> None:
    images, scribbles, _ = make_folders(tmp_path, 1)
    path = images / "a0.png"
    if image is not None:
        path.write_bytes(path.read_bytes()[:-200] if isinstance(image, str) else image)
    if seeds is not None:
        (scribbles / "a0.png").write_bytes(seeds)
    if probs is not None:
        np.save(tmp_path / "a0.npy", probs)
    output = folder_of(tmp_path, settings)
    job = Job("a0", path, scribbles / "a0.png", None if probs is None else tmp_path / "a0.npy")
    failure = LabelImage(settings, output)(job)
    assert isinstance(failure, Failure)
    assert message in failure.reason
    assert contents(tmp_path / "out") == {}


@dataclass(frozen=True)
class Broken:
    """A builder with a defect."""

    def __call__(self, image: object) -> Affinity:
        """Raise what no caller expects."""
        raise KeyError("no affinity")


def test_a_file_that_vanished_and_a_defect_are_failures_of_that_image(tmp_path: Path) -> None:
    images, seeds, _ = make_folders(tmp_path, 1)
    output = folder_of(tmp_path, SETTINGS)
    gone = LabelImage(SETTINGS, output)(Job("b", images / "b.png", seeds / "a0.png"))
    assert isinstance(gone, Failure)
    assert "No such file" in gone.reason
    broken = replace(SETTINGS, labeler=replace(LABELER, affinity=Broken()))
    defect = LabelImage(broken, output)(Job("a0", images / "a0.png", seeds / "a0.png"))
    assert defect == Failure("a0", "KeyError: 'no affinity'")


def test_predictions_with_classes_last(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", GOOD_PROBS.transpose(1, 2, 0))
    settings = replace(SETTINGS, probs_format=ProbabilityFormat(channels_last=True))
    assert label_one(tmp_path, settings, tmp_path / "p.npy").classes == (0, 2)


# --- plans ---


def test_a_plan_matches_stems_and_names_what_is_missing(tmp_path: Path) -> None:
    images, seeds, _ = make_folders(tmp_path, 5)
    (seeds / "a1.png").unlink()
    probs = tmp_path / "probs"
    probs.mkdir()
    for stem in ("a0", "a1", "a2", "a4"):
        np.save(probs / f"{stem}.npy", GOOD_PROBS)
    plan = make_plan(images, seeds, probs)
    assert [job.stem for job in plan.jobs] == ["a0", "a2", "a4"]
    assert [failure.stem for failure in plan.failures] == ["a1", "a3"]
    assert "no seeds" in plan.failures[0].reason
    assert "no probabilities" in plan.failures[1].reason
    assert [job.stem for job in make_plan(images, seeds, stems=["a4", "a0"]).jobs] == ["a0", "a4"]
    assert [job.stem for job in make_plan(images, seeds, limit=3).jobs] == ["a0", "a2"]
    with pytest.raises(ValueError, match="1 of 2 stems have no image"):
        make_plan(images, seeds, stems=["a4", "x"])


def test_parts_cover_all_images_once(tmp_path: Path) -> None:
    images, seeds, _ = make_folders(tmp_path, 5)
    parts = [make_plan(images, seeds, part=Shard(index, 3)).jobs for index in range(3)]
    assert sorted(job.stem for part in parts for job in part) == ["a0", "a1", "a2", "a3", "a4"]
    assert [job.stem for job in parts[1]] == ["a1", "a4"]
    for index, count in ((3, 3), (-1, 2)):
        with pytest.raises(ValueError, match="parts count from 0"):
            Shard(index, count)
    with pytest.raises(ValueError, match="expected count as a whole number >= 1, got 0"):
        Shard(0, 0)


def test_two_files_belong_together_whatever_their_names_are(tmp_path: Path) -> None:
    images, seeds, _ = make_folders(tmp_path, 2)
    (job,) = make_plan(images / "a0.png", seeds / "a1.png").jobs
    assert job == Job("a0", images / "a0.png", seeds / "a1.png")
    (job,) = make_plan(images / "a0.png", seeds).jobs
    assert job.seeds == seeds / "a0.png"


# --- settings ---


def test_settings_are_described_by_values_that_tell_them_apart() -> None:
    described = describe(SETTINGS)
    assert isinstance(described, dict)
    assert json.loads(json.dumps(described)) == described
    labeler = described["labeler"]
    assert isinstance(labeler, dict)
    assert labeler["solver"] == {"is": "Smooth", "rounds": 3}
    assert labeler["energy"]["relaxation"] == "bilinear"
    other = describe(replace(SETTINGS, labeler=replace(LABELER, solver=Smooth(4)), soft=Soft.UINT8))
    assert isinstance(other, dict)
    assert fingerprint(described) != fingerprint(other)
    assert differences(described, other) == ("labeler.solver.rounds: 3 -> 4", 'soft: null -> "UINT8"')
    assert describe((1, 2.5, "a", None, True)) == [1, 2.5, "a", None, True]
    with pytest.raises(TypeError, match="function has no description"):
        describe(picture)


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_settings_travel_between_processes(solver: str) -> None:
    settings = LabelingSettings(default_labeler(SOLVERS[solver]()), soft=Soft.UINT8, num_classes=3)
    there = pickle.loads(pickle.dumps(settings))
    assert there == settings
    assert there.labeler.energy.coupling is settings.labeler.energy.coupling
    assert there.labeler.energy.relaxation is settings.labeler.energy.relaxation
