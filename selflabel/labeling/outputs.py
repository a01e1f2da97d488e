"""The files that are written for an image."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from PIL import Image

from selflabel.files.atomic import remove_leftovers
from selflabel.files.label_files import write_index, write_png
from selflabel.files.palette import overlay
from selflabel.files.probabilities import quantized, write_soft
from selflabel.labeling.one import Labeled
from selflabel.labeling.plan import Job
from selflabel.labeling.settings import Soft

FOLDERS = ("labels", "confidence", "soft", "overlays")


@dataclass(frozen=True)
class OutputPaths:
    """The files of one image; None for what was not asked for."""

    labels: Path
    confidence: Path
    soft: Path | None
    overlay: Path | None

    @property
    def all(self) -> tuple[Path, ...]:
        """Those that are asked for."""
        every = (self.labels, self.confidence, self.soft, self.overlay)
        return tuple(path for path in every if path is not None)

    @property
    def complete(self) -> bool:
        """True if all of them are there."""
        return all(path.is_file() for path in self.all)


@dataclass(frozen=True)
class OutputFolder:
    """Where labels and confidence of each stem go; soft labels in the format `soft`, and overlays, if asked for."""

    root: Path
    soft: Soft | None = None
    overlay: bool = False

    def paths(self, stem: str) -> OutputPaths:
        """The files of an image."""
        labels, confidence, soft, overlays = (self.root / name for name in FOLDERS)
        return OutputPaths(
            labels=labels / f"{stem}.png",
            confidence=confidence / f"{stem}.png",
            soft=None if self.soft is None else soft / f"{stem}.npz",
            overlay=overlays / f"{stem}.png" if self.overlay else None,
        )

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

    def prepare(self) -> None:
        """Make the folders. Raises `OSError` if that is not possible."""
        for path in self.paths("any").all:
            path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, stem: str, image: Float32[np.ndarray, "h w c"], labeled: Labeled) -> None:
        """Write all files of an image, each complete or not at all. Raises `OSError` as the file system
        does.
        """
        paths = self.paths(stem)
        write_index(paths.labels, labeled.index)
        write_png(paths.confidence, Image.fromarray(quantized(labeled.confidence)))
        if paths.soft is not None:
            write_soft(paths.soft, self._stored(labeled.labels), labeled.classes)
        if paths.overlay is not None:
            write_png(paths.overlay, Image.fromarray(overlay(image, labeled.index)))

    def _stored(self, labels: Float32[np.ndarray, "k h w"]) -> np.ndarray:
        """Soft labels in the type of the file."""
        return quantized(labels) if self.soft is Soft.UINT8 else labels.astype(np.float16)


def clean(outputs: Iterable[OutputPaths]) -> None:
    """Remove the temporary files that killed runs left for these images."""
    names: dict[Path, list[str]] = {}
    for each in outputs:
        for path in each.all:
            names.setdefault(path.parent, []).append(path.name)
    for folder, wanted in names.items():
        remove_leftovers(folder, wanted)


def _place(folder: Path) -> tuple[int, int]:
    """The same for every name of a folder, links and mounts included."""
    found = folder.stat()
    return found.st_dev, found.st_ino
