"""`selflabel train` and `selflabel predict`, end to end on small folders."""

import csv
import importlib
import inspect
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import NoneType

import numpy as np
import pytest
import torch
from PIL import Image
from training_tools import NETWORK, make_data
from typer.testing import CliRunner, Result

from selflabel.cli import app, recipes
from selflabel.cli.config import changes, parsed, read_config, read_table, write_config
from selflabel.cli.loss_kinds import LOSSES
from selflabel.cli.options import DEFAULTS, Options, merged
from selflabel.data.labelfiles import read_index, write_index
from selflabel.data.probabilities import read_probabilities
from selflabel.losses import GatedCRFLoss, KernelCutLoss
from selflabel.solvers import SOLVERS, GraphCut, MeanField, RandomWalker
from selflabel.terms import COLLISION, COLLISION_DIVERGENCE
from selflabel.training import Direct, Full, Seeds, SelfLabeling, load_checkpoint, read_lines

SMALL = ("--network", NETWORK, "--size", 16, "--batch", 2, "--pretrain-steps", 2, "--warmup-steps", 2)
PROGRAM = "from selflabel.cli import main; main()"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def train(root: Path, out: Path, *more: object, steps: int = 6) -> Result:
    return call("train", root, "--out", out, *SMALL, "--steps", steps, *more)


def weights(path: Path) -> list[torch.Tensor]:
    return list(load_checkpoint(path).network.values())


# --- start ---


