"""Networks by name: shapes, channels and sizes of all; packages that are missing, or broken; checkpoints."""

import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from support.processes import environment
from torch import Tensor, nn

from selflabel.networks import NETWORKS, AnySize, UNet, huggingface, network

OURS = ["unet", "unet:4"]
MONAIS = ["basic-unet"]
TRANSFORMERS = ["deeplabv3plus-mobilenetv2", "segformer", "vit-linear"]


def available(name: str) -> None:
    if name in MONAIS:
        pytest.importorskip("monai")
    if name in TRANSFORMERS:
        pytest.importorskip("transformers")


def seeded(name: str, channels: int, classes: int, size: int | tuple[int, ...] | None = None) -> nn.Module:
    torch.manual_seed(6_389)
    return network(name, channels, classes, size)


def images_of(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(4_127))


@pytest.mark.parametrize("name", [*OURS, *MONAIS, *TRANSFORMERS])
@pytest.mark.parametrize(
    ("channels", "size", "shape"),
    [(1, 32, (32, 32)), (3, (37, 50), (37, 50)), (4, None, (5, 17)), (2, 16, (40, 33))],
)
def test_logits_at_the_resolution_of_the_images(
    name: str, channels: int, size: int | tuple[int, ...] | None, shape: tuple[int, int]
) -> None:
    """Any channels; sizes that no stride divides; other sizes than announced. Every weight gets a gradient."""
    available(name)
    made = seeded(name, channels, 5, size)
    logits = made(images_of(2, channels, *shape))
    assert logits.shape == (2, 5, *shape)
    assert logits.dtype == torch.float32
    logits.square().sum().backward()
    # DistributedDataParallel stops at one without
    assert [key for key, weight in made.named_parameters() if weight.grad is None] == []
    assert all(bool(weight.grad.isfinite().all()) for weight in made.parameters() if weight.grad is not None)


@pytest.mark.parametrize("name", ["unet:4", *MONAIS])
def test_three_dimensions(name: str) -> None:
    available(name)
    made = seeded(name, 1, 3, (9, 20, 16))
    assert made(images_of(1, 1, 9, 20, 16)).shape == (1, 3, 9, 20, 16)


@pytest.mark.parametrize("name", [*OURS, *TRANSFORMERS])
def test_the_generator_decides_the_weights(name: str) -> None:
    available(name)
    one, same = (seeded(name, 2, 3, 32).state_dict() for _ in range(2))
    other = network(name, 2, 3, 32).state_dict()
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.quick
def test_the_default_is_small() -> None:
    weights = sum(p.numel() for p in network("unet", 1, 4, 128).parameters())
    assert weights < 1_200_000
    assert weights == sum(p.numel() for p in network("unet:12", 1, 4).parameters())


@pytest.mark.quick
def test_images_of_a_batch_do_not_mix_in_evaluation() -> None:
    made = seeded("unet:4", 1, 3).eval()
    images = images_of(3, 1, 32, 32)
    torch.testing.assert_close(made(images)[1:2], made(images[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(32, 48), (16, 16, 32)])
def test_brightness_and_contrast_of_an_image_do_not_matter(size: tuple[int, ...]) -> None:
    made = UNet(2, 3, 4, axes=len(size)).eval()
    images = images_of(2, 2, *size)
    changed = images.clone()
    changed[1] = 0.1 + 0.5 * images[1]
    torch.testing.assert_close(made(changed), made(images), rtol=1e-3, atol=1e-4)
    assert bool(made(torch.full_like(images, 0.5)).isfinite().all())


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (1, 40)])
def test_tiny_images(size: tuple[int, int]) -> None:
    made = seeded("unet:4", 1, 3)
    made(images_of(1, 1, *size)).sum().backward()
    assert all(bool(weight.grad.isfinite().all()) for weight in made.parameters() if weight.grad is not None)


def test_padding_changes_nothing_for_whole_strides() -> None:
    made = seeded("unet:4", 2, 3)
    assert isinstance(made, AnySize)
    images = images_of(1, 2, 48, 32)
    torch.testing.assert_close(made(images), made.network(images))
    padded = F.pad(images[..., :41, :30], (0, 2, 0, 7), mode="replicate")
    torch.testing.assert_close(made(images[..., :41, :30]), made.network(padded)[..., :41, :30])


def test_it_learns() -> None:
    """After some steps it separates the disks from their ground."""
    generator = torch.Generator().manual_seed(3_329)
    made = seeded("unet:4", 1, 2, 64)
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-2)
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    center = 16 + 32 * torch.rand(4, 2, 1, 1, generator=generator)
    masks = ((y - center[:, 0]).square() + (x - center[:, 1]).square() < 150).long()
    images = (0.2 * masks + 0.8 * torch.rand(4, 64, 64, generator=generator))[:, None]
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(made(images), masks).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    found = made(images).argmax(1)
    dice = 2 * (found * masks).sum() / (found.sum() + masks.sum())
    assert dice > 0.9


