"""Responses of a pretrained network's first layers, as features of pixels."""

from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from selflabel.kinds import check_fields
from selflabel.networks.efficientnet import COLORS, VARIANTS, EfficientNetLite

LITE0 = VARIANTS["efficientnet-lite0"]


@dataclass(frozen=True)
class FirstLayers:
    """The first layer of EfficientNet-Lite0 and its first `blocks`, with ImageNet's weights, at every pixel.

    Appearance models learn from them (Mayer et al., Sec. 2.3.1: 160 filters of the first layers of VGG-16 and AlexNet).
    Strides are replaced by dilation: a pixel has the response of the filter that is centered on it. There are 32
    features of the first layer, for edges and colors in 3 x 3 pixels, and 16, 24, 24, 40 and 40 of the first five
    blocks, which look at squares of 7, 11, 19, 35 and 67 pixels.

    Cost: 96 features (three blocks) of 0.17 megapixels in 0.6 s on one core, 176 (five) in 2.5 s; 0.1 s to load the
    weights. Raises `ValueError` for more blocks than there are.
    """

    blocks: int = 3

    def __post_init__(self) -> None:
        check_fields(self)
        most = sum(stage.blocks for stage in LITE0.stages())
        if not 0 <= self.blocks <= most:
            raise ValueError(f"expected 0 to {most} blocks, got {self.blocks}")

    def __call__(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f h w"]:
        """The features of images in [0, 1], of three channels, or of one, which is repeated.

        Raises `ValueError` for other channels and images, `ImportError`, with the command that installs it, without
        the package of the weights.
        """
        if images.shape[1] not in (1, COLORS) or not images.is_floating_point():
            raise ValueError(
                f"expected images of 3 channels, or of 1, in floating point in [0, 1], got {images.shape[1]} in "
                f"{images.dtype}"
            )
        encoder = EfficientNetLite(LITE0, 1, channels=images.shape[1])
        encoder.load(LITE0.weights())
        encoder.eval().to(images.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.no_grad():
            return torch.cat(list(islice(encoder.outputs(images.float()), 1 + self.blocks)), 1)
