"""Further terms of a labeler's energy: their affinities, and their options on the command line."""

from dataclasses import replace

import pytest
import torch

from selflabel.affinity.builders import Dense, Grid
from selflabel.cli.config import registry
from selflabel.cli.config.options import LabelerOptions
from selflabel.driver import solve
from selflabel.labeling.labeler import Labeler
from selflabel.labeling.presets import PRESETS
from selflabel.labeling.settings import describe
from selflabel.problem import Problem
from selflabel.solvers import KernelCut
from selflabel.terms import NormalizedCut


def preset() -> Labeler:
    return next(labeler for labeler in PRESETS if isinstance(labeler.solver, KernelCut))


def test_further_terms_have_their_own_affinity() -> None:
    rng = torch.Generator().manual_seed(5102)
    image, seeds = torch.rand(3, 12, 14, generator=rng), torch.full((12, 14), 255)
    seeds[0, :3], seeds[-1, :3] = 0, 1
    probs = torch.rand(2, 12, 14, generator=rng).softmax(0)
    labeler = replace(preset(), annotator=None)
    found = labeler.label(image, seeds, 2, probs)
    affinities = (Dense(sigma=15.0, sigma_xy=40.0)(image[None]),)
    problem = Problem(
        labeler.energy, probs[None], seeds[None], labeler.affinity(image[None]), affinities=affinities
    )
    expected = solve(problem, KernelCut(), max_steps=20)
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.energy, expected.energy)


def test_as_many_affinities_as_terms() -> None:
    with pytest.raises(ValueError, match="an affinity for each of the 1 regularizers"):
        replace(preset(), affinities=(Dense(), Dense()))


def test_options_of_further_terms() -> None:
    options = ("normalized-cut.weight=0.7", "normalized-cut.affinity.sigma=9", "affinity.sigma=4")
    labeler = registry.labeler(LabelerOptions(solver="kernel-cut", set=options))
    assert labeler.energy.regularizers == (NormalizedCut(0.7, per_pixel=True),)
    assert labeler.affinities == (Dense(sigma=9.0, sigma_xy=40.0),)
    assert labeler.affinity == Grid(sigma=4.0, neighbors=8, by_distance=True)
    assert describe(labeler) != describe(preset())
    assert registry.labeler(LabelerOptions(solver="kernel-cut")) == preset()


def test_options_of_terms_that_are_not_there_are_refused() -> None:
    with pytest.raises(
        ValueError, match="graph-cut has no normalized-cut to set weight=1 of: only --solver kernel-cut"
    ):
        registry.labeler(LabelerOptions(solver="graph-cut", set=("normalized-cut.weight=1",)))
    with pytest.raises(ValueError, match="normalized-cut has no option 'wight'"):
        registry.labeler(LabelerOptions(solver="kernel-cut", set=("normalized-cut.wight=1",)))


def test_terms_on_the_first_affinity_have_none_to_set() -> None:
    energy = preset().energy
    with pytest.raises(ValueError, match="normalized-cut has no affinity of its own to set sigma=9 of"):
        registry.terms_with(energy, (), {"normalized-cut": ["affinity.sigma=9"]})
