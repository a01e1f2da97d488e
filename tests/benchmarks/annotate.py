"""Nine folders of labels (Mayer et al., Table 1, column PFA): mean IoU of the labels of each annotator model.

    selflabel train DATA --method pce --out RUN; selflabel predict RUN DATA/images --stems STEMS --out PROBS
    python tests/benchmarks/annotate.py DATA PROBS --stems STEMS

DATA has images/, scribbles/, masks/ and classes.txt; PROBS the predictions of a network that was trained on the
scribbles. Pixels with seeds count, as they do in the labels that a network is trained on. `--every 2` halves rows and
columns. Prints a table in Markdown, with the seconds of an image on one core.
"""

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import selflabel
from selflabel.annotators import ANNOTATORS
from selflabel.cli.annotate import MODELS, REGULARIZERS, AnnotateOptions, preset
from selflabel.cli.config import registry
from selflabel.files.folders import listing
from selflabel.files.images import IMAGE_SUFFIXES, read_image
from selflabel.files.label_files import read_index
from selflabel.files.lists import read_names, read_stems
from selflabel.files.probabilities import read_probabilities
from selflabel.labeling.labeler import Labeler
from selflabel.metrics.confusion import LEVELS, confusion, iou, mean_of_defined

HALF = 0.5


@dataclass(frozen=True)
class Case:
    """An image with everything that labels are made of, or compared with; predictions of all classes by model."""

    image: np.ndarray
    seeds: np.ndarray
    mask: np.ndarray
    probs: Mapping[str, np.ndarray]


def labeler_of(model: str, regularizer: str) -> Labeler:
    """That of `selflabel annotate`, for a prediction that is made already."""
    unused = Path("unused")
    probs = unused if "probs" in MODELS[model].needs else None
    options = AnnotateOptions(
        images=unused, out=unused, seeds=unused, probs=probs, model=model, regularizer=regularizer
    )
    return replace(registry.labeler(preset(options), predicted=True), annotator=None)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("probs", type=Path)
    parser.add_argument("--stems", type=Path, required=True)
    parser.add_argument("--annotator", default="filter-forest", choices=tuple(ANNOTATORS))
    parser.add_argument("--every", type=int, default=1, metavar="N", help="squares of N pixels become one")
    options = parser.parse_args()
    step = options.every
    torch.set_num_threads(1)
    images = listing(options.data / "images", IMAGE_SUFFIXES)
    classes = len(read_names(options.data / "classes.txt"))
    annotator, cases, spent = ANNOTATORS[options.annotator](), [], 0.0
    for stem in read_stems(options.stems, images.stems):
        image, seeds = read_image(images.files[stem]), read_index(options.data / "scribbles" / f"{stem}.png")
        given = read_probabilities(options.probs / f"{stem}.npz", seeds.shape).probs[:, ::step, ::step]
        image, seeds = shrunk(image, step), np.ascontiguousarray(seeds[::step, ::step])
        unit = torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 0)))[None]
        began = time.process_time()
        local = annotator.predict(unit, torch.from_numpy(seeds).long()[None], classes)[0].numpy()
        spent += time.process_time() - began
        mean = HALF * local + HALF * given
        probs = {"local": local, "global": given, "combined": mean}
        mask = read_index(options.data / "masks" / f"{stem}.png")[::step, ::step]
        cases.append(Case(image, seeds, np.ascontiguousarray(mask), probs))
    print(f"{len(cases)} images; {options.annotator}: {spent / len(cases):.1f} s an image\n")
    print("| model | " + " | ".join(REGULARIZERS) + " | seconds an image |")
    print("| --- |" + " ---: |" * (1 + len(REGULARIZERS)))
    for model in MODELS:
        for name, all_classes in ((model, False), (f"{model}, all classes", True)):
            if all_classes and model == "local":
                continue  # classes without seeds have no probability
            found = [measured(model, each, cases, all_classes) for each in REGULARIZERS]
            scores = " | ".join(f"{100 * score:.1f}" for score, _ in found)
            seconds = " / ".join(f"{each:.1f}" for _, each in found)
            print(f"| {name} | {scores} | {seconds} |", flush=True)


def shrunk(image: np.ndarray, step: int) -> np.ndarray:
    """Means of squares of `step` pixels, at the places of every such pixel."""
    height, width, channels = image.shape
    rows, columns = height // step, width // step
    cut = image[: rows * step, : columns * step]
    return cut.reshape(rows, step, columns, step, channels).mean((1, 3))


def measured(model: str, regularizer: str, cases: list[Case], all_classes: bool) -> tuple[float, float]:
    """Mean IoU over classes, of the pixels of all images, and seconds of an image."""
    labeler, total = labeler_of(model, regularizer), np.zeros((LEVELS, LEVELS), np.int64)
    began = time.process_time()
    for case in cases:
        found = selflabel.label(
            case.image, case.seeds, labeler, probs=case.probs[model], all_classes=all_classes
        )
        total += confusion(case.mask, found.index)
    return mean_of_defined(iou(total)), (time.process_time() - began) / len(cases)


if __name__ == "__main__":
    main()
