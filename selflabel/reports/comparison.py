"""Methods compared: curves with their spread over seeds, a table of final values, a CSV of all readings."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from selflabel.files.atomic import write_atomic
from selflabel.training.history import Row

CSV_COLUMNS = (
    *("step", "seconds", "network_seconds", "solver_seconds", "loss"),
    *("direct", "direct_entropy", "direct_pairwise", "joint", "dice", "iou"),
)
FINAL_SHARE = 0.1
"""Share of the last readings whose mean is the final loss: losses of single batches are noisy."""


@dataclass(frozen=True)
class Final:
    """Mean scores on the validation images at the end of a run; hd95 in pixels, None if undefined for all images."""

    dice: float
    iou: float
    hd95: float | None


@dataclass(frozen=True, eq=False)
class RunHistory:
    """One run of a comparison. final: scores of the last weights, None without validation images."""

    label: str
    seed: int
    rows: Sequence[Row]
    final: Final | None = None


@dataclass(frozen=True, eq=False)
class Curve:
    """A column of the history over the seeds of one label: mean, least and greatest value at each step.

    seconds: the mean over the seeds.
    """

    label: str
    steps: Float64[np.ndarray, " n"]
    seconds: Float64[np.ndarray, " n"]
    mean: Float64[np.ndarray, " n"]
    low: Float64[np.ndarray, " n"]
    high: Float64[np.ndarray, " n"]


def curve(runs: Sequence[RunHistory], column: str, window: int = 1) -> Curve | None:
    """The curve of a column over runs of one label, at the steps that all runs have read; None without readings.

    window: the number of neighboring readings of a run that are averaged first, fewer at the ends. Raises
    `ValueError` for runs of several labels.
    """
    labels = {run.label for run in runs}
    if len(labels) != 1:
        raise ValueError(f"expected runs of one label, got {len(labels)}: {', '.join(sorted(labels))}")
    read = [_readings(run, column) for run in runs]
    steps = sorted(set.intersection(*(set(values) for values in read)))
    if not steps:
        return None
    values = np.array([smoothed(np.array([found[step][0] for step in steps]), window) for found in read])
    seconds = np.array([[found[step][1] for step in steps] for found in read])
    return Curve(
        labels.pop(),
        np.array(steps, np.float64),
        seconds.mean(0),
        values.mean(0),
        values.min(0),
        values.max(0),
    )


def smoothed(values: Float64[np.ndarray, " n"], window: int) -> Float64[np.ndarray, " n"]:
    """Means over `window` readings around each, fewer at the ends; an even window has one more before than after.

    Raises `ValueError` for a window below 1.
    """
    if window < 1:
        raise ValueError(f"expected a window of at least one reading, got {window}")
    before, after = window // 2, (window - 1) // 2
    total = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first, last = np.maximum(places - before, 0), np.minimum(places + after + 1, len(values))
    means: Float64[np.ndarray, " n"] = (total[last] - total[first]) / (last - first)
    return means


def by_label(runs: Sequence[RunHistory]) -> dict[str, list[RunHistory]]:
    """The runs of each label, in order."""
    found: dict[str, list[RunHistory]] = {}
    for run in runs:
        found.setdefault(run.label, []).append(run)
    return found


def write_csv(path: Path, runs: Sequence[RunHistory]) -> None:
    """Write one line per step with a reading of a loss or a score; the file is complete or absent."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("run", "seed", *CSV_COLUMNS))
    for run in runs:
        for row in run.rows:
            if any(row.get(name) is not None for name in ("direct", "joint", "dice")):
                cells = (row.get(name) for name in CSV_COLUMNS)
                writer.writerow(
                    (run.label, run.seed, *("" if value is None else f"{value:.6g}" for value in cells))
                )
    write_atomic(path, lambda file: file.write(text.getvalue().encode()))


def markdown(runs: Sequence[RunHistory]) -> str:
    """The final values of each label as a table: mean ± standard deviation over the seeds."""
    lines = ["| " + " | ".join(name for name, _ in _COLUMNS) + " |"]
    lines.append("| --- |" + " ---: |" * (len(_COLUMNS) - 1))
    for label, own in by_label(runs).items():
        cells = [label.replace("|", "\\|"), *(text(own) for _, text in _COLUMNS[1:])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _readings(run: RunHistory, column: str) -> dict[float, tuple[float, float]]:
    """Value and seconds by step."""
    found = {}
    for row in run.rows:
        step, value, seconds = row.get("step"), row.get(column), row.get("seconds")
        if step is not None and value is not None and not isnan(value):
            found[float(step)] = (float(value), float(seconds or 0.0))
    return found


def _final_loss(column: str) -> Callable[[RunHistory], float]:
    def read(run: RunHistory) -> float:
        values = [value for _, (value, _) in sorted(_readings(run, column).items())]
        return float(np.mean(values[-max(1, int(FINAL_SHARE * len(values))) :])) if values else nan

    return read


def _best(run: RunHistory) -> float:
    return max((value for value, _ in _readings(run, "dice").values()), default=nan)


def _score(name: str) -> Callable[[RunHistory], float]:
    def read(run: RunHistory) -> float:
        value = None if run.final is None else getattr(run.final, name)
        return nan if value is None else float(value)

    return read


def _per_step(column: str) -> Callable[[RunHistory], float]:
    return lambda run: sum(row.get(column) or 0.0 for row in run.rows) / max(1, len(run.rows))


def _total(run: RunHistory) -> float:
    return float(run.rows[-1].get("seconds") or 0.0) if run.rows else nan


def _over_seeds(read: Callable[[RunHistory], float], digits: int) -> Callable[[Sequence[RunHistory]], str]:
    def text(runs: Sequence[RunHistory]) -> str:
        values = np.array([read(run) for run in runs])
        values = values[~np.isnan(values)]
        if not len(values):
            return "-"
        spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
        return f"{values.mean():.{digits}f}{spread}"

    return text


_COLUMNS: tuple[tuple[str, Callable[[Sequence[RunHistory]], str]], ...] = (
    ("run", lambda runs: runs[0].label),
    ("Dice", _over_seeds(_score("dice"), 3)),
    ("best Dice", _over_seeds(_best, 3)),
    ("IoU", _over_seeds(_score("iou"), 3)),
    ("HD95 (px)", _over_seeds(_score("hd95"), 1)),
    ("direct loss (4)", _over_seeds(_final_loss("direct"), 4)),
    ("joint loss (8)", _over_seeds(_final_loss("joint"), 4)),
    ("network s/step", _over_seeds(_per_step("network_seconds"), 3)),
    ("solver s/step", _over_seeds(_per_step("solver_seconds"), 3)),
    ("total s", _over_seeds(_total, 0)),
    ("seeds", lambda runs: str(len(runs))),
)
