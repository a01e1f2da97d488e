"""Random changes of samples: image, seeds and mask move together."""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from selflabel.datasets.samples import Sample
from selflabel.datasets.symmetry import FLIPPED, FLIPPED_ROWS, UNMOVED, Symmetry
from selflabel.kinds import check_fields
from selflabel.labels import UNLABELED


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a sample, each drawn independently and uniformly from its range.

    flip: left and right. flip_rows: up and down. rotate90: quarter turns (half turns if not a square).
    degrees: rotation in [-degrees, degrees]. scale: zoom in [1/scale, scale], uniform in its logarithm.
    brightness: offset in [-brightness, brightness], for values in [0, 1]. contrast: factor on the distance from
    the image's mean, in [1/(1+contrast), 1+contrast], uniform in its logarithm.

    Rotation and zoom are one interpolation, bilinear for images and nearest for labels; beyond the border there
    is zero, unlabeled. Values stay in [0, 1]. `Sample.moved` follows flips and turns; the others mix pixels or
    colors, and it is None. Raises `ValueError` for negative ranges and a scale below 1.
    """

    flip: bool = True
    flip_rows: bool = False
    rotate90: bool = False
    degrees: float = 0.0
    scale: float = 1.0
    brightness: float = 0.0
    contrast: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        for name, least in (("degrees", 0), ("scale", 1), ("brightness", 0), ("contrast", 0)):
            if not least <= getattr(self, name) < math.inf:
                raise ValueError(f"expected a finite {name} >= {least}, got {getattr(self, name)}")

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        """A changed sample; the generator draws the same numbers whatever is switched on."""
        draws = torch.rand(7, generator=generator, dtype=torch.float64).tolist()
        flip, flip_rows, turn, angle, zoom, light, spread = draws
        symmetry = UNMOVED
        if self.flip and flip < 0.5:
            symmetry = symmetry.then(FLIPPED)
        if self.flip_rows and flip_rows < 0.5:
            symmetry = symmetry.then(FLIPPED_ROWS)
        if self.rotate90:
            quarters = int(4 * turn)
            if sample.image.shape[1] != sample.image.shape[2]:
                quarters -= quarters % 2
            symmetry = symmetry.then(Symmetry(quarters=quarters))
        if symmetry != UNMOVED:
            sample = _moved(sample, symmetry)
        if self.degrees > 0 or self.scale > 1:
            radians = math.radians(self.degrees) * (2 * angle - 1)
            sample = _warped(sample, radians, self.scale ** (2 * zoom - 1))
        if self.brightness > 0 or self.contrast > 0:
            image = sample.image
            mean = image.mean()
            factor = (1 + self.contrast) ** (2 * spread - 1)
            image = mean + (image - mean) * factor + self.brightness * (2 * light - 1)
            sample = replace(sample, image=image.clamp(0, 1), moved=None)
        return sample


def _moved(sample: Sample, symmetry: Symmetry) -> Sample:
    mask = None if sample.mask is None else symmetry(sample.mask).contiguous()
    moved = None if sample.moved is None else sample.moved.then(symmetry)
    image, seeds = symmetry(sample.image).contiguous(), symmetry(sample.seeds).contiguous()
    return Sample(sample.stem, image, seeds, mask, moved)


def _warped(sample: Sample, radians: float, zoom: float) -> Sample:
    """Rotated about the middle (counterclockwise as seen) and enlarged by `zoom`."""
    height, width = sample.image.shape[1:]
    cos, sin = math.cos(radians) / zoom, math.sin(radians) / zoom
    # grid coordinates run from -1 to 1 along both axes: the shear terms carry the ratio of the sides
    matrix = torch.tensor([[[cos, -sin * height / width, 0], [sin * width / height, cos, 0]]])
    grid = F.affine_grid(matrix, [1, 1, height, width], align_corners=False).to(sample.image)
    image = F.grid_sample(sample.image[None], grid, "bilinear", "zeros", align_corners=False)[0]
    mask = None if sample.mask is None else _picked(sample.mask, grid)
    return Sample(sample.stem, image.clamp(0, 1), _picked(sample.seeds, grid), mask)


def _picked(index: Int64[Tensor, "h w"], grid: Float[Tensor, "1 h w 2"]) -> Int64[Tensor, "h w"]:
    """The labels nearest to the grid's points; `UNLABELED`, shifted to zero, outside."""
    shifted = (UNLABELED - index).to(grid)[None, None]
    return (
        UNLABELED - F.grid_sample(shifted, grid, "nearest", "zeros", align_corners=False)[0, 0].round().long()
    )
