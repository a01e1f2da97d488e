"""Files of a run that were edited or damaged: each command names file and line, and what to do; nothing is written."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.runs import SMALL, call, make_data
from typer.testing import Result

from selflabel.files.lock import sole_user

Edit = Callable[[Path], None]
METHOD = ("--method", "gd", "--sigma", 20)
NETWORK = (*SMALL[2:], "--network", "unet:2")
"""A network of our own: predicting with it runs no code of others."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/ and a finished run/."""
    folder = tmp_path_factory.mktemp("made")
    make_data(folder / "data")
    assert train(folder).exit_code == 0
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def train(folder: Path, *more: object) -> Result:
    return call("train", folder / "data", "--out", folder / "run", *NETWORK, *METHOD, "--steps", 4, *more)


def predict(folder: Path, *more: object) -> Result:
    return call("predict", folder / "run", folder / "data" / "images", "--out", folder / "probs", *more)


def refused(result: Result, *messages: str) -> None:
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    for message in messages:
        assert message in result.output


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def replaced(old: str, new: str) -> Edit:
    def edit(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return edit


def content(new: bytes) -> Edit:
    def edit(path: Path) -> None:
        path.write_bytes(new)

    return edit


def twice(path: Path) -> None:
    path.write_bytes(path.read_bytes() * 2)


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def utf16(path: Path) -> None:
    path.write_text(path.read_bytes().decode("latin-1"), encoding="utf-16")


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


ANY = (content(b""), content(b"\0" * 64), content(os.urandom(64)), utf16, directory, pipe, twice, half)
NAMES = ("empty", "zeros", "binary", "utf-16", "directory", "pipe", "twice", "half")


@pytest.mark.parametrize("edit", ANY, ids=NAMES)
@pytest.mark.parametrize("name", ["last.pt", "history.jsonl", "config.toml", "best.pt"])
def test_damaged_files_of_a_run(folder: Path, name: str, edit: Edit) -> None:
    path = folder / "run" / name
    whole = path.read_bytes()
    edit(path)
    if (name, edit) == ("history.jsonl", twice):  # rows after those of the checkpoint do not count
        assert train(folder).exit_code == 0
        assert path.read_bytes() == whole
        return
    before = contents(folder / "run") if not path.is_fifo() else None
    result = train(folder)
    refused(result, f"run/{name}" if path.is_file() else "run/")
    assert before is None or contents(folder / "run") == before


@pytest.mark.parametrize("edit", ANY, ids=NAMES)
@pytest.mark.parametrize("name", ["best.pt", "config.toml"])
def test_damaged_files_of_a_run_to_predict_with(folder: Path, name: str, edit: Edit) -> None:
    edit(folder / "run" / name)
    refused(predict(folder, "--checkpoint", "best"), f"run/{name}")
    assert not (folder / "probs").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("size = 16", "size = 32", "`size: 16 -> 32`"),
        ("size = 16", 'size = "16"', "expected size as a whole number, got '16'"),
        ("size = 16", "size = -1", "expected size >= 0, got -1"),
        ("size = 16\n", "", "size: 16 -> 128"),
        ("size = 16", "size = 16\nsize = 16", "Cannot overwrite a value"),
        ("size = 16", "sizes = 16", "there is no option 'sizes' (did you mean size?)"),
        ("steps = 4", "steps = 400", "steps: 4 -> 400"),
        ("sigma = 20.0", "sigma = nan", "expected sigma as a number, got nan"),
        ('network = "unet:2"', 'network = "unet:3"', 'network: "unet:2" -> "unet:3"'),
        ('network = "unet:2"', 'network = "os:system"', 'network: "unet:2" -> "os:system"'),
        ("channels = 1", "channels = 3", "channels: 1 -> 3"),
        ("num_classes = 2", "num_classes = 20", "num_classes: 2 -> 20"),
        ("[objective]", "objective = 3\n[objectiv]", "got the table [objectiv]"),
        ("potts.affinity.sigma = 20.0", "potts.affinity.sigma = 5.0", "changes there have no effect"),
    ],
)
def test_an_edited_configuration_is_named(folder: Path, old: str, new: str, message: str) -> None:
    replaced(old, new)(folder / "run" / "config.toml")
    for result in (train(folder), predict(folder)):
        refused(result, "config.toml", message.strip("`"))
    assert not (folder / "probs").exists()


def test_the_line_is_told(folder: Path) -> None:
    path = folder / "run" / "config.toml"
    number = path.read_text().splitlines().index("size = 16") + 1
    replaced("size = 16", "size = 32")(path)
    refused(predict(folder), f"config.toml, line {number} was edited (size: 16 -> 32)")


