"""What a data set holds, found by reading all of it before training starts."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from selflabel.datasets.samples import Folder, UnusableFiles
from selflabel.labels import UNLABELED


@dataclass(frozen=True)
class Survey:
    """seeds, masks: labeled pixels of each class, [classes]; of images as the network gets them.

    whole: images with a seed at every pixel. binary: masks of 0 and 255 alone, where 255 does
    not count by default only.
    """

    seeds: Int64[np.ndarray, " k"]
    masks: Int64[np.ndarray, " k"]
    images: int
    whole: int
    binary: int


def survey(folder: Folder, progress: Callable[[], None] = lambda: None) -> Survey:
    """Read all images of a folder, which keeps them if it caches; `progress` is called after each.

    Raises `UnusableFiles` that names all of them. Cost: one pass over the files.
    """
    seeds, masks = (np.zeros(folder.classes, np.int64) for _ in range(2))
    failures: list[tuple[str, str]] = []
    for number in range(len(folder)):
        try:
            sample = folder[number]
        except ValueError as error:
            failures.append((folder.stems[number], str(error)))
        else:
            seeds += _counts(sample.seeds, folder.classes)
            if sample.mask is not None:
                masks += _counts(sample.mask, folder.classes)
        progress()
    if failures:
        raise UnusableFiles(failures, len(folder))
    return Survey(seeds, masks, len(folder), folder.whole_seeds, folder.binary_masks)


def _counts(index: Int64[Tensor, "h w"], classes: int) -> Int64[np.ndarray, " k"]:
    found: np.ndarray = torch.bincount(index[index != UNLABELED], minlength=classes).numpy()
    return found
