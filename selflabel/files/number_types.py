"""Numbers of any type as probabilities: sums are checked as well as the type allows, and become one."""

from typing import Final

import numpy as np
from jaxtyping import Float, Float32, Float64, Num, Shaped, UInt8

FLOAT_SLACK: Final = 2**-6
"""Error of a sum of floats: four roundings of bfloat16, as a softmax in it has. Files hold them as float32, too."""

NOISE: Final = 1e-6
"""Rounding of a sum of float32."""

FULL: Final = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}
"""The value that stands for a probability of one."""

_EXPECTED = "expected probabilities as floats, bool, uint8 (0..255) or uint16 (0..65535)"


class NotProbabilities(ValueError):
    """Numbers that look like logits."""


def normalized(array: Shaped[np.ndarray, "k h w"]) -> Float32[np.ndarray, "k h w"]:
    """Probabilities of any type, checked, then divided by their sum at each pixel.

    * Floats: sums of 1 ± 1/64.
    * uint8 and uint16: 255 and 65535 stand for one. A value may be rounded or cut, as by ``(p * 255).astype(uint8)``:
      sums of full - k to full + k / 2.
    * bool, and integers of one 1 and zeros a pixel: one-hot.

    Raises `ValueError` for other types, nan, infinity, values outside [0, 1] (logits), and other sums, with what to do
    about it.
    """
    if array.dtype.kind in "biu":
        return _of_integers(array)
    if array.dtype.kind != "f":
        hint = ": bfloat16? save it as float32" if array.dtype == np.dtype("V2") else ""
        raise ValueError(f"{_EXPECTED}, got {array.dtype}{hint}")
    values = array.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError(
            f"{int((~np.isfinite(values)).sum())} of {values.size} probabilities are nan or infinite: replace them, or "
            f"predict again"
        )
    if low < -FLOAT_SLACK or high > 1 + FLOAT_SLACK:
        message = f"probabilities must lie in [0, 1], got {low:g} to {high:g}"
        cause = _outside(values)
        if cause is None:
            raise NotProbabilities(f"{message}: logits need a softmax first")
        raise ValueError(f"{message}: {cause}")
    values = values.clip(0, 1, out=values)
    return _divided(values, values.sum(axis=0, dtype=np.float64), FLOAT_SLACK, FLOAT_SLACK)


def softmax(array: Num[np.ndarray, "k h w"]) -> Float32[np.ndarray, "k h w"]:
    """exp(logits), divided by their sum at each pixel; logarithms of probabilities become these.

    Raises `ValueError` for numbers that are no floats, for nan and plus infinity, and where all are minus infinity.
    """
    if array.dtype.kind != "f":
        raise ValueError(f"expected logits as floats, got {array.dtype}")
    highest = array.max(axis=0, keepdims=True)
    wrong = np.count_nonzero(~np.isfinite(highest))
    if wrong:
        raise ValueError(
            f"at {wrong} of {highest.size} pixels the logits are nan, or the highest of them infinite"
        )
    values: Float32[np.ndarray, "k h w"] = np.exp((array - highest).astype(np.float32))
    values /= values.sum(axis=0, dtype=np.float64).astype(np.float32)
    return values


def quantized(probs: Float[np.ndarray, "*axes"]) -> UInt8[np.ndarray, "*axes"]:
    """Probabilities as 0..255, rounded."""
    bytes_: UInt8[np.ndarray, "*axes"] = np.rint(probs.clip(0, 1) * 255).astype(np.uint8)
    return bytes_


def _of_integers(array: Shaped[np.ndarray, "k h w"]) -> Float32[np.ndarray, "k h w"]:
    total = array.sum(axis=0, dtype=np.int64)
    if array.dtype == np.bool_ or (array.min() >= 0 and array.max() <= 1 and (total == 1).all()):
        if (total != 1).any():
            raise ValueError(
                f"expected one true value at each pixel, got {int(total.min())} to {int(total.max())}: masks that "
                f"overlap or leave pixels out are no probabilities; give one class to each pixel"
            )
        return array.astype(np.float32)
    full = FULL.get(array.dtype.newbyteorder("="))
    if full is None:
        raise ValueError(f"{_EXPECTED}, got {array.dtype} of {array.min()} to {array.max()}")
    values = array.astype(np.float32) / np.float32(full)
    step = len(array) / full
    return _divided(values, values.sum(axis=0, dtype=np.float64), step, step / 2 + NOISE, full)


def _divided(
    values: Float32[np.ndarray, "k h w"],
    total: Float64[np.ndarray, "h w"],
    below: float,
    above: float,
    full: int = 1,
) -> Float32[np.ndarray, "k h w"]:
    """The values divided by their sums, which must lie between 1 - below and 1 + above, and not be zero."""
    off = (total < 1 - below) | (total > 1 + above) | (total <= 0)
    if off.any():
        worst = float(total.flat[np.abs(np.where(off, total - 1, 0)).argmax()])
        raise ValueError(
            f"probabilities must sum to 1 at each pixel, got a sum of {worst:g} (wrong at {np.count_nonzero(off)} of "
            f"{total.size} pixels): {_remedy(total, full, off)}"
        )
    values *= (1 / total).astype(np.float32)
    return values


def _remedy(total: Float64[np.ndarray, "h w"], full: int, off: Shaped[np.ndarray, "h w"]) -> str:
    """What may be behind sums that are not one; `full` stands for one in the file."""
    low, high = float(total.min()), float(total.max())
    if not total[off].any():
        return "pixels of no class, such as a border? give them a class, or equal probabilities of all"
    if high - low <= 0.02 * high and full == 1:
        return f"they are about {high:g} everywhere: divide by it"
    if high - low <= 0.02 * high:
        return f"they are about {high * full:.0f} of {full} everywhere: save floats of 0 to 1"
    return (
        "independent classes (sigmoid)? divide by the sum, or take a softmax; one foreground p: "
        "np.stack([1 - p, p])"
    )


def _outside(values: Float32[np.ndarray, "k h w"]) -> str | None:
    """What may be behind values outside [0, 1]; None: logits."""
    total = values.sum(axis=0, dtype=np.float64)
    if np.abs(total - 1).max() <= FLOAT_SLACK:
        return "resized by a cubic filter? resize linearly, or clip them and divide by the sum"
    if values.min() >= 0 and total.max() - total.min() <= 0.02 * total.max():
        return f"they sum to about {total.max():g}: divide by it"
    return None
