"""Annotators: predictions from an image and its seeds."""

import pytest
import torch
from support.problems import make_case
from torch import Tensor

from selflabel.annotators import (
    ANNOTATORS,
    Annotator,
    FilterForestAnnotator,
    ForestAnnotator,
    MixtureAnnotator,
    ProductAnnotator,
    WalkerAnnotator,
)
from selflabel.annotators.features import pixel_features
from selflabel.energy import Energy
from selflabel.labels import UNLABELED

EVERY = pytest.mark.parametrize("name", [name for name in ANNOTATORS if name != FilterForestAnnotator.name])
"""But the one that needs a network, which takes no volumes: `test_filter_forest`."""


def scene(size: tuple[int, ...] = (14, 17), batch: int = 2, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Images, and seeds of every class in each."""
    kind = "grid4" if len(size) == 2 else "grid6"
    case = make_case(Energy(), kind, size=size, batch=batch, classes=classes, seeded=0.15)
    seeds = case.seeds.flatten(1)
    seeds[:, 1 : 2 * classes : 2] = torch.arange(classes)
    return case.image, seeds.view(case.seeds.shape)


def assert_distributions(probs: Tensor, seeds: Tensor, num_classes: int) -> None:
    assert probs.shape == (len(seeds), num_classes, *seeds.shape[1:])
    assert probs.dtype == torch.float32
    assert bool(probs.isfinite().all())
    assert float(probs.min()) >= 0
    assert float((probs.sum(1) - 1).abs().max()) <= 1e-5


@pytest.mark.quick
@EVERY
@pytest.mark.parametrize("size", [(14, 17), (5, 8, 9)])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_predictions_are_distributions(name: str, size: tuple[int, ...], channels: int) -> None:
    image, seeds = scene(size)
    given = image[:, :channels].contiguous()
    before = given.clone(), seeds.clone()
    probs = ANNOTATORS[name]().predict(given, seeds, 3)
    assert_distributions(probs, seeds, 3)
    assert torch.equal(given, before[0])
    assert torch.equal(seeds, before[1])


@EVERY
def test_seeds_are_learned(name: str) -> None:
    """On an image of flat regions, predictions agree with nearly all seeds and with most of each region."""
    image = torch.full((1, 3, 20, 24), 0.1)
    image[:, 0, :, 12:] = 0.9
    image[:, 1, 12:] = 0.7
    truth = torch.zeros(1, 20, 24, dtype=torch.long)
    truth[:, :, 12:] = 1
    truth[:, 12:] += 2
    seeds = torch.where(
        torch.rand(truth.shape, generator=torch.Generator().manual_seed(71)) < 0.1, truth, 255
    )
    probs = ANNOTATORS[name]().predict(image, seeds, 4)
    assert float((probs.argmax(1) == truth).double().mean()) > 0.95


@EVERY
def test_classes_without_seeds_get_nothing(name: str) -> None:
    image, seeds = scene()
    seeds[0][seeds[0] == 1] = UNLABELED
    probs = ANNOTATORS[name]().predict(image, seeds, 5)
    assert_distributions(probs, seeds, 5)
    assert float(probs[0, 1].max()) == 0
    assert float(probs[:, 3:].max()) == 0
    assert float(probs[1, 1].max()) > 0.5


@EVERY
def test_same_bytes_twice_and_as_alone(name: str) -> None:
    image, seeds = scene()
    annotator = ANNOTATORS[name]()
    together = annotator.predict(image, seeds, 3)
    assert torch.equal(together, ANNOTATORS[name]().predict(image, seeds, 3))
    for number in range(2):
        alone = annotator.predict(image[number : number + 1], seeds[number : number + 1], 3)
        torch.testing.assert_close(together[number : number + 1], alone, rtol=0, atol=1e-5)


@EVERY
@pytest.mark.parametrize("num_classes", [1, 3])
def test_a_single_class_is_certain(name: str, num_classes: int) -> None:
    image, seeds = scene()
    seeds = torch.where(seeds == 0, 0, UNLABELED)
    probs = ANNOTATORS[name]().predict(image, seeds, num_classes)
    assert float((probs[:, 0] - 1).abs().max()) <= 1e-6
    assert_distributions(probs, seeds, num_classes)


@EVERY
@pytest.mark.parametrize("size", [(14, 17), (4, 6, 7)])
def test_a_class_of_one_pixel(name: str, size: tuple[int, ...]) -> None:
    image, seeds = scene(size)
    seeds[seeds == 2] = UNLABELED
    seeds.view(len(seeds), -1)[:, 0] = 2
    probs = ANNOTATORS[name]().predict(image, seeds, 3)
    assert_distributions(probs, seeds, 3)
    assert float(probs[:, 2].max()) > 0


@EVERY
@pytest.mark.parametrize("size", [(9, 10), (4, 5, 6)])
@pytest.mark.parametrize("gray", [0.0, 0.5, 1.0])
def test_constant_images(name: str, size: tuple[int, ...], gray: float) -> None:
    image, seeds = scene(size)
    for channels in (1, 3):
        constant = torch.full_like(image[:, :channels], gray)
        assert_distributions(ANNOTATORS[name]().predict(constant, seeds, 3), seeds, 3)


@EVERY
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (6, 1), (1, 1, 1), (3, 1, 4)])
def test_thin_images(name: str, size: tuple[int, ...]) -> None:
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(9_137))
    seeds = torch.full((1, *size), UNLABELED)
    seeds.view(-1)[0] = 1
    seeds.view(-1)[-1] = 0
    assert_distributions(ANNOTATORS[name]().predict(image, seeds, 2), seeds, 2)


@EVERY
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_everything_seeded_in_any_integer_type(name: str, dtype: torch.dtype) -> None:
    image, _ = scene((8, 9))
    seeds = (torch.arange(72).view(1, 8, 9) % 3).expand(2, -1, -1).to(dtype)
    assert_distributions(ANNOTATORS[name]().predict(image, seeds, 3), seeds, 3)
    assert_distributions(ANNOTATORS[name]().predict(image.double(), seeds, 3), seeds, 3)


@EVERY
def test_errors(name: str) -> None:
    image, seeds = scene((8, 9))
    annotator = ANNOTATORS[name]()
    with pytest.raises(ValueError, match=r"seeds in 0..1 or 255.*got \[2\]"):
        annotator.predict(image, seeds, 2)
    empty = seeds.clone()
    empty[1] = UNLABELED
    with pytest.raises(
        ValueError, match="at least one seed in every image, got none in image 1 of the batch"
    ):
        annotator.predict(image, empty, 3)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        annotator.predict(image * 255, seeds, 3)


@EVERY
@pytest.mark.usefixtures("unchecked")
def test_shapes_are_checked(name: str) -> None:
    image, seeds = scene((8, 9))
    for wrong in (seeds[:1], seeds.transpose(1, 2)):
        with pytest.raises(ValueError, match=r"expected seeds of shape \(2, 8, 9\) as the images', got"):
            ANNOTATORS[name]().predict(image, wrong, 3)


@EVERY
def test_annotators_are_frozen_and_known_by_their_protocol(name: str) -> None:
    annotator = ANNOTATORS[name]()
    assert isinstance(annotator, Annotator)
    assert annotator.name == name
    assert annotator == ANNOTATORS[name]()
    with pytest.raises(AttributeError):
        annotator.name = "other"  # type: ignore[misc]


@pytest.mark.quick
def test_product_is_the_product() -> None:
    image, seeds = scene()
    product = ProductAnnotator()
    walker, forest = product.walker.predict(image, seeds, 3), product.forest.predict(image, seeds, 3)
    expected = (walker + product.walker_floor) * (forest + product.forest_floor) ** product.forest_power
    expected = expected / expected.sum(1, keepdim=True)
    torch.testing.assert_close(product.predict(image, seeds, 3), expected)


def test_forest_draws_from_its_state() -> None:
    image, seeds = scene()
    one, other = (ForestAnnotator(trees=5, random_state=n).predict(image, seeds, 3) for n in (811, 96))
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("size", "channels", "count"), [((8, 9), 3, 31), ((8, 9), 1, 21), ((4, 5, 6), 3, 36)]
)
def test_pixel_features(size: tuple[int, ...], channels: int, count: int) -> None:
    image, _ = scene(size)
    features = pixel_features(image[:, :channels].contiguous())
    assert len(features) == 2
    assert features[0].shape == (torch.Size(size).numel(), count)
    alone = pixel_features(image[1:, :channels].contiguous())
    assert (features[1] == alone[0]).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, "x"])
@pytest.mark.parametrize(
    ("kind", "name", "bounds"),
    [
        (ForestAnnotator, "trees", ">= 1"),
        (ForestAnnotator, "leaf", ">= 1"),
        (ForestAnnotator, "random_state", r"in 0\.\.4.29497e\+09"),
        (MixtureAnnotator, "components", ">= 1"),
        (MixtureAnnotator, "regularization", ">= 0"),
        (MixtureAnnotator, "random_state", r"in 0\.\."),
        (WalkerAnnotator, "blur", r"in 0\.\.1000"),
        (ProductAnnotator, "forest_power", ">= 0"),
        (ProductAnnotator, "walker_floor", ">= 0"),
        (ProductAnnotator, "forest_floor", ">= 0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_settings_out_of_range_are_refused_when_they_are_made(
    kind: type, name: str, bounds: str, value: object
) -> None:
    with pytest.raises(ValueError, match=rf"expected {name} {bounds}.*, got {value}"):
        kind(**{name: value})


@pytest.mark.parametrize("strength", [0.0, -3.0, float("nan"), float("inf")])
def test_a_walk_needs_a_strength(strength: float) -> None:
    with pytest.raises(ValueError, match="expected strength > 0"):
        WalkerAnnotator(strength=strength)
