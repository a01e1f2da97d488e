"""What commands show: errors, progress, tables. Answers go to standard output, all else to standard error."""

import math
from collections.abc import Sequence

import typer
from rich.console import Console
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
from rich.table import Table
from rich.text import Text

BAD_IMAGES = 1
BAD_USE = 2
INTERRUPTED = 130


def stop(message: str, code: int = BAD_USE) -> typer.Exit:
    """Show an error; the caller raises what this returns."""
    tell(f"error: {message}", "bold red")
    return typer.Exit(code)


def leave(code: int) -> typer.Exit:
    """The end of a command whose message has been shown; the caller raises what this returns."""
    return typer.Exit(code)


def tell(message: str, style: str = "") -> None:
    """A line on standard error, not wrapped to the width of the terminal."""
    Console(stderr=True).print(Text(message, style=style), soft_wrap=True)


def show(table: Table) -> None:
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
        TextColumn("{task.description}"),
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