@pytest.mark.parametrize("command", ["train", "predict", "compare"])
def test_help_comes_without_torch(command: str) -> None:
    code = (
        "import sys\nfrom selflabel.cli import app\n"
        f"app(['{command}', '--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'numpy', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


# --- a whole run ---


def test_train_predict_label(root: Path, tmp_path: Path) -> None:
    """Scribbles to a network, its probabilities at the images' own size, and these to labels."""
    out, probs = tmp_path / "run", tmp_path / "probs"
    options = ("--solver", "graph-cut", "--learning-rate", 0.03, "--validate-every", 20)
    result = train(root, out, *options, steps=60)
    assert result.exit_code == 0, result.output
    assert "Dice, best" in result.output
    names = {path.name for path in out.iterdir()}
    assert names == {"config.toml", "history.csv", "history.jsonl", "last.pt", "best.pt", "scores.json"}
    rows = read_lines(out / "history.jsonl")
    assert len(rows) == 60
    assert [row["step"] for row in rows if row["dice"] is not None] == [20, 40, 60]
    assert rows[-1]["joint"] is not None
    with open(out / "history.csv", newline="") as file:
        assert [float(row["step"]) for row in csv.DictReader(file)] == list(range(1, 61))
    assert json.loads((out / "scores.json").read_text())["dice"] == pytest.approx(rows[-1]["dice"])

    assert call("predict", out, root / "images", "--out", probs).exit_code == 0
    correct = []
    for stem in ("v0", "v1"):
        read = read_probabilities(probs / f"{stem}.npz", (16, 14))
        correct.append((read.probs.argmax(0) == read_index(root / "masks" / f"{stem}.png")).mean())
    assert np.mean(correct) > 0.9
    again = call("predict", out, root / "images", "--out", probs)
    assert "0 predicted, 6 done before" in again.output
    labeled = call(
        *("label", root / "images", "--seeds", root / "scribbles", "--probs", probs),
        *("--out", tmp_path / "labels", "--workers", 1),
    )
    assert labeled.exit_code == 0, labeled.output


METHODS = (
    *(("pce", ()), ("full", ()), ("trust-region", ())),
    *(("gd", ("--loss", loss)) for loss in LOSSES),
    *(("adm", ("--solver", solver)) for solver in SOLVERS),
    ("gd", ("--loss", "potts+entropy=0.5")),
)


@pytest.mark.parametrize(("method", "more"), METHODS, ids=lambda value: " ".join(value) or "-")
def test_every_method_trains(root: Path, tmp_path: Path, method: str, more: tuple[str, ...]) -> None:
    result = train(root, tmp_path / "run", "--method", method, *more, "--measure-every", 2, steps=4)
    assert result.exit_code == 0, result.output
    rows = read_lines(tmp_path / "run" / "history.jsonl")
    assert all(np.isfinite(row["loss"] or 0) for row in rows)
    measured = method in ("adm", "trust-region") or more[-1:] in (
        ("potts",),
        ("dense-crf",),
        ("potts+entropy=0.5",),
    )
    assert (rows[-1]["direct"] is not None) == measured
    about = load_checkpoint(tmp_path / "run" / "last.pt").about
    assert about["options"]["method"] == method


def test_without_validation_images(tmp_path: Path) -> None:
    root = make_data(tmp_path / "data", val=0)
    result = train(root, tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "Dice" not in result.output
    assert not (tmp_path / "run" / "best.pt").exists()
    predicted = call("predict", tmp_path / "run", root / "images" / "t0.png", "--out", tmp_path / "probs")
    assert predicted.exit_code == 0, predicted.output
    assert "last.pt" in predicted.output


def test_labels_can_be_kept(root: Path, tmp_path: Path) -> None:
    kept = train(root, tmp_path / "run", "--no-augment", "--warm-start", "--relabel-every", 2)
    assert kept.exit_code == 0, kept.output
    moved = train(root, tmp_path / "other", "--warm-start")
    assert moved.exit_code == 2
    assert "augmentations that move them" in moved.output


# --- options ---


def test_a_file_gives_options_and_the_command_line_wins(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "options.toml"
    file.write_text(
        f'method = "gd"\nloss = "dense-crf"\nnetwork = "{NETWORK}"\nsize = 16\nbatch = 2\nsteps = 4\n'
        'pretrain-steps = 1\nwarmup_steps = 1\nsigma = 20\nset = ["affinity.smoothness=0.5"]\n'
    )
    options = ("--config", file, "--steps", 3, "--set", "augment.flip-rows=true", "--sigma-xy", 30)
    result = call("train", root, "--out", tmp_path / "run", *options)
    assert result.exit_code == 0, result.output
    stored = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert (stored["method"], stored["loss"], stored["steps"], stored["sigma"]) == (
        "gd",
        "dense-crf",
        3,
        20.0,
    )
    assert stored["set"] == ["affinity.smoothness=0.5", "augment.flip-rows=true"]
    assert (stored["channels"], stored["num_classes"]) == (1, 2)  # of the data
    affinity = stored["objective"]["dense-crf"]["affinity"]
    assert (affinity["sigma"], affinity["sigma_xy"], affinity["smoothness"]) == (20, 30, 0.5)
    assert stored["run"]["classes"] == ["class 0", "class 1"]
    other = call("train", root, "--out", tmp_path / "other", "--config", tmp_path / "run" / "config.toml")
    assert other.exit_code == 0, other.output
    for one, two in zip(
        weights(tmp_path / "run" / "last.pt"), weights(tmp_path / "other" / "last.pt"), strict=True
    ):
        assert torch.equal(one, two)


def test_objectives_are_as_told() -> None:
    assert recipes.objective(Options(method="pce")) == Seeds()
    assert recipes.objective(Options(method="full")) == Full()
    soft = recipes.objective(Options())
    assert isinstance(soft, SelfLabeling)
    assert (soft.energy.coupling, soft.energy.relaxation) == (COLLISION, COLLISION_DIVERGENCE)
    assert isinstance(soft.starter, RandomWalker)
    assert soft.weight == 10
    for told, kind in (("none", NoneType), ("mean-field", MeanField)):
        chosen = recipes.objective(Options(starter=told))
        assert isinstance(chosen, SelfLabeling)
        assert isinstance(chosen.starter, kind)
    robust = recipes.objective(Options(method="trust-region", set=("moves=swap",), weight=0.5))
    assert isinstance(robust, SelfLabeling)
    assert isinstance(robust.solver, GraphCut)
    assert (robust.error_probability, robust.weight) == (0.1, 0.5)
    assert robust.solver.moves.name == "SWAP"
    field = recipes.objective(Options(solver="mean-field", sigma=7.0, coupling_weight=2.0, max_steps=3))
    assert isinstance(field, SelfLabeling)
    assert isinstance(field.solver, MeanField)
    assert (field.energy.coupling_weight, field.energy.entropy_weight, field.max_steps) == (2.0, 1.0, 3)
    assert getattr(field.affinity, "sigma") == 7.0  # noqa: B009 (the protocol has no fields)


def test_weights_of_losses_follow_the_energy() -> None:
    """λ on pairwise losses, η on the others, the weight and a factor on each."""
    options = Options(
        method="gd", loss="potts=3+entropy+kernel-cut", weight=0.5, pairwise_weight=4.0, coupling_weight=0.2
    )
    found = recipes.objective(options)
    assert isinstance(found, Direct)
    assert [part.name for part in found.parts] == ["potts", "entropy", "kernel-cut"]
    assert [part.weight for part in found.parts] == pytest.approx([6.0, 0.1, 2.0])
    kept = recipes.objective(
        Options(method="gd", loss="kernel-cut+gated-crf", set=("unlabeled-only=true", "gamma=2"))
    )
    assert isinstance(kept, Direct)
    kernel, gated = (part.loss for part in kept.parts)
    assert isinstance(kernel, KernelCutLoss)
    assert isinstance(gated, GatedCRFLoss)
    assert (kernel.gamma, gated.unlabeled_only) == (2.0, True)
    measure = recipes.yardstick(options)
    assert measure is not None
    assert measure.objective.energy.pairwise_weight == pytest.approx(12.0)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "adam"], "there is no method 'adam' (did you mean adm?)"),
        (["--solver", "meanfield"], "did you mean mean-field?"),
        (["--method", "gd", "--loss", "crf"], "there is no loss 'crf'"),
        (["--method", "gd", "--loss", "potts=x"], "expected --loss NAME or NAME=FACTOR, got 'potts=x'"),
        (["--method", "gd", "--solver", "graph-cut"], "the method gd has no --solver"),
        (["--method", "pce", "--sigma", 3.0], "the method pce has no --sigma"),
        (["--method", "pce", "--set", "affinity.sigma=3"], "has no affinity to set options of: sigma=3"),
        (["--method", "gd", "--starter", "graph-cut"], "the method gd has no --starter"),
        (["--starter", "walker"], "there is no starter 'walker'"),
        (["--loss", "potts"], "the method adm has no --loss"),
        (["--set", "loss.gamma=3"], "self-labeling has no loss to set options of"),
        (["--method", "gd", "--set", "solver.damp=1"], "gradient descent has no solver to set options of"),
        (["--method", "gd", "--set", "gamma=1"], "has no option 'gamma'"),
        (
            ["--method", "gd", "--loss", "potts+entropy", "--set", "gamma=1"],
            "none of the losses has this option: gamma=1",
        ),
        (["--method", "gd", "--loss", "entropy", "--set", "affinity.sigma=1"], "entropy has no affinity"),
        (
            ["--method", "gd", "--loss", "gated-crf", "--affinity", "grid"],
            "takes a window affinity, got grid",
        ),
        (["--solver", "graph-cut", "--affinity", "dense"], "graph-cut"),
        (["--optimizer", "adam"], "there is no optimizer 'adam'"),
        (["--set", "optimizer.momentum=1"], "has no option 'momentum'"),
        (["--no-augment", "--set", "augment.flip=true"], "without augmentation there is no augment.flip"),
        (["--network", "u-net"], "expected a network out of"),
        (["--channels", 2], "expected channels = 1, 3 or None, got 2"),
        (["--batch", 0], "expected batch >= 1, got 0"),
        (["--learning-rate", 0.0], "expected a learning rate > 0"),
        (["--num-classes", 300], "expected 1 to 255 classes, got 300"),
        (["--config", "nowhere.toml"], "nowhere.toml cannot be read"),
        (["--device", "abacus"], "there is no device 'abacus' here"),
        (["--scribbles", "clicks"], "clicks: no such file or folder"),
    ],
)
def test_wrong_options_stop_before_the_run(
    root: Path, tmp_path: Path, more: list[object], message: str
) -> None:
    result = train(root, tmp_path / "run", *more)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert not (tmp_path / "run" / "last.pt").exists()


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
    assert train(root, tmp_path / "run", "--method", "pce").exit_code == 0  # does not look at it


