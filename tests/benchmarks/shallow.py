"""Shallow proposals from scribbles: graph cut, kernel cut, GrabCut and others, scored against the packs' masks.

    SELFLABEL_DATA=... python tests/benchmarks/shallow.py --images 12

Labels images of each pack with the presets of `selflabel label`, evenly spaced through val.txt (bsds, which has none:
the second half of train.txt; its first half and train.txt of the others are for choosing settings: `--part train`).
Prints a Markdown table: the mean over images of the mean IoU of the classes with seeds, all pixels with a class,
and seconds an image on one core. `--halved` takes every second pixel. With `--set`, options as of `selflabel label`.

Exit code 1 if a solve ends above the energy that it started from.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from pictures import Picture, data_folder, load

from selflabel.cli.config import registry
from selflabel.cli.config.options import LabelerOptions
from selflabel.labeling.labeler import Labeler
from selflabel.labels import UNLABELED

PACKS = ("acdc", "camvid", "bsds")
METHODS = {
    "graph cut": LabelerOptions(solver="graph-cut"),
    "graph cut, sparse non-local": LabelerOptions(solver="graph-cut", affinity="sparse-nonlocal"),
    "gradient descent": LabelerOptions(solver="gradient-descent"),
    "gradient descent, sparse non-local": LabelerOptions(
        solver="gradient-descent", affinity="sparse-nonlocal"
    ),
    "kernel cut": LabelerOptions(solver="kernel-cut"),
    "normalized cut with seeds": LabelerOptions(
        solver="kernel-cut", coupling_weight=0.0, pairwise_weight=0.0
    ),
    "graph cut, mixture": LabelerOptions(solver="graph-cut", annotator="mixture"),
    "GrabCut": LabelerOptions(solver="graph-cut", annotator="grab-cut"),
    "kernel cut, grab-cut": LabelerOptions(solver="kernel-cut", annotator="grab-cut"),
}
"""Without a named annotator, the product of forest and random walk."""


def pictures(pack: str, part: str, count: int) -> Iterator[Picture]:
    """Images of a part of a pack, evenly spaced."""
    path = data_folder() / pack / f"{part}.txt"
    found = (path if path.exists() else path.with_name("train.txt")).read_text().split()
    if not (data_folder() / pack / "val.txt").exists():
        half = len(found) // 2
        found = found[:half] if part == "train" else found[half:]
    for number in np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int):
        yield load(pack, found[number])


def mean_iou(labels: torch.Tensor, mask: torch.Tensor, classes: int) -> float:
    """Over the classes, of the pixels whose class is known."""
    counted = mask != UNLABELED
    each = []
    for k in range(classes):
        one, other = (labels == k) & counted, mask == k
        each.append(float((one & other).sum()) / max(float((one | other).sum()), 1.0))
    return float(np.mean(each))


def figures(labeler: Labeler, chosen: list[Picture]) -> tuple[float, float, bool]:
    """Mean IoU, seconds an image, and whether no energy rose."""
    scores, seconds, falls = [], [], True
    labeler.compile(predicted=False)
    for picture in chosen:
        began = time.perf_counter()
        found = labeler.label(picture.image[0], picture.seeds[0], picture.classes)
        seconds.append(time.perf_counter() - began)
        falls &= float(found.energy) <= float(found.start_energy) * (1 + 1e-6)
        scores.append(mean_iou(found.labels.argmax(1), picture.mask, picture.classes))
    return float(np.mean(scores)), float(np.mean(seconds)), falls


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--packs", nargs="+", default=PACKS, choices=PACKS)
    parser.add_argument(
        "--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD"
    )
    parser.add_argument("--part", default="val", choices=("train", "val"))
    parser.add_argument("--halved", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    falls = True
    print("| method | " + " | ".join(f"{pack}: mIoU, s" for pack in options.packs) + " |")
    print("| --- |" + " --- |" * len(options.packs))
    for name in options.methods:
        labeler = registry.labeler(replace(METHODS[name], set=tuple(options.set)))
        cells = []
        for pack in options.packs:
            chosen = list(pictures(pack, options.part, options.images))
            chosen = [picture.halved() for picture in chosen] if options.halved else chosen
            score, seconds, fell = figures(labeler, chosen)
            falls &= fell
            cells.append(f"{score:.3f}, {seconds:.2f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    return 0 if falls else 1


if __name__ == "__main__":
    sys.exit(main())
