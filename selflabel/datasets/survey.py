"""What a data set holds, found by reading all of it before training starts."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from selflabel.datasets.samples import Folder
from selflabel.labels import UNLABELED

MOST_SHOWN = 20
"""Files that an error names one by one."""


@dataclass(frozen=True)
class Survey:
    """seeds, masks: labeled pixels of each class, [classes]; of images as the network gets them.

    whole: images with a seed at every pixel.
    """

    seeds: Int64[np.ndarray, " k"]
    masks: Int64[np.ndarray, " k"]
    images: int
    whole: int


def survey(folder: Folder, progress: Callable[[], None] = lambda: None) -> Survey:
    """Read all images of a folder, which keeps them if it caches; `progress` is called after each.

    Raises `ValueError` that names every file that cannot be used. Cost: one pass over the files.
    """
    seeds, masks = (np.zeros(folder.classes, np.int64) for _ in range(2))
    failures: list[str] = []
    for number in range(len(folder)):
        try:
            sample = folder[number]
        except ValueError as error:
            failures.append(str(error))
        else:
            seeds += _counts(sample.seeds, folder.classes)
            if sample.mask is not None:
                masks += _counts(sample.mask, folder.classes)
        progress()
    if len(failures) == 1:
        raise ValueError(failures[0])
    if failures:
        shown = "".join(f"\n  {failure}" for failure in failures[:MOST_SHOWN])
        more = f"\n  and {len(failures) - MOST_SHOWN} more" if len(failures) > MOST_SHOWN else ""
        raise ValueError(f"{len(failures)} of {len(folder)} images cannot be used:{shown}{more}")
    return Survey(seeds, masks, len(folder), folder.whole_seeds)


def _counts(index: Int64[Tensor, "h w"], classes: int) -> Int64[np.ndarray, " k"]:
    found: np.ndarray = torch.bincount(index[index != UNLABELED], minlength=classes).numpy()
    return found
