"""Scores of a folder of label files against a folder of true ones."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from selflabel.files.causes import by_cause
from selflabel.files.conventions import check_contiguous, check_truth
from selflabel.files.folders import SHOWN, Listing, listing, stem_of
from selflabel.files.images import stored_size
from selflabel.files.label_files import LABEL_SUFFIXES, VOC_FORMAT, LabelFormat, decode_index
from selflabel.files.opening import about, read_file
from selflabel.kinds import check_count, check_fields
from selflabel.metrics.confusion import (
    IGNORED,
    LEVELS,
    accuracy,
    check_one_size,
    confusion,
    dice,
    iou,
    mean_of_defined,
)
from selflabel.metrics.hausdorff import hd95

LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rules:
    """How a folder is scored.

    num_classes: classes 0 .. num_classes-1 may occur, others are an error; None: those that occur.
    first: means start at this class (1 leaves the background out).
    distances: also compute HD95, which takes most of the time.
    truth, given: the meaning of the values in the true files, and in the label files.
    """

    num_classes: int | None = None
    first: int = 0
    distances: bool = True
    truth: LabelFormat = VOC_FORMAT
    given: LabelFormat = VOC_FORMAT

    def __post_init__(self) -> None:
        check_fields(self)
        if self.num_classes is not None:
            check_count(self.num_classes, "num_classes")
        check_count(self.first, "first", least=0)


@dataclass(frozen=True)
class ImageScore:
    """One image. Arrays are indexed by class 0..254; nan where no map has the class (HD95: where not both have it)."""

    stem: str
    iou: Float64[np.ndarray, " k"]
    dice: Float64[np.ndarray, " k"]
    hd95: Float64[np.ndarray, " k"] | None


@dataclass(frozen=True)
class ClassScore:
    """One class.

    iou, dice: from the counts of all images together.
    hd95: mean over the `hd95_images` images in which both maps have the class.
    hd95_skipped: images with the class in one map only, where no distance is defined.
    """

    index: int
    iou: float
    dice: float
    true_pixels: int
    hd95: float | None
    hd95_images: int
    hd95_skipped: int


@dataclass(frozen=True)
class FolderScore:
    """classes: one entry for each class that occurs (or 0 .. num_classes-1).

    mean_iou, mean_dice, mean_hd95: means over the classes from `first` on, without undefined ones.
    image_iou, image_dice, image_hd95: means over images of the mean over an image's classes, for data sets
      whose class numbers mean something within an image only.
    missing: stems with a truth and no labels.
    failures: (stem, reason) of pairs that could not be scored.
    left_out: why other files of the two folders do not count, a phrase a reason.
    void: share of the pixels that do not count, as they have no class in the truth. unlabeled: share of the counted
      pixels that have no label: they are wrong.
    beyond: classes of the labels that the truth never has.
    """

    images: tuple[ImageScore, ...]
    classes: tuple[ClassScore, ...]
    mean_iou: float
    mean_dice: float
    mean_hd95: float | None
    image_iou: float
    image_dice: float
    image_hd95: float | None
    accuracy: float
    missing: tuple[str, ...]
    failures: tuple[tuple[str, str], ...]
    left_out: tuple[str, ...] = ()
    void: float = 0.0
    unlabeled: float = 0.0
    beyond: tuple[int, ...] = ()


def score_folder(
    labels: Path,
    truth: Path,
    rules: Rules,
    *,
    stems: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FolderScore:
    """Score every label file against the true file of the same stem.

    Pixels of 255 in the truth do not count; pixels of 255 in the labels count as wrong. `stems` restricts the
    comparison, and then each of them must have both files. Two files are compared whatever their names are.
    `progress` gets (done, all) after each image.

    Raises `ValueError` if a folder has no label files, no image can be compared, no pixel of one of the two folders
    has a class, or all files of a folder hold 0 and 255 alone where there may be two classes (`conventions`).
    """
    folders = listing(labels, LABEL_SUFFIXES), listing(truth, LABEL_SUFFIXES)
    given, true = (folder.files for folder in folders)
    if labels.is_file() and truth.is_file():
        true = {stem_of(labels.name): truth}
    wanted = sorted(folders[0].stems if stems is None else stems)
    missing = tuple(
        stem for stem in true if stem not in folders[0].stems and (stems is None or stem in wanted)
    )
    scores: list[ImageScore] = []
    total = np.zeros((LEVELS, LEVELS), dtype=np.int64)
    pixels = np.zeros((2, LEVELS), dtype=np.int64)
    failures: list[tuple[str, str]] = []
    for done, stem in enumerate(wanted, start=1):
        try:
            _check_one_file(stem, folders)
            score, counts, found = _score_pair(stem, given, true, rules)
            scores.append(score)
            LOG.debug("%s: %.2f %% of the pixels right", stem, 100 * accuracy(counts))
            total += counts
            pixels += found
        except (ValueError, OSError) as error:
            failures.append((stem, str(error)))
        if progress is not None:
            progress(done, len(wanted))
    if not scores:
        raise ValueError(f"none of {len(wanted)} images could be scored: {_reasons(failures)}")
    _check_meaning(pixels, rules)
    unlisted = sum(stem not in wanted for stem in folders[0].stems)
    left_out = [f"{unlisted} label files are not among the stems asked for"] if unlisted else []
    left_out += [
        f"{phrase} in {path}"
        for path, folder in zip((labels, truth), folders, strict=True)
        for phrase in folder.left_out("label file")
    ]
    beyond = np.flatnonzero((pixels[0] > 0) & (pixels[1] == 0))
    return replace(
        _summary(tuple(scores), total, rules, missing, tuple(failures)),
        left_out=tuple(left_out),
        void=float(pixels[1, IGNORED] / pixels[1].sum()),
        unlabeled=float(total[:, IGNORED].sum() / max(1, total.sum())),
        beyond=tuple(beyond[beyond != IGNORED].tolist()),
    )


def score_image(
    stem: str, index: UInt8[np.ndarray, "_ _"], truth: UInt8[np.ndarray, "h w"], rules: Rules
) -> tuple[ImageScore, Int64[np.ndarray, "t p"]]:
    """Score one label map; also returns its confusion counts.

    Raises `ValueError` if the shapes differ or a class is not below `rules.num_classes`.
    """
    counts = confusion(truth, index)
    if rules.num_classes is not None:
        _check_range("label file", np.flatnonzero(counts.sum(axis=0)), rules.num_classes)
        _check_range("truth", np.flatnonzero(counts.sum(axis=1)), rules.num_classes)
    distances = _distances(index, truth, counts, rules.first) if rules.distances else None
    return ImageScore(stem, iou(counts), dice(counts), distances), counts


def _check_one_file(stem: str, folders: Sequence[Listing]) -> None:
    """Raise `ValueError` if several files of a folder have the stem."""
    for folder in folders:
        clash = folder.clash(stem)
        if clash is not None:
            raise ValueError(clash)


def _score_pair(
    stem: str, given: dict[str, Path], true: dict[str, Path], rules: Rules
) -> tuple[ImageScore, Int64[np.ndarray, "t p"], Int64[np.ndarray, "2 p"]]:
    """The score of an image, its confusion counts, and how often each index occurs in its labels and its truth."""
    if stem not in given:
        raise ValueError("no label file of this stem")
    if stem not in true:
        raise ValueError("no true file of this stem")
    index, truth = _read_pair(given[stem], true[stem], rules)
    pixels = np.stack([np.bincount(each.ravel(), minlength=LEVELS) for each in (index, truth)])
    check_contiguous(pixels[0], rules.given, rules.num_classes, "labels")
    check_contiguous(pixels[1], rules.truth, rules.num_classes, "true labels")
    return *score_image(stem, index, truth, rules), pixels


def _read_pair(
    given: Path, true: Path, rules: Rules
) -> tuple[UInt8[np.ndarray, "_ _"], UInt8[np.ndarray, "h w"]]:
    """Labels and truth; sizes that differ however the files are turned are found before any pixel is read."""
    contents = {path: read_file(path) for path in (given, true)}
    sizes = {}
    for path, data in contents.items():
        with about(path):
            sizes[path] = stored_size(data)
    if sorted(sizes[given]) != sorted(sizes[true]):
        check_one_size(sizes[given], sizes[true])
    with about(given):
        index = decode_index(contents[given], given.suffix, rules.given)
    with about(true):
        return index, decode_index(contents[true], true.suffix, rules.truth)


def _check_meaning(pixels: Int64[np.ndarray, "2 p"], rules: Rules) -> None:
    """Raise `ValueError` for folders of masks of 0 and 255, read as class 0 and no label."""
    given, true = pixels
    for what, counts, form in (("true", true, rules.truth), ("label", given, rules.given)):
        if not counts[:IGNORED].any():
            raise ValueError(
                f"no pixel of the {what} files has a class, all mean unlabeled: give the folder of the labels, or say "
                f"what the values mean ({form.spelling.name('values')})"
            )
    check_truth(true, rules.truth, rules.num_classes, "true files")
    if true[1:IGNORED].any():  # else labels of class 0 alone may be all that there is
        check_truth(given, rules.given, rules.num_classes, "label files")


def _reasons(failures: Sequence[tuple[str, str]]) -> str:
    """Why images failed, the first ones."""
    if not failures:
        return "no stems given"
    causes = by_cause(failures)
    more = len(causes) - SHOWN
    return "; ".join(map(str, causes[:SHOWN])) + (f"; and {more} other causes" if more > 0 else "")


def _check_range(name: str, present: Int64[np.ndarray, " n"], num_classes: int) -> None:
    beyond = present[(present >= num_classes) & (present != IGNORED)]
    if beyond.size:
        raise ValueError(f"the {name} has class {beyond[0]}, but there are {num_classes} classes")


def _distances(
    index: UInt8[np.ndarray, "h w"],
    truth: UInt8[np.ndarray, "h w"],
    counts: Int64[np.ndarray, "t p"],
    first: int,
) -> Float64[np.ndarray, " k"]:
    found = np.full(IGNORED, np.nan)
    seen = np.where(truth == IGNORED, IGNORED, index)
    for k in np.flatnonzero((counts.sum(axis=0) > 0) & (counts.sum(axis=1) > 0)):
        if first <= k < IGNORED:
            found[k] = hd95(seen == k, truth == k)
    return found


def _summary(
    images: tuple[ImageScore, ...],
    counts: Int64[np.ndarray, "t p"],
    rules: Rules,
    missing: tuple[str, ...],
    failures: tuple[tuple[str, str], ...],
) -> FolderScore:
    class_iou, class_dice = iou(counts), dice(counts)
    occurring = np.flatnonzero(~np.isnan(class_iou)).tolist()
    listed = occurring if rules.num_classes is None else list(range(rules.num_classes))
    classes = tuple(
        ClassScore(
            k,
            float(class_iou[k]),
            float(class_dice[k]),
            int(counts[k].sum()),
            *_class_distance(images, k, rules),
        )
        for k in listed
    )
    distances = [c.hd95 for c in classes if c.hd95 is not None]
    return FolderScore(
        images=images,
        classes=classes,
        mean_iou=mean_of_defined(class_iou[rules.first :]),
        mean_dice=mean_of_defined(class_dice[rules.first :]),
        mean_hd95=float(np.mean(distances)) if distances else None,
        image_iou=_mean_over_images([image.iou for image in images], rules.first),
        image_dice=_mean_over_images([image.dice for image in images], rules.first),
        image_hd95=_image_distance(images, rules),
        accuracy=accuracy(counts),
        missing=missing,
        failures=failures,
    )


def _class_distance(images: tuple[ImageScore, ...], k: int, rules: Rules) -> tuple[float | None, int, int]:
    if not rules.distances or k < rules.first:
        return None, 0, 0
    found = [
        float(image.hd95[k]) for image in images if image.hd95 is not None and not np.isnan(image.hd95[k])
    ]
    occurs = sum(not np.isnan(image.iou[k]) for image in images)
    return (float(np.mean(found)) if found else None), len(found), occurs - len(found)


def _image_distance(images: tuple[ImageScore, ...], rules: Rules) -> float | None:
    found = _mean_over_images([image.hd95 for image in images if image.hd95 is not None], rules.first)
    return None if np.isnan(found) else found


def _mean_over_images(scores: list[Float64[np.ndarray, " k"]], first: int) -> float:
    means = np.array([mean_of_defined(score[first:]) for score in scores])
    return mean_of_defined(means)
