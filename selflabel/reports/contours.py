"""Iso-contours of functions of two distributions, each of two classes."""

from collections.abc import Mapping
from math import ceil
from pathlib import Path

import numpy as np
from jaxtyping import Float

from selflabel.reports.figure import SALT, check_installed, save

PANEL_INCHES = 2.3
COLUMNS = 3
HIGHEST = 3.0
"""Where contours of functions with logarithms, which are infinite at corners or edges, end."""
LEVELS = 11


def levels(surface: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " levels"]:
    """The values that contours are drawn at: evenly from 0 to the greatest, or to `HIGHEST`."""
    found: Float[np.ndarray, " levels"] = np.linspace(0, min(float(surface.max()), HIGHEST), LEVELS)
    return found


def draw_contours(
    surfaces: Mapping[str, Float[np.ndarray, "n n"]], first: str, second: str, file: Path
) -> None:
    """A panel a surface over [0, 1]², by its name. first, second: what its axes are, the first one horizontal.

    Raises `ImportError` if matplotlib is not installed.
    """
    check_installed()
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(COLUMNS if len(surfaces) != 4 else 4, len(surfaces))
    rows = ceil(len(surfaces) / columns)
    with matplotlib.rc_context({"svg.hashsalt": SALT, "font.size": 9, "axes.titlesize": "medium"}):
        figure = Figure(
            figsize=(columns * PANEL_INCHES + 0.4, rows * PANEL_INCHES + 0.4), layout="constrained"
        )
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axis, (name, surface) in zip(axes.flat, surfaces.items(), strict=True):
            places, values = np.linspace(0, 1, len(surface)), levels(surface)
            # rows of a picture are the vertical axis, which is the second
            axis.contourf(places, places, surface.T, values, cmap="viridis", extend="max")
            lines = axis.contour(places, places, surface.T, values[1::2], colors="white", linewidths=0.6)
            axis.clabel(lines, fontsize=6, fmt=lambda value: f"{value:.2g}")
            axis.set(title=name, aspect="equal", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
            axis.set_xticklabels(("0", "0.5", "1"))
        for axis in axes[-1]:
            axis.set_xlabel(first)
        for axis in axes[:, 0]:
            axis.set_ylabel(second)
        save(figure, file, cropped=True)
