"""Shorter scribbles, to see how much a method needs."""

import numpy as np
import torch
from jaxtyping import Int64
from scipy import ndimage
from torch import Tensor

from selflabel.labels import UNLABELED

CONNECTED = np.ones((3, 3))


def shortened(seeds: Int64[Tensor, "h w"], length: float) -> Int64[Tensor, "h w"]:
    """Every connected stroke cut to this share of its pixels, the nearest to its middle; 0 leaves one pixel.

    Distances are numbers of steps from pixel to pixel within the stroke. The lengths of scribbles of Lin et al. (2016)
    and of the papers since. Raises `ValueError` for a length outside [0, 1].
    """
    if not 0 <= length <= 1:
        raise ValueError(f"expected a length of strokes from 0 to 1 of the drawn one, got {length}")
    found = seeds.numpy()
    kept = np.full_like(found, UNLABELED)
    for k in np.unique(found[found != UNLABELED]):
        strokes, _ = ndimage.label(found == k, CONNECTED)
        for stroke, box in enumerate(ndimage.find_objects(strokes), start=1):
            inside = strokes[box] == stroke
            kept[box][_nearest(inside, max(1, round(length * int(inside.sum()))))] = k
    return torch.from_numpy(kept)


def _nearest(inside: np.ndarray, count: int) -> np.ndarray:
    """`count` pixels of a connected set, around the one that is nearest to its center of mass."""
    places = np.argwhere(inside)
    middle = places[np.square(places - places.mean(0)).sum(1).argmin()]
    reached = np.zeros_like(inside)
    reached[tuple(middle)] = True
    order = [tuple(middle)]
    while len(order) < count:
        grown = ndimage.binary_dilation(reached, CONNECTED) & inside
        order += [tuple(place) for place in np.argwhere(grown & ~reached)]
        reached = grown
    chosen = np.zeros_like(inside)
    chosen[tuple(np.array(order[:count]).T)] = True
    return chosen
