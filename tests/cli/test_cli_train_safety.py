"""`selflabel train` and `predict`: bad data, interrupted runs, files of options."""

import importlib
import inspect
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.processes import environment
from support.runs import SMALL, call, make_data, train, weights

from selflabel.cli.config.declarations import parsed
from selflabel.cli.config.options import DEFAULTS, TrainingOptions, merged
from selflabel.cli.config.toml import changes, read_config, read_table, write_config
from selflabel.cli.flags import command
from selflabel.datasets.samples import Folder
from selflabel.files.label_files import read_index, write_index
from selflabel.training import load_checkpoint, read_history

PROGRAM = "from selflabel.cli import main; main()"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data")


# --- bad data ---


def spoil_mask(root: Path) -> None:
    (root / "masks" / "v1.png").unlink()


def spoil_scribbles(root: Path) -> None:
    (root / "scribbles" / "t1.png").unlink()


def spoil_labels(root: Path) -> None:
    index = read_index(root / "scribbles" / "t2.png")
    index[3, 3], index[4, 4] = 2, 9
    write_index(root / "scribbles" / "t2.png", index)


def spoil_image(root: Path) -> None:
    (root / "images" / "t3.png").write_bytes((root / "images" / "t3.png").read_bytes()[:60])


def spoil_split(root: Path) -> None:
    (root / "train.txt").unlink()


