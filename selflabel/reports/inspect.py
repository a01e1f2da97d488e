"""Pictures that explain one image: gradients of losses, kernels, soft labels. One panel an array, drawn as it is."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8

from selflabel.files import UNLABELED
from selflabel.files.palette import mixed, overlay, visible
from selflabel.reports.figure import SALT, check_installed, save

PANEL_INCHES = 2.4
"""Width of a panel."""
TITLE_INCHES = 0.25
BAR_INCHES = 0.35
"""Height of a row of titles, and of colorbars with their numbers."""
SMALL_PIXELS = 24
"""Kernels that reach no farther are drawn enlarged, without the rest of the image."""
FEW = 0.05
"""Share of the pixels, at most, that have a weight in kernels drawn as points."""
OUTLIERS = 1.0
"""Percent of the gradients that may be beyond the range of the colors."""
COLUMNS = 4

Picture = UInt8[np.ndarray, "h w 3"]
Map = Float[np.ndarray, "h w"]


@dataclass(frozen=True, eq=False)
class Scene:
    """An image in [0, 1], its seeds (255: none), and the prediction of its classes."""

    image: Float32[np.ndarray, "h w c"]
    seeds: UInt8[np.ndarray, "h w"]
    classes: UInt8[np.ndarray, " k"]
    probs: Float32[np.ndarray, "k h w"]

    def scribbles(self) -> Picture:
        """The seeds over the image, which is paler."""
        return overlay(_pale(self.image), _thick(self.seeds), opacity=1.0)


def draw_gradients(
    scene: Scene, gradients: Mapping[str, Float32[np.ndarray, "k h w"]], file: Path, *, shown: Sequence[int]
) -> None:
    """A row a class of `shown`: its seeds, its prediction, and the gradient of each loss by its name.

    Red is negative: a step of descent raises the class there. The range of colors is in the corner of each panel: a
    hundredth of its gradients may be beyond (Tang et al., ECCV 2018, Fig. 1).
    """
    with _figure(len(shown), 2 + len(gradients), scene.image, file, bars=True) as (figure, axes):
        *panels, bars = axes
        bars[0].set_axis_off()
        for row, k in zip(panels, shown, strict=True):
            own = np.where(scene.seeds == scene.classes[k], scene.seeds, UNLABELED).astype(np.uint8)
            row[0].imshow(overlay(_pale(scene.image), _thick(own), opacity=1.0))
            row[0].set_ylabel(f"class {scene.classes[k]}")
            likely = row[1].imshow(scene.probs[k], cmap="gray", vmin=0, vmax=1)
        figure.colorbar(likely, cax=bars[1], orientation="horizontal", ticks=(0, 0.5, 1))
        for place, gradient in enumerate(gradients.values(), start=2):
            for row, k in zip(panels, shown, strict=True):
                drawn = _gradient(row[place], gradient[k])
            bar = figure.colorbar(drawn, cax=bars[place], orientation="horizontal", extend="both")
            bar.set_ticks([drawn.norm.vmin, 0, drawn.norm.vmax], labels=["−", "0", "+"])
        for axis, title in zip(panels[0], ("scribbles", "prediction", *gradients), strict=True):
            axis.set_title(title)


def draw_kernels(
    image: Float32[np.ndarray, "h w c"],
    pixels: Sequence[tuple[int, int]],
    kernels: Mapping[str, Float32[np.ndarray, "p h w"]],
    file: Path,
) -> None:
    """A row a pixel: the image with its mark, and its weights in each affinity by its name.

    Weights are relative to the largest of the panel, colored by their square root. Kernels of small reach are enlarged,
    those of few far pixels are points on the image (Obukhov et al. 2019, Fig. 2).
    """
    with _figure(len(pixels), 1 + len(kernels), image, file) as (figure, axes):
        for row, pixel in zip(axes, pixels, strict=True):
            row[0].imshow(visible(_in_color(image)))
            _mark(row[0], pixel)
            row[0].set_ylabel(f"{pixel[0]},{pixel[1]}")
        for place, kernel in enumerate(kernels.values(), start=1):
            drawn = _kernels([row[place] for row in axes], image, kernel, pixels)
        for axis, title in zip(axes[0], ("pixel", *kernels), strict=True):
            axis.set_title(title)
        bar = figure.colorbar(
            drawn, ax=axes, location="bottom", shrink=0.4, pad=0.02, aspect=40, ticks=(0, 0.1, 0.25, 0.5, 1)
        )
        bar.ax.set_xticklabels(("0", "0.1", "0.25", "0.5", "1"))
        bar.set_label("weight, of the largest in the panel")


def draw_soft_labels(scene: Scene, labels: Mapping[str, Float32[np.ndarray, "k h w"]], file: Path) -> None:
    """Scribbles, the prediction, and soft labels by name: each class has its color, and each pixel their mixture.

    Zhang & Boykov 2025, Fig. 4 and 6.
    """
    pictures = {"scribbles": scene.scribbles(), "prediction": mixed(scene.probs, scene.classes)}
    pictures |= {name: mixed(found, scene.classes) for name, found in labels.items()}
    rows = ceil(len(pictures) / COLUMNS)
    columns = ceil(len(pictures) / rows)
    with _figure(rows, columns, scene.image, file, titled=rows) as (_, axes):
        for axis in axes.flat[len(pictures) :]:
            axis.set_axis_off()
        for axis, (name, picture) in zip(axes.flat, pictures.items(), strict=False):
            axis.imshow(picture)
            axis.set_title(name)


@contextmanager
def _figure(
    rows: int,
    columns: int,
    image: Float32[np.ndarray, "h w c"],
    file: Path,
    *,
    titled: int = 1,
    bars: bool = False,
) -> Iterator[tuple[Any, Any]]:
    """A figure of panels of the image's shape, and its axes in rows; written to the file at the end.

    titled: how many rows have titles. bars: a last row is for colorbars, which have ticks.
    """
    check_installed()
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    panel = PANEL_INCHES * image.shape[0] / image.shape[1]
    height = rows * (panel + 0.05) + titled * TITLE_INCHES + bars * BAR_INCHES
    with matplotlib.rc_context({"svg.hashsalt": SALT, "font.size": 9, "axes.titlesize": "medium"}):
        figure = Figure(figsize=(columns * PANEL_INCHES + 0.2, height), layout=layout)
        ratios = [1.0] * rows + [BAR_INCHES / 3 / panel] * bars
        axes = figure.subplots(rows + bars, columns, squeeze=False, height_ratios=ratios)
        for axis in axes[:rows].flat:
            axis.set(xticks=[], yticks=[])
        yield figure, axes
        save(figure, file, cropped=True)


def _gradient(axis: Any, gradient: Map) -> Any:
    """A panel of `draw_gradients` with its range in a corner; what its colors are of."""
    limit = float(np.percentile(np.abs(gradient), 100 - OUTLIERS)) or float(np.abs(gradient).max()) or 1.0
    axis.text(
        0.98, 0.03, f"±{limit:.1g}", transform=axis.transAxes, ha="right", va="bottom", fontsize=7,
        bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1.5},
    )  # fmt: skip
    return axis.imshow(gradient, cmap="RdBu", vmin=-limit, vmax=limit)


def _kernels(
    axes: Sequence[Any],
    image: Float32[np.ndarray, "h w c"],
    kernel: Float32[np.ndarray, "p h w"],
    pixels: Sequence[tuple[int, int]],
) -> Any:
    """A column of `draw_kernels`; what its colors are of."""
    from matplotlib.colors import PowerNorm

    norm = PowerNorm(0.5, vmin=0, vmax=1)
    reach = _reach(kernel, pixels)
    for axis, own, pixel in zip(axes, kernel, pixels, strict=True):
        relative = (own / (own.max() or 1)).clip(0, 1)
        if reach > SMALL_PIXELS and (kernel > 0).mean() < FEW:
            axis.imshow(_pale(image), cmap="gray")
            places = np.argwhere(own > 0)
            rows, columns = places[np.argsort(relative[tuple(places.T)])].T
            drawn = axis.scatter(
                columns,
                rows,
                s=10,
                c=relative[rows, columns],
                cmap="inferno",
                norm=norm,
                edgecolor="0.3",
                linewidth=0.3,
            )
        else:
            drawn = axis.imshow(relative, cmap="inferno", norm=norm)
        if reach <= SMALL_PIXELS:
            axis.set_xlim(pixel[1] - reach - 0.5, pixel[1] + reach + 0.5)
            axis.set_ylim(pixel[0] + reach + 0.5, pixel[0] - reach - 0.5)
            axis.set_facecolor("0.9")
        _mark(axis, pixel)
    return drawn


def _reach(kernel: Float32[np.ndarray, "p h w"], pixels: Sequence[tuple[int, int]]) -> int:
    """How many rows or columns away the farthest pixel with a weight is."""
    number, *places = np.nonzero(kernel > 0)
    return int(np.abs(np.stack(places, 1) - np.array(pixels)[number]).max(initial=0))


def _mark(axis: Any, pixel: tuple[int, int]) -> None:
    axis.plot(pixel[1], pixel[0], "+", color="cyan", markersize=8, markeredgewidth=1.2)


def _in_color(image: Float32[np.ndarray, "h w c"]) -> Float32[np.ndarray, "h w 3"]:
    shown: Float32[np.ndarray, "h w 3"] = np.broadcast_to(image[..., :3], (*image.shape[:2], 3)).clip(0, 1)
    return shown


def _pale(image: Float32[np.ndarray, "h w c"]) -> Float32[np.ndarray, "h w 3"]:
    return 0.4 + 0.6 * visible(_in_color(image))


def _thick(seeds: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Seeds of a pixel or so as they can be seen in a small panel: each pixel without one has that of a neighbor."""
    found = seeds.copy()
    padded = np.pad(seeds, 1, constant_values=UNLABELED)
    height, width = seeds.shape
    for down, right in ((0, 1), (2, 1), (1, 0), (1, 2)):
        near = padded[down : down + height, right : right + width]
        found = np.where(found == UNLABELED, near, found)
    return found
