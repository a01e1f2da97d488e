"""Images of as many channels as a network takes."""

import numpy as np
import torch
from jaxtyping import Float32, Shaped
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a gray image (ITU-R BT.601, as pillow's)."""


def with_channels(image: Shaped[np.ndarray, "h w c"], channels: int | None) -> Float32[Tensor, "d h w"]:
    """An image as `read_image` gives it, channels first: 1 (gray) or 3 of them, None as they are."""
    tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 0)))
    if channels == 1 and len(tensor) == 3:
        return (torch.tensor(LUMA)[:, None, None] * tensor).sum(0, keepdim=True).clamp_(0, 1)
    if channels == 3 and len(tensor) == 1:
        return tensor.expand(3, -1, -1).contiguous()
    return tensor
