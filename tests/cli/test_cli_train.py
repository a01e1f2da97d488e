"""`selflabel train`: methods and options, end to end on small folders."""

import csv
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from types import NoneType

import numpy as np
import pytest
import torch
from support.cases import batch
from support.cases import network as small_network
from support.runs import NETWORK, call, make_data, train, weights

from selflabel.affinity import Dense
from selflabel.cli.config import recipes
from selflabel.cli.config.losses import LOSSES
from selflabel.cli.config.options import TrainingOptions
from selflabel.cli.config.toml import read_table
from selflabel.files.label_files import read_index
from selflabel.files.probabilities import read_probabilities
from selflabel.losses import GatedCRFLoss, KernelCutLoss
from selflabel.solvers import SOLVERS, GraphCut, MeanField, RandomWalker
from selflabel.terms import COLLISION, COLLISION_DIVERGENCE, NormalizedCut
from selflabel.training import (
    FullMasks,
    InitialLabels,
    Regularized,
    SeedsOnly,
    SelfLabeling,
    load_checkpoint,
    read_history,
)
from selflabel.training.monitor import sums


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data")


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


def test_workers_may_change_in_a_run_that_goes_on(root: Path, tmp_path: Path) -> None:
    """They load the same batches; images in memory are sent to them once."""
    for name, more in (("alone", ()), ("helped", ("--workers", 1))):
        result = train(root, tmp_path / name, "--method", "pce", *more, steps=4)
        assert result.exit_code == 0, result.output
    one, other = (weights(tmp_path / name / "last.pt") for name in ("alone", "helped"))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert "workers = 1" in (tmp_path / "helped" / "config.toml").read_text()
    assert train(root, tmp_path / "helped", "--method", "pce", steps=4).exit_code == 0


@pytest.mark.quick
def test_train_predict_label(root: Path, tmp_path: Path) -> None:
    """Scribbles train a network, which predicts at the images' own size; `label` takes the predictions."""
    out, probs = tmp_path / "run", tmp_path / "probs"
    options = ("--solver", "graph-cut", "--learning-rate", 0.03, "--validate-every", 20)
    result = train(root, out, *options, steps=60)
    assert result.exit_code == 0, result.output
    assert "Dice, best" in result.output
    names = {path.name for path in out.iterdir()}
    assert names == {"config.toml", "history.csv", "history.jsonl", "last.pt", "best.pt", "scores.json"}
    rows = read_history(out / "history.jsonl")
    assert len(rows) == 60
    assert [row["step"] for row in rows if row["dice"] is not None] == [20, 40, 60]
    assert rows[-1]["joint"] is not None
    with open(out / "history.csv", newline="") as file:
        assert [float(row["step"]) for row in csv.DictReader(file)] == list(range(1, 61))
    assert json.loads((out / "scores.json").read_text())["dice"] == pytest.approx(rows[-1]["dice"])

    assert call("predict", out, root / "images", "--out", probs, "--allow-code").exit_code == 0
    correct = []
    for stem in ("v0", "v1"):
        read = read_probabilities(probs / f"{stem}.npz", (16, 14))
        correct.append((read.probs.argmax(0) == read_index(root / "masks" / f"{stem}.png")).mean())
    assert np.mean(correct) > 0.9
    again = call("predict", out, root / "images", "--out", probs, "--allow-code")
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
    rows = read_history(tmp_path / "run" / "history.jsonl")
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
    predicted = call(
        *(
            "predict",
            tmp_path / "run",
            root / "images" / "t0.png",
            "--out",
            tmp_path / "probs",
            "--allow-code",
        )
    )
    assert predicted.exit_code == 0, predicted.output
    assert "last.pt" in predicted.output


def test_labels_can_be_kept(root: Path, tmp_path: Path) -> None:
    kept = train(root, tmp_path / "run", "--no-augment", "--warm-start", "--relabel-every", 2)
    assert kept.exit_code == 0, kept.output
    for flags in (("--warm-start",), ("--relabel-every", 2)):
        moved = train(root, tmp_path / "other", *flags)
        assert moved.exit_code == 2
        assert f"{flags[0]} needs images that stay where they are" in moved.output
        assert f"add --no-augment, or leave {flags[0]} out" in moved.output


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
    again = ("train", root, "--out", tmp_path / "other", "--config", tmp_path / "run" / "config.toml")
    assert "imports the module support.runs and runs its code: give --allow-code" in call(*again).output
    assert not (tmp_path / "other").exists()
    other = call(*again, "--allow-code")
    assert other.exit_code == 0, other.output
    for one, two in zip(
        weights(tmp_path / "run" / "last.pt"), weights(tmp_path / "other" / "last.pt"), strict=True
    ):
        assert torch.equal(one, two)


