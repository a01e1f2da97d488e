"""EfficientNet-Lite: its weights and the package they come from, strides by dilation, and where features lie."""

import sys
from collections.abc import Mapping
from itertools import islice
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selflabel.networks.deeplab import enlarged
from selflabel.networks.efficientnet import (
    DEVIATION,
    MEAN,
    STRIDES,
    VARIANTS,
    EfficientNetLite,
    FilterLayer,
    Variant,
)
from selflabel.networks.first_layers import FirstLayers

LITE0 = VARIANTS["efficientnet-lite0"]
FELINES, COFFEES = {281, 282, 285}, {504, 967, 968}
"""ImageNet's numbers of tabby, tiger and Egyptian cat; of coffee mug, espresso and cup."""


def weights_of(variant: Variant) -> Mapping[str, Tensor]:
    pytest.importorskip(variant.package)
    return variant.weights()


def drawn(stride: int, *, channels: int = 3) -> EfficientNetLite:
    """Random weights, and statistics that are not those of new layers."""
    generator = torch.Generator().manual_seed(2_713)
    made = EfficientNetLite(LITE0, stride, channels=channels).eval()
    for name, value in made.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5, generator=generator)
            if "conv" in name:
                value.sub_(1).div_(value[0].numel() ** 0.5 / 8)
    return made


def images_of(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(5_081))


# --- weights -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_of_all_sizes_fit(name: str) -> None:
    weights, made = weights_of(VARIANTS[name]), EfficientNetLite(VARIANTS[name], 16)
    made.load(weights)
    assert torch.equal(made.blocks[3].depthwise.conv.weight, weights["_blocks.3._depthwise_conv.weight"])  # type: ignore[union-attr, arg-type]
    assert torch.equal(made.stem.norm.running_var, weights["_bn0.running_var"])  # type: ignore[arg-type]
    assert not torch.equal(weights["_bn0.running_var"], torch.ones(32))


def test_features_of_the_reference() -> None:
    """Those of the package efficientnet_lite_pytorch with the same weights, which takes images of 224 x 224."""
    weights = weights_of(LITE0)
    reference = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    reference.load_state_dict(weights)
    made = EfficientNetLite(LITE0, 32).eval()
    made.load(weights)
    images = images_of(1, 3, 224, 224)
    with torch.no_grad():
        expected = (255 * images - 127) / 128
        expected = reference.eval()._swish(reference._bn0(reference._conv_stem(expected)))
        *_, last = made.outputs(images)
        for block in reference._blocks:
            expected = block(expected)
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "classes"), [("chelsea", FELINES), ("coffee", COFFEES)])
def test_photographs_are_known(name: str, classes: set[int]) -> None:
    """With the classifier of the package on top: a cat, and a cup of coffee."""
    weights = weights_of(LITE0)
    made = EfficientNetLite(LITE0, 32).eval()
    made.load(weights)
    photograph = torch.from_numpy(getattr(pytest.importorskip("skimage.data"), name)().copy())
    side = min(photograph.shape[:2])
    square = photograph.permute(2, 0, 1)[None, :, :side, -side:] / 255
    with torch.no_grad():
        *_, x = made.outputs(F.interpolate(square, size=(224, 224), mode="bilinear", antialias=True))
        x = F.conv2d(x, weights["_conv_head.weight"])
        mean, variance = weights["_bn1.running_mean"], weights["_bn1.running_var"]
        x = F.relu6(
            F.batch_norm(x, mean, variance, weights["_bn1.weight"], weights["_bn1.bias"], eps=1e-3)
        ).mean((2, 3))
        found = F.linear(x, weights["_fc.weight"], weights["_fc.bias"]).softmax(1)[0]
    assert int(found.argmax()) in classes
    assert float(found[sorted(classes)].sum()) > 0.6


def in_the_package(made: EfficientNetLite) -> dict[str, Tensor]:
    """Weights by their names there."""
    names = {"stem.conv": "_conv_stem", "stem.norm": "_bn0"}
    inside = {"expand.norm": "_bn0", "depthwise.norm": "_bn1", "project.norm": "_bn2"}
    inside |= {f"{name}.conv": f"_{name}_conv" for name in ("expand", "depthwise", "project")}
    found = {}
    for name, value in made.state_dict().items():
        *place, weight = name.split(".")
        if place[0] == "blocks":
            key = f"_blocks.{place[1]}.{inside['.'.join(place[2:])]}.{weight}"
        else:
            key = f"{names['.'.join(place)]}.{weight}"
        found[key] = value
    return found