def spoil_classes(root: Path) -> None:
    (root / "classes.txt").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_mask, "masks: there is no mask of v1"),
        (spoil_scribbles, "scribbles: there is no scribbles of t1"),
        (spoil_labels, "t2.png: expected labels in 0..1 or 255 (unlabeled), got 2, 9"),
        (spoil_image, "t3.png cannot be read"),
        (spoil_split, "train.txt: a text file with one stem"),
        (spoil_classes, "classes.txt: write a line for each class there, or give --num-classes"),
    ],
)
def test_bad_data_stops_before_the_run(
    root: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(root)
    result = train(root, tmp_path / "run")
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert not (tmp_path / "run" / "last.pt").exists()


def test_a_missing_mask_stops_full_supervision(root: Path, tmp_path: Path) -> None:
    (root / "masks" / "t0.png").unlink()
    result = train(root, tmp_path / "run", "--method", "full")
    assert result.exit_code == 2
    assert "masks: there is no mask of t0" in result.output
    assert train(root, tmp_path / "run", "--method", "pce").exit_code == 0  # needs no masks


def test_nan_ends_the_run_with_a_message(root: Path, tmp_path: Path) -> None:
    options = ("--method", "pce", "--learning-rate", 1e30, "--checkpoint-every", 1)
    result = train(root, tmp_path / "run", *options)
    assert result.exit_code == 1
    assert "step 2: the network's prediction is nan or inf" in result.output
    assert f"The last good checkpoint is {tmp_path / 'run' / 'last.pt'}" in result.output
    assert load_checkpoint(tmp_path / "run" / "last.pt").step == 1


def test_validation_needs_masks(root: Path, tmp_path: Path) -> None:
    result = train(root, tmp_path / "out", "--masks", "mask")
    assert result.exit_code == 2
    assert "mask to validate with: name the folder with --masks" in result.output
    (root / "val.txt").unlink()
    assert train(root, tmp_path / "out", "--masks", "mask").exit_code == 0


def test_a_run_goes_beyond_the_seeds(root: Path, tmp_path: Path) -> None:
    result = train(root, tmp_path / "out", "--pretrain-steps", 6, steps=6)
    assert result.exit_code == 2
    assert "expected more steps than the 6 on the seeds alone, got 6" in result.output
    assert train(root, tmp_path / "out", "--pretrain-steps", 6, "--method", "pce", steps=6).exit_code == 0


def test_files_of_others_are_not_replaced(root: Path, tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text("precious")
    result = train(root, tmp_path)
    assert result.exit_code == 2
    assert "history.csv exists and is not of a training run here" in result.output
    assert (tmp_path / "history.csv").read_text() == "precious"


def test_a_start_that_failed_does_not_hold_the_folder(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert train(root, out, "--network", "uned").exit_code == 2
    assert train(root, out).exit_code == 0


# --- resuming ---


def test_a_run_is_resumed_with_its_own_options_only(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train(root, out).exit_code == 0
    before = (out / "last.pt").read_bytes()
    assert train(root, out, "--checkpoint-every", 2).exit_code == 0  # has no effect on the weights
    assert (out / "last.pt").read_bytes() == before
    other = train(root, out, "--sigma", 5.0, steps=7)
    assert other.exit_code == 2
    assert "sigma: none -> 5.0; steps: 6 -> 7" in other.output
    elsewhere = train(make_data(tmp_path / "more", train=5), out)
    assert elsewhere.exit_code == 2
    assert "other files" in elsewhere.output
    stem = (root / "train.txt").read_text().split()[1]
    scribbles = read_index(root / "scribbles" / f"{stem}.png")
    scribbles[:, ::2] = 255
    write_index(root / "scribbles" / f"{stem}.png", scribbles)
    assert "edited since" in train(root, out).output


def test_any_byte_of_a_file_counts(root: Path) -> None:
    before = Folder(root, ("t0", "t1"), 2).digest
    path = root / "images" / "t1.png"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    assert Folder(root, ("t0", "t1"), 2).digest != before


def test_several_sizes_are_refused_before_the_run(root: Path, tmp_path: Path) -> None:
    for folder in ("images", "scribbles", "masks"):
        path = root / folder / "t3.png"
        Image.open(path).crop((0, 0, 12, 16)).save(path)
    result = train(root, tmp_path / "run", "--size", 0)
    assert result.exit_code == 2
    assert "16 x 14 (t0) and 16 x 12 (t3): give the data set a size, or take batches of one" in result.output
    assert train(root, tmp_path / "one", "--size", 0, "--batch", 1).exit_code == 0
    assert train(root, tmp_path / "square").exit_code == 0


def test_full_masks_need_no_scribbles(root: Path, tmp_path: Path) -> None:
    (root / "scribbles" / "t2.png").unlink()
    assert "there is no scribbles of t2" in train(root, tmp_path / "seeds").output
    result = train(root, tmp_path / "run", "--method", "full")
    assert result.exit_code == 0, result.output


def test_a_folder_whose_checkpoint_is_gone_starts_afresh(root: Path, tmp_path: Path) -> None:
    out, anew = tmp_path / "run", tmp_path / "anew"
    assert train(root, out).exit_code == 0
    for name in ("last.pt", "history.csv", "history.jsonl"):
        (out / name).unlink()
    assert train(root, out, "--method", "pce", "--lr", 0.2).exit_code == 0
    assert train(root, anew, "--method", "pce", "--lr", 0.2).exit_code == 0
    assert (out / "scores.json").read_text() == (anew / "scores.json").read_text()
    assert load_checkpoint(out / "best.pt").best == load_checkpoint(anew / "best.pt").best


def test_a_table_of_options_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "options.toml").write_text("[training]\nsteps = 2\n")
    result = train(root, tmp_path / "run", "--config", tmp_path / "options.toml")
    assert result.exit_code == 2
    assert "options above all tables, got the table [training]" in result.output


def test_a_byte_order_mark_is_no_part_of_a_stem(root: Path, tmp_path: Path) -> None:
    for name in ("train.txt", "classes.txt"):
        (root / name).write_text("\ufeff" + (root / name).read_text(), encoding="utf-8")
    result = train(root, tmp_path / "run")
    assert result.exit_code == 0, result.output


def test_killed_runs_go_on_as_if_they_had_not_been(root: Path, tmp_path: Path) -> None:
    """SIGKILL at some moment: the same command gives the history and the weights of an undisturbed run."""
    options = ["--steps", "60", "--checkpoint-every", "5", "--validate-every", "20", "--solver", "graph-cut"]
    small = [str(value) for value in SMALL]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-c", PROGRAM, "train", str(root), "--out", str(killed), *small, *options]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(read_history(killed / "history.jsonl")) < 13 and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 10 <= load_checkpoint(killed / "last.pt").step < 60
    for out in (killed, whole):
        result = call("train", root, "--out", out, *SMALL, *options)
        assert result.exit_code == 0, result.output
    one, two = (read_history(out / "history.jsonl") for out in (killed, whole))
    assert len(one) == len(two) == 60
    for row, other in zip(one, two, strict=True):
        assert {k: v for k, v in row.items() if "seconds" not in k} == {
            k: v for k, v in other.items() if "seconds" not in k
        }
    for tensor, same in zip(weights(killed / "last.pt"), weights(whole / "last.pt"), strict=True):
        assert torch.equal(tensor, same)


def test_interrupted_by_hand(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from selflabel.cli import running

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "run", interrupt)
    result = train(root, tmp_path / "run")
    assert result.exit_code == 130
    assert "the same command goes on" in result.output


def test_a_folder_that_cannot_be_written(root: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    result = train(root, tmp_path / "run")
    assert result.exit_code in (1, 2)
    assert "error:" in result.output


# --- predict ---


@pytest.fixture
def run(root: Path, tmp_path: Path) -> Path:
    assert train(root, tmp_path / "run", steps=2).exit_code == 0
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--checkpoint", "first"], "there is no checkpoint 'first'"),
        (["--format", "png"], "there is no format 'png'"),
        (["--precision", "float"], "there is no precision 'float' (did you mean"),
        (["--stems", "STEMS"], "stems.txt, line 1: there is no image 'nowhere'"),
        (["--device", "abacus"], "there is no device"),
    ],
)
def test_wrong_options_of_predict(
    root: Path, run: Path, tmp_path: Path, more: list[str], message: str
) -> None:
    (tmp_path / "stems.txt").write_text("nowhere\n")
    given = [str(tmp_path / "stems.txt") if one == "STEMS" else one for one in more]
    result = call("predict", run, root / "images", "--out", tmp_path / "probs", "--allow-code", *given)
    assert result.exit_code == 2, result.output
    assert message in result.output


def test_predict_needs_a_run(root: Path, run: Path, tmp_path: Path) -> None:
    nothing = call("predict", tmp_path, root / "images", "--out", tmp_path / "probs", "--allow-code")
    assert nothing.exit_code == 2
    assert "holds no training run" in nothing.output
    (run / "best.pt").unlink()
    (run / "last.pt").unlink()
    early = call("predict", run, root / "images", "--out", tmp_path / "probs", "--allow-code")
    assert early.exit_code == 2
    assert "has not come to it yet" in early.output


def test_bad_images_are_listed_and_the_others_predicted(root: Path, run: Path, tmp_path: Path) -> None:
    (root / "images" / "v0.png").write_bytes(b"")
    (tmp_path / "stems.txt").write_text("v1\nv0\n")
    options = ("--stems", tmp_path / "stems.txt", "--format", "npy", "--precision", "float32")
    result = call("predict", run, root / "images", "--out", tmp_path / "probs", "--allow-code", *options)
    assert result.exit_code == 1
    assert "1 failed" in result.output
    assert np.load(tmp_path / "probs" / "v1.npy").shape == (2, 16, 14)
    other = call(
        "predict", run, root / "images", "--out", tmp_path / "probs", "--allow-code", "--checkpoint", "last"
    )
    assert other.exit_code == 2
    assert "predictions of another checkpoint" in other.output
    inputs = call("predict", run, root / "images", "--out", root / "images", "--allow-code")
    assert inputs.exit_code == 2
    assert "is the folder of your images" in inputs.output


# --- files of options ---


def test_options_survive_a_file(tmp_path: Path) -> None:
    given = TrainingOptions(
        loss='a "quoted" name \\ é \x7f', learning_rate=1e-5, set=("a.b=1", "c=x"), neighbors=8, augment=False
    )
    write_config(tmp_path / "c.toml", given, "one\ntwo", {"run": {"a.b": 1, "odd key": "x", "none": None}})
    assert merged(read_config(tmp_path / "c.toml", TrainingOptions)) == given
    assert changes(given, DEFAULTS)
    assert read_table(tmp_path / "c.toml", "run") == {"a": {"b": 1}, "odd key": "x"}
    assert read_table(tmp_path / "c.toml", "nothing") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz = 3", "c.toml, line 1: there is no option 'stepz' (did you mean steps?)"),
        ('steps = "3"', "c.toml, line 1: expected steps as a whole number, got '3'"),
        ("steps = 3.5", "expected steps as a whole number, got 3.5"),
        ("steps = true", "expected steps as a whole number, got True"),
        ("augment = 1", "expected augment as true or false, got 1"),
        ("sigma = 'x'", "expected sigma as a number, got 'x'"),
        ("set = 'a=1'", "expected set as a list of texts, got 'a=1'"),
        ("size = 1 = 2", "c.toml cannot be read"),
        ("batch = 0", "expected batch >= 1, got 0"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ValueError, match=r"expected|there is no|cannot be read") as error:
        merged(read_config(tmp_path / "c.toml", TrainingOptions))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("steps", "7", 7),
        ("sigma", "7", 7.0),
        ("sigma", "None", None),
        ("augment", "True", True),
        ("loss", "1", "1"),
    ],
)
def test_options_from_text(name: str, text: str, value: object) -> None:
    found = parsed(name, text, TrainingOptions)
    assert found == value
    assert type(found) is type(value)


