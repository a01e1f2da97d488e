"""Runs on street scenes: the data, the protocol and the tables of camvid.py and its neighbors."""

import argparse
import csv
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from run_options import add_methods, claim, count, parser_of

from selflabel import label
from selflabel.datasets.augment import Augmentation
from selflabel.datasets.letterbox import Letterbox
from selflabel.datasets.samples import Folder, Sample, read_split
from selflabel.datasets.shortened import shortened
from selflabel.files.atomic import write_atomic
from selflabel.files.folders import listing
from selflabel.files.images import IMAGE_SUFFIXES, image_size
from selflabel.labeling.labeler import Labeler
from selflabel.labels import UNLABELED
from selflabel.networks import MeanFieldLayer, WithMeanField, network
from selflabel.training import (
    SGD,
    Batches,
    FullMasks,
    Objective,
    SeedsOnly,
    TrainingSettings,
    evaluate,
    load_weights,
    train,
)

CLASSES, SIZE, BATCH = 11, 240, 4
NETWORK = "deeplabv3plus-efficientnet-lite0"
FULL, BALANCED, SCRIBBLES = "full masks", "full masks, balanced", "pCE"


@dataclass(frozen=True)
class Method:
    """What the network lowers, and what for.

    labeler: labels the images before; None: seeds stay as they are. predicted: from the prediction of the network that
    has fitted the scribbles, the mean of it and the annotator's if the labeler has one. masked: the seeds of every n-th
    image are its mask, and nothing is fitted before; 0: of none. alone: the others have no seeds then. layer: a dense
    CRF behind the network is trained with it.
    """

    objective: Objective
    labeler: Labeler | None = None
    predicted: bool = False
    masked: int = 0
    alone: bool = False
    layer: bool = False

    @property
    def from_start(self) -> bool:
        """Whether it does not go on from the scribbles, but takes the steps of both."""
        return isinstance(self.objective, FullMasks) or self.masked > 0


@dataclass(frozen=True)
class Protocol:
    """The budget. steps: of each method. scribble_steps: before, on the scribbles alone."""

    steps: int
    scribble_steps: int
    name: str
    pretrained: str | None
    learning_rate: float
    new_layers_rate: float


@dataclass(frozen=True)
class Score:
    """At the end of a run. seconds: of labels and training, on one core if nothing else ran."""

    method: str
    seed: int
    iou: float
    seconds: float


