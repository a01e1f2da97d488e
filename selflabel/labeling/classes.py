"""The classes that can win in an image; its seeds and predictions in their numbers."""

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from selflabel.files import UNLABELED
from selflabel.files.label_files import LabelFormat
from selflabel.files.probabilities import Probabilities
from selflabel.labels import restrict_classes

MOST_UNANNOUNCED = 64
"""Different values in the seeds: more than this, and no number of classes given, are taken for a photograph."""


def check_same_size(seeds: tuple[int, ...], image: tuple[int, ...]) -> None:
    """Raise `ValueError` unless seeds and image have one height and one width."""
    if seeds != image:
        hint = ": has one of them been turned (EXIF orientation)?" if seeds == image[::-1] else ""
        raise ValueError(
            f"seeds of {seeds[0]} x {seeds[1]} pixels for an image of {image[0]} x {image[1]} (height x width){hint}"
        )


def check_seeds(
    seeds: UInt8[np.ndarray, "_ _"], size: tuple[int, int], num_classes: int | None, form: LabelFormat
) -> None:
    """Raise `ValueError` for seeds of another size than the image's, and for classes beyond `num_classes`."""
    check_same_size(seeds.shape, size)
    if num_classes is None:
        values = np.unique(seeds).size
        if values > MOST_UNANNOUNCED:
            raise ValueError(
                f"the seeds have {values} different values: a photograph? If they are classes, say how many there "
                f"are ({form.spelling.name('num_classes')})"
            )
        return
    beyond = seeds[(seeds >= num_classes) & (seeds != UNLABELED)]
    if beyond.size:
        raise ValueError(
            f"the seeds have class {beyond.max()}, but there are {num_classes} classes; "
            f"if the value means unlabeled, say so ({form.spelling.say(('unlabeled', int(beyond.max())))})"
        )


def known_classes(num_classes: int | None, given: Probabilities | None) -> int | None:
    """The number of classes that is asked for, or that a prediction with a list of its classes tells; None: unknown."""
    if num_classes is not None or given is None or given.classes is None:
        return num_classes
    return int(given.classes.max()) + 1


def candidates(
    seeds: UInt8[np.ndarray, "h w"], given: Probabilities | None, all_classes: bool
) -> UInt8[np.ndarray, " k"]:
    """The classes that can win, in order: those with seeds; all of the prediction's if asked for or if there
    are no seeds.

    Raises `ValueError` if there is neither a seed nor a prediction, or a seed of a class without prediction.
    """
    seeded = np.unique(seeds[seeds != UNLABELED])
    if given is None:
        if all_classes:
            raise ValueError("classes without seeds can win only where probabilities are given")
        if seeded.size == 0:
            raise ValueError(
                "no pixel of the seeds is labeled, and no probabilities are given: label some, or give a prediction"
            )
        return seeded
    predicted = _rows(given)
    lacking = np.setdiff1d(seeded, predicted)
    if lacking.size:
        raise ValueError(
            f"the seeds have class {lacking[0]}, the probabilities only {_listed(np.sort(predicted))}"
        )
    return np.sort(predicted) if all_classes or seeded.size == 0 else seeded


def numbered(seeds: UInt8[np.ndarray, "h w"], classes: UInt8[np.ndarray, " k"]) -> Int64[np.ndarray, "h w"]:
    """Seeds of the classes as the solver numbers them, 0 .. k-1; the others unlabeled."""
    number = np.full(UNLABELED + 1, UNLABELED, dtype=np.int64)
    number[classes] = np.arange(len(classes))
    found: Int64[np.ndarray, "h w"] = number[seeds]
    return found


def probabilities_of(given: Probabilities, classes: UInt8[np.ndarray, " k"]) -> Float[Tensor, "k h w"]:
    """The probabilities of these classes in their order, normalized again."""
    rows, probs = _rows(given), torch.from_numpy(given.probs)
    if np.array_equal(rows, classes):
        return probs
    allowed = np.isin(rows, classes)
    places = np.flatnonzero(allowed)[np.argsort(rows[allowed], kind="stable")]
    return restrict_classes(probs[None], torch.from_numpy(allowed)[None])[0, torch.from_numpy(places)]


def _listed(classes: UInt8[np.ndarray, " k"]) -> str:
    """Classes in order, as "0 to 4" or "0, 2, 7"."""
    first, last = int(classes[0]), int(classes[-1])
    return f"{first} to {last}" if last - first == len(classes) - 1 else ", ".join(map(str, classes))


def _rows(given: Probabilities) -> UInt8[np.ndarray, " rows"]:
    """The class of each row."""
    if given.classes is not None:
        return given.classes.astype(np.uint8)
    return np.arange(given.probs.shape[0]).astype(np.uint8)
