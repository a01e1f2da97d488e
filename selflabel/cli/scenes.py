"""One image with its seeds and its prediction, read as `selflabel label` reads them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from selflabel.affinity.image import Image
from selflabel.cli import screen
from selflabel.cli.config import registry
from selflabel.cli.config.label_formats import label_format
from selflabel.cli.config.options import check_sources
from selflabel.cli.config.picture_options import PredictionOptions
from selflabel.driver import SolveError
from selflabel.files.images import decode_image
from selflabel.files.opening import about, read_file
from selflabel.kernels.memory import is_out_of_memory
from selflabel.labeling.classes import numbered
from selflabel.labeling.image import read_inputs
from selflabel.labeling.labeler import Labeler
from selflabel.labeling.one import task_of
from selflabel.labeling.plan import make_plan
from selflabel.labeling.settings import LabelingSettings
from selflabel.reports.figure import check_installed
from selflabel.reports.inspect import Scene

FORMATS = (".png", ".pdf", ".svg")


@contextmanager
def pictured(out: Path) -> Iterator[None]:
    """Check that a picture can be written before work begins; turn errors into messages and exit codes."""
    try:
        if out.suffix.lower() not in FORMATS:
            raise ValueError(
                f"expected --out as a file named {', '.join('*' + end for end in FORMATS)}, got {out}"
            )
        if not out.parent.is_dir():
            raise ValueError(f"{out} cannot be written: there is no folder {out.parent}")
        if out.is_dir():
            raise ValueError(f"{out} is a folder: expected a file to write")
        check_installed()
        yield
    except (ValueError, ImportError, OSError, SolveError) as error:
        raise screen.stop(str(error)) from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise screen.stop(f"there is not enough memory: make the image smaller: {error}") from error
    screen.note(f"the picture is {out}")


@dataclass(frozen=True, eq=False)
class Inspected:
    """An image as a batch of one, its seeds in numbers of the classes, its prediction; and all of it as arrays."""

    image: Image
    seeds: Int64[Tensor, "b h w"]
    probs: Float32[Tensor, "b k h w"]
    scene: Scene


def inspected(options: PredictionOptions, labeler: Labeler) -> Inspected:
    """The image with what the options say of it; without a prediction that of the labeler's annotator.

    Raises `ValueError` and `OSError`, with the file that is wrong.
    """
    path = options.image
    check_sources(options, options.annotator)
    check_is_one(path)
    plan = make_plan(path, options.seeds, options.probs)
    for failure in plan.failures:
        raise ValueError(f"{path}: {failure.reason}")
    settings = LabelingSettings(
        labeler,
        seeds_format=label_format(options.unlabeled, options.seeds_offset, options.values, options.colors),
        probs_format=registry.probability_format(options),
        num_classes=options.num_classes,
        all_classes=options.all_classes,
    )
    found = read_inputs(plan.jobs[0], settings)
    try:
        task = task_of(found.image, found.seeds, found.given, settings)
        if len(task.classes) < 2:
            raise ValueError(
                f"expected two classes or more, got class {task.classes[0]} alone: seed another one"
            )
        image, seeds = Image(task.image[None]), torch.from_numpy(numbered(task.seeds, task.classes))[None]
        with torch.no_grad():
            probs = (
                labeler.predict(image, seeds, len(task.classes)) if task.probs is None else task.probs[None]
            )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    probs = probs.float()
    return Inspected(image, seeds, probs, Scene(found.image, task.seeds, task.classes, probs[0].numpy()))


def image_alone(path: Path) -> Image:
    """An image as a batch of one. Raises `ValueError` and `OSError` as `inspected`."""
    check_is_one(path)
    with about(path, "image"):
        pixels = decode_image(read_file(path), path.suffix)
    return Image(torch.from_numpy(pixels).movedim(-1, 0)[None].contiguous())


def check_is_one(path: Path) -> None:
    """Raise `ValueError` unless the path is that of one image."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: expected one image in it, such as {path / 'name.png'}")
    if not path.exists():
        raise ValueError(f"{path}: no such file")
