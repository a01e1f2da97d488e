"""Folders of files that belong together by stem."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from selflabel.files.opening import read_text_file


def by_stem(path: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """The files of a folder, or one file alone, by stem (the name without its last suffix), in order of stem.

    Files with other suffixes, hidden files and subfolders are left out; the case of a suffix does not matter.

    Raises `ValueError` if there is no such path, no such file in it, or two files share a stem.
    """
    if path.is_file():
        if path.suffix.lower() not in suffixes:
            raise ValueError(f"{path}: expected a file named {', '.join('*' + s for s in suffixes)}")
        return {path.stem: path}
    if not path.is_dir():
        raise ValueError(f"{path}: no such file or folder")
    found: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        if file.name.startswith(".") or file.suffix.lower() not in suffixes or not file.is_file():
            continue
        if file.stem in found:
            raise ValueError(f"{found[file.stem]} and {file.name} have the same stem: which one is meant?")
        found[file.stem] = file
    if not found:
        raise ValueError(f"{path}: no files named {', '.join('*' + s for s in suffixes)}")
    return dict(sorted(found.items()))


def has_all(path: Path, suffixes: Sequence[str], stems: Iterable[str]) -> bool:
    """True if the folder exists and has a file of each stem."""
    if not path.is_dir():
        return False
    there = {file.stem for file in path.iterdir() if file.suffix.lower() in suffixes}
    return there.issuperset(stems)


def read_lines(path: Path) -> tuple[str, ...]:
    """The lines of a text file, stripped, without empty ones and without a byte order mark: stems or class names.

    Raises `FileError` as `read_text_file` does.
    """
    return tuple(line.strip() for line in read_text_file(path).splitlines() if line.strip())
