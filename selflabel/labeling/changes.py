"""What a solve changed of a prediction: how much, and whether borders moved or regions vanished."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

FAR_PIXELS = 5
"""A pixel that changed farther than this from all borders of the new labels is no moved border."""


@dataclass(frozen=True)
class Changes:
    """changed: share of the pixels whose label is not the prediction's. far: the share of these that is `FAR_PIXELS`
    from all borders of the new labels, on either axis; 0 if nothing changed.

    A solve that moves borders to edges changes pixels beside borders. One that is too strong for its prediction
    takes whole objects away: what they were is far from any border then.
    """

    changed: float
    far: float


def changes(predicted: UInt8[np.ndarray, "h w"], index: UInt8[np.ndarray, "h w"]) -> Changes:
    """The changes from a prediction to labels. Cost: a few passes over the pixels."""
    moved = predicted != index
    if not moved.any():
        return Changes(0.0, 0.0)
    return Changes(float(moved.mean()), float((moved & ~_near_border(index)).sum() / moved.sum()))


def _near_border(index: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The pixels with a border in the square of ``2 FAR_PIXELS + 1`` pixels around them."""
    border = np.zeros(index.shape, dtype=bool)
    for axis in (0, 1):
        differs = np.diff(index, axis=axis) != 0
        for beside in ((1, 0), (0, 1)):  # both pixels of a pair are at the border
            border |= np.pad(differs, [beside if a == axis else (0, 0) for a in (0, 1)])
    for axis in (0, 1):
        border = _spread(border, axis)
    return border


def _spread(marked: Bool[np.ndarray, "h w"], axis: int) -> Bool[np.ndarray, "h w"]:
    """The pixels with a marked one within `FAR_PIXELS` along an axis: sums over a window from running sums."""
    width = [(FAR_PIXELS + 1, FAR_PIXELS) if a == axis else (0, 0) for a in (0, 1)]
    running = np.pad(marked, width).cumsum(axis, dtype=np.int32)
    reach, length = 2 * FAR_PIXELS + 1, running.shape[axis]
    within: Bool[np.ndarray, "h w"] = np.take(running, range(reach, length), axis) > np.take(
        running, range(length - reach), axis
    )
    return within
