"""Labeling one image: read its files, label it, write the results."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from selflabel.files.digest import digest
from selflabel.files.images import decode_image
from selflabel.files.label_files import UNLABELED, decode_index
from selflabel.files.probabilities import Probabilities, decode_probabilities
from selflabel.labeling.labeler import ImageLabels
from selflabel.labeling.outputs import Labeled, OutputFolder
from selflabel.labeling.plan import Failure, Job
from selflabel.labeling.settings import LabelingSettings
from selflabel.labels import restrict_classes
from selflabel.terms import entropy

T = TypeVar("T")

MOST_UNANNOUNCED = 64
"""Different values in the seeds of an image that are taken for classes where nobody said how many there are."""


@dataclass(frozen=True)
class Record:
    """What the manifest keeps of an image.

    inputs: digest of the bytes of its files. classes: those that could win. energy_before, energy_after: of
    the start and of the labels, a sum over the image; bound: a lower bound, if the solver has one. seeded,
    labeled: shares of the pixels. entropy: mean over pixels in nats. seconds: all of it, reading and writing
    included; the only field that differs between two runs.
    """

    stem: str
    inputs: str
    height: int
    width: int
    classes: tuple[int, ...]
    energy_before: float
    energy_after: float
    bound: float | None
    steps: int
    result: str
    seeded: float
    labeled: float
    entropy: float
    seconds: float


@dataclass(frozen=True)
class LabelImage:
    """The work on one image, as a picklable function of its files: for `pool.run_jobs`."""

    settings: LabelingSettings
    output: OutputFolder

    def __call__(self, job: Job) -> Record | Failure:
        """Label an image and write its files; whatever goes wrong is a `Failure` of this image."""
        try:
            return label_image(job, self.settings, self.output)
        except (ValueError, OSError) as error:
            return Failure(job.stem, str(error) or type(error).__name__)
        except Exception as error:  # a defect of ours, or of a library: must not stop the other images either
            return Failure(job.stem, f"{type(error).__name__}: {error}")


def digest_of(job: Job) -> str:
    """Of the bytes of the image, its seeds and its predictions."""
    return digest(_contents(job))


def label_image(job: Job, settings: LabelingSettings, output: OutputFolder) -> Record:
    """Label one image and write its files.

    Raises `ValueError` for input that does not fit, `OSError` for files that cannot be read or written,
    `SolveError` if the solver fails.
    """
    began = time.perf_counter()
    contents = _contents(job)
    image = _within("image", job.image.name, lambda: decode_image(contents[0], job.image.suffix))
    seeds = _within(
        "seeds", job.seeds.name, lambda: decode_index(contents[1], job.seeds.suffix, settings.seeds_format)
    )
    size = (image.shape[0], image.shape[1])
    _check_seeds(seeds, size, settings.num_classes)
    given = None
    if job.probs is not None:
        suffix = job.probs.suffix
        given = _within(
            "probabilities",
            job.probs.name,
            lambda: decode_probabilities(contents[2], suffix, size, settings.probs_format),
        )
    classes = candidates(seeds, given, settings.all_classes)
    found = _solve(image, seeds, given, classes, settings)
    labels = found.labels.numpy().astype(np.float32)
    index = classes[labels.argmax(axis=0)]
    index[labels.max(axis=0) < settings.min_confidence] = UNLABELED
    index = np.where(seeds == UNLABELED, index, seeds)
    output.write(job.stem, settings, Labeled(image, index, labels, classes))
    return Record(
        stem=job.stem,
        inputs=digest(contents),
        height=size[0],
        width=size[1],
        classes=tuple(classes.tolist()),
        energy_before=found.start_energy,
        energy_after=found.energy,
        bound=found.bound,
        steps=found.steps,
        result=found.result.name.lower(),
        seeded=float((seeds != UNLABELED).mean()),
        labeled=float((index != UNLABELED).mean()),
        entropy=float(entropy(found.labels[None]).mean(dtype=torch.float64)),
        seconds=round(time.perf_counter() - began, 3),
    )


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
            raise ValueError("no pixel of the seeds is labeled, and no probabilities are given")
        return seeded
    predicted = _rows(given)
    lacking = np.setdiff1d(seeded, predicted)
    if lacking.size:
        raise ValueError(f"the seeds have class {lacking[0]}, the probabilities only {_some(predicted)}")
    return np.sort(predicted) if all_classes or seeded.size == 0 else seeded


def _solve(
    image: Float32[np.ndarray, "h w c"],
    seeds: UInt8[np.ndarray, "h w"],
    given: Probabilities | None,
    classes: UInt8[np.ndarray, " k"],
    settings: LabelingSettings,
) -> ImageLabels:
    """Solve for the candidate classes alone, numbered 0 .. k-1."""
    number = np.full(UNLABELED + 1, UNLABELED, dtype=np.int64)
    number[classes] = np.arange(len(classes))
    probs = None
    if given is not None:
        probs = _of_classes(given, classes)
    channels = torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 0)))
    return settings.engine.label(channels, torch.from_numpy(number[seeds]), len(classes), probs)


def _of_classes(given: Probabilities, classes: UInt8[np.ndarray, " k"]) -> Tensor:
    """The probabilities of these classes in their order, normalized again."""
    rows, probs = _rows(given), torch.from_numpy(given.probs)
    if np.array_equal(rows, classes):
        return probs
    allowed = np.isin(rows, classes)
    places = np.flatnonzero(allowed)[np.argsort(rows[allowed], kind="stable")]
    return restrict_classes(probs[None], torch.from_numpy(allowed)[None])[0, torch.from_numpy(places)]


def _rows(given: Probabilities) -> UInt8[np.ndarray, " k"]:
    if given.classes is not None:
        return given.classes.astype(np.uint8)
    return np.arange(given.probs.shape[0]).astype(np.uint8)


def _check_seeds(seeds: UInt8[np.ndarray, "h w"], size: tuple[int, int], num_classes: int | None) -> None:
    if seeds.shape != size:
        hint = ": has one of them been turned (EXIF orientation)?" if seeds.shape == size[::-1] else ""
        raise ValueError(
            f"seeds of {seeds.shape[0]} x {seeds.shape[1]} pixels for an image of {size[0]} x {size[1]} "
            f"(height x width){hint}"
        )
    if num_classes is None:
        values = np.unique(seeds).size
        if values > MOST_UNANNOUNCED:
            raise ValueError(
                f"the seeds have {values} different values: a photograph? If they are classes, say how many there "
                f"are (--num-classes)"
            )
        return
    beyond = seeds[(seeds >= num_classes) & (seeds != UNLABELED)]
    if beyond.size:
        raise ValueError(
            f"the seeds have class {beyond.max()}, but there are {num_classes} classes; "
            f"if the value means unlabeled, say so (--unlabeled {beyond.max()})"
        )


def _within(what: str, name: str, read: Callable[[], T]) -> T:
    """Say which file an error is about."""
    try:
        return read()
    except ValueError as error:
        raise ValueError(f"{what} {name}: {error}") from error
    except (OSError, SyntaxError, EOFError) as error:  # pillow raises SyntaxError for broken PNG chunks
        raise OSError(f"{what} {name} cannot be read: {error}") from error


def _contents(job: Job) -> list[bytes]:
    return [path.read_bytes() for path in (job.image, job.seeds, job.probs) if path is not None]


def _some(classes: UInt8[np.ndarray, " k"]) -> str:
    return f"{classes.min()} to {classes.max()}"
