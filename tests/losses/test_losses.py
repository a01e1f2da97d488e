"""Every loss against its formula and finite differences, in mixed precision and for extreme logits."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from support.loss_formulas import LOSSES, PIXELWISE, draw_logits, pixels, pseudo_labels, value_and_gradient
from support.problems import Case, make_case
from torch import Tensor

from selflabel.affinity.builders import Grid
from selflabel.energy import Energy
from selflabel.labels import UNLABELED, one_hot
from selflabel.losses import (
    click_weights,
    dense_crf_loss,
    entropy_loss,
    kmeans_loss,
    non_exist_loss,
    normalized_cut_loss,
    partial_cross_entropy,
    self_labeling_loss,
)
from selflabel.losses.cross_entropy import class_frequencies
from selflabel.terms import COLLISION, COUPLINGS, QUADRATIC, STANDARD, Coupling

EVERY = pytest.mark.parametrize("name", LOSSES)
EVERY_COUPLING = pytest.mark.parametrize("coupling", COUPLINGS, ids=lambda c: c.name)
HALVES = [torch.float16, torch.bfloat16]


def case_of(kind: str = "grid4", dtype: torch.dtype = torch.float64, **options: object) -> Case:
    return make_case(Energy(), kind, seeded=0.3, **options).to(dtype)  # type: ignore[arg-type]


# --- formulas -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["grid4", "grid6"])
@pytest.mark.parametrize("name", PIXELWISE)
def test_losses_are_their_formulas(name: str, kind: str) -> None:
    case = case_of(kind)
    logits = draw_logits(case)
    value, gradient = value_and_gradient(LOSSES[name].loss, logits, case)
    expected, expected_gradient = value_and_gradient(LOSSES[name].formula, logits, case)
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-7, atol=1e-10)
    assert float(gradient.abs().max()) > 1e-4


@pytest.mark.parametrize("name", PIXELWISE)
def test_gradients_are_finite_differences(name: str) -> None:
    case = case_of(size=(3, 2))
    if name == "k-means":  # in 255² units, scaled to the resolution of finite differences
        case = replace(case, image=case.image / 255)
    logits = draw_logits(case).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: LOSSES[name].loss(x, case), logits)


@EVERY
def test_batches_are_means_of_their_images(name: str) -> None:
    case = case_of("grid4")
    logits = draw_logits(case)
    if name == "partial-cross-entropy":  # a mean over labeled pixels
        seeds = case.seeds.roll(1, 2)
        seeds[0, 0, 0] = UNLABELED if seeds[0, 0, 0] != UNLABELED else 0
        together = partial_cross_entropy(logits, seeds)
        numbers = (seeds != UNLABELED).flatten(1).sum(1)
        parts = [partial_cross_entropy(logits[i : i + 1], seeds[i : i + 1]) for i in (0, 1)]
        assert numbers[0] != numbers[1]
        torch.testing.assert_close(together, (numbers[0] * parts[0] + numbers[1] * parts[1]) / numbers.sum())
        return
    if name == "non-exist":
        present = torch.tensor([[True, False, False], [True, True, False]])
        parts = [non_exist_loss(logits[i : i + 1], present[i : i + 1]) for i in (0, 1)]
        torch.testing.assert_close(non_exist_loss(logits, present), sum(parts) / 2)
        return
    if name.startswith("self"):
        labels = pseudo_labels(case)
        coupling = next(c for c in COUPLINGS if name.endswith(c.name))
        parts = [
            self_labeling_loss(logits[i : i + 1], labels[i : i + 1], case.seeds[i : i + 1], coupling)
            for i in (0, 1)
        ]
    else:
        parts = [LOSSES[name].loss(logits[i : i + 1], case.alone(i)) for i in (0, 1)]
    torch.testing.assert_close(LOSSES[name].loss(logits, case), sum(parts) / 2)


# --- precision ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["grid4", "lattice"])
@EVERY
def test_mixed_precision_changes_nothing(name: str, kind: str) -> None:
    """Under autocast, half-precision logits have the loss of the same logits in float32."""
    case = case_of(kind, torch.float32)
    logits = draw_logits(case).float()
    loss = LOSSES[name].loss
    value, gradient = value_and_gradient(loss, logits, case)
    assert value.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        cast, cast_gradient = value_and_gradient(loss, logits, case)
    assert torch.equal(cast, value)
    torch.testing.assert_close(cast_gradient, gradient, rtol=1e-5, atol=1e-7)
    for half in HALVES:
        value, gradient = value_and_gradient(loss, logits.to(half).float(), case)
        with torch.autocast("cpu", torch.bfloat16):
            low, low_gradient = value_and_gradient(loss, logits.to(half), case)
        assert low.dtype == torch.float32
        assert torch.equal(low, value)
        torch.testing.assert_close(low_gradient, gradient.to(half), rtol=1e-2, atol=1e-5)


@EVERY
def test_float32_is_near_float64(name: str) -> None:
    case = case_of("exact", torch.float32)
    logits = draw_logits(case)
    loss = LOSSES[name].loss
    exact, exact_gradient = value_and_gradient(loss, logits, case.to(torch.float64))
    single, single_gradient = value_and_gradient(loss, logits.float(), case)
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(single_gradient.double(), exact_gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("kind", ["grid4", "exact"])
@EVERY
def test_extreme_logits_have_finite_gradients(name: str, kind: str, dtype: torch.dtype) -> None:
    case = case_of(kind, torch.float32)
    logits = (100 * draw_logits(case).sign()).to(dtype)
    logits[:, 2] = -300  # a class that no pixel has
    value, gradient = value_and_gradient(LOSSES[name].loss, logits, case)
    assert bool(value.isfinite())
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize(("size", "classes"), [((1, 1), 3), ((1, 5), 3), ((3, 4), 1)])
@EVERY
def test_one_pixel_one_row_one_class(
    name: str, size: tuple[int, ...], classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case(Energy(), "grid4", size=size, classes=classes, seeded=0.0)
    monkeypatch.setattr("support.loss_formulas.WEIGHTS", torch.ones(classes))
    monkeypatch.setattr("support.loss_formulas.PRESENT", torch.ones(2, classes, dtype=torch.bool))
    value, gradient = value_and_gradient(LOSSES[name].loss, draw_logits(case).float(), case)
    assert bool(value.isfinite())
    assert bool(gradient.isfinite().all())
    if classes == 1:
        assert float(gradient.abs().max()) == 0


# --- the self-labeling loss ---------------------------------------------------------------------------------


@EVERY_COUPLING
def test_log_space_is_the_same_coupling(coupling: Coupling) -> None:
    case = case_of()
    y, sigma = pseudo_labels(case), draw_logits(case).softmax(1)
    torch.testing.assert_close(coupling.from_log_probs(y, sigma.log()), coupling.value(y, sigma))


@EVERY_COUPLING
def test_gradients_of_self_labeling_are_as_documented(coupling: Coupling) -> None:
    case = case_of()
    logits, y = draw_logits(case), pseudo_labels(case)
    sigma = logits.softmax(1)
    product = sigma * y
    expected = {
        "standard": sigma - y,
        "collision": sigma - product / product.sum(1, keepdim=True),
        "reverse": -sigma * (y.log() - (sigma * y.log()).sum(1, keepdim=True)),
        "quadratic": 2 * sigma * (sigma - y - (sigma * (sigma - y)).sum(1, keepdim=True)),
    }[coupling.name]
    expected = torch.where((case.seeds == UNLABELED)[:, None], expected, 0) / pixels(logits)
    _, gradient = value_and_gradient(
        lambda x, _: self_labeling_loss(x, y, case.seeds, coupling), logits, case
    )
    torch.testing.assert_close(gradient, expected)


@EVERY_COUPLING
def test_surely_wrong_networks_still_learn(coupling: Coupling) -> None:
    """Where probabilities are zero in float32, couplings with a log of σ keep their full gradient."""
    logits = torch.tensor([100.0, -100.0, 0.0]).view(1, 3, 1, 1)
    y = one_hot(torch.tensor([[[1]]]), 3)
    seeds = torch.full((1, 1, 1), UNLABELED)
    case = case_of()
    value, gradient = value_and_gradient(lambda x, _: self_labeling_loss(x, y, seeds, coupling), logits, case)
    pulls = coupling in (STANDARD, COLLISION)
    torch.testing.assert_close(
        gradient.flatten(), torch.tensor([1.0, -1.0, 0.0]) if pulls else torch.zeros(3)
    )
    expected = {"standard": 200.0, "collision": 200.0, "reverse": 30.0, "quadratic": 2.0}[coupling.name]
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_labels_get_no_gradient() -> None:
    case = case_of()
    labels = pseudo_labels(case).requires_grad_()
    loss = self_labeling_loss(draw_logits(case).requires_grad_(), labels, case.seeds, QUADRATIC)
    loss.backward()  # type: ignore[no-untyped-call]
    assert labels.grad is None


# --- partial cross entropy ----------------------------------------------------------------------------------


def test_without_seeds_the_cross_entropy_is_zero() -> None:
    case = case_of()
    seeds = torch.full_like(case.seeds, UNLABELED)
    value, gradient = value_and_gradient(
        lambda x, _: partial_cross_entropy(x, seeds), draw_logits(case), case
    )
    assert float(value) == 0
    assert float(gradient.abs().max()) == 0


def test_seeds_of_other_types_and_values() -> None:
    case = case_of()
    logits = draw_logits(case)
    expected = partial_cross_entropy(logits, case.seeds)
    assert torch.equal(partial_cross_entropy(logits, case.seeds.to(torch.uint8)), expected)
    other = torch.where(case.seeds == UNLABELED, -7, case.seeds)
    assert torch.equal(partial_cross_entropy(logits, other, ignore_index=-7), expected)
    both = torch.where((other == -7) & (draw_logits(case)[:, 0] > 0), UNLABELED, other)
    assert torch.equal(partial_cross_entropy(logits, both, ignore_index=-7), expected)


def test_click_weights() -> None:
    seeds = torch.full((1, 4, 5), UNLABELED)
    seeds[0, 0, :3], seeds[0, 2, 1] = 2, 0
    frequencies = class_frequencies(seeds, 4)
    torch.testing.assert_close(frequencies, torch.tensor([0.25, 0.0, 0.75, 0.0]))
    expected = [1 / float(torch.tensor(1.1 + p).log()) for p in (0.25, 0.0, 0.75, 0.0)]
    torch.testing.assert_close(click_weights(frequencies), torch.tensor(expected))
    assert class_frequencies(torch.full((1, 2, 2), UNLABELED), 3).tolist() == [0, 0, 0]


# --- the others ---------------------------------------------------------------------------------------------


def test_entropy_is_of_all_pixels_without_seeds() -> None:
    case = case_of()
    logits = draw_logits(case)
    expected = torch.special.entr(logits.softmax(1)).sum(1).mean()
    torch.testing.assert_close(entropy_loss(logits), expected)


def test_kmeans_takes_any_features_of_any_origin() -> None:
    case = case_of("grid6")
    logits = draw_logits(case)
    features = torch.randn(2, 7, *case.seeds.shape[1:], generator=torch.Generator().manual_seed(331)).double()
    labels, total = logits.softmax(1), 0.0
    for b in range(2):
        for k in range(3):
            weight = labels[b, k]
            mean = (weight * features[b]).flatten(1).sum(1) / weight.sum()
            total += float((weight * (features[b] - mean.view(-1, 1, 1, 1)).square().sum(0)).sum())
    assert float(kmeans_loss(logits, features)) == pytest.approx(total / pixels(logits), rel=1e-9)
    moved = kmeans_loss(logits.float(), features.float() + 500)
    assert float(moved) == pytest.approx(total / pixels(logits), rel=1e-3)


def test_kmeans_far_from_zero_keeps_its_digits() -> None:
    """Means of alike classes differ by little: as sums of large numbers they would lose it."""
    generator = torch.Generator().manual_seed(90_113)
    features = 3000 + torch.randn(1, 2, 40, 50, generator=generator)
    logits = torch.randn(1, 4, 40, 50, generator=generator)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        own = logits.to(dtype).requires_grad_()
        (gradient,) = torch.autograd.grad(kmeans_loss(own, features.to(dtype)), own)
        gradients.append(gradient.double())
    assert (gradients[0] - gradients[1]).norm() <= 1e-5 * gradients[1].norm()


# --- errors -------------------------------------------------------------------------------------------------


def test_wrong_inputs_are_named(unchecked: None) -> None:
    case = case_of()
    logits, seeds = draw_logits(case), case.seeds
    for wrong in (logits[0], logits[:, :, :0], logits.long()):
        with pytest.raises(ValueError, match="expected logits in floating point"):
            entropy_loss(wrong)
    with pytest.raises(ValueError, match=r"expected seeds of shape \(2, 5, 6\) for logits"):
        partial_cross_entropy(logits, seeds[:, :4])
    with pytest.raises(ValueError, match=r"expected seeds in 0\.\.2 or 255"):
        partial_cross_entropy(logits, torch.full_like(seeds, 3))
    with pytest.raises(ValueError, match="expected seeds as whole numbers"):
        entropy_loss(logits, seeds.float())
    with pytest.raises(ValueError, match="one weight for each of 3 classes"):
        partial_cross_entropy(logits, seeds, torch.ones(2))
    for bad in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="finite class weights >= 0"):
            partial_cross_entropy(logits, seeds, torch.tensor([1.0, 1.0, bad]))
        with pytest.raises(ValueError, match=r"frequencies in \[0, 1\]"):
            click_weights(torch.tensor([bad, 0.5]))
    with pytest.raises(ValueError, match=r"`present` as booleans \(2, 3\)"):
        non_exist_loss(logits, torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="`present` as booleans"):
        non_exist_loss(logits, torch.ones(2, 3))
    with pytest.raises(ValueError, match="features over the pixels of the logits"):
        kmeans_loss(logits, case.image[:, :, :3])
    with pytest.raises(ValueError, match="labels of the shape of the logits"):
        self_labeling_loss(logits, pseudo_labels(case)[:, :2], seeds)


def test_logits_are_no_labels_and_rounded_labels_are(unchecked: None) -> None:
    case = case_of()
    logits, labels = draw_logits(case), pseudo_labels(case)
    for wrong in (logits, 255 * labels, -labels):
        with pytest.raises(ValueError, match=r"expected labels >= 0 that sum to one .* pass pseudo-labels"):
            self_labeling_loss(logits, wrong, case.seeds)
    with pytest.raises(ValueError, match="expected finite labels, got nan or inf"):
        self_labeling_loss(logits, torch.full_like(labels, float("nan")), case.seeds)
    expected = self_labeling_loss(logits, labels, case.seeds)
    torch.testing.assert_close(
        self_labeling_loss(logits, labels.bfloat16(), case.seeds), expected, rtol=0.02, atol=0
    )


def test_images_are_no_affinity(unchecked: None) -> None:
    case = case_of()
    logits = draw_logits(case)
    wrong: Any
    for wrong in (case.image, case.image.numpy(), Grid(), Grid, None, "grid"):
        with pytest.raises(
            ValueError, match=r"expected an affinity, got .*DenseAffinity.from_image\(images\)"
        ):
            dense_crf_loss(logits, wrong)
        with pytest.raises(ValueError, match="expected an affinity, got"):
            normalized_cut_loss(logits, wrong, case.seeds)
    with pytest.raises(
        ValueError, match=r"expected features as a torch tensor, got ndarray: torch.from_numpy"
    ):
        kmeans_loss(logits, case.image.numpy())  # type: ignore[arg-type]


# --- devices ------------------------------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.parametrize("kind", ["grid4", "lattice", "exact-3d"])
@EVERY
def test_losses_on_the_device_agree(name: str, kind: str) -> None:
    case = case_of(kind, torch.float32)
    there = replace(case, image=case.image.cuda(), probs=case.probs.cuda(), seeds=case.seeds.cuda())
    logits = draw_logits(case).float()
    value, gradient = value_and_gradient(LOSSES[name].loss, logits, case)
    other, other_gradient = value_and_gradient(LOSSES[name].loss, logits.cuda(), there)
    assert other.is_cuda
    assert other_gradient.is_cuda
    torch.testing.assert_close(other.cpu(), value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other_gradient.cpu(), gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.cuda
@EVERY
def test_mixed_precision_on_the_device(name: str) -> None:
    case = case_of("lattice", torch.float32)
    there = replace(case, image=case.image.cuda(), probs=case.probs.cuda(), seeds=case.seeds.cuda())
    logits: Tensor = draw_logits(case).half()
    value, _ = value_and_gradient(LOSSES[name].loss, logits.float(), case)
    with torch.autocast("cuda", torch.float16):
        low, gradient = value_and_gradient(LOSSES[name].loss, logits.cuda(), there)
    assert low.dtype == torch.float32
    assert bool(gradient.isfinite().all())
    torch.testing.assert_close(low.cpu(), value, rtol=1e-4, atol=1e-5)
