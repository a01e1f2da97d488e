"""Data sets that `selflabel train` refuses, warns about, or describes: all is found before the run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.folders import contents
from support.runs import call, make_data, train, weights

from selflabel.cli.config import jobs
from selflabel.cli.config.options import TrainingOptions
from selflabel.datasets.samples import Folder
from selflabel.files.label_files import write_index
from selflabel.training import load_checkpoint


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data")


def change(folder: Path, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    """Edit every label file of a folder."""
    for path in folder.iterdir():
        Image.fromarray(edit(np.array(Image.open(path))).astype(np.uint8)).save(path)


def in_color(root: Path, *stems: str) -> None:
    for stem in stems:
        path = root / "images" / f"{stem}.png"
        gray = np.array(Image.open(path).convert("L"))
        Image.fromarray(np.stack([gray, 255 - gray, gray], 2)).save(path)


# --- channels ---


def test_one_gray_image_takes_no_colors(root: Path, tmp_path: Path) -> None:
    """The number of channels is that of all images, whatever the order of the list."""
    in_color(root, "t1", "t2", "t3", "v0", "v1")
    stems = (root / "train.txt").read_text().split()
    for order in (stems, stems[::-1]):
        out = tmp_path / order[0]
        (root / "train.txt").write_text("\n".join(order))
        result = train(root, out)
        assert result.exit_code == 0, result.output
        assert "channels = 3" in (out / "config.toml").read_text()
        assert "channels: 3 (1 of 6 images are gray: their channel is repeated)" in result.output


def test_images_to_validate_with_count_too(root: Path, tmp_path: Path) -> None:
    in_color(root, "v1")
    assert "channels: 3 (5 of 6 images are gray" in train(root, tmp_path / "run").output
    asked = train(root, tmp_path / "gray", "--channels", 1)
    assert "channels: 1 (1 of 6 images have colors: they become gray)" in asked.output
    predicted = call(
        *("predict", tmp_path / "gray", root / "images", "--out", tmp_path / "probs", "--allow-code")
    )
    assert predicted.exit_code == 0, predicted.output
    assert "1 image has colors, which became gray" in predicted.output


def test_gray_data_stay_gray(root: Path, tmp_path: Path) -> None:
    result = train(root, tmp_path / "run", "--validate-every", 3)
    assert "4 images to train with, 2 to validate with; channels: 1; classes: 2" in result.output
    assert train(root, tmp_path / "two", "--channels", 2).exit_code == 2


def test_gray_data_in_three_channels_train_as_in_one(root: Path, tmp_path: Path) -> None:
    """The same network, labels and predictions, whatever the storage."""
    stored = make_data(tmp_path / "equal")
    for path in (stored / "images").iterdir():
        Image.open(path).convert("RGB").save(path)
    seen = []
    for data, name, options in (
        (root, "one", ()),
        (stored, "three", ()),
        (stored, "asked", ("--channels", 1)),
    ):
        result = train(data, tmp_path / name, *options)
        assert "channels: 1; classes: 2" in result.output, result.output
        arguments = ("predict", tmp_path / name, stored / "images", "--allow-code")
        predicted = call(*arguments, "--out", tmp_path / f"{name}-probs")
        assert predicted.exit_code == 0, predicted.output
        assert "became gray" not in predicted.output
        seen.append((weights(tmp_path / name / "last.pt"), contents(tmp_path / f"{name}-probs")))
    for parameters, probs in seen[1:]:
        assert all(map(torch.equal, parameters, seen[0][0]))
        assert {name: data for name, data in probs.items() if name != "predictions.jsonl"} == {
            name: data for name, data in seen[0][1].items() if name != "predictions.jsonl"
        }
    in_color(stored, "t1")
    assert "channels: 3; classes: 2" in train(stored, tmp_path / "mixed").output


def test_a_batch_larger_than_the_data_set_is_told(root: Path, tmp_path: Path) -> None:
    result = train(root, tmp_path / "run", "--batch", 5)
    assert "a batch of 5 has some of the 4 images more than once" in result.output


# --- seeds ---


def test_no_seed_at_all_is_refused(root: Path, tmp_path: Path) -> None:
    change(root / "scribbles", lambda index: np.full_like(index, 255))
    result = train(root, tmp_path / "run")
    assert result.exit_code == 2
    assert "no pixel of the 4 files in scribbles is labeled, there is nothing to learn from" in result.output
    assert "--unlabeled" in result.output
    assert not (tmp_path / "run" / "last.pt").exists()
    change(root / "masks", lambda index: np.full_like(index, 255))
    full = train(root, tmp_path / "run", "--method", "full")
    assert full.exit_code == 2
    assert "no pixel of the 4 files in masks is labeled" in full.output
    assert "--masks-unlabeled" in full.output


@pytest.mark.parametrize(("method", "folder"), [("pce", "scribbles"), ("full", "masks")])
def test_a_class_that_is_never_labeled_is_named(root: Path, tmp_path: Path, method: str, folder: str) -> None:
    change(root / folder, lambda index: np.where(index == 1, 255, index))
    values = ("--masks-values", "0,1", "--values", "0,1")  # that 255 is no class has to be said
    result = train(root, tmp_path / "run", "--method", method, *values)
    assert result.exit_code == 0, result.output
    assert f"no pixel of the 4 files in {folder} is labeled as class 1 (class 1)" in result.output
    assert "cannot learn it" in result.output


def test_several_classes_are_named_together(root: Path, tmp_path: Path) -> None:
    (root / "classes.txt").write_text("ground\ndisk\nrim\nsky\n")
    result = train(root, tmp_path / "run")
    assert "classes 2 (rim), 3 (sky): the network cannot learn them" in result.output


def test_seeds_at_every_pixel_are_refused(root: Path, tmp_path: Path) -> None:
    """Scribbles in which 0 means unlabeled look like this."""
    change(root / "scribbles", lambda index: np.where(index == 255, 0, index + 1))
    (root / "classes.txt").write_text("ground\ndisk\nrim\n")
    result = train(root, tmp_path / "run")
    assert result.exit_code == 2
    assert "every pixel of all 4 files in scribbles is a seed" in result.output
    assert "--unlabeled (often 0, with --seeds-offset 1; -1 says that none does)" in result.output
    alone = train(root, tmp_path / "run", "--method", "pce")
    assert alone.exit_code == 0
    assert "warning: every pixel" in alone.output


def test_masks_in_which_nothing_counts(root: Path, tmp_path: Path) -> None:
    for stem in ("v0", "v1"):
        write_index(root / "masks" / f"{stem}.png", np.full((16, 14), 255, np.uint8))
    result = train(root, tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "no pixel of the masks of val.txt counts" in result.output


def test_values_mean_what_the_options_say(root: Path, tmp_path: Path) -> None:
    """Scribbles with 0 = unlabeled, masks with classes from 1: the run of the same data as usual."""
    usual = train(root, tmp_path / "usual", "--method", "full")
    assert usual.exit_code == 0
    change(root / "scribbles", lambda index: np.where(index == 255, 0, index + 1))
    change(root / "masks", lambda index: np.where(index == 1, 8, 7))
    options = ("--unlabeled", 0, "--seeds-offset", 1, "--masks-offset", 7, "--masks-unlabeled", 0)
    mapped = train(root, tmp_path / "mapped", "--method", "full", *options)
    assert mapped.exit_code == 0, mapped.output
    for one, other in zip(
        weights(tmp_path / "usual" / "last.pt"), weights(tmp_path / "mapped" / "last.pt"), strict=True
    ):
        assert np.array_equal(one.numpy(), other.numpy())
    assert load_checkpoint(tmp_path / "mapped" / "last.pt").about["options"]["unlabeled"] == 0


def test_labels_outside_the_classes_are_refused_with_the_remedy(root: Path, tmp_path: Path) -> None:
    change(root / "scribbles", lambda index: np.where(index == 255, 2, index))
    result = train(root, tmp_path / "run")
    assert result.exit_code == 2
    assert "4 of 4 images cannot be used:" in result.output
    assert "got 2: raise the number of classes" in result.output
    assert "if 2 means unlabeled, that it does (--unlabeled 2)" in result.output
    assert train(root, tmp_path / "run", "--unlabeled", 2).exit_code == 0


# --- files ---


def test_all_damaged_files_are_named_before_the_run(root: Path, tmp_path: Path) -> None:
    for name in ("images/t1.png", "scribbles/t2.png"):
        (root / name).write_bytes((root / name).read_bytes()[:70])
    for size in ((), ("--size", 0, "--batch", 1)):  # kept in memory or not
        result = train(root, tmp_path / "run", *size)
        assert result.exit_code == 2
        assert "2 of 4 images cannot be used:" in result.output
        assert "images/t1.png" in result.output
        assert "scribbles/t2.png" in result.output
        assert not (tmp_path / "run" / "last.pt").exists()


def test_what_is_left_out_is_told(root: Path, tmp_path: Path) -> None:
    (root / "val.txt").write_text("v0\n")
    (root / "images" / "notes.txt").write_text("x")
    run, probs = tmp_path / "run", tmp_path / "probs"
    result = train(root, run)
    assert result.exit_code == 0, result.output
    said = "1 images are in none of the lists (v1); 1 file is no image (.txt)"
    assert f"left out of {root / 'images'}: {said}" in result.output
    predicted = call(
        "predict", run, root / "images", "--out", probs, "--stems", root / "val.txt", "--allow-code"
    )
    (root / "scribbles" / "x.json").touch()
    (root / "scribbles" / "alone.png").write_bytes((root / "scribbles" / "t0.png").read_bytes())
    (root / "val.txt").write_text("v0\nt0\n")
    result = train(root, tmp_path / "both")
    said = "1 files have no image (alone); 1 file is no label file (.json)"
    assert f"left out of {root / 'scribbles'}: {said}" in result.output
    assert "warning: 1 images to validate with are trained with, too (t0): scores on them" in result.output
    (root / "val.txt").write_text("v0\n")
    said = "5 images are not among the stems asked for; 1 file is no image (.txt)"
    assert f"left out of {root / 'images'}: {said}" in predicted.output


def test_validation_at_the_end_only_is_told(root: Path, tmp_path: Path) -> None:
    result = train(root, tmp_path / "run", "--validate-every", 0)
    assert "2 to validate with at the end only" in result.output
    assert "at the end only" not in train(root, tmp_path / "other", "--validate-every", 2).output


def test_files_of_one_cause_are_one_line(tmp_path: Path) -> None:
    root = make_data(tmp_path / "data", train=24)
    for path in (root / "images").glob("t*.png"):
        path.write_bytes(b"")
    result = train(root, tmp_path / "run")
    assert "24 of 24 images cannot be used" in result.output
    assert "t0, t1, t2, t3 and 20 others (24 in all): " in result.output
    assert len(result.output.splitlines()) < 10


def test_folders_that_are_no_data_sets(root: Path, tmp_path: Path) -> None:
    for folder, message in (
        (
            tmp_path / "nope",
            "nope: there is no such folder: expected a folder with images/, scribbles/, train.txt",
        ),
        (root / "train.txt", "train.txt: it is no folder"),
        (root / "images", "images has no folder images: expected a folder with images/"),
    ):
        result = train(folder, tmp_path / "run")
        assert result.exit_code == 2
        assert message in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--size", 3), "expected --size 8 or more pixels (or 0: images as they are), got 3"),
        (("--network", "uned"), "expected a network out of"),
        (("--method", "gd", "--loss", ""), "there is no loss ''"),
        (("--network", "no_such_module:make"), "there is no module 'no_such_module'"),
    ],
)
def test_names_are_checked_before_numbers_and_files(
    root: Path, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    (root / "images" / "t0.png").write_bytes(b"")
    result = train(root, tmp_path / "run", *options, "--pretrain-steps", 100)
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit)
    assert message in result.output
    assert not (tmp_path / "run" / "config.toml").exists()


@pytest.mark.parametrize(
    "option", ["--steps", "--validate-every", "--pretrain-steps", "--relabel-every", "--seed", "--power"]
)
def test_numbers_out_of_range_are_refused_by_their_option(root: Path, tmp_path: Path, option: str) -> None:
    result = train(root, tmp_path / "run", option, -1)
    assert result.exit_code == 2
    assert option in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--size", 100_000), "there is not enough memory"),
        (("--batch", 10**9), "a batch of 1000000000 images of 16 x 16 pixels take"),
        (("--num-classes", 3), "classes.txt names 2 classes, --num-classes is 3"),
    ],
)
def test_what_cannot_work_is_refused_before_files_are_read(
    root: Path, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    result = train(root, tmp_path / "run", *options)
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit)
    assert message in result.output
    assert not (tmp_path / "run").exists()


def test_running_out_of_memory_is_told(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from selflabel.cli import running

    def lacks(*_: object) -> None:
        torch.empty(2**55)

    monkeypatch.setattr(running, "run", lacks)
    result = train(root, tmp_path / "run")
    assert result.exit_code == 1, result.output
    assert "there is not enough memory: lower --batch or --size" in result.output


def test_predictions_do_not_go_into_the_run(root: Path, tmp_path: Path) -> None:
    assert train(root, tmp_path / "run").exit_code == 0
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    result = call("predict", tmp_path / "run", root / "images", "--out", tmp_path / "run", "--allow-code")
    assert result.exit_code == 2
    assert "is the folder of the run: give another --out" in result.output
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


@pytest.mark.parametrize("method", ["adm", "full"])
def test_masks_of_0_and_255_are_no_masks_of_three_classes(root: Path, tmp_path: Path, method: str) -> None:
    (root / "classes.txt").write_text("a\nb\nc\n")
    change(root / "masks", lambda mask: (mask > 0) * 255)
    result = train(root, tmp_path / "run", "--method", method)
    assert result.exit_code == 2
    assert "expected masks of 3 classes, got 0 and 255 alone" in result.output
    assert "--masks-values 0,255" in result.output
    assert train(root, tmp_path / "said", "--method", method, "--masks-values", "0,255").exit_code == 0


def test_a_run_whose_last_checkpoint_is_gone_says_that_it_starts_anew(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = train(root, out)
    assert "starts anew" not in first.output
    assert "starts anew" not in train(root, out).output
    (out / "last.pt").unlink()
    assert "has no last.pt: training starts anew, and what is there is replaced" in train(root, out).output


# --- memory ---


@pytest.mark.parametrize("size", [0, 16])
def test_images_are_kept_while_they_fit(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those to train with first; a file that cannot be read takes no room, as reading it will say."""
    root = make_data(tmp_path / "data", train=4, val=2, size=(16, 14))
    pixels = 16 * (size or 14)
    options = TrainingOptions(size=size, pretrain_steps=1, steps=2)
    for images, expected in ((6, [True, True]), (5, [True, False]), (3, [False, False])):
        monkeypatch.setattr(jobs, "KEPT_BYTES", images * pixels * (4 + 2))
        assert [folder.cache for folder in jobs.prepare(root, options).folders] == expected
    folder = Folder(root, ("t0", "t1"), 2)
    (root / "images" / "t1.png").write_bytes(b"no image")
    assert folder.pixels == 16 * 14
    folder[0]
    assert folder.kept_bytes == 16 * 14 * (4 + 1)
