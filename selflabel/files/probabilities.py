"""Probability files in, soft-label files out: npy, npz and TIFF."""

import io
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float, Float32, Integer, Num, Shaped

from selflabel.files import UNLABELED
from selflabel.files.arrays import ARRAY_SUFFIXES, StoredArray, holds_tiff, stored_arrays
from selflabel.files.atomic import write_atomic
from selflabel.files.number_types import NotProbabilities, normalized, softmax
from selflabel.files.opening import about, read_file
from selflabel.files.spelling import PYTHON, Spelling
from selflabel.kinds import check_fields

PROBABILITY_SUFFIXES: Final = ARRAY_SUFFIXES
CLASSES: Final = "classes"
"""Name of the array that says the class of each row."""
LOGITS: Final = "logits"
"""Name of an array that holds logits."""


@dataclass(frozen=True)
class ProbabilityFormat:
    """How an array of probabilities is laid out.

    channels_last: [h w k] instead of [k h w]; None: as the image's size says.
    key: the array's name in an npz file; "" takes the only one beside `classes`.
    logits: take a softmax first; None: of an array that is named logits.
    spelling: how errors name these arguments.
    """

    channels_last: bool | None = None
    key: str = ""
    logits: bool | None = None
    spelling: Spelling = field(default=PYTHON, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_fields(self)


PLAIN_FORMAT: Final = ProbabilityFormat()


@dataclass(frozen=True)
class Probabilities:
    """probs: [k h w], each pixel sums to one. classes: the class of each row, or None for 0 .. k-1.

    Raises `ValueError` for more than 255 classes, for another number of classes than rows, for a class twice, and for
    classes outside 0 .. 254: 255 means unlabeled.
    """

    probs: Float[np.ndarray, "k h w"]
    classes: Integer[np.ndarray, " _"] | None = None

    def __post_init__(self) -> None:
        _check_count(len(self.probs))
        if self.classes is not None:
            class_list(self.classes, len(self.probs))


def read_probabilities(
    path: Path, size: tuple[int, int], form: ProbabilityFormat = PLAIN_FORMAT
) -> Probabilities:
    """The probabilities in a file for an image of `size` (h, w).

    Raises `FileError` where `decode_probabilities` raises.
    """
    data = read_file(path)
    with about(path):
        return decode_probabilities(data, path.suffix, size, form)


def decode_probabilities(
    data: bytes, suffix: str, size: tuple[int, int], form: ProbabilityFormat = PLAIN_FORMAT
) -> Probabilities:
    """The probabilities in the bytes of an npy, npz or TIFF file: float32, with sums of one up to rounding.

    The axis of classes is the first or the last one, as fits the image; axes of length one beside (a batch of one, the
    depth of nnU-Net's slices) do not matter. Types are those of `normalized`. An array `classes` in an npz file names
    the rows, whatever the name of the other array is. Shapes are checked before values are read.

    Raises `ValueError` for another size (and says so if only the layout differs), nan, values outside [0, 1]
    (logits), sums off one by more than the rounding of the file's type allows, more than 255 classes, wrong lists of
    classes, and unknown or ambiguous npz keys; `OSError` for damaged files.
    """
    arrays = stored_arrays(data, suffix)
    if holds_tiff(data, suffix):
        form = replace(form, channels_last=False)  # bands are no axis of the file
    listed = arrays.pop(CLASSES) if len(arrays) > 1 and CLASSES in arrays and form.key != CLASSES else None
    name = _key(arrays, form)
    stored = arrays[name]
    axes = _class_axes(stored.shape, size, form, stored.dtype)
    _check_count(stored.shape[axes[0]])
    classes = None if listed is None else _read_classes(listed, stored.shape[axes[0]])
    array = stored.read()
    if form.logits is None and name.lower() == LOGITS:
        _check_logits(array, axes[0], form)
        form = replace(form, logits=True)
    return as_probabilities(array, size, form, classes)


def as_probabilities(
    array: Num[np.ndarray, "..."] | Shaped[np.ndarray, "..."],
    size: tuple[int, int],
    form: ProbabilityFormat = PLAIN_FORMAT,
    classes: Shaped[np.ndarray, " _"] | None = None,
) -> Probabilities:
    """An array for an image of `size` (h, w) as probabilities; `classes` names its rows.

    Raises `ValueError` as `decode_probabilities` does.
    """
    axes = _class_axes(array.shape, size, form, array.dtype)
    rows = [np.moveaxis(array, axis, 0).reshape(-1, *size) for axis in axes]
    _check_count(len(rows[0]))
    found = class_list(classes, len(rows[0])) if classes is not None else None
    if len(rows) == 1:
        return Probabilities(softmax(rows[0]) if form.logits else _normalized(rows[0], form), found)
    fits = [] if form.logits else [each for each in rows if _sums_to_one(each)]
    if len(fits) != 1:
        raise ValueError(
            f"expected the axes of probabilities, of which shape {array.shape} does not tell [k h w] from [h w k]: say "
            f"which it is ({form.spelling.name('channels_last')})"
        )
    return Probabilities(normalized(fits[0]), found)


def class_list(classes: Shaped[np.ndarray, "..."], rows: int) -> Integer[np.ndarray, " k"]:
    """The class of each row, checked; whole numbers as floats count.

    Raises `ValueError` for other types, nan, fractions, another number of classes than rows, a class twice, and
    classes outside 0 .. 254.
    """
    if classes.dtype.kind not in "iuf":
        raise ValueError(
            f"expected the class of each row as a whole number, got {classes.dtype}: save numbers, or no list"
        )
    if classes.shape != (rows,):
        raise ValueError(f"{classes.size} classes for {rows} rows of probabilities: expected one a row")
    wrong = classes[~((classes >= 0) & (classes < UNLABELED) & (np.floor(classes) == classes))]
    if wrong.size:
        raise ValueError(f"expected classes in 0..{UNLABELED - 1}, got {wrong[0]}")
    value, times = Counter(classes.tolist()).most_common(1)[0] if rows else (0, 0)
    if times > 1:
        raise ValueError(f"expected each class once in the list of classes, got {value:g} {times} times")
    return classes.astype(np.int64)


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


def _check_count(count: int) -> None:
    if count > UNLABELED:
        raise ValueError(f"expected at most {UNLABELED} classes, got {count}: {UNLABELED} means unlabeled")


def _normalized(array: Shaped[np.ndarray, "k h w"], form: ProbabilityFormat) -> Float32[np.ndarray, "k h w"]:
    """`normalized`. Raises its errors with the argument that says that logits are meant."""
    try:
        return normalized(array)
    except NotProbabilities as error:
        said = form.spelling.say(("logits", True))
        raise ValueError(f"{error}, or {said}" if said else str(error)) from error


def _key(arrays: dict[str, StoredArray], form: ProbabilityFormat) -> str:
    """The name of the array that is meant."""
    key = form.key
    numbers = [name for name, stored in arrays.items() if not stored.dtype.hasobject]
    names = ", ".join(sorted(numbers)) or "none"
    if "" in arrays:  # a file of one array
        key = ""
    elif not arrays:
        raise ValueError("expected an array of probabilities, got a file without arrays")
    elif key and key not in arrays:
        raise ValueError(f"the file has no array {key}, only {names}")
    elif not key and len(numbers) != 1:
        raise ValueError(f"the file has the arrays {names}: say which one ({form.spelling.name('key')})")
    else:
        key = key or numbers[0]
    if arrays[key].dtype.hasobject:
        raise ValueError(
            f"the array {key or 'of the file'} holds Python objects, which are pickles and are not opened "
            f"(allow_pickle): save numbers"
        )
    return key


def _read_classes(listed: StoredArray, rows: int) -> Integer[np.ndarray, " k"]:
    if listed.shape != (rows,):  # before it is read
        count = listed.shape[0] if len(listed.shape) == 1 else f"a list of shape {listed.shape} for the"
        raise ValueError(f"{count} classes for {rows} rows of probabilities: expected one a row")
    return class_list(listed.read(), rows)


def _class_axes(
    shape: tuple[int, ...], size: tuple[int, int], form: ProbabilityFormat, dtype: np.dtype
) -> tuple[int, ...]:
    """The axis of classes, or two axes where the size leaves two: all others are the image's, or of length one.

    It comes after the image's axes (`form.channels_last`), before them (False), or either (None).
    """
    last = form.channels_last
    wanted = [n for n in size if n > 1]
    found: dict[bool, int] = {}
    for axis in range(len(shape)) if len(shape) > 2 else ():
        before, after = ([n for n in part if n > 1] for part in (shape[:axis], shape[axis + 1 :]))
        if before + after != wanted or 0 in shape:
            continue
        for at_end, behind in ((False, before), (True, after)):
            if not behind:
                found.setdefault(at_end, axis)
    axes = sorted({axis for at_end, axis in found.items() if last in (None, at_end)})
    if not axes:
        raise ValueError(_misfit(shape, size, form, dtype, other=bool(found)))
    return tuple(axes[:1] if shape[axes[0]] == 1 else axes)  # of one class, all axes of length one agree


def _misfit(
    shape: tuple[int, ...], size: tuple[int, int], form: ProbabilityFormat, dtype: np.dtype, *, other: bool
) -> str:
    """Why a shape is not that of probabilities of an image."""
    last = form.channels_last
    layouts = {None: ("[k h w]", ", or [h w k]"), False: ("[k h w]", ""), True: ("[h w k]", "")}
    layout, also = layouts[last]
    text = f"expected probabilities {layout} for {size[0]} x {size[1]} pixels (height x width){also}, got {shape}"
    long = [n for n in shape if n != 1]
    if other:
        name, option = "[k h w]" if last else "[h w k]", form.spelling.say(("channels_last", not last))
        return f"{text}: this looks like {name}, which has to be asked for ({option})"
    if len(shape) < 3 and shape == size:
        hint = (
            "class indices? give them as seeds"
            if dtype.kind in "iu"
            else "of one class? np.stack([1 - p, p])"
        )
        return f"{text}: expected three axes, one of them the classes; {hint}"
    if len(shape) < 3:
        return f"{text}: expected three axes"
    if len(long) > 3:
        return f"{text}: several images or a volume? save a file of three axes for each image"
    if sorted(size) in (sorted(long[1:]), sorted(long[:-1])) and size[0] != size[1]:
        return f"{text}: height and width are exchanged"
    return f"{text}: predict or resize to the size of the image"


def _sums_to_one(rows: Shaped[np.ndarray, "k h w"]) -> bool:
    try:
        normalized(rows)
    except ValueError:
        return False
    return True


def _check_logits(array: Shaped[np.ndarray, "..."], axis: int, form: ProbabilityFormat) -> None:
    """Raise `ValueError` if an array named logits holds probabilities."""
    rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1, 1)
    if _sums_to_one(rows):
        raise ValueError(
            f"the array is named {LOGITS}, but holds probabilities: say which they are "
            f"({form.spelling.name('logits')})"
        )
