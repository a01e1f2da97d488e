"""One image in arrays: what its classes are, the solve, and its labels. `label` is the door for users."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32, Num, Shaped, UInt8
from torch import Tensor

from selflabel.annotators.grab_cut import Box
from selflabel.driver import Result, Solution, Solver, check_solver
from selflabel.files import UNLABELED
from selflabel.files.conventions import check_seeds_meaning
from selflabel.files.images import to_unit
from selflabel.files.label_files import VOC_FORMAT, LabelFormat
from selflabel.files.probabilities import Probabilities, ProbabilityFormat, as_probabilities
from selflabel.files.spelling import PROBS_OF_ARRAYS, SEEDS_OF_ARRAYS
from selflabel.inputs import as_index, extent
from selflabel.kinds import check_kind
from selflabel.labeling.boxes import predicted_in_boxes
from selflabel.labeling.changes import Changes, changes
from selflabel.labeling.classes import candidates, check_seeds, known_classes, numbered, probabilities_of
from selflabel.labeling.labeler import Labeler
from selflabel.labeling.presets import default_labeler
from selflabel.labeling.settings import LabelingSettings
from selflabel.solvers import GraphCut
from selflabel.terms import entropy

GRAPH_CUT = GraphCut()
_PROBS = ProbabilityFormat(spelling=PROBS_OF_ARRAYS)


@dataclass(frozen=True, eq=False)
class Labeled:
    """The labels of one image, as numpy arrays."""

    index: UInt8[np.ndarray, "h w"]
    """The class of every pixel, 255 where it was left unlabeled."""
    labels: Float32[np.ndarray, "k h w"]
    """Probabilities of the classes that could win: the soft labels, or the marginals of hard ones."""
    classes: UInt8[np.ndarray, " k"]
    """The classes that could win: one a row of `labels`."""
    start_energy: float
    """The energy that the solver started from, a sum over the image."""
    energy: float
    """The energy of the labels, soft or hard as the solver's are."""
    bound: float | None
    """A lower bound of the energy, from solvers that have one."""
    steps: int
    """How many steps the solver took."""
    result: Result
    """How it ended."""
    changes: Changes | None = None
    """What the solver changed of a given prediction."""

    def __repr__(self) -> str:
        return (
            f"Labeled({extent(self.index.shape)}, classes: {', '.join(map(str, self.classes.tolist()))}, "
            f"{self.result.name}, steps: {self.steps}, energy: {self.start_energy:.6g} -> {self.energy:.6g})"
        )

    @property
    def confidence(self) -> Float32[np.ndarray, "h w"]:
        """The probability of the most probable class of every pixel."""
        strongest: Float32[np.ndarray, "h w"] = self.labels.max(axis=0)
        return strongest


def label(
    image: Shaped[np.ndarray, "..."] | Shaped[Tensor, "..."],
    seeds: Shaped[np.ndarray, "..."] | Shaped[Tensor, "..."] | None = None,
    solver: Solver | Labeler = GRAPH_CUT,
    *,
    seeds_format: LabelFormat = VOC_FORMAT,
    num_classes: int | None = None,
    probs: Num[np.ndarray, "..."] | Num[Tensor, "..."] | None = None,
    all_classes: bool = False,
    min_confidence: float = 0.0,
) -> Labeled:
    """Label every pixel of one image from scribbles or clicks, a prediction, or both, as `selflabel label` does.

    >>> found = selflabel.label(image, seeds)  # numpy [h w 3] in 0..255, and [h w] with 255 = unlabeled
    >>> found = selflabel.label(image, seeds, RandomWalker())
    >>> found.index, found.confidence, found.energy

    image: numpy [h w] or [h w c], torch [h w] or [c h w]; 8 or 16 bit, or floats in [0, 1]; alpha is dropped.
    seeds: integers [h w], 255 where there is none; they keep their class. None: `probs` alone decides.
    solver: a solver, with the settings that label images best with it (`presets`), or a `Labeler` of your own.
    seeds_format: other meanings of the values, as those options of the command say; napari's: `LabelFormat(0, 1)`.
    num_classes: seeds of this class or above are an error.
    probs: a prediction [k h w] or [h w k], of any type that `normalized` takes, in place of the annotator's; a
    `Labeler` of your own with an annotator takes the mean of both.
    all_classes: classes without seeds in the image can win, too; needs `probs`.
    min_confidence: pixels below it become 255.

    Works on the CPU, with the threads of torch; their number changes no label.

    Raises `ValueError` for values that do not fit each other, `SolveError` if the solver fails, `ImportError`
    without a package that it needs.
    """
    for name, values in (("the image", image), ("seeds", seeds), ("probs", probs)):
        if values is not None or values is image:
            check_kind(
                values, np.ndarray | Tensor, f"{name} as a NumPy array or torch tensor", "numpy.asarray(…)"
            )
    check_kind(
        seeds_format,
        LabelFormat,
        "seeds_format as a LabelFormat",
        "such as LabelFormat(unlabeled=0, offset=1)",
    )
    form = replace(seeds_format, spelling=SEEDS_OF_ARRAYS)
    settings = LabelingSettings(
        _labeler(solver, probs is not None),
        num_classes=num_classes,
        all_classes=all_classes,
        min_confidence=min_confidence,
    )
    pixels = to_unit(_channels_last(image) if isinstance(image, Tensor) else image)
    size = (pixels.shape[0], pixels.shape[1])
    scribbles = (
        np.full(size, UNLABELED, dtype=np.uint8) if seeds is None else _as_index(_as_array(seeds), form)
    )
    check_seeds(scribbles, size, num_classes, form)
    given = None if probs is None else as_probabilities(_as_array(probs), size, _PROBS)
    if seeds is not None:
        check_seeds_meaning(scribbles, form, known_classes(num_classes, given))
    return label_arrays(pixels, scribbles, given, settings)


