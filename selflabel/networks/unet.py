"""A compact U-Net (Ronneberger et al. 2015), for small data sets and for training on a CPU."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

STRIDE = 16


class UNet(nn.Module):
    """Four halvings, two convolutions a level, in two or three dimensions.

    `width` channels at full resolution, twice as many with each halving up to eight times: 0.57 million weights
    for 12 channels in 2-D. What comes up from below is added to the level's own features (Chaurasia and
    Culurciello 2017), which takes two thirds of the time that joining them does. Sizes: multiples of 16, and more
    than 16 pixels on one axis (`Fitted` sees to both).
    """

    def __init__(self, channels: int, classes: int, width: int = 12, axes: int = 2) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"expected a width of at least one channel, got {width}")
        widths = [width * factor for factor in (1, 2, 4, 8, 8)]
        self.axes = axes
        self.first = _level(channels, widths[0], axes)
        self.down = nn.ModuleList(_level(a, b, axes) for a, b in pairwise(widths))
        self.rise = nn.ModuleList(_convolution(axes)(a, b, 1, bias=False) for a, b in pairwise(widths[::-1]))
        self.up = nn.ModuleList(_level(b, b, axes) for b in widths[-2::-1])
        self.last = _convolution(axes)(widths[0], classes, 1)
        if axes == 2:  # a third faster on a CPU
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Float[Tensor, "b c *s"]) -> Float[Tensor, "b k *s"]:
        """The logits."""
        pool = F.max_pool2d if self.axes == 2 else F.max_pool3d
        levels = [self.first(images)]
        for down in self.down:
            levels.append(down(pool(levels[-1], 2)))
        x = levels.pop()
        for rise, up in zip(self.rise, self.up, strict=True):
            x = up(levels.pop() + F.interpolate(rise(x), scale_factor=2.0, mode="nearest"))
        logits: Tensor = self.last(x)
        return logits.contiguous()


class InstanceNorm(nn.Module):
    """Every channel of every image normalized by itself, then scaled and shifted.

    So small batches, and batches that are split over processes, train like large ones; and unlike groups of
    channels, single ones need no time to learn to tell the classes apart.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
        """The same shape."""
        if x.device.type != "cpu":
            return F.instance_norm(x, weight=self.weight, bias=self.bias)
        # torch's own copies all to another order of memory and back: this takes a fifth of its time
        return torch.cat(
            [
                F.batch_norm(image, None, None, self.weight, self.bias, training=True)
                for image in torch.split(x, 1)
            ]
        )


def _convolution(axes: int) -> type[nn.Conv2d] | type[nn.Conv3d]:
    return nn.Conv2d if axes == 2 else nn.Conv3d


def _level(channels: int, width: int, axes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before in (channels, width):
        # without a bias: the normalization has its own
        convolution = _convolution(axes)(before, width, 3, padding=1, bias=False)
        layers += [convolution, InstanceNorm(width), nn.LeakyReLU(0.01, inplace=True)]
    return nn.Sequential(*layers)
