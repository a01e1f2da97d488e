"""Images of any shape as squares of one size, and maps of the square back on the image."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from selflabel.kinds import check_fields
from selflabel.labels import UNLABELED


@dataclass(frozen=True)
class Letterbox:
    """An image of ``height x width`` pixels, padded on both sides to a square and resized to ``size x size``.

    The whole image stays in sight and keeps its proportions. An odd pixel of padding goes to the bottom or right.
    Raises `ValueError` for anything below one pixel.
    """

    height: int
    width: int
    size: int

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("height", "width", "size"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1 pixel, got {getattr(self, name)}")

    @property
    def side(self) -> int:
        """Side of the padded square, in the image's pixels."""
        return max(self.height, self.width)

    @property
    def top(self) -> int:
        """Rows of padding above the image."""
        return (self.side - self.height) // 2

    @property
    def left(self) -> int:
        """Columns of padding left of the image."""
        return (self.side - self.width) // 2

    def image(self, image: Float[Tensor, "c h w"]) -> Float[Tensor, "c size size"]:
        """The image in the square, zero beside it; bilinear, with low-pass filtering where it shrinks."""
        letterbox = image.new_zeros(image.shape[0], self.side, self.side)
        letterbox[:, self.top : self.top + self.height, self.left : self.left + self.width] = image
        return _resized(letterbox, self.size)

    def mask(self, index: Int64[Tensor, "h w"]) -> Int64[Tensor, "size size"]:
        """Dense labels in the square, `UNLABELED` beside the image: each pixel takes what is at its center."""
        letterbox = self._padded(index)
        center = (2 * torch.arange(self.size) + 1) * self.side // (2 * self.size)
        return letterbox[center][:, center]

    def seeds(self, index: Int64[Tensor, "h w"]) -> Int64[Tensor, "size size"]:
        """Sparse labels in the square; none is lost where the image shrinks.

        A pixel takes the most frequent class of the labeled pixels whose centers it covers; ties go to the lowest
        class. A connected line stays connected and is not widened. Where the image grows, as `mask`.
        """
        if self.size > self.side:
            return self.mask(index)
        letterbox = self._padded(index)
        rows, columns = torch.nonzero(letterbox != UNLABELED, as_tuple=True)
        if not len(rows):
            return index.new_full((self.size, self.size), UNLABELED)
        classes, cells = int(letterbox[rows, columns].max()) + 1, self.size * self.size
        place = self._target(rows) * self.size + self._target(columns)
        votes = torch.bincount(place * classes + letterbox[rows, columns], minlength=cells * classes)
        most, winner = votes.view(self.size, self.size, classes).max(2)
        return torch.where(most > 0, winner, UNLABELED)

    def undo(self, probs: Float[Tensor, "k size size"]) -> Float[Tensor, "k h w"]:
        """Probabilities of the square on the image's own pixels: bilinear, the padding cut off.

        The weights are convex, so that sums of one stay sums of one.
        """
        letterbox = _resized(probs, self.side)
        return letterbox[:, self.top : self.top + self.height, self.left : self.left + self.width]

    def _padded(self, index: Int64[Tensor, "h w"]) -> Int64[Tensor, "side side"]:
        letterbox = index.new_full((self.side, self.side), UNLABELED)
        letterbox[self.top : self.top + self.height, self.left : self.left + self.width] = index
        return letterbox

    def _target(self, places: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
        """Rows (or columns) of the resized square that cover the centers of these rows of the padded one."""
        return (2 * places + 1) * self.size // (2 * self.side)


def _resized(maps: Float[Tensor, "c s s"], size: int) -> Float[Tensor, "c size size"]:
    if maps.shape[1] == size:
        return maps
    resized: Tensor = F.interpolate(
        maps[None], size=(size, size), mode="bilinear", align_corners=False, antialias=True
    )
    return resized[0].clamp_(0, 1)
