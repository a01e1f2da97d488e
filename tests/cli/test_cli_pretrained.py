"""Runs of the commands with a network whose weights come from a package."""

import sys
from pathlib import Path

import pytest
from support.runs import call, make_data, train

from selflabel.files.probabilities import read_probabilities
from selflabel.networks import VARIANTS
from selflabel.networks.efficientnet import EfficientNetLite, Variant
from selflabel.training import load_checkpoint

NETWORK = "deeplabv3plus-efficientnet-lite0"
PACKAGE = VARIANTS["efficientnet-lite0"].package
PROTOCOL = ("--network", NETWORK, "--optimizer", "sgd", "--lr", 0.01, "--new-layers-rate", 10, "--size", 32)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data")


def test_a_run_is_trained_and_predicts_without_the_package(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package is asked at the start of training alone: the checkpoint has the weights."""
    asked: list[str] = []
    monkeypatch.setattr(Variant, "check", lambda _: None)
    monkeypatch.setattr(Variant, "weights", lambda _: {})
    monkeypatch.setattr(EfficientNetLite, "load", lambda _, weights: asked.append("weights"))
    out, probs = tmp_path / "run", tmp_path / "probs"
    result = train(root, out, *PROTOCOL, "--method", "pce", steps=3)
    assert result.exit_code == 0, result.output
    assert asked
    old, new = load_checkpoint(out / "last.pt").optimizer["param_groups"]
    assert new["lr"] == pytest.approx(10 * old["lr"])
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    result = call("predict", out, root / "images", "--out", probs, "--precision", "float32")
    assert result.exit_code == 0, result.output
    assert read_probabilities(probs / "v1.npz", (16, 14)).probs.shape == (2, 16, 14)


@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_missing_package_is_named_before_files_are_read(
    root: Path, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if command == "compare":
        pytest.importorskip("matplotlib")
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    (root / "images" / "t1.png").write_bytes(b"no image")
    runs = ("--runs", "pce") if command == "compare" else ()
    shared = ("--set", f"network={NETWORK}") if command == "compare" else ("--network", NETWORK)
    result = call(command, root, "--out", tmp_path / "run", *runs, *shared)
    assert result.exit_code == 2, result.output
    assert "pip install 'selflabel[pretrained]'" in " ".join(result.output.split())
    assert "--pretrained random" in " ".join(result.output.split())


def test_a_factor_for_new_layers_where_none_is_pretrained(root: Path, tmp_path: Path) -> None:
    result = train(root, tmp_path / "run", "--new-layers-rate", 10)
    assert result.exit_code == 2, result.output
    assert "got no pretrained ones: leave the factor out" in " ".join(result.output.split())


def test_a_factor_out_of_range(root: Path, tmp_path: Path) -> None:
    result = train(root, tmp_path / "run", "--new-layers-rate", 0)
    assert result.exit_code == 2, result.output
    assert "factor > 0 on the learning rate of new layers" in " ".join(result.output.split())
