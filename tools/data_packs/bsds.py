"""bsds: photographs with regions drawn by people, and simulated scribbles, from BIDS/BSDS500."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Integer, UInt8
from scipy.io import loadmat

from data_packs.pack import Labeled, Pack, source_files
from data_packs.strokes import LEAST_PIXELS, scribbles
from selflabel.files import UNLABELED

REPOSITORY = "BIDS/BSDS500"
MOST_IMAGES = 60
"""Images of the pack: the first suitable ones of the train split, by name."""
MOST_REGIONS = 20
"""Regions, as drawn, of a suitable image, at most; it has at least two after `numbered`."""


def images(repository: Path) -> Iterator[Labeled]:
    """The images of the pack by name. Raises `ValueError` for a copy without segmentations."""
    paths = source_files(repository, "BSDS500/data/groundTruth/train", "*.mat", REPOSITORY)
    return islice(_suitable(paths, repository / "BSDS500/data/images/train"), MOST_IMAGES)


def segmentations(path: Path) -> tuple[Integer[np.ndarray, "h w"], ...]:
    """The segmentations in a MATLAB file, one a person."""
    return tuple(person["Segmentation"][0, 0] for person in loadmat(path)["groundTruth"][0])


def median_segmentation(drawn: Sequence[Integer[np.ndarray, "h w"]]) -> Integer[np.ndarray, "h w"]:
    """The segmentation with the median number of regions: the lower one of two, the first of equals."""
    counts = [len(np.unique(segmentation)) for segmentation in drawn]
    return drawn[counts.index(sorted(counts)[(len(counts) - 1) // 2])]


def numbered(segmentation: Integer[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Regions as numbers 0, 1, 2, … in the order of their own numbers.

    Those of fewer than `LEAST_PIXELS` pixels are left-overs on the seams of others: 255.
    """
    values, places, sizes = np.unique(segmentation, return_inverse=True, return_counts=True)
    kept = sizes >= LEAST_PIXELS
    numbers = np.where(kept, np.cumsum(kept) - 1, UNLABELED).astype(np.uint8)
    assert len(values) <= UNLABELED
    return numbers[places.reshape(segmentation.shape)]


def _suitable(paths: Sequence[Path], pictures: Path) -> Iterator[Labeled]:
    for path in paths:
        drawn = median_segmentation(segmentations(path))
        if len(np.unique(drawn)) > MOST_REGIONS:
            continue
        mask = numbered(drawn)
        if len(np.setdiff1d(mask, [UNLABELED])) < 2:
            continue
        labels = {"masks": mask, "scribbles": scribbles(mask, path.stem)}
        yield Labeled(path.stem, "train", ".jpg", (pictures / f"{path.stem}.jpg").read_bytes(), labels)


BSDS: Final = Pack("bsds", REPOSITORY, "a04b7c6", (), "973e321618443ddf", images)
