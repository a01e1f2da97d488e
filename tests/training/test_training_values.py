"""Objectives and settings are values: a copy of each is equal, and has the same terms of the loss."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.cases import GRID, QUICK, SOFT, batch, network
from support.copies import COPIES

from selflabel.losses import DenseCRFLoss, GatedCRFLoss
from selflabel.solvers import SOLVERS
from selflabel.training import (
    FullMasks,
    Monitor,
    Objective,
    Regularized,
    SeedsOnly,
    WeightedLoss,
)
from selflabel.training.presets import default_objective

OBJECTIVES: dict[str, Objective] = {
    "seeds": SeedsOnly((0.3, 1.0, 2.0)),
    "masks": FullMasks(),
    "potts": GRID,
    "two losses": Regularized(
        (WeightedLoss("dense-crf", 0.5, DenseCRFLoss()), WeightedLoss("gated-crf", 0.1, GatedCRFLoss(2)))
    ),
    "robust": replace(SOFT, error_probability=0.1, starter=None),
    **{name: replace(default_objective(kind()), max_steps=3) for name, kind in SOLVERS.items()},
}


def terms(objective: Objective) -> dict[str, torch.Tensor]:
    data = batch(2)
    logits = network()(data.images).detach()
    found = objective.terms(logits, data, objective.label(logits, data, None), 0.7)
    return {name: term.value for name, term in found.items()}


@COPIES
@pytest.mark.parametrize("name", OBJECTIVES)
def test_copies_of_objectives_have_the_same_terms(name: str, copied: Callable[[Any], Any]) -> None:
    objective = OBJECTIVES[name]
    found = copied(objective)
    assert type(found) is type(objective)
    if not isinstance(objective, Regularized):  # modules are equal to themselves only
        assert found == objective
    assert terms(found) == terms(objective)


@COPIES
def test_copies_of_monitors_and_settings_are_equal(copied: Callable[[Any], Any]) -> None:
    for value in (Monitor(SOFT), replace(QUICK, average=0.9)):
        assert copied(value) == value