def test_a_file_without_some_weights_or_with_others() -> None:
    weights = in_the_package(drawn(16))
    classifier = {"_fc.bias": torch.zeros(1000), "_bn1.weight": torch.zeros(1280)}
    made = EfficientNetLite(LITE0, 8)
    made.load({**weights, **classifier})
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), drawn(8).parameters(), strict=True))
    missing = {name: value for name, value in weights.items() if name != "_blocks.7._bn1.running_mean"}
    for wrong in (
        missing,
        {**weights, "_blocks.16._bn2.bias": torch.zeros(1)},
        {**weights, "_bn0.bias": torch.zeros(3)},
    ):
        with pytest.raises(ValueError, match="expected the weights of EfficientNet-Lite of this size"):
            made.load(wrong)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_missing_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = VARIANTS[name]
    monkeypatch.setitem(sys.modules, variant.package, None)
    with pytest.raises(ImportError, match=f"cannot import {variant.package}") as error:
        variant.weights()
    assert f"{variant.install}, or start from random weights (--pretrained random)" in str(error.value)


# --- strides -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", STRIDES[1:-1])
def test_dilation_computes_the_same_at_more_places(stride: int) -> None:
    """All features, those at the border too; each lies at the last place of its cell."""
    images = images_of(1, 3, 32, 64).double()
    coarse, fine = drawn(32).double(), drawn(stride).double()
    with torch.no_grad():
        for place, (few, many) in enumerate(zip(coarse.outputs(images), fine.outputs(images), strict=True)):
            there = (2, *coarse.strides)[place]
            assert few.shape[2:] == (32 // there, 64 // there)
            assert many.shape[2] == 32 // min(there, stride)
            more = many.shape[2] // few.shape[2]
            torch.testing.assert_close(
                many[..., more - 1 :: more, more - 1 :: more], few, rtol=1e-4, atol=1e-4
            )


def looks_at(made: EfficientNetLite, place: int, index: int) -> tuple[float, int]:
    """Where the columns lie, in pixels, that output `place` at column `index` looks at: their middle and number."""
    images = torch.zeros(1, 3, 16, 512, requires_grad=True)
    *_, found = islice(made.outputs(images), place + 1)
    (gradient,) = torch.autograd.grad(found[0, :, -1, index].sum(), images)
    columns = gradient.abs().sum((0, 1, 2)).nonzero()[:, 0]
    return float(columns.double().mean()), len(columns)


@pytest.mark.parametrize("stride", [8, 16])
def test_features_lie_at_the_last_pixel_of_their_cells(stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "relu6", lambda x, inplace=False: x)  # or gradients end where a response is cut
    made = drawn(stride)
    place = 1 + max(n for n, reached in enumerate(made.strides) if reached == stride and n < 8)
    middle, _ = looks_at(made, place, 256 // stride - 1)
    assert middle == 255


def test_enlarged_features_stay_where_they_lie() -> None:
    """Positions as features: 4 i + 3 becomes j at every place j from 3 on."""
    rows, columns = 4 * torch.arange(3.0) + 3, 4 * torch.arange(5.0) + 3
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]
    found = enlarged(grid, 4)
    assert found.shape == (1, 2, 12, 20)
    wide = torch.stack(torch.meshgrid(torch.arange(12.0), torch.arange(20.0), indexing="ij"))[None]
    torch.testing.assert_close(found, wide.clamp_min(3))


@pytest.mark.parametrize("stride", [0, 3, 64])
def test_strides_that_there_are_not(stride: int) -> None:
    with pytest.raises(ValueError, match=f"output stride out of 1, 2, 4, 8, 16, 32, got {stride}"):
        EfficientNetLite(LITE0, stride)


def test_gray_images_are_repeated() -> None:
    images = images_of(1, 1, 32, 32)
    with torch.no_grad():
        *_, gray = drawn(16, channels=1).outputs(images)
        *_, color = drawn(16).outputs(images.repeat(1, 3, 1, 1))
    assert torch.equal(gray, color)


def test_statistics_that_stay_in_training() -> None:
    """The scale and shift of normalization are trained all the same."""
    made = EfficientNetLite(LITE0, 16, fixed_statistics=True).train()
    before = {name: value.clone() for name, value in made.named_buffers()}
    *_, last = made.outputs(images_of(1, 3, 16, 16))  # one place: not enough for statistics of its own
    torch.autograd.backward(last.square().sum())
    assert made.training
    assert all(torch.equal(value, before[name]) for name, value in made.named_buffers())
    assert all(parameter.grad is not None for parameter in made.parameters())
    moving = EfficientNetLite(LITE0, 16).train()
    *_, _ = moving.outputs(images_of(2, 3, 32, 32))
    assert not torch.equal(moving.stem.norm.running_mean, before["stem.norm.running_mean"])  # type: ignore[arg-type]


def test_a_layer_of_stride_two_looks_one_pixel_further() -> None:
    layer = FilterLayer(1, 1, 3, stride=2, active=False).eval()
    nn.init.zeros_(layer.conv.weight)
    with torch.no_grad():
        layer.conv.weight[0, 0, 1, 1] = 1
        found = layer(torch.arange(8.0).repeat(2, 1)[None, None])
    torch.testing.assert_close(found[0, 0, 0], torch.tensor([1.0, 3, 5, 7]), rtol=1e-3, atol=0)


# --- features of the first layers ----------------------------------------------------------------------------------


@pytest.fixture
def with_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights in place of the package's."""
    drawn_there = in_the_package(drawn(16))
    monkeypatch.setattr(Variant, "weights", lambda _: drawn_there)


def test_first_layers_at_every_pixel(with_weights: None) -> None:
    """At every second pixel those of the network itself; a shift of the image shifts them."""
    images = images_of(2, 3, 22, 40)
    found = FirstLayers(2)(images)
    assert found.shape == (2, 32 + 16 + 24, 22, 40)
    assert found.dtype == torch.float32
    with torch.no_grad():
        first, second, _ = (x for _, x in zip(range(3), drawn(2).outputs(images), strict=False))
    torch.testing.assert_close(found[:, :32, 1::2, 1::2], first, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[:, 32:48, 1::2, 1::2], second, rtol=1e-4, atol=1e-4)
    shifted = FirstLayers(2)(images.roll(3, 3))
    torch.testing.assert_close(shifted[..., 12:28], found[..., 9:25], rtol=1e-4, atol=1e-4)


def test_what_the_first_layers_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "relu6", lambda x, inplace=False: x)
    made = drawn(1)
    assert [looks_at(made, place, 256) for place in range(4)] == [(256, n) for n in (3, 7, 11, 19)]


