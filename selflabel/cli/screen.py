"""What commands show: errors, progress, tables. Answers go to standard output, all else to standard error."""

import math
import unicodedata
from collections.abc import Sequence

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

BAD_IMAGES = 1
BAD_USE = 2

_OBEYED = ("Cc", "Cs", "Co", "Zl", "Zp")
"""Categories of Unicode: controls, halves of pairs, private use, ends of lines and paragraphs."""
_JOINERS = "\u200c\u200d"
"""Formats that words of some scripts need; the others turn or hide text."""


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
    """List the failures, a line each: name and reason."""
    listed("failed", lines, "bold red")


def listed(what: str, lines: Sequence[tuple[str, str]], style: str = "") -> None:
    """How many there are, then a line each: name and reason; nothing if there is none."""
    if not lines:
        return
    tell(f"{len(lines)} {what}:", style)
    for name, reason in lines:
        tell(f"  {name}: {reason}")


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
    )
