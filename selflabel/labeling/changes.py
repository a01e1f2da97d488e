"""What a solve changed of a prediction: how much, and whether borders moved or objects vanished."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

FAR_PIXELS = 5
"""A pixel that changed and is farther than this from what is left of its class is no moved border."""


@dataclass(frozen=True)
class Changes:
    """changed: share of the pixels whose label is not the prediction's. far: the share of these that has no pixel with
    the predicted class within `FAR_PIXELS` of it on both axes in the new labels; 0 if nothing changed.

    A solve that moves borders to edges changes pixels beside what they were. One that is too strong for its prediction
    takes whole objects away, thin ones first: what they were is nowhere near then.
    """

    changed: float
    far: float


def changes(predicted: UInt8[np.ndarray, "h w"], index: UInt8[np.ndarray, "h w"]) -> Changes:
    """The changes from a prediction to labels. Cost: a few passes over the pixels around the changes of each class."""
    moved = predicted != index
    if not moved.any():
        return Changes(0.0, 0.0)
    far = sum(_far(moved & (predicted == label), index == label) for label in np.unique(predicted[moved]))
    return Changes(float(moved.mean()), far / int(moved.sum()))


def _far(moved: Bool[np.ndarray, "h w"], left: Bool[np.ndarray, "h w"]) -> int:
    """How many pixels that moved away from a class have none of what is `left` of it in the square around them."""
    box = tuple(
        slice(max(0, int(places.min()) - FAR_PIXELS), int(places.max()) + FAR_PIXELS + 1)
        for places in np.nonzero(moved)
    )
    near = left[box]
    for axis in (0, 1):
        near = _spread(near, axis)
    return int((moved[box] & ~near).sum())


def _spread(marked: Bool[np.ndarray, "h w"], axis: int) -> Bool[np.ndarray, "h w"]:
    """The pixels with a marked one within `FAR_PIXELS` along an axis: sums over a window from running sums."""
    width = [(FAR_PIXELS + 1, FAR_PIXELS) if a == axis else (0, 0) for a in (0, 1)]
    running = np.pad(marked, width).cumsum(axis, dtype=np.int32)
    reach, length = 2 * FAR_PIXELS + 1, running.shape[axis]
    within: Bool[np.ndarray, "h w"] = np.take(running, range(reach, length), axis) > np.take(
        running, range(length - reach), axis
    )
    return within
