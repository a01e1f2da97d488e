"""Surfaces over pairs of distributions of two classes, as contours are drawn, against the papers' formulas."""

import pytest
import torch
from support.problems import explicit_coupling, explicit_relaxation
from torch import Tensor

from selflabel.terms import COUPLINGS, RELAXATIONS, Coupling, Relaxation
from selflabel.terms.binary import coupling_surface, relaxation_surface

VALUES = torch.tensor([0.1, 0.25, 0.5, 0.93], dtype=torch.float64)


def binary(value: float) -> Tensor:
    return torch.tensor([[value, 1 - value]], dtype=torch.float64)


@pytest.mark.quick
@pytest.mark.parametrize("relaxation", RELAXATIONS, ids=lambda each: each.name)
def test_a_relaxation_is_its_formula_at_every_pair(relaxation: Relaxation) -> None:
    surface = relaxation_surface(relaxation, VALUES)
    for row, first in zip(surface, VALUES.tolist(), strict=True):
        for value, second in zip(row, VALUES.tolist(), strict=True):
            expected = explicit_relaxation(relaxation.name, binary(first), binary(second))
            assert float(value) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("coupling", COUPLINGS, ids=lambda each: each.name)
def test_a_coupling_is_its_formula_label_first(coupling: Coupling) -> None:
    surface = coupling_surface(coupling, VALUES)
    for row, label in zip(surface, VALUES.tolist(), strict=True):
        for value, prediction in zip(row, VALUES.tolist(), strict=True):
            expected = explicit_coupling(coupling.name, binary(label), binary(prediction))
            assert float(value) == pytest.approx(float(expected), abs=1e-9)


def test_corners_are_finite() -> None:
    ends = torch.tensor([0.0, 1.0])
    surfaces = [relaxation_surface(each, ends) for each in RELAXATIONS]
    surfaces += [coupling_surface(each, ends) for each in COUPLINGS]
    assert all(bool(surface.isfinite().all()) for surface in surfaces)
