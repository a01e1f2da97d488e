"""The presets of self-labeling: every solver can minimize its own."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from support.cases import batch
from torch import Tensor

from selflabel.affinity import Affinity
from selflabel.driver import Solver, Step
from selflabel.problem import Energy, Problem
from selflabel.solvers import SOLVERS, GradientDescent, MeanField
from selflabel.terms import QUADRATIC, QUADRATIC_POTTS
from selflabel.training import SelfLabeling
from selflabel.training.presets import PRESETS, Preset, preset, starter


@dataclass(frozen=True)
class Still:
    """A solver that is in no table: it leaves labels where they are."""

    name: ClassVar[str] = "still"
    default_energy: ClassVar[Energy] = Energy(QUADRATIC, QUADRATIC_POTTS, 0.3, 0.7)
    needs_edges: ClassVar[bool] = False

    def check(self, energy: Energy, affinity: Affinity) -> None:
        """Every problem fits."""

    def iterate(self, problem: Problem, labels: Tensor) -> Iterator[Step]:
        """One step to the same place."""
        yield Step(labels)


@pytest.mark.parametrize("solver", [kind() for kind in SOLVERS.values()], ids=SOLVERS)
def test_every_solver_can_minimize_its_preset(solver: Solver) -> None:
    found = preset(solver)
    objective = SelfLabeling(
        found.energy, solver, found.affinity, found.max_steps, starter=found.starter or starter(solver)
    )
    data = batch(2)
    logits = torch.zeros(2, 3, *data.seeds.shape[1:])
    pseudo_labels = objective.label(logits, data, None)
    assert pseudo_labels.labels.shape == logits.shape
    assert float(pseudo_labels.gain.min()) >= -1e-3


def test_presets_are_those_of_the_solvers() -> None:
    assert set(PRESETS) <= set(SOLVERS.values())


def test_a_solver_without_a_preset_minimizes_its_default_energy() -> None:
    assert preset(Still()) == Preset(Still.default_energy)


def test_a_solver_with_other_options_has_the_preset_of_its_kind() -> None:
    assert preset(GradientDescent(coarse_levels=0)) == PRESETS[GradientDescent]
    assert preset(MeanField()) != preset(GradientDescent())
