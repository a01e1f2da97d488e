"""What a data pack is, and how it is written.

    images/      PNG or JPEG files, one a stem
    masks/       dense labels; scribbles/ and clicks/: sparse labels
    train.txt    stems, one a line; val.txt
    classes.txt  names of classes, one a line

Label files are palette PNGs of class indices, 255 = unlabeled.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from selflabel.files.atomic import write_atomic
from selflabel.files.digest import digest
from selflabel.files.label_files import read_index, write_index

SPLITS = ("train", "val")
KINDS = ("masks", "scribbles", "clicks")


@dataclass(frozen=True)
class Labeled:
    """One image of a pack.

    image: the bytes of its file, whose name ends in `suffix`.
    labels: those of `KINDS` that the pack has.
    """

    stem: str
    split: str
    suffix: str
    image: bytes
    labels: Mapping[str, UInt8[np.ndarray, "h w"]]


@dataclass(frozen=True)
class Pack:
    """A pack: how it is made, and what comes out.

    repository: owner/name on GitHub, and the commit.
    classes: their names; none where labels have a meaning within their image only.
    digest: `digest_of` the pack that the figures of the documents were made of.
    images: all images of the pack, from the folder of a copy of the repository.
    """

    name: str
    repository: str
    commit: str
    classes: tuple[str, ...]
    digest: str
    images: Callable[[Path], Iterator[Labeled]]


def source_files(repository: Path, folder: str, pattern: str, name: str) -> tuple[Path, ...]:
    """The files of a folder of a repository, by name. Raises `ValueError` if there are none."""
    found = tuple(sorted((repository / folder).glob(pattern)))
    if not found:
        raise ValueError(
            f"expected {pattern} in {repository / folder}, got none: give the folder of a copy of "
            f"https://github.com/{name}"
        )
    return found


def write_pack(folder: Path, classes: tuple[str, ...], images: Iterator[Labeled]) -> dict[str, int]:
    """Write a pack into a new folder; returns the number of images of each split.

    Raises `ValueError` if the folder holds something, and what `images` raises.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"expected a new or empty folder, got {folder}: remove it, or give another --out")
    stems: dict[str, list[str]] = {}
    for image in images:
        for kind in ("images", *image.labels):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        _write(folder / "images" / f"{image.stem}{image.suffix}", image.image)
        for kind, index in image.labels.items():
            write_index(folder / kind / f"{image.stem}.png", index)
        stems.setdefault(image.split, []).append(image.stem)
    for split, members in stems.items():
        _write(folder / f"{split}.txt", _lines(members))
    if classes:
        _write(folder / "classes.txt", _lines(classes))
    return {split: len(members) for split, members in stems.items()}


def digest_of(folder: Path) -> str:
    """A digest of the splits and of all labels of a pack: of the numbers, not of how PNG files pack them.

    Images are left out: the bytes of JPEG files depend on the version of the library that writes them.
    """
    return digest(_contents(folder))


def stems_of(folder: Path, split: str) -> tuple[str, ...]:
    """The stems of a split in their order; none where the pack has no such split."""
    path = folder / f"{split}.txt"
    return tuple(path.read_text(encoding="utf-8").split()) if path.exists() else ()


def _contents(folder: Path) -> Iterator[bytes]:
    kinds = [kind for kind in KINDS if (folder / kind).is_dir()]
    for split in SPLITS:
        for stem in stems_of(folder, split):
            for kind in kinds:
                index = read_index(folder / kind / f"{stem}.png")
                yield f"{split} {stem} {kind} {index.shape}".encode()
                yield index.tobytes()


def _write(path: Path, data: bytes) -> None:
    write_atomic(path, lambda file: file.write(data))


def _lines(words: tuple[str, ...] | list[str]) -> bytes:
    return "".join(f"{word}\n" for word in words).encode()