def test_an_edited_description_in_a_file_of_options_is_refused(folder: Path, tmp_path: Path) -> None:
    """[objective] follows from the options: a change there would be ignored."""
    path = folder / "run" / "config.toml"
    options = ("train", folder / "data", "--out", tmp_path / "other", "--config", path)
    number = path.read_text().splitlines().index("potts.affinity.sigma = 20.0") + 1
    replaced("potts.affinity.sigma = 20.0", "potts.affinity.sigma = 5.0")(path)
    refused(
        call(*options),
        f"config.toml, line {number}: [objective] potts.affinity.sigma = 5.0, but the options above it make it 20.0",
    )
    assert not (tmp_path / "other").exists()
    replaced("potts.affinity.sigma = 5.0", "potts.affinity.sigma = 20.0")(path)
    assert call(*options, "--sigma", 5).exit_code == 0  # the command line wins, and is no edit


@pytest.mark.parametrize(
    "edit",
    [
        *ANY[:6],
        half,
        replaced('"dice": 0.', '"dice": 0.9'),
        replaced('"iou": ', '"iou": "high", "x": '),
        replaced('"hd95": ', '"hd": '),
        replaced('"step": 4', '"step": null'),
        replaced('"step": 4', '"step": 3'),
        replaced('"dice": ', '"dice": NaN, "was": '),
        replaced('"digest": "', '"digest": "0'),
        replaced("{", "[{"),
    ],
)
def test_edited_scores_are_named(folder: Path, edit: Edit) -> None:
    edit(folder / "run" / "scores.json")
    refused(train(folder), "scores.json", "its scores are computed again")
    path = folder / "run" / "scores.json"
    path.rmdir() if path.is_dir() else path.unlink()
    assert train(folder).exit_code == 0
    assert json.loads(path.read_text())["step"] == 4


def test_an_edited_history_is_named(folder: Path) -> None:
    path = folder / "run" / "history.jsonl"
    lines = path.read_text().splitlines()
    lines[2] = lines[2].replace('"loss": ', '"loss": 1')
    path.write_text("\n".join(lines) + "\n")
    refused(train(folder), "history.jsonl, line 3 is damaged", "put the file back")


# --- one process at a time ---


def test_a_second_run_is_refused_before_it_writes(folder: Path) -> None:
    (folder / "run" / "last.pt").unlink()  # as before the first checkpoint: options may change
    before = contents(folder / "run")
    with sole_user(folder / "run"):
        refused(train(folder, "--lr", 0.5), "another process that works in it")
    assert contents(folder / "run") == before


def test_predictions_and_comparisons_have_one_writer(folder: Path, tmp_path: Path) -> None:
    (folder / "probs").mkdir()
    with sole_user(folder / "probs"):
        refused(predict(folder), "another process that works in it")
    assert not list((folder / "probs").iterdir())
    pytest.importorskip("matplotlib")
    out = tmp_path / "compared"
    out.mkdir()
    with sole_user(out):
        refused(
            call("compare", folder / "data", "--runs", "pce", "--out", out),
            "another process that works in it",
        )
    assert not list(out.iterdir())


def test_a_comparison_and_a_run_exclude_each_other(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    own = tmp_path / "compared" / "runs" / "pce" / "seed-1"
    own.mkdir(parents=True)
    with sole_user(own):
        result = call("compare", folder / "data", "--runs", "pce", "--out", tmp_path / "compared")
        refused(result, "run 'pce, seed 1'", "another process that works in it")
    assert not list(own.iterdir())


# --- code of others ---


def test_a_run_that_names_a_module_needs_to_be_trusted(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert (
        call("train", folder / "data", "--out", out, *SMALL, "--steps", 2, "--method", "pce").exit_code == 0
    )
    predicting = ("predict", out, folder / "data" / "images", "--out", tmp_path / "probs")
    refused(call(*predicting), "imports the module support.runs and runs its code: give --allow-code")
    assert not (tmp_path / "probs").exists()
    assert call(*predicting, "--allow-code").exit_code == 0
    copied = tmp_path / "options.toml"  # the tables of a run tell that it is the file of one
    copied.write_bytes((out / "config.toml").read_bytes())
    for path in (out / "config.toml", copied):
        for command in (("train",), ("compare", "--runs", "pce")):
            if "compare" in command:
                pytest.importorskip("matplotlib")
            given = (command[0], folder / "data", *command[1:], "--out", tmp_path / "other", "--config", path)
            refused(call(*given), f"{path} has the network support.runs:tiny", "give --allow-code")
            assert not (tmp_path / "other").exists()
