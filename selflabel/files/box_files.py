"""Box files: one box a line, as YOLO and most labeling tools write them."""

from dataclasses import dataclass
from math import isfinite

from selflabel.files.lists import encoding_of

BOX_SUFFIXES = (".txt",)

BOX_FORM = (
    "expected lines of YOLO, class x_center y_center width height, the last four as shares of the image's width and "
    "height"
)


@dataclass(frozen=True)
class RelativeBox:
    """A box of class `number`, counted without a background; its center and sides as shares of the image's."""

    number: int
    x: float
    y: float
    width: float
    height: float


def decode_boxes(data: bytes) -> tuple[RelativeBox, ...]:
    """The boxes of a file in their order; none if it is empty. A sixth number, a detector's confidence, is left out.

    Raises `ValueError`, with the line, for what is no box: polygons, pixels instead of shares, boxes that leave the
    image by more than a hundredth.
    """
    try:
        text = data.decode(encoding_of(data) or "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{BOX_FORM}; got no text") from error
    found = []
    for place, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) not in (5, 6):
            kind = ": a polygon? write the box around it" if len(words) > 6 and len(words) % 2 else ""
            raise ValueError(f"line {place}: {BOX_FORM}; got {len(words)} numbers{kind}")
        try:
            number, (x, y, width, height) = int(words[0]), map(float, words[1:5])
        except ValueError:
            raise ValueError(f"line {place}: {BOX_FORM}; got {line.strip()[:60]!r}") from None
        box = RelativeBox(number, x, y, width, height)
        if number < 0 or not all(map(isfinite, (x, y, width, height))) or min(width, height) <= 0:
            raise ValueError(f"line {place}: {BOX_FORM}; got {line.strip()[:60]!r}")
        if not _is_inside(x, width) or not _is_inside(y, height):
            pixels = "; pixels? divide them by the image's width and height" if max(x, y) > 2 else ""
            raise ValueError(f"line {place}: the box leaves the image: {line.strip()[:60]!r}{pixels}")
        found.append(box)
    return tuple(found)


def _is_inside(center: float, side: float) -> bool:
    return center - side / 2 >= -0.01 and center + side / 2 <= 1.01
