"""Lists of colors and their classes, for label files that are colored."""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from selflabel.files import UNLABELED
from selflabel.files.opening import about, read_text_file

Color = tuple[int, int, int, int]
"""Red, green, blue, each 0..255, and the class: 0..254, or 255 for unlabeled."""

_RGB = (("r", "red"), ("g", "green"), ("b", "blue"))
_CLASS = ("class", "index", "id", "label")
_NUMBER = re.compile(r"\d+")
_RUN = re.compile(r"(?<![\w.])\d+(?:[\s,]+\d+)*(?![\w.])")
"""Whole numbers with nothing but commas and blanks between."""
_HEX = re.compile(r"#[0-9a-fA-F]{6}")
_FORMS = (
    "expected lines of red, green, blue (0..255) with a name or without, in order of class; columns named r, g, b, "
    'class; or JSON as {"road": [128, 64, 128], ...} in order of class or {"128,64,128": 0, "#000000": 255, ...}'
)


def read_color_map(path: Path) -> tuple[Color, ...]:
    """The colors in a text, CSV or JSON file, each with its class.

    * Text, CSV: a line a class with the three numbers of its color; words are its name. With a header that names
      columns r, g, b (red, green, blue) and class (index, id, label), the class is in its column.
    * JSON: names with colors in order of class, a list of colors, or colors ("128,64,128", "#804080") with classes.
    * The class 255 is for colors that mean unlabeled. Several colors may have one class.

    Raises `FileError` for other content, colors outside 0..255, classes outside 0..255 and colors with two classes.
    """
    text = read_text_file(path)
    with about(path):
        found = _of_json(json.loads(text)) if text.lstrip()[:1] in ("{", "[") else _of_lines(text)
        if not found:
            raise ValueError(f"{_FORMS}; got no color")
        classes: dict[tuple[int, int, int], int] = {}
        for red, green, blue, index in found:
            color = (red, green, blue)
            if classes.setdefault(color, index) != index:
                raise ValueError(f"expected one class a color, got {classes[color]} and {index} for {color}")
        return tuple((*color, index) for color, index in classes.items())


def _of_lines(text: str) -> list[Color]:
    lines = [
        line.strip().replace(";", ",")  # between numbers with a decimal comma, spreadsheets write semicolons
        for line in text.splitlines()
        if line.strip() and not line.lstrip().startswith("//")
    ]
    columns = _columns(lines[0]) if lines else None
    if columns is not None:
        rows = csv.reader(io.StringIO("\n".join(lines[1:])))
        return [
            _entry([row[place].strip() for place in columns[:3]], row[columns[3]].strip()) for row in rows
        ]
    with_colors = [line for line in lines if _NUMBER.search(line) and not _is_header(line)]
    return [_entry(_three(line), number) for number, line in enumerate(with_colors)]


def _columns(head: str) -> tuple[int, int, int, int] | None:
    """Where a header has red, green, blue and the class; None if it lacks one."""
    names = [name.strip().lower().lstrip("#") for name in next(csv.reader([head]))]
    places = [
        next((names.index(name) for name in wanted if name in names), None) for wanted in (*_RGB, _CLASS)
    ]
    red, green, blue, index = places
    if red is None or green is None or blue is None or index is None:
        return None
    return red, green, blue, index


def _is_header(line: str) -> bool:
    """Whether a line begins with # or names its columns, as "name,r,g,b" or CVAT's "# label:color_rgb:parts"."""
    names = {name.strip().lower() for name in re.split(r"[,;:\t ]+", line)}
    return line.startswith("#") or {"r", "g", "b"} <= names


def _three(line: str) -> list[str]:
    """The color in a line: three numbers, and no others."""
    runs = _RUN.findall(line)
    numbers = re.findall(_NUMBER, runs[0]) if len(runs) == 1 else []
    if len(numbers) != 3:
        raise ValueError(f"{_FORMS}; got the line {line!r}")
    return numbers


def _of_json(content: object) -> list[Color]:
    if isinstance(content, list):
        return [_entry(_members(color), number) for number, color in enumerate(content)]
    assert isinstance(content, Mapping)
    if all(isinstance(value, int) for value in content.values()):
        return [_entry(_written(color), index) for color, index in content.items()]
    return [_entry(_members(color), number) for number, color in enumerate(content.values())]


def _members(color: object) -> Sequence[object]:
    if isinstance(color, str):
        return _written(color)
    if not isinstance(color, list) or len(color) != 3:
        raise ValueError(f"{_FORMS}; got the color {color!r}")
    return color


def _written(color: str) -> Sequence[object]:
    if _HEX.fullmatch(color.strip()):
        return [int(color.strip()[place : place + 2], 16) for place in (1, 3, 5)]
    return _three(color)


def _entry(color: Iterable[object], index: object) -> Color:
    try:
        red, green, blue, number = (int(str(part)) for part in (*color, index))
    except ValueError as error:
        raise ValueError(f"{_FORMS}; got {[*color, index]}") from error
    if not all(0 <= part <= 255 for part in (red, green, blue)):
        raise ValueError(f"expected colors of 0..255, got {(red, green, blue)}")
    if not 0 <= number <= UNLABELED:
        raise ValueError(f"expected classes 0..{UNLABELED - 1}, or {UNLABELED} for unlabeled, got {number}")
    return red, green, blue, number
