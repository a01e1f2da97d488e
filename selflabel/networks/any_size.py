"""Networks for images of any size: padding to the stride, logits at the size of the images."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from selflabel.inputs import logits_of
from selflabel.kinds import check_count, check_kind

LINEAR = {4: "bilinear", 5: "trilinear"}


class AnySize(nn.Module):
    """A network from images ``[b c *s]`` of any size to logits ``[b k *s]``, by padding, resizing and cropping.

    The network returns a tensor, or a record or mapping that holds it under `logits` (transformers) or `out`
    (torchvision). Images are padded to multiples of `stride`, on one axis to two strides at least; padding repeats the
    border. Logits are resized to the padded images and cropped. Each call raises `ValueError` for other numbers of
    channels, axes or classes.
    """

    def __init__(
        self, network: nn.Module, channels: int, classes: int, *, stride: int = 1, axes: int = 2
    ) -> None:
        super().__init__()
        check_kind(network, nn.Module, "network as a torch module", "UNet(channels, classes)")
        for name, value in (("channels", channels), ("classes", classes), ("stride", stride)):
            check_count(value, name)
        check_axes(axes)
        self.network = network
        self.channels, self.classes, self.stride, self.axes = channels, classes, stride, axes

    def forward(self, images: Float[Tensor, "b c *s"]) -> Float[Tensor, "b k *s"]:
        """The logits."""
        if images.ndim != self.axes + 2 or images.shape[1] != self.channels:
            letters = "b c h w" if self.axes == 2 else "b c d h w"
            raise ValueError(
                f"expected images [{letters}] with {self.channels} channels, got {list(images.shape)}: the "
                f"network was made for {self.channels} channels"
            )
        if not images.is_floating_point():
            raise ValueError(
                f"expected images in floating point, in [0, 1], got {images.dtype}: divide them by 255"
            )
        size = images.shape[2:]
        missing = [-n % self.stride for n in size]
        if self.stride > 1 and all(n <= self.stride for n in size):
            missing[-1] += self.stride  # batch normalization fails on one pixel in the deepest level
        if any(missing):
            images = F.pad(images, [p for n in reversed(missing) for p in (0, n)], mode="replicate")
        logits = logits_of(self.network(images))
        wanted = (images.shape[0], self.classes)
        if not isinstance(logits, Tensor) or logits.ndim != images.ndim or logits.shape[:2] != wanted:
            got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"expected logits of {wanted[0]} images and {self.classes} classes from the network, as one "
                f"tensor or under `logits` or `out`, got {got}: wrap it in a module that returns such"
            )
        if logits.shape[2:] != images.shape[2:]:
            logits = F.interpolate(
                logits, size=images.shape[2:], mode=LINEAR[images.ndim], align_corners=False
            )
        for axis, n in enumerate(size, start=2):
            logits = logits.narrow(axis, 0, n)
        return logits


def check_axes(axes: object) -> None:
    """Raise `ValueError` unless images have two or three axes."""
    if isinstance(axes, bool) or axes not in (2, 3):
        raise ValueError(f"expected axes = 2, or 3 for volumes, got {axes!r}")


class Standardized(nn.Module):
    """A network on standardized images, ``(x - mean) / std`` per channel, as its weights were trained."""

    def __init__(
        self,
        network: nn.Module,
        channels: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.network, self.repeats = network, len(mean) // channels
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Float[Tensor, "b c h w"]) -> Tensor:
        """The network's logits; gray images are repeated over its channels."""
        images = images.repeat(1, self.repeats, 1, 1)
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits
