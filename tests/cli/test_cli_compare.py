"""`selflabel compare`: runs start alike and see the same batches; curves, tables; finished runs are kept."""

import csv
from pathlib import Path

import pytest
import torch
from support.runs import NETWORK, call, make_data
from support.runs import SMALL as SMALL_TRAIN
from typer.testing import Result

from selflabel.cli.config import specs
from selflabel.cli.config.jobs import prepare
from selflabel.training import load_checkpoint, read_history

SMALL = (
    *("--set", f"network={NETWORK}", "--set", "size=16", "--set", "batch=2", "--set", "steps=4"),
    *("--set", "pretrain-steps=2", "--set", "warmup-steps=0", "--set", "validate_every=2"),
    *("--set", "measure-every=1"),
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data")


def compare(root: Path, out: Path, *more: object) -> Result:
    pytest.importorskip("matplotlib")
    return call("compare", root, "--out", out, *SMALL, *more)


# --- the command ---


def test_methods_start_alike_and_see_the_same_batches(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    runs = ("--runs", "gd:potts,sigma=20", "adm:graph-cut,name=hard", "--runs", "pce", "--seeds", 2)
    result = compare(root, out, *runs)
    assert result.exit_code == 0, result.output
    folders = {name: out / "runs" / name for name in ("gd_potts_sigma=20", "hard", "pce")}
    assert {path.name for path in (out / "runs").iterdir()} == set(folders)
    for seed in (1, 3):
        rows = {
            name: read_history(folder / f"seed-{seed}" / "history.jsonl") for name, folder in folders.items()
        }
        # one monitor: all runs have the same losses while they train on seeds alone, as they start alike
        for name in ("direct", "joint"):
            first = [[row[name] for row in own[:3]] for own in rows.values()]
            assert first[0] == first[1] == first[2]
            assert None not in first[0]
        assert rows["pce"][3]["direct"] != rows["hard"][3]["direct"]
    assert (out / "comparison.png").read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in (out / "comparison.svg").read_text()
    table = (out / "comparison.md").read_text()
    assert table in result.output
    lines = table.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["gd:potts, sigma=20", "pce", "hard"]
    assert all("±" in line for line in lines[2:])
    with open(out / "comparison.csv", newline="") as file:
        read = list(csv.DictReader(file))
    assert {(row["run"], row["seed"]) for row in read} == {
        (name, seed) for name in ("gd:potts, sigma=20", "hard", "pce") for seed in ("1", "3")
    }
    assert len(read) == 6 * 4


def test_names_are_no_markup_and_nothing_needs_to_be_measured(root: Path, tmp_path: Path) -> None:
    (root / "classes.txt").write_text("dark [/b]\n[red]light\n")
    runs = ("--runs", "gd:entropy,name=a[/b]", "--runs", "gd:potts,name=[red]", "--set", "measure_every=0")
    result = compare(root, tmp_path / "out", *runs)
    assert result.exit_code == 0, result.output
    rows = read_history(tmp_path / "out" / "runs" / "a_b" / "seed-1" / "history.jsonl")
    assert [row["direct"] for row in rows] == [None] * 4
    alone = call("train", root, "--out", tmp_path / "run", *SMALL_TRAIN, "--method", "pce")
    assert alone.exit_code == 0, alone.output
    assert "0 dark [/b]" in alone.output


def test_the_measure_is_that_of_the_first_run_with_an_energy(root: Path, tmp_path: Path) -> None:
    result = compare(root, tmp_path / "out", "--runs", "gd:entropy", "--runs", "gd:potts")
    assert result.exit_code == 0, result.output
    rows = read_history(tmp_path / "out" / "runs" / "gd_entropy" / "seed-1" / "history.jsonl")
    assert None not in [row["direct"] for row in rows]


def test_what_is_finished_is_not_run_again(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert compare(root, out, "--runs", "pce", "--runs", "gd", "--measure-with", "none").exit_code == 0
    figure, weights = out / "comparison.svg", out / "runs" / "pce" / "seed-1" / "last.pt"
    before = figure.read_bytes(), weights.read_bytes(), weights.stat().st_mtime_ns
    (out / "runs" / "gd" / "seed-1" / "scores.json").unlink()
    more = compare(root, out, "--runs", "pce", "--runs", "gd", "--measure-with", "none")
    assert more.exit_code == 0, more.output
    assert (figure.read_bytes(), weights.read_bytes(), weights.stat().st_mtime_ns) == before
    assert (out / "runs" / "gd" / "seed-1" / "scores.json").exists()
    added = compare(root, out, "--runs", "pce", "--runs", "full", "--seeds", 2, "--measure-with", "none")
    assert added.exit_code == 0, added.output
    assert weights.stat().st_mtime_ns == before[2]
    changed = compare(root, out, "--runs", "pce", "--measure-with", "none", "--set", "steps=5")
    assert changed.exit_code == 2
    assert "steps: 4 -> 5" in changed.output
    assert "run 'pce, seed 1'" in changed.output


def test_options_in_common_reach_those_who_take_them(root: Path, tmp_path: Path) -> None:
    (tmp_path / "all.toml").write_text('sigma = 33\nset = ["augment.flip-rows=true", "solver.moves=swap"]\n')
    runs = ("--runs", "pce", "--runs", "gd", "--runs", "adm:graph-cut,sigma=44")
    result = compare(
        root, tmp_path / "out", "--config", tmp_path / "all.toml", *runs, "--set", "affinity.neighbors=8"
    )
    assert result.exit_code == 0, result.output
    options = {
        name: load_checkpoint(tmp_path / "out" / "runs" / name / "seed-1" / "last.pt").about["options"]
        for name in ("pce", "gd", "adm_graph-cut_sigma=44")
    }
    assert [one["sigma"] for one in options.values()] == [None, 33, 44]
    assert options["pce"]["set"] == ["augment.flip-rows=true"]
    assert options["gd"]["set"] == ["augment.flip-rows=true", "affinity.neighbors=8"]
    assert len(options["adm_graph-cut_sigma=44"]["set"]) == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--runs", "adam"], "run 'adam': there is no method 'adam' (did you mean adm?)"),
        (["--runs", "adm:grab-cut"], "there is no solver 'grab-cut'"),
        (["--runs", "gd:potts,stepz=3"], "there is no option 'stepz' (did you mean steps?)"),
        (["--runs", "gd:potts,sigma"], "expected key=value, got 'sigma'"),
        (["--runs", "gd:potts,sigma=x"], "expected sigma as a number, got 'x'"),
        (["--runs", "gd:potts=abc"], "expected --loss NAME or NAME=FACTOR, got 'potts=abc'"),
        (
            ["--runs", "gd,augment.flip-rows=true"],
            "the same augmentation: give it to all, --set augment.flip",
        ),
        (["--runs", "gd:potts,seed=3"], "all runs have the same seed: give it to all, --set seed=..."),
        (["--runs", "pce:potts"], "the method pce takes no loss and no solver, got 'potts'"),
        (["--runs", "pce,sigma=3"], "the method pce has no --sigma"),
        (["--runs", "gd", "--runs", "gd"], "two runs are called 'gd': give one of them name=..."),
        (["--runs", "gd", "--set", "method=adm"], "method is no key here"),
        (["--runs", "gd", "--measure-with", "pce"], "--measure-with pce has no energy to measure with"),
        (["--runs", "pce", "--set", "scribbles=clicks"], "run 'pce': "),
    ],
)
def test_wrong_runs_stop_before_any(root: Path, tmp_path: Path, more: list[str], message: str) -> None:
    result = compare(root, tmp_path / "out", *more)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert not (tmp_path / "out" / "runs").exists()


def test_a_run_that_fails_is_named(root: Path, tmp_path: Path) -> None:
    result = compare(
        root, tmp_path / "out", "--runs", "pce,learning-rate=1e30,name=wild", "--measure-with", "none"
    )
    assert result.exit_code == 1
    assert "run 'wild, seed 1': step 2" in result.output


def test_all_runs_are_measured_with_the_run_named(root: Path, tmp_path: Path) -> None:
    """The direct loss is linear in λ, which is the monitor's."""
    values = []
    for weight in (2, 4):
        out = tmp_path / f"out{weight}"
        options = ("--measure-with", f"adm:graph-cut,pairwise_weight={weight}", "--runs", "pce")
        assert compare(root, out, *options).exit_code == 0
        row = read_history(out / "runs" / "pce" / "seed-1" / "history.jsonl")[0]
        values.append(row["direct_pairwise"] or 0.0)
    assert values[1] == pytest.approx(2 * values[0], rel=1e-4)


def test_specs() -> None:
    one = specs.spec("adm:mean-field, weight=0.5, solver.damp=0.3, name=mean field", {"steps": 7})
    assert (one.label, one.folder) == ("mean field", "mean_field")
    options = one.options
    assert (options.method, options.solver, options.weight, options.steps) == ("adm", "mean-field", 0.5, 7)
    assert options.set == ("solver.damp=0.3",)
    plain = specs.spec("trust-region,error-probability=0.3", {})
    assert plain.label == "trust-region, error-probability=0.3"
    assert plain.options.error_probability == 0.3
    assert specs.spec("gd,relaxation=none", {"relaxation": "quadratic"}).options.relaxation is None


def test_jobs_share_images_and_weights(root: Path) -> None:
    common = {"network": NETWORK, "size": 16, "batch": 2}
    one = prepare(root, specs.spec("pce", common).options)
    two = prepare(root, specs.spec("adm:graph-cut", common).options, others=[one])
    other = prepare(root, specs.spec("full", common).options, others=[one, two])
    assert two.batches.samples is one.batches.samples
    assert two.batches.held_out is one.batches.held_out
    assert other.batches.samples is not one.batches.samples  # with masks
    for tensor, same in zip(one.network().parameters(), two.network().parameters(), strict=True):
        assert torch.equal(tensor, same)
    for step in range(5):
        assert torch.equal(one.batches.training(step).images, other.batches.training(step).images)


def test_a_missing_matplotlib_stops_before_the_runs(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    result = call("compare", root, "--out", tmp_path / "out", "--runs", "pce")
    assert result.exit_code == 2
    assert "the figure needs matplotlib: pip install" in result.output
    assert not (tmp_path / "out" / "runs").exists()


def test_a_run_measured_with_another_energy_is_not_gone_on_with(root: Path, tmp_path: Path) -> None:
    """The first adm run gives the measure of all: another one is told as such, with the options to give."""
    out = tmp_path / "out"
    assert compare(root, out, "--runs", "pce", "--runs", "adm:graph-cut,sigma=15").exit_code == 0
    result = compare(root, out, "--runs", "pce", "--runs", "adm:graph-cut,sigma=5")
    assert result.exit_code == 2
    assert "run 'pce, seed 1'" in result.output
    assert "measured with another energy (" in result.output
    assert "15.0 -> 5.0" in result.output
    assert "or of --measure-with" in result.output
    measured = ("--measure-with", "adm:graph-cut,sigma=15")
    again = compare(root, out, "--runs", "pce", "--runs", "adm:graph-cut,sigma=5", *measured)
    assert again.exit_code == 0, again.output
