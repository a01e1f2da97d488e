"""The forest on a network's first layers: which features it takes, and what it refuses."""

import pytest
import torch
from support.filters import draw_filters
from torch import Tensor

from selflabel.affinity.image import as_image
from selflabel.annotators import ANNOTATORS, Annotator, FilterForestAnnotator
from selflabel.labels import UNLABELED
from selflabel.networks.efficientnet import Variant
from selflabel.networks.first_layers import FirstLayers

SMALL = FilterForestAnnotator(trees=10, best=12, blocks=1)


@pytest.fixture(autouse=True)
def drawn_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_filters(monkeypatch)


def quarters() -> tuple[Tensor, Tensor, Tensor]:
    """Two noisy images of four colors, seeds at a tenth of the pixels, and the truth."""
    generator = torch.Generator().manual_seed(8_117)
    truth = torch.zeros(2, 20, 24, dtype=torch.long)
    truth[:, :, 12:] = 1
    truth[:, 12:] += 2
    colors = torch.tensor([[0.1, 0.1, 0.1], [0.9, 0.1, 0.2], [0.2, 0.7, 0.1], [0.9, 0.8, 0.9]])
    image = colors[truth].movedim(-1, 1) + 0.02 * torch.randn(2, 3, 20, 24, generator=generator)
    seeds = torch.where(torch.rand(truth.shape, generator=generator) < 0.1, truth, UNLABELED)
    return image.clamp(0, 1), seeds, truth


@pytest.mark.quick
def test_predictions_are_distributions_that_learn_the_seeds() -> None:
    image, seeds, truth = quarters()
    probs = SMALL.predict(image, seeds, 5)
    assert probs.shape == (2, 5, 20, 24)
    assert probs.dtype == torch.float32
    torch.testing.assert_close(probs.sum(1), torch.ones(2, 20, 24))
    assert float(probs[:, 4].max()) == 0, "a class without seeds"
    assert float((probs.argmax(1) == truth).double().mean()) > 0.9


def test_an_image_is_labeled_as_alone_and_the_same_twice() -> None:
    image, seeds, _ = quarters()
    together = SMALL.predict(image, seeds, 4)
    assert torch.equal(together, SMALL.predict(image, seeds, 4))
    assert torch.equal(together[1:], SMALL.predict(image[1:], seeds[1:], 4))
    other = FilterForestAnnotator(trees=10, best=12, blocks=1, random_state=4)
    assert not torch.equal(together, other.predict(image, seeds, 4))


def test_gray_images() -> None:
    image, seeds, _ = quarters()
    gray = image[:, :1].contiguous()
    expected = SMALL.predict(gray.expand(-1, 3, -1, -1).contiguous(), seeds, 4)
    agree = (SMALL.predict(gray, seeds, 4).argmax(1) == expected.argmax(1)).double().mean()
    assert float(agree) > 0.99


def test_features_that_tell_nothing_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two features that tell the classes apart and twenty of noise, the best two make a certain forest."""
    _, seeds, truth = quarters()
    generator = torch.Generator().manual_seed(2_251)
    noise = torch.rand(1, 20, 20, 24, generator=generator)
    telling = torch.stack([truth[:1] % 2, truth[:1] // 2], 1).float()
    responses = torch.cat([noise[:, :7], telling, noise[:, 7:]], 1)
    monkeypatch.setattr(FirstLayers, "__call__", lambda *_: responses)
    image = torch.rand(1, 3, 20, 24, generator=generator)
    chosen = FilterForestAnnotator(best=2).predict(image, seeds[:1], 4)
    all_of_them = FilterForestAnnotator(best=22).predict(image, seeds[:1], 4)
    known = chosen.gather(1, truth[:1, None])
    assert float(known.min()) == 1
    assert float(all_of_them.gather(1, truth[:1, None]).mean()) < 0.95


def test_it_is_an_annotator_among_the_others() -> None:
    assert ANNOTATORS["filter-forest"]() == FilterForestAnnotator()
    assert isinstance(FilterForestAnnotator(), Annotator)


def test_volumes_and_other_channels_are_refused() -> None:
    image, seeds, _ = quarters()
    with pytest.raises(
        ValueError, match=r"filter-forest: expected images .b c h w.*annotator forest for volumes"
    ):
        SMALL.predict(image[:, :, None], seeds[:, None], 4)
    with pytest.raises(ValueError, match="expected images of 3 channels, or of 1"):
        SMALL.predict(image[:, :2].contiguous(), seeds, 4)
    seeds[1] = UNLABELED
    with pytest.raises(ValueError, match="at least one seed in every image, got none in image 1"):
        SMALL.predict(as_image(image), seeds, 4)


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    image, seeds, _ = quarters()
    monkeypatch.setattr(Variant, "is_installed", False)
    with pytest.raises(ImportError, match=r"filter-forest: .*pip install 'selflabel\[pretrained\]', or take"):
        SMALL.predict(image, seeds, 4)


@pytest.mark.parametrize("name", ["trees", "best", "blocks", "random_state"])
@pytest.mark.parametrize("value", [-1, float("nan")])
@pytest.mark.usefixtures("unchecked")
def test_settings_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"expected {name} .*, got {value}"):
        FilterForestAnnotator(**{name: value})  # type: ignore[arg-type]


def test_too_many_blocks() -> None:
    with pytest.raises(ValueError, match="expected 0 to 16 blocks, got 99"):
        FilterForestAnnotator(blocks=99)