def test_logits_at_another_resolution_are_resized() -> None:
    coarse = AnySize(nn.Conv2d(1, 3, 4, stride=4), 1, 3, stride=4)
    images = images_of(1, 1, 10, 9)
    padded = F.pad(images, (0, 3, 0, 2), mode="replicate")
    expected = F.interpolate(coarse.network(padded), size=(12, 12), mode="bilinear")[..., :10, :9]
    torch.testing.assert_close(coarse(images), expected)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 8, 8), r"images \[b c h w\] with 1 channels, got \[1, 3, 8, 8\]"),
        (torch.zeros(1, 8, 8), r"images \[b c h w\] with 1 channels, got \[1, 8, 8\]"),
    ],
)
def test_images_that_do_not_fit(images: Tensor, message: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=message):
        network("unet:4", 1, 3)(images)


def test_images_in_bytes(unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"floating point, in \[0, 1\], got torch.uint8"):
        network("unet:2", 2, 4, 16)(torch.zeros(1, 2, 16, 16, dtype=torch.uint8))


def test_three_axes_that_do_not_fit(unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"images \[b c d h w\]"):
        network("unet:4", 1, 3, (8, 8, 8))(torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (lambda images: {"aux": images}, "dict"),
        (lambda images: {"out": images}, r"\[2, 1, 8, 8\]"),
        (lambda images: images, r"\[2, 1, 8, 8\]"),
        (lambda images: images.mean((2, 3)), r"\[2, 1\]"),
    ],
)
def test_answers_that_are_no_logits(answer: Callable[[Tensor], object], got: str) -> None:
    class Answer(nn.Module):
        def forward(self, images: Tensor) -> object:
            return answer(images)

    with pytest.raises(ValueError, match=f"logits of 2 images and 3 classes from the network, .* got {got}"):
        AnySize(Answer(), 1, 3)(torch.zeros(2, 1, 8, 8))


# --- names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet", "", "UNet"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(ValueError, match="expected a network out of unet, basic-unet,") as error:
        network(name, 3, 2)
    for known in (*(n for n in NETWORKS if n != "smp"), "smp:ARCH:ENCODER", "package.module:factory"):
        assert known in str(error.value)


