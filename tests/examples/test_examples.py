"""Every example runs in small, as its user starts it, and writes what it says."""

import csv
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.filters import draw_filters
from support.runs import make_data
from typer.testing import CliRunner

from selflabel.cli import app

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(autouse=True)
def imports_of_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """An example imports its neighbors, as when Python runs its file."""
    monkeypatch.syspath_prepend(str(EXAMPLES))


def start(monkeypatch: pytest.MonkeyPatch, example: str, *arguments: object) -> None:
    path = str(EXAMPLES / example)
    monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
    runpy.run_path(path, run_name="__main__")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_training_loop() -> None:
    found = runpy.run_path(str(EXAMPLES / "training_loop.py"))["main"](steps=12)
    assert found > 0.5


@pytest.mark.quick
def test_corruption(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    start(monkeypatch, "corruption.py", "--out", tmp_path, "--draws", 1, "--epochs", 1)
    found = rows(tmp_path / "corruption.csv")
    assert len(found) == 10 * 3
    assert float(found[0]["accuracy"]) > 0.5  # nothing is corrupted
    assert (tmp_path / "corruption.md").read_text().count("\n") == 2 + 10


def test_gd_vs_adm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")

    def in_this_process(command: Sequence[str], *, check: bool) -> None:
        assert list(command[:3]) == [sys.executable, "-m", "selflabel"]
        assert check
        result = CliRunner().invoke(app, command[3:])
        assert result.exit_code == 0, result.output

    monkeypatch.setattr(subprocess, "run", in_this_process)
    start(monkeypatch, "gd_vs_adm.py", "--sample", "--steps", 2, "--out", tmp_path)
    for name in ("dense-crf", "potts"):
        for suffix in (".png", ".svg", ".csv", ".md"):
            assert (tmp_path / name / f"comparison{suffix}").stat().st_size > 0


def test_acdc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data, out = make_data(tmp_path / "data", train=2, val=1), tmp_path / "out"
    start(monkeypatch, "acdc.py", data, "--out", out, "--seeds", 1, "--steps", 2, "--size", 32)
    found = rows(out / "scores.csv")
    assert len(found) == 17
    assert all(0 <= float(row["dice"]) <= 1 for row in found)
    assert (out / "table.md").read_text().count("\n") == 2 + 17


def test_relaxations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data, out = make_data(tmp_path / "data", train=2, val=1), tmp_path / "out"
    start(monkeypatch, "relaxations.py", data, "--out", out, "--steps", 2, "--size", 32, "--lengths", 0.5)
    found = rows(out / "relaxations.csv")
    assert len(found) == 6 + 4
    assert all(0 <= float(row["dice"]) <= 1 for row in found)


def camvid(
    monkeypatch: pytest.MonkeyPatch, path: Path, *options: object, example: str = "camvid.py"
) -> tuple[list[dict[str, str]], Path]:
    """The rows of its scores, and where it wrote them."""
    data, out = make_data(path / "data", train=4, val=1), path / "out"
    small = ("--seeds", 1, "--steps", 1, "--scribble-steps", 1, "--size", 32, "--batch", 2)
    untrained = ("--network", "unet:2")
    start(monkeypatch, example, data, "--out", out, *untrained, *small, *options)
    return rows(out / "scores.csv") if (out / "scores.csv").exists() else [], out


def test_camvid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found, out = camvid(monkeypatch, tmp_path)
    assert len(found) == 17
    assert all(0 <= float(row["iou"]) <= 1 for row in found)
    assert (out / "table.md").read_text().count("\n") == 2 + 17


def test_camvid_aside_from_shorter_scribbles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    methods = ("--methods", "pCE", "labels of the random walker")
    options = ("--aside", 1, "--length", 0.5, *methods)
    found, out = camvid(monkeypatch, tmp_path, *options)
    assert [row["method"] for row in found] == list(methods[1:])
    written = (out / "labels-of-the-random-walker.npz").stat().st_mtime_ns
    assert camvid(monkeypatch, tmp_path, *options)[0] == found  # nothing is done again
    assert (out / "labels-of-the-random-walker.npz").stat().st_mtime_ns == written


def test_camvid_from_clicks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", train=4, val=1)
    (data / "scribbles").rename(data / "clicks")
    small = ("--seeds", 1, "--steps", 1, "--scribble-steps", 1, "--size", 32, "--batch", 2)
    untrained = ("--network", "unet:2", "--methods", "pCE")
    start(monkeypatch, "camvid.py", data, "--out", tmp_path / "out", *untrained, *small, "--clicks")
    assert [row["method"] for row in rows(tmp_path / "out" / "scores.csv")] == ["pCE"]


@pytest.mark.quick
@pytest.mark.parametrize(
    "example", ["camvid.py", "acdc.py", "clustering.py", "image_tags.py", "photographs.py", "relaxations.py"]
)
def test_a_folder_holds_runs_of_one_protocol(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], example: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "options.json").write_text('{"steps": "7"}')
    with pytest.raises(SystemExit, match="2"):
        start(monkeypatch, example, tmp_path, "--out", out, "--steps", 8)
    said = " ".join(capsys.readouterr().err.split())
    assert "holds runs with steps 7 instead of 8" in said
    assert "take another --out" in said
    assert [file.name for file in out.iterdir()] == ["options.json"]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seeds", 0), "expected a whole number from 1 on, got 0"),
        (("--methods", "soft"), "'soft, nearest'"),
    ],
)
def test_wrong_options_of_examples(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[object, ...],
    message: str,
) -> None:
    with pytest.raises(SystemExit, match="2"):
        start(monkeypatch, "camvid.py", tmp_path, "--out", tmp_path / "out", *options)
    assert message in capsys.readouterr().err