def test_images_of_several_sizes_need_a_size(root: Path, tmp_path: Path) -> None:
    for folder in ("images", "scribbles", "masks"):
        file = root / folder / "t1.png"
        Image.open(file).resize((20, 20), Image.Resampling.NEAREST).save(file)
    result = train(root, tmp_path / "run", "--size", 0)
    assert result.exit_code == 2, result.output
    assert "expected images of one size in a batch" in result.output
    assert train(root, tmp_path / "sized", steps=2).exit_code == 0


def test_nan_ends_the_run_with_a_message(root: Path, tmp_path: Path) -> None:
    options = ("--method", "pce", "--learning-rate", 1e30, "--checkpoint-every", 1)
    result = train(root, tmp_path / "run", *options)
    assert result.exit_code == 1
    assert "step 2: the network's prediction is nan or inf" in result.output
    assert f"The last good checkpoint is {tmp_path / 'run' / 'last.pt'}" in result.output
    assert load_checkpoint(tmp_path / "run" / "last.pt").step == 1


# --- going on ---


def test_a_run_is_resumed_with_its_own_options_only(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train(root, out).exit_code == 0
    before = (out / "last.pt").read_bytes()
    assert train(root, out, "--checkpoint-every", 2).exit_code == 0  # changes no number
    assert (out / "last.pt").read_bytes() == before
    other = train(root, out, "--sigma", 5.0, steps=7)
    assert other.exit_code == 2
    assert "sigma: none -> 5.0; steps: 6 -> 7" in other.output
    elsewhere = train(make_data(tmp_path / "more", train=5), out)
    assert elsewhere.exit_code == 2
    assert "other images" in elsewhere.output


def test_killed_runs_go_on_as_if_they_had_not_been(root: Path, tmp_path: Path) -> None:
    """SIGKILL at some moment: the same command gives the history and the weights of an undisturbed run."""
    options = ["--steps", "60", "--checkpoint-every", "5", "--validate-every", "20", "--solver", "graph-cut"]
    small = [str(value) for value in SMALL]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-c", PROGRAM, "train", str(root), "--out", str(killed), *small, *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(read_lines(killed / "history.jsonl")) < 13 and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 10 <= load_checkpoint(killed / "last.pt").step < 60
    for out in (killed, whole):
        result = call("train", root, "--out", out, *SMALL, *options)
        assert result.exit_code == 0, result.output
    one, two = (read_lines(out / "history.jsonl") for out in (killed, whole))
    assert len(one) == len(two) == 60
    for row, other in zip(one, two, strict=True):
        assert {k: v for k, v in row.items() if "seconds" not in k} == {
            k: v for k, v in other.items() if "seconds" not in k
        }
    for tensor, same in zip(weights(killed / "last.pt"), weights(whole / "last.pt"), strict=True):
        assert torch.equal(tensor, same)


def test_interrupted_by_hand(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from selflabel.cli import follow

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(follow, "run", interrupt)
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
        (["--stems", "STEMS"], "has no image nowhere, which is in"),
        (["--device", "abacus"], "there is no device"),
    ],
)
def test_wrong_options_of_predict(
    root: Path, run: Path, tmp_path: Path, more: list[str], message: str
) -> None:
    (tmp_path / "stems.txt").write_text("nowhere\n")
    given = [str(tmp_path / "stems.txt") if one == "STEMS" else one for one in more]
    result = call("predict", run, root / "images", "--out", tmp_path / "probs", *given)
    assert result.exit_code == 2, result.output
    assert message in result.output


