"""Confusion counts, and the scores that are ratios of them."""

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from selflabel.files import UNLABELED

IGNORED = UNLABELED
"""The value of true pixels that do not count."""
LEVELS = 256
"""Rows and columns of the counts: the values that a label file can hold."""


def confusion(truth: UInt8[np.ndarray, "h w"], index: UInt8[np.ndarray, "_ _"]) -> Int64[np.ndarray, "t p"]:
    """Counts [256 256] of pixels by true class (row) and labeled class (column).

    Pixels of 255 in the truth are left out. Column 255 counts pixels that were left unlabeled: they are wrong.
    Counts of several images are added before any ratio is taken.

    Raises `ValueError` if the shapes differ.
    """
    check_one_size(index.shape, truth.shape)
    pairs = truth.astype(np.int32).ravel() * LEVELS + index.ravel()
    counts = np.bincount(pairs, minlength=LEVELS * LEVELS).reshape(LEVELS, LEVELS)
    counts[IGNORED] = 0
    return counts.astype(np.int64)


def check_one_size(labels: tuple[int, ...], truth: tuple[int, ...]) -> None:
    """Raise `ValueError` unless labels and truth have one height and one width."""
    if labels != truth:
        raise ValueError(
            f"labels of {_size(labels)} pixels for a truth of {_size(truth)}: both must be of one size (resize "
            f"labels with nearest neighbors)"
        )


def iou(counts: Int64[np.ndarray, "t p"]) -> Float64[np.ndarray, " k"]:
    """Intersection over union of classes 0..254: TP / (TP + FP + FN); nan for a class in neither map.

    A class that is labeled somewhere but nowhere true has 0.
    """
    both, true, labeled = _sums(counts)
    return _ratio(both, true + labeled - both)


def dice(counts: Int64[np.ndarray, "t p"]) -> Float64[np.ndarray, " k"]:
    """Dice of classes 0..254: 2 TP / (2 TP + FP + FN) = 2 IoU / (1 + IoU); nan for a class in neither map."""
    both, true, labeled = _sums(counts)
    return _ratio(2 * both, true + labeled)


def accuracy(counts: Int64[np.ndarray, "t p"]) -> float:
    """Share of counted pixels with the right class; nan if none is counted."""
    total = counts.sum()
    return float(np.trace(counts) / total) if total else float("nan")


def mean_of_defined(scores: Float64[np.ndarray, " k"]) -> float:
    """The mean of the scores that are not nan; nan if there is none."""
    defined = scores[~np.isnan(scores)]
    return float(defined.mean()) if defined.size else float("nan")


def _sums(
    counts: Int64[np.ndarray, "t p"],
) -> tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " k"], Int64[np.ndarray, " k"]]:
    classes = slice(0, IGNORED)
    return np.diagonal(counts)[classes], counts.sum(axis=1)[classes], counts.sum(axis=0)[classes]


def _ratio(above: Int64[np.ndarray, " k"], below: Int64[np.ndarray, " k"]) -> Float64[np.ndarray, " k"]:
    ratio = np.full(above.shape, np.nan)
    np.divide(above, below, out=ratio, where=below > 0)
    return ratio


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
