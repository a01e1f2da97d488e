"""The losses as modules: all called alike, each the value of its function."""

from collections.abc import Callable

import pytest
import torch
from support.loss_formulas import Formula, draw_logits, pseudo_labels, value_and_gradient
from support.problems import Case, make_case
from torch import Tensor, nn

from selflabel.affinity.builders import Dense, Grid, Window
from selflabel.energy import Energy
from selflabel.labels import UNLABELED, classes_present
from selflabel.losses import (
    DenseCRFLoss,
    EntropyLoss,
    GatedCRFLoss,
    KernelCutLoss,
    KMeansLoss,
    Loss,
    NonExistLoss,
    NormalizedCutLoss,
    PartialCrossEntropy,
    PottsLoss,
    SelfLabelingLoss,
    class_frequencies,
    click_weights,
    dense_crf_loss,
    entropy_loss,
    kernel_cut_loss,
    kmeans_loss,
    non_exist_loss,
    normalized_cut_loss,
    partial_cross_entropy,
    potts_loss,
    self_labeling_loss,
)
from selflabel.terms import COLLISION, COLLISION_DIVERGENCE

GRID, WINDOW, DENSE = Grid(30.0, by_distance=True), Window(40.0, 2.0, 2), Dense(40.0, 5.0, symmetric=True)
WEIGHTS = torch.tensor([0.3, 1.7, 0.9])

MODULES: dict[str, tuple[Callable[[], nn.Module], Formula]] = {
    "partial-cross-entropy": (
        PartialCrossEntropy,
        lambda logits, case: partial_cross_entropy(logits, case.seeds),
    ),
    "weights": (
        lambda: PartialCrossEntropy(WEIGHTS),
        lambda logits, case: partial_cross_entropy(logits, case.seeds, WEIGHTS),
    ),
    "by-frequency": (
        lambda: PartialCrossEntropy(by_frequency=True),
        lambda logits, case: partial_cross_entropy(
            logits, case.seeds, click_weights(class_frequencies(case.seeds, 3))
        ),
    ),
    "entropy": (EntropyLoss, lambda logits, case: entropy_loss(logits, case.seeds)),
    "potts": (
        lambda: PottsLoss(GRID, COLLISION_DIVERGENCE),
        lambda logits, case: potts_loss(logits, GRID(case.image), COLLISION_DIVERGENCE),
    ),
    "window": (lambda: PottsLoss(WINDOW), lambda logits, case: potts_loss(logits, WINDOW(case.image))),
    "dense-crf": (
        lambda: DenseCRFLoss(DENSE),
        lambda logits, case: dense_crf_loss(logits, DENSE(case.image)),
    ),
    "normalized-cut": (
        lambda: NormalizedCutLoss(DENSE),
        lambda logits, case: normalized_cut_loss(logits, DENSE(case.image), case.seeds),
    ),
    "kernel-cut": (
        lambda: KernelCutLoss(DENSE, 0.2),
        lambda logits, case: kernel_cut_loss(logits, DENSE(case.image), case.seeds, 0.2),
    ),
    "non-exist": (
        NonExistLoss,
        lambda logits, case: non_exist_loss(logits, classes_present(case.seeds, 3)),
    ),
    "k-means": (KMeansLoss, lambda logits, case: kmeans_loss(logits, 255 * case.image)),
}
EVERY = pytest.mark.parametrize("name", MODULES)


def case_of(kind: str = "grid4") -> Case:
    """A case whose first image has no seeds of one class."""
    case = make_case(Energy(), kind, seeded=0.3)
    case.seeds[0][case.seeds[0] == 1] = UNLABELED
    return case


@pytest.mark.quick
@pytest.mark.parametrize("kind", ["grid4", "grid6"])
@EVERY
def test_modules_are_their_functions(name: str, kind: str) -> None:
    case = case_of(kind)
    build, function = MODULES[name]
    module = build()
    assert isinstance(module, Loss)
    logits = draw_logits(case).float()
    value, gradient = value_and_gradient(lambda x, c: module(x, c.image, c.seeds), logits, case)
    expected, expected_gradient = value_and_gradient(function, logits, case)
    assert torch.equal(value, expected)
    assert torch.equal(gradient, expected_gradient)
    assert float(gradient.abs().max()) > 0
    assert not list(module.parameters())
    assert module.state_dict() == {}


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@EVERY
def test_half_precision_images(name: str, half: torch.dtype) -> None:
    """Affinities are built in float32 from images of any type, under autocast, too."""
    case = case_of("lattice")
    module = MODULES[name][0]()
    images, logits = case.image.to(half), draw_logits(case).to(half)
    expected, _ = value_and_gradient(lambda x, c: module(x, images.float(), c.seeds), logits.float(), case)
    with torch.autocast("cpu", torch.bfloat16):
        value, gradient = value_and_gradient(lambda x, c: module(x, images, c.seeds), logits, case)
    assert torch.equal(value, expected)
    assert bool(gradient.isfinite().all())