def test_images_that_are_all_kept_aside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got all 4 of train"):
        camvid(monkeypatch, tmp_path, "--aside", 9)


@pytest.mark.quick
def test_shares_of_full_masks_are_of_the_same_seeds() -> None:
    runs = runpy.run_path(str(EXAMPLES / "camvid_runs.py"))
    scores = [
        runs["Score"](*one, 60.0)
        for one in (
            ("full masks", 1, 0.5),
            ("full masks", 2, 0.7),
            ("full masks, balanced", 1, 0.625),
            ("pCE", 1, 0.5),
            ("pCE", 2, 0.4),
            ("soft, nearest", 3, 0.6),
        )
    ]
    cells = [line.split(" | ") for line in runs["table"](scores).splitlines()[2:]]
    assert [cell[2] for cell in cells] == ["80.0 %", "100.0 %", "75.0 %", ""]


def test_supervision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found, _ = camvid(monkeypatch, tmp_path, example="supervision.py")
    assert len(found) == 8
    assert all(0 <= float(row["iou"]) <= 1 for row in found)


def test_crf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, out = camvid(monkeypatch, tmp_path, example="crf.py")
    lines = (out / "crf.md").read_text().splitlines()
    assert len(lines) == 2 + 2 * 2 + 1
    assert all(0 <= float(line.split("|")[2]) <= 1 for line in lines[2:])


def test_annotators(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_filters(monkeypatch)
    own = ("local, none", "combined, total-variation", "global, dense-crf")
    _, out = camvid(monkeypatch, tmp_path, "--methods", own[0], example="annotators.py")
    written = {file: file.stat().st_mtime_ns for file in (out / "predictions").iterdir()}
    assert "no gap yet" in capsys.readouterr().out
    methods = ("--methods", "full masks, balanced", "pCE", *own)
    camvid(monkeypatch, tmp_path, *methods, example="annotators.py")
    lines = (out / "gap.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["full", "weak", *own]
    assert len(list((out / "predictions").iterdir())) == 4  # each image once, for both methods
    assert {file: file.stat().st_mtime_ns for file in written} == written


def test_clustering(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data, out = make_data(tmp_path / "data", train=3, val=2), tmp_path / "out"
    small = ("--steps", 2, "--size", 32, "--aside", 1, "--ground", 1, "--weights", 0.3)
    start(monkeypatch, "clustering.py", data, "--out", out, "--network", "unet:2", *small)
    lines = (out / "clustering.md").read_text().splitlines()
    assert len(lines) == (2 + 2) + 1 + (2 + 2)
    for line in lines[2:4]:
        figures = [float(figure) for figure in line.split("|")[2:-1]]
        assert len(figures) == 6
        assert all(figure >= 0 for figure in figures)


def test_photographs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data, out = make_data(tmp_path / "data", train=4, val=1), tmp_path / "out"
    small = ("--steps", 1, "--size", 32)
    start(monkeypatch, "photographs.py", data, "--out", out, *small, "--count", 3)
    written = {file: file.stat().st_mtime_ns for file in out.glob("*.npy")}
    start(monkeypatch, "photographs.py", data, "--out", out, *small, "--count", 4)
    assert len(written) == 3
    assert {file: file.stat().st_mtime_ns for file in written} == written
    lines = (out / "photographs.md").read_text().splitlines()[2:]
    assert len(lines) == 6
    cells = [line.split("|")[2:-1] for line in lines]
    assert all(0 <= float(score) <= 1 for row in cells for score in row[:2])
    assert all(row[2].endswith("of 2 ") for row in cells[1:])


def test_image_tags(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data, out = make_data(tmp_path / "data", train=3, val=1), tmp_path / "out"
    start(monkeypatch, "image_tags.py", data, "--out", out, "--network", "unet:2", "--steps", 2, "--size", 32)
    lines = (out / "image_tags.md").read_text().splitlines()
    assert len(lines) == 2 + 1 + 4
    assert all(0 <= float(line.split("|")[2]) <= 1 for line in lines[2:])
