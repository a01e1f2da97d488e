"""`pydensecrf.utils`: unaries from labels or probabilities, features from places and images."""

import logging
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import Float32, Integer, Shaped


def unary_from_labels(
    labels: Integer[np.ndarray, "..."], n_labels: int, gt_prob: float, zero_unsure: bool = True
) -> Float32[np.ndarray, "n_labels n"]:
    """``-ln p``, where the label of a pixel has p = gt_prob, and the others share the rest.

    zero_unsure: 0 says that nothing is known, all classes are equally probable, and labels are 1..n_labels; without,
    they are 0..n_labels-1. Raises `ValueError` for other labels (pydensecrf counts negative ones from the end), for
    fewer than two classes, and unless 0 < gt_prob < 1.
    """
    if not 0 < gt_prob < 1 or n_labels < 2:
        raise ValueError(f"expected 0 < gt_prob < 1 and n_labels >= 2, got {gt_prob} and {n_labels}")
    given = np.asarray(labels).ravel()
    if given.dtype.kind not in "biuf" or not (np.isfinite(given) & (given == np.trunc(given))).all():
        raise ValueError(
            f"expected labels as whole numbers, got {given.dtype} with others: probabilities go to unary_from_softmax"
        )
    flat = given.astype(np.int64)
    first = 0 if not zero_unsure else 1
    wrong = np.setdiff1d(np.unique(flat), np.arange(n_labels + first))
    if len(wrong):
        raise ValueError(
            f"expected labels 0..{n_labels - 1 + first} for {n_labels} classes with zero_unsure={zero_unsure}, got "
            f"{', '.join(map(str, wrong[:5]))}: make them consecutive first"
        )
    unary = np.full((n_labels, len(flat)), -np.log((1 - gt_prob) / (n_labels - 1)), np.float32)
    unary[flat - first, np.arange(len(flat))] = -np.log(gt_prob)
    if zero_unsure:
        unary[:, flat == 0] = np.log(n_labels)
    return unary


def unary_from_softmax(
    sm: Shaped[np.ndarray, "n_labels ..."], scale: float | None = None, clip: float | None = 1e-5
) -> Float32[np.ndarray, "n_labels n"]:
    """``-ln p`` of probabilities whose first axis is the classes, not less than `clip` before the logarithm.

    scale: mixed with so much less of the uniform distribution, ``scale p + (1 - scale) / n_labels``. Raises
    `ValueError` unless 0 < scale <= 1.
    """
    probs = np.asarray(sm)
    if scale is not None:
        if not 0 < scale <= 1:
            raise ValueError(f"expected 0 < scale <= 1, got {scale}")
        probs = scale * probs + (1 - scale) / len(probs)
    if clip is not None:
        probs = np.clip(probs, clip, 1.0)
    unary: Float32[np.ndarray, "n_labels n"] = -np.log(probs).reshape(len(probs), -1).astype(np.float32)
    return unary


def compute_unary(
    labels: Integer[np.ndarray, "..."], M: int, GT_PROB: float = 0.5
) -> Float32[np.ndarray, "n_labels n"]:
    """`unary_from_labels`, which replaces it."""
    logging.getLogger(__name__).warning("compute_unary is deprecated, use unary_from_labels instead")
    return unary_from_labels(labels, M, GT_PROB)


def softmax_to_unary(
    sm: Shaped[np.ndarray, "n_labels ..."], GT_PROB: float = 1.0
) -> Float32[np.ndarray, "n_labels n"]:
    """`unary_from_softmax` without a clip, which replaces it."""
    logging.getLogger(__name__).warning("softmax_to_unary is deprecated, use unary_from_softmax instead")
    return unary_from_softmax(sm, None if GT_PROB == 1 else GT_PROB, clip=None)


def create_pairwise_gaussian(sdims: Any, shape: Sequence[int]) -> Float32[np.ndarray, "d n"]:
    """The places of pixels as features: each axis, in the order of `shape`, divided by its bandwidth.

    `DenseCRF2D.addPairwiseGaussian` takes its bandwidths in the other order, x first. Raises `ValueError` unless there
    is one for each axis.
    """
    return _places(sdims, tuple(shape)).reshape(len(shape), -1)


def create_pairwise_bilateral(
    sdims: Any, schan: Any, img: Shaped[np.ndarray, "..."], chdim: int = -1
) -> Float32[np.ndarray, "d n"]:
    """Places and values of an image as features, divided by their bandwidths.

    sdims: one for each axis of places. schan: one for all channels, or one each. chdim: the axis of the channels; -1
    for an image that has none. Raises `ValueError` unless there is a bandwidth for each axis and each channel.
    """
    image = np.asarray(img)
    channels = (image[None] if chdim == -1 else np.moveaxis(image, chdim, 0)).astype(np.float32)
    bandwidths = [schan] * len(channels) if isinstance(schan, Real) else list(schan)
    if len(bandwidths) != len(channels):
        raise ValueError(
            f"expected a number as schan, or one for each of the {len(channels)} channels, got {len(bandwidths)}: "
            f"chdim={chdim} of shape {image.shape} are the channels"
        )
    channels /= np.array(bandwidths, np.float32).reshape(-1, *[1] * (channels.ndim - 1))
    features = np.concatenate([_places(sdims, channels.shape[1:]), channels])
    return features.reshape(len(features), -1)


def _places(bandwidths: Any, shape: tuple[int, ...]) -> Float32[np.ndarray, "d ..."]:
    if not isinstance(bandwidths, Sequence | np.ndarray):
        raise ValueError(
            f"expected a bandwidth for each of the axes {shape}, got {bandwidths!r}: give {len(shape)} of them"
        )
    if len(bandwidths) != len(shape):
        raise ValueError(f"expected a bandwidth for each of the axes {shape}, got {len(bandwidths)}")
    places: Float32[np.ndarray, "d ..."] = np.indices(shape, dtype=np.float32)
    for place, bandwidth in zip(places, bandwidths, strict=True):
        place /= bandwidth
    return places
