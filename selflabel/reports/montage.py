"""Pictures side by side with titles, by pillow alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

_GAP = 8
_TITLE = 20


@dataclass(frozen=True)
class Tile:
    """A picture and the line above it."""

    picture: UInt8[np.ndarray, "h w 3"]
    title: str


def montage(rows: Sequence[Sequence[Tile]]) -> Image.Image:
    """The tiles in rows on white, columns aligned; each column is as wide as its widest tile.

    Raises `ValueError` if there is no tile.
    """
    columns = max((len(row) for row in rows), default=0)
    if columns == 0:
        raise ValueError("expected at least one tile, got none")
    widths = [
        max((row[j].picture.shape[1] for row in rows if j < len(row)), default=0) for j in range(columns)
    ]
    heights = [max((tile.picture.shape[0] for tile in row), default=0) for row in rows]
    size = (sum(widths) + _GAP * (columns + 1), sum(heights) + (_TITLE + _GAP) * len(rows) + _GAP)
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=13)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        left = _GAP
        for tile, width in zip(row, widths[: len(row)], strict=True):
            pen.text((left, top), tile.title, fill="black", font=font)
            canvas.paste(Image.fromarray(tile.picture), (left, top + _TITLE))
            left += width + _GAP
        top += _TITLE + height + _GAP
    return canvas