def _labeler(solver: Solver | Labeler, predicted: bool) -> Labeler:
    """The labeler itself, or that of a solver. Raises `ValueError` for what is neither."""
    if isinstance(solver, Labeler):
        return solver
    check_solver(solver)
    return default_labeler(solver, predicted=predicted)


def label_arrays(
    image: Float32[np.ndarray, "h w c"],
    seeds: UInt8[np.ndarray, "h w"],
    given: Probabilities | None,
    settings: LabelingSettings,
) -> Labeled:
    """Label an image in [0, 1] from its seeds, and from its prediction if one is `given`.

    Raises `ValueError` for input that does not fit, `SolveError` if the solver fails.
    """
    task = task_of(image, seeds, given, settings)
    return _labels_of(task, solved_of(solution_of(task, settings), 0), settings)


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be solved for an image.

    image: in [0, 1]. seeds: as in files. classes: those that can win. probs: their prediction, if one is given; the
    mean of it and the annotator's, if the labeler has one.
    """

    image: Float32[Tensor, "c h w"]
    seeds: UInt8[np.ndarray, "h w"]
    classes: UInt8[np.ndarray, " k"]
    probs: Float[Tensor, "k h w"] | None


def task_of(
    image: Float32[np.ndarray, "h w c"],
    seeds: UInt8[np.ndarray, "h w"],
    given: Probabilities | None,
    settings: LabelingSettings,
    boxes: Sequence[Box] | None = None,
) -> Task:
    """The task of an image; `boxes`: what there is instead of seeds, but for the background outside of them.

    Raises `ValueError` for input that does not fit.
    """
    channels = torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 0)))
    if boxes is not None:
        own = sorted({0, *(box.label for box in boxes)})
        boxed = predicted_in_boxes(settings.labeler.annotator, channels, boxes, own)
        return Task(channels, seeds, np.array(own, dtype=np.uint8), boxed)
    classes = candidates(seeds, given, settings.all_classes)
    probs = None
    if given is not None:
        numbers = torch.from_numpy(numbered(seeds, classes))
        probs = settings.labeler.combined(channels, numbers, len(classes), probabilities_of(given, classes))
    return Task(channels, seeds, classes, probs)


def solution_of(task: Task, settings: LabelingSettings) -> Solution:
    """The task solved on the CPU, as a batch of one. Raises `SolveError` if the solver fails."""
    numbers = torch.from_numpy(numbered(task.seeds, task.classes))
    return settings.labeler.label(task.image, numbers, len(task.classes), task.probs)


@dataclass(frozen=True, eq=False)
class Solved:
    """What a solve made of an image, on the CPU.

    numbers: the row of `labels` that won. confidence: as in `Labeled`. labels: None where nobody asks for them: on a
    GPU they are many bytes to fetch.
    """

    numbers: UInt8[np.ndarray, "h w"]
    confidence: Float32[np.ndarray, "h w"]
    labels: Float32[np.ndarray, "k h w"] | None
    start_energy: float
    energy: float
    bound: float | None
    steps: int
    result: Result


@dataclass(frozen=True, eq=False)
class FileLabels:
    """What is written of the labels of an image: `Labeled` without soft labels, unless these are asked for.

    entropy: mean over the pixels, in nats.
    """

    index: UInt8[np.ndarray, "h w"]
    confidence: Float32[np.ndarray, "h w"]
    soft: Float32[np.ndarray, "k h w"] | None
    classes: UInt8[np.ndarray, " k"]
    entropy: float
    changes: Changes | None
    solved: Solved


def solved_of(solution: Solution, number: int, *, with_labels: bool = True) -> Solved:
    """What a solution has of one of its images."""
    labels = _marginals(solution, number)
    return Solved(
        numbers=solution.labels[number].argmax(dim=0).byte().cpu().numpy(),
        confidence=labels.amax(dim=0).cpu().numpy(),
        labels=labels.cpu().numpy() if with_labels else None,
        start_energy=float(solution.start_energy[number]),
        energy=float(solution.energy[number]),
        bound=None if solution.bound is None else float(solution.bound[number]),
        steps=int(solution.steps[number]),
        result=solution.results[number],
    )


def entropy_of(solution: Solution, number: int) -> float:
    """The entropy of the labels of one of the images of a solution: mean over pixels, in nats."""
    return float(entropy(_marginals(solution, number)[None]).mean(dtype=torch.float64))


def file_labels(task: Task, solved: Solved, mean_entropy: float, settings: LabelingSettings) -> FileLabels:
    """What is written of a solved image. mean_entropy: `entropy_of` its labels."""
    index, changed = _index(task, solved, settings)
    soft = None if settings.soft is None else solved.labels
    return FileLabels(index, solved.confidence, soft, task.classes, mean_entropy, changed, solved)


def _labels_of(task: Task, solved: Solved, settings: LabelingSettings) -> Labeled:
    """All labels of a solved image."""
    assert solved.labels is not None, "asked for"
    index, changed = _index(task, solved, settings)
    return Labeled(
        index=index,
        labels=solved.labels,
        classes=task.classes,
        start_energy=solved.start_energy,
        energy=solved.energy,
        bound=solved.bound,
        steps=solved.steps,
        result=solved.result,
        changes=changed,
    )


def _marginals(solution: Solution, number: int) -> Float32[Tensor, "k h w"]:
    assert solution.marginals is not None, "asked for"
    return solution.marginals[number].float()


def _index(
    task: Task, solved: Solved, settings: LabelingSettings
) -> tuple[UInt8[np.ndarray, "h w"], Changes | None]:
    """The class of each pixel, that of its seed if it has one; what the solver changed of a given prediction."""
    index = task.classes[solved.numbers]
    changed = None
    if task.probs is not None:
        changed = changes(task.classes[task.probs.argmax(dim=0).numpy()], index)
    index[solved.confidence < settings.min_confidence] = UNLABELED
    return np.where(task.seeds == UNLABELED, index, task.seeds), changed


def _channels_last(image: Shaped[Tensor, "..."]) -> Shaped[np.ndarray, "..."]:
    """A torch image [c h w] as [h w c]."""
    if image.ndim == 3 and not 1 <= image.shape[0] <= 4:
        raise ValueError(
            f"expected a torch image [c h w] of 1 to 4 channels, got shape {tuple(image.shape)}: permute its axes"
        )
    array = _as_array(image)
    return np.moveaxis(array, 0, -1) if array.ndim == 3 else array


def _as_array(values: Shaped[np.ndarray, "..."] | Shaped[Tensor, "..."]) -> Shaped[np.ndarray, "..."]:
    if not isinstance(values, Tensor):
        return values
    held = values.detach().cpu()
    array: np.ndarray = (held.float() if held.is_floating_point() else held).numpy()
    return array


def _as_index(values: Shaped[np.ndarray, "..."], form: LabelFormat) -> UInt8[np.ndarray, "h w"]:
    if form.colors and values.ndim == 3 and values.dtype == np.uint8 and values.shape[2] in (3, 4):
        return form.decode_colors(values)
    if form.colors:
        raise ValueError(
            f"expected seeds in colors [h w 3] of 8 bit, got shape {values.shape} of {values.dtype}"
        )
    if values.dtype.kind == "f" and values.ndim == 2:
        values = as_index(values, "seeds").numpy()
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.integer):
        raise ValueError(
            f"expected seeds [h w] of integers, 255 where unlabeled, got shape {values.shape} of {values.dtype}"
        )
    return form.decode(values)