@pytest.mark.parametrize(
    ("name", "size", "pretrained", "message"),
    [
        ("unet:wide", None, None, "unet:WIDTH, a number, got 'wide'"),
        ("unet:0", None, None, "width of at least one channel, got 0"),
        ("segformer:b5", None, None, "segformer without options, got segformer:b5"),
        ("segformer", (8, 8, 8), None, r"two axes for segformer, got \(8, 8, 8\)"),
        ("unet", (8,), None, r"two or three axes with pixels, got \(8,\)"),
        ("unet", 0, None, r"two or three axes with pixels, got \(0, 0\)"),
        ("unet", None, "weights.pt", "no pretrained weights for unet, got 'weights.pt'"),
        ("smp", None, None, "smp:ARCH:ENCODER, as in smp:Unet:resnet34, got None"),
        ("smp:Unet", None, None, "smp:ARCH:ENCODER, as in smp:Unet:resnet34, got 'Unet'"),
        ("no_such_module.of:ours", None, None, "no module 'no_such_module' to import"),
        (
            "torch.nn:NoSuchLayer",
            None,
            None,
            "torch.nn to hold the factory 'NoSuchLayer', got no 'NoSuchLayer'",
        ),
        ("math:hypot", None, None, "math:hypot to return a torch.nn.Module, got float"),
    ],
)
def test_errors(name: str, size: int | tuple[int, ...] | None, pretrained: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(name, 3, 2, size, pretrained=pretrained)


@pytest.mark.parametrize(("channels", "classes"), [(0, 2), (3, 0)])
def test_nothing_in_or_out(channels: int, classes: int) -> None:
    with pytest.raises(ValueError, match="at least one channel and one class"):
        network("unet", channels, classes)


def test_a_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_networks.py").write_text(
        "import torch\n"
        "class Makers:\n"
        "    @staticmethod\n"
        "    def half(channels, classes):\n"
        "        return torch.nn.Conv2d(channels, classes, 3, stride=2)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"my_own_networks:Makers to be called with \(channels, classes\)"):
        network("my_own_networks:Makers", 2, 4, 16)
    made = network("my_own_networks:Makers.half", 2, 4, 16)
    assert made(images_of(3, 2, 16, 21)).shape == (3, 4, 16, 21)


def test_segmentation_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call of the package, which need not be installed."""
    asked: dict[str, object] = {}

    def create_model(arch: str, **settings: object) -> nn.Module:
        asked.update(settings, arch=arch)
        return nn.MaxPool2d(1) if settings["in_channels"] == settings["classes"] else nn.Identity()

    package = ModuleType("segmentation_models_pytorch")
    package.create_model = create_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, package.__name__, package)
    made = network("smp:Unet:resnet18", 3, 3, 20, pretrained="imagenet")
    assert asked == {
        "arch": "Unet",
        "encoder_name": "resnet18",
        "encoder_weights": "imagenet",
        "in_channels": 3,
        "classes": 3,
    }
    images = images_of(1, 3, 20, 21)
    torch.testing.assert_close(made(images), images)
    network("smp:Unet:resnet18", 3, 3)
    assert asked["encoder_weights"] is None  # no name, no download


@pytest.mark.parametrize(
    ("name", "package", "install"),
    [
        ("basic-unet", "monai", "pip install 'selflabel\\[networks\\]'"),
        ("segformer", "transformers", "pip install 'selflabel\\[networks\\]'"),
        ("smp:Unet:resnet18", "segmentation_models_pytorch", "pip install segmentation-models-pytorch"),
    ],
)
def test_missing_packages(name: str, package: str, install: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [m for m in sys.modules if m.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"cannot import {package}.*{install}"):
        network(name, 3, 2)


# --- transformers ---------------------------------------------------------------------------------------------


BROKEN = "raise RuntimeError('operator torchvision::nms does not exist')\n"
WITHOUT = """
from selflabel.networks import huggingface, network
network("segformer", 1, 2, 32)
assert not huggingface.transformers().utils.is_torchvision_available()
"""


@pytest.mark.parametrize("broken", [True, False])
def test_a_torchvision_that_does_not_import_is_hidden(
    tmp_path: Path, broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torchvision.py").write_text(BROKEN if broken else "")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "torchvision", None)  # undone at the end of the test
    del sys.modules["torchvision"]
    monkeypatch.setitem(sys.modules, "transformers", ModuleType("transformers"))
    huggingface.transformers()
    assert (sys.modules["torchvision"] is None) == broken
    assert (importlib.util.find_spec("torchvision") is None) == broken


def test_transformers_do_without_a_broken_torchvision(tmp_path: Path) -> None:
    """In a process of its own, as imports stay."""
    pytest.importorskip("transformers")
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(BROKEN)
    metadata = tmp_path / "torchvision-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.99\n")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_checkpoints(name: str, tmp_path: Path) -> None:
    """Weights are loaded, another number of classes gets a new layer, gray images are repeated and standardized."""
    available(name)
    first = seeded(name, 3, 5, 32).eval()
    core = first.network
    assert isinstance(core, nn.Module)
    saved = core.encoder if isinstance(core, huggingface.LinearDecoder) else core.model
    saved.save_pretrained(tmp_path)  # type: ignore[operator, union-attr]
    torch.manual_seed(19)
    again = network(name, 3, 5, 32, pretrained=str(tmp_path))
    assert again.training
    again.eval()
    images = images_of(2, 3, 32, 48)
    features: list[Tensor] = []
    with torch.no_grad():
        if name == "vit-linear":  # its decoder is ours: not in a checkpoint of the encoder
            again.network.network.decoder.load_state_dict(core.decoder.state_dict())  # type: ignore[union-attr]
        torch.testing.assert_close(again(images), first(images))
        (tmp_path / huggingface.COLORS).write_text(
            json.dumps({"do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.1, 0.2, 0.4]})
        )
        torch.manual_seed(23)
        gray = network(name, 1, 5, 32, pretrained=str(tmp_path)).eval()
        torch.manual_seed(23)
        color = network(name, 3, 5, 32, pretrained=str(tmp_path)).eval()
        features = [gray(images[:, :1]), color(images[:, :1].repeat(1, 3, 1, 1))]
        torch.testing.assert_close(features[0], features[1])
        plain = color.network.network  # type: ignore[union-attr]
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.5, 0.4, 0.3], [0.1, 0.2, 0.4]))
        wrapped = AnySize(plain, 3, 5, stride=color.stride)  # type: ignore[arg-type]
        torch.testing.assert_close(color(images), wrapped((images - mean) / std))
    fewer = network(name, 3, 2, 32, pretrained=str(tmp_path))
    assert fewer(images).shape == (2, 2, 32, 48)
    with pytest.raises(ValueError, match=r"images of 3 channels, or of 1, for the checkpoint .* got 4"):
        network(name, 4, 5, 32, pretrained=str(tmp_path))


def test_a_linear_decoder_keeps_the_places_of_the_patches() -> None:
    class Means(nn.Module):
        """Means of patches as tokens, after the token of the image."""

        def forward(self, pixel_values: Tensor, interpolate_pos_encoding: bool) -> object:
            class Record:
                last_hidden_state = F.pad(
                    F.avg_pool2d(pixel_values, 4).flatten(2).mT, (0, 0, 1, 0), value=math.inf
                )

            return Record

    decoder = huggingface.LinearDecoder(Means(), 1, 4, 2)
    images = images_of(2, 1, 8, 12)
    weight, bias = decoder.decoder.weight.view(1, 2, 1, 1), decoder.decoder.bias.view(1, 2, 1, 1)
    torch.testing.assert_close(decoder(images), F.avg_pool2d(images, 4) * weight + bias)


def test_the_width_is_the_number_of_channels_at_full_size() -> None:
    made = UNet(3, 2, width=8)
    assert made.last.in_channels == 8


@pytest.mark.cuda
def test_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32: convolutions of cuDNN are rounded to ten bits otherwise (TF32)."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    made = seeded("unet:4", 1, 3)
    images = images_of(2, 1, 40, 33)
    here = made(images)
    torch.testing.assert_close(made.cuda()(images.cuda()).cpu(), here, rtol=1e-3, atol=1e-3)
