"""What commands show: errors, progress, tables. Answers go to standard output, all else to standard error.

Notes are records of the standard `logging`, as those of the library are; ``--quiet`` and ``--verbose`` set its level.
"""

import logging
import math
import unicodedata
from collections.abc import Mapping, Sequence

import rich.table
import typer
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.style import StyleType
from rich.text import Text

from selflabel.cli.endings import INTERRUPTED
from selflabel.files.causes import by_cause
from selflabel.files.folders import some

LOG = logging.getLogger(__name__)
LIBRARY = logging.getLogger("selflabel")
"""The parent of all our loggers."""
STYLES = {logging.WARNING: "bold yellow", logging.ERROR: "bold red", logging.DEBUG: "dim"}

BAD_IMAGES = 1
BAD_USE = 2

_OBEYED = ("Cc", "Cs", "Co", "Zl", "Zp")
"""Categories of Unicode: controls, halves of pairs, private use, ends of lines and paragraphs."""
_JOINERS = "\u200c\u200d"
"""Formats that words of some scripts need; the others turn or hide text."""


class _Lines(logging.Handler):
    """Shows records as lines on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record."""
        tell(self.format(record), STYLES.get(record.levelno, ""))


def configure(*, quiet: bool, verbose: bool) -> None:
    """Show the records of the library from a level on: errors (`quiet`), all (`verbose`), or all but details."""
    for handler in [one for one in LIBRARY.handlers if isinstance(one, _Lines)]:
        LIBRARY.removeHandler(handler)
    LIBRARY.addHandler(_Lines())
    LIBRARY.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)
    # what tifffile finds in a damaged file is in our error, or changes nothing
    logging.getLogger("tifffile").setLevel(logging.WARNING if verbose else logging.CRITICAL)


def is_quiet() -> bool:
    """Whether errors alone are shown."""
    return LIBRARY.getEffectiveLevel() >= logging.ERROR


def stop(message: str, code: int = BAD_USE) -> typer.Exit:
    """Show an error; the caller raises what this returns."""
    tell(f"error: {message}", "bold red")
    return typer.Exit(code)


def interrupted(message: str) -> typer.Exit:
    """Show that Ctrl-C or a signal ended the work, and what to do; the caller raises what this returns."""
    tell(f"interrupted{message}", "bold yellow")
    return typer.Exit(INTERRUPTED)


def leave(code: int) -> typer.Exit:
    """The end of a command whose message has been shown; the caller raises what this returns."""
    return typer.Exit(code)


def tell(message: str, style: str = "") -> None:
    """A line on standard error, `escaped`, not wrapped to the width of the terminal."""
    Console(stderr=True).print(Text(escaped(message), style=style), soft_wrap=True)


def say(message: str) -> None:
    """An answer on standard output, line by line `escaped`, as it is otherwise: no wrapping, no markup."""
    for line in message.split("\n"):
        typer.echo(escaped(line))


def escaped(text: str) -> str:
    """The text without what a terminal obeys or hides: control characters, ends of lines, marks of direction.

    They are spelled as Python does, "\\x1b"; bytes of a file name that are no UTF-8 as "\\udce9".
    """
    return "".join(each if _is_shown(each) else ascii(each)[1:-1] for each in text)


def _is_shown(character: str) -> bool:
    kind = unicodedata.category(character)
    return kind not in _OBEYED and (kind != "Cf" or character in _JOINERS)


class Table(rich.table.Table):
    """A table whose cells are texts: `escaped`, and without markup."""

    def add_row(
        self, *cells: RenderableType | None, style: StyleType | None = None, end_section: bool = False
    ) -> None:
        """Add a row of cells."""
        plain = [Text(escaped(cell)) if isinstance(cell, str) else cell for cell in cells]
        super().add_row(*plain, style=style, end_section=end_section)


def note(message: str) -> None:
    """A line on standard error, unless the command is to be quiet."""
    LOG.info("%s", message)


def warn(message: str) -> None:
    """A warning on standard error, unless the command is to be quiet."""
    LOG.warning("%s", message)


def left_out(phrases: Sequence[str]) -> None:
    """Why files do not count, in one line."""
    if phrases:
        note("left out: " + "; ".join(phrases))


def dim(stems: Sequence[str]) -> None:
    """A note on images that use a small part of their range, such as 12 bits that are stored as 16."""
    if stems:
        count = "1 image uses" if len(stems) == 1 else f"{len(stems)} images use"
        note(
            f"{count} at most a quarter of the range ({some(stems)}): numbers are divided by the largest of their "
            f"type, 65535 of 16 bit, and count as dark; if they hold 10, 12 or 14 bits, scale them first"
        )


def of_one_class(stems: Sequence[str], predicted: bool) -> None:
    """A note on images that are whole of one class. predicted: there are predictions of other classes, too."""
    if stems:
        count = "1 image is" if len(stems) == 1 else f"{len(stems)} images are"
        others = "give predictions (--probs) with --all-classes"
        note(
            f"{count} whole of one class, the only one with seeds there ({some(stems)}): draw seeds of what else is in "
            f"them, or {'say --all-classes, which lets all of the prediction win' if predicted else others}"
        )


def empty_boxes(by_stem: Mapping[str, int]) -> None:
    """A warning of boxes without a pixel of their class."""
    if by_stem:
        count = sum(by_stem.values())
        said = (
            "1 box has no pixel of its class" if count == 1 else f"{count} boxes have no pixel of their class"
        )
        warn(
            f"{said} ({some(list(by_stem))}): all in them looks like the background; a lower --pairwise-weight keeps "
            f"smaller objects"
        )


def summary(table: rich.table.Table, text: str) -> None:
    """The table and the line at the end of a command that writes files, unless it is to be quiet."""
    if not is_quiet():
        show(table)
        say(text)


def show(table: rich.table.Table) -> None:
    """A table on standard output, not cut where there is no terminal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(table)


def number(value: float | None, digits: int = 3) -> str:
    """A number for a table; a dash if there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def failures(lines: Sequence[tuple[str, str]]) -> None:
    """List the failures, a line each cause: names and reason."""
    listed("failed", lines, "bold red")


def listed(what: str, lines: Sequence[tuple[str, str]], style: str = "") -> None:
    """How many there are, then a line each cause, or each of them where details are shown; nothing if there is none."""
    if not lines:
        return
    tell(f"{len(lines)} {what}:", style)
    if LOG.isEnabledFor(logging.DEBUG):
        for name, reason in lines:
            tell(f"  {name}: {reason}")
        return
    for cause in by_cause(lines):
        tell(f"  {cause}")


class _Rate(ProgressColumn):
    """Images a second, or seconds an image."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("- s/image")
        return Text(f"{speed:.1f} images/s" if speed >= 1 else f"{1 / speed:.1f} s/image")


def progress() -> Progress:
    """A bar with count, rate, time passed and time left, on standard error."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=is_quiet(),
    )


def training() -> Progress:
    """A bar of steps with the fields `loss` and `score`, on standard error."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("{task.fields[score]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console if console.is_terminal else Console(stderr=True, width=160),
        disable=is_quiet(),
    )
