"""Losses of image tags: against loops and explicit matrices."""

from math import log

import pytest
import torch
from support.problems import make_case
from torch import Tensor

from selflabel import Energy
from selflabel.affinity import Dense
from selflabel.losses import (
    ConstrainToBoundaryLoss,
    ExpansionLoss,
    constrain_to_boundary_loss,
    expansion_loss,
)

pytestmark = pytest.mark.quick

PRESENT = torch.tensor([[True, True, False], [True, False, False]])


def logits_of(kind: str = "grid4") -> Tensor:
    return make_case(Energy(), kind).probs.double().log()


def explicit_expansion(
    logits: Tensor, present: Tensor, background: int | None, decays: tuple[float, float]
) -> float:
    value = 0.0
    for probs, there in zip(logits.softmax(1).flatten(2).tolist(), present.tolist(), strict=True):
        pooled, absent = [], []
        for k, values in enumerate(probs):
            decay = decays[k == background] ** (1681 / len(values))
            weights = [decay**j for j in range(len(values))]
            mean = sum(w * v for w, v in zip(weights, sorted(values, reverse=True), strict=True)) / sum(
                weights
            )
            if k == background:
                value -= log(mean)
            elif there[k]:
                pooled.append(-log(mean))
            else:
                absent.append(-log(1 - max(values)))
        value += sum(pooled) / max(len(pooled), 1) + sum(absent) / max(len(absent), 1)
    return value / len(logits)


@pytest.mark.parametrize("background", [0, 2, None])
@pytest.mark.parametrize("decays", [(0.996, 0.999), (0.0, 1.0)])
def test_expansion_is_the_formula(background: int | None, decays: tuple[float, float]) -> None:
    logits = logits_of()
    found = expansion_loss(logits, PRESENT, background, *decays)
    assert float(found) == pytest.approx(explicit_expansion(logits, PRESENT, background, decays), rel=1e-9)


def test_gradients_of_expansion_are_finite_differences() -> None:
    logits = logits_of()[:, :, :3, :4].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: expansion_loss(x, PRESENT), (logits,))


def test_shares_of_images_have_the_same_weight_at_every_size() -> None:
    logits = logits_of()
    double = logits.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert float(expansion_loss(double, PRESENT)) == pytest.approx(
        float(expansion_loss(logits, PRESENT)), rel=0.02
    )


def test_a_class_grows_where_it_is_present_and_goes_where_it_is_not() -> None:
    logits = torch.zeros(2, 3, 8, 8, requires_grad=True)
    present = torch.tensor([[True, True, False], [True, False, True]])
    optimizer = torch.optim.Adam([logits], lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        expansion_loss(logits, present).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    probs = logits.detach().softmax(1)
    assert float(probs[0, 2].max()) < 0.05
    assert float(probs[1, 1].max()) < 0.05
    assert float(probs[0, 1].max()) > 0.2
    assert float(probs[:, 0].mean()) > 0.2


def explicit_mean_field(logits: Tensor, matrix: Tensor, iterations: int) -> Tensor:
    log_probs = logits.log_softmax(1).flatten(2)
    labels = log_probs.exp()
    for _ in range(iterations):
        labels = (log_probs + torch.einsum("bnm,bkm->bkn", matrix, labels)).softmax(1)
    return labels


def test_constraint_and_its_gradient_are_the_formulas() -> None:
    case = make_case(Energy(), "exact").to(torch.float64)
    logits = logits_of("exact").requires_grad_()
    matrix = case.affinity.as_matrix()
    target = explicit_mean_field(logits.detach(), matrix, 4)
    probs = logits.detach().softmax(1).flatten(2)
    found = constrain_to_boundary_loss(logits, case.affinity, 4)
    pixels = probs.shape[0] * probs.shape[2]
    torch.testing.assert_close(found.detach(), (target * (target / probs).log()).sum() / pixels)
    (slope,) = torch.autograd.grad(found, logits)
    torch.testing.assert_close(slope.flatten(2), (probs - target) / pixels, rtol=1e-6, atol=1e-9)


def test_images_of_which_nothing_is_known_do_not_count() -> None:
    logits = logits_of().requires_grad_()
    unknown = torch.tensor([[False] * 3, [True, False, False]])
    loss = expansion_loss(logits, unknown)
    torch.testing.assert_close(loss, expansion_loss(logits[1:], unknown[1:]))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert float(gradient[0].abs().max()) == 0 < float(gradient[1].abs().max())
    nothing = expansion_loss(logits, torch.zeros_like(unknown))
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert float(nothing.detach()) == float(gradient.abs().max()) == 0


def test_modules_take_the_classes_of_the_seeds() -> None:
    case = make_case(Energy(), "grid4")
    logits = case.probs.log()
    seeds = torch.full_like(case.seeds, 255)
    seeds[0, 0, :2], seeds[1, 0, 0] = torch.tensor([0, 1]), 0
    assert float(ExpansionLoss()(logits, case.image, seeds)) == float(expansion_loss(logits, PRESENT))
    builder = Dense(sigma=30.0, sigma_xy=4.0, symmetric=True)
    expected = constrain_to_boundary_loss(logits, builder(case.image), 3)
    assert float(ConstrainToBoundaryLoss(builder, 3)(logits, case.image)) == float(expected)


def test_half_precision_is_widened() -> None:
    logits = logits_of().half()
    assert expansion_loss(logits, PRESENT).dtype == torch.float32
    affinity = make_case(Energy(), "exact").affinity
    assert constrain_to_boundary_loss(logits_of("exact").half(), affinity).dtype == torch.float32


def test_sure_logits_have_finite_losses_and_gradients() -> None:
    logits = (100 * (logits_of().float() > -1)).float().requires_grad_()
    loss = expansion_loss(logits, PRESENT)
    (slope,) = torch.autograd.grad(loss, logits)
    assert bool(loss.isfinite())
    assert bool(slope.isfinite().all())


def test_what_does_not_fit(unchecked: None) -> None:
    logits = logits_of()
    with pytest.raises(ValueError, match="expected `present` as booleans"):
        expansion_loss(logits, PRESENT[:1])
    with pytest.raises(ValueError, match="expected background below 3 classes, got 3"):
        expansion_loss(logits, PRESENT, 3)
    with pytest.raises(ValueError, match=r"expected present_decay in \[0, 1\], got 1.5"):
        expansion_loss(logits, PRESENT, present_decay=1.5)
    with pytest.raises(ValueError, match=r"expected background_decay in \[0, 1\], got -1"):
        ExpansionLoss(background_decay=-1.0)
    with pytest.raises(ValueError, match="expected background as a whole number >= 0, got -1"):
        ExpansionLoss(-1)
    with pytest.raises(ValueError, match="expected a builder of affinities, got a str 'dense'"):
        ConstrainToBoundaryLoss("dense")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected iterations as a whole number >= 1, got 0"):
        ConstrainToBoundaryLoss(iterations=0)
    with pytest.raises(ValueError, match="expected iterations as a whole number >= 1, got 0"):
        constrain_to_boundary_loss(logits, make_case(Energy(), "grid4").affinity, 0)
