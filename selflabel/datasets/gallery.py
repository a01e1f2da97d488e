"""The photographs of the demo: pictures that scikit-image ships, with scribbles kept here as polylines."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import skimage.data
from jaxtyping import Float32, UInt8
from PIL import Image, ImageDraw

from selflabel.files import UNLABELED
from selflabel.files.images import to_unit


@dataclass(frozen=True)
class Stroke:
    """A line through `points`, (x, y) in percent of width and height, drawn by hand for class `index`."""

    index: int
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Photograph:
    """A picture of scikit-image by its name in `skimage.data`, its class names, and strokes."""

    name: str
    classes: tuple[str, ...]
    strokes: tuple[Stroke, ...]

    def image(self, longest: int) -> Float32[np.ndarray, "h w c"]:
        """The picture in [0, 1], its longer side `longest` pixels at most. Nothing is downloaded."""
        picture = Image.fromarray(getattr(skimage.data, self.name)())
        picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        return to_unit(np.array(picture))

    def seeds(self, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
        """The strokes as seeds for the picture at `size` (h, w)."""
        return draw(self.strokes, size)


def photographs() -> tuple[Photograph, ...]:
    """All photographs with their scribbles, from `demo_scribbles.json`."""
    kept = json.loads(files("selflabel.datasets").joinpath("demo_scribbles.json").read_text(encoding="utf-8"))
    return tuple(
        Photograph(
            entry["name"],
            tuple(entry["classes"]),
            tuple(
                Stroke(s["class"], tuple((float(x), float(y)) for x, y in s["points"]))
                for s in entry["strokes"]
            ),
        )
        for entry in kept["photographs"]
    )


def draw(strokes: Sequence[Stroke], size: tuple[int, int], width: int = 3) -> UInt8[np.ndarray, "h w"]:
    """Seeds for an image of `size` (h, w): the strokes as lines of `width` pixels, 255 elsewhere.

    Later strokes cover earlier ones. Percent 0 is the left (upper) edge, 100 the right (lower) one.
    """
    height, length = size
    canvas = Image.new("L", (length, height), UNLABELED)
    pen = ImageDraw.Draw(canvas)
    for stroke in strokes:
        points = [(x / 100 * length, y / 100 * height) for x, y in stroke.points]
        pen.line(points, fill=stroke.index, width=width)
    return np.array(canvas)
