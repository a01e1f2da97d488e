"""What a solve changed of a prediction: how much, and whether borders moved or objects vanished."""

from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import UInt8

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
    """The changes from a prediction to labels. Cost: at most 121 looks a changed pixel, few beside moved borders."""
    rows, columns = np.nonzero(predicted != index)
    count = len(rows)
    if count == 0:
        return Changes(0.0, 0.0)
    wanted = predicted[rows, columns]
    padded = np.pad(index.astype(np.int16), FAR_PIXELS, constant_values=-1)
    for down, right in product(range(2 * FAR_PIXELS + 1), repeat=2):
        missing = padded[rows + down, columns + right] != wanted
        rows, columns, wanted = rows[missing], columns[missing], wanted[missing]
    return Changes(count / index.size, len(rows) / count)
