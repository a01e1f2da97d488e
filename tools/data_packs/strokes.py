"""Simulated annotation: a scribble and a click in every region of a mask.

A region is an 8-connected set of pixels of one class with at least `LEAST_PIXELS` pixels; smaller ones get nothing.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, UInt8
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from skimage import morphology

from selflabel.files import UNLABELED

LEAST_PIXELS = 64
"""Pixels of the smallest region that is scribbled and clicked."""
EROSIONS = 2
"""Steps by which a region is eroded before it is thinned, fewer where nothing would be left."""
CUT = (0.05, 0.15)
"""Range of the share of a path that is cut off at each end."""

_EIGHT = np.ones((3, 3), dtype=bool)
_STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Rows and columns from a pixel to half of its eight neighbors: each pair once."""


@dataclass(frozen=True)
class Region:
    """A connected part of a class: the class, the rows and columns around it, and its pixels in there."""

    label: int
    box: tuple[slice, slice]
    inside: Bool[np.ndarray, "h w"]


def regions(mask: UInt8[np.ndarray, "h w"]) -> Iterator[Region]:
    """The regions of a mask: by class, in a class as `scipy.ndimage.label` numbers them."""
    for label in np.unique(mask):
        if label == UNLABELED:
            continue
        parts, _ = ndimage.label(mask == label, _EIGHT)
        for number, box in enumerate(ndimage.find_objects(parts), start=1):
            inside = parts[box] == number
            if inside.sum() >= LEAST_PIXELS:
                yield Region(int(label), box, inside)


def scribbles(mask: UInt8[np.ndarray, "h w"], stem: str) -> UInt8[np.ndarray, "h w"]:
    """A scribble in every region, 255 elsewhere; the random numbers are those of the seed CRC-32(stem)."""
    rng = np.random.default_rng(zlib.crc32(stem.encode()))
    drawn = np.full(mask.shape, UNLABELED, dtype=np.uint8)
    for region in regions(mask):
        drawn[region.box][stroke(region.inside, rng)] = region.label
    return drawn


def clicks(mask: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """One labeled pixel in every region, 255 elsewhere.

    It is the pixel with the largest Euclidean distance to all that is not of the region, outside of the image
    included; the first in order of reading where there are several.
    """
    drawn = np.full(mask.shape, UNLABELED, dtype=np.uint8)
    for region in regions(mask):
        depth = ndimage.distance_transform_edt(np.pad(region.inside, 1))[1:-1, 1:-1]
        drawn[region.box][np.unravel_index(np.argmax(depth), depth.shape)] = region.label
    return drawn


def stroke(inside: Bool[np.ndarray, "h w"], rng: np.random.Generator) -> Bool[np.ndarray, "h w"]:
    """A stroke of three pixels' width inside a connected region.

    It follows the longest path p_0 … p_{n-1} of the skeleton of the eroded region, from p_⌊an⌋ to p_{n-1-⌊bn⌋}, with
    a, b ~ U[0.05, 0.15].
    """
    padded = np.pad(inside, EROSIONS)
    skeleton: Bool[np.ndarray, "h w"] = morphology.skeletonize(_core(padded))
    path = longest_path(_largest_part(skeleton))
    first, last = (int(share * len(path)) for share in rng.uniform(*CUT, size=2))
    path = path[first : len(path) - last]
    line = np.zeros(padded.shape, dtype=bool)
    line[path[:, 0], path[:, 1]] = True
    thick: Bool[np.ndarray, "h w"] = ndimage.binary_dilation(line, _EIGHT) & padded
    return thick[EROSIONS:-EROSIONS, EROSIONS:-EROSIONS]


def longest_path(thin: Bool[np.ndarray, "h w"]) -> Int64[np.ndarray, "n 2"]:
    """Rows and columns along the longest of the shortest paths between pixels of a thin, 8-connected set.

    Steps along rows and columns have the length 1, diagonal ones √2. Two searches: from the first pixel to the farthest
    one, from there to the farthest again. This is exact on trees; with loops the path may be shorter.
    Cost O(n log n) for n pixels.
    """
    pixels = np.argwhere(thin)
    numbers = np.full(np.add(thin.shape, 2), -1)
    numbers[pixels[:, 0] + 1, pixels[:, 1] + 1] = np.arange(len(pixels))
    ends, lengths = [], []
    for down, right in _STEPS:
        others = numbers[pixels[:, 0] + 1 + down, pixels[:, 1] + 1 + right]
        here = np.flatnonzero(others >= 0)
        ends.append((here, others[here]))
        lengths.append(np.full(len(here), np.hypot(down, right)))
    graph = coo_array(
        (np.concatenate(lengths), np.concatenate(ends, axis=1)), shape=(len(pixels), len(pixels))
    ).tocsr()

    def farthest(start: int) -> tuple[int, Int64[np.ndarray, " n"]]:
        distances, previous = dijkstra(graph, directed=False, indices=start, return_predecessors=True)
        distances[~np.isfinite(distances)] = -1
        return int(np.argmax(distances)), previous

    start, _ = farthest(0)
    end, previous = farthest(start)
    path = [end]
    while path[-1] != start:
        path.append(int(previous[path[-1]]))
    return pixels[path]


def _core(region: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The largest part of the region after as many of `EROSIONS` steps with a cross as leave something."""
    for steps in range(EROSIONS, 0, -1):
        eroded = ndimage.binary_erosion(region, iterations=steps)
        if eroded.any():
            return _largest_part(eroded)
    return region


def _largest_part(pixels: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The 8-connected part with most pixels, the first of several."""
    parts, _ = ndimage.label(pixels, _EIGHT)
    largest: Bool[np.ndarray, "h w"] = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    return largest
