"""Pictures side by side with titles, by pillow alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

GAP_PIXELS = 8
"""Between tiles, and around them."""
TITLE_PIXELS = 20
"""Height of the line above a tile."""


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
    size = (
        sum(widths) + GAP_PIXELS * (columns + 1),
        sum(heights) + (TITLE_PIXELS + GAP_PIXELS) * len(rows) + GAP_PIXELS,
    )
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=13)
    top = GAP_PIXELS
    for row, height in zip(rows, heights, strict=True):
        left = GAP_PIXELS
        for tile, width in zip(row, widths[: len(row)], strict=True):
            pen.text((left, top), tile.title, fill="black", font=font)
            canvas.paste(Image.fromarray(tile.picture), (left, top + TITLE_PIXELS))
            left += width + GAP_PIXELS
        top += TITLE_PIXELS + height + GAP_PIXELS
    return canvas
