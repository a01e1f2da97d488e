"""Ledgers: files of JSON lines that grow while work is done, and survive any end of the process."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from math import isfinite
from pathlib import Path
from typing import TypeVar

from selflabel.files.atomic import is_plain_file, open_in_place, remove_leftovers, write_atomic

T = TypeVar("T")

Entry = Mapping[str, object]
"""One line: a JSON object. A float that is nan or infinite is written as null, as JSON has neither."""


@dataclass(frozen=True)
class Ledger:
    """A file of JSON lines: headers and records, as its user orders them.

    Each line is one write. A process killed meanwhile leaves a last line without its end: this line does not
    count, and the next `append` removes it. remedy: what to do about a damaged line, in words.
    """

    path: Path
    remedy: str = "restore the file from a copy"

    def read(self, take: Callable[[dict[str, object]], T]) -> list[T]:
        """What `take` makes of each line, in order; empty if there is no file.

        Raises `ValueError`, with file and line, for a line that is no JSON object or that `take` refuses by
        `ValueError`, `TypeError` or `KeyError`; for a path that is a link or no file. Raises `OSError` as the file
        system does.
        """
        if not is_plain_file(self.path):
            return []
        with open(self.path, "rb", opener=open_in_place) as file:
            *lines, _cut = file.read().split(b"\n")
        return [self._taken(number, line, take) for number, line in enumerate(lines, start=1) if line.strip()]

    def read_intact(self) -> list[dict[str, object]]:
        """The lines before the first damaged one, which a machine without power may have left."""
        found: list[dict[str, object]] = []
        with suppress(ValueError):
            self.read(found.append)
        return found

    def append(self, entry: Entry, *, flush: bool = True) -> None:
        """Add a line, flushed to disk unless `flush` is False.

        Raises `OSError` if that fails, for a link, too, and then the file holds the same lines as before.
        """
        with open(self.path, "a+b", buffering=0, opener=open_in_place) as file:
            size = _drop_cut_line(file)
            try:
                _write_all(file, encoded(entry))
                if flush:
                    os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise

    def flush(self) -> None:
        """Have all lines on disk that were appended without `flush`."""
        with open(self.path, "ab", opener=open_in_place) as file:
            os.fsync(file.fileno())

    def rewrite(self, entries: Iterable[Entry]) -> None:
        """Replace the file by these lines, complete or not at all; what killed runs left of it is removed.

        A file that holds them already is not touched. Raises `OSError` as the file system does, `ValueError` for a
        path that is a link or no file.
        """
        remove_leftovers(self.path.parent, [self.path.name])
        content = b"".join(map(encoded, entries))
        if not is_plain_file(self.path) or self.path.read_bytes() != content:
            write_atomic(self.path, lambda file: file.write(content))

    def _taken(self, number: int, line: bytes, take: Callable[[dict[str, object]], T]) -> T:
        try:
            entry = json.loads(line, parse_constant=_no_number, object_pairs_hook=_without_repetition)
            if not isinstance(entry, dict):
                raise TypeError(f"expected a JSON object, got {type(entry).__name__}")
            return take(entry)
        except KeyError as error:
            raise self._wrong(number, f"expected the key {error}, got none") from error
        except RecursionError as error:
            raise self._wrong(number, "it is nested too deeply") from error
        except (ValueError, TypeError) as error:
            raise self._wrong(number, str(error)) from error

    def _wrong(self, number: int, reason: str) -> ValueError:
        return ValueError(f"{self.path}, line {number} is damaged: {reason}; {self.remedy}")


def encoded(entry: Entry) -> bytes:
    """The line of an entry, its end included."""
    text = json.dumps(_finite(entry), ensure_ascii=False, allow_nan=False)
    # bytes of a file name that are not UTF-8 are lone surrogates in Python; JSON spells one as "\\udcff", too
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _finite(value: object) -> object:
    """The value with null for floats that JSON does not have."""
    if isinstance(value, float) and not isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _no_number(name: str) -> object:
    raise ValueError(f"{name} is no number in JSON")


def _without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    entry = dict(pairs)
    if len(entry) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return entry


def _drop_cut_line(file: FileIO) -> int:
    """Remove a last line without its end; returns the size of the file then."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return 0
    file.seek(-1, os.SEEK_END)
    if file.read(1) != b"\n":
        file.seek(0)
        size = file.readall().rfind(b"\n") + 1
        file.truncate(size)
    return size


def _write_all(file: FileIO, data: bytes) -> None:
    while data:  # an unbuffered file may take a part only
        data = data[file.write(data) :]