def test_a_default_that_is_given_wins_over_the_file(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "options.toml"
    file.write_text("augment = false\npower = 0.5\nwarm-start = true\n")
    given = ("--config", file, "--augment", "--cold-start")
    assert train(root, tmp_path / "run", *given, steps=2).exit_code == 0
    stored = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert (stored["augment"], stored["warm_start"], stored["power"]) == (True, False, 0.5)


def test_objectives_are_as_told() -> None:
    assert recipes.objective(TrainingOptions(method="pce")) == SeedsOnly()
    assert recipes.objective(TrainingOptions(method="full")) == FullMasks()
    soft = recipes.objective(TrainingOptions())
    assert isinstance(soft, SelfLabeling)
    assert (soft.energy.coupling, soft.energy.relaxation) == (COLLISION, COLLISION_DIVERGENCE)
    assert soft.starter == InitialLabels(RandomWalker())
    assert soft.weight == 10
    for told, kind in (("none", NoneType), ("mean-field", MeanField)):
        chosen = recipes.objective(TrainingOptions(starter=told))
        assert isinstance(chosen, SelfLabeling)
        assert isinstance(chosen.starter and chosen.starter.solver, kind)
    robust = recipes.objective(TrainingOptions(method="trust-region", set=("moves=swap",), weight=0.5))
    assert isinstance(robust, SelfLabeling)
    assert isinstance(robust.solver, GraphCut)
    assert (robust.error_probability, robust.weight) == (0.1, 0.5)
    assert robust.solver.moves.name == "SWAP"
    field = recipes.objective(
        TrainingOptions(solver="mean-field", sigma=7.0, coupling_weight=2.0, max_steps=3)
    )
    assert isinstance(field, SelfLabeling)
    assert isinstance(field.solver, MeanField)
    assert (field.energy.coupling_weight, field.energy.entropy_weight, field.max_steps) == (2.0, 1.0, 3)
    assert getattr(field.affinity, "sigma") == 7.0  # noqa: B009 (the protocol has no fields)
    options = ("normalized-cut.weight=0.7", "normalized-cut.affinity.sigma=9", "rtol=1e-3")
    with pytest.raises(ValueError, match="kernel-cut has no option 'rtol'"):
        recipes.objective(TrainingOptions(solver="kernel-cut", set=options))
    cut = recipes.objective(TrainingOptions(solver="kernel-cut", pairwise_weight=3.0, set=options[:2]))
    assert isinstance(cut, SelfLabeling)
    assert cut.energy.regularizers == (NormalizedCut(0.7, per_pixel=True),)
    assert cut.energy.pairwise_weight == 3.0
    assert cut.affinities == (Dense(sigma=9.0, sigma_xy=40.0),)


def test_weights_of_losses_follow_the_energy() -> None:
    """λ on pairwise losses, η on the others, the weight and a factor on each."""
    options = TrainingOptions(
        method="gd", loss="potts=3+entropy+kernel-cut", weight=0.5, pairwise_weight=4.0, coupling_weight=0.2
    )
    found = recipes.objective(options)
    assert isinstance(found, Regularized)
    assert [part.name for part in found.parts] == ["potts", "entropy", "kernel-cut"]
    assert [part.weight for part in found.parts] == pytest.approx([6.0, 0.1, 2.0])
    kept = recipes.objective(
        TrainingOptions(method="gd", loss="kernel-cut+gated-crf", set=("unlabeled-only=true", "gamma=2"))
    )
    assert isinstance(kept, Regularized)
    kernel, gated = (part.loss for part in kept.parts)
    assert isinstance(kernel, KernelCutLoss)
    assert isinstance(gated, GatedCRFLoss)
    assert (kernel.gamma, gated.unlabeled_only) == (2.0, True)


@pytest.mark.parametrize(
    "options",
    [
        TrainingOptions(
            method="gd", loss="potts=3+entropy=2", coupling_weight=0.2, pairwise_weight=4.0, weight=0.5
        ),
        TrainingOptions(method="gd", loss="potts", relaxation="collision-divergence"),
        TrainingOptions(method="gd", loss="entropy+dense-crf", sigma_xy=4.0),
        TrainingOptions(method="gd", loss="dense-crf", affinity="grid", sigma=30.0),
    ],
)
def test_the_monitor_of_gradient_descent_is_the_loss_that_it_lowers(options: TrainingOptions) -> None:
    found, measure, data, net = (
        recipes.objective(options),
        recipes.monitor(options),
        batch(),
        small_network(),
    )
    assert measure is not None
    with torch.no_grad():
        logits = net(data.images)
        terms = found.terms(logits, data, None, 1.0)
        values = {name: float(term.value) for name, term in measure.measure(logits, data).items()}
    assert sums(values)["direct"] == pytest.approx(
        sum(float(term.value) for term in terms.values()), rel=1e-5
    )


def test_kmeans_in_squared_colors_has_a_small_factor() -> None:
    for loss, weight in (("kmeans", 2e-4), ("kmeans=0.5", 1.0), ("kmeans=1", 2.0)):
        found = recipes.objective(TrainingOptions(method="gd", loss=loss, weight=2.0))
        assert isinstance(found, Regularized)
        assert found.parts[0].weight == pytest.approx(weight)


def test_the_window_of_the_gated_crf_is_described(root: Path, tmp_path: Path) -> None:
    gated = ("--method", "gd", "--loss", "gated-crf", "--radius", 2, "--sigma", 20.0, "--sigma-xy", 3.0)
    assert train(root, tmp_path / "run", *gated, steps=2).exit_code == 0
    found = read_table(tmp_path / "run" / "config.toml", "objective")["gated-crf"]
    assert found == {"weight": 1.0, "affinity": {"is": "Window", "sigma": 20.0, "sigma_xy": 3.0, "radius": 2}}
    again = train(root, tmp_path / "again", "--config", tmp_path / "run" / "config.toml", steps=2)
    assert again.exit_code == 0, again.output


def test_losses_without_an_energy_have_no_monitor() -> None:
    for loss in ("normalized-cut", "entropy", "potts+normalized-cut", "potts+dense-crf"):
        assert recipes.monitor(TrainingOptions(method="gd", loss=loss)) is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "adam"], "there is no method 'adam' (did you mean adm?)"),
        (["--solver", "meanfield"], "did you mean mean-field?"),
        (["--method", "gd", "--loss", "crf"], "there is no loss 'crf'"),
        (["--method", "gd", "--loss", "potts=x"], "expected --loss NAME or NAME=FACTOR, got 'potts=x'"),
        (["--method", "gd", "--loss", "2*potts"], "got '2*potts': a factor as in potts=2"),
        (
            ["--method", "gd", "--loss", "normalized-cut", "--set", "loss.weight=2"],
            "a loss has no option weight: its weight is given as --loss normalized-cut=2",
        ),
        (
            ["--method", "gd", "--loss", "normalized-cut", "--set", "loss.gamma=2"],
            "normalized-cut has no option 'gamma'",
        ),
        (
            ["--solver", "graph-cut", "--set", "normalized-cut.weight=0.1"],
            "graph-cut has no normalized-cut to set weight=0.1 of: only --solver kernel-cut has one",
        ),
        (["--method", "gd", "--solver", "graph-cut"], "the method gd with potts has no --solver"),
        (["--method", "pce", "--sigma", 3.0], "the method pce has no --sigma"),
        (["--method", "pce", "--set", "affinity.sigma=3"], "has no affinity to set options of: sigma=3"),
        (["--method", "gd", "--starter", "graph-cut"], "the method gd with potts has no --starter"),
        (["--method", "gd", "--coupling-weight", 2.0], "the method gd with potts has no --coupling-weight"),
        (["--method", "gd", "--loss", "entropy", "--sigma", 9.0], "with entropy has no --sigma"),
        (["--method", "gd", "--loss", "entropy", "--pairwise-weight", 9.0], "has no --pairwise-weight"),
        (["--method", "gd", "--loss", "dense-crf", "--relaxation", "quadratic"], "has no --relaxation"),
        (["--method", "pce", "--weight", 2.0], "the method pce has no --weight"),
        (["--method", "full", "--present-only"], "the method full has no --present-only"),
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
        (
            ["--solver", "graph-cut", "--affinity", "dense"],
            "graph-cut: expected an affinity that lists its pairs",
        ),
        (["--solver", "graph-cut", "--coupling", "reverse"], "a coupling that is finite at hard labels"),
        (
            ["--error-probability", 0.6],
            "expected an error probability below 1 - 1/K = 0.5 for 2 classes, got 0.6",
        ),
        (
            ["--method", "gd", "--affinity", "dense", "--relaxation", "collision-divergence"],
            "expected a relaxation that is quadratic in the labels for a dense affinity",
        ),
        (["--optimizer", "adam"], "there is no optimizer 'adam'"),
        (["--set", "optimizer.momentum=1"], "has no option 'momentum'"),
        (["--no-augment", "--set", "augment.flip=true"], "without augmentation there is no augment.flip"),
        (["--network", "u-net"], "expected a network out of"),
        (["--channels", 2], "expected channels = 1, 3 or None, got 2"),
        (["--batch", 0], "Invalid value for '--batch'"),
        (["--workers", -1], "Invalid value for '--workers'"),
        (["--learning-rate", 0.0], "expected a learning rate > 0"),
        (["--num-classes", 300], "expected 1 to 255 classes, got 300"),
        (["--config", "nowhere.toml"], "nowhere.toml cannot be read"),
        (["--device", "abacus"], "there is no device 'abacus' here"),
        (["--device", "meta"], "there is no device 'meta' here"),
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
