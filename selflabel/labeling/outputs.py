"""The files that are written for an image."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float32
from PIL import Image

from selflabel.files.atomic import refuse_link, remove_leftovers, write_together
from selflabel.files.digest import digest
from selflabel.files.label_files import encoded_index, encoded_png
from selflabel.files.number_types import quantized
from selflabel.files.opening import FileError, read_file
from selflabel.files.palette import overlay, visible
from selflabel.files.probabilities import encoded_soft
from selflabel.labeling.one import FileLabels
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
    def named(self) -> Mapping[str, Path]:
        """Those that are asked for, by their folder."""
        every = zip(FOLDERS, (self.labels, self.confidence, self.soft, self.overlay), strict=True)
        return {name: path for name, path in every if path is not None}

    @property
    def all(self) -> tuple[Path, ...]:
        """Those that are asked for."""
        return tuple(self.named.values())

    def fault(self, digests: Mapping[str, str]) -> str | None:
        """What is wrong with the first file that is not as it was written; None if all are. digests: by folder."""
        for name, path in self.named.items():
            shown = f"{name}/{path.name}"
            if not path.exists():
                return f"{shown} is missing"
            try:
                data = read_file(path)
            except FileError as error:
                return f"{shown} {error.reason}"
            if not data:
                return f"{shown} is empty"
            if digest([data]) != digests.get(name):
                return f"{shown} is not as it was written"
        return None


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
            for what, path in (
                ("images", job.image),
                ("seeds", job.seeds),
                ("predictions", job.probs),
                ("boxes", job.boxes),
            ):
                if path is None:
                    continue
                # of links in a loop, too, of which `resolve` raises an error
                real = (
                    {path.parent, Path(os.path.realpath(path)).parent} if path.is_symlink() else {path.parent}
                )
                for folder in real - seen:
                    if folder.is_dir() and _place(folder) in places:
                        raise ValueError(
                            f"{places[_place(folder)]} is the folder of your {what}: give another --out"
                        )
                seen |= real

    def check_folders(self, folders: Mapping[str, Path | None]) -> None:
        """Raise `ValueError` if the place to write to is itself a folder of inputs; folders: by what is in them."""
        if not self.root.is_dir():
            return
        for what, folder in folders.items():
            if folder is not None and folder.is_dir() and _place(folder) == _place(self.root):
                raise ValueError(
                    f"{self.root} is the folder of your {what}: give another --out, such as labeled"
                )

    def prepare(self) -> None:
        """Make the folders. Raises `OSError` if that is not possible, `ValueError` if one of them is a link."""
        for path in self.paths("any").all:
            refuse_link(path.parent)
            path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, stem: str, image: Float32[np.ndarray, "h w c"], labels: FileLabels) -> Mapping[str, str]:
        """Write all files of an image, each complete or not at all; returns the digest of each, by folder.

        None is replaced before all are on disk. Raises `OSError` as the file system does, `ValueError` for a file that
        is a link.
        """
        paths = self.paths(stem)
        contents = {"labels": encoded_index(labels.index)}
        contents["confidence"] = encoded_png(Image.fromarray(quantized(labels.confidence)))
        if self.soft is not None:
            assert labels.soft is not None, "asked for"
            contents["soft"] = encoded_soft(self._stored(labels.soft), labels.classes)
        if self.overlay:
            contents["overlays"] = encoded_png(Image.fromarray(overlay(visible(image), labels.index)))
        for path in paths.all:
            refuse_link(path)
        write_together({path: _writes(contents[name]) for name, path in paths.named.items()})
        return {name: digest([data]) for name, data in contents.items()}

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


def _writes(data: bytes) -> Callable[[BinaryIO], int]:
    return lambda file: file.write(data)


def _place(folder: Path) -> tuple[int, int]:
    """The same for every name of a folder, links and mounts included."""
    found = folder.stat()
    return found.st_dev, found.st_ino
