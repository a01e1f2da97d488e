"""A new solver is one file and one line in its table: every command takes it, with defaults that work."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from support.folders import make_folders
from support.runs import NETWORK, call, make_data, train
from torch import Tensor

from selflabel.affinity import Affinity
from selflabel.affinity.builders import AffinityBuilder, Grid
from selflabel.driver import Step
from selflabel.energy import Energy
from selflabel.problem import Problem
from selflabel.solvers import SOLVERS
from selflabel.terms import BILINEAR, COLLISION, Regularizer
from selflabel.training import load_checkpoint

ENERGY = Energy(COLLISION, BILINEAR, 0.75, 0.5)


@dataclass(frozen=True)
class Smoothing:
    """Mixes the labels of neighbors."""

    name: ClassVar[str] = "smoothing"
    default_energy: ClassVar[Energy] = ENERGY
    default_affinity: ClassVar[AffinityBuilder] = Grid(sigma=40.0)
    needs_edges: ClassVar[bool] = False
    regularizers: ClassVar[tuple[type[Regularizer], ...]] = ()

    share: float = 0.25

    def check(self, energy: Energy, affinity: Affinity) -> None:
        """Takes one coupling only."""
        if energy.coupling != COLLISION:
            raise ValueError(f"smoothing: expected the coupling 'collision', got {energy.coupling.name!r}")

    def iterate(self, problem: Problem, labels: Tensor) -> Iterator[Step]:
        """One step."""
        around = problem.affinity.apply(labels) / problem.affinity.degree()
        mixed = (1 - self.share) * labels + self.share * around
        yield Step(problem.feasible(mixed / mixed.sum(1, keepdim=True)))


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOLVERS, Smoothing.name, Smoothing)


def test_it_is_listed_with_its_options_and_defaults() -> None:
    lines = call("solvers").output.splitlines()
    assert any("smoothing" in line and "Mixes the labels of neighbors." in line for line in lines)
    assert any("share=0.25" in line for line in lines)
    assert any("smoothing" in line and "0.75" in line and "bilinear" in line for line in lines)


def test_it_labels_a_folder(tmp_path: Path) -> None:
    images, seeds, _ = make_folders(tmp_path, 1)
    common = ("label", images, "--seeds", seeds, "--workers", 1, "--solver", "smoothing")
    result = call(*common, "--out", tmp_path / "out", "--set", "share=0.5", "--pairwise-weight", 3)
    assert result.exit_code == 0, result.output
    head = json.loads((tmp_path / "out" / "manifest.jsonl").read_text().splitlines()[0])
    labeler = head["arguments"]["labeler"]
    assert labeler["solver"] == {"is": "Smoothing", "share": 0.5}
    assert (labeler["energy"]["coupling"], labeler["energy"]["coupling_weight"]) == ("collision", 0.75)
    assert labeler["energy"]["pairwise_weight"] == 3
    assert labeler["affinity"]["sigma"] == 40
    wrong = call(*common, "--out", tmp_path / "wrong", "--coupling", "standard")
    assert wrong.exit_code == 2
    assert "smoothing: expected the coupling 'collision', got 'standard'" in wrong.output


def test_it_trains_a_network(tmp_path: Path) -> None:
    root = make_data(tmp_path / "data")
    result = train(root, tmp_path / "run", "--solver", "smoothing", "--starter", "smoothing", steps=3)
    assert result.exit_code == 0, result.output
    about = load_checkpoint(tmp_path / "run" / "last.pt").about
    assert about["objective"]["solver"] == {"is": "Smoothing", "share": 0.25}
    assert about["objective"]["energy"]["coupling_weight"] == 0.75
    assert about["objective"]["affinity"]["sigma"] == 40
    wrong = train(root, tmp_path / "wrong", "--solver", "smoothing", "--coupling", "reverse")
    assert wrong.exit_code == 2
    assert "smoothing: expected the coupling 'collision', got 'reverse'" in wrong.output


def test_it_is_compared(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    small = ("size=16", "batch=2", "steps=2", "pretrain-steps=1", "warmup-steps=0", "measure-every=1")
    settings = [part for one in (f"network={NETWORK}", *small) for part in ("--set", one)]
    root, out = make_data(tmp_path / "data"), tmp_path / "out"
    result = call("compare", root, "--out", out, *settings, "--runs", "adm:smoothing,solver.share=0.5")
    assert result.exit_code == 0, result.output
    assert "adm:smoothing, solver.share=0.5" in (out / "comparison.md").read_text()
