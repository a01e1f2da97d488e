"""The 95th percentile of the Hausdorff distance."""

import numpy as np
from jaxtyping import Bool, Int64
from scipy import ndimage
from scipy.spatial import cKDTree


def boundary(mask: Bool[np.ndarray, "h w"]) -> Int64[np.ndarray, "n 2"]:
    """Positions of the pixels of a mask that have a 4-neighbor outside it, the edge of the image included."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return np.zeros((0, 2), dtype=np.int64)
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    inner = ndimage.binary_erosion(box, border_value=0)
    corner = np.array([rows[0], columns[0]])
    edge: Int64[np.ndarray, "n 2"] = np.argwhere(box & ~inner).astype(np.int64) + corner
    return edge


def hd95(a: Bool[np.ndarray, "h w"], b: Bool[np.ndarray, "h w"]) -> float:
    """HD95 of two masks, in pixels.

    The 95th percentile of the distances from the boundary pixels of each to the nearest boundary pixel of the
    other, both directions taken together (as medpy's `hd95`, unit spacing), with linear interpolation between
    ranks. nan if a mask is empty: the distance is not defined then. Cost: a k-d tree of each boundary.
    """
    edge_a, edge_b = boundary(a), boundary(b)
    if len(edge_a) == 0 or len(edge_b) == 0:
        return float("nan")
    to_b, _ = cKDTree(edge_b).query(edge_a)
    to_a, _ = cKDTree(edge_a).query(edge_b)
    return float(np.percentile(np.concatenate([to_b, to_a]), 95))
