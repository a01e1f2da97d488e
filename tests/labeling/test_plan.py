"""Which files belong together, whatever their names look like; predictions without seeds."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from support.folders import LABELER, make_folders, picture
from typer.testing import CliRunner, Result

import selflabel
from selflabel.cli import app
from selflabel.files.images import read_image
from selflabel.files.label_files import read_index
from selflabel.labeling.plan import Shard, make_plan

IMAGE, SEEDS, TRUTH = picture(5_172)
PROBS = np.random.default_rng(8_803).dirichlet(np.ones(4), TRUTH.shape).transpose(2, 0, 1).astype(np.float32)


def label(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["label", *map(str, arguments), "--workers", "1"])


@pytest.mark.parametrize(
    ("image", "seeds"),
    [
        ("cell_01.ome.tif", "cell_01.tif"),
        ("cell_01.tif", "cell_01.ome.tif"),
        ("cell_01.PNG", "cell_01.png"),
        ("cell_01.jpg", "cell_01.jpg.png"),
        ("v1.2.png", "v1.2.tif"),
        (unicodedata.normalize("NFD", "café.png"), unicodedata.normalize("NFC", "café.png")),
        (unicodedata.normalize("NFC", "한글.png"), unicodedata.normalize("NFD", "한글.png")),
    ],
)
def test_names_that_belong_together(tmp_path: Path, image: str, seeds: str) -> None:
    for folder, name in (("images", image), ("seeds", seeds)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).touch()
    plan = make_plan(tmp_path / "images", tmp_path / "seeds")
    assert [(job.image.name, job.seeds and job.seeds.name) for job in plan.jobs] == [(image, seeds)]
    assert plan.failures == ()
    assert plan.left_out == ()
    for stem in (plan.jobs[0].stem, image, seeds):
        assert make_plan(tmp_path / "images", tmp_path / "seeds", stems=[stem]).jobs == plan.jobs
    assert image.startswith(plan.jobs[0].stem + ".")  # what is written is spelled as the image is


def test_what_is_left_out_of_a_plan(tmp_path: Path) -> None:
    images, seeds, _ = make_folders(tmp_path, 7)
    for path in (
        images / "notes.txt",
        images / "a.json",
        seeds / "a9.png",
        seeds / "a8.png",
        seeds / "x.json",
    ):
        path.touch()
    (seeds / "a3.png").rename(seeds / "a3_scribbles.png")
    plan = make_plan(images, seeds, stems=["a0", "a2", "a3", "a4"], limit=3, part=Shard(0, 2))
    assert [job.stem for job in plan.jobs] == ["a0"]
    assert (
        plan.failures[0].reason
        == f"no seeds: {seeds} has no file named a3.png or a3.tif, only a3_scribbles.png"
    )
    assert plan.left_out == (
        "2 files are no images (.json, .txt)",
        "3 images are not among the stems asked for",
        "1 images are beyond the limit",
        "1 images are of other parts",
        "3 of the seeds have no image (a3_scribbles, a8, a9)",
        f"1 file is no label file (.json) in {seeds}",
    )
    assert make_plan(images / "a0.png", seeds).left_out == ()


def test_predictions_need_no_seeds(tmp_path: Path) -> None:
    images, _, _ = make_folders(tmp_path, 2)
    (tmp_path / "probs").mkdir()
    for stem in ("a0", "a1"):
        np.save(tmp_path / "probs" / f"{stem}.npy", PROBS)
    out = tmp_path / "out"
    result = label(images, "--probs", tmp_path / "probs", "--out", out)
    assert result.exit_code == 0, result.output
    line = json.loads((out / "manifest.jsonl").read_text().splitlines()[1])
    assert (line["classes"], line["seeded"]) == ([0, 1, 2, 3], 0)
    image = read_image(images / "a0.png")
    found = selflabel.label(image, probs=PROBS)
    np.testing.assert_array_equal(read_index(out / "labels" / "a0.png"), found.index)
    void = selflabel.label(image, np.full_like(SEEDS, 255), probs=PROBS)
    np.testing.assert_array_equal(found.index, void.index)
    again = label(images, "--probs", tmp_path / "probs", "--out", out)
    assert again.exit_code == 0, again.output
    with_seeds = label(images, "--probs", tmp_path / "probs", "--seeds", tmp_path / "seeds", "--out", out)
    assert with_seeds.exit_code == 2
    assert "seeds: false -> true" in with_seeds.output


def test_files_of_torch_are_not_opened(tmp_path: Path) -> None:
    images, seeds, _ = make_folders(tmp_path, 1)
    probs = tmp_path / "probs"
    probs.mkdir()
    with pytest.raises(ValueError, match=r"no files named \*\.npz, \*\.npy, \*\.tif, \*\.tiff$"):
        make_plan(images, seeds, probs)
    (probs / "a0.pt").touch()
    with pytest.raises(
        ValueError, match=r"\(\.pt\)\): files of torch are pickles and are not opened; np\.save"
    ):
        make_plan(images, seeds, probs)


def test_neither_seeds_nor_predictions(tmp_path: Path) -> None:
    images, _, _ = make_folders(tmp_path, 1)
    result = label(images, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "expected seeds, predictions (probs), or both, or boxes, got none" in result.output
    with pytest.raises(ValueError, match="no probabilities are given: label some, or give a prediction"):
        selflabel.label(IMAGE, solver=LABELER)


def test_classes_of_seeds_that_the_prediction_lacks_are_named() -> None:
    with pytest.raises(ValueError, match="seeds have class 2, the probabilities only 0 to 1"):
        selflabel.label(IMAGE, SEEDS, LABELER, probs=PROBS[:2] / PROBS[:2].sum(0))


def test_lists_for_label(tmp_path: Path) -> None:
    images, seeds, _ = make_folders(tmp_path, 3)
    (tmp_path / "val.txt").write_bytes("a2.png\r\nimages\\a0.png\r\n".encode("utf-16"))
    common = (images, "--seeds", seeds, "--annotator", "none", "--out", tmp_path / "out")
    result = label(*common, "--stems", tmp_path / "val.txt")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "out" / "labels").iterdir()) == ["a0.png", "a2.png"]
    result = label(*common, "--stems", tmp_path / "nope.txt")
    assert result.exit_code == 2
    assert "nope.txt: no such file: expected one stem" in result.output
