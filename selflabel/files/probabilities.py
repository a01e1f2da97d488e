"""Probability files in, soft-label files out: npy and npz."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float, Integer, Num, Shaped, UInt8

from selflabel.files import UNLABELED
from selflabel.files.atomic import write_atomic
from selflabel.files.opening import about, read_file

PROBABILITY_SUFFIXES = (".npz", ".npy")


@dataclass(frozen=True)
class ProbabilityFormat:
    """How an array of probabilities is laid out; nothing is guessed from the file.

    channels_last: [h w k] instead of [k h w].
    key: the array's name in an npz file; "" takes the only one, or the soft labels that selflabel wrote.
    """

    channels_last: bool = False
    key: str = ""


PLAIN_FORMAT: Final = ProbabilityFormat()


@dataclass(frozen=True)
class Probabilities:
    """probs: [k h w], each pixel sums to one. classes: the class of each row, or None for 0 .. k-1.

    Raises `ValueError` for more than 255 classes, and for classes outside 0 .. 254: 255 means unlabeled.
    """

    probs: Float[np.ndarray, "k h w"]
    classes: Integer[np.ndarray, " k"] | None = None

    def __post_init__(self) -> None:
        _check_classes(len(self.probs), self.classes)


def read_probabilities(
    path: Path, size: tuple[int, int], form: ProbabilityFormat = PLAIN_FORMAT
) -> Probabilities:
    """The probabilities in an npy or npz file for an image of `size` (h, w).

    Raises `FileError`, for all that `decode_probabilities` refuses, too.
    """
    data = read_file(path)
    with about(path):
        return decode_probabilities(data, path.suffix, size, form)


def decode_probabilities(
    data: bytes, suffix: str, size: tuple[int, int], form: ProbabilityFormat = PLAIN_FORMAT
) -> Probabilities:
    """The probabilities in the bytes of an npy or npz file: float32, with sums of one up to rounding.

    uint8 means 0..255 for 0..1. Of the npz files that `selflabel label --soft` writes, `classes` names the rows.

    Raises `ValueError` for another size (and says so if only the layout differs), nan, values outside [0, 1]
    (logits), sums off one by more than the rounding of the file's type allows, more than 255 classes or
    classes outside 0 .. 254, and unknown or ambiguous npz keys; `OSError` for damaged files.
    """
    array, classes = _load(data, suffix, form)
    return as_probabilities(array, size, form, classes)


def as_probabilities(
    array: Num[np.ndarray, "..."],
    size: tuple[int, int],
    form: ProbabilityFormat = PLAIN_FORMAT,
    classes: Integer[np.ndarray, " k"] | None = None,
) -> Probabilities:
    """An array for an image of `size` (h, w) as probabilities; `classes` names its rows.

    Raises `ValueError` as `decode_probabilities` does.
    """
    if array.ndim != 3:
        raise ValueError(f"expected probabilities of three axes, got shape {array.shape}")
    array = np.moveaxis(array, -1, 0) if form.channels_last else array
    if array.shape[1:] != size:
        other = array.shape[1:] if form.channels_last else array.shape[:2]
        given = "[h w k]" if form.channels_last else "[k h w]"
        hint = ""
        if not form.channels_last and other == size:
            hint = ": this looks like [h w k], which has to be asked for (--probs-layout hwk)"
        raise ValueError(
            f"expected probabilities {given} for {size[0]} x {size[1]} pixels, got {array.shape}{hint}"
        )
    if classes is not None and classes.shape != array.shape[:1]:
        raise ValueError(f"{classes.size} classes for {array.shape[0]} rows of probabilities")
    _check_classes(len(array), classes)
    return Probabilities(normalized(array), classes)


def normalized(array: Num[np.ndarray, "k h w"]) -> Float[np.ndarray, "k h w"]:
    """Probabilities checked, then divided by their sum: float32 [k h w].

    Raises `ValueError` as `decode_probabilities` does.
    """
    classes = array.shape[0]
    if array.dtype == np.uint8:
        values, tolerance = array.astype(np.float32) / np.float32(255), (classes + 1) * 0.5 / 255
    elif np.issubdtype(array.dtype, np.floating):
        values = array.astype(np.float32)
        tolerance = 1e-2 if array.dtype == np.float16 else 1e-3
    else:
        raise ValueError(f"expected probabilities as floats or uint8, got {array.dtype}")
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError(
            f"{int((~np.isfinite(values)).sum())} of {values.size} probabilities are nan or infinite"
        )
    if low < -tolerance or high > 1 + tolerance:
        raise ValueError(
            f"probabilities must lie in [0, 1], got {low:g} to {high:g}: logits need a softmax first"
        )
    values = values.clip(0, 1, out=values)
    total = values.sum(axis=0, dtype=np.float64)
    worst = float(total.flat[np.abs(total - 1).argmax()])
    if abs(worst - 1) > tolerance:
        raise ValueError(f"probabilities must sum to 1 at each pixel, got a sum of {worst:g}")
    values *= (1 / total).astype(np.float32)
    return values


def quantized(probs: Float[np.ndarray, "*axes"]) -> UInt8[np.ndarray, "*axes"]:
    """Probabilities as 0..255, rounded."""
    bytes_: UInt8[np.ndarray, "*axes"] = np.rint(probs.clip(0, 1) * 255).astype(np.uint8)
    return bytes_


def write_soft(path: Path, labels: Shaped[np.ndarray, "k h w"], classes: Integer[np.ndarray, " k"]) -> None:
    """Write soft labels as compressed npz: `labels` [k h w] as given, `classes` [k] with the class of each row."""
    data = encoded_soft(labels, classes)
    write_atomic(path, lambda file: file.write(data))


def encoded_soft(labels: Shaped[np.ndarray, "k h w"], classes: Integer[np.ndarray, " k"]) -> bytes:
    """The bytes that `write_soft` writes.

    The same arrays give the same bytes: numpy dates every member 1980-01-01.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, labels=labels, classes=classes)
    return buffer.getvalue()


def _check_classes(count: int, classes: Integer[np.ndarray, " k"] | None) -> None:
    if count > UNLABELED:
        raise ValueError(f"expected at most {UNLABELED} classes, got {count}: {UNLABELED} means unlabeled")
    if classes is None:
        return
    wrong = classes[(classes < 0) | (classes >= UNLABELED)]
    if wrong.size:
        raise ValueError(f"expected classes in 0..{UNLABELED - 1}, got {wrong[0]}")


def _load(
    data: bytes, suffix: str, form: ProbabilityFormat
) -> tuple[Num[np.ndarray, "..."], Integer[np.ndarray, " k"] | None]:
    try:
        if suffix.lower() != ".npz":
            return np.load(io.BytesIO(data), allow_pickle=False), None
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            names = sorted(file.files)
            if not form.key and names == ["classes", "labels"]:
                return file["labels"], file["classes"]
            if not form.key and len(names) != 1:
                raise ValueError(f"the file has the arrays {', '.join(names)}: say which one (--probs-key)")
            key = form.key or names[0]
            if key not in names:
                raise ValueError(f"the file has no array {key}, only {', '.join(names)}")
            return file[key], None
    except (EOFError, zipfile.BadZipFile) as error:
        raise OSError(f"damaged npy or npz file: {error}") from error