def test_every_option_is_on_the_command_line() -> None:
    train_module = importlib.import_module("selflabel.cli.train")  # the name is the command's in the package
    parameters = set(inspect.signature(command(train_module.train)).parameters)
    assert {entry.name for entry in fields(TrainingOptions)} <= parameters


def test_best_weights_that_are_gone_are_told(root: Path, tmp_path: Path) -> None:
    out, probs = tmp_path / "run", tmp_path / "probs"
    assert train(root, out, "--validate-every", 2).exit_code == 0
    images = ("predict", out, root / "images", "--out", probs, "--allow-code")
    assert "is gone" not in call(*images).output
    (out / "best.pt").unlink()
    for name in ("scores.json", "config.toml"):  # of a run that was killed while it wrote them
        (out / f".{name}.99999999.0123456789abcdef.selflabel-part").touch()
    again = train(root, out, "--validate-every", 2)
    assert not list(out.glob(".*"))
    assert again.exit_code == 0, again.output
    assert "best.pt is gone, which held the best weights so far (Dice 0." in again.output
    found = call(*images, "--overwrite")
    assert found.exit_code == 0, found.output
    assert "best.pt is gone, which held the best weights" in found.output
    assert "last.pt is taken, the weights of step 6" in found.output
    assert "is gone" not in call(*images, "--overwrite", "--checkpoint", "last").output
    (probs / "v1.npz").unlink()
    assert "1 predicted again:\n  v1: v1.npz is gone" in call(*images, "--checkpoint", "last").output
    asked = call(*images, "--checkpoint", "best")
    assert asked.exit_code == 2
    assert "has not come to it yet, or the file was deleted" in asked.output