def test_self_labeling_takes_labels_in_place_of_images() -> None:
    case = case_of()
    logits, labels = draw_logits(case), pseudo_labels(case)
    expected = self_labeling_loss(logits, labels, case.seeds, COLLISION)
    assert torch.equal(SelfLabelingLoss(COLLISION)(logits, labels, case.seeds), expected)
    assert not torch.equal(SelfLabelingLoss()(logits, labels, case.seeds), expected)


def test_images_get_no_gradient() -> None:
    case = case_of()
    images = case.image.clone().requires_grad_()
    for name in MODULES:
        logits = draw_logits(case).float().requires_grad_()
        MODULES[name][0]()(logits, images, case.seeds).backward()
        assert logits.grad is not None
        assert images.grad is None, name


def test_bytes_are_images_too(unchecked: None) -> None:
    case = case_of()
    logits = draw_logits(case).float()
    images = (255 * case.image).round().to(torch.uint8)
    for module in (PottsLoss(GRID), KMeansLoss(), DenseCRFLoss(DENSE)):
        expected: Tensor = module(logits, images.float() / 255, case.seeds)
        torch.testing.assert_close(module(logits, images, case.seeds), expected)


def test_images_without_seeds_may_have_any_class() -> None:
    case = case_of()
    logits, seeds = draw_logits(case), torch.full_like(case.seeds, UNLABELED)
    assert float(NonExistLoss()(logits, case.image, seeds)) == 0
    seeds[0, 1, 1] = 2
    expected = logits[:1].softmax(1)[:, :2].sum(1).mean() / 2
    torch.testing.assert_close(NonExistLoss()(logits, case.image, seeds), expected)


def test_weights_by_frequency_ignore_what_is_to_be_ignored() -> None:
    case = case_of()
    logits = draw_logits(case)
    seeds = torch.where(case.seeds == UNLABELED, -1, case.seeds)
    expected = PartialCrossEntropy(by_frequency=True)(logits, case.image, case.seeds)
    actual = PartialCrossEntropy(by_frequency=True, ignore_index=-1)(logits, case.image, seeds)
    assert torch.equal(actual, expected)
    assert not torch.equal(PartialCrossEntropy()(logits, case.image, case.seeds), expected)


def test_images_may_count_alike() -> None:
    case = case_of()
    logits = draw_logits(case)
    expected = partial_cross_entropy(logits, case.seeds, by_image=True)
    assert torch.equal(PartialCrossEntropy(by_image=True)(logits, case.image, case.seeds), expected)
    assert not torch.equal(PartialCrossEntropy()(logits, case.image, case.seeds), expected)


def test_errors(unchecked: None) -> None:
    with pytest.raises(ValueError, match="class_weights or by_frequency, got both"):
        PartialCrossEntropy(WEIGHTS, by_frequency=True)
    case = case_of()
    with pytest.raises(ValueError, match=r"affinity over \(2, 5, 3\) as the logits'.*interpolate"):
        PottsLoss(GRID)(draw_logits(case)[..., :3], case.image, case.seeds)


@pytest.mark.cuda
@EVERY
def test_modules_on_the_device(name: str) -> None:
    case = case_of("lattice")
    module = MODULES[name][0]()
    logits = draw_logits(case).float()
    expected, expected_gradient = value_and_gradient(lambda x, c: module(x, c.image, c.seeds), logits, case)
    images, seeds = case.image.cuda(), case.seeds.cuda()
    module = module.cuda()
    value, gradient = value_and_gradient(lambda x, _: module(x, images, seeds), logits.cuda(), case)
    assert value.is_cuda
    torch.testing.assert_close(value.cpu(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient.cpu(), expected_gradient, rtol=1e-3, atol=1e-5)


TAKE_IMAGES = (PottsLoss, DenseCRFLoss, NormalizedCutLoss, KernelCutLoss, KMeansLoss, GatedCRFLoss)


@pytest.mark.parametrize("kind", TAKE_IMAGES)
def test_arrays_are_refused_with_the_way_to_tensors(kind: type[nn.Module], unchecked: None) -> None:
    case = make_case(Energy(), "grid4", seeded=0.3)
    logits = draw_logits(case)
    arrays = logits.numpy(), case.image.numpy(), case.seeds.numpy()
    with pytest.raises(
        ValueError, match=r"expected logits as a torch tensor, got ndarray: torch.from_numpy\(logits"
    ):
        kind()(*arrays)
    with pytest.raises(
        ValueError, match=r"expected images as a torch tensor, got ndarray: torch.from_numpy\(images"
    ):
        kind()(logits, arrays[1], case.seeds)
