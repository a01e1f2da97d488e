"""`selflabel gap`: scores of runs in one table, and runs that cannot be compared."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.runs import call, make_data, train

from selflabel.cli.run_folder import SCORES, write_scores
from selflabel.reports.comparison import Final
from selflabel.training import load_checkpoint


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of one step with scores that are known."""
    top = tmp_path_factory.mktemp("gap")
    root, found = make_data(top / "data"), {}
    alone = ("--method", "pce", "--measure-every", 0, "--validate-every", 0)
    for name, iou in (("full", 0.75), ("weak", 0.5), ("other", 0.7)):
        found[name] = top / name
        method = ("--method", "full") if name == "full" else ()
        result = train(root, top / name, *alone, *method, steps=1)
        assert result.exit_code == 0, result.output
        score(top / name, iou)
    found["data"] = root
    return found


def score(run: Path, iou: float) -> None:
    write_scores(run, load_checkpoint(run / "last.pt").step, Final(0.9, iou, None))


@pytest.fixture
def copied(runs: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """The runs, to be changed."""
    return {name: Path(shutil.copytree(path, tmp_path / name)) for name, path in runs.items()}


def gap(runs: dict[str, Path], *more: object) -> tuple[int, str]:
    result = call("gap", "--full", runs["full"], "--weak", runs["weak"], *more)
    return result.exit_code, " ".join(result.output.split())


def test_the_table_and_its_numbers(runs: dict[str, Path], tmp_path: Path) -> None:
    code, output = gap(runs, runs["other"], "--json", tmp_path / "gap.json")
    assert code == 0, output
    assert "| full | 75.0 | 0.0 | 100.0 |" in output
    assert "| weak | 50.0 | 25.0 | 0.0 |" in output
    assert f"{runs['other']} | 70.0 | 5.0 | 80.0 |" in output
    found = json.loads((tmp_path / "gap.json").read_text())
    assert found["gap"] == pytest.approx(0.25)
    assert [run["reduction"] for run in found["runs"]] == pytest.approx([1.0, 0.0, 0.8])


def test_seeds_of_a_comparison_are_averaged(copied: dict[str, Path], tmp_path: Path) -> None:
    for seed, iou in ((1, 0.6), (3, 0.7)):
        shutil.copytree(copied["other"], tmp_path / "several" / f"seed-{seed}")
        score(tmp_path / "several" / f"seed-{seed}", iou)
    code, output = gap(copied, tmp_path / "several")
    assert (code, "several | 65.0 | 10.0 | 60.0 |" in output) == (0, True)


def test_no_gap_is_said(copied: dict[str, Path]) -> None:
    score(copied["weak"], 0.8)
    code, output = gap(copied)
    assert (code, "there is no gap to reduce: full masks have 75.0 %, the baseline 80.0 %" in output) == (
        0,
        True,
    )


def test_runs_on_other_data_are_refused(copied: dict[str, Path], tmp_path: Path) -> None:
    other = make_data(tmp_path / "more", val=3)
    options = ("--method", "pce", "--measure-every", 0, "--validate-every", 0)
    assert train(other, tmp_path / "elsewhere", *options, steps=1).exit_code == 0
    code, output = gap(copied, tmp_path / "elsewhere")
    assert (code, "elsewhere was validated on other images or masks than" in output) == (2, True)


def test_scores_of_other_rules_are_refused(copied: dict[str, Path]) -> None:
    checkpoint = load_checkpoint(copied["other"] / "last.pt")
    options = {**checkpoint.about["options"], "background": False}
    replace(checkpoint, about={**checkpoint.about, "options": options}).save(copied["other"] / "last.pt")
    code, output = gap(copied, copied["other"])
    assert (code, "was scored with --background False" in output) == (2, True)


def test_runs_without_scores_and_what_is_no_run(copied: dict[str, Path]) -> None:
    code, output = gap(copied, copied["data"])
    assert (code, "data holds no training run" in output) == (2, True)
    (copied["other"] / SCORES).unlink()
    code, output = gap(copied, copied["other"])
    assert (code, "other has no scores of its last step" in output) == (2, True)
    checkpoint = load_checkpoint(copied["other"] / "last.pt")
    replace(checkpoint, about={}).save(copied["other"] / "last.pt")
    code, output = gap(copied, copied["other"])
    assert (code, "is not of `selflabel train`" in output) == (2, True)


def test_json_that_cannot_be_written(runs: dict[str, Path], tmp_path: Path) -> None:
    code, output = gap(runs, "--json", tmp_path / "nowhere" / "gap.json")
    assert (code, "gap.json cannot be written" in output) == (2, True)
