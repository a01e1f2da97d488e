"""DeepLabV3+ (Chen et al. 2018, *Encoder-Decoder with Atrous Separable Convolution*) on a pretrained encoder."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from selflabel.networks.any_size import AnySize
from selflabel.networks.efficientnet import COLORS, EfficientNetLite, Variant

WIDTH = 256
"""Channels of pyramid and decoder, as published."""
RATES = (6, 12, 18)
"""Dilations of the pyramid at stride 16; twice these at stride 8."""
LOW_STRIDE, LOW_WIDTH = 4, 48
"""Stride of the decoder's fine features, and the channels that they are reduced to."""


class SeparableLayer(nn.Sequential):
    """A 3 x 3 filter for each channel, then one that mixes them; each with normalization and nonlinearity."""

    def __init__(self, before: int, after: int, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv2d(before, before, 3, padding=dilation, dilation=dilation, groups=before, bias=False),
            nn.BatchNorm2d(before),
            nn.ReLU(inplace=True),
            *_mixing(before, after),
        )


class PyramidPooling(nn.Module):
    """Features at several scales: one pixel, 3 x 3 at three dilations, and the mean of the whole image.

    The mean has one place an image, so that its branch has a bias instead of batch normalization.
    """

    def __init__(self, before: int, width: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.pixel = nn.Sequential(*_mixing(before, width))
        self.around = nn.ModuleList(SeparableLayer(before, width, rate) for rate in rates)
        self.whole = nn.Conv2d(before, width, 1)
        self.last = nn.Sequential(*_mixing((2 + len(rates)) * width, width))

    def forward(self, x: Float[Tensor, "b c i j"]) -> Float[Tensor, "b f i j"]:
        """The features."""
        mean = F.relu(self.whole(x.mean((2, 3), keepdim=True))).expand(-1, -1, *x.shape[2:])
        found: Tensor = self.last(torch.cat([self.pixel(x), *(one(x) for one in self.around), mean], 1))
        return found


class DeepLabV3Plus(nn.Module):
    """Encoder, pyramid and decoder, from images in [0, 1] to logits at their size.

    width: channels of pyramid and decoder. Layers beside the encoder have random weights and batch normalization with
    the statistics of the batch. Takes multiples of the output stride. Features are enlarged so that each stays at the
    place where its layers looked (`enlarged`).
    """

    def __init__(self, encoder: EfficientNetLite, stride: int, classes: int, width: int) -> None:
        super().__init__()
        self.encoder, self.factor = encoder, stride // LOW_STRIDE
        # the last block at this stride
        self.low = len(encoder.strides) - 1 - encoder.strides[::-1].index(LOW_STRIDE)
        self.pyramid = PyramidPooling(encoder.widths[-1], width, tuple(rate * 16 // stride for rate in RATES))
        self.fine = nn.Sequential(*_mixing(encoder.widths[self.low], LOW_WIDTH))
        self.decoder = nn.Sequential(SeparableLayer(width + LOW_WIDTH, width), SeparableLayer(width, width))
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """The logits."""
        _, *outputs = self.encoder.outputs(images)
        fine, coarse = outputs[self.low], outputs[-1]
        x = enlarged(self.pyramid(coarse), self.factor)
        x = self.decoder(torch.cat([x, self.fine(fine)], 1))
        return enlarged(self.last(x), LOW_STRIDE).contiguous()

    def pretrained_parameters(self) -> Iterator[nn.Parameter]:
        """Those that may have been trained before: the encoder's."""
        return self.encoder.parameters()


def enlarged(x: Float[Tensor, "b c i j"], factor: int) -> Float[Tensor, "b c h w"]:
    """Features at `factor` times the resolution, bilinear.

    The place i of the encoder's features is ``factor i + factor - 1`` on the finer grid, the last of its cell
    (`FilterLayer`): places before the first take its value. Interpolation that holds places for centers of cells would
    move what stride 16 has found by 7.5 pixels.
    """
    size = [factor * (n - 1) + 1 for n in x.shape[2:]]
    between = F.interpolate(x, size=size, mode="bilinear", align_corners=True)
    return F.pad(between, (factor - 1, 0, factor - 1, 0), mode="replicate")


def deeplab(
    variant: Variant, channels: int, classes: int, *, stride: int, pretrained: bool, load: bool
) -> AnySize:
    """The network, for images in [0, 1] of three channels, or of one, which is repeated.

    pretrained: the encoder has ImageNet's weights and fixed statistics. load: take them from their package; else they
    come later, from a checkpoint. Without pretrained weights any number of channels will do.

    Raises `ValueError` for channels that the weights do not take and strides other than 8 and 16, `ImportError`
    without the package.
    """
    if stride not in (8, 16):
        raise ValueError(f"expected an output stride of 8 or 16, got {stride}")
    if pretrained and channels not in (1, COLORS):
        raise ValueError(
            f"expected images of 3 channels, or of 1, for ImageNet's weights, got {channels}: start from random "
            f"weights for other channels"
        )
    encoder = EfficientNetLite(variant, stride, channels=channels, fixed_statistics=pretrained)
    if pretrained and load:
        encoder.load(variant.weights())
    network = DeepLabV3Plus(encoder, stride, classes, WIDTH)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.train()
    return AnySize(network, channels, classes, stride=stride)


def _mixing(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
