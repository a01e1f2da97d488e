"""acdc: slices of cardiac MRI with scribbles drawn by hand, from HiLab-git/WSL4MIS."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from data_packs.pack import Labeled, Pack, source_files
from selflabel.files.label_files import LabelFormat, encoded_png

REPOSITORY = "HiLab-git/WSL4MIS"
FOLDER = "data/ACDC/ACDC_training_slices"
CLASSES = ("background", "right ventricle", "myocardium", "left ventricle")
SPLITS = {"train": range(1, 61), "val": range(61, 81)}
"""Numbers of patients. Those from 81 to 100 are held out."""
MOST_SLICES = 1000
"""Slices of the pack, at most: as many a volume, evenly spaced, as keep this."""
FORMAT = LabelFormat(unlabeled=len(CLASSES))

_NAME = re.compile(r"patient(\d{3})_frame(\d{2})_slice_(\d+)\.h5")


@dataclass(frozen=True)
class Slice:
    """What a file of the repository holds."""

    image: Shaped[np.ndarray, "h w"]
    mask: Shaped[np.ndarray, "h w"]
    scribble: Shaped[np.ndarray, "h w"]


def read_slice(path: Path) -> Slice:
    """One slice from an HDF5 file. Raises `ModuleNotFoundError` without h5py, with the command that installs it."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("acdc is read with h5py: pip install h5py") from error
    with h5py.File(path, "r") as file:
        return Slice(file["image"][()], file["label"][()], file["scribble"][()])


def images(repository: Path, read: Callable[[Path], Slice] = read_slice) -> Iterator[Labeled]:
    """The images of the pack, split by split, by patient, frame and slice.

    Raises `ValueError` for a copy without slices, for names of another form, and for values that are no class.
    """
    slices = thinned(volumes(source_files(repository, FOLDER, "*.h5", REPOSITORY)), MOST_SLICES)
    for split, patients in SPLITS.items():
        for (patient, _), paths in slices.items():
            for path in paths if patient in patients else ():
                yield _labeled(path, split, read(path))


def volumes(paths: Sequence[Path]) -> dict[tuple[int, int], tuple[Path, ...]]:
    """The slices of each patient and frame in their order, without patients that are held out."""
    found: dict[tuple[int, int], list[tuple[int, Path]]] = defaultdict(list)
    for path in paths:
        name = _NAME.fullmatch(path.name)
        if name is None:
            raise ValueError(f"expected names such as patient001_frame01_slice_0.h5, got {path}")
        patient, frame, number = map(int, name.groups())
        if any(patient in patients for patients in SPLITS.values()):
            found[patient, frame].append((number, path))
    return {key: tuple(path for _, path in sorted(found[key])) for key in sorted(found)}


def thinned(
    slices: Mapping[tuple[int, int], tuple[Path, ...]], most: int
) -> dict[tuple[int, int], tuple[Path, ...]]:
    """At most `most` slices: c of each volume, where c is the largest number that keeps this, at least one."""
    lengths = [len(paths) for paths in slices.values()]
    counts = (c for c in range(max(lengths, default=1), 1, -1) if sum(min(c, n) for n in lengths) <= most)
    count = next(counts, 1)
    return {key: tuple(paths[i] for i in spaced(len(paths), count)) for key, paths in slices.items()}


def spaced(length: int, count: int) -> list[int]:
    """c = min(count, n) positions of n = `length`, evenly spaced: (i + ½)·n/c - ½, rounded, for i = 0 … c-1."""
    count = min(count, length)
    positions: list[int] = np.round((np.arange(count) + 0.5) * length / count - 0.5).astype(int).tolist()
    return positions


def gray(image: Shaped[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """255·(x - min x)/(max x - min x), rounded; 0 where all pixels are equal."""
    values = image.astype(np.float64)
    low, high = values.min(), values.max()
    scaled: UInt8[np.ndarray, "h w"] = np.round(255 * (values - low) / max(high - low, 1e-12)).astype(
        np.uint8
    )
    return scaled


def _labeled(path: Path, split: str, content: Slice) -> Labeled:
    labels = {"masks": content.mask, "scribbles": content.scribble}
    for kind, most in {"masks": len(CLASSES) - 1, "scribbles": FORMAT.unlabeled}.items():
        low, high = labels[kind].min(), labels[kind].max()
        if low < 0 or high > most:
            raise ValueError(f"{path}: expected {kind} of 0 to {most}, got {low} to {high}")
    return Labeled(
        path.stem,
        split,
        ".png",
        encoded_png(Image.fromarray(gray(content.image))),
        {kind: FORMAT.decode(values.astype(np.uint8)) for kind, values in labels.items()},
    )


ACDC: Final = Pack("acdc", REPOSITORY, "a594da8", CLASSES, "6397289f8d50bf2a", images)
