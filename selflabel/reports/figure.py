"""The loss curves of a comparison: direct loss, joint loss and Dice, against steps and against seconds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selflabel.files.atomic import write_atomic
from selflabel.reports.comparison import Curve, RunHistory, by_label, curve

PANELS = (("direct", "direct loss (4)"), ("joint", "joint loss (8)"), ("dice", "validation Dice"))
LOSSES = ("direct", "joint")
START = 0.05
"""Share of the first steps that do not count for the range of the axes: losses fall steeply there."""
SALT = "selflabel"


def check_installed() -> None:
    """Raise `ImportError` if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("the figure needs matplotlib: pip install 'selflabel[plots]'") from error


def draw(runs: Sequence[RunHistory], files: Sequence[Path], *, window: int = 1, title: str = "") -> None:
    """Draw the figure into files, each complete or absent; their suffixes (.png, .svg, .pdf) choose the format.

    One row per loss or score with readings, against steps on the left and seconds of training on the right: a line for
    the mean over seeds, a band from the least to the greatest value. window: the number of readings of a loss that are
    averaged. The same runs give the same bytes.

    Raises `ImportError` if matplotlib is not installed, `ValueError` if there is nothing to draw.
    """
    check_installed()
    import matplotlib
    from matplotlib.figure import Figure

    panels = [(name, text, _curves(runs, name, window)) for name, text in PANELS]
    panels = [panel for panel in panels if panel[2]]
    if not panels:
        raise ValueError("expected runs with readings of an objective or of a score, got none to draw")
    with matplotlib.rc_context({"svg.hashsalt": SALT}):
        figure = Figure(figsize=(10, 0.9 + 2.8 * len(panels)), layout="constrained")
        axes = figure.subplots(len(panels), 2, squeeze=False, sharey="row")
        for (name, text, curves), (left, right) in zip(panels, axes, strict=True):
            for one in curves:
                _line(left, one.steps, one, f"C{_place(runs, one.label)}")
                _line(right, one.seconds, one, f"C{_place(runs, one.label)}")
            left.set_ylabel(
                text + (f"\n(mean of {window} readings)" if window > 1 and name in LOSSES else "")
            )
            if name in LOSSES:
                left.set_ylim(*_range(curves))
            for axis in (left, right):
                axis.grid(alpha=0.3)
        axes[-1][0].set_xlabel("steps")
        axes[-1][1].set_xlabel("seconds of training")
        handles = {
            text: line for row in axes for line, text in zip(*row[0].get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=min(4, len(handles))
        )
        if title:
            figure.suptitle(title, fontsize="medium")
        for path in files:
            save(figure, path)


def _curves(runs: Sequence[RunHistory], name: str, window: int) -> list[Curve]:
    found = [curve(own, name, window if name in LOSSES else 1) for own in by_label(runs).values()]
    return [one for one in found if one is not None]


def _place(runs: Sequence[RunHistory], label: str) -> int:
    """The number of a label's color, the same in every panel."""
    return list(by_label(runs)).index(label)


def _line(axis: Any, places: Any, one: Curve, color: str) -> None:
    axis.plot(places, one.mean, color=color, label=one.label, linewidth=1.5)
    axis.fill_between(places, one.low, one.high, color=color, alpha=0.15, linewidth=0)


def _range(curves: Sequence[Curve]) -> tuple[float, float]:
    shown = [
        (one.low[i], one.high[i])
        for one in curves
        for i in range(int(START * len(one.steps)), len(one.steps))
    ]
    low, high = min(pair[0] for pair in shown), max(pair[1] for pair in shown)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def save(figure: Any, path: Path, *, cropped: bool = False) -> None:
    """Write a figure of matplotlib, complete or not at all: its suffix is the format, the same figure the same bytes.

    cropped: without empty margins.
    """
    kind = path.suffix[1:].lower()
    undated = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    margins = {"bbox_inches": "tight", "pad_inches": 0.04} if cropped else {}
    write_atomic(
        path, lambda file: figure.savefig(file, format=kind, dpi=150, metadata=undated.get(kind), **margins)
    )
