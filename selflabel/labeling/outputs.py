"""The files that are written for an image."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from selflabel.files import label_files as labelfiles
from selflabel.files import palette, probabilities
from selflabel.files.atomic import remove_leftovers
from selflabel.labeling.plan import Job
from selflabel.labeling.settings import LabelingSettings, Soft

FOLDERS = ("labels", "confidence", "soft", "overlays")


@dataclass(frozen=True)
class Labeled:
    """The labels of one image, in the classes of the files.

    index: 255 where unlabeled. labels: soft, of the classes in `classes` only.
    """

    image: Float32[np.ndarray, "h w c"]
    index: UInt8[np.ndarray, "h w"]
    labels: Float32[np.ndarray, "k h w"]
    classes: UInt8[np.ndarray, " k"]


@dataclass(frozen=True)
class OutputFolder:
    """Where labels, confidence, soft labels and overlays of each stem are."""

    root: Path

    def paths(self, stem: str, settings: LabelingSettings) -> tuple[Path, ...]:
        """All files of an image: labels, confidence, then soft labels and overlay if asked for."""
        paths = [self.root / "labels" / f"{stem}.png", self.root / "confidence" / f"{stem}.png"]
        if settings.soft is not None:
            paths.append(self.root / "soft" / f"{stem}.npz")
        if settings.overlay:
            paths.append(self.root / "overlays" / f"{stem}.png")
        return tuple(paths)

    def check_inputs(self, jobs: Iterable[Job]) -> None:
        """Raise `ValueError` if a folder of outputs is that of an input: its files would be lost."""
        own = [self.root / name for name in FOLDERS]
        places = {_place(folder): folder for folder in own if folder.is_dir()}
        if not places:
            return
        seen: set[Path] = set()
        for job in jobs:
            for what, path in (("images", job.image), ("seeds", job.seeds), ("predictions", job.probs)):
                if path is None:
                    continue
                real = {path.parent, path.resolve().parent} if path.is_symlink() else {path.parent}
                for folder in real - seen:
                    if folder.is_dir() and _place(folder) in places:
                        raise ValueError(
                            f"{places[_place(folder)]} is the folder of your {what}: give another --out"
                        )
                seen |= real

    def prepare(self, settings: LabelingSettings) -> None:
        """Make the folders. Raises `OSError` if that is not possible."""
        for path in self.paths("any", settings):
            path.parent.mkdir(parents=True, exist_ok=True)

    def complete(self, stem: str, settings: LabelingSettings) -> bool:
        """Whether all files of an image are there."""
        return all(path.is_file() for path in self.paths(stem, settings))

    def clean(self, stems: Iterable[str], settings: LabelingSettings) -> None:
        """Remove the temporary files that killed runs left for these images."""
        names: dict[Path, list[str]] = {}
        for stem in stems:
            for path in self.paths(stem, settings):
                names.setdefault(path.parent, []).append(path.name)
        for folder, wanted in names.items():
            remove_leftovers(folder, wanted)

    def write(self, stem: str, settings: LabelingSettings, labeled: Labeled) -> None:
        """Write all files of an image, each complete or not at all. Raises `OSError` as the file system
        does.
        """
        labels, confidence, *_ = self.paths(stem, settings)
        labelfiles.write_index(labels, labeled.index)
        strongest = labeled.labels.max(axis=0)
        labelfiles.write_png(confidence, Image.fromarray(np.rint(strongest * 255).astype(np.uint8)))
        if settings.soft is not None:
            soft = labeled.labels
            stored = probabilities.quantized(soft) if settings.soft is Soft.UINT8 else soft.astype(np.float16)
            probabilities.write_soft(self.root / "soft" / f"{stem}.npz", stored, labeled.classes)
        if settings.overlay:
            shown = palette.overlay(labeled.image, labeled.index)
            labelfiles.write_png(self.root / "overlays" / f"{stem}.png", Image.fromarray(shown))


def _place(folder: Path) -> tuple[int, int]:
    """The same for every name of a folder, links and mounts included."""
    found = folder.stat()
    return found.st_dev, found.st_ino
