"""Folders of files that belong together by stem."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from selflabel.files.images import IMAGE_SUFFIXES

STRIPPED: Final = frozenset((*IMAGE_SUFFIXES, ".npy", ".npz", ".ome"))
"""Suffixes that are no part of a stem, however many there are: cell.ome.tif and cell.jpg.png are of cell."""
SHOWN: Final = 4
"""Names of a kind that messages list."""


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    files: those of the suffixes asked for, by stem, in order of stem. others: all else, hidden files, files with
    other suffixes and folders, in order of name. clashes: stems that several files have, which are not in `files`.
    """

    files: dict[str, Path]
    others: tuple[Path, ...] = ()
    clashes: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)

    @property
    def stems(self) -> tuple[str, ...]:
        """All stems in order, those of clashes, too."""
        return tuple(sorted((*self.files, *self.clashes)))

    def clash(self, stem: str) -> str | None:
        """What to say of a stem that several files have; None where one has it, or none."""
        if stem not in self.clashes:
            return None
        names = [path.name for path in self.clashes[stem]]
        return (
            f"{some(names[:-1])} and {names[-1]} have the same stem: which one is meant? Move the other away"
        )

    def left_out(self, kind: str) -> tuple[str, ...]:
        """Why the others do not count, a phrase a reason: "12 files are no images (.txt, .json)" for kind "image"."""
        hidden = [path for path in self.others if path.name.startswith(".")]
        seen = [path for path in self.others if not path.name.startswith(".")]
        folders = [path for path in seen if path.is_dir()]
        strange = sorted(set(seen).difference(folders))
        suffixes = Counter(path.suffix.lower() or "no suffix" for path in strange)
        of_suffix = f"no {kind}s ({', '.join(name for name, _ in suffixes.most_common(SHOWN))})"
        return (
            *_counted(len(strange), "file is " + of_suffix.replace("s (", " ("), "files are " + of_suffix),
            *_counted(len(hidden), "file is hidden", "files are hidden"),
            *_counted(len(folders), "folder is not searched", "folders are not searched"),
        )


def bare(name: str, suffixes: Iterable[str] = ()) -> str:
    """A file's name without the suffixes of images, `suffixes`, and ".ome": for the names of what is written."""
    stripped = STRIPPED.union(suffixes)
    while True:
        rest, _, suffix = name.rpartition(".")
        if not rest or f".{suffix.lower()}" not in stripped:
            return name
        name = rest


def stem_of(name: str, suffixes: Iterable[str] = ()) -> str:
    """What files of one image have in common: the `bare` name in composed form (NFC).

    macOS stores "é" as two characters, others as one.
    """
    return unicodedata.normalize("NFC", bare(name, suffixes))


def listing(path: Path, suffixes: Sequence[str]) -> Listing:
    """The files of a folder, or one file alone, by stem (`stem_of`); the case of a suffix does not matter.

    Files that share a stem are `Listing.clashes`. Raises `ValueError` if there is no such path, or no such file in it.
    """
    wanted = ", ".join("*" + suffix for suffix in suffixes)
    if path.is_file():
        if path.suffix.lower() not in suffixes:
            raise ValueError(f"{path}: expected a file named {wanted}")
        return Listing({stem_of(path.name, suffixes): path})
    if not path.is_dir():
        raise ValueError(f"{path}: no such file or folder")
    found: dict[str, list[Path]] = {}
    others: list[Path] = []
    for file in sorted(path.iterdir()):
        # a pipe, or a link to nothing, is one of them: reading it says what is wrong
        if file.name.startswith(".") or file.suffix.lower() not in suffixes or file.is_dir():
            others.append(file)
            continue
        found.setdefault(stem_of(file.name, suffixes), []).append(file)
    if not found:
        there = "; ".join(Listing({}, tuple(others)).left_out("such file"))
        inner = [file.name for file in others if file.is_dir() and not file.name.startswith(".")]
        there += f": {some(inner)}" if inner else ""
        raise ValueError(f"{path}: no files named {wanted}" + (f" ({there})" if there else ""))
    return Listing(
        {stem: one[0] for stem, one in sorted(found.items()) if len(one) == 1},
        tuple(others),
        {stem: tuple(several) for stem, several in found.items() if len(several) > 1},
    )


def has_all(path: Path, suffixes: Sequence[str], stems: Iterable[str]) -> bool:
    """True if the folder exists and has a file of each stem."""
    if not path.is_dir():
        return False
    there = {stem_of(file.name, suffixes) for file in path.iterdir() if file.suffix.lower() in suffixes}
    return there.issuperset(stems)


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} others" if more > 0 else "")


def _counted(count: int, one: str, several: str) -> tuple[str, ...]:
    """No phrase for nothing."""
    return () if count == 0 else (f"1 {one}",) if count == 1 else (f"{count} {several}",)


def found_files(folder: Path, suffixes: Sequence[str], stems: Sequence[str], what: str) -> Mapping[str, Path]:
    """The files of a folder by stem. what: as in "there is no mask of x0".

    Raises `ValueError` that names the stems of several files, or those without one.
    """
    there = listing(folder, suffixes)
    for stem in stems:
        clash = there.clash(stem)
        if clash is not None:
            raise ValueError(f"{folder}: {clash}")
    missing = [stem for stem in stems if stem not in there.files]
    if missing:
        raise ValueError(f"{folder}: there is no {what} of {some(missing)}")
    return there.files
