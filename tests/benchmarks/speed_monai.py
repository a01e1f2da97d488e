"""Dense CRFs against MONAI, where its compiled extension is there (`BUILD_MONAI=1`, from its repository's sources)."""

import sys
from functools import partial

import numpy as np
import torch
from coarse_accuracy import CLASSES, KERNELS, STEPS, Array, ours, pixels_of
from lattice_accuracy import exact_rows, features_of
from pictures import Picture, color_mixture
from speed_dense import LOSS, loss_and_gradient
from timing import Duel, Row, spread
from torch import Tensor

from selflabel import DenseAffinity

try:
    from monai import _C as extension
    from monai.networks.blocks import CRF
    from monai.networks.layers import PHLFilter
except ImportError:  # MONAI, or its extension
    extension = None

SAMPLE = 500
"""Random pixels of each photograph, at which the sums over all pixels are computed exactly."""


def channels_first(image: Array) -> Tensor:
    """Pixels ``[h w 3]`` as colors ``[1 3 h w]``."""
    return torch.from_numpy(image).movedim(-1, 0)[None].float()


def theirs(image: Array, probs: Array) -> Tensor:
    """The peer's mean field, normalized by the degree on one side, not by its root on both."""
    color, place = KERNELS
    crf = CRF(
        iterations=STEPS,
        bilateral_weight=color.weight,
        gaussian_weight=place.weight,
        bilateral_spatial_sigma=color.sigma_xy,
        bilateral_color_sigma=color.sigma_rgb,
        gaussian_spatial_sigma=place.sigma_xy,
        update_factor=1.0,
    )
    return crf(torch.from_numpy(probs).clamp_min(1e-13).log()[None], channels_first(image))


def one_filtering(image: Array, probs: Array) -> Tensor:
    """``W y / W 1`` of the dense CRF loss, lattice included."""
    pixels = torch.from_numpy(image).float()
    features = features_of(pixels, LOSS.sigma_rgb, LOSS.sigma_xy).view(1, *image.shape[:2], 5)
    return PHLFilter.apply(torch.from_numpy(probs)[None], features.movedim(-1, 1))


def filter_errors(image: Array, probs: Array, some: Tensor) -> tuple[float, float]:
    """Relative errors of ``W y / W 1`` at some pixels: ours and theirs."""
    labels = torch.from_numpy(probs)[None]
    with_ones = torch.cat([labels, torch.ones_like(labels[:, :1])], 1)
    features = features_of(torch.from_numpy(image).float(), LOSS.sigma_rgb, LOSS.sigma_xy)
    sums = exact_rows(features, with_ones.flatten(2), some)
    exact = sums[:-1] / sums[-1:]
    filtered = DenseAffinity.from_image(torch.from_numpy(image).movedim(-1, 0)[None], (LOSS,)).apply(
        with_ones
    )
    own = (filtered[:, :-1] / filtered[:, -1:]).flatten(2)[0][:, some].double()
    other = one_filtering(image, probs).flatten(2)[0][:, some].double()
    return tuple(float((found - exact).norm() / exact.norm()) for found in (own, other))


def monai(pictures: list[Picture], repeats: int) -> list[Row]:
    """Mean field, and the loss next to one filtering of the peer's; no rows without the peer."""
    if extension is None:
        print("monai: not there, or without its compiled extension", file=sys.stderr)
        return []
    rng = np.random.default_rng(20_301)
    fields, losses = Duel(repeats), Duel(repeats)
    alike, errors = [], []
    for picture in pictures:
        image = pixels_of(picture)
        probs = color_mixture(image, CLASSES, rng).astype(np.float32)
        own, other = fields.run(partial(ours, image[None], probs[None]), partial(theirs, image, probs))
        alike.append(float((own.argmax(1) == other.argmax(1)).float().mean()))
        some = torch.from_numpy(rng.choice(probs[0].size, SAMPLE, replace=False))
        errors.append(filter_errors(image, probs, some))
        losses.run(partial(loss_and_gradient, image, probs), partial(one_filtering, image, probs))
    same = f"normalized in another way: the same label at {np.median(alike):.1%} of the pixels"
    own_errors, other_errors = zip(*errors, strict=True)
    check = f"W y / W 1 off by {spread(own_errors, '.2%')}, peer {spread(other_errors, '.2%')}"
    return [
        fields.row(f"dense CRF, {STEPS} steps, K = {CLASSES}", "MONAI", 0.5, same, True),
        losses.row(
            f"dense CRF loss, K = {CLASSES}",
            "MONAI, filter",
            1.0,
            check,
            max(own_errors) <= min(other_errors),
        ),
    ]
