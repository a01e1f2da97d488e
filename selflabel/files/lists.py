"""Text files with one entry a line: stems of images, names of classes."""

import codecs
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Final

from selflabel.files.folders import stem_of
from selflabel.files.opening import MOST_TEXT_BYTES, read_file

LOG: Final = logging.getLogger(__name__)

STEMS_FORM: Final = (
    "expected one stem (file name without suffix) a line, or an image and its mask, both of one stem"
)
NAMES_FORM: Final = "expected the name of class 0 in line 1, that of class 1 in line 2, and so on"
SEARCHED: Final = 5_000
"""Stems among which a similar one is looked for, which takes some microseconds each."""

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before that of UTF-16, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NUMBERED = re.compile(r"(\d+)\s*[\s:,;=.)-]\s*(\S.*)")


@dataclass(frozen=True)
class Line:
    """A line that is not empty: its number, from 1, and its text without spaces around it."""

    number: int
    text: str


def read_lines(path: Path, form: str) -> tuple[Line, ...]:
    """The lines of a text file in UTF-8, UTF-16 or UTF-32 (with or without byte order mark), else in Windows-1252.

    Raises `ValueError` if there is no such file, or if it is no text; `form` says what it should hold. `FileError` as
    `read_file` does.
    """
    if not path.exists():
        raise ValueError(f"{path}: no such file: {form}")
    lines = re.split(r"\r\n|\r|\n", _decoded(path, form))
    for number, line in enumerate(lines, start=1):
        if any(unicodedata.category(letter) == "Cc" and letter != "\t" for letter in line):
            raise ValueError(f"{path}, line {number} is no text: {form}")
    return tuple(Line(n, line.strip()) for n, line in enumerate(lines, start=1) if line.strip())


def read_stems(
    path: Path, there: Collection[str], kind: str = "image", *, repeated: bool = True
) -> tuple[str, ...]:
    """The stems of a list, each once: of `there`, in order of the list.

    A line may be a stem, a file name, a path, or an image and its mask as in the lists of PASCAL VOC
    (``/JPEGImages/x0.jpg /SegmentationClassAug/x0.png``); "#" starts a comment. A stem that is listed twice counts
    once, and a warning is logged; without `repeated` it is an error.

    Raises `ValueError`, with file and line, for a line that names nothing of `there`, and if there is no stem.
    """
    known = frozenset(there)
    found: dict[str, int] = {}
    unknown: list[Line] = []
    twice: list[tuple[str, int]] = []
    for line in read_lines(path, STEMS_FORM):
        stem = _stem(line.text, known)
        if stem is None:
            unknown += [] if line.text.startswith("#") else [line]
        elif stem in found:
            twice.append((stem, line.number))
        else:
            found[stem] = line.number
    if unknown:
        raise ValueError(_unknown(path, unknown, known, kind))
    if not found:
        raise ValueError(f"{path} is empty: {STEMS_FORM}")
    if twice:
        stem, number = twice[0]
        where = f"{path}: {stem} is there more than once (lines {found[stem]} and {number})"
        if not repeated:
            raise ValueError(f"{where}: list each stem once")
        LOG.warning("%s: %d lines repeat a stem, and do not count", where, len(twice))
    return tuple(found)


def read_names(path: Path) -> tuple[str, ...]:
    """The names of classes, from class 0 on. Numbers before all names, from 0 on, are no part of them.

    Lines "# ..." before and after the names are comments. A name that is there twice is a warning.

    Raises `ValueError`, with file and line, if names are numbered otherwise, all but one are numbered, or have an empty
    line between them, if there is none, and for lists in JSON and YAML.
    """
    lines = [line for line in read_lines(path, NAMES_FORM) if not re.match(r"#(\s|#|$)", line.text)]
    if not lines:
        raise ValueError(f"{path} is empty: {NAMES_FORM}")
    is_json = lines[0].text[0] in "{["  # further down a name may begin so
    other = lines[0] if is_json else next((line for line in lines if line.text.startswith("- ")), None)
    if other is not None:
        raise ValueError(f"{path}, line {other.number}: {NAMES_FORM}, got JSON or YAML ({other.text[:20]!r})")
    for before, after in pairwise(lines):
        if after.number != before.number + 1:
            raise ValueError(f"{path}, line {before.number + 1} has no name: {NAMES_FORM}")
    names = _without_numbers(path, lines)
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        LOG.warning("%s: %d classes have the name %s", path, times, name)
    return names


