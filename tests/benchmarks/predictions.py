"""Which settings help the predictions of networks: every solver against the most probable class of the prediction.

    python tests/benchmarks/predictions.py DATA/camvid DATA/acdc --out runs/predictions            # hours on two cores
    python tests/benchmarks/predictions.py DATA/camvid --out runs/try --steps 20 --images 4        # a try

For each data set three networks are trained: a weak one on scribbles alone; a good one on masks; and one on the masks
of the very images that it predicts, at their own size, whose predictions have all the detail of the images.
They predict training images, which the first two have not seen and on which settings are
compared, and validation images, which say whether the choice holds. No scribbles are given and all classes can win, as
in ``selflabel label --probs``. Prints mean IoU of all pixels, and the share of labels that the solver changed. A
solver's line with the highest least gain over networks and data sets is the choice for its preset
(`selflabel.labeling.presets`).
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from selflabel.affinity.builders import Contrast, Dense, Grid
from selflabel.datasets.samples import read_split
from selflabel.files.images import read_image
from selflabel.files.label_files import read_index
from selflabel.files.probabilities import read_probabilities
from selflabel.labeling.labeler import Labeler
from selflabel.labeling.presets import default_labeler
from selflabel.metrics.confusion import confusion, iou, mean_of_defined
from selflabel.solvers import SOLVERS, GradientDescent, GraphCut, MeanField, RandomWalker

NETWORKS = ("weak", "good", "seen")


@dataclass(frozen=True)
class Prediction:
    """Files of one image and of its prediction."""

    image: Path
    mask: Path
    probs: Path


def settings() -> Iterator[tuple[str, Labeler]]:
    """Today's presets first, then what is compared with them."""
    solvers = (MeanField(), GraphCut(), GradientDescent(), RandomWalker())
    for solver in solvers:
        yield f"{solver.name}, preset", default_labeler(solver, predicted=True)
    presets = {solver.name: replace(default_labeler(solver), annotator=None) for solver in solvers}
    for name, preset in presets.items():
        yield f"{name}, preset of scribbles", preset
    for sigma in (5.0, 10.0, 15.0):
        for reach in (15.0, 40.0):
            for weight in (0.03, 0.06, 0.12, 0.25, 0.5, 1.0):
                yield (
                    f"mean-field, σ {sigma:g}, σ_xy {reach:g}, λ {weight:g}",
                    _weighted(replace(presets["mean-field"], affinity=_dense(sigma, reach)), pairwise=weight),
                )
    for weight in (0.12, 0.25, 0.5, 1.0, 2.0, 4.0):
        yield f"graph-cut, λ {weight:g}", _weighted(presets["graph-cut"], pairwise=weight)
        near = replace(presets["graph-cut"], affinity=Grid(sigma=5.0, neighbors=8, by_distance=True))
        yield f"graph-cut, σ 5, λ {weight:g}", _weighted(near, pairwise=weight)
        yield f"gradient-descent, λ {weight:g}", _weighted(presets["gradient-descent"], pairwise=weight)
    for weight in (0.05, 0.1, 0.3, 1.0, 3.0, 10.0):
        yield f"random-walker, η {weight:g}", _weighted(presets["random-walker"], coupling=weight)
        sharp = replace(presets["random-walker"], affinity=Contrast(strength=14.0))
        yield f"random-walker, strength 14, η {weight:g}", _weighted(sharp, coupling=weight)


def _dense(sigma: float, reach: float) -> Dense:
    return Dense(sigma=sigma, sigma_xy=reach, smoothness=1.0, smoothness_xy=3.0, symmetric=True)


def _weighted(labeler: Labeler, pairwise: float | None = None, coupling: float | None = None) -> Labeler:
    energy = labeler.energy
    if pairwise is not None:
        energy = replace(energy, pairwise_weight=pairwise)
    if coupling is not None:
        energy = replace(energy, coupling_weight=coupling)
    return replace(labeler, energy=energy)


def measure(job: tuple[Labeler | None, Prediction, int]) -> tuple[np.ndarray, float]:
    """The confusion of an image's labels, and the share of them that is not the prediction's."""
    torch.set_num_threads(1)
    labeler, files, classes = job
    truth = read_index(files.mask)
    given = read_probabilities(files.probs, truth.shape)
    probs = np.zeros((classes, *truth.shape), np.float32)
    probs[np.arange(len(given.probs)) if given.classes is None else given.classes] = given.probs
    index = probs.argmax(0).astype(np.uint8)
    before = index
    if labeler is not None:
        image = torch.from_numpy(np.moveaxis(read_image(files.image), -1, 0).copy())
        seeds = torch.full(truth.shape, 255)
        labels = labeler.label(image, seeds, classes, torch.from_numpy(probs)).labels
        index = labels[0].argmax(0).numpy().astype(np.uint8)
    counts = np.zeros((classes, classes), np.int64)
    found = confusion(truth, index)[:classes, :classes]
    counts[: found.shape[0], : found.shape[1]] = found
    return counts, float((index != before).mean())


