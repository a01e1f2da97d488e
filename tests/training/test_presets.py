"""The presets of self-labeling: every solver can minimize its own."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from support.cases import batch
from torch import Tensor

from selflabel.affinity import Affinity
from selflabel.affinity.builders import AffinityBuilder, Grid
from selflabel.driver import Solver, Step
from selflabel.energy import Energy
from selflabel.problem import Problem
from selflabel.solvers import SOLVERS, GradientDescent, MeanField
from selflabel.terms import QUADRATIC, QUADRATIC_POTTS, Regularizer
from selflabel.training import SelfLabeling
from selflabel.training.presets import PRESETS, SOFT, default_objective, default_starter


@dataclass(frozen=True)
class Still:
    """A solver that is in no table: it leaves labels where they are."""

    name: ClassVar[str] = "still"
    default_energy: ClassVar[Energy] = Energy(QUADRATIC, QUADRATIC_POTTS, 0.3, 0.7)
    default_affinity: ClassVar[AffinityBuilder] = Grid()
    needs_edges: ClassVar[bool] = False
    regularizers: ClassVar[tuple[type[Regularizer], ...]] = ()

    def check(self, energy: Energy, affinity: Affinity) -> None:
        """Every problem fits."""

    def iterate(self, problem: Problem, labels: Tensor) -> Iterator[Step]:
        """One step to the same place."""
        yield Step(labels)


@pytest.mark.parametrize("solver", [kind() for kind in SOLVERS.values()], ids=SOLVERS)
def test_every_solver_can_minimize_its_preset(solver: Solver) -> None:
    objective = default_objective(solver)
    objective = replace(objective, starter=objective.starter or default_starter(solver))
    data = batch(2)
    logits = torch.zeros(2, 3, *data.seeds.shape[1:])
    pseudo_labels = objective.label(logits, data, None)
    assert pseudo_labels.labels.shape == logits.shape
    assert float(pseudo_labels.gain.min()) >= -1e-3


def test_presets_keep_the_options_of_a_solver() -> None:
    solver = GradientDescent(coarse_levels=0)
    assert default_objective(solver) == replace(SOFT, solver=solver)
    assert default_objective(MeanField()).energy != SOFT.energy
    for preset in PRESETS:
        assert default_objective(preset.solver) == preset


def test_a_solver_without_a_preset_has_its_own_defaults() -> None:
    assert default_objective(Still()) == SelfLabeling(Still.default_energy, Still(), Grid())
