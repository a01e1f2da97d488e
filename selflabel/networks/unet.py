"""A compact U-Net (Ronneberger et al. 2015), for small data sets and for training on a CPU."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from selflabel.kinds import check_arguments, check_count
from selflabel.networks.any_size import check_axes

STRIDE = 16


class UNet(nn.Module):
    """Four halvings, two convolutions a level, in two or three dimensions.

    `width` channels at full resolution, doubled with each halving: 1.1 million weights for width 12 in 2-D. Batch
    normalization learned faster than instance normalization in the few hundred steps that a CPU affords; convert it on
    several GPUs (`torch.nn.SyncBatchNorm`). Takes multiples of 16 pixels, more than 16 on one axis; `AnySize` pads to
    them.
    """

    def __init__(self, channels: int, classes: int, width: int = 12, axes: int = 2) -> None:
        super().__init__()
        check_arguments(UNet.__init__, {"width": width})
        if width < 1:
            raise ValueError(f"expected a width of at least one channel, got {width}")
        check_count(channels, "channels")
        check_count(classes, "classes")
        check_axes(axes)
        widths = [width * factor for factor in (1, 2, 4, 8, 16)]
        self.axes = axes
        self.first = _level(channels, widths[0], axes)
        self.down = nn.ModuleList(_level(a, b, axes) for a, b in pairwise(widths))
        self.rise = nn.ModuleList(_doubled(a, b, axes) for a, b in pairwise(widths[::-1]))
        self.up = nn.ModuleList(_level(2 * b, b, axes) for b in widths[-2::-1])
        self.last = _convolution(axes)(widths[0], classes, 1)
        if axes == 2:  # a third faster on a CPU
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Float[Tensor, "b c *s"]) -> Float[Tensor, "b k *s"]:
        """The logits."""
        pool = F.max_pool2d if self.axes == 2 else F.max_pool3d
        levels = [self.first(_standardized(images))]
        for down in self.down:
            levels.append(down(pool(levels[-1], 2)))
        x = levels.pop()
        for rise, up in zip(self.rise, self.up, strict=True):
            x = up(torch.cat([levels.pop(), rise(x)], 1))
        logits: Tensor = self.last(x)
        return logits.contiguous()


def _standardized(images: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
    """Each channel of each image with mean 0 and deviation 1, a constant channel with 0."""
    axes = tuple(range(2, images.ndim))
    centered = images - images.mean(axes, keepdim=True)
    return centered / centered.square().mean(axes, keepdim=True).sqrt().clamp_min(1e-3)


def _convolution(axes: int) -> type[nn.Conv2d] | type[nn.Conv3d]:
    return nn.Conv2d if axes == 2 else nn.Conv3d


def _doubled(channels: int, width: int, axes: int) -> nn.Module:
    """A convolution that doubles the resolution."""
    kind = nn.ConvTranspose2d if axes == 2 else nn.ConvTranspose3d
    return kind(channels, width, 2, stride=2)


def _level(channels: int, width: int, axes: int) -> nn.Sequential:
    norm = nn.BatchNorm2d if axes == 2 else nn.BatchNorm3d
    layers: list[nn.Module] = []
    for before in (channels, width):
        # no bias: normalization has one
        convolution = _convolution(axes)(before, width, 3, padding=1, bias=False)
        layers += [convolution, norm(width), nn.LeakyReLU(0.01, inplace=True)]
    return nn.Sequential(*layers)
