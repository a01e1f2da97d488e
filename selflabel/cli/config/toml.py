"""Options in TOML files: read, checked by their declarations, and written."""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from selflabel.cli.config.declarations import checked
from selflabel.files.atomic import write_atomic
from selflabel.files.opening import about, read_text_file

T = TypeVar("T")

DATA_TABLE, OBJECTIVE_TABLE = TABLES = ("run", "objective")
"""Tables that a run writes below its options."""

MOST_BYTES = 1 << 20
"""Size of a configuration in bytes: thousands of options."""

MOST_PARTS = 32
"""Parts of a dotted key: the memory that the parser takes grows with their square."""

_QUOTED = re.compile(r""" "[^"\n]*" | '[^'\n]*' """, re.VERBOSE)
_SEPARATORS = re.compile(r"[=,\[\]{}]")


def read_config(path: Path, kind: type) -> dict[str, object]:
    """The options in a TOML file: keys are fields of the dataclass `kind`, `-` and `_` alike.

    The tables of `write_config` describe a run and are skipped. Raises `ValueError`, naming the file, if it cannot be
    read, for keys that are no options (with the nearest that is one), and for values of another type or out of bounds.
    """
    content = _load(path)
    tables = [key for key, value in content.items() if isinstance(value, dict) and key not in TABLES]
    if tables:
        raise ValueError(
            f"{path}: expected options above all tables, got the table [{tables[0]}]: take its head away"
        )
    found = {key: value for key, value in content.items() if not isinstance(value, dict)}
    options: dict[str, object] = {}
    for key, value in found.items():
        try:
            options |= checked({key: value}, kind)
        except ValueError as error:
            raise ValueError(f"{place(path, key)}: {error}") from error
    return options


def read_table(path: Path, name: str) -> dict[str, Any]:
    """One of the tables that `write_config` puts below the options; empty if there is none."""
    table = _load(path).get(name, {})
    return table if isinstance(table, dict) else {}


def check_described(path: Path, objective: Mapping[str, object]) -> None:
    """Raise `ValueError`, with the line, if the table ``[objective]`` of a file, if it has one, describes another.

    It follows from the options, and changing it changes nothing.
    """
    there = flat(read_table(path, OBJECTIVE_TABLE))
    expected = flat(read_back(flat(objective)))
    edited = [key for key in {**expected, **there} if expected.get(key) != there.get(key)] if there else []
    if edited:
        key = edited[0]
        raise ValueError(
            f"{place(path, key, OBJECTIVE_TABLE)}: [{OBJECTIVE_TABLE}] {key} = {_shown(there.get(key))}, but the "
            f"options above it make it {_shown(expected.get(key))}: the table describes them, and changes there have "
            f"no effect: set the option instead, or take the table away"
        )


def read_back(values: Mapping[str, object]) -> dict[str, Any]:
    """Values as a table holds them once it has been written and read."""
    return tomllib.loads("\n".join(_entries(values)))


def place(path: Path, key: str, table: str = "") -> str:
    """Where a key is given in a file: ``path, line N``; the path alone if its line is not found."""
    inside = ""
    for number, line in enumerate(read_text_file(path).splitlines(), start=1):
        head, equals, _ = line.partition("=")
        if line.strip().startswith("["):
            inside = line.strip().strip("[]").strip()
        elif equals and inside == table and head.strip().strip("\"'") in (key, key.replace("_", "-")):
            return f"{path}, line {number}"
    return str(path)


def _load(path: Path) -> dict[str, Any]:
    text = read_text_file(path, MOST_BYTES)
    with about(path):
        _check_keys(text)
        return tomllib.loads(text)


def _check_keys(text: str) -> None:
    """Raise `ValueError` for keys of so many parts that to read them takes gigabytes."""
    for number, line in enumerate(text.splitlines(), 1):
        plain = _QUOTED.sub("x", line).partition("#")[0]
        parts = max(piece.count(".") for piece in _SEPARATORS.split(plain)) + 1
        if parts > MOST_PARTS:
            raise ValueError(
                f"line {number}: expected keys of at most {MOST_PARTS} parts, as affinity.sigma has two, got one of "
                f"{parts}: write KEY = VALUE"
            )


def write_config(path: Path, values: object, head: str, tables: Mapping[str, Mapping[str, object]]) -> None:
    """Write a dataclass of plain values as TOML, complete or not at all; None is left out.

    head: comments above. tables: more values below, which `read_config` skips.
    """
    lines = [f"# {line}" for line in head.splitlines()]
    lines += _entries({entry.name: getattr(values, entry.name) for entry in fields(values)})  # type: ignore[arg-type]
    if tables:
        lines += ["", "# what follows describes the run: changes have no effect"]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *_entries(table)]
    text = "\n".join(lines) + "\n"
    write_atomic(path, lambda file: file.write(text.encode("utf-8", "replace")))


def flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested values by dotted keys, for a table."""
    found: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _entries(values: Mapping[str, object]) -> list[str]:
    return [f"{_key(name)} = {_toml(value)}" for name, value in values.items() if value is not None]


@dataclass(frozen=True)
class Change:
    """An option that differs between two sets."""

    name: str
    before: object
    after: object

    def __str__(self) -> str:
        return f"{self.name}: {_shown(self.before)} -> {_shown(self.after)}"


def changes(before: T, after: T) -> tuple[Change, ...]:
    """The options that differ, in order of the fields."""
    pairs = [
        (entry.name, getattr(before, entry.name), getattr(after, entry.name))
        for entry in fields(before)  # type: ignore[arg-type]
    ]
    return tuple(Change(name, old, new) for name, old, new in pairs if old != new)


def _key(name: str) -> str:
    """Dashes are part of a bare key; a dot, as in ``affinity.sigma``, names a table within."""
    return name if all(c.isalnum() or c in "_-." for c in name) else json.dumps(name)


def _toml(value: object) -> str:
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, float) and not abs(value) < float("inf"):
        return str(value)  # inf, -inf, nan are words of TOML
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML wants it escaped


def _shown(value: object) -> str:
    return "none" if value is None else _toml(value)
