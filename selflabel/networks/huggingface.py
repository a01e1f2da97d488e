"""Networks of the package transformers, with random weights or from a checkpoint."""

import importlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from selflabel.networks.any_size import AnySize, Standardized

INSTALL = "pip install 'selflabel[networks]'"
COLORS = "preprocessor_config.json"
PATCH = 16


def transformers() -> ModuleType:
    """The package. Raises `ImportError`, with the command that installs it, if it is missing.

    transformers looks for an installed torchvision and then fails to import its models if that was built for another
    torch, as is common with CPU-only torch. It works without torchvision. A torchvision that does not import is
    therefore hidden, before the first import of transformers.
    """
    try:
        importlib.import_module("torchvision")
    except Exception:  # a broken package raises RuntimeError, OSError, AttributeError, ...
        sys.modules["torchvision"] = None  # type: ignore[assignment]  # the import system's word for a missing module
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise ImportError(f"cannot import {error.name}: {INSTALL}") from error


class Segmenter(nn.Module):
    """The logits of a model of transformers, at the model's own resolution."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k ..."]:
        """The logits."""
        logits: Tensor = self.model(pixel_values=images).logits
        return logits


class LinearDecoder(nn.Module):
    """A vision transformer and one linear map that classifies each patch (Strudel et al. 2021, "Linear")."""

    def __init__(self, encoder: nn.Module, width: int, patch: int, classes: int) -> None:
        super().__init__()
        self.encoder, self.patch = encoder, patch
        self.decoder = nn.Linear(width, classes)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k ..."]:
        """Logits of the patches."""
        tokens = self.encoder(pixel_values=images, interpolate_pos_encoding=True).last_hidden_state
        logits: Tensor = self.decoder(tokens[:, 1:])  # without the token of the whole image
        size = [n // self.patch for n in images.shape[2:]]
        return logits.mT.unflatten(2, size)  # type: ignore[no-any-return, no-untyped-call]


@dataclass(frozen=True)
class Family:
    """A model of transformers by the names of its classes.

    settings: of the configuration, for random weights. arguments: of the model.
    """

    config: str
    model: str
    settings: Mapping[str, Any]
    stride: int = 32
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def make(self, channels: int, classes: int, side: int | None, pretrained: str | None) -> AnySize:
        """The network, with random weights or from the folder or name of a checkpoint.

        The last layer of a checkpoint is replaced if it has another number of classes. For a checkpoint of three
        channels gray images are repeated. Images are standardized by its `preprocessor_config.json`, if there is one.
        Raises `ImportError` without transformers, `ValueError` for channels that the checkpoint does not take.
        """
        package = transformers()
        config_class, model_class = getattr(package, self.config), getattr(package, self.model)
        if pretrained is None:
            settings = {**self.settings, "num_channels": channels, "num_labels": classes}
            if side is not None:
                settings["image_size"] = -(-side // PATCH) * PATCH
            network = self.segmenter(model_class(config_class(**settings), **self.arguments), classes)
            return AnySize(network, channels, classes, stride=self.stride)
        config = config_class.from_pretrained(pretrained, num_labels=classes)
        if channels not in (1, config.num_channels):
            raise ValueError(
                f"expected images of {config.num_channels} channels, or of 1, for the checkpoint "
                f"{pretrained}, got {channels}: leave `pretrained` out for other channels"
            )
        model = model_class.from_pretrained(
            pretrained, config=config, ignore_mismatched_sizes=True, **self.arguments
        )
        network = self.segmenter(model.float().train(), classes)
        mean, std = standardization(pretrained, config.num_channels)
        return AnySize(Standardized(network, channels, mean, std), channels, classes, stride=self.stride)

    def segmenter(self, model: nn.Module, classes: int) -> nn.Module:
        """The model as one from images to logits."""
        return Segmenter(model)


@dataclass(frozen=True)
class Encoder(Family):
    """An encoder of transformers, with a linear decoder."""

    def segmenter(self, model: Any, classes: int) -> nn.Module:
        """The encoder and its decoder."""
        return LinearDecoder(model, model.config.hidden_size, model.config.patch_size, classes)


@dataclass(frozen=True)
class DeepLab(Family):
    """DeepLabV3+ on MobileNetV2."""

    def segmenter(self, model: Any, classes: int) -> nn.Module:
        """Without the encoder's last layer, which its decoder does not look at."""
        model.mobilenet_v2.conv_1x1 = nn.Identity()
        return Segmenter(model)


def standardization(pretrained: str, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of a checkpoint's colors in [0, 1], per channel; 0 and 1 if it has none."""
    cached_file = importlib.import_module("transformers.utils").cached_file
    try:
        settings = json.loads(Path(cached_file(pretrained, COLORS)).read_text())
    except OSError:  # a checkpoint without this file
        settings = {}
    if not settings.get("do_normalize", True) or "image_mean" not in settings:
        return (0.0,) * channels, (1.0,) * channels
    return tuple(settings["image_mean"]), tuple(settings["image_std"])


# Chen et al. 2018 with the encoder of Sandler et al. 2018; as in transformers, with its pooled decoder
DEEPLAB = DeepLab("MobileNetV2Config", "MobileNetV2ForSemanticSegmentation", {"output_stride": 8})
# Xie et al. 2021, size B0
SEGFORMER = Family("SegformerConfig", "SegformerForSemanticSegmentation", {})
# Dosovitskiy et al. 2021, size Ti/16 of Touvron et al. 2021
VIT = Encoder(
    "ViTConfig",
    "ViTModel",
    {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "patch_size": PATCH},
    stride=PATCH,
    arguments={"add_pooling_layer": False},
)
