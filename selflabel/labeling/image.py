"""One image in files: read them, label it, write the results."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, UInt8

from selflabel.annotators.grab_cut import Box, box_seeds
from selflabel.files import UNLABELED
from selflabel.files.box_files import decode_boxes
from selflabel.files.conventions import check_seeds_meaning
from selflabel.files.digest import digest
from selflabel.files.images import decode_image, stored_size
from selflabel.files.label_files import decode_index
from selflabel.files.opening import about, read_file
from selflabel.files.probabilities import Probabilities, decode_probabilities
from selflabel.labeling.boxes import empty_boxes, in_pixels
from selflabel.labeling.classes import check_same_size, check_seeds, known_classes
from selflabel.labeling.lines import CPU, Record
from selflabel.labeling.one import FileLabels, entropy_of, file_labels, solution_of, solved_of, task_of
from selflabel.labeling.outputs import OutputFolder
from selflabel.labeling.plan import Failure, Job
from selflabel.labeling.settings import LabelingSettings

T = TypeVar("T")


@dataclass(frozen=True)
class LabelImage:
    """The work on one image, as a picklable function of its job: for `processes.run_jobs`."""

    settings: LabelingSettings
    output: OutputFolder

    def __call__(self, job: Job) -> Record | Failure:
        """Label an image and write its files; whatever goes wrong is a `Failure` of this image."""
        return attempt(job.stem, lambda: label_image(job, self.settings, self.output))


def attempt(stem: str, work: Callable[[], T]) -> T | Failure:
    """The result of the work on an image; whatever it raises is a `Failure` of this image."""
    try:
        return work()
    except (ValueError, OSError) as error:
        return Failure(stem, str(error) or type(error).__name__)
    except Exception as error:  # a defect here or in a library: the other images go on
        return Failure(stem, f"{type(error).__name__}: {error}")


@dataclass(frozen=True, eq=False)
class Inputs:
    """What an image's files hold. digest: of their bytes. boxes: None unless they are what is known."""

    digest: str
    image: Float32[np.ndarray, "h w c"]
    seeds: UInt8[np.ndarray, "h w"]
    given: Probabilities | None
    boxes: tuple[Box, ...] | None = None


def digest_of(job: Job) -> str:
    """The digest of the bytes of an image, its seeds and its predictions, or its boxes."""
    return digest(_contents(job))


def label_image(job: Job, settings: LabelingSettings, output: OutputFolder) -> Record:
    """Label one image and write its files.

    Raises `ValueError` for input that does not fit, `OSError` for files that cannot be read or written,
    `SolveError` if the solver fails.
    """
    began = time.perf_counter()
    found = read_inputs(job, settings)
    task = task_of(found.image, found.seeds, found.given, settings, found.boxes)
    solution = solution_of(task, settings)
    solved = solved_of(solution, 0, with_labels=settings.soft is not None)
    labels = file_labels(task, solved, entropy_of(solution, 0), settings)
    return write_outputs(job.stem, found, labels, output, began)


def read_inputs(job: Job, settings: LabelingSettings) -> Inputs:
    """The files of an image. Raises `ValueError` and `OSError` as `label_image` does."""
    contents = _contents(job)
    if job.boxes is not None:
        return _boxed(job, contents, settings.num_classes)
    image, seeds, given = _decoded(job, contents, settings)
    return Inputs(digest(contents), image, seeds, given)


def _boxed(job: Job, contents: list[bytes], num_classes: int | None) -> Inputs:
    """An image and its boxes, outside of which is background."""
    assert job.boxes is not None
    with about(job.image, "image"):
        image = decode_image(contents[0], job.image.suffix)
    size = (image.shape[0], image.shape[1])
    with about(job.boxes, "boxes"):
        boxes = in_pixels(decode_boxes(contents[1]), size, num_classes)
        seeds = box_seeds(boxes, size)
    return Inputs(digest(contents), image, seeds.numpy().astype(np.uint8), None, boxes)


def write_outputs(
    stem: str,
    inputs: Inputs,
    labels: FileLabels,
    output: OutputFolder,
    began: float,
    device: str = CPU,
) -> Record:
    """Write the files of an image; its record. began: when it was begun, by `time.perf_counter`."""
    outputs, solved = output.write(stem, inputs.image, labels), labels.solved
    return Record(
        stem=stem,
        inputs=inputs.digest,
        outputs=outputs,
        height=inputs.image.shape[0],
        width=inputs.image.shape[1],
        classes=tuple(labels.classes.tolist()),
        energy_before=solved.start_energy,
        energy_after=solved.energy,
        bound=solved.bound,
        steps=solved.steps,
        result=solved.result.name.lower(),
        seeded=float((inputs.seeds != UNLABELED).mean()),
        labeled=float((labels.index != UNLABELED).mean()),
        changed=None if labels.changes is None else labels.changes.changed,
        changed_far=None if labels.changes is None else labels.changes.far,
        empty_boxes=None if inputs.boxes is None else empty_boxes(inputs.boxes, labels.index),
        entropy=labels.entropy,
        brightest=round(float(inputs.image.max()), 6),
        device=device,
        seconds=round(time.perf_counter() - began, 3),
    )


def _contents(job: Job) -> list[bytes]:
    paths = (job.image, job.seeds, job.probs, job.boxes)
    return [read_file(path) for path in paths if path is not None]


def _by_kind(job: Job, contents: list[bytes]) -> tuple[bytes, bytes | None, bytes | None]:
    """The bytes of image, seeds and predictions; None for what the job has none of."""
    left = iter(contents)
    image = next(left)
    return image, None if job.seeds is None else next(left), None if job.probs is None else next(left)


def _decoded(
    job: Job, contents: list[bytes], settings: LabelingSettings
) -> tuple[Float32[np.ndarray, "h w c"], UInt8[np.ndarray, "h w"], Probabilities | None]:
    """Image, seeds (none: all unlabeled) and prediction."""
    pixels, scribbles, prediction = _by_kind(job, contents)
    if job.seeds is not None and scribbles is not None:
        _compare_headers(job.image, pixels, job.seeds, scribbles)
    with about(job.image, "image"):
        image = decode_image(pixels, job.image.suffix)
    size = (image.shape[0], image.shape[1])
    seeds, given = np.full(size, UNLABELED, dtype=np.uint8), None
    if job.seeds is not None and scribbles is not None:
        with about(job.seeds, "seeds"):
            seeds = decode_index(scribbles, job.seeds.suffix, settings.seeds_format)
        check_seeds(seeds, size, settings.num_classes, settings.seeds_format)
    if job.probs is not None and prediction is not None:
        with about(job.probs, "probabilities"):
            given = decode_probabilities(prediction, job.probs.suffix, size, settings.probs_format)
    if job.seeds is not None:
        check_seeds_meaning(seeds, settings.seeds_format, known_classes(settings.num_classes, given))
    return image, seeds, given


def _compare_headers(image_path: Path, image: bytes, seeds_path: Path, seeds: bytes) -> None:
    """Raise `ValueError` for sizes that differ however the files are turned, before any pixel is read."""
    with about(image_path, "image"):
        size = stored_size(image)
    with about(seeds_path, "seeds"):
        other = stored_size(seeds)
    if sorted(size) != sorted(other):
        check_same_size(other, size)