def test_predict_needs_a_run(root: Path, run: Path, tmp_path: Path) -> None:
    nothing = call("predict", tmp_path, root / "images", "--out", tmp_path / "probs")
    assert nothing.exit_code == 2
    assert "holds no training run" in nothing.output
    (run / "best.pt").unlink()
    (run / "last.pt").unlink()
    early = call("predict", run, root / "images", "--out", tmp_path / "probs")
    assert early.exit_code == 2
    assert "has not come to it yet" in early.output


def test_bad_images_are_listed_and_the_others_predicted(root: Path, run: Path, tmp_path: Path) -> None:
    (root / "images" / "v0.png").write_bytes(b"")
    (tmp_path / "stems.txt").write_text("v1\nv0\n")
    options = ("--stems", tmp_path / "stems.txt", "--format", "npy", "--precision", "float32")
    result = call("predict", run, root / "images", "--out", tmp_path / "probs", *options)
    assert result.exit_code == 1
    assert "1 failed" in result.output
    assert np.load(tmp_path / "probs" / "v1.npy").shape == (2, 16, 14)
    other = call("predict", run, root / "images", "--out", tmp_path / "probs", "--checkpoint", "last")
    assert other.exit_code == 2
    assert "predictions of another checkpoint" in other.output
    inputs = call("predict", run, root / "images", "--out", root / "images")
    assert inputs.exit_code == 2
    assert "is the folder of your images" in inputs.output


# --- files of options ---


def test_options_survive_a_file(tmp_path: Path) -> None:
    given = Options(
        loss='a "quoted" name \\ é \x7f', learning_rate=1e-5, set=("a.b=1", "c=x"), neighbors=8, augment=False
    )
    write_config(tmp_path / "c.toml", given, "one\ntwo", {"run": {"a.b": 1, "odd key": "x", "none": None}})
    assert merged(read_config(tmp_path / "c.toml", Options)) == given
    assert changes(given, DEFAULTS)
    assert read_table(tmp_path / "c.toml", "run") == {"a": {"b": 1}, "odd key": "x"}
    assert read_table(tmp_path / "c.toml", "nothing") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz = 3", "c.toml: there is no option 'stepz' (did you mean steps?)"),
        ('steps = "3"', "c.toml: expected steps as a whole number, got '3'"),
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
        merged(read_config(tmp_path / "c.toml", Options))
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
    found = parsed(name, text, Options)
    assert found == value
    assert type(found) is type(value)


def test_every_option_is_on_the_command_line() -> None:
    train_module = importlib.import_module("selflabel.cli.train")  # the name is the command's in the package
    parameters = set(inspect.signature(train_module.train).parameters)
    assert {("set_" if name == "set" else name) for name in Options.__dataclass_fields__} <= parameters