def train_and_predict(root: Path, out: Path, options: argparse.Namespace) -> None:
    """Train the networks, and let them predict the last training images and validation images."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    train, val = read_split(root, "train"), read_split(root, "val")
    unseen = list(train[int(0.8 * len(train)) :])
    tuned, held_out = _spread(unseen, options.images), _spread(list(val), options.images)
    every = [*tuned, *held_out]
    for name, stems in (("tuned", tuned), ("held-out", held_out), ("all", every)):
        (out / f"{name}.txt").write_text("".join(f"{stem}\n" for stem in stems))
    begin = _data(root, out / "data", train[: int(0.75 * len(train))])
    same = _data(root, out / "data-seen", every)
    commands = [
        ("train", begin, "--method", "pce", "--steps", options.steps, "--size", options.size, "--batch", 8),
        (
            "train",
            begin,
            "--method",
            "full",
            "--steps",
            options.good_steps,
            "--size",
            options.size,
            "--batch",
            8,
        ),
        (
            "train",
            same,
            "--method",
            "full",
            "--steps",
            options.steps,
            "--size",
            options.seen_size,
            "--batch",
            2,
        ),
    ]
    common = ("--network", options.network, "--device", options.device, "--validate-every", 0)
    names = dict(zip(NETWORKS, commands, strict=True))
    _run(
        [(*how, "--out", out / name, "--measure-every", 0, *common) for name, how in names.items()],
        options.workers,
    )
    predict = ("--stems", out / "all.txt", "--checkpoint", "last", "--device", options.device)
    _run(
        [
            ("predict", out / name, root / "images", "--out", out / f"{name}-probs", *predict)
            for name in NETWORKS
        ],
        options.workers,
    )


def _data(root: Path, data: Path, stems: Sequence[str]) -> Path:
    """A data set of some images of another one, to train on."""
    data.mkdir()
    for name in ("images", "scribbles", "masks", "classes.txt"):
        (data / name).symlink_to((root / name).resolve())
    (data / "train.txt").write_text("".join(f"{stem}\n" for stem in stems))
    return data


def _spread(stems: list[str], count: int) -> list[str]:
    return stems[:: max(1, len(stems) // count)][:count]


def _run(commands: list[tuple[object, ...]], workers: int) -> None:
    """Run commands of selflabel, `workers` of them at once. Ends the script if one fails."""
    with ThreadPoolExecutor(workers) as pool:
        if any(pool.map(_selflabel, commands)):
            sys.exit("a command failed")


def _selflabel(arguments: tuple[object, ...]) -> int:
    command = [sys.executable, "-m", "selflabel", *map(str, arguments), "--quiet"]
    return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode


def compare(
    root: Path, out: Path, workers: int, solvers: list[str]
) -> Iterator[tuple[str, str, str, float, float]]:
    """Setting, network, split, mean IoU and share of changed labels."""
    classes = len((root / "classes.txt").read_text().splitlines())
    with ProcessPoolExecutor(workers) as pool:
        for name in NETWORKS:
            for split in ("tuned", "held-out"):
                stems = (out / f"{split}.txt").read_text().split()
                files = [
                    Prediction(
                        next((root / "images").glob(f"{stem}.*")),
                        root / "masks" / f"{stem}.png",
                        out / f"{name}-probs" / f"{stem}.npz",
                    )
                    for stem in stems
                ]
                every = [("argmax", None), *(one for one in settings() if one[0].startswith(tuple(solvers)))]
                jobs = [(labeler, one, classes) for _, labeler in every for one in files]
                results = list(pool.map(measure, jobs, chunksize=2))
                for number, (setting, _) in enumerate(every):
                    mine = results[number * len(files) : (number + 1) * len(files)]
                    score = mean_of_defined(iou(np.sum([counts for counts, _ in mine], axis=0)))
                    yield setting, name, split, score, float(np.mean([changed for _, changed in mine]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--good-steps", type=int, default=600, help="of the good network")
    parser.add_argument("--seen-size", type=int, default=480, help="of the network that has seen the images")
    parser.add_argument("--network", default="unet:16")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--images", type=int, default=20, help="of each split")
    parser.add_argument("--solvers", nargs="+", default=list(SOLVERS), choices=list(SOLVERS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    scores: dict[str, dict[str, tuple[float, float]]] = {}
    for root in options.data:
        out = options.out / root.name
        train_and_predict(root, out, options)
        for setting, name, split, score, changed in compare(root, out, options.workers, options.solvers):
            scores.setdefault(setting, {})[f"{root.name}, {name}, {split}"] = (score, changed)
    columns = list(scores["argmax"])
    tuned = [column for column in columns if column.endswith("tuned")]
    lines = [
        f"| setting | {' | '.join(columns)} | least gain, tuned |",
        "| --- |" + " --- |" * (len(columns) + 1),
    ]
    for setting, row in scores.items():
        least = min(row[column][0] - scores["argmax"][column][0] for column in tuned)
        cells = " | ".join(f"{row[column][0]:.4f} ({100 * row[column][1]:.1f} %)" for column in columns)
        lines.append(f"| {setting} | {cells} | {least:+.4f} |")
    text = "\n".join(lines) + "\n"
    (options.out / "table.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
