"""The history of a run: one row per step, in memory and in two files that survive any end of the process."""

import csv
import io
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Final, cast
from zlib import crc32

from selflabel.files.atomic import write_atomic
from selflabel.files.ledger import Ledger, encoded
from selflabel.kinds import checked

LOG: Final = logging.getLogger(__name__)

Value = int | float | None
Row = Mapping[str, Value]
"""One step: the number of each column, None where nothing was measured."""

CSV = "history.csv"
LINES = "history.jsonl"


@dataclass(frozen=True, eq=False)
class History:
    """Rows of the same columns; with a folder, also in `history.jsonl` (a `Ledger`) and `history.csv`.

    A row is one write to each file, so that a killed process leaves complete lines. checks: a checksum of each row's
    line, which checkpoints keep; lines after those of a checkpoint may be damaged, as a machine without power leaves
    them.
    """

    columns: tuple[str, ...]
    folder: Path | None = None
    rows: list[Row] = field(default_factory=list)
    checks: list[int] = field(default_factory=list)

    @classmethod
    def resume(cls, columns: tuple[str, ...], folder: Path, checks: Sequence[int] = ()) -> "History":
        """Cut the files of a folder back to their first rows, those of `checks`, and go on from there.

        Without checks it starts the files. A table that is gone or was edited is written again from the lines, and a
        warning is logged. Raises `ValueError`, with file and line, if a line is not the one that was written.
        """
        rows = _checked_rows(folder / LINES, checks) if checks else []
        history = cls(columns, folder, rows, list(checks))
        Ledger(folder / LINES).rewrite(rows)
        table = _csv_line(columns) + "".join(_csv_line(_cells(columns, row)) for row in rows)
        if checks:
            _warn_of_other(folder / CSV, table.encode())
        write_atomic(folder / CSV, lambda file: file.write(table.encode()))
        return history

    def append(self, row: Row) -> None:
        """Add a row. Raises `ValueError` for a column that was not announced."""
        unknown = sorted(set(row) - set(self.columns))
        if unknown:
            raise ValueError(f"expected the columns {', '.join(self.columns)}, got also {', '.join(unknown)}")
        whole = {name: _number(row.get(name)) for name in self.columns}
        self.rows.append(whole)
        self.checks.append(crc32(encoded(whole)))
        if self.folder is not None:
            Ledger(self.folder / LINES).append(whole, flush=False)
            with open(self.folder / CSV, "ab", buffering=0) as file:
                file.write(_csv_line(_cells(self.columns, whole)).encode())

    def column(self, name: str) -> tuple[list[float], list[float]]:
        """The steps at which a column was measured, and its values."""
        measured = [(row["step"], row[name]) for row in self.rows if row[name] is not None]
        steps = [float(step) for step, _ in measured if step is not None]
        return steps, [float(value) for _, value in measured if value is not None]

    def flush(self) -> None:
        """Have all rows on disk, before a checkpoint that counts on them."""
        if self.folder is not None:
            Ledger(self.folder / LINES).flush()
            with open(self.folder / CSV, "ab") as file:
                os.fsync(file.fileno())


def read_history(path: Path) -> list[Row]:
    """The rows of a `history.jsonl`, up to the first line that is cut or damaged; none if there is no file."""
    path = checked(path, Path, "path")
    return cast(list[Row], Ledger(path).read_intact())


def _checked_rows(path: Path, checks: Sequence[int]) -> list[Row]:
    """The first lines of a history. Raises `ValueError`, with file and line, for one of another checksum."""
    remedy = "put the file back as it was, or start the run anew in another folder"
    if not path.is_file():
        raise ValueError(f"expected the rows of steps 1 to {len(checks)} in {path}, got no file: {remedy}")
    lines = path.read_bytes().split(b"\n")[:-1]
    for number, (line, check) in enumerate(zip(lines, checks, strict=False), start=1):
        if crc32(line + b"\n") != check:
            raise ValueError(
                f"{path}, line {number} is damaged: expected the row of step {number} as it was written, got "
                f"{_excerpt(line)}: {remedy}"
            )
    if len(lines) < len(checks):
        raise ValueError(
            f"expected the rows of steps 1 to {len(checks)} in {path}, as the checkpoint says, got {len(lines)} "
            f"rows: {remedy}"
        )
    return [cast(Row, json.loads(line)) for line in lines[: len(checks)]]


def _warn_of_other(path: Path, table: bytes) -> None:
    """Log a warning unless a file begins with the table: rows after it, of a run that was killed, are cut."""
    found = path.read_bytes() if path.is_file() else None
    if found is None or not found.startswith(table):
        what = "is gone" if found is None else "is not as it was written"
        LOG.warning("%s %s: it is written again from %s", path, what, LINES)


def _excerpt(line: bytes) -> str:
    return repr(line[:40])[1:] + (" ..." if len(line) > 40 else "")


def _number(value: Value) -> Value:
    """None for nan and infinity, which neither JSON nor a plot has."""
    return value if value is not None and isfinite(value) else None


def _cells(columns: tuple[str, ...], row: Row) -> tuple[str, ...]:
    values = (row[name] for name in columns)
    return tuple("" if value is None else repr(value) for value in values)


def _csv_line(cells: tuple[str, ...]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