def test_first_layers_of_gray_images(with_weights: None) -> None:
    images = images_of(1, 1, 9, 7)
    torch.testing.assert_close(FirstLayers(0)(images), FirstLayers(0)(images.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("blocks", [-1, 17])
def test_blocks_that_there_are_not(blocks: int) -> None:
    with pytest.raises(ValueError, match=f"expected 0 to 16 blocks, got {blocks}"):
        FirstLayers(blocks)


@pytest.mark.parametrize("images", [torch.zeros(1, 2, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)])
def test_images_without_first_layers(images: Any, unchecked: None) -> None:
    with pytest.raises(
        ValueError, match=r"expected images of 3 channels, or of 1, in floating point in \[0, 1\]"
    ):
        FirstLayers(0)(images)


def test_first_layers_of_a_photograph() -> None:
    """ImageNet's filters tell a horizontal from a vertical edge, and answer to gray alike everywhere."""
    weights_of(LITE0)
    edge = torch.full((1, 3, 16, 16), MEAN)
    edge[..., 8:] += DEVIATION / 2
    upright, lying = FirstLayers(0)(edge), FirstLayers(0)(edge.mT)
    assert float((upright.mT - lying).abs().amax()) > 0.5
    flat = FirstLayers(0)(torch.full((1, 3, 16, 16), MEAN))[..., 2:-2, 2:-2]
    assert float(flat.std((2, 3)).amax()) < 1e-5
    assert float(upright.std((2, 3)).amax()) > 0.1
