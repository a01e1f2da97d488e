"""The command line, end to end."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.folders import contents, make_folders
from typer.testing import CliRunner, Result

import selflabel
from selflabel.cli import app
from selflabel.cli.config import registry
from selflabel.files.label_files import read_index, write_index
from selflabel.labeling import image as one_image
from selflabel.labeling.lines import Record, Run
from selflabel.labeling.manifest import Manifest
from selflabel.labeling.plan import Job
from selflabel.numerics.cuts import maximum_flow
from selflabel.solvers import SOLVERS

RUN = (
    sys.executable,
    "-c",
    # background jobs of a script ignore Ctrl-C, and their children inherit that
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from selflabel.cli import main; main()",
)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def label(folders: tuple[Path, ...], out: Path, *more: object) -> Result:
    solver = () if "--solver" in more else ("--solver", "graph-cut")
    return call("label", folders[0], "--seeds", folders[1], "--out", out, "--workers", 1, *solver, *more)


# --- start ---


@pytest.mark.parametrize(
    "command", [[], ["label"], ["score"], ["solvers"], ["demo"], ["inspect"], ["inspect", "gradient"]]
)
def test_help_comes_without_torch(command: list[str]) -> None:
    code = (
        "import sys\nfrom selflabel.cli import app\n"
        f"app({[*command, '--help']}, standalone_mode=False)\n"
        "heavy = {'torch', 'numpy', 'scipy', 'skimage', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_scoring_does_not_need_torch(tmp_path: Path) -> None:
    _, _, truth = make_folders(tmp_path, 1)
    code = (
        "import sys\nfrom selflabel.cli import app\n"
        f"app(['score', {str(truth)!r}, {str(truth)!r}], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.quick
def test_version_and_no_arguments() -> None:
    assert call("--version").output.strip() == selflabel.__version__
    assert "label" in call().output


# --- label ---


@pytest.mark.quick
@pytest.mark.parametrize("solver", list(SOLVERS))
def test_every_solver_labels_a_folder(tmp_path: Path, solver: str) -> None:
    folders = make_folders(tmp_path, 2, noise=8.0)
    out = tmp_path / "out"
    result = label(folders, out, "--solver", solver, "--soft", "uint8", "--overlay", "--num-classes", 3)
    assert result.exit_code == 0, result.output
    assert len(contents(out)) == 8
    for n in range(2):
        index = read_index(out / "labels" / f"a{n}.png")
        assert set(np.unique(index).tolist()) <= {0, 2}
        assert (index == read_index(folders[2] / f"a{n}.png")).mean() > 0.9
    head, *records = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert head["version"] == selflabel.__version__
    assert head["arguments"]["labeler"]["solver"]["is"] == SOLVERS[solver].__name__
    assert [record["stem"] for record in records] == ["a0", "a1"]
    for record in records:
        assert record["labeled"] == 1
        assert record["seconds"] > 0
        assert record["energy_after"] is not None
    again = label(folders, out, "--solver", solver, "--soft", "uint8", "--overlay", "--num-classes", 3)
    assert again.exit_code == 0, again.output
    assert "done before" in again.output


def test_bad_images_are_listed_and_the_others_labeled(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 4)
    (folders[0] / "a1.png").write_bytes((folders[0] / "a1.png").read_bytes()[:-100])
    (folders[1] / "a2.png").unlink()
    result = label(folders, tmp_path / "out")
    assert result.exit_code == 1
    assert "2 failed:" in result.output
    assert "a1: image a1.png cannot be read" in result.output
    assert "a2: no seeds" in result.output
    assert sorted(contents(tmp_path / "out")) == [
        f"{kind}/a{n}.png" for kind in ("confidence", "labels") for n in (0, 3)
    ]
    Image.open(folders[0] / "a0.png").save(folders[0] / "a1.png")
    write_index(folders[1] / "a2.png", read_index(folders[1] / "a0.png"))
    assert label(folders, tmp_path / "out").exit_code == 0
    assert len(contents(tmp_path / "out")) == 8


def test_predictions_are_used_in_place_of_an_annotator(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 1)
    probs = tmp_path / "probs"
    probs.mkdir()
    np.savez(probs / "a0.npz", p=np.full((12, 16, 4), 0.25))
    options = ("--probs", probs, "--probs-layout", "hwk", "--probs-key", "p")
    result = label(folders, tmp_path / "out", *options, "--all-classes")
    assert result.exit_code == 0, result.output
    head, record = [
        json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    ]
    assert head["arguments"]["labeler"]["annotator"] is None
    assert head["arguments"]["probs"] is True
    assert head["probs"] == str(probs)
    assert record["classes"] == [0, 1, 2, 3]


def test_energy_and_affinity_are_as_told(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 1)
    options = "--coupling collision --relaxation quadratic --coupling-weight 0.5 --pairwise-weight 3"
    more = "--affinity grid --sigma 21 --neighbors 8 --annotator none --set moves=swap --max-steps 7"
    result = label(folders, tmp_path / "out", *options.split(), *more.split(), "--seeds-offset", -1)
    assert result.exit_code == 0, result.output
    arguments = json.loads((tmp_path / "out" / "manifest.jsonl").read_text().splitlines()[0])["arguments"]
    labeler = arguments["labeler"]
    assert (labeler["energy"]["coupling"], labeler["energy"]["relaxation"]) == ("collision", "quadratic")
    assert (labeler["energy"]["coupling_weight"], labeler["energy"]["pairwise_weight"]) == (0.5, 3)
    assert (labeler["affinity"]["is"], labeler["affinity"]["sigma"], labeler["affinity"]["neighbors"]) == (
        "Grid",
        21,
        8,
    )
    assert labeler["annotator"] is None
    assert labeler["solver"]["moves"] == "SWAP"
    assert labeler["max_steps"] == 7
    assert set(np.unique(read_index(tmp_path / "out" / "labels" / "a0.png")).tolist()) <= {1, 3}


def test_empty_folders_and_places_that_cannot_be_written(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 1)
    (tmp_path / "empty").mkdir()
    result = label((tmp_path / "empty", folders[1]), tmp_path / "out")
    assert (result.exit_code, "no files named *.png" in result.output) == (2, True)
    (tmp_path / "file").touch()
    result = label(folders, tmp_path / "file" / "out")
    assert (result.exit_code, "cannot be written" in result.output) == (2, True)


def test_a_package_that_is_not_there_is_said_before_any_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = make_folders(tmp_path, 1)
    monkeypatch.setattr(maximum_flow, "ENGINES", ())
    result = label(folders, tmp_path / "out", "--solver", "graph-cut")
    assert result.exit_code == 2
    assert "pip install PyMaxflow" in result.output
    assert not (tmp_path / "out").exists()


def test_other_arguments_need_another_folder(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 2)
    assert label(folders, tmp_path / "out", "--limit", 1).exit_code == 0
    result = label(folders, tmp_path / "out", "--pairwise-weight", 1.5)
    assert result.exit_code == 2
    assert "labeler.energy.pairwise_weight" in result.output
    assert "--overwrite" in result.output
    assert label(folders, tmp_path / "out", "--pairwise-weight", 1.5, "--overwrite").exit_code == 0
    assert (
        label((folders[0] / "a1.png", folders[1]), tmp_path / "out", "--pairwise-weight", 1.5).exit_code == 0
    )


def test_parts_and_stems(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 4)
    (tmp_path / "val.txt").write_text("a1\na2\na3\n")
    options = ("--stems", tmp_path / "val.txt", "--num-parts", 2, "--part-id")
    assert label(folders, tmp_path / "out", *options, 0).exit_code == 0
    assert [path.stem for path in sorted((tmp_path / "out" / "labels").iterdir())] == ["a1", "a3"]
    assert label(folders, tmp_path / "out", *options, 1).exit_code == 0
    assert [path.stem for path in sorted((tmp_path / "out" / "labels").iterdir())] == ["a1", "a2", "a3"]


def test_an_interruption_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = make_folders(tmp_path, 3)
    real = one_image.label_image

    def interrupted(job: Job, *more: object) -> Record:
        if job.stem == "a1":
            raise KeyboardInterrupt
        return real(job, *more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(one_image, "label_image", interrupted)
        result = label(folders, tmp_path / "out")
    assert result.exit_code == 130
    assert "interrupted with 2 images left" in result.output
    assert label(folders, tmp_path / "out").exit_code == 0


def test_a_disk_that_fills_up_at_the_end_does_not_hide_what_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = make_folders(tmp_path, 2)
    real = Manifest.finish

    def finish(self: Manifest, run: Run) -> None:
        if self.records:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, run)

    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "finish", finish)
        result = label(folders, tmp_path / "out")
    assert result.exit_code == 1
    assert "cannot be written: [Errno 28] No space left" in result.output
    assert "pixels labeled" in result.output
    again = label(folders, tmp_path / "out")
    assert again.exit_code == 0, again.output
    assert "images left" not in again.output


@pytest.mark.slow
def test_ctrl_c_on_a_real_run_and_a_resumed_one(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 40)
    out = tmp_path / "out"
    manifest = out / "manifest.jsonl"
    arguments = [
        "label",
        folders[0],
        "--seeds",
        folders[1],
        "--out",
        out,
        "--solver",
        "graph-cut",
        "--overlay",
    ]
    process = subprocess.Popen(
        [*RUN, *map(str, arguments), "--workers", "2"],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while (not manifest.is_file() or manifest.read_bytes().count(b"\n") < 4) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)  # to the whole group, as a terminal does
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert "images left" in output
    done = manifest.read_text().count('"stem"')
    assert 2 <= done < 40  # at most the line being written at that moment is done again
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
    assert label(folders, out, "--overlay").exit_code == 0
    assert label(folders, tmp_path / "whole", "--overlay").exit_code == 0
    assert contents(out) == contents(tmp_path / "whole")
    assert len(contents(out)) == 3 * 40


# --- score ---


def test_score_writes_a_table_and_json(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, 2)
    (tmp_path / "classes.txt").write_text("left\nnothing\nright\n")
    label(folders, tmp_path / "out")
    result = call(
        "score",
        tmp_path / "out" / "labels",
        folders[2],
        "--json",
        tmp_path / "s.json",
        "--classes",
        tmp_path / "classes.txt",
    )
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "s.json").read_text())
    assert [entry["name"] for entry in found["classes"]] == ["left", "nothing", "right"]
    assert found["classes"][1]["iou"] is None
    assert found["mean_iou"] == pytest.approx((found["classes"][0]["iou"] + found["classes"][2]["iou"]) / 2)
    assert "2 right" in result.output
    assert f"{found['mean_iou']:.3f}" in result.output
    assert "per_image" not in found
    foreground = call(
        "score", tmp_path / "out" / "labels", folders[2], "--no-background", "--json", tmp_path / "f.json"
    )
    assert foreground.exit_code == 0
    assert json.loads((tmp_path / "f.json").read_text())["mean_iou"] == pytest.approx(
        found["classes"][2]["iou"]
    )


def test_score_per_image_and_without_distances(tmp_path: Path) -> None:
    _, _, truth = make_folders(tmp_path, 2)
    result = call("score", truth, truth, "--per-image", "--no-hd95", "--json", tmp_path / "s.json")
    assert result.exit_code == 0
    assert "HD95" not in result.output
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["per_image"] == [{"stem": f"a{n}", "iou": 1.0, "dice": 1.0} for n in range(2)]
    assert found["mean_hd95"] is None


def test_score_reports_bad_pairs(tmp_path: Path) -> None:
    _, _, truth = make_folders(tmp_path, 2)
    pred = tmp_path / "pred"
    pred.mkdir()
    write_index(pred / "a0.png", read_index(truth / "a0.png"))
    write_index(pred / "a1.png", np.zeros((3, 3), np.uint8))
    result = call("score", pred, truth)
    assert result.exit_code == 1
    assert "a1: labels of 3 x 3 pixels" in result.output
    (pred / "a1.png").unlink()
    result = call("score", pred, truth)
    assert (result.exit_code, "1 images of TRUTH have no labels" in result.output) == (0, True)


def test_score_of_nothing_is_an_error(tmp_path: Path) -> None:
    _, _, truth = make_folders(tmp_path, 1)
    result = call("score", tmp_path / "none", truth)
    assert (result.exit_code, "no such file or folder" in result.output) == (2, True)
    (tmp_path / "out" / "labels").mkdir(parents=True)
    result = call("score", tmp_path / "out", truth)
    assert (result.exit_code, "(the labels are in" in result.output) == (2, True)
    result = call("score", truth, truth, "--json", tmp_path / "none" / "s.json")
    assert (result.exit_code, "cannot be written" in result.output) == (2, True)
    assert "selflabel-part" not in result.output


# --- solvers, demo, names ---


def test_solvers_lists_all_that_is_registered() -> None:
    result = call("solvers")
    assert result.exit_code == 0, result.output
    for table in (registry.SOLVERS, registry.ANNOTATORS, registry.AFFINITIES):
        for name, kind in table.items():
            assert name in result.output
            for option in registry.option_defaults(kind):
                assert option in result.output
    assert "normalized-cut" in result.output
    assert "per_pixel=true" in result.output
    assert "affinity.sigma_xy=40" in result.output


def test_demo_compares_every_solver(tmp_path: Path) -> None:
    result = call("demo", "--out", tmp_path / "demo.png", "--size", 32)
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "demo.png") as picture:
        assert picture.width > 32 * (1 + len(SOLVERS))
        assert picture.height > 20 * 5
    assert os.listdir(tmp_path) == ["demo.png"]


def test_demo_leaves_out_solvers_without_their_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maximum_flow, "ENGINES", ())
    result = call("demo", "--out", tmp_path / "demo.png", "--size", 32)
    assert result.exit_code == 0, result.output
    assert "left out: graph-cut needs PyMaxflow" in result.output
    without = [name for name in SOLVERS if name not in ("graph-cut", "kernel-cut")]
    assert f"5 photographs, {len(without)} solvers" in result.output


def test_demo_says_that_it_cannot_write_before_it_works(tmp_path: Path) -> None:
    result = call("demo", "--out", tmp_path / "none" / "demo.png")
    assert (result.exit_code, "cannot be written" in result.output) == (2, True)
