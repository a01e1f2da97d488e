"""Gradients by class, as they are drawn, against autograd of formulas with the full matrix."""

import pytest
import torch
from support.loss_formulas import PAIRWISE, cut
from support.problems import Case, make_case
from torch import Tensor

from selflabel.energy import Energy
from selflabel.losses import dense_crf_loss
from selflabel.losses.gradients import gradient_by_logits, gradient_by_probs


def case() -> Case:
    return make_case(Energy(), "grid8", seeded=0.3)


@pytest.mark.quick
@pytest.mark.parametrize("name", PAIRWISE)
def test_by_logits_it_is_autograd_of_the_formula(name: str) -> None:
    given, pair = case(), PAIRWISE[name]
    found = gradient_by_logits(lambda logits: pair.loss(logits, given), given.probs)
    logits = given.probs.double().log().requires_grad_()
    (expected,) = torch.autograd.grad(pair.formula(logits, given), logits)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-7)


def test_by_probs_it_is_autograd_of_the_quadratic_form_along_the_simplex() -> None:
    given = case()
    found = gradient_by_probs(lambda logits: dense_crf_loss(logits, given.affinity), given.probs)
    probs = given.probs.double().flatten(2).requires_grad_()
    value = cut(given.affinity.as_matrix().double(), probs).sum() / (len(probs) * probs.shape[2])
    (expected,) = torch.autograd.grad(value, probs)
    expected = (expected - expected.mean(1, keepdim=True)).view_as(found)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-7)


def test_certain_pixels_have_a_gradient_by_probs_alone() -> None:
    given = case()
    certain = torch.zeros_like(given.probs)
    certain[:, 0], certain[..., 0, 0] = 1, torch.eye(given.probs.shape[1])[1]

    def loss(logits: Tensor) -> Tensor:
        return dense_crf_loss(logits, given.affinity)

    assert gradient_by_logits(loss, certain).abs().max() < 1e-9
    assert gradient_by_probs(loss, certain)[:, 0, 0, 1].max() < -1e-3
