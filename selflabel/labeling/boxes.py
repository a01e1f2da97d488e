"""Boxes in place of scribbles: GrabCut's."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from selflabel.affinity.image import Image
from selflabel.annotators import Annotator
from selflabel.annotators.grab_cut import Box, GrabCutAnnotator
from selflabel.files import UNLABELED
from selflabel.files.box_files import RelativeBox


def in_pixels(
    boxes: Sequence[RelativeBox], size: tuple[int, int], num_classes: int | None
) -> tuple[Box, ...]:
    """Boxes of files in an image of this height and width, a pixel or more; their class n is n + 1, 0 the background.

    Raises `ValueError` for classes beyond `num_classes`, which counts the background.
    """
    height, width = size
    most = UNLABELED if num_classes is None else num_classes
    found = []
    for box in boxes:
        if box.number + 1 >= most:
            raise ValueError(
                f"a box has class {box.number}, class {box.number + 1} of the labels as 0 is the background, but there "
                f"are {most} classes"
            )
        x0, x1 = _span(box.x, box.width, width)
        y0, y1 = _span(box.y, box.height, height)
        found.append(Box(x0, y0, x1, y1, box.number + 1))
    return tuple(found)


def _span(center: float, side: float, pixels: int) -> tuple[int, int]:
    """The first pixel and the one after the last."""
    first = min(max(round((center - side / 2) * pixels), 0), pixels - 1)
    return first, min(max(round((center + side / 2) * pixels), first + 1), pixels)


def predicted_in_boxes(
    annotator: Annotator | None, image: Float32[Tensor, "c h w"], boxes: Sequence[Box], classes: Sequence[int]
) -> Float[Tensor, "k h w"]:
    """The prediction of these classes. Raises `ValueError` for an annotator other than GrabCut's."""
    if not isinstance(annotator, GrabCutAnnotator):
        name = "none" if annotator is None else annotator.name
        raise ValueError(
            f"expected the annotator grab-cut, which alone takes boxes, got {name}: a Labeler with GrabCutAnnotator()"
        )
    if not boxes:
        return torch.ones(1, *image.shape[1:])
    everything = annotator.predict_in_boxes(Image(image[None]), boxes, max(classes) + 1)[0]
    return everything[torch.tensor(classes)]


def empty_boxes(boxes: Sequence[Box], index: UInt8[np.ndarray, "h w"]) -> int:
    """How many boxes have no pixel of their class in these labels."""
    return sum(not (index[box.y0 : box.y1, box.x0 : box.x1] == box.label).any() for box in boxes)
