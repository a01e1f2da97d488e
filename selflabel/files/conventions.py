"""Labels that contradict the convention they are read by: another one is meant, and none is guessed."""

from typing import Final

import numpy as np
from jaxtyping import Int64, UInt8

from selflabel.files import UNLABELED
from selflabel.files.label_files import LabelFormat

LARGEST_SCRIBBLES: Final = 0.1
"""Share of the pixels: scribbles of the background alone cover less of an image than the background of a mask does.

Of the scribbles of ACDC (hand-drawn) with class 0 alone, 1.5 % is the most."""
MANY: Final = 64
"""Class numbers below it are never far from contiguous."""


def check_seeds_meaning(index: UInt8[np.ndarray, "h w"], form: LabelFormat, num_classes: int | None) -> None:
    """Raise `ValueError` for the seeds of an image that look as if read by the wrong convention.

    * Every pixel has a seed: the value of pixels without a label was not named. Not where `form.unlabeled` is -1, or
      the values of the classes are named.
    * `check_no_mask` and `check_contiguous`.
    """
    counts = np.bincount(index.ravel(), minlength=UNLABELED + 1)
    if counts[UNLABELED] == 0 and form.unlabeled != -1 and not form.explicit:
        raise ValueError(_all_seeded(counts, form))
    check_no_mask(counts, form, num_classes)
    check_contiguous(counts, form, num_classes, "seeds")


def check_no_mask(counts: Int64[np.ndarray, " n"], form: LabelFormat, num_classes: int | None) -> None:
    """Raise `ValueError` for seeds of 0 and 255 alone, with 0 on more than `LARGEST_SCRIBBLES` of the pixels: a mask.

    counts: pixels of each index. Only where there may be two classes, and 255 is unlabeled by default.
    """
    share, say = counts[0] / counts.sum(), form.spelling.say
    if is_binary(counts) and may_be_binary(form, num_classes) and share > LARGEST_SCRIBBLES:
        raise ValueError(
            f"the seeds have 0 on {100 * share:.0f} % of the pixels, 255 on the others: if class 1 is at 255, say so "
            f"({say(('values', (0, 255)))}); if 0 is unlabeled, say that "
            f"({say(('values', (255,)), ('unlabeled', 0))}); if 255 is unlabeled, that ({say(('values', (0, 1)))})"
        )


def check_truth(
    counts: Int64[np.ndarray, " n"], form: LabelFormat, num_classes: int | None, what: str
) -> None:
    """Raise `ValueError` for true labels of 0 and 255 alone, where there may be two classes: 255 is one of them.

    counts: pixels of each index. what: "mask", "true files", ...
    """
    say = form.spelling.say
    if is_binary(counts) and may_be_binary(form, num_classes):
        raise ValueError(
            f"expected classes in the {what}, got 0 and 255 alone: if class 1 is at 255, say so "
            f"({say(('values', (0, 255)))}); if 255 does not count, say that ({say(('values', (0, 1)))})"
        )


def check_contiguous(
    counts: Int64[np.ndarray, " n"], form: LabelFormat, num_classes: int | None, what: str
) -> None:
    """Raise `ValueError` for classes far from contiguous: the largest is >= `MANY`, and less than half up to it occur.

    So are labels after JPEG or smooth resizing, and classes that are stored as gray levels. Where the number of
    classes or their values are given, all is well. counts: pixels of each index.
    """
    present = np.flatnonzero(counts[:UNLABELED])
    if num_classes is not None or form.explicit or present.size == 0:
        return
    largest = int(present[-1])
    if largest >= MANY and 2 * present.size < largest + 1:
        first = (*present[:3].tolist(), *((...,) if present.size > 3 else ()))
        shown = ", ".join(map(str, present[:6].tolist())) + (", ..." if present.size > 6 else "")
        raise ValueError(
            f"the {what} have {present.size} classes up to {largest} ({shown}): if they were saved as JPEG or resized "
            f"smoothly, take the originals; if these are the values of classes 0, 1, ..., say so "
            f"({form.spelling.say(('values', first))}); if they are classes, say how many there are "
            f"({form.spelling.name('num_classes')})"
        )


def is_binary(counts: Int64[np.ndarray, " n"]) -> bool:
    """True if 0 and 255 occur, and no other index. counts: pixels of each index."""
    return bool(counts[0] and counts[UNLABELED] and not counts[1:UNLABELED].any())


def may_be_binary(form: LabelFormat, num_classes: int | None) -> bool:
    """True where 255 means unlabeled by default only, and there may be two classes."""
    return not form.explicit and form.unlabeled == UNLABELED and form.offset == 0 and num_classes in (None, 2)


def _all_seeded(counts: Int64[np.ndarray, " n"], form: LabelFormat) -> str:
    """What to say where every pixel has a seed."""
    most = int(counts.argmax())
    value, share = most + form.offset, 100 * counts[most] / counts.sum()
    said = form.spelling
    meant = [("unlabeled", value), ("offset", 1)] if value == 0 else [("unlabeled", value)]
    return (
        f"every pixel has a seed, and nothing is left to label: if value {value}, which is on {share:.0f} % of the "
        f"pixels, means unlabeled, say so ({said.say(*meant)}); if all are labels, say that "
        f"({said.say(('unlabeled', -1))}), or which values the classes have ({said.name('values')})"
    )