def _without_numbers(path: Path, lines: Sequence[Line]) -> tuple[str, ...]:
    """The names of all lines, without the numbers before them if all have one."""
    numbered = [_NUMBERED.fullmatch(line.text) for line in lines]
    if not all(numbered):
        without = [line for line, match in zip(lines, numbered, strict=True) if match is None]
        given = [int(match[1]) for match in numbered if match is not None]
        # a headline, or a name apart
        if len(without) == 1 and len(lines) > 2 and given == list(range(len(given))):
            raise ValueError(
                f"{path}, line {without[0].number}: expected a number before {without[0].text!r}, as all other names "
                f"have, from 0 on: remove the line, or number it"
            )
        return tuple(line.text for line in lines)
    names: list[str] = []
    for line, match in zip(lines, numbered, strict=True):
        assert match is not None
        if int(match[1]) != len(names):
            raise ValueError(
                f"{path}, line {line.number}: expected class {len(names)}, got {line.text!r}: classes are numbered "
                f"from 0 without gaps"
            )
        names.append(match[2])
    return tuple(names)


def encoding_of(data: bytes) -> str | None:
    """UTF-16 or UTF-32 if the bytes of a text show it, UTF-8 if they begin with its mark, else None."""
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), None)
    if encoding is None and b"\0" in data:  # ASCII letters in UTF-16 have a zero byte each
        low, high = data[::2].count(0), data[1::2].count(0)
        encoding = "utf-16-le" if high > low else "utf-16-be"
    return encoding


def _decoded(path: Path, form: str) -> str:
    """The text of a file."""
    data = read_file(path, MOST_TEXT_BYTES)
    encoding = encoding_of(data)
    try:
        return data.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        if encoding is not None:
            raise ValueError(f"{path} is no text: {form}") from error
        number = data.count(b"\n", 0, error.start) + 1
        LOG.warning("%s, line %d is not UTF-8: read as Windows-1252", path, number)
        return data.decode("cp1252", errors="replace")


def _stem(text: str, there: frozenset[str]) -> str | None:
    """The stem of `there` that a line names."""
    plain: str = unicodedata.normalize("NFC", re.split(r"\s#", text)[0].strip().strip("\"'"))
    words: list[str] = [word.strip("\"'") for word in re.split(r"[\s,;]+", plain) if word]
    several = sum(stem_of(word) != word for word in words) > 1 or any(
        word.startswith(("/", "\\")) for word in words[1:]
    )
    whole = plain if several else _base(plain)
    for one in (unicodedata.normalize("NFC", text), plain, whole):
        if one in there:
            return one
    stems: set[str] = set(map(_base, words))
    return stems.pop() if len(stems) == 1 and stems <= there else None


def _base(name: str) -> str:
    """The stem of a file's name or path."""
    return stem_of(re.split(r"[/\\]", name)[-1])


def _unknown(path: Path, lines: list[Line], there: frozenset[str], kind: str) -> str:
    """What is wrong with lines that name nothing."""
    first = lines[0]
    more = f" ({len(lines) - 1} more lines name none)" if len(lines) > 1 else ""
    name = _base(first.text)
    near = [stem for stem in there if stem.casefold() == name.casefold()]
    if not near and len(there) <= SEARCHED:
        near = get_close_matches(name, there, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{path}, line {first.number}: there is no {kind} {first.text!r}{more}: {STEMS_FORM}{hint}"