def split(root: Path, aside: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The stems to train with and those to score: val.txt, or the last `aside` training images of each drive."""
    stems = read_split(root, "train")
    if not aside:
        return stems, read_split(root, "val")
    drives = [list(drive) for _, drive in groupby(sorted(stems), lambda stem: stem.rstrip("0123456789"))]
    last = tuple(stem for drive in drives for stem in drive[-aside:])
    if len(last) == len(stems):
        raise ValueError(
            f"expected images to train with, got all {len(stems)} of train.txt kept aside: fewer"
        )
    return tuple(stem for stem in stems if stem not in last), last


def trimmed(root: Path, stems: tuple[str, ...], size: int, scribbles: str = "scribbles") -> Iterator[Sample]:
    """The samples of these stems, `size` pixels wide, without the rows that make them squares."""
    files = listing(root / "images", IMAGE_SUFFIXES).files
    box = Letterbox(*image_size(files[stems[0]]), size)
    added = box.top * size // box.side
    rows = slice(added, size - added)
    folder = Folder(root, stems, CLASSES, size, 3, scribbles, masks="masks", cache=False)
    for number in range(len(folder)):
        one = folder[number]
        mask = None if one.mask is None else one.mask[rows]
        yield replace(one, image=one.image[:, rows], seeds=one.seeds[rows], mask=mask)


@torch.no_grad()
def labeled(
    samples: list[Sample], labeler: Labeler, file: Path, net: torch.nn.Module | None = None
) -> list[Sample]:
    """The samples with labels in place of seeds, which are made once and kept in the file; net: predicts."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        made = []
        for one in samples:
            probs = None if net is None else net.eval()(one.image[None])[0].softmax(0)
            made.append(label(one.image, one.seeds, labeler, num_classes=CLASSES, probs=probs).index)
        write_atomic(file, lambda part: np.savez_compressed(part, labels=np.stack(made)))
    with np.load(file) as kept:
        found = torch.from_numpy(kept["labels"]).long()
    return [replace(one, seeds=seeds) for one, seeds in zip(samples, found, strict=True)]


def plain(name: str) -> str:
    """The name of a method's folder."""
    return name.replace(" ", "-").replace(",", "")


def with_masks(samples: list[Sample], every: int, alone: bool) -> list[Sample]:
    """The samples, of which every n-th has its mask as seeds; without any for the others, if so."""
    found = []
    for number, one in enumerate(samples):
        if number % every == 0:
            assert one.mask is not None
            one = replace(one, seeds=one.mask)
        elif alone:
            one = replace(one, seeds=torch.full_like(one.seeds, UNLABELED))
        found.append(one)
    return found


def prepared(samples: list[Sample], method: Method, folder: Path, net: torch.nn.Module) -> list[Sample]:
    """The samples with the seeds that the method sees; labels are kept beside the folder of its run."""
    if method.labeler is None:
        return with_masks(samples, method.masked, method.alone) if method.masked else samples
    if method.predicted:
        return labeled(samples, method.labeler, folder.with_suffix(".npz"), net)
    return labeled(samples, method.labeler, folder.parent.with_suffix(".npz"))


def network_of(method: Method, protocol: Protocol, start: Path | None = None) -> torch.nn.Module:
    """The network, with weights that were trained without a layer if some are named."""
    net = network(protocol.name, 3, CLASSES, pretrained=protocol.pretrained)
    if start is not None:
        load_weights(start, net)
    return WithMeanField(net, MeanFieldLayer(CLASSES)) if method.layer else net


def mean_iou(net: torch.nn.Module, data: Batches) -> float:
    """Over the classes of the held-out samples."""
    scores = evaluate(net, data.validation(), data.classes)
    assert scores is not None
    return scores.mean_iou


def fit_scribbles(data: Batches, folder: Path, settings: TrainingSettings, protocol: Protocol) -> None:
    """Train on the scribbles alone, unless that is done: other processes may look at the folder then."""
    if not (folder / "done").exists():
        torch.manual_seed(settings.seed)
        net = network_of(Method(SeedsOnly()), protocol)
        train(net, SeedsOnly(), data, replace(settings, steps=protocol.scribble_steps), folder, resume=True)
        (folder / "done").touch()


def run(method: Method, name: str, seed: int, data: Batches, out: Path, protocol: Protocol) -> Score:
    """Train and score the weights after the last step, unless it is done."""
    folder, first = out / plain(name) / str(seed), out / "scribbles" / str(seed)
    if (folder / "score.csv").exists():
        return scores_in(out, (name,), (seed,))[0]
    settings = TrainingSettings(
        steps=protocol.scribble_steps + protocol.steps,
        learning_rate=protocol.learning_rate,
        new_layers_rate=protocol.new_layers_rate,
        optimizer=SGD(),
        validate_every=0,
        measure_every=0,
        seed=seed,
    )
    if method.from_start:
        torch.manual_seed(seed)
        net = network_of(method, protocol)
    else:
        fit_scribbles(data, first, settings, protocol)
        settings = replace(settings, steps=protocol.steps)
        net = network_of(method, protocol, first / "last.pt")
    begun = perf_counter()
    assert isinstance(data.samples, list)
    data = replace(data, samples=prepared(data.samples, method, folder, net))
    train(net, method.objective, data, settings, folder, resume=True)
    seconds = perf_counter() - begun
    load_weights(folder / "last.pt", net)
    iou = mean_iou(net, data)
    with (folder / "score.csv").open("w", newline="") as file:
        csv.writer(file).writerow((f"{iou:.4f}", f"{seconds:.0f}"))
    return Score(name, seed, iou, seconds)


def scores_in(out: Path, methods: tuple[str, ...], seeds: tuple[int, ...] | None = None) -> list[Score]:
    """The scores of the runs that are done, method by method; of all seeds if none is named."""
    found = []
    for method in methods:
        folders = sorted((out / plain(method)).glob("*/score.csv"), key=lambda file: int(file.parent.name))
        for file in folders:
            if seeds is None or int(file.parent.name) in seeds:
                iou, seconds = file.read_text().strip().split(",")
                found.append(Score(method, int(file.parent.name), float(iou), float(seconds)))
    return found


def share_of(full: list[Score], scores: list[Score]) -> float | None:
    """Of the mean of full masks, over the seeds that both have; None without any, and of zero."""
    both = {score.seed for score in full} & {score.seed for score in scores}
    if not both:
        return None
    one, other = (
        statistics.mean(score.iou for score in each if score.seed in both) for each in (scores, full)
    )
    return one / other if other else None


def table(scores: list[Score]) -> str:
    """Mean over the seeds, spread, share of the better full masks and minutes, one line a method."""
    methods = {
        name: [score for score in scores if score.method == name]
        for name in dict.fromkeys(score.method for score in scores)
    }
    lines = ["| method | mean IoU | of full masks | runs | minutes |", "| --- | --- | --- | --- | --- |"]
    for method, mine in methods.items():
        mean = statistics.mean(score.iou for score in mine)
        spread = f" ± {statistics.stdev(score.iou for score in mine):.3f}" if len(mine) > 1 else ""
        shares = [share_of(methods.get(name, []), mine) for name in (FULL, BALANCED)]
        share = f"{100 * min(found):.1f} %" if (found := [one for one in shares if one is not None]) else ""
        minutes = statistics.median(score.seconds for score in mine) / 60
        lines.append(f"| {method} | {mean:.3f}{spread} | {share} | {len(mine)} | {minutes:.1f} |")
    return "\n".join(lines) + "\n"


def report(out: Path, methods: tuple[str, ...]) -> str:
    """The table of all runs in the folder, which is written there, too."""
    scores = scores_in(out, methods)
    with (out / "scores.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "seed", "iou", "seconds"])
        writer.writerows((s.method, s.seed, f"{s.iou:.4f}", f"{s.seconds:.0f}") for s in scores)
    text = table(scores)
    (out / "table.md").write_text(text, encoding="utf-8")
    return text


def network_parser(description: str | None, *, steps: int, size: int = SIZE) -> argparse.ArgumentParser:
    """The options that all scripts on street scenes have."""
    parser = parser_of(description, steps=steps, size=size)
    parser.add_argument("--network", default=NETWORK, help=NETWORK)
    parser.add_argument("--pretrained", help="random: without ImageNet's weights")
    parser.add_argument("--learning-rate", type=float, default=0.01, help="0.01")
    return parser


def parsed(description: str | None, methods: Mapping[str, Method]) -> argparse.Namespace:
    """The options of a script with these methods, whose OUT has runs of the same protocol alone."""
    parser = network_parser(description, steps=200)
    add_methods(parser, methods, seeds=3)
    parser.add_argument("--first-seed", type=int, default=1, help="1")
    parser.add_argument(
        "--scribble-steps", type=count, default=300, help="before, on the scribbles alone: 300"
    )
    parser.add_argument("--batch", type=count, default=BATCH, help=f"{BATCH} images")
    parser.add_argument(
        "--new-layers-rate", type=float, help="relative; if not given, 10 beside pretrained layers"
    )
    parser.add_argument(
        "--aside", type=int, default=0, metavar="N", help="score N training images of each drive"
    )
    parser.add_argument("--clicks", action="store_true", help="seeds are those of the folder of clicks")
    parser.add_argument("--length", type=float, default=1.0, help="share of each stroke that is kept")
    options = parser.parse_args()
    claim(parser, options, "methods", "seeds", "first_seed")
    return options


def protocol_of(options: argparse.Namespace) -> Protocol:
    """As the options say."""
    new_layers_rate = 10.0 if options.network.startswith("deeplabv3plus") else 1.0
    return Protocol(
        options.steps,
        options.scribble_steps,
        options.network,
        options.pretrained,
        options.learning_rate,
        new_layers_rate if options.new_layers_rate is None else options.new_layers_rate,
    )


def data_of(options: argparse.Namespace) -> tuple[list[Sample], list[Sample]]:
    """The samples to train with and those to score."""
    training, scored = split(options.data, options.aside)
    scribbles = "clicks" if options.clicks else "scribbles"
    samples = list(trimmed(options.data, training, options.size, scribbles))
    if options.length != 1:
        samples = [replace(one, seeds=shortened(one.seeds, options.length)) for one in samples]
    return samples, list(trimmed(options.data, scored, options.size, scribbles))


def data_by_seed(
    options: argparse.Namespace, samples: list[Sample], held_out: list[Sample]
) -> Iterator[tuple[int, Batches]]:
    """Each seed that is asked for, with the batches that it draws."""
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        yield seed, Batches(samples, CLASSES, options.batch, seed, Augmentation(), held_out, options.batch)


def run_all(options: argparse.Namespace, methods: Mapping[str, Method]) -> None:
    """All runs that are asked for, seed by seed."""
    torch.set_num_threads(1)
    samples, held_out = data_of(options)
    for seed, data in data_by_seed(options, samples, held_out):
        for name in options.methods:
            print(run(methods[name], name, seed, data, options.out, protocol_of(options)), flush=True)
            report(options.out, tuple(methods))
    print(report(options.out, tuple(methods)))
