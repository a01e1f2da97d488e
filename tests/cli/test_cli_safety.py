"""The command line keeps the user's files, takes any file name, and resumes after data has moved."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from support.folders import contents, make_folders
from typer.testing import CliRunner, Result

from selflabel.cli import app
from selflabel.files.probabilities import write_soft


def label(images: Path, seeds: Path, out: Path, *more: object) -> Result:
    arguments = (
        "label",
        images,
        "--seeds",
        seeds,
        "--out",
        out,
        "--workers",
        1,
        "--annotator",
        "none",
        *more,
    )
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("folder", ["labels", "confidence", "soft", "overlays"])
@pytest.mark.parametrize("role", ["images", "seeds"])
@pytest.mark.parametrize("linked", [False, True])
def test_inputs_are_not_written_over(tmp_path: Path, folder: str, role: str, linked: bool) -> None:
    images, seeds, _ = make_folders(tmp_path, 2)
    out = tmp_path / "out"
    own = out / folder
    out.mkdir()
    given = {"images": images, "seeds": seeds}
    given[role].rename(own)
    given[role] = own
    if linked:
        own = tmp_path / "link"
        own.mkdir()
        for path in given[role].iterdir():
            (own / path.name).symlink_to(path)
        given[role] = own
    before = contents(tmp_path)
    result = label(given["images"], given["seeds"], out)
    assert result.exit_code == 2, result.output
    assert f"{out / folder} is the folder of your {role}: give another --out" in result.output
    assert contents(tmp_path) == before
    assert os.listdir(out) == [folder]


def test_predictions_and_single_files_are_not_written_over(tmp_path: Path) -> None:
    images, seeds, _ = make_folders(tmp_path, 1)
    soft = tmp_path / "soft"
    soft.mkdir()
    write_soft(soft / "a0.npz", np.full((3, 12, 16), 1 / 3, np.float32), np.arange(3))
    probs = ("--probs", soft / "a0.npz")
    arguments = ("label", images / "a0.png", "--seeds", seeds, "--out", tmp_path, *probs)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    assert "is the folder of your predictions" in result.output
    assert not (tmp_path / "labels").exists()


def test_names_that_are_not_utf8_are_names(tmp_path: Path) -> None:
    images, seeds, _ = make_folders(tmp_path, 1)
    stem = os.fsdecode(b"caf\xe9")
    try:
        for folder in (images, seeds):
            (folder / "a0.png").rename(folder / f"{stem}.png")
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    out = tmp_path / "out"
    first = label(images, seeds, out)
    assert first.exit_code == 0, first.output
    lines = (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[1])["stem"] == stem
    assert (out / "labels" / f"{stem}.png").is_file()
    again = label(images, seeds, out)
    assert again.exit_code == 0, again.output
    assert [line.split()[-2] for line in again.output.splitlines() if "done before" in line] == ["1"]


def test_data_may_move(tmp_path: Path) -> None:
    images, seeds, _ = make_folders(tmp_path, 2)
    probs = tmp_path / "probs"
    probs.mkdir()
    for n in range(2):
        np.save(probs / f"a{n}.npy", np.full((3, 12, 16), 1 / 3))
    out = tmp_path / "out"
    assert label(images, seeds, out, "--probs", probs).exit_code == 0
    before = (out / "manifest.jsonl").read_text()
    moved = tmp_path / "moved"
    moved.mkdir()
    there = [folder.rename(moved / folder.name) for folder in (images, seeds, probs)]
    again = label(there[0], there[1], out, "--probs", there[2])
    assert again.exit_code == 0, again.output
    after = (out / "manifest.jsonl").read_text()
    assert after.splitlines()[1:] == before.splitlines()[1:]
    head = json.loads(after.splitlines()[0])
    assert [head[name] for name in ("images", "seeds", "probs")] == [str(path) for path in there]
    other = label(there[0], there[1], out)
    assert other.exit_code == 2
    assert "probs: true -> false" in other.output


@pytest.mark.parametrize("role", ["images", "seeds", "predictions"])
@pytest.mark.parametrize("linked", [False, True])
def test_a_folder_of_inputs_is_no_folder_of_outputs(tmp_path: Path, role: str, linked: bool) -> None:
    images, seeds, _ = make_folders(tmp_path, 1)
    probs = tmp_path / "probs"
    probs.mkdir()
    np.save(probs / "a0.npy", np.full((3, 12, 16), 1 / 3))
    out = {"images": images, "seeds": seeds, "predictions": probs}[role]
    if linked:
        (tmp_path / "link").symlink_to(out)
        out = tmp_path / "link"
    before = contents(tmp_path)
    result = label(images, seeds, out, "--probs", probs)
    assert result.exit_code == 2, result.output
    assert f"{out} is the folder of your {role}: give another --out" in result.output
    assert contents(tmp_path) == before
    inside = label(images, seeds, images / "labeled", "--probs", probs)  # folders within are no images
    assert inside.exit_code == 0, inside.output
    assert label(images, seeds, images / "labeled", "--probs", probs).exit_code == 0


def test_a_wrong_setting_is_told_once_before_the_work(tmp_path: Path) -> None:
    images, seeds, _ = make_folders(tmp_path, 3)
    for given in (("forest", "trees=0"), ("mixture", "components=-1"), ("walker", "blur=-1")):
        result = label(
            images, seeds, tmp_path / "out", "--annotator", given[0], "--set", f"annotator.{given[1]}"
        )
        assert result.exit_code == 2, result.output
        assert result.output.startswith(f"error: expected {given[1].split('=')[0]} ")
        assert result.output.count("\n") == 1
        assert not (tmp_path / "out").exists()
